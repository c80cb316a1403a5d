//! A machine to attack: a bed, or an operating system with systemd 257 that is booted inside of one.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use super::machine::Bed;

const SYSUSERS: &str = include_str!("../../systemd/ci-bridge.sysusers");
const BUS_POLICY: &str = include_str!("../../systemd/ci-bridge.dbus.conf");
const BUS_POLICY_PATH: &str = "/usr/share/dbus-1/system.d/ci-bridge.conf";
const RULE_PATH: &str = ci_bridge::setup::polkit::RULE_PATH;

/// A small Debian 13, kept on the host for the next time.
const SYSTEMD_257: &str = "/var/cache/ci-bridge-bed/trixie";

/// Units to be moved, and units that must not be.
const UNITS: [(&str, &str); 5] = [
    ("ci-test-hello.service", "[Service]\nType=oneshot\nExecStart=/bin/echo hello\n"),
    ("ci-test-instance@.service", "[Service]\nType=oneshot\nExecStart=/bin/echo %I\n"),
    // What a mount or a foreign process could be brought into.
    ("ci-test-service.service", "[Service]\nExecStart=/bin/sleep infinity\nPrivateTmp=yes\nDelegate=yes\n"),
    ("innocent.service", "[Service]\nType=oneshot\nExecStart=/usr/bin/touch /run/innocent-was-started\n"),
    ("bystander.service", "[Service]\nExecStart=/bin/sleep infinity\n"),
];

/// Makes the calls of standard input, one a line, and prints for each what came of it.
const CALLS: &str = r#"
export MANAGER=org.freedesktop.systemd1.Manager
PWN='1 ExecStart a(sasb) 1 /usr/bin/touch 2 touch /run/pwned false 0'
job=/org/freedesktop/systemd1/unit/ci_2dtest_2dservice_2eservice
call() { timeout 10 busctl call -- "$@"; }
manager() { call org.freedesktop.systemd1 /org/freedesktop/systemd1 "$MANAGER" "$@"; }
unit() { call org.freedesktop.systemd1 "$job" org.freedesktop.systemd1.Unit "$@"; }
properties() { call org.freedesktop.systemd1 "$1" org.freedesktop.DBus.Properties "${@:2}"; }
service() { call org.freedesktop.systemd1 "$job" org.freedesktop.systemd1.Service "$@"; }
while IFS= read -r line; do
    if answer=$(eval "$line" 2>&1 </dev/null); then echo allowed; else echo "${answer//$'\n'/ }"; fi
done
"#;

/// Asks polkit about a process of the user; each question is three lines: unit, verb, message or nothing.
const QUESTIONS: &str = r#"
systemd-run --quiet --collect --service-type=exec --uid=ci-bridge --unit=subject.service sleep infinity
subject=$(systemctl show --value --property=MainPID subject.service)
while IFS= read -r -d '' unit && IFS= read -r -d '' verb && IFS= read -r -d '' message; do
    details=(unit "$unit" verb "$verb")
    [[ -z $message ]] || details+=(polkit.message "$message")
    busctl call -- org.freedesktop.PolicyKit1 /org/freedesktop/PolicyKit1/Authority \
        org.freedesktop.PolicyKit1.Authority CheckAuthorization '(sa{sv})sa{ss}us' \
        unix-process 2 pid u "$subject" start-time t 0 org.freedesktop.systemd1.manage-units \
        $((${#details[@]} / 2)) "${details[@]}" 0 ''
done
systemctl stop subject.service
"#;

/// Puts a small Debian 13 on the host, unless it is there. To be called before a bed boots, whose disk is the host's.
pub(crate) fn fetch_systemd_257() {
    let script = r#"
        set -eu
        mkdir -p "${1%/*}"
        exec 9>"$1.lock"
        flock 9
        [ ! -d "$1" ] || exit 0
        command -v debootstrap >/dev/null || apt-get install --quiet=2 --yes --no-install-recommends debootstrap >&2
        rm -rf "$1.part"
        packages=systemd,systemd-sysv,dbus,polkitd,libpam-systemd
        debootstrap --variant=minbase --include="$packages" trixie "$1.part" >&2
        rm -f "$1.part"/var/cache/apt/archives/*.deb
        mv "$1.part" "$1"
    "#;
    let output = Command::new("sh").args(["-c", script, "sh", SYSTEMD_257]).output().unwrap();
    assert!(output.status.success(), "no Debian 13: {}", String::from_utf8_lossy(&output.stderr));
}

/// A machine with the service user, its units and, if wanted, its walls.
pub(crate) struct Target<'b> {
    bed: &'b Bed,
    /// How to get from the bed into the machine.
    way_in: Vec<String>,
    bystander: String,
}

impl<'b> Target<'b> {
    /// The bed itself.
    pub(crate) fn bed(bed: &'b Bed) -> Self {
        Self { bed, way_in: Vec::new(), bystander: String::new() }.furnished()
    }

    /// A Debian 13 that is booted inside of the bed, and ends with it.
    pub(crate) fn systemd_257(bed: &'b Bed) -> Self {
        // The bed's systemd waits until the inner one is up.
        bed.sh(&format!(
            "systemd-run --quiet --unit=inner --service-type=notify -p NotifyAccess=all -p Delegate=yes \
             -p KillMode=mixed --setenv=SYSTEMD_NSPAWN_LOCK=0 systemd-nspawn --quiet --boot --notify-ready=yes \
             --register=no --keep-unit --link-journal=no --settings=no --console=pipe --private-network \
             --volatile=overlay --machine=inner --directory={SYSTEMD_257}"
        ));
        let leader = bed.sh("cat /proc/$(systemctl show --value -p MainPID inner)/task/*/children");
        let way_in = format!("nsenter --target={} --mount --uts --ipc --net --pid --", leader.trim());
        let way_in = way_in.split(' ').map(str::to_owned).collect();
        let target = Self { bed, way_in, bystander: String::new() }.furnished();
        assert!(target.sh("systemctl --version").starts_with("systemd 257"));
        target
    }

    fn furnished(mut self) -> Self {
        self.write("/usr/lib/sysusers.d/ci-bridge.conf", SYSUSERS);
        for (name, text) in UNITS {
            self.write(&format!("/etc/systemd/system/{name}"), text);
        }
        self.sh("systemd-sysusers ci-bridge.conf
            ln -sf innocent.service /etc/systemd/system/ci-test-alias.service
            systemctl daemon-reload
            systemctl start bystander.service");
        self.bystander = self.sh("systemctl show --value --property=InvocationID bystander.service");
        self
    }

    /// Puts up a polkit rule or none, and the D-Bus policy or none.
    pub(crate) fn set_walls(&self, rule: Option<&str>, bus_policy: bool) {
        self.sh(&format!("rm -f {RULE_PATH} {BUS_POLICY_PATH}"));
        if let Some(rule) = rule {
            self.write(RULE_PATH, rule);
        }
        if bus_policy {
            self.write(BUS_POLICY_PATH, BUS_POLICY);
        }
        // polkit notices a new rule some time later; a new polkit has read it.
        self.sh("systemctl reset-failed
            systemctl restart polkit.service
            busctl call -- org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig
            systemctl start ci-test-service.service");
    }

    /// Makes D-Bus calls as the service user: each with the error that came of it, if one did.
    pub(crate) fn calls(&self, calls: &str) -> Vec<(String, Result<(), String>)> {
        let calls: Vec<&str> = calls.lines().filter(|line| !line.is_empty()).collect();
        // As a file: systemd-run would expand the variables of a script in its arguments.
        self.write("/usr/local/lib/calls", CALLS);
        let run =
            "systemd-run --quiet --wait --pipe --collect --service-type=exec --uid=ci-bridge bash /usr/local/lib/calls";
        let command: Vec<&str> = run.split(' ').collect();
        let output = self.fed(&command, format!("{}\n", calls.join("\n")).as_bytes());
        let answers = String::from_utf8(output.stdout).unwrap();
        assert_eq!(answers.lines().count(), calls.len(), "{answers}{}", String::from_utf8_lossy(&output.stderr));
        let answer = |text: &str| match text {
            "allowed" => Ok(()),
            error => Err(error.strip_prefix("Call failed: ").expect(error).to_owned()),
        };
        calls.iter().zip(answers.lines()).map(|(call, text)| ((*call).to_owned(), answer(text))).collect()
    }

    /// Asks polkit whether a process of the service user may do something to a unit: unit, verb and message.
    pub(crate) fn ask_polkit(&self, questions: &[(&str, &str, Option<&str>)]) -> Vec<bool> {
        let mut input = String::new();
        for (unit, verb, message) in questions {
            input.push_str(&format!("{unit}\0{verb}\0{}\0", message.unwrap_or_default()));
        }
        let output = self.fed(&["bash", "-c", QUESTIONS], input.as_bytes());
        let answers = String::from_utf8(output.stdout).unwrap();
        assert_eq!(answers.lines().count(), questions.len(), "{}", String::from_utf8_lossy(&output.stderr));
        answers.lines().map(|line| line.starts_with("(bba{ss}) true ")).collect()
    }

    /// Fails if an attack left a trace.
    pub(crate) fn assert_unharmed(&self) {
        assert_eq!(self.sh("ls -d /run/pwned /run/innocent-was-started 2>/dev/null || true"), "");
        assert_eq!(self.sh("systemctl show --value --property=InvocationID bystander.service"), self.bystander);
        assert_eq!(self.sh("systemctl show-environment | grep pwn || true"), "");
        assert_eq!(self.sh("ls -d /var/lib/systemd/linger/* 2>/dev/null || true"), "");
    }

    /// Runs a shell script as root; a test fails where the script does.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.fed(&["bash", "-eu", "-c", script], b"");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    fn write(&self, path: &str, content: &str) {
        let output = self.fed(&["tee", path], content.as_bytes());
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn fed(&self, command: &[&str], input: &[u8]) -> Output {
        let words = self.way_in.iter().map(String::as_str).chain(command.iter().copied());
        let mut command = self.bed.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that reads nothing may be gone by now.
        drop(child.stdin.take().unwrap().write_all(input));
        child.wait_with_output().unwrap()
    }
}

//! What the package brings: examples that are valid, a service that gives up what it does not need, and maintainer
//! scripts that leave nothing behind.
//!
//! The tests that boot a bed are ignored unless asked for: `make test` asks for them where they can run.
#![expect(clippy::expect_used, reason = "what a test can't do without ends it")]

#[path = "bed/machine.rs"]
#[expect(dead_code, reason = "these tests need only a part of what a bed can do")]
mod machine;

use ci_bridge::config::Settings;

use self::machine::Bed;

const SUDOERS: &str = include_str!("../sudoers.d/ci-bridge");

#[test]
fn the_example_configuration_is_valid() {
    let example = include_str!("../systemd/examples/config.toml");
    let settings = Settings::parse(example).expect("valid settings");
    let with_defaults = example.replace("\n#", "\n").replace("\n ", "\n# ");
    assert_eq!(Settings::parse(&with_defaults), Ok(settings), "a commented default is not the default");
}

#[test]
fn sudo_never_permits_a_wildcard_or_the_journal() {
    let rules: Vec<&str> = SUDOERS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert_eq!(rules.len(), 2, "{rules:?}");
    assert!(!rules.iter().any(|rule| rule.contains("journalctl")));
    let command = rules[1].split_once("/usr/bin/systemctl ").unwrap().1;
    assert!(command.starts_with('^') && command.ends_with('$') && command.contains(" -- "), "{command}");
}

#[test]
#[ignore = "boots a bed: make test"]
fn sudo_permits_one_job_and_nothing_beside_it() {
    let bed = Bed::installed();
    bed.sh("install -m 0440 /usr/share/doc/ci-bridge/examples/sudoers /etc/sudoers.d/ci-bridge
        visudo --check --quiet");
    let permits =
        |command: &[&str]| bed.enter([&["sudo", "-l", "-U", "ci-bridge", "--"], command].concat()).status.success();
    let start = |rest: &[&'static str]| {
        let options = ["/usr/bin/systemctl", "start", "--no-block", "--no-ask-password", "--"];
        permits(&[&options, rest].concat())
    };
    for unit in [
        &["ci-test-a.service", "debug-shell.service"] as &[_],
        &["ci-test-a.service debug-shell.service"],
        &["ci-test-a.service\ndebug-shell.service"],
        &["debug-shell.service\nci-test-a.service"],
        &["ci-test-a.service", "--job-mode=isolate"],
        &["--host=root@attacker", "ci-test-a.service"],
        &["ci-test-a.service/"],
        &["/etc/systemd/system/ci-test-a.service"],
        &["../ci-test-a.service"],
        &["ci-test-*.service"],
        &["ci-test-[a].service"],
        &["ci-test-..service"],
        &["ci-test-.service"],
        &["ci-test-a"],
        &["ci-test-a.socket"],
        &["ci-test-b@.service"],
        &["ci-test-b@-x.service"],
        &["xci-test-a.service"],
        &["sshd.service"],
        &[],
    ] {
        assert!(!start(unit), "{unit:?}");
    }
    for command in [
        &["/usr/bin/systemctl", "start", "ci-test-a.service"] as &[_],
        &[
            "/usr/bin/systemctl",
            "start",
            "--job-mode=isolate",
            "--no-block",
            "--no-ask-password",
            "--",
            "ci-test-a.service",
        ],
        &["/usr/bin/systemctl", "restart", "--no-block", "--no-ask-password", "--", "ci-test-a.service"],
        &["/usr/bin/systemctl", "edit", "--no-block", "--no-ask-password", "--", "ci-test-a.service"],
        &["/usr/bin/systemctl"],
        &["/usr/bin/systemctl", "poweroff"],
        &["/usr/bin/journalctl"],
        &["/usr/bin/journalctl", "-u", "ci-test-a.service"],
        &["/usr/bin/journalctl", "--vacuum-size=1"],
        &["/bin/sh"],
    ] {
        assert!(!permits(command), "{command:?}");
    }

    for unit in ["ci-test-a.service", "ci-test-build@main.service", "ci-test-build@v1.2-rc_1.service"] {
        assert!(start(&[unit]), "{unit}");
    }
    let sudo = ["sudo", "-n", "/usr/bin/systemctl", "start", "--no-block", "--no-ask-password", "--"];
    assert!(!bed.run_as("ci-bridge", [&sudo[..], &["innocent.service"]].concat()).status.success());
    assert!(bed.run_as("ci-bridge", [&sudo[..], &["ci-test-hello.service"]].concat()).status.success());
}

/// Runs in the place of the bridge, in its sandbox, with nothing but what bash has built in.
const IN_THE_SANDBOX: &str = r#"
can() { if eval "$2" 2>/dev/null; then echo "$1"; fi; }
can execute '/bin/true'
can execute-sudo '/usr/bin/sudo -n true'
can write-etc ': >/etc/ci-bridge/x'
can write-usr ': >/usr/x'
can write-root ': >/root/x'
can read-shadow '[[ -r /etc/shadow ]]'
can see-pid-1 '[[ -e /proc/1 ]]'
can see-kernel '[[ -e /proc/sys/kernel ]]'
can open-kmsg ': </dev/kmsg'
for socket in userdb/io.systemd.DynamicUser io.systemd.Manager io.systemd.ManagedOOM io.system.ManagedOOM private \
    unit/io.systemd.Unit; do
    can "reach-$socket" "[[ -w /run/systemd/$socket ]]"
done
echo --
can write-state ': >/var/lib/ci-bridge/x'
can write-runtime ': >/run/ci-bridge/x'
can reach-bus '[[ -w /run/dbus/system_bus_socket ]]'
can reach-journald '[[ -w /run/systemd/journal/socket ]]'
can read-config '[[ -r /etc/ci-bridge/config.toml && -r /etc/ci-bridge/tokens.toml ]]'
can read-journal 'for file in /var/log/journal/*/system.journal; do [[ -r $file ]]; done'
"#;

#[test]
#[ignore = "boots a bed: make test"]
fn the_service_keeps_only_what_it_needs() {
    let bed = Bed::installed();
    bed.sh(
        "systemd-analyze security --offline=yes --threshold=15 --no-pager /usr/lib/systemd/system/ci-bridge.service",
    );
    bed.sh("ci-bridge init --prefix ci-test- >/dev/null
        mkdir /run/systemd/system/ci-bridge.service.d
        cp /bin/bash /usr/bin/ci-bridge");
    bed.write("/run/probe", IN_THE_SANDBOX);
    let drop_in = "[Service]\nType=oneshot\nRestart=no\nExecStart=\nExecStart=/usr/bin/ci-bridge /run/probe\n\
        StandardOutput=truncate:/var/probed\n";
    bed.write("/run/systemd/system/ci-bridge.service.d/probe.conf", drop_in);
    bed.sh("systemctl daemon-reload; systemctl start ci-bridge.service");
    let needed = "write-state\nwrite-runtime\nreach-bus\nreach-journald\nread-config\nread-journal\n";
    assert_eq!(bed.read("/var/probed"), format!("--\n{needed}"));
}

/// Everything that has the product's name, or names it, where a package and a service put things.
const TRACES: &str = r"
    set +e
    find /etc /run /usr /var -xdev \( -path /usr/local -o -path /usr/src -o -path /var/cache/bed \
        -o -path /var/cache/package -o -path /var/cache/ci-bridge-bed \) -prune \
        -o -iname '*ci-bridge*' -print 2>/dev/null
    # The files of users and groups have backups, whose names end in `-`; jobs of the bed may name the bridge's socket.
    grep -rls ci-bridge /etc --exclude='*-' --exclude='ci-test-*'
    getent passwd ci-bridge
    getent group ci-bridge
    exit 0
";

#[test]
#[ignore = "boots a bed: make test"]
fn an_upgrade_keeps_everything_and_a_purge_leaves_nothing() {
    let bed = Bed::installed();
    let traces = || bed.sh(TRACES);
    bed.sh("apt-get purge --quiet=2 --yes ci-bridge");
    assert_eq!(traces(), "", "a package that was never configured left something");

    bed.sh("mkdir /var/cache/package
        cd /var/cache/package
        cp /var/cache/bed/*.deb first.deb
        dpkg-deb --raw-extract first.deb unpacked
        sed -i 's/^Version:.*/Version: 999.0-1/' unpacked/DEBIAN/control
        dpkg-deb -Zgzip -z1 --build unpacked second.deb >/dev/null
        apt-get install --quiet=2 --yes ./first.deb
        ci-bridge init --prefix ci-test- >/dev/null
        # In the place of the bridge, something that runs without a configuration.
        mkdir /etc/systemd/system/ci-bridge.service.d
        printf '[Service]\\nType=exec\\nWatchdogSec=0\\nNoExecPaths=\\nExecStart=\\nExecStart=/bin/sleep infinity\\n' \
            >/etc/systemd/system/ci-bridge.service.d/test.conf
        systemctl daemon-reload");
    let invocation = || bed.sh("systemctl show --value --property=InvocationID ci-bridge.service");
    let kept = || bed.sh("cat /etc/ci-bridge/*.toml /etc/polkit-1/rules.d/49-ci-bridge.rules /var/lib/ci-bridge/state");

    bed.sh("apt-get install --quiet=2 --yes --reinstall /var/cache/package/first.deb");
    assert_eq!(
        bed.enter(["systemctl", "is-active", "ci-bridge.service"]).stdout,
        b"inactive\n",
        "an upgrade started it"
    );

    bed.sh("systemctl enable --quiet --now ci-bridge.service; echo remembered >/var/lib/ci-bridge/state");
    let (before, first) = (kept(), invocation());
    bed.sh("apt-get install --quiet=2 --yes /var/cache/package/second.deb");
    assert_eq!(bed.enter(["systemctl", "is-active", "ci-bridge.service"]).stdout, b"active\n");
    assert_ne!(invocation(), first, "the upgrade did not restart it");
    assert_eq!(kept(), before);

    bed.sh("apt-get remove --quiet=2 --yes ci-bridge");
    assert_eq!(bed.enter(["systemctl", "is-active", "ci-bridge.service"]).stdout, b"inactive\n");
    assert_eq!(kept(), before);

    bed.sh("apt-get purge --quiet=2 --yes ci-bridge");
    assert_eq!(traces(), "");
    bed.sh("systemctl is-system-running");
}

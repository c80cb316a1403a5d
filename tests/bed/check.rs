//! What `ci-bridge check` says of logs that will not be whole, and that its remedies help.
//!
//! Each remedy is carried out as it is printed.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::bridge::{Bridge, lines_of_job};
use crate::machine::{Bed, Plan};

/// A finding that is not `ok`.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    level: String,
    subject: String,
    message: String,
    remedy: String,
}

/// Configures the bridge in a bed that has the package.
fn configured(plan: Plan) -> Bed {
    let bed = plan.package().boot();
    bed.ok(["ci-bridge", "init", "--prefix", "ci-test-"]);
    bed
}

/// What the check finds wrong.
fn all_faults(bed: &Bed) -> Vec<Fault> {
    let output = bed.enter(["ci-bridge", "check", "--json"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let faults: Vec<Fault> = findings
        .iter()
        .filter(|finding| finding["level"] != "ok")
        .map(|finding| Fault {
            level: text(&finding["level"]),
            subject: text(&finding["subject"]),
            message: text(&finding["message"]),
            remedy: text(&finding["remedy"]),
        })
        .collect();
    let failed = faults.iter().any(|fault| fault.level == "failure");
    assert_eq!(output.status.code(), Some(i32::from(failed)), "{faults:?}");
    faults
}

/// What the check finds wrong with one thing.
fn faults(bed: &Bed, subject: &str) -> Vec<Fault> {
    all_faults(bed).into_iter().filter(|fault| fault.subject == subject).collect()
}

/// Carries out the remedies for one thing, after which it must be right; returns what was wrong.
#[track_caller]
fn cured(bed: &Bed, subject: &str) -> Vec<(String, String)> {
    let found = faults(bed, subject);
    assert!(!found.is_empty(), "{:?}", all_faults(bed));
    for remedy in found.iter().map(|fault| &fault.remedy).collect::<BTreeSet<_>>() {
        bed.ok(["sh", "-c", remedy]);
    }
    assert_eq!(faults(bed, subject), [], "after {found:?}");
    found.into_iter().map(|fault| (fault.level, fault.message)).collect()
}

/// Makes a unit `ci-test-NAME` with these settings in `[Service]`.
fn add_job(bed: &Bed, name: &str, settings: &str) {
    bed.write(&format!("/etc/systemd/system/ci-test-{name}.service"), &format!("[Service]\nType=oneshot\n{settings}"));
    bed.ok(["systemctl", "daemon-reload"]);
}

fn drop_in(bed: &Bed, path: &str, text: &str) {
    bed.sh(&format!("mkdir -p \"$(dirname {path})\""));
    bed.write(path, text);
    bed.ok(["systemctl", "daemon-reload"]);
}

/// 60,000 lines. journald reads the limit of a unit only as long as that is active, so the unit stays until they are read.
const FLOOD: &str =
    "ExecStart=/usr/bin/seq 60000\nExecStart=/usr/bin/journalctl --sync\nExecStart=/usr/bin/journalctl --sync\n";

/// How many lines of the next run of the job the journal gets.
fn kept(bed: &Bed, job: &str) -> usize {
    let count = || {
        bed.ok(["journalctl", "--sync"]);
        bed.ok(["journalctl", "--output=cat", &format!("_SYSTEMD_UNIT={job}.service")]).lines().count()
    };
    let before = count();
    bed.ok(["systemctl", "start", job]);
    count() - before
}

#[test]
#[ignore = "boots a bed: make test"]
fn the_examples_of_the_package_are_without_fault() {
    let bed = configured(Plan::default());
    assert_ne!(all_faults(&bed), []);
    bed.sh("rm /etc/systemd/system/ci-test-*; cp /usr/share/doc/ci-bridge/examples/*.service /etc/systemd/system/");
    bed.ok(["systemctl", "daemon-reload"]);
    // The example says what to write into the configuration.
    bed.sh("sed -n 's/^#   //p' '/etc/systemd/system/ci-test-deploy@.service' >>/etc/ci-bridge/config.toml");
    assert_eq!(all_faults(&bed), []);
    let said = bed.ok(["ci-bridge", "check"]);
    assert!(said.contains("ok    units: 3 jobs can be started"), "{said}");
    assert!(said.contains("ok    inputs: reach all jobs for which they are declared"), "{said}");
    // The instance by which the template is looked at was not started, and does not stay in systemd.
    assert_eq!(bed.ok(["systemctl", "list-units", "--all", "--plain", "--no-legend", "ci-test-build@*"]), "");
    assert_eq!(bed.ok(["journalctl", "--quiet", "--output=cat", "UNIT=ci-test-build@probe.service"]), "");
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_template_that_cannot_be_loaded_is_told() {
    let bed = configured(Plan::default());
    bed.write("/etc/systemd/system/ci-test-broken@.service", "[Service]\nType=oneshot\n");
    bed.ok(["systemctl", "daemon-reload"]);
    let [fault] = faults(&bed, "unit ci-test-broken@.service").try_into().unwrap();
    assert!(fault.message.contains("has a bad unit file setting"), "{fault:?}");
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_unit_that_does_not_ask_for_its_inputs_is_told_and_so_is_one_that_asks_for_others() {
    let bed = configured(Plan::default());
    add_job(&bed, "release", "ExecStart=/bin/cat ${CREDENTIALS_DIRECTORY}/version\n");
    let settings = bed.read("/etc/ci-bridge/config.toml");
    bed.write("/etc/ci-bridge/config.toml", &format!("{settings}\n[jobs.inputs.ci-test-release.version]\n"));
    let lacks = "the unit lacks LoadCredential=version:/run/ci-bridge/inputs.sock";
    assert_eq!(cured(&bed, "inputs of ci-test-release"), [("failure".to_owned(), lacks.to_owned())]);
    // It is the unit of the bed that asks for what nobody has declared.
    let [fault] = faults(&bed, "inputs of ci-test-deploy@").try_into().unwrap();
    assert_eq!(fault.level, "warning");
    assert!(fault.message.starts_with("the unit asks for version, which the settings don't declare"), "{fault:?}");
    assert_eq!(fault.remedy.split_whitespace().nth(1), Some("[jobs.inputs.\"ci-test-deploy@\".version]"));
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_rate_limit_of_many_jobs_is_told_once_and_lifted_for_all_of_the_prefix() {
    let bed = configured(Plan::default());
    add_job(&bed, "flood", FLOOD);
    // The trap: a zero is no limit to the eye, and not set to systemd.
    drop_in(
        &bed,
        "/etc/systemd/system/ci-test-flood.service.d/override.conf",
        "[Service]\nLogRateLimitIntervalSec=0\n",
    );
    assert!(kept(&bed, "ci-test-flood") < 60_000);

    let [(level, message)] = cured(&bed, "rate limit").try_into().unwrap();
    assert_eq!(level, "warning");
    let begin = "beyond 10000 lines in 30s journald drops lines of ";
    assert!(message.starts_with(begin) && message.contains(" jobs: ci-test-assert, ci-test-badexec, "), "{message}");
    assert_eq!(kept(&bed, "ci-test-flood"), 60_000);
    for job in ["ci-test-hello", "ci-test-build@never-seen", r"ci-test-build@a\x2db"] {
        let interval = bed.ok(["systemctl", "show", "--value", "--property=LogRateLimitIntervalUSec", job]);
        assert_eq!(interval, "1us\n", "{job}");
    }
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_rate_limit_of_one_job_is_lifted_for_that_job() {
    let bed = configured(Plan::default());
    drop_in(&bed, "/etc/systemd/system/ci-test-.service.d/10-log.conf", "[Service]\nLogRateLimitIntervalSec=1us\n");
    assert_eq!(faults(&bed, "rate limit"), []);
    let own = |unit: &str, settings: &str| {
        drop_in(&bed, &format!("/etc/systemd/system/{unit}.d/override.conf"), &format!("[Service]\n{settings}\n"));
    };
    own("ci-test-hello.service", "LogRateLimitIntervalSec=0");
    own("ci-test-build@.service", "LogRateLimitIntervalSec=1min\nLogRateLimitBurst=70000");
    // An instance in systemd's memory is not told beside its template.
    drop_in(&bed, "/etc/systemd/system/ci-test-build@a.service.d/stay.conf", "[Service]\nRemainAfterExit=yes\n");
    bed.ok(["systemctl", "start", "ci-test-build@a"]);
    let found = cured(&bed, "rate limit");
    let warning = |what: &str| ("warning".to_owned(), what.to_owned());
    assert_eq!(
        found,
        [
            warning("beyond 10000 lines in 30s journald drops lines of ci-test-hello"),
            warning("beyond 70000 lines in 60s journald drops lines of ci-test-build@"),
        ]
    );
    assert!(bed.read("/etc/systemd/system/ci-test-hello.service.d/zz-log-limit.conf").contains("=1us"));
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_rate_limit_of_a_prefix_without_drop_ins_of_its_own_is_lifted_job_by_job() {
    let bed = Plan::default().package().boot();
    bed.ok(["ci-bridge", "init", "--prefix", "ci_test_"]);
    for job in ["ci_test_a", "ci_test_b@"] {
        bed.write(&format!("/etc/systemd/system/{job}.service"), "[Service]\nExecStart=/bin/true\n");
    }
    // What the remedy would be if systemd had drop-ins for such a prefix.
    drop_in(&bed, "/etc/systemd/system/ci_test_.service.d/10-log.conf", "[Service]\nLogRateLimitIntervalSec=1us\n");
    let [(_, message)] = cured(&bed, "rate limit").try_into().unwrap();
    assert_eq!(message, "beyond 10000 lines in 30s journald drops lines of ci_test_a, ci_test_b@");
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_rate_limit_that_journald_does_not_have_is_no_fault() {
    let bed = configured(Plan::default());
    add_job(&bed, "flood", FLOOD);
    let settings = "/etc/systemd/journald.conf.d/zzz.conf";
    for off in ["RateLimitIntervalSec=0", "RateLimitBurst=0", "RateLimitIntervalSec=1us"] {
        assert_eq!(faults(&bed, "rate limit").len(), 1, "before {off}");
        bed.write(settings, &format!("[Journal]\n{off}\n"));
        assert_eq!(faults(&bed, "rate limit"), [], "{off}");
        bed.ok(["systemctl", "restart", "systemd-journald"]);
        assert_eq!(kept(&bed, "ci-test-flood"), 60_000, "{off}");
        bed.ok(["rm", settings]);
    }
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_rate_limit_is_that_of_the_namespace_of_the_job() {
    let bed = configured(Plan::default());
    bed.sh("rm /etc/systemd/system/ci-test-*");
    add_job(&bed, "apart", "LogNamespace=ci\nExecStart=/bin/echo apart\n");
    bed.write("/etc/systemd/journald.conf.d/zzz.conf", "[Journal]\nRateLimitBurst=0\n");
    let [fault] = faults(&bed, "rate limit").try_into().unwrap();
    assert_eq!(fault.message, "beyond 10000 lines in 30s journald drops lines of ci-test-apart");
    bed.write("/etc/systemd/journald@ci.conf", "[Journal]\nRateLimitBurst=0\n");
    assert_eq!(all_faults(&bed), []);
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_journal_in_memory_is_brought_to_disk() {
    let bed = configured(Plan::default().journald("Storage=volatile"));
    let lost = "is in memory only, so a reboot loses the logs of all runs";
    let warning = |what: String| vec![("warning".to_owned(), what)];
    let set = "/etc/systemd/journald.conf.d/zz-bed.conf";
    assert_eq!(cured(&bed, "journal"), warning(format!("{lost} (Storage=volatile in {set})")));
    assert!(bed.sh("ls /var/log/journal/$(cat /etc/machine-id)").contains("system.journal"));

    // Without the directory nothing is on disk, and a directory that is only made keeps the service out.
    bed.sh("rm -r /etc/systemd/journald.conf.d /var/log/journal; systemctl restart systemd-journald");
    assert_eq!(cured(&bed, "journal"), warning(lost.to_owned()));
    assert!(bed.sh("ls /var/log/journal/$(cat /etc/machine-id)").contains("system.journal"));
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_journald_that_keeps_nothing_is_a_failure_and_made_to_keep_all() {
    let bed = configured(Plan::default().journald("Storage=none").journald("MaxLevelStore=notice"));
    let found = cured(&bed, "journal");
    let levels: Vec<_> = found.iter().map(|(level, _)| level.as_str()).collect();
    assert_eq!(levels, ["failure", "warning", "failure"], "{found:?}");
    let messages: Vec<_> = found.iter().map(|(_, message)| message.as_str()).collect();
    let set = "/etc/systemd/journald.conf.d/zz-bed.conf";
    assert_eq!(messages[0], format!("keeps nothing, so there are no logs (Storage=none in {set})"));
    let whole = "so no log can be known to be whole";
    assert_eq!(messages[1], format!("keeps no line less important than notice, {whole} (MaxLevelStore= in {set})"));
    assert!(messages[2].starts_with("there is no journal in /var/log/journal/"), "{messages:?}");
    assert_eq!(kept(&bed, "ci-test-hello"), 3);
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_journald_that_drops_debug_lines_is_told_because_no_log_is_known_to_be_whole() {
    let bridge = Bridge::up_in(Plan::default().package().journald("MaxLevelStore=info").boot());
    let whole = async || {
        bridge.run("ci-test-hello").await;
        bridge.logs("ci-test-hello").await["complete"] == true
    };
    assert!(!whole().await);
    assert_eq!(cured(&bridge.bed, "journal").len(), 1);
    assert!(whole().await);
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_journal_that_the_service_cannot_read_is_opened_to_it() {
    let bridge = Bridge::up();
    let bed = &bridge.bed;
    bed.ok(["journalctl", "--rotate"]);
    assert_eq!(faults(bed, "journal"), []);
    for (fault, level, said) in [
        ("gpasswd --delete ci-bridge systemd-journal", "failure", "no journal file can be read: "),
        ("groupdel systemd-journal", "failure", "no journal file can be read: "),
        ("chmod 0600 /var/log/journal/*/*", "failure", "no journal file can be read: "),
        (
            "chgrp root /var/log/journal/*/*; chmod g-rwx /var/log/journal/*/*",
            "failure",
            "no journal file can be read: ",
        ),
        ("chmod 0600 /var/log/journal/*/system@*.journal", "warning", "1 of its files can't be read, such as "),
        ("chmod 0700 /var/log/journal/*", "failure", "cannot list /var/log/journal/"),
        ("chmod 0700 /var/log/journal", "failure", "cannot list /var/log/journal/"),
    ] {
        bed.sh(fault);
        let [(is, message)] = cured(bed, "journal").try_into().unwrap();
        assert_eq!(is, level, "{fault}: {message}");
        assert!(message.starts_with(said), "{fault}: {message}");
    }
    bridge.run("ci-test-hello").await;
    let log = bridge.logs("ci-test-hello").await;
    assert_eq!(lines_of_job(&log), ["hello", "this is the second line", "done"]);
}

#[test]
#[ignore = "boots a bed: make test"]
fn output_that_does_not_go_to_the_journal_is_led_there() {
    let bed = configured(Plan::default());
    // journald knows LogLevelMax= as long as the unit is active, so the unit waits for it.
    let print = "ExecStart=/bin/sh -c 'echo out; echo err >&2; echo \"<7>debug\"'\nExecStopPost=journalctl --sync";
    for (job, settings, lost, left) in [
        ("null", "StandardOutput=null", "StandardOutput=null", 0),
        ("file", "StandardOutput=append:/var/tmp/out\nStandardError=journal", "StandardOutput=append", 1),
        ("err", "StandardError=file:/var/tmp/err", "StandardError=file", 2),
        ("level", "LogLevelMax=notice", "LogLevelMax=notice", 0),
        ("both", "StandardError=null\nLogLevelMax=warning", "StandardError=null and LogLevelMax=warning", 0),
    ] {
        add_job(&bed, job, &format!("{settings}\n{print}\n"));
        let job = format!("ci-test-{job}");
        assert_eq!(kept(&bed, &job), left, "{job}");
        let found = cured(&bed, &format!("output of {job}"));
        assert_eq!(found, [("warning".to_owned(), format!("lines are lost to {lost}"))]);
        let debug = usize::from(!settings.contains("LogLevelMax"));
        assert_eq!(kept(&bed, &job), 2 + debug, "{job}");
    }
    // Where there is nothing that could be inherited, systemd takes its default.
    for (job, settings) in
        [("inherit", "StandardOutput=inherit"), ("most", "StandardOutput=journal+console\nStandardError=journal")]
    {
        add_job(&bed, job, &format!("{settings}\n{print}\n"));
        assert_eq!(kept(&bed, &format!("ci-test-{job}")), 3, "{job}");
    }
    assert!(bed.ok(["ci-bridge", "check"]).contains("ok    output: of all jobs goes to the journal"));

    add_job(&bed, "terminal", &format!("StandardInput=tty\n{print}\n"));
    let warning = ("warning".to_owned(), "lines are lost to StandardOutput=inherit".to_owned());
    assert_eq!(cured(&bed, "output of ci-test-terminal"), [warning]);
}

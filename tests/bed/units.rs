//! The job units of the bed do what their names say; the other tests build on that.

use std::fs;

use crate::machine::Bed;

/// Units that are wrong on purpose.
const BROKEN: [&str; 3] = ["ci-test-bad-setting.service", "ci-test-badexec.service", "ci-test-masked.service"];

#[test]
#[ignore = "boots a bed: make test"]
fn every_unit_file_is_valid_but_those_that_are_wrong_on_purpose() {
    let bed = Bed::plain();
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bed/units")).unwrap().flatten() {
        let name = file.file_name().into_string().unwrap();
        let output = bed.enter(["systemd-analyze", "verify", "--man=no", &name.replace("@.", "@x.")]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(!complaint.is_empty(), BROKEN.contains(&name.as_str()), "{name}: {complaint}");
    }
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_failing_job_ends_with_the_result_its_name_says() {
    let bed = Bed::plain();
    for (job, result, status) in [
        ("ci-test-fail", "exit-code", "3"),
        ("ci-test-badexec", "exit-code", "203"),
        ("ci-test-signal", "signal", "9"),
        ("ci-test-timeout", "timeout", "15"),
    ] {
        assert!(!bed.enter(["systemctl", "start", job]).status.success(), "{job} succeeded");
        let show = |property: &str| bed.ok(["systemctl", "show", "--value", &format!("--property={property}"), job]);
        assert_eq!((show("Result").trim(), show("ExecMainStatus").trim()), (result, status), "{job}");
    }
}

#[test]
#[ignore = "boots a bed: make test"]
fn systemd_says_why_a_job_does_not_start() {
    let bed = Bed::plain();
    for (job, reason) in [
        ("ci-test-masked", "is masked"),
        ("ci-test-bad-setting", "has a bad unit file setting"),
        ("ci-test-manual", "may be requested by dependency only"),
        ("ci-test-assert", "Assertion failed"),
        ("ci-test-depends", "A dependency job"),
        ("ci-test-nothing", "not found"),
    ] {
        let output = bed.enter(["systemctl", "start", job]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains(reason), "{job}: {complaint}");
    }
    bed.ok(["systemctl", "start", "ci-test-condition"]);
    bed.ok(["systemctl", "start", "ci-test-limit"]);
    bed.ok(["systemctl", "start", "ci-test-limit"]);
    let third = bed.enter(["systemctl", "start", "ci-test-limit"]);
    assert!(
        String::from_utf8_lossy(&third.stderr).contains("start of the service was attempted too often"),
        "{third:?}"
    );
}

#[test]
#[ignore = "boots a bed: make test"]
fn journald_keeps_every_line_of_a_burst() {
    let bed = Bed::plain();
    bed.ok(["systemctl", "start", "ci-test-burst"]);
    bed.ok(["journalctl", "--sync"]);
    let log = bed.ok(["journalctl", "--output=cat", "_SYSTEMD_UNIT=ci-test-burst.service"]);
    assert!(log.lines().eq((1..=20_000).map(|number| format!("line {number}"))));
}

#[test]
#[ignore = "boots a bed: make test"]
fn an_instance_is_printed_as_written_and_as_meant() {
    let bed = Bed::plain();
    let value = "feature/$HOME x";
    let instance = bed.ok(["systemd-escape", "--template=ci-test-build@.service", value]);
    bed.ok(["systemctl", "start", instance.trim()]);
    bed.ok(["journalctl", "--sync"]);
    let log = bed.ok(["journalctl", "--output=cat", "--unit", instance.trim()]);
    assert!(log.contains(r"written feature-\x24HOME\x20x") && log.contains(&format!("meant {value}")), "{log}");
}

#[test]
#[ignore = "boots a bed: make test"]
fn the_gate_prints_what_it_is_given_and_ends_as_it_is_told() {
    let bed = Bed::plain();
    bed.ok(["systemctl", "start", "--no-block", "ci-test-gate"]);
    bed.sh("echo one >/var/lib/ci-test/gate");
    bed.await_log("ci-test-gate", "one");
    assert_eq!(bed.enter(["systemctl", "is-active", "ci-test-gate"]).stdout, b"activating\n");
    bed.sh("echo exit 5 >/var/lib/ci-test/gate");
    bed.await_log("ci-test-gate", "status=5");
}

#[test]
#[ignore = "boots a bed: make test"]
fn the_output_of_a_person_goes_to_a_journal_file_of_its_own() {
    let bed = Bed::plain();
    bed.ok(["systemctl", "start", "ci-test-login"]);
    bed.ok(["journalctl", "--sync"]);
    assert!(bed.sh("ls /var/log/journal/*").contains("user-1234.journal"));
    assert_eq!(bed.ok(["journalctl", "--output=cat", "_UID=1234"]), "hello from a login user\n");
}

#[test]
#[ignore = "boots a bed: make test"]
fn the_alias_leads_to_a_unit_outside_of_the_prefix() {
    let bed = Bed::plain();
    assert_eq!(bed.ok(["systemctl", "show", "--value", "--property=Id", "ci-test-alias"]), "innocent.service\n");
    assert_eq!(bed.ok(["systemctl", "is-active", "bystander"]), "active\n");
    assert!(!bed.enter(["test", "-e", "/run/innocent-was-started"]).status.success());
}

#[test]
#[ignore = "boots a bed: make test"]
fn the_forger_claims_to_be_the_run_of_its_victim() {
    let bed = Bed::plain();
    let run = "0123456789abcdef0123456789abcdef";
    bed.write("/var/lib/ci-test/victim", run);
    bed.ok(["systemctl", "start", "ci-test-forger"]);
    bed.ok(["journalctl", "--sync"]);
    let claims = bed.ok(["journalctl", "--output=cat", &format!("INVOCATION_ID={run}")]);
    assert_eq!(claims, "forged: from the service manager\n");
    // journald does not let a program write the fields that begin with an underscore.
    assert_eq!(bed.ok(["journalctl", "--output=cat", &format!("_SYSTEMD_INVOCATION_ID={run}")]), "");
}

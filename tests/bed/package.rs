//! The package as an administrator gets it.

use crate::machine::Bed;

#[test]
#[ignore = "boots a bed: make test"]
fn the_package_installs_and_enables_nothing_by_itself() {
    let bed = Bed::installed();
    assert!(bed.ok(["ci-bridge", "--version"]).starts_with("ci-bridge "));
    assert_eq!(bed.enter(["systemctl", "is-enabled", "ci-bridge.service"]).stdout, b"disabled\n");
    assert_eq!(bed.enter(["systemctl", "is-active", "ci-bridge.service"]).stdout, b"inactive\n");
    assert_eq!(bed.enter(["systemctl", "is-system-running"]).stdout, b"running\n");
}

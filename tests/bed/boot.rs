//! The bed itself: several at once, each for itself, and nothing left behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::machine::{Bed, Plan, SCRIPT, fresh_name};

#[test]
#[ignore = "boots a bed: make test"]
fn two_beds_at_once_have_their_own_host_name_and_journal() {
    let (one, other) = (Bed::plain(), Bed::plain());
    for bed in [&one, &other] {
        bed.ok(["systemctl", "start", "ci-test-hello"]);
        bed.ok(["journalctl", "--sync"]);
    }
    for bed in [&one, &other] {
        assert_eq!(bed.ok(["hostname"]).trim(), bed.name());
        let log = bed.ok(["journalctl", "--output=cat", "_SYSTEMD_UNIT=ci-test-hello.service"]);
        assert_eq!(log.lines().collect::<Vec<_>>(), ["hello", "this is the second line", "done"]);
    }
    assert_ne!(one.read("/etc/machine-id"), other.read("/etc/machine-id"));
    assert_ne!(one.read("/etc/machine-id"), fs::read_to_string("/etc/machine-id").unwrap_or_default());
}

#[test]
#[ignore = "boots a bed: make test"]
fn nothing_written_in_a_bed_reaches_the_host() {
    let bed = Bed::plain();
    let path = format!("/etc/{}", bed.name());
    bed.write(&path, "written in the bed");
    assert_eq!(bed.read(&path), "written in the bed");
    assert!(!Path::new(&path).exists());
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_bed_goes_down_in_order() {
    let bed = Bed::plain();
    let (name, leader) = (bed.name().to_owned(), bed.leader());
    bed.down();
    assert_gone(&name, &leader);
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_bed_whose_owner_is_killed_leaves_nothing_behind() {
    let mut owner = Command::new("sleep").arg("infinity").stdout(Stdio::piped()).spawn().unwrap();
    let name = fresh_name();
    let mut supervisor = boot(&name, owner.stdout.take().unwrap());
    let leader = leader(&name);
    owner.kill().unwrap();
    owner.wait().unwrap();
    supervisor.wait().unwrap();
    assert_gone(&name, &leader);
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_bed_whose_supervisor_is_killed_can_be_booted_again() {
    let mut owner = Command::new("sleep").arg("infinity").stdout(Stdio::piped()).spawn().unwrap();
    let name = fresh_name();
    let mut supervisor = boot(&name, Stdio::piped());
    let first = leader(&name);
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    let mut supervisor = boot(&name, owner.stdout.take().unwrap());
    assert!(!Path::new("/proc").join(&first).exists());
    let second = leader(&name);
    owner.kill().unwrap();
    owner.wait().unwrap();
    supervisor.wait().unwrap();
    assert_gone(&name, &second);
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_bed_that_lost_its_power_boots_again_from_its_disk() {
    let bed = Bed::plain();
    let leader = bed.leader();
    bed.write("/var/lib/kept", "kept");
    bed.ok(["systemctl", "start", "ci-test-hello"]);
    bed.ok(["journalctl", "--sync"]);
    bed.crash();
    assert_ne!(bed.leader(), leader);
    assert_eq!(bed.read("/var/lib/kept"), "kept");
    let log = bed.ok(["journalctl", "--boot=-1", "--output=cat", "--unit=ci-test-hello"]);
    assert!(log.contains("this is the second line"), "{log}");
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_volatile_journal_is_kept_in_memory_only() {
    let bed = Plan::default().journald("Storage=volatile").boot();
    assert_eq!(bed.sh("ls /var/log/journal"), "");
    assert_ne!(bed.sh("ls /run/log/journal"), "");
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_command_can_run_as_a_user_in_a_unit_of_its_own() {
    let bed = Bed::plain();
    let output = bed.run_as("daemon", ["sh", "-c", "id -un; grep ^0:: /proc/self/cgroup; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("daemon\n0::/system.slice/run-u"), "{text}");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_bed_without_a_server_refuses_connections_from_the_host() {
    let bed = Bed::plain();
    assert!(bed.http_socket().exists());
    // The proxy accepts, finds nobody on port 8000, and closes without an answer.
    assert!(bed.http().get("http://bridge/").send().await.is_err());
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_server_on_port_8000_of_a_bed_answers_the_host() {
    let bed = Bed::plain();
    let gateway = "/lib/systemd/systemd-journal-gatewayd";
    bed.ok(["systemd-run", "--unit=gateway", "systemd-socket-activate", "--listen=127.0.0.1:8000", gateway]);
    bed.await_log("gateway", "Listening on 127.0.0.1:8000");
    let answer = bed.http().get("http://bridge/machine").send().await.unwrap().text().await.unwrap();
    assert!(answer.contains(bed.read("/etc/machine-id").trim()), "{answer}");
}

/// Boots a bed that lives as long as somebody holds the other end of `life` open.
fn boot(name: &str, life: impl Into<Stdio>) -> Child {
    let mut supervisor =
        Command::new(SCRIPT).args(["up", name]).stdin(life).stdout(Stdio::piped()).spawn().expect("the script runs");
    let facts = BufReader::new(supervisor.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(facts.take_while(|line| line != "ready").any(|line| line == "state=running"));
    supervisor
}

fn leader(name: &str) -> String {
    let output = Command::new(SCRIPT).args(["leader", name]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn assert_gone(name: &str, leader: &str) {
    assert!(!Path::new("/proc").join(leader).exists(), "PID 1 of {name} is still there");
    assert!(!Path::new("/run/ci-bridge-bed").join(name).exists(), "{name} has left its directory");
    let mount = format!("/run/ci-bridge-bed/{name}/");
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
        assert!(!mounts.contains(&mount), "{name} has left a mount in {}", process.path().display());
    }
    // The kernel does not let a control group go that has a process in it.
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        assert!(!Path::new(hierarchy).join(format!("ci-bridge-bed-{name}")).exists(), "{name} has left a cgroup");
    }
}

//! The journal reader on what a real journald writes, without the bridge: it reads the bed's files from outside.

use std::path::PathBuf;

use ci_bridge::journal::{Entry, From, Gap, Journal, Run, Source};
use ci_bridge::policy::{AllowedJob, JobName, Policy, Prefix};

use crate::machine::Bed;

fn job(name: &str) -> AllowedJob {
    let policy = Policy::new(vec![Prefix::parse("ci-test-").unwrap()]);
    policy.admit(&JobName::parse(name).unwrap()).unwrap()
}

/// The journal of a bed, with all that journald has taken up to now.
fn journal(bed: &Bed) -> Journal {
    bed.ok(["journalctl", "--sync"]);
    let id = bed.read("/etc/machine-id");
    let directory = |place: &str| PathBuf::from(format!("/proc/{}/root{place}/{}", bed.leader(), id.trim()));
    Journal::new(vec![directory("/var/log/journal"), directory("/run/log/journal")])
}

fn last_run(journal: &Journal, name: &str) -> Run {
    let job = job(name);
    let found = journal.last_run(&job).unwrap().expect("a run");
    Run { job, invocation: found.invocation }
}

/// The log of a run and its gaps.
fn read(journal: &Journal, run: &Run) -> (Vec<Entry>, Vec<Gap>) {
    let mut entries = journal.run(run, From::Start).unwrap();
    let found = entries.by_ref().collect::<Result<_, _>>().unwrap();
    (found, entries.gaps())
}

fn of_job(entries: &[Entry]) -> impl Iterator<Item = &str> {
    let own = entries.iter().filter(|entry| entry.source == Source::Job);
    own.map(|entry| std::str::from_utf8(&entry.message).unwrap())
}

#[test]
#[ignore = "boots a bed: make test"]
fn lines_that_journald_dropped_are_told_with_their_number() {
    let bed = Bed::plain();
    // The limit is a multiple of this, depending on free space. The second `seq` prints when it counts anew.
    let flood = "[Service]\nType=oneshot\nLogRateLimitIntervalSec=1s\nLogRateLimitBurst=100\nExecStart=seq 5000\n";
    let pause = "ExecStart=sleep 1.1\n";
    bed.write("/run/systemd/system/ci-test-flood.service", flood);
    bed.write("/run/systemd/system/ci-test-floods.service", &format!("{flood}{pause}ExecStart=echo done\n"));
    bed.ok(["systemctl", "daemon-reload"]);

    bed.ok(["systemctl", "start", "ci-test-floods"]);
    let journal = journal(&bed);
    let (entries, gaps) = read(&journal, &last_run(&journal, "ci-test-floods"));
    let kept = of_job(&entries).filter(|line| *line != "done").count() as u64;
    assert!(kept < 5000);
    let told: Vec<_> = entries.iter().filter_map(|entry| entry.suppressed).collect();
    assert_eq!((told, gaps), (vec![5000 - kept], vec![Gap::Suppressed(5000 - kept)]));

    // Nobody can know of it before the next run prints something.
    bed.ok(["systemctl", "start", "ci-test-flood"]);
    bed.ok(["journalctl", "--sync"]);
    let first = last_run(&journal, "ci-test-flood");
    let (entries, gaps) = read(&journal, &first);
    let kept = of_job(&entries).count() as u64;
    assert_eq!(gaps, []);
    bed.sh("sleep 1.1; systemctl start ci-test-flood; journalctl --sync");
    let (again, gaps) = read(&journal, &first);
    assert_eq!((again, gaps), (entries, vec![Gap::Suppressed(5000 - kept)]));
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_beginning_that_journald_deleted_is_told() {
    let bed = Bed::plain();
    bed.ok(["systemctl", "start", "--no-block", "ci-test-gate"]);
    bed.await_log("ci-test-gate", "open");
    let journal = journal(&bed);
    let run = last_run(&journal, "ci-test-gate");
    let (all, gaps) = read(&journal, &run);
    assert_eq!(gaps, []);
    bed.ok(["journalctl", "--rotate"]);
    bed.sh("echo kept >/var/lib/ci-test/gate");
    bed.await_log("ci-test-gate", "kept");
    assert_eq!(read(&journal, &run).1, []);
    bed.ok(["journalctl", "--vacuum-size=1"]);
    bed.sh("echo exit 0 >/var/lib/ci-test/gate");
    bed.await_log("ci-test-gate", "Finished");
    let (rest, gaps) = read(&journal, &run);
    assert_eq!((of_job(&rest).collect(), gaps), (vec!["kept"], vec![Gap::Vacuumed]));
    let mut after = journal.run(&run, From::After(all[0].position)).unwrap();
    assert_eq!((after.by_ref().count(), after.gaps()), (rest.len(), vec![Gap::Vacuumed]));
    assert_eq!(journal.run(&run, From::After(rest[0].position)).unwrap().gaps(), []);
    // The next run has lost nothing.
    bed.ok(["systemctl", "start", "ci-test-hello"]);
    bed.ok(["journalctl", "--sync"]);
    assert_eq!(read(&journal, &last_run(&journal, "ci-test-hello")).1, []);
}

//! The journal reader on what a real journald writes, without the bridge: it reads the bed's files from outside.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ci_bridge::journal::{Entry, From, Gap, Journal, Patience, Run, Source};
use ci_bridge::policy::{AllowedJob, JobName, Policy, Prefix};

use crate::machine::Bed;

pub(crate) const PATIENCE: Patience =
    Patience { without_a_line: Duration::from_secs(30), at_most: Duration::from_secs(30) };

fn deadline() -> Instant {
    Instant::now() + PATIENCE.at_most
}

pub(crate) fn job(name: &str) -> AllowedJob {
    let policy = Policy::new(vec![Prefix::parse("ci-test-").unwrap()]);
    policy.admit(&JobName::parse(name).unwrap()).unwrap()
}

pub(crate) fn journal(bed: &Bed) -> Journal {
    let id = bed.read("/etc/machine-id");
    let root = PathBuf::from(format!("/proc/{}/root", bed.leader()));
    let directories = ["var/log/journal", "run/log/journal"].map(|place| root.join(place).join(id.trim()));
    Journal::new(directories.to_vec()).with_socket(&root.join("run/systemd/journal/socket"))
}

/// The newest run of a job, as soon as the journal knows of its end and has all of its log; not `before`.
fn ended(journal: &Journal, name: &str, before: Option<&Run>) -> Run {
    let (job, deadline) = (job(name), deadline());
    loop {
        let found = journal.last_run(&job).unwrap().filter(|found| found.ended.is_some());
        let run = found.map(|found| Run { job: job.clone(), invocation: found.invocation });
        if let Some(run) = run.filter(|run| Some(run) != before) {
            assert!(journal.settle(&run, 2, &PATIENCE).unwrap());
            return run;
        }
        assert!(Instant::now() < deadline, "{name} has not ended");
    }
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
    let journal = journal(&bed);
    // journald must have looked at the unit before it is gone. The limit is a multiple of this, depending on free space. Nothing tells when journald begins to count anew.
    let flood = "[Service]\nType=oneshot\nLogRateLimitIntervalSec=4s\nLogRateLimitBurst=100\n\
                 ExecStart=seq 5000\nExecStart=sleep 1\n";
    let later = "ExecStart=sleep 4.1\nExecStart=echo done\n";
    bed.write("/run/systemd/system/ci-test-flood.service", flood);
    bed.write("/run/systemd/system/ci-test-floods.service", &format!("{flood}{later}"));
    bed.ok(["systemctl", "daemon-reload"]);

    bed.ok(["systemctl", "start", "ci-test-floods"]);
    let (entries, gaps) = read(&journal, &ended(&journal, "ci-test-floods", None));
    let dropped = 5000 - of_job(&entries).filter(|line| *line != "done").count() as u64;
    assert_ne!(dropped, 0);
    let told: u64 = entries.iter().filter_map(|entry| entry.suppressed).sum();
    assert_eq!((told, gaps), (dropped, vec![Gap::Suppressed(dropped)]));

    // Nobody can know of it before the next run prints something.
    bed.ok(["systemctl", "start", "ci-test-flood"]);
    let first = ended(&journal, "ci-test-flood", None);
    let (entries, gaps) = read(&journal, &first);
    let dropped = 5000 - of_job(&entries).count() as u64;
    assert_eq!(gaps, []);
    bed.sh("sleep 4.1; systemctl start ci-test-flood");
    ended(&journal, "ci-test-flood", Some(&first));
    let (again, gaps) = read(&journal, &first);
    assert!(again == entries);
    assert_eq!(gaps, [Gap::Suppressed(dropped)]);
}

#[test]
#[ignore = "boots a bed: make test"]
fn a_beginning_that_journald_deleted_is_told() {
    let bed = Bed::plain();
    let journal = journal(&bed);
    bed.ok(["systemctl", "start", "--no-block", "ci-test-gate"]);
    bed.await_log("ci-test-gate", "open");
    bed.await_log("ci-test-gate", "Starting");
    let invocation = journal.last_run(&job("ci-test-gate")).unwrap().unwrap().invocation;
    let run = Run { job: job("ci-test-gate"), invocation };
    let (all, gaps) = read(&journal, &run);
    assert_eq!((of_job(&all).collect(), gaps), (vec!["open"], vec![]));
    bed.ok(["journalctl", "--rotate"]);
    bed.sh("echo kept >/var/lib/ci-test/gate");
    bed.await_log("ci-test-gate", "kept");
    assert_eq!(read(&journal, &run).1, []);
    bed.ok(["journalctl", "--vacuum-size=1"]);
    bed.sh("echo exit 0 >/var/lib/ci-test/gate");
    assert_eq!(ended(&journal, "ci-test-gate", None), run);
    let (rest, gaps) = read(&journal, &run);
    assert_eq!((of_job(&rest).collect(), gaps), (vec!["kept"], vec![Gap::Vacuumed]));
    let mut after = journal.run(&run, From::After(all[0].position)).unwrap();
    assert_eq!((after.by_ref().count(), after.gaps()), (rest.len(), vec![Gap::Vacuumed]));
    assert_eq!(journal.run(&run, From::After(rest[0].position)).unwrap().gaps(), []);
    // The next run has lost nothing.
    bed.ok(["systemctl", "start", "ci-test-hello"]);
    assert_eq!(read(&journal, &ended(&journal, "ci-test-hello", None)).1, []);
}

#[test]
#[ignore = "boots a bed: make test"]
fn the_log_of_a_run_in_a_namespace_is_whole() {
    let bed = Bed::plain();
    let journal = journal(&bed);
    let is_there = || bed.enter(["sh", "-c", "test -e /var/log/journal/$(cat /etc/machine-id).ci"]).status.success();
    let mut runs: Vec<Run> = Vec::new();
    for round in 0..5 {
        // There is no such namespace before the first run.
        assert_eq!(is_there(), round > 0);
        bed.ok(["systemctl", "start", "ci-test-namespace"]);
        runs.push(ended(&journal, "ci-test-namespace", runs.last()));
        let (entries, gaps) = read(&journal, &runs[round]);
        assert!(of_job(&entries).eq((1..=5000).map(|number| format!("line {number}"))), "{round}: {}", entries.len());
        assert_eq!((entries.len(), gaps), (5003, vec![]), "{round}");
    }
    let read = |run: &Run| read(&journal, run).0;
    let texts = |entries: Vec<Entry>| entries.into_iter().map(|entry| String::from_utf8(entry.message).unwrap() + "\n");
    let printed = bed.ok(["journalctl", "--namespace=+ci", "--output=cat", "--unit=ci-test-namespace"]);
    assert!(runs.iter().flat_map(|run| texts(read(run))).collect::<String>() == printed);
    for run in &runs {
        let words = read(run).into_iter().filter(|entry| entry.source == Source::Systemd).collect();
        let printed = bed.ok(["journalctl", "--output=cat", &format!("INVOCATION_ID={}", run.invocation)]);
        assert_eq!(texts(words).collect::<String>(), printed);
    }
}

#[test]
#[ignore = "boots a bed: make test"]
fn the_first_line_in_a_namespace_is_waited_for() {
    let bed = Bed::plain();
    let journal = journal(&bed);
    for index in 0..10 {
        let (unit, namespace) = (format!("ci-test-first-{index}"), format!("--property=LogNamespace=first{index}"));
        bed.ok(["systemd-run", "--quiet", "--wait", "--unit", &unit, &namespace, "echo", "hello"]);
        let (entries, gaps) = read(&journal, &ended(&journal, &unit, None));
        assert_eq!((of_job(&entries).collect(), gaps), (vec!["hello"], vec![]), "{unit}");
    }
}

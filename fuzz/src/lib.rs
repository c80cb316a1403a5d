//! What the targets share: a job, a directory in memory, and every question that can be put to a journal.

use std::fs;
use std::path::{Path, PathBuf};

use ci_bridge::invocation::InvocationId;
use ci_bridge::journal::{Filter, From, Journal, Run, Tail};
use ci_bridge::policy::{AllowedJob, JobName, Policy, Prefix};

/// The invocation of a run in [`ask_everything`], as its bytes.
pub const INVOCATION: [u8; 16] = [0x11; 16];

/// An allowed job.
#[must_use]
pub fn job(name: &str) -> AllowedJob {
    let policy = Policy::new(vec![Prefix::parse("ci-test-").expect("a prefix")]);
    policy.admit(&JobName::parse(name).expect("a name")).expect("an allowed name")
}

/// A directory for journal files, in memory, of this process alone.
#[must_use]
pub fn directory() -> PathBuf {
    let directory = Path::new("/dev/shm").join(format!("ci-bridge-fuzz-{}", std::process::id())).join("journal");
    fs::create_dir_all(&directory).expect("a directory in /dev/shm");
    directory
}

/// Puts every question to a journal. None may panic, and each must come to an end.
pub fn ask_everything(journal: &Journal) {
    let job = job("ci-test-a");
    let invocation = InvocationId::from_bytes(&INVOCATION).expect("an id");
    let run = Run { job: job.clone(), invocation };
    for from in [From::Start, From::Last(3)] {
        let Ok(entries) = journal.run(&run, from) else { continue };
        let _ = entries.gaps();
        if let Some(last) = entries.flatten().last()
            && let Ok(entries) = journal.run(&run, From::After(last.position))
        {
            entries.for_each(drop);
        }
    }
    let filter = Filter { priority: Some(4), since_usec: Some(1), until_usec: Some(u64::MAX / 2) };
    if let Ok(entries) = journal.run_where(&run, From::Start, &filter) {
        entries.newest_first().for_each(drop);
    }
    if let Ok(mut tail) = Tail::at_end(journal, run) {
        let _ = tail.advance();
    }
    let _ = journal.find_run(&job, invocation);
    let _ = journal.last_run(&job);
    let _ = journal.holds(b"UNIT", b"ci-test-a.service");
    let _ = journal.problems();
}

//! How many runs have ended since the bridge began, and how many have not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::run::{Phase, RunResult};
use super::{Jobs, Run};
use crate::policy::JobName;

/// The runs of a job; those of all instances of a template count as the template's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many have ended since the bridge began, by the word of their result.
    pub ended: BTreeMap<String, u64>,
    /// How many run.
    pub running: u64,
    /// How many are queued.
    pub queued: u64,
}

/// The runs that have ended; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Counts(Arc<Mutex<BTreeMap<JobName, Tally>>>);

/// What a run is counted as: there is no end to the instances of a template.
fn counted_as(run: &Run) -> JobName {
    run.job.name().template().unwrap_or_else(|| run.job.name().clone())
}

impl Counts {
    pub(super) fn note_end(&self, run: &Run, result: &RunResult) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(counted_as(run)).or_default().ended.entry(result.as_str().to_owned()).or_default() += 1;
    }
}

impl Jobs {
    /// The runs of each job that has had one since the bridge began, or has one.
    #[must_use]
    pub fn tally(&self) -> BTreeMap<JobName, Tally> {
        let mut tally = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for record in self.registry.unended() {
            let run = record.run();
            let job = tally.entry(counted_as(&run)).or_default();
            match run.phase {
                Phase::Queued => job.queued += 1,
                Phase::Running(_) => job.running += 1,
                Phase::Ended(_) => {}
            }
        }
        tally
    }
}

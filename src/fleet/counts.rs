//! What is counted while the bridge runs. It begins at zero with each start.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::runners::transitions::{Fleet, Known};
use crate::runners::uptime::State;
use crate::runners::{Poll, PollError, Quota, RunnerId, SourceName};

/// How often a runner has changed its state, by what it became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransitionCounts {
    /// To online.
    pub online: u64,
    /// To offline.
    pub offline: u64,
    /// To unknown.
    pub unknown: u64,
}

/// What came of the polls of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Polled {
    /// How many requests were sent, by the status of the answer; `None` counts those without a whole one.
    pub requests: BTreeMap<Option<u16>, u64>,
    /// How many polls there were, by what they came to: `ok`, or the word of the error.
    pub results: BTreeMap<&'static str, u64>,
    /// What the service said last about how many requests it still takes.
    pub quota: Option<Quota>,
}

/// All that is counted.
#[derive(Default)]
pub(super) struct Counts {
    transitions: Mutex<HashMap<RunnerId, TransitionCounts>>,
    polled: Mutex<BTreeMap<SourceName, Polled>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counts {
    pub(super) fn note_poll(&self, source: &SourceName, poll: &Poll) {
        let mut polled = lock(&self.polled);
        let polled = polled.entry(source.clone()).or_default();
        for (status, count) in &poll.requests {
            *polled.requests.entry(*status).or_default() += u64::from(*count);
        }
        polled.quota = poll.quota.or(polled.quota);
        *polled.results.entry(poll.result.as_ref().map_or_else(PollError::code, |_| "ok")).or_default() += 1;
    }

    /// Notes what changed of the runners of a source that were known so before.
    pub(super) fn note_changes(&self, source: &SourceName, before: &Fleet, changed: &[Known]) {
        let mut transitions = lock(&self.transitions);
        let mut states: HashMap<_, _> = HashMap::new();
        for known in changed {
            let external_id = &known.seen.external_id;
            let was = states.insert(external_id, known.entry.state);
            let was = was.or_else(|| before.get(external_id).map(|before| before.entry.state));
            let became = known.entry.state;
            if was == Some(became) {
                continue;
            }
            let id = RunnerId::of(source, external_id);
            match (became, was) {
                (State::Removed, _) => drop(transitions.remove(&id)),
                // Nobody knows what it was before.
                (_, None) => {}
                (State::Online, _) => transitions.entry(id).or_default().online += 1,
                (State::Offline, _) => transitions.entry(id).or_default().offline += 1,
                (State::Unknown, _) => transitions.entry(id).or_default().unknown += 1,
            }
        }
    }

    pub(super) fn transitions(&self, runner: RunnerId) -> TransitionCounts {
        lock(&self.transitions).get(&runner).copied().unwrap_or_default()
    }

    pub(super) fn polled(&self, source: &SourceName) -> Polled {
        lock(&self.polled).get(source).cloned().unwrap_or_default()
    }
}

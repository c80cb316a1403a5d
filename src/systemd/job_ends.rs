//! Who waits for the end of which systemd job.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Ended systemd jobs that are remembered for a caller whose reply comes after the signal.
const RECENT_JOBS: usize = 256;

/// What a waiter for a systemd job is told: the result word of `JobRemoved`, such as `done`.
pub(super) type JobResult = String;

#[derive(Default)]
struct Ends {
    waiting: HashMap<String, oneshot::Sender<JobResult>>,
    recent: VecDeque<(String, JobResult)>,
}

/// The ends of systemd jobs on one connection, by the object path of the job.
#[derive(Default)]
pub(super) struct JobEnds(Mutex<Ends>);

impl JobEnds {
    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the end of `job`.
    pub(super) fn tell(&self, job: &str, result: &str) {
        let mut ends = self.lock();
        if let Some(waiter) = ends.waiting.remove(job) {
            let _ = waiter.send(result.to_owned());
            return;
        }
        if ends.recent.len() == RECENT_JOBS {
            ends.recent.pop_front();
        }
        ends.recent.push_back((job.to_owned(), result.to_owned()));
    }

    /// Resolves with the result of `job`, also if it has ended already; is closed if there is no connection, asked under
    /// the lock that [`JobEnds::forget`] takes, or when that is called.
    pub(super) fn wait_for(&self, job: &str, connected: impl FnOnce() -> bool) -> oneshot::Receiver<JobResult> {
        let (sender, receiver) = oneshot::channel();
        let mut ends = self.lock();
        let at = ends.recent.iter().position(|(ended, _)| ended == job);
        if let Some((_, result)) = at.and_then(|at| ends.recent.remove(at)) {
            let _ = sender.send(result);
        } else if connected() {
            ends.waiting.retain(|_, waiter| !waiter.is_closed());
            ends.waiting.insert(job.to_owned(), sender);
        }
        receiver
    }

    /// Closes all waiters: the connection has ended.
    pub(super) fn forget(&self) {
        *self.lock() = Ends::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_came_before_its_waiter_is_not_lost() {
        let ends = JobEnds::default();
        ends.tell("/job/1", "done");
        assert_eq!(ends.wait_for("/job/1", || true).try_recv(), Ok("done".to_owned()));
        let mut waiting = ends.wait_for("/job/1", || true);
        ends.tell("/job/1", "failed");
        assert_eq!(waiting.try_recv(), Ok("failed".to_owned()));
    }

    #[test]
    fn nobody_waits_on_a_connection_that_has_ended() {
        let ends = JobEnds::default();
        let mut before = ends.wait_for("/job/1", || true);
        ends.forget();
        let mut after = ends.wait_for("/job/1", || false);
        for waiter in [&mut before, &mut after] {
            assert_eq!(waiter.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        }
    }
}

//! The way from what happens to the alerts, for those who notice it.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Alerts, Event, JobEvent, Told};
use crate::invocation::MainExit;
use crate::policy::JobName;
use crate::run::{RunId, RunResult};
use crate::store::{Delivery, End};

/// Ends of runs that are no failures, though nothing was done: somebody took the run out of the queue, or a condition of
/// its unit was not met.
const HARMLESS: [&str; 3] = ["canceled", "condition", "exec-condition"];

/// Makes messages of what happens, and has the couriers look for them; cheap to clone. The default has nobody to tell.
#[derive(Clone, Default)]
pub struct Teller {
    alerts: Arc<Alerts>,
    wake: Arc<Notify>,
}

impl Teller {
    /// The way to these alerts.
    #[must_use]
    pub fn new(alerts: Alerts) -> Self {
        Self { alerts: Arc::new(alerts), wake: Arc::default() }
    }

    /// Whom it tells.
    #[must_use]
    pub fn alerts(&self) -> &Arc<Alerts> {
        &self.alerts
    }

    /// What the couriers wait for.
    #[must_use]
    pub fn wake(&self) -> &Arc<Notify> {
        &self.wake
    }

    /// Has the couriers look for something to be sent.
    pub fn wake_couriers(&self) {
        self.wake.notify_waiters();
    }

    /// What is to be sent because a run has ended so; noticed at the time `now`. The event has the id of the run, so that
    /// nobody is told twice of a run.
    #[must_use]
    pub fn of_run(&self, job: &JobName, run: RunId, end: &End, now: Timestamp) -> Vec<Delivery> {
        let event = match &end.result {
            RunResult::Failed(word) if HARMLESS.contains(&word.as_str()) => return Vec::new(),
            RunResult::Failed(_) => {
                let exit_code = match end.exit {
                    Some(MainExit::Code(code)) => Some(code),
                    Some(MainExit::Signal(_)) | None => None,
                };
                JobEvent::Failed { result: end.result.clone(), exit_code }
            }
            RunResult::Lost => JobEvent::Lost { reason: end.lost.clone() },
            RunResult::Success | RunResult::Stopped => return Vec::new(),
        };
        // Where a clock was set back, what is to be sent must not wait for it.
        let at = end.at.unwrap_or(now).min(now);
        let told = Told::Job { job: job.clone(), run, event };
        self.alerts.deliveries(&Event { id: Uuid::from_bytes(*run.as_bytes()), at, told })
    }
}

//! Starting a job, and stopping it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::registry::{Begun, Latest};
use super::run::{Origin, Run};
use super::{Error, Jobs, PATIENCE};
use crate::inputs::Values;
use crate::policy::AllowedJob;
use crate::systemd::{self, StartError, Stopped};
use crate::telemetry::Chain;

/// What to do when the job runs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfBusy {
    /// Refuse.
    #[default]
    Reject,
    /// Answer with the run that is there, if it was given the same.
    Join,
    /// Have it run after those that wait for the job already.
    Queue,
}

/// What a caller wants started, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to do when the job runs already.
    pub if_busy: IfBusy,
    /// Who asks.
    pub origin: Origin,
    /// Whether nothing is to be started that can't be recorded.
    pub must_be_recorded: bool,
    /// What the run is given.
    pub inputs: Values,
}

/// A start that came to a run.
#[derive(Debug, Clone)]
pub struct Start {
    /// The run.
    pub run: Arc<Run>,
    /// How the request came to it.
    pub how: How,
}

/// How a request came to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was started.
    Started,
    /// It was there before.
    Joined,
    /// It waits for its job, with so many before it.
    Waits(usize),
}

impl Jobs {
    /// Starts a job and returns when its run has begun, or is still queued after ten seconds.
    ///
    /// # Errors
    /// [`Error::Busy`] with the run that is there, unless `if_busy` joins it; [`Error::Start`] says why nothing runs.
    pub async fn start(&self, job: &AllowedJob, request: Request) -> Result<Start, Error> {
        if job.name().template().is_some() {
            let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
            instances.admit(job.unit(), Instant::now()).map_err(Error::TooManyInstances)?;
        }
        let Request { if_busy, origin, must_be_recorded, inputs } = request;
        let begun = match self.registry.begin(job, origin.clone(), &inputs) {
            Ok(begun) => begun,
            Err(active) => match if_busy {
                IfBusy::Join if self.has(&active, &inputs) => {
                    return Ok(Start { run: active.run(), how: How::Joined });
                }
                IfBusy::Reject | IfBusy::Join => return Err(Error::Busy(active.run())),
                IfBusy::Queue => return self.enqueue(job, origin, &inputs).await,
            },
        };
        let recorded = if must_be_recorded { Recorded::First } else { Recorded::Sometime };
        let record = begun.record.clone();
        let told = Arc::new(AtomicBool::new(false));
        // A task of its own: a caller who hangs up must not leave a start half done.
        let mut starting = tokio::spawn(self.clone().begin(begun, told.clone(), recorded));
        let started = tokio::select! {
            started = &mut starting => started?,
            () = tokio::time::sleep(PATIENCE) => {
                // Still queued, unless it has failed just now. The task goes on and settles what becomes of the run.
                if told.swap(true, Ordering::AcqRel) { starting.await? } else { Ok(()) }
            }
        };
        match started {
            Ok(()) => Ok(Start { run: record.run(), how: How::Started }),
            Err(Error::Busy(run))
                if if_busy == IfBusy::Join
                    && self.registry.get(run.id).is_some_and(|active| self.has(&active, &inputs)) =>
            {
                Ok(Start { run, how: How::Joined })
            }
            Err(error) => Err(error),
        }
    }

    /// Has a registered run begin. `told` decides who comes first: the caller, who is told of a queued run, or a failure,
    /// of which no run stays.
    pub(super) async fn begin(self, begun: Begun, told: Arc<AtomicBool>, recorded: Recorded) -> Result<(), Error> {
        let job = begun.record.run().job.clone();
        let settled = async {
            // Late lines of the run before must not fall into this one.
            if let Some(before) = &begun.before {
                self.settle(before).await;
            }
        };
        let recording = async {
            match recorded {
                Recorded::Already => Ok(()),
                Recorded::First | Recorded::Sometime => self.history.record(&begun.record).await,
            }
        };
        let (kept, ()) = tokio::join!(recording, settled);
        match kept {
            Err(error) if recorded == Recorded::First => {
                self.registry.abandon(&begun);
                return Err(Error::History(error));
            }
            Err(error) => {
                log::error!("run {} is not recorded yet: {}", begun.record.run().id, Chain(&error));
                begun.record.announce();
            }
            Ok(()) => {}
        }
        let error = match self.systemd.start(&job, || begun.record.offer()).await {
            // systemd names a run a moment before it says when that began.
            Ok(_invocation) => {
                let mut run = begun.record.watch();
                let _ =
                    tokio::time::timeout(PATIENCE, run.wait_for(|run| run.started.is_some() || run.ended().is_some()))
                        .await;
                return Ok(());
            }
            Err(StartError::Uncertain) => {
                tokio::spawn(async move { self.find_out(&begun.record).await });
                return Ok(());
            }
            Err(error) => error,
        };
        if told.swap(true, Ordering::AcqRel) {
            // Who asked for it has gone with a promise, and hears no more of it than the word.
            log::warn!("run {} of {} has not begun: {}", begun.record.run().id, job.name(), Chain(&error));
            begun.record.never_ran(never_ran_word(&error));
        } else if self.registry.abandon(&begun) {
            self.history.withdraw(&begun.record).await;
        }
        Err(match error {
            StartError::NotFound => Error::NoSuchJob,
            // It was started by somebody else at the same moment.
            StartError::Busy => match self.registry.latest(&job) {
                Latest::Run(record) if record.run().ended().is_none() => Error::Busy(record.run()),
                Latest::Run(_) | Latest::None | Latest::Unseen => Error::Start(StartError::Busy),
            },
            StartError::Systemd(error) => Error::Systemd(error),
            error => Error::Start(error),
        })
    }

    /// Stops a job and returns when it has stopped, or after ten seconds.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`] if there is no such unit; [`Error::Systemd`] if systemd refuses.
    pub async fn stop(&self, job: &AllowedJob) -> Result<Stopped, Error> {
        let unit = self.systemd.state(job).await?.ok_or(Error::NoSuchJob)?;
        // Asking systemd about a unit makes it load the unit.
        if !unit.in_memory {
            return Ok(Stopped::WasInactive);
        }
        match self.systemd.stop(job, PATIENCE).await {
            Err(systemd::Error::NoSuchUnit) => Err(Error::NoSuchJob),
            stopped => Ok(stopped?),
        }
    }
}

/// When a run that begins has to be in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// It is.
    Already,
    /// Before it is started; otherwise it is not.
    First,
    /// Before it is started, if that can be.
    Sometime,
}

/// The word for a run that systemd did not come to run.
fn never_ran_word(error: &StartError) -> &'static str {
    match error {
        StartError::Dependency => "dependency",
        StartError::Canceled => "canceled",
        StartError::Condition => "condition",
        StartError::Assertion => "assert",
        StartError::StartLimit => "start-limit-hit",
        _ => "not-started",
    }
}

//! A run: one invocation of a job, from the request to its verdict.

use jiff::Timestamp;

use crate::invocation::{InvocationId, MainExit};
use crate::policy::AllowedJob;
use crate::store;
use crate::systemd::UnitState;

pub use crate::run::{RunId, RunResult};
pub use crate::store::{End as Ended, Log, LogPlace, Origin};

/// A run that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// When the run before began. systemd names a new run shortly before it says that the unit has left `inactive`;
    /// until this time changes, what it says is still of the run before.
    pub(super) before: Option<Timestamp>,
    /// Whether somebody has asked it to stop while its main process was alive.
    pub(super) stopping: bool,
}

/// Where a run is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// systemd has been asked for it.
    Queued,
    /// It runs.
    Running(Running),
    /// It is over.
    Ended(Ended),
}

/// What is known of a run; a value, not a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// What it is a run of.
    pub job: AllowedJob,
    /// Who started it.
    pub origin: Origin,
    /// When it was asked for, or else when it began or was noticed.
    pub requested: Timestamp,
    /// systemd's id of it; `None` while it is queued.
    pub invocation: Option<InvocationId>,
    /// When it began to run.
    pub started: Option<Timestamp>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Where its log is, and whether that is known to be whole.
    pub log: Log,
}

impl Run {
    /// A run that has been asked for.
    pub(super) fn requested(id: RunId, job: AllowedJob, origin: Origin, requested: Timestamp) -> Self {
        let log = Log { place: LogPlace::Journal, complete: false };
        // As the store keeps it, so that it is the same after a restart.
        let requested = Timestamp::from_microsecond(requested.as_microsecond()).unwrap_or(requested);
        Self { id, job, origin, requested, invocation: None, started: None, phase: Phase::Queued, log }
    }

    /// A run as the store has it.
    pub(super) fn recorded(job: AllowedJob, row: store::Run) -> Self {
        let store::Run { id, job: _, origin, requested, progress, log } = row;
        let phase = match progress.phase {
            store::Phase::Queued => Phase::Queued,
            store::Phase::Running => Phase::Running(Running { before: None, stopping: false }),
            store::Phase::Ended(ended) => Phase::Ended(ended),
        };
        Self { id, job, origin, requested, invocation: progress.invocation, started: progress.started, phase, log }
    }

    /// How far it has come, as the store keeps it.
    pub(super) fn progress(&self) -> store::Progress {
        let phase = match &self.phase {
            Phase::Queued => store::Phase::Queued,
            Phase::Running(_) => store::Phase::Running,
            Phase::Ended(ended) => store::Phase::Ended(ended.clone()),
        };
        store::Progress { invocation: self.invocation, started: self.started, phase }
    }

    /// The run as the store keeps it.
    pub(super) fn to_record(&self) -> store::Run {
        store::Run {
            id: self.id,
            job: self.job.name().clone(),
            origin: self.origin.clone(),
            requested: self.requested,
            progress: self.progress(),
            log: self.log,
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<&Ended> {
        match &self.phase {
            Phase::Ended(ended) => Some(ended),
            Phase::Queued | Phase::Running(_) => None,
        }
    }

    /// The word of the API for the phase.
    #[must_use]
    pub fn phase_word(&self) -> &'static str {
        match self.phase {
            Phase::Queued => "queued",
            Phase::Running(_) => "running",
            Phase::Ended(_) => "ended",
        }
    }
}

/// The verdict on a run whose unit has just become `state`, inactive or failed.
///
/// systemd calls a job that `systemctl stop` ended a success or a failure by its signal, depending on its type. Neither
/// is true of a job that was to do something: it was stopped.
pub(super) fn verdict(state: &UnitState, stopping: bool) -> RunResult {
    let by_signal = matches!(state.main_exit, Some(MainExit::Signal(_)));
    match state.result.as_str() {
        "success" if stopping || by_signal => RunResult::Stopped,
        "success" => RunResult::Success,
        "signal" | "exit-code" if stopping => RunResult::Stopped,
        word => RunResult::Failed(word.to_owned()),
    }
}

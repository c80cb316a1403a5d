//! A run: one invocation of a job, from the request to its verdict.

use jiff::Timestamp;

use crate::invocation::{InvocationId, MainExit};
use crate::policy::AllowedJob;
use crate::systemd::UnitState;

pub use crate::run::{RunId, RunResult};

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// When; `None` if that is no longer known.
    pub at: Option<Timestamp>,
    /// The verdict.
    pub result: RunResult,
    /// How its main process ended; `None` if there was none or it is no longer known.
    pub exit: Option<MainExit>,
}

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
    /// systemd's id of it; `None` while it is queued.
    pub invocation: Option<InvocationId>,
    /// When it began to run.
    pub started: Option<Timestamp>,
    /// Where it is in its life.
    pub phase: Phase,
}

impl Run {
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

//! A run: one invocation of a job, from the request to its verdict.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::invocation::{InvocationId, MainExit};
use crate::policy::AllowedJob;
use crate::systemd::UnitState;

/// The id of a run, a UUID.
///
/// Version 7 for a run that began while the bridge watched. A run that is known from the journal only has its
/// invocation id in the form of a UUID, so that it has the same id whenever it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(Uuid);

impl RunId {
    /// A new id; later ids sort after earlier ones.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id of a run that began before the bridge did.
    #[must_use]
    pub fn of_invocation(invocation: InvocationId) -> Self {
        Self(Uuid::from_bytes(*invocation.as_bytes()))
    }

    /// The invocation that this id would stand for, if it is one of [`RunId::of_invocation`].
    #[must_use]
    pub fn as_invocation(self) -> Option<InvocationId> {
        InvocationId::from_bytes(self.0.as_bytes())
    }
}

impl FromStr for RunId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

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

/// The verdict on a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunResult {
    /// It did all that it was to do.
    Success,
    /// Somebody stopped it before it was done.
    Stopped,
    /// It failed; systemd's word for it: `exit-code`, `signal`, `core-dump`, `timeout`, `watchdog`, `oom-kill`, …
    Failed(String),
    /// It has ended, but nobody knows any more how.
    Unknown,
}

impl RunResult {
    /// The word of the API.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Success => "success",
            Self::Stopped => "stopped",
            Self::Failed(word) => word,
            Self::Unknown => "unknown",
        }
    }
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

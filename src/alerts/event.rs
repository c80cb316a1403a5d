//! What can be told, and what it looks like as JSON and as a line of text.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::format::plain;
use crate::config::AlertEvent;
use crate::policy::JobName;
use crate::run::{RunId, RunResult};
use crate::runners::transitions::{Known, Transition, Turn};
use crate::runners::uptime::State;
use crate::runners::{Kind, Provider, RunnerId, SourceName};

/// How many labels of a runner are told at most.
const LABELS_MAX: usize = 50;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its id: the same in everything that is sent because of it.
    pub id: Uuid,
    /// When it was noticed.
    pub at: Timestamp,
    /// What happened.
    pub told: Told,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Something about a runner.
    Runner {
        /// The source that lists it.
        source: WatchedSource,
        /// What.
        transition: Box<Transition>,
    },
    /// Something about a source.
    Source {
        /// The source.
        source: WatchedSource,
        /// What.
        event: SourceEvent,
    },
    /// Something about a run of a job.
    Job {
        /// The job.
        job: JobName,
        /// The run.
        run: RunId,
        /// What.
        event: JobEvent,
    },
    /// Something about what the bridge keeps itself.
    Storage {
        /// What it keeps.
        part: Part,
        /// What.
        event: StorageEvent,
    },
}

/// A list of runners that is polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedSource {
    /// Its name.
    pub name: SourceName,
    /// Its service.
    pub provider: Provider,
    /// What templates call it, such as `org: acme; github: https://api.github.com`.
    pub set: String,
    /// When it last told of its runners before this.
    pub heard_before: Option<Timestamp>,
}

/// Something about a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// It can't be read.
    Unreachable {
        /// Since when nothing is known of its runners.
        since: Timestamp,
        /// What the last poll came to.
        error: String,
    },
    /// It can be read again.
    Recovered,
}

/// Something about a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEvent {
    /// It has failed.
    Failed {
        /// How.
        result: RunResult,
        /// The code that its main process ended with.
        exit_code: Option<u8>,
    },
    /// It has ended, and nobody knows how.
    Lost {
        /// Why.
        reason: Option<String>,
    },
}

/// What the bridge keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The history, and all that is to be told.
    History,
    /// The logs of ended runs.
    Archive,
}

/// Something about what the bridge keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageEvent {
    /// It can't be written.
    Failed {
        /// Why.
        error: String,
    },
    /// It can be written again.
    Recovered,
}

impl Part {
    /// The word of what is sent: `history` or `archive`.
    fn as_str(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::Archive => "archive",
        }
    }
}

/// The event as JSON.
#[derive(Serialize)]
pub(super) struct Json<'a> {
    id: Uuid,
    r#type: &'static str,
    at: Timestamp,
    #[serde(flatten)]
    told: JsonTold<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum JsonTold<'a> {
    Runner { runner: Box<RunnerJson<'a>>, previous: Option<Box<RunnerJson<'a>>> },
    Source { source: SourceJson<'a> },
    Job { job: &'a str, run: RunJson<'a> },
    Storage { storage: StorageJson },
}

#[derive(Serialize)]
struct RunnerJson<'a> {
    id: RunnerId,
    provider: &'static str,
    source: &'a str,
    external_id: String,
    name: String,
    os: Option<String>,
    labels: Vec<String>,
    kind: Option<&'static str>,
    state: &'static str,
    busy: Option<bool>,
    paused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
}

#[derive(Serialize)]
struct SourceJson<'a> {
    name: &'a str,
    provider: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct RunJson<'a> {
    id: RunId,
    result: &'a str,
    exit_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct StorageJson {
    part: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Event {
    /// An event that has just been noticed.
    #[must_use]
    pub fn new(at: Timestamp, told: Told) -> Self {
        Self { id: Uuid::now_v7(), at, told }
    }

    pub(super) fn json(&self) -> Json<'_> {
        Json { id: self.id, r#type: self.told.event().kind(), at: self.at, told: self.told.json() }
    }
}

impl Told {
    pub(super) fn event(&self) -> AlertEvent {
        match self {
            Self::Runner { transition, .. } => match transition.turn {
                Turn::Created => AlertEvent::Created,
                Turn::Removed => AlertEvent::Removed,
                Turn::Online => AlertEvent::Online,
                Turn::Offline => AlertEvent::Offline,
                Turn::Flapping => AlertEvent::Flapping,
            },
            Self::Source { event: SourceEvent::Unreachable { .. }, .. } => AlertEvent::SourceUnreachable,
            Self::Source { event: SourceEvent::Recovered, .. } => AlertEvent::SourceRecovered,
            Self::Job { event: JobEvent::Failed { .. }, .. } => AlertEvent::JobFailed,
            Self::Job { event: JobEvent::Lost { .. }, .. } => AlertEvent::JobLost,
            Self::Storage { event: StorageEvent::Failed { .. }, .. } => AlertEvent::StorageFailed,
            Self::Storage { event: StorageEvent::Recovered, .. } => AlertEvent::StorageRecovered,
        }
    }

    /// The name of the job that it is about.
    pub(super) fn job(&self) -> Option<&str> {
        match self {
            Self::Job { job, .. } => Some(job.as_str()),
            Self::Runner { .. } | Self::Source { .. } | Self::Storage { .. } => None,
        }
    }

    /// The list of runners that it is about.
    pub(super) fn source(&self) -> Option<&SourceName> {
        match self {
            Self::Runner { source, .. } | Self::Source { source, .. } => Some(&source.name),
            Self::Job { .. } | Self::Storage { .. } => None,
        }
    }

    /// What is told in order.
    pub(super) fn subject(&self) -> String {
        match self {
            Self::Runner { source, transition } => {
                RunnerId::of(&source.name, &transition.after.seen.external_id).to_string()
            }
            Self::Source { source, .. } => format!("source {}", source.name),
            Self::Job { job, .. } => format!("job {job}"),
            Self::Storage { part, .. } => format!("storage {}", part.as_str()),
        }
    }

    fn json(&self) -> JsonTold<'_> {
        match self {
            Self::Runner { source, transition } => {
                let Transition { before, after, .. } = transition.as_ref();
                let previous = |before| Box::new(runner(source, before, State::told(before.confirmed), None));
                JsonTold::Runner {
                    runner: Box::new(runner(source, after, after.entry.state, Some(after.entry.at))),
                    previous: before.as_ref().map(previous),
                }
            }
            Self::Source { source, event } => {
                let (since, error) = match event {
                    SourceEvent::Unreachable { since, error } => (Some(*since), Some(plain(error))),
                    SourceEvent::Recovered => (None, None),
                };
                let provider = source.provider.as_str();
                JsonTold::Source { source: SourceJson { name: source.name.as_str(), provider, since, error } }
            }
            Self::Job { job, run, event } => {
                let (result, exit_code, reason) = match event {
                    JobEvent::Failed { result, exit_code } => (result.as_str(), *exit_code, None),
                    JobEvent::Lost { reason } => (RunResult::Lost.as_str(), None, reason.as_deref().map(plain)),
                };
                JsonTold::Job { job: job.as_str(), run: RunJson { id: *run, result, exit_code, reason } }
            }
            Self::Storage { part, event } => {
                let error = match event {
                    StorageEvent::Failed { error } => Some(plain(error)),
                    StorageEvent::Recovered => None,
                };
                JsonTold::Storage { storage: StorageJson { part: part.as_str(), error } }
            }
        }
    }

    /// The event in a line of plain text, which is still foreign for any format.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Runner { source, transition } => {
                let name = plain(&transition.after.seen.name);
                let became = match transition.turn {
                    Turn::Created => "is new",
                    Turn::Removed => "was removed",
                    Turn::Online => "is online",
                    Turn::Offline => "is offline",
                    Turn::Flapping => "goes online and offline again and again",
                };
                format!("runner {name} ({}) {became}", source.name)
            }
            Self::Source { source, event: SourceEvent::Unreachable { error, .. } } => {
                format!("the runners of {} are unknown: {}", source.name, plain(error))
            }
            Self::Source { source, event: SourceEvent::Recovered } => {
                format!("the runners of {} are known again", source.name)
            }
            Self::Job { job, event: JobEvent::Failed { result, exit_code }, .. } => {
                let code = exit_code.map_or_else(String::new, |code| format!(" {code}"));
                format!("job {job} has failed: {}{code}", result.as_str())
            }
            Self::Job { job, event: JobEvent::Lost { reason }, .. } => {
                let reason = reason.as_deref().map_or_else(String::new, |reason| format!(": {}", plain(reason)));
                format!("nobody knows how job {job} has ended{reason}")
            }
            Self::Storage { part, event } => {
                let what = match part {
                    Part::History => "the history of ci-bridge",
                    Part::Archive => "the archive of ci-bridge",
                };
                match event {
                    StorageEvent::Failed { error } => format!("{what} cannot be written: {}", plain(error)),
                    StorageEvent::Recovered => format!("{what} is written again"),
                }
            }
        }
    }
}

fn runner<'a>(source: &'a WatchedSource, known: &Known, state: State, since: Option<Timestamp>) -> RunnerJson<'a> {
    let Known { seen, .. } = known;
    RunnerJson {
        id: RunnerId::of(&source.name, &seen.external_id),
        provider: source.provider.as_str(),
        source: source.name.as_str(),
        external_id: plain(seen.external_id.as_str()),
        name: plain(&seen.name),
        os: seen.os.as_deref().map(plain),
        labels: labels(known),
        kind: seen.kind.map(Kind::as_str),
        state: state.as_str(),
        busy: seen.busy,
        paused: seen.paused,
        since,
    }
}

pub(super) fn labels(known: &Known) -> Vec<String> {
    known.seen.labels.iter().take(LABELS_MAX).map(|label| plain(label)).collect()
}

//! The JSON of the API.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::audit;
use crate::auth::TokenName;
use crate::fleet::{self, DeliveryState};
use crate::jobs::Source as LineSource;
use crate::jobs::{Cursor, Ended, Entry, InvocationId, JobState, ListedJob, MainExit, Origin, RunId, neutralise};
use crate::policy::JobName;
use crate::runners::transitions::Known;
use crate::runners::{Kind, RunnerId};
use crate::systemd::UnitState;

/// Names of the signals that end processes, by number (`signal(7)`, all architectures that systemd's own builds use).
const SIGNALS: [(i32, &str); 15] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (13, "SIGPIPE"),
    (14, "SIGALRM"),
    (15, "SIGTERM"),
    (24, "SIGXCPU"),
    (31, "SIGSYS"),
];

fn signal_name(number: i32) -> Cow<'static, str> {
    let known = SIGNALS.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| Cow::Owned(number.to_string()), |(_, name)| Cow::Borrowed(*name))
}

/// Where a run's log begins, for a caller who follows it with `/tail?cursor=`; `None` while it is queued.
pub(super) fn beginning(run: &crate::jobs::Run) -> Option<String> {
    Some(Cursor { invocation: run.invocation?, after: None }.encode(&run.job))
}

/// Who has started what no token has: a timer, another unit, an administrator.
const SYSTEMD: &str = "systemd";

/// Times are RFC 3339 in UTC, with microseconds where there are any.
#[derive(Serialize)]
struct Verdict<'a> {
    result: Option<&'a str>,
    exit_code: Option<u8>,
    signal: Option<Cow<'static, str>>,
    finished_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> Verdict<'a> {
    fn of(ended: Option<&'a Ended>) -> Self {
        let exit = ended.and_then(|ended| ended.exit);
        Self {
            result: ended.map(|ended| ended.result.as_str()),
            exit_code: exit.and_then(|exit| match exit {
                MainExit::Code(code) => Some(code),
                MainExit::Signal(_) => None,
            }),
            signal: exit.and_then(|exit| match exit {
                MainExit::Code(_) => None,
                MainExit::Signal(number) => Some(signal_name(number)),
            }),
            finished_at: ended.and_then(|ended| ended.at),
            reason: ended.and_then(|ended| ended.lost.as_deref()),
        }
    }
}

/// What an answer with lines says besides them.
pub(super) fn verdict(unit: &UnitState, run: Option<&crate::jobs::Run>, complete: bool, gap: bool) -> Value {
    let verdict = Verdict::of(run.and_then(crate::jobs::Run::ended));
    json!({
        "run": run.map(|run| run.id),
        "state": unit.active.as_str(),
        "run_state": run.map(crate::jobs::Run::phase_word),
        "result": verdict.result,
        "exit_code": verdict.exit_code,
        "signal": verdict.signal,
        "started_at": run.and_then(|run| run.started),
        "finished_at": verdict.finished_at,
        "complete": complete,
        "gap": gap,
    })
}

/// A run.
#[derive(Serialize)]
pub(super) struct Run<'a> {
    id: RunId,
    job: &'a str,
    state: &'static str,
    started_by: &'a str,
    request_id: Option<Uuid>,
    requested_at: Timestamp,
    started_at: Option<Timestamp>,
    invocation_id: Option<InvocationId>,
    #[serde(flatten)]
    verdict: Verdict<'a>,
    duration_seconds: Option<f64>,
    cpu_seconds: Option<f64>,
    memory_peak_bytes: Option<u64>,
    complete: bool,
    inputs: &'a Map<String, Value>,
}

impl<'a> Run<'a> {
    pub(super) fn of(run: &'a crate::jobs::Run) -> Self {
        let ended = run.ended();
        let (started_by, request_id) = match &run.origin {
            Origin::Token { name, request } => (name.as_str(), Some(*request)),
            Origin::Systemd => (SYSTEMD, None),
        };
        let took = ended.and_then(|ended| Duration::try_from(ended.at?.duration_since(run.started?)).ok());
        Self {
            id: run.id,
            job: run.job.name().as_str(),
            state: run.phase_word(),
            started_by,
            request_id,
            requested_at: run.requested,
            started_at: run.started,
            invocation_id: run.invocation,
            verdict: Verdict::of(ended),
            duration_seconds: took.map(|took| took.as_secs_f64()),
            cpu_seconds: ended.and_then(|ended| ended.cpu).map(|cpu| cpu.as_secs_f64()),
            memory_peak_bytes: ended.and_then(|ended| ended.memory_peak),
            complete: run.log.complete,
            inputs: &run.inputs,
        }
    }
}

/// The state of a job.
#[derive(Serialize)]
pub(super) struct Standing<'a> {
    job: &'a str,
    state: &'static str,
    sub_state: &'a str,
    started_at: Option<Timestamp>,
    run: Option<RunId>,
    run_state: Option<&'static str>,
    invocation_id: Option<InvocationId>,
    cursor: Option<String>,
    #[serde(flatten)]
    verdict: Verdict<'a>,
}

impl<'a> Standing<'a> {
    pub(super) fn of(job: &'a str, state: &'a JobState) -> Self {
        let run = state.run.as_deref();
        Self {
            job,
            state: state.unit.active.as_str(),
            sub_state: &state.unit.sub,
            started_at: run.and_then(|run| run.started),
            run: run.map(|run| run.id),
            run_state: run.map(crate::jobs::Run::phase_word),
            invocation_id: run.and_then(|run| run.invocation),
            cursor: run.and_then(beginning),
            verdict: Verdict::of(run.and_then(crate::jobs::Run::ended)),
        }
    }
}

/// An entry of the audit.
#[derive(Serialize)]
pub(super) struct AuditEntry<'a> {
    id: i64,
    time: Timestamp,
    kind: &'a str,
    who: Option<&'a str>,
    address: Option<IpAddr>,
    request_id: Option<Uuid>,
    job: Option<&'a str>,
    run: Option<RunId>,
    outcome: &'a str,
    detail: Option<&'a str>,
}

impl<'a> AuditEntry<'a> {
    pub(super) fn of(entry: &'a audit::Entry) -> Self {
        let audit::Entry { id, entry } = entry;
        Self {
            id: i64::from(*id),
            time: entry.at,
            kind: &entry.kind,
            who: entry.who.as_ref().map(TokenName::as_str),
            address: entry.address,
            request_id: entry.request,
            job: entry.job.as_ref().map(JobName::as_str),
            run: entry.run,
            outcome: &entry.outcome,
            detail: entry.detail.as_deref(),
        }
    }
}

/// A job in the list.
#[derive(Serialize)]
pub(super) struct Listed<'a> {
    job: &'a str,
    description: Option<&'a str>,
    template: bool,
    state: Option<&'static str>,
}

impl<'a> Listed<'a> {
    pub(super) fn of(job: &'a ListedJob) -> Self {
        let template = job.name.is_template();
        let state = job.state.as_ref().map_or("inactive", |state| state.active.as_str());
        Self {
            job: job.name.as_str(),
            description: job.description.as_deref(),
            template,
            state: (!template).then_some(state),
        }
    }
}

/// An entry of a log.
///
/// `message` has U+FFFD where the bytes are no UTF-8; then `message_base64` has the bytes as they were.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    cursor: &'a str,
    time: Option<Timestamp>,
    priority: Option<u8>,
    source: &'static str,
    message: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_base64: Option<String>,
}

impl<'a> Line<'a> {
    /// `neutral` makes the message harmless text.
    pub(super) fn of(entry: &'a Entry, cursor: &'a str, neutral: bool) -> Self {
        let message = String::from_utf8_lossy(&entry.message);
        // Only text with a replacement is a copy.
        let changed = matches!(message, Cow::Owned(_));
        let message = if neutral { neutralise(&entry.message) } else { message };
        Self {
            cursor,
            time: i64::try_from(entry.realtime_usec()).ok().and_then(|usec| Timestamp::from_microsecond(usec).ok()),
            priority: entry.priority,
            source: match entry.source {
                LineSource::Job => "job",
                LineSource::Systemd => "systemd",
                LineSource::Other => "system",
            },
            message,
            message_base64: changed.then(|| BASE64_STANDARD.encode(&entry.message)),
        }
    }
}

/// A runner.
#[derive(Serialize)]
pub(super) struct Runner<'a> {
    id: RunnerId,
    provider: &'static str,
    source: &'a str,
    external_id: &'a str,
    name: &'a str,
    os: Option<&'a str>,
    labels: &'a [String],
    kind: Option<&'static str>,
    state: &'static str,
    since: Timestamp,
    busy: Option<bool>,
    paused: Option<bool>,
    ephemeral: Option<bool>,
    locked: Option<bool>,
    version: Option<&'a str>,
    flapping: bool,
    first_seen_at: Timestamp,
    contacted_at: Option<Timestamp>,
}

impl<'a> Runner<'a> {
    pub(super) fn of(runner: &'a fleet::Record) -> Self {
        let Known { seen, entry, changes, first_seen, .. } = &runner.known;
        Self {
            id: runner.id,
            provider: runner.provider.as_str(),
            source: runner.source.as_str(),
            external_id: seen.external_id.as_str(),
            name: &seen.name,
            os: seen.os.as_deref(),
            labels: &seen.labels,
            kind: seen.kind.map(Kind::as_str),
            state: entry.state.as_str(),
            since: entry.at,
            busy: seen.busy,
            paused: seen.paused,
            ephemeral: seen.ephemeral,
            locked: seen.locked,
            version: seen.version.as_deref(),
            flapping: changes.flapping,
            first_seen_at: *first_seen,
            contacted_at: seen.contacted_at,
        }
    }
}

/// A list of runners.
#[derive(Serialize)]
pub(super) struct Source<'a> {
    name: &'a str,
    provider: &'static str,
    watched: bool,
    polled_at: Option<Timestamp>,
    read_at: Option<Timestamp>,
    failures: u32,
    error: Option<&'a str>,
    unreachable: bool,
    not_before: Option<Timestamp>,
}

impl<'a> Source<'a> {
    pub(super) fn of(source: &'a fleet::SourceStatus) -> Self {
        let record = source.record.as_ref();
        Self {
            name: source.name.as_str(),
            provider: source.provider.as_str(),
            watched: source.watched,
            polled_at: record.map(|record| record.polled),
            read_at: record.and_then(|record| record.heard).map(|heard| heard.at),
            failures: record.map_or(0, |record| record.failures),
            error: record.and_then(|record| record.error.as_deref()),
            unreachable: record.is_some_and(|record| record.unreachable),
            not_before: record.and_then(|record| record.not_before),
        }
    }
}

/// A message of an alert.
#[derive(Serialize)]
pub(super) struct Message<'a> {
    id: i64,
    event: Uuid,
    alert: &'a str,
    r#type: &'a str,
    at: Timestamp,
    state: &'static str,
    next_at: Option<Timestamp>,
    settled_at: Option<Timestamp>,
    attempts: u32,
    status: Option<u16>,
    error: Option<&'a str>,
}

impl<'a> Message<'a> {
    pub(super) fn of(record: &'a fleet::DeliveryRecord) -> Self {
        let (state, next_at, settled_at) = match record.state {
            DeliveryState::Due(at) => ("due", Some(at), None),
            DeliveryState::Waiting => ("waiting", None, None),
            DeliveryState::Done(at) => ("done", None, Some(at)),
            DeliveryState::Dead(at) => ("dead", None, Some(at)),
        };
        Self {
            id: i64::from(record.id),
            event: record.delivery.event,
            alert: &record.delivery.alert,
            r#type: &record.delivery.kind,
            at: record.delivery.at,
            state,
            next_at,
            settled_at,
            attempts: record.attempts,
            status: record.status,
            error: record.error.as_deref(),
        }
    }
}

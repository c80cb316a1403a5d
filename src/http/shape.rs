//! The JSON of the API.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::jobs::{Cursor, Ended, Entry, JobState, ListedJob, MainExit, Run, Source};

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

fn signal_name(number: i32) -> String {
    let known = SIGNALS.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// Where a run's log begins, for a caller who follows it with `/tail?cursor=`; `None` while it is queued.
pub(super) fn beginning(run: &Run) -> Option<String> {
    Some(Cursor { invocation: run.invocation?, after: None }.encode(&run.job))
}

/// The parts of a verdict that are the same wherever it is told.
fn verdict(ended: Option<&Ended>) -> [(&'static str, Value); 4] {
    let exit = ended.and_then(|ended| ended.exit);
    let code = match exit {
        Some(MainExit::Code(code)) => json!(code),
        _ => Value::Null,
    };
    let signal = match exit {
        Some(MainExit::Signal(number)) => json!(signal_name(number)),
        _ => Value::Null,
    };
    [
        ("result", json!(ended.map(|ended| ended.result.as_str()))),
        ("exit_code", code),
        ("signal", signal),
        ("finished_at", json!(ended.and_then(|ended| ended.at).map(time))),
    ]
}

/// RFC 3339 in UTC, with microseconds where there are any.
fn time(at: Timestamp) -> String {
    at.to_string()
}

/// A run.
pub(super) fn run(run: &Run) -> Value {
    let mut value = json!({
        "id": run.id.to_string(),
        "job": run.job.name().as_str(),
        "state": run.phase_word(),
        "started_at": run.started.map(time),
        "invocation_id": run.invocation.map(|id| id.to_string()),
    });
    for (member, part) in verdict(run.ended()) {
        value[member] = part;
    }
    value
}

/// The state of a job.
pub(super) fn state(job: &str, state: &JobState) -> Value {
    let run = state.run.as_deref();
    let mut value = json!({
        "job": job,
        "state": state.unit.active.as_str(),
        "sub_state": state.unit.sub,
        "started_at": run.and_then(|run| run.started).map(time),
        "run": run.map(|run| run.id.to_string()),
        "run_state": run.map(Run::phase_word),
        "invocation_id": run.and_then(|run| run.invocation).map(|id| id.to_string()),
        "cursor": run.and_then(beginning),
    });
    for (member, part) in verdict(run.and_then(Run::ended)) {
        value[member] = part;
    }
    value
}

/// A job in the list.
pub(super) fn listed(job: &ListedJob) -> Value {
    let template = job.name.is_template();
    let state = job.state.as_ref().map_or("inactive", |state| state.active.as_str());
    json!({
        "job": job.name.as_str(),
        "description": job.description,
        "template": template,
        "state": if template { Value::Null } else { json!(state) },
    })
}

/// An entry of a log.
///
/// `message` has U+FFFD where the bytes are no UTF-8; then `message_base64` has the bytes as they were.
pub(super) fn entry(entry: &Entry, cursor: &str) -> Value {
    let at = i64::try_from(entry.realtime_usec()).ok().and_then(|usec| Timestamp::from_microsecond(usec).ok());
    let mut value = json!({
        "cursor": cursor,
        "time": at.map(time),
        "priority": entry.priority,
        "source": source(entry.source),
    });
    value["message"] = json!(String::from_utf8_lossy(&entry.message));
    if std::str::from_utf8(&entry.message).is_err() {
        value["message_base64"] = json!(BASE64_STANDARD.encode(&entry.message));
    }
    value
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Job => "job",
        Source::Systemd => "systemd",
        Source::Other => "system",
    }
}

//! `GET /api/job/{job}/tail` and `/logs`: the lines of a run as JSON, text or NDJSON.
//!
//! A log is never in memory as a whole: it is read and formatted a piece at a time, while the client takes the piece
//! before. A thread is only used while there is something to read.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};

use super::authenticate::Reader;
use super::jobs::{CURSOR, PathJob, RUN_ID};
use super::params::Params;
use super::problem::Problem;
use super::{AppState, shape};
use crate::jobs::{Cursor, Entry, Part, Run, RunLog};
use crate::policy::AllowedJob;

const STATE: HeaderName = HeaderName::from_static("x-ci-state");
const RUN_STATE: HeaderName = HeaderName::from_static("x-ci-run-state");
const RESULT: HeaderName = HeaderName::from_static("x-ci-result");
const COMPLETE: HeaderName = HeaderName::from_static("x-ci-complete");
const MORE: HeaderName = HeaderName::from_static("x-ci-more");

/// Lines of a tail if the caller does not say.
const TAIL_LINES: usize = 100;
/// The most lines of one page, which is in memory as a whole.
const PAGE_LINES: usize = 10_000;
/// About the most bytes of one page: lines may be long.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// The most lines that may be asked for of a log.
const LOG_LINES: usize = 100_000_000;
/// About as much of a log is formatted before it is sent.
const PIECE: usize = 64 * 1024;

/// The format of an answer with lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Text,
    Ndjson,
}

impl Format {
    const WORDS: [(&'static str, Self); 3] = [("json", Self::Json), ("text", Self::Text), ("ndjson", Self::Ndjson)];

    /// `?format=`, or else the first type in `Accept` that is one of ours, or else JSON.
    fn choose(params: &Params, headers: &HeaderMap) -> Result<Self, Problem> {
        if let Some(format) = params.choice("format", &Self::WORDS)? {
            return Ok(format);
        }
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut types = accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim());
        Ok(types.find_map(Self::from_media_type).unwrap_or(Self::Json))
    }

    fn from_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json" => Some(Self::Json),
            "text/plain" => Some(Self::Text),
            "application/x-ndjson" => Some(Self::Ndjson),
            _ => None,
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json",
            Self::Text => "text/plain; charset=utf-8",
            Self::Ndjson => "application/x-ndjson",
        })
    }
}

/// Writes entries in a format.
struct Writer {
    job: AllowedJob,
    run: Option<std::sync::Arc<Run>>,
    format: Format,
    raw: bool,
    first: bool,
    buffer: Vec<u8>,
}

impl Writer {
    fn new(job: AllowedJob, log: &RunLog, format: Format, raw: bool) -> Self {
        let mut writer = Self { job, run: log.run.clone(), format, raw, first: true, buffer: Vec::new() };
        if format == Format::Json {
            writer.buffer.extend(b"{\"logs\":[");
        }
        writer
    }

    /// The cursor after `entry`, or of the beginning.
    fn cursor(&self, entry: Option<&Entry>) -> Option<String> {
        let invocation = self.run.as_ref()?.invocation?;
        Some(Cursor { invocation, after: entry.map(|entry| entry.position) }.encode(&self.job))
    }

    fn write(&mut self, entry: &Entry) {
        if self.format == Format::Text {
            if self.raw {
                self.buffer.extend(entry.message.iter());
            } else {
                self.buffer.extend(crate::jobs::neutralise(&entry.message).as_bytes());
            }
            self.buffer.push(b'\n');
            return;
        }
        let cursor = self.cursor(Some(entry)).unwrap_or_default();
        let separator: &[u8] = if self.format == Format::Json && !self.first { b"," } else { b"" };
        self.first = false;
        self.buffer.extend(separator);
        self.value(&shape::Line::of(entry, &cursor));
        if self.format == Format::Ndjson {
            self.buffer.push(b'\n');
        }
    }

    fn value(&mut self, value: &impl Serialize) {
        // Neither writing into memory nor these shapes can fail.
        let _ = serde_json::to_writer(&mut self.buffer, value);
    }

    /// What stands behind the entries.
    fn end(&mut self, verdict: &Value) {
        match self.format {
            Format::Json => {
                self.buffer.extend(b"],");
                let members = verdict.to_string();
                self.buffer.extend(members.trim_start_matches('{').as_bytes());
                self.buffer.push(b'\n');
            }
            Format::Ndjson => {
                self.value(&json!({ "end": verdict }));
                self.buffer.push(b'\n');
            }
            Format::Text => {}
        }
    }
}

/// What an answer says besides the lines.
fn verdict(log: &RunLog) -> Value {
    let run = log.run.as_deref();
    json!({
        "run": run.map(|run| run.id.to_string()),
        "state": log.unit.active.as_str(),
        "run_state": run.map(Run::phase_word),
        "result": run.and_then(Run::ended).map(|ended| ended.result.as_str()),
        "complete": log.is_complete(),
        "gap": log.has_gap(),
    })
}

fn headers(format: Format, members: &Value) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, format.content_type());
    for (name, member) in
        [(RUN_ID, "run"), (STATE, "state"), (RUN_STATE, "run_state"), (RESULT, "result"), (COMPLETE, "complete")]
    {
        let text = match &members[member] {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
    headers
}

fn answer(headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    response
}

/// `GET /api/job/{job}/tail`
pub(super) async fn show_tail(
    Reader(caller): Reader,
    State(state): State<AppState>,
    path: PathJob,
    uri: Uri,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, &["instance", "run", "lines", "cursor", "priority", "format", "raw"])?;
    let format = Format::choose(&params, &request)?;
    let raw = params.flag("raw")?;
    let lines = params.number("lines", 1..=PAGE_LINES)?;
    let filter = params.filter()?;
    let run = params.run()?;
    let job = path.admit(&params, &caller, &state)?;
    let cursor = params.text("cursor").map(|text| Cursor::decode(&job, text)).transpose()?;
    let (part, most) = match &cursor {
        Some(cursor) => (Part::After(cursor.clone()), lines.unwrap_or(PAGE_LINES)),
        None => (Part::Last(lines.unwrap_or(TAIL_LINES)), usize::MAX),
    };
    let log = state.jobs.log(&job, run, part, filter).await?;
    let page = tokio::task::spawn_blocking(move || page(log, &job, format, raw, most, cursor)).await;
    Ok(page.map_err(crate::jobs::Error::Internal)?)
}

/// Reads and formats one page, at the most `most` lines of it.
fn page(mut log: RunLog, job: &AllowedJob, format: Format, raw: bool, most: usize, after: Option<Cursor>) -> Response {
    let mut writer = Writer::new(job.clone(), &log, format, raw);
    let mut last = None;
    let mut more = false;
    for (count, entry) in log.by_ref().enumerate() {
        if count == most || writer.buffer.len() > PAGE_BYTES {
            more = true;
            break;
        }
        writer.write(&entry);
        last = Some(entry);
    }
    let cursor = match (&last, after) {
        (None, Some(after)) => Some(after.encode(job)),
        (last, _) => writer.cursor(last.as_ref()),
    };
    let mut members = verdict(&log);
    // A page that has more behind it is not the whole log.
    members["complete"] = json!(log.is_complete() && !more);
    members["cursor"] = json!(cursor);
    members["more"] = json!(more);
    writer.end(&members);
    let mut headers = headers(format, &members);
    headers.insert(MORE, HeaderValue::from_static(if more { "true" } else { "false" }));
    if let Some(cursor) = cursor.and_then(|cursor| HeaderValue::from_str(&cursor).ok()) {
        headers.insert(CURSOR, cursor);
    }
    answer(headers, Body::from(writer.buffer))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    OldestFirst,
    NewestFirst,
}

/// `GET /api/job/{job}/logs`
pub(super) async fn show_logs(
    Reader(caller): Reader,
    State(state): State<AppState>,
    path: PathJob,
    uri: Uri,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let params =
        Params::of(&uri, &["instance", "run", "lines", "order", "priority", "since", "until", "format", "raw"])?;
    let format = Format::choose(&params, &request)?;
    let raw = params.flag("raw")?;
    let lines = params.number("lines", 1..=LOG_LINES)?;
    let order = params.choice("order", &[("asc", Order::OldestFirst), ("desc", Order::NewestFirst)])?;
    let filter = params.filter()?;
    let run = params.run()?;
    let job = path.admit(&params, &caller, &state)?;
    let part = match (order.unwrap_or(Order::OldestFirst), lines) {
        (Order::OldestFirst, None) => Part::Whole,
        (Order::OldestFirst, Some(lines)) => Part::Last(lines),
        (Order::NewestFirst, _) => Part::NewestFirst,
    };
    let newest_first = part == Part::NewestFirst;
    let log = state.jobs.log(&job, run, part, filter).await?;
    let headers = headers(format, &verdict(&log));
    let writer = Writer::new(job, &log, format, raw);
    let left = if newest_first { lines.unwrap_or(usize::MAX) } else { usize::MAX };
    Ok(answer(headers, Body::from_stream(pieces(log, writer, left))))
}

/// The log in pieces, each formatted when the client is ready for it.
fn pieces(
    log: RunLog,
    writer: Writer,
    left: usize,
) -> impl futures_util::Stream<Item = Result<Bytes, crate::jobs::Error>> {
    futures_util::stream::try_unfold(Some((log, writer, left)), |reading| async {
        let Some((log, writer, left)) = reading else { return Ok(None) };
        let piece = tokio::task::spawn_blocking(move || piece(log, writer, left)).await?;
        Ok(Some(piece))
    })
}

type Reading = Option<(RunLog, Writer, usize)>;

fn piece(mut log: RunLog, mut writer: Writer, mut left: usize) -> (Bytes, Reading) {
    while writer.buffer.len() < PIECE {
        let entry = if left == 0 { None } else { log.next() };
        let Some(entry) = entry else {
            writer.end(&verdict(&log));
            return (Bytes::from(writer.buffer), None);
        };
        writer.write(&entry);
        left -= 1;
    }
    let bytes = Bytes::from(std::mem::take(&mut writer.buffer));
    (bytes, Some((log, writer, left)))
}

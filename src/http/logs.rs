//! The lines of a run, as they are or as they come: `/tail` and `/logs` of a job or of a run.
//!
//! A log is never in memory as a whole: it is read and formatted a piece at a time, one piece ahead of what the client
//! takes. A thread is only used while there is something to read.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::Response;
use futures_util::stream::{Stream, try_unfold};
use serde_json::{Value, json};
use tokio::task::{JoinError, spawn_blocking};

use super::authenticate::Reader;
use super::format::{Format, Writer};
use super::jobs::{CURSOR, PathJob, RUN_ID};
use super::params::Params;
use super::problem::Problem;
use super::{AppState, shape};
use crate::auth::Caller;
use crate::jobs::{Beginning, Cursor, Filter, NotACursor, Part, Position, RunId, RunLog};
use crate::policy::AllowedJob;

const STATE: HeaderName = HeaderName::from_static("x-ci-state");
const RUN_STATE: HeaderName = HeaderName::from_static("x-ci-run-state");
const RESULT: HeaderName = HeaderName::from_static("x-ci-result");
const COMPLETE: HeaderName = HeaderName::from_static("x-ci-complete");
const MORE: HeaderName = HeaderName::from_static("x-ci-more");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Has nginx pass on each piece at once.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

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

/// Whose lines are asked for.
pub(super) struct Target {
    pub(super) job: AllowedJob,
    /// The newest if it is none.
    pub(super) run: Option<RunId>,
}

/// What is asked for, whatever the path.
struct Asked {
    writer: Writer,
    run: Option<RunId>,
    after: Option<Cursor>,
}

impl Asked {
    fn of(params: &Params, headers: &HeaderMap, Target { job, run }: Target, follow: bool) -> Result<Self, Problem> {
        let format = Format::choose(params, headers, follow)?;
        let raw = params.flag("raw")?;
        let cursor = last_event_id(headers)?.or(params.text("cursor"));
        let after = cursor.map(|text| Cursor::decode(&job, text)).transpose()?;
        Ok(Self { writer: Writer::new(format, raw, job), run, after })
    }
}

/// Where a source of events that has lost its connection goes on.
///
/// Source: the WHATWG HTML standard, section 9.2, "Server-sent events".
fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, NotACursor> {
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(id), None) => id.to_str().map(Some).map_err(|_| NotACursor),
        (Some(_), Some(_)) => Err(NotACursor),
    }
}

/// The headers of an answer that is told piece by piece.
fn flowing(format: Format) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, format.content_type());
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
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
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, &["instance", "run", "lines", "cursor", "follow", "priority", "format", "raw"])?;
    let run = params.run()?;
    let job = path.admit(&params, &caller, &state)?;
    tail(state, caller, &params, &headers, Target { job, run }).await
}

/// The newest lines, or those that come.
pub(super) async fn tail(
    state: AppState,
    caller: Arc<Caller>,
    params: &Params,
    headers: &HeaderMap,
    target: Target,
) -> Result<Response, Problem> {
    let follow = params.flag("follow")?;
    let lines = params.number("lines", 1..=PAGE_LINES)?;
    let filter = params.filter()?;
    let Asked { writer, run, after } = Asked::of(params, headers, target, follow)?;
    if follow {
        let beginning = after.map_or(Beginning::Last(lines.unwrap_or(TAIL_LINES)), Beginning::After);
        let place = state.streams.place()?;
        let follower = state.jobs.follow(writer.job(), run, beginning, filter).await?;
        let mut headers = flowing(writer.format);
        if let Some(id) = follower.run().and_then(|run| HeaderValue::from_str(&run.id.to_string()).ok()) {
            headers.insert(RUN_ID, id);
        }
        return Ok(answer(headers, state.streams.body(follower, writer, filter, caller, place)));
    }
    let (part, most) = match after {
        Some(cursor) => (Part::After(cursor), lines.unwrap_or(PAGE_LINES)),
        None => (Part::Last(lines.unwrap_or(TAIL_LINES)), usize::MAX),
    };
    let log = Log::read(&state, writer, run, part, filter, most).await?;
    Ok(spawn_blocking(|| log.page()).await.map_err(crate::jobs::Error::Internal)?)
}

/// `GET /api/job/{job}/logs`
pub(super) async fn show_logs(
    Reader(caller): Reader,
    State(state): State<AppState>,
    path: PathJob,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let params =
        Params::of(&uri, &["instance", "run", "lines", "order", "priority", "since", "until", "format", "raw"])?;
    let run = params.run()?;
    let job = path.admit(&params, &caller, &state)?;
    whole(&state, &params, &headers, Target { job, run }).await
}

/// The whole log, or its last lines.
pub(super) async fn whole(
    state: &AppState,
    params: &Params,
    headers: &HeaderMap,
    target: Target,
) -> Result<Response, Problem> {
    let lines = params.number("lines", 1..=LOG_LINES)?;
    let newest_first = params.choice("order", &[("asc", false), ("desc", true)])?.unwrap_or(false);
    let filter = params.filter()?;
    let Asked { writer, run, after } = Asked::of(params, headers, target, false)?;
    let (part, most) = match (after, lines) {
        (Some(cursor), _) => (Part::After(cursor), usize::MAX),
        (None, lines) if newest_first => (Part::NewestFirst, lines.unwrap_or(usize::MAX)),
        (None, None) => (Part::Whole, usize::MAX),
        (None, Some(lines)) => (Part::Last(lines), usize::MAX),
    };
    let log = Log::read(state, writer, run, part, filter, most).await?;
    Ok(answer(log.headers(&log.verdict()), Body::from_stream(log.pieces())))
}

/// A log that is being written.
struct Log {
    lines: RunLog,
    /// How many lines may still be written.
    left: usize,
    newest_first: bool,
    newest: Option<Position>,
    writer: Writer,
    out: Vec<u8>,
}

impl Log {
    async fn read(
        state: &AppState,
        writer: Writer,
        run: Option<RunId>,
        part: Part,
        filter: Filter,
        left: usize,
    ) -> Result<Self, crate::jobs::Error> {
        let newest_first = part == Part::NewestFirst;
        let newest = if let Part::After(cursor) = &part { cursor.after } else { None };
        let lines = state.jobs.log(writer.job(), run, part, filter).await?;
        let mut out = Vec::new();
        writer.begin(&mut out);
        Ok(Self { lines, left, newest_first, newest, writer, out })
    }

    /// Writes lines until there are at least so many bytes; false if nothing is left to be written.
    fn write(&mut self, bytes: usize) -> bool {
        // There is no line without a run.
        let Some(invocation) = self.lines.run.as_ref().and_then(|run| run.invocation) else { return false };
        while self.out.len() < bytes {
            let Some(entry) = (self.left > 0).then(|| self.lines.next()).flatten() else { return false };
            self.left -= 1;
            self.writer.line(&mut self.out, invocation, &entry);
            if !self.newest_first || self.newest.is_none() {
                self.newest = Some(entry.position);
            }
        }
        true
    }

    /// The place behind the newest line that has been written, or the beginning.
    fn cursor(&self) -> Option<String> {
        let invocation = self.lines.run.as_ref()?.invocation?;
        Some(Cursor { invocation, after: self.newest }.encode(self.writer.job()))
    }

    fn verdict(&self) -> Value {
        let log = &self.lines;
        shape::verdict(&log.unit, log.run.as_deref(), log.is_complete(), log.has_gap())
    }

    fn headers(&self, verdict: &Value) -> HeaderMap {
        let format = self.writer.format;
        let mut headers = if format == Format::Events { flowing(format) } else { HeaderMap::new() };
        headers.insert(CONTENT_TYPE, format.content_type());
        for (name, member) in
            [(RUN_ID, "run"), (STATE, "state"), (RUN_STATE, "run_state"), (RESULT, "result"), (COMPLETE, "complete")]
        {
            let text = match &verdict[member] {
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

    /// As much of it as fits into one page.
    fn page(mut self) -> Response {
        self.write(PAGE_BYTES);
        let more = self.lines.next().is_some();
        let cursor = self.cursor();
        let mut verdict = self.verdict();
        // A page that has more behind it is not the whole log.
        verdict["complete"] = json!(self.lines.is_complete() && !more);
        verdict["cursor"] = json!(cursor);
        verdict["more"] = json!(more);
        let mut headers = self.headers(&verdict);
        headers.insert(MORE, HeaderValue::from_static(if more { "true" } else { "false" }));
        if let Some(cursor) = cursor.as_ref().and_then(|cursor| HeaderValue::from_str(cursor).ok()) {
            headers.insert(CURSOR, cursor);
        }
        self.writer.end(&mut self.out, &verdict, cursor.as_deref());
        answer(headers, Body::from(self.out))
    }

    /// All of it in pieces. The next one is made while the client takes the one before.
    fn pieces(self) -> impl Stream<Item = Result<Bytes, JoinError>> {
        let piece = |log: Self| spawn_blocking(|| log.piece());
        try_unfold(Some(piece(self)), move |ahead| async move {
            let Some(ahead) = ahead else { return Ok(None) };
            let (bytes, rest) = ahead.await?;
            Ok(Some((bytes, rest.map(piece))))
        })
    }

    fn piece(mut self) -> (Bytes, Option<Self>) {
        if self.write(PIECE) {
            return (std::mem::take(&mut self.out).into(), Some(self));
        }
        let (verdict, cursor) = (self.verdict(), self.cursor());
        self.writer.end(&mut self.out, &verdict, cursor.as_deref());
        (self.out.into(), None)
    }
}

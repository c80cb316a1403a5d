//! `GET /metrics`: what Prometheus may want to know.
//!
//! Written directly: nearly all of it is read when somebody asks, so that there is nothing to register, and what is gone
//! is not told. A large answer is written while it is sent.

mod fleet;
mod text;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use tokio::sync::{Mutex, Semaphore};

use self::fleet::{FAMILIES, Line, WINDOWS};
use self::text::{Family, labels};
use super::AppState;
use super::authenticate::Reader;
use super::params::Params;
use super::problem::Problem;
use crate::auth::Caller;
use crate::telemetry::Chain;

/// Answers that are sent at once: each holds what is known of all runners, some 10 MB of 10,000.
const AT_ONCE: usize = 4;
/// Runners of which one metric is written in one piece.
const PIECE: usize = 1000;

/// As many answers are being sent as may.
pub(super) struct TooManyScrapes;

/// What metrics need.
#[derive(Clone)]
pub(super) struct Metrics {
    places: Arc<Semaphore>,
    /// Who has it reads all runners: one at a time, so that the history stays free for others.
    reading: Arc<Mutex<()>>,
    exporter_names: bool,
    requests: Arc<Requests>,
}

impl Metrics {
    pub(super) fn new(exporter_names: bool, requests: Arc<Requests>) -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), reading: Arc::default(), exporter_names, requests }
    }
}

/// How many requests were answered, by their route and the class of the status, 1 to 5.
#[derive(Default)]
pub(super) struct Requests(std::sync::Mutex<BTreeMap<String, [u64; 6]>>);

impl Requests {
    /// Counts an answer. `route` is the pattern of a path; there are only so many.
    pub(super) fn count(&self, route: &str, status: StatusCode) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !counts.contains_key(route) {
            counts.insert(route.to_owned(), [0; 6]);
        }
        let class = usize::from(status.as_u16() / 100);
        if let Some(count) = counts.get_mut(route).and_then(|counts| counts.get_mut(class)) {
            *count += 1;
        }
    }
}

const BUILD: Family = Family::gauge("ci_bridge_build_info", "The version of ci-bridge.");
const HISTORY: Family = Family::gauge("ci_bridge_history_up", "Whether its history can be read.");
const FOLLOWERS: Family = Family::gauge("ci_bridge_followers", "Logs that are being followed.");
const HTTP: Family = Family::counter("ci_bridge_http_requests_total", "Answered requests since ci-bridge was started.");
const RUNS: Family =
    Family::counter("ci_job_runs_total", "Runs that have ended since ci-bridge was started, by their result.");
const RUNNING: Family = Family::gauge("ci_job_running", "Runs that are under way.");
const QUEUED: Family = Family::gauge("ci_job_queued", "Runs that wait for their job, or for systemd.");
const DELIVERIES: Family = Family::counter(
    "ci_webhook_deliveries_total",
    "Attempts to send a message of an alert since ci-bridge was started.",
);
const PENDING: Family = Family::gauge("ci_webhook_outbox_pending", "Messages of alerts that are still to be sent.");

/// `GET /metrics`
pub(super) async fn show_metrics(
    Reader(caller): Reader,
    State(state): State<AppState>,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let place = state.metrics.places.clone().try_acquire_owned().map_err(|_| TooManyScrapes)?;
    let mut head = String::new();
    write_own(&state, &caller, &mut head);
    let now = Timestamp::now();
    let windows = WINDOWS.map(|(_, window)| now.checked_sub(window).unwrap_or(Timestamp::MIN));
    let read = async {
        let _turn = state.metrics.reading.lock().await;
        let (sources, pending) = (state.runners.sources().await?, state.runners.pending().await?);
        Ok::<_, crate::fleet::AskError>((sources, pending, state.runners.samples(&windows, now).await?))
    };
    let samples = match read.await {
        Ok((sources, pending, samples)) => {
            HISTORY.single(&mut head, 1);
            PENDING.single(&mut head, pending);
            fleet::write_sources(&sources, &mut head);
            samples
        }
        Err(error) => {
            log::warn!("the metrics lack all runners: {}", Chain(&error));
            HISTORY.single(&mut head, 0);
            Vec::new()
        }
    };
    let exporter_names = state.metrics.exporter_names;
    let lines = tokio::task::spawn_blocking(move || {
        let lines: Vec<_> = samples.iter().map(|sample| Line::of(sample, exporter_names)).collect();
        let mut aliases = String::new();
        fleet::write_aliases(&lines, &mut aliases);
        (Arc::new(lines), aliases)
    });
    let (lines, aliases) = lines.await.map_err(crate::jobs::Error::from)?;
    let pieces = pieces(head, lines, aliases).map(move |piece| {
        // Free again when all has been taken.
        let _place = &place;
        Ok::<_, Infallible>(Bytes::from(piece))
    });
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    Ok(([(CONTENT_TYPE, text::CONTENT_TYPE)], body).into_response())
}

/// The text in pieces, each written when it is asked for.
fn pieces(head: String, lines: Arc<Vec<Line>>, tail: String) -> impl Iterator<Item = String> + Send {
    let last = lines.len().div_ceil(PIECE).max(1);
    let each = FAMILIES.into_iter().flat_map(move |family| (0..last).map(move |part| (family, part)));
    let runners = each.map(move |(family, part)| {
        let mut out = String::new();
        let lines = lines.chunks(PIECE).nth(part).unwrap_or_default();
        family(lines, &mut out, part == 0);
        out
    });
    std::iter::once(head).chain(runners).chain([tail]).filter(|piece| !piece.is_empty())
}

/// Writes what concerns the bridge itself, and the jobs that the caller may see.
fn write_own(state: &AppState, caller: &Caller, out: &mut String) {
    BUILD.begin(out);
    BUILD.series(out, &labels(&[("version", env!("CARGO_PKG_VERSION"))]), 1);
    FOLLOWERS.single(out, state.streams.followed());
    HTTP.begin(out);
    let requests = state.metrics.requests.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (route, counts) in requests {
        for (class, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            HTTP.series(out, &labels(&[("route", &route), ("status", &format!("{class}xx"))]), count);
        }
    }
    let tally = state.jobs.tally();
    let seen: Vec<_> = tally.iter().filter(|(job, _)| caller.may_see(job)).collect();
    RUNS.begin(out);
    for (job, tally) in &seen {
        for (result, count) in &tally.ended {
            RUNS.series(out, &labels(&[("job", job.as_str()), ("result", result)]), count);
        }
    }
    RUNNING.begin(out);
    for (job, tally) in &seen {
        RUNNING.series(out, &labels(&[("job", job.as_str())]), tally.running);
    }
    QUEUED.begin(out);
    for (job, tally) in &seen {
        QUEUED.series(out, &labels(&[("job", job.as_str())]), tally.queued);
    }
    DELIVERIES.begin(out);
    let sent = state.runners.sent();
    for (result, count) in [("taken", sent.taken), ("failed", sent.failed), ("dead", sent.dead)] {
        DELIVERIES.series(out, &labels(&[("result", result)]), count);
    }
}

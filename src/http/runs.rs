//! The handlers of `/api/runs/{run}` and of the history of a job.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::authenticate::{Reader, Writer};
use super::jobs::{PathJob, WAIT_SECONDS, stop_answer, with_run};
use super::logs::{self, Target};
use super::params::Params;
use super::problem::Problem;
use super::{AppState, shape};
use crate::auth::Caller;
use crate::jobs::{Error, Run, RunId, RunResult};

/// Runs of one page if the caller does not say.
const PAGE: u32 = 50;
/// The most runs of one page; one more is read, to tell whether there are more.
const PAGE_MOST: u32 = 500;

/// A run did not succeed, and the caller wants that to be an error.
pub(super) struct RunFailed(pub(super) Arc<Run>);

/// The id in the path; what is no id is the id of no run.
pub(super) struct PathRun(Option<RunId>);

impl<S: Send + Sync> FromRequestParts<S> for PathRun {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        Ok(Self(path.ok().and_then(|Path(id)| id.parse().ok())))
    }
}

impl PathRun {
    /// The run, if there is one and this caller may see its job.
    async fn find(&self, caller: &Caller, state: &AppState) -> Result<Arc<Run>, Problem> {
        let run = state.jobs.run(self.0.ok_or(Error::NoSuchRun)?).await?;
        if caller.may_see(run.job.name()) { Ok(run) } else { Err(Error::NoSuchRun.into()) }
    }
}

/// `GET /api/job/{job}/runs`
pub(super) async fn list_runs(
    Reader(caller): Reader,
    State(state): State<AppState>,
    path: PathJob,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    let params = Params::of(&uri, &["instance", "before", "limit"])?;
    let limit = params.number("limit", 1..=PAGE_MOST)?.unwrap_or(PAGE);
    let before = params.run_id("before")?;
    let job = path.admit(&params, &caller, &state)?;
    let mut runs = state.jobs.runs(&job, before, limit + 1).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = runs.len() > most;
    runs.truncate(most);
    let before = runs.last().filter(|_| more).map(|run| run.id);
    let runs: Vec<_> = runs.iter().map(|run| shape::Run::of(run)).collect();
    Ok(Json(json!({ "job": job.name().as_str(), "runs": runs, "more": more, "before": before })))
}

/// `GET /api/runs/{run}`
pub(super) async fn show_run(
    Reader(caller): Reader,
    State(state): State<AppState>,
    path: PathRun,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let run = path.find(&caller, &state).await?;
    Ok(with_run(&run, Json(json!(shape::Run::of(&run))).into_response()))
}

/// `GET /api/runs/{run}/result`
pub(super) async fn show_result(
    Reader(caller): Reader,
    State(state): State<AppState>,
    path: PathRun,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, &["wait", "fail"])?;
    let wait = params.number("wait", 0..=WAIT_SECONDS)?.map(Duration::from_secs).unwrap_or_default();
    let fail = params.flag("fail")?;
    let found = path.find(&caller, &state).await?;
    let run = tokio::select! {
        run = state.jobs.result(&found.job, found.id, wait) => run,
        // Whoever waits can go on with the next bridge.
        () = state.stop.cancelled() => state.jobs.result(&found.job, found.id, Duration::ZERO).await,
    }?;
    let status = match run.ended() {
        None => StatusCode::ACCEPTED,
        Some(ended) if fail && ended.result != RunResult::Success => return Err(RunFailed(run).into()),
        Some(_) => StatusCode::OK,
    };
    Ok(with_run(&run, (status, Json(json!(shape::Run::of(&run)))).into_response()))
}

/// `POST /api/runs/{run}/stop`
pub(super) async fn stop_run(
    Writer(caller): Writer,
    State(state): State<AppState>,
    path: PathRun,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let run = path.find(&caller, &state).await?;
    let stopped = state.jobs.stop_run(&run.job, run.id).await?;
    Ok(stop_answer(run.job.name(), Some(run.id), stopped))
}

/// `GET /api/runs/{run}/logs`
pub(super) async fn show_logs(
    Reader(caller): Reader,
    State(state): State<AppState>,
    path: PathRun,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, &["lines", "order", "priority", "since", "until", "format", "raw"])?;
    let run = path.find(&caller, &state).await?;
    let target = Target { job: run.job.clone(), run: Some(run.id) };
    logs::whole(&state, &params, &headers, target).await
}

/// `GET /api/runs/{run}/tail`
pub(super) async fn show_tail(
    Reader(caller): Reader,
    State(state): State<AppState>,
    path: PathRun,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, &["lines", "cursor", "follow", "priority", "format", "raw"])?;
    let run = path.find(&caller, &state).await?;
    let target = Target { job: run.job.clone(), run: Some(run.id) };
    logs::tail(state, caller, &params, &headers, target).await
}

//! The handlers of `/api/job/{job}` and `/api/jobs`.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::authenticate::{Reader, Writer};
use super::params::Params;
use super::problem::Problem;
use super::{AppState, shape};
use crate::auth::Caller;
use crate::jobs::{Cursor, IfBusy, Run};
use crate::policy::{AllowedJob, JobName, NameError, NotAllowed};
use crate::systemd::Stopped;

pub(super) const RUN_ID: HeaderName = HeaderName::from_static("x-ci-run-id");

/// The longest that a state is waited for, in seconds: proxies give up after sixty.
const WAIT_SECONDS: u64 = 55;

/// The name in the path, before anything is asked about it.
pub(super) struct PathJob(String);

impl<S: Send + Sync> FromRequestParts<S> for PathJob {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        // A name that is no UTF-8 is no name.
        path.map(|Path(name)| Self(name)).map_err(|_| NameError::Charset.into())
    }
}

impl PathJob {
    /// Admits the job, with `?instance=` if it is there: the rules of names first, then prefix and token, which answer
    /// alike.
    pub(super) fn admit(&self, params: &Params, caller: &Caller, state: &AppState) -> Result<AllowedJob, Problem> {
        let name = JobName::parse(&self.0)?;
        let name = match params.text("instance") {
            Some(value) => name.with_instance(value)?,
            None if name.is_template() => return Err(NameError::InstanceMissing.into()),
            None => name,
        };
        let job = state.policy.admit(&name)?;
        if caller.may_see(&name) { Ok(job) } else { Err(NotAllowed.into()) }
    }
}

/// `POST /api/job/{job}`
pub(super) async fn start_job(
    Writer(caller): Writer,
    State(state): State<AppState>,
    path: PathJob,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, &["instance", "if_busy"])?;
    let if_busy = params.choice("if_busy", &[("reject", IfBusy::Reject), ("join", IfBusy::Join)])?;
    let job = path.admit(&params, &caller, &state)?;
    let start = state.jobs.start(&job, if_busy.unwrap_or_default()).await?;
    let (status, message) =
        if start.joined { (StatusCode::OK, "Job is already active") } else { (StatusCode::ACCEPTED, "Job started") };
    log::info!(
        token = caller.name().as_str(), job = job.name().as_str(), run:display = start.run.id;
        "{} was started by {}", job.name(), caller.name()
    );
    Ok(with_run(&start.run, (status, Json(answer(message, &job, &start.run))).into_response()))
}

fn answer(message: &str, job: &AllowedJob, run: &Run) -> Value {
    // Where the run's log begins, for a caller who follows it with `/tail?cursor=`.
    let cursor = run.invocation.map(|invocation| Cursor { invocation, after: None }.encode(job));
    json!({ "msg": message, "job": job.name().as_str(), "run": shape::run(run), "cursor": cursor })
}

/// Names the run in the headers, for callers that read no JSON.
fn with_run(run: &Run, mut response: Response) -> Response {
    let id = run.id.to_string();
    let location = format!("/api/job/{}/state?run={id}", percent(run.job.name()));
    for (name, value) in [(RUN_ID, id), (LOCATION, location)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// A job's name in a path. A backslash, as escapes of an instance have it, is none of RFC 3986's characters; and the API
/// takes no escapes in the path, so an escaped instance goes back into `?instance=`.
fn percent(name: &JobName) -> String {
    name.as_str().replace('\\', "%5C")
}

/// `POST /api/job/{job}/stop`
pub(super) async fn stop_job(
    Writer(caller): Writer,
    State(state): State<AppState>,
    path: PathJob,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, &["instance"])?;
    let job = path.admit(&params, &caller, &state)?;
    let stopped = state.jobs.stop(&job).await?;
    let (status, message) = match stopped {
        Stopped::Stopped => (StatusCode::OK, "Job stopped"),
        Stopped::WasInactive => (StatusCode::OK, "Job was not active"),
        Stopped::Stopping => (StatusCode::ACCEPTED, "Job is stopping"),
    };
    log::info!(
        token = caller.name().as_str(), job = job.name().as_str();
        "{} was stopped by {}: {message}", job.name(), caller.name()
    );
    Ok((status, Json(json!({ "msg": message, "job": job.name().as_str() }))).into_response())
}

/// `GET /api/job/{job}/state`
pub(super) async fn show_state(
    Reader(caller): Reader,
    State(state): State<AppState>,
    path: PathJob,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    let params = Params::of(&uri, &["instance", "run", "wait"])?;
    let wait = params.number("wait", 0..=WAIT_SECONDS)?.map(Duration::from_secs);
    let run = params.run()?;
    let job = path.admit(&params, &caller, &state)?;
    let job_state = state.jobs.state(&job, run, wait).await?;
    Ok(Json(shape::state(job.name().as_str(), &job_state)))
}

/// `GET /api/jobs`
pub(super) async fn list_jobs(
    Reader(caller): Reader,
    State(state): State<AppState>,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    Params::of(&uri, &[])?;
    let jobs = state.jobs.list().await?;
    let visible: Vec<Value> = jobs.iter().filter(|job| caller.may_see(&job.name)).map(shape::listed).collect();
    Ok(Json(json!({ "jobs": visible })))
}

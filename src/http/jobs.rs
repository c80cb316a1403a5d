//! The handlers of `/api/job/{job}` and `/api/jobs`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::authenticate::{Reader, Writer};
use super::body::Inputs;
use super::edge::{Outcome, RequestId};
use super::params::Params;
use super::problem::Problem;
use super::{AppState, retry, shape};
use crate::auth::Caller;
use crate::jobs::{Attempt, How, IfBusy, Origin, Request, Run, RunId, Start};
use crate::policy::{AllowedJob, JobName, NameError, NotAllowed};
use crate::systemd::Stopped;

pub(super) const RUN_ID: HeaderName = HeaderName::from_static("x-ci-run-id");
pub(super) const CURSOR: HeaderName = HeaderName::from_static("x-ci-cursor");

/// The longest that a state is waited for, in seconds: proxies give up after sixty.
pub(super) const WAIT_SECONDS: u64 = 55;

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
    RequestId(request): RequestId,
    path: PathJob,
    uri: Uri,
    headers: HeaderMap,
    Inputs(given): Inputs,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, &["instance", "if_busy"])?;
    let if_busy = [("reject", IfBusy::Reject), ("join", IfBusy::Join), ("queue", IfBusy::Queue)];
    let if_busy = params.choice("if_busy", &if_busy)?.unwrap_or_default();
    let key = retry::key(&headers)?;
    let job = path.admit(&params, &caller, &state)?;
    let inputs = state.jobs.accept(&job, &given)?;
    let name = caller.name().clone();
    let given = Value::Object(inputs.to_json()).to_string();
    let payload = retry::payload(&["start", job.unit(), params.text("if_busy").unwrap_or_default(), &given]);
    let attempt = key.map(|key| Attempt { token: name.clone(), key, request });
    let asked =
        Request { if_busy, origin: Origin::Token { name, request }, must_be_recorded: attempt.is_some(), inputs };
    let start = async { Ok(answer(&state.jobs.start(&job, asked).await?)) };
    match attempt {
        None => start.await,
        Some(attempt) => {
            let began = |run: &Run| answer(&Start { run: Arc::new(run.clone()), how: How::Started });
            retry::once(&state.jobs, attempt, payload, start, began).await
        }
    }
}

fn answer(start: &Start) -> Response {
    let run = &*start.run;
    let (status, message, outcome) = match start.how {
        How::Started => (StatusCode::ACCEPTED, "Job started", "accepted"),
        How::Joined => (StatusCode::OK, "Job is already active", "joined"),
        How::Waits(_) => (StatusCode::ACCEPTED, "Job is queued", "queued"),
    };
    let job = run.job.name().as_str();
    let mut body = json!({ "msg": message, "job": job, "run": shape::Run::of(run), "cursor": shape::beginning(run) });
    if let How::Waits(before) = start.how {
        body["waiting_before"] = json!(before);
    }
    let mut response = with_run(run, (status, Json(body)).into_response());
    response.extensions_mut().insert(Outcome(outcome));
    response
}

/// Names the run in the headers, for callers that read no JSON.
pub(super) fn with_run(run: &Run, mut response: Response) -> Response {
    let id = run.id.to_string();
    let location = location(run.job.name(), &id);
    let cursor = shape::beginning(run).unwrap_or_default();
    for (name, value) in [(RUN_ID, id), (LOCATION, location), (CURSOR, cursor)] {
        if value.is_empty() {
            continue;
        }
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Where the state of a run is. The path takes no escapes, so an instance that has some goes back into `?instance=`.
fn location(job: &JobName, run: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let path = match (job.template(), job.escaped_value()) {
        (Some(template), Some(value)) => {
            query.append_pair("instance", &value);
            template
        }
        _ => job.clone(),
    };
    format!("/api/job/{path}/state?{}", query.append_pair("run", run).finish())
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
    let run = state.jobs.active(&job).map(|run| run.id);
    let stopped = state.jobs.stop(&job).await?;
    Ok(stop_answer(job.name(), run, stopped))
}

/// The answer to a stop, which names the run that was there to be stopped.
pub(super) fn stop_answer(job: &JobName, run: Option<RunId>, stopped: Stopped) -> Response {
    let status = if stopped == Stopped::Stopping { StatusCode::ACCEPTED } else { StatusCode::OK };
    let mut response = (status, Json(json!({ "msg": said(stopped), "job": job.as_str() }))).into_response();
    response.extensions_mut().insert(outcome(stopped));
    response.extensions_mut().insert(job.clone());
    if let Some(run) = run.filter(|_| stopped != Stopped::WasInactive)
        && let Ok(id) = HeaderValue::from_str(&run.to_string())
    {
        response.headers_mut().insert(RUN_ID, id);
    }
    response
}

/// What a stop came to, in words.
fn said(stopped: Stopped) -> &'static str {
    match stopped {
        Stopped::Stopped => "Job stopped",
        Stopped::WasInactive => "Job was not active",
        Stopped::Stopping => "Job is stopping",
    }
}

fn outcome(stopped: Stopped) -> Outcome {
    Outcome(match stopped {
        Stopped::Stopped => "stopped",
        Stopped::WasInactive => "inactive",
        Stopped::Stopping => "stopping",
    })
}

/// `GET /api/job/{job}/state`
pub(super) async fn show_state(
    Reader(caller): Reader,
    State(state): State<AppState>,
    path: PathJob,
    uri: Uri,
) -> Result<Response, Problem> {
    let params = Params::of(&uri, &["instance", "run", "wait"])?;
    let wait = params.number("wait", 0..=WAIT_SECONDS)?.map(Duration::from_secs);
    let run = params.run()?;
    let job = path.admit(&params, &caller, &state)?;
    let job_state = tokio::select! {
        job_state = state.jobs.state(&job, run, wait) => job_state,
        // Whoever waits can go on with the next bridge.
        () = state.stop.cancelled(), if wait.is_some() => state.jobs.state(&job, run, None).await,
    }?;
    Ok(Json(shape::Standing::of(job.name().as_str(), &job_state)).into_response())
}

/// `GET /api/jobs`
pub(super) async fn list_jobs(
    Reader(caller): Reader,
    State(state): State<AppState>,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    Params::of(&uri, &[])?;
    let jobs = state.jobs.list().await?;
    let visible: Vec<_> = jobs.iter().filter(|job| caller.may_see(&job.name)).map(shape::Listed::of).collect();
    Ok(Json(json!({ "jobs": visible })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_location_of_a_run_is_one_that_the_api_takes() {
        let plain = JobName::parse("ci-test-build@main").unwrap();
        assert_eq!(location(&plain, "1"), "/api/job/ci-test-build@main/state?run=1");
        let escaped = JobName::parse("ci-test-build@").unwrap().with_instance("feature/a-b").unwrap();
        assert_eq!(location(&escaped, "1"), "/api/job/ci-test-build@/state?instance=feature%2Fa-b&run=1");
    }
}

//! The handlers that ask GitLab about a runner, or change one there.
//!
//! What is sent and told has the names that GitLab gives it, so that those who know its interface know this one; only
//! `id` is the bridge's, and GitLab's number is `external_id`. A token of a runner is told once and in the answer alone.

mod shape;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use self::shape::{details, id_of, job, manager, with_token};
use super::AppState;
use super::authenticate::{Reader, RunnerWriter};
use super::body::Members;
use super::edge::{Detail, Outcome};
use super::params::{Params, refuse};
use super::problem::Problem;
use super::runners::{NoSuchRunner, PathRunner, shorten};
use crate::fleet::Turn;
use crate::runners::gitlab::manage::{AccessLevel, Change, JobStatus, NewRunner, Order, Owner};
use crate::runners::{Kind, RunnerId, SourceName};

/// Jobs that are listed if the caller does not say.
const JOBS: u32 = 50;
/// The most jobs that are listed.
const JOBS_MOST: u32 = 500;

const ACCESS_LEVELS: [(&str, AccessLevel); 2] =
    [("not_protected", AccessLevel::NotProtected), ("ref_protected", AccessLevel::RefProtected)];

const JOB_STATUSES: [(&str, JobStatus); 4] = [
    ("running", JobStatus::Running),
    ("success", JobStatus::Success),
    ("failed", JobStatus::Failed),
    ("canceled", JobStatus::Canceled),
];

/// There is no list of this name.
pub(super) struct NoSuchSource;

/// The name of a list in the path.
pub(super) struct PathSource(SourceName);

impl<S: Send + Sync> FromRequestParts<S> for PathSource {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        let name = path.ok().and_then(|Path(name)| name.parse().ok());
        name.map(Self).ok_or_else(|| NoSuchSource.into())
    }
}

/// A runner, and the right to ask its GitLab.
struct Asked<'a> {
    id: RunnerId,
    /// GitLab's own number of it.
    number: u64,
    source: SourceName,
    gitlab: Turn<'a>,
}

impl<'a> Asked<'a> {
    async fn about(path: &PathRunner, state: &'a AppState) -> Result<Self, Problem> {
        let record = path.find(state).await?;
        let gitlab = state.runners.turn(&record.source).await?;
        let number = record.known.seen.external_id.as_str().parse().map_err(|_| NoSuchRunner)?;
        Ok(Self { id: record.id, number, source: record.source, gitlab })
    }
}

/// `GET /api/runners/{runner}/details`
pub(super) async fn show_details(
    _: Reader,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    Params::of(&uri, &[])?;
    let mut asked = Asked::about(&path, &state).await?;
    let runner = asked.gitlab.runner(asked.number).await?;
    Ok(Json(details(&asked.source, &runner)))
}

/// `GET /api/runners/{runner}/managers`
pub(super) async fn list_managers(
    _: Reader,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    Params::of(&uri, &[])?;
    let mut asked = Asked::about(&path, &state).await?;
    let managers = asked.gitlab.managers(asked.number).await?;
    Ok(Json(json!({ "runner": asked.id, "managers": managers.iter().map(manager).collect::<Vec<_>>() })))
}

/// `GET /api/runners/{runner}/jobs`
pub(super) async fn list_jobs(
    _: Reader,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    let params = Params::of(&uri, &["status", "order", "limit"])?;
    let status = params.choice("status", &JOB_STATUSES)?;
    let order = params.choice("order", &[("desc", Order::NewestFirst), ("asc", Order::OldestFirst)])?;
    let limit = params.number("limit", 1..=JOBS_MOST)?.unwrap_or(JOBS);
    let most = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1);
    let mut asked = Asked::about(&path, &state).await?;
    let mut jobs = asked.gitlab.jobs(asked.number, status, order.unwrap_or_default(), most).await?;
    let more = shorten(&mut jobs, limit);
    Ok(Json(json!({ "runner": asked.id, "jobs": jobs.iter().map(job).collect::<Vec<_>>(), "more": more })))
}

/// `PATCH /api/runners/{runner}`
pub(super) async fn change_runner(
    _: RunnerWriter,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
    mut body: Members,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let change = Change {
        description: body.text("description")?,
        paused: body.flag("paused")?,
        tags: body.texts("tag_list")?,
        run_untagged: body.flag("run_untagged")?,
        locked: body.flag("locked")?,
        access_level: body.choice("access_level", &ACCESS_LEVELS)?,
        maximum_timeout: body.seconds("maximum_timeout")?,
        maintenance_note: body.text("maintenance_note")?,
    };
    body.end()?;
    update(&state, &path, &change, "changed").await
}

/// `POST /api/runners/{runner}/pause`
pub(super) async fn pause_runner(
    _: RunnerWriter,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    update(&state, &path, &Change { paused: Some(true), ..Change::default() }, "paused").await
}

/// `POST /api/runners/{runner}/resume`
pub(super) async fn resume_runner(
    _: RunnerWriter,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    update(&state, &path, &Change { paused: Some(false), ..Change::default() }, "resumed").await
}

async fn update(
    state: &AppState,
    path: &PathRunner,
    change: &Change,
    outcome: &'static str,
) -> Result<Response, Problem> {
    let mut asked = Asked::about(path, state).await?;
    let came = asked.gitlab.update(asked.number, change).await;
    let runner = asked.gitlab.end(came)?;
    Ok(answer(StatusCode::OK, outcome, details(&asked.source, &runner)))
}

/// `DELETE /api/runners/{runner}`
pub(super) async fn delete_runner(
    _: RunnerWriter,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let mut asked = Asked::about(&path, &state).await?;
    let came = asked.gitlab.delete(asked.number).await;
    asked.gitlab.end(came)?;
    Ok(answer(StatusCode::OK, "deleted", json!({ "msg": "Runner deleted", "id": asked.id })))
}

/// `POST /api/runners/{runner}/reset-token`
pub(super) async fn reset_token(
    _: RunnerWriter,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let mut asked = Asked::about(&path, &state).await?;
    let came = asked.gitlab.reset_token(asked.number).await;
    let token = asked.gitlab.end(came)?;
    Ok(answer(StatusCode::OK, "token_reset", with_token(&asked.source, asked.number, &token)))
}

/// `PUT /api/runners/{runner}/projects/{project}`
pub(super) async fn enable_runner(
    _: RunnerWriter,
    State(state): State<AppState>,
    loan: Loan,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let mut asked = Asked::about(&loan.runner, &state).await?;
    let came = asked.gitlab.enable(asked.number, &loan.project).await;
    asked.gitlab.end(came)?;
    Ok(loan.answer(asked.id, "enabled", "Runner enabled"))
}

/// `DELETE /api/runners/{runner}/projects/{project}`
pub(super) async fn disable_runner(
    _: RunnerWriter,
    State(state): State<AppState>,
    loan: Loan,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let mut asked = Asked::about(&loan.runner, &state).await?;
    let came = asked.gitlab.disable(asked.number, &loan.project).await;
    asked.gitlab.end(came)?;
    Ok(loan.answer(asked.id, "disabled", "Runner disabled"))
}

/// A runner and a project in the path.
pub(super) struct Loan {
    runner: PathRunner,
    project: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Loan {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<Path<(String, String)>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path((runner, project)) = path.map_err(|_| NoSuchRunner)?;
        // It becomes a part of a path at GitLab, where these two would lead somewhere else.
        let is_name = |part: &str| !part.is_empty() && part != "." && part != "..";
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "._-/".contains(char);
        if !project.split('/').all(is_name) || !project.chars().all(is_plain) {
            let detail = "a project is its number, or its path such as acme/site with %2F for each `/`";
            return Err(refuse(detail.to_owned()));
        }
        Ok(Self { runner: PathRunner::of(&runner), project })
    }
}

impl Loan {
    fn answer(&self, runner: RunnerId, outcome: &'static str, msg: &str) -> Response {
        let mut response =
            answer(StatusCode::OK, outcome, json!({ "msg": msg, "id": runner, "project": self.project }));
        response.extensions_mut().insert(Detail(format!("runner {runner}, project {}", self.project)));
        response
    }
}

/// `POST /api/sources/{source}/runners`
pub(super) async fn create_runner(
    _: RunnerWriter,
    State(state): State<AppState>,
    PathSource(source): PathSource,
    uri: Uri,
    mut body: Members,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let registration = body.secret("token")?;
    let owner = match &registration {
        None => owner(&mut body)?,
        // The token says whose runner it becomes.
        Some(_) => Owner::Instance,
    };
    let runner = NewRunner {
        owner,
        description: body.text("description")?.unwrap_or_default(),
        tags: body.texts("tag_list")?.unwrap_or_default(),
        // GitLab's own default.
        run_untagged: body.flag("run_untagged")?.unwrap_or(true),
        paused: body.flag("paused")?.unwrap_or(false),
        locked: body.flag("locked")?.unwrap_or(false),
        access_level: body.choice("access_level", &ACCESS_LEVELS)?,
        maximum_timeout: body.seconds("maximum_timeout")?,
        maintenance_note: body.text("maintenance_note")?,
    };
    body.end()?;
    let mut gitlab = state.runners.turn(&source).await?;
    let came = match &registration {
        None => gitlab.create(&runner).await,
        Some(token) => gitlab.register(token, &runner).await,
    };
    let created = gitlab.end(came)?;
    let mut response = answer(StatusCode::CREATED, "created", with_token(&source, created.id, &created.token));
    response.extensions_mut().insert(about(&source, created.id));
    Ok(response)
}

fn owner(body: &mut Members) -> Result<Owner, Problem> {
    let kinds = [("instance_type", Kind::Instance), ("group_type", Kind::Group), ("project_type", Kind::Project)];
    let kind = body.choice("runner_type", &kinds)?;
    match (kind, body.number("group_id")?, body.number("project_id")?) {
        (Some(Kind::Instance), None, None) => Ok(Owner::Instance),
        (Some(Kind::Group), Some(group), None) => Ok(Owner::Group(group)),
        (Some(Kind::Project), None, Some(project)) => Ok(Owner::Project(project)),
        _ => Err(Members::refuse(
            "whose runner? send `runner_type`: `instance_type`, `group_type` with a `group_id`, or `project_type` with a \
             `project_id`",
        )),
    }
}

/// `DELETE /api/sources/{source}/runners`
pub(super) async fn delete_by_token(
    _: RunnerWriter,
    State(state): State<AppState>,
    PathSource(source): PathSource,
    uri: Uri,
    mut body: Members,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let token = runner_token(&mut body)?;
    body.end()?;
    let mut gitlab = state.runners.turn(&source).await?;
    let came = gitlab.delete_by_token(&token).await;
    gitlab.end(came)?;
    let mut response = answer(StatusCode::OK, "deleted", json!({ "msg": "Runner deleted" }));
    response.extensions_mut().insert(Detail(format!("a runner of list {source}")));
    Ok(response)
}

/// `POST /api/sources/{source}/runners/verify`
///
/// The list is not polled for it: it changes no more than when GitLab heard of the runner.
pub(super) async fn verify_token(
    _: RunnerWriter,
    State(state): State<AppState>,
    PathSource(source): PathSource,
    uri: Uri,
    mut body: Members,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let token = runner_token(&mut body)?;
    let system_id = body.text("system_id")?;
    body.end()?;
    let verified = state.runners.turn(&source).await?.verify(&token, system_id.as_deref()).await?;
    let told = json!({
        "id": id_of(&source, verified.id),
        "external_id": verified.id.to_string(),
        "token_expires_at": verified.token.expires_at,
    });
    let mut response = answer(StatusCode::OK, "verified", told);
    response.extensions_mut().insert(about(&source, verified.id));
    Ok(response)
}

/// `POST /api/sources/{source}/runners/reset-token`
pub(super) async fn reset_own_token(
    _: RunnerWriter,
    State(state): State<AppState>,
    PathSource(source): PathSource,
    uri: Uri,
    mut body: Members,
) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    let token = runner_token(&mut body)?;
    body.end()?;
    let mut gitlab = state.runners.turn(&source).await?;
    let came = gitlab.reset_own_token(&token).await;
    let token = gitlab.end(came)?;
    let told = json!({ "token": token.token.expose_secret(), "token_expires_at": token.expires_at });
    Ok(answer(StatusCode::OK, "token_reset", told))
}

fn runner_token(body: &mut Members) -> Result<SecretString, Problem> {
    body.secret("token")?.ok_or_else(|| Members::refuse("send the runner's authentication token as `token`"))
}

fn answer(status: StatusCode, outcome: &'static str, told: Value) -> Response {
    let mut response = (status, Json(told)).into_response();
    response.extensions_mut().insert(Outcome(outcome));
    response
}

/// For the audit: which runner it was, where the path does not say it.
fn about(source: &SourceName, number: u64) -> Detail {
    Detail(format!("runner {} of list {source}", id_of(source, number)))
}

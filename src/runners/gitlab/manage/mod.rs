//! Managing runners of GitLab: what its own pages can do, one call each.
//!
//! Sources: GitLab, "Runners API", and "Create a runner linked to a user" in its "Users API". Nothing is repeated: a
//! change whose answer did not come may have been carried out, and [`ManageError::Uncertain`] says so.

mod error;
mod records;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

pub use self::error::ManageError;
pub use self::records::{
    AccessLevel, Change, Created, Job, JobStatus, Manager, NewRunner, Order, Owner, Place, Runner, RunnerToken,
};
use super::Access;
use super::details::Changed;
use crate::config::ApiUrl;
use crate::runners::poll::PollError;
use crate::runners::service::{Answer, Service};

/// The most jobs that are listed at once.
const JOBS_MAX: usize = 1000;

/// A GitLab whose runners can be changed, with the token of one of its lists.
pub struct Management {
    service: Service,
    api: ApiUrl,
    access: Access,
    changed: Changed,
}

impl Management {
    /// The token needs more than for listing: `create_runner` to create, `manage_runner` for the rest, or `api` for all.
    pub(super) fn new(service: Service, api: ApiUrl, access: Access, changed: Changed) -> Self {
        Self { service, api, access, changed }
    }

    /// Creates a runner. Its token is told this once.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn create(&mut self, runner: &NewRunner) -> Result<Created, ManageError> {
        self.call(Method::POST, &["user", "runners"], Some(runner.to_json())).await?.record()
    }

    /// Creates a runner with a registration token, as GitLab had it before 16.0.
    ///
    /// # Errors
    /// [`ManageError::Retired`] wherever that is switched off, which is the default since GitLab 17.0.
    pub async fn register(&mut self, token: &SecretString, runner: &NewRunner) -> Result<Created, ManageError> {
        let mut body = runner.to_json();
        // The token says whose runner it becomes.
        for key in ["runner_type", "group_id", "project_id"] {
            body.remove(key);
        }
        body.insert("token".to_owned(), token.expose_secret().into());
        match self.send(Method::POST, self.api.join(&["runners"]), accept(), Some(body)).await {
            Err(ManageError::Failed(PollError::Gone)) => Err(ManageError::Retired),
            answer => answer?.record(),
        }
    }

    /// All that is known of a runner.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn runner(&mut self, id: u64) -> Result<Runner, ManageError> {
        self.call(Method::GET, &["runners", &id.to_string()], None).await?.record()
    }

    /// Changes a runner, and tells what it is now.
    ///
    /// # Errors
    /// [`ManageError::NoChange`] if nothing is to be changed, else as [`ManageError`].
    pub async fn update(&mut self, id: u64, change: &Change) -> Result<Runner, ManageError> {
        let body = change.to_json();
        if body.is_empty() {
            return Err(ManageError::NoChange);
        }
        let came =
            self.call(Method::PUT, &["runners", &id.to_string()], Some(body)).await.and_then(|whole| whole.record());
        if matches!(came, Ok(_) | Err(ManageError::Uncertain(_))) {
            self.changed.add(id);
        }
        came
    }

    /// Lets a runner take no more jobs.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn pause(&mut self, id: u64) -> Result<Runner, ManageError> {
        self.update(id, &Change { paused: Some(true), ..Change::default() }).await
    }

    /// Lets a runner take jobs again.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn resume(&mut self, id: u64) -> Result<Runner, ManageError> {
        self.update(id, &Change { paused: Some(false), ..Change::default() }).await
    }

    /// Deletes a runner.
    ///
    /// # Errors
    /// [`ManageError`]; only an administrator may delete one that several projects use.
    pub async fn delete(&mut self, id: u64) -> Result<(), ManageError> {
        self.call(Method::DELETE, &["runners", &id.to_string()], None).await.map(drop)
    }

    /// Deletes the runner that has this authentication token.
    ///
    /// # Errors
    /// [`ManageError::RunnerToken`] if none has it.
    pub async fn delete_by_token(&mut self, token: &SecretString) -> Result<(), ManageError> {
        self.call_with_token(Method::DELETE, &["runners"], with_token(token)).await.map(drop)
    }

    /// Asks whether an authentication token is one of a runner, and of which.
    ///
    /// GitLab counts this as a sign of life of the runner, or rather of its process `system_id`, which it wants to know for
    /// tokens that begin with `glrt-`. So it must not be asked regularly of a runner that is watched.
    ///
    /// # Errors
    /// [`ManageError::RunnerToken`] if it is not.
    pub async fn verify(&mut self, token: &SecretString, system_id: Option<&str>) -> Result<Created, ManageError> {
        let mut body = with_token(token);
        body.extend(system_id.map(|id| ("system_id".to_owned(), id.into())));
        let sent = self.call_with_token(Method::POST, &["runners", "verify"], body).await;
        sent.and_then(|whole| whole.record()).map_err(|error| match error {
            // A sign of life more or less is no change.
            ManageError::Uncertain(cause) => ManageError::Failed(cause),
            error => error,
        })
    }

    /// Gives a runner a new authentication token; the old one is void.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn reset_token(&mut self, id: u64) -> Result<RunnerToken, ManageError> {
        let path = ["runners", &id.to_string(), "reset_authentication_token"];
        self.call(Method::POST, &path, None).await?.record()
    }

    /// As [`Management::reset_token`], for the runner that has this token.
    ///
    /// # Errors
    /// [`ManageError::RunnerToken`] if none has it.
    pub async fn reset_own_token(&mut self, token: &SecretString) -> Result<RunnerToken, ManageError> {
        self.call_with_token(Method::POST, &["runners", "reset_authentication_token"], with_token(token))
            .await?
            .record()
    }

    /// Lets a project, by its number or path, use a runner of another project.
    ///
    /// # Errors
    /// [`ManageError`]; a locked runner can't be lent.
    pub async fn enable(&mut self, id: u64, project: &str) -> Result<(), ManageError> {
        let body = serde_json::Map::from_iter([("runner_id".to_owned(), id.into())]);
        self.call(Method::POST, &["projects", project, "runners"], Some(body)).await.map(drop)
    }

    /// Takes a runner away from a project, by its number or path.
    ///
    /// # Errors
    /// [`ManageError`]; the project that owns it keeps it.
    pub async fn disable(&mut self, id: u64, project: &str) -> Result<(), ManageError> {
        self.call(Method::DELETE, &["projects", project, "runners", &id.to_string()], None).await.map(drop)
    }

    /// The processes that take jobs for a runner.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn managers(&mut self, id: u64) -> Result<Vec<Manager>, ManageError> {
        self.call(Method::GET, &["runners", &id.to_string(), "managers"], None).await?.record()
    }

    /// The first jobs of a runner in this order, at most `most` and at most 1000; of those that the token's owner may see.
    ///
    /// # Errors
    /// [`ManageError`].
    pub async fn jobs(
        &mut self,
        id: u64,
        status: Option<JobStatus>,
        order: Order,
        most: usize,
    ) -> Result<Vec<Job>, ManageError> {
        let most = most.min(JOBS_MAX);
        let mut url = self.api.join(&["runners", &id.to_string(), "jobs"]);
        url.query_pairs_mut()
            .append_pair("pagination", "keyset")
            .append_pair("order_by", "id")
            .append_pair("sort", order.as_str())
            .append_pair("per_page", &most.clamp(1, 100).to_string());
        if let Some(status) = status {
            url.query_pairs_mut().append_pair("status", status.as_str());
        }
        let headers = self.access.headers().await?;
        let mut jobs: Vec<Job> = Vec::new();
        // A list that shifts meanwhile may show a job twice, but its pages go on by the id.
        for _ in 0..JOBS_MAX {
            let answer = self.send(Method::GET, url, headers.clone(), None).await?;
            let page: Vec<Job> = answer.record()?;
            jobs.extend(page);
            match self.service.next_page(&answer.answer)? {
                Some(next) if jobs.len() < most => url = next,
                _ => break,
            }
        }
        jobs.truncate(most);
        Ok(jobs)
    }

    /// A call with the access token.
    async fn call(&mut self, method: Method, path: &[&str], body: Option<Body>) -> Result<Whole, ManageError> {
        let headers = self.access.headers().await?;
        self.send(method, self.api.join(path), headers, body).await
    }

    /// A call with only the runner's own token, which is in the body.
    async fn call_with_token(&mut self, method: Method, path: &[&str], body: Body) -> Result<Whole, ManageError> {
        match self.send(method, self.api.join(path), accept(), Some(body)).await {
            Err(ManageError::Refused { status: 403, .. } | ManageError::Failed(PollError::Unauthorized)) => {
                Err(ManageError::RunnerToken)
            }
            sent => sent,
        }
    }

    async fn send(
        &mut self,
        method: Method,
        url: Url,
        mut headers: HeaderMap,
        body: Option<Body>,
    ) -> Result<Whole, ManageError> {
        let mut secrets: Vec<SecretString> = self.access.token.read_token().await.into_iter().collect();
        let text = body.map(|body| {
            secrets.extend(body.get("token").and_then(Value::as_str).map(SecretString::from));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Value::Object(body).to_string().into_bytes()
        });
        let is_change = !method.is_safe();
        let answer = self.service.send(method, url, headers, text).await.map_err(|error| failed(error, is_change))?;
        if answer.status.is_success() {
            return Ok(Whole { answer, is_change });
        }
        Err(match answer.status.as_u16() {
            400 | 403 | 405 | 406 | 409 | 412 | 422 => error::refused(&answer, &secrets),
            404 => ManageError::NotFound,
            status @ 300..=399 => ManageError::Failed(PollError::Status { status }),
            _ => failed(self.service.refusal(&answer), is_change),
        })
    }
}

fn accept() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))])
}

type Body = serde_json::Map<String, Value>;

fn with_token(token: &SecretString) -> Body {
    serde_json::Map::from_iter([("token".to_owned(), json!(token.expose_secret()))])
}

/// What an error means: whether the change is made is not known if the service may have got the request.
fn failed(error: PollError, is_change: bool) -> ManageError {
    match error {
        PollError::Timeout { .. }
        | PollError::Unreachable(_)
        | PollError::Service { .. }
        | PollError::NotUnderstood(_)
        | PollError::TooLarge(_)
            if is_change =>
        {
            ManageError::Uncertain(error)
        }
        error => ManageError::Failed(error),
    }
}

/// An answer of success.
struct Whole {
    answer: Answer,
    is_change: bool,
}

impl Whole {
    fn record<T: serde::de::DeserializeOwned>(&self) -> Result<T, ManageError> {
        self.answer.json().map_err(|error| failed(error, self.is_change))
    }
}

//! A bridge somewhere else, over its API.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::policy::JobName;

/// How long a bridge may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an answer may make no progress: longer than the longest wait that can be asked for, which is 55 s.
const SILENCE: Duration = Duration::from_secs(70);

/// Source: the IETF draft "The Idempotency-Key HTTP Header Field".
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Which bridge is meant.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// The bridge: `http://HOST:PORT`, `https://HOST` or `unix:/PATH`
    #[arg(long, env = "CI_BRIDGE_URL", value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: String,
}

/// Which job is meant.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The job, such as `ci-test-hello`
    #[arg(value_parser = JobName::parse)]
    pub(super) job: JobName,

    /// The instance of a template such as `ci-test-build@`: any text, such as a branch
    #[arg(long, value_name = "TEXT")]
    instance: Option<String>,
}

impl Target {
    /// The path of the job, or of something of it, and the query with the instance.
    fn locate<'a>(&'a self, what: Option<&'a str>, query: Query<'a>) -> (Vec<&'a str>, Vec<(&'a str, &'a str)>) {
        let path = ["job", self.job.as_str()].into_iter().chain(what).collect();
        let instance = self.instance.as_deref().map(|instance| ("instance", instance));
        (path, instance.into_iter().chain(query.iter().copied()).collect())
    }
}

/// Why a call had no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The bridge, or a proxy before it, refused.
    #[error("{detail} ({code})")]
    Refused {
        status: StatusCode,
        /// The bridge's word for it, or the status.
        code: String,
        detail: String,
        retry_after: Option<Duration>,
    },
    /// No answer came, or not all of it.
    #[error("failed to reach {url}")]
    Unreachable { url: String, source: reqwest::Error },
    /// A stream ended before what it tells did.
    #[error("the connection was cut")]
    CutOff,
    /// The answer is none of the API's.
    #[error("{url} answered, but not like a ci-bridge")]
    Strange { url: String },
}

impl CallError {
    /// A refusal in the middle of an answer, as a problem document.
    pub(super) fn from_problem(problem: &Value) -> Self {
        let status = problem.get("status").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok());
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        Self::refused(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), problem, None)
    }

    /// What a bridge says in its problem document, or a proxy by its status.
    fn refused(status: StatusCode, problem: &Value, retry_after: Option<Duration>) -> Self {
        let text = |member: &str| problem.get(member).and_then(Value::as_str).map(str::to_owned);
        Self::Refused {
            status,
            code: text("code").unwrap_or_else(|| status.as_u16().to_string()),
            detail: text("detail").unwrap_or_else(|| {
                format!("the server refused: {}", status.canonical_reason().unwrap_or("with a status of its own"))
            }),
            retry_after,
        }
    }

    /// Whether the same call may be answered later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Unreachable { .. } | Self::CutOff => true,
            Self::Strange { .. } => false,
        }
    }

    /// When the bridge wants to be asked again.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

pub(super) type Query<'a> = &'a [(&'a str, &'a str)];

/// A bridge and the token for it.
pub(super) struct Bridge {
    http: Client,
    base: Url,
    token: SecretString,
}

impl Bridge {
    /// Takes the token from `CI_TOKEN`: on the command line, everyone on the machine could see it.
    pub(super) fn new(server: &Server) -> anyhow::Result<Self> {
        let token = match std::env::var("CI_TOKEN") {
            Ok(token) if !token.is_empty() => SecretString::from(token),
            _ => bail!("CI_TOKEN is not set; put a token into it, made with `ci-bridge token new NAME --access rw`"),
        };
        let mut builder = Client::builder()
            .user_agent(concat!("ci-bridge/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            // The API has no redirects, and a token belongs to one server.
            .redirect(Policy::none());
        let text = match server.url.strip_prefix("unix:") {
            Some(path) => {
                builder = builder.unix_socket(PathBuf::from(path));
                "http://localhost"
            }
            None => server.url.trim_end_matches('/'),
        };
        let base = Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .with_context(|| format!("`{}` is no address of a bridge; write http://HOST:PORT", server.url))?;
        if base.scheme() == "http" {
            // A machine without certificates can do without them then.
            builder = builder.tls_certs_only([]);
        }
        Ok(Self { http: builder.build().context("failed to prepare the connection")?, base, token })
    }

    pub(super) async fn get(&self, path: &[&str], query: Query<'_>) -> Result<Response, CallError> {
        self.call(Method::GET, path, query, None).await
    }

    /// Starts a job; with the same `key` at most once.
    pub(super) async fn start(
        &self,
        target: &Target,
        query: Query<'_>,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Response, CallError> {
        let (path, query) = target.locate(None, query);
        let request = self.request(Method::POST, &path, &query, body);
        let request = match key {
            Some(key) => request.header(IDEMPOTENCY_KEY, key),
            None => request,
        };
        self.send(request).await
    }

    /// A call about a job.
    pub(super) async fn of_job(
        &self,
        method: Method,
        target: &Target,
        what: Option<&str>,
        query: Query<'_>,
    ) -> Result<Response, CallError> {
        let (path, query) = target.locate(what, query);
        self.call(method, &path, &query, None).await
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: Query<'_>,
        body: Option<&Value>,
    ) -> Result<Response, CallError> {
        self.send(self.request(method, path, query, body)).await
    }

    fn request(&self, method: Method, path: &[&str], query: Query<'_>, body: Option<&Value>) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url).bearer_auth(self.token.expose_secret());
        match body {
            Some(body) => request.json(body),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, CallError> {
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
    }

    /// The JSON of an answer.
    pub(super) async fn json(&self, response: Response) -> Result<Value, CallError> {
        let bytes = self.bytes(response).await?;
        serde_json::from_slice(&bytes).map_err(|_| CallError::Strange { url: self.base.to_string() })
    }

    /// The whole body of an answer.
    pub(super) async fn bytes(&self, response: Response) -> Result<Vec<u8>, CallError> {
        response.bytes().await.map(Vec::from).map_err(|source| self.unreachable(source))
    }

    /// A body that broke off, or an answer that never came.
    pub(super) fn unreachable(&self, source: reqwest::Error) -> CallError {
        CallError::Unreachable { url: self.base.to_string(), source: source.without_url() }
    }
}

async fn refused(response: Response) -> CallError {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let problem: Value = response.json().await.unwrap_or_default();
    CallError::refused(status, &problem, retry_after)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

//! What every request and every answer passes, whatever the path: the outermost layer.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::authenticate::take_query_token;
use super::jobs::RUN_ID;
use super::metrics::Requests;
use super::problem;
use super::serve::Peer;
use crate::audit::{Audit, Kind, Note};
use crate::auth::{Caller, TokenName};
use crate::fleet::Runners;
use crate::policy::{JobName, Policy};
use crate::runners::RunnerId;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");

/// The methods that the log names; any other is a text of the client's.
const STANDARD_METHODS: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
];

/// The id of one request, a UUID of version 7: the bridge's own, in the answer and in the log, never the client's.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestId(pub(super) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        // Every request has passed the outermost layer; a new id would only stand for none.
        Ok(parts.extensions.get().copied().unwrap_or_else(|| Self(Uuid::now_v7())))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What came of a request, a word for the audit; of an error it is the code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome(pub(super) &'static str);

/// What else the audit is told of a request, where its path does not say it. Never a secret.
#[derive(Debug, Clone)]
pub(super) struct Detail(pub(super) String);

/// What the outermost layer works with.
#[derive(Clone)]
pub(super) struct Edge {
    pub(super) policy: Arc<Policy>,
    pub(super) audit: Audit,
    pub(super) runners: Runners,
    pub(super) requests: Arc<Requests>,
}

/// One layer and not five: each one boxes the answer of every request once more.
pub(super) async fn pass(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    // First, so that nothing behind this line sees a token in the URI.
    take_query_token(&mut request);
    let id = RequestId(Uuid::now_v7());
    request.extensions_mut().insert(id);
    let seen = Seen::of(&request, id);
    let is_safe = seen.method.is_safe();
    let answer = async move {
        let response = problem::with_body(next.run(request).await, id);
        edge.requests.count(seen.route.as_ref().map_or("none", MatchedPath::as_str), response.status());
        seen.note(&edge, &response);
        response
    };
    let mut response = if is_safe {
        answer.await
    } else {
        // Works on also after the caller has hung up: what changes something is neither left half done nor unnoted.
        match tokio::spawn(answer).await {
            Ok(response) => response,
            Err(error) => {
                log::error!("a request was not answered: {error}");
                problem::with_body(StatusCode::INTERNAL_SERVER_ERROR.into_response(), id)
            }
        }
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(REQUEST_ID, id);
    }
    // Nothing that the bridge says is for caches, for search engines or for guessing at its type.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(ROBOTS, HeaderValue::from_static("noindex"));
    response
}

/// What the audit and the log may want to know of a request, once it is gone.
struct Seen {
    id: RequestId,
    method: Method,
    uri: Uri,
    route: Option<MatchedPath>,
    address: Option<IpAddr>,
}

impl Seen {
    fn of(request: &Request, id: RequestId) -> Self {
        Self {
            id,
            method: request.method().clone(),
            uri: request.uri().clone(),
            route: request.extensions().get().cloned(),
            address: request.extensions().get().and_then(Peer::address),
        }
    }

    /// Notes a request that changed something, and one that was refused or failed. Reads that succeed are not worth a
    /// record each.
    ///
    /// A path that is not one of the API's is not shown: with a slip of the hand a token stands in it.
    fn note(&self, edge: &Edge, response: &Response) {
        let status = response.status();
        let has_failed = status.is_client_error() || status.is_server_error();
        let kind = self.kind();
        if kind == Kind::Read && !has_failed {
            return;
        }
        let caller = response.extensions().get::<Arc<Caller>>();
        let run = response.headers().get(RUN_ID).and_then(|id| id.to_str().ok()?.parse().ok());
        let run = run.or_else(|| self.in_path("{run}")?.parse().ok());
        let note = Note {
            who: caller.map(|caller| caller.name().clone()),
            address: self.address,
            request: Some(self.id.0),
            status: Some(status.as_u16()),
            job: self.job(&edge.policy, caller.is_some()).or_else(|| response.extensions().get().cloned()),
            run,
            detail: response.extensions().get().map(|Detail(text)| text.clone()).or_else(|| self.detail(&edge.runners)),
            ..Note::new(kind, response.extensions().get().map_or("done", |Outcome(word)| *word))
        };
        if !has_failed {
            let told = told(&note);
            return edge.audit.note(note, format_args!("{told}"));
        }
        let known = STANDARD_METHODS.contains(&self.method);
        let method = if known { self.method.as_str() } else { "another method" };
        let path = self.route.as_ref().map_or("an unknown path", MatchedPath::as_str);
        let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let is_leaked = note.outcome == "token_in_query";
        let is_noted = kind != Kind::Read || is_refused || is_leaked;
        let level = match caller {
            _ if status.is_server_error() => log::Level::Warn,
            // What strangers look for in vain must not fill the journal; the number of entries is limited.
            None if !is_noted => log::Level::Debug,
            _ => log::Level::Info,
        };
        if is_noted {
            edge.audit.note_refusal(note, level, format_args!("{method} {path} was answered with {status}"));
        } else {
            note.log(level, format_args!("{method} {path} was answered with {status}"));
        }
    }

    fn kind(&self) -> Kind {
        let route = self.route.as_ref().map(MatchedPath::as_str).unwrap_or_default();
        match (&self.method, route) {
            (method, _) if method.is_safe() => Kind::Read,
            (&Method::POST, "/api/job/{job}") => Kind::Start,
            (&Method::POST, "/api/job/{job}/stop" | "/api/runs/{run}/stop") => Kind::Stop,
            _ => Kind::Write,
        }
    }

    /// What stands in the path where the route has `name`.
    fn in_path(&self, name: &str) -> Option<&str> {
        let at = self.route.as_ref()?.as_str().split('/').position(|part| part == name)?;
        self.uri.path().split('/').nth(at)
    }

    /// The runner or the list of runners in the path, if what stands there is one.
    fn detail(&self, runners: &Runners) -> Option<String> {
        if let Some(id) = self.in_path("{runner}") {
            return id.parse().ok().map(|id: RunnerId| format!("runner {id}"));
        }
        let name = self.in_path("{source}")?;
        runners.configured().find(|(known, _)| known.as_str() == name).map(|(name, _)| format!("list {name}"))
    }

    /// The job in the path, if there may be one of that name. An instance is any text, so that of a stranger is left out.
    fn job(&self, policy: &Policy, is_known: bool) -> Option<JobName> {
        let name = JobName::parse(self.in_path("{job}")?).ok()?;
        let query = self.uri.query().unwrap_or_default();
        let instance = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| is_known && name == "instance");
        let instance = instance.and_then(|(_, instance)| name.with_instance(&instance).ok());
        let name = instance.unwrap_or(name);
        policy.admit(&name).is_ok().then_some(name)
    }
}

/// What was done, in words.
fn told(note: &Note) -> String {
    let job = note.job.as_ref().map(JobName::as_str).or(note.detail.as_deref()).unwrap_or("something");
    let who = note.who.as_ref().map_or("somebody", TokenName::as_str);
    match (note.kind, note.outcome) {
        (Kind::Start, "accepted") => format!("{job} was started by {who}"),
        (Kind::Stop, outcome) => format!("{job} was stopped by {who}: {outcome}"),
        (Kind::Write, "replayed") => format!("a message of an alert was replayed by {who}"),
        (Kind::Write, "polled") => format!("the lists of runners were polled by {who}"),
        (Kind::Write, "token_reset") => format!("a token was reset by {who}: {job}"),
        (_, outcome) => format!("{job} was {outcome} by {who}"),
    }
}

/// The answer in place of a handler's that panicked.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands it over")]
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    log::error!("a handler panicked: {}", message.unwrap_or("without a message"));
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

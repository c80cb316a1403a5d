//! What every request and every answer passes, whatever the path: the outermost layer.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::authenticate::take_query_token;
use super::problem;
use super::serve::Peer;
use crate::auth::Caller;
use crate::policy::{JobName, Policy};

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

/// One layer and not five: each one boxes the answer of every request once more.
pub(super) async fn pass(State(policy): State<Arc<Policy>>, mut request: Request, next: Next) -> Response {
    // First, so that nothing behind this line sees a token in the URI.
    take_query_token(&mut request);
    let id = RequestId(Uuid::now_v7());
    request.extensions_mut().insert(id);
    let seen = Seen::of(&request);
    let mut response = problem::with_body(next.run(request).await, id);
    seen.log_refusal(&policy, id, &response);
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

/// What the log may want to know of a request, once it is gone.
struct Seen {
    method: Method,
    uri: Uri,
    route: Option<MatchedPath>,
    peer: Option<Peer>,
}

impl Seen {
    fn of(request: &Request) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            route: request.extensions().get().cloned(),
            peer: request.extensions().get().cloned(),
        }
    }

    /// One record for a request that was refused or failed. What succeeded is logged by its handler where it changed
    /// something; reads are not worth a record each, and strangers must not be able to fill the journal.
    ///
    /// A path that is not one of the API's is not shown: with a slip of the hand a token stands in it.
    fn log_refusal(&self, policy: &Policy, id: RequestId, response: &Response) {
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return;
        }
        let caller = response.extensions().get::<Arc<Caller>>();
        let level = match (status.is_server_error(), caller) {
            (true, _) => log::Level::Warn,
            (false, Some(_)) => log::Level::Info,
            (false, None) => log::Level::Debug,
        };
        let known = STANDARD_METHODS.contains(&self.method);
        let method = if known { self.method.as_str() } else { "another method" };
        let path = self.route.as_ref().map_or("an unknown path", MatchedPath::as_str);
        let job = self.job(policy).map(|job| job.to_string()).unwrap_or_default();
        let token = caller.map(|caller| caller.name().as_str()).unwrap_or_default();
        let peer = self.peer.as_ref().map(|peer| format!("{peer:?}")).unwrap_or_default();
        log::log!(
            level,
            request:display = id, status = status.as_u16(), job = job.as_str(), peer = peer.as_str(), token = token;
            "{method} {path} was answered with {status}"
        );
    }

    /// The job in the path, if there may be one of that name.
    fn job(&self, policy: &Policy) -> Option<JobName> {
        let at = self.route.as_ref()?.as_str().split('/').position(|part| part == "{job}")?;
        let name = JobName::parse(self.uri.path().split('/').nth(at)?).ok()?;
        policy.admit(&name).is_ok().then_some(name)
    }
}

/// The answer in place of a handler's that panicked.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands it over")]
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    log::error!("a handler panicked: {}", message.unwrap_or("without a message"));
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

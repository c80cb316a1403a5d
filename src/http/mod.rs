//! The API over HTTP: routes, who may call, and the form of answers and errors.
//!
//! Only this folder knows status codes. It knows nothing of D-Bus, of journal files or of SQL.

mod authenticate;
mod error;
mod index;
mod jobs;
mod logs;
mod params;
mod problem;
mod request_id;
pub mod serve;
mod shape;

use std::any::Any;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;

use self::authenticate::Gate;
use self::problem::Problem;
use crate::auth::{Caller, Keyring};
use crate::config::QueryTokens;
use crate::jobs::Jobs;
use crate::policy::{NameError, Policy};

/// The largest body of a request. No endpoint takes one of any size yet; what is larger is no mistake but an attack.
const BODY_LIMIT: usize = 64 * 1024;

/// What the handlers work with.
#[derive(Clone)]
struct AppState {
    policy: Arc<Policy>,
    jobs: Jobs,
}

/// The whole API.
///
/// `keyring` is read anew for each request, so tokens may change while the bridge runs.
pub fn router(policy: Policy, jobs: Jobs, keyring: Arc<ArcSwap<Keyring>>, query_tokens: QueryTokens) -> Router {
    let state = AppState { policy: Arc::new(policy), jobs };
    let gate = Gate { keyring, query_tokens };
    let api = Router::new()
        .route("/job/{job}", post(jobs::start_job))
        .route("/job/{job}/state", get(jobs::show_state))
        .route("/job/{job}/tail", get(logs::show_tail))
        .route("/job/{job}/logs", get(logs::show_logs))
        .route("/job/{job}/stop", post(jobs::stop_job))
        .route("/jobs", get(jobs::list_jobs))
        .fallback(unknown_api_path)
        // Also before the fallback: without a token nothing is told, not even what there is not.
        .layer(from_fn_with_state(gate, authenticate::require_token));
    Router::new()
        .nest("/api", api)
        .route("/", get(index::show_index))
        .route("/healthz", get(index::show_health))
        .route("/readyz", get(index::show_readiness))
        .with_state(state)
        .layer(RequestBodyLimitLayer::new(BODY_LIMIT))
        .layer(CatchPanicLayer::custom(panicked))
        // Outside of the two above, whose errors it gives a body.
        .layer(from_fn(problem::write_problems))
        .layer(from_fn(log_request))
        .layer(from_fn(harden))
        .layer(from_fn(request_id::assign))
        // Outermost: no layer may see a token in the URI.
        .layer(from_fn(authenticate::strip_query_token))
}

/// A path below `/api` that no route takes; an empty job name is told which rule it broke.
async fn unknown_api_path(request: Request) -> Problem {
    let path = request.uri().path();
    match path.strip_prefix("/job/") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => NameError::Empty.into(),
        _ => {
            Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path; GET / lists what there is")
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands it over")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    log::error!("a handler panicked: {}", message.unwrap_or("without a message"));
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

/// Nothing that the bridge says is for caches, for search engines or for guessing at its type.
async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex"));
    response
}

/// One record for a request that was refused or failed. What succeeded is logged by its handler where it changed
/// something; reads are not worth a record each, and strangers must not be able to fill the journal.
async fn log_request(id: request_id::RequestId, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let peer = request.extensions().get::<serve::Peer>().map(|peer| format!("{peer:?}")).unwrap_or_default();
    let response = next.run(request).await;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let token = response.extensions().get::<Arc<Caller>>().map(|caller| caller.name().to_string());
        let level = match (status.is_server_error(), &token) {
            (true, _) => log::Level::Warn,
            (false, Some(_)) => log::Level::Info,
            (false, None) => log::Level::Debug,
        };
        log::log!(
            level,
            request:display = id, status = status.as_u16(), peer = peer.as_str(), token = token.as_deref().unwrap_or_default();
            "{method} {path:?} was answered with {status}"
        );
    }
    response
}

//! The API over HTTP: routes, who may call, and the form of answers and errors.
//!
//! Only this folder knows status codes. It knows nothing of D-Bus, of journal files or of SQL.

mod alerts;
mod audit;
mod authenticate;
mod badge;
mod body;
mod edge;
mod error;
mod format;
mod index;
mod jobs;
mod logs;
mod manage;
mod metrics;
mod params;
mod problem;
mod retry;
mod runners;
mod runs;
pub mod serve;
mod shape;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;

pub use self::authenticate::Gate;
use self::edge::Edge;
use self::metrics::{Metrics, Requests};
use self::problem::Problem;
pub use self::stream::Following;
use self::stream::Streams;
use crate::audit::Audit;
use crate::fleet::Runners;
use crate::jobs::Jobs;
use crate::policy::{NameError, Policy};

/// The largest body of a request: room for every input of a job, and what is larger is no mistake but an attack.
const BODY_LIMIT: usize = 64 * 1024;

/// What the handlers work with.
#[derive(Clone)]
struct AppState {
    policy: Arc<Policy>,
    jobs: Jobs,
    audit: Audit,
    runners: Runners,
    streams: Streams,
    metrics: Metrics,
    stop: CancellationToken,
}

/// What else there is to decide.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What bounds the answers that go on.
    pub following: Following,
    /// Whether metrics of runners are also told under the names of other exporters.
    pub exporter_names: bool,
}

/// The whole API.
///
/// The keyring of `gate` is read anew for each request, so tokens may change while the bridge runs. When `stop` is cancelled, answers
/// that would still take long end early. What changes something is noted in `audit`, and so is what is refused.
pub fn router(
    policy: Policy,
    jobs: Jobs,
    audit: Audit,
    runners: Runners,
    gate: Gate,
    options: Options,
    stop: CancellationToken,
) -> Router {
    let policy = Arc::new(policy);
    let streams = Streams::new(options.following, gate.keyring.clone(), stop.clone());
    let requests = Arc::<Requests>::default();
    let metrics = Metrics::new(options.exporter_names, requests.clone());
    let edge = Edge { policy: policy.clone(), audit: audit.clone(), runners: runners.clone(), requests };
    let state = AppState { policy, jobs, audit, runners, streams, metrics, stop };
    // Layers of these two routes only: all others have their own answers.
    let metrics = Router::new()
        .route("/metrics", get(metrics::show_metrics))
        .route_layer(from_fn_with_state(gate.clone(), authenticate::require_token));
    let badges = Router::new()
        .route("/api/runners/{runner}/badge.svg", get(badge::show_badge))
        .route_layer(from_fn_with_state(gate.clone(), badge::allow_no_token));
    let api = Router::new()
        .route("/job/{job}", post(jobs::start_job))
        .route("/job/{job}/state", get(jobs::show_state))
        .route("/job/{job}/tail", get(logs::show_tail))
        .route("/job/{job}/logs", get(logs::show_logs))
        .route("/job/{job}/stop", post(jobs::stop_job))
        .route("/job/{job}/runs", get(runs::list_runs))
        .route("/jobs", get(jobs::list_jobs))
        .route("/audit", get(audit::list_entries))
        .route("/runners", get(runners::list_runners))
        .route("/runners/poll", post(runners::poll_runners))
        .route(
            "/runners/{runner}",
            get(runners::show_runner).patch(manage::change_runner).delete(manage::delete_runner),
        )
        .route("/runners/{runner}/details", get(manage::show_details))
        .route("/runners/{runner}/jobs", get(manage::list_jobs))
        .route("/runners/{runner}/managers", get(manage::list_managers))
        .route("/runners/{runner}/pause", post(manage::pause_runner))
        .route("/runners/{runner}/resume", post(manage::resume_runner))
        .route("/runners/{runner}/reset-token", post(manage::reset_token))
        .route("/runners/{runner}/projects/{project}", put(manage::enable_runner).delete(manage::disable_runner))
        .route("/runners/{runner}/transitions", get(runners::list_transitions))
        .route("/runners/{runner}/uptime", get(runners::show_uptime))
        .route("/alerts", get(alerts::list_alerts))
        .route("/alerts/{id}/replay", post(alerts::replay_alert))
        .route("/sources", get(runners::list_sources))
        .route("/sources/{source}/runners", post(manage::create_runner).delete(manage::delete_by_token))
        .route("/sources/{source}/runners/verify", post(manage::verify_token))
        .route("/sources/{source}/runners/reset-token", post(manage::reset_own_token))
        .route("/runs/{run}", get(runs::show_run))
        .route("/runs/{run}/stop", post(runs::stop_run))
        .route("/runs/{run}/logs", get(runs::show_logs))
        .route("/runs/{run}/tail", get(runs::show_tail))
        .route("/runs/{run}/result", get(runs::show_result))
        .fallback(unknown_api_path)
        // Also before the fallback: without a token nothing is told, not even what there is not.
        .layer(from_fn_with_state(gate, authenticate::require_token));
    Router::new()
        .nest("/api", api)
        .merge(metrics)
        .merge(badges)
        .route("/", get(index::show_index))
        .route("/healthz", get(index::show_health))
        .route("/readyz", get(index::show_readiness))
        .with_state(state)
        .layer(RequestBodyLimitLayer::new(BODY_LIMIT))
        .layer(CatchPanicLayer::custom(edge::panicked))
        // Outside of the two above, whose errors it gives a body, and of all that could see a token in the URI.
        .layer(from_fn_with_state(edge, edge::pass))
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

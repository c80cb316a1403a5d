//! What there is, for somebody with curl; and whether the bridge lives and is ready.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::AppState;
use super::problem::Problem;

/// `GET /`
pub(super) async fn show_index() -> Json<Value> {
    let endpoint = |method: &str, path: &str, access: &str, does: &str, params: &[&str]| json!({ "method": method, "path": path, "access": access, "does": does, "parameters": params });
    let log = ["instance", "run", "lines", "priority=0-7|emerg-debug", "format=json|text|ndjson|sse", "raw=true"];
    let with = |extra: &[&'static str]| [log.as_slice(), extra].concat();
    Json(json!({
        "name": "ci-bridge",
        "version": env!("CARGO_PKG_VERSION"),
        "authentication": "Authorization: Bearer TOKEN",
        "endpoints": [
            endpoint("POST", "/api/job/{job}", "rw", "start a job; a body {\"inputs\": {\"NAME\": \"VALUE\"}} has its inputs", &["instance", "if_busy=reject|join|queue"]),
            endpoint("POST", "/api/job/{job}/stop", "rw", "stop a job", &["instance"]),
            endpoint("GET", "/api/job/{job}/state", "ro", "state and verdict", &["instance", "run", "wait=SECONDS"]),
            endpoint("GET", "/api/job/{job}/tail", "ro", "newest lines, or those after a cursor, or as they come", &with(&["cursor", "follow=true"])),
            endpoint("GET", "/api/job/{job}/logs", "ro", "the log of a run", &with(&["order=asc|desc", "since", "until"])),
            endpoint("GET", "/api/job/{job}/runs", "ro", "the runs of a job, newest first", &["instance", "limit", "before=RUN"]),
            endpoint("GET", "/api/runs/{run}", "ro", "what became of a run", &[]),
            endpoint("GET", "/api/runs/{run}/result", "ro", "the same, waiting for the end", &["wait=SECONDS", "fail=true"]),
            endpoint("POST", "/api/runs/{run}/stop", "rw", "stop it, or take it out of the queue", &[]),
            endpoint("GET", "/api/runs/{run}/logs", "ro", "the log of a run", &with(&["order=asc|desc", "since", "until"])[2..]),
            endpoint("GET", "/api/runs/{run}/tail", "ro", "its newest lines, or those that come", &with(&["cursor", "follow=true"])[2..]),
            endpoint("GET", "/api/jobs", "ro", "the jobs that there are", &[]),
            endpoint("GET", "/api/runners", "ro", "the runners of GitHub and GitLab, by name", &["provider=github|gitlab", "source", "kind", "state=online|offline|unknown|removed", "busy=true|false", "paused=true|false", "label", "tag_list=A,B", "name", "scope=active|paused|online|specific|shared", "limit", "after=RUNNER"]),
            endpoint("GET", "/api/runners/{runner}", "ro", "one of them", &[]),
            endpoint("GET", "/api/runners/{runner}/transitions", "ro", "its changes of state, newest first", &["limit", "before=TIME"]),
            endpoint("GET", "/api/runners/{runner}/uptime", "ro", "the part of a time that it was online", &["window=24h|7d|30d|FROM..TO"]),
            endpoint("GET", "/api/runners/{runner}/details", "ro", "what GitLab says of it now", &[]),
            endpoint("GET", "/api/runners/{runner}/jobs", "ro", "the jobs that it took, from GitLab", &["status=running|success|failed|canceled", "order=desc|asc", "limit"]),
            endpoint("GET", "/api/runners/{runner}/managers", "ro", "the processes that take its jobs, from GitLab", &[]),
            endpoint("PATCH", "/api/runners/{runner}", "rw, scope runners", "change it at GitLab; the body is JSON with what is to be another way", &[]),
            endpoint("DELETE", "/api/runners/{runner}", "rw, scope runners", "delete it at GitLab", &[]),
            endpoint("POST", "/api/runners/{runner}/pause", "rw, scope runners", "let it take no more jobs", &[]),
            endpoint("POST", "/api/runners/{runner}/resume", "rw, scope runners", "let it take jobs again", &[]),
            endpoint("POST", "/api/runners/{runner}/reset-token", "rw, scope runners", "give it a new authentication token", &[]),
            endpoint("PUT", "/api/runners/{runner}/projects/{project}", "rw, scope runners", "let a project use it", &[]),
            endpoint("DELETE", "/api/runners/{runner}/projects/{project}", "rw, scope runners", "take it away from a project", &[]),
            endpoint("POST", "/api/sources/{source}/runners", "rw, scope runners", "create a runner; the body is JSON that describes it", &[]),
            endpoint("DELETE", "/api/sources/{source}/runners", "rw, scope runners", "delete the runner whose authentication token is in the body", &[]),
            endpoint("POST", "/api/sources/{source}/runners/verify", "rw, scope runners", "ask whose the authentication token in the body is", &[]),
            endpoint("POST", "/api/sources/{source}/runners/reset-token", "rw, scope runners", "give the runner whose authentication token is in the body a new one", &[]),
            endpoint("GET", "/api/runners/{runner}/badge.svg", "ro, or none where badges are public", "its state or uptime as a picture", &["window=24h|7d|30d|FROM..TO"]),
            endpoint("POST", "/api/runners/poll", "rw", "read all lists of runners now", &[]),
            endpoint("GET", "/api/sources", "ro", "the lists of runners, and how they do", &[]),
            endpoint("GET", "/api/alerts", "rw", "what alerts have told, newest first", &["state=all|dead", "limit", "before=ID"]),
            endpoint("POST", "/api/alerts/{id}/replay", "rw", "send a message again that was given up", &[]),
            endpoint("GET", "/api/audit", "rw, scope audit", "what was done and refused, newest first", &["limit", "before=ID", "kind", "who", "job", "instance", "run"]),
            endpoint("GET", "/metrics", "ro", "all figures, for Prometheus", &[]),
            endpoint("GET", "/healthz", "none", "whether the process lives", &[]),
            endpoint("GET", "/readyz", "none", "whether it can do its work, or why not", &[]),
        ],
    }))
}

/// `GET /healthz`
pub(super) async fn show_health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /readyz`
pub(super) async fn show_readiness(State(state): State<AppState>) -> Result<Json<Value>, Problem> {
    let reasons = state.jobs.obstacles().await;
    if reasons.is_empty() {
        return Ok(Json(json!({ "status": "ready" })));
    }
    let detail = reasons.join("; ");
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail).with("reasons", json!(reasons)))
}

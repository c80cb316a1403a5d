//! The one form of an error in an answer: `application/problem+json` of RFC 9457.

use std::time::Duration;

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::edge::{Outcome, RequestId};

/// An error as the caller sees it.
#[derive(Debug, Clone)]
pub(super) struct Problem(Box<Content>);

#[derive(Debug, Clone)]
struct Content {
    status: StatusCode,
    code: &'static str,
    detail: String,
    members: Map<String, Value>,
    headers: HeaderMap,
}

impl Problem {
    /// `code` is for programs and never changes; `detail` tells a person what to do.
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self(Box::new(Content { status, code, detail, members: Map::new(), headers: HeaderMap::new() }))
    }

    /// Adds a member of its own to the body.
    pub(super) fn with(mut self, member: &str, value: Value) -> Self {
        self.0.members.insert(member.to_owned(), value);
        self
    }

    /// The main members of the body, for an answer that has begun already.
    pub(super) fn summary(&self) -> Value {
        json!({ "status": self.0.status.as_u16(), "code": self.0.code, "detail": self.0.detail })
    }

    /// Tells the caller when to try again.
    pub(super) fn retry_after(self, pause: Duration) -> Self {
        self.header(RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)))
    }

    /// Adds a header to the answer.
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }
}

impl IntoResponse for Problem {
    /// The body is written by [`with_body`], which knows the id of the request.
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives every error its body: those of the handlers, and those that the router, the body limit or a panic made.
pub(super) fn with_body(mut response: Response, id: RequestId) -> Response {
    let status = response.status();
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if status.is_client_error() || status.is_server_error() => bare(status),
        None => return response,
    };
    let problem = *problem.0;
    let mut body = Map::new();
    body.insert("type".to_owned(), json!("about:blank"));
    body.insert("title".to_owned(), json!(status.canonical_reason().unwrap_or("Error")));
    body.insert("status".to_owned(), json!(status.as_u16()));
    body.insert("code".to_owned(), json!(problem.code));
    body.insert("detail".to_owned(), json!(problem.detail));
    body.insert("request_id".to_owned(), json!(id.to_string()));
    body.extend(problem.members);
    let mut answer = (status, Value::Object(body).to_string()).into_response();
    // Who was refused is said there, for the audit.
    *answer.extensions_mut() = std::mem::take(response.extensions_mut());
    answer.extensions_mut().insert(Outcome(problem.code));
    let headers = answer.headers_mut();
    headers.extend(problem.headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(allow) = response.headers_mut().remove(ALLOW) {
        headers.insert(ALLOW, allow);
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"ci-bridge\""));
    }
    answer
}

/// The problem behind a status that came without one.
fn bare(status: StatusCode) -> Problem {
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => ("not_found", "there is nothing at this path; GET / lists what there is"),
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method_not_allowed", "the path does not take this method; the Allow header lists those it takes")
        }
        StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "the body of the request is too large"),
        status if status.is_server_error() => ("internal", "the bridge failed; its own log has the reason"),
        _ => ("bad_request", "the request is not valid"),
    };
    Problem::new(status, code, detail)
}

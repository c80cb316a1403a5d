//! The body of a start: a JSON object with the inputs of the job, or nothing.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::problem::Problem;

/// How long the body of a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// The inputs that a start brings, before anything is asked about them.
pub(super) struct Inputs(pub(super) Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Inputs {
    type Rejection = Problem;

    /// Takes JSON under any `Content-Type`: curl sends another one unless it is told.
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match tokio::time::timeout(PATIENCE, Bytes::from_request(request, state)).await {
            Ok(Ok(body)) => parse(&body).map(Self),
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = "the body of the request is too large";
                Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail))
            }
            Ok(Err(_)) => Err(refuse("the body of the request broke off")),
            Err(_elapsed) => {
                let detail = "the body of the request did not arrive in time";
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail))
            }
        }
    }
}

fn parse(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    const FORM: &str = r#"send nothing, or JSON such as {"inputs": {"version": "v1.2"}}"#;
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else {
        return Err(refuse(&format!("the body is no JSON object; {FORM}")));
    };
    let inputs = members.remove("inputs");
    if let Some(member) = members.keys().next() {
        let member: String = member.chars().take(40).collect();
        return Err(refuse(&format!("the body has an unknown member `{member}`; {FORM}")));
    }
    match inputs {
        None => Ok(Map::new()),
        Some(Value::Object(inputs)) => Ok(inputs),
        Some(_) => Err(refuse(&format!("`inputs` is no JSON object; {FORM}"))),
    }
}

fn refuse(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_body", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_an_object_of_inputs_or_nothing() {
        for body in ["", " \r\n", "{}", r#"{"inputs": {}}"#] {
            assert!(parse(body.as_bytes()).is_ok_and(|inputs| inputs.is_empty()), "{body}");
        }
        let inputs = parse(br#"{"inputs": {"version": "v1.2"}}"#).unwrap();
        assert_eq!(Value::Object(inputs), serde_json::json!({"version": "v1.2"}));
    }

    #[test]
    fn any_other_body_is_refused() {
        for body in [
            "version=v1.2",
            "[]",
            r#"[{"version": "v1.2"}]"#,
            "null",
            "{",
            r#"{"inputs": {}} {}"#,
            r#"{"inputs": null}"#,
            r#"{"inputs": []}"#,
            r#"{"inputs": "v1.2"}"#,
            r#"{"version": "v1.2"}"#,
            r#"{"inputs": {}, "Inputs": {}}"#,
            "\u{feff}{}",
            &"[".repeat(100_000),
        ] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
        assert!(parse(b"{\"inputs\": {\"version\": \"\xff\"}}").is_err());
    }
}

//! Bodies of requests: JSON objects, of which each member is known and of its kind, or the request is refused.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::problem::Problem;

/// How long the body of a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// The inputs that a start brings, before anything is asked about them.
pub(super) struct Inputs(pub(super) Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Inputs {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        parse(&receive(request, state).await?).map(Self)
    }
}

/// The members of a body. No refusal quotes a value: it may be a secret.
pub(super) struct Members(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Members {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match serde_json::from_slice(&receive(request, state).await?) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            _ => Err(refuse("the body is no JSON object")),
        }
    }
}

impl Members {
    /// A refusal of what the members say together.
    pub(super) fn refuse(detail: &str) -> Problem {
        refuse(detail)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        self.take(name, "a text", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })
    }

    pub(super) fn secret(&mut self, name: &str) -> Result<Option<SecretString>, Problem> {
        self.take(name, "a text that is not empty", |value| match value {
            Value::String(text) if !text.is_empty() => Some(text.into()),
            _ => None,
        })
    }

    pub(super) fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, Problem> {
        self.take(name, "a list of texts", |value| serde_json::from_value(value).ok())
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        self.take(name, "true or false", |value| value.as_bool())
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>, Problem> {
        self.take(name, "a whole number", |value| value.as_u64())
    }

    pub(super) fn seconds(&mut self, name: &str) -> Result<Option<Duration>, Problem> {
        self.take(name, "a whole number of seconds", |value| value.as_u64().map(Duration::from_secs))
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let words = choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        self.take(name, &format!("one of: {words}"), |value| {
            choices.iter().find(|(word, _)| value == *word).map(|(_, choice)| *choice)
        })
    }

    /// Ends the reading: what has not been taken is unknown.
    pub(super) fn end(self) -> Result<(), Problem> {
        let Some(member) = self.0.keys().next() else { return Ok(()) };
        let member: String = member.chars().take(40).collect();
        Err(refuse(&format!("the body has an unknown member `{member}`, or one that goes not with the others")))
    }

    fn take<T>(&mut self, name: &str, form: &str, read: impl FnOnce(Value) -> Option<T>) -> Result<Option<T>, Problem> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| refuse(&format!("`{name}` is {form}")))
    }
}

/// Takes a body under any `Content-Type`: curl sends another one than that of JSON unless it is told.
async fn receive<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    match tokio::time::timeout(PATIENCE, Bytes::from_request(request, state)).await {
        Ok(Ok(body)) => Ok(body),
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

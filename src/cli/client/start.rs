//! A start that is carried out once, however often it has to be sent.

use anyhow::Context;
use reqwest::{Response, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use super::bridge::{Bridge, CallError, Query, Target};
use super::outage::Outage;

/// Starts a job. A start whose answer was lost is sent again with the same `Idempotency-Key`, for as long as a bridge may
/// be out of reach.
///
/// A bridge without its history can't know a key again; it is asked once without.
pub(super) async fn start(
    bridge: &Bridge,
    target: &Target,
    query: Query<'_>,
    body: Option<&Value>,
) -> anyhow::Result<Response> {
    let key = Uuid::now_v7().to_string();
    let mut outage = Outage::of(target);
    let mut lost = false;
    loop {
        let error = match bridge.start(target, query, body, Some(&key)).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match Fate::of(&error) {
            Fate::Refused => return Err(error.into()),
            Fate::NoHistory if !lost => return bridge.start(target, query, body, None).await.map_err(unknown_or),
            Fate::NotSent | Fate::NoHistory => {}
            Fate::Unknown => lost = true,
        }
        if let Err(error) = outage.after(error).await {
            return if lost { Err(error).context(UNKNOWN) } else { Err(error.into()) };
        }
    }
}

/// What is said of a start whose answer was lost.
pub(super) const UNKNOWN: &str = "it is unknown whether the job was started";

/// The error of a start without a key.
fn unknown_or(error: CallError) -> anyhow::Error {
    match Fate::of(&error) {
        Fate::Unknown => anyhow::Error::new(error).context(UNKNOWN),
        Fate::Refused | Fate::NotSent | Fate::NoHistory => error.into(),
    }
}

/// What became of a start that had no good answer.
enum Fate {
    /// It was refused, and would be again.
    Refused,
    /// It was refused because there is no history that could know its key again.
    NoHistory,
    /// It cannot have reached the bridge.
    NotSent,
    /// The job may be running.
    Unknown,
}

impl Fate {
    fn of(error: &CallError) -> Self {
        match error {
            CallError::Unreachable { source, .. } if source.is_connect() => Self::NotSent,
            CallError::Unreachable { .. } | CallError::CutOff => Self::Unknown,
            CallError::Strange { .. } => Self::Refused,
            CallError::Refused { status, code, .. } => match (*status, code.as_str()) {
                (_, "history_unavailable") => Self::NoHistory,
                (_, "request_in_progress" | "systemd_unreachable" | "shutting_down")
                | (
                    StatusCode::REQUEST_TIMEOUT
                    | StatusCode::INTERNAL_SERVER_ERROR
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::GATEWAY_TIMEOUT,
                    _,
                )
                // Of a proxy.
                | (StatusCode::SERVICE_UNAVAILABLE, "503") => Self::Unknown,
                _ => Self::Refused,
            },
        }
    }
}

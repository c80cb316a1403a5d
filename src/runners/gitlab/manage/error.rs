//! Why GitLab did not do what it was asked to.

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::runners::poll::PollError;
use crate::runners::service::Answer;

/// The most characters of GitLab's own words that are shown.
const WORDS_MAX: usize = 300;

/// Why a call was not carried out.
///
/// No message has a token in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManageError {
    /// No answer to this call, or none of use. Nothing was changed.
    #[error(transparent)]
    Failed(#[from] PollError),
    /// No answer to a change, or none of use: nobody knows whether it was made.
    #[error("the change may have been made all the same, so look before you repeat it: {0}")]
    Uncertain(PollError),
    /// The change is empty.
    #[error("there is nothing to change; name at least one property")]
    NoChange,
    /// 404.
    #[error("there is no such runner or project, or the token may not know of it")]
    NotFound,
    /// GitLab understood and refuses, in its own words.
    #[error("GitLab refuses (status {status}): {words}")]
    Refused {
        /// The status: 400, 403, 405, 406, 409, 412 or 422.
        status: u16,
        /// What it says: one line, at most 300 characters.
        words: String,
    },
    /// A token of a runner that no runner has.
    #[error("no runner has this authentication token; it is wrong, expired or was reset, or the runner was deleted")]
    RunnerToken,
    /// Registration tokens are switched off.
    #[error(
        "this GitLab takes no registration tokens any more; create the runner instead, with an access token that has \
         the scope `create_runner`"
    )]
    Retired,
}

/// A refusal in GitLab's own words, unless one of `secrets` is among them.
pub(super) fn refused(answer: &Answer, secrets: &[SecretString]) -> ManageError {
    let status = answer.status.as_u16();
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let said = ["message", "error"].into_iter().find_map(|key| body.get(key)).map(text).unwrap_or_default();
    let words: String = said.chars().map(|char| if char.is_control() { ' ' } else { char }).take(WORDS_MAX).collect();
    let tells_secret = secrets.iter().any(|secret| said.contains(secret.expose_secret()));
    let words = if words.is_empty() || tells_secret { "it does not say why".to_owned() } else { words };
    ManageError::Refused { status, words }
}

/// A message, or a list of messages for each property.
fn text(said: &Value) -> String {
    match said {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(parts) => {
            parts.iter().map(|(key, value)| format!("{key} {}", text(value))).collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    }
}

//! What a run is called, and what may become of it.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::invocation::InvocationId;

/// The id of a run, a UUID.
///
/// Version 7 for a run that began while the bridge watched. A run that is known from the journal only has its
/// invocation id in the form of a UUID, so that it has the same id whenever it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(Uuid);

impl RunId {
    /// A new id; later ids sort after earlier ones.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id of a run that began before the bridge did.
    #[must_use]
    pub fn of_invocation(invocation: InvocationId) -> Self {
        Self(Uuid::from_bytes(*invocation.as_bytes()))
    }

    /// The invocation that this id would stand for, if it is one of [`RunId::of_invocation`].
    #[must_use]
    pub fn as_invocation(self) -> Option<InvocationId> {
        InvocationId::from_bytes(self.0.as_bytes())
    }

    /// The id of these 16 bytes, most significant first.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes, most significant first.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl FromStr for RunId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The verdict on a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunResult {
    /// It did all that it was to do.
    Success,
    /// Somebody stopped it before it was done.
    Stopped,
    /// It failed; systemd's word for it: `exit-code`, `signal`, `core-dump`, `timeout`, `watchdog`, `oom-kill`, …
    Failed(String),
    /// It has ended, but nobody knows any more how.
    Lost,
}

impl RunResult {
    /// The word of the API.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Success => "success",
            Self::Stopped => "stopped",
            Self::Failed(word) => word,
            Self::Lost => "lost",
        }
    }

    /// The verdict of [`RunResult::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        match word {
            "success" => Self::Success,
            "stopped" => Self::Stopped,
            "lost" => Self::Lost,
            word => Self::Failed(word.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_and_its_word_are_one() {
        for word in ["success", "stopped", "lost", "exit-code", "oom-kill"] {
            assert_eq!(RunResult::from_word(word).as_str(), word);
        }
        assert_eq!(RunResult::from_word("oom-kill"), RunResult::Failed("oom-kill".to_owned()));
    }

    #[test]
    fn the_id_of_an_invocation_leads_back_to_it() {
        let invocation = "00ff58e842da4a758f6c1cdc7b36dcc5".parse().unwrap();
        let id = RunId::of_invocation(invocation);
        assert_eq!(id.as_invocation(), Some(invocation));
        assert_eq!(RunId::from_bytes(*id.as_bytes()), id);
    }
}

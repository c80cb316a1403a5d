//! What the bridge calls a runner.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

use super::{ExternalId, SourceName};

/// The id of a runner, a UUID of version 8: the same for the same runner of the same source, also after the history was
/// lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunnerId(Uuid);

impl RunnerId {
    /// The id of a runner of a source.
    #[must_use]
    pub fn of(source: &SourceName, runner: &ExternalId) -> Self {
        // No name of a source has a byte 0.
        let hash =
            Sha256::new().chain_update(source.as_str()).chain_update([0]).chain_update(runner.as_str()).finalize();
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(hash).for_each(|(byte, hashed)| *byte = hashed);
        Self(Builder::from_custom_bytes(bytes).into_uuid())
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

impl FromStr for RunnerId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

impl Serialize for RunnerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for RunnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_from_source_and_runner_and_from_nothing_else() {
        let id = |source: &str, runner: &str| RunnerId::of(&source.parse().unwrap(), &ExternalId::new(runner));
        // Ids are in the history of users: this one must never change.
        assert_eq!(id("acme", "69").to_string(), "38252ee3-075f-86bc-b001-1f39f71a36c2");
        let ids = [id("acme", "69"), id("acme", "6"), id("lab", "69"), id("acme6", "9")];
        for (number, one) in ids.iter().enumerate() {
            assert_eq!(one.to_string().parse(), Ok(*one));
            assert_eq!(RunnerId::from_bytes(*one.as_bytes()), *one);
            assert!(!ids[..number].contains(one));
        }
    }
}

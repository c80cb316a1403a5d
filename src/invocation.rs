//! One start of a unit: the id that systemd gives it, and how its main process ended.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The id of one start of a unit: 128 bits, shown as 32 lower-case hexadecimal digits.
///
/// Source: `systemd.exec(5)`, `$INVOCATION_ID`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InvocationId([u8; 16]);

/// How the main process of a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MainExit {
    /// It exited by itself with this code.
    Code(u8),
    /// This signal ended it.
    Signal(i32),
}

/// The text is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an invocation id is 32 lower-case hexadecimal digits")]
pub struct NotAnInvocationId;

impl InvocationId {
    /// The id from the bytes of the D-Bus property `InvocationID`; `None` for the empty array of a unit that never ran
    /// or for the zero id.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let id: [u8; 16] = bytes.try_into().ok()?;
        (id != [0; 16]).then_some(Self(id))
    }

    /// The 16 bytes, most significant first.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl FromStr for InvocationId {
    type Err = NotAnInvocationId;

    fn from_str(text: &str) -> Result<Self, NotAnInvocationId> {
        let lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(lower_hex) {
            return Err(NotAnInvocationId);
        }
        let id = u128::from_str_radix(text, 16).map_err(|_| NotAnInvocationId)?;
        Self::from_bytes(&id.to_be_bytes()).ok_or(NotAnInvocationId)
    }
}

impl Serialize for InvocationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_id_are_one() {
        let text = "00ff58e842da4a758f6c1cdc7b36dcc5";
        assert_eq!(text.parse::<InvocationId>().unwrap().to_string(), text);
    }

    #[test]
    fn anything_else_is_no_id() {
        for text in ["", "00FF58e842da4a758f6c1cdc7b36dcc5", "+0ff58e842da4a758f6c1cdc7b36dcc5", &"0".repeat(32)] {
            assert_eq!(text.parse::<InvocationId>(), Err(NotAnInvocationId), "{text}");
        }
        assert_eq!(InvocationId::from_bytes(&[]), None);
    }
}

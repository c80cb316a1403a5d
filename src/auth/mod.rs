//! Who is asking, and what they may do: a presented token becomes a [`Caller`] through the [`Keyring`].
//!
//! Only SHA-256 hashes of tokens are kept. A token holds 256 random bits, so guessing is hopeless and a slow hash would
//! only let strangers use up the processor. Deliberately absent: where in a request a token may stand, and the policy
//! that names the allowed jobs; a caller's patterns only narrow it.

mod editor;
mod keyring;
mod pattern;
mod scope;
mod token;

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

pub use self::editor::{EditError, NewEntry, TokensEditor};
pub use self::keyring::{Caller, Change, Entry, Keyring, NotATokenHash, TokenHash, TokenName, TokenNameError, What};
pub use self::pattern::{JobPattern, PatternError};
pub use self::scope::{NotAScope, Scope};
pub use self::token::{Token, TokenError};

/// What a token was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Start, stop and read.
    ReadWrite,
    /// Read.
    ReadOnly,
}

/// The text is neither `rw` nor `ro`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("access is `rw` (start, stop and read) or `ro` (read)")]
pub struct NotAnAccess;

impl FromStr for Access {
    type Err = NotAnAccess;

    fn from_str(text: &str) -> Result<Self, NotAnAccess> {
        match text {
            "rw" => Ok(Self::ReadWrite),
            "ro" => Ok(Self::ReadOnly),
            _ => Err(NotAnAccess),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadWrite => "rw",
            Self::ReadOnly => "ro",
        })
    }
}

/// Why a token was not accepted. No variant holds any of the token.
///
/// Except for [`Denial::Malformed`] and [`Denial::Unknown`] the token was the right one, so its owner may be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// It starts like a token of the bridge but its form or its checksum is wrong.
    #[error("the token is damaged; copy all of it again")]
    Malformed,
    /// No entry has its hash.
    #[error("the token is not known here; ask the administrator for one (`ci-bridge token new`)")]
    Unknown,
    /// Its time is over.
    #[error("the token expired at {at}; ask the administrator for a new one (`ci-bridge token new`)")]
    Expired {
        /// The end of its time.
        at: Timestamp,
    },
    /// Its time has not come, or a clock is wrong.
    #[error("the token is valid from {from}; the server's time is {now}")]
    NotYetValid {
        /// The beginning of its time.
        from: Timestamp,
        /// The server's time.
        now: Timestamp,
    },
    /// The administrator withdrew it.
    #[error("the token was revoked; ask the administrator for a new one (`ci-bridge token new`)")]
    Revoked,
}

impl Denial {
    /// The reason as a word for programs; it never changes.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Unknown => "token_unknown",
            Self::Expired { .. } => "token_expired",
            Self::NotYetValid { .. } => "token_not_yet_valid",
            Self::Revoked => "token_revoked",
        }
    }
}

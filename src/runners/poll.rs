//! The outcome of reading a source once.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::runners::seen::Seen;

/// The outcome of reading the whole list of a source once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// When the first request was sent, by the wall clock; what was told is at least as new.
    pub at: Timestamp,
    /// All runners of the source, each id once, or why nothing is known of any of them. Never a part of the list; one
    /// that went while the list was read may still be in it.
    pub result: Result<Vec<Seen>, PollError>,
    /// What the service said last about how many requests it still takes.
    pub quota: Option<Quota>,
    /// Before this time another poll makes no sense. The source itself refuses one while a rate limit lasts.
    pub not_before: Option<Timestamp>,
    /// How many requests were sent, by the status of the answer; `None` counts those without a whole one.
    pub requests: BTreeMap<Option<u16>, u32>,
}

/// How many requests a service still takes from this token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The number allowed in a period.
    pub limit: u64,
    /// The number left in this one.
    pub left: u64,
    /// When the next period begins.
    pub reset_at: Timestamp,
}

/// Why a poll told nothing, split by what can be done about it.
///
/// Neither the token nor anything from the body of an answer is in a message. None of these says anything about the
/// state of a runner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PollError {
    /// There is no token to send.
    #[error("the token cannot be used: {0}")]
    Credential(String),
    /// 401: the service does not know the token.
    #[error("the service refuses the token; it is wrong, revoked or expired: write a new one into its file")]
    Unauthorized,
    /// 403, and no limit is the reason.
    #[error("the token may not list these runners; it needs {needs}")]
    Forbidden {
        /// The permission that is missing.
        needs: &'static str,
    },
    /// 404: no such place, or none that the token may know of.
    #[error(
        "the service knows no such {place}, or hides it from this token; check its name, and that the token has {needs}"
    )]
    NotFound {
        /// What was asked for, such as ``organization `acme` ``.
        place: String,
        /// The permission that the token needs to see it.
        needs: &'static str,
    },
    /// 410: this version of the interface is gone.
    #[error(
        "the service no longer has this version of its interface; set `api_version` to a newer one, or update ci-bridge"
    )]
    Gone,
    /// Too many requests. Nothing is sent before the limit ends.
    #[error("the service takes no more requests before {until}; make `interval` longer if this happens often")]
    RateLimited {
        /// When it takes requests again.
        until: Timestamp,
    },
    /// A 5xx: the service is in trouble.
    #[error("the service answered with status {status}; it is in trouble, see its status page")]
    Service {
        /// The status.
        status: u16,
    },
    /// No connection, so that nothing was sent.
    #[error("the service cannot be reached: {0}")]
    NotConnected(String),
    /// A connection that broke.
    #[error("the service cannot be reached: {0}")]
    Unreachable(String),
    /// No whole answer in time.
    #[error("the service did not answer within {} s", after.as_secs())]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// An answer that leads to another place. The token is never sent there.
    #[error("the service redirects to {to}; if that is right, set `api` to it")]
    Redirected {
        /// Scheme, host and port of the other place, or what stands instead of them.
        to: String,
    },
    /// The link to the next page leads to another host. The token is never sent there.
    #[error("the next page of the list is said to be at {to}, which is not the configured service; check `api`")]
    ForeignLink {
        /// Scheme, host and port of the other place, or what stands instead of them.
        to: String,
    },
    /// An answer that is not of this interface: a log-in page, a proxy's page, half of a document.
    #[error("the answer is not understood: {0}; check that `api` is the address of the interface")]
    NotUnderstood(String),
    /// An answer beyond any sense.
    #[error("the answer is too large: {0}")]
    TooLarge(String),
    /// The list lacks runners, also when it is read again. The next poll may tell.
    #[error("the list is not whole: {0}")]
    Incomplete(String),
    /// A status that nothing is known of.
    #[error("the service answered with the unexpected status {status}")]
    Status {
        /// The status.
        status: u16,
    },
}

impl PollError {
    /// A word for it that stays the same, for metrics and the history: `unauthorized`, `rate-limited`, …
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Credential(_) => "credential",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden { .. } => "forbidden",
            Self::NotFound { .. } => "not-found",
            Self::Gone => "gone",
            Self::RateLimited { .. } => "rate-limited",
            Self::Service { .. } => "service-error",
            Self::NotConnected(_) | Self::Unreachable(_) => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Redirected { .. } => "redirected",
            Self::ForeignLink { .. } => "foreign-link",
            Self::NotUnderstood(_) => "not-understood",
            Self::TooLarge(_) => "too-large",
            Self::Incomplete(_) => "list-incomplete",
            Self::Status { .. } => "unexpected-status",
        }
    }
}

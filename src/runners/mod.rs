//! The fleet: self-hosted runners as GitHub and GitLab tell of them.
//!
//! A source is one list of runners at one service; reading it once gives a [`Poll`]. Deliberately absent: what follows
//! from a poll (transitions, uptime, alerts) and when the next one is.

mod poll;
mod seen;

pub use self::poll::{Poll, PollError, Quota};
pub use self::seen::{ExternalId, Kind, Provider, Seen};
pub use crate::config::{NotASourceName, SourceName};

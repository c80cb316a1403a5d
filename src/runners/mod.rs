//! The fleet: self-hosted runners as GitHub and GitLab tell of them.
//!
//! A source is one list of runners at one service; reading it once gives a [`Poll`]. What follows from it for the runners
//! is in [`transitions`], and what part of a time they were online in [`uptime`]. Deliberately absent: where any of this is
//! kept, who is told of it, and when the next poll is.

mod identity;
mod poll;
pub mod poller;
mod seen;
pub mod transitions;
pub mod uptime;

pub use self::identity::RunnerId;
pub use self::poll::{Poll, PollError, Quota};
pub use self::seen::{ExternalId, Kind, Provider, Seen};
pub use crate::config::{NotASourceName, SourceName};

//! The fleet: self-hosted runners as GitHub and GitLab tell of them.
//!
//! A [`Source`] is one list of runners at one service; reading it once gives a [`Poll`], which is the whole list or
//! nothing. What follows from it for the runners is in [`transitions`], what part of a time they were online in
//! [`uptime`], and when the next poll is in [`poller`]. Deliberately absent: where any of this is kept, and who is told.

mod github;
pub mod gitlab;
mod header;
mod identity;
mod limits;
mod link;
mod list;
mod poll;
pub mod poller;
mod secret;
mod seen;
mod service;
pub mod transitions;
pub mod uptime;

use std::path::Path;

use self::github::GitHub;
use self::gitlab::GitLab;
use self::gitlab::manage::Management;
pub use self::identity::RunnerId;
pub use self::poll::{Poll, PollError, Quota};
pub use self::seen::{ExternalId, Kind, Provider, Seen};
pub use crate::config::{NotASourceName, SourceName};
use crate::config::{RunnerList, RunnerSource};

/// A list of runners that can be read.
pub struct Source {
    name: SourceName,
    service: Service,
}

enum Service {
    GitHub(Box<GitHub>),
    GitLab(Box<GitLab>),
}

/// A source that can't ever be read, because TLS can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up; are certificates of authorities installed (package ca-certificates)?")]
pub struct OpenError(#[from] reqwest::Error);

impl Source {
    /// Opens a source, without asking its service anything.
    ///
    /// `credentials` is the directory with systemd's credentials, `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    ///
    /// # Errors
    /// If the system has no certificates of authorities.
    pub fn open(source: &RunnerSource, credentials: Option<&Path>) -> Result<Self, OpenError> {
        let service = match &source.list {
            RunnerList::GitHub { scope, access, api_version } => {
                Service::GitHub(Box::new(GitHub::open(source, scope, access, api_version, credentials)?))
            }
            RunnerList::GitLab { scope, token, auth, details } => {
                Service::GitLab(Box::new(GitLab::open(source, scope, token, *auth, *details, credentials)?))
            }
        };
        Ok(Self { name: source.name.clone(), service })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &SourceName {
        &self.name
    }

    /// The service that it is read from.
    #[must_use]
    pub fn provider(&self) -> Provider {
        match self.service {
            Service::GitHub(_) => Provider::GitHub,
            Service::GitLab(_) => Provider::GitLab,
        }
    }

    /// A way to change the runners of this source, with its token; `None` if it is one of GitHub.
    ///
    /// It works beside [`Source::poll`]. A limit that the service tells either of them holds for both.
    #[must_use]
    pub fn management(&self) -> Option<Management> {
        match &self.service {
            Service::GitHub(_) => None,
            Service::GitLab(gitlab) => Some(gitlab.management()),
        }
    }

    /// Reads the whole list once, by one request after the other.
    ///
    /// While a limit of the service lasts, nothing is sent, and the poll says so. May be cancelled; what was read so far
    /// is then forgotten.
    pub async fn poll(&mut self) -> Poll {
        match &mut self.service {
            Service::GitHub(github) => github.poll().await,
            Service::GitLab(gitlab) => gitlab.poll().await,
        }
    }
}

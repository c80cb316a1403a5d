//! Changing runners of GitLab, beside the polls: one call after the other for each list.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use super::Runners;
use crate::runners::SourceName;
use crate::runners::gitlab::manage::{ManageError, Management};
use crate::runners::poller::Trigger;

/// Why nothing can be asked of a list's service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// The list is not configured.
    #[error("there is no list of runners `{0}`, or it is not watched any more; GET /api/sources has those there are")]
    NotWatched(SourceName),
    /// The list is one of GitHub.
    #[error("`{0}` is a list of GitHub, and only runners of GitLab are managed here; use GitHub's own pages")]
    NotGitLab(SourceName),
    /// Others were asking all the time.
    #[error("too much is being asked of the GitLab of `{0}` already, so this was not; try again in a moment")]
    Busy(SourceName),
}

/// The management of one list, and how long to wait for it.
pub(super) struct Managed {
    management: Mutex<Management>,
    patience: Duration,
}

impl Managed {
    /// `timeout` is that of one answer of the service.
    pub(super) fn new(management: Management, timeout: Duration) -> Self {
        Self { management: Mutex::new(management), patience: timeout }
    }
}

/// The right to ask the GitLab of a list, held by one caller at a time, in the order in which they came.
pub struct Turn<'a> {
    management: MutexGuard<'a, Management>,
    trigger: &'a Trigger,
}

impl Runners {
    /// Waits until it is this caller's turn to ask the GitLab of `source`: at most for as long as one of its answers may
    /// take.
    ///
    /// # Errors
    /// [`TurnError`]; nothing was asked then.
    pub async fn turn(&self, source: &SourceName) -> Result<Turn<'_>, TurnError> {
        let listed = self.listed(source).ok_or_else(|| TurnError::NotWatched(source.clone()))?;
        let managed = listed.managed.as_ref().ok_or_else(|| TurnError::NotGitLab(source.clone()))?;
        let waiting = tokio::time::timeout(managed.patience, managed.management.lock());
        let management = waiting.await.map_err(|_elapsed| TurnError::Busy(source.clone()))?;
        Ok(Turn { management, trigger: &listed.trigger })
    }
}

impl Deref for Turn<'_> {
    type Target = Management;

    fn deref(&self) -> &Management {
        &self.management
    }
}

impl DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut Management {
        &mut self.management
    }
}

impl Turn<'_> {
    /// Ends the turn with what a change came to. If it was made, or may have been, the list is polled now.
    ///
    /// # Errors
    /// That of the change.
    pub fn end<T>(self, came: Result<T, ManageError>) -> Result<T, ManageError> {
        if matches!(came, Ok(_) | Err(ManageError::Uncertain(_))) {
            self.trigger.pull();
        }
        came
    }
}

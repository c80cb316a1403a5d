//! A runner as its service told of it.

use std::fmt;

use jiff::Timestamp;

/// A service that has runners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Provider {
    /// github.com or a GitHub Enterprise Server.
    GitHub,
    /// gitlab.com or a self-managed GitLab.
    GitLab,
}

impl Provider {
    /// All services.
    pub const ALL: [Self; 2] = [Self::GitHub, Self::GitLab];

    /// The word of the API and of the history: `github` or `gitlab`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GitHub => "github",
            Self::GitLab => "gitlab",
        }
    }

    /// The provider of [`Provider::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.as_str() == word)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a service calls a runner; unique within the service, never used again, and kept over a rename.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExternalId(String);

impl ExternalId {
    /// The id as the service wrote it.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id as the service wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose runner it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A GitHub repository's.
    Repository,
    /// A GitHub organisation's.
    Organization,
    /// A GitHub enterprise's.
    Enterprise,
    /// A whole GitLab's.
    Instance,
    /// A GitLab group's.
    Group,
    /// A GitLab project's.
    Project,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Repository, Self::Organization, Self::Enterprise, Self::Instance, Self::Group, Self::Project];

    /// The word of the API and of the history, such as `organization`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Organization => "organization",
            Self::Enterprise => "enterprise",
            Self::Instance => "instance",
            Self::Group => "group",
            Self::Project => "project",
        }
    }

    /// The kind of [`Kind::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A runner as its service told of it in one poll; `None` is what the service did not tell.
///
/// All texts are foreign: any length up to the bound of a page, and any character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What tells it from all others of its source.
    pub external_id: ExternalId,
    /// What people call it: GitHub's name, GitLab's description. Several may have the same.
    pub name: String,
    /// The operating system, as the service spells it: `linux`, `macos` or `darwin`, `windows`, …
    pub os: Option<String>,
    /// Labels of GitHub, tags of GitLab, in the order of the service.
    pub labels: Vec<String>,
    /// Whether it is connected; `None` if the service can't tell, because it has never heard of the runner.
    ///
    /// GitLab calls a runner connected for two hours after it was last heard of.
    pub online: Option<bool>,
    /// The service's own word for its state. GitLab's says `paused` instead of whether a paused runner is connected.
    pub status: String,
    /// Whether it runs a job. A hint: GitHub's may be wrong for as long as the job lasts.
    pub busy: Option<bool>,
    /// Whether it takes no new jobs. GitHub knows no such state.
    pub paused: Option<bool>,
    /// Whether it takes one job only and is removed after it.
    pub ephemeral: Option<bool>,
    /// The version of the runner's program.
    pub version: Option<String>,
    /// Whose it is, if that is known.
    pub kind: Option<Kind>,
    /// A time at which the service heard of it; it may have heard of it since. GitHub does not say.
    pub contacted_at: Option<Timestamp>,
    /// Whether other projects may not be given it (GitLab).
    pub locked: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_a_provider_and_their_words_are_one() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_word(kind.as_str()), Some(kind));
        }
        for provider in [Provider::GitHub, Provider::GitLab] {
            assert_eq!(Provider::from_word(provider.as_str()), Some(provider));
        }
        assert_eq!(Kind::from_word("shared"), None);
        assert_eq!(Provider::from_word("gitea"), None);
    }
}

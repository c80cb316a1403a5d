//! What a token may do besides what its access says.

use std::fmt;
use std::str::FromStr;

/// A right that a token has only if its entry names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Read the audit: what everybody did, with all jobs.
    Audit,
    /// Manage the runners of GitLab: create, change and delete them.
    Runners,
}

/// The text is no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scope is `audit` (read what everybody did) or `runners` (manage runners of GitLab)")]
pub struct NotAScope;

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        match text {
            "audit" => Ok(Self::Audit),
            "runners" => Ok(Self::Runners),
            _ => Err(NotAScope),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Audit => "audit",
            Self::Runners => "runners",
        })
    }
}

//! Sources that ask the fake.

use std::path::PathBuf;
use std::time::Duration;

use ci_bridge::config::{
    GitHubAccess, GitHubScope, GitLabAuth, GitLabScope, Grace, RunnerList, RunnerSource, SecretPlace,
};
use ci_bridge::runners::{Poll, PollError, Seen, Source};
use tempfile::TempDir;

use crate::fleet::Fleet;

/// A file with a secret in it.
pub(crate) struct SecretFile {
    directory: TempDir,
}

impl SecretFile {
    pub(crate) fn with(secret: &str) -> Self {
        let file = Self { directory: tempfile::tempdir().unwrap() };
        file.write(secret);
        file
    }

    pub(crate) fn write(&self, secret: &str) {
        std::fs::write(self.path(), format!("{secret}\n")).unwrap();
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("secret")
    }

    pub(crate) fn place(&self) -> SecretPlace {
        SecretPlace::File(self.path())
    }
}

/// A list of runners at `api`.
pub(crate) fn source(api: &str, list: RunnerList) -> RunnerSource {
    RunnerSource {
        name: "acme".parse().unwrap(),
        api: api.parse().unwrap(),
        interval: Duration::from_mins(1),
        grace: Grace::Polls(3),
        ephemeral: true,
        doubt_mass_removal: true,
        public_badges: false,
        timeout: Duration::from_secs(20),
        list,
    }
}

pub(crate) fn github_list(scope: GitHubScope, token: &SecretFile) -> RunnerList {
    let access = GitHubAccess::Token(token.place());
    RunnerList::GitHub { scope, access, api_version: "2022-11-28".to_owned() }
}

/// A source and the file of its token.
pub(crate) struct Watched {
    pub(crate) source: Source,
    pub(crate) token: SecretFile,
}

impl Watched {
    /// The organisation `acme`, asked with the right token.
    pub(crate) fn acme(fleet: &Fleet) -> Self {
        Self::acme_within(fleet, Duration::from_secs(20))
    }

    /// As [`Watched::acme`], with another time for an answer.
    pub(crate) fn acme_within(fleet: &Fleet, timeout: Duration) -> Self {
        let token = SecretFile::with("ghp-good");
        let list = github_list(GitHubScope::Organization("acme".to_owned()), &token);
        let settings = RunnerSource { timeout, ..source(&fleet.github_api(), list) };
        Self { source: Source::open(&settings, None).unwrap(), token }
    }

    /// All runners of the GitLab, asked with the right token, and details of at most so many of them.
    pub(crate) fn lab(fleet: &Fleet, details: u32) -> Self {
        let token = SecretFile::with("glpat-good");
        let list = RunnerList::GitLab {
            scope: GitLabScope::Instance,
            token: token.place(),
            auth: GitLabAuth::PrivateToken,
            details,
        };
        Self { source: Source::open(&source(&fleet.gitlab_api(), list), None).unwrap(), token }
    }

    pub(crate) async fn poll(&mut self) -> Poll {
        self.source.poll().await
    }

    pub(crate) async fn seen(&mut self) -> Vec<Seen> {
        self.poll().await.result.unwrap()
    }

    pub(crate) async fn error(&mut self) -> PollError {
        self.poll().await.result.unwrap_err()
    }
}

/// Names and states, in the order of the list.
pub(crate) fn names(seen: &[Seen]) -> Vec<(&str, Option<bool>)> {
    seen.iter().map(|runner| (runner.name.as_str(), runner.online)).collect()
}

/// How many requests a poll took.
pub(crate) fn sent(poll: &Poll) -> u32 {
    poll.requests.values().sum()
}

//! Reading lists of runners from GitHub and GitLab, both played on the loopback.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "what a test can't do without ends it")]

#[path = "../support/fleet/mod.rs"]
mod fleet;
#[path = "../support/logged.rs"]
mod logged;

mod faults;
mod github;
mod gitlab;
mod manage;
mod payloads;
mod secrets;
mod support;

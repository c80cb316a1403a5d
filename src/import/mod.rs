//! The configuration of another monitor, as settings of this bridge.
//!
//! What comes out is read by [`crate::config`], does the same as far as the bridge can, and says in comments where it does
//! not. Secrets are kept apart from it, each for a file of its own. Functions of a text: absent are files, and any question
//! to a service whether a token or an address still works.

mod gh_runner_uptime;
mod yaml;

use std::collections::BTreeMap;

use secrecy::SecretString;

pub use self::gh_runner_uptime::gh_runner_uptime;

/// What another monitor's configuration means here.
#[derive(Debug)]
pub struct Imported {
    /// Sections for the end of the settings file, without a secret in them.
    pub toml: String,
    /// The secrets by the names of their files, which `toml` refers to.
    pub secrets: BTreeMap<String, SecretString>,
}

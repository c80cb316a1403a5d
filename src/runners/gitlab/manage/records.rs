//! What is sent to GitLab about runners, and what it answers.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::runners::gitlab::shape;
use crate::runners::secret;
use crate::runners::seen::Kind;

/// Whose a new runner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The whole GitLab's.
    Instance,
    /// That of the group with this number.
    Group(u64),
    /// That of the project with this number.
    Project(u64),
}

/// Which jobs a runner takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLevel {
    /// Of any branch.
    NotProtected,
    /// Only of protected branches and tags.
    RefProtected,
}

impl AccessLevel {
    /// GitLab's word: `not_protected` or `ref_protected`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotProtected => "not_protected",
            Self::RefProtected => "ref_protected",
        }
    }
}

/// A runner to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRunner {
    /// Whose it is.
    pub owner: Owner,
    /// What people call it.
    pub description: String,
    /// The jobs that it takes have all their tags among these.
    pub tags: Vec<String>,
    /// Whether it takes jobs without tags too. Needed if it has no tags.
    pub run_untagged: bool,
    /// Whether it takes no jobs for now.
    pub paused: bool,
    /// Whether other projects may not be given it.
    pub locked: bool,
    /// Which jobs it takes; GitLab's default is [`AccessLevel::NotProtected`].
    pub access_level: Option<AccessLevel>,
    /// The longest time of a job, in whole seconds; GitLab wants at least ten minutes.
    pub maximum_timeout: Option<Duration>,
    /// A note for administrators, at most 1024 characters.
    pub maintenance_note: Option<String>,
}

impl NewRunner {
    pub(super) fn to_json(&self) -> Map<String, Value> {
        let (kind, place) = match self.owner {
            Owner::Instance => ("instance_type", None),
            Owner::Group(id) => ("group_type", Some(("group_id", id))),
            Owner::Project(id) => ("project_type", Some(("project_id", id))),
        };
        let fixed = [
            ("runner_type", json!(kind)),
            ("description", json!(self.description)),
            ("tag_list", json!(self.tags)),
            ("run_untagged", json!(self.run_untagged)),
            ("paused", json!(self.paused)),
            ("locked", json!(self.locked)),
        ];
        let optional = [
            place.map(|(key, id)| (key, json!(id))),
            self.access_level.map(|level| ("access_level", json!(level.as_str()))),
            self.maximum_timeout.map(|timeout| ("maximum_timeout", json!(timeout.as_secs()))),
            self.maintenance_note.as_ref().map(|note| ("maintenance_note", json!(note))),
        ];
        fixed.into_iter().chain(optional.into_iter().flatten()).map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// What is to be another way; `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// What people call it.
    pub description: Option<String>,
    /// Whether it takes no jobs.
    pub paused: Option<bool>,
    /// All its tags; those that are not among these are gone.
    pub tags: Option<Vec<String>>,
    /// Whether it takes jobs without tags.
    pub run_untagged: Option<bool>,
    /// Whether other projects may not be given it.
    pub locked: Option<bool>,
    /// Which jobs it takes.
    pub access_level: Option<AccessLevel>,
    /// The longest time of a job, in whole seconds; GitLab wants at least ten minutes.
    pub maximum_timeout: Option<Duration>,
    /// A note for administrators, at most 1024 characters.
    pub maintenance_note: Option<String>,
}

impl Change {
    pub(super) fn to_json(&self) -> Map<String, Value> {
        let changes = [
            self.description.as_ref().map(|text| ("description", json!(text))),
            self.paused.map(|paused| ("paused", json!(paused))),
            self.tags.as_ref().map(|tags| ("tag_list", json!(tags))),
            self.run_untagged.map(|run| ("run_untagged", json!(run))),
            self.locked.map(|locked| ("locked", json!(locked))),
            self.access_level.map(|level| ("access_level", json!(level.as_str()))),
            self.maximum_timeout.map(|timeout| ("maximum_timeout", json!(timeout.as_secs()))),
            self.maintenance_note.as_ref().map(|note| ("maintenance_note", json!(note))),
        ];
        changes.into_iter().flatten().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// A runner and its authentication token.
#[derive(Debug, Clone, Deserialize)]
pub struct Created {
    /// The runner's number.
    pub id: u64,
    /// Its authentication token; GitLab never tells it again.
    #[serde(flatten)]
    pub token: RunnerToken,
}

/// An authentication token of a runner.
#[derive(Debug, Clone, Deserialize)]
pub struct RunnerToken {
    /// The token.
    #[serde(deserialize_with = "secret::deserialize")]
    pub token: SecretString,
    /// When it ends, if ever.
    #[serde(rename = "token_expires_at")]
    pub expires_at: Option<Timestamp>,
}

/// All that GitLab tells of a runner; `None` is what this GitLab does not tell.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Runner {
    /// Its number.
    pub id: u64,
    /// What people call it.
    pub description: Option<String>,
    /// Whether it takes no jobs.
    pub paused: Option<bool>,
    /// Whether it is connected; `None` also if it never was.
    pub online: Option<bool>,
    /// GitLab's word for its state; for a paused runner it is `paused`, connected or not.
    pub status: Option<String>,
    /// Whose it is.
    #[serde(rename = "runner_type", default, deserialize_with = "kind")]
    pub kind: Option<Kind>,
    /// Its tags.
    #[serde(rename = "tag_list", default)]
    pub tags: Vec<String>,
    /// When GitLab last heard of it.
    pub contacted_at: Option<Timestamp>,
    /// Whether it takes jobs without tags.
    pub run_untagged: Option<bool>,
    /// Whether other projects may not be given it.
    pub locked: Option<bool>,
    /// Which jobs it takes: `not_protected` or `ref_protected`.
    pub access_level: Option<String>,
    /// The longest time of a job, in seconds.
    pub maximum_timeout: Option<u64>,
    /// A note for administrators.
    pub maintenance_note: Option<String>,
    /// The projects that use it, as far as the token's owner may know.
    #[serde(default)]
    pub projects: Vec<Place>,
    /// The groups that use it, as far as the token's owner may know.
    #[serde(default)]
    pub groups: Vec<Place>,
}

/// A project or a group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Place {
    /// Its number.
    pub id: u64,
    /// A project's full path.
    pub path_with_namespace: Option<String>,
    /// A project's or group's name.
    pub name: Option<String>,
}

/// A process that takes jobs for a runner.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Manager {
    /// Its number.
    pub id: u64,
    /// What it calls its machine.
    pub system_id: String,
    /// The version of its program.
    pub version: Option<String>,
    /// The operating system: `linux`, `darwin`, `windows`, …
    pub platform: Option<String>,
    /// The processor: `amd64`, `arm64`, …
    pub architecture: Option<String>,
    /// When it first connected.
    pub created_at: Option<Timestamp>,
    /// When GitLab last heard of it.
    pub contacted_at: Option<Timestamp>,
    /// Where it connected from.
    pub ip_address: Option<String>,
    /// GitLab's word for its state: `online`, `offline`, `stale`, `never_contacted`.
    pub status: Option<String>,
}

/// What jobs may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStatus {
    /// It runs.
    Running,
    /// It did all that it was to do.
    Success,
    /// It failed.
    Failed,
    /// Somebody stopped it.
    Canceled,
}

impl JobStatus {
    /// GitLab's word: `running`, `success`, `failed`, `canceled`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

/// Which jobs come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Those that were made last.
    #[default]
    NewestFirst,
    /// Those that were made first.
    OldestFirst,
}

impl Order {
    /// GitLab's word: `desc` or `asc`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NewestFirst => "desc",
            Self::OldestFirst => "asc",
        }
    }
}

/// A job that a runner took.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// What it is called in the pipeline.
    pub name: String,
    /// The stage of the pipeline.
    pub stage: Option<String>,
    /// GitLab's word: `running`, `success`, `failed`, `canceled`, …
    pub status: String,
    /// The branch or tag.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How long it ran, in seconds.
    pub duration: Option<f64>,
    /// How long it waited for a runner, in seconds.
    pub queued_duration: Option<f64>,
    /// Its page.
    pub web_url: Option<String>,
    /// Its project.
    pub project: Option<Place>,
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Kind>, D::Error> {
    let word = Option::<String>::deserialize(deserializer)?;
    Ok(word.as_deref().and_then(shape::kind))
}

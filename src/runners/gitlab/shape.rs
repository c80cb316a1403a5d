//! What GitLab sends.
//!
//! Only ids are required here, and nothing that is unknown is refused: GitLab servers of several years are asked.

use jiff::Timestamp;
use serde::Deserialize;

use crate::runners::seen::{ExternalId, Kind, Seen};

/// A runner in a list.
#[derive(Deserialize)]
pub(super) struct Listed {
    id: u64,
    description: Option<String>,
    name: Option<String>,
    active: Option<bool>,
    paused: Option<bool>,
    online: Option<bool>,
    status: Option<String>,
    runner_type: Option<String>,
    job_execution_status: Option<String>,
}

impl Listed {
    pub(super) fn seen(self) -> Seen {
        let status = self.status.unwrap_or_default();
        let online = match (self.online, status.as_str()) {
            // GitLab counts a runner that it never heard of among those that are not connected.
            (_, "never_contacted" | "not_connected") => None,
            (None, "offline" | "stale") => Some(false),
            (online, _) => online,
        };
        let named = [self.description, self.name].into_iter().flatten().find(|name| !name.is_empty());
        Seen {
            name: named.unwrap_or_else(|| format!("#{}", self.id)),
            external_id: ExternalId::new(self.id.to_string()),
            os: None,
            labels: Vec::new(),
            online,
            status,
            busy: self.job_execution_status.map(|status| status != "idle"),
            // Before GitLab 14.8 there was only the opposite.
            paused: self.paused.or(self.active.map(|active| !active)),
            ephemeral: None,
            version: None,
            kind: self.runner_type.as_deref().and_then(kind),
            contacted_at: None,
            locked: None,
        }
    }
}

pub(super) fn kind(word: &str) -> Option<Kind> {
    match word {
        "instance_type" => Some(Kind::Instance),
        "group_type" => Some(Kind::Group),
        "project_type" => Some(Kind::Project),
        _ => None,
    }
}

/// What only the details of a runner tell.
#[derive(Deserialize)]
pub(super) struct RunnerDetails {
    #[serde(default)]
    pub(super) tag_list: Option<Vec<String>>,
    pub(super) version: Option<String>,
    pub(super) platform: Option<String>,
    pub(super) contacted_at: Option<Timestamp>,
    pub(super) locked: Option<bool>,
}

/// A process that takes jobs for a runner; since GitLab 17.0 only these have a version.
#[derive(Deserialize)]
pub(super) struct Manager {
    pub(super) version: Option<String>,
    pub(super) platform: Option<String>,
    pub(super) contacted_at: Option<Timestamp>,
}

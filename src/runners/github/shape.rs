//! What GitHub sends.
//!
//! Only what its schema requires is required here, and nothing that is unknown is refused: Enterprise Servers of
//! several years are asked.

use serde::Deserialize;

use crate::runners::seen::{ExternalId, Kind, Seen};

#[derive(Deserialize)]
pub(super) struct Runners {
    pub(super) total_count: u64,
    pub(super) runners: Vec<Runner>,
}

#[derive(Deserialize)]
pub(super) struct Runner {
    id: u64,
    name: String,
    os: Option<String>,
    status: String,
    busy: Option<bool>,
    #[serde(default)]
    labels: Vec<Label>,
    ephemeral: Option<bool>,
    version: Option<String>,
}

#[derive(Deserialize)]
struct Label {
    name: String,
}

impl Runner {
    pub(super) fn seen(self, kind: Kind) -> Seen {
        Seen {
            external_id: ExternalId::new(self.id.to_string()),
            name: self.name,
            os: self.os.filter(|os| !os.is_empty() && os != "unknown"),
            labels: self.labels.into_iter().map(|label| label.name).collect(),
            online: Some(self.status == "online"),
            status: self.status,
            busy: self.busy,
            paused: None,
            ephemeral: self.ephemeral,
            version: self.version.filter(|version| !version.is_empty()),
            kind: Some(kind),
            contacted_at: None,
            locked: None,
        }
    }
}

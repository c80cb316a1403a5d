//! What the list of runners does not tell, asked of a few runners in each poll and remembered.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use tokio::time::Instant;

use super::shape::{Manager, RunnerDetails};
use crate::config::ApiUrl;
use crate::runners::poll::PollError;
use crate::runners::seen::{ExternalId, Seen};
use crate::runners::service::Service;

/// How long what was told counts as true.
const FRESH: Duration = Duration::from_hours(1);

/// Runners that were changed from here, so that what is known of them counts no more. Clones have the same ones.
#[derive(Clone, Default)]
pub(super) struct Changed(Arc<Mutex<HashSet<ExternalId>>>);

impl Changed {
    pub(super) fn add(&self, id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(ExternalId::new(id.to_string()));
    }

    fn take(&self) -> HashSet<ExternalId> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct Details {
    api: ApiUrl,
    /// How many runners are asked about in a poll.
    budget: usize,
    known: HashMap<ExternalId, Known>,
    changed: Changed,
}

/// What was told of a runner.
struct Known {
    told_at: Instant,
    /// Whether it was connected then.
    online: Option<bool>,
    /// Whether it was changed from here since.
    changed: bool,
    told: Told,
}

/// All empty if the token may not know.
#[derive(Default)]
struct Told {
    tags: Vec<String>,
    version: Option<String>,
    platform: Option<String>,
    contacted_at: Option<Timestamp>,
    locked: Option<bool>,
}

impl Details {
    pub(super) fn new(api: ApiUrl, budget: u32, changed: Changed) -> Self {
        Self { api, budget: budget as usize, known: HashMap::new(), changed }
    }

    /// Adds to `runners` what is known of them, after asking about those of which least is.
    ///
    /// What can't be had stays as it was: a list of runners is worth telling without it.
    pub(super) async fn complete(&mut self, service: &mut Service, headers: &HeaderMap, runners: &mut [Seen]) {
        let listed: HashSet<&ExternalId> = runners.iter().map(|runner| &runner.external_id).collect();
        self.known.retain(|id, _| listed.contains(id));
        for id in self.changed.take() {
            if let Some(known) = self.known.get_mut(&id) {
                known.changed = true;
            }
        }
        for (id, online) in self.wanted(runners) {
            match self.ask(service, headers, &id).await {
                Ok(told) => {
                    self.known.insert(id, Known { told_at: Instant::now(), online, changed: false, told });
                }
                Err(error) => {
                    log::debug!("details of runner {id} are not to be had: {error}");
                    break;
                }
            }
        }
        for runner in runners {
            let Some(Known { told, .. }) = self.known.get(&runner.external_id) else { continue };
            runner.labels.clone_from(&told.tags);
            runner.version.clone_from(&told.version);
            runner.os.clone_from(&told.platform);
            runner.contacted_at = told.contacted_at;
            runner.locked = told.locked;
        }
    }

    /// The runners to ask about: first unknown ones, then those that were changed, then those that came or went, then
    /// those asked longest ago.
    fn wanted(&self, runners: &[Seen]) -> Vec<(ExternalId, Option<bool>)> {
        let mut wanted: Vec<_> = runners
            .iter()
            .filter_map(|runner| {
                let rank = match self.known.get(&runner.external_id) {
                    None => (0, None),
                    Some(known) if known.changed => (1, Some(known.told_at)),
                    Some(known) if known.online != runner.online => (2, Some(known.told_at)),
                    Some(known) if known.told_at.elapsed() >= FRESH => (3, Some(known.told_at)),
                    Some(_) => return None,
                };
                Some((rank, runner))
            })
            .collect();
        wanted.sort_by_key(|(rank, _)| *rank);
        wanted.truncate(self.budget);
        wanted.into_iter().map(|(_, runner)| (runner.external_id.clone(), runner.online)).collect()
    }

    async fn ask(&self, service: &mut Service, headers: &HeaderMap, id: &ExternalId) -> Result<Told, PollError> {
        let url = self.api.join(&["runners", id.as_str()]);
        let answer = service.get(url, headers.clone()).await?;
        match answer.status {
            StatusCode::OK => {}
            // Of a runner that is only lent to a group, the group's owner sees no more than that it is there.
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => return Ok(Told::default()),
            _ => return Err(service.refusal(&answer)),
        }
        let details: RunnerDetails = answer.json()?;
        let mut told = Told {
            tags: details.tag_list.unwrap_or_default(),
            version: details.version,
            platform: details.platform,
            contacted_at: details.contacted_at,
            locked: details.locked,
        };
        if told.version.is_none() && told.contacted_at.is_some() {
            let answer = service.get(self.api.join(&["runners", id.as_str(), "managers"]), headers.clone()).await?;
            if answer.status == StatusCode::OK {
                let managers: Vec<Manager> = answer.json()?;
                if let Some(newest) = managers.into_iter().max_by_key(|manager| manager.contacted_at) {
                    told.version = newest.version;
                    told.platform = newest.platform;
                }
            }
        }
        Ok(told)
    }
}

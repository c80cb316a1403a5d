//! The watch over the fleet: each poll of a source becomes history and alerts.
//!
//! A [`Watch`] has what is known of the runners of one source. What a poll changes is recorded in one transaction,
//! together with what alerts have to tell of it, and only then known. So a process that is killed goes on from the last
//! poll that was recorded: nothing is told twice under different ids, and nothing is left out. If it can't be recorded,
//! the poll has not happened.
//!
//! Absent: how a source is read.

mod answers;
mod counts;
mod manage;
mod rounds;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::answers::{Error as AskError, Sample, SourceStatus};
use self::counts::Counts;
pub use self::counts::{Polled, TransitionCounts};
pub use self::manage::{Turn, TurnError};
pub use self::rounds::{Place, Rounds, Runners};
use crate::alerts::{Alerts, Event, SourceEvent, Told, WatchedSource};
use crate::config::{GitHubScope, GitLabScope, RunnerList, RunnerSource};
use crate::runners::poller::{Pace, Trigger};
use crate::runners::transitions::{Fleet, Known, Options, Outcome, evaluate, silence};
use crate::runners::uptime::later;
use crate::runners::{Poll, PollError, Provider, Seen, SourceName};
pub use crate::store::{DeliveryFilter, DeliveryId, DeliveryRecord, DeliveryState};
use crate::store::{Error, Heard, Recorded, SourceRecord, Store};
pub use crate::store::{RunnerFilter as Filter, RunnerRecord as Record};
use crate::telemetry::Chain;

/// So many intervals without a list, and nothing is known any more.
const INTERVALS_TO_SILENCE: u32 = 3;

/// A source, and how it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Its name.
    pub name: SourceName,
    /// Its service.
    pub provider: Provider,
    /// What templates call it, such as `org: acme; github: https://api.github.com`.
    pub set: String,
    /// The time from one poll to the next.
    pub interval: Duration,
    /// The longest that a poll may take.
    pub timeout: Duration,
    /// When and what is told of its runners.
    pub options: Options,
}

impl Watched {
    /// The source as the administrator describes it.
    #[must_use]
    pub fn of(source: &RunnerSource) -> Self {
        let (provider, place) = match &source.list {
            RunnerList::GitHub { scope, .. } => {
                let place = match scope {
                    GitHubScope::Repository { owner, name } => format!("repo: {owner}/{name}"),
                    GitHubScope::Organization(name) => format!("org: {name}"),
                    GitHubScope::Enterprise(name) => format!("enterprise: {name}"),
                };
                (Provider::GitHub, place)
            }
            RunnerList::GitLab { scope, .. } => {
                let place = match scope {
                    GitLabScope::Instance => "instance".to_owned(),
                    GitLabScope::Owned => "owned".to_owned(),
                    GitLabScope::Group(name) => format!("group: {name}"),
                    GitLabScope::Project(name) => format!("project: {name}"),
                };
                (Provider::GitLab, place)
            }
        };
        Self {
            name: source.name.clone(),
            provider,
            set: format!("{place}; {provider}: {}", source.api),
            interval: source.interval,
            timeout: source.timeout,
            options: Options {
                grace: source.grace,
                ignore_ephemeral: !source.ephemeral,
                doubt_mass_removal: source.doubt_mass_removal,
            },
        }
    }

    /// How long nothing may be heard before the states of the runners are unknown.
    fn longest_gap(&self) -> Duration {
        self.interval * INTERVALS_TO_SILENCE + self.timeout
    }
}

/// What a poll came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// How many runners have changed in any way.
    pub changed: usize,
    /// How many events there are to be told of, to whomever.
    pub events: usize,
    /// How many messages are to be sent because of them.
    pub deliveries: usize,
}

/// What is known of one source and its runners.
pub struct Watch {
    watched: Watched,
    store: Store,
    record: Option<SourceRecord>,
    known: Fleet,
    counts: Arc<Counts>,
}

/// What follows from a poll, before it is recorded.
struct Judged {
    record: SourceRecord,
    changed: Vec<Known>,
    told: Vec<Told>,
    at: Timestamp,
}

impl Watch {
    /// Goes on with what is recorded of a source.
    ///
    /// # Errors
    /// [`Error`] if that can't be read.
    pub async fn open(watched: Watched, store: &Store) -> Result<Self, Error> {
        let record = store.source(&watched.name).await?;
        let known = store.fleet(&watched.name).await?;
        Ok(Self { watched, store: store.clone(), record, known, counts: Arc::default() })
    }

    /// The same, which counts there what happens.
    fn counting(self, counts: Arc<Counts>) -> Self {
        Self { counts, ..self }
    }

    /// Polls by `read` at the interval of the source and whenever `trigger` is pulled, until `stop`, and takes what comes.
    /// Whoever waits for `wake` is told when there is something to be sent.
    ///
    /// What can't be recorded is told in the bridge's own log. A poll that is under way at `stop` is dropped, but not what
    /// is being recorded.
    pub async fn run(
        mut self,
        mut read: impl AsyncFnMut() -> Poll,
        alerts: Arc<Alerts>,
        wake: Arc<Notify>,
        trigger: Trigger,
        stop: CancellationToken,
    ) {
        let work = async {
            let mut pace = Pace::new(self.watched.interval, trigger);
            loop {
                let poll = read().await;
                self.counts.note_poll(&self.watched.name, &poll);
                match self.take(&poll, &alerts).await {
                    Ok(taken) if taken.deliveries > 0 => wake.notify_waiters(),
                    Ok(_) => {}
                    Err(error) => {
                        log::error!("a poll of `{}` cannot be recorded: {}", self.watched.name, Chain(&error));
                    }
                }
                pace.next(poll.not_before).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Records what follows from a poll, and what `alerts` have to tell of it.
    ///
    /// A poll that failed leaves the runners as they are, until nothing has been heard for three intervals.
    ///
    /// # Errors
    /// [`Error`] if it could not be recorded. It has not happened then: the next poll is compared with the one before.
    pub async fn take(&mut self, poll: &Poll, alerts: &Alerts) -> Result<Taken, Error> {
        let judged = match &poll.result {
            Ok(seen) => {
                let former = self.former(seen).await?;
                self.heard(seen, poll, &former)
            }
            Err(error) => self.missed(error, poll),
        };
        let Judged { record, changed, told, at } = judged;
        let mut taken = Taken { changed: changed.len(), events: told.len(), deliveries: 0 };
        let mut deliveries = Vec::new();
        for told in told {
            deliveries.extend(alerts.deliveries(&Event::new(at, told)));
        }
        taken.deliveries = deliveries.len();
        let recorded = Recorded { source: record.clone(), changed: changed.clone(), deliveries };
        self.store.record_poll(recorded).await?;
        self.counts.note_changes(&self.watched.name, &self.known, &changed);
        self.log(&record);
        self.record = Some(record);
        for known in changed {
            if known.is_present() {
                self.known.insert(known.seen.external_id.clone(), known);
            } else {
                self.known.remove(&known.seen.external_id);
            }
        }
        Ok(taken)
    }

    /// Says in the bridge's own log when a source begins or ceases to fail.
    fn log(&self, now: &SourceRecord) {
        let before = self.record.as_ref();
        let (failed, unreachable) = before.map_or((0, false), |before| (before.failures, before.unreachable));
        let name = &self.watched.name;
        match &now.error {
            Some(error) if now.unreachable && !unreachable => {
                log::error!("the states of the runners of `{name}` are not known any more: {error}");
            }
            Some(error) if failed == 0 => log::warn!("the list of runners `{name}` could not be read: {error}"),
            None if failed > 0 => log::info!("the list of runners `{name}` can be read again"),
            _ => {}
        }
    }

    /// What is recorded of those that are seen and were not there the last time.
    async fn former(&self, seen: &[Seen]) -> Result<Fleet, Error> {
        let new = seen.iter().map(|seen| &seen.external_id).filter(|id| !self.known.contains_key(*id));
        let new: Vec<_> = new.collect();
        if new.is_empty() { Ok(Fleet::new()) } else { self.store.former(&self.watched.name, &new).await }
    }

    fn heard(&self, seen: &[Seen], poll: &Poll, former: &Fleet) -> Judged {
        let before = self.record.as_ref().and_then(|record| record.heard);
        // Times of polls grow, whatever the clock does.
        let at = before.map_or(poll.at, |before| poll.at.max(later(before.at, Duration::from_micros(1))));
        let mut changed = Vec::new();
        let mut silenced = Fleet::new();
        if let Some(before) = before.filter(|before| at > later(before.at, self.watched.longest_gap())) {
            changed = silence(&self.known, before.until);
            silenced = changed.iter().map(|known| (known.seen.external_id.clone(), known.clone())).collect();
        }
        let outcome = if silenced.is_empty() && former.is_empty() {
            evaluate(&self.known, seen, at, before.is_none(), &self.watched.options)
        } else {
            let mut known = self.known.clone();
            known.extend(silenced);
            known.extend(former.clone());
            evaluate(&known, seen, at, before.is_none(), &self.watched.options)
        };
        let Outcome { changed: seen_changed, transitions, doubted } = outcome;
        changed.extend(seen_changed);
        if doubted > 0 {
            log::warn!(
                "the list of runners `{}` lacks {doubted} runners at once; they count as removed if the next poll says the same",
                self.watched.name
            );
        }
        let source = self.source(before);
        let was_unreachable = self.record.as_ref().is_some_and(|record| record.unreachable);
        let mut told = Vec::new();
        if was_unreachable {
            told.push(Told::Source { source: source.clone(), event: SourceEvent::Recovered });
        }
        let runner = |transition| Told::Runner { source: source.clone(), transition: Box::new(transition) };
        told.extend(transitions.into_iter().map(runner));
        let heard = Heard { at, until: later(at, self.watched.interval) };
        Judged { record: self.record_of(at, Some(heard), poll), changed, told, at }
    }

    fn missed(&self, error: &PollError, poll: &Poll) -> Judged {
        let before = self.record.as_ref().and_then(|record| record.heard);
        let failures = self.record.as_ref().map_or(0, |record| record.failures).saturating_add(1);
        let was_unreachable = self.record.as_ref().is_some_and(|record| record.unreachable);
        let silent = match before {
            Some(before) => poll.at > later(before.at, self.watched.longest_gap()),
            None => failures >= INTERVALS_TO_SILENCE,
        };
        let (mut changed, mut told) = (Vec::new(), Vec::new());
        if silent {
            let since = before.map_or(poll.at, |before| before.until);
            changed = silence(&self.known, since);
            if !was_unreachable {
                let event = SourceEvent::Unreachable { since, error: error.to_string() };
                told.push(Told::Source { source: self.source(before), event });
            }
        }
        let record = SourceRecord {
            failures,
            error: Some(error.code().to_owned()),
            unreachable: silent || was_unreachable,
            ..self.record_of(poll.at, before, poll)
        };
        Judged { record, changed, told, at: poll.at }
    }

    fn source(&self, before: Option<Heard>) -> WatchedSource {
        let Watched { name, provider, set, .. } = &self.watched;
        let heard_before = before.map(|before| before.at);
        WatchedSource { name: name.clone(), provider: *provider, set: set.clone(), heard_before }
    }

    fn record_of(&self, at: Timestamp, heard: Option<Heard>, poll: &Poll) -> SourceRecord {
        SourceRecord {
            name: self.watched.name.clone(),
            provider: self.watched.provider,
            polled: at,
            heard,
            failures: 0,
            error: None,
            unreachable: false,
            not_before: poll.not_before,
        }
    }
}

/// Records of each source that is no longer watched that nothing is known of its runners.
///
/// # Errors
/// [`Error`] if that could not be read or recorded.
pub async fn retire_sources_but(watched: &[&SourceName], store: &Store) -> Result<(), Error> {
    for source in store.sources().await? {
        if let Some(heard) = source.heard.filter(|_| !watched.contains(&&source.name)) {
            let changed = silence(&store.fleet(&source.name).await?, heard.until);
            store.record_poll(Recorded { source, changed, deliveries: Vec::new() }).await?;
        }
    }
    Ok(())
}

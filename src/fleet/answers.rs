//! What can be asked about the fleet: only what is recorded, so no answer waits for a service.

use jiff::Timestamp;

use super::{Place, Polled, Runners, TransitionCounts};
use crate::alerts::Sent;
use crate::runners::uptime::{Entry, Uptime};
use crate::runners::{Provider, RunnerId, SourceName};
use crate::store::{
    self, DeliveryFilter, DeliveryId, DeliveryRecord, Glance, RunnerFilter, RunnerRecord, SourceRecord, Store,
};

/// Why nothing can be told of the fleet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The history has not been opened.
    #[error("the history is not open; the log of ci-bridge says why")]
    NotOpen,
    /// The history can't be read.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A source, and how it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    /// Its name.
    pub name: SourceName,
    /// Its service.
    pub provider: Provider,
    /// Whether it is configured; otherwise only what was recorded is left of it.
    pub watched: bool,
    /// What came of its polls; `None` before the first one.
    pub record: Option<SourceRecord>,
    /// What came of those since the bridge began.
    pub polled: Polled,
}

/// A runner of a source that is watched, at a glance.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The runner, and how it did.
    pub glance: Glance,
    /// Whose runner it is.
    pub place: Place,
    /// How often it changed its state since the bridge began.
    pub transitions: TransitionCounts,
}

impl Runners {
    /// The runners that `filter` asks for, by name, at most `limit` and at most 1000; with `after` those after that one.
    ///
    /// # Errors
    /// [`Error`] if the history can't be read.
    pub async fn page(
        &self,
        filter: &RunnerFilter,
        after: Option<RunnerId>,
        limit: u32,
    ) -> Result<Vec<RunnerRecord>, Error> {
        Ok(self.store()?.runners(filter, after, limit).await?)
    }

    /// The runner of that id, if there is one.
    ///
    /// # Errors
    /// [`Error`] if the history can't be read.
    pub async fn runner(&self, runner: RunnerId) -> Result<Option<RunnerRecord>, Error> {
        Ok(self.store()?.runner(runner).await?)
    }

    /// What became of a runner, newest first, at most `limit` and at most 1000; with `before` what was before that.
    ///
    /// # Errors
    /// [`Error`] if the history can't be read.
    pub async fn history(&self, runner: RunnerId, before: Option<Timestamp>, limit: u32) -> Result<Vec<Entry>, Error> {
        Ok(self.store()?.runner_history(runner, before, limit).await?)
    }

    /// How a runner did from `from` on and before `to`; `None` if there is no such runner.
    ///
    /// # Errors
    /// [`Error`] if the history can't be read.
    pub async fn uptime(&self, runner: RunnerId, from: Timestamp, to: Timestamp) -> Result<Option<Uptime>, Error> {
        Ok(self.store()?.uptime(runner, from, to).await?)
    }

    /// All sources that are configured, and those that once were, by name.
    ///
    /// # Errors
    /// [`Error`] if the history can't be read.
    pub async fn sources(&self) -> Result<Vec<SourceStatus>, Error> {
        let records = self.store()?.sources().await?;
        let is_recorded = |name: &SourceName| records.iter().any(|record| record.name == *name);
        let new = self.configured().filter(|(name, _)| !is_recorded(name));
        let new = new.map(|(name, provider)| {
            let polled = self.counts().polled(name);
            SourceStatus { name: name.clone(), provider, watched: true, record: None, polled }
        });
        let mut sources: Vec<_> = new.collect();
        sources.extend(records.into_iter().map(|record| SourceStatus {
            name: record.name.clone(),
            provider: record.provider,
            watched: self.configured().any(|(name, _)| *name == record.name),
            polled: self.counts().polled(&record.name),
            record: Some(record),
        }));
        sources.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(sources)
    }

    /// All runners of the sources that are watched, each with how it did from each of the times in `from` on until now.
    ///
    /// # Errors
    /// [`Error`] if the history can't be read.
    pub async fn samples(&self, from: &[Timestamp], now: Timestamp) -> Result<Vec<Sample>, Error> {
        let sample = |glance: Glance| {
            let place = self.place(&glance.runner.source)?.clone();
            let transitions = self.counts().transitions(glance.runner.id);
            Some(Sample { glance, place, transitions })
        };
        Ok(self.store()?.glance(from, now).await?.into_iter().filter_map(sample).collect())
    }

    /// How many messages of alerts are still to be sent.
    ///
    /// # Errors
    /// [`Error`] if the history can't be read.
    pub async fn pending(&self) -> Result<u64, Error> {
        Ok(self.store()?.pending_deliveries().await?)
    }

    /// What came of the attempts to send messages of alerts since the bridge began.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.teller().alerts().sent()
    }

    /// The messages of alerts that are asked for, newest first, at most `limit` and at most 1000; with `before` those before
    /// that one.
    ///
    /// # Errors
    /// [`Error`] if the history can't be read.
    pub async fn deliveries(
        &self,
        filter: DeliveryFilter,
        before: Option<DeliveryId>,
        limit: u32,
    ) -> Result<Vec<DeliveryRecord>, Error> {
        Ok(self.store()?.deliveries(filter, before, limit).await?)
    }

    /// Has a message that was given up be sent once more, at once; `false` if there is no such.
    ///
    /// # Errors
    /// [`Error`] if that can't be recorded.
    pub async fn replay(&self, delivery: DeliveryId) -> Result<bool, Error> {
        let replayed = self.store()?.replay(delivery, Timestamp::now()).await?;
        self.teller().wake_couriers();
        Ok(replayed)
    }

    fn store(&self) -> Result<Store, Error> {
        self.opened().ok_or(Error::NotOpen)
    }
}

//! All runners at a glance, for those who watch them from outside.

use std::collections::HashMap;

use jiff::Timestamp;
use sqlx::FromRow as _;
use sqlx::sqlite::SqliteRow;

use super::runners::{RunnerRecord, SourceRecord};
use super::values::{id, micros};
use super::{Error, Store};
use crate::runners::uptime::{Entry, Uptime};
use crate::runners::{RunnerId, SourceName};

/// A runner that is there, and how it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Glance {
    /// The runner.
    pub runner: RunnerRecord,
    /// How it did from each of the times that were asked for.
    pub uptimes: Vec<Uptime>,
}

const PRESENT: &str = "SELECT runners.*, runner_sources.provider FROM runners \
    JOIN runner_sources ON runner_sources.name = runners.source WHERE runners.state <> 'removed' \
    ORDER BY runners.name, runners.id";

/// The last entry that is not after a time, of each runner whose last entry of all is.
const LAST_ENTRIES: &str = "SELECT runners.id, entry.at, entry.state, entry.online_before, entry.known_before \
    FROM runners JOIN runner_sources ON runner_sources.name = runners.source \
    JOIN runner_history AS entry ON entry.runner = runners.id AND entry.at = (\
        SELECT max(at) FROM runner_history WHERE runner = runners.id AND at <= min(?1, runner_sources.heard_until)\
    ) WHERE runners.state <> 'removed' AND runners.since > min(?1, runner_sources.heard_until)";

impl Store {
    /// All runners that their sources list, by name, each with how it did from each of the times in `from` on and before
    /// `to`, as [`Store::uptime`] tells it; all as of one moment. `to` is now: nothing is recorded of a later time.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn glance(&self, from: &[Timestamp], to: Timestamp) -> Result<Vec<Glance>, Error> {
        self.read_glance(from, to).await.map_err(|error| self.sort(error))
    }

    async fn read_glance(&self, from: &[Timestamp], to: Timestamp) -> sqlx::Result<Vec<Glance>> {
        // A transaction, so that no poll comes between.
        let mut reader = self.readers.begin().await?;
        let sources: Vec<SourceRecord> = sqlx::query_as("SELECT * FROM runner_sources").fetch_all(&mut *reader).await?;
        let until: HashMap<SourceName, Timestamp> =
            sources.into_iter().filter_map(|source| Some((source.name, source.heard?.until))).collect();
        let runners: Vec<RunnerRecord> = sqlx::query_as(PRESENT).fetch_all(&mut *reader).await?;
        let mut earlier: Vec<HashMap<RunnerId, Entry>> = Vec::with_capacity(from.len());
        for from in from {
            let rows: Vec<SqliteRow> = sqlx::query(LAST_ENTRIES).bind(micros(*from)).fetch_all(&mut *reader).await?;
            let entry = |row: SqliteRow| Ok((RunnerId::from_bytes(id(&row, "id")?), Entry::from_row(&row)?));
            earlier.push(rows.into_iter().map(entry).collect::<sqlx::Result<_>>()?);
        }
        let glance = |runner: RunnerRecord| {
            let until = until.get(&runner.source).copied().unwrap_or(Timestamp::MIN);
            let last = runner.known.entry;
            let uptime = |(from, earlier): (&Timestamp, &HashMap<RunnerId, Entry>)| {
                let is_first = last.at <= (*from).min(until);
                let first = if is_first { Some(last) } else { earlier.get(&runner.id).copied() };
                Uptime::between((*from, first), (to, Some(last)), until)
            };
            let uptimes = from.iter().zip(&earlier).map(uptime).collect();
            Glance { runner, uptimes }
        };
        Ok(runners.into_iter().map(glance).collect())
    }

    /// How many messages of alerts are still to be sent.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn pending_deliveries(&self) -> Result<u64, Error> {
        let count = sqlx::query_scalar("SELECT count(*) FROM deliveries WHERE state IN ('due', 'waiting')");
        let count: i64 = count.fetch_one(&self.readers).await.map_err(|error| self.sort(error))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_entry_of_the_history_is_looked_at_in_vain() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap().store;
        for (statement, index) in [(PRESENT, "runners_present"), (LAST_ENTRIES, "PRIMARY KEY (runner=? AND at=?)")] {
            let steps = store.plan(statement).await;
            assert!(steps.iter().any(|step| step.contains(index)), "{statement}: {steps:?}");
            let is_walk = |step: &str| {
                step.contains("TEMP B-TREE") || step.contains("SCAN entry") || step == "SCAN runner_history"
            };
            assert!(!steps.iter().any(|step| is_walk(step)), "{statement}: {steps:?}");
        }
    }
}

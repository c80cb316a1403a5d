//! How long runs are kept, and how what is too old is forgotten: a part at a time, so that no other write waits long.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::values::{foreign, micros, micros_of};
use super::{Error, Store};
use crate::invocation::InvocationId;
use crate::run::RunId;

/// How many runs of a job are kept and how long; the last one is kept always, and so is one that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// How long after its end a run is kept; `None` for ever.
    pub age: Option<Duration>,
    /// How many runs of a job are kept, counted from the newest; `None` any number.
    pub runs_per_job: Option<u32>,
}

/// Runs that are forgotten in one transaction.
const FORGOTTEN_AT_ONCE: u32 = 500;
/// The same of everything else, which is found more quickly.
const ROWS_AT_ONCE: u32 = 5000;

/// A run that is in the history no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// The run.
    pub run: RunId,
    /// Its invocation, if it began.
    pub invocation: Option<InvocationId>,
}

const SUPERFLUOUS: &str = "SELECT id, invocation FROM (\
        SELECT id, invocation, phase, coalesce(ended_at, requested_at) AS ended_at, \
            row_number() OVER (PARTITION BY job ORDER BY requested_at DESC, id DESC) AS place FROM runs\
    ) WHERE place > 1 AND phase = 'ended' AND (ended_at < ?1 OR place > ?2) LIMIT ?3";

impl Store {
    /// Has `statement` delete what is from before its first parameter, at most as many rows as its second says, until
    /// nothing is left; returns how many there were.
    pub(super) async fn forget_before(&self, statement: &'static str, oldest: Timestamp) -> Result<u64, Error> {
        let mut forgotten = 0;
        loop {
            let deletion = sqlx::query(statement).bind(micros(oldest)).bind(ROWS_AT_ONCE);
            let count = self.writer.execute(deletion).await?.rows_affected();
            forgotten += count;
            if count < u64::from(ROWS_AT_ONCE) {
                return Ok(forgotten);
            }
        }
    }

    /// Forgets up to 500 runs that `retention` has no place for; returns them. None are left when none are returned.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; the runs are then kept.
    pub async fn prune(&self, retention: Retention, now: Timestamp) -> Result<Vec<Forgotten>, Error> {
        let oldest = retention.age.map_or(i64::MIN, |age| micros(now).saturating_sub(micros_of(age)));
        let superfluous = sqlx::query_as(SUPERFLUOUS)
            .bind(oldest)
            .bind(retention.runs_per_job.unwrap_or(u32::MAX))
            .bind(FORGOTTEN_AT_ONCE);
        let rows: Vec<Row> = superfluous.fetch_all(&self.readers).await.map_err(|error| self.sort(error))?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let superfluous = rows.into_iter().map(forgotten).collect::<Result<Vec<_>, _>>()?;
        self.writer.write(move |connection| Box::pin(forget(connection, superfluous))).await
    }
}

/// An ended run stays so, and a run that was not the last one does not become it: what was found is still true.
async fn forget(connection: &mut SqliteConnection, runs: Vec<Forgotten>) -> Result<Vec<Forgotten>, Error> {
    let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM runs WHERE id IN (");
    let mut ids = query.separated(", ");
    for run in &runs {
        ids.push_bind(run.run.as_bytes().to_vec());
    }
    query.push(")");
    query.build().execute(connection).await?;
    Ok(runs)
}

type Row = (Vec<u8>, Option<Vec<u8>>);

fn forgotten((run, invocation): Row) -> Result<Forgotten, Error> {
    let wrong = || foreign("an id that is not 16 bytes");
    let run = run.try_into().map(RunId::from_bytes).map_err(|_| wrong())?;
    let invocation = invocation.map(|id| InvocationId::from_bytes(&id).ok_or_else(wrong)).transpose()?;
    Ok(Forgotten { run, invocation })
}

//! The queue of each job: recorded runs that wait for their turn.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _, SqliteConnection};

use super::{Error, Run, Store};
use crate::run::RunId;

/// What became of a run that was to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// It waits; so many runs of its job are before it.
    Behind(u32),
    /// As many wait as may.
    NoRoom,
    /// It is not recorded, or its phase is no longer [`Phase::Queued`](super::Phase::Queued).
    NotQueued,
}

/// A run that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The run.
    pub run: Run,
    /// Whether it was about to be started.
    pub starting: bool,
}

/// Whether a run waits already, and how many of its job are before it.
const PLACE: &str = "SELECT own.place IS NOT NULL, (\
        SELECT count(*) FROM queue JOIN runs AS others ON others.id = queue.run \
        WHERE others.job = runs.job AND (own.place IS NULL OR queue.place < own.place)\
    ) FROM runs LEFT JOIN queue AS own ON own.run = runs.id WHERE runs.id = ? AND runs.phase = 'queued'";

const WAITING: &str = "SELECT runs.*, queue.starting FROM queue JOIN runs ON runs.id = queue.run ORDER BY place";
impl Store {
    /// Has a recorded run wait for its job, unless `bound` runs of it do so already.
    ///
    /// A run that waits keeps its place.
    ///
    /// # Errors
    /// [`Error`] if that could not be written.
    pub async fn enqueue(&self, run: RunId, bound: u32) -> Result<Enqueued, Error> {
        self.writer.write(move |connection| Box::pin(enqueue(connection, run, bound))).await
    }

    /// Notes that a run that waits is about to be started. It keeps its place until it has begun.
    ///
    /// # Errors
    /// [`Error`] if that could not be written.
    pub async fn note_starting(&self, run: RunId) -> Result<(), Error> {
        let statement = sqlx::query("UPDATE queue SET starting = 1 WHERE run = ?").bind(run.as_bytes().to_vec());
        self.writer.execute(statement).await?;
        Ok(())
    }

    /// All runs that wait, those of each job in their order.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn waiting(&self) -> Result<Vec<Waiting>, Error> {
        let runs = sqlx::query_as(WAITING).fetch_all(&self.readers).await;
        runs.map_err(|error| self.sort(error))
    }
}

async fn enqueue(connection: &mut SqliteConnection, run: RunId, bound: u32) -> Result<Enqueued, Error> {
    let run = run.as_bytes().to_vec();
    let known: Option<(bool, u32)> = sqlx::query_as(PLACE).bind(run.clone()).fetch_optional(&mut *connection).await?;
    Ok(match known {
        None => Enqueued::NotQueued,
        Some((false, before)) if before >= bound => Enqueued::NoRoom,
        Some((waits, before)) => {
            if !waits {
                sqlx::query("INSERT INTO queue (run) VALUES (?)").bind(run).execute(connection).await?;
            }
            Enqueued::Behind(before)
        }
    })
}

impl FromRow<'_, SqliteRow> for Waiting {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self { run: Run::from_row(row)?, starting: row.try_get("starting")? })
    }
}

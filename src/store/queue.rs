//! The queue of each job: recorded runs that wait for their turn.

use sqlx::SqliteConnection;

use super::{Error, Run, Store};
use crate::policy::JobName;
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

/// Whether a run waits already, and how many of its job are before it.
const PLACE: &str = "SELECT own.place IS NOT NULL, (\
        SELECT count(*) FROM queue JOIN runs AS others ON others.id = queue.run \
        WHERE others.job = runs.job AND (own.place IS NULL OR queue.place < own.place)\
    ) FROM runs LEFT JOIN queue AS own ON own.run = runs.id WHERE runs.id = ? AND runs.phase = 'queued'";

const DEQUEUE: &str = "DELETE FROM queue WHERE place = \
    (SELECT place FROM queue JOIN runs ON runs.id = queue.run WHERE job = ? ORDER BY place LIMIT 1) RETURNING run";

const LIST: &str = "SELECT runs.* FROM queue JOIN runs ON runs.id = queue.run WHERE job = ? ORDER BY place";

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

    /// Takes the run of `job` that has waited longest.
    ///
    /// If the bridge ends before it has started it, the run is still among [`Store::unended`].
    ///
    /// # Errors
    /// [`Error`] if that could not be written; the run then still waits.
    pub async fn dequeue(&self, job: &JobName) -> Result<Option<Run>, Error> {
        let job = job.clone();
        self.writer.write(move |connection| Box::pin(dequeue(connection, job))).await
    }

    /// Has a run wait no longer; `false` if it did not wait, because it has just been taken.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; the run then still waits.
    pub async fn leave_queue(&self, run: RunId) -> Result<bool, Error> {
        let statement = sqlx::query("DELETE FROM queue WHERE run = ?").bind(run.as_bytes().to_vec());
        Ok(self.writer.execute(statement).await?.rows_affected() > 0)
    }

    /// The runs of `job` that wait, the next one first.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn queued(&self, job: &JobName) -> Result<Vec<Run>, Error> {
        let runs = sqlx::query_as(LIST).bind(job.as_str()).fetch_all(&self.readers).await;
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

async fn dequeue(connection: &mut SqliteConnection, job: JobName) -> Result<Option<Run>, Error> {
    let next: Option<Vec<u8>> =
        sqlx::query_scalar(DEQUEUE).bind(job.to_string()).fetch_optional(&mut *connection).await?;
    let Some(run) = next else { return Ok(None) };
    Ok(sqlx::query_as("SELECT * FROM runs WHERE id = ?").bind(run).fetch_optional(connection).await?)
}

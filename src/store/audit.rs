//! The audit: who did what, from where, and how it came out.

use std::net::IpAddr;

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, QueryBuilder, Row as _, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::values::{foreign, micros, optional_id, optional_job, time};
use super::{Error, PAGE, Store};
use crate::auth::TokenName;
use crate::policy::JobName;
use crate::run::RunId;

/// The place of an entry in the audit; later entries have larger ones, and none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditId(i64);

/// Something that was done or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When, to a microsecond.
    pub at: Timestamp,
    /// What was to be done, a word such as `start`.
    pub kind: String,
    /// The name of the token; `None` if nobody was recognised.
    pub who: Option<TokenName>,
    /// Where from; `None` over a unix socket, and for what the bridge did by itself.
    pub address: Option<IpAddr>,
    /// The request that asked for it.
    pub request: Option<Uuid>,
    /// The job.
    pub job: Option<JobName>,
    /// The run.
    pub run: Option<RunId>,
    /// How it came out, a word such as `accepted` or the code of the error.
    pub outcome: String,
    /// What else there is to say, for people.
    pub detail: Option<String>,
}

/// An entry and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its place.
    pub id: AuditId,
    /// What it says.
    pub entry: AuditEntry,
}

/// Which entries are asked for: those of which all that is given holds.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// What was to be done.
    pub kind: Option<String>,
    /// Who.
    pub who: Option<TokenName>,
    /// The job.
    pub job: Option<JobName>,
    /// The run.
    pub run: Option<RunId>,
}

impl From<i64> for AuditId {
    fn from(place: i64) -> Self {
        Self(place)
    }
}

impl From<AuditId> for i64 {
    fn from(id: AuditId) -> Self {
        id.0
    }
}

const APPEND: &str = "INSERT INTO audit (at, kind, who, address, request, job, run, outcome, detail) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

const FORGET: &str = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ? ORDER BY id LIMIT ?)";

impl Store {
    /// Adds entries, all of them or none, in this order.
    ///
    /// # Errors
    /// [`Error`] if that could not be written.
    pub async fn append_audit(&self, entries: Vec<AuditEntry>) -> Result<(), Error> {
        self.writer.write(move |connection| Box::pin(append(connection, entries))).await
    }

    /// The entries that `filter` asks for, newest first, at most `limit` and at most [`PAGE`]; with `before` those
    /// before that one.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn audit(
        &self,
        before: Option<AuditId>,
        limit: u32,
        filter: &AuditFilter,
    ) -> Result<Vec<AuditRecord>, Error> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM audit WHERE id < ");
        query.push_bind(before.map_or(i64::MAX, |before| before.0));
        if let Some(kind) = &filter.kind {
            query.push(" AND kind = ").push_bind(kind.as_str());
        }
        if let Some(who) = &filter.who {
            query.push(" AND who = ").push_bind(who.as_str());
        }
        if let Some(job) = &filter.job {
            query.push(" AND job = ").push_bind(job.as_str());
        }
        if let Some(run) = &filter.run {
            query.push(" AND run = ").push_bind(run.as_bytes().to_vec());
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(limit.min(PAGE));
        query.build_query_as().fetch_all(&self.readers).await.map_err(|error| self.sort(error))
    }

    /// Forgets the entries from before `oldest`; returns how many there were.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; some may be forgotten then.
    pub async fn forget_audit(&self, oldest: Timestamp) -> Result<u64, Error> {
        self.forget_before(FORGET, oldest).await
    }
}

async fn append(connection: &mut SqliteConnection, entries: Vec<AuditEntry>) -> Result<(), Error> {
    for entry in entries {
        sqlx::query(APPEND)
            .bind(micros(entry.at))
            .bind(entry.kind)
            .bind(entry.who.map(|who| who.to_string()))
            .bind(entry.address.map(|address| address.to_string()))
            .bind(entry.request.map(|request| request.as_bytes().to_vec()))
            .bind(entry.job.map(|job| job.to_string()))
            .bind(entry.run.map(|run| run.as_bytes().to_vec()))
            .bind(entry.outcome)
            .bind(entry.detail)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

impl FromRow<'_, SqliteRow> for AuditRecord {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let who: Option<&str> = row.try_get("who")?;
        let address: Option<&str> = row.try_get("address")?;
        let entry = AuditEntry {
            at: time(row, "at")?,
            kind: row.try_get("kind")?,
            who: who.map(str::parse).transpose().map_err(foreign)?,
            address: address.map(str::parse).transpose().map_err(foreign)?,
            request: optional_id(row, "request")?.map(Uuid::from_bytes),
            job: optional_job(row, "job")?,
            run: optional_id(row, "run")?.map(RunId::from_bytes),
            outcome: row.try_get("outcome")?,
            detail: row.try_get("detail")?,
        };
        Ok(Self { id: AuditId(row.try_get("id")?), entry })
    }
}

//! The outbox: what alerts have to tell, kept until it was told.
//!
//! A delivery is written in the transaction of what it tells of, with the body as it will be sent, so that neither can be
//! lost without the other and each attempt sends the same. What one alert tells of one subject goes out in order: one is
//! due, the others wait behind it. Deliveries to different alerts never wait for each other.

use std::collections::HashSet;

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, QueryBuilder, Row as _, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::values::{foreign, id, micros, optional_time, time};
use super::{Error, PAGE, Store};

/// The place of a delivery in the outbox; later ones have larger ones, and none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(i64);

/// Something to be told to one alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The event; the same for all alerts that are told of it, and for each attempt.
    pub event: Uuid,
    /// The name of the alert.
    pub alert: String,
    /// The type of the event, such as `runner.offline`.
    pub kind: String,
    /// What the event is about.
    pub subject: String,
    /// When it happened.
    pub at: Timestamp,
    /// The type of the body.
    pub content_type: String,
    /// What is sent.
    pub body: Vec<u8>,
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It is to be sent at that time, or as soon after it as possible.
    Due(Timestamp),
    /// It is to be sent when what was told of its subject before is settled.
    Waiting,
    /// It was taken, at that time.
    Done(Timestamp),
    /// It was given up, at that time.
    Dead(Timestamp),
}

/// A delivery that is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// Its place.
    pub id: DeliveryId,
    /// What is to be told.
    pub delivery: Delivery,
    /// How far it has come.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// The status of the last answer, if there was one.
    pub status: Option<u16>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempted {
    /// It was taken.
    Done {
        /// The status of the answer.
        status: u16,
    },
    /// It was not.
    Failed {
        /// The status of the answer, if there was one.
        status: Option<u16>,
        /// Why.
        error: String,
        /// When it is tried again; `None` if it is given up.
        next: Option<Timestamp>,
    },
}

/// Which deliveries are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryFilter {
    /// All that are kept.
    All,
    /// Those that are given up.
    Dead,
}

/// Deliveries of one statement; it is the same text for all of a large poll but the last.
const ROWS: usize = 64;

/// What comes before the values of deliveries that are added, and after them.
const INSERT: &str = "INSERT INTO deliveries (event, alert, type, subject, at, content_type, body, state, next_at) \
    SELECT column1, column2, column3, column4, column5, column6, column7, \
        iif(behind, 'waiting', 'due'), iif(behind, NULL, column5) \
    FROM (\
        SELECT *, EXISTS (\
            SELECT 1 FROM deliveries WHERE alert = column2 AND subject = column4 AND state IN ('due', 'waiting')\
        ) AS behind FROM (";
const INSERT_END: &str = ")) WHERE true ON CONFLICT (alert, event) DO NOTHING";

const DUE: &str = "SELECT * FROM deliveries \
    WHERE alert = ?1 AND state = 'due' AND next_at <= ?2 ORDER BY next_at LIMIT ?3";

const NEXT: &str = "SELECT min(next_at) FROM deliveries WHERE alert = ?1 AND state = 'due'";

const RETRY: &str = "UPDATE deliveries SET attempts = attempts + 1, status = ?2, error = ?3, next_at = ?4 \
    WHERE id = ?1 AND state = 'due'";

const SETTLE: &str = "UPDATE deliveries SET attempts = attempts + 1, status = ?2, error = ?3, next_at = NULL, \
        state = ?4, settled_at = ?5 \
    WHERE id = ?1 AND state = 'due' RETURNING alert, subject";

/// Has the next one of a subject be due, if none is.
const ADVANCE: &str = "UPDATE deliveries SET state = 'due', next_at = ?3 WHERE id = (\
        SELECT id FROM deliveries WHERE alert = ?1 AND subject = ?2 AND state IN ('due', 'waiting') \
        ORDER BY id LIMIT 1\
    ) AND state = 'waiting'";

const BURY: &str = "UPDATE deliveries SET state = 'dead', next_at = NULL, settled_at = ?2, \
        error = 'no alert of this name is configured' \
    WHERE alert = ?1 AND state IN ('due', 'waiting')";

const OPEN_ALERTS: &str = "SELECT DISTINCT alert FROM deliveries WHERE state IN ('due', 'waiting')";

/// A replayed delivery waits for the one of its subject that is due.
const REPLAY: &str = "UPDATE deliveries SET state = iif(behind, 'waiting', 'due'), next_at = iif(behind, NULL, ?2), \
        attempts = 0, settled_at = NULL \
    FROM (\
        SELECT EXISTS (\
            SELECT 1 FROM deliveries AS others JOIN deliveries AS own ON own.id = ?1 \
            WHERE others.alert = own.alert AND others.subject = own.subject AND others.state IN ('due', 'waiting')\
        ) AS behind\
    ) WHERE id = ?1 AND state = 'dead'";

const FORGET: &str = "DELETE FROM deliveries WHERE id IN (\
        SELECT id FROM deliveries WHERE state IN ('done', 'dead') AND settled_at < ? ORDER BY settled_at LIMIT ?\
    )";

impl From<i64> for DeliveryId {
    fn from(place: i64) -> Self {
        Self(place)
    }
}

impl From<DeliveryId> for i64 {
    fn from(id: DeliveryId) -> Self {
        id.0
    }
}

/// Adds deliveries, within a transaction.
pub(super) async fn insert(connection: &mut SqliteConnection, deliveries: Vec<Delivery>) -> Result<(), Error> {
    for deliveries in apart(&deliveries) {
        insertion(deliveries).build().persistent(deliveries.len() == ROWS).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The deliveries in their order, in parts that one statement may add: it can't see that one has to wait for another one
/// of the same alert and subject which it adds itself.
fn apart(deliveries: &[Delivery]) -> impl Iterator<Item = &[Delivery]> {
    let mut rest = deliveries;
    std::iter::from_fn(move || {
        let mut subjects = HashSet::new();
        let next = rest.iter().take(ROWS).map(|delivery| (&delivery.alert, &delivery.subject));
        let (part, others) = rest.split_at(next.take_while(|subject| subjects.insert(*subject)).count());
        rest = others;
        (!part.is_empty()).then_some(part)
    })
}

fn insertion(deliveries: &[Delivery]) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::<Sqlite>::new(INSERT);
    query.push_values(deliveries, |mut row, delivery| {
        row.push_bind(delivery.event.as_bytes().to_vec())
            .push_bind(delivery.alert.clone())
            .push_bind(delivery.kind.clone())
            .push_bind(delivery.subject.clone())
            .push_bind(micros(delivery.at))
            .push_bind(delivery.content_type.clone())
            .push_bind(delivery.body.clone());
    });
    query.push(INSERT_END);
    query
}

impl Store {
    /// Puts deliveries into the outbox. One of an event and an alert that is there already stays as it is.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; none of them is there then.
    pub async fn post(&self, deliveries: Vec<Delivery>) -> Result<(), Error> {
        self.writer.write(move |connection| Box::pin(insert(connection, deliveries))).await
    }

    /// What is to be sent to an alert at the time `now`, at most `limit`, longest overdue first; no two of one subject.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn due(&self, alert: &str, now: Timestamp, limit: u32) -> Result<Vec<DeliveryRecord>, Error> {
        let due = sqlx::query_as(DUE).bind(alert).bind(micros(now)).bind(limit);
        due.fetch_all(&self.readers).await.map_err(|error| self.sort(error))
    }

    /// When something is next to be sent to an alert; `None` if nothing is.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn next_due(&self, alert: &str) -> Result<Option<Timestamp>, Error> {
        let next: Option<i64> =
            sqlx::query_scalar(NEXT).bind(alert).fetch_one(&self.readers).await.map_err(|error| self.sort(error))?;
        Ok(next.map(Timestamp::from_microsecond).transpose().map_err(foreign)?)
    }

    /// Records what attempts came to. When a delivery is done or given up, the next one of its subject is due.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; all of them are then still due.
    pub async fn settle(&self, attempts: Vec<(DeliveryId, Attempted)>, now: Timestamp) -> Result<(), Error> {
        self.writer.write(move |connection| Box::pin(settle(connection, attempts, now))).await
    }

    /// The deliveries that are asked for, newest first, at most `limit` and at most [`PAGE`]; with `before` those before
    /// that one.
    ///
    /// # Errors
    /// [`Error`] if that could not be read.
    pub async fn deliveries(
        &self,
        filter: DeliveryFilter,
        before: Option<DeliveryId>,
        limit: u32,
    ) -> Result<Vec<DeliveryRecord>, Error> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM deliveries WHERE id < ");
        query.push_bind(before.map_or(i64::MAX, |before| before.0));
        match filter {
            DeliveryFilter::All => {}
            DeliveryFilter::Dead => {
                query.push(" AND state = 'dead'");
            }
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(limit.min(PAGE));
        query.build_query_as().fetch_all(&self.readers).await.map_err(|error| self.sort(error))
    }

    /// Has a delivery that was given up be sent once more, as often as a new one; `false` if there is no such.
    ///
    /// # Errors
    /// [`Error`] if that could not be written.
    pub async fn replay(&self, delivery: DeliveryId, now: Timestamp) -> Result<bool, Error> {
        let statement = sqlx::query(REPLAY).bind(delivery.0).bind(micros(now));
        Ok(self.writer.execute(statement).await?.rows_affected() > 0)
    }

    /// Gives up what is still to be told to alerts other than these; returns how many deliveries that were.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; some may be given up then.
    pub async fn bury_deliveries_but(&self, alerts: &[&str], now: Timestamp) -> Result<u64, Error> {
        let open = sqlx::query_scalar(OPEN_ALERTS).fetch_all(&self.readers).await;
        let open: Vec<String> = open.map_err(|error| self.sort(error))?;
        let mut buried = 0;
        for gone in open.into_iter().filter(|open| !alerts.contains(&open.as_str())) {
            buried += self.writer.execute(sqlx::query(BURY).bind(gone).bind(micros(now))).await?.rows_affected();
        }
        Ok(buried)
    }

    /// Forgets the deliveries that were done or given up before `oldest`; returns how many there were.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; some may be forgotten then.
    pub async fn forget_deliveries(&self, oldest: Timestamp) -> Result<u64, Error> {
        self.forget_before(FORGET, oldest).await
    }
}

async fn settle(
    connection: &mut SqliteConnection,
    attempts: Vec<(DeliveryId, Attempted)>,
    now: Timestamp,
) -> Result<(), Error> {
    for (delivery, attempted) in attempts {
        let (status, error, state) = match attempted {
            Attempted::Done { status } => (Some(status), None, "done"),
            Attempted::Failed { status, error, next: None } => (status, Some(error), "dead"),
            Attempted::Failed { status, error, next: Some(next) } => {
                let retry = sqlx::query(RETRY).bind(delivery.0).bind(status).bind(error).bind(micros(next));
                retry.execute(&mut *connection).await?;
                continue;
            }
        };
        let settled: Option<(String, String)> = sqlx::query_as(SETTLE)
            .bind(delivery.0)
            .bind(status)
            .bind(error)
            .bind(state)
            .bind(micros(now))
            .fetch_optional(&mut *connection)
            .await?;
        if let Some((alert, subject)) = settled {
            let advance = sqlx::query(ADVANCE).bind(alert).bind(subject).bind(micros(now));
            advance.execute(&mut *connection).await?;
        }
    }
    Ok(())
}

impl FromRow<'_, SqliteRow> for DeliveryRecord {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let settled = optional_time(row, "settled_at")?;
        let state = match (row.try_get("state")?, optional_time(row, "next_at")?, settled) {
            ("due", Some(next), _) => DeliveryState::Due(next),
            ("done", _, Some(at)) => DeliveryState::Done(at),
            ("dead", _, Some(at)) => DeliveryState::Dead(at),
            _ => DeliveryState::Waiting,
        };
        let delivery = Delivery {
            event: Uuid::from_bytes(id(row, "event")?),
            alert: row.try_get("alert")?,
            kind: row.try_get("type")?,
            subject: row.try_get("subject")?,
            at: time(row, "at")?,
            content_type: row.try_get("content_type")?,
            body: row.try_get("body")?,
        };
        Ok(Self {
            id: DeliveryId(row.try_get("id")?),
            delivery,
            state,
            attempts: row.try_get("attempts")?,
            status: row.try_get("status")?,
            error: row.try_get("error")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_question_looks_at_all_deliveries() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap().store;
        let delivery = Delivery {
            event: Uuid::nil(),
            alert: String::new(),
            kind: String::new(),
            subject: String::new(),
            at: Timestamp::UNIX_EPOCH,
            content_type: String::new(),
            body: Vec::new(),
        };
        let insertion = insertion(&[delivery]).into_string();
        let cases = [
            (insertion.as_str(), "deliveries_open (alert=? AND subject=?)"),
            (DUE, "deliveries_due (alert=? AND next_at<?)"),
            (NEXT, "deliveries_due (alert=?)"),
            (ADVANCE, "deliveries_open (alert=? AND subject=?)"),
            (BURY, "deliveries_open (alert=?)"),
            (OPEN_ALERTS, "deliveries_open"),
            (REPLAY, "deliveries_open (alert=? AND subject=?)"),
            (FORGET, "deliveries_settled (settled_at<?)"),
        ];
        for (statement, index) in cases {
            let steps = store.plan(statement).await;
            assert!(steps.iter().any(|step| step.contains(index)), "{statement}: {steps:?}");
            assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{statement}: {steps:?}");
        }
    }
}

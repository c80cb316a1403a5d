//! What keeps a request that is sent twice from being carried out twice.
//!
//! A client names its request by a key. The first attempt with it is carried out and its answer kept; later ones get that
//! answer. A key belongs to the token that it came with, and is forgotten after a day.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _, SqliteConnection};
use uuid::Uuid;

use super::values::{foreign, id, micros, micros_of, time};
use super::{Error, Store};
use crate::auth::TokenName;

/// How long a key stands for its first request.
const LIFETIME: Duration = Duration::from_hours(24);

/// One attempt at a request that has a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The token that it came with.
    pub token: TokenName,
    /// The key that the client chose.
    pub key: String,
    /// The id of this attempt.
    pub request: Uuid,
}

/// What a client was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status, 100 to 599.
    pub status: u16,
    /// The headers, in their order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What is to be done with an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It is the first: it is to be carried out, and then either answered or released.
    New,
    /// Another attempt is being carried out, or was when the bridge ended: then its run, if it came to one, is
    /// [`Store::run_of_request`].
    UnderWay {
        /// The id of that attempt.
        request: Uuid,
        /// When it began.
        since: Timestamp,
    },
    /// It was carried out; this was the answer.
    Replay(Answer),
    /// The key stands for another request.
    Mismatch,
}

/// An attempt that is recorded.
struct Known {
    request: Uuid,
    payload: Vec<u8>,
    created: Timestamp,
    answer: Option<Answer>,
}

// A time in the future is from a clock that was wrong, and would keep its key for as long.
const FORGET: &str = "DELETE FROM idempotency WHERE created_at <= ?1 - ?2 OR created_at >= ?1 + ?2";

const FORGET_ONE: &str = "DELETE FROM idempotency \
    WHERE token = ?3 AND key = ?4 AND (created_at <= ?1 - ?2 OR created_at >= ?1 + ?2)";

const BEGIN: &str = "INSERT INTO idempotency (token, key, request, payload, created_at) VALUES (?, ?, ?, ?, ?)";

const ANSWER: &str = "UPDATE idempotency SET status = ?4, headers = ?5, body = ?6 \
    WHERE token = ?1 AND key = ?2 AND request = ?3 AND status IS NULL";

const RELEASE: &str = "DELETE FROM idempotency WHERE token = ? AND key = ? AND request = ? AND status IS NULL";

impl Store {
    /// Begins an attempt; of parallel ones with the same key exactly one is new.
    ///
    /// `payload` is the SHA-256 hash of what is asked for.
    ///
    /// # Errors
    /// [`Error`] if that could not be written.
    pub async fn begin(&self, attempt: Attempt, payload: [u8; 32], now: Timestamp) -> Result<Begun, Error> {
        self.writer.write(move |connection| Box::pin(begin(connection, attempt, payload, now))).await
    }

    /// Keeps the answer to an attempt that was new; `false` if it no longer stands for its key.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; the attempt then stays under way.
    pub async fn answer(&self, attempt: Attempt, answer: Answer) -> Result<bool, Error> {
        let headers = serde_json::to_string(&answer.headers).map_err(foreign)?;
        let statement = sqlx::query(ANSWER)
            .bind(attempt.token.to_string())
            .bind(attempt.key)
            .bind(attempt.request.as_bytes().to_vec())
            .bind(answer.status)
            .bind(headers)
            .bind(answer.body);
        Ok(self.writer.execute(statement).await?.rows_affected() > 0)
    }

    /// Forgets an attempt that was new and came to nothing, so that the next one is new; `false` if it has an answer, or
    /// no longer stands for its key.
    ///
    /// # Errors
    /// [`Error`] if that could not be written; the attempt then stays under way.
    pub async fn release(&self, attempt: Attempt) -> Result<bool, Error> {
        let request = attempt.request.as_bytes().to_vec();
        let statement = sqlx::query(RELEASE).bind(attempt.token.to_string()).bind(attempt.key).bind(request);
        Ok(self.writer.execute(statement).await?.rows_affected() > 0)
    }

    /// Forgets the keys that are older than a day; returns how many there were.
    ///
    /// # Errors
    /// [`Error`] if that could not be written.
    pub async fn forget_expired(&self, now: Timestamp) -> Result<u64, Error> {
        let statement = sqlx::query(FORGET).bind(micros(now)).bind(micros_of(LIFETIME));
        Ok(self.writer.execute(statement).await?.rows_affected())
    }
}

async fn begin(
    connection: &mut SqliteConnection,
    attempt: Attempt,
    payload: [u8; 32],
    now: Timestamp,
) -> Result<Begun, Error> {
    let token = attempt.token.to_string();
    sqlx::query(FORGET_ONE)
        .bind(micros(now))
        .bind(micros_of(LIFETIME))
        .bind(token.clone())
        .bind(attempt.key.clone())
        .execute(&mut *connection)
        .await?;
    let known: Option<Known> = sqlx::query_as("SELECT * FROM idempotency WHERE token = ? AND key = ?")
        .bind(token.clone())
        .bind(attempt.key.clone())
        .fetch_optional(&mut *connection)
        .await?;
    Ok(match known {
        None => {
            sqlx::query(BEGIN)
                .bind(token)
                .bind(attempt.key)
                .bind(attempt.request.as_bytes().to_vec())
                .bind(payload.to_vec())
                .bind(micros(now))
                .execute(connection)
                .await?;
            Begun::New
        }
        Some(known) if known.payload != payload => Begun::Mismatch,
        Some(Known { answer: Some(answer), .. }) => Begun::Replay(answer),
        Some(known) => Begun::UnderWay { request: known.request, since: known.created },
    })
}

impl FromRow<'_, SqliteRow> for Known {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let status: Option<u16> = row.try_get("status")?;
        let answer = match status {
            None => None,
            Some(status) => Some(Answer {
                status,
                headers: serde_json::from_str(row.try_get("headers")?).map_err(foreign)?,
                body: row.try_get("body")?,
            }),
        };
        Ok(Self {
            request: Uuid::from_bytes(id(row, "request")?),
            payload: row.try_get("payload")?,
            created: time(row, "created_at")?,
            answer,
        })
    }
}

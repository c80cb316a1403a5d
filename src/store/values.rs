//! How values of the bridge stand in columns.

use std::error::Error as StdError;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::policy::JobName;

/// A time as microseconds since 1970; what is finer is cut off.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// A span of time as microseconds; the largest number stands for anything larger.
pub(super) fn micros_of(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// The span of time of that many microseconds.
pub(super) fn span(row: &SqliteRow, column: &str) -> sqlx::Result<Duration> {
    u64::try_from(row.try_get::<i64, _>(column)?).map(Duration::from_micros).map_err(foreign)
}

/// A row that the bridge did not write.
pub(super) fn foreign(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(reason.into())
}

pub(super) fn time(row: &SqliteRow, column: &str) -> sqlx::Result<Timestamp> {
    Timestamp::from_microsecond(row.try_get(column)?).map_err(foreign)
}

pub(super) fn optional_time(row: &SqliteRow, column: &str) -> sqlx::Result<Option<Timestamp>> {
    let micros: Option<i64> = row.try_get(column)?;
    micros.map(Timestamp::from_microsecond).transpose().map_err(foreign)
}

/// The 16 bytes of an id.
pub(super) fn id(row: &SqliteRow, column: &str) -> sqlx::Result<[u8; 16]> {
    row.try_get::<&[u8], _>(column)?.try_into().map_err(foreign)
}

pub(super) fn optional_id(row: &SqliteRow, column: &str) -> sqlx::Result<Option<[u8; 16]>> {
    let bytes: Option<&[u8]> = row.try_get(column)?;
    bytes.map(<[u8; 16]>::try_from).transpose().map_err(foreign)
}

/// A number that is never negative.
pub(super) fn optional_number(row: &SqliteRow, column: &str) -> sqlx::Result<Option<u64>> {
    let number: Option<i64> = row.try_get(column)?;
    number.map(u64::try_from).transpose().map_err(foreign)
}

/// A job, which may be an instance with escapes.
pub(super) fn optional_job(row: &SqliteRow, column: &str) -> sqlx::Result<Option<JobName>> {
    let name: Option<&str> = row.try_get(column)?;
    name.map(|name| JobName::from_unit(&format!("{name}.service"))).transpose().map_err(foreign)
}

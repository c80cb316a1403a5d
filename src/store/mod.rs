//! The history: what became of every run and every runner, who asked for what, what must not be done twice, and what is
//! still to be told.
//!
//! A SQLite database, `ci-bridge.db`, in the directory of the state. One connection writes, two read; a write that was
//! acknowledged survives the end of the process and of the power. What is recorded never goes back: a run that has
//! ended stays so, whatever is reported later.
//!
//! Statements are checked by tests and not by the compiler: that would take a database, or a copy of what it says of
//! each statement, wherever the bridge is built.
//!
//! Absent on purpose: HTTP, systemd, the journal, a clock (whoever calls says what time it is), and any decision about
//! jobs. Starting one must not depend on this.

mod audit;
mod backup;
mod error;
mod files;
mod glance;
mod idempotency;
mod outbox;
mod queue;
mod retention;
mod runners;
mod runs;
mod schema;
mod values;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, SqlitePool};
use tokio::sync::watch;

pub use self::audit::{AuditEntry, AuditFilter, AuditId, AuditRecord};
pub use self::backup::{BackupError, backup};
pub use self::error::Error;
pub use self::glance::Glance;
pub use self::idempotency::{Answer, Attempt, Begun};
pub use self::outbox::{Attempted, Delivery, DeliveryFilter, DeliveryId, DeliveryRecord, DeliveryState};
pub use self::queue::{Enqueued, Waiting};
pub use self::retention::{Forgotten, Retention};
pub use self::runners::{Heard, Recorded, RunnerFilter, RunnerRecord, SourceRecord};
pub use self::runs::{End, Log, LogPlace, Origin, Phase, Progress, Run};
pub use self::schema::check_sqlite;

use self::files::Files;
use self::writer::{Desk, Writer};

/// How long a lock of another process, or a free connection, is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections that read. What they do takes milliseconds.
const READERS: u32 = 2;
/// The largest database that is checked after an unclean end, in bytes; that takes 0.2 s.
const CHECKED_SIZE: u64 = 48 * 1024 * 1024;
/// The longest page of a list.
pub const PAGE: u32 = 1000;

/// The history of this machine; clones share the connections.
#[derive(Clone)]
pub struct Store {
    writer: Writer,
    readers: SqlitePool,
    damaged: Arc<AtomicBool>,
    failures: watch::Receiver<Option<Error>>,
}

/// A store that has just been opened.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Where the damaged database is now in whose place an empty one was made.
    pub set_aside: Option<PathBuf>,
}

impl Store {
    /// Opens the database in `directory`, or makes one, with mode 0640.
    ///
    /// A damaged one is moved aside. Whether it is damaged is looked for only after an unclean end, and if it is small;
    /// otherwise it comes out where the damage is.
    ///
    /// # Errors
    /// [`Error`] says why there is no history. The next call may succeed.
    pub async fn open(directory: &Path) -> Result<Opened, Error> {
        let lock = Files::lock(directory)?;
        let files = Files::of(directory);
        let (connection, set_aside) = match connect(&files).await? {
            Connected::Sound(connection) => (connection, None),
            Connected::Corrupt(connection, error) => {
                let aside = files.set_aside(Timestamp::now())?;
                // Only now: closing it writes the log into a database that has not moved, and what is left of one that
                // is damaged stays as it is.
                let _ = connection.close().await;
                match connect(&files).await? {
                    Connected::Sound(connection) => (connection, Some(aside)),
                    Connected::Corrupt(..) => return Err(error),
                }
            }
        };
        let readers = SqlitePoolOptions::new()
            .min_connections(READERS)
            .max_connections(READERS)
            .acquire_timeout(PATIENCE)
            // A connection stays what it is, and one that is opened later could meet other files.
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options(&files).read_only(true))
            .await?;
        let failed = |source| Error::Open { path: files.database().to_owned(), source: Arc::new(source) };
        let identity = files.identity().map_err(failed)?;
        let damaged = Arc::<AtomicBool>::default();
        let (announced, failures) = watch::channel(None);
        let desk = Desk { connection, files, identity, damaged: damaged.clone(), failures: announced, lock };
        let writer = Writer::start(desk);
        Ok(Opened { store: Self { writer, readers, damaged, failures }, set_aside })
    }

    /// Finishes the writes that wait, and closes the database so that the next start need not check it.
    ///
    /// # Errors
    /// What kept it from being closed cleanly. Nothing that was acknowledged is lost.
    pub async fn close(&self) -> Result<(), Error> {
        // First, so that the connection that writes is the last one and can put away the log.
        self.readers.close().await;
        self.writer.close().await
    }

    /// The last reason for which nothing could be written, whoever wanted it; each failure is a change.
    #[must_use]
    pub fn failures(&self) -> watch::Receiver<Option<Error>> {
        self.failures.clone()
    }

    /// Sorts what went wrong with a read.
    fn sort(&self, error: sqlx::Error) -> Error {
        let error = Error::from(error);
        if matches!(error, Error::Corrupt(_)) {
            self.damaged.store(true, Ordering::Relaxed);
        }
        error
    }
}

/// What all connections have in common. Nothing of the database is mapped into memory.
fn options(files: &Files) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(files.database())
        .busy_timeout(PATIENCE)
        .foreign_keys(true)
        .pragma("trusted_schema", "OFF")
        .pragma("mmap_size", "0")
        .disable_statement_logging()
}

/// A connection that writes.
enum Connected {
    /// To a database that is up to date.
    Sound(SqliteConnection),
    /// To one that is damaged, and where that came out.
    Corrupt(SqliteConnection, Error),
}

async fn connect(files: &Files) -> Result<Connected, Error> {
    files.prepare()?;
    let mut connection = options(files).connect().await?;
    match bring_up(&mut connection, files).await {
        Ok(()) => Ok(Connected::Sound(connection)),
        Err(error @ Error::Corrupt(_)) => Ok(Connected::Corrupt(connection, error)),
        Err(error) => {
            // Otherwise it would be closed some time later. The first error is the one to tell.
            let _ = connection.close().await;
            Err(error)
        }
    }
}

async fn bring_up(connection: &mut SqliteConnection, files: &Files) -> Result<(), Error> {
    schema::set_up(connection).await?;
    if schema::was_in_use(connection).await? && files.size().is_ok_and(|size| size <= CHECKED_SIZE) {
        schema::check(connection).await?;
    }
    schema::migrate(connection, files).await?;
    schema::mark_in_use(connection, true).await
}

#[cfg(test)]
impl Store {
    /// How SQLite goes about a statement, in its own words.
    ///
    /// Source: <https://www.sqlite.org/eqp.html>.
    async fn plan(&self, statement: &str) -> Vec<String> {
        let plan = sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")));
        let steps: Vec<(i64, i64, i64, String)> = plan.fetch_all(&self.readers).await.unwrap();
        steps.into_iter().map(|(.., detail)| detail).collect()
    }
}

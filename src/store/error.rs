//! What can go wrong with the database, split by what the caller can do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use libsqlite3_sys as code;
use sqlx::migrate::MigrateError;

/// Nothing was recorded, or nothing could be read.
///
/// An error of a write means that the write has not happened, except for [`Error::Gone`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no room. The next write after room was made succeeds.
    #[error("the database cannot be written: its disk is full, or fails")]
    Full(#[source] Arc<sqlx::Error>),
    /// Another process holds the database, or all connections are in use.
    #[error("the database is locked; try again, and if it stays so, end the other process that uses it")]
    Busy(#[source] Arc<sqlx::Error>),
    /// The system does not let the database be used: read-only, without permission, or unreadable.
    #[error("the database cannot be used: is its file system writable, and does it belong to the service's user?")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// The content contradicts itself.
    #[error("the database is damaged; a restart of ci-bridge moves it aside and begins a new one")]
    Corrupt(#[source] Arc<sqlx::Error>),
    /// The files were deleted or replaced. What was written since then is lost with them.
    #[error("the database was deleted or replaced while in use; restart ci-bridge")]
    Gone,
    /// The store has been closed.
    #[error("the database is closed")]
    Closed,
    /// What was to be recorded contradicts what is.
    #[error("another record already stands for this, or one that it refers to is missing")]
    Conflict(#[source] Arc<sqlx::Error>),
    /// A fault of the bridge, or a row that it did not write.
    #[error("the bridge and its database do not understand each other")]
    Internal(#[source] Arc<sqlx::Error>),
    /// A file can't be opened.
    #[error("cannot open {}; it must belong to the user that ci-bridge runs as", path.display())]
    Open {
        /// The file, or the directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Another process has opened the store.
    #[error("another ci-bridge uses {}", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// The database was written by a version with other migrations, most often a newer one.
    #[error(
        "{} was written by another version of ci-bridge, which this one does not know (migration {migration}); \
         install that version again, or move the file away to begin a new one",
        path.display()
    )]
    UnknownSchema {
        /// The database.
        path: PathBuf,
        /// The first migration that is not known here.
        migration: i64,
    },
    /// The linked SQLite can destroy a database.
    #[error("SQLite {0} can damage a database with a write-ahead log; build ci-bridge with 3.51.3 or newer")]
    OldSqlite(String),
}

impl Error {
    /// Whether only the write itself is at fault, so that others in the same transaction are not.
    pub(super) fn spares_others(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Internal(_))
    }

    /// Sorts what went wrong while the schema was brought up to date.
    pub(super) fn of_migration(error: MigrateError, path: PathBuf) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            MigrateError::VersionMissing(migration)
            | MigrateError::VersionMismatch(migration)
            | MigrateError::Dirty(migration) => Self::UnknownSchema { path, migration },
            other => Self::Internal(Arc::new(sqlx::Error::Migrate(Box::new(other)))),
        }
    }
}

impl From<sqlx::Error> for Error {
    /// Source: <https://www.sqlite.org/rescode.html>.
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
        let error = Arc::new(error);
        let Some(code) = code else {
            return match *error {
                sqlx::Error::PoolTimedOut => Self::Busy(error),
                sqlx::Error::PoolClosed => Self::Closed,
                sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
                _ => Self::Internal(error),
            };
        };
        match code {
            code::SQLITE_READONLY_DBMOVED => return Self::Gone,
            // A file system has more words for a lack of room than one: quotas, a map that cannot grow.
            code::SQLITE_IOERR_WRITE
            | code::SQLITE_IOERR_FSYNC
            | code::SQLITE_IOERR_DIR_FSYNC
            | code::SQLITE_IOERR_TRUNCATE
            | code::SQLITE_IOERR_SHMSIZE => return Self::Full(error),
            _ => {}
        }
        // The lowest byte is the primary result code.
        match code & 0xff {
            code::SQLITE_FULL => Self::Full(error),
            code::SQLITE_BUSY | code::SQLITE_LOCKED => Self::Busy(error),
            code::SQLITE_CORRUPT | code::SQLITE_NOTADB => Self::Corrupt(error),
            code::SQLITE_CONSTRAINT => Self::Conflict(error),
            code::SQLITE_IOERR
            | code::SQLITE_CANTOPEN
            | code::SQLITE_READONLY
            | code::SQLITE_PERM
            | code::SQLITE_AUTH
            | code::SQLITE_NOLFS
            | code::SQLITE_NOMEM => Self::Unavailable(error),
            _ => Self::Internal(error),
        }
    }
}

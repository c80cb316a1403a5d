//! The files of the database: who may use them, whether they are still there, and how they are moved aside.
//!
//! Nothing here opens one of them while a connection is open: as `fcntl(2)` has it, closing any descriptor of a file
//! lets go of all locks that the process has on it, also of those of SQLite.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::Error;

/// The database in the directory of the state.
const NAME: &str = "ci-bridge.db";
/// What SQLite keeps beside a database, in the order in which it has to be moved away.
///
/// A log that is left behind would be taken for one of the new database.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];
/// The group may read: it is that of the service.
const MODE: u32 = 0o640;

/// The database and what SQLite keeps beside it.
#[derive(Debug, Clone)]
pub(super) struct Files {
    database: PathBuf,
}

/// Which files they are: device and inode of each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity([(u64, u64); 3]);

impl Files {
    pub(super) fn of(directory: &Path) -> Self {
        Self { database: directory.join(NAME) }
    }

    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    /// Takes the directory for this process, until the returned file is dropped.
    pub(super) fn lock(directory: &Path) -> Result<File, Error> {
        let failed = |source| Error::Open { path: directory.to_owned(), source: Arc::new(source) };
        let lock = File::open(directory).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(Error::InUse { directory: directory.to_owned() }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Makes an empty database if there is none, and finds out whether it can be written.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        let created = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&self.database);
        let prepared = match created {
            // The mask of the process does not narrow it. SQLite gives the other files the same mode.
            Ok(file) => file.set_permissions(Permissions::from_mode(MODE)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                OpenOptions::new().read(true).write(true).open(&self.database).map(drop)
            }
            Err(error) => Err(error),
        };
        prepared.map_err(|source| Error::Open { path: self.database.clone(), source: Arc::new(source) })
    }

    /// The size of the database in bytes, without its log.
    pub(super) fn size(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.database)?.len())
    }

    /// Which files the connections that are open use.
    pub(super) fn identity(&self) -> io::Result<Identity> {
        let identify = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
        let [log, map] = COMPANIONS.map(|suffix| with_suffix(&self.database, suffix));
        Ok(Identity([identify(&self.database)?, identify(&log)?, identify(&map)?]))
    }

    /// Renames the database to `ci-bridge.db.corrupt-<time>`, and its companions with it.
    pub(super) fn set_aside(&self, now: Timestamp) -> Result<PathBuf, Error> {
        let aside = with_suffix(&self.database, &format!(".corrupt-{}", now.strftime("%Y%m%dT%H%M%S.%6fZ")));
        for suffix in COMPANIONS.into_iter().chain([""]) {
            let path = with_suffix(&self.database, suffix);
            match fs::rename(&path, with_suffix(&aside, suffix)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Open { path, source: Arc::new(source) });
                }
                _ => {}
            }
        }
        Ok(aside)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

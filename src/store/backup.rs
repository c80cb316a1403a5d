//! A copy of the database, whole and consistent, while it is in use.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sqlx::{ConnectOptions as _, Connection as _};

use super::files::Files;
use super::{Error, options};

/// No copy was made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no database, or it may not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The database.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database can't be read, or the copy not written.
    #[error("cannot copy the database")]
    Copy(#[from] Error),
    /// There is a file of that name.
    #[error("{} exists already; nothing is overwritten", .0.display())]
    Exists(PathBuf),
    /// The copy can't be put in its place.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file that was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Copies the database in `directory` to the new file `to`, which only its owner may read.
///
/// Works from another process while the bridge runs, and keeps nobody waiting. `to` appears as a whole when its content is
/// on the disk. Its file system must know hard links.
///
/// # Errors
/// [`BackupError`]; there is no file `to` then that was not there before.
///
/// Source: <https://www.sqlite.org/lang_vacuum.html#vacuuminto>.
pub async fn backup(directory: &Path, to: &Path) -> Result<(), BackupError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => BackupError::Exists(to.to_owned()),
        _ => BackupError::Write { path: to.to_owned(), source },
    };
    let to = std::path::absolute(to).map_err(failed)?;
    let (Some(parent), Some(name)) = (to.parent(), to.file_name()) else {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file")));
    };
    if fs::symlink_metadata(&to).is_ok() {
        return Err(BackupError::Exists(to));
    }
    let temporary = parent.join(format!(".{}.{}.new", name.display(), std::process::id()));
    // SQLite says of both only that it cannot open the database.
    let files = Files::of(directory);
    fs::metadata(files.database()).map_err(|source| BackupError::Read { path: files.database().to_owned(), source })?;
    // Left by a process of the same number that was killed in between.
    if let Err(error) = fs::remove_file(&temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed(error));
    }
    // SQLite writes into a file that is there only if it is empty; so the file is never readable by others.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
    let copied = copy(&files, &temporary).await;
    let placed = copied.and_then(|()| {
        // Unlike a rename, a link never takes the place of another file.
        file.sync_all().and_then(|()| fs::hard_link(&temporary, &to)).map_err(failed)
    });
    let removed = fs::remove_file(&temporary);
    placed?;
    removed.and_then(|()| File::open(parent)?.sync_all()).map_err(failed)
}

async fn copy(files: &Files, temporary: &Path) -> Result<(), BackupError> {
    let Some(path) = temporary.to_str() else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "SQLite takes only names in UTF-8");
        return Err(BackupError::Write { path: temporary.to_owned(), source });
    };
    let mut connection = options(files).read_only(true).connect().await.map_err(Error::from)?;
    let copied = sqlx::query("VACUUM INTO ?").bind(path).execute(&mut connection).await;
    // Nothing was written through it that could be lost.
    let _ = connection.close().await;
    copied.map_err(Error::from)?;
    Ok(())
}

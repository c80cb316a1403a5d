//! Whole logs of runs that have ended, in files of our own, so that they can be read when journald has let go of them.
//!
//! One file a run, written once and never changed: `<first two digits>/<invocation id>.log` below the archive's
//! directory. It holds all that the journal gives of an entry, so a log reads the same from either. A file is there
//! whole or not at all: it is written under another name, in `new/`, and renamed when it is on the disk. What is damaged
//! later is an error of that file, or of a block of it, and never a wrong line. `docs/architecture.md` has the format.
//!
//! Absent on purpose: an index. Which runs are archived is for the caller to remember; [`Archive::list`] reads it back
//! from the files. Nothing is ever added to a file, and nothing is deleted but what the caller names. All calls block.

mod block;
mod codec;
mod entries;
mod file;
mod footer;
mod retention;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use self::file::LogFile;
use crate::invocation::InvocationId;
use crate::journal::{Filter, From, Losses, Run};
use crate::policy::JobName;

pub use self::entries::{Entries, NewestFirst};
pub use self::retention::{Kept, Limits, surplus};
pub use self::writer::Draft;

/// Where files lie until they are whole.
const NEW: &str = "new";
const SUFFIX: &str = ".log";
/// The logs of jobs may hold secrets.
const DIRECTORY_MODE: u32 = 0o700;

/// Why an archived log can't be written, read or deleted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no room for it.
    #[error("no space is left to write {}", path.display())]
    Full {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is damaged, or no archived log at all.
    #[error("the archived log {} is damaged at byte {at}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from its start.
        at: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A newer version has written the file.
    #[error("the archived log {} has version {version} of its format; update ci-bridge", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The version of the format.
        version: u8,
    },
}

impl Error {
    fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full { path, source },
            _ => Self::Io { path, source },
        }
    }
}

/// What a log is the log of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The job.
    pub job: JobName,
    /// Which of its runs.
    pub invocation: InvocationId,
    /// When the run began; `None` if that was not known. What is finer than microseconds is not kept.
    pub started: Option<Timestamp>,
    /// When it ended, likewise.
    pub ended: Timestamp,
    /// Whether all that the run had said was in the journal when it was archived, as far as that can be told.
    pub settled: bool,
}

/// An archived log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What it is the log of.
    pub label: Label,
    /// How many entries it has.
    pub entries: u64,
    /// The size of its file.
    pub bytes: u64,
    /// What was missing of the run when it was archived.
    pub losses: Losses,
}

/// A directory of archived logs; clones are the same archive.
#[derive(Debug, Clone)]
pub struct Archive {
    directory: Arc<Path>,
    /// Tells attempts to write the same log from one another.
    attempts: Arc<AtomicU64>,
    keep_free: u64,
}

/// What comes of [`Archive::begin`].
#[derive(Debug)]
pub enum Begun {
    /// The log is there.
    There(Box<Stored>),
    /// It is to be written.
    Draft(Box<Draft>),
}

impl Archive {
    /// The archive in `directory`, which is made if it is missing. Files that a crash has left half written are deleted;
    /// the others are not looked at, so it makes no difference how many there are.
    ///
    /// Only one process at a time may open it.
    ///
    /// # Errors
    /// [`Error`] if the directory can't be made or written to.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let new = directory.join(NEW);
        let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&new);
        made.map_err(|error| Error::io(&new, error))?;
        for unfinished in read_directory(&new)? {
            delete(&unfinished)?;
        }
        Ok(Self { directory: directory.into(), attempts: Arc::default(), keep_free: 0 })
    }

    /// Leaves at least so many bytes of the file system free: a log that would take more is refused as if it was full.
    #[must_use]
    pub fn keeping_free(self, bytes: u64) -> Self {
        Self { keep_free: bytes, ..self }
    }

    /// Begins to write the log of a run that has ended, under a name that nobody reads.
    ///
    /// What has been archived stays: [`Begun::There`] has it. Only a log of which something is missing, or was still on
    /// its way, may give way to another, and a damaged one gives way to any.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no room; the attempt can be made again when there is.
    pub fn begin(&self, label: &Label) -> Result<Begun, Error> {
        let path = self.path(label.invocation);
        match LogFile::open(&path, label.invocation) {
            Ok(Some(file)) if file.is_final() => return Ok(Begun::There(Box::new(file.stored()))),
            Ok(_) | Err(Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.directory.join(NEW).join(format!("{}-{attempt}", label.invocation));
        Draft::create(unfinished, path, label.clone(), self.keep_free).map(|draft| Begun::Draft(Box::new(draft)))
    }

    /// The entries of a run and what is missing of them, as
    /// [`Journal::run_where`](crate::journal::Journal::run_where) gave them when it was archived; `None` if its log is not
    /// here.
    ///
    /// # Errors
    /// [`Error`] if the file can't be read. A damaged block shows only when the entries come to it.
    pub fn entries(&self, run: &Run, from: From, filter: &Filter) -> Result<Option<Entries>, Error> {
        let file = LogFile::open(&self.path(run.invocation), run.invocation)?;
        // The id alone would do, were it not for those who guess ids.
        Ok(file.filter(|file| file.label().job == *run.job.name()).map(|file| Entries::new(file, &from, *filter)))
    }

    /// All logs, in no particular order: two small reads each. An error stands for a file, or for a directory of them.
    pub fn list(&self) -> impl Iterator<Item = Result<Stored, Error>> {
        let directories = (0..=u8::MAX).map(|first| self.directory.join(format!("{first:02x}")));
        directories.flat_map(|directory| match read_directory(&directory) {
            Ok(paths) => paths.into_iter().filter_map(|path| listed(&path).transpose()).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    /// Deletes logs, and when none of them can come back, calls `forget` for each. One that is not there counts as
    /// deleted, so what was interrupted is simply done again. Whoever reads one goes on reading.
    ///
    /// # Errors
    /// The first [`Error`]; the others are deleted and forgotten nevertheless.
    pub fn delete(
        &self,
        logs: impl IntoIterator<Item = InvocationId>,
        mut forget: impl FnMut(InvocationId),
    ) -> Result<(), Error> {
        let mut directories = BTreeSet::new();
        let mut deleted = Vec::new();
        let mut first_error = None;
        for invocation in logs {
            let path = self.path(invocation);
            match delete(&path) {
                Ok(()) => {
                    directories.extend(path.parent().map(Path::to_owned));
                    deleted.push(invocation);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        for directory in directories {
            match sync_directory(&directory) {
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                result => result?,
            }
        }
        deleted.into_iter().for_each(&mut forget);
        first_error.map_or(Ok(()), Err)
    }

    fn path(&self, invocation: InvocationId) -> PathBuf {
        let id = invocation.to_string();
        let first = id.get(..2).unwrap_or_default();
        self.directory.join(first).join(format!("{id}{SUFFIX}"))
    }
}

/// The log at `path`; `None` if that is no name of one, or it was deleted since it was listed.
fn listed(path: &Path) -> Result<Option<Stored>, Error> {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
    let Some(invocation) = name.and_then(|id| id.parse::<InvocationId>().ok()) else { return Ok(None) };
    Ok(LogFile::open(path, invocation)?.map(|file| file.stored()))
}

/// What is in a directory; nothing if there is none.
fn read_directory(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let paths = fs::read_dir(directory).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    match paths {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        paths => paths.map_err(|error| Error::io(directory, error)),
    }
}

fn delete(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}

/// Makes what happened to the names in a directory last.
fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| Error::io(directory, error))
}

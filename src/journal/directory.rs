//! The journal files of a host, kept open between queries.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::Error;
use super::damage::{Damage, Problem};
use super::file::JournalFile;
use super::reach::Reach;

/// So many files stay open, the newest; older ones are opened for each query. Far below the usual limit of 1024.
const KEPT_OPEN: usize = 256;

/// A directory that changed more recently than this is listed again, because its time stamp is only so exact.
const SETTLED: Duration = Duration::from_secs(1);

/// A file of the journal.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    id: (u64, u64),
    changed: SystemTime,
    kept: Option<Arc<JournalFile>>,
}

impl Listed {
    /// The open file.
    pub(super) fn open(&self) -> Result<Arc<JournalFile>, Damage> {
        match &self.kept {
            Some(file) => Ok(Arc::clone(file)),
            None => JournalFile::open(&self.path).map(Arc::new),
        }
    }

    /// Where its entries lie if it can't be read.
    pub(super) fn reach(&self) -> Reach {
        Reach::default().up_to(self.changed)
    }
}

/// Directories, and when each had changed; `None` if it must be listed again in any case.
#[derive(Debug, Default)]
struct Stamps(Vec<(PathBuf, Option<SystemTime>)>);

impl Stamps {
    fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        Self(paths.map(|path| (path.to_owned(), stamp(path))).collect())
    }

    /// Whether nothing has changed since.
    fn hold(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(path, changed)| changed.is_some() && stamp(path) == *changed)
    }
}

#[derive(Debug, Default)]
struct State {
    stamps: Stamps,
    files: Arc<Vec<Listed>>,
    unlisted: Vec<Problem>,
    problems: BTreeMap<PathBuf, Problem>,
}

/// The directories in which journald keeps the files of one host.
///
/// The journald of a namespace has its own beside them, `<machine-id>.<namespace>`, which may appear at any time.
#[derive(Debug)]
pub(super) struct Directories {
    paths: Vec<PathBuf>,
    state: Mutex<State>,
}

impl Directories {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each part of the state is replaced as a whole, so it is sound even if a thread died on the way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files there are now, newest first.
    pub(super) fn files(&self) -> Result<Arc<Vec<Listed>>, Error> {
        let state = &mut *self.state();
        // A file that could not be opened may be one that journald is just making.
        let whole = state.unlisted.is_empty() && state.files.iter().take(KEPT_OPEN).all(|file| file.kept.is_some());
        if !whole || !state.stamps.hold() {
            self.list(state)?;
        }
        Ok(Arc::clone(&state.files))
    }

    /// The directories that could not be listed when [`Directories::files`] was asked last.
    pub(super) fn unlisted(&self) -> Vec<Problem> {
        self.state().unlisted.clone()
    }

    /// The namespace whose journald writes this file; `None` if it is that of the host.
    pub(super) fn namespace_of<'a>(&self, file: &'a Path) -> Option<&'a str> {
        self.paths.iter().find_map(|path| namespace(path, file.parent()?))
    }

    fn list(&self, state: &mut State) -> Result<(), Error> {
        // Stamps are taken first: what changes while it is listed is listed again.
        let mut stamps = Stamps::of(self.paths.iter().filter_map(|path| path.parent()));
        let mut refused = Vec::new();
        let mut directories = self.paths.clone();
        for path in &self.paths {
            match namespaces(path) {
                Ok(found) => directories.extend(found),
                Err(error) => refused.push((path.clone(), error)),
            }
        }
        stamps.0.extend(Stamps::of(directories.iter().map(PathBuf::as_path)).0);
        let mut files = Vec::new();
        for path in directories {
            match entries(&path) {
                Ok(found) => files.extend(found),
                Err(error) => refused.push((path, error)),
            }
        }
        // One of the two places, volatile or persistent, is usually missing.
        refused.retain(|(_, error)| error.kind() != io::ErrorKind::NotFound);
        if files.is_empty() {
            return Err(match refused.pop() {
                Some((path, source)) => Error::Directory { path, source },
                None => Error::NoJournal { directories: self.paths.clone() },
            });
        }
        files.sort_by(|a: &Listed, b| b.changed.cmp(&a.changed).then_with(|| a.path.cmp(&b.path)));
        let State { files: before, problems, .. } = state;
        problems.retain(|path, _| files.iter().any(|file| file.path == *path));
        for file in files.iter_mut().take(KEPT_OPEN) {
            let open = before.iter().find(|open| open.id == file.id).and_then(|open| open.kept.clone());
            match open.map_or_else(|| JournalFile::open(&file.path).map(Arc::new), Ok) {
                Ok(open) => {
                    file.kept = Some(open);
                    problems.remove(&file.path);
                }
                Err(damage) => {
                    problems.entry(file.path.clone()).or_insert_with(|| Problem::new(&file.path, damage));
                }
            }
        }
        let unlisted = refused.into_iter().map(|(path, error)| Problem::new(&path, Damage::Io(error)));
        state.unlisted = unlisted.collect();
        problems.extend(state.unlisted.iter().map(|problem| (problem.path().to_owned(), problem.clone())));
        state.stamps = stamps;
        state.files = Arc::new(files);
        Ok(())
    }

    /// Keeps a problem that a query met, one of each file.
    pub(super) fn report(&self, problem: &Problem) {
        self.state().problems.entry(problem.path().to_owned()).or_insert_with(|| problem.clone());
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        self.state().problems.values().cloned().collect()
    }
}

/// When the directory changed, if that was long enough ago to trust it.
fn stamp(path: &Path) -> Option<SystemTime> {
    let changed = match fs::metadata(path).and_then(|directory| directory.modified()) {
        Ok(changed) => changed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(SystemTime::UNIX_EPOCH),
        Err(_) => return None,
    };
    SystemTime::now().duration_since(changed).is_ok_and(|age| age > SETTLED).then_some(changed)
}

/// The directory of a namespace, if that of the host is `directory`: journald's rule for files and for sockets.
pub(super) fn of_namespace(directory: &Path, namespace: &str) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(namespace);
    directory.with_file_name(name)
}

/// The directories of namespaces beside that of the host.
pub(super) fn namespaces(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(parent) = directory.parent() else { return Ok(Vec::new()) };
    let beside: io::Result<Vec<_>> = fs::read_dir(parent)?.map(|entry| Ok(entry?.path())).collect();
    Ok(beside?.into_iter().filter(|path| namespace(directory, path).is_some()).collect())
}

/// The namespace whose directory `beside` is, if that of the host is `directory`.
fn namespace<'a>(directory: &Path, beside: &'a Path) -> Option<&'a str> {
    if beside.parent() != directory.parent() {
        return None;
    }
    let name = directory.file_name()?.to_str()?;
    beside.file_name()?.to_str()?.strip_prefix(name)?.strip_prefix('.').filter(|namespace| !namespace.is_empty())
}

fn entries(directory: &Path) -> io::Result<Vec<Listed>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        // `.journal~` are files that were not closed well; they hold entries like the others.
        if !path.extension().is_some_and(|kind| kind == OsStr::new("journal") || kind == OsStr::new("journal~")) {
            continue;
        }
        // A file may be rotated away between listing and asking.
        let Some(metadata) = metadata(&entry) else { continue };
        let changed = metadata.modified()?;
        let id = (metadata.dev(), metadata.ino());
        files.push(Listed { path, id, changed, kept: None });
    }
    Ok(files)
}

fn metadata(entry: &DirEntry) -> Option<Metadata> {
    fs::metadata(entry.path()).ok()
}

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

#[derive(Debug, Default)]
struct State {
    /// When each directory had changed; `None` if it must be listed again in any case.
    stamps: Vec<Option<SystemTime>>,
    files: Arc<Vec<Listed>>,
    problems: BTreeMap<PathBuf, Problem>,
}

/// The directories in which journald keeps the files of one host.
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
        let stamps: Vec<_> = self.paths.iter().map(|path| stamp(path)).collect();
        // A file that could not be opened may be one that journald is just making.
        let whole = state.files.iter().take(KEPT_OPEN).all(|file| file.kept.is_some());
        if whole && !stamps.is_empty() && stamps.iter().all(Option::is_some) && state.stamps == stamps {
            return Ok(Arc::clone(&state.files));
        }
        let files = self.list(&state.files, &mut state.problems)?;
        state.stamps = stamps;
        state.files = Arc::new(files);
        Ok(Arc::clone(&state.files))
    }

    fn list(&self, before: &[Listed], problems: &mut BTreeMap<PathBuf, Problem>) -> Result<Vec<Listed>, Error> {
        let mut files = Vec::new();
        let mut refused = None;
        for path in &self.paths {
            match entries(path) {
                Ok(found) => files.extend(found),
                // One of the two places, volatile or persistent, is usually missing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => refused = Some(Error::Directory { path: path.clone(), source: error }),
            }
        }
        if files.is_empty() {
            return Err(refused.unwrap_or_else(|| Error::NoJournal { directories: self.paths.clone() }));
        }
        files.sort_by(|a: &Listed, b| b.changed.cmp(&a.changed).then_with(|| a.path.cmp(&b.path)));
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
        Ok(files)
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
        files.push(Listed { path, id: (metadata.dev(), metadata.ino()), changed, kept: None });
    }
    Ok(files)
}

fn metadata(entry: &DirEntry) -> Option<Metadata> {
    fs::metadata(entry.path()).ok()
}

//! The lines of a run, wherever they are kept.
//!
//! The archive comes first: what is in it is whole, needs no fence, and stays. The journal has the runs that are under way,
//! those that have just ended, and those that could not be archived. Both give the same entries with the same places, so a
//! reader may begin with the one and go on with the other.

use std::sync::Arc;

use super::{LogPlace, Run};
use crate::archive::{self, Archive};
use crate::journal::{self, Entry, Filter, From, Gap, Journal};
use crate::telemetry::Chain;

/// Where logs are read from.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) journal: Journal,
    pub(super) archive: Option<Archive>,
}

/// Which lines are wanted, of a run that has begun.
#[derive(Clone)]
pub(super) struct Wanted {
    /// The run as it was when somebody looked; only one that had ended can be in the archive.
    pub(super) run: Arc<Run>,
    /// The same for those who keep its lines.
    pub(super) of: journal::Run,
    pub(super) from: From,
    pub(super) filter: Filter,
}

impl Sources {
    /// The lines of a run that has ended, if it is archived and can be read there; why not, is logged. Blocks.
    pub(super) fn archived(&self, wanted: &Wanted) -> Option<Lines> {
        self.in_archive(wanted).unwrap_or_else(|error| {
            told(error);
            None
        })
    }

    /// The lines from where they are kept; if the archive can't be read, the journal has to do. Blocks.
    pub(super) fn open(&self, wanted: &Wanted) -> Result<Lines, journal::Error> {
        let archived = self.in_archive(wanted);
        if let Ok(Some(lines)) = archived {
            return Ok(lines);
        }
        let entries = self.journal.run_where(&wanted.of, wanted.from, &wanted.filter)?;
        let lost = match (entries.knows_run(), archived) {
            (true, _) => None,
            (false, Err(_)) => Some(Gap::Unreadable),
            (false, Ok(_)) => self.is_deleted(&wanted.run)?.then_some(Gap::Vacuumed),
        };
        Ok(Lines { kept: Kept::Journal(entries), lost })
    }

    fn in_archive(&self, wanted: &Wanted) -> Result<Option<Lines>, archive::Error> {
        let Some(archive) = self.archive.as_ref().filter(|_| wanted.run.ended().is_some()) else { return Ok(None) };
        let entries = archive.entries(&wanted.of, wanted.from, &wanted.filter)?;
        Ok(entries.map(|entries| Lines { kept: Kept::Archive(entries), lost: None }))
    }

    /// Whether a run of which the journal has nothing has been deleted from it. If not, there was nothing to say.
    fn is_deleted(&self, run: &Run) -> Result<bool, journal::Error> {
        if run.log.place == LogPlace::Archive {
            return Ok(true);
        }
        let at = run.ended().and_then(|ended| ended.at.or(run.started));
        let usec = at.and_then(|at| u64::try_from(at.as_microsecond()).ok());
        usec.map_or(Ok(false), |usec| self.journal.reaches_back_to(usec).map(|reaches| !reaches))
    }
}

/// An iterator over the entries of a run, which blocks to read files.
///
/// It goes on behind what can't be read; what is missing there shows among the gaps.
pub(super) struct Lines {
    kept: Kept,
    /// Why nothing of the run is left anywhere.
    lost: Option<Gap>,
}

enum Kept {
    Nothing,
    Journal(journal::Entries),
    JournalNewestFirst(journal::NewestFirst),
    Archive(archive::Entries),
    ArchiveNewestFirst(archive::NewestFirst),
}

impl Lines {
    /// Those of a run that has not begun.
    pub(super) fn none() -> Self {
        Self { kept: Kept::Nothing, lost: None }
    }

    /// Whether an archived log had all that the run had said, apart from the gaps; `None` if this is not one.
    pub(super) fn is_settled(&self) -> Option<bool> {
        match &self.kept {
            Kept::Archive(entries) => Some(entries.label().settled),
            _ => None,
        }
    }

    /// What is missing, each kind once: see [`journal::Entries::gaps`].
    pub(super) fn gaps(&self) -> Vec<Gap> {
        let mut gaps = match &self.kept {
            Kept::Nothing => Vec::new(),
            Kept::Journal(entries) => entries.gaps(),
            Kept::JournalNewestFirst(entries) => entries.gaps(),
            Kept::Archive(entries) => entries.gaps(),
            Kept::ArchiveNewestFirst(entries) => entries.gaps(),
        };
        gaps.extend(self.lost.filter(|lost| !gaps.contains(lost)));
        gaps
    }

    /// The same from the newest to the oldest.
    pub(super) fn newest_first(self) -> Self {
        let kept = match self.kept {
            Kept::Journal(entries) => Kept::JournalNewestFirst(entries.newest_first()),
            Kept::Archive(entries) => Kept::ArchiveNewestFirst(entries.newest_first()),
            kept => kept,
        };
        Self { kept, ..self }
    }
}

impl Iterator for Lines {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let entry = match &mut self.kept {
                Kept::Nothing => return None,
                Kept::Journal(entries) => entries.next()?.map_err(told),
                Kept::JournalNewestFirst(entries) => entries.next()?.map_err(told),
                Kept::Archive(entries) => entries.next()?.map_err(told),
                Kept::ArchiveNewestFirst(entries) => entries.next()?.map_err(told),
            };
            if let Ok(entry) = entry {
                return Some(entry);
            }
        }
    }
}

/// The caller is told of a gap; why, is for the administrator.
fn told(error: impl std::error::Error) {
    log::warn!("{}", Chain(&error));
}

//! The log of a run as it is at one moment.

use std::sync::Arc;

use super::{Cursor, Error, Jobs, Run, RunId};
use crate::journal::{self, Entries, Entry, Filter, From, NewestFirst};
use crate::policy::AllowedJob;
use crate::systemd::UnitState;
use crate::telemetry::Chain;

/// Which part of a log is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// All of it, from the last entry to the first.
    NewestFirst,
    /// The last entries.
    Last(usize),
    /// What comes after a cursor of this job; its run wins over the one asked for.
    After(Cursor),
}

/// The log of a run; an iterator over its entries, which blocks to read files.
pub struct RunLog {
    /// The state of the job's unit.
    pub unit: Arc<UnitState>,
    /// The run; `None` if the job never ran, so that there is nothing to read.
    pub run: Option<Arc<Run>>,
    entries: Lines,
    settled: bool,
}

/// The entries of a log in the order that was asked for.
enum Lines {
    None,
    OldestFirst(Entries),
    NewestFirst(NewestFirst),
}

impl RunLog {
    /// Whether the run has ended and every line that journald kept of it is among the entries, as far as they have been
    /// read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.settled && !self.has_gap()
    }

    /// Whether entries are missing: see [`Entries::gaps`].
    #[must_use]
    pub fn has_gap(&self) -> bool {
        match &self.entries {
            Lines::None => false,
            Lines::OldestFirst(entries) => !entries.gaps().is_empty(),
            Lines::NewestFirst(entries) => !entries.gaps().is_empty(),
        }
    }
}

impl Iterator for RunLog {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let entry = match &mut self.entries {
                Lines::None => None,
                Lines::OldestFirst(entries) => entries.next(),
                Lines::NewestFirst(entries) => entries.next(),
            };
            match entry? {
                Ok(entry) => return Some(entry),
                // The reader goes on behind the damage; what is missing there shows as a gap.
                Err(error) => log::warn!("{}", Chain(&error)),
            }
        }
    }
}

impl Jobs {
    /// The log of a job's newest run, or of the run asked for: those of its entries that are wanted.
    ///
    /// Of a run that has ended, waits until all that it said is in the journal; that takes milliseconds, and longer
    /// only as long as lines come.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`], [`Error::NoSuchRun`], [`Error::Journal`].
    pub async fn log(&self, job: &AllowedJob, run: Option<RunId>, part: Part, filter: Filter) -> Result<RunLog, Error> {
        let unit = self.unit_of(job, run).await?;
        let record = match &part {
            Part::After(cursor) => self.of_invocation(job, cursor.invocation).await?,
            Part::Whole | Part::NewestFirst | Part::Last(_) => self.find(job, run).await?,
        };
        let Some(record) = record else {
            return Ok(RunLog { unit, run: None, entries: Lines::None, settled: false });
        };
        // This look at the run decides: what it says ended has its log whole below, also if more ends meanwhile.
        let run = record.run();
        let settled = run.ended().is_some() && self.settle(&record).await;
        let Some(invocation) = run.invocation else {
            return Ok(RunLog { unit, run: Some(run), entries: Lines::None, settled });
        };
        let newest_first = part == Part::NewestFirst;
        let from = match part {
            Part::Whole | Part::NewestFirst | Part::After(Cursor { after: None, .. }) => From::Start,
            Part::Last(lines) => From::Last(lines),
            Part::After(Cursor { after: Some(position), .. }) => From::After(position),
        };
        let (journal, job) = (self.journal.clone(), job.clone());
        let read = move || journal.run_where(&journal::Run { job, invocation }, from, &filter);
        let entries = tokio::task::spawn_blocking(read).await??;
        let entries =
            if newest_first { Lines::NewestFirst(entries.newest_first()) } else { Lines::OldestFirst(entries) };
        Ok(RunLog { unit, run: Some(run), entries, settled })
    }
}

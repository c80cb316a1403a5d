//! The log of a run as it is at one moment.

use std::sync::Arc;

use super::lines::{Lines, Wanted};
use super::{Cursor, Error, Jobs, Run, RunId};
use crate::journal::{self, Entry, Filter, From};
use crate::policy::AllowedJob;
use crate::systemd::UnitState;

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
    lines: Lines,
    settled: bool,
}

impl RunLog {
    /// Whether the run has ended and every line that journald kept of it is among the entries, as far as they have been
    /// read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.settled && !self.has_gap()
    }

    /// Whether entries are missing: see [`Entries::gaps`](crate::journal::Entries::gaps).
    #[must_use]
    pub fn has_gap(&self) -> bool {
        !self.lines.gaps().is_empty()
    }
}

impl Iterator for RunLog {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.lines.next()
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
            return Ok(RunLog { unit, run: None, lines: Lines::none(), settled: false });
        };
        // This look at the run decides: what it says ended has its log whole below, also if more ends meanwhile.
        let run = record.run();
        let Some(invocation) = run.invocation else {
            let settled = run.ended().is_some();
            return Ok(RunLog { unit, run: Some(run), lines: Lines::none(), settled });
        };
        let newest_first = part == Part::NewestFirst;
        let from = match part {
            Part::Whole | Part::NewestFirst | Part::After(Cursor { after: None, .. }) => From::Start,
            Part::Last(lines) => From::Last(lines),
            Part::After(Cursor { after: Some(position), .. }) => From::After(position),
        };
        let of = journal::Run { job: job.clone(), invocation };
        let wanted = Wanted { run: run.clone(), of, from, filter };
        let (lines, settled) = self.lines(&record, wanted).await?;
        let lines = if newest_first { lines.newest_first() } else { lines };
        Ok(RunLog { unit, run: Some(run), lines, settled })
    }
}

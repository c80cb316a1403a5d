//! The log of a run as it grows: what there is, then what comes, until the run has ended and its log is whole.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

use super::live::{Batch, Live};
use super::registry::Record;
use super::{Cursor, Error, Jobs, Run, RunId};
use crate::journal::{self, Entries, Entry, From, Position};
use crate::policy::AllowedJob;
use crate::systemd::UnitState;
use crate::telemetry::Chain;

/// So many entries are read at once, or so many bytes of messages.
const PAGE_ENTRIES: usize = 1000;
const PAGE_BYTES: usize = 64 << 10;

/// Where to begin to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// So many entries before the newest.
    Last(usize),
    /// Behind a cursor of this job; its run wins over the one asked for.
    After(Cursor),
}

/// What a follower is told.
#[derive(Debug, Clone)]
pub enum Event {
    /// The next entries.
    Lines(Arc<Batch>),
    /// Entries are missing at this place.
    Gap(journal::Gap),
    /// The run has ended, or there is none; nothing comes after this.
    End(End),
}

/// How a log ends.
#[derive(Debug, Clone)]
pub struct End {
    /// The state of the job's unit.
    pub unit: Arc<UnitState>,
    /// The run; `None` if the job never ran.
    pub run: Option<Arc<Run>>,
    /// Whether every line that journald kept of the run has been told.
    pub is_complete: bool,
    /// Whether a gap was met on the way.
    pub has_gap: bool,
}

/// One who follows the log of a run.
pub struct Follower {
    jobs: Jobs,
    job: AllowedJob,
    record: Option<Record>,
    place: Place,
    /// The entry that was told last, or behind which to begin.
    last: Option<Position>,
    gap: bool,
    untold_gap: Option<journal::Gap>,
}

/// How far a follower is.
enum Place {
    /// The run has yet to begin.
    Waiting(From),
    /// Among the entries that are in the files.
    Reading { entries: Option<Box<Entries>>, from: From, ahead: Ahead },
    /// At the end, where entries arrive.
    AtEnd(Ahead),
    /// The run has ended: what has been handed out is all that there is.
    Draining { batches: broadcast::Receiver<Arc<Batch>>, is_settled: bool },
    /// Everything has been told.
    Ended,
}

/// What comes behind the entries that are being read.
enum Ahead {
    /// More, as it arrives.
    Live { live: Arc<Live>, batches: broadcast::Receiver<Arc<Batch>> },
    /// Nothing: the run has ended, and its log is whole, or nobody can tell.
    End { is_settled: bool },
}

impl Jobs {
    /// Follows the log of a job's newest run, or of the run asked for.
    ///
    /// Of a run that has ended, tells the log and ends; of a job that never ran, ends at once.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`], [`Error::NoSuchRun`], [`Error::Journal`].
    pub async fn follow(&self, job: &AllowedJob, run: Option<RunId>, beginning: Beginning) -> Result<Follower, Error> {
        self.systemd.state(job).await?.ok_or(Error::NoSuchJob)?;
        let record = match &beginning {
            Beginning::After(cursor) => self.of_invocation(job, cursor.invocation).await?,
            Beginning::Last(_) => self.find(job, run).await?,
        };
        let (from, last) = match beginning {
            Beginning::Last(lines) => (From::Last(lines), None),
            Beginning::After(Cursor { after: None, .. }) => (From::Start, None),
            Beginning::After(Cursor { after: Some(position), .. }) => (From::After(position), Some(position)),
        };
        let place = Place::Waiting(from);
        Ok(Follower { jobs: self.clone(), job: job.clone(), record, place, last, gap: false, untold_gap: None })
    }
}

impl Follower {
    /// The run that is followed, as it is now; `None` if the job never ran.
    #[must_use]
    pub fn run(&self) -> Option<Arc<Run>> {
        self.record.as_ref().map(Record::run)
    }

    /// The cursor behind what has been told; `None` as long as the run has not begun.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        Some(Cursor { invocation: self.run()?.invocation?, after: self.last })
    }

    /// What comes next, when it comes; `None` behind the end. Not to be dropped half way: entries may get lost with it.
    ///
    /// # Errors
    /// [`Error::Journal`] if the journal can't be read at all; nothing comes after that.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        match self.advance().await {
            Ok(event) => event.map(Ok),
            Err(error) => {
                self.place = Place::Ended;
                Some(Err(error))
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(gap) = self.untold_gap.take() {
                self.gap = true;
                return Ok(Some(Event::Gap(gap)));
            }
            match std::mem::replace(&mut self.place, Place::Ended) {
                Place::Waiting(from) => self.place = self.begin(from).await?,
                Place::Reading { entries, from, ahead } => {
                    if let Some(batch) = self.read(entries, from, ahead).await? {
                        return Ok(Some(Event::Lines(batch)));
                    }
                }
                Place::AtEnd(Ahead::Live { live, batches }) => {
                    if let Some(batch) = self.receive(live, batches).await? {
                        return Ok(Some(Event::Lines(batch)));
                    }
                }
                Place::Draining { batches, is_settled } => {
                    if let Some(batch) = self.drain(batches, is_settled) {
                        return Ok(Some(Event::Lines(batch)));
                    }
                }
                Place::AtEnd(Ahead::End { is_settled }) => return self.end(is_settled).await.map(Some),
                Place::Ended => return Ok(None),
            }
        }
    }

    /// Waits until the run has begun, and finds out whether it has ended too.
    async fn begin(&mut self, from: From) -> Result<Place, Error> {
        let Some(record) = &self.record else { return Ok(Place::AtEnd(Ahead::End { is_settled: false })) };
        let began = |run: &Arc<Run>| run.invocation.is_some() || run.ended().is_some();
        // The sender lives as long as the record.
        let _ = record.watch().wait_for(began).await;
        let run = record.run();
        let Some(invocation) = run.invocation else { return Ok(Place::AtEnd(Ahead::End { is_settled: true })) };
        let ahead = if run.ended().is_some() {
            Ahead::End { is_settled: self.jobs.settle(record).await }
        } else {
            let (watcher, run) = (self.jobs.watcher.clone(), journal::Run { job: self.job.clone(), invocation });
            let subscribe = move || watcher.live(&run).map(|live| (live.subscribe(), live));
            let (batches, live) = tokio::task::spawn_blocking(subscribe).await??;
            Ahead::Live { live, batches }
        };
        Ok(Place::Reading { entries: None, from, ahead })
    }

    /// The next page of what is in the files.
    async fn read(
        &mut self,
        entries: Option<Box<Entries>>,
        from: From,
        ahead: Ahead,
    ) -> Result<Option<Arc<Batch>>, Error> {
        let Some(invocation) = self.run().and_then(|run| run.invocation) else { return Ok(None) };
        let (journal, run) = (self.jobs.journal.clone(), journal::Run { job: self.job.clone(), invocation });
        let page = tokio::task::spawn_blocking(move || page(&journal, &run, entries, from)).await??;
        self.untold_gap = page.gap;
        self.last = page.found.last().map(|entry| entry.position).or(self.last);
        self.place = match page.rest {
            Some(entries) => Place::Reading { entries: Some(entries), from, ahead },
            None => Place::AtEnd(ahead),
        };
        Ok((!page.found.is_empty()).then(|| Arc::new(Batch::new(page.found))))
    }

    /// The next entries that arrive, or none if first something else must be done.
    async fn receive(
        &mut self,
        live: Arc<Live>,
        mut batches: broadcast::Receiver<Arc<Batch>>,
    ) -> Result<Option<Arc<Batch>>, Error> {
        let Some(record) = self.record.clone() else { return Ok(None) };
        let mut changes = record.watch();
        let received = tokio::select! {
            biased;
            received = batches.recv() => Some(received),
            _ = changes.wait_for(|run: &Arc<Run>| run.ended().is_some()) => None,
        };
        match received {
            Some(Ok(batch)) => {
                self.place = Place::AtEnd(Ahead::Live { live, batches });
                Ok(self.unseen(batch))
            }
            // Too slow for the ring, but not for the files.
            Some(Err(_)) => {
                let ahead = Ahead::Live { live, batches };
                self.place = Place::Reading { entries: None, from: self.behind_last(), ahead };
                Ok(None)
            }
            None => {
                let is_settled = self.jobs.settle(&record).await;
                tokio::task::spawn_blocking(move || live.finish()).await??;
                self.place = Place::Draining { batches, is_settled };
                Ok(None)
            }
        }
    }

    /// The next entries of those that have been handed out.
    fn drain(&mut self, mut batches: broadcast::Receiver<Arc<Batch>>, is_settled: bool) -> Option<Arc<Batch>> {
        let ahead = Ahead::End { is_settled };
        match batches.try_recv() {
            Ok(batch) => {
                self.place = Place::Draining { batches, is_settled };
                self.unseen(batch)
            }
            Err(TryRecvError::Lagged(_)) => {
                self.place = Place::Reading { entries: None, from: self.behind_last(), ahead };
                None
            }
            Err(TryRecvError::Empty | TryRecvError::Closed) => {
                self.place = Place::AtEnd(ahead);
                None
            }
        }
    }

    fn behind_last(&self) -> From {
        self.last.map_or(From::Start, From::After)
    }

    /// What of a batch has not been told yet.
    fn unseen(&mut self, batch: Arc<Batch>) -> Option<Arc<Batch>> {
        let is_new = |entry: &Entry| self.last.is_none_or(|last| entry.position.order(&last).is_gt());
        let unseen = if batch.entries().first().is_some_and(is_new) {
            Some(batch)
        } else {
            let entries: Vec<_> = batch.entries().iter().filter(|entry| is_new(entry)).cloned().collect();
            (!entries.is_empty()).then(|| Arc::new(Batch::new(entries)))
        };
        let last = unseen.as_ref().and_then(|batch| batch.entries().last());
        self.last = last.map(|entry| entry.position).or(self.last);
        unseen
    }

    async fn end(&mut self, is_settled: bool) -> Result<Event, Error> {
        let unit = self.jobs.systemd.state(&self.job).await?.ok_or(Error::NoSuchJob)?;
        let is_complete = is_settled && !self.gap;
        Ok(Event::End(End { unit, run: self.run(), is_complete, has_gap: self.gap }))
    }
}

/// A part of a log, read at once.
struct Page {
    found: Vec<Entry>,
    /// Behind what was found.
    gap: Option<journal::Gap>,
    /// What comes behind; `None` if there is nothing more.
    rest: Option<Box<Entries>>,
}

fn page(
    journal: &journal::Journal,
    run: &journal::Run,
    entries: Option<Box<Entries>>,
    from: From,
) -> Result<Page, journal::Error> {
    let mut found = Vec::new();
    let mut entries = if let Some(entries) = entries {
        entries
    } else {
        let entries = Box::new(journal.run(run, from)?);
        let gap = if entries.gap() {
            Some(journal::Gap::Vacuumed)
        } else {
            (!entries.problems().is_empty()).then_some(journal::Gap::Unreadable)
        };
        if gap.is_some() {
            return Ok(Page { found, gap, rest: Some(entries) });
        }
        entries
    };
    let mut bytes = 0;
    while found.len() < PAGE_ENTRIES && bytes < PAGE_BYTES {
        match entries.next() {
            Some(Ok(entry)) => {
                bytes += entry.message.len();
                found.push(entry);
            }
            Some(Err(error)) => {
                log::warn!("{}", Chain(&error));
                return Ok(Page { found, gap: Some(journal::Gap::Unreadable), rest: Some(entries) });
            }
            None => return Ok(Page { found, gap: None, rest: None }),
        }
    }
    Ok(Page { found, gap: None, rest: Some(entries) })
}

//! The log of a run as it grows: what there is, then what comes, until the run has ended and its log is whole.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::task::JoinHandle;

use super::lines::{Lines, Sources, Wanted};
use super::live::{Batch, Live, Piece};
use super::registry::Record;
use super::{Cursor, Error, Jobs, Run, RunId};
use crate::journal::{self, Entry, Filter, From, Gap, Position};
use crate::policy::AllowedJob;
use crate::systemd::{ActiveState, UnitState};
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
    /// The next entries, at least one of them wanted.
    Lines(Arc<Batch>),
    /// Entries are missing at this place.
    Gap(Gap),
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
    /// As it was at the beginning.
    unit: Arc<UnitState>,
    record: Option<Record>,
    filter: Filter,
    place: Place,
    /// The entry that was told or passed over last, or behind which to begin.
    last: Option<Position>,
    has_gap: bool,
    is_damaged: bool,
    /// What is to be told next.
    untold: VecDeque<Event>,
}

/// How far a follower is.
enum Place {
    /// The run has yet to begin.
    Waiting(From),
    /// Among the entries that are in the files.
    Reading { pages: Option<Box<Pages>>, from: From, ahead: Ahead },
    /// At the end, where entries arrive.
    AtEnd(Ahead),
    /// The run has ended, and its last lines are waited for.
    Settling { live: Arc<Live>, pieces: broadcast::Receiver<Piece>, settling: JoinHandle<bool> },
    /// The log is whole, or nobody can tell: what has been handed out is all that there is.
    Draining { pieces: broadcast::Receiver<Piece>, is_settled: bool },
    /// Everything has been told.
    Ended,
}

/// What comes behind the entries that are being read.
enum Ahead {
    /// More, as it arrives.
    Live { live: Arc<Live>, pieces: broadcast::Receiver<Piece> },
    /// Nothing: the run has ended, and its log is whole, or nobody can tell.
    End { is_settled: bool },
}

impl Jobs {
    /// Follows the log of a job's newest run, or of the run asked for: those of its entries that are wanted.
    /// [`Beginning::Last`] counts those.
    ///
    /// Of a run that has ended, tells the log and ends; of a job that never ran, ends at once.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`], [`Error::NoSuchRun`], [`Error::Journal`].
    pub async fn follow(
        &self,
        job: &AllowedJob,
        run: Option<RunId>,
        beginning: Beginning,
        filter: Filter,
    ) -> Result<Follower, Error> {
        let unit = self.unit_of(job, run).await?;
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
        Ok(Follower {
            jobs: self.clone(),
            job: job.clone(),
            unit,
            record,
            filter,
            place,
            last,
            has_gap: false,
            is_damaged: false,
            untold: VecDeque::new(),
        })
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
            if let Some(event) = self.untold.pop_front() {
                return Ok(Some(event));
            }
            match std::mem::replace(&mut self.place, Place::Ended) {
                Place::Waiting(from) => self.place = self.begin(from).await?,
                Place::Reading { pages, from, ahead } => self.read(pages, from, ahead).await?,
                Place::AtEnd(Ahead::Live { live, pieces }) => self.receive(live, pieces).await?,
                Place::Settling { live, pieces, settling } => self.settle(live, pieces, settling).await?,
                Place::Draining { pieces, is_settled } => self.drain(pieces, is_settled),
                Place::AtEnd(Ahead::End { is_settled }) => return Ok(Some(self.end(is_settled).await)),
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
        let of = journal::Run { job: self.job.clone(), invocation };
        if run.ended().is_some() {
            let wanted = Wanted { run, of, from, filter: self.filter };
            let (lines, is_settled) = self.jobs.lines(record, wanted).await?;
            let pages = Some(Box::new(Pages::of(lines)));
            return Ok(Place::Reading { pages, from, ahead: Ahead::End { is_settled } });
        }
        let watcher = self.jobs.watcher.clone();
        let subscribe = move || watcher.live(&of).map(|live| (live.subscribe(), live));
        let (pieces, live) = tokio::task::spawn_blocking(subscribe).await??;
        Ok(Place::Reading { pages: None, from, ahead: Ahead::Live { live, pieces } })
    }

    /// Reads the next page of what is in the files.
    async fn read(&mut self, pages: Option<Box<Pages>>, from: From, ahead: Ahead) -> Result<(), Error> {
        let Some((run, invocation)) = self.run().and_then(|run| run.invocation.map(|id| (run, id))) else {
            return Ok(());
        };
        let of = journal::Run { job: self.job.clone(), invocation };
        let (sources, wanted) = (self.jobs.sources(), Wanted { run, of, from, filter: self.filter });
        let page = tokio::task::spawn_blocking(move || page(&sources, &wanted, pages)).await??;
        page.gaps.into_iter().for_each(|gap| self.meet(gap));
        if !page.found.is_empty() {
            self.tell(Arc::new(Batch::new(page.found)));
        }
        page.behind.into_iter().for_each(|gap| self.meet(gap));
        self.place = match page.rest {
            Some(pages) => Place::Reading { pages: Some(pages), from, ahead },
            None => Place::AtEnd(ahead),
        };
        Ok(())
    }

    /// Waits until entries arrive, or the run ends.
    async fn receive(&mut self, live: Arc<Live>, mut pieces: broadcast::Receiver<Piece>) -> Result<(), Error> {
        let Some(record) = self.record.clone() else { return Ok(()) };
        let mut changes = record.watch();
        let received = tokio::select! {
            biased;
            received = pieces.recv() => Some(received),
            _ = changes.wait_for(|run: &Arc<Run>| run.ended().is_some()) => None,
        };
        self.place = match received {
            Some(Ok(piece)) => {
                self.take(piece);
                Place::AtEnd(Ahead::Live { live, pieces })
            }
            // Too slow for the ring, but not for the files.
            Some(Err(_)) => {
                Place::Reading { pages: None, from: self.behind_last(), ahead: Ahead::Live { live, pieces } }
            }
            None => {
                let jobs = self.jobs.clone();
                Place::Settling { live, pieces, settling: tokio::spawn(async move { jobs.settle(&record).await }) }
            }
        };
        Ok(())
    }

    /// Waits until the log is whole, while the last lines arrive.
    async fn settle(
        &mut self,
        live: Arc<Live>,
        mut pieces: broadcast::Receiver<Piece>,
        mut settling: JoinHandle<bool>,
    ) -> Result<(), Error> {
        let settled = tokio::select! {
            biased;
            received = pieces.recv() => Err(received),
            settled = &mut settling => Ok(settled?),
        };
        self.place = match settled {
            Err(Ok(piece)) => {
                self.take(piece);
                Place::Settling { live, pieces, settling }
            }
            // What it fell behind with it reads when the run is known to have ended.
            Err(Err(_)) => {
                Place::Reading { pages: None, from: self.behind_last(), ahead: Ahead::Live { live, pieces } }
            }
            Ok(is_settled) => {
                tokio::task::spawn_blocking(move || live.finish()).await??;
                Place::Draining { pieces, is_settled }
            }
        };
        Ok(())
    }

    /// Takes one of the pieces that have been handed out.
    fn drain(&mut self, mut pieces: broadcast::Receiver<Piece>, is_settled: bool) {
        let ahead = Ahead::End { is_settled };
        self.place = match pieces.try_recv() {
            Ok(piece) => {
                self.take(piece);
                Place::Draining { pieces, is_settled }
            }
            Err(TryRecvError::Lagged(_)) => Place::Reading { pages: None, from: self.behind_last(), ahead },
            Err(TryRecvError::Empty | TryRecvError::Closed) => Place::AtEnd(ahead),
        };
    }

    fn behind_last(&self) -> From {
        self.last.map_or(From::Start, From::After)
    }

    fn take(&mut self, piece: Piece) {
        if piece.is_damaged {
            self.meet(Gap::Unreadable);
        }
        if let Some(batch) = piece.lines.and_then(|batch| self.unseen(batch)) {
            self.tell(batch);
        }
    }

    /// Has entries told, at least one, and between them what journald dropped there.
    fn tell(&mut self, batch: Arc<Batch>) {
        self.last = batch.entries().last().map(|entry| entry.position).or(self.last);
        let is_drop = |entry: &Entry| entry.suppressed.is_some();
        if !batch.entries().iter().any(is_drop) {
            return self.tell_lines(batch);
        }
        for part in batch.entries().chunk_by(|_, next| !is_drop(next)) {
            if let Some(count) = part.first().and_then(|entry| entry.suppressed) {
                self.meet(Gap::Suppressed(count));
            }
            self.tell_lines(Arc::new(Batch::new(part.to_vec())));
        }
    }

    fn tell_lines(&mut self, batch: Arc<Batch>) {
        if batch.entries().iter().any(|entry| self.filter.wants(entry)) {
            self.untold.push_back(Event::Lines(batch));
        }
    }

    /// What of a batch has not been told yet.
    fn unseen(&self, batch: Arc<Batch>) -> Option<Arc<Batch>> {
        let is_new = |entry: &Entry| self.last.is_none_or(|last| entry.position.order(&last).is_gt());
        if batch.entries().first().is_some_and(is_new) {
            return Some(batch);
        }
        let entries: Vec<_> = batch.entries().iter().filter(|entry| is_new(entry)).cloned().collect();
        (!entries.is_empty()).then(|| Arc::new(Batch::new(entries)))
    }

    /// Has a gap told. That some file can't be read is told once: it stays so for as long as the file is there.
    fn meet(&mut self, gap: Gap) {
        self.has_gap = true;
        if gap != Gap::Unreadable || !std::mem::replace(&mut self.is_damaged, true) {
            self.untold.push_back(Event::Gap(gap));
        }
    }

    async fn end(&mut self, is_settled: bool) -> Event {
        // The unit file may have been deleted meanwhile, or systemd be out of reach; the run has ended nevertheless.
        let unit = match self.jobs.systemd.state(&self.job).await {
            Ok(Some(unit)) => unit,
            Ok(None) | Err(_) => Arc::new(UnitState { active: ActiveState::Inactive, ..(*self.unit).clone() }),
        };
        if let Some(record) = &self.record
            && let Err(error) = self.jobs.complete_end(record).await
        {
            log::warn!("how a run has ended cannot be told: {}", Chain(&error));
        }
        let is_complete = is_settled && !self.has_gap;
        Event::End(End { unit, run: self.run(), is_complete, has_gap: self.has_gap })
    }
}

/// Lines that are read part by part.
struct Pages {
    lines: Lines,
    /// The gaps of which has been told.
    told: Vec<Gap>,
    /// How many messages were dropped according to the entries up to now.
    dropped: u64,
}

impl Pages {
    fn of(lines: Lines) -> Self {
        Self { lines, told: Vec::new(), dropped: 0 }
    }
}

/// A part of a log, read at once.
struct Page {
    found: Vec<Entry>,
    /// What was met on the way and shows in no entry.
    gaps: Vec<Gap>,
    /// What is missing behind the last entry, or somewhere among those that are not wanted.
    behind: Option<Gap>,
    /// What comes next; `None` if there is nothing more.
    rest: Option<Box<Pages>>,
}

fn page(sources: &Sources, wanted: &Wanted, pages: Option<Box<Pages>>) -> Result<Page, journal::Error> {
    let mut pages = match pages {
        Some(pages) => pages,
        None => Box::new(Pages::of(sources.open(wanted)?)),
    };
    let mut found: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    let mut is_over = false;
    while !is_over && found.len() < PAGE_ENTRIES && bytes < PAGE_BYTES {
        match pages.lines.next() {
            Some(entry) => {
                bytes += entry.message.len();
                pages.dropped = pages.dropped.saturating_add(entry.suppressed.unwrap_or(0));
                found.push(entry);
            }
            None => is_over = true,
        }
    }
    let (mut gaps, mut behind) = (Vec::new(), None);
    for gap in pages.lines.gaps() {
        match gap {
            // Some of it may be known beforehand.
            Gap::Suppressed(count) => {
                let untold = count.saturating_sub(pages.dropped);
                behind = (is_over && untold > 0).then_some(Gap::Suppressed(untold));
            }
            Gap::Vacuumed | Gap::Unreadable if pages.told.contains(&gap) => {}
            Gap::Vacuumed | Gap::Unreadable => gaps.push(gap),
        }
    }
    pages.told.extend(&gaps);
    Ok(Page { found, gaps, behind, rest: (!is_over).then_some(pages) })
}

//! The history of runs: what the store has of them, kept up to date.
//!
//! Starting a job must not depend on it. If the store can't be used, runs are known in memory and by the journal, and
//! what could not be written is written when it can be again.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::find::time;
use super::registry::{Begun, Record};
use super::run::{Log, LogPlace, Phase, Run, RunId, RunResult};
use super::{Jobs, QUIET_ROUNDS, SETTLING};
use crate::alerts::Teller;
use crate::invocation::InvocationId;
use crate::journal::{self, FoundRun};
use crate::policy::AllowedJob;
use crate::store::{self, Store, Waiting};
use crate::telemetry::Chain;

/// The pause after a write that failed.
const RETRY: Duration = Duration::from_secs(2);
/// Runs of which it may be waiting to be told; of more, the oldest are not recorded.
const UNTOLD: usize = 20_000;
/// Runs that are taken from the store at the start, besides those that have not ended.
pub(super) const REMEMBERED: u32 = 1000;
/// Runs that are looked into at once after their end.
const EXAMINED_AT_ONCE: usize = 16;
/// A run that the bridge comes to know of only after its end is told of if that was not longer before the bridge began.
const RECENT: Duration = Duration::from_hours(24);
/// How long what has not been written may take at the end.
const FAREWELL: Duration = Duration::from_secs(5);

const NEVER_STARTED: &str = "the bridge ended before systemd had started the job";
const NOBODY_KNOWS: &str = "it ended while the bridge was not there, and the journal does not say how";

/// The store, as soon as there is one; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct History(Arc<OnceLock<Store>>);

impl History {
    pub(super) fn store(&self) -> Option<&Store> {
        self.0.get()
    }

    /// Has a run on the disk before anybody is told of it.
    pub(super) async fn record(&self, record: &Record) -> Result<(), store::Error> {
        let store = self.store().ok_or(store::Error::Closed)?;
        store.insert_run(record.run().to_record()).await?;
        record.kept.recorded.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes back a run that did not begin.
    pub(super) async fn withdraw(&self, record: &Record) {
        record.kept.withdrawn.store(true, Ordering::Release);
        let Some(store) = self.store().filter(|_| record.kept.recorded.load(Ordering::Acquire)) else { return };
        // What stays is called lost at the next start.
        if let Err(error) = store.withdraw_run(record.run().id).await {
            log::warn!("run {} stays recorded, though it never began: {}", record.run().id, Chain(&error));
        }
    }

    /// Writes what is new of a run, with what is to be told of its end.
    async fn write(store: &Store, record: &Record, teller: &Teller, jobs: &Jobs) -> Result<(), store::Error> {
        let (run, kept) = (record.run(), &record.kept);
        let unexplained =
            matches!(&run.phase, Phase::Ended(end) if end.result == RunResult::Lost && end.lost.is_none());
        let may_change = run.ended().is_some() && record.is_hearsay() && !kept.understood.load(Ordering::Acquire);
        // What is recorded as ended stays so; it is looked into first, and announced again.
        if unexplained || may_change || kept.withdrawn.load(Ordering::Acquire) {
            return Ok(());
        }
        let recorded = kept.recorded.load(Ordering::Acquire);
        if let Some(end) = run.ended().filter(|_| !kept.told.load(Ordering::Acquire)) {
            let ended = end.at.or(run.started).unwrap_or(run.requested);
            let is_news = recorded || ended.checked_add(RECENT).is_ok_and(|until| until >= jobs.since);
            let told = is_news.then(|| teller.of_run(run.job.name(), run.id, end, Timestamp::now()));
            store.end_run(run.to_record(), told.unwrap_or_default()).await?;
            teller.wake_couriers();
            if is_news {
                jobs.counts.note_end(&run, &end.result);
            }
            kept.recorded.store(true, Ordering::Release);
            kept.told.store(true, Ordering::Release);
        } else {
            if !recorded {
                store.insert_run(run.to_record()).await?;
                kept.recorded.store(true, Ordering::Release);
            }
            store.update_run(run.id, run.progress()).await?;
        }
        store.update_log(run.id, run.log).await?;
        Ok(())
    }
}

/// Keeps the history: writes down each change of a run, and looks into each run after its end.
pub struct Recorder {
    jobs: Jobs,
    news: mpsc::UnboundedReceiver<Record>,
    /// What has not been written, each run once.
    untold: VecDeque<Record>,
    teller: Teller,
    is_failing: bool,
}

impl Recorder {
    pub(super) fn new(jobs: Jobs, news: mpsc::UnboundedReceiver<Record>) -> Self {
        Self { jobs, news, untold: VecDeque::new(), teller: Teller::default(), is_failing: false }
    }

    /// The same, which also tells of runs that fail or get lost.
    #[must_use]
    pub fn telling(self, teller: Teller) -> Self {
        Self { teller, ..self }
    }

    /// Works until `stop` is cancelled, and then writes what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        let examining = Arc::new(Semaphore::new(EXAMINED_AT_ONCE));
        loop {
            let failed = !self.untold.is_empty();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(RETRY), if failed => {}
                record = self.news.recv(), if !failed => self.untold.extend(record),
            }
            self.collect();
            for record in &self.untold {
                self.examine(record, &examining);
                if record.run().ended().is_some() {
                    self.jobs.start_next(&record.run().job);
                }
            }
            self.write().await;
        }
        self.collect();
        // The disk may be the reason why the bridge is to end.
        let _ = tokio::time::timeout(FAREWELL, self.write()).await;
    }

    /// Takes all news.
    fn collect(&mut self) {
        while let Ok(record) = self.news.try_recv() {
            self.untold.push_back(record);
        }
        let mut seen = HashSet::new();
        self.untold.retain(|record| seen.insert(record.run().id));
        let surplus = self.untold.len().saturating_sub(UNTOLD);
        if surplus > 0 {
            log::error!("{surplus} runs are not recorded: the history cannot be written");
            self.untold.drain(..surplus);
        }
    }

    /// Writes what is new, until something fails.
    async fn write(&mut self) {
        let Some(store) = self.jobs.history.store().cloned() else { return };
        while let Some(record) = self.untold.front().cloned() {
            match History::write(&store, &record, &self.teller, &self.jobs).await {
                Ok(()) => {}
                // The run had an id before the bridge met it again.
                Err(store::Error::Conflict(_)) => self.rename(&store, &record).await,
                Err(error) => {
                    // Once, and not at each attempt.
                    if !std::mem::replace(&mut self.is_failing, true) {
                        log::error!("the history cannot be written, which is tried again: {}", Chain(&error));
                    }
                    return;
                }
            }
            self.untold.pop_front();
        }
        if std::mem::take(&mut self.is_failing) {
            log::info!("the history is written again");
        }
    }

    /// Gives a run the id that it has in the store.
    async fn rename(&self, store: &Store, record: &Record) {
        let run = record.run();
        let Some(invocation) = run.invocation else { return };
        match store.run_of_invocation(invocation).await {
            Ok(Some(known)) => drop(self.jobs.registry.adopt(Run::recorded(run.job.clone(), known))),
            Ok(None) => log::error!("run {} cannot be recorded: its id is taken", run.id),
            Err(error) => log::error!("the history cannot be read: {}", Chain(&error)),
        }
    }

    /// Looks into a run that has ended: what it used, how it ended if systemd did not say, and whether its log is whole.
    fn examine(&self, record: &Record, examining: &Arc<Semaphore>) {
        if record.run().ended().is_none() || record.kept.examined.swap(true, Ordering::AcqRel) {
            return;
        }
        let (jobs, record, examining) = (self.jobs.clone(), record.clone(), examining.clone());
        tokio::spawn(async move {
            // Never closed.
            let _turn = examining.acquire_owned().await;
            jobs.examine(&record).await;
        });
    }
}

impl Jobs {
    /// Takes up the history: what the store has of runs that had not ended, and of the newest.
    ///
    /// To be called once, at best before systemd is asked for the first time.
    ///
    /// # Errors
    /// [`store::Error`] if it can't be read; the bridge goes on without the time before.
    pub async fn take_up(&self, store: Store) -> Result<(), store::Error> {
        let rows = self.adopt_rows(&store).await;
        // What comes is written in any case.
        let _ = self.history.0.set(store);
        rows
    }

    async fn adopt_rows(&self, store: &Store) -> Result<(), store::Error> {
        let remembered = store.newest(REMEMBERED).await;
        let unended = store.unended().await;
        let waiting = store.waiting().await;
        for Waiting { run, starting } in waiting? {
            match self.admit(run) {
                Some(run) if starting => self.registry.adopt(run).kept.promised.store(true, Ordering::Relaxed),
                Some(run) => self.registry.adopt_waiting(run),
                None => {}
            }
        }
        let rows = remembered?.into_iter().chain(unended?);
        rows.filter_map(|row| self.admit(row)).for_each(|run| drop(self.registry.adopt(run)));
        Ok(())
    }

    /// Finishes what is being written to the history, and closes it.
    pub async fn close_history(&self) {
        let Some(store) = self.history.store() else { return };
        if let Err(error) = store.close().await {
            log::warn!("the history was not closed cleanly: {}", Chain(&error));
        }
    }

    /// Ends the runs from before the bridge began that systemd no longer knows, and starts those that wait; to be called
    /// when systemd has told all that it has.
    pub async fn finish_adopted(&self) {
        for record in self.registry.unended() {
            if record.kept.adopted.load(Ordering::Relaxed) {
                self.find_out(&record).await;
            }
        }
        self.registry.waited_for().iter().for_each(|job| self.start_next(job));
    }

    /// Finds out what became of a run while systemd could not be heard.
    pub(super) async fn find_out(&self, record: &Record) {
        record.kept.adopted.store(true, Ordering::Relaxed);
        let run = record.run();
        let state = loop {
            self.systemd.ready().await;
            match self.systemd.state(&run.job).await {
                // Asking systemd about a unit makes it load the unit.
                Ok(state) if state.as_ref().is_none_or(|state| !state.in_memory) => break None,
                Ok(_) => {}
                Err(error) => log::debug!("whether run {} goes on is not known yet: {}", run.id, Chain(&error)),
            }
            match self.systemd.reread(&run.job).await {
                Ok(state) => break Some(state),
                Err(error) => log::debug!("whether run {} goes on is not known yet: {}", run.id, Chain(&error)),
            }
            tokio::time::sleep(RETRY).await;
        };
        let run = record.run();
        match run.invocation {
            _ if run.ended().is_some() => {}
            Some(_) if state.as_ref().is_some_and(|state| state.invocation == run.invocation) => {}
            Some(_) => record.lose(),
            None if state.is_some_and(|state| state.has_job) => {}
            None => self.find_begun(record).await,
        }
        record.kept.found_out.store(true, Ordering::Release);
    }

    /// Finds out whether a run that was asked for had begun before the bridge ended.
    async fn find_begun(&self, record: &Record) {
        let run = record.run();
        let (journal, job, any) = (self.journal.clone(), run.job.clone(), run.id.as_invocation());
        let look = move || {
            // What systemd has said of it may be on its way, and any id does to wait for that. Nothing better can be done
            // without journald.
            if let Some(invocation) = any {
                let _ = journal.settle(&journal::Run { job: job.clone(), invocation }, QUIET_ROUNDS, &SETTLING);
            }
            journal.last_run(&job)
        };
        let found = match tokio::task::spawn_blocking(look).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                log::warn!("what became of run {} cannot be told: {}", run.id, Chain(&error));
                None
            }
            Err(error) => {
                log::error!("reading the journal failed: {error}");
                None
            }
        };
        let began = |found: &FoundRun| time(found.started_usec?).filter(|started| *started >= run.requested);
        match found.and_then(|found| Some((found.invocation, began(&found)?))) {
            Some((invocation, started)) if !self.is_known(&run.job, invocation).await => {
                record.identify(invocation, Some(started));
            }
            _ if record.kept.promised.load(Ordering::Relaxed) => {
                let promised = Begun { record: record.clone(), before: None };
                self.clone().begin_promised(promised).await;
            }
            _ => {
                record.lose();
                record.explain(NEVER_STARTED);
            }
        }
    }

    async fn is_known(&self, job: &AllowedJob, invocation: InvocationId) -> bool {
        self.registry.by_invocation(job, invocation).is_some()
            || matches!(self.stored_invocation(invocation).await, Ok(Some(_)))
    }

    /// The run of this id in the store.
    pub(super) async fn stored(&self, id: RunId) -> Result<Option<Run>, store::Error> {
        let Some(store) = self.history.store() else { return Ok(None) };
        Ok(store.run(id).await?.and_then(|row| self.admit(row)))
    }

    pub(super) async fn stored_invocation(&self, invocation: InvocationId) -> Result<Option<Run>, store::Error> {
        let Some(store) = self.history.store() else { return Ok(None) };
        Ok(store.run_of_invocation(invocation).await?.and_then(|row| self.admit(row)))
    }

    /// The newest run of a job in the store, but for those that wait.
    pub(super) async fn stored_latest(&self, job: &AllowedJob) -> Result<Option<Run>, store::Error> {
        let Some(store) = self.history.store() else { return Ok(None) };
        let page = u32::try_from(self.queue_limit).unwrap_or(u32::MAX).saturating_add(1);
        let rows = store.history(job.name(), None, page).await?;
        let newest = rows.into_iter().find(|row| row.progress.phase != store::Phase::Queued);
        Ok(newest.and_then(|row| self.admit(row)))
    }

    /// A run of a job that is allowed still.
    pub(super) fn admit(&self, row: store::Run) -> Option<Run> {
        let job = self.registry.admit(&row.job).ok()?;
        Some(Run::recorded(job, row))
    }

    async fn examine(&self, record: &Record) {
        let run = record.run();
        if let Some(invocation) = run.invocation {
            match self.systemd.usage(&run.job, invocation).await {
                Ok(usage) => usage.into_iter().for_each(|usage| record.note_usage(usage)),
                Err(error) => log::debug!("what run {} used is not known: {}", run.id, Chain(&error)),
            }
        }
        let complete = self.settle(record).await;
        if let Err(error) = self.complete_end(record).await {
            log::warn!("how run {} ended cannot be looked up: {}", run.id, Chain(&error));
        }
        record.explain(NOBODY_KNOWS);
        if record.run().ended().is_some() {
            record.kept.understood.store(true, Ordering::Release);
            if record.is_hearsay() {
                // Its end has waited for this.
                record.announce();
            }
            record.note_log(Log { place: LogPlace::Journal, complete });
            self.offer_log(record, complete);
        } else {
            // It was out of sight, not over.
            record.kept.examined.store(false, Ordering::Release);
        }
    }
}

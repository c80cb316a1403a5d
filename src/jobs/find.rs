//! The runs of a job, wherever they are known: in memory, in the history, or in the journal.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::registry::{Latest, Record};
use super::run::{Ended, Origin, Phase, Run, RunId, RunResult};
use super::{Error, Jobs};
use crate::invocation::InvocationId;
use crate::journal::FoundRun;
use crate::policy::AllowedJob;
use crate::store;

impl Jobs {
    pub(super) async fn find(&self, job: &AllowedJob, run: Option<RunId>) -> Result<Option<Record>, Error> {
        match run {
            None => self.latest(job).await,
            Some(id) => match self.registry.get(id) {
                Some(record) if record.run().job == *job => Ok(Some(record)),
                Some(_) => Err(Error::NoSuchRun),
                None => match self.stored(id).await? {
                    Some(run) if run.job == *job => Ok(Some(self.registry.adopt(run))),
                    Some(_) => Err(Error::NoSuchRun),
                    None => self.of_invocation(job, id.as_invocation().ok_or(Error::NoSuchRun)?).await,
                },
            },
        }
    }

    /// The newest run of a job: from memory, or else from the journal.
    async fn latest(&self, job: &AllowedJob) -> Result<Option<Record>, Error> {
        let record = match self.registry.latest(job) {
            Latest::Run(record) => record,
            Latest::None => return Ok(None),
            Latest::Unseen => {
                let Some(record) = self.look_for_latest(job).await? else { return Ok(None) };
                record
            }
        };
        self.complete_end(&record).await?;
        Ok(Some(record))
    }

    /// The newest run of a job of which memory knows none.
    async fn look_for_latest(&self, job: &AllowedJob) -> Result<Option<Record>, Error> {
        let (journal, of) = (self.journal.clone(), job.clone());
        let found = tokio::task::spawn_blocking(move || journal.last_run(&of)).await?;
        let stored = self.stored_latest(job).await?;
        let found = match found {
            Ok(found) => found,
            // What the journal no longer tells, the store still may.
            Err(error) if stored.is_none() => return Err(error.into()),
            Err(_) => None,
        };
        let Some(found) = found else { return Ok(stored.map(|run| self.registry.adopt_latest(run))) };
        let is_later = |run: &Run| found.started_usec.and_then(time).is_some_and(|started| started > run.requested);
        Ok(match stored {
            Some(run) if run.invocation == Some(found.invocation) || !is_later(&run) => {
                Some(self.registry.adopt_latest(run))
            }
            _ => match self.stored_invocation(found.invocation).await? {
                Some(run) => Some(self.registry.adopt_latest(run)),
                None => self.registry.found(job, Some(from_journal(job, &found)), true),
            },
        })
    }

    /// The run of this id, if the bridge knows of it without being told of which job it is.
    ///
    /// # Errors
    /// [`Error::NoSuchRun`], [`Error::History`].
    pub async fn run(&self, id: RunId) -> Result<Arc<Run>, Error> {
        if let Some(record) = self.registry.get(id) {
            return Ok(record.run());
        }
        if let Some(run) = self.stored(id).await? {
            return Ok(Arc::new(run));
        }
        let invocation = id.as_invocation().ok_or(Error::NoSuchRun)?;
        if let Some(record) = self.registry.of_any_job(invocation) {
            return Ok(record.run());
        }
        self.stored_invocation(invocation).await?.map(Arc::new).ok_or(Error::NoSuchRun)
    }

    /// The run of this id, when it has ended, or as it is after `wait`.
    ///
    /// # Errors
    /// [`Error::NoSuchRun`], [`Error::History`].
    pub async fn result(&self, job: &AllowedJob, id: RunId, wait: Duration) -> Result<Arc<Run>, Error> {
        let record = self.find(job, Some(id)).await?.ok_or(Error::NoSuchRun)?;
        // Whether it has ended or the time is up: the run says which.
        let _ = tokio::time::timeout(wait, record.watch().wait_for(|run| run.ended().is_some())).await;
        self.complete_end(&record).await?;
        Ok(record.run())
    }

    /// The runs of a job, newest first, at most `limit`; with `before` those before that run.
    ///
    /// # Errors
    /// [`Error::History`] if they can't be read.
    pub async fn runs(&self, job: &AllowedJob, before: Option<RunId>, limit: u32) -> Result<Vec<Arc<Run>>, Error> {
        let mut runs: Vec<Arc<Run>> = Vec::new();
        if before.is_none() || self.history.store().is_none() {
            runs.extend(self.registry.unrecorded(job).iter().map(Record::run));
        }
        if let Some(store) = self.history.store() {
            let rows = store.history(job.name(), before, limit).await?;
            // What memory has is newer.
            let known = |row: store::Run| match self.registry.get(row.id) {
                Some(record) => Some(record.run()),
                None => self.admit(row).map(Arc::new),
            };
            runs.extend(rows.into_iter().filter_map(known));
        }
        runs.sort_by_key(|run| std::cmp::Reverse((run.requested, run.id)));
        runs.dedup_by_key(|run| run.id);
        runs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(runs)
    }

    pub(super) async fn of_invocation(
        &self,
        job: &AllowedJob,
        invocation: InvocationId,
    ) -> Result<Option<Record>, Error> {
        let record = if let Some(record) = self.registry.by_invocation(job, invocation) {
            record
        } else if let Some(run) = self.stored_invocation(invocation).await? {
            if run.job != *job {
                return Err(Error::NoSuchRun);
            }
            self.registry.adopt(run)
        } else {
            let (journal, of) = (self.journal.clone(), job.clone());
            let found = tokio::task::spawn_blocking(move || journal.find_run(&of, invocation)).await??;
            let run = from_journal(job, &found.ok_or(Error::NoSuchRun)?);
            self.registry.found(job, Some(run), false).ok_or(Error::NoSuchRun)?
        };
        self.complete_end(&record).await?;
        Ok(Some(record))
    }

    /// Asks the journal for a verdict that the bridge missed, or knows only in systemd's words.
    pub(super) async fn complete_end(&self, record: &Record) -> Result<(), Error> {
        let run = record.run();
        let is_lost = |ended: &Ended| ended.result == RunResult::Lost && ended.lost.is_none();
        let is_unknown = run.ended().is_some_and(is_lost);
        let missed = is_unknown || (run.ended().is_some() && record.is_hearsay());
        let (true, Some(invocation)) = (missed, run.invocation) else { return Ok(()) };
        if is_unknown {
            // systemd's words about it may still be on their way.
            self.settle(record).await;
        }
        let (journal, job) = (self.journal.clone(), run.job.clone());
        let found = tokio::task::spawn_blocking(move || journal.find_run(&job, invocation)).await??;
        if let Some(Phase::Ended(ended)) = found.map(|found| from_journal(&run.job, &found).phase) {
            record.complete_end(ended);
        }
        Ok(())
    }
}

/// A run as the journal tells it.
fn from_journal(job: &AllowedJob, found: &FoundRun) -> Run {
    // The mirror knows every run that is under way, so what only the journal knows has ended.
    let ended = match &found.ended {
        None => Ended::new(None, RunResult::Lost, None),
        Some(end) => {
            let result = match end.result.as_str() {
                "success" | "signal" | "exit-code" if end.stopped => RunResult::Stopped,
                "success" => RunResult::Success,
                word => RunResult::Failed(word.to_owned()),
            };
            Ended::new(time(end.at_usec), result, end.exit)
        }
    };
    let started = found.started_usec.and_then(time);
    let noticed = started.or(ended.at).unwrap_or_else(Timestamp::now);
    let run = Run::requested(RunId::of_invocation(found.invocation), job.clone(), Origin::Systemd, noticed);
    Run { invocation: Some(found.invocation), started, phase: Phase::Ended(ended), ..run }
}

/// A time of the journal.
pub(super) fn time(usec: u64) -> Option<Timestamp> {
    i64::try_from(usec).ok().and_then(|usec| Timestamp::from_microsecond(usec).ok())
}

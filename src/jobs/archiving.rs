//! Which logs go into the archive, and what the history is told of them.

use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use super::Jobs;
use super::archiver::{Archiver, EndedLog, News, NotArchived};
use super::history::REMEMBERED;
use super::registry::Record;
use super::run::{Log, LogPlace};
use crate::archive::Archive;
use crate::invocation::InvocationId;
use crate::journal;
use crate::telemetry::Chain;

/// The archive, as soon as there is one, and who writes to it; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Shelf(Arc<OnceLock<(Archive, Option<Archiver>)>>);

impl Shelf {
    pub(super) fn archive(&self) -> Option<&Archive> {
        self.0.get().map(|(archive, _)| archive)
    }

    fn archiver(&self) -> Option<&Archiver> {
        self.0.get().and_then(|(_, archiver)| archiver.as_ref())
    }
}

impl Jobs {
    /// Takes up the archive: logs of ended runs are read from it first. With an archiver, those of runs that end go there.
    ///
    /// To be called once.
    pub fn take_up_archive(&self, archive: Archive, archiver: Option<Archiver>) {
        let _ = self.shelf.0.set((archive, archiver));
    }

    /// Offers the logs of the newest runs from before that have ended and are not archived yet; to be called when there is
    /// both an archive and a history. Those of more runs than the bridge remembers stay where they are.
    pub async fn archive_rest(&self) {
        let (Some(store), Some(_)) = (self.history.store(), self.shelf.archiver()) else { return };
        let rows = match store.newest(REMEMBERED).await {
            Ok(rows) => rows,
            Err(error) => return log::error!("which logs are to be archived cannot be read: {}", Chain(&error)),
        };
        for run in rows.into_iter().filter_map(|row| self.admit(row)) {
            if run.ended().is_some() && run.log.place == LogPlace::Journal {
                let settled = run.log.complete;
                let record = self.registry.adopt(run);
                let settled = settled || self.settle(&record).await;
                self.offer_log(&record, settled);
            }
        }
    }

    /// Deletes the archived logs of runs that are forgotten.
    pub async fn discard_logs(&self, logs: Vec<InvocationId>) {
        let Some(archive) = self.shelf.archive().cloned() else { return };
        match tokio::task::spawn_blocking(move || archive.delete(logs, drop)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("logs of forgotten runs stay in the archive: {}", Chain(&error)),
            Err(error) => log::error!("logs of forgotten runs stay in the archive: {error}"),
        }
    }

    /// Has the log of a run that has ended archived. Never waits.
    pub(super) fn offer_log(&self, record: &Record, settled: bool) {
        let run = record.run();
        let (Some(archiver), Some(end), Some(invocation)) = (self.shelf.archiver(), run.ended(), run.invocation) else {
            return;
        };
        let ended = end.at.or(run.started).unwrap_or(run.requested);
        let of = journal::Run { job: run.job.clone(), invocation };
        // At the next start it is offered again.
        if let Err(error) = archiver.offer(EndedLog { run: of, started: run.started, ended, settled }) {
            log::error!("the log of run {} is not archived: {}", run.id, Chain(&error));
        }
    }

    /// Has the history know what became of logs, until there is no archiver any more.
    pub async fn record_logs(&self, mut news: mpsc::Receiver<News>) {
        while let Some(news) = news.recv().await {
            match news {
                News::Archived { run, complete, .. } => {
                    self.record_log(run.invocation, Log { place: LogPlace::Archive, complete }).await;
                }
                // Not in the journal any more, and so not to be offered again.
                News::Failed { run: journal::Run { invocation, .. }, reason: NotArchived::Deleted, .. }
                | News::Deleted { invocation } => {
                    self.record_log(invocation, Log { place: LogPlace::Archive, complete: false }).await;
                }
                News::Failed { .. } => {}
            }
        }
    }

    async fn record_log(&self, invocation: InvocationId, log: Log) {
        if let Some(record) = self.registry.of_any_job(invocation) {
            return record.note_log(log);
        }
        let Some(store) = self.history.store() else { return };
        let updated = async {
            let Some(run) = store.run_of_invocation(invocation).await? else { return Ok(()) };
            store.update_log(run.id, log).await.map(drop)
        };
        // Whoever reads a log looks where it is, and is not misled by this.
        if let Err(error) = updated.await {
            let error: crate::store::Error = error;
            log::warn!("where the log of run {invocation} is cannot be recorded: {}", Chain(&error));
        }
    }
}

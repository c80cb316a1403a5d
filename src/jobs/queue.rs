//! Runs that wait for their job.
//!
//! First come, first served, for each job by itself. A run that waits is in the history, so it waits on after a restart.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::future::BoxFuture;

use super::registry::{Begun, QueueFull, Record};
use super::run::{Ended, Origin, RunId, RunResult};
use super::start::{How, Recorded, Start};
use super::{Error, Jobs};
use crate::inputs::Values;
use crate::policy::AllowedJob;
use crate::store::{self, Enqueued};
use crate::systemd::Stopped;
use crate::telemetry::Chain;

/// The result of a run that somebody took out of the queue.
const CANCELED: &str = "canceled";

impl Jobs {
    /// Has a run wait for its job.
    pub(super) async fn enqueue(&self, job: &AllowedJob, origin: Origin, inputs: &Values) -> Result<Start, Error> {
        let waiting = self.registry.wait(job, origin, inputs, self.queue_limit);
        let (record, before) = waiting.map_err(|QueueFull(most)| Error::QueueFull(most))?;
        if let Err(error) = self.keep_waiting(&record).await {
            self.registry.leave(&record);
            self.registry.forget(&record);
            return Err(error);
        }
        // What was in the way may be over.
        self.start_next(job);
        Ok(Start { run: record.run(), how: How::Waits(before) })
    }

    async fn keep_waiting(&self, record: &Record) -> Result<(), Error> {
        let store = self.history.store().ok_or(store::Error::Closed)?;
        self.history.record(record).await?;
        let run = record.run().id;
        match store.enqueue(run, u32::MAX).await {
            Ok(Enqueued::Behind(_)) => Ok(()),
            Ok(Enqueued::NoRoom | Enqueued::NotQueued) => Err(Error::QueueFull(self.queue_limit)),
            Err(error) => {
                self.history.withdraw(record).await;
                Err(error.into())
            }
        }
    }

    /// Starts the run of a job that has waited longest, if the job is free.
    pub(super) fn start_next(&self, job: &AllowedJob) {
        let Some(begun) = self.registry.begin_waiting(job) else { return };
        let jobs = self.clone();
        tokio::spawn(async move {
            let run = begun.record.run();
            jobs.systemd.ready().await;
            log::info!(job = run.job.name().as_str(), run:display = run.id; "{} begins, having waited", run.job.name());
            if let Some(store) = jobs.history.store()
                && let Err(error) = store.note_starting(run.id).await
            {
                log::warn!("the queue in the history cannot be written: {}", Chain(&error));
            }
            jobs.begin_promised(begun).await;
        });
    }

    /// Has a run begin that somebody was promised. Nobody waits for an answer: what goes wrong becomes its result.
    pub(super) fn begin_promised(self, begun: Begun) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let run = begun.record.run();
            let told = Arc::new(AtomicBool::new(true));
            if let Err(error) = self.begin(begun, told, Recorded::Already).await {
                log::warn!("run {} of {} did not begin: {}", run.id, run.job.name(), Chain(&error));
            }
        })
    }

    /// Stops a run: takes it out of the queue, or stops its job if it is what runs.
    ///
    /// # Errors
    /// [`Error::NoSuchRun`]; [`Error::Systemd`] if systemd refuses.
    pub async fn stop_run(&self, job: &AllowedJob, id: RunId) -> Result<Stopped, Error> {
        let record = self.find(job, Some(id)).await?.ok_or(Error::NoSuchRun)?;
        if self.registry.leave(&record) {
            record.end(Ended::new(None, RunResult::Failed(CANCELED.to_owned()), None));
            return Ok(Stopped::Stopped);
        }
        if record.run().ended().is_some() {
            return Ok(Stopped::WasInactive);
        }
        self.stop(job).await
    }
}

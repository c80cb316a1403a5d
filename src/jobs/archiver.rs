//! Takes the logs of ended runs into the archive, and keeps the archive within its limits.
//!
//! One log at a time, behind everything else: a start or an answer never waits for it. What can't be written is tried again
//! as long as the journal has it. Deliberately absent: which runs there are, and what has been told of their logs; that is
//! for whoever offers them and hears what became of them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::archive::{self, Archive, Begun, Kept, Label, Limits, Stored, surplus};
use crate::invocation::InvocationId;
use crate::journal::{self, Filter, From, Gap, Journal, Losses};
use crate::telemetry::Chain;

/// So many logs may wait for their turn, and as many for another one.
const WAITING_MOST: usize = 10_000;
/// So much news waits for who is told of it, before the archiver does.
const NEWS: usize = 64;
/// How soon after one look at the limits comes the next, at the earliest and at the latest.
const TIDY_AGAIN: Duration = Duration::from_secs(10);
const TIDY_AT_LEAST: Duration = Duration::from_hours(1);

/// The log of a run that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedLog {
    /// The run.
    pub run: journal::Run,
    /// When it began, if that is known.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Timestamp,
    /// Whether all that it said is in the journal, as far as that can be told.
    pub settled: bool,
}

/// Why a log was not archived.
#[derive(Debug, thiserror::Error)]
pub enum NotArchived {
    /// The archive has no room, or can't be used.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The journal can't be read.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// journald has deleted the log.
    #[error("journald has deleted the log")]
    Deleted,
    /// Too many logs wait.
    #[error("more than {WAITING_MOST} logs wait to be archived")]
    TooMany,
    /// The bridge ends.
    #[error("the bridge ends")]
    Stopped,
    /// A task of the bridge itself failed.
    #[error("the bridge failed internally")]
    Internal(#[from] tokio::task::JoinError),
}

impl NotArchived {
    /// Whether it can come to something later, without anybody doing something about this log.
    fn may_pass(&self) -> bool {
        match self {
            Self::Archive(archive::Error::Full { .. } | archive::Error::Io { .. }) | Self::Journal(_) => true,
            Self::Archive(archive::Error::Damaged { .. } | archive::Error::Unsupported { .. })
            | Self::Deleted
            | Self::TooMany
            | Self::Stopped
            | Self::Internal(_) => false,
        }
    }
}

/// What became of a log.
#[derive(Debug)]
pub enum News {
    /// It is archived.
    Archived {
        /// The run.
        run: journal::Run,
        /// How many entries it has.
        entries: u64,
        /// The size of its file.
        bytes: u64,
        /// What was missing of it.
        gaps: Vec<Gap>,
        /// Whether it is all that the run said.
        complete: bool,
    },
    /// It is not archived.
    Failed {
        /// The run.
        run: journal::Run,
        /// Why.
        reason: NotArchived,
        /// Whether it is tried again. If so, what comes of that is told too.
        again: bool,
    },
    /// It was deleted from the archive, as the limits want it.
    Deleted {
        /// Which of the runs.
        invocation: InvocationId,
    },
}

/// Takes logs for the archive; cheap to clone.
#[derive(Debug, Clone)]
pub struct Archiver {
    waiting: mpsc::Sender<EndedLog>,
}

impl Archiver {
    /// An archiver from `journal` into `archive`, and what has to [run](ArchiverTask::run) for it to do anything. What it
    /// could not write it tries again after `retry`, or when something was deleted.
    #[must_use]
    pub fn new(
        journal: Journal,
        archive: Archive,
        limits: Limits,
        retry: Duration,
    ) -> (Self, ArchiverTask, mpsc::Receiver<News>) {
        let (waiting, logs) = mpsc::channel(WAITING_MOST);
        let (news, told) = mpsc::channel(NEWS);
        let kept = HashMap::new();
        let task =
            ArchiverTask { journal, archive, limits, retry, logs, news, failed: VecDeque::new(), kept, troubles: None };
        (Self { waiting }, task, told)
    }

    /// Has a log archived some time; never waits. A log that is archived already is told of as such.
    ///
    /// # Errors
    /// [`NotArchived::TooMany`] if too many wait already, or the archiver has stopped: the log is to be offered again.
    pub fn offer(&self, log: EndedLog) -> Result<(), NotArchived> {
        self.waiting.try_send(log).map_err(|_| NotArchived::TooMany)
    }
}

/// The work of an [`Archiver`].
pub struct ArchiverTask {
    journal: Journal,
    archive: Archive,
    limits: Limits,
    retry: Duration,
    logs: mpsc::Receiver<EndedLog>,
    news: mpsc::Sender<News>,
    /// What is to be tried again, the oldest first.
    failed: VecDeque<EndedLog>,
    /// What is in the archive.
    kept: HashMap<InvocationId, Kept>,
    /// Who wants to know whether logs can be archived, and why not.
    troubles: Option<watch::Sender<Option<String>>>,
}

impl ArchiverTask {
    /// The same, which also says there why logs can't be archived, and nothing when they can be again.
    #[must_use]
    pub fn telling(self, troubles: watch::Sender<Option<String>>) -> Self {
        Self { troubles: Some(troubles), ..self }
    }

    /// Archives what is offered until `stop`, or until nobody can offer anything any more. Nothing is left then of a log
    /// that is being written; like those that wait, it is to be offered again.
    pub async fn run(mut self, stop: CancellationToken) {
        self.find_kept().await;
        let (mut tidied, mut is_untidy) = (Instant::now(), false);
        self.tidy().await;
        let mut retry_at = Instant::now() + self.retry;
        loop {
            let tidy_at = tidied + if is_untidy { TIDY_AGAIN } else { TIDY_AT_LEAST };
            let may_succeed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep_until(tidy_at) => {
                    (tidied, is_untidy) = (Instant::now(), false);
                    self.tidy().await
                }
                () = sleep_until(retry_at), if !self.failed.is_empty() => true,
                log = self.logs.recv() => {
                    let Some(log) = log else { return };
                    if self.failed.is_empty() {
                        retry_at = Instant::now() + self.retry;
                    }
                    is_untidy = true;
                    self.take(log, &stop).await;
                    false
                }
            };
            if may_succeed && !self.failed.is_empty() {
                self.take_again(&stop).await;
                (is_untidy, retry_at) = (true, Instant::now() + self.retry);
            }
        }
    }

    /// Tries once more what has failed, each log once.
    async fn take_again(&mut self, stop: &CancellationToken) {
        for _ in 0..self.failed.len() {
            let Some(log) = self.failed.pop_front().filter(|_| !stop.is_cancelled()) else { return };
            self.take(log, stop).await;
        }
        if self.failed.is_empty() {
            log::info!("logs are archived again");
            self.has_trouble(None);
        }
    }

    async fn take(&mut self, log: EndedLog, stop: &CancellationToken) {
        let (journal, archive, of) = (self.journal.clone(), self.archive.clone(), log.clone());
        let stopped = stop.clone();
        let taken = tokio::task::spawn_blocking(move || take(&journal, &archive, &of, &stopped)).await;
        let news = match taken.map_err(NotArchived::from).flatten() {
            Ok((stored, gaps)) => {
                let complete = stored.label.settled && gaps.is_empty();
                let (entries, bytes) = (stored.entries, stored.bytes);
                self.keep(stored);
                News::Archived { run: log.run, entries, bytes, gaps, complete }
            }
            Err(NotArchived::Stopped) => return,
            Err(reason) => {
                let again = reason.may_pass() && self.failed.len() < WAITING_MOST;
                if !again {
                    log::error!("the log of {} is not archived: {}", log.run.job.name(), Chain(&reason));
                } else if self.failed.is_empty() {
                    let shown = log.run.job.name();
                    log::error!("the log of {shown} is not archived, but will be tried again: {}", Chain(&reason));
                    self.has_trouble(Some(Chain(&reason).to_string()));
                }
                let run = log.run.clone();
                if again {
                    self.failed.push_back(log);
                }
                News::Failed { run, reason, again }
            }
        };
        self.tell(news).await;
    }

    fn has_trouble(&self, trouble: Option<String>) {
        if let Some(troubles) = &self.troubles {
            troubles.send_replace(trouble);
        }
    }

    async fn tell(&self, news: News) {
        // There may be nobody who listens.
        let _ = self.news.send(news).await;
    }

    fn keep(&mut self, stored: Stored) {
        let Label { job, invocation, ended, .. } = stored.label;
        self.kept.insert(invocation, Kept { job, invocation, ended, bytes: stored.bytes });
    }

    /// Finds out what is in the archive.
    async fn find_kept(&mut self) {
        let archive = self.archive.clone();
        let found = tokio::task::spawn_blocking(move || archive.list().collect::<Vec<_>>()).await;
        for stored in found.unwrap_or_default() {
            match stored {
                Ok(stored) => self.keep(stored),
                Err(error) => log::warn!("{}", Chain(&error)),
            }
        }
    }

    /// Deletes what the limits have no place for; whether there was something.
    async fn tidy(&mut self) -> bool {
        let logs: Vec<Kept> = self.kept.values().cloned().collect();
        let (archive, limits) = (self.archive.clone(), self.limits);
        let deleted = tokio::task::spawn_blocking(move || {
            let mut deleted = Vec::new();
            let result = archive.delete(surplus(&logs, &limits, Timestamp::now()), |id| deleted.push(id));
            (deleted, result)
        });
        let deleted = match deleted.await {
            Ok((deleted, result)) => {
                if let Err(error) = result {
                    log::error!("the archive cannot be kept within its limits: {}", Chain(&error));
                }
                deleted
            }
            Err(error) => {
                log::error!("the archive cannot be kept within its limits: {error}");
                return false;
            }
        };
        for invocation in &deleted {
            self.kept.remove(invocation);
            self.tell(News::Deleted { invocation: *invocation }).await;
        }
        !deleted.is_empty()
    }
}

/// Writes a log from the journal into the archive, unless it is there; returns it as it is there, and what it lacks.
fn take(
    journal: &Journal,
    archive: &Archive,
    log: &EndedLog,
    stop: &CancellationToken,
) -> Result<(Stored, Vec<Gap>), NotArchived> {
    let EndedLog { run, started, ended, settled } = log.clone();
    let label = Label { job: run.job.name().clone(), invocation: run.invocation, started, ended, settled };
    let stored = match archive.begin(&label)? {
        Begun::There(stored) => *stored,
        Begun::Draft(mut draft) => {
            let mut entries = journal.run(&run, From::Start)?;
            let ended_usec = u64::try_from(ended.as_microsecond()).unwrap_or(0);
            let is_deleted = !entries.knows_run() && !journal.reaches_back_to(ended_usec)?;
            if is_deleted {
                // Only a part of it may have been archived before.
                archive.entries(&run, From::Start, &Filter::default())?.ok_or(NotArchived::Deleted)?;
            }
            for entry in entries.by_ref() {
                if stop.is_cancelled() {
                    return Err(NotArchived::Stopped);
                }
                match entry {
                    Ok(entry) => draft.push(&entry)?,
                    // It is among what is lost.
                    Err(error) => log::warn!("{}", Chain(&error)),
                }
            }
            let losses = if is_deleted {
                Losses { gone_before: Some(ended_usec), ..Losses::default() }
            } else {
                entries.losses()
            };
            draft.finish(&losses)?
        }
    };
    let kept = archive.entries(&run, From::Start, &Filter::default())?;
    Ok((stored, kept.map(|kept| kept.gaps()).unwrap_or_default()))
}

//! The use cases: start, stop, state and log of a job.
//!
//! Joins systemd, which knows what happens now, with the journal, which knows what was said, and the store, which knows
//! what was. Knows nothing of HTTP, and of tokens no more than their names.

mod archiver;
mod archiving;
mod attempts;
mod counts;
mod cursor;
mod find;
mod follow;
mod history;
mod input;
mod instances;
mod lines;
mod live;
mod queue;
mod registry;
mod run;
mod run_log;
mod start;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::mpsc;
use uuid::Uuid;

use self::archiving::Shelf;
use self::counts::Counts;
use self::history::History;
use self::instances::Instances;
use self::lines::{Lines, Sources, Wanted};
use self::live::Watcher;
use self::registry::{Latest, Record, Registry, Settled};
use crate::inputs::{self, Inputs};
use crate::journal::{self, Journal};
use crate::policy::{AllowedJob, Policy};
use crate::store;
use crate::systemd::{self, Observer, StartError, Systemd, UnitState};
use crate::telemetry::Chain;

pub use self::archiver::{Archiver, ArchiverTask, EndedLog, News, NotArchived};
pub use self::attempts::{Attempted, UnderWay};
pub use self::counts::Tally;
pub use self::cursor::{Cursor, NotACursor};
pub use self::follow::{Beginning, End, Event, Follower};
pub use self::history::Recorder;
pub use self::input::InputError;
pub use self::live::Batch;
pub use self::run::{Ended, Log, LogPlace, Origin, Phase, Run, RunId, RunResult};
pub use self::run_log::{Part, RunLog};
pub use self::start::{How, IfBusy, Request, Start};
pub use crate::invocation::{InvocationId, MainExit};
pub use crate::journal::text::{OWN_MARK, neutralise};
pub use crate::journal::{Entry, Filter, Gap, Position, Source};
pub use crate::store::{Answer, Attempt};
pub use crate::systemd::ListedJob;

/// How long a start or stop is waited for before the answer says that it is still under way.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest that the journal is waited for after the end of a run, while it brings no line and while it does. Eight
/// megabytes of what a process has printed may lie before journald when it ends.
const SETTLING: journal::Patience =
    journal::Patience { without_a_line: Duration::from_secs(5), at_most: Duration::from_secs(45) };
/// Rounds through the journal without a new line of the run after which its log is whole. One round brings every message
/// that was on its way; the second also those of a connection that was not accepted yet when the first began.
const QUIET_ROUNDS: u32 = 2;

/// A use case did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such job, or it is not allowed; the two are not told apart.
    #[error("no such job, or it is not allowed")]
    NoSuchJob,
    /// The job has no such run.
    #[error("the job has no such run, or the journal no longer knows it")]
    NoSuchRun,
    /// The job runs already.
    #[error("the job is already active")]
    Busy(Arc<Run>),
    /// Too many new instances in an hour.
    #[error("too many new instances of templates in an hour; raise `jobs.instances_per_hour` if that is expected")]
    TooManyInstances(Duration),
    /// The job can't be given what it was to be given.
    #[error(transparent)]
    Input(#[from] inputs::Error),
    /// The unit was not started.
    #[error(transparent)]
    Start(StartError),
    /// systemd refused or cannot be reached.
    #[error(transparent)]
    Systemd(#[from] systemd::Error),
    /// The journal cannot be read.
    #[error("the journal cannot be read; `ci-bridge check` on the machine says why")]
    Journal(#[from] journal::Error),
    /// What was can't be told.
    #[error("the history of runs cannot be read; the log of ci-bridge says why")]
    History(#[from] store::Error),
    /// As many runs of the job wait as may.
    #[error("{0} runs of the job wait already; try again later, or raise `limits.max_queued_runs`")]
    QueueFull(usize),
    /// A task of the bridge itself failed.
    #[error("the bridge failed internally")]
    Internal(#[from] tokio::task::JoinError),
}

/// The state of a job.
#[derive(Debug, Clone)]
pub struct JobState {
    /// Its unit's state.
    pub unit: Arc<UnitState>,
    /// Its newest run, or the one asked for; `None` if it never ran as far as the journal knows.
    pub run: Option<Arc<Run>>,
}

/// The jobs of this machine; cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    systemd: Systemd,
    journal: Journal,
    history: History,
    shelf: Shelf,
    registry: Arc<Registry>,
    counts: Counts,
    instances: Arc<Mutex<Instances>>,
    inputs: Inputs,
    /// When the bridge began.
    since: Timestamp,
    watcher: Arc<Watcher>,
    /// Runs of one job that may wait.
    queue_limit: usize,
    /// Requests with a key that are being carried out.
    attempts: Arc<Mutex<HashSet<Uuid>>>,
}

/// How much callers may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Instances of templates that starts may bring up in an hour.
    pub instances_per_hour: usize,
    /// Runs of one job that may wait.
    pub queued_runs: usize,
}

/// The runs that the bridge knows, before there is a connection to systemd.
///
/// systemd's changes go in through [`Runs::observer`]; [`Jobs::new`] takes over.
pub struct Runs {
    registry: Arc<Registry>,
    news: mpsc::UnboundedReceiver<Record>,
}

impl Runs {
    /// No runs yet, of jobs that `policy` allows.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        Self { registry: Arc::new(Registry::new(policy, sender)), news }
    }

    /// What [`Systemd::new`] has to call for each change.
    #[must_use]
    pub fn observer(&self) -> Observer {
        let registry = self.registry.clone();
        Arc::new(move |unit, before, after| registry.observe(unit, before, after))
    }
}

impl Jobs {
    /// The jobs that `systemd` shows and `journal` has the logs of.
    ///
    /// `inputs` are what jobs may be given. Without a running [`Recorder`] nothing is kept, and nothing that waits is started.
    #[must_use]
    pub fn new(runs: Runs, systemd: Systemd, journal: Journal, limits: Limits, inputs: Inputs) -> (Self, Recorder) {
        let instances = Arc::new(Mutex::new(Instances::new(limits.instances_per_hour)));
        let watcher = Arc::new(Watcher::new(journal.clone()));
        let (registry, history, shelf) = (runs.registry, History::default(), Shelf::default());
        let (queue_limit, attempts, since) = (limits.queued_runs, Arc::default(), Timestamp::now());
        let jobs = Self {
            systemd,
            journal,
            history,
            shelf,
            registry,
            counts: Counts::default(),
            instances,
            inputs,
            since,
            watcher,
            queue_limit,
            attempts,
        };
        (jobs.clone(), Recorder::new(jobs, runs.news))
    }

    /// The run of a job that has not ended, if the bridge has seen it begin.
    #[must_use]
    pub fn active(&self, job: &AllowedJob) -> Option<Arc<Run>> {
        match self.registry.latest(job) {
            Latest::Run(record) => Some(record.run()).filter(|run| run.ended().is_none()),
            Latest::None | Latest::Unseen => None,
        }
    }

    /// The state of a job and of its newest run, or of the run asked for.
    ///
    /// With `wait`, returns when that run has ended, or after this time.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`], [`Error::NoSuchRun`]; [`Error::Systemd`] while systemd cannot be reached.
    pub async fn state(&self, job: &AllowedJob, run: Option<RunId>, wait: Option<Duration>) -> Result<JobState, Error> {
        let unit = self.systemd.state(job).await?.ok_or(Error::NoSuchJob)?;
        let Some(record) = self.find(job, run).await? else { return Ok(JobState { unit, run: None }) };
        let Some(wait) = wait else { return Ok(JobState { unit, run: Some(record.run()) }) };
        let mut runs = record.watch();
        // Whether it has ended or the time is up: the answer says which.
        let _ = tokio::time::timeout(wait, runs.wait_for(|run| run.ended().is_some())).await;
        self.complete_end(&record).await?;
        let unit = self.systemd.state(job).await?.ok_or(Error::NoSuchJob)?;
        Ok(JobState { unit, run: Some(record.run()) })
    }

    /// All jobs that exist.
    ///
    /// # Errors
    /// [`Error::Systemd`] while systemd cannot be reached.
    pub async fn list(&self) -> Result<Vec<ListedJob>, Error> {
        Ok(self.systemd.jobs().await?)
    }

    /// What keeps the bridge from doing its work; empty if nothing does.
    pub async fn obstacles(&self) -> Vec<String> {
        let mut obstacles = Vec::new();
        if self.systemd.health() != systemd::Health::Ready {
            obstacles.push(systemd::Error::Unreachable(None).to_string());
        }
        let journal = self.journal.clone();
        match tokio::task::spawn_blocking(move || journal.readable()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => obstacles.push(error.to_string()),
            Err(error) => obstacles.push(error.to_string()),
        }
        obstacles
    }

    /// The state of a job's unit. A run is still to be read when its unit is there no longer.
    async fn unit_of(&self, job: &AllowedJob, run: Option<RunId>) -> Result<Arc<UnitState>, Error> {
        let unit = self.systemd.state(job).await?;
        match run {
            Some(_) => Ok(unit.unwrap_or_else(|| Arc::new(UnitState::unknown(job.unit())))),
            None => unit.ok_or(Error::NoSuchJob),
        }
    }

    fn sources(&self) -> Sources {
        Sources { journal: self.journal.clone(), archive: self.shelf.archive().cloned() }
    }

    /// The lines of a run, and whether it has ended and they are all that it said, apart from the gaps.
    async fn lines(&self, record: &Record, wanted: Wanted) -> Result<(Lines, bool), Error> {
        let has_ended = wanted.run.ended().is_some();
        if has_ended && self.shelf.archive().is_some() {
            let (sources, wanted) = (self.sources(), wanted.clone());
            let archived = tokio::task::spawn_blocking(move || sources.archived(&wanted)).await?;
            if let Some((lines, settled)) =
                archived.and_then(|lines| lines.is_settled().map(|settled| (lines, settled)))
            {
                return Ok((lines, settled));
            }
        }
        let settled = has_ended && self.settle(record).await;
        let sources = self.sources();
        let lines = tokio::task::spawn_blocking(move || sources.open(&wanted)).await??;
        // It may have been archived meanwhile.
        let settled = lines.is_settled().unwrap_or(settled);
        Ok((lines, settled))
    }

    /// Waits until all that an ended run said is in the journal; false if that cannot be told.
    async fn settle(&self, record: &Record) -> bool {
        let run = record.run();
        let Some(invocation) = run.invocation else { return true };
        // Who comes while another waits gets the same answer, also the bad one: nobody waits twice for it.
        let mut settled = record.settled.lock().await;
        match *settled {
            Settled::Whole => return true,
            Settled::Unknown(since) if since.elapsed() < SETTLING.without_a_line => return false,
            Settled::Unknown(_) | Settled::Unasked => {}
        }
        let (journal, job) = (self.journal.clone(), run.job.clone());
        let waiting = move || journal.settle(&journal::Run { job, invocation }, QUIET_ROUNDS, &SETTLING);
        let whole = match tokio::task::spawn_blocking(waiting).await {
            Ok(Ok(whole)) => whole,
            Ok(Err(error)) => {
                log::warn!("whether a log is whole cannot be told: {}", Chain(&error));
                false
            }
            Err(error) => {
                log::error!("waiting for the journal failed: {error}");
                false
            }
        };
        *settled = if whole { Settled::Whole } else { Settled::Unknown(Instant::now()) };
        whole
    }
}

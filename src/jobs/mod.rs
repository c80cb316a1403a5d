//! The use cases: start, stop, state and log of a job.
//!
//! Joins systemd, which knows what happens now, with the journal, which knows what was said, and the store, which knows
//! what was. Knows nothing of HTTP, and of tokens no more than their names.

mod archiver;
mod archiving;
mod attempts;
mod counts;
mod cursor;
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

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
use self::registry::{Begun, Latest, Record, Registry, Settled};
use crate::inputs::{self, Inputs, Values};
use crate::journal::{self, FoundRun, Journal};
use crate::policy::{AllowedJob, Policy};
use crate::store;
use crate::systemd::{self, Observer, StartError, Stopped, Systemd, UnitState};
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

/// What to do when the job runs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfBusy {
    /// Refuse.
    #[default]
    Reject,
    /// Answer with the run that is there, if it was given the same.
    Join,
    /// Have it run after those that wait for the job already.
    Queue,
}

/// What a caller wants started, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to do when the job runs already.
    pub if_busy: IfBusy,
    /// Who asks.
    pub origin: Origin,
    /// Whether nothing is to be started that can't be recorded.
    pub must_be_recorded: bool,
    /// What the run is given.
    pub inputs: Values,
}

/// A start that came to a run.
#[derive(Debug, Clone)]
pub struct Start {
    /// The run.
    pub run: Arc<Run>,
    /// How the request came to it.
    pub how: How,
}

/// How a request came to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was started.
    Started,
    /// It was there before.
    Joined,
    /// It waits for its job, with so many before it.
    Waits(usize),
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

    /// Starts a job and returns when its run has begun, or is still queued after ten seconds.
    ///
    /// # Errors
    /// [`Error::Busy`] with the run that is there, unless `if_busy` joins it; [`Error::Start`] says why nothing runs.
    pub async fn start(&self, job: &AllowedJob, request: Request) -> Result<Start, Error> {
        if job.name().template().is_some() {
            let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
            instances.admit(job.unit(), Instant::now()).map_err(Error::TooManyInstances)?;
        }
        let Request { if_busy, origin, must_be_recorded, inputs } = request;
        let begun = match self.registry.begin(job, origin.clone(), &inputs) {
            Ok(begun) => begun,
            Err(active) => match if_busy {
                IfBusy::Join if self.has(&active, &inputs) => {
                    return Ok(Start { run: active.run(), how: How::Joined });
                }
                IfBusy::Reject | IfBusy::Join => return Err(Error::Busy(active.run())),
                IfBusy::Queue => return self.enqueue(job, origin, &inputs).await,
            },
        };
        let recorded = if must_be_recorded { Recorded::First } else { Recorded::Sometime };
        let record = begun.record.clone();
        let told = Arc::new(AtomicBool::new(false));
        // A task of its own: a caller who hangs up must not leave a start half done.
        let mut starting = tokio::spawn(self.clone().begin(begun, told.clone(), recorded));
        let started = tokio::select! {
            started = &mut starting => started?,
            () = tokio::time::sleep(PATIENCE) => {
                // Still queued, unless it has failed just now. The task goes on and settles what becomes of the run.
                if told.swap(true, Ordering::AcqRel) { starting.await? } else { Ok(()) }
            }
        };
        match started {
            Ok(()) => Ok(Start { run: record.run(), how: How::Started }),
            Err(Error::Busy(run))
                if if_busy == IfBusy::Join
                    && self.registry.get(run.id).is_some_and(|active| self.has(&active, &inputs)) =>
            {
                Ok(Start { run, how: How::Joined })
            }
            Err(error) => Err(error),
        }
    }

    /// Has a registered run begin. `told` decides who comes first: the caller, who is told of a queued run, or a failure,
    /// of which no run stays.
    async fn begin(self, begun: Begun, told: Arc<AtomicBool>, recorded: Recorded) -> Result<(), Error> {
        let job = begun.record.run().job.clone();
        let settled = async {
            // Late lines of the run before must not fall into this one.
            if let Some(before) = &begun.before {
                self.settle(before).await;
            }
        };
        let recording = async {
            match recorded {
                Recorded::Already => Ok(()),
                Recorded::First | Recorded::Sometime => self.history.record(&begun.record).await,
            }
        };
        let (kept, ()) = tokio::join!(recording, settled);
        match kept {
            Err(error) if recorded == Recorded::First => {
                self.registry.abandon(&begun);
                return Err(Error::History(error));
            }
            Err(error) => {
                log::error!("run {} is not recorded yet: {}", begun.record.run().id, Chain(&error));
                begun.record.announce();
            }
            Ok(()) => {}
        }
        let error = match self.systemd.start(&job, || begun.record.offer()).await {
            // systemd names a run a moment before it says when that began.
            Ok(_invocation) => {
                let mut run = begun.record.watch();
                let _ =
                    tokio::time::timeout(PATIENCE, run.wait_for(|run| run.started.is_some() || run.ended().is_some()))
                        .await;
                return Ok(());
            }
            Err(StartError::Uncertain) => {
                tokio::spawn(async move { self.find_out(&begun.record).await });
                return Ok(());
            }
            Err(error) => error,
        };
        if told.swap(true, Ordering::AcqRel) {
            begun.record.never_ran(never_ran_word(&error));
        } else if self.registry.abandon(&begun) {
            self.history.withdraw(&begun.record).await;
        }
        Err(match error {
            StartError::NotFound => Error::NoSuchJob,
            // It was started by somebody else at the same moment.
            StartError::Busy => match self.registry.latest(&job) {
                Latest::Run(record) if record.run().ended().is_none() => Error::Busy(record.run()),
                Latest::Run(_) | Latest::None | Latest::Unseen => Error::Start(StartError::Busy),
            },
            StartError::Systemd(error) => Error::Systemd(error),
            error => Error::Start(error),
        })
    }

    /// Stops a job and returns when it has stopped, or after ten seconds.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`] if there is no such unit; [`Error::Systemd`] if systemd refuses.
    pub async fn stop(&self, job: &AllowedJob) -> Result<Stopped, Error> {
        let unit = self.systemd.state(job).await?.ok_or(Error::NoSuchJob)?;
        // Asking systemd about a unit makes it load the unit.
        if !unit.in_memory {
            return Ok(Stopped::WasInactive);
        }
        match self.systemd.stop(job, PATIENCE).await {
            Err(systemd::Error::NoSuchUnit) => Err(Error::NoSuchJob),
            stopped => Ok(stopped?),
        }
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

    async fn find(&self, job: &AllowedJob, run: Option<RunId>) -> Result<Option<Record>, Error> {
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

    async fn of_invocation(&self, job: &AllowedJob, invocation: InvocationId) -> Result<Option<Record>, Error> {
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
    async fn complete_end(&self, record: &Record) -> Result<(), Error> {
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

/// When a run that begins has to be in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorded {
    /// It is.
    Already,
    /// Before it is started; otherwise it is not.
    First,
    /// Before it is started, if that can be.
    Sometime,
}

/// The word for a run that systemd did not come to run.
fn never_ran_word(error: &StartError) -> &'static str {
    match error {
        StartError::Dependency => "dependency",
        StartError::Canceled => "canceled",
        StartError::Condition => "condition",
        StartError::Assertion => "assert",
        StartError::StartLimit => "start-limit-hit",
        _ => "not-started",
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
fn time(usec: u64) -> Option<Timestamp> {
    i64::try_from(usec).ok().and_then(|usec| Timestamp::from_microsecond(usec).ok())
}

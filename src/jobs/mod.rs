//! The use cases: start, stop, state and log of a job.
//!
//! Joins systemd, which knows what happens now, with the journal, which knows what was said. Knows nothing of HTTP or
//! of tokens.

mod cursor;
mod follow;
mod input;
mod instances;
mod live;

mod registry;
mod run;
mod run_log;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value};

use self::instances::Instances;
use self::live::Watcher;
use self::registry::{Begun, Latest, Record, Registry, Settled};
use crate::inputs::{self, Inputs};
use crate::journal::{self, FoundRun, Journal};
use crate::policy::{AllowedJob, Policy};
use crate::systemd::{self, Observer, StartError, Stopped, Systemd, UnitState};
use crate::telemetry::Chain;

pub use self::cursor::{Cursor, NotACursor};
pub use self::follow::{Beginning, End, Event, Follower};
pub use self::input::InputError;
pub use self::live::Batch;
pub use self::run::{Ended, Phase, Run, RunId, RunResult};
pub use self::run_log::{Part, RunLog};
pub use crate::invocation::{InvocationId, MainExit};
pub use crate::journal::text::{OWN_MARK, neutralise};
pub use crate::journal::{Entry, Filter, Gap, Position, Source};
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
}

/// A start that came to a run.
#[derive(Debug, Clone)]
pub struct Start {
    /// The run.
    pub run: Arc<Run>,
    /// Whether it was there before.
    pub joined: bool,
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
    registry: Arc<Registry>,
    instances: Arc<Mutex<Instances>>,
    inputs: Inputs,
    /// When the bridge began; nobody knows what earlier runs were given.
    since: Timestamp,
    watcher: Arc<Watcher>,
}

/// The runs that the bridge knows, before there is a connection to systemd.
///
/// systemd's changes go in through [`Runs::observer`]; [`Jobs::new`] takes over.
pub struct Runs(Arc<Registry>);

impl Runs {
    /// No runs yet, of jobs that `policy` allows.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(Registry::new(policy)))
    }

    /// What [`Systemd::new`] has to call for each change.
    #[must_use]
    pub fn observer(&self) -> Observer {
        let registry = self.0.clone();
        Arc::new(move |unit, before, after| registry.observe(unit, before, after))
    }
}

impl Jobs {
    /// The jobs that `systemd` shows and `journal` has the logs of.
    ///
    /// `instances_per_hour` bounds the instances of templates that starts may bring up; `inputs` are what jobs may be given.
    #[must_use]
    pub fn new(runs: Runs, systemd: Systemd, journal: Journal, instances_per_hour: usize, inputs: Inputs) -> Self {
        let instances = Arc::new(Mutex::new(Instances::new(instances_per_hour)));
        let watcher = Arc::new(Watcher::new(journal.clone()));
        Self { systemd, journal, registry: runs.0, instances, inputs, since: Timestamp::now(), watcher }
    }

    /// Starts a job with the inputs in `given` and returns when its run has begun, or is still queued after ten seconds.
    ///
    /// # Errors
    /// [`Error::Busy`] with the run that is there, unless `if_busy` joins it; [`Error::Input`] and [`Error::Start`] say why
    /// nothing runs.
    pub async fn start(&self, job: &AllowedJob, if_busy: IfBusy, given: &Map<String, Value>) -> Result<Start, Error> {
        let inputs = self.inputs.accept(job, given)?;
        if job.name().template().is_some() {
            let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
            instances.admit(job.unit(), Instant::now()).map_err(Error::TooManyInstances)?;
        }
        let begun = match self.registry.begin(job, &inputs) {
            Ok(begun) => begun,
            Err(active) if if_busy == IfBusy::Join && self.has(&active, &inputs) => {
                return Ok(Start { run: active.run(), joined: true });
            }
            Err(active) => return Err(Error::Busy(active.run())),
        };
        let record = begun.record.clone();
        let told = Arc::new(AtomicBool::new(false));
        // A task of its own: a caller who hangs up must not leave a start half done.
        let mut starting = tokio::spawn(self.clone().begin(begun, told.clone()));
        let started = tokio::select! {
            started = &mut starting => started?,
            () = tokio::time::sleep(PATIENCE) => {
                // Still queued, unless it has failed just now. The task goes on and settles what becomes of the run.
                if told.swap(true, Ordering::AcqRel) { starting.await? } else { Ok(()) }
            }
        };
        match started {
            Ok(()) => Ok(Start { run: record.run(), joined: false }),
            Err(Error::Busy(run))
                if if_busy == IfBusy::Join
                    && self.registry.get(run.id).is_some_and(|active| self.has(&active, &inputs)) =>
            {
                Ok(Start { run, joined: true })
            }
            Err(error) => Err(error),
        }
    }

    /// Has a registered run begin. `told` decides who comes first: the caller, who is told of a queued run, or a failure,
    /// of which no run stays.
    async fn begin(self, begun: Begun, told: Arc<AtomicBool>) -> Result<(), Error> {
        let job = begun.record.run().job.clone();
        // Late lines of the run before must not fall into this one.
        if let Some(before) = &begun.before {
            self.settle(before).await;
        }
        let error = match self.systemd.start(&job, || begun.record.given.offer()).await {
            // systemd names a run a moment before it says when that began.
            Ok(_invocation) => {
                let mut run = begun.record.watch();
                let _ =
                    tokio::time::timeout(PATIENCE, run.wait_for(|run| run.started.is_some() || run.ended().is_some()))
                        .await;
                return Ok(());
            }
            Err(error) => error,
        };
        if told.swap(true, Ordering::AcqRel) {
            begun.record.never_ran(never_ran_word(&error));
        } else {
            self.registry.abandon(&begun);
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

    async fn find(&self, job: &AllowedJob, run: Option<RunId>) -> Result<Option<Record>, Error> {
        match run {
            None => self.latest(job).await,
            Some(id) => match self.registry.get(id) {
                Some(record) if record.run().job == *job => Ok(Some(record)),
                Some(_) => Err(Error::NoSuchRun),
                None => {
                    let invocation = id.as_invocation().ok_or(Error::NoSuchRun)?;
                    self.of_invocation(job, invocation).await
                }
            },
        }
    }

    /// The newest run of a job: from memory, or else from the journal.
    async fn latest(&self, job: &AllowedJob) -> Result<Option<Record>, Error> {
        let record = match self.registry.latest(job) {
            Latest::Run(record) => record,
            Latest::None => return Ok(None),
            Latest::Unseen => {
                let (journal, of) = (self.journal.clone(), job.clone());
                let found = tokio::task::spawn_blocking(move || journal.last_run(&of)).await??;
                let Some(record) = self.registry.found(job, found.map(|found| from_journal(job, &found)), true) else {
                    return Ok(None);
                };
                record
            }
        };
        self.complete_end(&record).await?;
        Ok(Some(record))
    }

    async fn of_invocation(&self, job: &AllowedJob, invocation: InvocationId) -> Result<Option<Record>, Error> {
        let record = if let Some(record) = self.registry.by_invocation(job, invocation) {
            record
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
        let missed = run.ended().is_some_and(|ended| ended.result == RunResult::Unknown || record.is_hearsay());
        let (true, Some(invocation)) = (missed, run.invocation) else { return Ok(()) };
        let (journal, job) = (self.journal.clone(), run.job.clone());
        let found = tokio::task::spawn_blocking(move || journal.find_run(&job, invocation)).await??;
        if let Some(Phase::Ended(ended)) = found.map(|found| from_journal(&run.job, &found).phase) {
            record.complete_end(ended);
        }
        Ok(())
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
    let time = |usec: u64| i64::try_from(usec).ok().and_then(|usec| Timestamp::from_microsecond(usec).ok());
    // The mirror knows every run that is under way, so what only the journal knows has ended.
    let ended = match &found.ended {
        None => Ended { at: None, result: RunResult::Unknown, exit: None },
        Some(end) => Ended {
            at: time(end.at_usec),
            result: match end.result.as_str() {
                "success" | "signal" | "exit-code" if end.stopped => RunResult::Stopped,
                "success" => RunResult::Success,
                word => RunResult::Failed(word.to_owned()),
            },
            exit: end.exit,
        },
    };
    Run {
        id: RunId::of_invocation(found.invocation),
        job: job.clone(),
        invocation: Some(found.invocation),
        started: found.started_usec.and_then(time),
        phase: Phase::Ended(ended),
    }
}

//! The runs that the bridge knows, in memory.
//!
//! Fed by systemd's changes, in order, and by what the store has of the time before. Bounded: the oldest ended runs make
//! room; the store and the journal still have them. Each change is announced to whoever keeps the history.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::run::{Ended, Log, Origin, Phase, Run, RunId, RunResult, Running, verdict};
use crate::inputs::Values;
use crate::invocation::InvocationId;
use crate::policy::{AllowedJob, JobName, NotAllowed, Policy};
use crate::systemd::{ActiveState, UnitState, Usage};

/// Runs that are kept in memory.
const KNOWN_RUNS: usize = 10_000;

/// A run and what wakes its waiters.
#[derive(Clone)]
pub(super) struct Record {
    run: Arc<watch::Sender<Arc<Run>>>,
    /// What is known of its log after its end.
    pub(super) settled: Arc<tokio::sync::Mutex<Settled>>,
    /// Whether the bridge came to know of it only after its end. systemd's result does not tell then whether somebody
    /// stopped it.
    hearsay: Arc<AtomicBool>,
    /// Whether systemd has been asked for it. Until then, what begins in its place was started by somebody else.
    asked: Arc<AtomicBool>,
    news: News,
    pub(super) kept: Arc<Kept>,
}

/// Where each change of a run is announced.
pub(super) type News = mpsc::UnboundedSender<Record>;

/// What the history has of a run.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Whether the store had the run when the bridge began.
    pub(super) adopted: AtomicBool,
    /// Whether it is known what became of it while nobody could see.
    pub(super) found_out: AtomicBool,
    /// Whether the store has the run.
    pub(super) recorded: AtomicBool,
    /// Whether it never began, so that the store is not to have it.
    pub(super) withdrawn: AtomicBool,
    /// Whether somebody was told that it waits, and so will run.
    pub(super) promised: AtomicBool,
    /// Whether what is to be found out after its end has been, or is being.
    pub(super) examined: AtomicBool,
    /// Whether that has come to its end.
    pub(super) understood: AtomicBool,
    /// Whether the store has its end, so that all have been told of it who wanted to be.
    pub(super) told: AtomicBool,
}

/// Whether the log of a run that has ended is whole.
#[derive(Debug, Default)]
pub(super) enum Settled {
    /// Nobody has asked yet.
    #[default]
    Unasked,
    /// It is.
    Whole,
    /// It could not be told at this time.
    Unknown(Instant),
}

impl Record {
    fn new(run: Run, news: News) -> Self {
        let run = Arc::new(watch::Sender::new(Arc::new(run)));
        let (settled, hearsay, asked, kept) = Default::default();
        Self { run, settled, hearsay, asked, news, kept }
    }

    /// Tells whoever keeps the history that there is something new of the run.
    pub(super) fn announce(&self) {
        // Nobody may keep it.
        let _ = self.news.send(self.clone());
    }

    pub(super) fn run(&self) -> Arc<Run> {
        self.run.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Run>> {
        self.run.subscribe()
    }

    /// Ends a queued run that systemd did not come to run.
    pub(super) fn never_ran(&self, reason: &str) {
        self.end(Ended::new(None, RunResult::Failed(reason.to_owned()), None));
    }

    /// Ends a queued run.
    pub(super) fn end(&self, ended: Ended) {
        self.change(|run| {
            if run.phase == Phase::Queued {
                run.phase = Phase::Ended(ended);
            }
        });
    }

    /// Ends a run of which nobody knows how it went on.
    pub(super) fn lose(&self) {
        self.change(|run| {
            if run.ended().is_none() {
                run.phase = Phase::Ended(Ended::new(None, RunResult::Lost, None));
            }
        });
    }

    /// Says why nobody knows how a run ended, if that is so.
    pub(super) fn explain(&self, reason: &str) {
        self.change(|run| match &mut run.phase {
            Phase::Ended(ended) if ended.result == RunResult::Lost => {
                ended.lost.get_or_insert_with(|| reason.to_owned());
            }
            _ => {}
        });
    }

    /// Whether it is still to be found out if this queued run of an earlier bridge has begun.
    pub(super) fn is_undecided(&self) -> bool {
        let kept = &self.kept;
        kept.adopted.load(Ordering::Relaxed)
            && !kept.promised.load(Ordering::Relaxed)
            && !kept.found_out.load(Ordering::Acquire)
    }

    /// Whether a new invocation can be this queued run. Not if the run is from the time before and the invocation began
    /// earlier still: it only comes up because the bridge sees the unit for the first time.
    fn can_be(&self, run: &Run, state: &UnitState) -> bool {
        let began_later = state.started.is_some_and(|started| started >= run.requested);
        began_later || state.has_job || !self.kept.adopted.load(Ordering::Relaxed)
    }

    /// Notes what an ended run has used of processors and memory.
    pub(super) fn note_usage(&self, usage: Usage) {
        self.change(|run| {
            if let Phase::Ended(ended) = &mut run.phase {
                (ended.cpu, ended.memory_peak) = (usage.cpu, usage.memory_peak);
            }
        });
    }

    /// Notes where the log of a run is.
    pub(super) fn note_log(&self, log: Log) {
        self.change(|run| run.log = log);
    }

    /// Gives a queued run the invocation that it turns out to be.
    pub(super) fn identify(&self, invocation: InvocationId, started: Option<Timestamp>) {
        self.change(|run| {
            if run.phase == Phase::Queued {
                run.invocation = Some(invocation);
                run.started = started;
                run.phase = Phase::Ended(Ended::new(None, RunResult::Lost, None));
            }
        });
    }

    /// systemd is about to be asked for the run, so it may have its inputs.
    pub(super) fn offer(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// What the run is given.
    pub(super) fn given(&self) -> Map<String, Value> {
        let run = self.run();
        let is_of_run = self.asked.load(Ordering::Acquire) || run.phase == Phase::Queued;
        if is_of_run { run.inputs.clone() } else { Map::new() }
    }

    /// Whether the store has told what it knows of the run from before the bridge began.
    pub(super) fn is_adopted(&self) -> bool {
        self.kept.adopted.load(Ordering::Relaxed)
    }

    pub(super) fn is_hearsay(&self) -> bool {
        self.hearsay.load(Ordering::Relaxed)
    }

    /// Completes what only the journal knows of a run's end.
    pub(super) fn complete_end(&self, ended: Ended) {
        let hearsay = self.hearsay.swap(false, Ordering::Relaxed);
        self.change(|run| match &mut run.phase {
            Phase::Ended(known) if known.result == RunResult::Lost => *known = ended,
            Phase::Ended(known) if hearsay && ended.result == RunResult::Stopped => known.result = RunResult::Stopped,
            _ => {}
        });
    }

    fn change(&self, change: impl FnOnce(&mut Run)) {
        let is_new = self.run.send_if_modified(|run| {
            let mut changed = Run::clone(run);
            change(&mut changed);
            let different = changed != **run;
            if different {
                *run = Arc::new(changed);
            }
            different
        });
        if is_new {
            self.announce();
        }
    }
}

/// A run that is about to be asked for, and the job's newest run until then.
pub(super) struct Begun {
    pub(super) record: Record,
    pub(super) before: Option<Record>,
}

/// As many runs of a job wait as may.
pub(super) struct QueueFull(pub(super) usize);

/// What the bridge knows of the newest run of a job.
#[derive(Clone)]
pub(super) enum Latest {
    /// This one.
    Run(Record),
    /// There is none: the journal has been asked.
    None,
    /// The bridge has seen none; the journal may know one.
    Unseen,
}

struct Runs {
    news: News,
    by_id: HashMap<RunId, Record>,
    by_invocation: HashMap<InvocationId, RunId>,
    latest: HashMap<String, Option<RunId>>,
    order: VecDeque<RunId>,
    /// The runs that wait for their job, by unit, the next one first. None of them is the newest of its job.
    waiting: HashMap<String, VecDeque<RunId>>,
}

/// All known runs.
pub(super) struct Registry {
    policy: Policy,
    runs: Mutex<Runs>,
}

impl Registry {
    pub(super) fn new(policy: Policy, news: News) -> Self {
        let (by_id, by_invocation) = (HashMap::new(), HashMap::new());
        let (order, waiting) = (VecDeque::new(), HashMap::new());
        let runs = Runs { news, by_id, by_invocation, latest: HashMap::new(), order, waiting };
        Self { policy, runs: Mutex::new(runs) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job by the name that it has in the store.
    ///
    /// # Errors
    /// [`NotAllowed`] if it is not allowed any more.
    pub(super) fn admit(&self, name: &JobName) -> Result<AllowedJob, NotAllowed> {
        self.policy.admit(name)
    }

    /// The runs that have not ended, as far as is known.
    pub(super) fn unended(&self) -> Vec<Record> {
        self.lock().by_id.values().filter(|record| record.run().ended().is_none()).cloned().collect()
    }

    /// The runs of a job that the store does not have.
    pub(super) fn unrecorded(&self, job: &AllowedJob) -> Vec<Record> {
        let is_unrecorded =
            |record: &&Record| !record.kept.recorded.load(Ordering::Acquire) && record.run().job == *job;
        self.lock().by_id.values().filter(is_unrecorded).cloned().collect()
    }

    pub(super) fn get(&self, id: RunId) -> Option<Record> {
        self.lock().by_id.get(&id).cloned()
    }

    pub(super) fn by_invocation(&self, job: &AllowedJob, invocation: InvocationId) -> Option<Record> {
        let runs = self.lock();
        let record = runs.by_id.get(runs.by_invocation.get(&invocation)?)?;
        (record.run().job == *job).then(|| record.clone())
    }

    /// The run that has this invocation as its id, or as its invocation.
    pub(super) fn of_any_job(&self, invocation: InvocationId) -> Option<Record> {
        let runs = self.lock();
        runs.by_id.get(runs.by_invocation.get(&invocation)?).cloned()
    }

    pub(super) fn latest(&self, job: &AllowedJob) -> Latest {
        let runs = self.lock();
        match runs.latest.get(job.unit()) {
            None => Latest::Unseen,
            Some(None) => Latest::None,
            Some(Some(id)) => runs.by_id.get(id).map_or(Latest::Unseen, |record| Latest::Run(record.clone())),
        }
    }

    /// Registers a run that is about to be asked for, with its inputs.
    ///
    /// # Errors
    /// The run that is queued or running, or the next one that waits: of parallel starts exactly one passes here.
    pub(super) fn begin(&self, job: &AllowedJob, origin: Origin, inputs: &Values) -> Result<Begun, Record> {
        let mut runs = self.lock();
        let before = runs.latest_of(job.unit()).cloned();
        if let Some(active) = before.as_ref().filter(|record| record.run().ended().is_none()) {
            return Err(active.clone());
        }
        let next = runs.waiting.get(job.unit()).and_then(VecDeque::front);
        if let Some(next) = next.and_then(|id| runs.by_id.get(id)) {
            return Err(next.clone());
        }
        let run = Run::requested(RunId::generate(), job.clone(), origin, Timestamp::now());
        let run = Run { inputs: inputs.to_json(), ..run };
        Ok(Begun { record: runs.insert(run, true), before })
    }

    /// Registers a run that waits for its job behind those that do so already; returns how many these are.
    ///
    /// # Errors
    /// `most` wait already.
    pub(super) fn wait(
        &self,
        job: &AllowedJob,
        origin: Origin,
        inputs: &Values,
        most: usize,
    ) -> Result<(Record, usize), QueueFull> {
        let mut runs = self.lock();
        let before = runs.waiting.get(job.unit()).map_or(0, VecDeque::len);
        if before >= most {
            return Err(QueueFull(most));
        }
        let run = Run::requested(RunId::generate(), job.clone(), origin, Timestamp::now());
        let record = runs.insert(Run { inputs: inputs.to_json(), ..run }, false);
        runs.waiting.entry(job.unit().to_owned()).or_default().push_back(record.run().id);
        Ok((record, before))
    }

    /// Takes the run that has waited longest, if nothing of its job is queued or runs; it then counts as the newest.
    pub(super) fn begin_waiting(&self, job: &AllowedJob) -> Option<Begun> {
        let mut runs = self.lock();
        let before = runs.latest_of(job.unit()).cloned();
        if before.as_ref().is_some_and(|record| record.run().ended().is_none()) {
            return None;
        }
        let id = runs.waiting.get_mut(job.unit())?.pop_front();
        runs.waiting.retain(|_, waiting| !waiting.is_empty());
        let record = runs.by_id.get(&id?)?.clone();
        runs.latest.insert(job.unit().to_owned(), id);
        Some(Begun { record, before })
    }

    /// Has a run wait no longer; false if it did not.
    pub(super) fn leave(&self, record: &Record) -> bool {
        let (mut runs, run) = (self.lock(), record.run());
        let Some(waiting) = runs.waiting.get_mut(run.job.unit()) else { return false };
        let Some(place) = waiting.iter().position(|id| *id == run.id) else { return false };
        waiting.remove(place);
        runs.waiting.retain(|_, waiting| !waiting.is_empty());
        true
    }

    /// Jobs for which runs wait.
    pub(super) fn waited_for(&self) -> Vec<AllowedJob> {
        let runs = self.lock();
        let first = runs.waiting.values().filter_map(VecDeque::front);
        first.filter_map(|id| Some(runs.by_id.get(id)?.run().job.clone())).collect()
    }

    /// The run that a request came to.
    pub(super) fn of_request(&self, request: Uuid) -> Option<Record> {
        let is_of =
            |record: &&Record| matches!(&record.run().origin, Origin::Token { request: of, .. } if *of == request);
        self.lock().by_id.values().find(is_of).cloned()
    }

    /// Adds a run that the store has waiting, behind those of its job that do so already.
    pub(super) fn adopt_waiting(&self, run: Run) {
        let mut runs = self.lock();
        let (id, unit) = (run.id, run.job.unit().to_owned());
        if runs.by_id.contains_key(&id) {
            return;
        }
        let record = runs.insert(run, false);
        record.kept.recorded.store(true, Ordering::Relaxed);
        runs.waiting.entry(unit).or_default().push_back(id);
    }

    /// Takes back a run that never began; the job's newest run is again the one before.
    ///
    /// A run that somebody else began in the meantime, which is then what `begun` stands for, stays: false.
    pub(super) fn abandon(&self, begun: &Begun) -> bool {
        let mut runs = self.lock();
        let run = begun.record.run();
        if run.phase != Phase::Queued {
            return false;
        }
        runs.by_id.remove(&run.id);
        if runs.latest.get(run.job.unit()) != Some(&Some(run.id)) {
            return true;
        }
        let unit = run.job.unit().to_owned();
        match &begun.before {
            Some(before) => drop(runs.latest.insert(unit, Some(before.run().id))),
            None => drop(runs.latest.remove(&unit)),
        }
        true
    }

    /// Has a run from the store count as the newest of its job, unless one has come up meanwhile.
    pub(super) fn adopt_latest(&self, run: Run) -> Record {
        let record = self.adopt(run);
        let (mut runs, run) = (self.lock(), record.run());
        runs.latest.entry(run.job.unit().to_owned()).or_default().get_or_insert(run.id);
        record
    }

    /// Forgets a run that is not the newest of its job.
    pub(super) fn forget(&self, record: &Record) {
        self.lock().by_id.remove(&record.run().id);
    }

    /// Adds a run that the store has from the time before; one that is known already by its invocation gets the id and
    /// the origin that it has in the store.
    ///
    /// One that has not ended counts as the job's newest if none later is known. Of those that have, nobody knows without
    /// asking the journal too: somebody else may have started the job while there was no bridge.
    pub(super) fn adopt(&self, run: Run) -> Record {
        let mut runs = self.lock();
        if let Some(known) = runs.by_id.get(&run.id) {
            return known.clone();
        }
        let alias = run.invocation.and_then(|invocation| runs.by_invocation.get(&invocation).copied());
        if let Some(record) = alias.and_then(|alias| runs.by_id.remove(&alias)) {
            runs.rename(&record, run);
            return record;
        }
        let is_over = run.ended().is_some();
        let is_later = runs.latest_of(run.job.unit()).is_none_or(|latest| latest.run().requested < run.requested);
        let is_latest = is_later && !is_over;
        let record = runs.insert(run, is_latest);
        record.offer();
        record.kept.adopted.store(true, Ordering::Relaxed);
        record.kept.recorded.store(true, Ordering::Relaxed);
        record.kept.examined.store(is_over, Ordering::Relaxed);
        record.kept.told.store(is_over, Ordering::Relaxed);
        record
    }

    /// Adds a run that was found in the journal; `None` notes that there is none.
    pub(super) fn found(&self, job: &AllowedJob, run: Option<Run>, is_latest: bool) -> Option<Record> {
        let mut runs = self.lock();
        let Some(run) = run else {
            // Noted only where no run has come up meanwhile; the notes are bounded as the runs are.
            if is_latest && runs.latest.len() < KNOWN_RUNS {
                runs.latest.entry(job.unit().to_owned()).or_insert(None);
            }
            return None;
        };
        if let Some(known) = run.invocation.and_then(|id| runs.by_invocation.get(&id)).and_then(|id| runs.by_id.get(id))
        {
            return Some(known.clone());
        }
        let is_latest = is_latest && !matches!(runs.latest.get(job.unit()), Some(Some(_)));
        let record = runs.insert(run, is_latest);
        record.announce();
        Some(record)
    }

    /// Takes a change of a unit.
    pub(super) fn observe(&self, unit: &str, before: &UnitState, after: &UnitState) {
        let Some(job) = JobName::from_unit(unit).ok().and_then(|name| self.policy.admit(&name).ok()) else { return };
        let mut runs = self.lock();
        let record = match after.invocation {
            Some(invocation) => {
                let known = runs.by_invocation.get(&invocation).and_then(|id| runs.by_id.get(id)).cloned();
                known.unwrap_or_else(|| {
                    let record = runs.begin_observed(job, invocation, before, after);
                    record.announce();
                    record
                })
            }
            // systemd drops the id together with the unit; what ran of it has ended.
            None => match runs.latest_of(unit) {
                Some(record) if matches!(record.run().phase, Phase::Running(_)) => record.clone(),
                _ => return,
            },
        };
        if !before.in_memory && !after.active.is_running() && record.run().ended().is_none() {
            record.hearsay.store(true, Ordering::Relaxed);
        }
        record.change(|run| advance(run, after));
    }
}

impl Runs {
    fn latest_of(&self, unit: &str) -> Option<&Record> {
        self.by_id.get(self.latest.get(unit)?.as_ref()?)
    }

    fn insert(&mut self, run: Run, is_latest: bool) -> Record {
        let id = run.id;
        if let Some(invocation) = run.invocation {
            self.by_invocation.insert(invocation, id);
        }
        if is_latest {
            self.latest.insert(run.job.unit().to_owned(), Some(id));
        }
        let record = Record::new(run, self.news.clone());
        self.by_id.insert(id, record.clone());
        self.order.push_back(id);
        self.make_room();
        record
    }

    /// Gives a run, taken out of `by_id`, the id and the origin that `recorded` says it has.
    fn rename(&mut self, record: &Record, recorded: Run) {
        let (alias, id) = (record.run().id, recorded.id);
        let unit = recorded.job.unit().to_owned();
        if let Some(invocation) = recorded.invocation {
            self.by_invocation.insert(invocation, id);
        }
        if self.latest.get(&unit) == Some(&Some(alias)) {
            self.latest.insert(unit, Some(id));
        }
        self.by_id.insert(id, record.clone());
        self.order.push_back(id);
        record.kept.recorded.store(true, Ordering::Relaxed);
        record.offer();
        record.change(|known| {
            let phase = if recorded.ended().is_some() { recorded.phase.clone() } else { known.phase.clone() };
            *known = Run { started: known.started.or(recorded.started), phase, ..recorded };
        });
    }

    /// A unit has a new invocation: the run that was asked for, or one that somebody else started.
    fn begin_observed(
        &mut self,
        job: AllowedJob,
        invocation: InvocationId,
        before: &UnitState,
        after: &UnitState,
    ) -> Record {
        let phase = Phase::Running(Running { before: left_before(before, after), stopping: false });
        let latest = self.latest_of(job.unit()).cloned();
        // systemd starts the job again by itself.
        let again = latest.as_ref().filter(|record| before.active.is_running() && record.run().phase != Phase::Queued);
        let inputs = again.map(Record::given).unwrap_or_default();
        if let Some(record) = latest {
            let run = record.run();
            match run.phase {
                Phase::Queued if record.can_be(&run, after) => {
                    record.change(|run| {
                        run.invocation = Some(invocation);
                        run.phase = phase;
                    });
                    self.by_invocation.insert(invocation, run.id);
                    return record;
                }
                // Its end was not seen. What systemd says of a result now is of the new run, unless it knows an exit too.
                Phase::Running(running) => record.change(|run| {
                    let known = before.main_exit.is_some();
                    let result = if known { verdict(before, running.stopping) } else { RunResult::Lost };
                    let at = before.ended.filter(|_| known);
                    run.phase = Phase::Ended(Ended::new(at, result, before.main_exit));
                }),
                Phase::Queued | Phase::Ended(_) => {}
            }
        }
        let requested = after.started.unwrap_or_else(Timestamp::now);
        let id = RunId::of_invocation(invocation);
        let run = Run::requested(id, job, Origin::Systemd, requested);
        let record = self.insert(Run { invocation: Some(invocation), phase, inputs, ..run }, true);
        record.offer();
        record
    }

    /// Forgets the oldest ended runs that are not the newest of their job.
    fn make_room(&mut self) {
        let surplus = self.order.len().saturating_sub(KNOWN_RUNS);
        for _ in 0..surplus {
            let Some(id) = self.order.pop_front() else { return };
            let Some(run) = self.by_id.get(&id).map(Record::run) else { continue };
            if run.ended().is_none() {
                self.order.push_back(id);
                continue;
            }
            self.by_id.remove(&id);
            if let Some(invocation) = run.invocation {
                self.by_invocation.remove(&invocation);
            }
            if self.latest.get(run.job.unit()) == Some(&Some(id)) {
                self.latest.remove(run.job.unit());
            }
        }
    }
}

/// When the unit had last left `inactive` before the run that `after` names for the first time; until that changes, the
/// run has not begun, as far as systemd has told.
///
/// systemd names a run while its unit is inactive still, has a systemd job, and has its result wiped. A run that is over
/// when it is named, on the other hand, is told of all at once.
fn left_before(before: &UnitState, after: &UnitState) -> Option<Timestamp> {
    let wiped = after.has_job && after.result == "success" && after.main_exit.is_none();
    match (before.active.is_running(), after.active.is_running()) {
        // A unit that systemd restarts by itself counts as active in between, and since systemd 254 it does not become
        // inactive again for its next run.
        (true, true) => None,
        (_, false) if wiped => after.started,
        _ => before.started,
    }
}

/// Moves a run on to what its unit's state says.
fn advance(run: &mut Run, state: &UnitState) {
    let missed = matches!(&run.phase, Phase::Ended(ended) if ended.result == RunResult::Lost);
    if missed && state.in_memory {
        // It was out of sight, not over.
        run.phase = Phase::Running(Running { before: None, stopping: false });
    }
    let Phase::Running(running) = &mut run.phase else { return };
    // Between its runs, systemd calls a unit that it restarts by itself `activating`. It tells the result of the old run
    // then, until the new one begins.
    let between = state.sub.starts_with("auto-restart") && (state.main_exit.is_some() || state.result != "success");
    if state.started != running.before && !between {
        run.started = state.started;
    }
    if state.active.is_running() && !between {
        // After the main process has ended by itself, what systemd stops are its leftovers.
        running.stopping |= state.active == ActiveState::Deactivating && state.main_exit.is_none();
        return;
    }
    let ended = if state.in_memory {
        if run.started.is_none() && state.has_job {
            return;
        }
        Ended::new(state.ended, verdict(state, running.stopping), state.main_exit)
    } else {
        Ended::new(None, RunResult::Lost, None)
    };
    run.phase = Phase::Ended(ended);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invocation::MainExit;
    use crate::policy::Prefix;

    const UNIT: &str = "ci-test-a.service";

    fn registry() -> (Registry, AllowedJob) {
        let policy = Policy::new(vec![Prefix::parse("ci-test-").unwrap()]);
        let job = policy.admit(&JobName::parse("ci-test-a").unwrap()).unwrap();
        (Registry::new(policy, mpsc::unbounded_channel().0), job)
    }

    fn origin() -> Origin {
        Origin::Token { name: "ci".parse().unwrap(), request: uuid::Uuid::nil() }
    }

    fn nothing(job: &AllowedJob) -> Values {
        crate::inputs::Inputs::default().accept(job, &Map::new()).unwrap()
    }

    fn begin(registry: &Registry, job: &AllowedJob) -> Begun {
        registry.begin(job, origin(), &nothing(job)).map_err(|_| "busy").unwrap()
    }

    fn state(active: ActiveState, invocation: u8) -> UnitState {
        UnitState {
            in_memory: true,
            active,
            invocation: InvocationId::from_bytes(&[invocation; 16]),
            started: Timestamp::from_second(i64::from(invocation)).ok(),
            ..UnitState::unknown(UNIT)
        }
    }

    fn feed(registry: &Registry, states: &[UnitState]) {
        let mut before = UnitState::unknown(UNIT);
        for after in states {
            registry.observe(UNIT, &before, after);
            before = after.clone();
        }
    }

    fn latest(registry: &Registry, job: &AllowedJob) -> Arc<Run> {
        match registry.latest(job) {
            Latest::Run(record) => record.run(),
            Latest::None | Latest::Unseen => panic!("no run"),
        }
    }

    fn result(run: &Run) -> &str {
        run.ended().unwrap().result.as_str()
    }

    #[test]
    fn of_two_starts_one_is_told_of_the_other() {
        let (registry, job) = registry();
        let first = begin(&registry, &job).record;
        let busy = registry.begin(&job, origin(), &nothing(&job)).map(|_| ()).unwrap_err();
        assert_eq!(busy.run().id, first.run().id);
    }

    #[test]
    fn a_requested_run_keeps_its_id_through_its_life() {
        let (registry, job) = registry();
        let record = begin(&registry, &job).record;
        let ended = UnitState { main_exit: Some(MainExit::Code(0)), ..state(ActiveState::Inactive, 7) };
        feed(&registry, &[state(ActiveState::Activating, 7), ended]);
        let run = latest(&registry, &job);
        assert_eq!(run.id, record.run().id);
        assert_eq!(run.invocation, InvocationId::from_bytes(&[7; 16]));
        assert_eq!(result(&run), "success");
        assert!(registry.begin(&job, origin(), &nothing(&job)).is_ok());
    }

    #[test]
    fn a_run_that_somebody_else_started_is_known_by_its_invocation() {
        let (registry, job) = registry();
        feed(&registry, &[state(ActiveState::Activating, 9)]);
        let run = latest(&registry, &job);
        assert_eq!(run.id.as_invocation(), run.invocation);
        assert!(registry.begin(&job, origin(), &nothing(&job)).is_err());
    }

    #[test]
    fn a_run_that_is_named_before_its_unit_leaves_inactive_has_not_ended() {
        let failed = UnitState { main_exit: Some(MainExit::Code(3)), ..state(ActiveState::Failed, 7) };
        let failed = UnitState { result: "exit-code".to_owned(), ..failed };
        let unwiped = UnitState { invocation: InvocationId::from_bytes(&[8; 16]), has_job: true, ..failed.clone() };
        let wiped = UnitState { result: "success".to_owned(), main_exit: None, ..unwiped.clone() };
        // As before an automatic restart that was not seen.
        let late = UnitState { started: Timestamp::from_second(70).ok(), ..wiped.clone() };
        for named in [unwiped, wiped, late] {
            let (registry, job) = registry();
            feed(&registry, &[state(ActiveState::Activating, 7), failed.clone(), named.clone()]);
            assert!(matches!(latest(&registry, &job).phase, Phase::Running(_)), "{named:?}");
            let begun = UnitState { started: Timestamp::from_second(80).ok(), ..state(ActiveState::Activating, 8) };
            let done = UnitState { active: ActiveState::Inactive, main_exit: Some(MainExit::Code(0)), ..begun.clone() };
            registry.observe(UNIT, &named, &begun);
            registry.observe(UNIT, &begun, &done);
            assert_eq!(result(&latest(&registry, &job)), "success");
            assert_eq!(latest(&registry, &job).started, begun.started);
        }
    }

    #[test]
    fn a_run_whose_unit_never_left_inactive_ends_with_its_systemd_job() {
        let (registry, job) = registry();
        let before = UnitState { main_exit: Some(MainExit::Code(0)), ..state(ActiveState::Inactive, 7) };
        let failed = UnitState {
            invocation: InvocationId::from_bytes(&[8; 16]),
            main_exit: None,
            result: "resources".to_owned(),
            has_job: true,
            active: ActiveState::Failed,
            ..before.clone()
        };
        let over = UnitState { has_job: false, ..failed.clone() };
        feed(&registry, &[state(ActiveState::Activating, 7), before, failed, over]);
        assert_eq!(result(&latest(&registry, &job)), "resources");
    }

    #[test]
    fn a_stopped_run_is_no_success_and_no_failure() {
        let (registry, job) = registry();
        let killed = UnitState { main_exit: Some(MainExit::Signal(15)), ..state(ActiveState::Failed, 7) };
        let killed = UnitState { result: "signal".to_owned(), ..killed };
        feed(&registry, &[state(ActiveState::Activating, 7), state(ActiveState::Deactivating, 7), killed]);
        assert_eq!(result(&latest(&registry, &job)), "stopped");
    }

    #[test]
    fn leftovers_that_systemd_stops_do_not_spoil_a_success() {
        let (registry, job) = registry();
        let done = Some(MainExit::Code(0));
        let leftovers = UnitState { main_exit: done, ..state(ActiveState::Deactivating, 7) };
        let ended = UnitState { main_exit: done, ..state(ActiveState::Inactive, 7) };
        feed(&registry, &[state(ActiveState::Activating, 7), leftovers, ended]);
        assert_eq!(result(&latest(&registry, &job)), "success");
    }

    #[test]
    fn a_timeout_stays_a_timeout_though_systemd_stopped_the_job() {
        let (registry, job) = registry();
        let timeout = |active| UnitState { result: "timeout".to_owned(), ..state(active, 7) };
        let states = [
            state(ActiveState::Activating, 7),
            timeout(ActiveState::Deactivating),
            UnitState { main_exit: Some(MainExit::Signal(15)), ..timeout(ActiveState::Failed) },
        ];
        feed(&registry, &states);
        assert_eq!(result(&latest(&registry, &job)), "timeout");
    }

    #[test]
    fn an_automatic_restart_ends_one_run_and_begins_another() {
        let (registry, job) = registry();
        let left = |second: i64| Timestamp::from_second(second).ok();
        let running = state(ActiveState::Active, 7);
        let exited =
            UnitState { result: "exit-code".to_owned(), main_exit: Some(MainExit::Code(3)), ..running.clone() };
        let between = UnitState {
            active: ActiveState::Activating,
            sub: "auto-restart".to_owned(),
            started: left(8),
            ended: left(8),
            ..exited.clone()
        };
        // systemd tells first what belongs to the service, then the rest; so also of the next run.
        let reset = UnitState { result: "success".to_owned(), main_exit: None, ..between.clone() };
        let again = UnitState { invocation: InvocationId::from_bytes(&[8; 16]), ..reset.clone() };
        let begun = UnitState { active: ActiveState::Active, sub: "running".to_owned(), ..again.clone() };
        let done = UnitState { main_exit: Some(MainExit::Code(0)), ..begun.clone() };
        let over = UnitState { active: ActiveState::Inactive, sub: "dead".to_owned(), ended: left(9), ..done.clone() };
        feed(&registry, &[running, exited, between, reset, again, begun]);
        let first = registry.get(RunId::of_invocation(InvocationId::from_bytes(&[7; 16]).unwrap())).unwrap().run();
        assert_eq!(result(&first), "exit-code");
        assert_eq!((first.started, first.ended().unwrap().at), (left(7), left(8)));
        assert!(matches!(latest(&registry, &job).phase, Phase::Running(_)));
        registry.observe(UNIT, &done, &over);
        assert_eq!(result(&latest(&registry, &job)), "success");
    }

    #[test]
    fn a_run_whose_end_was_not_seen_is_no_success() {
        let (registry, _job) = registry();
        feed(&registry, &[state(ActiveState::Active, 7), state(ActiveState::Active, 8)]);
        let first = registry.get(RunId::of_invocation(InvocationId::from_bytes(&[7; 16]).unwrap())).unwrap().run();
        assert_eq!(result(&first), "lost");
    }

    #[test]
    fn a_run_that_somebody_else_began_is_not_taken_back() {
        let (registry, job) = registry();
        let begun = begin(&registry, &job);
        feed(&registry, &[state(ActiveState::Activating, 7)]);
        registry.abandon(&begun);
        assert_eq!(latest(&registry, &job).id, begun.record.run().id);
        feed(&registry, &[state(ActiveState::Activating, 7), state(ActiveState::Inactive, 7)]);
        assert_eq!(result(&latest(&registry, &job)), "success");
    }

    #[test]
    fn a_unit_that_vanished_leaves_an_unknown_verdict_for_the_journal_to_tell() {
        let (registry, job) = registry();
        let gone = UnitState { in_memory: false, invocation: None, ..state(ActiveState::Inactive, 7) };
        feed(&registry, &[state(ActiveState::Active, 7), gone]);
        assert_eq!(result(&latest(&registry, &job)), "lost");
    }

    #[test]
    fn a_run_that_was_out_of_sight_goes_on() {
        let (registry, job) = registry();
        let gone = UnitState { in_memory: false, ..state(ActiveState::Inactive, 7) };
        feed(&registry, &[state(ActiveState::Active, 7), gone, state(ActiveState::Active, 7)]);
        assert!(matches!(latest(&registry, &job).phase, Phase::Running(_)));
    }

    #[test]
    fn a_run_that_never_began_gives_way_to_the_one_before() {
        let (registry, job) = registry();
        feed(&registry, &[state(ActiveState::Active, 7), state(ActiveState::Inactive, 7)]);
        let before = latest(&registry, &job).id;
        registry.abandon(&begin(&registry, &job));
        assert_eq!(latest(&registry, &job).id, before);
    }

    #[test]
    fn memory_is_bounded() {
        let (registry, job) = registry();
        for _ in 0..KNOWN_RUNS + 10 {
            begin(&registry, &job).record.never_ran("dependency");
        }
        assert_eq!(registry.lock().by_id.len(), KNOWN_RUNS);
    }
}

//! Starting and stopping: the outcome is known, not assumed.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use zbus::OwnedObjectPath;

use super::error::{Error, may_be_done};
use super::unit::{LoadState, UnitState};
use super::{Link, Systemd};
use crate::invocation::InvocationId;
use crate::policy::AllowedJob;

/// Directories of unit files that only root may write (`systemd.unit(5)`, "Unit File Load Path").
const UNIT_DIRECTORIES: [&str; 8] = [
    "/etc/systemd/system/",
    "/run/systemd/system/",
    "/run/systemd/generator/",
    "/run/systemd/generator.early/",
    "/run/systemd/generator.late/",
    "/usr/local/lib/systemd/system/",
    "/usr/lib/systemd/system/",
    "/lib/systemd/system/",
];

/// Units whose last result systemd is asked to keep in memory at the same time.
const PINNED_UNITS: usize = 128;

/// What a stop came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Nothing was running.
    WasInactive,
    /// It ran, and has stopped.
    Stopped,
    /// It still has work to do before it has stopped.
    Stopping,
}

/// Why a unit was not started.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartError {
    /// There is no unit file.
    #[error("no such unit")]
    NotFound,
    /// A run is under way or queued.
    #[error("the job is already active")]
    Busy,
    /// The name is an alias of a unit with another name.
    #[error("the name is an alias; only a unit's own name can be started")]
    Alias,
    /// The unit is masked.
    #[error("the unit is masked; `systemctl unmask` it on the machine")]
    Masked,
    /// systemd could not load the unit.
    #[error("the unit cannot be loaded: {0}")]
    Broken(String),
    /// `RefuseManualStart=yes`.
    #[error("the unit has RefuseManualStart=yes")]
    NotByHand,
    /// The unit file could be changed by somebody else than root.
    #[error("the unit file is not owned by root, or not in a system unit directory, or others may write to it")]
    Unsafe,
    /// A `Condition…=` is not met, so systemd skipped the start.
    #[error("a Condition of the unit is not met, so systemd did not run it")]
    Condition,
    /// An `Assert…=` is not met.
    #[error("an Assert of the unit is not met")]
    Assertion,
    /// A unit that this one requires has failed.
    #[error("a unit that this one requires could not be started")]
    Dependency,
    /// Too many starts in a short time.
    #[error("the unit was started too often in a short time (StartLimitBurst=)")]
    StartLimit,
    /// Somebody cancelled the start while it was queued.
    #[error("the start was cancelled before the job ran")]
    Canceled,
    /// systemd could not run it, for the reason in its own words.
    #[error("systemd could not start the unit: {0}")]
    Failed(String),
    /// The connection was lost after systemd had been asked, so it may have started the unit or not.
    #[error("the connection to systemd was lost during the start; whether the job runs shows when it is back")]
    Uncertain,
    /// The call itself failed.
    #[error(transparent)]
    Systemd(#[from] Error),
}

/// The units that this connection holds in systemd's memory, oldest first.
#[derive(Default)]
pub(super) struct Pins(VecDeque<String>);

impl Pins {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Moves `unit` to the newest place; false if it was not there.
    fn touch(&mut self, unit: &str) -> bool {
        let Some(at) = self.0.iter().position(|pinned| pinned == unit) else { return false };
        if let Some(pinned) = self.0.remove(at) {
            self.0.push_back(pinned);
        }
        true
    }

    /// Adds `unit` and gives back the one that has to make room.
    fn add(&mut self, unit: &str) -> Option<String> {
        self.0.push_back(unit.to_owned());
        if self.0.len() > PINNED_UNITS { self.0.pop_front() } else { None }
    }
}

impl Systemd {
    /// Starts the job's unit and returns when its run has begun, however long systemd has it wait for other units.
    ///
    /// The caller makes sure that it does not start one unit twice at the same time.
    ///
    /// `asking` is called when nothing runs yet and systemd is about to be asked: a run that began before is of somebody else.
    ///
    /// # Errors
    /// [`StartError`] says why nothing runs.
    pub async fn start(&self, job: &AllowedJob, asking: impl FnOnce()) -> Result<InvocationId, StartError> {
        let unit = job.unit();
        let state = self.link.read(unit).await?;
        vet(unit, &state).await?;
        let session = self.link.connection_name();
        self.pin(unit).await?;
        asking();
        match self.begin(unit, state.invocation).await {
            Err(StartError::Systemd(Error::Unreachable(gone))) => {
                self.begin_anew(unit, state.invocation, session, gone).await
            }
            begun => begun,
        }
    }

    /// Starts a unit and returns when it has another invocation than `before`.
    async fn begin(&self, unit: &str, before: Option<InvocationId>) -> Result<InvocationId, StartError> {
        let mut states = self.link.mirror.watch(unit);
        let reply = self.link.call_once("StartUnit", &(unit, "fail")).await?;
        let path: OwnedObjectPath = reply.body().deserialize().map_err(Error::Protocol)?;
        let mut ended = self.link.job_end(path.as_str());
        loop {
            if let Some(new) = states.borrow_and_update().invocation.filter(|new| Some(*new) != before) {
                return Ok(new);
            }
            tokio::select! {
                biased;
                result = &mut ended => {
                    let result = result.map_err(|_closed| Error::Unreachable(None))?;
                    return self.started(unit, before, &result).await;
                }
                changed = states.changed() => changed.map_err(|_closed| Error::Unreachable(None))?,
            }
        }
    }

    /// The state of the job's unit, read from systemd again; what it was asked before is done when it answers.
    ///
    /// # Errors
    /// [`Error`] if systemd cannot be reached.
    pub async fn reread(&self, job: &AllowedJob) -> Result<Arc<UnitState>, Error> {
        self.link.read(job.unit()).await
    }

    /// Goes on with a start in whose middle systemd was `gone`: whether it took the call shows when it is back.
    async fn begin_anew(
        &self,
        unit: &str,
        before: Option<InvocationId>,
        session: Option<String>,
        gone: Option<zbus::Error>,
    ) -> Result<InvocationId, StartError> {
        let state = match self.link.read(unit).await {
            Err(Error::Unreachable(_)) if gone.as_ref().is_none_or(may_be_done) => return Err(StartError::Uncertain),
            state => state?,
        };
        if let Some(new) = state.invocation.filter(|new| Some(*new) != before) {
            return Ok(new);
        }
        if !state.active.is_running() && !state.has_job {
            return match gone {
                // The call was lost with the systemd that it was sent to. Nothing else is as certain: and not even this if
                // the unit is no longer pinned, since systemd then forgets a run as soon as it has ended.
                Some(error) if is_lost(&error) && self.link.connection_name() == session => {
                    self.begin(unit, before).await
                }
                Some(error) if !may_be_done(&error) => Err(Error::Unreachable(Some(error)).into()),
                // It may have run and be forgotten already, or be about to run.
                _ => Err(StartError::Uncertain),
            };
        }
        let mut states = self.link.mirror.watch(unit);
        loop {
            let state = states.borrow_and_update().clone();
            if let Some(new) = state.invocation.filter(|new| Some(*new) != before) {
                return Ok(new);
            }
            if !state.active.is_running() && !state.has_job {
                return Err(StartError::Uncertain);
            }
            states.changed().await.map_err(|_closed| StartError::Uncertain)?;
        }
    }

    /// Whether the job's unit could be started now, without starting it.
    ///
    /// # Errors
    /// [`StartError`] says why not.
    pub async fn inspect(&self, job: &AllowedJob) -> Result<(), StartError> {
        let state = self.link.read(job.unit()).await?;
        vet(job.unit(), &state).await
    }

    /// Stops the job's unit and returns when it has stopped, or after `patience`.
    ///
    /// # Errors
    /// [`Error`] if systemd refuses or cannot be reached.
    pub async fn stop(&self, job: &AllowedJob, patience: Duration) -> Result<Stopped, Error> {
        let unit = job.unit();
        let state = self.link.read(unit).await?;
        if state.id != unit || state.load == LoadState::NotFound {
            return Err(Error::NoSuchUnit);
        }
        if !state.active.is_running() && !state.has_job {
            return Ok(Stopped::WasInactive);
        }
        let reply = self.link.call("StopUnit", &(unit, "replace")).await?;
        let path: OwnedObjectPath = reply.body().deserialize().map_err(Error::Protocol)?;
        match tokio::time::timeout(patience, self.link.job_end(path.as_str())).await {
            Ok(Ok(_result)) => Ok(Stopped::Stopped),
            Ok(Err(_closed)) => {
                let state = self.link.read(unit).await?;
                Ok(if state.active.is_running() || state.has_job { Stopped::Stopping } else { Stopped::Stopped })
            }
            Err(_elapsed) => Ok(Stopped::Stopping),
        }
    }

    /// Tells what the end of a start job means.
    async fn started(
        &self,
        unit: &str,
        before: Option<InvocationId>,
        result: &str,
    ) -> Result<InvocationId, StartError> {
        let state = self.link.read(unit).await?;
        if let Some(new) = state.invocation.filter(|new| Some(*new) != before) {
            return Ok(new);
        }
        Err(match result {
            "done" | "skipped" if !state.condition => StartError::Condition,
            "assert" => StartError::Assertion,
            "dependency" => StartError::Dependency,
            "canceled" => StartError::Canceled,
            "failed" if state.result == "start-limit-hit" => StartError::StartLimit,
            "failed" => StartError::Failed(state.result.clone()),
            other => StartError::Failed(other.to_owned()),
        })
    }

    /// Has systemd keep the unit in memory, so that result and invocation id of its run survive its end.
    async fn pin(&self, unit: &str) -> Result<(), Error> {
        if self.pins.lock().unwrap_or_else(PoisonError::into_inner).touch(unit) {
            return Ok(());
        }
        self.link.call("RefUnit", &unit).await?;
        let surplus = self.pins.lock().unwrap_or_else(PoisonError::into_inner).add(unit);
        if let Some(oldest) = surplus {
            // A reference that is gone already is what this wants.
            let _ = self.link.call("UnrefUnit", &oldest.as_str()).await;
        }
        Ok(())
    }
}

/// Whether a call came to nobody, or to a systemd that is gone for good: the bus answers such a call in its place.
fn is_lost(error: &zbus::Error) -> bool {
    use zbus::fdo::Error::{NameHasNoOwner, NoReply, ServiceUnknown, SpawnChildExited};
    let zbus::Error::FDO(error) = error else { return false };
    matches!(**error, NoReply(_) | ServiceUnknown(_) | NameHasNoOwner(_) | SpawnChildExited(_))
}

/// Refuses what must not be started, before anything is done.
async fn vet(unit: &str, state: &Arc<UnitState>) -> Result<(), StartError> {
    match state.load {
        LoadState::NotFound | LoadState::Stub => return Err(StartError::NotFound),
        LoadState::Masked => return Err(StartError::Masked),
        LoadState::BadSetting | LoadState::Error => return Err(StartError::Broken(state.load_error.clone())),
        LoadState::Merged => return Err(StartError::Alias),
        LoadState::Loaded => {}
    }
    if state.id != unit {
        return Err(StartError::Alias);
    }
    if state.transient || !is_safe(&state.fragment).await {
        return Err(StartError::Unsafe);
    }
    if !state.can_start {
        return Err(StartError::NotByHand);
    }
    if state.active.is_running() || state.has_job {
        return Err(StartError::Busy);
    }
    Ok(())
}

/// Whether only root can change what the unit runs: the file lies, links followed, in a system unit directory, root owns
/// it, and nobody else may write to it.
async fn is_safe(fragment: &str) -> bool {
    let Ok(file) = tokio::fs::canonicalize(Path::new(fragment)).await else { return false };
    if !UNIT_DIRECTORIES.iter().any(|directory| file.starts_with(directory)) {
        return false;
    }
    tokio::fs::metadata(&file).await.is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o022 == 0)
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

//! Which run gets which inputs.
//!
//! systemd asks for the inputs of a unit while it starts it, each time that it starts one of the unit's commands. The
//! answer belongs to the run that systemd is then at, and not to whoever asked for the job last.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use serde_json::Map;

use super::registry::Record;
use super::run::Phase;
use super::{Jobs, PATIENCE};
use crate::inputs::{self, InputName, Values};
use crate::policy::AllowedJob;
use crate::systemd;

/// Why systemd is not told a value.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The job takes no such input, or needs one that nobody gave.
    #[error(transparent)]
    Input(#[from] inputs::Error),
    /// The run began under an earlier bridge, which alone knew what it was given.
    #[error("what the run was given is not known any more, because the bridge was restarted meanwhile")]
    Forgotten,
    /// systemd can't be reached.
    #[error(transparent)]
    Systemd(#[from] systemd::Error),
}

/// What a run was given by whoever asked the bridge for it.
#[derive(Clone, Default)]
pub(super) struct Given {
    values: Arc<OnceLock<Values>>,
    /// Whether systemd has been asked for the run. Until then, what begins in its place was started by somebody else.
    offered: Arc<AtomicBool>,
}

impl Given {
    /// Fixes the values of a run that is about to be asked for.
    pub(super) fn fix(&self, values: &Values) {
        let _ = self.values.set(values.clone());
    }

    /// The run may have them from now on.
    pub(super) fn offer(&self) {
        self.offered.store(true, Ordering::Release);
    }

    /// The same for a run that is to do the same thing.
    pub(super) fn repeat(&self, run: &Self) {
        if let Some(values) = run.values.get().filter(|_| run.offered.load(Ordering::Acquire)) {
            self.fix(values);
            self.offer();
        }
    }
}

impl Record {
    /// What the run is given; `None` if nobody asked the bridge for it.
    fn given(&self) -> Option<&Values> {
        let is_asked_for = self.given.offered.load(Ordering::Acquire) || self.run().phase == Phase::Queued;
        self.given.values.get().filter(|_| is_asked_for)
    }
}

impl Jobs {
    /// The value of an input for the run that systemd is starting, or has started, of `job`.
    ///
    /// A run that nobody asked the bridge for, such as one of a timer, has the defaults. Costs systemd a call: only its
    /// answer tells for sure which run it is at, because it comes behind all that it has said before.
    ///
    /// # Errors
    /// [`InputError`]: the run is not to be given anything else instead, and must not begin.
    pub async fn input(&self, job: &AllowedJob, name: &InputName) -> Result<String, InputError> {
        let _ = tokio::time::timeout(PATIENCE, self.systemd.ready()).await;
        let unit = self.systemd.read(job).await?;
        let record = unit.invocation.and_then(|invocation| self.registry.by_invocation(job, invocation));
        let values = match record.as_ref().and_then(Record::given) {
            Some(values) => values.clone(),
            None if unit.started.is_some_and(|at| at < self.since) => return Err(InputError::Forgotten),
            None => self.inputs.accept(job, &Map::new())?,
        };
        let unknown = || inputs::Error::Unknown { name: name.to_string(), known: values.names().cloned().collect() };
        Ok(values.get(name).ok_or_else(unknown)?.to_owned())
    }

    /// Whether a run has these inputs.
    pub(super) fn has(&self, record: &Record, values: &Values) -> bool {
        match record.given() {
            Some(given) => given == values,
            None => self.inputs.accept(&record.run().job, &Map::new()).is_ok_and(|defaults| defaults == *values),
        }
    }
}

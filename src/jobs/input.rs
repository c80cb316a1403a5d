//! Which run gets which inputs.
//!
//! systemd asks for the inputs of a unit while it starts it, each time that it starts one of the unit's commands. The
//! answer belongs to the run that systemd is then at, and not to whoever asked for the job last.

use serde_json::{Map, Value};

use super::registry::Record;
use super::{Jobs, PATIENCE};
use crate::inputs::{self, InputName, Values};
use crate::policy::AllowedJob;
use crate::store;
use crate::systemd;

/// Why systemd is not told a value.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The job takes no such input, or needs one that nobody gave, or takes what it was given no longer.
    #[error(transparent)]
    Input(#[from] inputs::Error),
    /// The run began under an earlier bridge, and there is no history that has it.
    #[error("what the run was given is not known any more, because the bridge was restarted meanwhile")]
    Forgotten,
    /// What the run was given can't be read.
    #[error("the history of runs cannot be read")]
    History(#[from] store::Error),
    /// systemd can't be reached.
    #[error(transparent)]
    Systemd(#[from] systemd::Error),
}

impl Jobs {
    /// The values for a start of `job` that brings `given`.
    ///
    /// # Errors
    /// [`inputs::Error`] names the input and the rule that it broke.
    pub fn accept(&self, job: &AllowedJob, given: &Map<String, Value>) -> Result<Values, inputs::Error> {
        self.inputs.accept(job, given)
    }

    /// The value of an input for the run that systemd is starting, or has started, of `job`.
    ///
    /// A run that nobody asked the bridge for, such as one of a timer, has the defaults. Costs systemd a call: only its
    /// answer tells for sure which run it is at, because it comes behind all that it has said before.
    ///
    /// # Errors
    /// [`InputError`]: the run is not to be given anything else instead, and must not begin.
    pub async fn input(&self, job: &AllowedJob, name: &InputName) -> Result<String, InputError> {
        let _ = tokio::time::timeout(PATIENCE, self.systemd.ready()).await;
        let unit = self.systemd.reread(job).await?;
        let record = unit.invocation.and_then(|invocation| self.registry.by_invocation(job, invocation));
        let given = match record {
            // The bridge may have met it before it knew its history.
            Some(record) if unit.started.is_some_and(|at| at < self.since) && !record.is_adopted() => {
                let stored = match unit.invocation {
                    Some(invocation) => self.stored_invocation(invocation).await?,
                    None => None,
                };
                stored.filter(|run| run.job == *job).ok_or(InputError::Forgotten)?.inputs
            }
            Some(record) => record.given(),
            None => Map::new(),
        };
        // Also what was valid when it was sent is not passed on if the administrator has changed the rules since.
        let values = self.inputs.accept(job, &given)?;
        let unknown = || inputs::Error::Unknown { name: name.to_string(), known: values.names().cloned().collect() };
        Ok(values.get(name).ok_or_else(unknown)?.to_owned())
    }

    /// Whether a run has these inputs.
    pub(super) fn has(&self, record: &Record, values: &Values) -> bool {
        self.inputs.accept(&record.run().job, &record.given()).is_ok_and(|own| own == *values)
    }
}

//! The sections `[jobs.inputs."JOB".NAME]`: what jobs may be given with their start.

use std::collections::BTreeMap;

use super::document::{Fault, Section};
use crate::inputs::{self, Declared, Input, InputName, Inputs, Pattern};
use crate::policy::{JobName, Policy, Prefix};

/// The most inputs of one job; with values of the greatest length they stay far below what systemd takes, 1 MiB a unit.
const INPUTS_MAX: usize = 32;

/// Reads the section `inputs` of `[jobs]`; without prefixes, which another error is about, any job may be named in it.
pub(super) fn inputs(jobs: &Section<'_>, prefixes: Option<&[Prefix]>) -> Result<Inputs, Fault> {
    let policy = prefixes.map(|prefixes| Policy::new(prefixes.to_vec()));
    let section = jobs.section("inputs")?;
    let mut all = BTreeMap::new();
    for value in section.values() {
        let job = JobName::parse(value.key()).map_err(|error| value.fault(error))?;
        if policy.as_ref().is_some_and(|policy| policy.admit(&job).is_err()) {
            return Err(value.fault("no prefix of `jobs.prefixes` allows this job"));
        }
        all.insert(job.clone(), declared(&job, &value.section()?)?);
    }
    Ok(Inputs::new(all))
}

fn declared(job: &JobName, section: &Section<'_>) -> Result<Declared, Fault> {
    let mut declared = BTreeMap::new();
    for value in section.values() {
        let name = InputName::parse(value.key()).map_err(|error| value.fault(error))?;
        if declared.len() == INPUTS_MAX {
            return Err(value.fault(format!("a job has at most {INPUTS_MAX} inputs")));
        }
        if !inputs::fits(&job.unit(), &name) {
            return Err(value.fault(inputs::Error::LongJob(name)));
        }
        let input = value.section()?;
        let pattern = input.get("pattern").map(|pattern| pattern.parsed(Pattern::parse)).transpose()?;
        let required = input.get("required").map(|required| required.flag()).transpose()?;
        let default = input.get("default").map(|default| default.text()).transpose()?;
        let input = Input::new(pattern, required.unwrap_or(false), default).map_err(|error| value.fault(error))?;
        declared.insert(name, input);
    }
    Ok(declared)
}

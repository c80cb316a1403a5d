//! The section `[history]`: how long what was is kept.

use std::time::Duration;

use super::{Fault, Section, number, parse_duration};

const DAY: Duration = Duration::from_hours(24);

/// The section `[history]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// How long after its end a run is kept, the last one of a job always; and how long the changes of a runner, and one
    /// that was removed. Default: 400 days, 1 hour to 100 years.
    pub max_age: Duration,
    /// How many runs of a job are kept. Default: 10,000, 1 to 1,000,000.
    pub max_runs_per_job: u32,
    /// How long an entry of the audit is kept. Default: 400 days, 1 hour to 100 years.
    pub audit_max_age: Duration,
}

impl History {
    pub(super) fn read(history: &Section<'_>) -> Result<Self, Fault> {
        Ok(Self {
            max_age: age(history, "max_age")?,
            max_runs_per_job: number(history, "max_runs_per_job", 10_000, 1_000_000)?,
            audit_max_age: age(history, "audit_max_age")?,
        })
    }
}

fn age(section: &Section<'_>, key: &str) -> Result<Duration, Fault> {
    let Some(value) = section.get(key) else { return Ok(400 * DAY) };
    let age = value.parsed(parse_duration)?;
    if age < Duration::from_hours(1) || age > 36_500 * DAY {
        return Err(value.fault("choose between `1h` and `36500d`"));
    }
    Ok(age)
}

//! Whether each job that takes inputs gets them, and asks for no others.

use std::collections::{BTreeMap, BTreeSet};

use super::drop_in;
use super::finding::Finding;
use crate::credentials::SOCKET;
use crate::inputs::{InputName, Inputs};
use crate::policy::JobName;

/// The oldest systemd that reads credentials from a socket. Source: the news of systemd 247.
const OLDEST: &str = "247";

/// A job, and the credentials of its unit.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Its name; a template's ends in `@`.
    pub(super) job: JobName,
    /// `LoadCredential=` as pairs of a name and a path; `None` if systemd knows no such setting.
    pub(super) credentials: Option<Vec<(String, String)>>,
}

/// Compares what is declared with what the units ask for.
pub(super) fn run(inputs: &Inputs, units: &[Loaded]) -> Vec<Finding> {
    if !inputs.is_empty() && units.iter().any(|unit| unit.credentials.is_none()) {
        let what = format!("this systemd can't hand them to units; {OLDEST} and newer can");
        return vec![Finding::failure("inputs", what, "take them out of the settings, or upgrade systemd")];
    }
    let declared: BTreeMap<&JobName, BTreeSet<&str>> =
        inputs.jobs().map(|(job, names)| (job, names.into_iter().map(InputName::as_str).collect())).collect();
    let mut findings = Vec::new();
    for job in declared.keys() {
        let template = job.template();
        let is_there = |unit: &Loaded| unit.job == **job || Some(&unit.job) == template.as_ref();
        if !units.iter().any(is_there) {
            let what = "inputs are declared, but the job can't be started".to_owned();
            findings.push(Finding::warning(&subject(job), what, &format!("systemctl status {}", job.unit())));
        }
    }
    for unit in units {
        let of_unit = declared.get(&unit.job).or_else(|| declared.get(&unit.job.template()?));
        let taken = of_unit.cloned().unwrap_or_default();
        let pairs = unit.credentials.iter().flatten();
        let asked: BTreeSet<&str> = pairs.filter(|(_, path)| path == SOCKET).map(|(name, _)| name.as_str()).collect();
        // Instances have the unit file of their template, and its faults.
        let file = unit.job.template().unwrap_or_else(|| unit.job.clone());
        for finding in [lacking(&file, &(&taken - &asked)), undeclared(&file, &(&asked - &taken))].into_iter().flatten()
        {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    if findings.is_empty() && !inputs.is_empty() {
        findings.push(Finding::ok("inputs", "reach all jobs for which they are declared".to_owned()));
    }
    findings
}

/// Without these lines the job runs, and does not see what it was given.
fn lacking(job: &JobName, names: &BTreeSet<&str>) -> Option<Finding> {
    let lines: Vec<_> = names.iter().map(|name| format!("LoadCredential={name}:{SOCKET}")).collect();
    let what = format!("the unit lacks {}", lines.join(" and "));
    let remedy = drop_in::of_units(&[job.unit()], "zz-inputs.conf", &lines);
    (!lines.is_empty()).then(|| Finding::failure(&subject(job), what, &remedy))
}

/// With these lines systemd can't start the job.
fn undeclared(job: &JobName, names: &BTreeSet<&str>) -> Option<Finding> {
    let names: Vec<_> = names.iter().copied().collect();
    let what =
        format!("the unit asks for {}, which the settings don't declare, so it can't be started", names.join(", "));
    let sections: Vec<_> = names.iter().map(|name| format!("[jobs.inputs.\"{job}\".{name}]")).collect();
    let remedy = format!("add {} to the settings, or take LoadCredential= out of the unit", sections.join(" and "));
    (!names.is_empty()).then(|| Finding::warning(&subject(job), what, &remedy))
}

fn subject(job: &JobName) -> String {
    format!("inputs of {job}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn inputs() -> Inputs {
        let text = "[jobs]\nprefixes = [\"ci-test-\"]\n[jobs.inputs.\"ci-test-a@\".version]\n[jobs.inputs.\"ci-test-a@\".level]\n";
        Settings::parse(text).unwrap().jobs.inputs
    }

    fn unit(job: &str, credentials: &[(&str, &str)]) -> Loaded {
        let credentials = credentials.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect();
        Loaded { job: JobName::parse(job).unwrap(), credentials: Some(credentials) }
    }

    fn told(inputs: &Inputs, units: &[Loaded]) -> Vec<String> {
        run(inputs, units).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_inputs_there_is_nothing_to_say() {
        let old = Loaded { job: JobName::parse("ci-test-a").unwrap(), credentials: None };
        assert_eq!(told(&Inputs::default(), &[unit("ci-test-b", &[("key", "/etc/key")]), old]), [] as [&str; 0]);
    }

    #[test]
    fn a_systemd_that_can_not_is_told() {
        let old = Loaded { job: JobName::parse("ci-test-a@").unwrap(), credentials: None };
        let [finding] = told(&inputs(), &[old]).try_into().unwrap();
        assert!(
            finding.starts_with("FAIL  inputs: this systemd can't hand them to units; 247 and newer can"),
            "{finding}"
        );
    }

    #[test]
    fn a_unit_that_asks_for_all_is_right() {
        let all = [("version", SOCKET), ("level", SOCKET), ("key", "/etc/key")];
        let units = [unit("ci-test-a@", &all), unit("ci-test-a@main", &all), unit("ci-test-b", &[])];
        assert_eq!(told(&inputs(), &units), ["ok    inputs: reach all jobs for which they are declared"]);
    }

    #[test]
    fn a_line_that_is_missing_is_told_with_the_command_that_adds_it() {
        let elsewhere = |job| unit(job, &[("version", "/run/other.sock"), ("level", SOCKET)]);
        assert_eq!(
            told(&inputs(), &[elsewhere("ci-test-a@"), elsewhere("ci-test-a@main")]),
            ["FAIL  inputs of ci-test-a@: the unit lacks LoadCredential=version:/run/ci-bridge/inputs.sock\n      \
                 mkdir -p /etc/systemd/system/ci-test-a@.service.d && printf \
                 '[Service]\\nLoadCredential=version:/run/ci-bridge/inputs.sock\\n' \
                 >/etc/systemd/system/ci-test-a@.service.d/zz-inputs.conf && systemctl daemon-reload"]
        );
    }

    #[test]
    fn a_line_too_many_and_a_job_that_is_not_there_are_told() {
        assert_eq!(
            told(&inputs(), &[unit("ci-test-b", &[("version", SOCKET)])]),
            [
                "warn  inputs of ci-test-a@: inputs are declared, but the job can't be started\n      \
                 systemctl status ci-test-a@.service",
                "warn  inputs of ci-test-b: the unit asks for version, which the settings don't declare, so it can't be \
                 started\n      add [jobs.inputs.\"ci-test-b\".version] to the settings, or take LoadCredential= out of the \
                 unit"
            ]
        );
    }
}

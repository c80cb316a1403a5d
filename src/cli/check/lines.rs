//! Whether the journal gets all lines of the jobs.

use std::collections::{BTreeMap, BTreeSet};

use super::drop_in;
use super::finding::Finding;
use super::journald::{Configuration, LEVELS, RateLimit};
use crate::cli::files::Files;
use crate::policy::{JobName, Policy, Prefix};
use crate::systemd::LogSettings;

/// The level of a line that has none of its own, as a place in [`LEVELS`].
///
/// Source: `SyslogLevel=` in `systemd.exec(5)`.
const INFO: usize = 6;

/// So many jobs are named where all have the same fault.
const NAMED: usize = 3;

/// A job that can be started.
#[derive(Debug)]
pub(super) struct Job {
    /// Its name; that of its template, if it has one.
    name: JobName,
    settings: LogSettings,
}

impl Job {
    /// A job, a template, or an instance.
    pub(super) fn new(name: &JobName, settings: LogSettings) -> Self {
        Self { name: name.template().unwrap_or_else(|| name.clone()), settings }
    }

    /// The limit that acts on it: each part that the unit does not set is journald's own.
    fn rate_limit(&self, of_journald: RateLimit) -> RateLimit {
        RateLimit {
            interval: self.settings.limit_interval.unwrap_or(of_journald.interval),
            burst: self.settings.limit_burst.unwrap_or(of_journald.burst),
        }
    }

    /// The settings that keep lines out of the journal, and those that would let them in.
    fn faults(&self) -> Vec<(String, &'static str)> {
        let settings = &self.settings;
        let mut faults = Vec::new();
        let in_journal = |word: &str| word == "journal" || word == "journal+console";
        if !in_journal(&settings.stdout) {
            faults.push((format!("StandardOutput={}", settings.stdout), "StandardOutput=journal"));
        }
        if !in_journal(&settings.stderr) && settings.stderr != "inherit" {
            faults.push((format!("StandardError={}", settings.stderr), "StandardError=inherit"));
        }
        // A line is of level info, unless the job says otherwise. `debug` would bring in lines of systemd about its own work.
        if let Some(level) = settings.level_max.and_then(|level| LEVELS[..INFO].get(usize::from(level))) {
            faults.push((format!("LogLevelMax={level}"), "LogLevelMax=info"));
        }
        if settings.filtered {
            faults.push(("LogFilterPatterns=".to_owned(), "LogFilterPatterns="));
        }
        faults
    }
}

/// Looks at all jobs together.
pub(super) fn run(policy: &Policy, files: &Files, jobs: &[Job]) -> anyhow::Result<Vec<Finding>> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let mut limits = BTreeMap::new();
    for namespace in jobs.iter().map(|job| job.settings.namespace.as_str()).collect::<BTreeSet<_>>() {
        limits.insert(namespace, Configuration::read(files, namespace)?.rate_limit());
    }
    let limit_of = |job: &Job| {
        let of_journald = limits.get(job.settings.namespace.as_str())?;
        Some(job.rate_limit(*of_journald)).filter(|limit| limit.drops())
    };
    let mut findings = rate_limits(policy, jobs.iter().filter_map(|job| Some((limit_of(job)?, &job.name))));
    findings.extend(outputs(jobs));
    Ok(findings)
}

/// A finding for each limit that acts, with all jobs on which it does.
fn rate_limits<'a>(policy: &Policy, limited: impl Iterator<Item = (RateLimit, &'a JobName)>) -> Vec<Finding> {
    let mut by_limit: BTreeMap<RateLimit, BTreeSet<&JobName>> = BTreeMap::new();
    for (limit, name) in limited {
        by_limit.entry(limit).or_default().insert(name);
    }
    if by_limit.is_empty() {
        return vec![Finding::ok("rate limit", "drops no lines of jobs".to_owned())];
    }
    let finding = |(limit, names): (RateLimit, BTreeSet<&JobName>)| {
        let what =
            format!("beyond {} lines in {:?} journald drops lines of {}", limit.burst, limit.interval, list(&names));
        let settings = ["LogRateLimitIntervalSec=1us".to_owned()];
        Finding::warning("rate limit", what, &drop_in::of_units(&units(policy, &names), "zz-log-limit.conf", &settings))
    };
    by_limit.into_iter().map(finding).collect()
}

/// A few of the names, and how many there are.
fn list(names: &BTreeSet<&JobName>) -> String {
    let first: Vec<_> = names.iter().take(NAMED).map(|name| name.as_str()).collect();
    let first = first.join(", ");
    match names.len() {
        ..=NAMED => first,
        all => format!("{all} jobs: {first}, …"),
    }
}

/// What a drop-in for these jobs is best made for: one unit, or all that begin with a prefix if more than one needs it.
///
/// systemd looks for drop-ins of a prefix only if that ends in `-`; source: `systemd.unit(5)`.
fn units(policy: &Policy, names: &BTreeSet<&JobName>) -> Vec<String> {
    let of_prefix = |prefix: &&str| names.iter().filter(|name| name.as_str().starts_with(prefix)).count();
    let prefixes = policy.prefixes().iter().map(Prefix::as_str);
    let wide: Vec<_> = prefixes.filter(|prefix| prefix.ends_with('-') && of_prefix(prefix) > 1).collect();
    let unit = |name: &&JobName| match wide.iter().find(|prefix| name.as_str().starts_with(**prefix)) {
        Some(prefix) => format!("{prefix}.service"),
        None => name.unit(),
    };
    names.iter().map(unit).collect::<BTreeSet<_>>().into_iter().collect()
}

/// A finding for each unit that keeps lines from the journal by its settings.
fn outputs(jobs: &[Job]) -> Vec<Finding> {
    let by_name: BTreeMap<&JobName, _> =
        jobs.iter().map(|job| (&job.name, job.faults())).filter(|(_, faults)| !faults.is_empty()).collect();
    if by_name.is_empty() {
        return vec![Finding::ok("output", "of all jobs goes to the journal".to_owned())];
    }
    let finding = |(name, pairs): (&JobName, Vec<(String, &'static str)>)| {
        let (faults, fixes): (Vec<_>, Vec<_>) = pairs.into_iter().map(|(fault, fix)| (fault, fix.to_owned())).unzip();
        let what = format!("lines are lost to {}", faults.join(" and "));
        let remedy = drop_in::of_units(&[name.unit()], "zz-log-output.conf", &fixes);
        Finding::warning(&format!("output of {name}"), what, &remedy)
    };
    by_name.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn job(name: &str, change: impl FnOnce(&mut LogSettings)) -> Job {
        let mut settings =
            LogSettings { stdout: "journal".to_owned(), stderr: "inherit".to_owned(), ..LogSettings::default() };
        change(&mut settings);
        Job::new(&JobName::from_unit(&format!("{name}.service")).unwrap(), settings)
    }

    fn fault_names(change: impl FnOnce(&mut LogSettings)) -> Vec<String> {
        job("ci-a", change).faults().into_iter().map(|(what, _)| what).collect()
    }

    /// The units of the remedy for these jobs, of which all have a limit.
    fn units_for(prefixes: &[&str], names: &[&str]) -> Vec<String> {
        let policy = Policy::new(prefixes.iter().map(|prefix| Prefix::parse(prefix).unwrap()).collect());
        let jobs: Vec<_> = names.iter().map(|name| job(name, |_| {})).collect();
        units(&policy, &jobs.iter().map(|job| &job.name).collect())
    }

    #[test]
    fn a_part_of_the_limit_that_a_unit_sets_replaces_that_of_journald() {
        let of_journald = RateLimit { interval: Duration::from_secs(30), burst: 10_000 };
        let off = RateLimit { interval: Duration::ZERO, burst: 0 };
        let drops = |of_journald, interval, burst| {
            let job = job("ci-a", |settings| {
                settings.limit_interval = interval;
                settings.limit_burst = burst;
            });
            job.rate_limit(of_journald).drops()
        };
        let (short, long) = (Some(Duration::from_micros(1)), Some(Duration::from_secs(1)));
        assert!(drops(of_journald, None, None));
        assert!(drops(of_journald, None, Some(1_000_000)));
        assert!(drops(of_journald, long, None));
        assert!(!drops(of_journald, short, None));
        assert!(!drops(off, None, None) && !drops(off, long, None) && !drops(off, None, Some(5)));
        assert!(drops(off, long, Some(5)));
    }

    #[test]
    fn only_a_setting_that_loses_lines_is_a_fault() {
        assert_eq!(fault_names(|_| {}), [] as [&str; 0]);
        let harmless = |settings: &mut LogSettings| {
            "journal+console".clone_into(&mut settings.stdout);
            "journal".clone_into(&mut settings.stderr);
            "ci".clone_into(&mut settings.namespace);
            settings.level_max = Some(6);
        };
        assert_eq!(fault_names(harmless), [] as [&str; 0]);
        // What would be inherited from /dev/null or a file, systemd tells as its default; `inherit` is a terminal or a socket.
        for word in ["inherit", "null", "tty", "kmsg", "socket", "fd", "file", "append", "truncate"] {
            assert_eq!(
                fault_names(|settings| word.clone_into(&mut settings.stdout)),
                [format!("StandardOutput={word}")]
            );
        }
        assert_eq!(fault_names(|settings| "null".clone_into(&mut settings.stderr)), ["StandardError=null"]);
        assert_eq!(fault_names(|settings| settings.level_max = Some(5)), ["LogLevelMax=notice"]);
        assert_eq!(fault_names(|settings| settings.filtered = true), ["LogFilterPatterns="]);
    }

    #[test]
    fn one_job_has_a_drop_in_of_its_own_and_several_one_of_their_prefix() {
        assert_eq!(units_for(&["ci-test-"], &["ci-test-a"]), ["ci-test-a.service"]);
        assert_eq!(units_for(&["ci-test-"], &["ci-test-a", "ci-test-b@x"]), ["ci-test-.service"]);
        assert_eq!(
            units_for(&["ci-test-", "x-y-"], &["ci-test-a", "ci-test-b", "x-y-a"]),
            ["ci-test-.service", "x-y-a.service"]
        );
        // systemd has no drop-ins for such a prefix.
        assert_eq!(units_for(&["ci_test_"], &["ci_test_a", "ci_test_b"]), ["ci_test_a.service", "ci_test_b.service"]);
    }

    #[test]
    fn an_instance_is_told_as_its_template_and_many_jobs_by_their_number() {
        let names: Vec<_> = ["ci-a@x", r"ci-a@y\x2d", "ci-a@"].map(|name| job(name, |_| {}).name).into();
        let names: BTreeSet<_> = names.iter().collect();
        assert_eq!(list(&names), "ci-a@");
        let many: Vec<_> = ["ci-d", "ci-c", "ci-b", "ci-a"].map(|name| job(name, |_| {}).name).into();
        assert_eq!(list(&many.iter().collect()), "4 jobs: ci-a, ci-b, ci-c, …");
    }
}

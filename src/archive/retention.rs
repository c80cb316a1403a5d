//! Which logs have to go: a function of what there is, the limits, and the time.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::invocation::InvocationId;
use crate::policy::JobName;

/// A file takes whole blocks of the file system; most have these.
const DISK_BLOCK: u64 = 4 << 10;

/// How much is kept; without a limit, everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// A log goes so long after the end of its run.
    pub age: Option<Duration>,
    /// All files together take at most so many bytes of the disk; the oldest go first.
    pub bytes: Option<u64>,
    /// So many of the newest logs of each job are kept.
    pub logs_per_job: Option<NonZeroUsize>,
}

/// An archived log, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The job.
    pub job: JobName,
    /// Which of its runs.
    pub invocation: InvocationId,
    /// When the run ended.
    pub ended: Timestamp,
    /// The size of its file.
    pub bytes: u64,
}

impl Kept {
    fn on_disk(&self) -> u64 {
        self.bytes.checked_next_multiple_of(DISK_BLOCK).unwrap_or(u64::MAX)
    }
}

/// The logs that are too many, the oldest first; never the last one of a job.
///
/// Therefore more than the limits may be kept, if there are so many jobs.
#[must_use]
pub fn surplus(logs: &[Kept], limits: &Limits, now: Timestamp) -> Vec<InvocationId> {
    let mut newest_first: Vec<&Kept> = logs.iter().collect();
    newest_first.sort_unstable_by_key(|log| std::cmp::Reverse((log.ended, log.invocation)));
    let age_most = limits.age.map(|age| SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX));
    let count_most = limits.logs_per_job.map_or(usize::MAX, NonZeroUsize::get);
    let mut newer_of_job: HashMap<&JobName, usize> = HashMap::new();
    let mut surplus = Vec::new();
    // What only the size may condemn.
    let mut others = Vec::new();
    let mut bytes = 0_u64;
    for log in newest_first {
        let newer = newer_of_job.entry(&log.job).or_default();
        let too_old = age_most.is_some_and(|most| now.duration_since(log.ended) > most);
        if *newer > 0 && (too_old || *newer >= count_most) {
            surplus.push(log);
        } else {
            bytes = bytes.saturating_add(log.on_disk());
            if *newer > 0 {
                others.push(log);
            }
        }
        *newer += 1;
    }
    while limits.bytes.is_some_and(|most| bytes > most)
        && let Some(oldest) = others.pop()
    {
        bytes = bytes.saturating_sub(oldest.on_disk());
        surplus.push(oldest);
    }
    surplus.sort_unstable_by_key(|log| (log.ended, log.invocation));
    surplus.into_iter().map(|log| log.invocation).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn log(job: &str, number: u8, days_ago: u32, bytes: u64) -> Kept {
        let (job, invocation) = (JobName::parse(job).unwrap(), InvocationId::from_bytes(&[number; 16]).unwrap());
        Kept { job, invocation, ended: now() - DAY * days_ago, bytes }
    }

    fn id(number: u8) -> InvocationId {
        InvocationId::from_bytes(&[number; 16]).unwrap()
    }

    #[test]
    fn without_limits_everything_stays() {
        let logs = [log("ci-a", 1, 10_000, u64::MAX), log("ci-a", 2, 1, u64::MAX)];
        assert_eq!(surplus(&logs, &Limits::default(), now()), []);
    }

    #[test]
    fn the_last_log_of_a_job_stays_whatever_the_limits() {
        let logs = [log("ci-a", 1, 400, 1 << 30), log("ci-b", 2, 500, 1 << 30), log("ci-b", 3, 501, 1)];
        let none = Limits { age: Some(Duration::ZERO), bytes: Some(0), logs_per_job: NonZeroUsize::new(1) };
        assert_eq!(surplus(&logs, &none, now()), [id(3)]);
    }

    #[test]
    fn an_old_log_goes() {
        let logs = [log("ci-a", 1, 0, 1), log("ci-a", 2, 30, 1), log("ci-a", 3, 31, 1)];
        let limits = Limits { age: Some(DAY * 30), ..Limits::default() };
        assert_eq!(surplus(&logs, &limits, now()), [id(3)]);
    }

    #[test]
    fn a_log_from_the_future_is_not_old() {
        let limits = Limits { age: Some(DAY), ..Limits::default() };
        let logs = [log("ci-a", 1, 0, 1), log("ci-a", 2, 0, 1)];
        assert_eq!(surplus(&logs, &limits, now() - DAY * 1000), []);
    }

    #[test]
    fn each_job_keeps_so_many_of_its_own() {
        let logs = [
            log("ci-a", 1, 4, 1),
            log("ci-a", 2, 3, 1),
            log("ci-a", 3, 2, 1),
            log("ci-b", 4, 9, 1),
            log("ci-b", 5, 8, 1),
        ];
        let limits = Limits { logs_per_job: NonZeroUsize::new(2), ..Limits::default() };
        assert_eq!(surplus(&logs, &limits, now()), [id(1)]);
    }

    #[test]
    fn size_takes_the_oldest_of_all_jobs_and_counts_whole_blocks() {
        let logs = [log("ci-a", 1, 1, 300), log("ci-a", 2, 2, 300), log("ci-b", 3, 3, 300), log("ci-b", 4, 4, 300)];
        let limits = |blocks| Limits { bytes: Some(blocks * DISK_BLOCK), ..Limits::default() };
        assert_eq!(surplus(&logs, &limits(4), now()), []);
        assert_eq!(surplus(&logs, &limits(3), now()), [id(4)]);
        assert_eq!(surplus(&logs, &limits(2), now()), [id(4), id(2)]);
        assert_eq!(surplus(&logs, &limits(1), now()), [id(4), id(2)]);
    }

    prop_compose! {
        fn any_logs()(
            logs in prop::collection::vec((0..5_u8, 0..60_u32, 0..100_000_u64), 0..40)
        ) -> Vec<Kept> {
            let kept = |(number, (job, days, bytes)): (u8, (u8, u32, u64))| {
                log(&format!("ci-{job}"), number + 1, days, bytes)
            };
            (0..).zip(logs).map(kept).collect()
        }
    }

    prop_compose! {
        fn any_limits()(
            age in prop::option::of(0..60_u32), bytes in prop::option::of(0..1_000_000_u64), count in 0..10_usize
        ) -> Limits {
            Limits { age: age.map(|days| DAY * days), bytes, logs_per_job: NonZeroUsize::new(count) }
        }
    }

    fn order(log: &Kept) -> (Timestamp, InvocationId) {
        (log.ended, log.invocation)
    }

    proptest! {
        #[test]
        fn what_stays_is_within_the_limits_or_the_last_of_its_job(logs in any_logs(), limits in any_limits()) {
            let gone: BTreeSet<_> = surplus(&logs, &limits, now()).into_iter().collect();
            let (gone, kept): (Vec<_>, Vec<_>) = logs.iter().partition(|log| gone.contains(&log.invocation));
            let newer = |log: &Kept| {
                logs.iter().filter(|other| other.job == log.job && order(other) > order(log)).count()
            };
            let not_last = || kept.iter().filter(|log| newer(log) > 0);
            for log in &logs {
                prop_assert!(newer(log) > 0 || kept.contains(&log), "the last of a job is gone");
            }
            for log in not_last() {
                prop_assert!(limits.age.is_none_or(|age| log.ended >= now() - age));
                prop_assert!(limits.logs_per_job.is_none_or(|most| newer(log) < most.get()));
            }
            let size = |logs: &[&Kept]| logs.iter().map(|log| log.on_disk()).sum::<u64>();
            prop_assert!(limits.bytes.is_none_or(|most| size(&kept) <= most) || not_last().next().is_none());

            // Nothing goes without need: each is too old, too many, or the oldest when room was needed.
            let outlived = |log: &Kept| {
                let too_old = limits.age.is_some_and(|age| log.ended < now() - age);
                let too_many = limits.logs_per_job.is_some_and(|most| newer(log) >= most.get());
                newer(log) > 0 && (too_old || too_many)
            };
            for log in gone.iter().filter(|log| !outlived(log)) {
                let there = |other: &&Kept| !outlived(other) && (order(other) >= order(log) || newer(other) == 0);
                let there = size(&logs.iter().filter(there).collect::<Vec<_>>());
                prop_assert!(limits.bytes.is_some_and(|most| there > most), "{log:?} goes for nothing");
            }
            // Of one job, the older goes first.
            for (gone, kept) in gone.iter().flat_map(|gone| kept.iter().map(move |kept| (gone, kept))) {
                prop_assert!(gone.job != kept.job || order(gone) < order(kept));
            }
        }

        #[test]
        fn the_order_in_which_logs_are_told_makes_no_difference(
            (logs, shuffled) in any_logs().prop_flat_map(|logs| (Just(logs.clone()), Just(logs).prop_shuffle())),
            limits in any_limits(),
        ) {
            prop_assert_eq!(surplus(&logs, &limits, now()), surplus(&shuffled, &limits, now()));
        }

        #[test]
        fn when_they_are_gone_nothing_more_goes(logs in any_logs(), limits in any_limits()) {
            let gone = surplus(&logs, &limits, now());
            let kept: Vec<_> = logs.into_iter().filter(|log| !gone.contains(&log.invocation)).collect();
            prop_assert_eq!(surplus(&kept, &limits, now()), []);
        }
    }
}

//! Forgetting: what is older than the administrator wants leaves the history.

use std::time::Duration;

use jiff::Timestamp;

use crate::config::History;
use crate::invocation::InvocationId;
use crate::jobs::Jobs;
use crate::store::{Error, Retention, Store};
use crate::telemetry::Chain;

/// How often something is forgotten.
const PAUSE: Duration = Duration::from_hours(1);
/// How long messages of alerts are kept when they were sent or given up.
const DELIVERIES: Duration = Duration::from_hours(30 * 24);

/// Forgets at once and then every hour, for ever.
pub async fn keep_to(kept: History, store: Store, jobs: Jobs) {
    loop {
        match forget(kept, &store, Timestamp::now()).await {
            // What a crash or an error leaves in the archive goes by its own limits.
            Ok(logs) => jobs.discard_logs(logs).await,
            Err(error) => log::error!("what is too old stays in the history: {}", Chain(&error)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Forgets what is too old at `now`: a part at a time, so that other writes come between.
/// Returns the runs of which nobody can ask for the log any more.
async fn forget(kept: History, store: &Store, now: Timestamp) -> Result<Vec<InvocationId>, Error> {
    let before = |age| now.checked_sub(age).unwrap_or(Timestamp::MIN);
    let retention = Retention { age: Some(kept.max_age), runs_per_job: Some(kept.max_runs_per_job) };
    let (mut runs, mut logs) = (0, Vec::new());
    loop {
        let forgotten = store.prune(retention, now).await?;
        if forgotten.is_empty() {
            break;
        }
        runs += forgotten.len();
        logs.extend(forgotten.iter().filter_map(|run| run.invocation));
    }
    let entries = store.forget_audit(before(kept.audit_max_age)).await?;
    store.forget_expired(now).await?;
    let changes = store.forget_runners(before(kept.max_age)).await?;
    store.forget_deliveries(before(DELIVERIES)).await?;
    if runs > 0 || entries > 0 || changes > 0 {
        log::info!(
            "{runs} runs, {entries} entries of the audit and {changes} changes of runners were forgotten, as they are too old or \
             too many"
        );
    }
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::policy::JobName;
    use crate::run::{RunId, RunResult};
    use crate::store::{Attempt, AuditEntry, AuditFilter, End, Log, LogPlace, Origin, Phase, Progress, Run};

    const DAY: Duration = Duration::from_hours(24);

    fn day(number: u32) -> Timestamp {
        Timestamp::UNIX_EPOCH + number * DAY
    }

    /// A run of one job that ended on the day on which it was asked for.
    fn run(on: Timestamp) -> Run {
        let end =
            End { at: Some(on), result: RunResult::Success, exit: None, cpu: None, memory_peak: None, lost: None };
        Run {
            id: RunId::generate(),
            job: JobName::parse("ci-test-a").unwrap(),
            origin: Origin::Systemd,
            requested: on,
            progress: Progress { invocation: Some(invocation(on)), started: None, phase: Phase::Ended(end) },
            log: Log { place: LogPlace::Journal, complete: true },
            inputs: serde_json::Map::new(),
        }
    }

    fn invocation(on: Timestamp) -> InvocationId {
        InvocationId::from_bytes(&(on.as_second() + 1).to_be_bytes().repeat(2)).unwrap()
    }

    fn entry(at: Timestamp) -> AuditEntry {
        AuditEntry {
            at,
            kind: "stop".to_owned(),
            who: None,
            address: None,
            request: Some(Uuid::now_v7()),
            job: None,
            run: None,
            outcome: "stopped".to_owned(),
            detail: None,
        }
    }

    #[tokio::test]
    async fn what_is_too_old_or_too_many_is_forgotten_and_the_rest_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).await.unwrap().store;
        let runs: Vec<_> = (0..10).map(|number| run(day(number))).collect();
        for run in &runs {
            store.insert_run(run.clone()).await.unwrap();
        }
        store.append_audit((0..10).map(|number| entry(day(number))).collect()).await.unwrap();
        let attempt = Attempt { token: "ci".parse().unwrap(), key: "key".to_owned(), request: Uuid::now_v7() };
        store.begin(attempt, [0; 32], day(1)).await.unwrap();

        let left = async || {
            let runs = store.history(&runs[0].job, None, 100).await.unwrap();
            let entries = store.audit(None, 100, &AuditFilter::default()).await.unwrap();
            (runs.len(), entries.len())
        };
        let kept = |max_age: u32, max_runs_per_job, audit_max_age: u32| History {
            max_age: max_age * DAY,
            max_runs_per_job,
            audit_max_age: audit_max_age * DAY,
        };
        let logs = |days: std::ops::Range<u32>| days.map(|number| invocation(day(number))).collect::<Vec<_>>();
        let forgotten = async |kept, now| {
            let mut logs = forget(kept, &store, now).await.unwrap();
            logs.sort_unstable_by_key(|log| *log.as_bytes());
            logs
        };
        assert_eq!(forgotten(kept(100, 100, 100), day(10)).await, []);
        assert_eq!(left().await, (10, 10));
        assert_eq!(store.forget_expired(day(10)).await.unwrap(), 0, "it was forgotten before");
        assert_eq!(forgotten(kept(100, 8, 100), day(10)).await, logs(0..2));
        assert_eq!(left().await, (8, 10));
        assert_eq!(forgotten(kept(5, 8, 7), day(10)).await, logs(2..5));
        assert_eq!(left().await, (5, 7));
        // The last run of a job says how it stands, however old it is.
        assert_eq!(forgotten(kept(5, 8, 7), day(1000)).await, logs(5..9));
        assert_eq!(left().await, (1, 0));
    }
}

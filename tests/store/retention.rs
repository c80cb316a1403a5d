use std::time::Duration;

use ci_bridge::run::RunId;
use ci_bridge::store::{Forgotten, Retention, Run, Store};
use tokio::task::JoinSet;

use crate::support::{Home, at, ended, ids, job, queued, running};

const KEEP_ALL: Retention = Retention { age: None, runs_per_job: None };

async fn insert(store: &Store, runs: &[Run]) {
    for run in runs {
        store.insert_run(run.clone()).await.unwrap();
    }
}

fn forgotten(run: &Run) -> Forgotten {
    Forgotten { run: run.id, invocation: run.progress.invocation }
}

async fn left(store: &Store, name: &str) -> Vec<RunId> {
    ids(&store.history(&job(name), None, 100).await.unwrap())
}

#[tokio::test]
async fn without_a_limit_every_run_is_kept() {
    let home = Home::new();
    let store = home.open().await;
    insert(&store, &[ended(0), ended(1)]).await;
    assert_eq!(store.prune(KEEP_ALL, at(i64::from(u32::MAX))).await.unwrap(), []);
    assert_eq!(left(&store, "ci-test-build").await.len(), 2);
}

#[tokio::test]
async fn the_last_run_of_a_job_and_one_that_has_not_ended_are_kept() {
    let home = Home::new();
    let store = home.open().await;
    let runs = [queued(0), running(1), ended(2), ended(3)];
    insert(&store, &runs).await;
    let other = Run { job: job("ci-test-other"), ..ended(0) };
    insert(&store, std::slice::from_ref(&other)).await;
    let nothing = Retention { age: Some(Duration::ZERO), runs_per_job: Some(0) };
    assert_eq!(store.prune(nothing, at(1_000_000)).await.unwrap(), [forgotten(&runs[2])]);
    assert_eq!(store.prune(nothing, at(1_000_000)).await.unwrap(), []);
    assert_eq!(left(&store, "ci-test-build").await, [runs[3].id, runs[1].id, runs[0].id]);
    assert_eq!(left(&store, "ci-test-other").await, [other.id]);
}

#[tokio::test]
async fn the_age_of_a_run_counts_from_its_end() {
    let home = Home::new();
    let store = home.open().await;
    // Each ends after a minute.
    let runs = [ended(0), ended(10), ended(20), ended(30)];
    insert(&store, &runs).await;
    let minute = Retention { age: Some(Duration::from_mins(1)), ..KEEP_ALL };
    assert_eq!(store.prune(minute, at(130)).await.unwrap(), [forgotten(&runs[0])]);
    assert_eq!(left(&store, "ci-test-build").await, [runs[3].id, runs[2].id, runs[1].id]);
}

#[tokio::test]
async fn the_newest_runs_of_each_job_are_kept() {
    let home = Home::new();
    let store = home.open().await;
    let mut runs = JoinSet::new();
    for number in 0..1200 {
        let store = store.clone();
        runs.spawn(async move { store.insert_run(ended(number)).await.unwrap() });
    }
    runs.join_all().await;
    insert(&store, &[Run { job: job("ci-test-other"), ..ended(0) }]).await;
    let newest = store.history(&job("ci-test-build"), None, 3).await.unwrap();
    let three = Retention { runs_per_job: Some(3), ..KEEP_ALL };
    let mut forgotten = Vec::new();
    loop {
        let some = store.prune(three, at(0)).await.unwrap();
        assert!(some.len() <= 500);
        if some.is_empty() {
            break;
        }
        forgotten.extend(some);
    }
    assert_eq!(forgotten.len(), 1197);
    assert_eq!(store.run(forgotten[0].run).await.unwrap(), None);
    assert_eq!(left(&store, "ci-test-build").await, ids(&newest));
    assert_eq!(left(&store, "ci-test-other").await.len(), 1);
}

use ci_bridge::run::RunId;
use ci_bridge::store::{Enqueued, Phase, Progress, Run, Store, Waiting};

use crate::support::{Home, ids, job, queued, running};

async fn waiting(store: &Store, seconds: i64) -> Run {
    let run = queued(seconds);
    store.insert_run(run.clone()).await.unwrap();
    run
}

async fn queue(store: &Store) -> Vec<Run> {
    store.waiting().await.unwrap().into_iter().map(|waiting| waiting.run).collect()
}

#[tokio::test]
async fn an_unrecorded_run_cannot_wait() {
    let home = Home::new();
    let store = home.open().await;
    assert_eq!(store.enqueue(RunId::generate(), 10).await.unwrap(), Enqueued::NotQueued);
    store.note_starting(RunId::generate()).await.unwrap();
    assert_eq!(store.waiting().await.unwrap(), []);
}

#[tokio::test]
async fn who_waits_longest_is_next_also_after_a_restart() {
    let home = Home::new();
    let store = home.open().await;
    let mut runs = Vec::new();
    for behind in 0..3 {
        let run = waiting(&store, 100 - i64::from(behind)).await;
        assert_eq!(store.enqueue(run.id, 10).await.unwrap(), Enqueued::Behind(behind));
        runs.push(run);
    }
    store.close().await.unwrap();
    let store = home.open().await;
    assert_eq!(queue(&store).await, runs);
}

#[tokio::test]
async fn who_is_about_to_be_started_is_known_after_a_restart() {
    let home = Home::new();
    let store = home.open().await;
    let (first, second) = (waiting(&store, 0).await, waiting(&store, 1).await);
    for run in [&first, &second] {
        store.enqueue(run.id, 2).await.unwrap();
    }
    store.note_starting(first.id).await.unwrap();
    store.close().await.unwrap();
    let waiting = home.open().await.waiting().await.unwrap();
    assert_eq!(waiting, [Waiting { run: first, starting: true }, Waiting { run: second, starting: false }]);
}

#[tokio::test]
async fn a_queue_is_bounded_for_each_job() {
    let home = Home::new();
    let store = home.open().await;
    let first = waiting(&store, 0).await;
    assert_eq!(store.enqueue(first.id, 0).await.unwrap(), Enqueued::NoRoom);
    assert_eq!(store.enqueue(first.id, 1).await.unwrap(), Enqueued::Behind(0));
    let second = waiting(&store, 1).await;
    assert_eq!(store.enqueue(second.id, 1).await.unwrap(), Enqueued::NoRoom);
    let other = Run { job: job("ci-test-other"), ..queued(2) };
    store.insert_run(other.clone()).await.unwrap();
    assert_eq!(store.enqueue(other.id, 1).await.unwrap(), Enqueued::Behind(0));
    assert_eq!(ids(&queue(&store).await), ids(&[first, other]));
}

#[tokio::test]
async fn who_waits_keeps_the_place() {
    let home = Home::new();
    let store = home.open().await;
    let (first, second) = (waiting(&store, 0).await, waiting(&store, 1).await);
    for (run, behind) in [(&first, 0), (&second, 1), (&first, 0), (&second, 1)] {
        assert_eq!(store.enqueue(run.id, 2).await.unwrap(), Enqueued::Behind(behind));
    }
    assert!(store.update_run(first.id, running(0).progress).await.unwrap());
    assert_eq!(store.enqueue(second.id, 2).await.unwrap(), Enqueued::Behind(0));
}

#[tokio::test]
async fn a_run_that_is_no_longer_queued_leaves_the_queue() {
    let home = Home::new();
    let store = home.open().await;
    let run = waiting(&store, 0).await;
    store.enqueue(run.id, 10).await.unwrap();
    assert!(store.update_run(run.id, running(0).progress).await.unwrap());
    assert_eq!(queue(&store).await, []);
    let late = Progress { phase: Phase::Queued, ..queued(0).progress };
    assert!(store.update_run(run.id, late).await.unwrap());
    assert_eq!(store.enqueue(run.id, 10).await.unwrap(), Enqueued::NotQueued);
    assert_eq!(queue(&store).await, []);
}

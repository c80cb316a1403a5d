use ci_bridge::invocation::MainExit;
use ci_bridge::run::{RunId, RunResult};
use ci_bridge::store::{DeliveryFilter, End, Error, Log, LogPlace, Origin, PAGE, Phase, Progress, Run, Store};
use jiff::Timestamp;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{Home, delivery, ended, ids, invocation, job, queued, running, success};

#[tokio::test]
async fn a_run_that_was_not_recorded_is_not_known() {
    let home = Home::new();
    let store = home.open().await;
    assert_eq!(store.run(RunId::generate()).await.unwrap(), None);
    assert_eq!(store.run_of_invocation(invocation()).await.unwrap(), None);
    assert_eq!(store.run_of_request(Uuid::now_v7()).await.unwrap(), None);
    assert!(!store.update_run(RunId::generate(), running(0).progress).await.unwrap());
    assert!(!store.update_log(RunId::generate(), queued(0).log).await.unwrap());
    assert_eq!(store.history(&job("ci-test-build"), None, 10).await.unwrap(), []);
    assert_eq!(store.unended().await.unwrap(), []);
}

#[tokio::test]
async fn a_run_is_read_as_it_was_recorded() {
    let home = Home::new();
    let store = home.open().await;
    let by_systemd = Run { origin: Origin::Systemd, job: job("ci-test-nightly"), ..ended(2) };
    let instance = Run { job: job("ci-test-build@").with_instance("feature/a b").unwrap(), ..ended(3) };
    let inputs = serde_json::json!({"version": "v1.2 \"beta\"", "note": "two\nlines"});
    let inputs = inputs.as_object().unwrap().clone();
    let in_archive = Run { log: Log { place: LogPlace::Archive, complete: true }, inputs, ..ended(4) };
    // A clock that has not been set yet, and the largest numbers.
    let early = Run { requested: Timestamp::MIN, ..queued(5) };
    let killed = End {
        at: None,
        result: RunResult::Failed("oom-kill".to_owned()),
        exit: Some(MainExit::Signal(9)),
        cpu: Some(std::time::Duration::from_micros(u64::try_from(i64::MAX).unwrap())),
        memory_peak: Some(u64::try_from(i64::MAX).unwrap()),
        lost: None,
    };
    let killed = Run { progress: Progress { phase: Phase::Ended(killed), ..running(6).progress }, ..running(6) };
    let lost = End {
        at: None,
        result: RunResult::Lost,
        exit: None,
        cpu: None,
        memory_peak: None,
        lost: Some("the host was restarted".to_owned()),
    };
    let lost = Run { progress: Progress { phase: Phase::Ended(lost), ..queued(7).progress }, ..queued(7) };
    for run in [queued(0), running(1), by_systemd, instance, in_archive, early, killed, lost] {
        store.insert_run(run.clone()).await.unwrap();
        assert_eq!(store.run(run.id).await.unwrap(), Some(run.clone()));
        if let Some(invocation) = run.progress.invocation {
            assert_eq!(store.run_of_invocation(invocation).await.unwrap(), Some(run.clone()));
        }
        if let Origin::Token { request, .. } = run.origin {
            assert_eq!(store.run_of_request(request).await.unwrap(), Some(run));
        }
    }
}

#[tokio::test]
async fn a_run_is_recorded_once() {
    let home = Home::new();
    let store = home.open().await;
    let run = ended(0);
    store.insert_run(run.clone()).await.unwrap();
    let again = Run { job: job("ci-test-other"), ..queued(9) };
    store.insert_run(Run { id: run.id, ..again }).await.unwrap();
    assert_eq!(store.run(run.id).await.unwrap(), Some(run));
}

#[tokio::test]
async fn a_run_gets_from_the_queue_to_its_end() {
    let home = Home::new();
    let store = home.open().await;
    let run = queued(0);
    store.insert_run(run.clone()).await.unwrap();
    let running = running(0).progress;
    let over = Progress { phase: Phase::Ended(success(60)), ..running.clone() };
    for progress in [running, over] {
        // Told twice, as after a reconnection.
        for _ in 0..2 {
            assert!(store.update_run(run.id, progress.clone()).await.unwrap());
            assert_eq!(store.run(run.id).await.unwrap(), Some(Run { progress: progress.clone(), ..run.clone() }));
        }
    }
}

#[tokio::test]
async fn a_run_that_has_ended_never_runs_again() {
    let home = Home::new();
    let store = home.open().await;
    let run = ended(0);
    store.insert_run(run.clone()).await.unwrap();
    for phase in [Phase::Queued, Phase::Running] {
        let late = Progress { phase, ..run.progress.clone() };
        assert!(store.update_run(run.id, late).await.unwrap());
        assert_eq!(store.run(run.id).await.unwrap(), Some(run.clone()));
    }
}

#[tokio::test]
async fn the_end_of_a_run_and_what_is_told_of_it_are_recorded_together_and_once() {
    let home = Home::new();
    let store = home.open().await;
    let known = running(0);
    store.insert_run(known.clone()).await.unwrap();
    let over = Run { progress: Progress { phase: Phase::Ended(success(60)), ..known.progress.clone() }, ..known };
    // One that is recorded only now, and one whose invocation is taken.
    let (new, refused) = (ended(1), Run { progress: over.progress.clone(), ..queued(2) });
    let count = async |store: &Store| store.deliveries(DeliveryFilter::All, None, 9).await.unwrap().len();
    for (number, run) in [&over, &new].into_iter().enumerate() {
        store.end_run(run.clone(), vec![delivery("ops", "a", 60)]).await.unwrap();
        // It was acknowledged, so it is there whatever comes.
        let killed = home.killed();
        let after = killed.open().await;
        assert_eq!((after.run(run.id).await.unwrap().as_ref(), count(&after).await), (Some(run), number + 1));
        store.end_run(run.clone(), vec![delivery("ops", "a", 61)]).await.unwrap();
        assert_eq!(count(&store).await, number + 1);
    }
    let error = store.end_run(refused.clone(), vec![delivery("ops", "a", 62)]).await;
    assert!(matches!(error, Err(Error::Conflict(_))), "{error:?}");
    assert_eq!((store.run(refused.id).await.unwrap(), count(&store).await), (None, 2));
}

#[tokio::test]
async fn a_verdict_that_comes_late_takes_the_place_of_none() {
    let home = Home::new();
    let store = home.open().await;
    let run = running(0);
    store.insert_run(run.clone()).await.unwrap();
    let lost = End {
        at: None,
        result: RunResult::Lost,
        exit: None,
        cpu: None,
        memory_peak: None,
        lost: Some("the bridge was not there".to_owned()),
    };
    for end in [lost.clone(), success(60), lost] {
        let progress = Progress { phase: Phase::Ended(end), ..run.progress.clone() };
        assert!(store.update_run(run.id, progress).await.unwrap());
    }
    let known = store.run(run.id).await.unwrap().unwrap();
    assert_eq!(known.progress.phase, Phase::Ended(success(60)));
}

#[tokio::test]
async fn an_invocation_is_of_one_run_and_who_claims_it_too_harms_no_other() {
    let home = Home::new();
    let store = home.open().await;
    let first = running(0);
    store.insert_run(first.clone()).await.unwrap();
    let second = Run { progress: first.progress.clone(), ..queued(1) };
    let (third, fourth) = (queued(2), queued(3));
    // Written together, in one transaction.
    let (before, refused, after) = tokio::join!(
        store.insert_run(third.clone()),
        store.insert_run(second.clone()),
        store.insert_run(fourth.clone())
    );
    before.unwrap();
    after.unwrap();
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    let refused = store.update_run(third.id, first.progress.clone()).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    assert_eq!(store.run(second.id).await.unwrap(), None);
    assert_eq!(store.run(third.id).await.unwrap(), Some(third));
    assert_eq!(store.run(fourth.id).await.unwrap(), Some(fourth));
}

#[tokio::test]
async fn the_log_of_a_run_moves_to_the_archive() {
    let home = Home::new();
    let store = home.open().await;
    let run = ended(0);
    store.insert_run(run.clone()).await.unwrap();
    let log = Log { place: LogPlace::Archive, complete: true };
    assert!(store.update_log(run.id, log).await.unwrap());
    assert_eq!(store.run(run.id).await.unwrap(), Some(Run { log, ..run }));
}

#[tokio::test]
async fn the_history_of_a_job_is_paged_from_the_newest_run_on() {
    let home = Home::new();
    let store = home.open().await;
    let mut runs = Vec::new();
    for number in 0..25 {
        // Five at a time have the same time, and ids against it: the clock was set back.
        let run = queued(100 - number / 5);
        store.insert_run(run.clone()).await.unwrap();
        store.insert_run(Run { job: job("ci-test-other"), ..queued(number) }).await.unwrap();
        runs.push(run);
    }
    runs.sort_by_key(|run| std::cmp::Reverse((run.requested, run.id)));
    let job = job("ci-test-build");
    let mut pages = Vec::new();
    loop {
        let before = pages.last().map(|run: &Run| run.id);
        let page = store.history(&job, before, 10).await.unwrap();
        pages.extend(page.clone());
        if page.len() < 10 {
            break;
        }
    }
    assert_eq!(ids(&pages), ids(&runs));
}

#[tokio::test]
async fn nothing_is_before_a_run_of_another_job() {
    let home = Home::new();
    let store = home.open().await;
    let other = Run { job: job("ci-test-other"), ..queued(9) };
    for run in [queued(0), other.clone()] {
        store.insert_run(run).await.unwrap();
    }
    let job = job("ci-test-build");
    assert_eq!(store.history(&job, Some(other.id), 10).await.unwrap(), []);
    assert_eq!(store.history(&job, Some(RunId::generate()), 10).await.unwrap(), []);
    assert_eq!(store.history(&job, None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_page_is_bounded() {
    let home = Home::new();
    let store = home.open().await;
    let mut inserts = JoinSet::new();
    for number in 0..=PAGE {
        let store = store.clone();
        inserts.spawn(async move { store.insert_run(queued(number.into())).await.unwrap() });
    }
    inserts.join_all().await;
    let page = store.history(&job("ci-test-build"), None, u32::MAX).await.unwrap();
    assert_eq!(page.len(), PAGE as usize);
}

#[tokio::test]
async fn what_has_not_ended_is_found_after_a_restart() {
    let home = Home::new();
    let store = home.open().await;
    let (waits, runs) = (queued(2), running(1));
    for run in [waits.clone(), ended(0), runs.clone()] {
        store.insert_run(run).await.unwrap();
    }
    store.close().await.unwrap();
    assert_eq!(home.open().await.unended().await.unwrap(), [runs, waits]);
}

#[tokio::test]
async fn a_write_goes_on_when_its_caller_goes_away() {
    let home = Home::new();
    let store = home.open().await;
    let run = queued(0);
    let mut insert = Box::pin(store.insert_run(run.clone()));
    // Polled once: it waits to be written.
    assert!(futures_util::poll!(&mut insert).is_pending());
    drop(insert);
    store.close().await.unwrap();
    assert_eq!(home.open().await.run(run.id).await.unwrap(), Some(run));
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let home = Home::new();
    let store = home.open().await;
    let other = store.clone();
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(other.insert_run(queued(0)).await, Err(Error::Closed)));
    assert!(matches!(other.unended().await, Err(Error::Closed)));
}

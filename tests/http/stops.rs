//! Stops.

use crate::bridge::Bridge;
use crate::systemd1::{Exit, Start, Unit};

#[tokio::test(flavor = "multi_thread")]
async fn stopping_what_does_not_run_is_no_mistake() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a"), Unit { loaded: false, ..Unit::job("ci-test-b") }]).await;
    for job in ["ci-test-a", "ci-test-b"] {
        for _ in 0..3 {
            let answer = bridge.call(&format!("POST /api/job/{job}/stop")).await;
            assert_eq!((answer.status, answer.json()["msg"].as_str()), (200, Some("Job was not active")));
        }
    }
    assert_eq!(bridge.systemd.count("StopUnit"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_stopped_neither_succeeded_nor_failed() {
    for start in [Start::Runs, Start::Serves] {
        let bridge = Bridge::new(vec![Unit::starting("ci-test-a", start)]).await;
        let run = bridge.start("ci-test-a").await;
        let answer = bridge.call("POST /api/job/ci-test-a/stop").await;
        assert_eq!((answer.status, answer.json()["msg"].as_str()), (200, Some("Job stopped")));
        let state = bridge.ended("ci-test-a", &run).await;
        assert_eq!((&state["result"], &state["signal"]), (&"stopped".into(), &"SIGTERM".into()), "{state}");
        let again = bridge.call("POST /api/job/ci-test-a/stop").await;
        assert_eq!(again.json()["msg"], "Job was not active");
        assert_eq!(bridge.systemd.count("StopUnit"), 1);
        bridge.start("ci-test-a").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_a_start_that_waits_cancels_it() {
    let bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::Waits)]).await;
    let stop = async {
        bridge.systemd.called("StartUnit ci-test-a.service").await;
        bridge.call("POST /api/job/ci-test-a/stop").await
    };
    let (started, stopped) = tokio::join!(bridge.call("POST /api/job/ci-test-a"), stop);
    assert_eq!(started.problem(), (409, "start_canceled".to_owned()));
    assert_eq!(stopped.status, 200, "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_by_itself_was_not_stopped() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    for (exit, result) in [(Exit::Code(0), "success"), (Exit::Code(1), "exit-code"), (Exit::Signal(9), "signal")] {
        let run = bridge.start("ci-test-a").await;
        bridge.systemd.end("ci-test-a", exit).await;
        assert_eq!(bridge.ended("ci-test-a", &run).await["result"], result);
    }
}

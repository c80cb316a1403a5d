//! Runs that wait for a job that is busy.

use serde_json::{Value, json};

use crate::bridge::Bridge;
use crate::systemd1::{Exit, Unit};
use crate::wire::Answer;

const JOB: &str = "ci-test-a";
const QUEUE: &str = "POST /api/job/ci-test-a?if_busy=queue";

async fn queue(bridge: &Bridge, before: usize) -> String {
    let answer = bridge.call(QUEUE).await;
    assert_eq!((answer.status, &answer.json()["waiting_before"]), (202, &json!(before)), "{answer:?}");
    assert_eq!(answer.json()["run"]["state"], "queued");
    answer.header("x-ci-run-id").unwrap().to_owned()
}

async fn state(bridge: &Bridge, run: &str) -> Value {
    bridge.call(&format!("GET /api/runs/{run}")).await.json()["state"].clone()
}

/// Ends the run that is there, and returns when the next one runs.
async fn end(bridge: &Bridge, next: &str) {
    bridge.systemd.end(JOB, Exit::Code(0)).await;
    let running = |answer: &Answer| answer.json()["state"] == "running";
    bridge.until(&format!("GET /api/runs/{next}"), running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_free_runs_at_once() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let answer = bridge.call(QUEUE).await;
    assert_eq!((answer.status, &answer.json()["run"]["state"]), (202, &json!("running")));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_wait_begin_in_the_order_in_which_they_came() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let first = bridge.start(JOB).await;
    let second = queue(&bridge, 0).await;
    let third = queue(&bridge, 1).await;
    assert_eq!(state(&bridge, &third).await, "queued");
    end(&bridge, &second).await;
    assert_eq!((state(&bridge, &first).await, state(&bridge, &third).await), (json!("ended"), json!("queued")));
    end(&bridge, &third).await;
    bridge.systemd.end(JOB, Exit::Code(4)).await;
    let last = bridge.call(&format!("GET /api/runs/{third}/result?wait=20")).await.json();
    assert_eq!((&last["result"], &last["exit_code"]), (&json!("exit-code"), &json!(4)));
    let page = bridge.call(&format!("GET /api/job/{JOB}/runs")).await.json();
    let ids: Vec<_> = page["runs"].as_array().unwrap().iter().map(|run| run["id"].clone()).collect();
    assert_eq!(ids, [third, second, first]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_wait_does_not_push_in() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let first = bridge.start(JOB).await;
    queue(&bridge, 0).await;
    let busy = bridge.call(&format!("POST /api/job/{JOB}")).await;
    assert_eq!((busy.status, busy.header("x-ci-run-id")), (409, Some(first.as_str())));
    // The newest run of the job is the one that runs, not one that waits.
    assert_eq!(bridge.call(&format!("GET /api/job/{JOB}/state")).await.json()["run"], json!(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_has_an_end() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    bridge.start(JOB).await;
    for before in 0..3 {
        queue(&bridge, before).await;
    }
    let full = bridge.call(QUEUE).await;
    assert_eq!(full.problem(), (429, "queue_full".to_owned()));
    assert!(full.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_cannot_take_a_run_out_of_the_queue() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    bridge.start(JOB).await;
    let waiting = queue(&bridge, 0).await;
    let stop = format!("POST /api/runs/{waiting}/stop");
    assert_eq!(bridge.call_as(&bridge.tokens.reader, &stop).await.status, 403);
    assert_eq!(bridge.call_as(&bridge.tokens.narrow, &stop).await.status, 404);
    assert_eq!(state(&bridge, &waiting).await, "queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_taken_out_of_the_queue_never_runs() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let first = bridge.start(JOB).await;
    let (second, third) = (queue(&bridge, 0).await, queue(&bridge, 1).await);
    let stopped = bridge.call(&format!("POST /api/runs/{second}/stop")).await;
    assert_eq!((stopped.status, &stopped.json()["msg"]), (200, &json!("Job stopped")));
    let run = bridge.call(&format!("GET /api/runs/{second}")).await.json();
    assert_eq!((&run["state"], &run["result"]), (&json!("ended"), &json!("canceled")));
    end(&bridge, &third).await;
    // And one that has ended does not stop the one that runs.
    let late = bridge.call(&format!("POST /api/runs/{first}/stop")).await;
    assert_eq!(late.json()["msg"], "Job was not active");
    assert_eq!(state(&bridge, &third).await, "running");
    assert_eq!(bridge.call(&format!("POST /api/runs/{third}/stop")).await.status, 200);
    let run = bridge.call(&format!("GET /api/runs/{third}/result?wait=20")).await.json();
    assert_eq!(run["result"], "stopped");
    assert_eq!(bridge.systemd.count("StartUnit"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_wait_on_over_a_restart_of_the_bridge() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    bridge.start(JOB).await;
    let (second, third) = (queue(&bridge, 0).await, queue(&bridge, 1).await);
    let bridge = bridge.restart().await;
    assert_eq!((state(&bridge, &second).await, state(&bridge, &third).await), (json!("queued"), json!("queued")));
    end(&bridge, &second).await;
    // Also when the job becomes free while no bridge is there.
    let bridge = bridge.restart_after(async |systemd| systemd.end(JOB, Exit::Code(0)).await).await;
    let running = |answer: &Answer| answer.json()["state"] == "running";
    bridge.until(&format!("GET /api/runs/{third}"), running).await;
    assert_eq!(bridge.systemd.count("StartUnit"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_wait_is_carried_out_once() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    bridge.start(JOB).await;
    let bearer = format!("Bearer {}", bridge.tokens.writer);
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "k")];
    let first = bridge.call_with(QUEUE, &headers).await;
    let again = bridge.call_with(QUEUE, &headers).await;
    assert_eq!((first.status, &first.body), (202, &again.body));
    queue(&bridge, 1).await;
}

//! The state of a job, and waiting for its change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bridge::Bridge;
use crate::systemd1::{Exit, Start, Unit};

const STATE: &str = "GET /api/job/ci-test-a/state";

#[tokio::test(flavor = "multi_thread")]
async fn the_state_tells_a_run_from_its_beginning_to_its_verdict() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let state = bridge.call(STATE).await.json();
    let nothing = Value::Null;
    assert_eq!((&state["state"], &state["run"], &state["run_state"]), (&json!("inactive"), &nothing, &nothing));

    let run = bridge.start("ci-test-a").await;
    let state = bridge.call(STATE).await.json();
    assert_eq!((&state["state"], &state["sub_state"]), (&json!("activating"), &json!("start")));
    assert_eq!((&state["run"], &state["run_state"], &state["result"]), (&json!(run), &json!("running"), &nothing));
    assert!(state["started_at"].is_string() && state["finished_at"].is_null(), "{state}");

    bridge.systemd.end("ci-test-a", Exit::Code(3)).await;
    let state = bridge.ended("ci-test-a", &run).await;
    assert_eq!((&state["state"], &state["result"]), (&json!("failed"), &json!("exit-code")));
    assert_eq!((&state["exit_code"], &state["signal"]), (&json!(3), &nothing));
    assert!(state["finished_at"].as_str() > state["started_at"].as_str(), "{state}");
    assert_eq!(state["invocation_id"], "01".repeat(16));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_are_answered_by_the_end_and_not_by_the_time() {
    let bridge = Arc::new(Bridge::new(vec![Unit::job("ci-test-a")]).await);
    let run = bridge.start("ci-test-a").await;
    let begun = Instant::now();
    let waiters: Vec<_> = (0..20)
        .map(|_| {
            let bridge = bridge.clone();
            tokio::spawn(async move { bridge.call(&format!("{STATE}?wait=55")).await.json() })
        })
        .collect();
    // A wait whose time comes first, in the same way as those above, says that the run goes on.
    let early = bridge.call(&format!("{STATE}?wait=1")).await.json();
    assert_eq!((&early["run_state"], &early["state"]), (&json!("running"), &json!("activating")));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));

    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    for waiter in waiters {
        let state = waiter.await.unwrap();
        assert_eq!((&state["run"], &state["run_state"]), (&json!(run), &json!("ended")));
        // Who is told of the end never sees the unit as it was before.
        assert_eq!((&state["state"], &state["result"]), (&json!("inactive"), &json!("success")));
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_nothing_is_answered_at_once() {
    let bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::EndsBeforeReply(Exit::Code(0)))]).await;
    let begun = Instant::now();
    assert_eq!(bridge.call(&format!("{STATE}?wait=55")).await.json()["run"], Value::Null);
    bridge.start("ci-test-a").await;
    assert_eq!(bridge.call(&format!("{STATE}?wait=55")).await.json()["result"], "success");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_automatic_restart_is_a_run_of_its_own() {
    for again in [true, false] {
        let bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::Serves)]).await;
        let first = bridge.start("ci-test-a").await;
        bridge.systemd.act(move |machine| machine.restart("ci-test-a.service", Exit::Code(3), again)).await;
        let state = bridge.ended("ci-test-a", &first).await;
        assert_eq!((&state["result"], &state["exit_code"]), (&json!("exit-code"), &json!(3)), "{again}");
        assert!(state["finished_at"].as_str() > state["started_at"].as_str(), "{state}");
        let state = bridge.until(STATE, |answer| answer.json()["run"] != first).await.json();
        assert_eq!(state["invocation_id"], "02".repeat(16));
        let state = bridge.until(STATE, |answer| answer.json()["state"] == "active").await.json();
        assert_eq!((&state["run_state"], &state["result"]), (&json!("running"), &Value::Null), "{again}");
        bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
        let state = bridge.call(&format!("{STATE}?wait=10")).await.json();
        assert_eq!((&state["run_state"], &state["result"]), (&json!("ended"), &json!("success")), "{again}");
        bridge.start("ci-test-a").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_systemd_could_not_set_up_has_failed() {
    let bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::EndsBeforeReply(Exit::Code(0)))]).await;
    bridge.start("ci-test-a").await;
    bridge.systemd.change("ci-test-a", |unit| unit.start = Start::LacksResources).await;
    for _ in 0..2 {
        let run = bridge.start("ci-test-a").await;
        let state = bridge.ended("ci-test-a", &run).await;
        assert_eq!((&state["result"], &state["exit_code"]), (&json!("resources"), &Value::Null), "{state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_systemd_forgot_keeps_the_verdict_of_its_run() {
    let bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::EndsBeforeReply(Exit::Code(5)))]).await;
    let run = bridge.start("ci-test-a").await;
    bridge.systemd.act(|machine| machine.unload("ci-test-a.service")).await;
    // systemd now says of the job what it says of one that never ran.
    let state = bridge.until(STATE, |answer| answer.json()["state"] == "inactive").await.json();
    assert_eq!((&state["run"], &state["exit_code"], &state["result"]), (&json!(run), &json!(5), &json!("exit-code")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_a_new_unit_file_is_there_as_soon_as_systemd_says_so() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    assert_eq!(bridge.call("GET /api/job/ci-test-new/state").await.status, 404);
    bridge.systemd.add(Unit { loaded: false, ..Unit::job("ci-test-new") }).await;
    bridge.systemd.act(crate::systemd1::Machine::tell_files_changed).await;
    bridge.until("GET /api/job/ci-test-new/state", |answer| answer.status == 200).await;
    let jobs = bridge.call("GET /api/jobs").await.json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 2, "{jobs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_anybody_on_the_bus_says_in_the_name_of_systemd_is_not_believed() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let run = bridge.start("ci-test-a").await;
    bridge.systemd.forge_end("ci-test-a").await;
    // What systemd says itself comes after the forgery.
    bridge.systemd.end("ci-test-a", Exit::Code(3)).await;
    let state = bridge.ended("ci-test-a", &run).await;
    assert_eq!((&state["result"], &state["exit_code"]), (&json!("exit-code"), &json!(3)), "{state}");
}

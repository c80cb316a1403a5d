//! The bus or systemd goes away and comes back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bridge::Bridge;
use crate::systemd1::{Exit, Machine, Start, Unit};

const STATE: &str = "GET /api/job/ci-test-a/state";

async fn is_ready(bridge: &Bridge) {
    bridge.until("GET /readyz", |answer| answer.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bus_the_bridge_says_so_and_comes_back_by_itself() {
    let mut bridge = Bridge::new(["ci-test-a", "ci-test-b"].map(Unit::job).to_vec()).await;
    let run = bridge.start("ci-test-a").await;
    bridge.systemd.kill_bus().await;

    let begun = Instant::now();
    let unready = bridge.until("GET /readyz", |answer| answer.status != 200).await;
    assert_eq!(unready.status, 503);
    assert!(unready.json()["reasons"][0].as_str().unwrap().contains("D-Bus"), "{unready:?}");
    assert_eq!(bridge.call("GET /healthz").await.status, 200);
    for request in [
        "POST /api/job/ci-test-b",
        "POST /api/job/ci-test-b/stop",
        STATE,
        "GET /api/job/ci-test-a/state?wait=50",
        "GET /api/job/ci-test-a/tail",
        "GET /api/job/ci-test-a/logs",
        "GET /api/jobs",
    ] {
        let answer = bridge.call(request).await;
        assert_eq!(answer.problem(), (503, "systemd_unreachable".to_owned()), "{request}");
        assert_eq!(answer.header("retry-after"), Some("1"), "{request}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits for what is not there");

    // Meanwhile one job ends and another begins.
    bridge.systemd.act(|machine| machine.end_unseen("ci-test-a.service", Exit::Code(9))).await;
    bridge.systemd.act(|machine| machine.begin_unseen("ci-test-b.service")).await;
    bridge.systemd.take_calls();
    bridge.systemd.revive_bus().await;
    is_ready(&bridge).await;
    let calls = bridge.systemd.take_calls();
    let expected = ["Subscribe", "ListUnitsByPatterns", "GetAll ci-test-a.service", "GetAll ci-test-b.service"];
    assert_eq!(calls, expected);
    let state = bridge.ended("ci-test-a", &run).await;
    assert_eq!((&state["result"], &state["exit_code"]), (&json!("exit-code"), &json!(9)));
    let state = bridge.call("GET /api/job/ci-test-b/state").await.json();
    assert_eq!((&state["state"], &state["run_state"]), (&json!("activating"), &json!("running")));
    // Changes are seen again, and a start pins its unit anew.
    bridge.systemd.end("ci-test-b", Exit::Code(0)).await;
    assert_eq!(bridge.call("GET /api/job/ci-test-b/state?wait=10").await.json()["result"], "success");
    bridge.start("ci-test-a").await;
    assert_eq!(bridge.systemd.count("RefUnit"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_the_middle_of_a_start_is_told_at_once_that_the_bus_died() {
    let mut bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::Waits)]).await;
    let token = bridge.tokens.writer.clone();
    let (address, begun) = (bridge.address, Instant::now());
    let start = tokio::spawn(async move {
        let request = format!(
            "POST /api/job/ci-test-a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        crate::wire::exchange(address, request.as_bytes()).await
    });
    bridge.systemd.called("StartUnit ci-test-a.service").await;
    bridge.systemd.kill_bus().await;
    assert_eq!(start.await.unwrap().problem(), (503, "systemd_unreachable".to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(5));

    // systemd went on with the start all the same.
    bridge.systemd.act(|machine| machine.begin_unseen("ci-test-a.service")).await;
    bridge.systemd.revive_bus().await;
    is_ready(&bridge).await;
    let state = bridge.call(STATE).await.json();
    assert_eq!((&state["run_state"], &state["invocation_id"]), (&json!("running"), &json!("01".repeat(16))));
    assert_eq!(bridge.call("POST /api/job/ci-test-a").await.code(), "busy");
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    assert_eq!(bridge.call(&format!("{STATE}?wait=10")).await.json()["result"], "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_claims_to_know_how_a_run_ended_that_ended_unseen() {
    let mut bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let run = bridge.start("ci-test-a").await;
    bridge.systemd.kill_bus().await;
    bridge.systemd.act(|machine| machine.end_unseen("ci-test-a.service", Exit::Code(9))).await;
    bridge.systemd.act(|machine| machine.begin_unseen("ci-test-a.service")).await;
    bridge.systemd.revive_bus().await;
    bridge.until("GET /readyz", |answer| answer.status != 200).await;
    is_ready(&bridge).await;
    let state = bridge.ended("ci-test-a", &run).await;
    assert_eq!((&state["result"], &state["exit_code"]), (&json!("lost"), &Value::Null), "{state}");
    let state = bridge.call(STATE).await.json();
    assert_eq!((&state["run_state"], &state["invocation_id"]), (&json!("running"), &json!("02".repeat(16))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_was_forgotten_unseen_has_an_unknown_verdict() {
    let mut bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let run = bridge.start("ci-test-a").await;
    bridge.systemd.kill_bus().await;
    bridge.systemd.act(|machine| machine.unload("ci-test-a.service")).await;
    bridge.until("GET /readyz", |answer| answer.status != 200).await;
    bridge.systemd.revive_bus().await;
    is_ready(&bridge).await;
    let state = bridge.ended("ci-test-a", &run).await;
    assert_eq!((&state["result"], &state["state"]), (&json!("lost"), &json!("inactive")), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_systemd_has_everything_read_again_and_ends_no_run() {
    let bridge = Bridge::new(["ci-test-a", "ci-test-b"].map(Unit::job).to_vec()).await;
    let run = bridge.start("ci-test-a").await;
    bridge.systemd.act(|machine| machine.begin_unseen("ci-test-b.service")).await;
    bridge.systemd.take_calls();
    bridge.systemd.reload().await;
    let seen = |answer: &crate::wire::Answer| answer.json()["state"] == "activating";
    bridge.until("GET /api/job/ci-test-b/state", seen).await;
    let calls = bridge.systemd.take_calls();
    for call in ["ListUnitsByPatterns", "GetAll ci-test-a.service", "GetAll ci-test-b.service"] {
        assert!(calls.iter().any(|made| made == call), "{call}: {calls:?}");
    }
    let state = bridge.call(STATE).await.json();
    assert_eq!((&state["run"], &state["run_state"]), (&json!(run), &json!("running")));
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    assert_eq!(bridge.ended("ci-test-a", &run).await["result"], "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_begins_while_everything_is_read_again_is_not_ended_by_it() {
    let names: Vec<String> = (0..20).map(|number| format!("ci-test-{number}")).collect();
    let units = names.iter().map(|name| Unit { loaded: false, ..Unit::job(name) });
    let bridge = Bridge::new(units.collect()).await;
    for name in names {
        let (job, unit) = (name.clone(), format!("{name}.service"));
        let begin = move |machine: &mut Machine| {
            machine.load(&unit);
            machine.begin(&unit);
        };
        bridge.systemd.act(|machine| machine.do_after_list(begin)).await;
        bridge.systemd.reload().await;
        let seen = |answer: &crate::wire::Answer| answer.json()["run"].is_string();
        let state = bridge.until(&format!("GET /api/job/{job}/state"), seen).await.json();
        let run = state["run"].as_str().unwrap();
        bridge.systemd.end(&job, Exit::Code(3)).await;
        let state = bridge.ended(&job, run).await;
        assert_eq!((&state["result"], &state["exit_code"]), (&json!("exit-code"), &json!(3)), "{state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_systemd_that_executes_itself_anew_is_followed_to_its_new_connection() {
    let bridge = Bridge::new(["ci-test-a", "ci-test-b"].map(Unit::job).to_vec()).await;
    let run = bridge.start("ci-test-a").await;
    bridge.systemd.act(|machine| machine.begin_unseen("ci-test-b.service")).await;
    bridge.systemd.take_calls();
    bridge.systemd.reexecute().await;
    let seen = |answer: &crate::wire::Answer| answer.json()["state"] == "activating";
    bridge.until("GET /api/job/ci-test-b/state", seen).await;
    assert!(bridge.systemd.count("Subscribe") > 0);
    let state = bridge.call(STATE).await.json();
    assert_eq!((&state["run"], &state["run_state"]), (&json!(run), &json!("running")));
    // The signals of the new connection count, calls reach it, and nothing was lost.
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    assert_eq!(bridge.ended("ci-test-a", &run).await["result"], "success");
    bridge.start("ci-test-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_starts_before_systemd_is_there_becomes_ready_by_itself() {
    let mut bridge = Bridge::unready(vec![Unit::job("ci-test-a")]).await;
    assert_eq!(bridge.call("GET /readyz").await.status, 503);
    assert_eq!(bridge.call(STATE).await.problem(), (503, "systemd_unreachable".to_owned()));
    bridge.systemd.revive_bus().await;
    is_ready(&bridge).await;
    bridge.start("ci-test-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_the_bridge_is_not_ready_and_says_why() {
    let setup = crate::bridge::Setup { journal: String::new(), ..Default::default() };
    let bridge = Bridge::with(vec![Unit::job("ci-test-a")], setup).await;
    let unready = bridge.call("GET /readyz").await;
    assert_eq!(unready.status, 503);
    assert!(unready.json()["reasons"][0].as_str().unwrap().contains("journal"), "{unready:?}");
    let answer = bridge.call("GET /api/job/ci-test-a/logs").await;
    assert_eq!(answer.problem(), (503, "journal_unavailable".to_owned()));
    bridge.log(crate::journal::FOREIGN_ENTRY);
    is_ready(&bridge).await;
}

//! The bus or systemd goes away and comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bridge::{Bridge, Setup};
use crate::systemd1::{Exit, Machine, Start, Taken, Unit};

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
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits for ever for what is not there");

    // Meanwhile one job ends and another begins.
    bridge.systemd.act(|machine| machine.end_unseen("ci-test-a.service", Exit::Code(9))).await;
    bridge.systemd.act(|machine| machine.begin_unseen("ci-test-b.service")).await;
    bridge.systemd.take_calls();
    bridge.systemd.revive_bus().await;
    is_ready(&bridge).await;
    let calls = bridge.systemd.take_calls();
    let expected = ["Subscribe", "ListUnitsByPatterns", "GetAll ci-test-a.service", "GetAll ci-test-b.service"];
    // What the run used may be asked for already.
    assert_eq!(calls[..expected.len()], expected);
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
async fn a_request_waits_for_a_systemd_that_is_away_for_a_moment() {
    let setup = Setup { absence: Duration::from_secs(20), ..Setup::default() };
    let names = ["ci-test-a", "ci-test-b", "ci-test-c"];
    let mut bridge = Bridge::with(names.map(Unit::job).to_vec(), setup).await;
    bridge.start("ci-test-a").await;
    bridge.systemd.kill_bus().await;
    bridge.until("GET /readyz", |answer| answer.status != 200).await;
    let requests = [
        ("POST /api/job/ci-test-b", 202),
        ("POST /api/job/ci-test-c/stop", 200),
        (STATE, 200),
        ("GET /api/job/ci-test-a/tail", 200),
        ("GET /api/job/ci-test-a/logs", 200),
        ("GET /api/jobs", 200),
    ];
    let waiting = requests.map(|(request, status)| (request, status, bridge.call_beside(request)));
    // They have been taken up when the next one has been answered.
    assert_eq!(bridge.call("GET /readyz").await.status, 503);
    bridge.systemd.take_calls();
    bridge.systemd.revive_bus().await;
    for (request, status, answer) in waiting {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, status, "{request}: {answer:?}");
    }
    assert_eq!(bridge.systemd.count("StartUnit"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_survives_that_systemd_executes_itself_anew_in_its_middle() {
    for (start, taken, calls) in [
        // Lost with the old one.
        (Start::Runs, Taken::No, 2),
        // The new one has a run, of which nobody has told the bridge.
        (Start::Runs, Taken::Yes, 1),
        // The new one has it wait for other units.
        (Start::Waits, Taken::Yes, 1),
    ] {
        let setup = Setup { absence: Duration::from_secs(20), ..Setup::default() };
        let bridge = Arc::new(Bridge::with(vec![Unit::starting("ci-test-a", start)], setup).await);
        bridge.systemd.act(move |machine| machine.leave_at_start(taken)).await;
        let own = bridge.clone();
        let begun = tokio::spawn(async move { own.start("ci-test-a").await });
        if let Start::Waits = start {
            bridge.systemd.called("StartUnit ci-test-a.service").await;
            bridge.systemd.begin("ci-test-a").await;
        }
        let run = begun.await.unwrap();
        assert_eq!(bridge.systemd.count("StartUnit"), calls, "{start:?} {taken:?}");
        let state = bridge.call(STATE).await.json();
        assert_eq!((&state["run"], &state["run_state"]), (&json!(run), &json!("running")), "{state}");
        assert_eq!(state["invocation_id"], "01".repeat(16), "one run and no other");
        bridge.systemd.end("ci-test-a", Exit::Code(3)).await;
        assert_eq!(bridge.ended("ci-test-a", &run).await["exit_code"], 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_fate_nobody_knows_is_not_made_twice() {
    let setup = Setup { absence: Duration::from_secs(20), ..Setup::default() };
    let mut bridge = Bridge::with(vec![Unit::starting("ci-test-a", Start::Waits)], setup).await;
    let start = bridge.call_beside("POST /api/job/ci-test-a");
    bridge.systemd.called("StartUnit ci-test-a.service").await;
    bridge.systemd.kill_bus().await;
    // It has given the start up meanwhile, for whatever reason. It might as well have run, and be forgotten.
    bridge.systemd.act(|machine| machine.finish_job("ci-test-a.service", "dependency")).await;
    bridge.systemd.revive_bus().await;
    let start = start.await.unwrap();
    assert_eq!((start.status, &start.json()["run"]["state"]), (202, &json!("queued")));
    let run = start.json()["run"]["id"].as_str().unwrap().to_owned();
    let state = bridge.ended("ci-test-a", &run).await;
    assert_eq!((&state["result"], &state["invocation_id"]), (&json!("lost"), &Value::Null), "{state}");
    assert_eq!(bridge.systemd.count("StartUnit"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_the_middle_of_a_start_is_told_that_the_bus_died() {
    let mut bridge = Bridge::new(vec![Unit::starting("ci-test-a", Start::Waits)]).await;
    let begun = Instant::now();
    let start = bridge.call_beside("POST /api/job/ci-test-a");
    bridge.systemd.called("StartUnit ci-test-a.service").await;
    bridge.systemd.kill_bus().await;
    let answer = start.await.unwrap();
    assert_eq!((answer.status, &answer.json()["run"]["state"]), (202, &json!("queued")));
    assert!(begun.elapsed() < Duration::from_secs(5));

    // systemd went on with the start all the same.
    bridge.systemd.act(|machine| machine.begin_unseen("ci-test-a.service")).await;
    bridge.systemd.revive_bus().await;
    is_ready(&bridge).await;
    let state = bridge.call(STATE).await.json();
    assert_eq!((&state["run_state"], &state["invocation_id"]), (&json!("running"), &json!("01".repeat(16))));
    assert_eq!(state["run"], answer.json()["run"]["id"]);
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
async fn a_verdict_that_only_the_journal_has_is_waited_for_until_it_is_written() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let run = bridge.start("ci-test-a").await;
    let deactivated = "_TRANSPORT=journal\n_PID=1\n_UID=0\n_SYSTEMD_UNIT=init.scope\nUNIT=ci-test-a.service\n\
                       MESSAGE_ID=7ad2d189f7e94e70a38c781354912448\nMESSAGE=ci-test-a.service: Deactivated successfully.\n";
    let deactivated = format!("{deactivated}INVOCATION_ID={}\n", "01".repeat(16));
    bridge.play_journald_with(crate::journal::entry(&deactivated));
    let waiting = bridge.call_beside(&format!("{STATE}?run={run}&wait=20"));
    let following = bridge.open("/api/job/ci-test-a/tail?follow=true&format=ndjson", &[]).await;
    bridge.systemd.act(|machine| machine.end_unseen("ci-test-a.service", Exit::Code(0))).await;
    bridge.systemd.act(|machine| machine.unload("ci-test-a.service")).await;
    assert_eq!(waiting.await.unwrap().json()["result"], "success");
    let (told, _) = following.rest().await;
    let end: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!((&end["end"]["result"], &end["end"]["complete"]), (&json!("success"), &json!(true)), "{end}");
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
    let setup = Setup { journal: String::new(), ..Default::default() };
    let bridge = Bridge::with(vec![Unit::job("ci-test-a")], setup).await;
    let unready = bridge.call("GET /readyz").await;
    assert_eq!(unready.status, 503);
    assert!(unready.json()["reasons"][0].as_str().unwrap().contains("journal"), "{unready:?}");
    let answer = bridge.call("GET /api/job/ci-test-a/logs").await;
    assert_eq!(answer.problem(), (503, "journal_unavailable".to_owned()));
    bridge.log(crate::journal::FOREIGN_ENTRY);
    is_ready(&bridge).await;
}

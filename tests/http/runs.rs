//! Runs by their ids: what became of each, also after the bridge has ended and begun again.

use serde_json::{Value, json};

use crate::bridge::{Bridge, Setup};
use crate::journal::line;
use crate::systemd1::{Exit, Start, Unit};

const JOB: &str = "ci-test-a";

async fn run(bridge: &Bridge, id: &str) -> Value {
    let answer = bridge.call(&format!("GET /api/runs/{id}")).await;
    assert_eq!((answer.status, answer.header("x-ci-run-id")), (200, Some(id)), "{answer:?}");
    answer.json()
}

/// The run when it has ended.
async fn ended(bridge: &Bridge, id: &str) -> Value {
    let answer = bridge.call(&format!("GET /api/runs/{id}/result?wait=20")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn history(bridge: &Bridge, query: &str) -> Value {
    let answer = bridge.call(&format!("GET /api/job/{JOB}/runs{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn ids(page: &Value) -> Vec<&str> {
    page["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_the_job_may_not_see_its_run() {
    let bridge = Bridge::new(vec![Unit::job(JOB), Unit::job("ci-test-narrow")]).await;
    let hidden = bridge.start(JOB).await;
    let shown = bridge.start("ci-test-narrow").await;
    for path in ["", "/logs", "/tail", "/tail?follow=true", "/result?wait=20"] {
        let answer = bridge.call_as(&bridge.tokens.narrow, &format!("GET /api/runs/{hidden}{path}")).await;
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("no_such_run")), "{path}");
    }
    let narrow = &bridge.tokens.narrow;
    assert_eq!(bridge.call_as(narrow, &format!("GET /api/runs/{shown}")).await.status, 200);
    assert_eq!(bridge.call_as(narrow, &format!("GET /api/job/{JOB}/runs")).await.status, 404);
    assert_eq!(bridge.call_as("", &format!("GET /api/runs/{shown}")).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_id_and_what_is_no_run_are_answered_alike() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    for id in ["nope", "0", "%00", "01a1ff05-5d47-703e-b97a-feac327ac21d", &"01".repeat(16), &"9".repeat(300)] {
        let answer = bridge.call(&format!("GET /api/runs/{id}")).await;
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("no_such_run")), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_tells_who_asked_for_it_and_what_became_of_it() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let answer = bridge.call(&format!("POST /api/job/{JOB}")).await;
    let id = answer.json()["run"]["id"].as_str().unwrap().to_owned();
    let waiting = bridge.call(&format!("GET /api/runs/{id}/result")).await;
    assert_eq!((waiting.status, &waiting.json()["state"]), (202, &json!("running")));
    bridge.systemd.end(JOB, Exit::Code(3)).await;
    let run = ended(&bridge, &id).await;
    assert_eq!(
        (&run["job"], &run["state"], &run["result"], &run["exit_code"]),
        (&json!(JOB), &json!("ended"), &json!("exit-code"), &json!(3)),
        "{run}"
    );
    let request = answer.header("x-request-id").unwrap();
    assert_eq!((&run["started_by"], &run["request_id"]), (&json!("writer"), &json!(request)), "{run}");
    assert!(run["duration_seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_fails_the_step_that_asks_for_it() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    for (exit, status) in [(Exit::Code(0), 200), (Exit::Code(1), 424), (Exit::Signal(9), 424)] {
        let id = bridge.start(JOB).await;
        assert_eq!(bridge.call(&format!("GET /api/runs/{id}/result?fail=true")).await.status, 202);
        bridge.systemd.end(JOB, exit).await;
        let answer = bridge.call(&format!("GET /api/runs/{id}/result?wait=20&fail=true")).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.json()["state"], "ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_its_id_and_its_verdict_over_a_restart_of_the_bridge() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let id = bridge.start(JOB).await;
    bridge.systemd.end(JOB, Exit::Code(3)).await;
    let before = ended(&bridge, &id).await;
    let bridge = bridge.restart().await;
    let after = run(&bridge, &id).await;
    for member in
        ["id", "job", "state", "result", "exit_code", "started_by", "request_id", "requested_at", "started_at"]
    {
        assert_eq!(after[member], before[member], "{member}");
    }
    let state = bridge.call(&format!("GET /api/job/{JOB}/state")).await.json();
    assert_eq!((&state["run"], &state["result"]), (&json!(id), &json!("exit-code")), "{state}");
    assert_eq!(ids(&history(&bridge, "").await), [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_on_is_found_again() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let id = bridge.start(JOB).await;
    let bridge = bridge.restart().await;
    assert_eq!(run(&bridge, &id).await["state"], "running");
    let busy = bridge.call(&format!("POST /api/job/{JOB}")).await;
    assert_eq!((busy.status, busy.header("x-ci-run-id")), (409, Some(id.as_str())));
    bridge.systemd.end(JOB, Exit::Code(0)).await;
    let run = ended(&bridge, &id).await;
    assert_eq!((&run["result"], &run["started_by"]), (&json!("success"), &json!("writer")), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ended_while_no_bridge_was_there_has_its_verdict() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let id = bridge.start(JOB).await;
    let bridge = bridge.restart_after(async |systemd| systemd.end(JOB, Exit::Code(7)).await).await;
    let run = ended(&bridge, &id).await;
    assert_eq!((&run["result"], &run["exit_code"]), (&json!("exit-code"), &json!(7)), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_end_nobody_knows_is_lost_and_says_why() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let id = bridge.start(JOB).await;
    let unload = async |systemd: &mut crate::systemd1::Systemd1| {
        systemd.end(JOB, Exit::Code(0)).await;
        systemd.act(|machine| machine.unload("ci-test-a.service")).await;
    };
    let bridge = bridge.restart_after(unload).await;
    let request = format!("GET /api/runs/{id}");
    let answer = bridge.until(&request, |answer| answer.json()["reason"].is_string()).await.json();
    assert_eq!((&answer["state"], &answer["result"]), (&json!("ended"), &json!("lost")), "{answer}");
    // It stays so, and the job can run again.
    let bridge = bridge.restart().await;
    assert_eq!(run(&bridge, &id).await["result"], "lost");
    assert_ne!(bridge.start(JOB).await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_somebody_else_started_while_no_bridge_was_there_is_another_one() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let id = bridge.start(JOB).await;
    let again = async |systemd: &mut crate::systemd1::Systemd1| {
        systemd.end(JOB, Exit::Code(0)).await;
        systemd.begin(JOB).await;
    };
    let bridge = bridge.restart_after(again).await;
    let state = bridge.call(&format!("GET /api/job/{JOB}/state")).await.json();
    assert_ne!(state["run"], json!(id));
    assert_eq!(state["run_state"], "running");
    let request = format!("GET /api/runs/{id}");
    let first = bridge.until(&request, |answer| answer.json()["state"] == "ended").await.json();
    assert_eq!(first["result"], "lost", "{first}");
    let page = bridge.until(&format!("GET /api/job/{JOB}/runs"), |page| ids(&page.json()).len() == 2).await.json();
    let who = |id: &Value| {
        let run = page["runs"].as_array().unwrap().iter().find(|run| run["id"] == *id);
        run.map(|run| run["started_by"].clone())
    };
    assert_eq!((who(&json!(id)), who(&state["run"])), (Some(json!("writer")), Some(json!("systemd"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_newest_first_and_comes_in_pages() {
    let bridge =
        Bridge::new(vec![Unit::starting(JOB, Start::EndsBeforeReply(Exit::Code(0))), Unit::job("ci-test-b")]).await;
    let mut started = Vec::new();
    for _ in 0..5 {
        started.push(bridge.start(JOB).await);
    }
    bridge.start("ci-test-b").await;
    started.reverse();
    let page = history(&bridge, "").await;
    assert_eq!(
        (ids(&page), &page["more"], &page["before"]),
        (started.iter().map(String::as_str).collect(), &json!(false), &Value::Null)
    );
    let (mut query, mut seen) = ("?limit=2".to_owned(), Vec::new());
    loop {
        let page = history(&bridge, &query).await;
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(before) = page["before"].as_str() else { break };
        query = format!("?limit=2&before={before}");
    }
    assert_eq!(seen, started);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_came_to_no_run_is_not_in_the_history() {
    let bridge =
        Bridge::new(vec![Unit::starting(JOB, Start::Refused("org.freedesktop.DBus.Error.AccessDenied"))]).await;
    assert_ne!(bridge.call(&format!("POST /api/job/{JOB}")).await.status, 202);
    assert_eq!(ids(&history(&bridge, "").await), [""; 0]);
    let bridge = bridge.restart().await;
    assert_eq!(ids(&history(&bridge, "").await), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_a_timer_is_recorded_under_one_id() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    bridge.systemd.begin(JOB).await;
    bridge.systemd.end(JOB, Exit::Code(0)).await;
    let state =
        bridge.until(&format!("GET /api/job/{JOB}/state"), |state| state.json()["run"].is_string()).await.json();
    let id = state["run"].as_str().unwrap().to_owned();
    let page = bridge.until(&format!("GET /api/job/{JOB}/runs"), |page| !ids(&page.json()).is_empty()).await.json();
    assert_eq!((ids(&page), &page["runs"][0]["started_by"]), (vec![id.as_str()], &json!("systemd")));
    let bridge = bridge.restart().await;
    assert_eq!(ids(&history(&bridge, "").await), [id.as_str()]);
    assert_eq!(run(&bridge, &id).await["result"], "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_run_is_read_by_its_id() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    bridge.play_journald();
    let id = bridge.start(JOB).await;
    bridge.log(&line(JOB, &"01".repeat(16), "of the first run"));
    bridge.systemd.end(JOB, Exit::Code(0)).await;
    ended(&bridge, &id).await;
    let second = bridge.start(JOB).await;
    let texts = async |path: &str| {
        let answer = bridge.call(&format!("GET /api/runs/{path}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    };
    assert!(texts(&format!("{id}/logs?format=text")).await.contains("of the first run"));
    assert!(texts(&format!("{id}/tail?format=text")).await.contains("of the first run"));
    assert!(texts(&format!("{id}/tail?follow=true")).await.contains("of the first run"));
    assert!(!texts(&format!("{second}/logs?format=text")).await.contains("of the first run"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_history_jobs_run_and_only_promises_are_refused() {
    let setup = Setup { history: false, ..Setup::default() };
    let bridge = Bridge::with(vec![Unit::job(JOB)], setup).await;
    let id = bridge.start(JOB).await;
    assert_eq!(run(&bridge, &id).await["state"], "running");
    let unavailable = (503, "history_unavailable".to_owned());
    let bearer = format!("Bearer {}", bridge.tokens.writer);
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "k")];
    assert_eq!(bridge.call_with(&format!("POST /api/job/{JOB}"), &headers).await.problem(), unavailable);
    assert_eq!(bridge.call(&format!("POST /api/job/{JOB}?if_busy=queue")).await.problem(), unavailable);
    bridge.systemd.end(JOB, Exit::Code(0)).await;
    assert_eq!(ended(&bridge, &id).await["result"], "success");
    assert_eq!(ids(&history(&bridge, "").await), [id.as_str()]);
    // What was refused is not in the way.
    bridge.start(JOB).await;
}

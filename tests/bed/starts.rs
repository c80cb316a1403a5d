//! What becomes of a start, and of many at once.

use std::collections::HashSet;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::bridge::{Bridge, lines_of_job};

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_start_that_comes_to_no_run_says_why() {
    let bridge = Bridge::up();
    let forbidden = bridge.post("/api/job/bystander").await;
    for (job, status, code) in [
        ("ci-test-alias", 409, "unit_alias"),
        ("ci-test-masked", 409, "unit_masked"),
        ("ci-test-manual", 409, "start_refused"),
        ("ci-test-condition", 409, "condition_failed"),
        ("ci-test-assert", 409, "assertion_failed"),
        ("ci-test-depends", 409, "dependency_failed"),
        ("ci-test-bad-setting", 422, "unit_broken"),
        ("ci-test-nothing", 404, "no_such_job"),
        ("ci-test-nothing@x", 404, "no_such_job"),
        ("bystander", 404, "no_such_job"),
        ("innocent", 404, "no_such_job"),
        ("nothing", 404, "no_such_job"),
        ("ci-bridge", 404, "no_such_job"),
        ("ci-test-", 404, "no_such_job"),
        ("ci-test-build@", 400, "invalid_job_name"),
        ("ci-test-hello.service", 400, "invalid_job_name"),
        ("ci-test-hello%20", 400, "invalid_job_name"),
    ] {
        let path = format!("/api/job/{job}");
        let answer = bridge.post(&path).await;
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{job}: {}", answer.text());
        if status == 404 {
            // What there is not and what is not allowed can't be told apart.
            assert_eq!(without_request_id(&answer.json()), without_request_id(&forbidden.json()), "{job}");
            let names = |headers: &reqwest::header::HeaderMap| headers.keys().cloned().collect::<HashSet<_>>();
            assert_eq!(names(&answer.headers), names(&forbidden.headers), "{job}");
        }
        let state = bridge.get(&format!("{path}/state")).await;
        let run = if state.status == 200 { state.json()["run"].clone() } else { Value::Null };
        assert_eq!(run, Value::Null, "{job} has a run");
    }
    for expected in [202, 202, 429] {
        let answer = bridge.post("/api/job/ci-test-limit").await;
        assert_eq!(answer.status, expected, "{}", answer.text());
        if expected == 429 {
            assert_eq!(answer.refusal().1, "start_limit_hit");
            assert_eq!(answer.header("retry-after"), "10");
        } else {
            bridge.end_of("ci-test-limit", answer.header("x-ci-run-id")).await;
        }
    }
    // The refused start has not spoiled the verdict of the last run.
    assert_eq!(bridge.state("ci-test-limit").await["result"], "success");
    assert!(!bridge.bed.enter(["test", "-e", "/run/innocent-was-started"]).status.success());
    assert_eq!(bridge.bed.ok(["systemctl", "is-active", "bystander"]), "active\n");
    assert!(!bridge.bed.ok(["journalctl", "--output=cat"]).contains("was ignored"));
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_unit_file_that_others_may_write_is_not_started() {
    let bridge = Bridge::up();
    bridge.bed.sh(
        "cp /etc/systemd/system/ci-test-{hello,open}.service && chmod 0666 /etc/systemd/system/ci-test-open.service",
    );
    bridge.bed.sh("cp /etc/systemd/system/ci-test-{hello,owned}.service && chown someone /etc/systemd/system/ci-test-owned.service");
    bridge.bed.sh("cp /etc/systemd/system/ci-test-hello.service /home/ci-test-linked.service && systemctl link /home/ci-test-linked.service");
    for job in ["ci-test-open", "ci-test-owned", "ci-test-linked"] {
        assert_eq!(bridge.post(&format!("/api/job/{job}")).await.refusal(), (409, "unit_unsafe".to_owned()), "{job}");
        assert_eq!(bridge.bed.ok(["journalctl", "--output=cat", "--unit", job]), "", "{job}");
    }
    // A unit file that came without a daemon-reload is started as well.
    bridge.bed.sh("cp /etc/systemd/system/ci-test-{hello,new}.service");
    assert_eq!(lines_of_job(&after_run(&bridge, "ci-test-new").await), ["hello", "this is the second line", "done"]);
}

async fn after_run(bridge: &Bridge, job: &str) -> Value {
    bridge.run(job).await;
    bridge.logs(job).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a bed: make test"]
async fn of_a_hundred_starts_at_once_one_makes_a_run() {
    let bridge = Arc::new(Bridge::up());
    let mut starts = JoinSet::new();
    for _ in 0..100 {
        let bridge = bridge.clone();
        starts.spawn(async move { bridge.post("/api/job/ci-test-gate").await });
    }
    let answers = starts.join_all().await;
    let (started, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 202);
    let [started] = started.as_slice() else { panic!("{} runs were started", started.len()) };
    let run = started.json()["run"]["id"].clone();
    assert_eq!(started.header("location"), format!("/api/job/ci-test-gate/state?run={}", run.as_str().unwrap()));
    for answer in refused {
        assert_eq!(answer.refusal(), (409, "busy".to_owned()));
        assert_eq!((&answer.json()["run"]["id"], answer.header("x-ci-run-id")), (&run, run.as_str().unwrap()));
    }
    let joined = bridge.post("/api/job/ci-test-gate?if_busy=join").await;
    assert_eq!((joined.status, &joined.json()["run"]["id"]), (200, &run));
    bridge.gate("exit 0");
    assert_eq!(bridge.end_of("ci-test-gate", run.as_str().unwrap()).await["result"], "success");
    let log = bridge.logs("ci-test-gate").await;
    assert_eq!((lines_of_job(&log), &log["complete"]), (vec!["open".to_owned()], &json!(true)));
    let starting = bridge.bed.sh("journalctl -o cat -u ci-test-gate | grep -c ^Starting");
    assert_eq!(starting, "1\n");
    // Idle again, so joining starts a run.
    let next = bridge.post("/api/job/ci-test-gate?if_busy=join").await;
    assert_eq!(next.status, 202);
    assert_ne!(next.json()["run"]["id"], run);
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_start_that_polkit_takes_long_to_decide_is_the_run_that_comes_of_it() {
    let bridge = Bridge::up();
    // After this systemd need not be asked any more to keep the unit in memory, which polkit decides too.
    bridge.run("ci-test-hello").await;
    // polkit 122 takes 15 s instead of a millisecond for a decision now and then.
    bridge.bed.ok(["pkill", "--signal", "STOP", "--exact", "polkitd"]);
    let start = bridge.post("/api/job/ci-test-hello").await;
    assert_eq!((start.status, &start.json()["run"]["state"]), (202, &json!("queued")));
    let run = start.header("x-ci-run-id");
    assert_eq!(bridge.post("/api/job/ci-test-hello").await.refusal(), (409, "busy".to_owned()));
    // Ten seconds have gone, and now eight more.
    let state = bridge.get(&format!("/api/job/ci-test-hello/state?run={run}&wait=8")).await.ok();
    assert_eq!(state["run_state"], "queued", "{state}");
    bridge.bed.ok(["pkill", "--signal", "CONT", "--exact", "polkitd"]);
    let state = bridge.end_of("ci-test-hello", run).await;
    assert_eq!((&state["run"], &state["result"]), (&json!(run), &json!("success")), "{state}");
    let starting = bridge.bed.sh("journalctl -o cat -u ci-test-hello | grep -c ^Starting");
    assert_eq!(starting, "2\n");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn every_run_of_a_tiny_job_has_its_own_line() {
    let bridge = Bridge::up();
    let mut runs = Vec::new();
    for _ in 0..200 {
        // As fast as the API lets: the run before may still be under way.
        let start = bridge.until(Method::POST, "/api/job/ci-test-tiny", |answer| answer.status != 409).await;
        assert_eq!(start.status, 202, "{}", start.text());
        runs.push(start.header("x-ci-run-id").to_owned());
    }
    let mut invocations = HashSet::new();
    for (number, run) in runs.iter().enumerate() {
        let state = bridge.end_of("ci-test-tiny", run).await;
        assert_eq!((&state["run"], &state["result"]), (&json!(run), &json!("success")), "run {number}: {state}");
        assert!(invocations.insert(state["invocation_id"].clone()), "run {number}: {state}");
        let log = bridge.get(&format!("/api/job/ci-test-tiny/logs?run={run}")).await.ok();
        assert_eq!(lines_of_job(&log), ["tiny"], "run {number} of {}: {log}", state["invocation_id"]);
        assert_eq!((&log["run"], &log["complete"]), (&json!(run), &json!(true)), "run {number}");
        let by_systemd = log["logs"].as_array().unwrap().iter().filter(|entry| entry["source"] == "systemd").count();
        assert_eq!(by_systemd, 3, "run {number}: {log}");
    }
    bridge.bed.ok(["journalctl", "--sync"]);
    let printed = bridge.bed.sh("journalctl -o cat _SYSTEMD_UNIT=ci-test-tiny.service | grep -cx tiny");
    assert_eq!(printed, "200\n");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_tiny_job_that_is_read_at_once_has_its_line() {
    let bridge = Bridge::up();
    for round in 0..40 {
        let state = bridge.run("ci-test-tiny").await;
        let log = bridge.logs("ci-test-tiny").await;
        assert_eq!((lines_of_job(&log), &log["run"]), (vec!["tiny".to_owned()], &state["run"]), "round {round}: {log}");
        assert_eq!(log["complete"], true, "round {round}");
        // A job that ends in the moment in which it starts, and says nothing.
        let silent = bridge.run("ci-test-silent").await;
        assert_eq!((&silent["result"], &silent["exit_code"]), (&json!("success"), &json!(0)), "round {round}");
        let log = bridge.logs("ci-test-silent").await;
        assert_eq!((lines_of_job(&log), &log["run"]), (vec![], &silent["run"]), "round {round}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a bed: make test"]
async fn instances_run_at_once_and_keep_their_lines_apart() {
    let bridge = Arc::new(Bridge::up());
    let mut jobs = JoinSet::new();
    for number in 0..20 {
        let bridge = bridge.clone();
        jobs.spawn(async move {
            let query = format!("instance=feature/number%20{number}");
            let start = bridge.post(&format!("/api/job/ci-test-build@?{query}")).await;
            assert_eq!(start.status, 202, "{}", start.text());
            let run = start.header("x-ci-run-id");
            let state = bridge.get(&format!("/api/job/ci-test-build@/state?{query}&run={run}&wait=50")).await.ok();
            assert_eq!(state["result"], "success", "{state}");
            let log = bridge.get(&format!("/api/job/ci-test-build@/logs?{query}&run={run}")).await.ok();
            let written = format!(r"written feature-number\x20{number}");
            assert_eq!(lines_of_job(&log), [written, format!("meant feature/number {number}")], "{log}");
            assert_eq!(log["complete"], true);
        });
    }
    jobs.join_all().await;
}

fn without_request_id(problem: &Value) -> Value {
    let mut problem = problem.clone();
    problem.as_object_mut().unwrap().remove("request_id");
    problem
}

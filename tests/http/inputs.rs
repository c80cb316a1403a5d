//! Inputs: what a start may bring, and which run gets it.

use std::collections::BTreeMap;

use ci_bridge::inputs::{Input, InputName, Inputs, Pattern};
use ci_bridge::jobs::InputError;
use ci_bridge::policy::{AllowedJob, JobName, Policy, Prefix};
use serde_json::json;

use crate::bridge::{Bridge, Setup};
use crate::systemd1::{Exit, Start, Unit};
use crate::wire::Answer;

const JOB: &str = "/api/job/ci-test-a";

fn job(name: &str) -> AllowedJob {
    Policy::new(vec![Prefix::parse("ci-test-").unwrap()]).admit(&JobName::parse(name).unwrap()).unwrap()
}

fn input(name: &str, required: bool, default: Option<&str>) -> (InputName, Input) {
    let pattern = Pattern::parse("v[0-9.]+").unwrap();
    (InputName::parse(name).unwrap(), Input::new(Some(pattern), required, default).unwrap())
}

/// A bridge where `ci-test-a` takes a `version`, and `ci-test-strict` requires one.
fn setup() -> Setup {
    let inputs = Inputs::new(BTreeMap::from([
        (job("ci-test-a").name().clone(), BTreeMap::from([input("version", false, Some("v1"))])),
        (job("ci-test-strict").name().clone(), BTreeMap::from([input("version", true, None)])),
    ]));
    Setup { inputs, ..Setup::default() }
}

async fn bridge(units: Vec<Unit>) -> Bridge {
    Bridge::with(units, setup()).await
}

async fn restart(bridge: Bridge) -> Bridge {
    bridge.restart_as(setup(), async |_| {}).await
}

/// What systemd is told when it asks for the version of a job.
async fn version(bridge: &Bridge, name: &str) -> Result<String, InputError> {
    bridge.jobs.input(&job(name), &InputName::parse("version").unwrap()).await
}

async fn start(bridge: &Bridge, job: &str, version: &str) {
    let body = json!({"inputs": {"version": version}}).to_string();
    let answer = bridge.call_with_body(&format!("POST /api/job/{job}"), &[], &body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_breaks_a_rule_is_refused_by_name_and_nothing_is_asked_of_systemd() {
    let bridge = bridge(vec![Unit::job("ci-test-a"), Unit::job("ci-test-b"), Unit::job("ci-test-strict")]).await;
    for (job, body, code, input, rule) in [
        ("ci-test-a", json!({"version": "latest"}), "input_invalid", "version", "must match `v[0-9.]+` as a whole"),
        ("ci-test-a", json!({"version": "v1\nv2"}), "input_invalid", "version", "must match `v[0-9.]+` as a whole"),
        ("ci-test-a", json!({"version": "v1\u{0}"}), "input_invalid", "version", "must not contain control characters"),
        ("ci-test-a", json!({"version": 1.10}), "input_invalid", "version", "must be a text, in quotes"),
        ("ci-test-a", json!({"version": "v".repeat(4097)}), "input_invalid", "version", "at most 4096 bytes"),
        ("ci-test-a", json!({"version": "v2", "verbose": "v1"}), "input_unknown", "verbose", "it takes: version"),
        ("ci-test-b", json!({"version": "v2"}), "input_unknown", "version", "it takes none"),
        ("ci-test-strict", json!({}), "input_missing", "version", "is required"),
    ] {
        let body = json!({ "inputs": body }).to_string();
        let answer = bridge.call_with_body(&format!("POST /api/job/{job}"), &[], &body).await;
        assert_eq!(answer.problem(), (422, code.to_owned()), "{body}");
        let problem = answer.json();
        assert_eq!(problem["input"], input, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(rule), "{problem}");
    }
    assert_eq!(bridge.call("POST /api/job/ci-test-strict").await.problem(), (422, "input_missing".to_owned()));
    assert_eq!(bridge.systemd.take_calls(), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_none_of_the_apis_starts_nothing() {
    let bridge = bridge(vec![Unit::job("ci-test-a")]).await;
    for body in ["version=v2", "[]", r#"{"version": "v2"}"#, r#"{"inputs": ["v2"]}"#, "{"] {
        let answer = bridge.call_with_body(&format!("POST {JOB}"), &[], body).await;
        assert_eq!(answer.problem(), (400, "invalid_body".to_owned()), "{body}");
    }
    assert_eq!(bridge.systemd.count("StartUnit"), 0);
    // What is none of the caller's is not told apart by its inputs either.
    let hidden = bridge.call_with_body("POST /api/job/sshd", &[], r#"{"inputs": {"a": "b"}}"#).await;
    assert_eq!(hidden.problem(), (404, "no_such_job".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_that_was_asked_for_gets_its_inputs_also_after_its_end() {
    let bridge = bridge(vec![Unit::job("ci-test-a")]).await;
    start(&bridge, "ci-test-a", "v1.2").await;
    for _ in 0..2 {
        assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1.2");
    }
    // ExecStopPost= runs when the verdict is there.
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1.2");
    start(&bridge, "ci-test-a", "v1.3").await;
    assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1.3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_a_timer_gets_the_defaults_and_not_those_of_the_run_before() {
    let bridge = bridge(vec![Unit::job("ci-test-a"), Unit::job("ci-test-strict")]).await;
    start(&bridge, "ci-test-a", "v1.2").await;
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    bridge.systemd.begin("ci-test-a").await;
    assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1");
    bridge.systemd.begin("ci-test-strict").await;
    let error = version(&bridge, "ci-test-strict").await.unwrap_err();
    assert_eq!(error.to_string(), "the input `version` is required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_its_inputs_over_a_restart_of_the_bridge() {
    let bridge = bridge(vec![Unit::job("ci-test-a")]).await;
    start(&bridge, "ci-test-a", "v1.2").await;
    let bridge = restart(bridge).await;
    assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1.2");
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    // And one of a timer has none to keep.
    bridge.systemd.begin("ci-test-a").await;
    assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1");
    let bridge = restart(bridge).await;
    assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_has_its_own_inputs_also_after_a_restart() {
    let bridge = bridge(vec![Unit::job("ci-test-a")]).await;
    start(&bridge, "ci-test-a", "v1.2").await;
    let body = json!({"inputs": {"version": "v1.3"}}).to_string();
    let waiting = bridge.call_with_body(&format!("POST {JOB}?if_busy=queue"), &[], &body).await;
    assert_eq!((waiting.status, &waiting.json()["run"]["state"]), (202, &json!("queued")));
    let waiting = waiting.header("x-ci-run-id").unwrap().to_owned();
    assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1.2");
    let bridge = restart(bridge).await;
    assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1.2");
    let run = bridge.call(&format!("GET /api/runs/{waiting}")).await.json();
    assert_eq!((&run["state"], &run["inputs"]), (&json!("queued"), &json!({"version": "v1.3"})));
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    let is_running = |answer: &Answer| answer.json()["state"] == "running";
    bridge.until(&format!("GET /api/runs/{waiting}"), is_running).await;
    assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1.3");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_longer_fits_is_not_passed_on() {
    let bridge = bridge(vec![Unit::job("ci-test-a")]).await;
    start(&bridge, "ci-test-a", "v1.2").await;
    // The administrator has taken the input out.
    let bridge = bridge.restart().await;
    let error = version(&bridge, "ci-test-a").await.unwrap_err();
    assert_eq!(error.to_string(), "the job has no input `version`; it takes none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_the_inputs_too() {
    let bridge = bridge(vec![Unit::job("ci-test-a")]).await;
    let send =
        async |body: &str| bridge.call_with_body(&format!("POST {JOB}"), &[("Idempotency-Key", "k")], body).await;
    let first = send(r#"{"inputs": {"version": "v1.2"}}"#).await;
    assert_eq!(first.status, 202, "{first:?}");
    let again = send(r#" {"inputs":{"version":"v1.2"}}"#).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (202, Some("true")));
    assert_eq!(again.header("x-ci-run-id"), first.header("x-ci-run-id"));
    for other in ["", r#"{"inputs": {"version": "v1.3"}}"#] {
        assert_eq!(send(other).await.problem(), (422, "idempotency_key_reused".to_owned()), "{other}");
    }
    assert_eq!(bridge.systemd.count("StartUnit"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_refused_leaves_its_inputs_to_nobody() {
    let bridge = bridge(vec![Unit::job("ci-test-a")]).await;
    // It was started by somebody else in the same moment.
    bridge.systemd.act(|machine| machine.begin_unseen("ci-test-a.service")).await;
    let body = json!({"inputs": {"version": "v6.6.6"}}).to_string();
    let answer = bridge.call_with_body(&format!("POST {JOB}"), &[], &body).await;
    assert_eq!(answer.problem(), (409, "busy".to_owned()));
    assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1");
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    bridge.until(&format!("GET {JOB}/state"), |answer| answer.json()["run_state"] == "ended").await;

    bridge.systemd.change("ci-test-a", |unit| unit.start = Start::Fails("failed")).await;
    assert_eq!(
        bridge.call_with_body(&format!("POST {JOB}"), &[], &body).await.problem(),
        (422, "start_failed".to_owned())
    );
    bridge.systemd.change("ci-test-a", |unit| unit.start = Start::Runs).await;
    bridge.systemd.begin("ci-test-a").await;
    assert_eq!(version(&bridge, "ci-test-a").await.unwrap(), "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_joined_only_with_the_same_inputs() {
    let bridge = bridge(vec![Unit::job("ci-test-a")]).await;
    start(&bridge, "ci-test-a", "v1.2").await;
    let join = async |body: &str| bridge.call_with_body(&format!("POST {JOB}?if_busy=join"), &[], body).await;
    assert_eq!(join(r#"{"inputs": {"version": "v1.3"}}"#).await.problem(), (409, "busy".to_owned()));
    assert_eq!(join("").await.problem(), (409, "busy".to_owned()));
    assert_eq!(join(r#"{"inputs": {"version": "v1.2"}}"#).await.status, 200);
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    // A run of a timer has the defaults.
    bridge.systemd.begin("ci-test-a").await;
    let second = "02".repeat(16);
    bridge.until(&format!("GET {JOB}/state"), |answer| answer.json()["invocation_id"] == second.as_str()).await;
    assert_eq!(join(r#"{"inputs": {"version": "v1.2"}}"#).await.problem(), (409, "busy".to_owned()));
    assert_eq!(join("").await.status, 200);
    assert_eq!(join(r#"{"inputs": {"version": "v1"}}"#).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_run_at_once_have_their_own_inputs() {
    let units = (0..8).map(|number| Unit::job(&format!("ci-test-a@{number}"))).collect();
    let inputs = Inputs::new(BTreeMap::from([(
        JobName::parse("ci-test-a@").unwrap(),
        BTreeMap::from([input("version", true, None)]),
    )]));
    let bridge = Bridge::with(units, Setup { inputs, ..Setup::default() }).await;
    for number in 0..8 {
        start(&bridge, &format!("ci-test-a@{number}"), &format!("v{number}")).await;
    }
    for number in 0..8 {
        assert_eq!(version(&bridge, &format!("ci-test-a@{number}")).await.unwrap(), format!("v{number}"));
    }
    let other = bridge.jobs.input(&job("ci-test-a@0"), &InputName::parse("other").unwrap()).await.unwrap_err();
    assert_eq!(other.to_string(), "the job has no input `other`; it takes: version");
}

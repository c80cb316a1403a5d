//! The main job: start, wait, verdict, log.

use serde_json::{Value, json};

use crate::bridge::{Bridge, lines, lines_of_job};

/// What systemd says in the name of a job that it can't execute.
const NOT_EXECUTED: [&str; 2] = [
    "ci-test-badexec.service: Failed to locate executable /nonexistent/program: No such file or directory",
    "ci-test-badexec.service: Failed at step EXEC spawning /nonexistent/program: No such file or directory",
];

/// A job, its result, exit code and signal, and all that it prints.
type Verdict = (&'static str, &'static str, Option<u8>, Option<&'static str>, &'static [&'static str]);

const VERDICTS: [Verdict; 7] = [
    ("ci-test-hello", "success", Some(0), None, &["hello", "this is the second line", "done"]),
    ("ci-test-silent", "success", Some(0), None, &[]),
    ("ci-test-noeol", "success", Some(0), None, &["first line", "no end of line"]),
    ("ci-test-fail", "exit-code", Some(3), None, &["about to fail"]),
    ("ci-test-badexec", "exit-code", Some(203), None, &NOT_EXECUTED),
    ("ci-test-signal", "signal", None, Some("SIGKILL"), &["about to be killed"]),
    ("ci-test-timeout", "timeout", None, Some("SIGTERM"), &["started"]),
];

fn active_state(result: &str) -> &str {
    if result == "success" { "inactive" } else { "failed" }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn the_verdict_of_a_run_and_its_whole_log_are_told() {
    let bridge = Bridge::up();
    for (job, result, exit_code, signal, printed) in VERDICTS {
        let state = bridge.run(job).await;
        assert_eq!(
            [&state["state"], &state["result"], &state["exit_code"], &state["signal"]],
            [&json!(active_state(result)), &json!(result), &json!(exit_code), &json!(signal)],
            "{job}: {state}"
        );
        assert!(state["started_at"].as_str() < state["finished_at"].as_str(), "{job}: {state}");
        let log = bridge.logs(job).await;
        // journald does not know whose a message is if the process that sent it is gone when it is read; that does not
        // happen to what a job prints.
        if job == "ci-test-badexec" {
            assert!(lines_of_job(&log).iter().all(|line| printed.contains(&line.as_str())), "{job}: {log}");
        } else {
            assert_eq!(lines_of_job(&log), printed, "{job}: {log}");
        }
        assert_eq!((&log["complete"], &log["gap"], &log["run"]), (&json!(true), &json!(false), &state["run"]), "{job}");
        assert_eq!(log["result"], result, "{job}");
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_run_is_known_after_systemd_or_the_bridge_has_forgotten_it() {
    let bridge = Bridge::up();
    let mut before = Vec::new();
    for (job, ..) in VERDICTS {
        before.push((bridge.run(job).await, bridge.logs(job).await));
    }
    let is_the_same = async |forgetting: &str, by_id: bool| {
        for ((job, result, exit_code, signal, _), (ended, log)) in VERDICTS.into_iter().zip(&before) {
            let asked = if by_id { format!("?run={}", text(&ended["run"])) } else { String::new() };
            let state = bridge.get(&format!("/api/job/{job}/state{asked}")).await.ok();
            let verdict = [&state["result"], &state["signal"], &state["invocation_id"]];
            assert_eq!(
                verdict,
                [&json!(result), &json!(signal), &ended["invocation_id"]],
                "after {forgetting}, {job}: {state}"
            );
            // systemd writes no exit code of a success into the journal.
            if result != "success" {
                assert_eq!(state["exit_code"], json!(exit_code), "after {forgetting}, {job}: {state}");
            }
            let now = bridge.get(&format!("/api/job/{job}/logs{asked}")).await.ok();
            assert_eq!((&now["logs"], &now["complete"]), (&log["logs"], &json!(true)), "after {forgetting}, {job}");
        }
    };
    bridge.bed.ok(["systemctl", "daemon-reload"]);
    is_the_same("daemon-reload", true).await;
    bridge.bed.ok(["systemctl", "daemon-reexec"]);
    is_the_same("daemon-reexec", true).await;
    bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    is_the_same("a restart of the bridge, while systemd remembers the failures", false).await;
    bridge.bed.ok(["systemctl", "reset-failed"]);
    is_the_same("reset-failed", false).await;
    bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    is_the_same("a restart of the bridge, when only the journal knows", false).await;
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_running_job_shows_its_lines_so_far_whoever_started_it() {
    let bridge = Bridge::up();
    assert_eq!(bridge.state("ci-test-gate").await["run"], Value::Null);
    for by_hand in [false, true] {
        if by_hand {
            bridge.bed.ok(["systemctl", "start", "--no-block", "ci-test-gate"]);
        } else {
            bridge.start("ci-test-gate").await;
        }
        bridge.gate("one");
        let log = bridge.log_with("ci-test-gate", "one").await;
        assert_eq!(lines_of_job(&log), ["open", "one"]);
        let known = [&log["state"], &log["run_state"], &log["result"], &log["complete"]];
        assert_eq!(known, [&json!("activating"), &json!("running"), &Value::Null, &json!(false)]);
        let state = bridge.get("/api/job/ci-test-gate/state?wait=1").await.ok();
        assert_eq!((&state["run_state"], &state["result"]), (&json!("running"), &Value::Null));
        assert_eq!(bridge.post("/api/job/ci-test-gate").await.refusal(), (409, "busy".to_owned()));
        bridge.gate("exit 4");
        let state = bridge.end_of("ci-test-gate", &text(&state["run"])).await;
        assert_eq!((&state["result"], &state["exit_code"]), (&json!("exit-code"), &json!(4)), "{state}");
        assert_eq!(lines_of_job(&bridge.logs("ci-test-gate").await), ["open", "one"]);
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_stopped_run_is_called_stopped_and_its_log_is_whole() {
    let bridge = Bridge::up();
    for job in ["ci-test-long", "ci-test-service"] {
        let stop = format!("/api/job/{job}/stop");
        let idle = bridge.post(&stop).await.ok();
        assert_eq!(idle["msg"], "Job was not active");
        let run = bridge.start(job).await;
        // Not before its first line: what is killed sooner says nothing.
        bridge.log_with(job, "started").await;
        assert_eq!(bridge.post(&stop).await.ok()["msg"], "Job stopped", "{job}");
        let state = bridge.end_of(job, &run).await;
        assert_eq!((&state["result"], &state["signal"]), (&json!("stopped"), &json!("SIGTERM")), "{job}: {state}");
        let log = bridge.logs(job).await;
        assert_eq!(lines_of_job(&log), ["started"], "{job}");
        assert!(lines(&log).last().is_some_and(|line| line.starts_with("Stopped ")), "{job}: {log}");
        assert_eq!((&log["result"], &log["complete"]), (&json!("stopped"), &json!(true)), "{job}");
        assert_eq!(bridge.post(&stop).await.ok()["msg"], "Job was not active", "{job}");
        assert_eq!(bridge.end_of(job, &run).await["result"], "stopped", "{job}");
        bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
        assert_eq!(bridge.state(job).await["result"], "stopped", "{job}, after a restart of the bridge");
        bridge.bed.enter(["systemctl", "reset-failed", job]);
        bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
        assert_eq!(bridge.state(job).await["result"], "stopped", "{job}, from the journal alone");
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

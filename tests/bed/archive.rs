//! Logs that journald has deleted, and a disk on which there is no room for them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::bridge::{Bridge, lines_of_job};
use crate::machine::Bed;

const ARCHIVE: &str = "/var/lib/ci-bridge/logs";

/// Has the line of a setting that is shown as a comment count, with another value.
fn set(bed: &Bed, key: &str, value: &str) {
    bed.sh(&format!(
        "grep -q '^#*{key} = ' /etc/ci-bridge/config.toml && \
         sed -i 's/^#*{key} = .*/{key} = {value}/' /etc/ci-bridge/config.toml"
    ));
}

/// Has journald delete all that it has of a job, as it does to make room.
fn vacuum(bed: &Bed, job: &str) {
    bed.ok([
        "timeout",
        "40",
        "bash",
        "-c",
        // The namespace is not there before a job has printed into it.
        r#"while journalctl --namespace=* --quiet --output=cat --unit "$1" | grep -q ''; do
               journalctl --rotate --vacuum-time=1s
               journalctl --namespace=ci --rotate --vacuum-time=1s || true
           done 2>/dev/null"#,
        "bash",
        job,
    ]);
}

/// Waits until the log of a run is in the archive.
fn await_archived(bed: &Bed, run: &Value) {
    let invocation = run["invocation_id"].as_str().unwrap();
    let path = format!("{ARCHIVE}/{}/{invocation}.log", &invocation[..2]);
    bed.ok(["timeout", "50", "bash", "-c", "until test -e \"$1\"; do :; done", "bash", &path]);
}

async fn run(bridge: &Bridge, id: &str) -> Value {
    bridge.get(&format!("/api/runs/{id}")).await.ok()
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_log_is_the_same_byte_by_byte_when_journald_has_deleted_it() {
    const JOBS: [&str; 8] = [
        "ci-test-hello",
        "ci-test-burst",
        "ci-test-binary",
        "ci-test-noeol",
        "ci-test-bigline",
        "ci-test-fail",
        "ci-test-silent",
        "ci-test-namespace",
    ];
    const FORMS: [&str; 6] = [
        "logs?format=text",
        "logs?format=text&raw=true",
        "logs?format=json",
        "logs?format=ndjson",
        "logs?lines=10&order=desc",
        "tail?follow=true&format=sse&lines=10000",
    ];
    let bridge = Bridge::up();
    set(&bridge.bed, "enabled", "false");
    bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    bridge.until(Method::GET, "/readyz", |answer| answer.status == 200).await;
    let mut known = Vec::new();
    for job in JOBS {
        let id = bridge.start(job).await;
        bridge.end_of(job, &id).await;
        for form in FORMS {
            let path = format!("/api/runs/{id}/{form}");
            known.push((job, id.clone(), bridge.get(&path).await.body, path));
        }
    }
    assert!(known.iter().any(|(.., body, _)| body.len() > 1_000_000));
    set(&bridge.bed, "enabled", "true");
    bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    bridge.until(Method::GET, "/readyz", |answer| answer.status == 200).await;
    for (job, id, ..) in known.iter().step_by(FORMS.len()) {
        await_archived(&bridge.bed, &run(&bridge, id).await);
        vacuum(&bridge.bed, job);
    }
    for (job, id, body, path) in &known {
        assert!(bridge.get(path).await.body == *body, "{path} is not what it was");
        let is_complete = |run: &Value| run["complete"] == json!(true);
        assert!(is_complete(&run(&bridge, id).await), "{job}");
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_full_disk_costs_no_run_and_is_overcome_without_a_restart() {
    const JOB: &str = "ci-test-burst";
    let bridge = Bridge::up();
    set(&bridge.bed, "keep_free", "\"0B\"");
    bridge.bed.sh(&format!(
        "systemctl stop ci-bridge
         mkdir -p {ARCHIVE}
         mount -t tmpfs -o size=4m,mode=0700,uid=$(id -u ci-bridge),gid=$(id -g ci-bridge) tmpfs {ARCHIVE}
         systemctl start ci-bridge"
    ));
    bridge.until(Method::GET, "/readyz", |answer| answer.status == 200).await;
    let process = || bridge.bed.ok(["systemctl", "show", "--property=MainPID,NRestarts", "ci-bridge"]);
    let before = process();
    bridge.bed.sh(&format!("until test -d {ARCHIVE}/new; do :; done; ! head -c 8M /dev/zero >{ARCHIVE}/filler"));

    // journald deletes the log of this one before there is room for it,
    let first = bridge.start(JOB).await;
    bridge.end_of(JOB, &first).await;
    bridge.bed.await_log("ci-bridge", "is not archived, but will be tried again");
    let log = bridge.logs(JOB).await;
    assert_eq!((&log["complete"], &log["gap"]), (&json!(true), &json!(false)));
    vacuum(&bridge.bed, JOB);
    // but not of this one.
    let second = bridge.start(JOB).await;
    bridge.end_of(JOB, &second).await;
    let whole = bridge.get(&format!("/api/runs/{second}/logs")).await.ok();
    assert!(!lines_of_job(&whole).is_empty());
    assert_eq!(bridge.bed.sh(&format!("find {ARCHIVE} -name '*.log' -o -path '*/new/*'")), "");

    bridge.bed.sh(&format!("rm {ARCHIVE}/filler"));
    await_archived(&bridge.bed, &run(&bridge, &second).await);
    vacuum(&bridge.bed, JOB);
    assert_eq!(bridge.get(&format!("/api/runs/{second}/logs")).await.ok(), whole);

    let is_incomplete = |answer: &crate::bridge::Answer| answer.json()["complete"] == json!(false);
    let lost = bridge.until(Method::GET, &format!("/api/runs/{first}"), is_incomplete).await.json();
    assert_eq!((&lost["state"], &lost["result"]), (&json!("ended"), &json!("success")), "{lost}");
    let log = bridge.get(&format!("/api/runs/{first}/logs")).await.ok();
    assert_eq!((&log["logs"], &log["complete"], &log["gap"]), (&json!([]), &json!(false), &json!(true)), "{log}");
    assert_eq!(process(), before);
}

//! The bridge is killed, or the power is cut: no run that was answered is lost, and none is started twice.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use reqwest::Method;
use serde_json::{Value, json};

use crate::bridge::{Bridge, lines_of_job};

const GATE: &str = "ci-test-gate";
/// Notes each of its runs in a file, so that a second one shows.
const NOTES: &str = "[Unit]\nDescription=Note a run\n[Service]\nType=oneshot\n\
    ExecStart=/bin/sh -c 'echo %i >>/var/lib/ci-test/notes; echo noted %i'\n";
/// Kills are no reason to give up.
const PATIENT: &str = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=50ms\n";
const KILL: &str = "systemctl kill --kill-whom=main --signal=KILL ci-bridge";
const ROUNDS: usize = 30;

async fn run(bridge: &Bridge, id: &str) -> Value {
    bridge.until(Method::GET, &format!("/api/runs/{id}"), |answer| answer.status == 200).await.json()
}

async fn ended(bridge: &Bridge, id: &str) -> Value {
    let path = format!("/api/runs/{id}/result?wait=20");
    let deadline = std::time::Instant::now() + crate::bridge::PATIENCE;
    loop {
        assert!(std::time::Instant::now() < deadline, "{path}: it does not end");
        // The bridge may be killed meanwhile.
        let Ok(answer) = bridge.try_send(Method::GET, &path, &bridge.writer).await else { continue };
        if answer.status == 200 && answer.json()["state"] == "ended" {
            return answer.json();
        }
    }
}

/// Sends a start until it is answered with a run, with the same key each time.
async fn insist(bridge: &Bridge, round: usize) -> String {
    let path = format!("/api/job/ci-test-note@{round}");
    let deadline = std::time::Instant::now() + crate::bridge::PATIENCE;
    loop {
        assert!(std::time::Instant::now() < deadline, "{path} was never answered");
        let Ok(answer) = bridge.post_with_key(&path, &format!("round-{round}")).await else { continue };
        match answer.status {
            202 => return answer.header("x-ci-run-id").to_owned(),
            // It is being carried out, or the bridge begins.
            409 | 502 | 503 => {}
            _ => panic!("{path}: {}", answer.text()),
        }
    }
}

/// A bridge that is started again however often it is killed, with jobs that note their runs.
fn patient() -> Bridge {
    let bridge = Bridge::up();
    bridge.bed.write("/etc/systemd/system/ci-test-note@.service", NOTES);
    bridge.bed.ok(["mkdir", "/etc/systemd/system/ci-bridge.service.d"]);
    bridge.bed.write("/etc/systemd/system/ci-bridge.service.d/patient.conf", PATIENT);
    bridge.bed.sh("systemctl daemon-reload && systemctl restart ci-bridge");
    bridge
}

/// Each of these runs, the number of which is its place, was carried out once and is known whole.
async fn each_ran_once(bridge: &Bridge, runs: &[String]) {
    for (round, id) in runs.iter().enumerate() {
        let run = ended(bridge, id).await;
        assert_eq!((&run["result"], &run["started_by"]), (&json!("success"), &json!("ci")), "{run}");
        let log =
            bridge.until(Method::GET, &format!("/api/runs/{id}/logs"), |answer| answer.status == 200).await.json();
        assert_eq!(lines_of_job(&log), [format!("noted {round}")], "{log}");
        assert_eq!(log["complete"], true, "{log}");
        // And a request that comes late gets its answer again.
        assert_eq!(&insist(bridge, round).await, id);
    }
    let mut noted: Vec<usize> =
        bridge.bed.read("/var/lib/ci-test/notes").lines().map(|round| round.parse().unwrap()).collect();
    noted.sort_unstable();
    assert_eq!(noted, (0..runs.len()).collect::<Vec<_>>());
}

fn process(bridge: &Bridge) -> String {
    bridge.bed.ok(["systemctl", "show", "--value", "--property=MainPID", "ci-bridge"]).trim().to_owned()
}

async fn ready(bridge: &Bridge) {
    while !bridge.try_send(Method::GET, "/readyz", "").await.is_ok_and(|answer| answer.status == 200) {}
}

/// Starts the job of a round, and kills the bridge when one of its threads makes this call of the system for the `number`th
/// time since before the start. The run, and whether it came to that before the log was archived.
async fn killed_at(bridge: &Bridge, round: usize, call: &str, number: usize) -> (String, bool) {
    ready(bridge).await;
    let before = process(bridge);
    let (trace, kill) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={number}"));
    let strace = ["strace", "-f", "-o", "/dev/null", "-e", &trace, "-e", &kill, "-p", &before];
    let mut tracing = bridge.bed.command(strace).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(tracing.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("attached"), "{line}");
    let id = insist(bridge, round).await;
    let invocation = ended(bridge, &id).await["invocation_id"].as_str().unwrap().to_owned();
    let archived = format!("/var/lib/ci-bridge/logs/{}/{invocation}.log", &invocation[..2]);
    bridge.bed.sh(&format!("until test -e {archived}; do sleep 0.01; done"));
    // Also if it has been killed, and not by this: then there is nobody left to be traced.
    bridge.bed.sh("pkill -TERM strace || true");
    tracing.wait().unwrap();
    (id, process(bridge) != before)
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn at_whichever_call_of_the_system_the_bridge_is_killed_a_start_is_carried_out_once() {
    let bridge = patient();
    let mut runs = Vec::new();
    // What the history and the archive write, what goes to systemd and comes from it, the answer, the log that is whole.
    for (call, step) in [("fsync", 1), ("pwrite64", 5), ("sendmsg", 1), ("recvmsg", 3), ("writev", 1), ("rename", 1)] {
        let mut number = 1;
        loop {
            let (id, killed) = killed_at(&bridge, runs.len(), call, number).await;
            eprintln!("{call} {number}: {}", if killed { "killed" } else { "not reached" });
            runs.push(id);
            if !killed {
                break;
            }
            number += step;
        }
        assert!(number > 1, "{call} was never met");
    }
    ready(&bridge).await;
    each_ran_once(&bridge, &runs).await;
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn whenever_the_bridge_is_killed_no_run_is_lost_and_none_started_twice() {
    let bridge = patient();
    let mut runs = Vec::new();
    for round in 0..ROUNDS {
        // Nothing orders the two, so over the rounds the kill meets all points of a start and of a run.
        let mut killing = bridge.bed.command(["sh", "-c", KILL]).spawn().unwrap();
        for _ in 0..round {
            let _ = bridge.try_send(Method::GET, "/healthz", "").await;
        }
        runs.push(insist(&bridge, round).await);
        // It may find the bridge dead still from the round before.
        killing.wait().unwrap();
    }
    // The last kill has been carried out, and the connections that it cut have been met.
    ready(&bridge).await;
    let restarts = bridge.bed.ok(["systemctl", "show", "--value", "--property=NRestarts", "ci-bridge"]);
    assert!(restarts.trim().parse::<usize>().unwrap() > ROUNDS / 2, "{restarts}");
    each_ran_once(&bridge, &runs).await;
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_power_cut_loses_no_run_that_was_answered() {
    let bridge = Bridge::up();
    let failed = bridge.start("ci-test-fail").await;
    assert_eq!(ended(&bridge, &failed).await["exit_code"], 3);
    let running = bridge.start(GATE).await;
    bridge.gate("before the cut");
    bridge.log_with(GATE, "before the cut").await;
    let queued = bridge.post(&format!("/api/job/{GATE}?if_busy=queue")).await;
    assert_eq!(queued.status, 202, "{}", queued.text());
    let queued = queued.header("x-ci-run-id").to_owned();
    bridge.bed.ok(["journalctl", "--sync"]);
    bridge.bed.crash();
    let bridge = bridge.after_boot();
    bridge.bed.ok(["systemctl", "start", "ci-bridge"]);

    let run = ended(&bridge, &failed).await;
    assert_eq!((&run["result"], &run["exit_code"]), (&json!("exit-code"), &json!(3)), "{run}");
    let run = ended(&bridge, &running).await;
    assert_eq!(run["result"], "lost", "{run}");
    assert!(run["reason"].is_string(), "{run}");
    let log = bridge.get(&format!("/api/runs/{running}/logs")).await.ok();
    assert_eq!(lines_of_job(&log), ["open", "before the cut"]);
    // Who waited still does, and has its turn now.
    let is_running = |answer: &crate::bridge::Answer| answer.json()["state"] == "running";
    bridge.until(Method::GET, &format!("/api/runs/{queued}"), is_running).await;
    bridge.gate("exit 0");
    assert_eq!(ended(&bridge, &queued).await["result"], "success");
    let page = bridge.get(&format!("/api/job/{GATE}/runs")).await.ok();
    let ids: Vec<_> = page["runs"].as_array().unwrap().iter().map(|run| run["id"].clone()).collect();
    assert_eq!(ids, [json!(queued), json!(running)]);
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn of_a_hundred_starts_with_one_key_one_makes_a_run_and_all_get_it() {
    let bridge = Bridge::up();
    bridge.bed.write("/etc/systemd/system/ci-test-note@.service", NOTES);
    bridge.bed.ok(["systemctl", "daemon-reload"]);
    let runs = futures_util::future::join_all((0..100).map(|_| insist(&bridge, 0))).await;
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
    ended(&bridge, &runs[0]).await;
    assert_eq!(bridge.bed.read("/var/lib/ci-test/notes"), "0\n");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_full_disk_keeps_nobody_from_starting_a_job() {
    let bridge = Bridge::up();
    bridge.bed.ok(["systemctl", "stop", "ci-bridge"]);
    bridge
        .bed
        .sh("mount -t tmpfs -o size=2M,mode=0750 tmpfs /var/lib/ci-bridge && chown ci-bridge: /var/lib/ci-bridge && \
         systemctl start ci-bridge");
    let before = bridge.run("ci-test-hello").await["run"].clone();
    bridge.bed.sh("cat /dev/zero >/var/lib/ci-bridge/filler || true");
    let during = bridge.run("ci-test-fail").await["run"].clone();
    assert_eq!(run(&bridge, during.as_str().unwrap()).await["result"], "exit-code");
    // A promise that can't be kept is not made.
    let keyed = bridge.post_with_key("/api/job/ci-test-hello", "k").await.unwrap();
    assert_eq!(keyed.refusal(), (503, "history_unavailable".to_owned()), "{}", keyed.text());
    // When there is room again, what could not be written is.
    bridge.bed.ok(["rm", "/var/lib/ci-bridge/filler"]);
    assert_eq!(bridge.post_with_key("/api/job/ci-test-hello", "k").await.unwrap().status, 202);
    let listed = |answer: &crate::bridge::Answer| answer.json()["runs"][0]["id"] == during;
    bridge.until(Method::GET, "/api/job/ci-test-fail/runs", listed).await;
    bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    bridge.until(Method::GET, "/readyz", |answer| answer.status == 200).await;
    for id in [&before, &during] {
        let run = run(&bridge, id.as_str().unwrap()).await;
        assert_eq!(run["state"], "ended", "{run}");
    }
}

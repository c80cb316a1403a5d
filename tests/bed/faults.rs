//! What breaks around the bridge, and the bridge itself: nothing is lost, and no verdict is wrong.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::bridge::{Bridge, lines_of_job};

const GATE: &str = "ci-test-gate";

/// Starts the gate job and has it print a line.
async fn open_gate(bridge: &Bridge, line: &str) -> String {
    let run = bridge.start(GATE).await;
    bridge.gate(line);
    bridge.log_with(GATE, line).await;
    run
}

/// Ends the gate job, and checks its verdict and its log.
async fn close_gate(bridge: &Bridge, run: &str, printed: &[&str]) {
    bridge.gate("exit 0");
    let state = bridge.end_of(GATE, run).await;
    assert_eq!((&state["run"], &state["result"]), (&json!(run), &json!("success")), "{state}");
    let log = bridge.logs(GATE).await;
    assert_eq!((&log["run"], &log["complete"], &log["gap"]), (&json!(run), &json!(true), &json!(false)), "{log}");
    assert_eq!(lines_of_job(&log), printed, "{log}");
}

async fn is_running(bridge: &Bridge, run: &str) {
    let state = bridge.state(GATE).await;
    assert_eq!(
        (&state["run"], &state["run_state"], &state["state"]),
        (&json!(run), &json!("running"), &json!("activating"))
    );
    assert_eq!(bridge.post(&format!("/api/job/{GATE}")).await.refusal(), (409, "busy".to_owned()));
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_job_goes_on_to_be_read_when_journald_dies_or_is_restarted() {
    let bridge = Bridge::up();
    for command in [
        "systemctl kill -s KILL systemd-journald",
        "systemctl restart systemd-journald",
        "journalctl --rotate",
        "journalctl --flush --sync",
    ] {
        let run = open_gate(&bridge, "before").await;
        let cursor = bridge.logs(GATE).await["logs"].as_array().unwrap().last().unwrap()["cursor"].clone();
        bridge.bed.sh(command);
        bridge.gate("after");
        bridge.log_with(GATE, "after").await;
        let path = format!("/api/job/{GATE}/tail?cursor={}", cursor.as_str().unwrap());
        let page = bridge.get(&path).await.ok();
        assert_eq!((lines_of_job(&page), &page["gap"]), (vec!["after".to_owned()], &json!(false)), "{command}: {page}");
        close_gate(&bridge, &run, &["open", "before", "after"]).await;
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_reload_or_reexecution_of_systemd_ends_no_run() {
    let bridge = Bridge::up();
    for command in ["daemon-reload", "daemon-reexec"] {
        let run = open_gate(&bridge, "before").await;
        let starting_twice = format!("/api/job/{GATE}");
        let readings = bridge.readings();
        bridge.bed.ok(["systemctl", command]);
        // Whether the bridge has met the new systemd yet or not.
        is_running(&bridge, &run).await;
        bridge.until_read_again(readings);
        is_running(&bridge, &run).await;
        // In the middle of it as well.
        let readings = bridge.readings();
        let mut reloading = bridge.bed.command(["systemctl", command]).stdout(Stdio::null()).spawn().unwrap();
        while reloading.try_wait().unwrap().is_none() {
            assert_eq!(bridge.post(&starting_twice).await.refusal(), (409, "busy".to_owned()), "{command}");
            is_running(&bridge, &run).await;
        }
        is_running(&bridge, &run).await;
        bridge.until_read_again(readings);
        is_running(&bridge, &run).await;
        close_gate(&bridge, &run, &["open", "before"]).await;
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_systemd_that_executes_itself_anew_costs_no_answer_and_no_run() {
    let bridge = Bridge::up();
    let mut runs = HashSet::new();
    for _ in 0..5 {
        let readings = bridge.readings();
        let mut upgrading = bridge.bed.command(["systemctl", "daemon-reexec"]).spawn().unwrap();
        // At least once behind it, when the bridge may not have met the new systemd yet.
        let mut is_over = false;
        while !is_over {
            is_over = upgrading.try_wait().unwrap().is_some();
            for (job, result) in [("ci-test-hello", "success"), ("ci-test-fail", "exit-code")] {
                let run = bridge.start(job).await;
                assert_eq!(bridge.end_of(job, &run).await["result"], result, "{job}");
                assert!(runs.insert(run));
            }
            bridge.get("/api/jobs").await.ok();
        }
        assert!(upgrading.wait().unwrap().success());
        bridge.until_read_again(readings);
    }
    // And every run was one run.
    let began =
        bridge.bed.sh("journalctl --sync; journalctl -o cat _PID=1 | grep -cE '^Starting ci-test-(hello|fail)'");
    assert_eq!(began.trim().parse(), Ok(runs.len()));
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn the_bridge_comes_back_when_dbus_comes_back() {
    let bridge = Bridge::up();
    bridge.run("ci-test-fail").await;
    let run = open_gate(&bridge, "before").await;
    bridge.bed.ok(["systemctl", "stop", "dbus.socket", "dbus.service"]);
    bridge.until(Method::GET, "/readyz", |answer| answer.status == 503).await;
    let ready = bridge.get("/readyz").await;
    assert_eq!(ready.refusal(), (503, "not_ready".to_owned()));
    assert!(ready.text().contains("D-Bus"), "{}", ready.text());
    assert_eq!(bridge.get("/healthz").await.status, 200);
    let unreachable = (503, "systemd_unreachable".to_owned());
    // Each is told so after the same three seconds.
    let requests = [
        (Method::GET, "/api/job/ci-test-fail/state"),
        (Method::GET, "/api/job/ci-test-fail/logs"),
        (Method::GET, "/api/job/ci-test-fail/tail"),
        (Method::POST, "/api/job/ci-test-hello"),
        (Method::POST, "/api/job/ci-test-gate/stop"),
    ];
    let answers = requests.clone().map(|(method, path)| bridge.send(method, path));
    for ((_, path), answer) in requests.iter().zip(join_all(answers).await) {
        assert_eq!((answer.refusal(), answer.header("retry-after")), (unreachable.clone(), "1"), "{path}");
    }
    // Ends while nobody looks.
    bridge.gate("exit 5");
    bridge.bed.ok(["timeout", "20", "sh", "-c", "until journalctl -u ci-test-gate | grep -q 'status=5'; do :; done"]);
    bridge.bed.ok(["systemctl", "start", "dbus.socket", "dbus.service"]);
    bridge.until(Method::GET, "/readyz", |answer| answer.status == 200).await;
    let state = bridge.end_of(GATE, &run).await;
    assert_eq!((&state["result"], &state["exit_code"]), (&json!("exit-code"), &json!(5)), "{state}");
    assert_eq!(lines_of_job(&bridge.logs(GATE).await), ["open", "before"]);
    assert_eq!(bridge.state("ci-test-fail").await["exit_code"], 3);
    // Signals come again as well.
    assert_eq!(bridge.run("ci-test-signal").await["result"], "signal");
    let run = open_gate(&bridge, "again").await;
    let readings = bridge.readings();
    bridge.bed.ok(["systemctl", "restart", "dbus"]);
    is_running(&bridge, &run).await;
    bridge.until_read_again(readings);
    is_running(&bridge, &run).await;
    close_gate(&bridge, &run, &["open", "again"]).await;
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_refusal_of_polkit_is_told_with_its_remedy_and_init_repairs_it() {
    let bridge = Bridge::up();
    bridge.run("ci-test-hello").await;
    let refused = (503, "not_authorized".to_owned());
    let hello = "/api/job/ci-test-hello";
    bridge.bed.sh("rm /etc/polkit-1/rules.d/49-ci-bridge.rules && systemctl restart polkit");
    // One that systemd holds in memory for the bridge, and one that it does not.
    for path in [hello, "/api/job/ci-test-silent"] {
        let answer = bridge.post(path).await;
        assert_eq!(answer.refusal(), refused, "{}", answer.text());
        assert!(answer.text().contains("ci-bridge init"), "{}", answer.text());
    }
    assert_eq!(bridge.state("ci-test-hello").await["result"], "success");
    assert!(bridge.own_log().contains("systemd refused the bridge"));
    bridge.bed.ok(["ci-bridge", "init"]);
    // polkit takes up the file by itself.
    let started = bridge.until(Method::POST, hello, |answer| answer.status != 503).await;
    assert_eq!(started.status, 202, "{}", started.text());
    assert_eq!(bridge.end_of("ci-test-hello", started.header("x-ci-run-id")).await["result"], "success");

    bridge.bed.ok(["systemctl", "mask", "--runtime", "--now", "polkit"]);
    assert_eq!(bridge.post(hello).await.refusal(), refused);
    bridge.bed.ok(["systemctl", "unmask", "--runtime", "polkit"]);
    // The bus starts it when it is needed.
    assert_eq!(bridge.run("ci-test-hello").await["result"], "success");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn entries_that_are_gone_are_told_as_a_gap() {
    let bridge = Bridge::up();
    let run = open_gate(&bridge, "lost").await;
    let first = bridge.logs(GATE).await["logs"][0]["cursor"].clone();
    bridge.bed.ok(["journalctl", "--rotate", "--vacuum-size=1"]);
    bridge.gate("kept");
    bridge.log_with(GATE, "kept").await;
    bridge.gate("exit 0");
    bridge.end_of(GATE, &run).await;
    let log = bridge.logs(GATE).await;
    assert_eq!((lines_of_job(&log), &log["gap"]), (vec!["kept".to_owned()], &json!(true)), "{log}");
    let page = bridge.get(&format!("/api/job/{GATE}/tail?cursor={}", first.as_str().unwrap())).await.ok();
    assert_eq!((lines_of_job(&page), &page["gap"]), (vec!["kept".to_owned()], &json!(true)), "{page}");
    assert_eq!(page["complete"], false);
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_damaged_journal_file_spoils_no_other_and_is_told() {
    let bridge = Bridge::up();
    bridge.run("ci-test-burst").await;
    bridge.bed.ok(["journalctl", "--rotate"]);
    bridge.run("ci-test-hello").await;
    bridge.bed.ok(["systemctl", "reset-failed"]);
    // The second half of each file, where the entries are.
    bridge.bed.sh("for file in /var/log/journal/*/system@*.journal; do blocks=$(($(stat -c %s $file) / 8192)); \
         dd if=/dev/urandom of=$file bs=4096 seek=$blocks count=$blocks conv=notrunc status=none; done");
    for restarted in [false, true] {
        let log = bridge.logs("ci-test-burst").await;
        assert_eq!((&log["complete"], &log["gap"]), (&json!(false), &json!(true)), "{restarted}");
        assert!(lines_of_job(&log).len() < 20_000);
        assert_eq!(lines_of_job(&bridge.logs("ci-test-hello").await), ["hello", "this is the second line", "done"]);
        assert_eq!(bridge.run("ci-test-tiny").await["result"], "success");
        assert_eq!(lines_of_job(&bridge.logs("ci-test-tiny").await), ["tiny"]);
        bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_bridge_that_is_killed_finds_the_run_again() {
    let bridge = Bridge::up();
    let run = open_gate(&bridge, "before").await;
    let invocation = bridge.state(GATE).await["invocation_id"].clone();
    // systemd has seen its end when the process is gone.
    bridge
        .bed
        .sh("process=/proc/$(systemctl show --value --property=MainPID ci-bridge); systemctl kill -s KILL ci-bridge; \
         while [ -e $process ]; do :; done; systemctl start ci-bridge");
    let state = bridge.state(GATE).await;
    assert_eq!((&state["run_state"], &state["invocation_id"]), (&json!("running"), &invocation), "{state}");
    assert_eq!(state["run"], json!(run));
    assert_eq!(bridge.post(&format!("/api/job/{GATE}")).await.refusal(), (409, "busy".to_owned()));
    bridge.gate("after");
    close_gate(&bridge, &run, &["open", "before", "after"]).await;

    // Ends while the bridge is away: once with a failure that systemd remembers, once with a success that it forgets.
    for (code, result) in [(6, "exit-code"), (0, "success")] {
        open_gate(&bridge, "before").await;
        let invocation = bridge.state(GATE).await["invocation_id"].clone();
        bridge.bed.ok(["systemctl", "kill", "--signal=KILL", "ci-bridge"]);
        bridge.bed.ok(["systemctl", "stop", "ci-bridge"]);
        bridge.gate(&format!("exit {code}"));
        bridge.bed.ok([
            "sh",
            "-c",
            "while systemctl is-active -q ci-test-gate || systemctl list-jobs | grep -q gate; do :; done",
        ]);
        bridge.bed.ok(["systemctl", "start", "ci-bridge"]);
        let state = bridge.state(GATE).await;
        assert_eq!((&state["result"], &state["invocation_id"]), (&json!(result), &invocation), "{state}");
        assert_eq!(lines_of_job(&bridge.logs(GATE).await), ["open", "before"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a bed: make test"]
async fn the_bridge_ends_in_time_also_with_requests_under_way() {
    let bridge = Arc::new(Bridge::up());
    let run = open_gate(&bridge, "before").await;
    let waiting = {
        let (bridge, path) = (bridge.clone(), format!("/api/job/{GATE}/state?run={run}&wait=50"));
        tokio::spawn(async move { bridge.try_send(Method::GET, &path, &bridge.writer).await })
    };
    // A client that never sends the rest of its request.
    let mut silent =
        bridge.bed.command(["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8000; echo GET / >&3; echo open; cat <&3"]);
    let mut silent = silent.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(silent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // It has been taken up when the next one has been answered.
    bridge.state(GATE).await;
    let begin = Instant::now();
    bridge.bed.ok(["systemctl", "stop", "ci-bridge"]);
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    let result = bridge.bed.ok(["systemctl", "show", "--value", "--property=Result", "ci-bridge"]);
    assert_eq!(result, "success\n");
    // Whether it was answered or cut off: it has not been left hanging.
    let _: Result<_, reqwest::Error> = waiting.await.unwrap();
    silent.wait().unwrap();
    assert!(bridge.bed.ok(["systemctl", "show", "--value", "--property=SubState", GATE]).contains("start"));
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_machine_that_lost_its_power_still_has_the_verdicts_of_its_runs() {
    let bridge = Bridge::up();
    bridge.run("ci-test-fail").await;
    open_gate(&bridge, "before the end").await;
    bridge.bed.ok(["journalctl", "--sync"]);
    bridge.bed.crash();
    let bridge = bridge.after_boot();
    bridge.bed.ok(["systemctl", "start", "ci-bridge"]);
    let state = bridge.state("ci-test-fail").await;
    assert_eq!((&state["result"], &state["exit_code"]), (&json!("exit-code"), &json!(3)), "{state}");
    let state = bridge.state(GATE).await;
    assert_eq!(
        (&state["state"], &state["run_state"], &state["result"]),
        (&json!("inactive"), &json!("ended"), &json!("lost"))
    );
    assert_eq!(lines_of_job(&bridge.logs(GATE).await), ["open", "before the end"]);
    let run = open_gate(&bridge, "again").await;
    close_gate(&bridge, &run, &["open", "again"]).await;
    assert_eq!(bridge.state(GATE).await["run"], Value::from(run));
}

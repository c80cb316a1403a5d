//! Inputs of jobs, from the request to the file that the job reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::bridge::{Answer, Bridge, lines, lines_of_job};

const SOCKET: &str = "/run/ci-bridge/inputs.sock";

/// What `ci-test-inputs` may be given, and `ci-test-deploy@` has to be.
const DECLARED: &str = r#"
[jobs.inputs.ci-test-inputs.version]
pattern = "v[0-9.]+"
default = "v1"

[jobs.inputs.ci-test-inputs.note]
pattern = "(?s).*"

[jobs.inputs."ci-test-deploy@".version]
pattern = "[^\n]{1,100}"
required = true
"#;

/// Prints each of its inputs in base64.
const UNIT: &str = r"
[Unit]
StartLimitIntervalSec=0

[Service]
Type=oneshot
DynamicUser=yes
LoadCredential=version:/run/ci-bridge/inputs.sock
LoadCredential=note:/run/ci-bridge/inputs.sock
ExecStart=/bin/sh -c 'cd $CREDENTIALS_DIRECTORY && for name in *; do echo $name=$(base64 -w 0 $name); done'
";

/// For which systemd asks again.
const AGAIN: &str = "ExecStart=/bin/sh -c 'echo again=$(base64 -w 0 $CREDENTIALS_DIRECTORY/version)'\n";

/// A bridge that lets jobs take inputs, with the unit `ci-test-inputs`.
async fn bridge() -> Bridge {
    let bridge = Bridge::up();
    add_unit(&bridge, "ci-test-inputs.service", &format!("{UNIT}{AGAIN}"));
    let settings = bridge.bed.read("/etc/ci-bridge/config.toml");
    bridge.bed.write("/etc/ci-bridge/config.toml", &format!("{settings}{DECLARED}"));
    bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    bridge.until(Method::GET, "/readyz", |answer| answer.status == 200).await;
    bridge
}

fn add_unit(bridge: &Bridge, name: &str, text: &str) {
    bridge.bed.write(&format!("/etc/systemd/system/{name}"), text);
    bridge.bed.ok(["systemctl", "daemon-reload"]);
}

async fn start(bridge: &Bridge, path: &str, inputs: Value) -> Answer {
    bridge.post_json(&format!("/api/job/{path}"), &json!({ "inputs": inputs })).await
}

/// What `ci-test-inputs` says that it was given in its newest run.
fn said(log: &Value) -> BTreeMap<String, String> {
    let pair = |line: String| {
        let (name, value) = line.split_once('=').unwrap();
        (name.to_owned(), String::from_utf8(BASE64_STANDARD.decode(value).unwrap()).unwrap())
    };
    lines_of_job(log).into_iter().map(pair).collect()
}

fn values(version: &str, note: &str) -> BTreeMap<String, String> {
    [("version", version), ("note", note), ("again", version)].map(|(name, value)| (name.into(), value.into())).into()
}

/// What the job says after a start through the bridge.
async fn given(bridge: &Bridge, inputs: Value) -> BTreeMap<String, String> {
    let answer = start(bridge, "ci-test-inputs", inputs).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let state = bridge.end_of("ci-test-inputs", answer.header("x-ci-run-id")).await;
    assert_eq!(state["result"], "success", "{state} {}", bridge.own_log());
    said(&bridge.logs("ci-test-inputs").await)
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_job_reads_what_it_was_given() {
    let bridge = bridge().await;
    assert_eq!(given(&bridge, json!({})).await, values("v1", ""));
    assert_eq!(given(&bridge, json!({"version": "v1.2"})).await, values("v1.2", ""));
    let long = "x".repeat(4096);
    for note in ["two\nlines\n", "caf\u{e9} \u{1f980}\t\u{202e}", "$(id) `id` ' \" \\ %n %", "\n", " ", &long] {
        assert_eq!(given(&bridge, json!({"note": note})).await, values("v1", note), "{note:?}");
    }
    assert_eq!(given(&bridge, json!({})).await, values("v1", ""));

    let runs = bridge.bed.sh("journalctl -o cat -u ci-test-inputs | grep -c ^Starting");
    for (inputs, code) in [
        (json!({"version": "latest"}), "input_invalid"),
        (json!({"version": "v1\n"}), "input_invalid"),
        (json!({"version": 1}), "input_invalid"),
        (json!({"note": "x".repeat(4097)}), "input_invalid"),
        (json!({"note": "\u{0}"}), "input_invalid"),
        (json!({"other": "v1"}), "input_unknown"),
    ] {
        let answer = start(&bridge, "ci-test-inputs", inputs.clone()).await;
        assert_eq!(answer.refusal(), (422, code.to_owned()), "{inputs}");
    }
    assert_eq!(start(&bridge, "ci-test-hello", json!({"a": "b"})).await.refusal(), (422, "input_unknown".to_owned()));
    assert_eq!(bridge.bed.sh("journalctl -o cat -u ci-test-inputs | grep -c ^Starting"), runs);
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_run_of_a_timer_has_the_defaults() {
    let bridge = bridge().await;
    add_unit(&bridge, "ci-test-inputs.timer", "[Timer]\nOnActiveSec=0\nAccuracySec=1us\nRemainAfterElapse=no\n");
    for round in 0..20 {
        assert_eq!(given(&bridge, json!({"version": "v6.6.6"})).await, values("v6.6.6", ""), "round {round}");
        // As soon after the end of the other as can be.
        let starter = if round % 2 == 0 { "ci-test-inputs.service" } else { "ci-test-inputs.timer" };
        let before = bridge.state("ci-test-inputs").await["run"].clone();
        bridge.bed.ok(["systemctl", "start", starter]);
        let is_new = |answer: &Answer| {
            let state = answer.ok();
            state["run"] != before && state["run_state"] == "ended"
        };
        bridge.until(Method::GET, "/api/job/ci-test-inputs/state", is_new).await;
        assert_eq!(said(&bridge.logs("ci-test-inputs").await), values("v1", ""), "round {round}");
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_job_that_lacks_a_required_input_does_not_start() {
    let bridge = bridge().await;
    assert_eq!(bridge.post("/api/job/ci-test-deploy@x").await.refusal(), (422, "input_missing".to_owned()));
    assert_eq!(bridge.bed.ok(["journalctl", "--quiet", "-o", "cat", "-u", "ci-test-deploy@x"]), "");
    // Whoever starts it past the bridge.
    assert!(!bridge.bed.enter(["systemctl", "start", "ci-test-deploy@x"]).status.success());
    let state = bridge.state("ci-test-deploy@x").await;
    assert_eq!((&state["result"], &state["exit_code"]), (&json!("exit-code"), &json!(243)), "{state}");
    let log = bridge.logs("ci-test-deploy@x").await;
    assert!(lines(&log).iter().any(|line| line.contains("Failed to set up credentials")), "{log}");
    assert!(!lines(&log).iter().any(|line| line.contains("deploying")), "{log}");
    let log = bridge.own_log();
    assert!(
        log.contains(
            "ci-test-deploy@x does not start, because it asked for `version`: the input `version` is required"
        ),
        "{log}"
    );

    let answer = start(&bridge, "ci-test-deploy@x", json!({"version": "v1.2"})).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    bridge.end_of("ci-test-deploy@x", answer.header("x-ci-run-id")).await;
    assert_eq!(lines_of_job(&bridge.logs("ci-test-deploy@x").await), ["deploying v1.2 to x"]);
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_unit_does_not_get_what_is_for_another() {
    let bridge = bridge().await;
    // A job that goes on until it is told to end.
    bridge.bed.ok(["chmod", "666", "/var/lib/ci-test/gate"]);
    add_unit(&bridge, "ci-test-inputs.service", &format!("{UNIT}ExecStart=/usr/libexec/ci-test/gate\n"));
    // Asks for another's, by its own unit file.
    let asks = format!(
        "[Service]\nType=oneshot\nLoadCredential=version:{SOCKET}\nExecStart=/bin/cat ${{CREDENTIALS_DIRECTORY}}/version\n"
    );
    add_unit(&bridge, "ci-test-thief.service", &asks);
    add_unit(&bridge, "thief.service", &asks);
    let secret = "v6.60.606";
    let answer = start(&bridge, "ci-test-inputs", json!({"version": secret})).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    bridge.log_with("ci-test-inputs", "open").await;
    for unit in ["ci-test-thief", "thief"] {
        assert!(!bridge.bed.enter(["systemctl", "start", unit]).status.success(), "{unit}");
        assert!(!bridge.bed.ok(["journalctl", "-o", "cat", "-u", unit]).contains("v6."), "{unit}");
    }
    // Nothing that another user can read has it, and neither has a process list.
    assert_eq!(bridge.bed.ok(["cat", "/run/credentials/ci-test-inputs.service/version"]), secret);
    // A pattern that does not match itself on the command line of whoever seeks.
    let seek = "grep -rls --devices=skip 'v6[.]60[.]606' /run /etc /tmp /var/lib /dev/shm /proc/[0-9]*/{environ,cmdline} || true";
    let cat = "cat /run/credentials/ci-test-inputs.service/version || true";
    let found = bridge.bed.run_as("someone", ["bash", "-c", &format!("{seek}; {cat}")]);
    assert!(found.status.success() && found.stdout.is_empty(), "{found:?}");
    // The history has it as well, which is for the service alone.
    let found = bridge.bed.sh(seek);
    let found: Vec<_> = found.lines().filter(|path| !path.starts_with("/var/lib/ci-bridge/ci-bridge.db")).collect();
    assert_eq!(found, ["/run/credentials/ci-test-inputs.service/version"]);
    let properties = bridge.bed.ok(["systemctl", "show", "ci-test-inputs"]);
    assert!(!properties.contains(secret), "{properties}");

    // Whoever is not root can't even connect; and if the mode of the socket were wrong, is not believed.
    let ask = r#"use Socket; socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die; bind($s, pack_sockaddr_un("\0" . sprintf("%x", rand(2**52)) . "/unit/ci-test-inputs.service/version")) or die "bind"; connect($s, pack_sockaddr_un("/run/ci-bridge/inputs.sock")) or die "refused"; shutdown($s, 1); print "connected:"; print while <$s>"#;
    let asked = bridge.bed.run_as("someone", ["perl", "-e", ask]);
    assert_eq!(String::from_utf8_lossy(&asked.stdout), "", "{asked:?}");
    bridge.bed.ok(["chmod", "666", SOCKET]);
    let asked = bridge.bed.run_as("someone", ["perl", "-e", ask]);
    assert_eq!(String::from_utf8_lossy(&asked.stdout), "connected:", "{asked:?}");
    // The question itself is right: root is told.
    assert_eq!(bridge.bed.ok(["perl", "-e", ask]), format!("connected:{secret}"));
    bridge.gate("exit 0");
    assert_eq!(bridge.end_of("ci-test-inputs", answer.header("x-ci-run-id")).await["result"], "success");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots a bed: make test"]
async fn instances_that_run_at_once_have_their_own_inputs() {
    let bridge = Arc::new(bridge().await);
    let mut jobs = JoinSet::new();
    for number in 0..20 {
        let bridge = bridge.clone();
        jobs.spawn(async move {
            let query = format!("instance=stage/number-{number}");
            let version = format!("v{number} of \u{e9}");
            let answer = start(&bridge, &format!("ci-test-deploy@?{query}"), json!({"version": version})).await;
            assert_eq!(answer.status, 202, "{}", answer.text());
            let run = answer.header("x-ci-run-id");
            let state = bridge.get(&format!("/api/job/ci-test-deploy@/state?{query}&run={run}&wait=50")).await.ok();
            assert_eq!(state["result"], "success", "{state}");
            let log = bridge.get(&format!("/api/job/ci-test-deploy@/logs?{query}&run={run}")).await.ok();
            assert_eq!(lines_of_job(&log), [format!("deploying {version} to stage/number-{number}")], "{log}");
        });
    }
    jobs.join_all().await;
    // The longest name for which systemd can ask, and one more.
    let longest = 83 - "version".len() - "ci-test-deploy@.service".len();
    for (length, status) in [(longest, 202), (longest + 1, 422)] {
        let job = format!("ci-test-deploy@{}", "x".repeat(length));
        let answer = start(&bridge, &job, json!({"version": "v1"})).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 202 {
            let state = bridge.end_of(&job, answer.header("x-ci-run-id")).await;
            assert_eq!(state["result"], "success", "{state}");
        }
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_job_that_systemd_starts_again_keeps_its_inputs() {
    let bridge = bridge().await;
    add_unit(
        &bridge,
        "ci-test-inputs.service",
        &format!(
            "[Service]\nType=oneshot\nRestart=on-failure\nRestartSec=100ms\nLoadCredential=version:{SOCKET}\n\
             ExecStart=/bin/sh -c 'cat $CREDENTIALS_DIRECTORY/version; echo; mkdir /run/once && exit 3; exit 0'\n"
        ),
    );
    let answer = start(&bridge, "ci-test-inputs", json!({"version": "v1.2"})).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let succeeded = |answer: &Answer| answer.ok()["result"] == "success";
    bridge.until(Method::GET, "/api/job/ci-test-inputs/state", succeeded).await;
    let versions = || {
        bridge.bed.ok(["journalctl", "--sync"]);
        bridge.bed.sh("journalctl -o cat _SYSTEMD_UNIT=ci-test-inputs.service | grep ^v")
    };
    assert_eq!(versions(), "v1.2\nv1.2\n");
    // Who starts it by hand has the defaults again.
    bridge.bed.ok(["systemctl", "start", "ci-test-inputs"]);
    assert_eq!(versions(), "v1.2\nv1.2\nv1\n");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn without_the_bridge_a_job_with_inputs_does_not_start() {
    let bridge = bridge().await;
    // A run that goes on over a restart gets what it was given.
    bridge.bed.ok(["chmod", "666", "/var/lib/ci-test/gate"]);
    add_unit(&bridge, "ci-test-inputs.service", &format!("{UNIT}ExecStart=/usr/libexec/ci-test/gate\n{AGAIN}"));
    assert_eq!(start(&bridge, "ci-test-inputs", json!({"version": "v2"})).await.status, 202);
    bridge.log_with("ci-test-inputs", "open").await;
    bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    bridge.until(Method::GET, "/readyz", |answer| answer.status == 200).await;
    bridge.gate("exit 0");
    let ended = |answer: &Answer| answer.ok()["run_state"] == "ended";
    let state = bridge.until(Method::GET, "/api/job/ci-test-inputs/state", ended).await.json();
    assert_eq!(state["result"], "success", "{state} {}", bridge.own_log());
    let again = format!("again={}", BASE64_STANDARD.encode("v2"));
    assert!(lines_of_job(&bridge.logs("ci-test-inputs").await).contains(&again));

    bridge.bed.ok(["systemctl", "stop", "ci-bridge"]);
    assert!(!bridge.bed.enter(["systemctl", "start", "ci-test-inputs"]).status.success());
    // A value of last resort is the unit's own affair.
    let fallback = "SetCredential=version:v0\nSetCredential=note:none\n";
    add_unit(&bridge, "ci-test-inputs.service", &format!("{UNIT}{AGAIN}{fallback}"));
    bridge.bed.ok(["systemctl", "start", "ci-test-inputs"]);
    bridge.bed.ok(["systemctl", "start", "ci-bridge"]);
    bridge.until(Method::GET, "/readyz", |answer| answer.status == 200).await;
    assert_eq!(said(&bridge.logs("ci-test-inputs").await), values("v0", "none"));
    assert_eq!(given(&bridge, json!({"version": "v2"})).await, values("v2", ""));
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn the_client_gives_a_job_its_inputs() {
    let bridge = bridge().await;
    let client = |args: &str| {
        let token = &bridge.writer;
        bridge.bed.enter(["sh", "-c", &format!("CI_TOKEN={token} ci-bridge run {args}")])
    };
    let done = client("ci-test-deploy@ --instance feature/x --input version='v1.2 \"beta\"'");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("deploying v1.2 \"beta\" to feature/x\n"), "{done:?}");
    let done = client("ci-test-deploy@x");
    assert_eq!(done.status.code(), Some(125));
    assert!(
        String::from_utf8_lossy(&done.stderr).contains("the input `version` is required (input_missing)"),
        "{done:?}"
    );
}

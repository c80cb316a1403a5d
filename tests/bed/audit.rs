//! The audit and the backup of an installed bridge: what an administrator finds, and that a copy brings it back.

use reqwest::Method;
use serde_json::{Value, json};

use crate::bridge::Bridge;

/// Makes a token that reads the audit, and waits until it counts.
async fn auditor(bridge: &Bridge) -> String {
    let token = bridge.bed.ok(["ci-bridge", "token", "new", "auditor", "--access", "rw", "--scope", "audit"]);
    let token = token.trim().to_owned();
    bridge.until_token(&token).await;
    token
}

/// The entries of a kind, oldest first, as the command shows them in the bed, as soon as one of them is wanted.
fn entries(bridge: &Bridge, token: &str, kind: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let ask = format!("CI_TOKEN={token} ci-bridge audit --kind {kind} --limit 500 --json");
    for _ in 0..200 {
        let page: Value = serde_json::from_str(&bridge.bed.sh(&ask)).unwrap();
        let entries: Vec<Value> = page["entries"].as_array().unwrap().iter().rev().cloned().collect();
        if entries.iter().any(&wanted) {
            return entries;
        }
    }
    panic!("there never was such an entry: {}", bridge.own_log());
}

fn outcome(name: &str) -> impl Fn(&Value) -> bool {
    move |entry| entry["outcome"] == name
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn what_was_done_is_in_the_audit_also_after_a_restart() {
    let bridge = Bridge::up();
    let token = auditor(&bridge).await;
    let run = bridge.start("ci-test-long").await;
    let refused = bridge.try_send(Method::POST, "/api/job/ci-test-long/stop", &bridge.reader).await.unwrap();
    assert_eq!(refused.status, 403);
    bridge.post("/api/job/ci-test-long/stop").await;
    bridge.end_of("ci-test-long", &run).await;
    bridge.bed.ok(["ci-bridge", "token", "revoke", "read"]);
    entries(&bridge, &token, "token", outcome("revoked"));
    bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    bridge.until(Method::GET, "/readyz", |answer| answer.status == 200).await;

    let started = entries(&bridge, &token, "start", outcome("accepted"));
    assert_eq!(
        (&started[0]["who"], &started[0]["run"], &started[0]["address"]),
        (&json!("ci"), &json!(run), &json!("127.0.0.1"))
    );
    let stops = entries(&bridge, &token, "stop", outcome("stopped"));
    let told: Vec<_> = stops.iter().map(|entry| (&entry["who"], &entry["outcome"])).collect();
    assert_eq!(told, [(&json!("read"), &json!("read_only_token")), (&json!("ci"), &json!("stopped"))]);
    assert_eq!((&stops[0]["request_id"], &stops[1]["run"]), (&json!(refused.header("x-request-id")), &json!(run)));
    let tokens = entries(&bridge, &token, "token", outcome("revoked"));
    let told: Vec<_> = tokens.iter().map(|entry| (&entry["who"], &entry["outcome"], &entry["detail"])).collect();
    assert_eq!(told[0], (&json!("auditor"), &json!("added"), &json!("rw, scope audit")));
    assert_eq!((told[1].0, told[1].1), (&json!("read"), &json!("revoked")));
    assert_eq!(tokens.len(), 2);
    let table = bridge.bed.sh(&format!("CI_TOKEN={token} ci-bridge audit --who ci --kind start"));
    assert!(table.lines().nth(1).unwrap().contains("ci-test-long  accepted"), "{table}");
}

#[test]
#[ignore = "boots a bed: make test"]
fn the_journal_has_a_record_of_each_token_that_a_command_made_or_revoked() {
    let bridge = Bridge::up();
    bridge.bed.ok(["ci-bridge", "token", "new", "late", "--access", "ro"]);
    bridge.bed.ok(["ci-bridge", "token", "revoke", "late"]);
    bridge.bed.ok(["journalctl", "--sync"]);
    let log = bridge.bed.ok(["journalctl", "--output=json", "_UID=0", "SYSLOG_IDENTIFIER=ci-bridge", "KIND=token"]);
    let records: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = records.iter().map(|record| (&record["TOKEN"], &record["OUTCOME"])).collect();
    let expected = [("ci", "added"), ("read", "added"), ("late", "added"), ("late", "revoked")];
    assert_eq!(told, expected.map(|(token, outcome)| (json!(token), json!(outcome))).each_ref().map(|(a, b)| (a, b)));
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn a_backup_of_the_running_service_brings_the_history_back() {
    let bridge = Bridge::up();
    let token = auditor(&bridge).await;
    let run = bridge.run("ci-test-hello").await["run"].as_str().unwrap().to_owned();
    entries(&bridge, &token, "start", outcome("accepted"));
    bridge.bed.ok(["ci-bridge", "backup", "/root/copy.db"]);
    let again = bridge.bed.enter(["ci-bridge", "backup", "/root/copy.db"]);
    assert_eq!(again.status.code(), Some(1));
    let nobody = bridge.bed.enter(["runuser", "-u", "nobody", "--", "ci-bridge", "backup", "/tmp/copy.db"]);
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("try again as root"), "{nobody:?}");

    bridge.bed.sh("systemctl stop ci-bridge
         rm -f /var/lib/ci-bridge/ci-bridge.db*
         install -o ci-bridge -g ci-bridge -m 640 /root/copy.db /var/lib/ci-bridge/ci-bridge.db
         ci-bridge backup /root/second.db
         systemctl start ci-bridge");
    bridge.until(Method::GET, "/readyz", |answer| answer.status == 200).await;
    let known = bridge.get(&format!("/api/runs/{run}")).await.ok();
    assert_eq!((&known["started_by"], &known["result"]), (&json!("ci"), &json!("success")));
    // The copy that root made of a database that nobody used left nothing that the service can't write.
    bridge.run("ci-test-hello").await;
    let started = entries(&bridge, &token, "start", |entry| entry["run"] != json!(run));
    assert_eq!(started.len(), 2);
}

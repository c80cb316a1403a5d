//! What an administrator does and sees: the check, tokens, and the bridge's own log.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::bridge::Bridge;

const WIDE_RULE: &str = r#"polkit.addRule(function (action, subject) {
    if (subject.user === "ci-bridge") { return polkit.Result.YES; }
});
"#;

/// Runs the check, which must end so, and returns subject and message of the failures.
fn failures(bridge: &Bridge, status: i32) -> Vec<(String, String)> {
    let output = bridge.bed.enter(["ci-bridge", "check", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(status), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap();
    let failures = findings.iter().filter(|finding| finding["level"] == "failure");
    failures.map(|finding| (text_of(&finding["subject"]), text_of(&finding["message"]))).collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
#[ignore = "boots a bed: make test"]
fn the_check_is_green_after_installing_and_red_when_the_walls_are_not_right() {
    let bridge = Bridge::up();
    assert_eq!(failures(&bridge, 0), []);
    let text = bridge.bed.ok(["ci-bridge", "check"]);
    for line in ["ok    start of another unit: is refused", "ok    start of an allowed unit: ci-test-* is permitted"] {
        assert!(text.contains(line), "{text}");
    }

    bridge.bed.sh("rm /etc/polkit-1/rules.d/49-ci-bridge.rules && systemctl restart polkit");
    let subjects: Vec<String> = failures(&bridge, 1).into_iter().map(|(subject, _)| subject).collect();
    assert_eq!(subjects, ["polkit rule", "start of an allowed unit"]);
    bridge.bed.ok(["ci-bridge", "init"]);
    bridge.bed.ok(["systemctl", "restart", "polkit"]);
    assert_eq!(failures(&bridge, 0), []);

    bridge.bed.write("/etc/polkit-1/rules.d/00-wide.rules", WIDE_RULE);
    bridge.bed.ok(["systemctl", "restart", "polkit"]);
    let found = failures(&bridge, 1);
    let permitted = ("start of another unit".to_owned(), "is permitted to the user ci-bridge".to_owned());
    assert!(found.contains(&permitted), "{found:?}");
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn tokens_change_without_a_restart_and_a_broken_file_changes_nothing() {
    const SOON: Duration = Duration::from_secs(2);
    let bridge = Bridge::up();
    let status = async |token: &str| {
        bridge
            .try_send(Method::GET, "/api/jobs", token)
            .await
            .map(|answer| (answer.status, answer.json()["code"].clone()))
    };
    let becomes = async |token: &str, expected: (u16, Value)| {
        let since = Instant::now();
        while status(token).await.unwrap() != expected {
            assert!(since.elapsed() < SOON, "still {:?} and not {expected:?}", status(token).await);
        }
    };
    let pid = || bridge.bed.ok(["systemctl", "show", "--value", "--property=MainPID", "ci-bridge"]);
    let before = pid();
    let made = bridge.bed.ok(["ci-bridge", "token", "new", "late", "--access", "ro", "--job", "ci-test-hello"]);
    let made = made.trim();
    becomes(made, (200, Value::Null)).await;
    let jobs = bridge.try_send(Method::GET, "/api/jobs", made).await.unwrap().json();
    assert_eq!(jobs["jobs"].as_array().unwrap().iter().map(|job| &job["job"]).collect::<Vec<_>>(), ["ci-test-hello"]);
    bridge.bed.ok(["ci-bridge", "token", "revoke", "late"]);
    becomes(made, (401, json!("token_revoked"))).await;

    let file = "/etc/ci-bridge/tokens.toml";
    let content = bridge.bed.read(file);
    for (broken, said) in [("[[token", "the tokens read before stay valid"), ("", "holds no token any more")] {
        bridge.bed.write(file, broken);
        bridge.bed.ok(["systemctl", "reload", "ci-bridge"]);
        bridge.bed.await_log("ci-bridge", said);
        assert_eq!(status(&bridge.writer).await.unwrap().0, 200);
        assert_eq!(status(&bridge.reader).await.unwrap().0, 200);
    }
    // A file that is whole again counts at once.
    bridge.bed.write(file, &content.replace("revoked", "# revoked"));
    bridge.bed.ok(["systemctl", "reload", "ci-bridge"]);
    becomes(made, (200, Value::Null)).await;
    assert_eq!(pid(), before);
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn no_token_gets_into_the_journal() {
    let bridge = Bridge::up();
    let (writer, reader) = (&bridge.writer, &bridge.reader);
    let made = bridge.bed.ok(["ci-bridge", "token", "new", "late", "--access", "rw"]);
    let made = made.trim();
    // Like a token, but known to nobody; and one with a typing error.
    let stranger = format!("cib_rw_{}", "0".repeat(49));
    let mistyped = format!("{}x", &writer[..writer.len() - 1]);
    bridge.until_token(made).await;
    for token in [writer.as_str(), reader, made, &stranger, &mistyped, ""] {
        for (method, path) in [
            (Method::GET, "/api/jobs".to_owned()),
            (Method::GET, format!("/api/jobs?token={writer}")),
            (Method::GET, format!("/api/jobs?token={stranger}")),
            (Method::GET, format!("/api/jobs?token={mistyped}")),
            (Method::GET, format!("/api/job/ci-test-hello/state?wait=0&token={reader}&token={made}")),
            (Method::GET, format!("/api/job/ci-test-hello/logs?%74oken={reader}")),
            (Method::GET, format!("/api/job/ci-test-hello/logs?lines={reader}")),
            (Method::GET, format!("/api/job/ci-test-hello/tail?cursor={made}")),
            (Method::GET, format!("/api/nothing?token={reader}")),
            (Method::GET, format!("/nothing?token={reader}")),
            (Method::POST, format!("/api/job/ci-test-hello?token={reader}")),
            (Method::POST, format!("/api/job/ci-test-silent?token={made}")),
            (Method::POST, "/api/job/bystander".to_owned()),
            (Method::DELETE, format!("/api/job/ci-test-hello?token={writer}")),
        ] {
            let answer = bridge.try_send(method, &path, token).await.unwrap();
            for secret in [writer.as_str(), reader, made, &stranger, &mistyped] {
                assert!(!answer.text().contains(secret), "{path} answers with a token");
            }
        }
    }
    bridge.bed.ok(["systemctl", "reload", "ci-bridge"]);
    bridge.bed.ok(["systemctl", "restart", "ci-bridge"]);
    let own = bridge.own_log();
    assert!(own.contains("was answered with 404") && own.contains("was started by late"));
    let journal = bridge.bed.enter(["journalctl", "--output=export", "--all"]).stdout;
    let journal = String::from_utf8_lossy(&journal);
    for secret in [writer.as_str(), reader, made, &stranger, &mistyped] {
        // Neither whole nor the part behind its mark.
        assert!(!journal.contains(&secret[7..]), "the journal of the bed has a token");
    }
}

#[tokio::test]
#[ignore = "boots a bed: make test"]
async fn who_started_and_stopped_what_is_in_the_journal() {
    let bridge = Bridge::up();
    let run = bridge.start("ci-test-long").await;
    bridge.post("/api/job/ci-test-long/stop").await;
    bridge.end_of("ci-test-long", &run).await;
    bridge.post("/api/job/bystander").await;
    bridge.try_send(Method::POST, "/api/job/ci-test-hello", &bridge.reader).await.unwrap();
    bridge.bed.ok(["journalctl", "--sync"]);
    let log = bridge.bed.ok(["journalctl", "--output=json", "_SYSTEMD_UNIT=ci-bridge.service"]);
    let records: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |message: &str| {
        let mut found = records.iter().filter(|record| text_of(&record["MESSAGE"]).starts_with(message));
        found.next().unwrap_or(&Value::Null)
    };
    let started = said("ci-test-long was started by ci");
    assert_eq!(
        (&started["TOKEN"], &started["JOB"], &started["RUN"]),
        (&json!("ci"), &json!("ci-test-long"), &json!(run))
    );
    assert_eq!(said("ci-test-long was stopped by ci")["JOB"], "ci-test-long");
    // Of a name that is no job, nothing is written down.
    for (job, token, status) in [("", "ci", "404"), ("ci-test-hello", "read", "403")] {
        let record = said(&format!("POST /api/job/{{job}} was answered with {status}"));
        assert_eq!(record["JOB"], job, "{log}");
        assert_eq!((&record["TOKEN"], &record["PEER"]), (&json!(token), &json!("127.0.0.1")), "{log}");
    }
}

//! Following a log: what comes, in which form, and when it ends.

use serde_json::{Value, json};

use crate::bridge::{Bridge, Setup};
use crate::journal::line;
use crate::systemd1::{Exit, Unit};

const TAIL: &str = "/api/job/ci-test-a/tail?follow=true";

/// The first run of a bridge.
fn said(message: &str) -> String {
    line("ci-test-a", &"01".repeat(16), message)
}

/// A bridge with a job that is running, and has said these lines.
async fn running(lines: &[&str]) -> (Bridge, String) {
    let journal = crate::journal::FOREIGN_ENTRY.to_owned() + &lines.iter().copied().map(said).collect::<String>();
    let bridge = Bridge::with(vec![Unit::job("ci-test-a")], Setup { journal, ..Setup::default() }).await;
    let run = bridge.start("ci-test-a").await;
    (bridge, run)
}

#[tokio::test(flavor = "multi_thread")]
async fn text_has_the_lines_as_they_come_and_nothing_else() {
    let (bridge, run) = running(&["one", "two"]).await;
    let mut stream = bridge.open(TAIL, &[]).await;
    assert_eq!(stream.head.status, 200);
    assert_eq!(stream.head.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(stream.head.header("x-ci-run-id"), Some(run.as_str()));
    assert_eq!(stream.until("two\n").await, "one\ntwo\n");
    bridge.log(&said("three"));
    assert_eq!(stream.line().await, "three");
    bridge.log(&(said("four") + &said("five")));
    assert_eq!(stream.until("five\n").await, "four\nfive\n");
    bridge.systemd.end("ci-test-a", Exit::Code(3)).await;
    assert_eq!(stream.rest().await, (String::new(), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn ndjson_has_an_object_for_each_line_and_the_verdict() {
    let (bridge, run) = running(&["one"]).await;
    let mut stream = bridge.open(&format!("{TAIL}&format=ndjson"), &[]).await;
    assert_eq!(stream.head.header("content-type"), Some("application/x-ndjson"));
    let one: Value = serde_json::from_str(&stream.line().await).unwrap();
    assert_eq!((&one["message"], &one["source"], &one["priority"]), (&json!("one"), &json!("job"), &json!(6)));
    bridge.systemd.end("ci-test-a", Exit::Signal(9)).await;
    let (rest, whole) = stream.rest().await;
    let end: Value = serde_json::from_str(&rest).unwrap();
    let end = &end["end"];
    let finished = end["finished_at"].as_str();
    assert!(finished.is_some() && finished > end["started_at"].as_str(), "{end}");
    let expected = json!({
        "run": run, "state": "failed", "run_state": "ended", "result": "signal", "exit_code": null, "signal": "SIGKILL",
        "started_at": end["started_at"], "finished_at": end["finished_at"], "complete": false, "gap": false,
        "cursor": one["cursor"],
    });
    assert_eq!((end, whole), (&expected, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_have_the_same_objects_and_cursors_for_ids() {
    let (bridge, _) = running(&["one"]).await;
    let mut stream = bridge.open(TAIL, &[("Accept", "text/event-stream")]).await;
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.until("\n\n").await, "retry: 1000\n\n");
    let one = stream.until("\n\n").await;
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    let (end, whole) = stream.rest().await;
    let lines = bridge.call("GET /api/job/ci-test-a/logs?format=ndjson").await.body;
    let object = lines.lines().next().unwrap();
    let cursor = serde_json::from_str::<Value>(object).unwrap()["cursor"].as_str().unwrap().to_owned();
    assert_eq!(one, format!("id: {cursor}\ndata: {object}\n\n"));
    let verdict = end.strip_prefix(&format!("id: {cursor}\nevent: end\ndata: ")).expect(&end);
    let verdict: Value = serde_json::from_str(verdict).unwrap();
    assert_eq!((&verdict["result"], &verdict["exit_code"], whole), (&json!("success"), &json!(0), true));
}

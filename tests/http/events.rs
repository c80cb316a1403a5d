//! Server-sent events: what is in them, and how a source of events goes on.

use serde_json::{Value, json};

use crate::bridge::{Bridge, Setup};
use crate::follow::{cursors, running, said};
use crate::systemd1::Exit;

const TAIL: &str = "/api/job/ci-test-a/tail?follow=true&format=sse";

/// An event, as a browser takes it apart.
#[derive(Debug, PartialEq)]
struct Event {
    id: Option<String>,
    name: Option<String>,
    data: Value,
}

/// The events of an answer that has ended.
fn events(text: &str) -> Vec<Event> {
    let text = text.strip_prefix("retry: 1000\n\n").expect("the pause before the next try comes first");
    assert!(text.ends_with("\n\n"), "{text:?}");
    text.split_terminator("\n\n").map(event).collect()
}

fn event(text: &str) -> Event {
    let mut event = Event { id: None, name: None, data: Value::Null };
    for line in text.split('\n') {
        match line.split_once(": ").expect(text) {
            ("id", id) => event.id = Some(id.to_owned()),
            ("event", name) => event.name = Some(name.to_owned()),
            ("data", data) => event.data = serde_json::from_str(data).unwrap(),
            _ => panic!("{text:?}"),
        }
    }
    event
}

/// The messages of the events that are lines.
fn messages(events: &[Event]) -> Vec<&str> {
    events.iter().filter(|event| event.name.is_none()).map(|event| event.data["message"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_the_object_of_a_line_and_its_id_is_the_cursor() {
    let (bridge, run) = running(&["one"], Setup::default()).await;
    let mut stream = bridge.open(TAIL, &[]).await;
    let mut text = stream.until("one\"}\n\n").await;
    bridge.log(&said("two"));
    text += &stream.until("\n\n").await;
    bridge.systemd.end("ci-test-a", Exit::Code(4)).await;
    let (rest, whole) = stream.rest().await;
    let events = events(&(text + &rest));
    let ndjson = bridge.call("GET /api/job/ci-test-a/logs?format=ndjson").await.body;
    let objects: Vec<Value> = ndjson.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (event, object) in events.iter().zip(&objects[..2]) {
        let id = object["cursor"].as_str().map(str::to_owned);
        assert_eq!(*event, Event { id, name: None, data: object.clone() });
    }
    let end = events.last().unwrap();
    assert_eq!((end.name.as_deref(), &end.id, whole, events.len()), (Some("end"), &events[1].id, true, 3));
    assert_eq!((&end.data["run"], &end.data["exit_code"]), (&json!(run), &json!(4)));
    assert_eq!(end.data["cursor"].as_str(), end.id.as_deref());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_harmless_text_unless_it_is_to_be_raw() {
    let hostile = ["::error::x", "a\rb", "id: 1", "x\u{2028}data: y\u{85}z", ": comment", "caf\u{e9}"];
    let (bridge, _) = running(&hostile, Setup::default()).await;
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    let harmless = bridge.open(TAIL, &[]).await.rest().await.0;
    let expected = ["| ::error::x", "a\nb", "id: 1", "x\ndata: yz", ": comment", "caf\u{e9}"];
    assert_eq!(messages(&events(&harmless)), expected);
    let raw = bridge.open(&format!("{TAIL}&raw=true"), &[]).await.rest().await.0;
    assert_eq!(messages(&events(&raw)), hostile);
    for text in [harmless, raw] {
        assert!(!text.contains(['\r', '\u{85}', '\u{2028}', '\u{2029}']), "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_lost_its_connection_gets_each_line_once() {
    let (bridge, _) = running(&["one"], Setup::default()).await;
    let mut seen = Vec::new();
    let mut last: Option<String> = None;
    for message in ["two", "three", "four"] {
        let headers: Vec<_> = last.as_deref().map(|id| ("Last-Event-ID", id)).into_iter().collect();
        let mut stream = bridge.open(TAIL, &headers).await;
        stream.until("\n\n").await;
        // The connection is lost behind one line, whether or not more are on their way.
        bridge.log(&said(message));
        let one = event(stream.until("\n\n").await.trim_end());
        seen.push(one.data["message"].as_str().unwrap().to_owned());
        last = one.id;
    }
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    let rest = bridge.open(TAIL, &[("Last-Event-ID", &last.unwrap())]).await.rest().await.0;
    seen.extend(messages(&events(&rest)).iter().map(|message| (*message).to_owned()));
    assert_eq!(seen, ["one", "two", "three", "four"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_comes_back_after_the_end_gets_the_end_again() {
    let (bridge, _) = running(&["one"], Setup::default()).await;
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    let mut headers: Vec<(&str, String)> = Vec::new();
    let mut ends = Vec::new();
    for lines in [1, 0, 0] {
        let with: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (text, whole) = bridge.open(TAIL, &with).await.rest().await;
        let mut events = events(&text);
        assert_eq!((messages(&events).len(), events.len(), whole), (lines, lines + 1, true));
        let end = events.pop().unwrap();
        assert_eq!(end.name.as_deref(), Some("end"));
        headers = vec![("Last-Event-ID", end.id.clone().unwrap())];
        ends.push(end);
    }
    assert!(ends[0] == ends[1] && ends[1] == ends[2], "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_and_a_log_can_be_events_too() {
    let (bridge, _) = running(&["one", "two", "three"], Setup::default()).await;
    let cursors = cursors(&bridge).await;
    let get = async |path: &str, headers: &[(&str, &str)]| {
        let stream = bridge.open(&format!("/api/job/ci-test-a/{path}"), headers).await;
        assert_eq!(stream.head.header("content-type"), Some("text/event-stream"), "{path}");
        assert_eq!(stream.head.header("x-accel-buffering"), Some("no"), "{path}");
        assert_eq!(stream.head.header("x-ci-run-state"), Some("running"), "{path}");
        events(&stream.rest().await.0)
    };
    let id = [("Last-Event-ID", cursors[1].as_str())];
    for (path, headers, expected) in [
        ("tail?format=sse&lines=2", [].as_slice(), ["two", "three"].as_slice()),
        ("tail?format=sse", &id, &["three"]),
        ("logs?format=sse", &[], &["one", "two", "three"]),
        ("logs?format=sse&order=desc", &[], &["three", "two", "one"]),
        ("logs?format=sse&order=desc&lines=1", &id, &["three"]),
        ("logs", &[("Accept", "text/event-stream"), id[0]], &["three"]),
    ] {
        let events = get(path, headers).await;
        assert_eq!(messages(&events), expected, "{path}");
        let end = events.last().unwrap();
        assert_eq!((end.name.as_deref(), end.id.as_ref()), (Some("end"), Some(&cursors[2])), "{path}");
        assert_eq!(end.data["run_state"], "running", "{path}");
    }
    assert_eq!(get("tail?format=sse&lines=1", &id).await.last().unwrap().data["more"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_never_ran_has_only_an_end() {
    let bridge = Bridge::new(vec![crate::systemd1::Unit::job("ci-test-a")]).await;
    for path in ["tail?follow=true&format=sse", "tail?format=sse", "logs?format=sse"] {
        let (text, whole) = bridge.open(&format!("/api/job/ci-test-a/{path}"), &[]).await.rest().await;
        let events = events(&text);
        assert_eq!((events.len(), events[0].name.as_deref(), whole), (1, Some("end"), true), "{path}");
        assert_eq!((&events[0].id, &events[0].data["run"]), (&None, &Value::Null), "{path}");
    }
}

//! Following a log: who may, in which form, where it begins, and where it ends.

use serde_json::{Value, json};

use crate::bridge::{Bridge, Setup};
use crate::journal::{FOREIGN_ENTRY, entry, line};
use crate::systemd1::{Exit, Start, Unit};

const TAIL: &str = "/api/job/ci-test-a/tail?follow=true";

/// A line of the first run of a bridge.
pub(crate) fn said(message: &str) -> String {
    line("ci-test-a", &"01".repeat(16), message)
}

/// A bridge with a job that is running, and has said these lines.
pub(crate) async fn running(lines: &[&str], setup: Setup) -> (Bridge, String) {
    let journal = FOREIGN_ENTRY.to_owned() + &lines.iter().copied().map(said).collect::<String>();
    let bridge = Bridge::with(vec![Unit::job("ci-test-a")], Setup { journal, ..setup }).await;
    bridge.play_journald();
    let run = bridge.start("ci-test-a").await;
    (bridge, run)
}

/// A bridge with a job that has said these lines and ended.
async fn ended(lines: &[&str]) -> (Bridge, String) {
    let (bridge, run) = running(lines, Setup::default()).await;
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    bridge.ended("ci-test-a", &run).await;
    (bridge, run)
}

/// The cursors of the newest run, line by line.
pub(crate) async fn cursors(bridge: &Bridge) -> Vec<String> {
    let page = bridge.call("GET /api/job/ci-test-a/tail").await.json();
    page["logs"].as_array().unwrap().iter().map(|line| line["cursor"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_the_log_may_not_follow_it() {
    let (bridge, _) = ended(&["a secret"]).await;
    for (request, headers, expected) in [
        (TAIL, vec![], (401, "token_missing")),
        (
            "/api/job/ci-test-nope/tail?follow=true",
            vec![("Authorization", &bridge.tokens.reader)],
            (404, "no_such_job"),
        ),
        ("/api/job/sshd/tail?follow=true", vec![("Authorization", &bridge.tokens.writer)], (404, "no_such_job")),
        (TAIL, vec![("Authorization", &bridge.tokens.narrow)], (404, "no_such_job")),
        (TAIL, vec![("Authorization", &bridge.tokens.revoked)], (401, "token_revoked")),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, token)| (*name, format!("Bearer {token}"))).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = bridge.call_with(&format!("GET {request}"), &headers).await;
        assert_eq!(answer.problem(), (expected.0, expected.1.to_owned()), "{request}");
        assert!(!answer.body.contains("secret"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_is_refused_at_once() {
    let (bridge, _) = ended(&["a secret"]).await;
    for (query, code) in [
        ("&follow=true", "invalid_parameter"),
        ("&lines=0", "invalid_parameter"),
        ("&lines=10001", "invalid_parameter"),
        ("&format=xml", "invalid_parameter"),
        ("&format=json", "invalid_parameter"),
        ("&raw=1", "invalid_parameter"),
        ("&order=desc", "invalid_parameter"),
        ("&run=garbage", "invalid_parameter"),
        ("&cursor=garbage", "invalid_cursor"),
        ("&cursor=", "invalid_cursor"),
    ] {
        let answer = bridge.call(&format!("GET {TAIL}{query}")).await;
        assert_eq!(answer.problem(), (400, code.to_owned()), "{query}");
    }
    let answer = bridge.call("GET /api/job/ci-test-a/tail?follow=yes").await;
    assert_eq!(answer.problem(), (400, "invalid_parameter".to_owned()));
    let answer = bridge.call("GET /api/job/ci-test-a/logs?follow=true").await;
    assert_eq!(answer.problem(), (400, "invalid_parameter".to_owned()));
    let answer = bridge.call(&format!("GET {TAIL}&format=json")).await;
    assert!(answer.json()["detail"].as_str().unwrap().contains("format=ndjson"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_event_id_that_is_no_cursor_of_the_job_is_refused() {
    let journal = said("a says this") + &line("ci-test-b", &"02".repeat(16), "b says that");
    let ends = |name| Unit::starting(name, Start::EndsBeforeReply(Exit::Code(0)));
    let setup = Setup { journal, ..Setup::default() };
    let bridge = Bridge::with(vec![ends("ci-test-a"), ends("ci-test-b")], setup).await;
    bridge.start("ci-test-a").await;
    bridge.start("ci-test-b").await;
    let own = cursors(&bridge).await.remove(0);
    let foreign = bridge.call("GET /api/job/ci-test-b/tail").await.json()["cursor"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {}", bridge.tokens.reader);
    let token = ("Authorization", bearer.as_str());
    for path in ["tail?follow=true", "tail?follow=true&format=sse", "tail", "logs", "logs?format=sse"] {
        let request = format!("GET /api/job/ci-test-a/{path}");
        let damaged = format!("{own}A");
        for ids in [vec![foreign.as_str()], vec!["garbage"], vec![""], vec!["caf\u{e9}"], vec![&damaged], vec![&own; 2]]
        {
            let mut headers = vec![token];
            headers.extend(ids.iter().map(|id| ("Last-Event-ID", *id)));
            let answer = bridge.call_with(&request, &headers).await;
            assert_eq!(answer.problem(), (400, "invalid_cursor".to_owned()), "{path} {ids:?}");
            assert!(!answer.body.contains("says"), "{answer:?}");
        }
        let answer = bridge.call_with(&request, &[token, ("Last-Event-ID", &own)]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.body.contains("says"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_format_is_chosen_by_the_query_or_else_by_what_is_accepted() {
    let (bridge, _) = ended(&["one"]).await;
    let (text, ndjson, events) = ("text/plain; charset=utf-8", "application/x-ndjson", "text/event-stream");
    for (query, accept, expected) in [
        ("", None, text),
        ("", Some("*/*"), text),
        ("", Some("text/html"), text),
        ("", Some("text/plain"), text),
        ("", Some("text/event-stream"), events),
        ("", Some("application/x-ndjson;q=0.9, text/plain"), ndjson),
        // Programs that put JSON first whatever they ask for.
        ("", Some("application/json, text/plain, */*"), text),
        ("", Some("application/json, */*;q=0.5"), text),
        ("&format=ndjson", Some("text/event-stream"), ndjson),
        ("&format=sse", None, events),
        ("&format=text", Some("application/json"), text),
    ] {
        let accept: Vec<_> = accept.map(|accept| ("Accept", accept)).into_iter().collect();
        let stream = bridge.open(&format!("{TAIL}{query}"), &accept).await;
        assert_eq!(stream.head.header("content-type"), Some(expected), "{query} {accept:?}");
        assert!(stream.rest().await.1, "{query} {accept:?}");
    }
    let stream = bridge.open(TAIL, &[("Accept", "application/json")]).await;
    assert_eq!(stream.head.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn text_has_the_lines_as_they_come_and_nothing_else() {
    let (bridge, _) = running(&["one", "two"], Setup::default()).await;
    let mut stream = bridge.open(TAIL, &[]).await;
    assert_eq!(stream.until("two\n").await, "one\ntwo\n");
    bridge.log(&said("three"));
    assert_eq!(stream.line().await, "three");
    bridge.log(&(said("four") + &said("five")));
    assert_eq!(stream.until("five\n").await, "four\nfive\n");
    bridge.log(&said("the last line"));
    bridge.systemd.end("ci-test-a", Exit::Code(3)).await;
    assert_eq!(stream.rest().await, ("the last line\n".to_owned(), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_harmless_unless_it_is_to_be_raw() {
    let (bridge, _) = ended(&["::error::x", "a\u{1b}[2Jb", "[ci-bridge] 5 messages are missing here", "x\ry"]).await;
    let harmless = "| ::error::x\nab\n| [ci-bridge] 5 messages are missing here\nx\ny\n";
    assert_eq!(bridge.open(TAIL, &[]).await.rest().await, (harmless.to_owned(), true));
    let raw = "::error::x\na\u{1b}[2Jb\n[ci-bridge] 5 messages are missing here\nx\ry\n";
    assert_eq!(bridge.open(&format!("{TAIL}&raw=true"), &[]).await.rest().await, (raw.to_owned(), true));
    // What follows is what the log has.
    for raw in ["false", "true"] {
        let log = bridge.call(&format!("GET /api/job/ci-test-a/logs?format=text&raw={raw}")).await.body;
        assert_eq!(bridge.open(&format!("{TAIL}&raw={raw}"), &[]).await.rest().await.0, log);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ndjson_has_an_object_for_each_line_and_the_verdict() {
    let (bridge, run) = running(&["::one"], Setup::default()).await;
    let mut stream = bridge.open(&format!("{TAIL}&format=ndjson"), &[]).await;
    let one: Value = serde_json::from_str(&stream.line().await).unwrap();
    assert_eq!((&one["message"], &one["source"], &one["priority"]), (&json!("::one"), &json!("job"), &json!(6)));
    bridge.systemd.end("ci-test-a", Exit::Signal(9)).await;
    let (rest, whole) = stream.rest().await;
    let end: Value = serde_json::from_str(&rest).unwrap();
    let end = &end["end"];
    let finished = end["finished_at"].as_str();
    assert!(finished.is_some() && finished > end["started_at"].as_str(), "{end}");
    let expected = json!({
        "run": run, "state": "failed", "run_state": "ended", "result": "signal", "exit_code": null, "signal": "SIGKILL",
        "started_at": end["started_at"], "finished_at": end["finished_at"], "complete": true, "gap": false,
        "cursor": one["cursor"],
    });
    assert_eq!((end, whole), (&expected, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_may_lack_its_last_lines_says_so() {
    // There is no journald that could say that it has written everything.
    let setup = Setup { journal: said("one"), ..Setup::default() };
    let bridge = Bridge::with(vec![Unit::job("ci-test-a")], setup).await;
    bridge.start("ci-test-a").await;
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    let (rest, whole) = bridge.open(&format!("{TAIL}&format=ndjson"), &[]).await.rest().await;
    let end: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!((&end["end"]["complete"], &end["end"]["gap"], whole), (&json!(false), &json!(false), true));
    let text = "one\n[ci-bridge] the last lines may be missing: journald has not written them in time\n";
    for raw in ["false", "true"] {
        let stream = bridge.open(&format!("{TAIL}&raw={raw}"), &[]).await;
        assert_eq!(stream.rest().await, (text.to_owned(), true));
    }
}

/// journald's word that it dropped messages of the first run of a bridge.
fn dropped(count: u32) -> String {
    entry(&format!(
        "_TRANSPORT=driver\n_UID=0\n_PID=5\n_SYSTEMD_UNIT=systemd-journald.service\nPRIORITY=6\n\
         MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e\nOBJECT_SYSTEMD_UNIT=ci-test-a.service\n\
         OBJECT_SYSTEMD_INVOCATION_ID={}\nN_DROPPED={count}\n\
         MESSAGE=Suppressed {count} messages from ci-test-a.service\n",
        "01".repeat(16)
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_messages_are_told_where_they_are_missing() {
    let (bridge, run) = running(&["one"], Setup::default()).await;
    let mut stream = bridge.open(TAIL, &[]).await;
    assert_eq!(stream.line().await, "one");
    // They arrive at once.
    bridge.log(&[said("two"), dropped(40), said("three"), dropped(1), said("four")].concat());
    let suppressed = |count| format!("Suppressed {count} messages from ci-test-a.service\n");
    let missing = "messages are missing here: journald's rate limit dropped them\n";
    let told = format!(
        "two\n[ci-bridge] 40 {missing}{}three\n\
         [ci-bridge] 1 message is missing here: journald's rate limit dropped it\n{}four\n",
        suppressed(40),
        suppressed(1)
    );
    assert_eq!(stream.until("four\n").await, told);
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    bridge.ended("ci-test-a", &run).await;
    let told = format!("one\n{told}");
    assert_eq!(bridge.open(TAIL, &[]).await.rest().await, (told.clone(), true));
    // Who does not want journald's words is told what is missing nevertheless.
    let (ndjson, _) = bridge.open(&format!("{TAIL}&format=ndjson&priority=err"), &[]).await.rest().await;
    let told: Vec<Value> = ndjson.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told[0], json!({ "gap": { "reason": "suppressed", "count": 41 } }));
    assert_eq!((told.len(), &told[1]["end"]["gap"]), (2, &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_headers_come_before_the_first_line() {
    let (bridge, run) = running(&[], Setup::default()).await;
    for format in ["text", "ndjson", "sse"] {
        let stream = bridge.open(&format!("{TAIL}&format={format}"), &[]).await;
        assert_eq!(stream.head.status, 200, "{format}");
        for (name, value) in [
            ("x-ci-run-id", run.as_str()),
            ("x-accel-buffering", "no"),
            ("cache-control", "no-store, no-transform"),
            ("x-content-type-options", "nosniff"),
            ("transfer-encoding", "chunked"),
        ] {
            assert_eq!(stream.head.header(name), Some(value), "{format}");
        }
    }
    let mut stream = bridge.open(&format!("{TAIL}&format=sse"), &[]).await;
    assert_eq!(stream.until("\n\n").await, "retry: 1000\n\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_job_that_never_ran_there_is_nothing_to_follow() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let stream = bridge.open(TAIL, &[]).await;
    assert_eq!((stream.head.status, stream.head.header("x-ci-run-id")), (200, None));
    assert_eq!(stream.rest().await, (String::new(), true));
    let (ndjson, whole) = bridge.open(&format!("{TAIL}&format=ndjson"), &[]).await.rest().await;
    let end: Value = serde_json::from_str(&ndjson).unwrap();
    let expected = json!({
        "run": null, "state": "inactive", "run_state": null, "result": null, "exit_code": null, "signal": null,
        "started_at": null, "finished_at": null, "complete": false, "gap": false, "cursor": null,
    });
    assert_eq!((&end["end"], whole), (&expected, true));
    let (events, whole) = bridge.open(&format!("{TAIL}&format=sse"), &[]).await.rest().await;
    assert!(whole && events.starts_with("retry: 1000\n\nevent: end\ndata: {\"run\":null,"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_queued_is_waited_for() {
    let bridge = std::sync::Arc::new(Bridge::new(vec![Unit::starting("ci-test-a", Start::Waits)]).await);
    let starter = bridge.clone();
    let start = tokio::spawn(async move { starter.start("ci-test-a").await });
    bridge.systemd.called("StartUnit ci-test-a.service").await;
    bridge.play_journald();
    let mut stream = bridge.open(TAIL, &[]).await;
    let queued = stream.head.header("x-ci-run-id").unwrap().to_owned();
    bridge.systemd.begin("ci-test-a").await;
    assert_eq!(start.await.unwrap(), queued);
    bridge.log(&said("at last"));
    assert_eq!(stream.line().await, "at last");
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    assert_eq!(stream.rest().await, (String::new(), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_begins_at_the_newest_lines_or_behind_a_cursor() {
    let (bridge, run) = ended(&["one", "two", "three", "four"]).await;
    let cursors = cursors(&bridge).await;
    let id = |at: usize| vec![("Last-Event-ID", cursors[at].as_str())];
    for (query, headers, expected) in [
        (String::new(), vec![], "one\ntwo\nthree\nfour\n"),
        ("&lines=2".to_owned(), vec![], "three\nfour\n"),
        (format!("&lines=1&run={run}"), vec![], "four\n"),
        (format!("&cursor={}", cursors[0]), vec![], "two\nthree\nfour\n"),
        (format!("&lines=1&cursor={}", cursors[0]), vec![], "two\nthree\nfour\n"),
        (String::new(), id(2), "four\n"),
        (format!("&lines=1&cursor={}", cursors[0]), id(2), "four\n"),
        (format!("&cursor={}", cursors[3]), vec![], ""),
    ] {
        let stream = bridge.open(&format!("{TAIL}{query}"), &headers).await;
        assert_eq!(stream.head.header("x-ci-run-id"), Some(run.as_str()), "{query}");
        assert_eq!(stream.rest().await, (expected.to_owned(), true), "{query} {headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_the_lines_of_its_priority_and_no_others() {
    // The number is the priority as well.
    let lines = |numbers: &[u8]| -> String {
        let line = |number: &u8| {
            let fields = "_TRANSPORT=journal\n_PID=4711\n_SYSTEMD_UNIT=ci-test-a.service\n_SYSTEMD_INVOCATION_ID=";
            entry(&format!("{fields}{}\nPRIORITY={number}\nMESSAGE={number}\n", "01".repeat(16)))
        };
        numbers.iter().map(line).collect()
    };
    let setup = Setup { journal: lines(&[6, 3, 7, 4, 7]), ..Setup::default() };
    let bridge = Bridge::with(vec![Unit::job("ci-test-a")], setup).await;
    bridge.play_journald();
    bridge.start("ci-test-a").await;
    let cursors = cursors(&bridge).await;
    let expected = [
        (String::new(), "6\n3\n7\n4\n7\n", "5\n7\n3\n7\n7\n2\n6\n"),
        ("&priority=debug".to_owned(), "6\n3\n7\n4\n7\n", "5\n7\n3\n7\n7\n2\n6\n"),
        ("&priority=warning".to_owned(), "3\n4\n", "3\n2\n"),
        ("&priority=4&lines=1".to_owned(), "4\n", "3\n2\n"),
        ("&priority=err".to_owned(), "3\n", "3\n2\n"),
        ("&priority=crit".to_owned(), "", "2\n"),
        ("&priority=emerg".to_owned(), "", ""),
        // Behind a line that is not wanted.
        (format!("&priority=err&cursor={}", cursors[2]), "", "3\n2\n"),
        (format!("&priority=warning&cursor={}", cursors[0]), "3\n4\n", "3\n2\n"),
    ];
    let mut followers = Vec::new();
    // Two of each, who share what is written.
    for (query, before, _) in expected.iter().chain(&expected) {
        let mut stream = bridge.open(&format!("{TAIL}{query}"), &[]).await;
        if !before.is_empty() {
            assert_eq!(stream.until(before).await, *before, "{query}");
        }
        followers.push(stream);
    }
    for numbers in [&[5_u8, 7] as &[u8], &[3, 7], &[7], &[2, 6]] {
        bridge.log(&lines(numbers));
    }
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    for ((query, _, after), stream) in expected.iter().chain(&expected).zip(followers) {
        assert_eq!(stream.rest().await, ((*after).to_owned(), true), "{query}");
    }
    // Who comes later reads the same from the files, and so does who does not follow.
    for (query, before, after) in expected.iter().filter(|(query, ..)| !query.contains("lines")) {
        let whole = (format!("{before}{after}"), true);
        assert_eq!(bridge.open(&format!("{TAIL}{query}"), &[]).await.rest().await, whole, "{query}");
        let page = bridge.call(&format!("GET /api/job/ci-test-a/tail?format=text{query}")).await.body;
        assert_eq!(page, whole.0, "{query}");
    }
    // The verdict is that of the run.
    let (told, _) = bridge.open(&format!("{TAIL}&priority=emerg&format=ndjson"), &[]).await.rest().await;
    let end: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&end["end"]["result"], &end["end"]["complete"]), (&json!("success"), &json!(true)), "{end}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_of_the_start_has_the_whole_log() {
    let lines: Vec<String> = (0..250).map(|number| format!("line {number}")).collect();
    let journal = lines.iter().map(|line| said(line)).collect();
    let bridge = Bridge::with(vec![Unit::job("ci-test-a")], Setup { journal, ..Setup::default() }).await;
    let start = bridge.call("POST /api/job/ci-test-a").await;
    let mut stream = bridge.open(&format!("{TAIL}&cursor={}", start.header("x-ci-cursor").unwrap()), &[]).await;
    assert_eq!(stream.until("line 249\n").await, lines.join("\n") + "\n");
    let mut newest = bridge.open(TAIL, &[]).await;
    assert_eq!(newest.until("line 249\n").await, lines[150..].join("\n") + "\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_stays_with_its_run_when_the_next_one_begins() {
    let (bridge, first) = ended(&["of the first run"]).await;
    let begin = bridge.call("GET /api/job/ci-test-a/state").await.json()["cursor"].as_str().unwrap().to_owned();
    let second = bridge.start("ci-test-a").await;
    bridge.log(&line("ci-test-a", &"02".repeat(16), "of the second run"));
    for query in [format!("&run={first}"), format!("&cursor={begin}"), format!("&cursor={begin}&run={second}")] {
        let stream = bridge.open(&format!("{TAIL}{query}"), &[]).await;
        assert_eq!(stream.head.header("x-ci-run-id"), Some(first.as_str()));
        assert_eq!(stream.rest().await, ("of the first run\n".to_owned(), true), "{query}");
    }
    let mut stream = bridge.open(TAIL, &[]).await;
    assert_eq!(stream.line().await, "of the second run");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_no_longer_exist_are_told_where_they_are_missing() {
    let (bridge, _) = running(&["one", "two"], Setup::default()).await;
    bridge.log(&said("three"));
    let cursors = cursors(&bridge).await;
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    bridge.vacuum(0);
    let query = format!("{TAIL}&cursor={}", cursors[0]);
    let text = "[ci-bridge] lines are missing here: journald has deleted them to make room\nthree\n";
    assert_eq!(bridge.open(&query, &[]).await.rest().await, (text.to_owned(), true));
    assert_eq!(bridge.open(&format!("{query}&raw=true"), &[]).await.rest().await, (text.to_owned(), true));
    let (ndjson, _) = bridge.open(&format!("{query}&format=ndjson"), &[]).await.rest().await;
    let objects: Vec<Value> = ndjson.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects[0], json!({ "gap": { "reason": "vacuumed" } }));
    assert_eq!(objects[1]["message"], "three");
    assert_eq!((&objects[2]["end"]["gap"], &objects[2]["end"]["complete"]), (&json!(true), &json!(false)));
    let (events, _) = bridge.open(&format!("{query}&format=sse"), &[]).await.rest().await;
    assert!(events.contains("\n\nevent: gap\ndata: {\"reason\":\"vacuumed\"}\n\nid: "), "{events}");
}

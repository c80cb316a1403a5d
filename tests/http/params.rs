//! Parameters of requests: known, once, within bounds, and of the job that is asked for.

use serde_json::json;

use crate::bridge::{Bridge, Setup};
use crate::journal::line;
use crate::systemd1::{Exit, Start, Unit};

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_breaks_a_rule_is_refused_without_a_call() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    for request in [
        "GET {}/tail?lines=-1",
        "GET {}/tail?lines=1e9",
        "GET {}/tail?lines=abc",
        "GET {}/tail?lines=0",
        "GET {}/tail?lines=10001",
        "GET {}/tail?lines=",
        "GET {}/tail?lines",
        "GET {}/tail?lines=%201",
        "GET {}/tail?lines=99999999999999999999999",
        "GET {}/tail?lines=1&lines=2",
        "GET {}/tail?lines=1&lines=1",
        "GET {}/tail?order=desc",
        "GET {}/tail?format=xml",
        "GET {}/tail?format=JSON",
        "GET {}/tail?raw=1",
        "GET {}/tail?nonsense",
        "GET {}/tail?nonsense=%ff",
        "GET {}/tail?run=garbage",
        "GET {}/tail?run=",
        "GET {}/logs?lines=0",
        "GET {}/logs?lines=-1",
        "GET {}/logs?lines=1e9",
        "GET {}/logs?lines=100000001",
        "GET {}/logs?order=sideways",
        "GET {}/logs?cursor=x",
        "GET {}/tail?since=2026-11-21T10:40:02Z",
        "GET {}/tail?priority=",
        "GET {}/tail?priority=8",
        "GET {}/tail?priority=ERR",
        "GET {}/logs?priority=-1",
        "GET {}/logs?priority=3..5",
        "GET {}/logs?priority=error",
        "GET {}/logs?priority=3&priority=3",
        "GET {}/logs?since=99999999999999",
        "GET {}/logs?since=",
        "GET {}/logs?since=yesterday",
        "GET {}/logs?since=2026-11-21",
        "GET {}/logs?since=2026-11-21T10:40:02",
        // Unless it is encoded, a + is a blank.
        "GET {}/logs?since=2026-11-21T10:40:02+01:00",
        "GET {}/logs?until=1969-12-31T23:59:59Z",
        "GET {}/logs?until=2026-02-30T10:40:02Z",
        "GET {}/logs?since=2026-11-21T10:40:02Z&until=2026-11-21T10:40:01Z",
        "GET {}/state?wait=999",
        "GET {}/state?wait=56",
        "GET {}/state?wait=-1",
        "GET {}/state?wait=1.5",
        "GET {}/state?wait=",
        "GET {}/state?run=1",
        "GET {}/state?lines=1",
        "POST {}?if_busy=maybe",
        "POST {}?if_busy=join&if_busy=join",
        "POST {}?mode=isolate",
        "POST {}?lines=1",
        "POST {}/stop?mode=flush",
        "GET /api/jobs?state=active",
    ] {
        let answer = bridge.call(&request.replace("{}", "/api/job/ci-test-a")).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter".to_owned()), "{request}");
    }
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_quoted_of_a_parameter_is_short() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let answer = bridge.call(&format!("GET /api/job/ci-test-a/tail?{}=1", "x".repeat(5000))).await;
    assert!(answer.json()["detail"].as_str().unwrap().len() < 300, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_chosen_by_priority_and_by_time() {
    const RUN: &str = "01010101010101010101010101010101";
    // A second apart, from 2023-11-14T22:13:20Z on.
    let entry = |(at, (priority, message)): (u64, &(u8, &str))| {
        let usec = at * 1_000_000;
        format!(
            "__REALTIME_TIMESTAMP={}\n__MONOTONIC_TIMESTAMP={usec}\n_BOOT_ID=0123456789abcdef0123456789abcdef\n\
             _TRANSPORT=stdout\n_PID=4711\n_SYSTEMD_UNIT=ci-test-a.service\n_SYSTEMD_INVOCATION_ID={RUN}\n\
             PRIORITY={priority}\nMESSAGE={message}\n\n",
            1_700_000_000_000_000 + usec
        )
    };
    let lines = [(6, "zero"), (3, "one"), (7, "two"), (4, "three"), (6, "four"), (3, "five")];
    let journal = (0..).zip(&lines).map(entry).collect();
    let setup = Setup { journal, ..Setup::default() };
    let bridge = Bridge::with(vec![Unit::starting("ci-test-a", Start::EndsBeforeReply(Exit::Code(0)))], setup).await;
    bridge.start("ci-test-a").await;
    for (path, expected) in [
        ("logs?", "zero one two three four five"),
        ("logs?priority=err&", "one five"),
        ("logs?priority=3&", "one five"),
        ("logs?priority=4&", "one three five"),
        ("logs?priority=emerg&", ""),
        ("logs?priority=info&", "zero one three four five"),
        ("logs?priority=debug&", "zero one two three four five"),
        ("logs?since=2023-11-14T22:13:22Z&", "two three four five"),
        ("logs?since=2023-11-14T22:13:22.000001Z&", "three four five"),
        ("logs?until=2023-11-14T22:13:22Z&", "zero one two"),
        ("logs?since=2023-11-14T23:13:21%2B01:00&until=2023-11-14T21:13:23-01:00&", "one two three"),
        ("logs?since=2023-11-14T22:13:21Z&until=2023-11-14T22:13:23Z&priority=warning&", "one three"),
        ("logs?since=2030-01-01T00:00:00Z&", ""),
        ("logs?priority=4&lines=2&", "three five"),
        ("logs?priority=4&order=desc&lines=2&", "five three"),
        ("tail?priority=err&", "one five"),
        ("tail?priority=warning&lines=2&", "three five"),
    ] {
        let text = bridge.call(&format!("GET /api/job/ci-test-a/{path}format=text")).await;
        assert_eq!(text.body.lines().collect::<Vec<_>>().join(" "), expected, "{path}");
        let json = bridge.call(&format!("GET /api/job/ci-test-a/{path}")).await.json();
        let messages: Vec<_> =
            json["logs"].as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(messages.join(" "), expected, "{path}");
    }
    // Page by page, behind the first line.
    let all = bridge.call("GET /api/job/ci-test-a/tail").await.json();
    let mut cursor = all["logs"][0]["cursor"].clone();
    for (message, more) in [("one", true), ("three", true), ("five", false)] {
        let path = format!("tail?priority=warning&lines=1&cursor={}", cursor.as_str().unwrap());
        let page = bridge.call(&format!("GET /api/job/ci-test-a/{path}")).await.json();
        assert_eq!((&page["logs"][0]["message"], &page["more"]), (&json!(message), &json!(more)), "{page}");
        cursor = page["cursor"].clone();
    }
}

/// A bridge with a run of `ci-test-a` and one of `ci-test-b`, each with a line in the journal.
async fn bridge_with_two_logs() -> (Bridge, String, String) {
    let a = line("ci-test-a", &"01".repeat(16), "a says this");
    let b = line("ci-test-b", &"02".repeat(16), "b says that");
    let ends = |name| Unit::starting(name, Start::EndsBeforeReply(Exit::Code(0)));
    let setup = Setup { journal: a + &b, ..Setup::default() };
    let bridge = Bridge::with(vec![ends("ci-test-a"), ends("ci-test-b")], setup).await;
    let (a, b) = (bridge.start("ci-test-a").await, bridge.start("ci-test-b").await);
    (bridge, a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_worth_nothing_for_another_job() {
    let (bridge, ..) = bridge_with_two_logs().await;
    let of = |answer: &crate::wire::Answer| answer.json()["cursor"].as_str().unwrap().to_owned();
    let tail = bridge.call("GET /api/job/ci-test-b/tail").await;
    assert!(tail.body.contains("b says that"), "{tail:?}");
    let (before, after) = (tail.json()["logs"][0]["cursor"].as_str().unwrap().to_owned(), of(&tail));
    let begin = bridge.call("POST /api/job/ci-test-b").await.json()["cursor"].as_str().unwrap().to_owned();
    for cursor in [&before, &after, &begin] {
        let answer = bridge.call(&format!("GET /api/job/ci-test-a/tail?cursor={cursor}")).await;
        assert_eq!(answer.problem(), (400, "invalid_cursor".to_owned()));
        assert!(!answer.body.contains("says"), "{answer:?}");
    }
    let answer = bridge.call(&format!("GET /api/job/ci-test-b/tail?cursor={after}")).await;
    assert_eq!((answer.status, answer.json()["logs"].as_array().unwrap().len()), (200, 0), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_was_changed_is_refused() {
    let (bridge, ..) = bridge_with_two_logs().await;
    let cursor = bridge.call("GET /api/job/ci-test-a/tail").await.json()["cursor"].as_str().unwrap().to_owned();
    let mut changed =
        vec![String::new(), "garbage".to_owned(), "%00".to_owned(), format!("{cursor}AAAA"), "A".repeat(5000)];
    changed.extend((1..cursor.len()).map(|end| cursor[..end].to_owned()));
    changed.extend((0..cursor.len()).map(|at| {
        let other = if &cursor[at..=at] == "Q" { "g" } else { "Q" };
        format!("{}{other}{}", &cursor[..at], &cursor[at + 1..])
    }));
    for cursor in changed {
        let answer = bridge.call(&format!("GET /api/job/ci-test-a/tail?cursor={cursor}")).await;
        assert_eq!(answer.problem(), (400, "invalid_cursor".to_owned()), "{cursor}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_another_job_is_no_run_of_this_one() {
    let (bridge, a, b) = bridge_with_two_logs().await;
    let invocation_of_b = uuid_of(&"02".repeat(16));
    for run in [&b, &invocation_of_b, &uuid_of(&"77".repeat(16)), &uuid_of(&"00".repeat(16))] {
        for path in ["state", "tail", "logs"] {
            let answer = bridge.call(&format!("GET /api/job/ci-test-a/{path}?run={run}")).await;
            assert_eq!(answer.problem(), (404, "no_such_run".to_owned()), "{path} {run}");
            assert!(!answer.body.contains("says"), "{answer:?}");
        }
    }
    for run in [a, uuid_of(&"01".repeat(16))] {
        let answer = bridge.call(&format!("GET /api/job/ci-test-a/logs?run={run}&format=text")).await;
        assert_eq!(answer.body, "a says this\n");
    }
}

fn uuid_of(hex: &str) -> String {
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

//! Parameters of requests: known, once, within bounds, and of the job that is asked for.

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
        "GET {}/logs?since=99999999999999",
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

//! Requests that are sent again, with the same `Idempotency-Key`.

use serde_json::json;

use crate::bridge::Bridge;
use crate::systemd1::{Exit, Start, Unit};
use crate::wire::Answer;

const JOB: &str = "ci-test-a";
const START: &str = "POST /api/job/ci-test-a";

async fn send(bridge: &Bridge, token: &str, request: &str, key: &str) -> Answer {
    bridge.call_with(request, &[("Authorization", &format!("Bearer {token}")), ("Idempotency-Key", key)]).await
}

async fn start(bridge: &Bridge, key: &str) -> Answer {
    send(bridge, &bridge.tokens.writer, START, key).await
}

fn run(answer: &Answer) -> &str {
    answer.header("x-ci-run-id").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_starts_nothing() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    for key in ["", "a b", "\"", &"k".repeat(256)] {
        assert_eq!(start(&bridge, key).await.problem(), (400, "invalid_idempotency_key".to_owned()), "{key}");
    }
    let bearer = format!("Bearer {}", bridge.tokens.writer);
    let two = [("Authorization", bearer.as_str()), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    assert_eq!(bridge.call_with(START, &two).await.problem(), (400, "invalid_idempotency_key".to_owned()));
    assert_eq!(bridge.systemd.count("StartUnit"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_nothing_to_who_may_not_start() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    assert_eq!(start(&bridge, "k").await.status, 202);
    assert_eq!(send(&bridge, &bridge.tokens.reader, START, "k").await.problem(), (403, "read_only_token".to_owned()));
    assert_eq!(send(&bridge, &bridge.tokens.narrow, START, "k").await.problem(), (404, "no_such_job".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_gets_its_answer_again() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let first = start(&bridge, "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"").await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (202, None));
    bridge.systemd.end(JOB, Exit::Code(0)).await;
    bridge.ended(JOB, run(&first)).await;
    // With and without quotes, and after the run, when the job would be free.
    for key in ["\"8e03978e-40d5-43e8-bc93-6894a57f9324\"", "8e03978e-40d5-43e8-bc93-6894a57f9324"] {
        let again = start(&bridge, key).await;
        assert_eq!((again.status, &again.body, run(&again)), (202, &first.body, run(&first)));
        assert_eq!(again.header("location"), first.header("location"));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    }
    let bridge = bridge.restart().await;
    assert_eq!(run(&start(&bridge, "8e03978e-40d5-43e8-bc93-6894a57f9324").await), run(&first));
    assert_ne!(run(&start(&bridge, "another").await), run(&first));
    assert_eq!(bridge.systemd.count("StartUnit"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_requests_with_one_key_one_makes_a_run() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let ask = || async {
        loop {
            let answer = start(&bridge, "k").await;
            if answer.status == 202 {
                return run(&answer).to_owned();
            }
            assert_eq!(answer.problem(), (409, "request_in_progress".to_owned()));
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    };
    let runs = futures_util::future::join_all((0..100).map(|_| ask())).await;
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
    assert_eq!(bridge.systemd.count("StartUnit"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_request_of_one_token() {
    let bridge = Bridge::new(vec![Unit::job(JOB), Unit::job("ci-test-narrow")]).await;
    assert_eq!(start(&bridge, "k").await.status, 202);
    let reused = (422, "idempotency_key_reused".to_owned());
    let writer = &bridge.tokens.writer;
    for request in ["POST /api/job/ci-test-narrow", "POST /api/job/ci-test-a?if_busy=join"] {
        assert_eq!(send(&bridge, writer, request, "k").await.problem(), reused, "{request}");
    }
    let other = send(&bridge, &bridge.tokens.narrow, "POST /api/job/ci-test-narrow", "k").await;
    assert_eq!(other.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_to_nothing_may_be_tried_again() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    let running = bridge.start(JOB).await;
    assert_eq!(start(&bridge, "k").await.problem(), (409, "busy".to_owned()));
    bridge.systemd.end(JOB, Exit::Code(0)).await;
    bridge.ended(JOB, &running).await;
    let answer = start(&bridge, "k").await;
    assert_eq!((answer.status, answer.header("idempotency-replayed")), (202, None));
    assert_eq!(run(&start(&bridge, "k").await), run(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_never_answered_is_answered_by_the_next_bridge() {
    let bridge = Bridge::new(vec![Unit::starting(JOB, Start::Waits)]).await;
    let head = format!(
        "{START} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nAuthorization: Bearer {}\r\n\r\n",
        bridge.tokens.writer
    );
    let mut caller = tokio::net::TcpStream::connect(bridge.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut caller, head.as_bytes()).await.unwrap();
    bridge.systemd.called("StartUnit ci-test-a.service").await;
    let bridge = bridge.restart().await;
    let answer = bridge.until("GET /api/job/ci-test-a/state", |answer| answer.status == 200).await.json();
    let again = start(&bridge, "k").await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (202, Some("true")), "{again:?}");
    assert_eq!(answer["run"], json!(run(&again)), "{answer}");
    bridge.systemd.begin(JOB).await;
    bridge.systemd.end(JOB, Exit::Code(0)).await;
    assert_eq!(bridge.ended(JOB, run(&again)).await["result"], "success");
    assert_eq!(run(&start(&bridge, "k").await), run(&again));
    assert_eq!(bridge.systemd.count("StartUnit"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_systemd_never_replies_to_is_the_run_that_it_began() {
    let bridge = Bridge::new(vec![Unit::job(JOB)]).await;
    bridge
        .systemd
        .act(|machine| {
            machine.forget_reply();
        })
        .await;
    // Takes as long as a caller has to wait: ten seconds.
    let first = start(&bridge, "k").await;
    assert_eq!((first.status, &first.json()["run"]["state"]), (202, &json!("running")));
    assert_eq!(run(&start(&bridge, "k").await), run(&first));
    bridge.systemd.end(JOB, Exit::Code(4)).await;
    let ended = bridge.ended(JOB, run(&first)).await;
    assert_eq!((&ended["result"], &ended["exit_code"]), (&json!("exit-code"), &json!(4)));
    assert_eq!(bridge.systemd.count("StartUnit"), 1);
}

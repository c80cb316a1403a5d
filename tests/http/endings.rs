//! What ends an answer that goes on before the run does: tokens, shutdown, bounds, and clients that leave.

use std::time::{Duration, Instant};

use ci_bridge::http::Following;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use crate::bridge::{Bridge, Setup};
use crate::follow::{cursors, running, said};
use crate::logged;
use crate::systemd1::Exit;
use crate::wire::Streamed;

const TAIL: &str = "/api/job/ci-test-a/tail?follow=true";
const FORMATS: [&str; 3] = ["text", "ndjson", "sse"];

/// So often that a test need not wait for it.
const OFTEN: Duration = Duration::from_millis(50);
/// So seldom that no test sees it.
const SELDOM: Duration = Duration::from_mins(1);

fn following(most: usize, heartbeat: Duration) -> Setup {
    Setup { following: Following { most, heartbeat }, ..Setup::default() }
}

/// A follower in each of the formats, each of which has had the line `one`.
async fn followers(bridge: &Bridge) -> Vec<(&'static str, Streamed)> {
    let mut streams = Vec::new();
    for format in FORMATS {
        let mut stream = bridge.open(&format!("{TAIL}&format={format}"), &[]).await;
        stream.until("one").await;
        stream.until("\n").await;
        streams.push((format, stream));
    }
    streams
}

async fn assert_ended_by(bridge: &Bridge, code: &str) {
    let streams = followers(bridge).await;
    match code {
        "token_revoked" => bridge.change_reader("revoked = 2020-01-01T00:00:00Z"),
        "token_expired" => bridge.change_reader("expires = 2020-01-01T00:00:00Z"),
        _ => bridge.change_reader("jobs = [\"ci-test-other\"]"),
    }
    bridge.log(&said("a secret"));
    for (format, stream) in streams {
        let (rest, whole) = stream.rest().await;
        assert!(!rest.contains("secret"), "{format}: {rest}");
        // A part must not look like the whole: an event says so, or the answer is cut.
        assert_eq!(whole, format == "sse", "{format}");
        if format == "sse" {
            let error = rest.rsplit_once("event: error\ndata: ").expect(&rest).1;
            let error: Value = serde_json::from_str(error).unwrap();
            assert_eq!((&error["code"], &error["status"]), (&code.into(), &401.into()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_revoked_gets_no_further_line() {
    let (bridge, _) = running(&["one"], following(10, SELDOM)).await;
    assert_ended_by(&bridge, "token_revoked").await;
    assert!(logged::lines().iter().any(|line| line.contains("reader no longer follows ci-test-a")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_gets_no_further_line() {
    let (bridge, _) = running(&["one"], following(10, SELDOM)).await;
    assert_ended_by(&bridge, "token_expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lost_the_job_gets_no_further_line() {
    let (bridge, _) = running(&["one"], following(10, SELDOM)).await;
    assert_ended_by(&bridge, "token_unknown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_an_answer_also_while_nothing_is_said() {
    let (bridge, _) = running(&["one"], following(10, OFTEN)).await;
    let streams = followers(&bridge).await;
    bridge.change_reader("revoked = 2020-01-01T00:00:00Z");
    for (format, stream) in streams {
        let (rest, whole) = stream.rest().await;
        assert_eq!((whole, rest.contains("token_revoked")), (format == "sse", format == "sse"), "{format}: {rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_events_have_a_sign_of_life() {
    let (bridge, _) = running(&["one"], following(10, OFTEN)).await;
    let mut streams = followers(&bridge).await;
    let (_, mut events) = streams.pop().unwrap();
    for _ in 0..3 {
        assert_eq!(events.until(": \n\n").await.trim_start_matches('\n'), ": \n\n");
    }
    bridge.systemd.end("ci-test-a", Exit::Code(0)).await;
    for (format, stream) in streams {
        let (rest, whole) = stream.rest().await;
        assert!(whole && !rest.contains(": \n"), "{format}: {rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_stopped_sends_its_followers_on_to_the_next_one() {
    let (bridge, _) = running(&["one"], Setup::default()).await;
    let streams = followers(&bridge).await;
    let cursor = cursors(&bridge).await.remove(0);
    bridge.stop();
    for (format, stream) in streams {
        let (rest, whole) = stream.rest().await;
        let (expected, is_whole) = match format {
            "text" => (String::new(), false),
            "ndjson" => (format!("{{\"restart\":{{\"cursor\":\"{cursor}\"}}}}\n"), true),
            _ => (format!("\nid: {cursor}\nevent: restart\ndata: {{\"cursor\":\"{cursor}\"}}\n\n"), true),
        };
        assert_eq!((rest, whole), (expected, is_whole), "{format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_state_is_answered_when_the_bridge_is_stopped() {
    let (bridge, run) = running(&[], Setup::default()).await;
    let bridge = std::sync::Arc::new(bridge);
    let waiter = bridge.clone();
    let begun = Instant::now();
    let waiting = tokio::spawn(async move { waiter.call("GET /api/job/ci-test-a/state?wait=55").await });
    // A wait that was answered shows that the other one is under way.
    bridge.call("GET /api/job/ci-test-a/state?wait=1").await;
    assert!(!waiting.is_finished());
    bridge.stop();
    let state = waiting.await.unwrap().json();
    assert_eq!((&state["run"], &state["run_state"]), (&run.into(), &"running".into()));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_follower_too_many_is_sent_away_for_a_while() {
    let (bridge, _) = running(&["one"], following(3, SELDOM)).await;
    let streams = followers(&bridge).await;
    let answer = bridge.call(&format!("GET {TAIL}")).await;
    assert_eq!(answer.problem(), (503, "too_many_streams".to_owned()));
    assert!(answer.header("retry-after").is_some_and(|pause| pause.parse::<u32>().is_ok()), "{answer:?}");
    // Pages and whole logs take no place.
    assert_eq!(bridge.call("GET /api/job/ci-test-a/tail").await.status, 200);
    assert_eq!(bridge.call("GET /api/job/ci-test-a/logs").await.status, 200);
    drop(streams);
    place_is_free(&bridge).await;
}

/// Asks for a place until there is one, which must not take more than a second.
async fn place_is_free(bridge: &Bridge) -> Streamed {
    let begun = Instant::now();
    loop {
        let stream = bridge.open(TAIL, &[]).await;
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(1), "no place became free in {waited:?}");
        if stream.head.status == 200 {
            return stream;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_follower_takes_no_place() {
    let (bridge, _) = running(&["one"], following(1, SELDOM)).await;
    for query in ["&format=json", "&cursor=garbage", "&run=01234567-89ab-cdef-0123-456789abcdef"] {
        assert!(bridge.call(&format!("GET {TAIL}{query}")).await.status < 500, "{query}");
    }
    bridge.call("GET /api/job/ci-test-nope/tail?follow=true").await;
    assert_eq!(bridge.open(TAIL, &[]).await.head.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_nothing_is_said_leaves_a_place() {
    let (bridge, _) = running(&["one"], following(1, SELDOM)).await;
    let mut stream = bridge.open(TAIL, &[]).await;
    for way in ["close", "half-close", "reset", "close before a byte was read"] {
        if !way.ends_with("read") {
            stream.until("one\n").await;
        }
        match way {
            "half-close" => stream.connection.shutdown().await.unwrap(),
            "reset" => stream.connection.set_zero_linger().unwrap(),
            _ => {}
        }
        // Who has closed only his half still holds the other.
        let held = Some(stream).filter(|_| way == "half-close");
        stream = place_is_free(&bridge).await;
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_his_run_begins_leaves_a_place_too() {
    use crate::systemd1::{Start, Unit};
    let setup = following(1, SELDOM);
    let bridge = std::sync::Arc::new(Bridge::with(vec![Unit::starting("ci-test-a", Start::Waits)], setup).await);
    let starter = bridge.clone();
    let start = tokio::spawn(async move { starter.start("ci-test-a").await });
    bridge.systemd.called("StartUnit ci-test-a.service").await;
    drop(bridge.open(TAIL, &[]).await);
    place_is_free(&bridge).await;
    bridge.systemd.begin("ci-test-a").await;
    start.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_is_cut_and_keeps_nobody_waiting() {
    let lines: Vec<String> = (0..13_000).map(|number| format!("{number} {}", "x".repeat(480))).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let setup = Setup { write_stall: Duration::from_millis(500), ..following(2, SELDOM) };
    let (bridge, _) = running(&lines, setup).await;
    eprintln!("T begin");
    let start = bridge.call("GET /api/job/ci-test-a/state").await.json()["cursor"].as_str().unwrap().to_owned();
    let target = format!("{TAIL}&cursor={start}");
    // More than this and the buffers of the system is never on its way to him.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut lazy = socket.connect(bridge.address).await.unwrap();
    let token = &bridge.tokens.reader;
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    lazy.write_all(request.as_bytes()).await.unwrap();
    let mut eager = bridge.open(&target, &[]).await;
    let text = eager.until("12999 x").await;
    assert_eq!(text.lines().count(), 13_000);
    // The lazy one is cut, and then there is a place beside the eager one.
    let begun = Instant::now();
    loop {
        let third = bridge.open(&format!("{TAIL}&lines=1"), &[]).await;
        if third.head.status == 200 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "who reads nothing holds his place");
    }
    bridge.log(&said("another line"));
    eager.until("another line\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_asks_whether_a_silent_client_is_still_there() {
    let (bridge, _) = running(&["one"], Setup::default()).await;
    let mut stream = bridge.open(TAIL, &[]).await;
    stream.until("one\n").await;
    // The columns are those of proc_pid_net_tcp: local and remote address, then state, queues, and the timer.
    let client = format!(":{:04X}", stream.connection.local_addr().unwrap().port());
    let server = format!(":{:04X}", bridge.address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_ours = |row: &&str| {
        let mut columns = row.split_whitespace().skip(1);
        columns.next().is_some_and(|local| local.ends_with(&server))
            && columns.next().is_some_and(|remote| remote.ends_with(&client))
    };
    let row = table.lines().find(is_ours).expect(&table);
    let timer = row.split_whitespace().nth(5).unwrap();
    let (kind, left) = timer.split_once(':').unwrap();
    // 2 is the timer of keepalive; its time is in hundredths of a second.
    assert_eq!(kind, "02", "{row}");
    assert!((1..=6000).contains(&u32::from_str_radix(left, 16).unwrap()), "{row}");
}

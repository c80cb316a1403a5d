//! Clients that are slow, confused or hostile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bridge::{Bridge, Setup};
use crate::journal::line;
use crate::systemd1::{Exit, Start, Unit};
use crate::wire::converse;

/// The status of the first answer in `bytes`; `None` where the connection was closed without one.
fn status(bytes: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(bytes.get(..12)?).unwrap();
    line.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_not_waited_for() {
    let setup = Setup { header_timeout: Duration::from_millis(300), ..Setup::default() };
    let bridge = Bridge::with(vec![], setup).await;
    let begun = Instant::now();
    for request in ["", "GET", "GET / HTTP/1.1\r\nHost: x\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        // Returns when the server has closed the connection: here the last answer is followed by silence too.
        let answer = converse(bridge.address, request.as_bytes()).await;
        assert!([None, Some(408), Some(200)].contains(&status(&answer)), "{request:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_a_byte_now_and_then_is_not_waited_for_either() {
    let setup = Setup { header_timeout: Duration::from_millis(300), ..Setup::default() };
    let bridge = Bridge::with(vec![], setup).await;
    let mut stream = TcpStream::connect(bridge.address).await.unwrap();
    let begun = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    let mut head = b"GET / HTTP/1.1\r\nX-Slow: ".to_vec();
    head.extend([b'x'; 500]);
    for byte in head {
        pause.tick().await;
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_not_spoken() {
    let bridge = Bridge::new(vec![]).await;
    let answer = converse(bridge.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    // No frame of HTTP/2 comes back; those begin with their length.
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let request = |extra: String| {
        format!(
            "POST /api/job/ci-test-a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n{extra}\r\n",
            bridge.tokens.writer
        )
    };
    let many = "X-Many: y\r\n".repeat(200);
    let long_value = format!("X-Long: {}\r\n", "y".repeat(100_000));
    let long_name = format!("{}: y\r\n", "X".repeat(100_000));
    for (case, extra) in [("many", many), ("a long value", long_value), ("a long name", long_name)] {
        let answer = converse(bridge.address, request(extra).as_bytes()).await;
        assert!([None, Some(400), Some(431)].contains(&status(&answer)), "{case}: {:?}", status(&answer));
    }
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(100_000));
    let answer = converse(bridge.address, long_path.as_bytes()).await;
    assert!([None, Some(414), Some(431)].contains(&status(&answer)), "{:?}", status(&answer));
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
    assert_eq!(bridge.call("GET /healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_refused_unread() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let bearer = format!("Bearer {}", bridge.tokens.writer);
    let headers = [("Authorization", bearer.as_str()), ("Content-Length", "1000000")];
    // Nothing of the body is sent, so who answers has not waited for it.
    let answer = bridge.call_with("POST /api/job/ci-test-a", &headers).await;
    assert_eq!(answer.problem(), (413, "body_too_large".to_owned()));
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_two_servers_could_cut_in_two_ways_ends_the_connection() {
    let bridge = Bridge::new(vec![Unit::job("ci-test-a")]).await;
    let smuggled = format!(
        "POST /api/job/ci-test-a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        bridge.tokens.writer
    );
    let length = format!("Content-Length: {}\r\n", smuggled.len() + 5);
    for (case, headers, body) in [
        ("length, then chunked", format!("{length}Transfer-Encoding: chunked\r\n"), "0\r\n\r\n"),
        ("chunked, then length", format!("Transfer-Encoding: chunked\r\n{length}"), "0\r\n\r\n"),
        ("two lengths", "Content-Length: 0\r\nContent-Length: 5\r\n".to_owned(), ""),
        ("lengths in a list", "Content-Length: 0, 5\r\n".to_owned(), ""),
        ("a signed length", "Content-Length: +0\r\n".to_owned(), ""),
        ("chunked and something else", "Transfer-Encoding: chunked, identity\r\n".to_owned(), ""),
        ("an unknown encoding", "Transfer-Encoding: xchunked\r\n".to_owned(), ""),
        ("a folded header", "X-Folded: a\r\n b\r\n".to_owned(), ""),
        ("a space before the colon", "Content-Length : 0\r\n".to_owned(), ""),
    ] {
        let request = format!("POST /healthz HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}{smuggled}");
        let answer = converse(bridge.address, request.as_bytes()).await;
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{case}: {text}");
        assert!([None, Some(400), Some(405)].contains(&status(&answer)), "{case}: {text}");
    }
    assert_eq!(bridge.systemd.take_calls(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_wait_and_are_served_later() {
    let setup = Setup { connections: 2, ..Setup::default() };
    let bridge = Bridge::with(vec![], setup).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(bridge.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        held.push(stream);
    }
    let address = bridge.address;
    let third = tokio::spawn(async move {
        crate::wire::exchange(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await
    });
    // Those that are served go on while the third waits.
    for stream in &mut held {
        let mut rest = [0; 4096];
        while !String::from_utf8_lossy(&rest).contains("ok") {
            assert!(stream.read(&mut rest).await.unwrap() > 0);
        }
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(status(&answer), Some(200));
    }
    assert!(!third.is_finished());
    held.clear();
    assert_eq!(third.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_resets_the_connection_does_not_keep_others_waiting() {
    let bridge = Bridge::new(vec![]).await;
    let begun = Instant::now();
    for _ in 0..200 {
        let stream = TcpStream::connect(bridge.address).await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
    }
    assert_eq!(bridge.call("GET /healthz").await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journald_that_hangs_delays_all_readers_together_and_not_in_a_row() {
    let setup = Setup { journal: line("ci-test-a", &"01".repeat(16), "a says this"), ..Setup::default() };
    let units = vec![Unit::starting("ci-test-a", Start::EndsBeforeReply(Exit::Code(0)))];
    let bridge = Arc::new(Bridge::with(units, setup).await);
    let run = bridge.start("ci-test-a").await;
    let _hung = bridge.hang_journald();
    let begun = Instant::now();
    let readers: Vec<_> = (0..5)
        .map(|_| {
            let (bridge, request) = (bridge.clone(), format!("GET /api/job/ci-test-a/logs?run={run}"));
            tokio::spawn(async move { bridge.call(&request).await })
        })
        .collect();
    for reader in readers {
        let answer = reader.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        // The line is there, and nobody claims that it is the last one.
        assert_eq!(
            (&answer.json()["logs"][0]["message"], &answer.json()["complete"]),
            (&"a says this".into(), &false.into())
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

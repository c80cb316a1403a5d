//! A journald that can be asked to read all that there is: against a played one, at a real socket.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::fence::{Host, PATIENCE, await_entries, line, messages, settle};
use crate::support::Line;

const CALL: &str = r#"{"method":"io.systemd.Journal.Synchronize","parameters":{"offline":false}}"#;
const DONE: &[u8] = b"{\"parameters\":{}}\0";

/// What becomes of a call.
#[derive(Clone)]
enum Answer {
    /// These bytes, in pieces of this size, and then the end.
    Bytes(Vec<u8>, usize),
    /// Nothing, and the connection stays.
    Silence,
}

fn bytes(answer: &[u8]) -> Answer {
    Answer::Bytes(answer.to_owned(), 4096)
}

/// Plays the socket of the journald of the host (`""`) or of a namespace (`.ci`) with one answer to each call; gives the
/// calls.
fn play(host: &Host, namespace: &str, answer: Answer) -> Receiver<String> {
    let listener = UnixListener::bind(host.base.file(&format!("run/journal{namespace}/io.systemd.journal"))).unwrap();
    let (called, calls) = channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((mut connection, _)) = listener.accept() {
            let mut call = Vec::new();
            let mut byte = [0];
            while connection.read(&mut byte).unwrap() == 1 && byte != [0] {
                call.extend(byte);
            }
            called.send(String::from_utf8(call).unwrap()).unwrap();
            match &answer {
                Answer::Bytes(bytes, size) => {
                    // Who has read enough may be gone.
                    let _ = bytes.chunks(*size).try_for_each(|part| connection.write_all(part));
                }
                Answer::Silence => kept.push(connection),
            }
        }
    });
    calls
}

fn calls(calls: &Receiver<String>) -> Vec<String> {
    calls.try_iter().collect()
}

#[test]
fn a_journald_that_can_be_asked_is_asked_before_each_message() {
    for answer in [bytes(DONE), bytes(b"{}\0"), bytes(b"{\"error\":null}\0"), Answer::Bytes(DONE.to_vec(), 1)] {
        let host = Host::new();
        let asked = play(&host, "", answer);
        let late = vec![line(2, "two"), line(3, "three")];
        let journald = host.journald("", &[line(1, "one")], late);
        let journal = host.journal();
        await_entries(&journal, 1);
        assert!(settle(&journal, PATIENCE).unwrap());
        // An answer alone is not enough: what comes with the messages counts as before.
        assert_eq!(messages(&journal), ["one", "two", "three"]);
        assert_eq!((journald.stop(), calls(&asked)), (3, vec![CALL.to_owned(); 3]));
    }
}

#[test]
fn who_does_not_answer_well_is_not_asked_again_and_the_messages_decide() {
    let error = |name: &str| bytes(format!("{{\"error\":\"{name}\",\"parameters\":{{}}}}\0").as_bytes());
    for answer in [
        error("org.varlink.service.PermissionDenied"),
        error("org.varlink.service.MethodNotFound"),
        error("org.varlink.service.InvalidParameter"),
        error("io.systemd.Journal.NotSupportedByNamespaces"),
        bytes(b"{\"error\":{}}\0"),
        // Garbage.
        bytes(b"\0"),
        bytes(b"[]\0"),
        bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n\0"),
        bytes(b"\xff\xfe\0"),
        bytes(&vec![b'{'; 1 << 20]),
        // Cut.
        bytes(b""),
        bytes(b"{\"parameters\":{}}"),
        bytes(b"{\"parameters\""),
    ] {
        let host = Host::new();
        let asked = play(&host, "", answer);
        let journald = host.journald("", &[line(1, "one")], vec![line(2, "two")]);
        let journal = host.journal();
        await_entries(&journal, 1);
        for _ in 0..2 {
            assert!(settle(&journal, PATIENCE).unwrap());
        }
        assert_eq!(messages(&journal), ["one", "two"]);
        assert_eq!((journald.stop(), calls(&asked)), (3, vec![CALL.to_owned()]));
    }
}

#[test]
fn silence_is_borne_once_and_not_for_long() {
    let host = Host::new();
    let asked = play(&host, "", Answer::Silence);
    let journald = host.journald("", &[line(1, "one")], Vec::new());
    let journal = host.journal();
    await_entries(&journal, 1);
    let begun = Instant::now();
    for _ in 0..3 {
        assert!(settle(&journal, PATIENCE).unwrap());
    }
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    assert_eq!((journald.stop(), calls(&asked)), (3, vec![CALL.to_owned()]));
}

#[test]
fn silence_does_not_outlast_the_patience() {
    let host = Host::new();
    let _asked = play(&host, "", Answer::Silence);
    let journald = host.journald("", &[line(1, "one")], Vec::new());
    let journal = host.journal();
    await_entries(&journal, 1);
    let begun = Instant::now();
    // There may be no time left for a message.
    let _settled = settle(&journal, Duration::from_millis(100)).unwrap();
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    journald.stop();
}

#[test]
fn a_journald_that_nobody_can_reach_is_left_to_the_messages() {
    let host = Host::new();
    let socket = host.base.file("run/journal/io.systemd.journal");
    let journald = host.journald("", &[line(1, "one")], Vec::new());
    let journal = host.journal();
    await_entries(&journal, 1);
    // Of a journald that is gone, and no socket at all.
    drop(UnixListener::bind(&socket).unwrap());
    assert!(settle(&journal, PATIENCE).unwrap());
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "").unwrap();
    assert!(settle(&journal, PATIENCE).unwrap());
    fs::remove_file(&socket).unwrap();
    // A new journald makes a new one.
    let asked = play(&host, "", bytes(DONE));
    assert!(settle(&journal, PATIENCE).unwrap());
    assert_eq!((journald.stop(), calls(&asked)), (3, vec![CALL.to_owned()]));
}

#[test]
fn a_journald_whose_queue_is_full_is_left_to_the_messages() {
    let host = Host::new();
    // Takes no connection; the queue of the kernel has room for some.
    let socket = host.base.file("run/journal/io.systemd.journal");
    let full = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    full.bind(&socket2::SockAddr::unix(&socket).unwrap()).unwrap();
    full.listen(0).unwrap();
    let _first = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let journald = host.journald("", &[line(1, "one")], Vec::new());
    let journal = host.journal();
    await_entries(&journal, 1);
    let begun = Instant::now();
    assert!(settle(&journal, PATIENCE).unwrap());
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    assert_eq!(journald.stop(), 1);
}

#[test]
fn the_namespace_of_a_run_is_asked_and_no_other() {
    let host = Host::new();
    fs::create_dir_all(host.base.file("run/journal.other")).unwrap();
    let asked = ["", ".ci", ".other"].map(|namespace| play(&host, namespace, bytes(DONE)));
    let of_host = host.journald("", &[Line::starting(1, '1'), Line::ended(2, '1')], Vec::new());
    let of_namespace = host.journald(".ci", &[line(3, "one")], Vec::new());
    let journal = host.journal();
    await_entries(&journal, 3);
    assert!(settle(&journal, PATIENCE).unwrap());
    assert_eq!((of_host.stop(), of_namespace.stop()), (1, 1));
    assert_eq!(asked.map(|asked| calls(&asked).len()), [1, 1, 0]);
}

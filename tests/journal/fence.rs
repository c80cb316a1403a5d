//! When a log counts as whole: against a played journald, which takes messages and writes them into its file.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ci_bridge::journal::{Error, From, Journal, Patience};

use crate::support::{Layout, Line, Place, Writer, invocation, job, run, text, wait_until};

/// A host with the directories of its journald, and of that of the namespace `ci`.
pub(crate) struct Host {
    pub(crate) base: Place,
}

impl Host {
    pub(crate) fn new() -> Self {
        let base = Place::new();
        for directory in ["id", "run/journal", "id.ci", "run/journal.ci"] {
            fs::create_dir_all(base.file(directory)).unwrap();
        }
        Self { base }
    }

    pub(crate) fn journal(&self) -> Journal {
        Journal::new(vec![self.base.file("id")]).with_socket(&self.base.file("run/journal/socket"))
    }

    /// The journald of the host (`""`) or of a namespace (`.ci`). It writes `before` at once, and one of `late` before each
    /// of the first messages that it takes.
    pub(crate) fn journald(&self, namespace: &str, before: &[Line], late: Vec<Line>) -> Journald {
        let socket = self.base.file(&format!("run/journal{namespace}/socket"));
        let file = self.base.file(&format!("id{namespace}/system.journal"));
        Journald::play(&socket, &file, before, late)
    }
}

pub(crate) struct Journald {
    socket: PathBuf,
    /// Gives the number of messages that were taken.
    thread: JoinHandle<usize>,
}

impl Journald {
    fn play(socket: &Path, file: &Path, before: &[Line], late: Vec<Line>) -> Self {
        let receiver = UnixDatagram::bind(socket).unwrap();
        let mut writer = Writer::open(file, Layout::USUAL);
        // The file is there when it has an entry.
        writer.write(&Line::new(0, "of nobody"));
        for line in before {
            writer.write(line);
        }
        let mut late = late.into_iter();
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            for taken in 0.. {
                let size = receiver.recv(&mut buffer).unwrap();
                let message = std::str::from_utf8(&buffer[..size]).unwrap();
                let Some(id) = message.lines().find_map(|line| line.strip_prefix("CI_BRIDGE_FENCE=")) else {
                    writer.close();
                    return taken;
                };
                late.by_ref().take(1).for_each(|line| writer.write(&line));
                writer.write(&Line::new(900_000, "fence").with("CI_BRIDGE_FENCE", id));
            }
            unreachable!()
        });
        let journal = Journal::new(vec![file.parent().unwrap().to_owned()]);
        wait_until(|| journal.readable().is_ok());
        Self { socket: socket.to_owned(), thread }
    }

    pub(crate) fn stop(self) -> usize {
        UnixDatagram::unbound().unwrap().send_to(b"STOP=1\n", self.socket).unwrap();
        self.thread.join().unwrap()
    }
}

pub(crate) fn line(at_ms: u64, message: &str) -> Line {
    Line::of_job(at_ms, '1', message).with("_STREAM_ID", &"5".repeat(32))
}

pub(crate) fn settle(journal: &Journal, patience: Duration) -> Result<bool, Error> {
    journal.settle(&run('1'), 1, &Patience { without_a_line: patience, at_most: patience })
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// Waits until there are so many entries.
pub(crate) fn await_entries(journal: &Journal, count: usize) {
    wait_until(|| journal.run(&run('1'), From::Start).is_ok_and(|entries| entries.count() == count));
}

pub(crate) fn messages(journal: &Journal) -> Vec<String> {
    journal.run(&run('1'), From::Start).unwrap().map(|entry| text(&entry.unwrap())).collect()
}

#[test]
fn a_log_is_settled_when_nothing_new_came_before_a_message() {
    let host = Host::new();
    let late = ["two", "three", "four"].into_iter().enumerate();
    let late = late.map(|(index, text)| line(2 + index as u64, text)).collect();
    let journald = host.journald("", &[line(1, "one")], late);
    let journal = host.journal();
    await_entries(&journal, 1);
    assert!(settle(&journal, PATIENCE).unwrap());
    assert_eq!(messages(&journal), ["one", "two", "three", "four"]);
    assert_eq!(journald.stop(), 4);
}

#[test]
fn a_log_that_never_settles_is_given_up_at_the_deadline() {
    let host = Host::new();
    let late = (2..5_000).map(|time| line(time, "late")).collect();
    let journald = host.journald("", &[line(1, "first")], late);
    let journal = host.journal();
    await_entries(&journal, 1);
    assert!(!settle(&journal, SHORT).unwrap());
    journald.stop();
}

#[test]
fn a_message_that_nobody_takes_is_an_error() {
    let place = Place::with(&[Line::of_job(0, '1', "one")]);
    let journal = place.journal().with_socket(&place.file("nowhere"));
    assert!(matches!(settle(&journal, PATIENCE), Err(Error::Send { .. })));
    assert_eq!(journal.last_run(&job()).unwrap().unwrap().invocation, invocation('1'));
}

#[test]
fn a_run_that_has_printed_nothing_waits_for_every_namespace() {
    let host = Host::new();
    let of_host = host.journald("", &[Line::starting(1, '1'), Line::ended(2, '1')], Vec::new());
    let of_namespace = host.journald(".ci", &[], vec![line(3, "all that was printed")]);
    let journal = host.journal();
    await_entries(&journal, 2);
    assert!(settle(&journal, PATIENCE).unwrap());
    assert_eq!(messages(&journal), ["Starting", "Deactivated", "all that was printed"]);
    assert_eq!((of_host.stop(), of_namespace.stop()), (2, 2));
}

#[test]
fn a_run_that_has_printed_waits_for_its_namespace_and_for_no_other() {
    for (own, other) in [("", ".ci"), (".ci", "")] {
        let host = Host::new();
        let words = [Line::starting(1, '1'), Line::ended(2, '1')];
        let printed = [line(3, "one")];
        let (of_host, of_namespace) = match own {
            "" => ([&words[..], &printed].concat(), vec![]),
            _ => (words.to_vec(), printed.to_vec()),
        };
        let of_host = host.journald("", &of_host, Vec::new());
        let of_namespace = host.journald(".ci", &of_namespace, Vec::new());
        // A namespace in which nothing is read any more.
        let stuck = host.base.file("run/journal.stuck");
        fs::create_dir(&stuck).unwrap();
        let _stuck = UnixDatagram::bind(stuck.join("socket")).unwrap();
        let journal = host.journal();
        await_entries(&journal, 3);
        assert!(settle(&journal, PATIENCE).unwrap());
        // The words of the manager are always in the journal of the host.
        let expected = if other.is_empty() { (1, 1) } else { (1, 0) };
        assert_eq!((of_host.stop(), of_namespace.stop()), expected, "{own}");
    }
}

#[test]
fn a_namespace_that_is_gone_has_nothing_more_to_say() {
    let host = Host::new();
    let words = [Line::starting(1, '1'), Line::ended(2, '1')];
    let of_host = host.journald("", &words, Vec::new());
    let of_namespace = host.journald(".ci", &[line(3, "one")], Vec::new());
    let journal = host.journal();
    await_entries(&journal, 3);
    // Its socket stays behind.
    of_namespace.stop();
    assert!(settle(&journal, PATIENCE).unwrap());
    fs::remove_dir_all(host.base.file("run/journal.ci")).unwrap();
    assert!(settle(&journal, PATIENCE).unwrap());
    assert_eq!(of_host.stop(), 2);
}

#[test]
fn a_namespace_that_hangs_leaves_a_silent_run_undecided() {
    let host = Host::new();
    let of_host = host.journald("", &[Line::starting(1, '1'), Line::ended(2, '1')], Vec::new());
    let _hanging = UnixDatagram::bind(host.base.file("run/journal.ci/socket")).unwrap();
    let journal = host.journal();
    await_entries(&journal, 2);
    assert!(!settle(&journal, SHORT).unwrap());
    of_host.stop();
}

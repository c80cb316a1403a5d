//! Entries as text, files made of them, and what journalctl says of those.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ci_bridge::invocation::InvocationId;
use ci_bridge::journal::{Entry, From, Journal, Run};
use ci_bridge::policy::{AllowedJob, JobName, Policy, Prefix};
use tempfile::TempDir;

/// When the first entry of a test is written.
pub(crate) const START_USEC: u64 = 1_700_000_000_000_000;

pub(crate) const UNIT: &str = "ci-test-a.service";
pub(crate) const STARTING: &str = "7d4958e842da4a758f6c1cdc7b36dcc5";
pub(crate) const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";
pub(crate) const DEACTIVATED: &str = "7ad2d189f7e94e70a38c781354912448";
pub(crate) const FAILED: &str = "d9b373ed55a64feb8242e02dbe79a49c";
pub(crate) const DROPPED: &str = "a596d6fe7bfa4994828e72309e95d61e";
pub(crate) const PROCESS_EXITED: &str = "98e322203f7a4ed290d09fe03c09fe15";

pub(crate) fn job() -> AllowedJob {
    let policy = Policy::new(vec![Prefix::parse("ci-test-").unwrap()]);
    policy.admit(&JobName::parse("ci-test-a").unwrap()).unwrap()
}

/// The text of an invocation that the tests know by a digit.
pub(crate) fn hex(digit: char) -> String {
    digit.to_string().repeat(32)
}

pub(crate) fn invocation(digit: char) -> InvocationId {
    hex(digit).parse().unwrap()
}

pub(crate) fn run(digit: char) -> Run {
    Run { job: job(), invocation: invocation(digit) }
}

/// Waits for `done`, which something else brings about.
pub(crate) fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "it did not happen within 20 seconds");
        thread::yield_now();
    }
}

/// An entry to be written: its time in milliseconds and its fields.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    at_ms: u64,
    monotonic_ms: Option<u64>,
    fields: Vec<(String, Vec<u8>)>,
}

impl Line {
    pub(crate) fn new(at_ms: u64, message: &str) -> Self {
        Self { at_ms, monotonic_ms: None, fields: Vec::new() }.with("MESSAGE", message)
    }

    pub(crate) fn with(self, field: &str, value: &str) -> Self {
        self.with_bytes(field, value.as_bytes())
    }

    pub(crate) fn with_bytes(mut self, field: &str, value: &[u8]) -> Self {
        self.fields.retain(|(name, _)| name != field);
        self.fields.push((field.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, field: &str) -> Self {
        self.fields.retain(|(name, _)| name != field);
        self
    }

    /// A line on the standard output of a process of the unit.
    pub(crate) fn of_job(at_ms: u64, invocation: char, message: &str) -> Self {
        Self::new(at_ms, message)
            .with("PRIORITY", "6")
            .with("_TRANSPORT", "stdout")
            .with("_PID", "4711")
            .with("_UID", "995")
            .with("_SYSTEMD_CGROUP", "/system.slice/ci-test-a.service")
            .with("_SYSTEMD_UNIT", UNIT)
            .with("_SYSTEMD_INVOCATION_ID", &hex(invocation))
    }

    /// A message of the system manager about the unit.
    pub(crate) fn of_manager(at_ms: u64, invocation: char, id: &str, message: &str) -> Self {
        Self::new(at_ms, message)
            .with("PRIORITY", "6")
            .with("_PID", "1")
            .with("_UID", "0")
            .with("_SYSTEMD_CGROUP", "/init.scope")
            .with("_SYSTEMD_UNIT", "init.scope")
            .with("MESSAGE_ID", id)
            .with("UNIT", UNIT)
            .with("INVOCATION_ID", &hex(invocation))
    }

    /// The first word of the system manager about a run.
    pub(crate) fn starting(at_ms: u64, invocation: char) -> Self {
        Self::of_manager(at_ms, invocation, STARTING, "Starting")
    }

    /// Its word that a run has succeeded.
    pub(crate) fn ended(at_ms: u64, invocation: char) -> Self {
        Self::of_manager(at_ms, invocation, DEACTIVATED, "Deactivated")
    }

    /// What journald writes about dropped messages before the first one that it takes again.
    pub(crate) fn dropped(at_ms: u64, invocation: char, count: u64) -> Self {
        Self::new(at_ms, &format!("Suppressed {count} messages from {UNIT}"))
            .with("PRIORITY", "6")
            .with("MESSAGE_ID", DROPPED)
            .with("N_DROPPED", &count.to_string())
            .with("_TRANSPORT", "driver")
            .with("_UID", "0")
            .with("_PID", "5")
            .with("_SYSTEMD_UNIT", "systemd-journald.service")
            .with("OBJECT_SYSTEMD_UNIT", UNIT)
            .with("OBJECT_SYSTEMD_INVOCATION_ID", &hex(invocation))
    }

    /// The same line, received so many milliseconds after the boot by a clock that nobody sets.
    pub(crate) fn monotonic(self, monotonic_ms: u64) -> Self {
        Self { monotonic_ms: Some(monotonic_ms), ..self }
    }

    /// Its text.
    pub(crate) fn message(&self) -> String {
        let (_, value) = self.fields.iter().find(|(name, _)| name == "MESSAGE").unwrap();
        String::from_utf8(value.clone()).unwrap()
    }

    /// The entry in the journal export format.
    fn export(&self) -> Vec<u8> {
        let mut text = format!(
            "__REALTIME_TIMESTAMP={}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID={}\n",
            START_USEC + self.at_ms * 1000,
            self.monotonic_ms.unwrap_or(self.at_ms) * 1000,
            hex('b'),
        )
        .into_bytes();
        for (name, value) in &self.fields {
            text.extend(name.as_bytes());
            text.push(b'\n');
            text.extend((value.len() as u64).to_le_bytes());
            text.extend(value);
            text.push(b'\n');
        }
        text.push(b'\n');
        text
    }
}

/// How a file is laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) compact: bool,
    pub(crate) keyed_hash: bool,
    pub(crate) compressed: bool,
}

impl Layout {
    pub(crate) const USUAL: Self = Self { compact: true, keyed_hash: true, compressed: true };

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|bits| Self { compact: bits & 1 != 0, keyed_hash: bits & 2 != 0, compressed: bits & 4 != 0 })
    }
}

/// A journal file that is being written.
pub(crate) struct Writer {
    child: Child,
    input: Option<ChildStdin>,
}

impl Writer {
    pub(crate) fn open(path: &Path, layout: Layout) -> Self {
        let places = ["/usr/lib/systemd/systemd-journal-remote", "/lib/systemd/systemd-journal-remote"];
        let tool = places.iter().find(|place| Path::new(place).exists());
        let tool = tool.expect("this test needs systemd-journal-remote: install the package systemd-journal-remote");
        let flag = |on: bool| if on { "1" } else { "0" };
        let mut child = Command::new(tool)
            .env("SYSTEMD_JOURNAL_COMPACT", flag(layout.compact))
            .env("SYSTEMD_JOURNAL_KEYED_HASH", flag(layout.keyed_hash))
            .arg(format!("--compress={}", flag(layout.compressed)))
            .arg("--output")
            .arg(path)
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        Self { child, input }
    }

    pub(crate) fn write(&mut self, line: &Line) {
        let input = self.input.as_mut().unwrap();
        input.write_all(&line.export()).unwrap();
        input.flush().unwrap();
    }

    /// Ends the file.
    pub(crate) fn close(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success(), "systemd-journal-remote failed");
    }
}

/// A directory of journal files.
///
/// It has a parent of its own, as that of journald has: the reader looks there for namespaces.
pub(crate) struct Place {
    _parent: TempDir,
    directory: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let parent = TempDir::new().unwrap();
        let directory = parent.path().join("journal");
        fs::create_dir(&directory).unwrap();
        Self { _parent: parent, directory }
    }

    /// A journal of one file with these entries.
    pub(crate) fn with(lines: &[Line]) -> Self {
        let place = Self::new();
        place.write("system.journal", Layout::USUAL, lines);
        place
    }

    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, layout: Layout, lines: &[Line]) {
        let mut writer = Writer::open(&self.file(name), layout);
        for line in lines {
            writer.write(line);
        }
        writer.close();
    }

    /// Marks a file as one that is closed for good, as journald does when it begins the next.
    pub(crate) fn archive(&self, name: &str) {
        /// Of `struct Header` in systemd's `journal-def.h`.
        const STATE: (u64, u8) = (16, 2);
        let file = fs::File::options().write(true).open(self.file(name)).unwrap();
        file.write_all_at(&[STATE.1], STATE.0).unwrap();
    }

    pub(crate) fn journal(&self) -> Journal {
        Journal::new(vec![self.path().to_owned()])
    }

    pub(crate) fn entries(&self, run: &Run, from: From) -> Vec<Entry> {
        self.journal().run(run, from).unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// The messages of a run.
    pub(crate) fn messages(&self, digit: char) -> Vec<String> {
        self.entries(&run(digit), From::Start).iter().map(text).collect()
    }

    /// What journalctl reads here: of each entry its cursor, and the message.
    pub(crate) fn journalctl(&self, matches: &[&str]) -> Vec<(String, Vec<u8>)> {
        let output = Command::new("journalctl")
            .arg("--directory")
            .arg(self.path())
            .args(["--output=json", "--all", "--quiet", "--no-pager"])
            .args(matches)
            .output()
            .expect("this test needs journalctl: install the package systemd");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                let message = match &entry["MESSAGE"] {
                    serde_json::Value::String(text) => text.as_bytes().to_vec(),
                    serde_json::Value::Array(bytes) => {
                        bytes.iter().map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap()).collect()
                    }
                    // Of an empty field journalctl says null.
                    serde_json::Value::Null => Vec::new(),
                    other => panic!("journalctl gave the message {other}"),
                };
                (entry["__CURSOR"].as_str().unwrap().to_owned(), message)
            })
            .collect()
    }
}

pub(crate) fn text(entry: &Entry) -> String {
    String::from_utf8(entry.message.clone()).unwrap()
}

/// The entry's place as journalctl writes it.
pub(crate) fn cursor(entry: &Entry) -> String {
    let hex = |id: [u8; 16]| format!("{:032x}", u128::from_be_bytes(id));
    let at = &entry.position;
    format!(
        "s={};i={:x};b={};m={:x};t={:x};x={:x}",
        hex(at.seqnum_id),
        at.seqnum,
        hex(at.boot_id),
        at.monotonic,
        at.realtime,
        at.xor_hash
    )
}

/// Entries in the form of [`Place::journalctl`].
pub(crate) fn as_journalctl(entries: &[Entry]) -> Vec<(String, Vec<u8>)> {
    entries.iter().map(|entry| (cursor(entry), entry.message.clone())).collect()
}

//! A store in a directory of its own, and things to record.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ci_bridge::invocation::{InvocationId, MainExit};
use ci_bridge::policy::JobName;
use ci_bridge::run::{RunId, RunResult};
use ci_bridge::runners::transitions::{Changes, Known};
use ci_bridge::runners::uptime::{Entry, State};
use ci_bridge::runners::{ExternalId, Kind, Provider, Seen, SourceName};
use ci_bridge::store::{
    AuditEntry, Delivery, End, Heard, Log, LogPlace, Origin, Phase, Progress, Recorded, Run, SourceRecord, Store,
};
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use tempfile::TempDir;
use uuid::Uuid;

/// What tells a test that was started by itself which directory to use.
pub(crate) const DIRECTORY: &str = "CI_BRIDGE_TEST_STORE";

/// A directory for the state.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path().join("ci-bridge.db")
    }

    /// Opens the store, whose files have to be sound.
    pub(crate) async fn open(&self) -> Store {
        open(self.path()).await
    }

    /// Another home with what is left when the process that has opened this one is killed.
    pub(crate) fn killed(&self) -> Self {
        let copy = Self::new();
        for name in ["ci-bridge.db", "ci-bridge.db-wal"] {
            // By another process: closing the file in this one would drop its locks.
            assert!(Command::new("cp").arg(self.path().join(name)).arg(copy.path()).status().unwrap().success());
        }
        copy
    }

    /// The names of the files.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A file system of its own, which root alone can have.
pub(crate) struct Disk {
    pub(crate) home: Home,
}

impl Disk {
    pub(crate) fn in_memory(size: &str) -> Self {
        let home = Home::new();
        must("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], home.path());
        Self { home }
    }

    /// The file system in the file `image`.
    pub(crate) fn in_file(image: &Path) -> Self {
        let home = Home::new();
        must("mount", &["-o", "loop", image.to_str().unwrap()], home.path());
        Self { home }
    }

    pub(crate) fn remount(&self, option: &str) {
        must("mount", &["-o", &format!("remount,{option}")], self.home.path());
    }

    /// Fills it up to the last byte with a file that can be removed.
    pub(crate) fn fill(&self) {
        let filled = fs::write(self.home.path().join("filler"), vec![0; 64 * 1024 * 1024]);
        assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.home.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also while a connection is still open.
        let _ = Command::new("umount").arg("--lazy").arg(self.home.path()).status();
    }
}

/// Runs a program that has to succeed.
pub(crate) fn must(program: &str, options: &[&str], path: &Path) {
    let status = Command::new(program).args(options).arg(path).status().unwrap();
    assert!(status.success(), "{program} {options:?} {}", path.display());
}

pub(crate) async fn open(directory: &Path) -> Store {
    let opened = Store::open(directory).await.unwrap();
    assert_eq!(opened.set_aside, None);
    opened.store
}

/// A connection beside the store, as another program would have one.
pub(crate) async fn stranger(database: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(database).connect().await.unwrap()
}

/// This test once more, in a process of its own, which finds `directory` in [`DIRECTORY`].
pub(crate) fn same_test(program: &Path, name: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.args([name, "--exact", "--nocapture", "--include-ignored"]).env(DIRECTORY, directory);
    command
}

/// So many seconds after 1970.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

pub(crate) fn job(name: &str) -> JobName {
    JobName::parse(name).unwrap()
}

pub(crate) fn invocation() -> InvocationId {
    InvocationId::from_bytes(Uuid::now_v7().as_bytes()).unwrap()
}

/// A run of `ci-test-build` that waits since `seconds` after 1970.
pub(crate) fn queued(seconds: i64) -> Run {
    Run {
        id: RunId::generate(),
        job: job("ci-test-build"),
        origin: Origin::Token { name: "ci".parse().unwrap(), request: Uuid::now_v7() },
        requested: at(seconds),
        progress: Progress { invocation: None, started: None, phase: Phase::Queued },
        log: Log { place: LogPlace::Journal, complete: false },
        inputs: serde_json::Map::new(),
    }
}

/// Such a run that runs.
pub(crate) fn running(seconds: i64) -> Run {
    let progress = Progress { invocation: Some(invocation()), started: Some(at(seconds + 1)), phase: Phase::Running };
    Run { progress, ..queued(seconds) }
}

/// Such a run that has succeeded a minute later.
pub(crate) fn ended(seconds: i64) -> Run {
    let run = running(seconds);
    Run { progress: Progress { phase: Phase::Ended(success(seconds + 60)), ..run.progress }, ..run }
}

pub(crate) fn success(seconds: i64) -> End {
    End {
        at: Some(at(seconds)),
        result: RunResult::Success,
        exit: Some(MainExit::Code(0)),
        cpu: Some(std::time::Duration::from_micros(1_500_001)),
        memory_peak: Some(50_000_000),
        lost: None,
    }
}

pub(crate) fn entry(seconds: i64) -> AuditEntry {
    AuditEntry {
        at: at(seconds),
        kind: "start".to_owned(),
        who: Some("ci".parse().unwrap()),
        address: Some("2001:db8::1".parse().unwrap()),
        request: Some(Uuid::now_v7()),
        job: Some(job("ci-test-build")),
        run: Some(RunId::generate()),
        outcome: "accepted".to_owned(),
        detail: Some("by hand".to_owned()),
    }
}

pub(crate) fn ids(runs: &[Run]) -> Vec<RunId> {
    runs.iter().map(|run| run.id).collect()
}

pub(crate) fn source(name: &str) -> SourceName {
    name.parse().unwrap()
}

/// A source that was polled `seconds` after 1970 and told of all its runners, for a minute.
pub(crate) fn heard(name: &str, seconds: i64) -> SourceRecord {
    SourceRecord {
        name: source(name),
        provider: if name == "lab" { Provider::GitLab } else { Provider::GitHub },
        polled: at(seconds),
        heard: Some(Heard { at: at(seconds), until: at(seconds + 60) }),
        failures: 0,
        error: None,
        unreachable: false,
        not_before: None,
    }
}

/// A runner that a source tells of.
pub(crate) fn seen(id: &str, online: Option<bool>) -> Seen {
    Seen {
        external_id: ExternalId::new(id),
        name: format!("Build-{id}"),
        os: Some("linux".to_owned()),
        labels: vec!["self-hosted".to_owned(), format!("only-{id}")],
        online,
        status: "idle".to_owned(),
        busy: Some(false),
        paused: None,
        ephemeral: Some(false),
        version: Some("2.330.0".to_owned()),
        kind: Some(Kind::Organization),
        contacted_at: Some(at(7)),
        locked: None,
    }
}

/// Such a runner that was seen for the first time.
pub(crate) fn known(seconds: i64, seen: Seen) -> Known {
    Known {
        first_seen: at(seconds),
        confirmed: seen.online,
        differing: 0,
        differing_since: None,
        missing: false,
        changes: Changes::default(),
        entry: Entry::first(at(seconds), State::told(seen.online)),
        seen,
    }
}

/// What is known of a runner when it has become `state`.
pub(crate) fn became(known: &Known, seconds: i64, state: State) -> Known {
    Known { entry: known.entry.next(at(seconds), state).unwrap(), ..known.clone() }
}

pub(crate) fn recorded(source: SourceRecord, changed: &[Known]) -> Recorded {
    Recorded { source, changed: changed.to_vec(), deliveries: Vec::new() }
}

pub(crate) fn delivery(alert: &str, subject: &str, seconds: i64) -> Delivery {
    Delivery {
        event: Uuid::now_v7(),
        alert: alert.to_owned(),
        kind: "runner.offline".to_owned(),
        subject: subject.to_owned(),
        at: at(seconds),
        content_type: "application/json".to_owned(),
        body: format!("{{\"at\":{seconds}}}").into_bytes(),
    }
}

//! The bridge as a whole, in this process: its own accept loop, router and tokens, on a played systemd.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ci_bridge::alerts::Alerts;
use ci_bridge::archive::{Archive, Limits};
use ci_bridge::audit::Audit;
use ci_bridge::auth::{Access, Keyring, Token, TokenHash};
use ci_bridge::config::{Alert, History, QueryTokens, RunnerSource};
use ci_bridge::fleet::Runners;
use ci_bridge::http::serve::{Bounds, Listener, serve};
use ci_bridge::http::{Following, Gate, Options};
use ci_bridge::inputs::Inputs;
use ci_bridge::jobs::{Archiver, Jobs, Limits as JobLimits, Runs};
use ci_bridge::journal::Journal;
use ci_bridge::lifecycle::StopOnDrop;
use ci_bridge::policy::{Policy, Prefix};
use ci_bridge::retention::keep_to;
use ci_bridge::store::Store;
use ci_bridge::systemd::{BusAddress, Systemd};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::journal::JournalFiles;
use crate::systemd1::{Systemd1, Unit};
use crate::wire::{Answer, Streamed, exchange};

/// Where the bridge looks for journald in the directory of the journal; usually nobody is there.
const JOURNALD: &str = "socket";

/// The time that answers under way have at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// Where the archive is in the directory of the state.
const ARCHIVE: &str = "logs";
const ARCHIVE_RETRY: Duration = Duration::from_millis(50);

/// A token of another make, of which the bridge knows only the hash.
pub(crate) const FOREIGN: &str = "a-secret-of-the-predecessor/+=";

/// The tokens of a bridge.
pub(crate) struct Tokens {
    /// May do everything.
    pub(crate) writer: String,
    /// May read.
    pub(crate) reader: String,
    /// May do everything with `ci-test-narrow` and the instances of `ci-test-build@`.
    pub(crate) narrow: String,
    /// May do everything, and read the audit.
    pub(crate) auditor: String,
    /// May do everything, and manage runners.
    pub(crate) keeper: String,
    pub(crate) expired: String,
    pub(crate) revoked: String,
    pub(crate) early: String,
}

impl Tokens {
    fn generate() -> (Self, Arc<ArcSwap<Keyring>>) {
        let mut file = String::new();
        let mut add = |name: &str, access: Access, extra: &str| {
            let token = Token::generate(access).unwrap().expose().to_owned();
            file.push_str(&entry(name, access, &token, extra));
            token
        };
        let tokens = Self {
            writer: add("writer", Access::ReadWrite, ""),
            reader: add("reader", Access::ReadOnly, ""),
            narrow: add("narrow", Access::ReadWrite, "jobs = [\"ci-test-narrow\", \"ci-test-build@*\"]"),
            auditor: add("auditor", Access::ReadWrite, "scopes = [\"audit\"]"),
            keeper: add("keeper", Access::ReadWrite, "scopes = [\"runners\"]"),
            expired: add("expired", Access::ReadWrite, "expires = 2020-01-01T00:00:00Z"),
            revoked: add("revoked", Access::ReadWrite, "revoked = 2020-01-01T00:00:00Z"),
            early: add("early", Access::ReadWrite, "not_before = 2999-01-01T00:00:00Z"),
        };
        file.push_str(&entry("foreign", Access::ReadWrite, FOREIGN, ""));
        (tokens, Arc::new(ArcSwap::from_pointee(Keyring::parse(&file).unwrap())))
    }
}

fn entry(name: &str, access: Access, token: &str, extra: &str) -> String {
    let hash = TokenHash::of(token);
    format!("[[token]]\nname = \"{name}\"\naccess = \"{access}\"\nsha256 = \"{hash}\"\n{extra}\n")
}

/// A request without a body, after whose answer the connection is closed.
fn head(request: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{request} HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head
}

/// How a bridge is set up.
pub(crate) struct Setup {
    pub(crate) query_tokens: QueryTokens,
    pub(crate) instances_per_hour: usize,
    pub(crate) queued_runs: usize,
    pub(crate) inputs: Inputs,
    pub(crate) header_timeout: Duration,
    pub(crate) connections: usize,
    pub(crate) write_stall: Duration,
    pub(crate) following: Following,
    pub(crate) exporter_names: bool,
    /// How long a systemd that is away is waited for.
    pub(crate) absence: Duration,
    /// What the journal holds, in the export format of journald.
    pub(crate) journal: String,
    /// Whether the history can be opened.
    pub(crate) history: bool,
    /// How many logs of a job are archived; `None` if none are.
    pub(crate) archived: Option<NonZeroUsize>,
    /// What is kept of the history; `None` if all is.
    pub(crate) kept: Option<History>,
    /// The lists of runners that are watched.
    pub(crate) runners: Vec<RunnerSource>,
    /// Who is told of them.
    pub(crate) alerts: Vec<Alert>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            query_tokens: QueryTokens::Allow,
            instances_per_hour: 200,
            queued_runs: 3,
            inputs: Inputs::default(),
            header_timeout: Duration::from_secs(10),
            connections: 512,
            write_stall: Duration::from_secs(30),
            following: Following { most: 100, heartbeat: Duration::from_secs(15) },
            exporter_names: false,
            absence: Duration::from_millis(200),
            journal: crate::journal::FOREIGN_ENTRY.to_owned(),
            history: true,
            archived: None,
            kept: None,
            runners: Vec::new(),
            alerts: Vec::new(),
        }
    }
}

/// A bridge that is ready.
pub(crate) struct Bridge {
    pub(crate) systemd: Systemd1,
    pub(crate) tokens: Tokens,
    pub(crate) address: SocketAddr,
    pub(crate) view: Systemd,
    pub(crate) jobs: Jobs,
    journal: Arc<JournalFiles>,
    keyring: Arc<ArcSwap<Keyring>>,
    stop: StopOnDrop,
    state: TempDir,
    keeping: JoinHandle<()>,
}

impl Bridge {
    /// A bridge to a systemd that knows these units.
    pub(crate) async fn new(units: Vec<Unit>) -> Self {
        Self::with(units, Setup::default()).await
    }

    /// A bridge to a systemd whose bus is not there yet.
    pub(crate) async fn unready(units: Vec<Unit>) -> Self {
        let mut systemd = Systemd1::start(units).await;
        systemd.kill_bus().await;
        Self::to(systemd, Setup::default()).await
    }

    pub(crate) async fn with(units: Vec<Unit>, setup: Setup) -> Self {
        let bridge = Self::to(Systemd1::start(units).await, setup).await;
        bridge.view.ready().await;
        bridge.systemd.take_calls();
        bridge
    }

    async fn to(systemd: Systemd1, setup: Setup) -> Self {
        let journal = Arc::new(JournalFiles::write(&setup.journal));
        Self::on(systemd, setup, journal, Tokens::generate(), tempfile::tempdir().unwrap()).await
    }

    async fn on(
        systemd: Systemd1,
        setup: Setup,
        journal: Arc<JournalFiles>,
        (tokens, keyring): (Tokens, Arc<ArcSwap<Keyring>>),
        state: TempDir,
    ) -> Self {
        crate::logged::capture();
        let policy = Policy::new(vec![Prefix::parse("ci-test-").unwrap()]);
        let runs = Runs::new(policy.clone());
        let view = Systemd::new(BusAddress::At(systemd.address()), policy.clone(), runs.observer(), setup.absence);
        // There is no journald that could say that it has written everything.
        let files = Journal::new(vec![journal.directory().to_owned()]).with_socket(&journal.directory().join(JOURNALD));
        let limits = JobLimits { instances_per_hour: setup.instances_per_hour, queued_runs: setup.queued_runs };
        let archived_from = files.clone();
        let (jobs, recorder) = Jobs::new(runs, view.clone(), files, limits, setup.inputs);
        let (audit, auditor) = Audit::new();
        let (runners, rounds) = Runners::new(&setup.runners, Alerts::load(&setup.alerts).unwrap(), None).unwrap();
        let mut forgetting = None;
        let recorder = recorder.telling(runners.teller().clone());
        if setup.history {
            let store = Store::open(state.path()).await.unwrap().store;
            forgetting = setup.kept.map(|kept| keep_to(kept, store.clone(), jobs.clone()));
            audit.take_up(store.clone());
            runners.take_up(store.clone());
            jobs.take_up(store).await.unwrap();
        }
        let stop = CancellationToken::new();
        let archive = Archive::open(&state.path().join(ARCHIVE)).unwrap();
        let limits = Limits { logs_per_job: setup.archived, ..Limits::default() };
        let (archiver, archiving, news) = Archiver::new(archived_from, archive.clone(), limits, ARCHIVE_RETRY);
        jobs.take_up_archive(archive, setup.archived.map(|_| archiver));
        let (recording, last, stopped) = (jobs.clone(), CancellationToken::new(), stop.clone());
        let told = last.clone();
        tokio::spawn(async move {
            tokio::join!(
                archiving.run(stopped.clone()),
                rounds.run(stopped.clone()),
                recording.record_logs(news),
                stopped.cancelled()
            );
            told.cancel();
        });
        let router = ci_bridge::http::router(
            policy,
            jobs.clone(),
            audit,
            runners,
            Gate { keyring: keyring.clone(), query_tokens: setup.query_tokens },
            Options { following: setup.following, exporter_names: setup.exporter_names },
            stop.clone(),
        );

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = Bounds {
            connections: setup.connections,
            header_timeout: setup.header_timeout,
            write_stall: setup.write_stall,
        };
        tokio::spawn(serve(vec![Listener::Tcp(listener)], router, bounds, stop.clone(), DRAIN));
        let (watching, stopped) = (view.clone(), stop.clone());
        tokio::spawn(async move { watching.run(stopped).await });
        let (adopting, systemd_is_known) = (jobs.clone(), view.clone());
        tokio::spawn(async move {
            systemd_is_known.ready().await;
            adopting.finish_adopted().await;
            adopting.archive_rest().await;
            if let Some(forgetting) = forgetting {
                forgetting.await;
            }
        });
        let kept = jobs.clone();
        let keeping = tokio::spawn(async move {
            // What became of logs at the very end is kept too.
            tokio::join!(recorder.run(last.clone()), auditor.run(last));
            kept.close_history().await;
        });
        Self { systemd, tokens, address, view, jobs, journal, keyring, stop: StopOnDrop(stop), state, keeping }
    }

    /// Ends the bridge, and begins another one with the same systemd, journal and history.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(async |_| {}).await
    }

    /// The same, with something happening while no bridge is there.
    pub(crate) async fn restart_after(self, meanwhile: impl AsyncFnOnce(&mut Systemd1)) -> Self {
        self.restart_as(Setup::default(), meanwhile).await
    }

    /// The same, set up in another way.
    pub(crate) async fn restart_as(self, setup: Setup, meanwhile: impl AsyncFnOnce(&mut Systemd1)) -> Self {
        let Self { mut systemd, tokens, journal, keyring, stop, state, keeping, .. } = self;
        drop(stop);
        keeping.await.unwrap();
        meanwhile(&mut systemd).await;
        let bridge = Self::on(systemd, setup, journal, (tokens, keyring), state).await;
        bridge.view.ready().await;
        bridge
    }

    /// A journald that takes messages and does nothing with them.
    pub(crate) fn hang_journald(&self) -> UnixDatagram {
        UnixDatagram::bind(self.journal.directory().join(JOURNALD)).unwrap()
    }

    /// A journald that writes down what it is sent, as one that is well does.
    pub(crate) fn play_journald(&self) {
        self.play_journald_with(String::new());
    }

    /// The same, which has to write these entries before it comes to what it is sent.
    pub(crate) fn play_journald_with(&self, mut waiting: String) {
        let socket = UnixDatagram::bind(self.journal.directory().join(JOURNALD)).unwrap();
        // The files go with the bridge; the thread stays until the process ends.
        let files = Arc::downgrade(&self.journal);
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                let Some(files) = files.upgrade() else { return };
                let entry = crate::journal::entry(std::str::from_utf8(&message[..length]).unwrap());
                files.add(&(std::mem::take(&mut waiting) + &entry));
            }
        });
    }

    /// Has only one token left, that of the reader, with these lines more in its entry.
    pub(crate) fn change_reader(&self, extra: &str) {
        let entry = entry("reader", Access::ReadOnly, &self.tokens.reader, extra);
        self.keyring.store(Arc::new(Keyring::parse(&entry).unwrap()));
    }

    /// Asks the bridge to stop.
    pub(crate) fn stop(&self) {
        self.stop.0.cancel();
    }

    /// The archived logs, when there are so many.
    pub(crate) async fn archived(&self, count: usize) -> Vec<PathBuf> {
        let logs = || -> Vec<PathBuf> {
            let directories = std::fs::read_dir(self.state.path().join(ARCHIVE)).unwrap();
            let files = directories.flat_map(|directory| std::fs::read_dir(directory.unwrap().path()).unwrap());
            let paths = files.map(|file| file.unwrap().path());
            paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect()
        };
        let wait = async {
            loop {
                let logs = logs();
                if logs.len() == count {
                    return logs;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the archive never had so many logs")
    }

    /// Takes away all that there is of the journal, as journald does to make room for something else.
    pub(crate) fn vacuum_all(&self) {
        self.journal.replace();
    }

    /// The file of the history.
    pub(crate) fn database(&self) -> PathBuf {
        self.state.path().join("ci-bridge.db")
    }

    /// Takes away the journal file that was written as the first, second, …, as journald does to make room.
    pub(crate) fn vacuum(&self, file: usize) {
        self.journal.remove(file);
    }

    /// Adds entries to the journal.
    pub(crate) fn log(&self, entries: &str) {
        self.journal.add(entries);
    }

    /// Sends a request as it stands, without its first `\r\n`, with a token that may do everything.
    pub(crate) async fn call(&self, request: &str) -> Answer {
        self.call_as(&self.tokens.writer, request).await
    }

    /// Sends a request as [`Bridge::call`] does, and does not wait for the answer.
    pub(crate) fn call_beside(&self, request: &str) -> tokio::task::JoinHandle<Answer> {
        let bearer = format!("Bearer {}", self.tokens.writer);
        let (address, head) = (self.address, head(request, &[("Authorization", &bearer)]));
        tokio::spawn(async move { exchange(address, head.as_bytes()).await })
    }

    pub(crate) async fn call_as(&self, token: &str, request: &str) -> Answer {
        self.call_with(request, &[("Authorization", &format!("Bearer {token}"))]).await
    }

    /// Sends `METHOD TARGET` with these headers.
    pub(crate) async fn call_with(&self, request: &str, headers: &[(&str, &str)]) -> Answer {
        exchange(self.address, head(request, headers).as_bytes()).await
    }

    /// Sends a request with a body, these headers, and a token that may do everything.
    pub(crate) async fn call_with_body(&self, request: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.call_with_body_as(&self.tokens.writer, request, headers, body).await
    }

    pub(crate) async fn call_with_body_as(
        &self,
        token: &str,
        request: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let (bearer, length) = (format!("Bearer {token}"), body.len().to_string());
        let own = [("Authorization", bearer.as_str()), ("Content-Length", length.as_str())];
        let head = head(request, &[&own, headers].concat());
        exchange(self.address, format!("{head}{body}").as_bytes()).await
    }

    /// Sends `GET TARGET` with a token that may read, and these headers; returns when the head of the answer is there.
    pub(crate) async fn open(&self, target: &str, headers: &[(&str, &str)]) -> Streamed {
        let bearer = format!("Bearer {}", self.tokens.reader);
        let headers = [&[("Authorization", bearer.as_str())], headers].concat();
        Streamed::open(self.address, head(&format!("GET {target}"), &headers).as_bytes()).await
    }

    /// Starts a job and gives back the id of its run.
    pub(crate) async fn start(&self, job: &str) -> String {
        let answer = self.call(&format!("POST /api/job/{job}")).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["run"]["id"].as_str().unwrap().to_owned()
    }

    /// The state of a run of a job when it has ended.
    pub(crate) async fn ended(&self, job: &str, run: &str) -> serde_json::Value {
        let state = self.call(&format!("GET /api/job/{job}/state?run={run}&wait=20")).await.json();
        assert_eq!(state["run_state"], "ended", "{state}");
        state
    }

    /// Asks until the answer is as wanted; the bridge hears of some things only by and by.
    pub(crate) async fn until(&self, request: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let ask = async {
            loop {
                let answer = self.call(request).await;
                if wanted(&answer) {
                    return answer;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ask).await.expect("the answer never was as wanted")
    }
}

//! The bridge as a whole, in this process: its own accept loop, router and tokens, on a played systemd.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ci_bridge::auth::{Access, Keyring, Token, TokenHash};
use ci_bridge::config::QueryTokens;
use ci_bridge::http::Following;
use ci_bridge::http::serve::{Bounds, Listener, serve};
use ci_bridge::inputs::Inputs;
use ci_bridge::jobs::{Jobs, Runs};
use ci_bridge::journal::Journal;
use ci_bridge::policy::{Policy, Prefix};
use ci_bridge::systemd::{BusAddress, Systemd};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::journal::JournalFiles;
use crate::systemd1::{Systemd1, Unit};
use crate::wire::{Answer, Streamed, exchange};

/// Where the bridge looks for journald in the directory of the journal; usually nobody is there.
const JOURNALD: &str = "socket";

/// The time that answers under way have at the end.
const DRAIN: Duration = Duration::from_secs(10);

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
    pub(crate) expired: String,
    pub(crate) revoked: String,
    pub(crate) early: String,
}

impl Tokens {
    fn generate() -> (Self, Keyring) {
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
            expired: add("expired", Access::ReadWrite, "expires = 2020-01-01T00:00:00Z"),
            revoked: add("revoked", Access::ReadWrite, "revoked = 2020-01-01T00:00:00Z"),
            early: add("early", Access::ReadWrite, "not_before = 2999-01-01T00:00:00Z"),
        };
        file.push_str(&entry("foreign", Access::ReadWrite, FOREIGN, ""));
        (tokens, Keyring::parse(&file).unwrap())
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
    pub(crate) inputs: Inputs,
    pub(crate) header_timeout: Duration,
    pub(crate) connections: usize,
    pub(crate) write_stall: Duration,
    pub(crate) following: Following,
    /// What the journal holds, in the export format of journald.
    pub(crate) journal: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            query_tokens: QueryTokens::Allow,
            instances_per_hour: 200,
            inputs: Inputs::default(),
            header_timeout: Duration::from_secs(10),
            connections: 512,
            write_stall: Duration::from_secs(30),
            following: Following { most: 100, heartbeat: Duration::from_secs(15) },
            journal: crate::journal::FOREIGN_ENTRY.to_owned(),
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
    stop: CancellationToken,
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.cancel();
    }
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
        crate::logged::capture();
        let journal = Arc::new(JournalFiles::write(&setup.journal));
        let (tokens, keyring) = Tokens::generate();
        let policy = Policy::new(vec![Prefix::parse("ci-test-").unwrap()]);
        let runs = Runs::new(policy.clone());
        let view = Systemd::new(BusAddress::At(systemd.address()), policy.clone(), runs.observer());
        // There is no journald that could say that it has written everything.
        let files = Journal::new(vec![journal.directory().to_owned()]).with_socket(&journal.directory().join(JOURNALD));
        let jobs = Jobs::new(runs, view.clone(), files, setup.instances_per_hour, setup.inputs);
        let keyring = Arc::new(ArcSwap::from_pointee(keyring));
        let stop = CancellationToken::new();
        let router = ci_bridge::http::router(
            policy,
            jobs.clone(),
            keyring.clone(),
            setup.query_tokens,
            setup.following,
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
        Self { systemd, tokens, address, view, jobs, journal, keyring, stop }
    }

    /// A journald that takes messages and does nothing with them.
    pub(crate) fn hang_journald(&self) -> UnixDatagram {
        UnixDatagram::bind(self.journal.directory().join(JOURNALD)).unwrap()
    }

    /// A journald that writes down what it is sent, as one that is well does.
    pub(crate) fn play_journald(&self) {
        let socket = UnixDatagram::bind(self.journal.directory().join(JOURNALD)).unwrap();
        // The files go with the bridge; the thread stays until the process ends.
        let files = Arc::downgrade(&self.journal);
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                let Some(files) = files.upgrade() else { return };
                files.add(&crate::journal::entry(std::str::from_utf8(&message[..length]).unwrap()));
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
        self.stop.cancel();
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

    pub(crate) async fn call_as(&self, token: &str, request: &str) -> Answer {
        self.call_with(request, &[("Authorization", &format!("Bearer {token}"))]).await
    }

    /// Sends `METHOD TARGET` with these headers.
    pub(crate) async fn call_with(&self, request: &str, headers: &[(&str, &str)]) -> Answer {
        exchange(self.address, head(request, headers).as_bytes()).await
    }

    /// Sends a request with a body and a token that may do everything.
    pub(crate) async fn call_with_body(&self, request: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {}", self.tokens.writer);
        let length = body.len().to_string();
        let head = head(request, &[("Authorization", bearer.as_str()), ("Content-Length", length.as_str())]);
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

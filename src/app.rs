//! Puts the bridge together: the only place that names all its parts.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::alerts::{self, Alerts};
use crate::archive::{self, Archive};
use crate::audit::{self, Audit};
use crate::auth::Keyring;
use crate::config::{self, Listen, Settings};
use crate::credentials;
use crate::fleet::Runners;
use crate::http::serve::{Bounds, Listener};
use crate::http::{self, Following, Gate, Options};
use crate::inputs::InputName;
use crate::jobs::{Archiver, Jobs, Limits, Recorder, Runs};
use crate::journal::{self, Journal};
use crate::lifecycle::{self, StopOnDrop, Tokens};
use crate::outages;
use crate::policy::AllowedJob;
use crate::retention;
use crate::runners;
use crate::store::{self, Opened, Store};
use crate::systemd::{BusAddress, Systemd};
use crate::telemetry::Chain;

/// How long the answers that are under way at the end may take.
const DRAIN: Duration = Duration::from_secs(10);
/// The longest that a client may take nothing of what is ready for it.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// Proxies take an answer for dead after half a minute of silence, or more.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The pause between two attempts to open the history, or the archive.
const HISTORY_RETRY: Duration = Duration::from_secs(5);
/// Where the archive is in the state directory.
const ARCHIVE: &str = "logs";
/// The pause between two attempts to archive a log for which there was no room.
const ARCHIVE_RETRY: Duration = Duration::from_secs(30);
/// How long systemd's state is waited for before the bridge answers without it, not ready.
const FIRST_READING: Duration = Duration::from_secs(5);
/// How long a request waits for a systemd that is away: executing itself anew takes it a tenth of a second.
const ABSENCE: Duration = Duration::from_secs(3);

/// The bridge could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal of this machine cannot be found.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// Alerts can't be sent as they are configured.
    #[error(transparent)]
    Alerts(#[from] alerts::Error),
    /// No list of runners can be read.
    #[error("no list of runners can be read")]
    Runners(#[from] runners::OpenError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}; is it in use? (`listen` in the configuration)")]
    Listen {
        /// The address.
        address: String,
        /// The reason.
        source: std::io::Error,
    },
    /// systemd could not ask for the inputs of jobs.
    #[error("cannot listen on {}, where systemd asks for the inputs of jobs", credentials::SOCKET)]
    Inputs(#[source] std::io::Error),
    /// There is nowhere to listen.
    #[error("`listen` is empty and systemd passed no socket; name an address such as 127.0.0.1:8000")]
    Nowhere,
    /// The history can't be kept by this build.
    #[error(transparent)]
    Sqlite(store::Error),
    /// The process cannot wait for signals.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// [`Error`] says what keeps it from starting, and what to do.
pub async fn serve(settings: Settings, keyring: Keyring) -> Result<(), Error> {
    store::check_sqlite().await.map_err(Error::Sqlite)?;
    let (audit, auditor) = Audit::new();
    let tokens = Tokens::new(&settings.tokens_file, keyring, audit.clone());
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let alerts = Alerts::load(&settings.alerts)?;
    let (runners, rounds) = Runners::new(&settings.runners, alerts, credentials.as_deref())?;
    let listeners = listen(&settings.listen).await?;
    let journal = Journal::of_host()?;
    let policy = settings.jobs.policy;
    let runs = Runs::new(policy.clone());
    let systemd = Systemd::new(BusAddress::System, policy.clone(), runs.observer(), ABSENCE);
    let limits = Limits {
        instances_per_hour: usize::try_from(settings.jobs.instances_per_hour).unwrap_or(usize::MAX),
        queued_runs: settings.limits.max_queued_runs,
    };
    let takes_inputs = !settings.jobs.inputs.is_empty();
    let (jobs, recorder) = Jobs::new(runs, systemd.clone(), journal.clone(), limits, settings.jobs.inputs);
    let recorder = recorder.telling(runners.teller().clone());
    let stop = CancellationToken::new();
    let _stop_on_drop = StopOnDrop(stop.clone());
    let directory = settings.state_directory.join(ARCHIVE);
    let (troubles, archive_troubles) = watch::channel(None);
    let archiving = Archiving { directory, settings: settings.archive, jobs: jobs.clone(), journal, troubles };
    let archiving = tokio::spawn(archiving.keep(stop.clone()));
    let polling = tokio::spawn(rounds.run(stop.clone()));
    let (tried, opened) = oneshot::channel();
    // What is answered at the very end is recorded too.
    let answered = CancellationToken::new();
    let _answered_on_drop = StopOnDrop(answered.clone());
    let history = History {
        directory: settings.state_directory,
        jobs: jobs.clone(),
        systemd: systemd.clone(),
        audit: audit.clone(),
        runners: runners.clone(),
        kept: settings.history,
        archive_troubles,
    };
    let keeping = tokio::spawn(history.keep(recorder, auditor, tried, answered.clone()));
    // Runs from before this start have their ids before systemd tells of them.
    let _ = tokio::time::timeout(FIRST_READING, opened).await;
    let following = Following { most: settings.limits.max_streams, heartbeat: HEARTBEAT };
    let gate = Gate { keyring: tokens.keyring(), query_tokens: settings.query_tokens };
    let options = Options { following, exporter_names: settings.metrics.exporter_names };
    let router = http::router(policy.clone(), jobs.clone(), audit, runners.clone(), gate, options, stop.clone());

    let mut tasks = vec![archiving];
    if takes_inputs {
        let listener = credentials::bind(Path::new(credentials::SOCKET)).map_err(Error::Inputs)?;
        let value_of = move |job: AllowedJob, input: InputName| {
            let jobs = jobs.clone();
            async move { jobs.input(&job, &input).await }
        };
        tasks.push(tokio::spawn(credentials::serve(listener, policy, value_of, stop.clone())));
    }
    tasks.push({
        let (systemd, stop) = (systemd.clone(), stop.clone());
        tokio::spawn(async move { systemd.run(stop).await })
    });
    let bounds = Bounds {
        connections: settings.limits.max_connections,
        header_timeout: settings.limits.header_timeout,
        write_stall: WRITE_STALL,
    };
    tasks.push(tokio::spawn(http::serve::serve(listeners, router, bounds, stop.clone(), DRAIN)));
    if tokio::time::timeout(FIRST_READING, systemd.ready()).await.is_err() {
        log::warn!("systemd cannot be reached yet; the bridge answers, but is not ready");
    }
    lifecycle::notify(&[NotifyState::Ready]);
    log::info!("ready");
    let stopped = lifecycle::until_asked_to_stop(&tokens, &runners).await.map_err(Error::Signals);
    lifecycle::notify(&[NotifyState::Stopping]);
    stop.cancel();
    let ended = |task: Result<(), JoinError>| task.unwrap_or_else(|error| log::error!("a task ended badly: {error}"));
    for task in tasks {
        ended(task.await);
    }
    ended(polling.await);
    answered.cancel();
    ended(keeping.await);
    stopped
}

/// What is kept of runs, and where.
struct History {
    directory: PathBuf,
    jobs: Jobs,
    systemd: Systemd,
    audit: Audit,
    runners: Runners,
    kept: config::History,
    archive_troubles: watch::Receiver<Option<String>>,
}

impl History {
    /// Keeps the history until `stop` is cancelled. `tried` is told when it has been opened, or could not be.
    async fn keep(
        self,
        recorder: Recorder,
        auditor: audit::Recorder,
        tried: oneshot::Sender<()>,
        stop: CancellationToken,
    ) {
        let jobs = self.jobs.clone();
        let opening = tokio::spawn(self.open(tried));
        tokio::join!(recorder.run(stop.clone()), auditor.run(stop));
        opening.abort();
        let _ = opening.await;
        jobs.close_history().await;
    }

    /// Opens the history, as often as it takes: jobs run without it too. Then finds out what became of the runs from
    /// before, when systemd has told what it knows; from then on, forgets what is old.
    async fn open(self, tried: oneshot::Sender<()>) {
        let mut tried = Some(tried);
        let mut trouble = None;
        let store = loop {
            let opened = Store::open(&self.directory).await;
            let error = match opened {
                Ok(Opened { store, set_aside }) => {
                    if let Some(aside) = set_aside {
                        log::error!("the history was damaged; it is now {}, and a new one begins", aside.display());
                        trouble = Some("it was damaged, and a new one has begun".to_owned());
                    }
                    self.audit.take_up(store.clone());
                    self.runners.take_up(store.clone());
                    if let Err(error) = self.jobs.take_up(store.clone()).await {
                        log::error!("the runs of the time before cannot be read: {}", Chain(&error));
                    }
                    break store;
                }
                Err(error) => error,
            };
            if tried.take().is_some() {
                log::error!("runs are not recorded, only started: {}", Chain(&error));
                trouble = Some(Chain(&error).to_string());
            }
            tokio::time::sleep(HISTORY_RETRY).await;
        };
        drop(tried);
        let teller = self.runners.teller();
        let history_watched = outages::watch_history(store.clone(), trouble, teller.clone(), outages::QUIET);
        let archive_watched = outages::watch_archive(self.archive_troubles.clone(), store.clone(), teller.clone());
        let kept = async {
            self.systemd.ready().await;
            self.jobs.finish_adopted().await;
            self.jobs.archive_rest().await;
            retention::keep_to(self.kept, store, self.jobs).await;
        };
        tokio::join!(kept, history_watched, archive_watched);
    }
}

/// What is kept of logs, and where.
struct Archiving {
    directory: PathBuf,
    settings: config::Archive,
    jobs: Jobs,
    journal: Journal,
    troubles: watch::Sender<Option<String>>,
}

impl Archiving {
    /// Keeps the archive until `stop` is cancelled.
    async fn keep(self, stop: CancellationToken) {
        // What was archived before can still be read.
        if !self.settings.enabled && !self.directory.exists() {
            return;
        }
        let Some(archive) = stop.run_until_cancelled(self.open()).await else { return };
        if !self.settings.enabled {
            return self.jobs.take_up_archive(archive, None);
        }
        let limits = archive::Limits {
            age: Some(self.settings.max_age),
            bytes: Some(self.settings.max_bytes),
            logs_per_job: Some(self.settings.max_runs_per_job),
        };
        let (archiver, task, news) = Archiver::new(self.journal, archive.clone(), limits, ARCHIVE_RETRY);
        self.jobs.take_up_archive(archive, Some(archiver));
        let working = tokio::spawn(task.telling(self.troubles).run(stop.clone()));
        // If the history is not there yet, this is done when it is.
        let offering = stop.run_until_cancelled(self.jobs.archive_rest());
        tokio::join!(offering, self.jobs.record_logs(news));
        if let Err(error) = working.await {
            log::error!("a task ended badly: {error}");
        }
    }

    /// Opens the archive, as often as it takes.
    async fn open(&self) -> Archive {
        let mut has_told = false;
        loop {
            let directory = self.directory.clone();
            let error = match tokio::task::spawn_blocking(move || Archive::open(&directory)).await {
                Ok(Ok(archive)) => {
                    self.troubles.send_replace(None);
                    return archive.keeping_free(self.settings.keep_free);
                }
                Ok(Err(error)) => Chain(&error).to_string(),
                Err(error) => error.to_string(),
            };
            if !has_told {
                log::error!("logs are not archived: {error}");
                self.troubles.send_replace(Some(error));
            }
            has_told = true;
            tokio::time::sleep(HISTORY_RETRY).await;
        }
    }
}

/// The sockets that systemd passed, and the configured addresses that are not among them.
async fn listen(addresses: &[Listen]) -> Result<Vec<Listener>, Error> {
    let mut listeners = Vec::new();
    let mut passed: Vec<SocketAddr> = Vec::new();
    let mut sockets = ListenFd::from_env();
    for index in 0..sockets.len() {
        let failed = |source| Error::Listen { address: format!("the socket {index} of systemd"), source };
        if let Ok(Some(socket)) = sockets.take_tcp_listener(index) {
            socket.set_nonblocking(true).map_err(failed)?;
            passed.extend(socket.local_addr());
            listeners.push(Listener::Tcp(TcpListener::from_std(socket).map_err(failed)?));
        } else if let Some(socket) = sockets.take_unix_listener(index).map_err(failed)? {
            socket.set_nonblocking(true).map_err(failed)?;
            listeners.push(Listener::Unix(UnixListener::from_std(socket).map_err(failed)?));
        }
    }
    for address in addresses {
        let failed = |source| Error::Listen { address: address.to_string(), source };
        match address {
            Listen::Tcp(address) if passed.contains(address) => {}
            Listen::Tcp(address) => {
                if !address.ip().is_loopback() {
                    log::warn!("{address} can be reached from outside without TLS; put a proxy in front of it");
                }
                listeners.push(Listener::Tcp(TcpListener::bind(address).await.map_err(failed)?));
            }
            Listen::Unix(path) => listeners.push(Listener::Unix(bind_unix(path).map_err(failed)?)),
        }
    }
    if listeners.is_empty() { Err(Error::Nowhere) } else { Ok(listeners) }
}

/// Binds a unix socket that its user and group may connect to, in the place of one that an earlier process left.
fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    let left = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if left && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(listener)
}

//! Puts the bridge together: the only place that names all its parts.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::auth::Keyring;
use crate::config::{Listen, Settings};
use crate::credentials;
use crate::http::serve::{Bounds, Listener};
use crate::http::{self, Following};
use crate::inputs::InputName;
use crate::jobs::{Jobs, Runs};
use crate::journal::{self, Journal};
use crate::lifecycle::{self, StopOnDrop, Tokens};
use crate::policy::AllowedJob;
use crate::systemd::{BusAddress, Systemd};

/// How long the answers that are under way at the end may take.
const DRAIN: Duration = Duration::from_secs(10);
/// The longest that a client may take nothing of what is ready for it.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// Proxies take an answer for dead after half a minute of silence, or more.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long systemd's state is waited for before the bridge answers without it, not ready.
const FIRST_READING: Duration = Duration::from_secs(5);

/// The bridge could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal of this machine cannot be found.
    #[error(transparent)]
    Journal(#[from] journal::Error),
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
    /// The process cannot wait for signals.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// [`Error`] says what keeps it from starting, and what to do.
pub async fn serve(settings: Settings, keyring: Keyring) -> Result<(), Error> {
    let tokens = Tokens::new(&settings.tokens_file, keyring);
    let listeners = listen(&settings.listen).await?;
    let journal = Journal::of_host()?;
    let policy = settings.jobs.policy;
    let runs = Runs::new(policy.clone());
    let systemd = Systemd::new(BusAddress::System, policy.clone(), runs.observer());
    let instances = usize::try_from(settings.jobs.instances_per_hour).unwrap_or(usize::MAX);
    let takes_inputs = !settings.jobs.inputs.is_empty();
    let jobs = Jobs::new(runs, systemd.clone(), journal, instances, settings.jobs.inputs);
    let stop = CancellationToken::new();
    let following = Following { most: settings.limits.max_streams, heartbeat: HEARTBEAT };
    let router =
        http::router(policy.clone(), jobs.clone(), tokens.keyring(), settings.query_tokens, following, stop.clone());

    let _stop_on_drop = StopOnDrop(stop.clone());
    let mut tasks = Vec::new();
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
    let stopped = lifecycle::until_asked_to_stop(&tokens).await.map_err(Error::Signals);
    lifecycle::notify(&[NotifyState::Stopping]);
    stop.cancel();
    for task in tasks {
        if let Err(error) = task.await {
            log::error!("a task ended badly: {error}");
        }
    }
    stopped
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

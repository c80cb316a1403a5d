//! Takes connections and serves the API on them, over HTTP/1.1 only.
//!
//! Bounds what one client can hold: the number of connections, the time for a request's head, the memory of a
//! connection, and the time that a client may leave what was sent to it unread.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// A connection's buffer for reading and for writing, each.
const BUFFER: usize = 32 * 1024;
/// The most header fields of a request.
const HEADERS: usize = 64;
/// After so long without a byte on a connection the system asks whether the peer is still there, and then again and again.
/// Who has left without a word, and is sent nothing, would hold the connection for ever.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(Duration::from_secs(10));
/// The pause after a failed accept, which mostly means that there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A socket to take connections from.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// Who is at the other end.
#[derive(Clone)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl Peer {
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => fmt::Display::fmt(&address.ip(), f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What a client may take up.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections open at once, over all listeners.
    pub connections: usize,
    /// Time for the head of a request, and of idleness between two.
    pub header_timeout: Duration,
    /// The longest that a client may take nothing of what is ready for it.
    pub write_stall: Duration,
}

/// Serves `router` until `stop` is cancelled, then finishes what is under way.
///
/// A request that is still under way after `drain` is cut off.
pub async fn serve(listeners: Vec<Listener>, router: Router, bounds: Bounds, stop: CancellationToken, drain: Duration) {
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        let server = Server {
            router: router.clone(),
            bounds,
            permits: permits.clone(),
            connections: connections.clone(),
            stop: stop.clone(),
            cut: cut.clone(),
        };
        accepting.spawn(server.accept(listener));
    }
    accepting.join_all().await;
    connections.close();
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        cut.cancel();
        connections.wait().await;
    }
}

#[derive(Clone)]
struct Server {
    router: Router,
    bounds: Bounds,
    permits: Arc<Semaphore>,
    connections: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl Server {
    async fn accept(self, listener: Listener) {
        loop {
            // The permit comes before the connection: what is over the limit waits in the kernel.
            let permit = tokio::select! {
                () = self.stop.cancelled() => return,
                permit = self.permits.clone().acquire_owned() => permit,
            };
            // The semaphore is never closed.
            let Ok(permit) = permit else { return };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let server = self.clone();
                    self.connections.spawn(async move {
                        server.connection(stream, peer).await;
                        drop(permit);
                    });
                }
                // The client was gone before it was served.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    log::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(&self, stream: Box<dyn Stream>, peer: Peer) {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.bounds.write_stall));
        let service = self.router.clone().map_request(move |mut request: Request<_>| {
            request.extensions_mut().insert(peer.clone());
            request
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.bounds.header_timeout)
            .max_headers(HEADERS)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(service));
        let mut connection = pin!(connection);
        let mut stop = pin!(self.stop.cancelled());
        let mut stopping = false;
        loop {
            tokio::select! {
                // What breaks a connection is the client's affair, and of no use in the log.
                _ = connection.as_mut() => return,
                () = self.cut.cancelled() => return,
                () = &mut stop, if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // A line of a log is to leave at once.
                if let Err(error) = stream.set_nodelay(true) {
                    log::debug!("a connection stays slow: {error}");
                }
                if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE) {
                    log::debug!("a connection will not be missed: {error}");
                }
                Ok((Box::new(stream), Peer::Tcp(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), Peer::Unix))
            }
        }
    }
}

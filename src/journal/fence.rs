//! When the log of a run is whole.
//!
//! systemd tells that a run has ended before journald has read the last lines of its standard output: of a burst of
//! 20,000 lines a few hundred are there at that moment. journald serves its sources in the order in which they became
//! ready, so when a message sent to it has arrived in the journal, it has read at least once from every stream that had
//! something before, also that the stream has ended. Messages are sent until one of them finds no new line of the run. A
//! namespace has a journald of its own, with a socket of its own.
//!
//! This rests on how journald's event loop works, not on a promise; the caller gives a deadline. One thing it can't tell
//! is a line so long that journald takes several reads for it. A journald that can be asked, from systemd 258 on, says
//! when it has read all bytes that were there, so it is asked before each message (`synchronize`). Then a round without
//! a new line proves that there is none.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Error, From, Journal, Position, Run, directory, runs};

/// Where journald takes native messages; that of a namespace has a directory of its own, with the name behind a point.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

const FIELD: &str = "CI_BRIDGE_FENCE";

/// How often the journal is asked for the message. It arrives within two or three of these if journald is idle.
const POLL: Duration = Duration::from_millis(1);

/// How long it is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// While no line of the run arrives.
    pub without_a_line: Duration,
    /// In any case: what a process has printed when it ends may take journald many seconds to read.
    pub at_most: Duration,
}

pub(super) fn settle(journal: &Journal, run: &Run, quiet_rounds: u32, patience: &Patience) -> Result<bool, Error> {
    let end = Instant::now() + patience.at_most;
    let deadline = || end.min(Instant::now() + patience.without_a_line);
    let mut until = deadline();
    let mut newest = newest_of(journal, run)?;
    let mut quiet = 0;
    while quiet < quiet_rounds {
        if !round(journal, run, until)? {
            return Ok(false);
        }
        let now = newest_of(journal, run)?;
        if now == newest {
            quiet += 1;
        } else {
            quiet = 0;
            until = deadline();
        }
        newest = now;
    }
    Ok(true)
}

fn newest_of(journal: &Journal, run: &Run) -> Result<Option<Position>, Error> {
    let last = journal.run(run, From::Last(1))?.last().transpose()?;
    Ok(last.map(|entry| entry.position))
}

/// Asks each journald that may have something of the run, sends a message to each, and waits until they are in the
/// journal; `false` if they are not by `deadline`.
fn round(journal: &Journal, run: &Run, deadline: Instant) -> Result<bool, Error> {
    let namespaces = namespaces(journal, run)?;
    for socket in namespaces.iter().map(PathBuf::as_path).chain([&*journal.socket]) {
        journal.synchronizer.ask(socket, deadline);
    }
    let Some(message) = send(&journal.socket, deadline)? else { return Ok(false) };
    let mut messages = vec![message];
    for socket in namespaces {
        match send(&socket, deadline) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return Ok(false),
            // A namespace that nobody uses any more. Its journald has read everything before it went.
            Err(Error::Send { source, .. }) if is_gone(&source) => {}
            Err(error) => return Err(error),
        }
    }
    while let Some(message) = messages.last() {
        if journal.holds(FIELD.as_bytes(), message.as_bytes())? {
            messages.pop();
        } else if Instant::now() >= deadline {
            return Ok(false);
        } else {
            thread::sleep(POLL);
        }
    }
    Ok(true)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// The sockets of the namespaces that may have lines of the run: those in which it has printed, or else all there are.
///
/// A unit prints into one namespace. The manager's words are always in the journal of the host.
fn namespaces(journal: &Journal, run: &Run) -> Result<Vec<PathBuf>, Error> {
    let Some(host) = journal.socket.parent() else { return Ok(Vec::new()) };
    let printed = runs::printed_in(&journal.directories, run)?;
    // A message starts a journald that has been idle; so nobody is asked who has nothing.
    let directories = if printed.is_empty() {
        directory::namespaces(host).unwrap_or_default()
    } else {
        printed.into_iter().flatten().map(|namespace| directory::of_namespace(host, &namespace)).collect()
    };
    let name = journal.socket.file_name().unwrap_or_default();
    Ok(directories.into_iter().map(|directory| directory.join(name)).collect())
}

/// Sends one message, and says which; `None` if there is no room for it until `deadline`.
///
/// Source: the Native Journal Protocol document of systemd.
fn send(to: &Path, deadline: Instant) -> Result<Option<String>, Error> {
    let failed = |source| Error::Send { socket: to.to_path_buf(), source };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(None);
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| failed(io::Error::other(error)))?;
    let id = format!("{:032x}", u128::from_be_bytes(random));
    let message = format!("MESSAGE=Waiting until the log of a run is whole\nPRIORITY=7\n{FIELD}={id}\n");
    let sent = UnixDatagram::unbound().and_then(|socket| {
        socket.set_write_timeout(Some(left))?;
        socket.send_to(message.as_bytes(), to)
    });
    match sent {
        Ok(_) => Ok(Some(id)),
        // Its queue is full and stays so.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

//! When the log of a run is whole.
//!
//! systemd tells that a run has ended before journald has read the last lines of its standard output: of a burst of
//! 20,000 lines a few hundred are there at that moment. journald has no call for an unprivileged user to wait for it
//! (before systemd 258). But it serves its sources in the order in which they became ready, so when a message sent to it
//! has arrived in the journal, it has read at least once from every stream that had something before. Messages are sent
//! until one of them finds no new line of the run.
//!
//! This rests on how journald's event loop works, not on a promise; the caller gives a deadline.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use super::{Error, From, Journal, Position, Run};

/// Where journald takes native messages.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

const FIELD: &str = "CI_BRIDGE_FENCE";

/// How often the journal is asked for the message. It arrives within two or three of these if journald is idle.
const POLL: Duration = Duration::from_millis(1);

pub(super) fn settle(journal: &Journal, run: &Run, quiet_rounds: u32, deadline: Instant) -> Result<bool, Error> {
    let mut newest = newest_of(journal, run)?;
    let mut quiet = 0;
    while quiet < quiet_rounds {
        if !round(journal, deadline)? {
            return Ok(false);
        }
        let now = newest_of(journal, run)?;
        quiet = if now == newest { quiet + 1 } else { 0 };
        newest = now;
    }
    Ok(true)
}

fn newest_of(journal: &Journal, run: &Run) -> Result<Option<Position>, Error> {
    let last = journal.run(run, From::Last(1))?.last().transpose()?;
    Ok(last.map(|entry| entry.position))
}

/// Sends one message and waits until it is in the journal; `false` if it is not by `deadline`.
fn round(journal: &Journal, deadline: Instant) -> Result<bool, Error> {
    let failed = |source| Error::Send { socket: journal.socket.to_path_buf(), source };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(false);
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| failed(io::Error::other(error)))?;
    let id = format!("{:032x}", u128::from_be_bytes(random));
    match send(journal, &id, left) {
        Ok(()) => {}
        // Its queue is full and stays so.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(failed(error)),
    }
    while !journal.holds(FIELD.as_bytes(), id.as_bytes())? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(POLL);
    }
    Ok(true)
}

/// Source: the Native Journal Protocol document of systemd.
fn send(journal: &Journal, id: &str, timeout: Duration) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(timeout))?;
    let message = format!("MESSAGE=Waiting until the log of a run is whole\nPRIORITY=7\n{FIELD}={id}\n");
    socket.send_to(message.as_bytes(), &*journal.socket).map(drop)
}

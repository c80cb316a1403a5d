//! Whether the log of a run that has ended is whole.
//!
//! systemd tells of the end of a run before journald has read the last of what the run printed. journald serves its
//! sockets oldest first, so a message that is sent now and has come back proves that what was waiting before it has
//! been read. Several such rounds without a new line of the run mean that nothing of it is on its way any more.
//!
//! This is how journald schedules, no promise of its documentation; tests on a real one hold it to that.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use super::{Error, From, Journal, Position, Run};

/// journald's socket for its native protocol (`systemd.journal-fields(7)` and "Native Journal Protocol").
const SOCKET: &str = "/run/systemd/journal/socket";
const FIELD: &str = "CI_BRIDGE_FENCE";
/// How often the journal is looked at for the message that was sent.
const LOOK: Duration = Duration::from_millis(1);

impl Journal {
    /// Waits until `quiet_rounds` messages in a row have come back without a new entry of `run`.
    ///
    /// False if `deadline` comes first, or journald takes no messages.
    ///
    /// # Errors
    /// As [`Journal::run`].
    pub fn settle(&self, run: &Run<'_>, quiet_rounds: u32, deadline: Instant) -> Result<bool, Error> {
        let mut newest = self.newest(run)?;
        let mut quiet = 0;
        while quiet < quiet_rounds {
            let mark = match send() {
                Ok(mark) => mark,
                Err(error) => {
                    log::warn!("journald takes no message at {SOCKET}: {error}");
                    return Ok(false);
                }
            };
            while !self.holds(FIELD, mark.as_bytes())? {
                if Instant::now() >= deadline {
                    return Ok(false);
                }
                std::thread::sleep(LOOK);
            }
            let now = self.newest(run)?;
            quiet = if now == newest { quiet + 1 } else { 0 };
            newest = now;
        }
        Ok(true)
    }

    fn newest(&self, run: &Run<'_>) -> Result<Option<Position>, Error> {
        Ok(self.run(run, From::Last(1))?.next().map(|entry| entry.position))
    }
}

/// Sends a message that nobody else sends, and gives back what it is known by.
fn send() -> io::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let mark = format!("{:032x}", u128::from_be_bytes(random));
    let message = format!("MESSAGE=Waiting for the end of a log\nPRIORITY=7\n{FIELD}={mark}\n");
    UnixDatagram::unbound()?.send_to(message.as_bytes(), SOCKET)?;
    Ok(mark)
}

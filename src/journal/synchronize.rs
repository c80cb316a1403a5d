//! journald's own word that it has read what was sent to it before.
//!
//! Since systemd 258 anybody may call `io.systemd.Journal.Synchronize` over varlink, as long as the files are not to be
//! flushed to the disk. journald then notes how many bytes wait in each stream and how many streams wait to be accepted,
//! and answers when it has turned as many into entries. Its counters may run ahead by what it had of an unfinished line,
//! and they don't cover the last line of a stream that ends without a newline if the line was read before; so this is
//! the first half of a round of [`super::fence`], and not the whole of it.
//!
//! Before systemd 258 only root can connect. Who does not answer well is left alone for a while.
//!
//! Sources: `journald-varlink.c`, `journald-sync.c` and `journald-stream.c` of systemd 258; <https://varlink.org>.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

/// Beside the socket for messages.
const SOCKET: &str = "io.systemd.journal";

/// One message; a NUL ends it.
const CALL: &[u8] = b"{\"method\":\"io.systemd.Journal.Synchronize\",\"parameters\":{\"offline\":false}}\0";

/// The longest answer that is read. That of journald has twenty bytes, or those of an error.
const ANSWER_MOST: usize = 16 << 10;

/// The longest that an answer is waited for: a journald that others keep busy comes to it late, or not at all.
const WITHIN: Duration = Duration::from_secs(1);

/// For how long nobody is asked who did not answer well, as long as the socket stays the same.
const LEFT_ALONE: Duration = Duration::from_mins(1);

/// A socket file: device, inode, and when it was made.
type Identity = (u64, u64, i64, i64);

/// Who did not answer well, and when.
#[derive(Debug, Default)]
pub(super) struct Synchronizer {
    left_alone: Mutex<HashMap<PathBuf, (Identity, Instant)>>,
}

impl Synchronizer {
    /// Has the journald that takes messages at `messages` read all that was sent to it, if it is one that can be asked.
    /// Returns at `deadline` at the latest.
    pub(super) fn ask(&self, messages: &Path, deadline: Instant) {
        let socket = messages.with_file_name(SOCKET);
        // An older journald has none, or one that only root may look at.
        let Ok(identity) = identity(&socket) else { return };
        let left_alone = self.lock().get(&socket).copied();
        if left_alone.is_some_and(|(known, at)| known == identity && at.elapsed() < LEFT_ALONE) {
            return;
        }
        let answered = synchronize(&socket, deadline.min(Instant::now() + WITHIN));
        let mut left_alone = self.lock();
        match answered {
            Ok(()) => drop(left_alone.remove(&socket)),
            Err(error) => {
                log::debug!("{} is not asked for a while: {error}", socket.display());
                left_alone.insert(socket, (identity, Instant::now()));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, (Identity, Instant)>> {
        self.left_alone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity(socket: &Path) -> io::Result<Identity> {
    let facts = fs::metadata(socket)?;
    Ok((facts.dev(), facts.ino(), facts.ctime(), facts.ctime_nsec()))
}

fn synchronize(socket: &Path, deadline: Instant) -> io::Result<()> {
    let connection = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // It bounds the wait for a place in the queue of connections, too.
    connection.set_write_timeout(Some(left(deadline)?))?;
    connection.connect(&SockAddr::unix(socket)?)?;
    let mut connection = UnixStream::from(OwnedFd::from(connection));
    connection.write_all(CALL)?;
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    while !answer.contains(&0) {
        connection.set_read_timeout(Some(left(deadline)?))?;
        match connection.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            size => answer.extend_from_slice(part.get(..size).unwrap_or_default()),
        }
        if answer.len() > ANSWER_MOST {
            return Err(io::Error::other("the answer is too long"));
        }
    }
    let message = answer.split(|byte| *byte == 0).next().unwrap_or_default();
    match serde_json::from_slice::<Value>(message) {
        Ok(Value::Object(answer)) if answer.get("error").is_none_or(Value::is_null) => Ok(()),
        Ok(answer) => Err(io::Error::other(answer.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

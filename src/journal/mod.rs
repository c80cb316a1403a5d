//! The journal, read directly from the files that journald writes.
//!
//! A safe reader of the file format: no mapping of memory, no library, no process. It answers what the bridge asks (the
//! entries of one run of one unit, the newest run, whether a field's value has arrived) and goes there through the hash
//! tables of the files, so that what other units have written costs nothing. It trusts only what journald itself says
//! of an entry, never what the sender claims.
//!
//! Absent on purpose: free matches, and sealing. Nothing is written but the messages of `fence`. All calls block; each is
//! a matter of milliseconds, an iteration over a long log more.

mod chain;
mod cursor;
mod damage;
mod directory;
mod entries;
mod facts;
mod fence;
mod file;
mod filter;
mod gaps;
mod hash;
mod layout;
mod lists;
mod losses;
mod payload;
mod position;
mod reach;
mod runs;
mod search;
mod streams;
mod synchronize;
mod tail;
pub mod text;
mod window;
mod words;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::invocation::InvocationId;
use crate::policy::AllowedJob;

pub use self::damage::{Damage, Problem};
pub use self::entries::{Entries, NewestFirst};
pub use self::fence::Patience;
pub use self::filter::Filter;
pub use self::gaps::Gap;
pub(crate) use self::gaps::Gaps;
pub(crate) use self::hash::of_message as message_hash;
pub use self::losses::Losses;
pub use self::position::Position;
pub use self::runs::FoundRun;
pub use self::tail::{Arrived, Pulse, Tail};
pub use self::words::RunEnd;

use self::directory::Directories;
use self::synchronize::Synchronizer;

/// Why the journal as a whole can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has no id, so the directory of its journal has no name.
    #[error("cannot read /etc/machine-id; `systemd-machine-id-setup` makes one")]
    MachineId(#[source] io::Error),
    /// There is no file in any of the directories.
    #[error("there is no journal in {}; is journald running, and not with Storage=none?", list(directories))]
    NoJournal {
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },
    /// A directory can't be listed.
    #[error("cannot list {}; is this user in the group systemd-journal?", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There are files, but none can be read.
    #[error("no journal file can be read")]
    Unreadable(#[source] Box<Problem>),
    /// Some entries of a run are lost.
    #[error("some entries can't be read")]
    Damaged(#[source] Box<Problem>),
    /// A message can't be sent to journald.
    #[error("cannot send to journald at {}; is it running?", socket.display())]
    Send {
        /// Its socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(" or ")
}

/// One run of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    /// The job, whose unit the entries must be of.
    pub job: AllowedJob,
    /// Which of its runs.
    pub invocation: InvocationId,
}

/// Where to begin in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With its first entry.
    Start,
    /// So many entries before the end.
    Last(usize),
    /// With the first entry behind that place, also if the entry there no longer exists.
    After(Position),
}

/// Who wrote an entry of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A process of the job.
    Job,
    /// The system manager, about the job.
    Systemd,
    /// Another privileged program about a process of the job, such as systemd-coredump.
    Other,
}

/// One entry of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub position: Position,
    /// From 0, emergency, to 7, debug; `None` if the sender gave none.
    pub priority: Option<u8>,
    /// Who wrote it.
    pub source: Source,
    /// How many messages of the run journald dropped before this one, if this is journald's own word of that.
    pub suppressed: Option<u64>,
    /// The bytes as they were sent, in any encoding, without the newline that ended them.
    pub message: Vec<u8>,
}

impl Entry {
    /// When journald received it: microseconds since 1970.
    #[must_use]
    pub fn realtime_usec(&self) -> u64 {
        self.position.realtime
    }
}

/// The journal of a host; clones share the open files.
#[derive(Debug, Clone)]
pub struct Journal {
    directories: Arc<Directories>,
    socket: Arc<Path>,
    synchronizer: Arc<Synchronizer>,
}

impl Journal {
    /// The journal in these directories, as `/var/log/journal/<machine-id>`, and in those of its namespaces beside them,
    /// as `/var/log/journal/<machine-id>.ci`. Those that don't exist are passed over until they do.
    #[must_use]
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories: Arc::new(Directories::new(directories)),
            socket: Path::new(fence::SOCKET).into(),
            synchronizer: Arc::default(),
        }
    }

    /// The same journal, written to through another socket than `/run/systemd/journal/socket`. Those of namespaces are
    /// beside it, as in `/run/systemd/journal.ci`.
    #[must_use]
    pub fn with_socket(self, socket: &Path) -> Self {
        Self { socket: socket.into(), ..self }
    }

    /// The journal of this host, persistent and volatile.
    ///
    /// # Errors
    /// [`Error::MachineId`] if `/etc/machine-id` can't be read.
    ///
    /// Source: systemd-journald.service(8), "Files".
    pub fn of_host() -> Result<Self, Error> {
        let id = fs::read_to_string("/etc/machine-id").map_err(Error::MachineId)?;
        let directory = |place: &str| PathBuf::from(place).join(id.trim());
        Ok(Self::new(vec![directory("/var/log/journal"), directory("/run/log/journal")]))
    }

    /// The entries of a run, as many as there are now; none if the journal does not know the run.
    ///
    /// # Errors
    /// [`Error`] if there is no readable journal at all. Single files that can't be read are told by
    /// [`Entries::problems`].
    pub fn run(&self, run: &Run, from: From) -> Result<Entries, Error> {
        self.run_where(run, from, &Filter::default())
    }

    /// The same entries without those that are not wanted, whose messages are not even read. [`From::Last`] counts those
    /// that are.
    ///
    /// # Errors
    /// As [`Journal::run`].
    pub fn run_where(&self, run: &Run, from: From, filter: &Filter) -> Result<Entries, Error> {
        runs::entries(&self.directories, run, &from, filter)
    }

    /// The newest run of a job that the journal knows.
    ///
    /// # Errors
    /// As [`Journal::run`].
    pub fn last_run(&self, job: &AllowedJob) -> Result<Option<FoundRun>, Error> {
        runs::last(&self.directories, job)
    }

    /// What the journal knows of one run.
    ///
    /// # Errors
    /// As [`Journal::run`].
    pub fn find_run(&self, job: &AllowedJob, invocation: InvocationId) -> Result<Option<FoundRun>, Error> {
        runs::find(&self.directories, &Run { job: job.clone(), invocation })
    }

    /// Whether the journal has entries that are as old as this time: microseconds since 1970. Of a run that ended then and of
    /// which nothing is found, everything has otherwise been deleted.
    ///
    /// # Errors
    /// As [`Journal::run`].
    pub fn reaches_back_to(&self, usec: u64) -> Result<bool, Error> {
        let first = losses::first_of_manager(&self.directories)?;
        Ok(first.is_some_and(|first| first.realtime <= usec))
    }

    /// Whether an entry with `field`=`value` has arrived, in the files being written or the newest archived ones.
    ///
    /// Cheap enough to be asked every millisecond: one or two small reads a file.
    ///
    /// # Errors
    /// As [`Journal::run`].
    pub fn holds(&self, field: &[u8], value: &[u8]) -> Result<bool, Error> {
        runs::holds(&self.directories, field, value)
    }

    /// Waits until journald has read what a run printed: until `quiet_rounds` messages in a row, each sent when the one
    /// before had arrived, found no new entry of the run. Before each message, a journald that can be asked for it (systemd
    /// 258 and newer) has been asked to read all that there is. Where a namespace may have lines of it, also its journald.
    /// `false` if `patience` ended before.
    ///
    /// # Errors
    /// [`Error::Send`] if journald takes no message, otherwise as [`Journal::run`].
    pub fn settle(&self, run: &Run, quiet_rounds: u32, patience: &Patience) -> Result<bool, Error> {
        fence::settle(self, run, quiet_rounds, patience)
    }

    /// Whether there is a journal and at least one of its files can be read.
    ///
    /// # Errors
    /// [`Error`] says why not.
    pub fn readable(&self) -> Result<(), Error> {
        let mut problem = None;
        for listed in self.directories.files()?.iter() {
            match listed.open() {
                Ok(_) => return Ok(()),
                Err(damage) => problem = Some(Problem::new(&listed.path, damage)),
            }
        }
        Err(match problem {
            Some(problem) => Error::Unreadable(Box::new(problem)),
            None => Error::NoJournal { directories: Vec::new() },
        })
    }

    /// The files that could not be read, or not wholly, and why; each once, as long as it exists.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.directories.problems()
    }
}

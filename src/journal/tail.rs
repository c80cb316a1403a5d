//! The entries of a run as they arrive.
//!
//! Asked every few milliseconds, most often for nothing. So what has changed is found out first, from the lengths of a few
//! lists. Lines that the job has printed, which is nearly all that ever arrives, are then read from where the last ones
//! ended. Anything else, as a word of the system manager, a new file or entries of another run, is left to a query like any
//! other, which goes by all the rules.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chain::Direction;
use super::cursor::FileCursor;
use super::damage::Damage;
use super::directory::Listed;
use super::file::JournalFile;
use super::{Entry, Error, From, Gap, Journal, Position, Run};

/// So many entries are handed out at once, or so many bytes of messages.
const ENTRIES_MOST: usize = 1000;
const BYTES_MOST: usize = 128 << 10;

/// journald counts an entry first and puts it in the lists then. Long enough for it to be held up in between.
const LISTED_AFTER: Duration = Duration::from_secs(1);

const UNIT: &[u8] = b"_SYSTEMD_UNIT";
/// The lists in which entries of a unit's runs are, by their field.
const FIELDS: [&[u8]; 4] = [UNIT, b"UNIT", b"OBJECT_SYSTEMD_UNIT", b"COREDUMP_UNIT"];

/// Whether anything has been written to the journal.
#[derive(Debug)]
pub struct Pulse {
    journal: Journal,
    counts: Vec<Option<u64>>,
    files: Arc<Vec<Listed>>,
    /// Until when what was written may yet have to be put in the lists.
    until: Instant,
}

impl Pulse {
    /// Of a journal.
    #[must_use]
    pub fn of(journal: &Journal) -> Self {
        Self { journal: journal.clone(), counts: Vec::new(), files: Arc::default(), until: Instant::now() }
    }

    /// Whether new entries may have come up since this was asked last; also now and then when nothing was written.
    ///
    /// # Errors
    /// As [`Journal::run`].
    pub fn beats(&mut self) -> Result<bool, Error> {
        let files = self.journal.directories.files()?;
        let counts: Vec<_> = files.iter().filter_map(growing).map(|file| file.entries().ok()).collect();
        let now = Instant::now();
        if counts != self.counts || !Arc::ptr_eq(&files, &self.files) {
            self.counts = counts;
            self.files = files;
            self.until = now + LISTED_AFTER;
        } else if now > self.until + LISTED_AFTER {
            // Not even a journald that was held up for longer is missed for good.
            self.until = now;
        }
        Ok(now <= self.until)
    }
}

/// What has arrived.
#[derive(Debug, Default)]
pub struct Arrived {
    /// Entries in their order; none if nothing has arrived.
    pub entries: Vec<Entry>,
    /// Whether a file that may hold more can't be read.
    pub is_damaged: bool,
}

/// A place at the growing end of a run's log.
#[derive(Debug)]
pub struct Tail {
    journal: Journal,
    run: Run,
    last: Option<Position>,
    /// The files at the last query that came to the end of the log; none if what comes next takes a query in any case.
    files: Arc<Vec<Listed>>,
    growing: Vec<Growing>,
}

/// A file that is written to.
#[derive(Debug)]
struct Growing {
    file: Arc<JournalFile>,
    /// How many entries of each list have been looked at.
    counts: [u64; FIELDS.len()],
    /// At the end of the run's entries in this file, if it has any.
    cursor: Option<FileCursor>,
}

impl Tail {
    /// The place behind all entries of the run that there are now.
    ///
    /// # Errors
    /// As [`Journal::run`].
    pub fn at_end(journal: &Journal, run: Run) -> Result<Self, Error> {
        let newest = journal.run(&run, From::Last(1))?.filter_map(Result::ok).last();
        let last = newest.map(|entry| entry.position);
        Ok(Self { journal: journal.clone(), run, last, files: Arc::default(), growing: Vec::new() })
    }

    /// Moves over entries that have arrived, a bounded number of them.
    ///
    /// # Errors
    /// As [`Journal::run`].
    pub fn advance(&mut self) -> Result<Arrived, Error> {
        let files = self.journal.directories.files()?;
        let arrived = if Arc::ptr_eq(&files, &self.files) { self.printed().unwrap_or_default() } else { None };
        let arrived = match arrived {
            Some(arrived) => arrived,
            None => self.query(files)?,
        };
        self.last = arrived.entries.last().map(|entry| entry.position).or(self.last);
        Ok(arrived)
    }

    /// What has arrived if that is nothing, or only lines of the unit's processes in one file; `None` for anything else.
    fn printed(&mut self) -> Result<Option<Arrived>, Damage> {
        let unit = self.run.job.unit().as_bytes();
        let change = grown(&self.growing, unit)?;
        let at = match change {
            Grown::Nothing => return Ok(Some(Arrived::default())),
            Grown::LinesOf(at) => at,
            Grown::More => return Ok(None),
        };
        let Some(growing) = self.growing.get(at) else { return Ok(None) };
        let chain = growing.file.entries_with(UNIT, unit)?;
        // What came before these lines to another list would be seen by now.
        if grown(&self.growing, unit)? != change {
            return Ok(None);
        }
        let Some(Growing { counts: [count, ..], cursor: Some(cursor), .. }) = self.growing.get_mut(at) else {
            return Ok(None);
        };
        let new = chain.len() - (*count).min(chain.len());
        *count = chain.len();
        cursor.grow(chain);
        let mut arrived = Arrived::default();
        let mut room = Room::default();
        while cursor.peek(Direction::Forward).is_some() {
            if !room.is_left() {
                // What is left is looked for by a query.
                self.files = Arc::default();
                return Ok(Some(arrived));
            }
            if cursor.pass().is_none() {
                break;
            }
            let Some(entry) = cursor.entry().transpose()? else { break };
            room.take(&entry);
            arrived.entries.push(entry);
        }
        if let Some(problem) = cursor.take_problem() {
            self.journal.directories.report(&problem);
            arrived.is_damaged = true;
        }
        if (arrived.entries.len() as u64) < new {
            // Some are not of this run; so another one may have begun.
            self.files = Arc::default();
        }
        Ok(Some(arrived))
    }

    /// What has arrived, by all the rules.
    fn query(&mut self, files: Arc<Vec<Listed>>) -> Result<Arrived, Error> {
        self.files = Arc::default();
        let unit = self.run.job.unit().as_bytes();
        // Counted before they are read, so what comes in between is counted next time.
        let growing = files.iter().filter_map(growing);
        let growing = growing.map(|file| Ok(Growing { counts: counts(&file, unit)?, file, cursor: None }));
        let growing: Result<Vec<_>, Damage> = growing.collect();
        let mut entries = self.journal.run(&self.run, self.last.map_or(From::Start, From::After))?;
        let mut arrived = Arrived::default();
        let mut room = Room::default();
        let mut is_over = false;
        while !is_over && room.is_left() {
            match entries.next() {
                Some(Ok(entry)) => {
                    room.take(&entry);
                    arrived.entries.push(entry);
                }
                // It shows as a gap.
                Some(Err(_)) => {}
                None => is_over = true,
            }
        }
        // That the entry told last has been deleted is no loss: what came after it came a moment ago.
        arrived.is_damaged = entries.gaps().contains(&Gap::Unreadable);
        if !is_over {
            return Ok(arrived);
        }
        if let Ok(growing) = growing {
            self.growing = growing;
            self.files = files;
            for cursor in entries.into_cursors() {
                if let Some(growing) = self.growing.iter_mut().find(|growing| cursor.is_in(&growing.file)) {
                    growing.cursor = Some(cursor);
                }
            }
        }
        Ok(arrived)
    }
}

/// How much more is handed out at once.
struct Room {
    entries: usize,
    bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { entries: ENTRIES_MOST, bytes: BYTES_MOST }
    }
}

impl Room {
    fn is_left(&self) -> bool {
        self.entries > 0 && self.bytes > 0
    }

    fn take(&mut self, entry: &Entry) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(entry.message.len());
    }
}

/// The file, if it is still written to.
fn growing(listed: &Listed) -> Option<Arc<JournalFile>> {
    listed.open().ok().filter(|file| !file.archived())
}

fn counts(file: &JournalFile, unit: &[u8]) -> Result<[u64; FIELDS.len()], Damage> {
    let mut counts = [0; FIELDS.len()];
    for (count, field) in counts.iter_mut().zip(FIELDS) {
        *count = file.find(field, unit)?.map_or(0, |data| data.entries);
    }
    Ok(counts)
}

/// What has changed since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grown {
    Nothing,
    /// The lines of the unit's processes in one file.
    LinesOf(usize),
    More,
}

fn grown(files: &[Growing], unit: &[u8]) -> Result<Grown, Damage> {
    let mut grown = Grown::Nothing;
    for (at, growing) in files.iter().enumerate() {
        let now = counts(&growing.file, unit)?;
        let ([_, others @ ..], [_, known @ ..]) = (&now, &growing.counts);
        if others != known {
            return Ok(Grown::More);
        }
        if now != growing.counts {
            grown = if grown == Grown::Nothing { Grown::LinesOf(at) } else { Grown::More };
        }
    }
    Ok(grown)
}

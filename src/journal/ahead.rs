//! Reading the file that comes next while the one before it is still being read.
//!
//! A long run lies in many files, one behind the other in time. Each is read by a thread of its own as soon as the one before
//! it is, so that two processors share the work. Deliberately absent: reading ahead of files that are still written to, and
//! backwards; what is short is not worth a thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, LazyLock};
use std::thread::{self, available_parallelism};

use super::Entry;
use super::chain::Direction;
use super::cursor::{FileCursor, Found};
use super::damage::Problem;
use super::position::Position;

/// How many threads may read ahead at once, in all queries.
static THREADS: LazyLock<Threads> = LazyLock::new(|| {
    let processors = available_parallelism().map_or(1, usize::from);
    // One processor has nothing to share.
    Threads { most: if processors > 1 { processors } else { 0 }, running: Arc::default() }
});

/// A file with fewer entries is not worth a thread.
pub(super) const LONG: u64 = 1024;
/// A part of what was read is handed over when it has so many entries or bytes.
const PART: (usize, usize) = (1024, 64 * 1024);
/// So many parts may wait to be taken: 4 MiB, unless single lines are larger.
const PARTS: usize = 64;

struct Threads {
    most: usize,
    running: Arc<AtomicUsize>,
}

/// The right to run a thread, given back when it is dropped.
struct Permit(Arc<AtomicUsize>);

impl Threads {
    fn permit(&self) -> Option<Permit> {
        let more = |running| (running < self.most).then_some(running + 1);
        self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Permit(Arc::clone(&self.running)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Some entries in a row, and what was met before the first of them.
#[derive(Debug, Default)]
struct Part {
    entries: VecDeque<(Found, Entry)>,
    drops: Vec<(Position, u64)>,
    problem: Option<Problem>,
}

/// The entries of one file, oldest first, as another thread reads them.
#[derive(Debug)]
pub(super) struct Ahead {
    parts: Receiver<Part>,
    part: Part,
    passed: Option<Entry>,
}

impl Ahead {
    /// Has the rest of a file be read. Gives the cursor back if there is no thread for it.
    fn begin(cursor: FileCursor) -> Result<Self, Box<FileCursor>> {
        let Some(permit) = THREADS.permit() else { return Err(Box::new(cursor)) };
        let (sender, parts) = sync_channel(PARTS);
        // The cursor goes over when the thread is there, so that it is not lost if there can be none.
        let (hand, taken) = sync_channel::<FileCursor>(1);
        let reading = move || {
            let _permit = permit;
            if let Ok(cursor) = taken.recv() {
                read(cursor, &sender);
            }
        };
        match thread::Builder::new().name("journal-ahead".to_owned()).spawn(reading) {
            Ok(_) => hand.send(cursor).map_err(|unsent| Box::new(unsent.0))?,
            Err(_) => return Err(Box::new(cursor)),
        }
        Ok(Self { parts, part: Part::default(), passed: None })
    }

    fn peek(&mut self) -> Option<&Position> {
        while self.part.entries.is_empty() {
            let Part { entries, drops, problem } = self.parts.recv().ok()?;
            self.part.entries = entries;
            self.part.drops.extend(drops);
            self.part.problem = self.part.problem.take().or(problem);
        }
        self.part.entries.front().map(|(found, _)| &found.position)
    }

    fn pass(&mut self) -> Option<Found> {
        let (found, entry) = self.part.entries.pop_front()?;
        self.passed = Some(entry);
        Some(found)
    }
}

/// Reads to the end of the file, or until nobody wants more.
fn read(mut cursor: FileCursor, parts: &SyncSender<Part>) {
    let (mut part, mut bytes) = (Part::default(), 0);
    loop {
        let is_end = cursor.peek(Direction::Forward).is_none();
        let problem = cursor.take_problem();
        let drops = cursor.take_drops();
        // What was met belongs before what comes next.
        if is_end || problem.is_some() || part.entries.len() == PART.0 || bytes >= PART.1 {
            if parts.send(std::mem::take(&mut part)).is_err() {
                return;
            }
            bytes = 0;
        }
        part.problem = part.problem.take().or(problem);
        part.drops.extend(drops);
        let Some(found) = cursor.pass() else { break };
        match cursor.entry(found) {
            Ok(entry) => {
                bytes += entry.message.len();
                part.entries.push_back((found, entry));
            }
            Err(damage) => cursor.note(damage),
        }
    }
    let _ = parts.send(part);
}

/// The entries of one file: read here and now, or ahead.
#[derive(Debug)]
pub(super) enum Feed {
    Here(Box<FileCursor>),
    Ahead(Ahead),
}

impl Feed {
    pub(super) fn here(cursor: FileCursor) -> Self {
        Self::Here(Box::new(cursor))
    }

    /// The cursor, as long as nothing is read ahead.
    pub(super) fn cursor(&mut self) -> Option<&mut FileCursor> {
        match self {
            Self::Here(cursor) => Some(cursor),
            Self::Ahead(_) => None,
        }
    }

    /// Has the rest be read ahead, if it is long, there will be no more of it, and there is a thread for it.
    pub(super) fn read_ahead(self) -> Self {
        match self {
            Self::Here(cursor) if !cursor.is_growing() && cursor.left() >= LONG => {
                Ahead::begin(*cursor).map_or_else(Self::Here, Self::Ahead)
            }
            feed => feed,
        }
    }

    /// Whether more may be written to the file.
    pub(super) fn is_growing(&self) -> bool {
        matches!(self, Self::Here(cursor) if cursor.is_growing())
    }

    /// Where the next entry of the run in that direction stands; without moving.
    pub(super) fn peek(&mut self, direction: Direction) -> Option<&Position> {
        match self {
            Self::Here(cursor) => cursor.peek(direction),
            Self::Ahead(ahead) => ahead.peek(),
        }
    }

    /// Moves over the entry that was looked at.
    pub(super) fn pass(&mut self) -> Option<Found> {
        match self {
            Self::Here(cursor) => cursor.pass(),
            Self::Ahead(ahead) => ahead.pass(),
        }
    }

    /// The entry that was passed; `None` if it can't be read, which [`Feed::take_problem`] then tells.
    pub(super) fn entry(&mut self, found: Found) -> Option<Entry> {
        match self {
            Self::Here(cursor) => cursor.entry(found).map_err(|damage| cursor.note(damage)).ok(),
            Self::Ahead(ahead) => ahead.passed.take(),
        }
    }

    /// What went wrong, if anything did since the last time this was asked.
    pub(super) fn take_problem(&mut self) -> Option<Problem> {
        match self {
            Self::Here(cursor) => cursor.take_problem(),
            Self::Ahead(ahead) => ahead.part.problem.take(),
        }
    }

    /// The words of dropped messages that were passed over since the last time this was asked.
    pub(super) fn take_drops(&mut self) -> Vec<(Position, u64)> {
        match self {
            Self::Here(cursor) => cursor.take_drops(),
            Self::Ahead(ahead) => std::mem::take(&mut ahead.part.drops),
        }
    }
}

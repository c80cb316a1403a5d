//! The entries of an archived log, in either direction.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;

use jiff::Timestamp;

use super::block::Summary;
use super::file::LogFile;
use super::{Error, Label};
use crate::journal::{Entry, From, Position};

/// Which entries are wanted; all of them by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only those with this priority or a graver one, from 0 to 7; those without a priority are then left out.
    pub priority: Option<u8>,
    /// Only those from then on, in microseconds.
    pub since: Option<Timestamp>,
    /// Only those before then, in microseconds.
    pub until: Option<Timestamp>,
}

impl Filter {
    fn wants(&self, entry: &Entry) -> bool {
        let realtime = entry.realtime_usec();
        self.may_want(entry.priority, realtime, realtime)
    }

    /// Whether something of a block may be wanted.
    fn wants_of(&self, block: &Summary) -> bool {
        self.may_want(block.gravest, block.earliest, block.latest)
    }

    fn may_want(&self, gravest: Option<u8>, earliest: u64, latest: u64) -> bool {
        let micros = |time: Timestamp| u64::try_from(time.as_microsecond()).unwrap_or(0);
        self.priority.is_none_or(|most| gravest.is_some_and(|gravest| gravest <= most))
            && self.since.is_none_or(|since| latest >= micros(since))
            && self.until.is_none_or(|until| earliest < micros(until))
    }
}

/// The entries of an archived log, oldest first.
///
/// Holds one block in memory. A block that is damaged gives one error in place of its entries; the iteration goes on with
/// the next block.
#[derive(Debug)]
pub struct Entries {
    file: LogFile,
    filter: Filter,
    /// The blocks that have not been read.
    blocks: Range<usize>,
    /// What is left of the block before them.
    loaded: VecDeque<Entry>,
    gap: bool,
}

impl Entries {
    pub(super) fn new(file: LogFile, from: &From) -> Self {
        let blocks = 0..file.blocks().len();
        let mut entries = Self { file, filter: Filter::default(), blocks, loaded: VecDeque::new(), gap: false };
        match from {
            From::Start => {}
            From::Last(count) => entries.back_from_end(*count),
            From::After(position) => entries.seek(position),
        }
        entries
    }

    /// What the log is of.
    #[must_use]
    pub fn label(&self) -> &Label {
        self.file.label()
    }

    /// Whether the position that was asked for is not in the log, so that entries after it may be missing.
    #[must_use]
    pub fn gap(&self) -> bool {
        self.gap
    }

    /// Only those of the entries that `filter` wants; blocks that have none of them are not read.
    #[must_use]
    pub fn matching(mut self, filter: Filter) -> Self {
        self.loaded.retain(|entry| filter.wants(entry));
        Self { filter, ..self }
    }

    /// The same entries from the newest to the oldest, read in that order.
    #[must_use]
    pub fn newest_first(mut self) -> NewestFirst {
        let oldest = mem::take(&mut self.loaded);
        NewestFirst { entries: self, oldest }
    }

    fn back_from_end(&mut self, count: usize) {
        let mut missing = count;
        self.blocks.start = self.blocks.end;
        while missing > 0
            && let Some(index) = self.blocks.start.checked_sub(1)
        {
            let entries = self.file.blocks().get(index).map_or(0, |block| block.summary.entries);
            if entries > missing {
                return self.begin_in(index, |_| entries - missing);
            }
            missing -= entries;
            self.blocks.start = index;
        }
    }

    fn seek(&mut self, position: &Position) {
        self.gap = true;
        let behind = self.file.blocks().partition_point(|block| block.summary.first.order(position).is_le());
        let Some(index) = behind.checked_sub(1) else { return };
        let mut there = false;
        self.begin_in(index, |entries| {
            let behind = entries.partition_point(|entry| entry.position.order(position).is_le());
            let last = behind.checked_sub(1).and_then(|last| entries.get(last));
            there = last.is_some_and(|entry| entry.position == *position);
            behind
        });
        self.gap = !there;
    }

    /// Begins within a block, after so many of its entries as `skip` says.
    fn begin_in(&mut self, index: usize, skip: impl FnOnce(&VecDeque<Entry>) -> usize) {
        self.blocks.start = index;
        // One that can't be read stays ahead, so that its error comes in its place.
        if let Ok(entries) = self.load(index) {
            let skip = skip(&entries);
            self.loaded = entries.into_iter().skip(skip).collect();
            self.blocks.start += 1;
        }
    }

    /// The wanted entries of a block.
    fn load(&self, index: usize) -> Result<VecDeque<Entry>, Error> {
        let block = self.file.blocks().get(index).filter(|block| self.filter.wants_of(&block.summary));
        let Some(block) = block else { return Ok(VecDeque::new()) };
        let mut entries = self.file.read(block)?;
        entries.retain(|entry| self.filter.wants(entry));
        Ok(entries)
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.loaded.pop_front() {
                return Some(Ok(entry));
            }
            let next = self.blocks.next()?;
            match self.load(next) {
                Ok(entries) => self.loaded = entries,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// What [`Entries`] has, newest first.
#[derive(Debug)]
pub struct NewestFirst {
    entries: Entries,
    /// What had been read of the block before those that had not.
    oldest: VecDeque<Entry>,
}

impl Iterator for NewestFirst {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.loaded.pop_back() {
                return Some(Ok(entry));
            }
            let Some(next) = self.entries.blocks.next_back() else { return self.oldest.pop_back().map(Ok) };
            match self.entries.load(next) {
                Ok(entries) => self.entries.loaded = entries,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

//! The entries of an archived log, in either direction.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;

use super::block::Summary;
use super::file::LogFile;
use super::{Error, Label};
use crate::journal::{Entry, Filter, From, Gap, Gaps, Position};

/// The entries of an archived log, oldest first, as the journal gave them when it was archived.
///
/// Holds one block in memory. A block that is damaged gives one error in place of its entries; the iteration goes on with
/// the next block.
#[derive(Debug)]
pub struct Entries {
    file: LogFile,
    filter: Filter,
    /// The blocks that have not been read.
    blocks: Range<usize>,
    /// What is left of the block before them, also what is not wanted.
    loaded: VecDeque<Entry>,
    gaps: Gaps,
}

impl Entries {
    pub(super) fn new(file: LogFile, from: &From, filter: Filter) -> Self {
        let blocks = 0..file.blocks().len();
        let gaps = Gaps::of(file.losses().clone().within(&filter));
        let mut entries = Self { file, filter, blocks, loaded: VecDeque::new(), gaps };
        match from {
            From::Start => entries.gaps.meet_all(),
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

    /// What is missing, each kind once, as [`journal::Entries::gaps`](crate::journal::Entries::gaps) told it when the log
    /// was archived. What is damaged in the archive itself is unreadable too.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        self.gaps.met()
    }

    /// The same entries from the newest to the oldest, read in that order.
    #[must_use]
    pub fn newest_first(mut self) -> NewestFirst {
        let oldest = mem::take(&mut self.loaded);
        NewestFirst { entries: self, oldest }
    }

    fn back_from_end(&mut self, count: usize) {
        self.gaps.meet_end();
        let mut missing = count;
        self.blocks.start = self.blocks.end;
        while missing > 0 {
            let Some(index) = self.blocks.start.checked_sub(1) else { return self.gaps.meet_start() };
            self.blocks.start = index;
            let Some(block) = self.file.blocks().get(index) else { return };
            if self.filter == Filter::default() && !block.summary.has_drops && block.summary.entries <= missing {
                missing -= block.summary.entries;
                continue;
            }
            // One that can't be read stays ahead, so that its error comes in its place.
            let Some(mut entries) = self.load(index).unwrap_or(None) else { continue };
            let mut start = entries.len();
            while missing > 0
                && let Some(before) = start.checked_sub(1)
            {
                start = before;
                missing -= usize::from(entries.get(start).is_some_and(|entry| self.pass(entry)));
            }
            if start > 0 {
                entries.drain(..start);
                self.loaded = entries;
                self.blocks.start += 1;
            }
        }
    }

    fn seek(&mut self, position: &Position) {
        let behind = self.file.blocks().partition_point(|block| block.summary.first.order(position).is_le());
        let Some(index) = behind.checked_sub(1) else { return self.gaps.lose_place() };
        self.blocks.start = index;
        // Whether it is wanted or not: it is the place that matters.
        let Some(Ok(mut entries)) = self.file.blocks().get(index).map(|block| self.file.read(block)) else {
            // It stays ahead, so that its error comes in its place.
            self.gaps.meet_damage();
            return self.gaps.lose_place();
        };
        let behind = entries.partition_point(|entry| entry.position.order(position).is_le());
        let last = behind.checked_sub(1).and_then(|last| entries.get(last));
        if last.is_none_or(|entry| entry.position != *position) {
            self.gaps.lose_place();
        }
        entries.drain(..behind);
        self.loaded = entries;
        self.blocks.start += 1;
    }

    /// The entries of a block; `None` if nothing of it matters.
    fn load(&mut self, index: usize) -> Result<Option<VecDeque<Entry>>, Error> {
        let Some(block) = self.file.blocks().get(index).filter(|block| matters(&self.filter, &block.summary)) else {
            return Ok(None);
        };
        self.file.read(block).map(Some).inspect_err(|_| self.gaps.meet_damage())
    }

    /// Moves over an entry; whether it is wanted.
    fn pass(&mut self, entry: &Entry) -> bool {
        if !self.filter.has_time(&entry.position) {
            return false;
        }
        if let Some(count) = entry.suppressed {
            self.gaps.meet_drop(&entry.position, count);
        }
        self.filter.has_priority(entry.priority)
    }
}

/// Whether a filter wants something of a block, or has to hear of messages that were dropped.
fn matters(filter: &Filter, block: &Summary) -> bool {
    filter.since_usec.is_none_or(|since| block.latest >= since)
        && filter.until_usec.is_none_or(|until| block.earliest <= until)
        && (block.has_drops || filter.has_priority(block.gravest))
}

impl Iterator for Entries {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some(entry) = self.loaded.pop_front() {
                if self.pass(&entry) {
                    return Some(Ok(entry));
                }
            }
            let Some(next) = self.blocks.next() else {
                self.gaps.meet_end();
                return None;
            };
            match self.load(next) {
                Ok(entries) => self.loaded = entries.unwrap_or_default(),
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

impl NewestFirst {
    /// As [`Entries::gaps`].
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        self.entries.gaps()
    }
}

impl Iterator for NewestFirst {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some(entry) = self.entries.loaded.pop_back() {
                if self.entries.pass(&entry) {
                    return Some(Ok(entry));
                }
            }
            match self.entries.blocks.next_back().map(|next| self.entries.load(next)) {
                Some(Ok(entries)) => self.entries.loaded = entries.unwrap_or_default(),
                Some(Err(error)) => return Some(Err(error)),
                None if self.oldest.is_empty() => {
                    self.entries.gaps.meet_end();
                    return None;
                }
                None => mem::swap(&mut self.entries.loaded, &mut self.oldest),
            }
        }
    }
}

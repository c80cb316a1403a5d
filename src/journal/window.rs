//! A stretch of a file held in memory, for what does not change once it is written.

use super::chain::Direction;
use super::damage::Damage;
use super::file::{JournalFile, cut_short};

/// Bytes of a window: small where entries lie far apart, large where they follow one another.
const SMALLEST: usize = 4 << 10;
const LARGEST: usize = 256 << 10;
/// The fields of an entry lie right before it; so much of the file before an entry is loaded with it, or half of what a
/// window has room for besides.
const BEFORE: usize = 16 << 10;
/// Going backwards, the items of an entry follow its head, which is what was asked for.
const AFTER: usize = 8 << 10;

/// The stretch that was loaded last.
#[derive(Debug)]
pub(super) struct Window {
    start: u64,
    bytes: Vec<u8>,
    filled: usize,
    size: usize,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { start: 0, bytes: Vec::new(), filled: 0, size: SMALLEST }
    }

    /// Lets go of what is loaded: the file was written to where nothing had been.
    pub(super) fn forget(&mut self) {
        self.filled = 0;
    }

    /// `len` bytes at `offset` if they are loaded.
    pub(super) fn loaded(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(..self.filled)?.get(at..at.checked_add(len)?)
    }

    /// `len` bytes at `offset`; what lies around them is loaded too.
    pub(super) fn get(
        &mut self,
        file: &JournalFile,
        offset: u64,
        len: usize,
        direction: Direction,
    ) -> Result<&[u8], Damage> {
        if self.loaded(offset, len).is_none() {
            self.load(file, offset, len, direction)?;
        }
        self.loaded(offset, len).ok_or_else(|| cut_short(offset))
    }

    fn load(&mut self, file: &JournalFile, offset: u64, len: usize, direction: Direction) -> Result<(), Damage> {
        let near = (self.filled + self.size) as u64;
        self.size = if offset.abs_diff(self.start) <= near { (2 * self.size).min(LARGEST) } else { SMALLEST };
        // What is asked for is at most an entry, whose size is bounded.
        let size = self.size.max(len + 2 * SMALLEST);
        let half = (size - len) / 2;
        self.start = match direction {
            Direction::Forward => offset.saturating_sub(BEFORE.min(half) as u64),
            Direction::Backward => offset.saturating_add((len + AFTER.min(half)) as u64).saturating_sub(size as u64),
        };
        if self.bytes.len() < size {
            self.bytes.resize(size, 0);
        }
        self.filled = 0;
        self.filled = match self.bytes.get_mut(..size) {
            Some(bytes) => file.read_at(self.start, bytes)?,
            None => 0,
        };
        Ok(())
    }
}

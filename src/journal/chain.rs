//! The entries that share one field value: a list of entry offsets, ascending, spread over a chain of arrays.
//!
//! The arrays grow from one to the next, so a chain of a million entries has about twenty. Their places are read once;
//! after that any entry of the list is one read away, which gives bisection and reading backwards.

use std::sync::Arc;

use super::damage::Damage;
use super::file::{JournalFile, cut_short};
use super::layout::{ARRAY_HEAD, ArrayHead, DataHead};

/// Slots loaded at once, growing as a chain is read on in one direction.
const LOAD_FIRST: u64 = 64;
const LOAD_MOST: u64 = 8192;

/// Which way a list is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    /// First slot, in bytes of the file.
    slots_at: u64,
    /// Index of that slot in the whole list.
    start: u64,
    len: u64,
}

/// The list of entries of one field value, as long as it was when it was loaded.
#[derive(Debug, Clone, Default)]
pub(super) struct Chain {
    /// The first entry lies in the DATA object itself.
    first: u64,
    parts: Arc<[Part]>,
    len: u64,
}

impl Chain {
    /// Reads where the arrays of `data` lie.
    pub(super) fn load(file: &JournalFile, data: &DataHead) -> Result<Self, Damage> {
        if data.entries == 0 || data.first_entry == 0 {
            return Ok(Self::default());
        }
        let mut parts = Vec::new();
        let mut count = 1;
        let mut offset = data.array;
        while offset != 0 && count < data.entries {
            file.check_offset(offset)?;
            let array = ArrayHead::parse(&file.bytes(offset, ARRAY_HEAD)?, offset, file.layout())?;
            let slots_at = offset + ARRAY_HEAD as u64;
            let len = array.slots.min(data.entries - count);
            parts.push(Part { slots_at, start: count, len });
            count += len;
            // Arrays are appended to the file one after the other, so a step back is a loop; and as they don't
            // overlap, all of them together are no longer than the file.
            let end = array.slots.checked_mul(file.layout().slot() as u64).and_then(|size| slots_at.checked_add(size));
            if end.is_none_or(|end| array.next != 0 && array.next < end) {
                return Err(Damage::Corrupt { at: offset, what: "an entry array runs in a circle" });
            }
            offset = array.next;
        }
        let mut chain = Self { first: data.first_entry, parts: parts.into(), len: count };
        chain.drop_unwritten(file)?;
        Ok(chain)
    }

    /// A count may be ahead of the slots it counts after a crash: slots of 0 at the end are not there yet.
    fn drop_unwritten(&mut self, file: &JournalFile) -> Result<(), Damage> {
        if self.at(file, self.len - 1)? == 0 {
            self.len = self.partition_point(|chain, index| Ok(chain.at(file, index)? != 0))?;
        }
        Ok(())
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part that holds `index`; `None` for the first entry.
    fn part(&self, index: u64) -> Option<Part> {
        let next = self.parts.partition_point(|part| part.start <= index);
        next.checked_sub(1).and_then(|part| self.parts.get(part)).copied()
    }

    /// The offset of the entry with that index.
    pub(super) fn at(&self, file: &JournalFile, index: u64) -> Result<u64, Damage> {
        let Some(part) = self.part(index) else { return Ok(self.first) };
        let slot = file.layout().slot();
        let at = part.slots_at + (index - part.start) * slot as u64;
        let mut bytes = [0; 8];
        let filled = match bytes.get_mut(..slot) {
            Some(bytes) => file.read_at(at, bytes)?,
            None => 0,
        };
        if filled < slot { Err(cut_short(at)) } else { Ok(file.layout().offset(&bytes)) }
    }

    /// The first index for which `before` is false, if it is true for those below and false from there on.
    pub(super) fn partition_point(
        &self,
        mut before: impl FnMut(&Self, u64) -> Result<bool, Damage>,
    ) -> Result<u64, Damage> {
        // Most often it is one of the ends, and each look is a call of the system.
        if self.is_empty() || !before(self, 0)? {
            return Ok(0);
        }
        if before(self, self.len - 1)? {
            return Ok(self.len);
        }
        let (mut low, mut high) = (1, self.len - 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self, middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// A reader of a [`Chain`] that loads slots in blocks.
#[derive(Debug, Default)]
pub(super) struct Slots {
    chain: Chain,
    start: u64,
    loaded: Vec<u64>,
    load: u64,
}

impl Slots {
    pub(super) fn new(chain: Chain) -> Self {
        Self { chain, start: 0, loaded: Vec::new(), load: LOAD_FIRST }
    }

    /// Goes on with the same list, which has grown.
    pub(super) fn grow(&mut self, chain: Chain) {
        self.chain = chain;
    }

    /// The offset of the entry with that index.
    pub(super) fn get(&mut self, file: &JournalFile, index: u64, direction: Direction) -> Result<u64, Damage> {
        let place = |start: u64| usize::try_from(index.wrapping_sub(start)).unwrap_or(usize::MAX);
        if let Some(offset) = self.loaded.get(place(self.start)) {
            return Ok(*offset);
        }
        self.fill(file, index, direction)?;
        self.loaded.get(place(self.start)).copied().ok_or_else(|| cut_short(index))
    }

    fn fill(&mut self, file: &JournalFile, index: u64, direction: Direction) -> Result<(), Damage> {
        let Some(part) = self.chain.part(index) else {
            self.start = 0;
            self.loaded = vec![self.chain.first];
            return Ok(());
        };
        let end = part.start + part.len;
        let (from, to) = match direction {
            Direction::Forward => (index, end.min(index + self.load)),
            Direction::Backward => (part.start.max((index + 1).saturating_sub(self.load)), end.min(index + 1)),
        };
        self.load = (2 * self.load).min(LOAD_MOST);
        let slot = file.layout().slot();
        let wanted = usize::try_from(to.saturating_sub(from)).unwrap_or_default() * slot;
        let bytes = file.bytes(part.slots_at + (from - part.start) * slot as u64, wanted)?;
        self.start = from;
        self.loaded.clear();
        self.loaded.extend(bytes.chunks_exact(slot).map(|slot| file.layout().offset(slot)));
        Ok(())
    }
}

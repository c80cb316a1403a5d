//! A block: entries that are compressed together and read together.
//!
//! First come the length of all heads, the heads, and then all messages: what is alike lies together, which compresses
//! better.

use std::collections::VecDeque;

use super::codec::{Input, ids_bit, put_number, put_position};
use crate::journal::{Entry, Position, Source, message_hash};

/// A block is full with so many bytes. Larger ones compress hardly better, and the last lines need a whole one.
/// Less under test, where logs are short.
const BYTES: usize = if cfg!(test) { 2 << 10 } else { 256 << 10 };
/// A block is also full with so many entries, which bounds the memory of lines that say nothing.
const ENTRIES: usize = if cfg!(test) { 40 } else { 8 << 10 };

/// zstd's first level makes logs as small as the third, its default, in half the time.
const LEVEL: i32 = 1;
/// zstd makes at least 4 bytes of each 128 KiB, so a block can't claim to hold more.
const ZSTD_UNIT: u64 = 128 << 10;
const ZSTD_UNIT_LEAST: u64 = 4;
/// The bits, three steps and the length.
const ENTRY_HEAD_LEAST: u64 = 5;

const PRIORITY: u8 = 0b1111;
const NO_PRIORITY: u8 = 0b1111;
const PRIORITY_MOST: u8 = 7;
const SOURCE_SHIFT: u32 = 4;
const SOURCE: u8 = 0b11;
const HAS_HASH: u8 = 1 << 7;

/// What the index says of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    /// Bytes in the file.
    pub(super) stored: u64,
    /// Bytes after decompression; as many as are stored if it is not compressed.
    pub(super) unfolded: u64,
    /// The CRC-32 of the stored bytes.
    pub(super) checksum: u32,
    pub(super) entries: usize,
    /// Of the first entry.
    pub(super) first: Position,
    /// The gravest priority; `None` if no entry has one.
    pub(super) gravest: Option<u8>,
    /// Whether journald tells in it of messages that it dropped.
    pub(super) has_drops: bool,
    /// The earliest and the latest time: microseconds since 1970.
    pub(super) earliest: u64,
    pub(super) latest: u64,
}

/// The low bits of a head.
pub(super) fn priority_bits(priority: Option<u8>) -> u8 {
    priority.filter(|priority| *priority <= PRIORITY_MOST).unwrap_or(NO_PRIORITY)
}

/// The reverse of [`priority_bits`].
pub(super) fn priority(head: u8) -> Option<u8> {
    let priority = head & PRIORITY;
    (priority <= PRIORITY_MOST).then_some(priority)
}

impl Summary {
    /// Whether a block can be so; a damaged number must not reserve memory.
    pub(super) fn is_possible(&self) -> bool {
        let claims = self.unfolded.div_ceil(ZSTD_UNIT).saturating_mul(ZSTD_UNIT_LEAST);
        self.entries > 0
            && self.entries as u64 <= self.unfolded / ENTRY_HEAD_LEAST
            && self.stored <= self.unfolded
            && (claims <= self.stored || self.stored == self.unfolded)
    }

    fn note(&mut self, entry: &Entry) {
        let realtime = entry.realtime_usec();
        self.entries += 1;
        self.gravest = self.gravest.into_iter().chain(entry.priority).min();
        self.has_drops |= entry.suppressed.is_some();
        self.earliest = self.earliest.min(realtime);
        self.latest = self.latest.max(realtime);
    }
}

/// What an entry is written against.
struct Before {
    position: Position,
    /// What the other fields than the message are to its hash. Lines of one stream share it.
    others: u64,
}

impl Before {
    fn first_of_block(first: &Position) -> Self {
        Self { position: *first, others: 0 }
    }
}

/// A block that is being filled.
pub(super) struct Builder {
    compressor: zstd::bulk::Compressor<'static>,
    heads: Vec<u8>,
    messages: Vec<u8>,
    unfolded: Vec<u8>,
    packed: Vec<u8>,
    filling: Option<(Summary, Before)>,
}

impl Builder {
    pub(super) fn new() -> std::io::Result<Self> {
        let compressor = zstd::bulk::Compressor::new(LEVEL)?;
        let [heads, messages, unfolded, packed] = [const { Vec::new() }; 4];
        Ok(Self { compressor, heads, messages, unfolded, packed, filling: None })
    }

    pub(super) fn is_full(&self) -> bool {
        let entries = self.filling.as_ref().map_or(0, |(summary, _)| summary.entries);
        self.heads.len() + self.messages.len() >= BYTES || entries >= ENTRIES
    }

    pub(super) fn push(&mut self, entry: &Entry) {
        let position = entry.position;
        let (summary, before) = self.filling.get_or_insert_with(|| {
            let (earliest, latest) = (u64::MAX, 0);
            let summary = Summary {
                stored: 0,
                unfolded: 0,
                checksum: 0,
                entries: 0,
                first: position,
                gravest: None,
                has_drops: false,
                earliest,
                latest,
            };
            (summary, Before::first_of_block(&position))
        });
        let others = position.xor_hash ^ message_hash(&entry.message);
        let has_hash = if others == before.others { 0 } else { HAS_HASH };
        let source = match entry.source {
            Source::Job => 0,
            Source::Systemd => 1,
            Source::Other if entry.suppressed.is_none() => 2,
            Source::Other => 3,
        };
        let ids = ids_bit(&before.position, &position);
        self.heads.push(priority_bits(entry.priority) | source << SOURCE_SHIFT | ids | has_hash);
        put_position(&mut self.heads, &before.position, &position);
        if has_hash != 0 {
            self.heads.extend(others.to_le_bytes());
        }
        put_number(&mut self.heads, entry.message.len() as u64);
        if let (Source::Other, Some(number)) = (entry.source, entry.suppressed) {
            put_number(&mut self.heads, number);
        }
        self.messages.extend(&entry.message);
        summary.note(entry);
        *before = Before { position, others };
    }

    /// The block as it goes into the file; `None` if nothing was pushed since the last.
    pub(super) fn take(&mut self) -> std::io::Result<Option<(Summary, &[u8])>> {
        let Some((mut summary, _)) = self.filling.take() else { return Ok(None) };
        self.unfolded.clear();
        put_number(&mut self.unfolded, self.heads.len() as u64);
        self.unfolded.append(&mut self.heads);
        self.unfolded.append(&mut self.messages);
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(self.unfolded.len()));
        self.compressor.compress_to_buffer(&self.unfolded, &mut self.packed)?;
        let stored = if self.packed.len() < self.unfolded.len() { &self.packed } else { &self.unfolded };
        summary.unfolded = self.unfolded.len() as u64;
        summary.stored = stored.len() as u64;
        summary.checksum = crc32fast::hash(stored);
        Ok(Some((summary, stored)))
    }
}

/// The entries of a block from its bytes in the file.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn decode(summary: &Summary, stored: &[u8]) -> Result<VecDeque<Entry>, &'static str> {
    if crc32fast::hash(stored) != summary.checksum {
        return Err("the checksum of a block is wrong");
    }
    if summary.stored == summary.unfolded {
        return parse(summary, stored).ok_or("a block contradicts itself");
    }
    let size = usize::try_from(summary.unfolded).map_err(|_| "a block is too large")?;
    let unfolded = zstd::bulk::decompress(stored, size).map_err(|_| "a block can't be decompressed")?;
    parse(summary, &unfolded).ok_or("a block contradicts itself")
}

fn parse(summary: &Summary, unfolded: &[u8]) -> Option<VecDeque<Entry>> {
    let mut messages = Input::new(unfolded);
    let len = messages.number()?;
    let mut heads = Input::new(messages.slice(len)?);
    let mut before = Before::first_of_block(&summary.first);
    let mut entries = VecDeque::with_capacity(summary.entries);
    for _ in 0..summary.entries {
        let head = heads.byte()?;
        let source = match head >> SOURCE_SHIFT & SOURCE {
            0 => Source::Job,
            1 => Source::Systemd,
            _ => Source::Other,
        };
        let tells_of_suppressed = head >> SOURCE_SHIFT & SOURCE == 3;
        let mut position = heads.position(head, &before.position)?;
        let others = if head & HAS_HASH == 0 { before.others } else { u64::from_le_bytes(heads.array()?) };
        let len = heads.number()?;
        let suppressed = if tells_of_suppressed { Some(heads.number()?) } else { None };
        let message = messages.slice(len)?.to_vec();
        position.xor_hash = others ^ message_hash(&message);
        entries.push_back(Entry { position, priority: priority(head), source, suppressed, message });
        before = Before { position, others };
    }
    (heads.rest().is_empty() && messages.rest().is_empty()).then_some(entries)
}

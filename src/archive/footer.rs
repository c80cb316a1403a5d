//! The end of a file: what the log is of, and where its blocks lie.

use jiff::Timestamp;

use super::Label;
use super::block::{Summary, priority, priority_bits};
use super::codec::{Input, ids_bit, put_number, put_position, put_step};
use crate::invocation::InvocationId;
use crate::journal::{Losses, Position};
use crate::policy::JobName;

/// What a file starts and ends with; the last byte is the version of the format.
pub(super) const HEAD: [u8; 8] = *b"ci-log\n\x01";
/// Bytes of the trailer: the footer's length, its checksum, and [`HEAD`].
pub(super) const TRAILER: usize = 4 + 4 + HEAD.len();

const IS_SETTLED: u8 = 1;
const HAS_START: u8 = 1 << 1;
const IS_UNREADABLE: u8 = 1 << 2;
const BEGINNING_IS_GONE: u8 = 1 << 3;
const HAS_DROP: u8 = 1 << 4;
const HAS_DROPS_OF_OTHERS: u8 = 1 << 5;
const DROPPED_AT_END: u8 = 1 << 6;
const FLAGS: u8 = (1 << 7) - 1;

/// The bit of a block's head that says that journald tells in it of dropped messages.
const BLOCK_HAS_DROPS: u8 = 1 << 7;

/// Before the first block nothing is known of positions.
const NOWHERE: Position =
    Position { seqnum_id: [0; 16], seqnum: 0, boot_id: [0; 16], monotonic: 0, realtime: 0, xor_hash: 0 };

/// Why a file is not one to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotReadable {
    /// Another version of the format.
    Version(u8),
    /// What is wrong.
    Because(&'static str),
}

/// Checks what a file starts with.
pub(super) fn check_head(bytes: &[u8]) -> Result<(), NotReadable> {
    match bytes.first_chunk() {
        Some(&HEAD) => Ok(()),
        Some([magic @ .., version]) if HEAD.starts_with(magic) => Err(NotReadable::Version(*version)),
        _ => Err(NotReadable::Because("it does not start as an archived log does")),
    }
}

/// What the last bytes of a file say of its footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    /// Bytes of the footer, which ends where the trailer starts.
    pub(super) footer: usize,
    checksum: u32,
}

impl Trailer {
    /// The trailer at the end of `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, NotReadable> {
        let cut = NotReadable::Because("it does not end as an archived log does");
        let (_, trailer) = bytes.split_last_chunk::<TRAILER>().ok_or(cut)?;
        let mut input = Input::new(trailer);
        let (footer, checksum) = input.array().zip(input.array()).ok_or(cut)?;
        check_head(input.rest()).map_err(|not| if let NotReadable::Because(_) = not { cut } else { not })?;
        let footer = usize::try_from(u32::from_le_bytes(footer)).map_err(|_| cut)?;
        Ok(Self { footer, checksum: u32::from_le_bytes(checksum) })
    }
}

/// The footer while the blocks are written; keeps of each block what will stand in the file.
pub(super) struct Builder {
    blocks: Vec<u8>,
    count: u64,
    first_before: Position,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { blocks: Vec::new(), count: 0, first_before: NOWHERE }
    }

    pub(super) fn push(&mut self, block: &Summary) {
        let out = &mut self.blocks;
        let drops = if block.has_drops { BLOCK_HAS_DROPS } else { 0 };
        out.push(priority_bits(block.gravest) | ids_bit(&self.first_before, &block.first) | drops);
        put_position(out, &self.first_before, &block.first);
        out.extend(block.first.xor_hash.to_le_bytes());
        put_step(out, block.first.realtime, block.earliest);
        put_step(out, block.first.realtime, block.latest);
        put_number(out, block.entries as u64);
        put_number(out, block.stored);
        put_number(out, block.unfolded);
        out.extend(block.checksum.to_le_bytes());
        self.first_before = block.first;
        self.count += 1;
    }

    /// The footer and the trailer; `None` if they would be too large for their own length.
    pub(super) fn finish(&self, label: &Label, losses: &Losses) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        out.extend(label.invocation.as_bytes());
        put_number(&mut out, label.job.as_str().len() as u64);
        out.extend(label.job.as_str().bytes());
        let flags = [
            (IS_SETTLED, label.settled),
            (HAS_START, label.started.is_some()),
            (IS_UNREADABLE, losses.is_unreadable),
            (BEGINNING_IS_GONE, losses.gone_before.is_some()),
            (HAS_DROP, losses.first_drop.is_some()),
            (HAS_DROPS_OF_OTHERS, losses.drops_since.is_some()),
            (DROPPED_AT_END, losses.dropped_at_end.is_some()),
        ];
        out.push(flags.into_iter().filter(|(_, is_set)| *is_set).fold(0, |flags, (flag, _)| flags | flag));
        let micros = |time: Timestamp| time.as_microsecond().cast_unsigned();
        put_step(&mut out, 0, micros(label.ended));
        if let Some(started) = label.started {
            put_step(&mut out, micros(label.ended), micros(started));
        }
        if let Some(usec) = losses.gone_before {
            put_step(&mut out, micros(label.ended), usec);
        }
        if let Some((position, count)) = &losses.first_drop {
            out.extend(position.to_bytes());
            put_number(&mut out, *count);
        }
        if let Some(position) = &losses.drops_since {
            out.extend(position.to_bytes());
        }
        if let Some((count, usec)) = losses.dropped_at_end {
            put_number(&mut out, count);
            put_step(&mut out, micros(label.ended), usec);
        }
        put_number(&mut out, self.count);
        out.extend(&self.blocks);
        let len = u32::try_from(out.len()).ok()?;
        let checksum = crc32fast::hash(&out);
        out.extend(len.to_le_bytes());
        out.extend(checksum.to_le_bytes());
        out.extend(HEAD);
        Some(out)
    }
}

/// A block and where it lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) at: u64,
    pub(super) summary: Summary,
}

/// What a footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) label: Label,
    pub(super) losses: Losses,
    pub(super) blocks: Vec<Block>,
}

impl Footer {
    /// Parses the footer of a file whose blocks end at `blocks_end`.
    pub(super) fn parse(bytes: &[u8], trailer: Trailer, blocks_end: u64) -> Result<Self, NotReadable> {
        if crc32fast::hash(bytes) != trailer.checksum {
            return Err(NotReadable::Because("the checksum of its footer is wrong"));
        }
        let contradiction = NotReadable::Because("its footer contradicts itself");
        let footer = Self::parse_checked(bytes).ok_or(contradiction)?;
        let end = footer.blocks.last().map_or(HEAD.len() as u64, |last| last.at.saturating_add(last.summary.stored));
        if end != blocks_end {
            return Err(NotReadable::Because("its length is not what its footer says"));
        }
        Ok(footer)
    }

    fn parse_checked(bytes: &[u8]) -> Option<Self> {
        let mut input = Input::new(bytes);
        let (label, losses) = label(&mut input)?;
        let count = input.number()?;
        let mut blocks: Vec<Block> = Vec::new();
        let (mut at, mut first_before) = (HEAD.len() as u64, NOWHERE);
        for _ in 0..count {
            let summary = summary(&mut input, &first_before).filter(Summary::is_possible)?;
            first_before = summary.first;
            let stored = summary.stored;
            blocks.push(Block { at, summary });
            at = at.checked_add(stored)?;
        }
        input.rest().is_empty().then_some(Self { label, losses, blocks })
    }

    pub(super) fn entries(&self) -> u64 {
        self.blocks.iter().fold(0, |sum, block| sum.saturating_add(block.summary.entries as u64))
    }
}

fn label(input: &mut Input<'_>) -> Option<(Label, Losses)> {
    let invocation = InvocationId::from_bytes(&input.array::<16>()?)?;
    let len = input.number()?;
    let name = std::str::from_utf8(input.slice(len)?).ok()?;
    // Not `parse`: the instance may hold escapes.
    let job = JobName::from_unit(&format!("{name}.service")).ok()?;
    let flags = input.byte()?;
    if flags & !FLAGS != 0 {
        return None;
    }
    let ended = input.step(0)?;
    let has = |flag: u8| flags & flag != 0;
    let mut started = None;
    if has(HAS_START) {
        started = Some(time(input.step(ended)?)?);
    }
    let label = Label { job, invocation, started, ended: time(ended)?, settled: has(IS_SETTLED) };
    let mut losses = Losses { is_unreadable: has(IS_UNREADABLE), ..Losses::default() };
    if has(BEGINNING_IS_GONE) {
        losses.gone_before = Some(input.step(ended)?);
    }
    if has(HAS_DROP) {
        losses.first_drop = Some((Position::from_bytes(&input.array()?), input.number()?));
    }
    if has(HAS_DROPS_OF_OTHERS) {
        losses.drops_since = Some(Position::from_bytes(&input.array()?));
    }
    if has(DROPPED_AT_END) {
        losses.dropped_at_end = Some((input.number()?, input.step(ended)?));
    }
    Some((label, losses))
}

fn time(micros: u64) -> Option<Timestamp> {
    Timestamp::from_microsecond(micros.cast_signed()).ok()
}

fn summary(input: &mut Input<'_>, first_before: &Position) -> Option<Summary> {
    let head = input.byte()?;
    let gravest = priority(head);
    let mut first = input.position(head, first_before)?;
    first.xor_hash = u64::from_le_bytes(input.array()?);
    let earliest = input.step(first.realtime)?;
    let latest = input.step(first.realtime)?;
    let entries = usize::try_from(input.number()?).ok()?;
    let stored = input.number()?;
    let unfolded = input.number()?;
    let checksum = u32::from_le_bytes(input.array()?);
    let has_drops = head & BLOCK_HAS_DROPS != 0;
    Some(Summary { stored, unfolded, checksum, entries, first, gravest, has_drops, earliest, latest })
}

//! The bytes of a journal file: its header and its objects, as pure functions over slices.
//!
//! Source: the Journal File Format document of systemd (`JOURNAL_FILE_FORMAT`) and its `journal-def.h`. Only what a
//! reader of entries needs is here; sealing (TAG objects) and the list of field names are not.

use super::damage::Damage;
use super::position::Position;

/// The smallest header there ever was; every field that is read lies within it.
pub(super) const HEADER_MIN: usize = 208;
/// Where in the header the number of entries stands.
pub(super) const ENTRIES_AT: u64 = 152;
/// Bytes of an entry before its items.
pub(super) const ENTRY_HEAD: usize = 64;
/// Bytes of an entry array before its slots.
pub(super) const ARRAY_HEAD: usize = 24;
/// Bytes of a DATA object before its payload, in the regular layout; the compact one has 8 more.
pub(super) const DATA_HEAD: usize = 64;

const SIGNATURE: &[u8; 8] = b"LPKSHHRH";

const INCOMPATIBLE_KEYED_HASH: u32 = 1 << 2;
const INCOMPATIBLE_COMPACT: u32 = 1 << 4;
/// xz, lz4, keyed hash, zstd, compact.
const INCOMPATIBLE_KNOWN: u32 = 0b1_1111;

const STATE_ONLINE: u8 = 1;
const STATE_ARCHIVED: u8 = 2;

const TYPE_DATA: u8 = 1;
const TYPE_ENTRY: u8 = 3;
const TYPE_ENTRY_ARRAY: u8 = 6;

/// The little-endian number at `at`; 0 beyond the end, so callers check lengths first.
pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// As [`le64`], of four bytes.
pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn id(bytes: &[u8], at: usize) -> [u8; 16] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
}

/// How a file lays out its objects; fixed for the life of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) compact: bool,
}

impl Layout {
    /// Where the payload of a DATA object starts.
    pub(super) fn data_head(self) -> usize {
        if self.compact { DATA_HEAD + 8 } else { DATA_HEAD }
    }

    /// Bytes of one item of an entry.
    pub(super) fn item(self) -> usize {
        if self.compact { 4 } else { 16 }
    }

    /// Bytes of one slot of an entry array.
    pub(super) fn slot(self) -> usize {
        if self.compact { 4 } else { 8 }
    }

    /// The offset that an item or a slot starts with.
    pub(super) fn offset(self, bytes: &[u8]) -> u64 {
        if self.compact { u64::from(le32(bytes, 0)) } else { le64(bytes, 0) }
    }
}

/// What is read from a file's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) layout: Layout,
    pub(super) keyed_hash: bool,
    /// Nothing will be written to the file any more.
    pub(super) archived: bool,
    /// It was closed, so the header knows of all entries.
    pub(super) closed: bool,
    pub(super) file_id: [u8; 16],
    pub(super) seqnum_id: [u8; 16],
    /// Where objects begin.
    pub(super) size: u64,
    /// First bucket of the hash table of DATA objects.
    pub(super) buckets_at: u64,
    pub(super) buckets: u64,
    pub(super) entries: u64,
    /// Where the first and the last entry stand, but for what the header does not say: boot, monotonic time and hash are 0.
    pub(super) first: Position,
    pub(super) last: Position,
}

impl Header {
    /// Parses the first [`HEADER_MIN`] bytes of a file.
    ///
    /// # Errors
    /// [`Damage`] if this is no journal file, or one of a kind that is not known.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        if bytes.is_empty() {
            return Err(Damage::Empty);
        }
        if bytes.len() < HEADER_MIN || !bytes.starts_with(SIGNATURE) {
            return Err(Damage::NotAJournal);
        }
        let flags = le32(bytes, 12);
        if flags & !INCOMPATIBLE_KNOWN != 0 {
            return Err(Damage::Unsupported(flags & !INCOMPATIBLE_KNOWN));
        }
        let seqnum_id = id(bytes, 72);
        let position = |seqnum: usize, realtime: usize| Position {
            seqnum_id,
            seqnum: le64(bytes, seqnum),
            boot_id: [0; 16],
            monotonic: 0,
            realtime: le64(bytes, realtime),
            xor_hash: 0,
        };
        let header = Self {
            layout: Layout { compact: flags & INCOMPATIBLE_COMPACT != 0 },
            keyed_hash: flags & INCOMPATIBLE_KEYED_HASH != 0,
            archived: bytes.get(16) == Some(&STATE_ARCHIVED),
            closed: bytes.get(16) != Some(&STATE_ONLINE),
            file_id: id(bytes, 24),
            seqnum_id,
            size: le64(bytes, 88),
            buckets_at: le64(bytes, 104),
            buckets: le64(bytes, 112) / 16,
            entries: le64(bytes, 152),
            first: position(168, 184),
            last: position(160, 192),
        };
        if header.size < HEADER_MIN as u64 {
            return Err(Damage::Corrupt { at: 88, what: "the header is too short" });
        }
        if header.buckets == 0 && header.entries == 0 {
            return Err(Damage::Empty);
        }
        if header.buckets == 0 || header.buckets_at < header.size {
            return Err(Damage::Corrupt { at: 104, what: "there is no hash table" });
        }
        Ok(header)
    }
}

/// What every object starts with.
struct Object {
    kind: u8,
    flags: u8,
    size: u64,
}

fn object(bytes: &[u8], at: u64, head: usize, kind: u8) -> Result<Object, Damage> {
    let object = Object {
        kind: bytes.first().copied().unwrap_or_default(),
        flags: bytes.get(1).copied().unwrap_or_default(),
        size: le64(bytes, 8),
    };
    if bytes.len() < head || object.size < head as u64 {
        return Err(Damage::Corrupt { at, what: "an object is too short" });
    }
    if object.kind != kind {
        return Err(Damage::Corrupt { at, what: "an object of another kind was expected" });
    }
    Ok(object)
}

/// The head of a DATA object: one field and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DataHead {
    /// How the payload is compressed: 0, or one of the bits of [`super::payload`].
    pub(super) compression: u8,
    /// Bytes of the payload as stored.
    pub(super) payload: u64,
    pub(super) hash: u64,
    pub(super) next_in_bucket: u64,
    /// The first entry with this value; the others are in the array.
    pub(super) first_entry: u64,
    pub(super) array: u64,
    pub(super) entries: u64,
}

impl DataHead {
    pub(super) fn parse(bytes: &[u8], at: u64, layout: Layout) -> Result<Self, Damage> {
        let head = layout.data_head();
        let object = object(bytes, at, head, TYPE_DATA)?;
        Ok(Self {
            compression: object.flags & 0b111,
            payload: object.size - head as u64,
            hash: le64(bytes, 16),
            next_in_bucket: le64(bytes, 24),
            first_entry: le64(bytes, 40),
            array: le64(bytes, 48),
            entries: le64(bytes, 56),
        })
    }
}

/// The head of an ENTRY object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryHead {
    pub(super) position: Position,
    /// Bytes of the items.
    pub(super) items: usize,
}

/// No entry has more fields; journald itself refuses far fewer (1024). Keeps a damaged size from reserving memory.
const ITEMS_MAX: u64 = 1 << 20;

impl EntryHead {
    pub(super) fn parse(bytes: &[u8], at: u64, seqnum_id: [u8; 16]) -> Result<Self, Damage> {
        let object = object(bytes, at, ENTRY_HEAD, TYPE_ENTRY)?;
        let items = object.size - ENTRY_HEAD as u64;
        if items > ITEMS_MAX {
            return Err(Damage::Corrupt { at, what: "an entry has too many fields" });
        }
        let position = Position {
            seqnum_id,
            seqnum: le64(bytes, 16),
            realtime: le64(bytes, 24),
            monotonic: le64(bytes, 32),
            boot_id: id(bytes, 40),
            xor_hash: le64(bytes, 56),
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most ITEMS_MAX")]
        Ok(Self { position, items: items as usize })
    }
}

/// The head of an `ENTRY_ARRAY` object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ArrayHead {
    pub(super) slots: u64,
    pub(super) next: u64,
}

impl ArrayHead {
    pub(super) fn parse(bytes: &[u8], at: u64, layout: Layout) -> Result<Self, Damage> {
        let object = object(bytes, at, ARRAY_HEAD, TYPE_ENTRY_ARRAY)?;
        Ok(Self { slots: (object.size - ARRAY_HEAD as u64) / layout.slot() as u64, next: le64(bytes, 16) })
    }
}

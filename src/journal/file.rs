//! One journal file: reads of its bytes, and the way from a field's value to the entries that have it.
//!
//! A file may be written to while it is read. What is fixed once written (entries, values) may be read through a
//! [`super::window`]; what changes (the header, hash chains, counts, the tail of arrays) is read anew each time.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::chain::Chain;
use super::damage::Damage;
use super::hash;
use super::layout::{DATA_HEAD, DataHead, ENTRIES_AT, ENTRY_HEAD, EntryHead, HEADER_MIN, Header, Layout, le64};
use super::payload;
use super::position::Position;
use super::reach::Reach;

/// Bytes read together with the head of a DATA object: most values are no longer.
pub(super) const GUESS: usize = 512;

/// From this size on, the file's length is asked before memory is reserved.
const LARGE: usize = 64 << 10;

/// So many lists of an archived file are remembered: some kilobytes, for a dozen jobs and their runs.
const LISTS_MOST: usize = 128;

/// An open journal file.
#[derive(Debug)]
pub(super) struct JournalFile {
    file: File,
    header: Header,
    archived: AtomicBool,
    /// Lists that were asked for, by field and value, also the empty ones; of an archived file alone.
    lists: Mutex<HashMap<Vec<u8>, Chain>>,
}

impl JournalFile {
    /// Opens the file and reads its header.
    pub(super) fn open(path: &Path) -> Result<Self, Damage> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(Damage::NotAJournal);
        }
        let header = Header::parse(&read_up_to(&file, 0, HEADER_MIN)?)?;
        Ok(Self { file, header, archived: AtomicBool::new(header.archived), lists: Mutex::default() })
    }

    /// Whether the file is closed for good, as far as was seen: nothing in it will change.
    pub(super) fn archived(&self) -> bool {
        self.archived.load(Ordering::Acquire)
    }

    /// Where the entries of the file lie, as far as can be known now.
    pub(super) fn reach(&self) -> Reach {
        if self.header.archived {
            return Reach::of(&self.header);
        }
        let header = read_up_to(&self.file, 0, HEADER_MIN).ok().and_then(|bytes| Header::parse(&bytes).ok());
        if header.is_some_and(|header| header.archived) {
            self.archived.store(true, Ordering::Release);
        }
        let changed = self.file.metadata().and_then(|metadata| metadata.modified());
        match (header, changed) {
            (Some(header), _) if header.closed => Reach::of(&header),
            // After a crash the header may be behind what was written.
            (Some(header), Ok(changed)) => Reach::of(&header).up_to(changed),
            (None, Ok(changed)) => Reach::default().up_to(changed),
            (_, Err(_)) => Reach::default(),
        }
    }

    pub(super) fn layout(&self) -> Layout {
        self.header.layout
    }

    pub(super) fn seqnum_id(&self) -> [u8; 16] {
        self.header.seqnum_id
    }

    /// Fills `buffer` from `offset` on and says how many bytes there were: fewer only at the end of the file.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_at(&self.file, offset, buffer)
    }

    /// How many entries the file holds now.
    pub(super) fn entries(&self) -> Result<u64, Damage> {
        self.number(ENTRIES_AT)
    }

    /// Whether an object may lie at `offset`.
    pub(super) fn check_offset(&self, offset: u64) -> Result<(), Damage> {
        if offset < self.header.size || !offset.is_multiple_of(8) {
            return Err(Damage::Corrupt { at: offset, what: "a reference points to no object" });
        }
        Ok(())
    }

    /// `wanted` bytes at `offset`; an error if the file ends before.
    pub(super) fn bytes(&self, offset: u64, wanted: usize) -> Result<Vec<u8>, Damage> {
        let bytes = read_up_to(&self.file, offset, wanted)?;
        if bytes.len() < wanted { Err(cut_short(offset)) } else { Ok(bytes) }
    }

    /// The entries that have `field`=`value`; an empty chain if there is none.
    pub(super) fn entries_with(&self, field: &[u8], value: &[u8]) -> Result<Chain, Damage> {
        let payload = [field, b"=", value].concat();
        let archived = self.archived();
        if archived && let Some(chain) = self.lists().get(&payload) {
            return Ok(chain.clone());
        }
        let chain = match self.find_payload(&payload)? {
            Some(data) => Chain::load(self, &data)?,
            None => Chain::default(),
        };
        if archived {
            let mut lists = self.lists();
            if lists.len() >= LISTS_MOST {
                lists.clear();
            }
            lists.insert(payload, chain.clone());
        }
        Ok(chain)
    }

    fn lists(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Chain>> {
        // A map that a thread died with is as good as before.
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head of the DATA object `field`=`value`, through the file's hash table.
    pub(super) fn find(&self, field: &[u8], value: &[u8]) -> Result<Option<DataHead>, Damage> {
        self.find_payload(&[field, b"=", value].concat())
    }

    fn find_payload(&self, payload: &[u8]) -> Result<Option<DataHead>, Damage> {
        let hash =
            if self.header.keyed_hash { hash::keyed(&self.header.file_id, payload) } else { hash::jenkins(payload) };
        let bucket = self.header.buckets_at.saturating_add(16 * (hash % self.header.buckets));
        let mut offset = self.number(bucket)?;
        let mut bytes = [0; GUESS];
        while offset != 0 {
            self.check_offset(offset)?;
            let filled = self.read_at(offset, &mut bytes)?;
            let bytes = bytes.get(..filled).unwrap_or_default();
            let data = DataHead::parse(bytes, offset, self.header.layout)?;
            if data.hash == hash && self.payload_is(offset, &data, bytes, payload)? {
                return Ok(Some(data));
            }
            // journald appends to the end of the file and of the chain, so a step back is a loop.
            if data.next_in_bucket != 0 && data.next_in_bucket <= offset {
                return Err(Damage::Corrupt { at: offset, what: "a hash chain runs in a circle" });
            }
            offset = data.next_in_bucket;
        }
        Ok(None)
    }

    fn number(&self, offset: u64) -> Result<u64, Damage> {
        let mut bytes = [0; 8];
        if self.read_at(offset, &mut bytes)? < bytes.len() { Err(cut_short(offset)) } else { Ok(le64(&bytes, 0)) }
    }

    fn payload_is(&self, offset: u64, data: &DataHead, known: &[u8], payload: &[u8]) -> Result<bool, Damage> {
        if data.compression == 0 && data.payload != payload.len() as u64 {
            return Ok(false);
        }
        // One byte more tells a longer value from an equal one.
        Ok(self.payload(offset, data, known, payload.len() + 1)? == payload)
    }

    /// The first `wanted` bytes of the value of the DATA object at `offset`, unfolded.
    ///
    /// `known` holds what has been read from `offset` on.
    pub(super) fn payload(&self, offset: u64, data: &DataHead, known: &[u8], wanted: usize) -> Result<Vec<u8>, Damage> {
        let head = self.header.layout.data_head();
        let stored = usize::try_from(data.payload).map_err(|_| cut_short(offset))?;
        let stored = if data.compression == 0 { stored.min(wanted) } else { stored };
        let owned;
        let bytes = if let Some(bytes) = known.get(head..).and_then(|known| known.get(..stored)) {
            bytes
        } else {
            owned = self.bytes(offset.saturating_add(head as u64), stored)?;
            &owned
        };
        match data.compression {
            0 => Ok(bytes.to_vec()),
            kind => payload::decompress(kind, bytes, wanted).map_err(|what| Damage::Corrupt { at: offset, what }),
        }
    }

    /// The whole field at `offset`, as `FIELD=value`, up to `wanted` bytes.
    pub(super) fn field(&self, offset: u64, wanted: usize) -> Result<Vec<u8>, Damage> {
        self.field_in(&read_up_to(&self.file, offset, GUESS)?, offset, wanted)
    }

    /// The same, where `known` holds what has been read from `offset` on.
    pub(super) fn field_in(&self, known: &[u8], offset: u64, wanted: usize) -> Result<Vec<u8>, Damage> {
        self.check_offset(offset)?;
        let data = DataHead::parse(known, offset, self.header.layout)?;
        self.payload(offset, &data, known, wanted)
    }

    /// The head of the entry at `offset`.
    pub(super) fn entry(&self, offset: u64) -> Result<EntryHead, Damage> {
        self.check_offset(offset)?;
        let mut head = [0; ENTRY_HEAD];
        let filled = self.read_at(offset, &mut head)?;
        EntryHead::parse(head.get(..filled).unwrap_or_default(), offset, self.header.seqnum_id)
    }

    /// Where the entry at `offset` stands.
    pub(super) fn position(&self, offset: u64) -> Result<Position, Damage> {
        Ok(self.entry(offset)?.position)
    }

    /// The fields of the entry at `offset`, each up to `wanted` bytes.
    pub(super) fn fields(&self, offset: u64, wanted: usize) -> Result<Vec<Vec<u8>>, Damage> {
        let entry = self.entry(offset)?;
        let items = self.bytes(offset + ENTRY_HEAD as u64, entry.items)?;
        let items = items.chunks_exact(self.header.layout.item());
        items.map(|item| self.field(self.header.layout.offset(item), wanted)).collect()
    }
}

/// The file ends within what should be at `offset`.
pub(super) fn cut_short(offset: u64) -> Damage {
    Damage::Corrupt { at: offset, what: "the file ends within an object" }
}

fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..)
        && !rest.is_empty()
    {
        // The system refuses offsets beyond i64::MAX as invalid; for a reader they are beyond the end.
        let Some(at) = offset.checked_add(filled as u64).filter(|at| i64::try_from(*at).is_ok()) else { break };
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn read_up_to(file: &File, offset: u64, wanted: usize) -> Result<Vec<u8>, Damage> {
    let mut wanted = wanted;
    if wanted > LARGE {
        // A damaged size must not reserve memory: what the file does not have is not asked for.
        let there = file.metadata()?.len().saturating_sub(offset);
        wanted = wanted.min(usize::try_from(there).unwrap_or(usize::MAX));
    }
    let mut bytes = vec![0; wanted];
    let filled = read_at(file, offset, &mut bytes)?;
    bytes.truncate(filled);
    Ok(bytes)
}

const _: () = assert!(DATA_HEAD < GUESS);

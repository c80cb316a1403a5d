//! What the fields of an entry say about whose it is.
//!
//! Entries of one run share nearly all their fields, and a file stores each field once: an entry is a list of offsets,
//! ascending, the new fields last. So what the first offsets mean is taken over from the entry before as far as the two
//! lists agree, and only the rest is looked at.

use std::collections::HashMap;
use std::num::NonZeroU64;

use crate::invocation::InvocationId;

use super::chain::Direction;
use super::damage::Damage;
use super::file::{GUESS, JournalFile};
use super::layout::{DataHead, ENTRY_HEAD, EntryHead};
use super::position::Position;
use super::window::Window;
use super::words::{STARTED, STARTING};

/// The longest field that is compared: `OBJECT_SYSTEMD_UNIT=` and a unit's name of 255 bytes, and one byte more.
pub(super) const COMPARED: usize = 300;
/// How many meanings of offsets are kept.
const MEANINGS_MOST: usize = 4096;
/// Messages that entries share are kept if they are no longer than this, and so many of them.
const SHARED_MESSAGE: usize = 1024;
const SHARED_MOST: usize = 256;

const MESSAGE: &[u8] = b"MESSAGE=";

/// Message ids of the catalog (`sd-messages.h`): of systemd-coredump, and of journald.
const CORE: &[u8] = b"fc2e22bc6ee647b6b90729ab34a250b1";
const DROPPED: &[u8] = b"a596d6fe7bfa4994828e72309e95d61e";

/// One statement of a field, as a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Facts(u32);

impl Facts {
    /// `_SYSTEMD_UNIT` is the unit. journald sets fields with an underscore; no process can.
    pub(super) const UNIT: Self = Self(1);
    pub(super) const INVOCATION: Self = Self(1 << 1);
    pub(super) const OTHER_INVOCATION: Self = Self(1 << 2);
    /// `UNIT` is the unit: anyone can claim that.
    pub(super) const ABOUT_UNIT: Self = Self(1 << 3);
    pub(super) const ABOUT_INVOCATION: Self = Self(1 << 4);
    pub(super) const ABOUT_OTHER_INVOCATION: Self = Self(1 << 5);
    /// `OBJECT_SYSTEMD_UNIT` is the unit.
    pub(super) const OBJECT_UNIT: Self = Self(1 << 6);
    pub(super) const OBJECT_INVOCATION: Self = Self(1 << 7);
    pub(super) const OBJECT_OTHER_INVOCATION: Self = Self(1 << 8);
    /// `COREDUMP_UNIT` is the unit.
    pub(super) const CORE_UNIT: Self = Self(1 << 9);
    pub(super) const CORE_MESSAGE: Self = Self(1 << 10);
    /// `_UID=0`.
    pub(super) const ROOT: Self = Self(1 << 11);
    /// `_PID=1` or `_SYSTEMD_CGROUP=/init.scope`: the system manager.
    pub(super) const MANAGER: Self = Self(1 << 12);
    /// The message of the manager that it starts a unit.
    pub(super) const STARTING: Self = Self(1 << 13);
    /// The one that a unit has started, or has done its work while it started.
    pub(super) const STARTED: Self = Self(1 << 14);
    /// `_TRANSPORT=driver`: journald wrote it.
    const DRIVER: Self = Self(1 << 15);
    const DROPPED_MESSAGE: Self = Self(1 << 16);

    pub(super) fn has(self, facts: Self) -> bool {
        self.0 & facts.0 == facts.0
    }

    pub(super) const fn and(self, facts: Self) -> Self {
        Self(self.0 | facts.0)
    }

    /// The system manager wrote this about the unit.
    pub(super) fn is_of_manager(self) -> bool {
        self.has(Self::MANAGER.and(Self::ROOT).and(Self::ABOUT_UNIT))
    }

    /// journald wrote that it dropped messages of the unit, because there were too many.
    pub(super) fn is_of_drop(self) -> bool {
        self.has(Self::OBJECT_UNIT.and(Self::ROOT).and(Self::DRIVER).and(Self::DROPPED_MESSAGE))
    }
}

/// The run whose entries are sought; without an invocation every one is another.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    unit: Vec<u8>,
    invocation: Option<[u8; 32]>,
}

impl Wanted {
    pub(super) fn new(unit: &str, invocation: Option<InvocationId>) -> Self {
        let hex = |id: InvocationId| {
            let mut hex = [0; 32];
            for (to, from) in hex.iter_mut().zip(id.to_string().bytes()) {
                *to = from;
            }
            hex
        };
        Self { unit: unit.as_bytes().to_owned(), invocation: invocation.map(hex) }
    }

    pub(super) fn unit(&self) -> &[u8] {
        &self.unit
    }

    pub(super) fn invocation(&self) -> Option<&[u8]> {
        self.invocation.as_ref().map(<[u8; 32]>::as_slice)
    }

    /// What all these fields say together.
    pub(super) fn facts(&self, fields: &[Vec<u8>]) -> Facts {
        fields.iter().fold(Facts::default(), |facts, field| match self.meaning(field) {
            Meaning::Facts(more) => facts.and(more),
            _ => facts,
        })
    }

    /// What a field that starts with `field` says; `field` holds the whole of those that matter.
    fn meaning(&self, field: &[u8]) -> Meaning {
        if field.starts_with(MESSAGE) {
            return Meaning::Message;
        }
        let Some(equals) = field.iter().position(|byte| *byte == b'=') else { return Meaning::Facts(Facts::default()) };
        let (name, value) = field.split_at(equals);
        let value = value.get(1..).unwrap_or_default();
        let unit = |fact| if value == self.unit { fact } else { Facts::default() };
        let invocation = |same, other| match &self.invocation {
            Some(wanted) if value == wanted => same,
            // journald knows no empty value; the manager writes one for a start that never became a run.
            _ if value.is_empty() => Facts::default(),
            _ => other,
        };
        let is = |expected: &[u8], fact| if value == expected { fact } else { Facts::default() };
        Meaning::Facts(match name {
            b"PRIORITY" => match value {
                [digit @ b'0'..=b'7'] => return Meaning::Priority(digit - b'0'),
                _ => Facts::default(),
            },
            b"_STREAM_ID" => return Meaning::Stream,
            b"_SYSTEMD_UNIT" => unit(Facts::UNIT),
            b"_SYSTEMD_INVOCATION_ID" => invocation(Facts::INVOCATION, Facts::OTHER_INVOCATION),
            b"UNIT" => unit(Facts::ABOUT_UNIT),
            b"INVOCATION_ID" => invocation(Facts::ABOUT_INVOCATION, Facts::ABOUT_OTHER_INVOCATION),
            b"OBJECT_SYSTEMD_UNIT" => unit(Facts::OBJECT_UNIT),
            b"OBJECT_SYSTEMD_INVOCATION_ID" => invocation(Facts::OBJECT_INVOCATION, Facts::OBJECT_OTHER_INVOCATION),
            b"COREDUMP_UNIT" => unit(Facts::CORE_UNIT),
            b"MESSAGE_ID" => match value {
                STARTING => Facts::STARTING,
                STARTED => Facts::STARTED,
                CORE => Facts::CORE_MESSAGE,
                DROPPED => Facts::DROPPED_MESSAGE,
                _ => Facts::default(),
            },
            b"N_DROPPED" => match std::str::from_utf8(value).ok().and_then(|count| count.parse().ok()) {
                Some(count) => return Meaning::Dropped(count),
                None => Facts::default(),
            },
            b"_TRANSPORT" => is(b"driver", Facts::DRIVER),
            b"_UID" => is(b"0", Facts::ROOT),
            b"_PID" => is(b"1", Facts::MANAGER),
            b"_SYSTEMD_CGROUP" => is(b"/init.scope", Facts::MANAGER),
            _ => Facts::default(),
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Meaning {
    Facts(Facts),
    Priority(u8),
    Dropped(u64),
    Message,
    Stream,
}

/// What is known of an entry.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    pub(super) facts: Facts,
    pub(super) priority: Option<u8>,
    /// How many messages there were too many, as `N_DROPPED` says: anyone can.
    dropped: Option<u64>,
    /// Where the message lies in the file.
    pub(super) message: Option<NonZeroU64>,
    /// Where the id of the stream lies on which the message came, if it was printed on standard output.
    pub(super) stream: Option<NonZeroU64>,
    /// Where the invocation lies that is not the wanted one.
    pub(super) other: Option<NonZeroU64>,
    /// The same of the invocation that the entry claims to be about.
    pub(super) about_other: Option<NonZeroU64>,
}

/// What is known of an entry without fields.
const NOTHING: Known = Known {
    facts: Facts(0),
    priority: None,
    dropped: None,
    message: None,
    stream: None,
    other: None,
    about_other: None,
};

impl Known {
    /// How many messages of the unit journald dropped, if this is its word of that.
    pub(super) fn suppressed(&self) -> Option<u64> {
        self.dropped.filter(|_| self.facts.is_of_drop())
    }

    fn with(mut self, offset: Option<NonZeroU64>, meaning: Meaning) -> Self {
        match meaning {
            Meaning::Facts(facts) => {
                if facts.has(Facts::OTHER_INVOCATION) {
                    self.other = offset;
                }
                if facts.has(Facts::ABOUT_OTHER_INVOCATION) {
                    self.about_other = offset;
                }
                self.facts = self.facts.and(facts);
            }
            Meaning::Stream => self.stream = offset,
            Meaning::Dropped(count) => self.dropped = self.dropped.or(Some(count)),
            Meaning::Priority(priority) => self.priority = self.priority.or(Some(priority)),
            Meaning::Message => self.message = self.message.or(offset),
        }
        self
    }
}

/// Reads entries of one file one after the other.
#[derive(Debug)]
pub(super) struct EntryReader {
    wanted: Wanted,
    window: Window,
    /// Around the field that was read last of those that many entries share: they lie close together.
    fields: Window,
    /// The items of the entry that was read last, and what was known after each.
    items: Vec<u8>,
    known: Vec<Known>,
    /// Where that entry stands.
    position: Option<Position>,
    meanings: HashMap<u64, Meaning>,
    shared: HashMap<u64, Vec<u8>>,
}

impl EntryReader {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            window: Window::new(),
            fields: Window::new(),
            items: Vec::new(),
            known: Vec::new(),
            position: None,
            meanings: HashMap::new(),
            shared: HashMap::new(),
        }
    }

    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Goes on in a file that has grown.
    pub(super) fn grow(&mut self) {
        self.window.forget();
        self.fields.forget();
    }

    /// Reads the entry at `offset`: where it stands, and what is known of it.
    pub(super) fn read(
        &mut self,
        file: &JournalFile,
        offset: u64,
        direction: Direction,
    ) -> Result<(&Position, &Known), Damage> {
        file.check_offset(offset)?;
        let head = self.window.get(file, offset, ENTRY_HEAD, direction)?;
        let entry = EntryHead::parse(head, offset, file.seqnum_id())?;
        let items = self.window.get(file, offset + ENTRY_HEAD as u64, entry.items, direction)?;
        let size = file.layout().item();
        // After an error less may be known than was read.
        let same = (agreeing(&self.items, items) / size).min(self.known.len());
        self.items.truncate(same * size);
        self.items.extend_from_slice(items.get(same * size..).unwrap_or_default());
        self.known.truncate(same);
        let mut known = self.known.last().copied().unwrap_or_default();
        for index in same..self.items.len() / size {
            let item = self.items.get(index * size..).map_or(0, |item| file.layout().offset(item));
            known = known.with(NonZeroU64::new(item), self.meaning(file, item)?);
            self.known.push(known);
        }
        Ok((self.position.insert(entry.position), self.known.last().unwrap_or(&NOTHING)))
    }

    fn meaning(&mut self, file: &JournalFile, offset: u64) -> Result<Meaning, Damage> {
        let head = file.layout().data_head();
        let shared = match self.window.loaded(offset, head + MESSAGE.len()) {
            Some(bytes) => {
                let data = DataHead::parse(bytes, offset, file.layout())?;
                // The commonest case by far, a message, is told from its first bytes.
                if data.compression == 0 && bytes.get(head..).is_some_and(|start| start == MESSAGE) {
                    return Ok(Meaning::Message);
                }
                data.entries > 1
            }
            None => true,
        };
        if let Some(meaning) = self.meanings.get(&offset) {
            return Ok(*meaning);
        }
        let field = match self.fields.get(file, offset, GUESS, Direction::Forward) {
            Ok(known) => file.field_in(known, offset, COMPARED)?,
            // The end of the file may be nearer than that.
            Err(_) => file.field(offset, COMPARED)?,
        };
        let meaning = self.wanted.meaning(&field);
        if shared {
            if self.meanings.len() >= MEANINGS_MOST {
                self.meanings.clear();
            }
            self.meanings.insert(offset, meaning);
        }
        Ok(meaning)
    }

    /// The message at `offset`, without its field's name.
    #[inline]
    pub(super) fn message(&mut self, file: &JournalFile, offset: u64) -> Result<Vec<u8>, Damage> {
        let head = file.layout().data_head();
        if let Some(bytes) = self.window.loaded(offset, head) {
            let data = DataHead::parse(bytes, offset, file.layout())?;
            if data.compression == 0
                && let Ok(payload) = usize::try_from(data.payload)
                && let Some(bytes) = self.window.loaded(offset + head as u64, payload)
            {
                return Ok(bytes.get(MESSAGE.len()..).unwrap_or_default().to_vec());
            }
        }
        self.message_elsewhere(file, offset)
    }

    /// The same if it does not lie near its entry.
    fn message_elsewhere(&mut self, file: &JournalFile, offset: u64) -> Result<Vec<u8>, Damage> {
        if let Some(message) = self.shared.get(&offset) {
            return Ok(message.clone());
        }
        let mut message = file.field(offset, usize::MAX)?;
        message.drain(..MESSAGE.len().min(message.len()));
        if message.len() <= SHARED_MESSAGE {
            if self.shared.len() >= SHARED_MOST {
                self.shared.clear();
            }
            self.shared.insert(offset, message.clone());
        }
        Ok(message)
    }
}

/// How many bytes at the start of both are the same.
fn agreeing(a: &[u8], b: &[u8]) -> usize {
    let blocks = a.chunks_exact(16).zip(b.chunks_exact(16)).take_while(|(a, b)| a == b).count() * 16;
    let rest = |bytes| <[u8]>::get(bytes, blocks..).unwrap_or_default();
    blocks + rest(a).iter().zip(rest(b)).take_while(|(a, b)| a == b).count()
}

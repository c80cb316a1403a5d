//! A place between two entries of a run in one file, which moves either way.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::chain::{Chain, Direction, Slots};
use super::damage::{Damage, Problem};
use super::facts::Known;
use super::file::JournalFile;
use super::filter::Filter;
use super::lists::Lists;
use super::position::Position;
use super::streams::{Files, Streams};
use super::{Entry, Source};

/// After so many damaged entries a file is given up.
const DAMAGED_MOST: u32 = 1000;
/// After so many entries of later runs no late one of this run is expected. journald reads some 100 lines of each
/// stream in turn.
const LATE_MOST: u64 = 2048;
const LISTS: usize = 4;

/// From a run's first entry to, exclusively, the first of the next run of its unit.
///
/// It decides for the entries that do not name their run: journald can't tell the run of a process whose unit is gone
/// by the time its words are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: Position,
    pub(super) end: Option<Position>,
}

impl Span {
    pub(super) fn holds(&self, position: &Position) -> bool {
        position.order(&self.start).is_ge() && self.end.is_none_or(|end| position.order(&end).is_lt())
    }
}

/// An entry of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) position: Position,
    pub(super) source: Source,
    pub(super) priority: Option<u8>,
    pub(super) suppressed: Option<u64>,
    message: Option<NonZeroU64>,
}

/// For each list the index of the entry after a place.
type Place = [u64; LISTS];

/// What lies next to a place.
enum Step {
    Nothing,
    NotWanted,
    Wanted,
}

#[derive(Debug, Default)]
struct List {
    slots: Slots,
    low: u64,
    high: u64,
}

/// The place, and what lies next to it.
#[derive(Debug)]
pub(super) struct FileCursor {
    lists: Lists,
    streams: Streams,
    sources: [List; LISTS],
    at: Place,
    /// Which way the entry lies that was looked at, if one was.
    looked: Option<Direction>,
    /// That entry, written here and not handed from hand to hand, which is what a long log would spend its time with.
    found: Option<Found>,
    /// The place beyond it.
    beyond: Place,
    filter: Filter,
    /// journald's words of dropped messages that the filter left out.
    drops: Vec<(Position, u64)>,
    damaged: u32,
    problem: Option<Damage>,
}

impl FileCursor {
    /// A cursor before the first entry of the run in the file.
    ///
    /// Nothing behind `horizon` is there. `late` says that the run's last words may come after the first ones of the next
    /// run; `files` are all that have something of the unit.
    pub(super) fn new(
        lists: Lists,
        span: Span,
        horizon: &Position,
        late: bool,
        files: Arc<Files>,
    ) -> Result<Self, Damage> {
        let from = |chain: &Chain| lists.lower_bound(chain, &span.start);
        let to = |chain: &Chain| span.end.map_or(Ok(chain.len()), |end| lists.lower_bound(chain, &end));
        let last_own = match lists.invocation.len().checked_sub(1) {
            Some(last) => {
                let last = lists.invocation.at(&lists.file, last)?;
                lists.unit.partition_point(|chain, index| Ok(chain.at(&lists.file, index)? <= last))?
            }
            None => 0,
        };
        let list = |chain: &Chain, low: u64, high: u64| List { slots: Slots::new(chain.clone()), low, high };
        let sources = [
            list(&lists.unit, from(&lists.unit)?, to(&lists.unit)?.max(last_own)),
            list(&lists.about_invocation, 0, lists.about_invocation.len()),
            list(&lists.object, 0, lists.object.len()),
            list(&lists.core, from(&lists.core)?, to(&lists.core)?),
        ];
        let at = sources.each_ref().map(|list| list.low);
        let streams = Streams::new(lists.reader.wanted().clone(), span, files);
        let filter = Filter::default();
        let drops = Vec::new();
        let mut cursor = Self {
            lists,
            streams,
            sources,
            at,
            looked: None,
            found: None,
            beyond: at,
            filter,
            drops,
            damaged: 0,
            problem: None,
        };
        if late {
            cursor.extend_to_late()?;
        }
        if !cursor.lists.file.archived() {
            cursor.end_at(horizon)?;
        }
        Ok(cursor)
    }

    /// Leaves out what is not wanted.
    pub(super) fn keep(&mut self, filter: Filter) -> Result<(), Damage> {
        self.filter = filter;
        let lists = &self.lists;
        let chains = [&lists.unit, &lists.about_invocation, &lists.object, &lists.core];
        for ((list, chain), at) in self.sources.iter_mut().zip(chains).zip(&mut self.at) {
            let range = lists.in_time(chain, list.low..list.high, &filter)?;
            (list.low, list.high) = (range.start, range.end);
            *at = list.low;
        }
        Ok(())
    }

    /// Goes on with what was appended to the list of the unit's own entries, which is now `chain`.
    pub(super) fn grow(&mut self, chain: Chain) {
        self.looked = None;
        self.lists.reader.grow();
        let [unit, ..] = &mut self.sources;
        unit.high = chain.len();
        unit.slots.grow(chain);
    }

    /// Whether more may be written to the file.
    pub(super) fn is_growing(&self) -> bool {
        !self.lists.file.archived()
    }

    /// Whether this is a cursor in that file.
    pub(super) fn is_in(&self, file: &Arc<JournalFile>) -> bool {
        Arc::ptr_eq(&self.lists.file, file)
    }

    fn end_at(&mut self, horizon: &Position) -> Result<(), Damage> {
        let lists = &self.lists;
        let chains = [&lists.unit, &lists.about_invocation, &lists.object, &lists.core];
        for (list, chain) in self.sources.iter_mut().zip(chains) {
            list.high = list.high.min(lists.upper_bound(chain, horizon)?);
        }
        Ok(())
    }

    /// Moves the end of the run's own words behind the last one that came late.
    fn extend_to_late(&mut self) -> Result<(), Damage> {
        let mut slots = Slots::new(self.lists.unit.clone());
        let [List { high: end, .. }, ..] = &self.sources;
        let (mut high, mut index) = (*end, *end);
        while index < self.lists.unit.len() && index - high < LATE_MOST {
            let offset = slots.get(&self.lists.file, index, Direction::Forward)?;
            let (position, known) = self.lists.read(offset)?;
            index += 1;
            if self.streams.source(&self.lists.file, &position, &known)?.is_some() {
                high = index;
            }
        }
        let [unit, ..] = &mut self.sources;
        unit.high = high;
        Ok(())
    }

    /// Makes this place the beginning: entries before it are no longer there.
    pub(super) fn forget_before(&mut self) {
        self.looked = None;
        for (list, at) in self.sources.iter_mut().zip(self.at) {
            list.low = at;
        }
    }

    /// Moves behind the last entry.
    pub(super) fn move_to_end(&mut self) {
        self.looked = None;
        self.at = self.sources.each_ref().map(|list| list.high.max(list.low));
    }

    /// Moves right behind `position` and says whether the entry of that position is there.
    pub(super) fn after(&mut self, position: &Position) -> Result<bool, Damage> {
        self.looked = None;
        let lists = &self.lists;
        let chains = [&lists.unit, &lists.about_invocation, &lists.object, &lists.core];
        let mut found = false;
        for ((at, list), chain) in self.at.iter_mut().zip(&self.sources).zip(chains) {
            let bound = lists.upper_bound(chain, position)?;
            if let Some(before) = bound.checked_sub(1) {
                found |= lists.file.position(chain.at(&lists.file, before)?)? == *position;
            }
            *at = bound.clamp(list.low, list.high.max(list.low));
        }
        Ok(found)
    }

    /// Where the next entry of the run in that direction stands; without moving.
    pub(super) fn peek(&mut self, direction: Direction) -> Option<&Position> {
        if self.looked != Some(direction) {
            self.looked = self.look(direction).then_some(direction);
        }
        self.looked.and(self.found.as_ref()).map(|found| &found.position)
    }

    fn look(&mut self, direction: Direction) -> bool {
        self.beyond = self.at;
        while self.damaged <= DAMAGED_MOST {
            match self.step(direction) {
                Ok(Step::Wanted) => return true,
                Ok(Step::NotWanted) => {}
                Ok(Step::Nothing) => {
                    // What was passed over is not of the run; it need not be looked at again.
                    self.at = self.beyond;
                    return false;
                }
                Err(damage) => {
                    self.problem.get_or_insert(damage);
                    self.damaged += 1;
                }
            }
        }
        false
    }

    /// Moves over the entry that was looked at.
    pub(super) fn pass(&mut self) -> Option<&mut Found> {
        self.looked.take()?;
        self.at = self.beyond;
        self.found.as_mut()
    }

    /// The entry that was passed last; `None` if there is none.
    #[inline]
    pub(super) fn entry(&mut self) -> Option<Result<Entry, Damage>> {
        let found = self.found.as_ref()?;
        // An entry without a message is possible in the native protocol.
        let message = match found.message {
            Some(offset) => self.lists.reader.message(&self.lists.file, offset.get()),
            None => Ok(Vec::new()),
        };
        let entry = |message| Entry {
            position: found.position,
            priority: found.priority,
            source: found.source,
            suppressed: found.suppressed,
            message,
        };
        Some(message.map(entry))
    }

    /// What went wrong, if anything did since the last time this was asked.
    pub(super) fn take_problem(&mut self) -> Option<Problem> {
        self.problem.take().map(|damage| Problem::new(&self.lists.path, damage))
    }

    /// The words of dropped messages that were passed over since the last time this was asked.
    pub(super) fn take_drops(&mut self) -> Vec<(Position, u64)> {
        std::mem::take(&mut self.drops)
    }

    /// Notes that an entry could not be read.
    pub(super) fn note(&mut self, damage: Damage) {
        self.problem.get_or_insert(damage);
    }

    /// Moves the place beyond over one entry, also if that can't be read.
    fn step(&mut self, direction: Direction) -> Result<Step, Damage> {
        let mut offsets = [None; LISTS];
        for ((list, at), offset) in self.sources.iter_mut().zip(&mut self.beyond).zip(&mut offsets) {
            let (next, end) = match direction {
                Direction::Forward => ((*at < list.high).then_some(*at), list.high),
                Direction::Backward => ((*at > list.low).then(|| *at - 1), list.low),
            };
            let Some(next) = next else { continue };
            // A list that can't be read on ends there.
            *offset = Some(list.slots.get(&self.lists.file, next, direction).inspect_err(|_| *at = end)?);
        }
        let nearest = match direction {
            Direction::Forward => offsets.iter().flatten().min(),
            Direction::Backward => offsets.iter().flatten().max(),
        };
        let Some(nearest) = nearest.copied() else { return Ok(Step::Nothing) };
        for (at, offset) in self.beyond.iter_mut().zip(&offsets) {
            if *offset == Some(nearest) {
                match direction {
                    Direction::Forward => *at += 1,
                    Direction::Backward => *at -= 1,
                }
            }
        }
        let lists = &mut self.lists;
        let (position, known) = lists.reader.read(&lists.file, nearest, direction)?;
        let suppressed = known.suppressed();
        let has_priority = self.filter.has_priority(known.priority);
        if !self.filter.has_time(position) || !(has_priority || suppressed.is_some()) {
            return Ok(Step::NotWanted);
        }
        let Some(source) = self.streams.source(&lists.file, position, known)? else { return Ok(Step::NotWanted) };
        if let Some(count) = suppressed.filter(|_| !has_priority) {
            self.drops.push((*position, count));
            return Ok(Step::NotWanted);
        }
        let Known { priority, message, .. } = *known;
        self.found = Some(Found { position: *position, source, priority, suppressed, message });
        Ok(Step::Wanted)
    }
}

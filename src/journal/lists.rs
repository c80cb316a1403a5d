//! The entries of one file that may belong to a run, as the file's own lists.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::invocation::InvocationId;

use super::chain::{Chain, Direction, Slots};
use super::cursor::Span;
use super::damage::Damage;
use super::facts::{COMPARED, EntryReader, Facts, Known, Wanted};
use super::file::JournalFile;
use super::filter::{Filter, clock_error_usec};
use super::position::Position;
use super::reach::{Extent, LEAD_USEC, Reach};

/// So many entries are looked at for those that were received before the word that their run began.
pub(super) const EARLY_MOST: u64 = 1024;

/// After so many entries at the latest two lists are compared again.
const PAUSE_MOST: u64 = 4096;

/// What was received up to [`LEAD_USEC`] before the word that a run begins may be its own. But only if no other run of the unit was heard of for so long: the last words of that one may be late.
const ALONE_USEC: u64 = 5_000_000;

/// How a run begins in one file, or in all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin {
    /// Its first entry.
    pub(super) position: Position,
    /// When the manager sent its first word about the run, which may be received later than the run's own.
    pub(super) sent_usec: Option<u64>,
}

impl Begin {
    /// When the run began: microseconds since 1970.
    pub(super) fn started_usec(&self) -> u64 {
        self.sent_usec.unwrap_or(u64::MAX).min(self.position.realtime)
    }

    /// The earlier of two, with the earlier of their times.
    pub(super) fn earlier(self, other: Self) -> Self {
        Self {
            position: self.position.earlier(other.position),
            sent_usec: self.sent_usec.into_iter().chain(other.sent_usec).min(),
        }
    }
}

/// The lists of one file.
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) path: PathBuf,
    pub(super) file: Arc<JournalFile>,
    pub(super) reach: Reach,
    pub(super) reader: EntryReader,
    /// Entries of the unit's own processes, of all its runs.
    pub(super) unit: Chain,
    /// Those of them that name the run's invocation.
    pub(super) invocation: Chain,
    /// Entries that claim to be about the unit, as those of the system manager do.
    pub(super) about_unit: Chain,
    /// Entries that claim to be about the run.
    pub(super) about_invocation: Chain,
    /// Entries of privileged programs about a process of the unit.
    pub(super) object: Chain,
    /// Entries about a crash of a process of the unit.
    pub(super) core: Chain,
}

impl Lists {
    /// Looks the lists up; `None` if the file has nothing of the unit.
    pub(super) fn find(path: &Path, file: &Arc<JournalFile>, wanted: &Wanted) -> Result<Option<Self>, Damage> {
        let unit = file.entries_with(b"_SYSTEMD_UNIT", wanted.unit())?;
        let about_unit = file.entries_with(b"UNIT", wanted.unit())?;
        let object = file.entries_with(b"OBJECT_SYSTEMD_UNIT", wanted.unit())?;
        let core = file.entries_with(b"COREDUMP_UNIT", wanted.unit())?;
        if [&unit, &about_unit, &object, &core].into_iter().all(Chain::is_empty) {
            return Ok(None);
        }
        let of_invocation = |field: &[u8], all: &Chain| match wanted.invocation() {
            Some(invocation) if !all.is_empty() => file.entries_with(field, invocation),
            _ => Ok(Chain::default()),
        };
        Ok(Some(Self {
            path: path.to_owned(),
            file: Arc::clone(file),
            reach: file.reach(),
            reader: EntryReader::new(wanted.clone()),
            invocation: of_invocation(b"_SYSTEMD_INVOCATION_ID", &unit)?,
            about_invocation: of_invocation(b"INVOCATION_ID", &about_unit)?,
            unit,
            about_unit,
            object,
            core,
        }))
    }

    /// Whether the file may hold entries of the run in that stretch, or any that say that they are about the run.
    pub(super) fn may_have(&self, extent: &Extent) -> bool {
        let of_run = [&self.invocation, &self.about_invocation, &self.object];
        of_run.into_iter().any(|chain| !chain.is_empty()) || extent.may_lie_in(&self.reach)
    }

    /// The last entry of all lists.
    pub(super) fn newest(&mut self) -> Result<Option<Position>, Damage> {
        let lists = [&self.unit, &self.about_unit, &self.object, &self.core];
        let last = |list: &Chain| list.len().checked_sub(1).map(|last| list.at(&self.file, last)).transpose();
        let ends: Vec<_> = lists.into_iter().map(last).collect::<Result<_, _>>()?;
        ends.into_iter().flatten().max().map(|offset| self.file.position(offset)).transpose()
    }

    /// Reads one entry.
    pub(super) fn read(&mut self, offset: u64) -> Result<(Position, Known), Damage> {
        let (position, known) = self.reader.read(&self.file, offset, Direction::Forward)?;
        Ok((*position, *known))
    }

    /// The first index of `chain` that does not come before `position`.
    pub(super) fn lower_bound(&self, chain: &Chain, position: &Position) -> Result<u64, Damage> {
        self.bound(chain, |there| there.order(position).is_lt())
    }

    /// The same for an entry that may have been received [`LEAD_USEC`] before its time.
    pub(super) fn lower_bound_with_lead(&self, chain: &Chain, position: &Position) -> Result<u64, Damage> {
        let mut index = self.lower_bound(chain, position)?;
        let end = index;
        while index > 0 && end - index < EARLY_MOST {
            let before = self.file.position(chain.at(&self.file, index - 1)?)?;
            if before.realtime.saturating_add(LEAD_USEC) < position.realtime {
                break;
            }
            index -= 1;
        }
        Ok(index)
    }

    /// The first index of `chain` that comes after `position`.
    pub(super) fn upper_bound(&self, chain: &Chain, position: &Position) -> Result<u64, Damage> {
        self.bound(chain, |there| there.order(position).is_le())
    }

    fn bound(&self, chain: &Chain, before: impl Fn(&Position) -> bool) -> Result<u64, Damage> {
        chain.partition_point(|_, index| Ok(before(&self.file.position(chain.at(&self.file, index)?)?)))
    }

    /// The part of a range of `chain` that is wanted by its time, and somewhat more; all of it if the clock was set back.
    pub(super) fn in_time(&self, chain: &Chain, range: Range<u64>, filter: &Filter) -> Result<Range<u64>, Damage> {
        let Range { start, end } = range;
        if start >= end || (filter.since_usec.is_none() && filter.until_usec.is_none()) {
            return Ok(range);
        }
        let at = |index| self.file.position(chain.at(&self.file, index)?);
        let Some(error) = clock_error_usec(&at(start)?, &at(end - 1)?) else { return Ok(range) };
        let before = |usec: u64| {
            chain.partition_point(|_, index| Ok(index < start || (index < end && at(index)?.realtime < usec)))
        };
        let low = filter.since_usec.map_or(Ok(start), |since| before(since.saturating_sub(2 * error)))?;
        let high = filter.until_usec.map_or(Ok(end), |until| before(until.saturating_add(2 * error)))?;
        Ok(low..high.max(low))
    }

    /// Whether one of the last lines of the unit in that time was printed on standard output.
    pub(super) fn has_printed(&mut self, span: &Span) -> Result<bool, Damage> {
        let start = self.lower_bound(&self.unit, &span.start)?;
        let end = span.end.map_or(Ok(self.unit.len()), |end| self.lower_bound(&self.unit, &end))?;
        for index in (start.max(end.saturating_sub(EARLY_MOST))..end).rev() {
            let (_, known) = self.read(self.unit.at(&self.file, index)?)?;
            if known.facts.has(Facts::UNIT) && known.stream.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first entry of the run in this file: the manager's first word about it, or its own.
    pub(super) fn first_of_run(&mut self) -> Result<Option<Begin>, Damage> {
        let is_of_manager = |facts: Facts| facts.is_of_manager() && facts.has(Facts::ABOUT_INVOCATION);
        let is_own = |facts: Facts| facts.has(Facts::UNIT.and(Facts::INVOCATION));
        let told = self.first_that(&self.about_invocation.clone(), None, is_of_manager)?;
        let told = told.map(|(position, offset)| self.told(position, offset)).transpose()?;
        let own = self.first_that(&self.invocation.clone(), told.map(|told| told.position).as_ref(), is_own)?;
        let sent_usec = told.and_then(|told| told.sent_usec);
        Ok(own.map(|(position, _)| Begin { position, sent_usec }).or(told))
    }

    /// The first entry of a later run of the unit in this file, at or after `start` and before `end`.
    ///
    /// `later` says of an invocation whether it began after this run: the last words of an earlier run may be read
    /// when the next one has begun.
    pub(super) fn first_of_next_run(
        &mut self,
        start: &Position,
        end: Option<&Position>,
        later: &mut dyn FnMut(InvocationId) -> bool,
    ) -> Result<Option<Begin>, Damage> {
        let mut others = Others { later, known: HashMap::new() };
        let told = self.first_told_of_next_run(start, end, &mut others)?;
        let bound = told.map(|told| told.position);
        let own = self.first_own_of_next_run(start, bound.as_ref().or(end), &mut others)?;
        let sent_usec = told.and_then(|told| told.sent_usec);
        Ok(own.map(|position| Begin { position, sent_usec }).or(told))
    }

    fn first_told_of_next_run(
        &mut self,
        start: &Position,
        end: Option<&Position>,
        others: &mut Others<'_>,
    ) -> Result<Option<Begin>, Damage> {
        for index in self.lower_bound(&self.about_unit, start)?..self.about_unit.len() {
            let offset = self.about_unit.at(&self.file, index)?;
            let (position, known) = self.read(offset)?;
            if end.is_some_and(|end| position.order(end).is_ge()) {
                break;
            }
            let told = known.facts.is_of_manager() && known.facts.has(Facts::ABOUT_OTHER_INVOCATION);
            if told && others.is_later(&self.file, known.about_other)? {
                return self.told(position, offset).map(Some);
            }
        }
        Ok(None)
    }

    /// The manager's word at `offset`, with the time at which it was sent.
    fn told(&self, position: Position, offset: u64) -> Result<Begin, Damage> {
        let fields = self.file.fields(offset, COMPARED)?;
        let sent = fields.iter().find_map(|field| field.strip_prefix(b"_SOURCE_REALTIME_TIMESTAMP="));
        let sent_usec = sent.and_then(|sent| std::str::from_utf8(sent).ok()?.parse().ok());
        Ok(Begin { position, sent_usec })
    }

    /// The first entry of the unit's own processes that was received after `begin` was sent, if that is before it.
    ///
    /// journald reads the manager's words and those of processes from different sockets, and may read the first words
    /// of a run before the word that it began.
    ///
    /// `last_told` is the manager's last word about any run of the unit before, in whichever file that is: those of a
    /// namespace have none.
    pub(super) fn first_since_sent(
        &mut self,
        begin: &Begin,
        last_told: Option<Position>,
    ) -> Result<Option<Position>, Damage> {
        let Some(sent_usec) = begin.sent_usec else { return Ok(None) };
        let alone = last_told.is_none_or(|last| last.realtime.saturating_add(ALONE_USEC) < sent_usec);
        let since = if alone { sent_usec.saturating_sub(LEAD_USEC) } else { sent_usec };
        let mut first = None;
        let end = self.lower_bound(&self.unit, &begin.position)?;
        for index in (end.saturating_sub(EARLY_MOST)..end).rev() {
            let offset = self.unit.at(&self.file, index)?;
            let position = self.file.position(offset)?;
            if position.boot_id != begin.position.boot_id || position.realtime < since {
                break;
            }
            if position.realtime < sent_usec {
                let (_, known) = self.read(offset)?;
                if known.facts.has(Facts::INVOCATION) || known.facts.has(Facts::OTHER_INVOCATION) {
                    break;
                }
            }
            first = Some(position);
        }
        Ok(first)
    }

    /// The manager's last word about any run of the unit before `position`.
    pub(super) fn last_told_before(&mut self, position: &Position) -> Result<Option<Position>, Damage> {
        let end = self.lower_bound(&self.about_unit, position)?;
        for index in (end.saturating_sub(EARLY_MOST)..end).rev() {
            let offset = self.about_unit.at(&self.file, index)?;
            let (told, known) = self.read(offset)?;
            if known.facts.is_of_manager() {
                return Ok(Some(told));
            }
        }
        Ok(None)
    }

    /// The first entry of `chain`, before `end`, whose facts are `right`.
    fn first_that(
        &mut self,
        chain: &Chain,
        end: Option<&Position>,
        right: impl Fn(Facts) -> bool,
    ) -> Result<Option<(Position, u64)>, Damage> {
        for index in 0..chain.len() {
            let offset = chain.at(&self.file, index)?;
            let (position, known) = self.read(offset)?;
            if end.is_some_and(|end| position.order(end).is_ge()) {
                break;
            }
            if right(known.facts) {
                return Ok(Some((position, offset)));
            }
        }
        Ok(None)
    }

    /// As [`Lists::first_of_next_run`], among the entries of the unit's own processes.
    ///
    /// What is also in the list of the run's invocation is passed over without being read: a million lines of one run
    /// cost some twenty reads.
    fn first_own_of_next_run(
        &mut self,
        start: &Position,
        end: Option<&Position>,
        others: &mut Others<'_>,
    ) -> Result<Option<Position>, Damage> {
        let mut unit = self.lower_bound(&self.unit, start)?;
        let mut slots = Slots::new(self.unit.clone());
        // Where the next look at the other list is due: later and later as long as the lists have nothing in common, as
        // when journald could not tell the run of most lines.
        let (mut due, mut pause) = (unit, 1);
        while unit < self.unit.len() {
            if unit >= due {
                let offset = slots.get(&self.file, unit, Direction::Forward)?;
                let own = self.invocation.partition_point(|chain, index| Ok(chain.at(&self.file, index)? < offset))?;
                let step = self.agreeing(unit, own)?;
                pause = if step > 0 { 1 } else { (2 * pause).min(PAUSE_MOST) };
                unit += step;
                due = unit + pause;
                continue;
            }
            let offset = slots.get(&self.file, unit, Direction::Forward)?;
            let (position, known) = self.read(offset)?;
            if end.is_some_and(|end| position.order(end).is_ge()) {
                return Ok(None);
            }
            if known.facts.has(Facts::OTHER_INVOCATION) && others.is_later(&self.file, known.other)? {
                return Ok(Some(position));
            }
            unit += 1;
        }
        Ok(None)
    }

    /// How many entries, from these indexes on, the lists `unit` and `invocation` have in common one by one.
    ///
    /// Both ascend and the second is a part of the first, so if they agree at one place they agree everywhere before.
    fn agreeing(&self, unit: u64, own: u64) -> Result<u64, Damage> {
        let agree = |step: u64| {
            Ok::<_, Damage>(self.unit.at(&self.file, unit + step)? == self.invocation.at(&self.file, own + step)?)
        };
        let most = (self.unit.len().saturating_sub(unit)).min(self.invocation.len().saturating_sub(own));
        if most == 0 || !agree(0)? {
            return Ok(0);
        }
        if agree(most - 1)? {
            return Ok(most);
        }
        let (mut low, mut high) = (1, most - 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if agree(middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// The other invocations met in one file, by the place of their DATA object.
struct Others<'a> {
    later: &'a mut dyn FnMut(InvocationId) -> bool,
    known: HashMap<u64, bool>,
}

impl Others<'_> {
    fn is_later(&mut self, file: &JournalFile, offset: Option<NonZeroU64>) -> Result<bool, Damage> {
        let Some(offset) = offset.map(NonZeroU64::get) else { return Ok(false) };
        if let Some(later) = self.known.get(&offset) {
            return Ok(*later);
        }
        let field = file.field(offset, COMPARED)?;
        let later = invocation(&field).is_some_and(|id| (self.later)(id));
        self.known.insert(offset, later);
        Ok(later)
    }
}

/// The invocation in a field, whatever its name.
pub(super) fn invocation(field: &[u8]) -> Option<InvocationId> {
    let (_, value) = std::str::from_utf8(field).ok()?.split_once('=')?;
    value.parse().ok()
}

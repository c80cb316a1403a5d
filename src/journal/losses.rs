//! What of a run is lost, as far as the journal shows it before the entries are read.
//!
//! journald deletes its oldest files and leaves no note of that; but a run begins with a word of the system manager, so
//! one without it has lost its beginning. Of messages that it drops because there are too many, journald leaves a note,
//! but only right before the next message of the unit that it takes: often one of the next run.
//!
//! Not seen: what somebody deleted from the middle, and lines of a login user whose own files went before those of the
//! system.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Error;
use super::cursor::Span;
use super::damage::Damage;
use super::directory::Directories;
use super::facts::{Facts, Known};
use super::filter::Filter;
use super::lists::{Begin, EARLY_MOST, Lists};
use super::position::Position;
use super::reach::{Extent, LATE_USEC};
use super::search::Search;

/// Messages that the manager writes at this priority or a less urgent one are on by default.
const INFO: u8 = 6;
/// journald's limit counts anew after this time, unless somebody has set a longer one: twice the default.
const LIMIT_USEC: u64 = 60_000_000;
/// So many notes of dropped messages are looked at for those about the end of a run; journald may leave one for each
/// class of priority.
const NOTES_MOST: usize = 8;

/// What is lost of a run; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses {
    /// The first entries of the run are gone, and this is when the first of the others was received: microseconds since
    /// 1970.
    pub(crate) gone_before: Option<u64>,
    /// journald's first word in the run of dropped messages, and how many.
    pub(crate) first_drop: Option<(Position, u64)>,
    /// Its words before this place are about messages of an earlier run.
    pub(crate) drops_since: Option<Position>,
    /// How many messages were dropped behind the last entry of the run, of which journald told when the next run printed
    /// something, and when that run began: microseconds since 1970.
    pub(crate) dropped_at_end: Option<(u64, u64)>,
    /// A file that may hold some entries can't be read.
    pub(crate) is_unreadable: bool,
}

impl Losses {
    /// Those that concern the time that is wanted.
    pub(crate) fn within(self, filter: &Filter) -> Self {
        Self {
            gone_before: self.gone_before.filter(|usec| filter.since_usec.is_none_or(|since| since <= *usec)),
            first_drop: self.first_drop.filter(|(position, _)| filter.has_time(position)),
            dropped_at_end: self
                .dropped_at_end
                .filter(|(_, usec)| filter.until_usec.is_none_or(|until| until >= *usec)),
            ..self
        }
    }

    /// Whether entries are lost that journald had kept, and that may be found after all.
    pub(crate) fn may_be_made_good(&self) -> bool {
        self.gone_before.is_some() || self.is_unreadable
    }
}

/// What is lost of the run that begins so.
pub(super) fn of_run(search: &mut Search<'_>, begin: &Begin, span: &Span) -> Result<Losses, Error> {
    let told = search.each(told_of).into_iter().max().unwrap_or(Told::Nothing);
    let beginning_is_gone = match told {
        Told::Start => false,
        Told::Info => true,
        // journald reads the first words of a run and that of the manager from different sockets.
        Told::Nothing if begin.position.realtime.saturating_add(LATE_USEC) > now_usec() => false,
        // The manager may have been told to be silent about this unit, or altogether.
        Told::Nothing | Told::Warning => {
            search.each(tells_of_starts).contains(&true) || is_first_of_all(search, &begin.position)?
        }
    };
    let gone_before = beginning_is_gone.then_some(begin.position.realtime);
    let mut losses = Losses { gone_before, ..Losses::default() };
    if search.lists.iter().any(|lists| !lists.object.is_empty()) {
        find_drops(search, begin, span, &mut losses);
    }
    losses.is_unreadable = is_unreadable(search, told, span);
    Ok(losses)
}

/// What the manager has told of a run: the last of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    Warning,
    Info,
    Start,
}

fn told_of(lists: &mut Lists) -> Result<Told, Damage> {
    let mut told = Told::Nothing;
    for index in 0..lists.about_invocation.len() {
        let offset = lists.about_invocation.at(&lists.file, index)?;
        let (_, known) = lists.read(offset)?;
        if known.facts.is_of_manager() && known.facts.has(Facts::ABOUT_INVOCATION) {
            let info = if known.priority.is_some_and(|priority| priority >= INFO) { Told::Info } else { Told::Warning };
            told = told.max(if begins(lists, &known)? { Told::Start } else { info });
        }
    }
    Ok(told)
}

/// Whether this word of the manager says that a run begins, or has begun.
fn begins(lists: &mut Lists, known: &Known) -> Result<bool, Damage> {
    if !known.facts.has(Facts::STARTED) {
        return Ok(known.facts.has(Facts::STARTING));
    }
    // Of a unit that does its work while it starts the same message says that it has done so.
    let Some(message) = known.message else { return Ok(false) };
    Ok(lists.reader.message(&lists.file, message.get())?.starts_with(b"Started "))
}

/// Whether the manager tells of starts of the unit at all.
fn tells_of_starts(lists: &mut Lists) -> Result<bool, Damage> {
    let end = lists.about_unit.len();
    for index in (end.saturating_sub(EARLY_MOST)..end).rev() {
        let offset = lists.about_unit.at(&lists.file, index)?;
        let (_, Known { facts, .. }) = lists.read(offset)?;
        if facts.is_of_manager() && (facts.has(Facts::STARTING) || facts.has(Facts::STARTED)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there is no older entry in those files to which the words of the manager go.
fn is_first_of_all(search: &Search<'_>, position: &Position) -> Result<bool, Error> {
    // A header knows the place of an entry, but not its hash.
    let position = Position { xor_hash: 0, ..*position };
    Ok(firsts_of_manager(search.directories)?.iter().all(|first| first.order(&position).is_ge()))
}

/// The oldest entry of those files to which the words of the manager go, by the clock.
pub(super) fn first_of_manager(directories: &Directories) -> Result<Option<Position>, Error> {
    Ok(firsts_of_manager(directories)?.into_iter().min_by_key(|first| first.realtime))
}

/// The first entry of each of the files to which the words of the manager go.
fn firsts_of_manager(directories: &Directories) -> Result<Vec<Position>, Error> {
    let is_of_user = |name: &OsStr| name.as_encoded_bytes().starts_with(b"user-");
    let is_of_system =
        |path: &Path| directories.namespace_of(path).is_none() && !path.file_name().is_some_and(is_of_user);
    let files = directories.files()?;
    let files = files.iter().filter(|listed| is_of_system(&listed.path));
    Ok(files.filter_map(|listed| listed.open().ok()?.reach().first).collect())
}

fn now_usec() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}

/// Whether a file that can't be read may hold an entry of the run.
fn is_unreadable(search: &mut Search<'_>, told: Told, span: &Span) -> bool {
    if search.unread.is_empty() {
        return false;
    }
    let words = search.words();
    let last = if words.end().is_some() { words.last() } else { span.end };
    let extent = Extent { first: (told == Told::Start).then_some(span.start), last };
    search.unread.iter().any(|unread| extent.may_lie_in(&unread.reach))
}

/// Finds out which messages of the run were dropped.
fn find_drops(search: &mut Search<'_>, begin: &Begin, span: &Span, losses: &mut Losses) {
    // Nothing of the run was dropped together with what came so long before it.
    let is_old = |line: &Line| line.position.realtime.saturating_add(LIMIT_USEC) < begin.started_usec();
    if newest_line_before(search, &span.start).is_some_and(|line| is_old(&line)) {
        let lines = search.each(|lists| first_line_since(lists, &span.start));
        losses.drops_since = lines.into_iter().flatten().reduce(Position::earlier);
    }
    let is_of_run = |note: &Note| note.is_of_run(span);
    let counts = |note: &Note| losses.drops_since.is_none_or(|since| note.position.order(&since).is_ge());
    let notes = notes_since(search, &span.start);
    losses.first_drop =
        notes.into_iter().find(|note| is_of_run(note) && counts(note)).map(|note| (note.position, note.count));
    let Some(end) = span.end else { return };
    for note in notes_since(search, &end).into_iter().filter(|note| !is_of_run(note)) {
        // It is about all that was printed since the last line that was taken.
        let concerns_run = newest_line_before(search, &note.position).is_none_or(|line| {
            let is_before_run = line.position.order(&span.start).is_lt();
            if is_before_run { !is_old(&line) } else { line.names_run || line.position.order(&end).is_lt() }
        });
        if !concerns_run {
            break;
        }
        let (count, _) = losses.dropped_at_end.unwrap_or_default();
        losses.dropped_at_end = Some((count.saturating_add(note.count), end.realtime));
    }
}

/// What journald wrote of dropped messages of the unit.
struct Note {
    position: Position,
    facts: Facts,
    count: u64,
}

impl Note {
    fn is_of_run(&self, span: &Span) -> bool {
        let names_other = self.facts.has(Facts::OBJECT_OTHER_INVOCATION);
        self.facts.has(Facts::OBJECT_INVOCATION) || (!names_other && span.holds(&self.position))
    }
}

/// The first notes at or after `position`, or so little before it that they may be of a run that begins there.
fn notes_since(search: &mut Search<'_>, position: &Position) -> Vec<Note> {
    let in_file = |lists: &mut Lists| {
        let start = lists.lower_bound_with_lead(&lists.object, position)?;
        let mut notes = Vec::new();
        for index in start..lists.object.len().min(start + EARLY_MOST) {
            let offset = lists.object.at(&lists.file, index)?;
            let (position, known) = lists.read(offset)?;
            if let Some(count) = known.suppressed() {
                notes.push(Note { position, facts: known.facts, count });
                if notes.len() == NOTES_MOST {
                    break;
                }
            }
        }
        Ok(notes)
    };
    // One journald writes them all into one file.
    search.each(in_file).into_iter().flatten().collect()
}

/// A line that a process of the unit printed.
struct Line {
    position: Position,
    names_run: bool,
}

fn newest_line_before(search: &mut Search<'_>, position: &Position) -> Option<Line> {
    let in_file = |lists: &mut Lists| {
        let Some(index) = lists.lower_bound(&lists.unit, position)?.checked_sub(1) else { return Ok(None) };
        let offset = lists.unit.at(&lists.file, index)?;
        let (position, known) = lists.read(offset)?;
        Ok(Some(Line { position, names_run: known.facts.has(Facts::INVOCATION) }))
    };
    let later = |a: Line, b: Line| if b.position.order(&a.position).is_gt() { b } else { a };
    search.each(in_file).into_iter().flatten().reduce(later)
}

fn first_line_since(lists: &mut Lists, position: &Position) -> Result<Option<Position>, Damage> {
    let index = lists.lower_bound(&lists.unit, position)?;
    if index == lists.unit.len() {
        return Ok(None);
    }
    lists.file.position(lists.unit.at(&lists.file, index)?).map(Some)
}

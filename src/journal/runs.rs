//! Runs of a unit: finding them, their entries and how they ended.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use crate::invocation::InvocationId;
use crate::policy::AllowedJob;

use super::chain::Chain;
use super::cursor::FileCursor;
use super::damage::{Damage, Problem};
use super::directory::Directories;
use super::entries::Entries;
use super::facts::{COMPARED, Facts, Known};
use super::filter::Filter;
use super::gaps::Gaps;
use super::lists::{Lists, invocation};
use super::position::Position;
use super::reach::Extent;
use super::search::{Search, Unread};
use super::streams::Files;
use super::words::RunEnd;
use super::{Error, From, Run, losses};

/// How many archived files are looked through for a value that may just have arrived.
const ARCHIVED_LOOKED_AT: usize = 4;

/// A run that the journal knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRun {
    /// Its id.
    pub invocation: InvocationId,
    /// When it began, by the system manager: microseconds since 1970; `None` if the journal has not, or no longer, got
    /// that word.
    pub started_usec: Option<u64>,
    /// How it ended; `None` if the journal has no word of it.
    pub ended: Option<RunEnd>,
}

/// The entries of a run.
pub(super) fn entries(
    directories: &Arc<Directories>,
    run: &Run,
    from: &From,
    filter: &Filter,
) -> Result<Entries, Error> {
    let mut search = Search::new(directories, run.job.unit(), Some(run.invocation))?;
    let mut cursors = Vec::new();
    // Files are looked into one after the other. Without a bound, an entry written meanwhile to a later file could be told,
    // and one written before it to an earlier file not, which who goes on behind the former would never see.
    let horizon = search.horizon();
    search.look_again()?;
    let mut gaps = Gaps::default();
    let begin = search.begin();
    let is_known = begin.is_some();
    if let (Some(begin), Some(horizon)) = (begin, horizon) {
        let span = search.span(&begin);
        gaps = Gaps::of(losses::of_run(&mut search, &begin, &span)?.within(filter));
        let late = search.is_followed_closely(&span);
        let files = Arc::new(Files::new(search.files().into_iter().map(|(_, file)| file).collect()));
        let extent = Extent { first: Some(span.start), last: span.end };
        search.lists.retain(|lists| lists.may_have(&extent));
        for lists in std::mem::take(&mut search.lists) {
            let (path, file) = (lists.path.clone(), Arc::clone(&lists.file));
            let cursor = FileCursor::new(lists, span, &horizon, late, Arc::clone(&files));
            match cursor.and_then(|mut cursor| cursor.keep(*filter).map(|()| cursor)) {
                Ok(cursor) => cursors.push(cursor),
                Err(damage) => {
                    gaps.meet_damage();
                    search.unread.push(Unread::of(&path, &file, damage));
                }
            }
        }
    } else if !search.unread.is_empty() {
        gaps.meet_damage();
    }
    search.report();
    let problems = search.unread.into_iter().map(|unread| unread.problem).collect();
    Ok(Entries::new(cursors, gaps, is_known, problems, Arc::clone(directories), from))
}

/// The namespaces in which processes of a run printed on their standard output; `None` is the journal of the host.
pub(super) fn printed_in(directories: &Arc<Directories>, run: &Run) -> Result<BTreeSet<Option<String>>, Error> {
    let mut search = Search::new(directories, run.job.unit(), Some(run.invocation))?;
    let Some(begin) = search.begin() else { return Ok(BTreeSet::new()) };
    let span = search.span(&begin);
    let printed = search.each(|lists| Ok(lists.has_printed(&span)?.then(|| lists.path.clone())));
    let namespace = |path: PathBuf| directories.namespace_of(&path).map(str::to_owned);
    Ok(printed.into_iter().flatten().map(namespace).collect())
}

/// What is known of one run.
pub(super) fn find(directories: &Arc<Directories>, run: &Run) -> Result<Option<FoundRun>, Error> {
    let mut search = Search::new(directories, run.job.unit(), Some(run.invocation))?;
    let begin = search.begin();
    let words = search.words();
    search.report();
    Ok(begin.map(|begin| FoundRun {
        invocation: run.invocation,
        started_usec: words.begin().then_some(begin.started_usec()),
        ended: words.end(),
    }))
}

/// The newest run of a unit.
pub(super) fn last(directories: &Arc<Directories>, job: &AllowedJob) -> Result<Option<FoundRun>, Error> {
    let mut search = Search::new(directories, job.unit(), None)?;
    // From the newest file on; an older one has nothing to say once something newer than all of it is found.
    search.lists.reverse();
    let told = latest(&mut search, |lists| {
        let is_of_manager = |facts: Facts| facts.is_of_manager() && facts.has(Facts::ABOUT_OTHER_INVOCATION);
        newest(lists, |lists| &lists.about_unit, is_of_manager, |known| known.about_other)
    });
    let own = latest(&mut search, |lists| {
        let is_own = |facts: Facts| facts.has(Facts::UNIT.and(Facts::OTHER_INVOCATION));
        newest(lists, |lists| &lists.unit, is_own, |known| known.other)
    });
    search.report();
    let found = |invocation| find(directories, &Run { job: job.clone(), invocation });
    match (told, own) {
        (Some(told), Some(own)) if told != own => {
            // The last words of one run may be read after the first ones of the next.
            let (told, own) = (found(told)?, found(own)?);
            let newer = |run: &Option<FoundRun>| run.as_ref().and_then(|run| run.started_usec);
            Ok(if newer(&own) > newer(&told) { own } else { told })
        }
        (Some(invocation), _) | (None, Some(invocation)) => found(invocation),
        (None, None) => Ok(None),
    }
}

/// The latest of what the files answer.
fn latest(
    search: &mut Search<'_>,
    mut ask: impl FnMut(&mut Lists) -> Result<Option<(Position, InvocationId)>, Damage>,
) -> Option<InvocationId> {
    let mut latest: Option<(Position, InvocationId)> = None;
    search.each(|lists| {
        let is_newer = |position: &Position| latest.is_none_or(|(known, _)| position.order(&known).is_gt());
        if lists.reach.last.as_ref().is_none_or(is_newer)
            && let Some(found) = ask(lists)?.filter(|(position, _)| is_newer(position))
        {
            latest = Some(found);
        }
        Ok(())
    });
    latest.map(|(_, invocation)| invocation)
}

/// The newest entry of a list whose facts are `right`, and the invocation it names.
fn newest(
    lists: &mut Lists,
    list: impl Fn(&Lists) -> &Chain,
    right: impl Fn(Facts) -> bool,
    other: impl Fn(&Known) -> Option<NonZeroU64>,
) -> Result<Option<(Position, InvocationId)>, Damage> {
    for index in (0..list(lists).len()).rev() {
        let offset = list(lists).at(&lists.file, index)?;
        let (position, known) = lists.read(offset)?;
        if right(known.facts)
            && let Some(other) = other(&known)
            && let Some(id) = invocation(&lists.file.field(other.get(), COMPARED)?)
        {
            return Ok(Some((position, id)));
        }
    }
    Ok(None)
}

/// Whether an entry with that field has arrived.
pub(super) fn holds(directories: &Arc<Directories>, field: &[u8], value: &[u8]) -> Result<bool, Error> {
    let mut archived = 0;
    for listed in directories.files()?.iter() {
        let file = match listed.open() {
            Ok(file) => file,
            Err(damage) => {
                directories.report(&Problem::new(&listed.path, damage));
                continue;
            }
        };
        if file.archived() {
            archived += 1;
            if archived > ARCHIVED_LOOKED_AT {
                continue;
            }
        }
        match file.find(field, value) {
            // The value is written before the entry that has it.
            Ok(data) if data.is_some_and(|data| data.entries > 0) => return Ok(true),
            Ok(_) => {}
            Err(damage) => directories.report(&Problem::new(&listed.path, damage)),
        }
    }
    Ok(false)
}

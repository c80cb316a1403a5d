//! The search for what the journal has of a unit and one of its runs, in all files at once.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::invocation::InvocationId;

use super::Error;
use super::chain::Chain;
use super::cursor::Span;
use super::damage::{Damage, Problem};
use super::directory::Directories;
use super::facts::Wanted;
use super::file::JournalFile;
use super::lists::{Begin, Lists};
use super::position::Position;
use super::reach::{Extent, LATE_USEC, Reach};
use super::words::Words;

/// A file that could not be read, and where its entries lie.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) problem: Problem,
    pub(super) reach: Reach,
}

impl Unread {
    pub(super) fn of(path: &Path, file: &JournalFile, damage: Damage) -> Self {
        Self { problem: Problem::new(path, damage), reach: file.reach() }
    }
}

/// The files that have something of the unit, and those that could not be read on the way.
pub(super) struct Search<'a> {
    pub(super) directories: &'a Arc<Directories>,
    unit: &'a str,
    run: Option<InvocationId>,
    pub(super) lists: Vec<Lists>,
    pub(super) unread: Vec<Unread>,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        directories: &'a Arc<Directories>,
        unit: &'a str,
        run: Option<InvocationId>,
    ) -> Result<Self, Error> {
        let wanted = &Wanted::new(unit, run);
        let mut search = Self { directories, unit, run, lists: Vec::new(), unread: Vec::new() };
        let mut readable = false;
        for listed in directories.files()?.iter() {
            let path = &listed.path;
            let file = match listed.open() {
                Ok(file) => file,
                // journald has deleted it since it was listed.
                Err(Damage::Io(error)) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(Damage::Empty) => continue,
                Err(damage) => {
                    search.unread.push(Unread { problem: Problem::new(path, damage), reach: listed.reach() });
                    continue;
                }
            };
            match Lists::find(path, &file, wanted) {
                Ok(lists) => {
                    readable = true;
                    search.lists.extend(lists);
                }
                Err(damage) => search.unread.push(Unread::of(path, &file, damage)),
            }
        }
        let unlisted = directories.unlisted().into_iter();
        search.unread.extend(unlisted.map(|problem| Unread { problem, reach: Reach::default() }));
        match search.unread.last().map(|unread| unread.problem.clone()) {
            Some(problem) if !readable => {
                search.report();
                Err(Error::Unreadable(Box::new(problem)))
            }
            _ => {
                // The next run is found in the oldest of the later files; the others need not be looked at then.
                search.lists.sort_by_key(|lists| lists.reach.first.map(|first| first.realtime));
                Ok(search)
            }
        }
    }

    /// The newest entry that is in any of the lists.
    ///
    /// journald writes one entry after the other. So when an entry can be found in the list of one field, every entry
    /// before it can be found in all lists and files.
    pub(super) fn horizon(&mut self) -> Option<Position> {
        self.each(Lists::newest).into_iter().flatten().reduce(|a, b| if b.order(&a).is_gt() { b } else { a })
    }

    /// Looks the lists up once more that may have grown meanwhile, also in files that are new.
    pub(super) fn look_again(&mut self) -> Result<(), Error> {
        let wanted = &Wanted::new(self.unit, self.run);
        for listed in self.directories.files()?.iter() {
            // What can't be read was a problem at the first look, or is one of the next query.
            let Ok(file) = listed.open() else { continue };
            let known = self.lists.iter().position(|lists| lists.path == listed.path);
            if file.archived() && known.is_some() {
                continue;
            }
            if let Ok(Some(found)) = Lists::find(&listed.path, &file, wanted) {
                match known.and_then(|known| self.lists.get_mut(known)) {
                    Some(lists) => *lists = found,
                    None => self.lists.push(found),
                }
            }
        }
        Ok(())
    }

    /// Has the journal remember the problems that were met.
    pub(super) fn report(&self) {
        self.unread.iter().for_each(|unread| self.directories.report(&unread.problem));
    }

    pub(super) fn each<T>(&mut self, ask: impl FnMut(&mut Lists) -> Result<T, Damage>) -> Vec<T> {
        each(&mut self.lists, &mut self.unread, ask)
    }

    /// How the run that was asked for begins.
    pub(super) fn begin(&mut self) -> Option<Begin> {
        self.each(Lists::first_of_run).into_iter().flatten().reduce(Begin::earlier)
    }

    /// The first position of a run, those of its words counted that were received before the manager's.
    fn with_early_words(&mut self, begin: &Begin) -> Position {
        let near = Extent { first: Some(begin.position), last: Some(begin.position) };
        let told =
            self.each(
                |lists| if near.may_lie_in(&lists.reach) { lists.last_told_before(&begin.position) } else { Ok(None) },
            );
        let last_told = told.into_iter().flatten().max_by_key(|told| told.realtime);
        let early =
            self.each(
                |lists| {
                    if near.may_lie_in(&lists.reach) { lists.first_since_sent(begin, last_told) } else { Ok(None) }
                },
            );
        early.into_iter().flatten().fold(begin.position, Position::earlier)
    }

    /// From the run's first position to that of the next run.
    pub(super) fn span(&mut self, begin: &Begin) -> Span {
        let files = self.files();
        let mut known = HashMap::new();
        let mut later = |other: InvocationId| {
            *known.entry(other).or_insert_with(|| {
                let other = Wanted::new(self.unit, Some(other));
                let firsts = files.iter().filter_map(|(path, file)| {
                    Lists::find(path, file, &other).ok().flatten()?.first_of_run().ok().flatten()
                });
                firsts.reduce(Begin::earlier).is_none_or(|first| first.position.order(&begin.position).is_ge())
            })
        };
        let mut next: Option<Begin> = None;
        each(&mut self.lists, &mut self.unread, |lists| {
            let end = next.map(|next| next.position);
            if !(Extent { first: Some(begin.position), last: end }).may_lie_in(&lists.reach) {
                return Ok(());
            }
            let found = lists.first_of_next_run(&begin.position, end.as_ref(), &mut later)?;
            next = next.into_iter().chain(found).reduce(Begin::earlier);
            Ok(())
        });
        let start = self.with_early_words(begin);
        Span { start, end: next.map(|next| self.with_early_words(&next)) }
    }

    /// What the system manager said of the run that was asked for.
    pub(super) fn words(&mut self) -> Words {
        Words::merge(self.each(Words::of_file))
    }

    pub(super) fn files(&self) -> Vec<(PathBuf, Arc<JournalFile>)> {
        self.lists.iter().map(|lists| (lists.path.clone(), Arc::clone(&lists.file))).collect()
    }

    /// Whether the next run began so soon that the last words of this one may have come after.
    pub(super) fn is_followed_closely(&mut self, span: &Span) -> bool {
        let Some(end) = span.end else { return false };
        let lasts = self.each(|lists| {
            let last = |chain: &Chain| match chain.len().checked_sub(1) {
                Some(last) => lists.file.position(chain.at(&lists.file, last)?).map(Some),
                None => Ok(None),
            };
            Ok([last(&lists.invocation)?, last(&lists.about_invocation)?])
        });
        let last = lasts.into_iter().flatten().flatten().map(|position| position.realtime).max();
        last.is_some_and(|last| last.saturating_add(LATE_USEC) > end.realtime)
    }
}

/// Asks every file; one that fails is left out from here on.
fn each<T>(
    lists: &mut Vec<Lists>,
    unread: &mut Vec<Unread>,
    mut ask: impl FnMut(&mut Lists) -> Result<T, Damage>,
) -> Vec<T> {
    let mut answers = Vec::new();
    lists.retain_mut(|lists| match ask(lists) {
        Ok(answer) => {
            answers.push(answer);
            true
        }
        Err(damage) => {
            unread.push(Unread::of(&lists.path, &lists.file, damage));
            false
        }
    });
    answers
}

//! The entries of one run, merged from all files.

use std::sync::Arc;

use super::chain::Direction;
use super::cursor::{FileCursor, Found};
use super::damage::Problem;
use super::directory::Directories;
use super::position::Position;
use super::{Entry, From};

/// The entries of one run, oldest first, as they were when the query was made.
///
/// A file that can't be read on is left out from there on; [`Entries::problems`] tells of it.
#[derive(Debug)]
pub struct Entries {
    cursors: Vec<FileCursor>,
    /// Which cursor is nearest, and where the second nearest stands: most of the time the same file goes on.
    leader: Option<(usize, Option<Position>)>,
    /// The entry passed last: files may hold the same one.
    last: Option<Position>,
    gap: bool,
    problems: Vec<Problem>,
    directories: Arc<Directories>,
}

impl Entries {
    pub(super) fn new(
        cursors: Vec<FileCursor>,
        problems: Vec<Problem>,
        directories: Arc<Directories>,
        from: &From,
    ) -> Self {
        let mut entries = Self { cursors, leader: None, last: None, gap: false, problems, directories };
        match from {
            From::Start => {}
            From::Last(count) => entries.back_from_end(*count),
            From::After(position) => entries.seek(position),
        }
        entries
    }

    /// Whether the position that was asked for no longer exists, so that entries after it may be missing.
    #[must_use]
    pub fn gap(&self) -> bool {
        self.gap
    }

    /// The files that could not be read wholly up to now.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn back_from_end(&mut self, count: usize) {
        self.cursors.iter_mut().for_each(FileCursor::move_to_end);
        for _ in 0..count {
            if self.pass(Direction::Backward).is_none() {
                break;
            }
        }
        self.leader = None;
        self.last = None;
    }

    fn seek(&mut self, position: &Position) {
        let mut there = false;
        for cursor in &mut self.cursors {
            match cursor.after(position) {
                Ok(found) => there |= found,
                Err(damage) => cursor.note(damage),
            }
        }
        self.gap = !there;
    }

    /// Moves over the nearest entry; one that is in several files counts once.
    fn pass(&mut self, direction: Direction) -> Option<(usize, Found)> {
        loop {
            let (index, found) = self.nearest(direction)?;
            self.cursors.get_mut(index)?.pass();
            if self.last.replace(found.position) != Some(found.position) {
                return Some((index, found));
            }
        }
    }

    fn nearest(&mut self, direction: Direction) -> Option<(usize, Found)> {
        let nearer = |a: &Position, b: &Position| match direction {
            Direction::Forward => a.order(b).is_lt(),
            Direction::Backward => a.order(b).is_gt(),
        };
        if let Some((index, second)) = &self.leader
            && let Some(found) = self.cursors.get_mut(*index).and_then(|cursor| cursor.peek(direction))
            && second.as_ref().is_none_or(|second| nearer(&found.position, second))
        {
            return Some((*index, found));
        }
        if direction == Direction::Forward {
            self.drop_exhausted();
        }
        let mut first: Option<(usize, Found)> = None;
        let mut second: Option<Position> = None;
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            let Some(found) = cursor.peek(direction) else { continue };
            let behind = match &first {
                Some((_, best)) if !nearer(&found.position, &best.position) => found.position,
                _ => match first.replace((index, found)) {
                    Some((_, best)) => best.position,
                    None => continue,
                },
            };
            if second.is_none_or(|second| nearer(&behind, &second)) {
                second = Some(behind);
            }
        }
        self.leader = first.map(|(index, _)| (index, second));
        first
    }

    /// Lets go of the files that have nothing more, and of their memory.
    fn drop_exhausted(&mut self) {
        self.leader = None;
        let mut problems = Vec::new();
        self.cursors.retain_mut(|cursor| {
            let more = cursor.peek(Direction::Forward).is_some();
            problems.extend(cursor.take_problem());
            more
        });
        for problem in problems {
            self.note(problem);
        }
    }

    fn note(&mut self, problem: Problem) {
        self.directories.report(&problem);
        if self.problems.iter().all(|known| known.path() != problem.path()) {
            self.problems.push(problem);
        }
    }
}

/// The entries of one run from the last to the first.
#[derive(Debug)]
pub struct NewestFirst(Entries);

impl NewestFirst {
    /// As [`Entries::problems`].
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        self.0.problems()
    }
}

impl Iterator for NewestFirst {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.0.read(Direction::Backward)
    }
}

impl Iterator for Entries {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.read(Direction::Forward)
    }
}

impl Entries {
    /// The same entries, the other way round.
    #[must_use]
    pub fn newest_first(mut self) -> NewestFirst {
        self.cursors.iter_mut().for_each(FileCursor::move_to_end);
        self.leader = None;
        self.last = None;
        NewestFirst(self)
    }

    fn read(&mut self, direction: Direction) -> Option<Entry> {
        loop {
            let (index, found) = self.pass(direction)?;
            let cursor = self.cursors.get_mut(index)?;
            let message = cursor.message(&found);
            let problem = match message {
                Ok(message) => {
                    let Found { position, source, known } = found;
                    return Some(Entry { position, priority: known.priority, source, message });
                }
                Err(damage) => {
                    cursor.note(damage);
                    cursor.take_problem()
                }
            };
            if let Some(problem) = problem {
                self.note(problem);
            }
        }
    }
}

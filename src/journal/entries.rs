//! The entries of one run, merged from all files.

use std::sync::Arc;

use super::chain::Direction;
use super::cursor::FileCursor;
use super::damage::Problem;
use super::directory::Directories;
use super::gaps::{Gap, Gaps};
use super::losses::Losses;
use super::position::Position;
use super::{Entry, Error, From};

/// The entries of one run, oldest first, as they were when the query was made.
///
/// A file found damaged on the way gives one error in place of the entries that can't be read; the iteration goes on with
/// the entries of the other files. Files that could not be read from the beginning are told by [`Entries::problems`].
#[derive(Debug)]
pub struct Entries {
    cursors: Vec<FileCursor>,
    /// Which cursor is nearest, and where the second nearest stands: most of the time the same file goes on.
    leader: Option<(usize, Option<Position>)>,
    /// The entry passed last: files may hold the same one.
    last: Option<Position>,
    gaps: Gaps,
    is_known: bool,
    problems: Vec<Problem>,
    /// Those of the problems that the caller has yet to hear of between the entries.
    untold: Vec<Problem>,
    directories: Arc<Directories>,
}

impl Entries {
    pub(super) fn new(
        cursors: Vec<FileCursor>,
        gaps: Gaps,
        is_known: bool,
        problems: Vec<Problem>,
        directories: Arc<Directories>,
        from: &From,
    ) -> Self {
        let untold = Vec::new();
        let mut entries = Self { cursors, leader: None, last: None, gaps, is_known, problems, untold, directories };
        match from {
            From::Start => entries.gaps.meet_all(),
            From::Last(count) => entries.back_from_end(*count),
            From::After(position) => entries.seek(position),
        }
        entries
    }

    /// What is missing, each kind once.
    ///
    /// After a position: what was met up to now. Otherwise also what the entries are sure to come to, so that it can be
    /// told before they are; only a file that turns out to be damaged is told when it is met.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        self.gaps.met()
    }

    /// Whether the journal has anything of the run. If it has not, it can't tell what is missing either.
    #[must_use]
    pub fn knows_run(&self) -> bool {
        self.is_known
    }

    /// What is missing of the run, for who keeps its entries elsewhere: a file that turns out to be damaged is told when
    /// it is met, so the last entry must have been read.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.gaps.losses().clone()
    }

    /// The same entries from the newest to the oldest, read in that order.
    #[must_use]
    pub fn newest_first(mut self) -> NewestFirst {
        for cursor in &mut self.cursors {
            cursor.forget_before();
            cursor.move_to_end();
        }
        self.leader = None;
        self.last = None;
        NewestFirst(self)
    }

    /// The files that could not be read wholly up to now.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The cursors that are left when all entries have been passed: those in files that are still written to.
    pub(super) fn into_cursors(self) -> Vec<FileCursor> {
        self.cursors
    }

    fn back_from_end(&mut self, count: usize) {
        self.cursors.iter_mut().for_each(FileCursor::move_to_end);
        self.gaps.meet_end();
        for _ in 0..count {
            if self.pass(Direction::Backward).is_none() {
                self.gaps.meet_start();
                break;
            }
        }
        // What was passed over is told before it is read again.
        self.collect();
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
        if !there {
            self.gaps.lose_place();
        }
    }

    /// Moves over the nearest entry; one that is in several files counts once.
    fn pass(&mut self, direction: Direction) -> Option<&mut FileCursor> {
        loop {
            let index = self.nearest(direction)?;
            let found = self.cursors.get_mut(index)?.pass()?;
            if self.last.as_ref() != Some(&found.position) {
                self.last = Some(found.position);
                found.suppressed = found.suppressed.filter(|count| self.gaps.meet_drop(&found.position, *count));
                return self.cursors.get_mut(index);
            }
        }
    }

    /// The cursor whose next entry is nearest.
    fn nearest(&mut self, direction: Direction) -> Option<usize> {
        let nearer = |a: &Position, b: &Position| match direction {
            Direction::Forward => a.order(b).is_lt(),
            Direction::Backward => a.order(b).is_gt(),
        };
        if let Some((index, second)) = &self.leader
            && let Some(position) = self.cursors.get_mut(*index).and_then(|cursor| cursor.peek(direction))
            && second.as_ref().is_none_or(|second| nearer(position, second))
        {
            return Some(*index);
        }
        for cursor in &mut self.cursors {
            cursor.peek(direction);
        }
        self.collect();
        if direction == Direction::Forward {
            // A file that has nothing more and will not get more lets go of its memory.
            self.cursors.retain_mut(|cursor| cursor.is_growing() || cursor.peek(direction).is_some());
        }
        let mut first: Option<(usize, Position)> = None;
        let mut second: Option<Position> = None;
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            let Some(position) = cursor.peek(direction).copied() else { continue };
            let behind = match first {
                Some((_, best)) if !nearer(&position, &best) => position,
                _ => match first.replace((index, position)) {
                    Some((_, best)) => best,
                    None => continue,
                },
            };
            if second.is_none_or(|second| nearer(&behind, &second)) {
                second = Some(behind);
            }
        }
        self.leader = first.map(|(index, _)| (index, second));
        self.leader.map(|(index, _)| index)
    }

    fn advance(&mut self, direction: Direction) -> Option<Result<Entry, Error>> {
        loop {
            if let Some(problem) = self.untold.pop() {
                return Some(Err(Error::Damaged(Box::new(problem))));
            }
            let Some(cursor) = self.pass(direction) else {
                if self.untold.is_empty() {
                    self.gaps.meet_end();
                    return None;
                }
                continue;
            };
            match cursor.entry()? {
                Ok(entry) => return Some(Ok(entry)),
                Err(damage) => {
                    cursor.note(damage);
                    self.collect();
                }
            }
        }
    }

    /// Takes over what went wrong in the files.
    fn collect(&mut self) {
        for (position, count) in self.cursors.iter_mut().flat_map(FileCursor::take_drops) {
            self.gaps.meet_drop(&position, count);
        }
        let problems: Vec<_> = self.cursors.iter_mut().filter_map(FileCursor::take_problem).collect();
        for problem in problems {
            self.directories.report(&problem);
            self.gaps.meet_damage();
            if self.problems.iter().all(|known| known.path() != problem.path()) {
                self.problems.push(problem.clone());
                self.untold.push(problem);
            }
        }
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance(Direction::Forward)
    }
}

/// What [`Entries`] has, newest first.
#[derive(Debug)]
pub struct NewestFirst(Entries);

impl NewestFirst {
    /// As [`Entries::gaps`].
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        self.0.gaps()
    }
}

impl Iterator for NewestFirst {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.advance(Direction::Backward)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_can_be_sent_to_another_thread() {
        fn is_sent<T: Send + 'static>() {}
        is_sent::<Entries>();
        is_sent::<NewestFirst>();
    }
}

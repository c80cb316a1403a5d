//! What is missing of a run's log.

use std::collections::HashSet;

use super::losses::Losses;
use super::position::Position;

/// Why entries of a run are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gap {
    /// journald has deleted the files that held them, as it does with the oldest.
    Vacuumed,
    /// journald dropped at least so many messages: there were too many of the unit in a short time.
    ///
    /// Source: journald.conf(5), `RateLimitIntervalSec=`.
    Suppressed(u64),
    /// A file that may hold some can't be read, or not wholly.
    Unreadable,
}

/// What is missing of a run, and how much of that has been met.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    losses: Losses,
    place_is_gone: bool,
    is_at_start: bool,
    is_at_end: bool,
    drops: HashSet<Position>,
    dropped: u64,
}

impl Gaps {
    pub(crate) fn of(losses: Losses) -> Self {
        Self { losses, ..Self::default() }
    }

    /// All that is missing, as far as is known.
    pub(super) fn losses(&self) -> &Losses {
        &self.losses
    }

    /// The reading has come to the first entry, or begins with it.
    pub(crate) fn meet_start(&mut self) {
        self.is_at_start = true;
    }

    /// The reading has come to the last entry, or is sure to.
    pub(crate) fn meet_end(&mut self) {
        self.is_at_end = true;
    }

    /// The reading comes to all of the run, so that what is missing can be told beforehand.
    pub(crate) fn meet_all(&mut self) {
        self.meet_start();
        self.meet_end();
        if let Some((position, count)) = self.losses.first_drop {
            self.meet_drop(&position, count);
        }
    }

    /// journald's word in the run that it dropped so many messages; false if those are of an earlier run.
    pub(crate) fn meet_drop(&mut self, position: &Position, count: u64) -> bool {
        let is_own = self.losses.drops_since.is_none_or(|since| position.order(&since).is_ge());
        if is_own && self.drops.insert(*position) {
            self.dropped = self.dropped.saturating_add(count);
        }
        is_own
    }

    /// A part of a file can't be read.
    pub(crate) fn meet_damage(&mut self) {
        self.losses.is_unreadable = true;
    }

    /// The entry behind which to begin does not exist any more.
    pub(crate) fn lose_place(&mut self) {
        self.place_is_gone = true;
    }

    /// Those that were met up to now, each once.
    pub(crate) fn met(&self) -> Vec<Gap> {
        let is_vacuumed = self.place_is_gone || (self.is_at_start && self.losses.gone_before.is_some());
        let at_end = self.losses.dropped_at_end.filter(|_| self.is_at_end).map_or(0, |(count, _)| count);
        let dropped = self.dropped.saturating_add(at_end);
        // An entry may be missing because its file can't be read, so then nobody says that it was deleted.
        let vacuumed = (is_vacuumed && !self.losses.is_unreadable).then_some(Gap::Vacuumed);
        let suppressed = (dropped > 0).then_some(Gap::Suppressed(dropped));
        let unreadable = self.losses.is_unreadable.then_some(Gap::Unreadable);
        [vacuumed, suppressed, unreadable].into_iter().flatten().collect()
    }
}

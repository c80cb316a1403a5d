//! What follows from a poll: who came, who went, and whose state has changed for long enough to say so.
//!
//! A function of what was known, what was seen and when. Two states of a runner are told apart: what its service says now,
//! which makes its history and its uptime, and the state that was confirmed, which alerts tell of. The second follows the
//! first after a grace, so that a short break alerts nobody.
//!
//! Absent: where this is kept, who is told, and any clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::uptime::{Entry, State};
use super::{ExternalId, Seen};
use crate::config::Grace;

/// How a source is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long a runner has to be seen in its new state before anybody is told. With polls, the next one after so many
    /// is told; with a time, the first one when it has passed since the first of them.
    pub grace: Grace,
    /// Whether runners that take one job only are passed over. Each of them comes and goes with its job.
    pub ignore_ephemeral: bool,
    /// Whether a list that has lost half of its runners, and [`MASS`] or more, is believed only when the next poll says
    /// the same.
    pub doubt_mass_removal: bool,
}

/// So many runners have to be missing at once before their removal is doubted.
pub const MASS: usize = 5;

/// The polls whose changes of state are remembered.
const REMEMBERED: u32 = 20;
/// So many changes within these polls are flapping, until there was none in all of them. This is the 20 % and the 5 %
/// that the sample configuration of Nagios has.
const FLAPPING: u32 = 4;

/// The last polls of a runner: in which of them its state was another one than in the poll before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// A bit a poll, the newest is the lowest.
    pub bits: u32,
    /// Whether the runner flaps.
    pub flapping: bool,
}

impl Changes {
    fn with(self, changed: bool) -> Self {
        let bits = ((self.bits << 1) | u32::from(changed)) & ((1 << REMEMBERED) - 1);
        let count = bits.count_ones();
        Self { bits, flapping: count >= FLAPPING || (self.flapping && count > 0) }
    }
}

/// A runner, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What its service said last.
    pub seen: Seen,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// Whether it is online as far as anybody was told; `None` as long as its service can't tell.
    pub confirmed: Option<bool>,
    /// How many polls in a row said otherwise. A poll that tells nothing doesn't count.
    pub differing: u32,
    /// When the first of these was.
    pub differing_since: Option<Timestamp>,
    /// Whether the last poll did not list it, which was doubted.
    pub missing: bool,
    /// Its last changes of state.
    pub changes: Changes,
    /// The newest entry of its history.
    pub entry: Entry,
}

impl Known {
    /// Whether its service lists it.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.entry.state != State::Removed
    }

    fn new(seen: &Seen, at: Timestamp, former: Option<&Self>) -> Self {
        let state = State::told(seen.online);
        let continued = former.and_then(|former| former.entry.next(at, state));
        Self {
            seen: seen.clone(),
            first_seen: former.map_or(at, |former| former.first_seen),
            confirmed: seen.online,
            differing: 0,
            differing_since: None,
            missing: false,
            changes: Changes::default(),
            entry: continued.unwrap_or_else(|| Entry::first(at, state)),
        }
    }

    /// This runner after it was seen once more, and whether its confirmed state has changed.
    fn see(&self, seen: &Seen, at: Timestamp, grace: Grace) -> (Self, bool) {
        let told = |online: Option<bool>| online.is_some();
        let changed = told(self.seen.online) && told(seen.online) && self.seen.online != seen.online;
        let mut after = Self {
            seen: seen.clone(),
            missing: false,
            changes: self.changes.with(changed),
            entry: self.entry.next(at, State::told(seen.online)).unwrap_or(self.entry),
            ..*self
        };
        if seen.online.is_none() {
            return (after, false);
        }
        if seen.online == self.confirmed {
            (after.differing, after.differing_since) = (0, None);
            return (after, false);
        }
        let since = self.differing_since.unwrap_or(at);
        let over = match grace {
            Grace::Polls(polls) => self.differing >= polls,
            Grace::Time(time) => Duration::try_from(at.duration_since(since)).unwrap_or_default() >= time,
        };
        if over {
            (after.confirmed, after.differing, after.differing_since) = (seen.online, 0, None);
        } else {
            (after.differing, after.differing_since) = (self.differing.saturating_add(1), Some(since));
        }
        (after, over)
    }

    /// Whether seeing `seen` once more would leave everything as it is.
    fn stays(&self, seen: &Seen) -> bool {
        let settled = self.differing == 0 && !self.missing && self.changes == Changes::default();
        let agreed = seen.online.is_none() || seen.online == self.confirmed;
        settled && agreed && self.entry.state == State::told(seen.online) && self.seen == *seen
    }
}

/// All runners of a source that are known.
pub type Fleet = BTreeMap<ExternalId, Known>;

/// What became of a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Turn {
    /// Its service lists it, and did not before.
    Created,
    /// Its service no longer lists it.
    Removed,
    /// It is connected, for longer than the grace.
    Online,
    /// It is not, for longer than the grace.
    Offline,
    /// Its state changes again and again. It does so until it has kept one for 20 polls.
    Flapping,
}

/// Something that happened to a runner and that people want to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// What.
    pub turn: Turn,
    /// When that was noticed.
    pub at: Timestamp,
    /// The runner before; `None` if it was created.
    pub before: Option<Known>,
    /// The runner now, or what was last known of it if it was removed.
    pub after: Known,
}

/// What follows from a poll.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The runners of which anything has changed, as they are now.
    pub changed: Vec<Known>,
    /// What people want to be told: first of the runners that were known, then of new ones, each in the order of ids.
    pub transitions: Vec<Transition>,
    /// How many runners are missing whose removal is doubted.
    pub doubted: usize,
}

/// What follows when a source listed `seen` at the time `at`.
///
/// With `baseline` this is its first poll ever, and who is there was not created. A runner of `known` that was removed
/// counts as absent; if it comes back, its history goes on.
#[must_use]
pub fn evaluate(known: &Fleet, seen: &[Seen], at: Timestamp, baseline: bool, options: &Options) -> Outcome {
    let ignored = |seen: &Seen| options.ignore_ephemeral && seen.ephemeral == Some(true);
    let listed: BTreeMap<_, _> =
        seen.iter().filter(|seen| !ignored(seen)).map(|seen| (&seen.external_id, seen)).collect();
    let present = || known.iter().filter(|(_, known)| known.is_present());
    let missing: BTreeSet<_> = present().filter(|(id, _)| !listed.contains_key(id)).map(|(id, _)| id).collect();
    let doubt = options.doubt_mass_removal && missing.len() >= MASS && missing.len() * 2 >= present().count();

    let mut outcome = Outcome::default();
    for (id, before) in present() {
        let Some(seen) = listed.get(id) else {
            if doubt && !before.missing {
                outcome.doubted += 1;
                outcome.changed.push(Known { missing: true, ..before.clone() });
                continue;
            }
            let entry = before.entry.next(at, State::Removed).unwrap_or(before.entry);
            let removed = Known { entry, missing: false, ..before.clone() };
            if !ignored(&before.seen) {
                outcome.tell(Turn::Removed, at, Some(before), &removed);
            }
            outcome.changed.push(removed);
            continue;
        };
        if before.stays(seen) {
            continue;
        }
        let (after, confirmed) = before.see(seen, at, options.grace);
        if confirmed {
            let turn = if after.confirmed == Some(true) { Turn::Online } else { Turn::Offline };
            outcome.tell(turn, at, Some(before), &after);
        }
        if after.changes.flapping && !before.changes.flapping {
            outcome.tell(Turn::Flapping, at, Some(before), &after);
        }
        outcome.changed.push(after);
    }
    for (id, seen) in listed {
        let former = known.get(id);
        if former.is_some_and(Known::is_present) {
            continue;
        }
        let new = Known::new(seen, at, former);
        if !baseline {
            outcome.tell(Turn::Created, at, None, &new);
        }
        outcome.changed.push(new);
    }
    outcome
}

impl Outcome {
    fn tell(&mut self, turn: Turn, at: Timestamp, before: Option<&Known>, after: &Known) {
        self.transitions.push(Transition { turn, at, before: before.cloned(), after: after.clone() });
    }
}

/// What follows when nothing has been heard of a source since `since`: the state of its runners is not known.
///
/// Nobody is told of that for each runner, and no grace begins or ends by it.
#[must_use]
pub fn silence(known: &Fleet, since: Timestamp) -> Vec<Known> {
    let unknown = |known: &Known| Some(Known { entry: known.entry.next(since, State::Unknown)?, ..known.clone() });
    known.values().filter(|known| known.is_present()).filter_map(unknown).collect()
}

#[cfg(test)]
mod tests;

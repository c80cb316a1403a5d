//! Where the entries of a file lie, and whether those of a run can be among them.
//!
//! What is not known excludes nothing: a file counts unless all of it lies before the run or behind it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::layout::Header;
use super::position::Position;

/// systemd says that a run begins when it has started the process, which may have printed by then. So long before that
/// word, what was received may be the run's own.
pub(super) const LEAD_USEC: u64 = 1_000_000;
/// journald reads what a run printed within this time of its end.
pub(super) const LATE_USEC: u64 = 30_000_000;
/// After a crash a file may hold what was written so long after the time at which it seems to have changed.
const WRITTEN_BACK: Duration = Duration::from_mins(1);

/// The stretch of the journal that a file covers; an end that is not known is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) first: Option<Position>,
    pub(super) last: Option<Position>,
}

impl Reach {
    /// That of a file that nobody writes to any more, by its header.
    pub(super) fn of(header: &Header) -> Self {
        let Header { first, last, entries, .. } = header;
        let agree = *entries > 0 && first.seqnum <= last.seqnum && first.realtime <= last.realtime;
        if agree { Self { first: Some(*first), last: Some(*last) } } else { Self::default() }
    }

    /// The same of a file whose header may not know the last entries: it ends when the file changed for the last time.
    pub(super) fn up_to(self, changed: SystemTime) -> Self {
        let changed = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
        let realtime = u64::try_from(changed.saturating_add(WRITTEN_BACK).as_micros()).unwrap_or(u64::MAX);
        Self { last: Some(Position { realtime, ..Position::from_bytes(&[0; Position::LEN]) }), ..self }
    }
}

/// The stretch of the journal in which the entries of a run lie; an end that is not known is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    pub(super) first: Option<Position>,
    pub(super) last: Option<Position>,
}

impl Extent {
    /// Whether a file of that reach may hold an entry of the run.
    pub(super) fn may_lie_in(&self, reach: &Reach) -> bool {
        // By number alone where both are of one sequence; a clock that was set back must not exclude a file.
        let ends_before = |last: &Position, first: &Position| {
            last.order(first).is_lt() && last.realtime.saturating_add(LEAD_USEC) < first.realtime
        };
        let begins_behind = |first: &Position, last: &Position| {
            first.order(last).is_gt() && first.realtime > last.realtime.saturating_add(LATE_USEC)
        };
        let is_before = reach.last.zip(self.first).is_some_and(|(last, first)| ends_before(&last, &first));
        let is_behind = reach.first.zip(self.last).is_some_and(|(first, last)| begins_behind(&first, &last));
        !is_before && !is_behind
    }
}

//! Which entries of a run are wanted.

use super::Entry;
use super::position::Position;

/// Which entries of a run are wanted; the default is all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this priority or a more urgent one: from 0, emergency, to 7, debug, which are all. An entry without
    /// a priority counts as debug.
    pub priority: Option<u8>,
    /// Only those that journald received at this time or later: microseconds since 1970.
    pub since_usec: Option<u64>,
    /// Only those that journald received at this time or earlier: microseconds since 1970.
    pub until_usec: Option<u64>,
}

/// The least urgent priority there is.
const DEBUG: u8 = 7;

impl Filter {
    /// Whether an entry is wanted.
    #[must_use]
    pub fn wants(&self, entry: &Entry) -> bool {
        self.has_priority(entry.priority) && self.has_time(&entry.position)
    }

    pub(crate) fn has_priority(&self, priority: Option<u8>) -> bool {
        self.priority.is_none_or(|wanted| priority.unwrap_or(DEBUG) <= wanted)
    }

    pub(crate) fn has_time(&self, position: &Position) -> bool {
        let usec = position.realtime;
        self.since_usec.is_none_or(|since| usec >= since) && self.until_usec.is_none_or(|until| usec <= until)
    }
}

/// How much the clock may have gone back from one entry to a later one; `None` if nobody can say.
///
/// A clock that is being corrected runs slower by at most 500 parts in a million (adjtimex(2)) and never goes back. One
/// that was set back shows in the difference to the monotonic clock, unless it was set forward again.
pub(super) fn clock_error_usec(first: &Position, last: &Position) -> Option<u64> {
    const SMALL: u64 = 1_000_000;
    if first.boot_id != last.boot_id {
        return None;
    }
    let passed = last.monotonic.checked_sub(first.monotonic)?;
    let shown = last.realtime.checked_sub(first.realtime)?;
    let bearable = SMALL + passed / 1000;
    (passed.saturating_sub(shown) <= bearable).then_some(bearable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: u8, monotonic: u64, realtime: u64) -> Position {
        Position { boot_id: [boot; 16], monotonic, realtime, ..Position::from_bytes(&[0; Position::LEN]) }
    }

    #[test]
    fn a_clock_that_was_set_back_can_not_be_relied_on() {
        const HOUR: u64 = 3_600_000_000;
        let first = at(1, HOUR, 10 * HOUR);
        assert_eq!(clock_error_usec(&first, &at(1, 2 * HOUR, 11 * HOUR)), Some(1_000_000 + HOUR / 1000));
        // Set forward.
        assert!(clock_error_usec(&first, &at(1, 2 * HOUR, 19 * HOUR)).is_some());
        assert_eq!(clock_error_usec(&first, &at(1, 2 * HOUR, 11 * HOUR - HOUR / 60)), None);
        assert_eq!(clock_error_usec(&first, &at(1, 2 * HOUR, 9 * HOUR)), None);
        assert_eq!(clock_error_usec(&first, &at(2, 2 * HOUR, 11 * HOUR)), None);
    }
}

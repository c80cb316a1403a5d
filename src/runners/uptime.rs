//! What part of a time a runner was online, and of what part of it that is known.
//!
//! Each entry of a history says what the runner became and how long it had been online, and known, until then. So two
//! entries tell of any window, however much happened in it: the last ones before its beginning and before its end.
//! Absent: where the entries are kept.

use std::time::Duration;

use jiff::Timestamp;

/// What is known of a runner from one moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Its service says that it is connected.
    Online,
    /// Its service says that it is not.
    Offline,
    /// Nobody knows: its service could not be asked, or has never heard of it.
    Unknown,
    /// Its service no longer lists it.
    Removed,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Online, Self::Offline, Self::Unknown, Self::Removed];

    /// The state that a service tells of.
    #[must_use]
    pub fn told(online: Option<bool>) -> Self {
        match online {
            Some(true) => Self::Online,
            Some(false) => Self::Offline,
            None => Self::Unknown,
        }
    }

    /// The word of the API and of the history: `online`, `offline`, `unknown` or `removed`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unknown => "unknown",
            Self::Removed => "removed",
        }
    }

    /// The state of [`State::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// One entry of a runner's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// When the runner was first seen so. It may have been so since just after the poll before.
    pub at: Timestamp,
    /// What it became.
    pub state: State,
    /// How long it had been online until then, in all of its history.
    pub online_before: Duration,
    /// How long it had been known to be online or offline until then.
    pub known_before: Duration,
}

/// The smallest step of the times that are kept.
const TICK: Duration = Duration::from_micros(1);

impl Entry {
    /// The first entry of a history.
    #[must_use]
    pub fn first(at: Timestamp, state: State) -> Self {
        Self { at, state, online_before: Duration::ZERO, known_before: Duration::ZERO }
    }

    /// The entry that follows when the runner becomes `state`; `None` if it is that already.
    ///
    /// The times of entries grow whatever the clock does: where it was set back, a microsecond passes.
    #[must_use]
    pub fn next(&self, at: Timestamp, state: State) -> Option<Self> {
        if state == self.state {
            return None;
        }
        let at = at.max(later(self.at, TICK));
        let (online_before, known_before) = self.totals(at);
        Some(Self { at, state, online_before, known_before })
    }

    /// How long the runner had been online, and known, until `at`, if this is its last entry before that.
    fn totals(&self, at: Timestamp) -> (Duration, Duration) {
        let passed = Duration::try_from(at.duration_since(self.at)).unwrap_or_default();
        let (online, known) = match self.state {
            State::Online => (passed, passed),
            State::Offline => (Duration::ZERO, passed),
            State::Unknown | State::Removed => (Duration::ZERO, Duration::ZERO),
        };
        (self.online_before + online, self.known_before + known)
    }
}

/// A moment so much later, or the last one that there is.
pub(crate) fn later(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// How a runner did in a window of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Uptime {
    /// The part of the known time that it was online, 0 to 1; `None` if nothing is known.
    pub uptime: Option<f64>,
    /// The part of the window of which it is known whether the runner was online, 0 to 1.
    pub coverage: f64,
}

impl Uptime {
    /// How a runner did from `from` on and before `to`, when its source has told of it until `until`. `first` is its last
    /// entry that is neither after `from` nor after `until`, and `last` that for `to`.
    ///
    /// An empty window, or one whose end lies before its beginning, has a coverage of 0.
    #[must_use]
    pub fn between(
        (from, first): (Timestamp, Option<Entry>),
        (to, last): (Timestamp, Option<Entry>),
        until: Timestamp,
    ) -> Self {
        let totals = |at: Timestamp, entry: Option<Entry>| {
            entry.map_or((Duration::ZERO, Duration::ZERO), |entry| entry.totals(at.min(until)))
        };
        let (online_from, known_from) = totals(from, first);
        let (online_to, known_to) = totals(to, last);
        let online = online_to.saturating_sub(online_from).as_secs_f64();
        let known = known_to.saturating_sub(known_from).as_secs_f64();
        let window = to.duration_since(from).as_secs_f64();
        Self {
            uptime: (known > 0.0).then(|| (online / known).min(1.0)),
            coverage: if window > 0.0 { (known / window).min(1.0) } else { 0.0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn minute(minute: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + 60 * minute).unwrap()
    }

    fn states() -> impl Strategy<Value = State> {
        prop::sample::select(State::ALL.to_vec())
    }

    /// The entries of what was seen at each of these minutes.
    fn history(seen: &[(i64, State)]) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for (at, state) in seen {
            match entries.last() {
                None => entries.push(Entry::first(minute(*at), *state)),
                Some(last) => entries.extend(last.next(minute(*at), *state)),
            }
        }
        entries
    }

    fn not_after(entries: &[Entry], at: Timestamp) -> Option<Entry> {
        entries.iter().rev().find(|entry| entry.at <= at).copied()
    }

    fn between(entries: &[Entry], from: Timestamp, to: Timestamp, until: Timestamp) -> Uptime {
        let entry = |at: Timestamp| not_after(entries, at.min(until));
        Uptime::between((from, entry(from)), (to, entry(to)), until)
    }

    #[test]
    fn nothing_known_is_not_zero_percent() {
        let never = between(&[], minute(0), minute(10), minute(10));
        assert_eq!(never, Uptime { uptime: None, coverage: 0.0 });
        let unknown = history(&[(0, State::Unknown)]);
        assert_eq!(between(&unknown, minute(0), minute(10), minute(10)), never);
    }

    #[test]
    fn unknown_and_absent_time_counts_neither_way() {
        let entries = history(&[(0, State::Online), (10, State::Unknown), (20, State::Offline), (30, State::Removed)]);
        let all = between(&entries, minute(0), minute(40), minute(40));
        assert_eq!(all, Uptime { uptime: Some(0.5), coverage: 0.5 });
    }

    #[test]
    fn time_after_the_last_poll_is_not_known() {
        let entries = history(&[(0, State::Online)]);
        let until = between(&entries, minute(0), minute(40), minute(10));
        assert_eq!(until, Uptime { uptime: Some(1.0), coverage: 0.25 });
        assert_eq!(between(&entries, minute(20), minute(40), minute(10)).uptime, None);
    }

    #[test]
    fn an_empty_or_turned_window_has_no_coverage() {
        let entries = history(&[(0, State::Online)]);
        for (from, to) in [(5, 5), (9, 5)] {
            let empty = between(&entries, minute(from), minute(to), minute(10));
            assert_eq!(empty, Uptime { uptime: None, coverage: 0.0 });
        }
    }

    #[test]
    fn a_state_and_its_word_are_one() {
        for state in State::ALL {
            assert_eq!(State::from_word(state.as_str()), Some(state));
        }
        assert_eq!(State::from_word("up"), None);
    }

    proptest! {
        #[test]
        fn it_is_what_a_count_of_minutes_says(
            seen in prop::collection::btree_map(0..200_i64, states(), 0..30),
            from in -20..220_i64,
            length in 1..240_i64,
            until in 0..220_i64,
        ) {
            let seen: Vec<_> = seen.into_iter().collect();
            let entries = history(&seen);
            let to = from + length;
            let found = between(&entries, minute(from), minute(to), minute(until));
            let state_in = |at: i64| {
                (at < until).then(|| seen.iter().rev().find(|(since, _)| *since <= at).map(|(_, state)| *state)).flatten()
            };
            let count = |wanted: State| (from..to).filter(|at| state_in(*at) == Some(wanted)).count();
            let (online, offline) = (count(State::Online), count(State::Offline));
            #[expect(clippy::cast_precision_loss, reason = "hundreds of minutes")]
            let share = |part: usize, of: usize| part as f64 / of as f64;
            let coverage = share(online + offline, usize::try_from(length).unwrap());
            prop_assert!((found.coverage - coverage).abs() < 1e-9, "{found:?} {coverage}");
            let uptime = (online + offline > 0).then(|| share(online, online + offline));
            prop_assert_eq!(found.uptime.is_some(), uptime.is_some());
            if let (Some(found), Some(uptime)) = (found.uptime, uptime) {
                prop_assert!((found - uptime).abs() < 1e-9, "{found} {uptime}");
            }
        }

        #[test]
        fn a_clock_that_jumps_makes_no_negative_time(
            seen in prop::collection::vec((-1000..1000_i64, states()), 1..30),
            from in -1000..1000_i64,
            to in -1000..1000_i64,
            until in -1000..1000_i64,
        ) {
            let entries = history(&seen);
            for pair in entries.windows(2) {
                prop_assert!(pair[0].at < pair[1].at);
                prop_assert!(pair[0].online_before <= pair[1].online_before);
                prop_assert!(pair[0].known_before <= pair[1].known_before);
                prop_assert!(pair[1].online_before <= pair[1].known_before);
            }
            let found = between(&entries, minute(from), minute(to), minute(until));
            prop_assert!((0.0..=1.0).contains(&found.coverage), "{found:?}");
            prop_assert!(found.uptime.is_none_or(|uptime| (0.0..=1.0).contains(&uptime)), "{found:?}");
        }
    }
}

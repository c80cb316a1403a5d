//! When a source is polled: at its interval, a little earlier or later each time, and at once when somebody asks for it.
//!
//! Each source has a task of its own, so that one that fails or hangs touches no other. Absent: what a poll does.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The share of the interval by which a poll comes earlier at most, so that several sources don't come together for ever.
const JITTER: f64 = 0.1;

/// A way to have a source polled now. Clones ask the same one.
#[derive(Debug, Clone, Default)]
pub struct Trigger(Arc<Notify>);

impl Trigger {
    /// Asks for a poll. Those who ask while one is under way, or waits for a limit of the service to end, get one together.
    pub fn pull(&self) {
        self.0.notify_one();
    }
}

/// The times of the polls of one source. The first is at once.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    trigger: Trigger,
    begun: Instant,
}

impl Pace {
    /// Polls at `interval`, and whenever `trigger` is pulled.
    ///
    /// The interval is one of the monotonic clock, whatever becomes of the time of day.
    #[must_use]
    pub fn new(interval: Duration, trigger: Trigger) -> Self {
        Self { interval, trigger, begun: Instant::now() }
    }

    /// Returns when the next poll is to begin. Not even a trigger has one begin before `not_before`.
    pub async fn next(&mut self, not_before: Option<Timestamp>) {
        let wait = not_before.map(|time| Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default());
        let earliest = Instant::now() + wait.unwrap_or_default();
        let next = self.begun + self.interval.mul_f64(1.0 - JITTER * chance());
        let _ = tokio::time::timeout_at(next, self.trigger.0.notified()).await;
        tokio::time::sleep_until(earliest).await;
        self.begun = Instant::now();
    }
}

/// A number from 0 to 1.
pub(crate) fn chance() -> f64 {
    getrandom::u32().map_or(0.0, |number| f64::from(number) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    /// The timer has the resolution of a millisecond.
    const TICK: Duration = Duration::from_millis(2);

    /// How long the pace has the next poll wait.
    async fn wait(pace: &mut Pace, not_before: Option<Timestamp>) -> Duration {
        let ended = Instant::now();
        pace.next(not_before).await;
        ended.elapsed()
    }

    fn pace() -> (Pace, Trigger) {
        let trigger = Trigger::default();
        (Pace::new(MINUTE, trigger.clone()), trigger)
    }

    #[tokio::test(start_paused = true)]
    async fn polls_come_at_their_interval_or_a_little_earlier() {
        let (mut pace, _) = pace();
        let mut waits = Vec::new();
        for _ in 0..50 {
            let waited = wait(&mut pace, None).await;
            assert!((MINUTE.mul_f64(0.9)..=MINUTE + TICK).contains(&waited), "{waited:?}");
            waits.push(waited);
        }
        waits.dedup();
        assert!(waits.len() > 25, "they come at the same time: {waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_a_poll_takes_is_a_part_of_its_interval() {
        let (mut pace, _) = pace();
        tokio::time::sleep(MINUTE / 2).await;
        assert!(wait(&mut pace, None).await <= MINUTE / 2 + TICK);
        tokio::time::sleep(5 * MINUTE).await;
        assert!(wait(&mut pace, None).await <= TICK);
    }

    #[tokio::test(start_paused = true)]
    async fn b18_those_who_ask_during_a_poll_get_one_together() {
        let (mut pace, trigger) = pace();
        for _ in 0..3 {
            trigger.pull();
        }
        assert!(wait(&mut pace, None).await <= TICK);
        assert!(wait(&mut pace, None).await >= MINUTE.mul_f64(0.9), "there was a second one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_the_service_is_waited_for_also_when_somebody_asks() {
        let (mut pace, trigger) = pace();
        trigger.pull();
        let until = Timestamp::now() + Duration::from_mins(10);
        let waited = wait(&mut pace, Some(until)).await;
        // The clock of the test stands still, and that of the day does not.
        assert!((Duration::from_secs(590)..=Duration::from_mins(10) + TICK).contains(&waited), "{waited:?}");
        assert!(wait(&mut pace, Some(Timestamp::UNIX_EPOCH)).await <= MINUTE + TICK);
    }
}

//! When a source is polled: at its interval, a little earlier or later each time, and at once when somebody asks for it.
//!
//! Each source has a task of its own, so that one that fails or hangs touches no other. Absent: what a poll does.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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

/// Polls at `interval` and whenever `trigger` is pulled, until `stop`; the first time at once.
///
/// `poll` does it, and says before which time another one makes no sense; not even a trigger has one begin earlier. The
/// interval is one of the monotonic clock, whatever becomes of the time of day. A poll that is under way at `stop` is
/// dropped.
pub async fn run(
    interval: Duration,
    trigger: Trigger,
    stop: CancellationToken,
    mut poll: impl AsyncFnMut() -> Option<Timestamp>,
) {
    let work = async {
        loop {
            let begun = Instant::now();
            let not_before = poll().await;
            let wait =
                not_before.map(|time| Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default());
            let earliest = Instant::now() + wait.unwrap_or_default();
            let next = begun + interval.mul_f64(1.0 - JITTER * chance());
            let _ = tokio::time::timeout_at(next, trigger.0.notified()).await;
            tokio::time::sleep_until(earliest).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// A number from 0 to 1.
pub(crate) fn chance() -> f64 {
    getrandom::u32().map_or(0.0, |number| f64::from(number) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    /// A poller whose polls take as long, and end as, a test says.
    struct Polled {
        began: mpsc::UnboundedReceiver<Instant>,
        ends: mpsc::UnboundedSender<Option<Timestamp>>,
        trigger: Trigger,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    fn start() -> Polled {
        let (tell, began) = mpsc::unbounded_channel();
        let (ends, mut end) = mpsc::unbounded_channel();
        let (trigger, stop) = (Trigger::default(), CancellationToken::new());
        let (own_trigger, own_stop) = (trigger.clone(), stop.clone());
        let task = tokio::spawn(run(MINUTE, own_trigger, own_stop, async move || {
            tell.send(Instant::now()).unwrap();
            end.recv().await.unwrap()
        }));
        Polled { began, ends, trigger, stop, task }
    }

    impl Polled {
        async fn begins(&mut self) -> Instant {
            self.began.recv().await.unwrap()
        }

        /// Ends the poll that is under way, and returns when the next one began.
        async fn next(&mut self, not_before: Option<Timestamp>) -> Instant {
            self.ends.send(not_before).unwrap();
            self.begins().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn polls_come_at_their_interval_or_a_little_earlier() {
        let mut polled = start();
        let begun = Instant::now();
        let mut last = polled.begins().await;
        assert_eq!(last, begun);
        for _ in 0..50 {
            let next = polled.next(None).await;
            // The timer has the resolution of a millisecond.
            assert!(
                (MINUTE.mul_f64(0.9)..=MINUTE + Duration::from_millis(2)).contains(&(next - last)),
                "{:?}",
                next - last
            );
            last = next;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_poll_is_followed_by_the_next_at_once_and_never_overlaps_it() {
        let mut polled = start();
        polled.begins().await;
        tokio::time::sleep(5 * MINUTE).await;
        assert!(polled.began.try_recv().is_err());
        let ended = Instant::now();
        assert!(polled.next(None).await - ended <= Duration::from_millis(2));
    }

    #[tokio::test(start_paused = true)]
    async fn b18_those_who_ask_during_a_poll_get_one_together() {
        let mut polled = start();
        let mut last = polled.begins().await;
        for _ in 0..3 {
            polled.trigger.pull();
        }
        let next = polled.next(None).await;
        assert!(next - last <= Duration::from_millis(2));
        last = next;
        let next = polled.next(None).await;
        assert!(next - last >= MINUTE.mul_f64(0.9), "there was a second one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_the_service_is_waited_for_also_when_somebody_asks() {
        let mut polled = start();
        let last = polled.begins().await;
        polled.trigger.pull();
        let until = Timestamp::now() + Duration::from_mins(10);
        let waited = polled.next(Some(until)).await - last;
        // The clock of the test stands still, and that of the day does not.
        assert!((Duration::from_secs(595)..=Duration::from_secs(601)).contains(&waited), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_hangs_ends_when_told_to_stop() {
        let mut polled = start();
        polled.begins().await;
        polled.stop.cancel();
        polled.task.await.unwrap();
    }
}

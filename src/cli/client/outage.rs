//! A bridge that is out of reach: how long to wait, and when to give up.

use std::time::{Duration, Instant};

use super::bridge::{CallError, Target};

/// Between two tries to reach a bridge, and the longest.
const RETRIES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How long a bridge may be out of reach: a reboot of its machine.
const OUT_OF_REACH: Duration = Duration::from_mins(5);

/// The time in which every try has failed.
pub(super) struct Outage<'a> {
    target: &'a Target,
    /// Since when the bridge has been out of reach, and the next pause.
    since: Option<(Instant, Duration)>,
}

impl<'a> Outage<'a> {
    /// No outage yet.
    pub(super) fn of(target: &'a Target) -> Self {
        Self { target, since: None }
    }

    /// The bridge has answered.
    pub(super) fn end(&mut self) {
        self.since = None;
    }

    /// Waits for a better moment after an error that may pass.
    ///
    /// # Errors
    /// The error, if the bridge has been out of reach for too long.
    pub(super) async fn after(&mut self, error: CallError) -> Result<(), CallError> {
        let (since, pause) = self.since.unwrap_or((Instant::now(), RETRIES.0));
        if since.elapsed() > OUT_OF_REACH {
            return Err(error);
        }
        // A stream that was cut is worth no word if it can be had again.
        let is_cut = matches!(error, CallError::CutOff);
        if pause == RETRIES.0 && !is_cut {
            eprintln!("{}: {error}; trying again", self.target.job);
        }
        self.since = Some((since, if is_cut { pause } else { (pause * 2).min(RETRIES.1) }));
        tokio::time::sleep(error.retry_after().unwrap_or(pause).min(OUT_OF_REACH)).await;
        Ok(())
    }
}

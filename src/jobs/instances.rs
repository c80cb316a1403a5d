//! How many instances of templates may come up in an hour.
//!
//! systemd loads a unit for each name that it is asked for, and keeps failed ones. A caller who makes names up must not
//! be able to fill its memory.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_hours(1);

/// The instances that came up in the last hour.
#[derive(Debug)]
pub(super) struct Instances {
    most: usize,
    seen: HashSet<String>,
    order: VecDeque<(Instant, String)>,
}

impl Instances {
    pub(super) fn new(most: usize) -> Self {
        Self { most, seen: HashSet::new(), order: VecDeque::new() }
    }

    /// Lets `unit` pass if it was seen within the hour or there is room for another one.
    ///
    /// # Errors
    /// The time until there is room.
    pub(super) fn admit(&mut self, unit: &str, now: Instant) -> Result<(), Duration> {
        while let Some((since, _)) = self.order.front()
            && now.duration_since(*since) >= HOUR
        {
            if let Some((_, oldest)) = self.order.pop_front() {
                self.seen.remove(&oldest);
            }
        }
        if self.seen.contains(unit) {
            return Ok(());
        }
        if self.seen.len() >= self.most {
            let oldest = self.order.front().map_or(HOUR, |(since, _)| HOUR.saturating_sub(now.duration_since(*since)));
            return Err(oldest);
        }
        self.seen.insert(unit.to_owned());
        self.order.push_back((now, unit.to_owned()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_instance_waits_until_the_hour_of_the_oldest_is_over() {
        let start = Instant::now();
        let mut instances = Instances::new(2);
        assert_eq!(instances.admit("a", start), Ok(()));
        assert_eq!(instances.admit("b", start + HOUR / 2), Ok(()));
        assert_eq!(instances.admit("c", start + HOUR / 2), Err(HOUR / 2));
        assert_eq!(instances.admit("a", start + HOUR / 2), Ok(()));
        assert_eq!(instances.admit("c", start + HOUR), Ok(()));
    }
}

//! The states of all allowed units, in memory.
//!
//! Signals push changes in; readers take a value or wait for the next one. A read never costs systemd anything.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::unit::UnitState;

/// Called for each change, in the order in which systemd told them, before any reader sees it. It must neither block nor
/// look into the mirror.
pub type Observer = Arc<dyn Fn(&str, &UnitState, &UnitState) + Send + Sync>;

pub(super) struct Mirror {
    units: RwLock<HashMap<String, watch::Sender<Arc<UnitState>>>>,
    observer: Observer,
}

impl Mirror {
    pub(super) fn new(observer: Observer) -> Self {
        Self { units: RwLock::default(), observer }
    }

    pub(super) fn get(&self, unit: &str) -> Option<Arc<UnitState>> {
        let units = self.units.read().unwrap_or_else(PoisonError::into_inner);
        units.get(unit).map(|sender| sender.borrow().clone())
    }

    /// The state of `unit` now and from now on.
    pub(super) fn watch(&self, unit: &str) -> watch::Receiver<Arc<UnitState>> {
        let mut units = self.units.write().unwrap_or_else(PoisonError::into_inner);
        units
            .entry(unit.to_owned())
            .or_insert_with(|| watch::Sender::new(Arc::new(UnitState::unknown(unit))))
            .subscribe()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.units.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Changes the state of `unit`, tells the observer and wakes who waits, if anything is different.
    pub(super) fn update(&self, unit: &str, change: impl FnOnce(&mut UnitState)) {
        // Held until the end: who is woken by the observer and then looks here must not see the state before.
        let mut units = self.units.write().unwrap_or_else(PoisonError::into_inner);
        let before = units.get(unit).map(|sender| sender.borrow().clone());
        let before = before.unwrap_or_else(|| Arc::new(UnitState::unknown(unit)));
        let mut after = UnitState::clone(&before);
        change(&mut after);
        if *before == after {
            return;
        }
        (self.observer)(unit, &before, &after);
        let after = Arc::new(after);
        match units.get(unit) {
            Some(sender) => drop(sender.send_replace(after)),
            None => drop(units.insert(unit.to_owned(), watch::Sender::new(after))),
        }
    }

    /// Forgets `unit` unless somebody waits for it.
    pub(super) fn forget(&self, unit: &str) {
        let mut units = self.units.write().unwrap_or_else(PoisonError::into_inner);
        if units.get(unit).is_some_and(|sender| sender.receiver_count() == 0) {
            units.remove(unit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_hears_of_a_change_from_the_observer_sees_it_in_the_mirror() {
        const UNIT: &str = "ci-test-a.service";
        let (told, hears) = mpsc::channel();
        let (look, looked) = mpsc::channel();
        let looked = Mutex::new(looked);
        let observer: Observer = Arc::new(move |_: &str, _: &UnitState, _: &UnitState| {
            told.send(()).unwrap();
            // Time for the reader to look too early, if it can.
            let _ = looked.lock().unwrap().recv_timeout(Duration::from_millis(200));
        });
        let mirror = Arc::new(Mirror::new(observer));
        let reader = {
            let mirror = mirror.clone();
            std::thread::spawn(move || {
                hears.recv().unwrap();
                let state = mirror.get(UNIT);
                let _ = look.send(());
                state
            })
        };
        mirror.update(UNIT, |state| state.in_memory = true);
        assert!(reader.join().unwrap().is_some_and(|state| state.in_memory));
    }
}

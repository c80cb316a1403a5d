//! The states of all allowed units, in memory.
//!
//! Signals push changes in; readers take a value or wait for the next one. A read never costs systemd anything.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::unit::UnitState;

/// Called for each change, in the order in which systemd told them, before any reader sees it.
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
        let before = self.get(unit).unwrap_or_else(|| Arc::new(UnitState::unknown(unit)));
        let mut after = UnitState::clone(&before);
        change(&mut after);
        if *before == after {
            return;
        }
        (self.observer)(unit, &before, &after);
        let mut units = self.units.write().unwrap_or_else(PoisonError::into_inner);
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

//! Tells when the bridge can't keep what it should: its history, or the logs of its archive.
//!
//! What is told is kept in the history too. So while the history can't be written, the log of the bridge alone says so, and
//! alerts are told as soon as it can be.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::alerts::{Event, Part, StorageEvent, Teller, Told};
use crate::store::Store;
use crate::telemetry::Chain;

/// The pause between two attempts to write down what is to be told.
const RETRY: Duration = Duration::from_secs(5);
/// So long nothing may fail before the history counts as well again: where a large write finds no room, a small one may.
pub const QUIET: Duration = Duration::from_mins(2);

/// Tells when writes of the history fail, and when none has failed for `quiet`; for ever. `before` says what was wrong
/// with the history until it could be opened.
pub async fn watch_history(store: Store, before: Option<String>, teller: Teller, quiet: Duration) {
    let mut failures = store.failures();
    let mut trouble = before;
    loop {
        let error = if let Some(error) = trouble.take() {
            error
        } else {
            let Ok(failure) = failures.wait_for(Option::is_some).await else { return };
            failure.as_ref().map_or_else(String::new, |error| Chain(error).to_string())
        };
        post(&store, &teller, Part::History, StorageEvent::Failed { error }).await;
        // What failed meanwhile is of the same trouble.
        failures.mark_unchanged();
        while tokio::time::timeout(quiet, failures.changed()).await.is_ok_and(|changed| changed.is_ok()) {}
        post(&store, &teller, Part::History, StorageEvent::Recovered).await;
        if failures.changed().await.is_err() {
            return;
        }
    }
}

/// Tells when there are `troubles` with the archive, and when there are none any more; as long as there is somebody who
/// knows.
pub async fn watch_archive(mut troubles: watch::Receiver<Option<String>>, store: Store, teller: Teller) {
    loop {
        let error = match troubles.wait_for(Option::is_some).await {
            Ok(trouble) => trouble.clone().unwrap_or_default(),
            Err(_) => return,
        };
        post(&store, &teller, Part::Archive, StorageEvent::Failed { error }).await;
        if troubles.wait_for(Option::is_none).await.is_err() {
            return;
        }
        post(&store, &teller, Part::Archive, StorageEvent::Recovered).await;
    }
}

/// Writes down what is to be told, as soon as that is possible.
async fn post(store: &Store, teller: &Teller, part: Part, event: StorageEvent) {
    let deliveries = teller.alerts().deliveries(&Event::new(Timestamp::now(), Told::Storage { part, event }));
    while let Err(error) = store.post(deliveries.clone()).await {
        log::debug!("what is to be told of an outage cannot be written yet: {}", Chain(&error));
        tokio::time::sleep(RETRY).await;
    }
    teller.wake_couriers();
}

//! The fleet as the daemon runs it: sources on the wire, a store, and a target that is told.

use std::path::Path;
use std::time::Duration;

use ci_bridge::alerts::Alerts;
use ci_bridge::config::Settings;
use ci_bridge::fleet::Runners;
use ci_bridge::runners::uptime::State;
use ci_bridge::store::{DeliveryFilter, DeliveryState, RunnerFilter, RunnerRecord, Store};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::hook::Hook;
use crate::service::Fleet;
use crate::service::github::{GitHub, runner};
use crate::support::open;

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(fleet: &Fleet, hook: &str, directory: &Path) -> Settings {
    let token = directory.join("token");
    std::fs::write(&token, "ghp-good\n").unwrap();
    let text = format!(
        "jobs.prefixes = [\"ci-test-\"]\n[[runners.github]]\nname = \"acme\"\napi = \"{}\"\norganization = \"acme\"\n\
         token_file = \"{}\"\ngrace = 0\n[[alerts]]\nname = \"ops\"\nurl = \"{hook}\"\nallow_private = true\n",
        fleet.github_api(),
        token.display(),
    );
    Settings::parse(&text).unwrap()
}

/// Asks again and again, until there is an answer.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it never came")
}

async fn only_runner(store: &Store, state: State) -> RunnerRecord {
    let filter = RunnerFilter { state: Some(state), ..RunnerFilter::default() };
    until(async || store.runners(&filter, None, 10).await.unwrap().pop()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_polled_when_there_is_a_history_and_at_once_when_somebody_asks_and_alerts_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let (fleet, (hook, address)) = (Fleet::start().await, Hook::start().await);
    fleet.world().github = GitHub::acme([runner(1, "build-1", "online")]);
    let settings = settings(&fleet, &format!("http://{address}/hook"), directory.path());
    let alerts = Alerts::load(&settings.alerts).unwrap();
    let (runners, rounds) = Runners::new(&settings.runners, alerts, None).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(rounds.run(stop.clone()));

    let store = open(directory.path()).await;
    runners.take_up(store.clone());
    let online = only_runner(&store, State::Online).await;
    assert_eq!(online.known.seen.name, "build-1");

    fleet.world().github.runners = vec![runner(1, "build-1", "offline")];
    // The interval is a minute: this poll is one that somebody asked for.
    runners.poll_now();
    assert_eq!(only_runner(&store, State::Offline).await.id, online.id);
    let got = until(async || hook.got().pop()).await;
    let told: Value = serde_json::from_slice(&got.body).unwrap();
    let said = (&told["type"], &told["runner"]["name"], &told["previous"]["state"]);
    assert_eq!(said, (&json!("runner.offline"), &json!("build-1"), &json!("online")));

    stop.cancel();
    running.await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_configured_is_unknown_and_never_told() {
    let directory = tempfile::tempdir().unwrap();
    let fleet = Fleet::start().await;
    fleet.world().github = GitHub::acme([runner(1, "build-1", "online")]);
    // Nobody listens there.
    let settings = settings(&fleet, "http://127.0.0.1:9/hook", directory.path());
    let alerts = Alerts::load(&settings.alerts).unwrap();
    let (runners, rounds) = Runners::new(&settings.runners, alerts, None).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(rounds.run(stop.clone()));
    let store = open(directory.path()).await;
    runners.take_up(store.clone());
    only_runner(&store, State::Online).await;
    fleet.world().github.runners = vec![runner(1, "build-1", "offline")];
    runners.poll_now();
    only_runner(&store, State::Offline).await;
    stop.cancel();
    running.await.unwrap();

    let (runners, rounds) = Runners::new(&[], Alerts::default(), None).unwrap();
    runners.take_up(store.clone());
    // There is nothing to wait for.
    rounds.run(CancellationToken::new()).await;
    only_runner(&store, State::Unknown).await;
    let deliveries = store.deliveries(DeliveryFilter::All, None, 10).await.unwrap();
    assert!(matches!(deliveries[..], [ref one] if matches!(one.state, DeliveryState::Dead(_))), "{deliveries:?}");
}

#[tokio::test]
async fn a_bridge_that_ends_before_there_is_a_history_waits_for_none() {
    let (_runners, rounds) = Runners::new(&[], Alerts::default(), None).unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    rounds.run(stop).await;
}

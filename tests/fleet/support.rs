//! A source that says what a test wants, and what becomes of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ci_bridge::alerts::Alerts;
use ci_bridge::config::{Grace, Settings};
use ci_bridge::fleet::Watched;
use ci_bridge::runners::transitions::Options;
use ci_bridge::runners::{ExternalId, Kind, Poll, PollError, Provider, RunnerId, Seen};
use ci_bridge::store::{DeliveryFilter, Store};
use jiff::Timestamp;

pub(crate) async fn open(directory: &Path) -> Store {
    Store::open(directory).await.unwrap().store
}

pub(crate) fn minute(minute: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + 60 * minute).unwrap()
}

pub(crate) fn watched(name: &str, grace: u32) -> Watched {
    Watched {
        name: name.parse().unwrap(),
        provider: Provider::GitHub,
        set: format!("org: {name}; github: https://api.github.com"),
        interval: Duration::from_mins(1),
        timeout: Duration::from_secs(30),
        options: Options { grace: Grace::Polls(grace), ignore_ephemeral: false, doubt_mass_removal: true },
    }
}

/// One alert `ops` that writes to `hook`, with these keys.
pub(crate) fn alerts(hook: SocketAddr, keys: &str) -> Alerts {
    let text = format!(
        "jobs.prefixes = [\"ci-test-\"]\n[[alerts]]\nname = \"ops\"\nurl = \"http://{hook}/hook\"\nallow_private = true\n{keys}\n"
    );
    Alerts::load(&Settings::parse(&text).unwrap().alerts).unwrap()
}

/// An alert whose target nobody asks for.
pub(crate) fn unsent(keys: &str) -> Alerts {
    alerts(([127, 0, 0, 1], 9).into(), keys)
}

pub(crate) fn runner(id: &str, online: bool) -> Seen {
    Seen {
        external_id: ExternalId::new(id),
        name: format!("build-{id}"),
        os: Some("linux".to_owned()),
        labels: vec!["self-hosted".to_owned()],
        online: Some(online),
        status: if online { "online" } else { "offline" }.to_owned(),
        busy: Some(false),
        paused: None,
        ephemeral: Some(false),
        version: None,
        kind: Some(Kind::Organization),
        contacted_at: None,
        locked: None,
    }
}

/// The id of a runner of a source.
pub(crate) fn id(source: &str, runner: &str) -> RunnerId {
    RunnerId::of(&source.parse().unwrap(), &ExternalId::new(runner))
}

pub(crate) fn poll(at: Timestamp, seen: &[Seen]) -> Poll {
    Poll { at, result: Ok(seen.to_vec()), quota: None, not_before: None, requests: BTreeMap::from([(Some(200), 1)]) }
}

pub(crate) fn failed(at: Timestamp) -> Poll {
    Poll { result: Err(PollError::Service { status: 502 }), ..poll(at, &[]) }
}

/// What is to be told, oldest first: the types of the events.
pub(crate) async fn told(store: &Store) -> Vec<String> {
    let mut deliveries = store.deliveries(DeliveryFilter::All, None, 1000).await.unwrap();
    deliveries.reverse();
    deliveries.into_iter().map(|record| record.delivery.kind).collect()
}

//! How long a fleet of 10,000 runners takes, on the disk that holds the build. Prints figures and judges none.
//! Run it with `cargo bench --bench fleet`.

#![expect(clippy::unwrap_used, reason = "a figure that can't be had ends it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use ci_bridge::alerts::Alerts;
use ci_bridge::audit::Audit;
use ci_bridge::auth::{Access, Keyring, Token, TokenHash};
use ci_bridge::config::{self, Grace, QueryTokens, Settings};
use ci_bridge::fleet::{Runners, Watch, Watched};
use ci_bridge::http::{self, Following, Gate};
use ci_bridge::jobs::{Jobs, Limits, Runs};
use ci_bridge::journal::Journal;
use ci_bridge::runners::transitions::{Known, Options};
use ci_bridge::runners::uptime::State;
use ci_bridge::runners::{ExternalId, Kind, Poll, Provider, RunnerId, Seen, SourceName};
use ci_bridge::store::{Heard, Recorded, RunnerFilter, Store};
use ci_bridge::systemd::{BusAddress, Systemd};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const RUNNERS: usize = 10_000;
const SAMPLES: usize = 1000;
/// How often the runner with the long history changed its state in a year: every ten minutes.
const CHANGES: i64 = 365 * 24 * 6;

fn source() -> SourceName {
    "acme".parse().unwrap()
}

fn minute(minute: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + 60 * minute).unwrap()
}

fn runner(number: usize) -> Seen {
    Seen {
        external_id: ExternalId::new(number.to_string()),
        name: format!("build-{}-{}", number % 97, number),
        os: Some("linux".to_owned()),
        labels: vec!["self-hosted".to_owned(), "linux".to_owned(), format!("pool-{}", number % 50)],
        online: Some(true),
        status: "online".to_owned(),
        busy: Some(false),
        paused: None,
        ephemeral: Some(false),
        version: Some("2.330.0".to_owned()),
        kind: Some(Kind::Organization),
        contacted_at: None,
        locked: None,
    }
}

fn poll(at: Timestamp, seen: &[Seen]) -> Poll {
    Poll { at, result: Ok(seen.to_vec()), quota: None, not_before: None, requests: BTreeMap::from([(Some(200), 100)]) }
}

fn watched(name: SourceName) -> Watched {
    Watched {
        name,
        provider: Provider::GitHub,
        set: "org: acme; github: https://api.github.com".to_owned(),
        interval: Duration::from_mins(1),
        timeout: Duration::from_secs(30),
        options: Options { grace: Grace::Polls(0), ignore_ephemeral: false, doubt_mass_removal: true },
    }
}

/// Prints the median, the 99th percentile and the longest of the times.
fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("{what:<52} p50 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}", at(50), at(99), at(100));
}

async fn timed<T>(times: &mut Vec<Duration>, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let done = work.await;
    times.push(begun.elapsed());
    done
}

async fn polls(watch: &mut Watch, seen: &mut [Seen]) {
    let alerts = "jobs.prefixes = [\"ci-\"]\n[[alerts]]\nname = \"ops\"\nurl = \"https://hooks.example.com\"\n";
    let alerts = Alerts::load(&Settings::parse(alerts).unwrap().alerts).unwrap();
    let mut now = 1;
    for (what, every) in [
        ("a poll in which nothing changes", usize::MAX),
        ("a poll in which 1 of 100 goes on- or offline", 100),
        ("a poll in which 1 of 10 goes on- or offline", 10),
        ("a poll in which all go on- or offline", 1),
    ] {
        let mut times = Vec::new();
        for _ in 0..if every == 1 { 5 } else { 20 } {
            for runner in seen.iter_mut().step_by(every.min(RUNNERS)).filter(|_| every != usize::MAX) {
                runner.online = runner.online.map(|online| !online);
            }
            let poll = poll(minute(now), seen);
            let taken = timed(&mut times, watch.take(&poll, &alerts)).await.unwrap();
            assert!(taken.changed >= RUNNERS / every);
            now += 1;
        }
        tell(what, times);
    }
    // A change of state is remembered for 20 polls.
    for _ in 0..21 {
        watch.take(&poll(minute(now), seen), &alerts).await.unwrap();
        now += 1;
    }
    let mut times = Vec::new();
    for round in 0..20 {
        for runner in seen.iter_mut().skip(round % 3).step_by(3) {
            runner.busy = runner.busy.map(|busy| !busy);
        }
        timed(&mut times, watch.take(&poll(minute(now), seen), &alerts)).await.unwrap();
        now += 1;
    }
    tell("a poll in which 1 of 3 begins or ends a job", times);
}

async fn pages(store: &Store) {
    let all = RunnerFilter::default();
    for (what, filter) in [
        ("the first 100 runners", all.clone()),
        ("100 with a label", RunnerFilter { labels: vec!["pool-7".to_owned()], ..all.clone() }),
        ("100 with a part of a name", RunnerFilter { name: Some("d-96-".to_owned()), ..all.clone() }),
        ("100 of a state", RunnerFilter { state: Some(State::Offline), ..all.clone() }),
        ("none of all", RunnerFilter { labels: vec!["no".to_owned()], ..all.clone() }),
    ] {
        let mut times = Vec::new();
        for _ in 0..SAMPLES {
            timed(&mut times, store.runners(&filter, None, 100)).await.unwrap();
        }
        tell(what, times);
    }
    let middle = RunnerId::of(&source(), &ExternalId::new("5048"));
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        timed(&mut times, store.runners(&all, Some(middle), 100)).await.unwrap();
    }
    tell("100 runners in the middle", times);
}

/// A runner that changed its state every ten minutes for a year.
async fn uptime(store: &Store) {
    let name: SourceName = "year".parse().unwrap();
    let seen = runner(1);
    let mut watch = Watch::open(watched(name.clone()), store).await.unwrap();
    watch.take(&poll(minute(0), std::slice::from_ref(&seen)), &Alerts::default()).await.unwrap();
    let mut source = store.source(&name).await.unwrap().unwrap();
    let mut changed: Vec<_> = store.fleet(&name).await.unwrap().into_values().collect();
    for change in 1..CHANGES {
        let last = &changed[changed.len() - 1];
        let state = if change % 2 == 0 { State::Online } else { State::Offline };
        let entry = last.entry.next(minute(change * 10), state).unwrap();
        changed.push(Known { entry, ..last.clone() });
    }
    source.heard = Some(Heard { at: minute(CHANGES * 10), until: minute(CHANGES * 10) });
    store.record_poll(Recorded { source, changed, deliveries: Vec::new() }).await.unwrap();
    let id = RunnerId::of(&name, &seen.external_id);
    for (what, days) in [("uptime over a day", 1), ("uptime over a month", 30), ("uptime over a year", 365)] {
        let mut times = Vec::new();
        for _ in 0..SAMPLES {
            let from = minute((CHANGES - days * 144) * 10);
            let uptime = timed(&mut times, store.uptime(id, from, minute(CHANGES * 10))).await.unwrap().unwrap();
            assert!(uptime.uptime.is_some_and(|uptime| (uptime - 0.5).abs() < 0.01));
        }
        tell(&format!("{what}, of {CHANGES} entries"), times);
    }
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        timed(&mut times, store.runner_history(id, Some(minute(CHANGES * 5)), 100)).await.unwrap();
    }
    tell("100 entries in the middle", times);
}

/// A bridge without jobs, that has the history in `store`.
fn bridge(store: &Store, directory: &Path) -> (Router, String) {
    let settings = "jobs.prefixes = [\"ci-\"]\n[[runners.github]]\nname = \"acme\"\norganization = \"acme\"\n\
                    token_file = \"/nowhere\"\n";
    let Settings { runners, jobs: config::Jobs { policy, inputs, .. }, .. } = Settings::parse(settings).unwrap();
    let (runners, _never_polled) = Runners::new(&runners, Alerts::default(), None).unwrap();
    runners.take_up(store.clone());
    let runs = Runs::new(policy.clone());
    let systemd = Systemd::new(BusAddress::System, policy.clone(), runs.observer(), Duration::ZERO);
    let limits = Limits { instances_per_hour: 1, queued_runs: 1 };
    let (jobs, _recorder) = Jobs::new(runs, systemd, Journal::new(vec![directory.to_owned()]), limits, inputs);
    let token = Token::generate(Access::ReadOnly).unwrap();
    let keyring =
        format!("[[token]]\nname = \"reader\"\naccess = \"ro\"\nsha256 = \"{}\"\n", TokenHash::of(token.expose()));
    let keyring = Arc::new(ArcSwap::from_pointee(Keyring::parse(&keyring).unwrap()));
    let gate = Gate { keyring, query_tokens: QueryTokens::Deny };
    let following = Following { most: 1, heartbeat: Duration::from_secs(15) };
    let options = http::Options { following, exporter_names: false };
    let (audit, _) = Audit::new();
    let router = http::router(policy, jobs, audit, runners, gate, options, CancellationToken::new());
    (router, format!("Bearer {}", token.expose()))
}

/// The metrics of runners that have all gone on- or offline each day for a month.
async fn metrics(directory: &Path) {
    let store = Store::open(directory).await.unwrap().store;
    let mut seen: Vec<_> = (0..RUNNERS).map(runner).collect();
    let mut watch = Watch::open(watched(source()), &store).await.unwrap();
    let now = Timestamp::now();
    for day in (0..=30_u32).rev() {
        for runner in &mut seen {
            runner.online = runner.online.map(|online| !online);
        }
        let at = now.checked_sub(Duration::from_hours(24) * day).unwrap();
        watch.take(&poll(at, &seen), &Alerts::default()).await.unwrap();
    }
    let from = [1, 7, 30].map(|days| now.checked_sub(Duration::from_hours(24) * days).unwrap());
    let mut times = Vec::new();
    for _ in 0..20 {
        assert_eq!(timed(&mut times, store.glance(&from, now)).await.unwrap().len(), RUNNERS);
    }
    tell("all runners with three uptimes each", times);
    let (router, token) = bridge(&store, directory);
    let (mut times, mut size) = (Vec::new(), 0);
    for _ in 0..20 {
        let request = Request::get("/metrics").header("authorization", &token).body(Body::empty()).unwrap();
        let scrape = async {
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap().len()
        };
        size = timed(&mut times, scrape).await;
    }
    tell("the metrics", times);
    println!("{:<52} {} MB", "their size", size / 1_000_000);
}

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open(directory.path()).await.unwrap().store;
    let mut seen: Vec<_> = (0..RUNNERS).map(runner).collect();
    let mut watch = Watch::open(watched(source()), &store).await.unwrap();
    let begun = Instant::now();
    watch.take(&poll(minute(0), &seen), &Alerts::default()).await.unwrap();
    println!("{:<52} {:.1?}", "the first poll", begun.elapsed());
    polls(&mut watch, &mut seen).await;
    pages(&store).await;
    metrics(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().path()).await;
    let begun = Instant::now();
    Watch::open(watched(source()), &store).await.unwrap();
    println!("{:<52} {:.1?}", "going on with 10,000 runners", begun.elapsed());
    uptime(&store).await;
    store.close().await.unwrap();
    let size = std::fs::metadata(directory.path().join("ci-bridge.db")).unwrap().len();
    println!("{:<52} {} MiB", "size", size / 1024 / 1024);
}

//! How long a fleet of 10,000 runners takes, on the disk that holds the build. Prints figures and judges none.
//! Run it with `cargo bench --bench fleet`.

#![expect(clippy::unwrap_used, reason = "a figure that can't be had ends it")]

use std::time::{Duration, Instant};

use ci_bridge::alerts::Alerts;
use ci_bridge::config::{Grace, Settings};
use ci_bridge::fleet::{Watch, Watched};
use ci_bridge::runners::transitions::{Known, Options};
use ci_bridge::runners::uptime::State;
use ci_bridge::runners::{ExternalId, Kind, Poll, Provider, RunnerId, Seen, SourceName};
use ci_bridge::store::{Heard, Recorded, RunnerFilter, Store};
use jiff::Timestamp;

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
    Poll { at, result: Ok(seen.to_vec()), quota: None, not_before: None, requests: 100 }
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
        ("100 with a label", RunnerFilter { label: Some("pool-7".to_owned()), ..all.clone() }),
        ("100 with a part of a name", RunnerFilter { name: Some("d-96-".to_owned()), ..all.clone() }),
        ("100 of a state", RunnerFilter { state: Some(State::Offline), ..all.clone() }),
        ("none of all", RunnerFilter { label: Some("no".to_owned()), ..all.clone() }),
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
    let begun = Instant::now();
    Watch::open(watched(source()), &store).await.unwrap();
    println!("{:<52} {:.1?}", "going on with 10,000 runners", begun.elapsed());
    uptime(&store).await;
    store.close().await.unwrap();
    let size = std::fs::metadata(directory.path().join("ci-bridge.db")).unwrap().len();
    println!("{:<52} {} MiB", "size", size / 1024 / 1024);
}

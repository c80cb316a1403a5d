//! A day of a fleet within a minute: runners come, go and fail, the source fails, the target takes every second message
//! only, and the process is killed ten times. In the end everybody was told of everything, and the uptime is the one of
//! the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use ci_bridge::fleet::Watch;
use ci_bridge::runners::{Poll, Seen};
use ci_bridge::store::{DeliveryFilter, Store};
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::support::{alerts, failed, id, minute, open, poll, runner, watched};

const DAY: i64 = 1440;
const GRACE: u32 = 1;
const KILLS: u64 = 10;
const EVENTS: &str =
    "events = [\"created\", \"removed\", \"online\", \"offline\", \"source.unreachable\", \"source.recovered\"]";

/// A number that looks random and is the same for the same arguments.
fn hash(seed: u64, number: u64) -> u64 {
    let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93);
    for _ in 0..3 {
        bits = (bits ^ (bits >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    bits ^ (bits >> 32)
}

/// What becomes of each runner in the course of the day.
struct Plan {
    runners: Vec<Life>,
}

/// From when and until when a runner is there, and when it is offline, in minutes.
struct Life {
    from: i64,
    until: i64,
    breaks: Vec<(i64, i64)>,
}

impl Plan {
    fn new(runners: u64) -> Self {
        let plan = |runner: u64| {
            let number = |what: u64, below: i64| i64::try_from(hash(runner, what) % below.unsigned_abs()).unwrap();
            let (from, until) = match runner % 20 {
                0 => (1 + number(1, 700), DAY),
                1 => (0, 700 + number(1, 700)),
                _ => (0, DAY),
            };
            let breaks = (0..6).filter(|slot| number(100 + slot, 10) == 0).map(|slot| {
                let begin = i64::try_from(slot).unwrap() * 240 + number(200 + slot, 180);
                (begin, begin + 1 + number(300 + slot, 45))
            });
            Life { from, until, breaks: breaks.collect() }
        };
        Self { runners: (0..runners).map(plan).collect() }
    }

    /// Whether a runner is there, and then whether it is online.
    fn state(&self, runner: usize, minute: i64) -> Option<bool> {
        let Life { from, until, breaks } = &self.runners[runner];
        let is_broken = || breaks.iter().any(|(begin, end)| (*begin..*end).contains(&minute));
        (*from..*until).contains(&minute).then(|| !is_broken())
    }

    /// Whether the source can be read.
    fn is_heard(minute: i64) -> bool {
        !(500..520).contains(&minute) && !(900..902).contains(&minute) && minute % 97 != 96
    }

    /// Whether nothing is known at that minute: no list for more than three intervals and a half.
    fn is_silent(minute: i64) -> bool {
        (500..520).contains(&minute)
    }

    /// What is to be told: type, whom it is about, and when.
    fn alerts(&self) -> BTreeSet<(String, String, i64)> {
        let mut alerts = BTreeSet::from([
            ("source.unreachable".to_owned(), "acme".to_owned(), 503),
            ("source.recovered".to_owned(), "acme".to_owned(), 520),
        ]);
        for runner in 0..self.runners.len() {
            // Whether it is online as far as anybody was told, and how many polls said otherwise.
            let mut told: Option<(bool, u32)> = self.state(runner, 0).map(|online| (online, 0));
            for minute in (1..DAY).filter(|minute| Self::is_heard(*minute)) {
                let mut tell = |kind: &str| alerts.insert((format!("runner.{kind}"), runner.to_string(), minute));
                told = match (told, self.state(runner, minute)) {
                    (None, None) => None,
                    (Some(_), None) => {
                        tell("removed");
                        None
                    }
                    (None, Some(online)) => {
                        tell("created");
                        Some((online, 0))
                    }
                    (Some((was, _)), Some(online)) if was == online => Some((was, 0)),
                    (Some((was, polls)), Some(_)) if polls < GRACE => Some((was, polls + 1)),
                    (Some(_), Some(online)) => {
                        tell(if online { "online" } else { "offline" });
                        Some((online, 0))
                    }
                };
            }
        }
        alerts
    }

    /// How many minutes a runner was online, and known to be online or offline, as the polls could see it.
    fn minutes(&self, runner: usize) -> (u32, u32) {
        let (mut online, mut known, mut seen) = (0, 0, None);
        for minute in 0..DAY {
            if Self::is_heard(minute) {
                seen = self.state(runner, minute);
            }
            if let Some(is_online) = seen.filter(|_| !Self::is_silent(minute)) {
                known += 1;
                online += u32::from(is_online);
            }
        }
        (online, known)
    }

    fn poll(&self, at: i64, seen: &mut [Seen]) -> Poll {
        if !Self::is_heard(at) {
            return failed(minute(at));
        }
        let mut present = Vec::with_capacity(seen.len());
        for (number, seen) in seen.iter_mut().enumerate() {
            if let Some(online) = self.state(number, at) {
                seen.online = Some(online);
                present.push(seen.clone());
            }
        }
        Poll { result: Ok(present), ..poll(minute(at), &[]) }
    }
}

/// The bridge's part, until it is killed or the day is over and everything is told.
async fn live(directory: &Path, hook: SocketAddr, runners: u64) {
    let plan = Plan::new(runners);
    let mut seen: Vec<_> = (0..runners).map(|number| runner(&number.to_string(), true)).collect();
    let store = open(directory).await;
    let alerts = alerts(hook, EVENTS);
    let mut courier = alerts.couriers(&store).unwrap().remove(0);
    let mut watch = Watch::open(watched("acme", GRACE), &store).await.unwrap();
    let polled = store.source(&"acme".parse().unwrap()).await.unwrap().map(|source| source.polled);
    let next = polled.map_or(0, |polled| (polled.as_second() - minute(0).as_second()) / 60 + 1);
    for at in next..DAY {
        watch.take(&plan.poll(at, &mut seen), &alerts).await.unwrap();
        println!("\nminute {at}");
        while courier.deliver(minute(at)).await.unwrap().sent > 0 {}
    }
    let mut now = minute(DAY);
    while let Some(next) = courier.deliver(now).await.unwrap().next {
        now = now.max(next);
    }
    store.close().await.unwrap();
    println!("\nover");
}

/// What the target has got under one id.
#[derive(Debug, Default)]
struct Message {
    bodies: BTreeSet<Bytes>,
    attempts: u64,
    /// The place of the first attempt that it took, among all that it took.
    taken: Option<usize>,
}

/// A target that takes every second attempt, and none ten times in a row.
#[derive(Clone, Default)]
struct Target(Arc<Mutex<(BTreeMap<String, Message>, usize)>>);

async fn take(State(target): State<Target>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    let mut guard = target.0.lock().unwrap();
    let (messages, taken) = &mut *guard;
    let seed = id.bytes().fold(0, |seed, byte| hash(seed, byte.into()));
    let message = messages.entry(id).or_default();
    message.bodies.insert(body);
    message.attempts += 1;
    if hash(seed, message.attempts).is_multiple_of(2) && !message.attempts.is_multiple_of(8) {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    *taken += 1;
    message.taken.get_or_insert(*taken);
    StatusCode::NO_CONTENT
}

/// Has the day pass, in a process that is killed `kills` times; returns how often that was.
fn pass(test: &str, directory: &Path, hook: SocketAddr, kills: u64) -> u64 {
    let mut killed = 0;
    loop {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--include-ignored"])
            .env("CI_BRIDGE_TEST_STORE", directory)
            .env("CI_BRIDGE_TEST_HOOK", hook.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // So that all kills fall into the day.
        let patience = 20 + hash(killed, 7) % 100;
        let (mut minutes, mut over) = (0, false);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            over |= line == "over";
            minutes += u64::from(line.starts_with("minute"));
            if minutes == patience && killed < kills {
                child.kill().unwrap();
            }
        }
        let ended_well = child.wait().unwrap().success();
        if over {
            assert!(ended_well);
            return killed;
        }
        assert!(minutes >= patience && killed < kills, "it ended by itself");
        killed += 1;
    }
}

fn assert_told(plan: &Plan, messages: &BTreeMap<String, Message>) {
    let mut told = BTreeSet::new();
    let mut order: BTreeMap<String, Vec<(usize, i64)>> = BTreeMap::new();
    for (id, message) in messages {
        assert_eq!(message.bodies.len(), 1, "an attempt has sent something else: {message:?}");
        let body: Value = serde_json::from_slice(message.bodies.first().unwrap()).unwrap();
        assert_eq!(body["id"], id.as_str());
        let second = body["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second();
        let at = (second - minute(0).as_second()) / 60;
        let whom = body["runner"]["external_id"].as_str().or(body["source"]["name"].as_str()).unwrap().to_owned();
        order.entry(whom.clone()).or_default().push((message.taken.expect("taken"), at));
        let alert = (body["type"].as_str().unwrap().to_owned(), whom, at);
        assert!(told.insert(alert.clone()), "told twice under different ids: {alert:?}");
    }
    let planned = plan.alerts();
    assert!(told == planned, "missing {:?}, too many {:?}", planned.difference(&told), told.difference(&planned));
    for (whom, mut taken) in order {
        taken.sort_unstable();
        assert!(taken.is_sorted_by_key(|(_, at)| at), "not in order: {whom} {taken:?}");
    }
}

async fn assert_uptime(plan: &Plan, store: &Store) {
    for number in 0..plan.runners.len() {
        let runner = id("acme", &number.to_string());
        let found = store.uptime(runner, minute(0), minute(DAY)).await.unwrap().unwrap();
        let (online, known) = plan.minutes(number);
        let (uptime, coverage) = (f64::from(online) / f64::from(known), f64::from(known) / 1440.0);
        assert!((found.uptime.unwrap() - uptime).abs() < 1e-9, "{number}: {found:?} {uptime}");
        assert!((found.coverage - coverage).abs() < 1e-9, "{number}: {found:?} {coverage}");
    }
}

async fn day(test: &'static str, runners: u64) {
    if let (Some(directory), Ok(hook)) = (env::var_os("CI_BRIDGE_TEST_STORE"), env::var("CI_BRIDGE_TEST_HOOK")) {
        return live(Path::new(&directory), hook.parse().unwrap(), runners).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let target = Target::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook = listener.local_addr().unwrap();
    let router = Router::new().fallback(take).with_state(target.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let path = directory.path().to_owned();
    let killed = tokio::task::spawn_blocking(move || pass(test, &path, hook, KILLS)).await.unwrap();
    assert_eq!(killed, KILLS, "the day was over before it was killed often enough");

    let plan = Plan::new(runners);
    let store = open(directory.path()).await;
    assert_eq!(store.deliveries(DeliveryFilter::Dead, None, 1).await.unwrap(), []);
    assert_uptime(&plan, &store).await;
    let (messages, taken) = &*target.0.lock().unwrap();
    assert_told(&plan, messages);
    let attempts: u64 = messages.values().map(|message| message.attempts).sum();
    println!("{} alerts in {attempts} attempts, of which {taken} were taken, and {killed} kills", messages.len());
}

/// Runners of the day; `CI_BRIDGE_FLEET` sets another number, such as 5000, for which a release build takes a minute.
const RUNNERS: u64 = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_told_of_everything_and_the_uptime_is_the_one_of_the_plan() {
    let runners = env::var("CI_BRIDGE_FLEET").map_or(RUNNERS, |number| number.parse().unwrap());
    day("day::everybody_is_told_of_everything_and_the_uptime_is_the_one_of_the_plan", runners).await;
}

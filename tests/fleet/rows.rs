//! Rows of the table that need more than the function: deliveries, sources, restarts.

use std::sync::Arc;
use std::time::Duration;

use ci_bridge::alerts::Courier;
use ci_bridge::config::{Grace, Settings};
use ci_bridge::fleet::{Watch, Watched, retire_sources_but};
use ci_bridge::runners::Provider;
use ci_bridge::runners::poller::Trigger;
use ci_bridge::runners::transitions::Options;
use ci_bridge::runners::uptime::State;
use ci_bridge::store::{DeliveryFilter, Error, Store};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::hook::{Got, Hook};
use crate::support::{alerts, failed, id, minute, open, poll, runner, told, unsent, watched};

const ALL: &str =
    "events = [\"created\", \"removed\", \"online\", \"offline\", \"source.unreachable\", \"source.recovered\"]";

async fn watch(store: &Store, name: &str) -> Watch {
    Watch::open(watched(name, 0), store).await.unwrap()
}

/// Sends until nothing is left, as time goes by.
async fn deliver(courier: &mut Courier) {
    let mut now = minute(1);
    while let Some(next) = courier.deliver(now).await.unwrap().next {
        now = now.max(next);
    }
}

fn types(got: &[Got]) -> Vec<String> {
    let body = |got: &Got| serde_json::from_slice::<Value>(&got.body).unwrap();
    got.iter()
        .map(|got| format!("{} {}", body(got)["type"].as_str().unwrap(), body(got)["runner"]["name"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn b6_what_a_target_did_not_take_is_told_later_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let (hook, address) = Hook::start().await;
    let alerts = alerts(address, "");
    let mut courier = alerts.couriers(&store).unwrap().remove(0);
    let mut watch = watch(&store, "acme").await;
    watch.take(&poll(minute(0), &[runner("a", true)]), &alerts).await.unwrap();
    watch.take(&poll(minute(1), &[runner("a", false)]), &alerts).await.unwrap();
    hook.answer(500, None, 0);
    courier.deliver(minute(1)).await.unwrap();
    watch.take(&poll(minute(2), &[runner("a", false)]), &alerts).await.unwrap();
    deliver(&mut courier).await;
    let got = hook.got();
    assert_eq!(types(&got), ["runner.offline build-a", "runner.offline build-a"]);
    assert_eq!((&got[0].body, got[0].header("webhook-id")), (&got[1].body, got[1].header("webhook-id")));
    let body: Value = serde_json::from_slice(&got[1].body).unwrap();
    assert_eq!((&body["at"], body["id"].as_str()), (&"2026-01-01T00:01:00Z".into(), Some(got[1].header("webhook-id"))));
}

#[tokio::test]
async fn b7_a_change_and_its_end_are_both_told_though_the_target_was_away() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let (hook, address) = Hook::start().await;
    let alerts = alerts(address, "");
    let mut courier = alerts.couriers(&store).unwrap().remove(0);
    let mut watch = watch(&store, "acme").await;
    watch.take(&poll(minute(0), &[runner("a", true)]), &alerts).await.unwrap();
    watch.take(&poll(minute(1), &[runner("a", false)]), &alerts).await.unwrap();
    hook.answer(500, None, 0);
    courier.deliver(minute(1)).await.unwrap();
    watch.take(&poll(minute(2), &[runner("a", true)]), &alerts).await.unwrap();
    deliver(&mut courier).await;
    assert_eq!(types(&hook.got()[1..]), ["runner.offline build-a", "runner.online build-a"]);
}

#[tokio::test]
async fn b8_of_two_only_the_one_that_was_not_taken_is_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let (hook, address) = Hook::start().await;
    let alerts = alerts(address, "");
    let mut courier = alerts.couriers(&store).unwrap().remove(0);
    let mut watch = watch(&store, "acme").await;
    watch.take(&poll(minute(0), &[runner("a", true), runner("b", true)]), &alerts).await.unwrap();
    watch.take(&poll(minute(1), &[runner("a", false), runner("b", false)]), &alerts).await.unwrap();
    hook.answer(204, None, 0);
    hook.answer(500, None, 0);
    deliver(&mut courier).await;
    let mut sent = types(&hook.got());
    let repeated = sent.pop().unwrap();
    sent.sort();
    assert_eq!(sent, ["runner.offline build-a", "runner.offline build-b"]);
    // They went out side by side, so it is the one that was refused.
    assert_eq!(repeated, types(&hook.got())[1]);
}

#[tokio::test]
async fn b9_a_source_that_fails_hides_nothing_of_another_and_becomes_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let alerts = unsent(ALL);
    let (mut failing, mut sound) = (watch(&store, "acme").await, watch(&store, "lab").await);
    failing.take(&poll(minute(0), &[runner("a", true)]), &alerts).await.unwrap();
    sound.take(&poll(minute(0), &[runner("b", true)]), &alerts).await.unwrap();
    for number in 1..=3 {
        failing.take(&failed(minute(number)), &alerts).await.unwrap();
    }
    sound.take(&poll(minute(3), &[runner("b", false)]), &alerts).await.unwrap();
    assert_eq!(told(&store).await, ["runner.offline"]);
    let state = async |runner| store.runner(id("acme", runner)).await.unwrap().unwrap().known.entry;
    assert_eq!(state("a").await.state, State::Online);
    for number in 4..10 {
        failing.take(&failed(minute(number)), &alerts).await.unwrap();
    }
    assert_eq!((state("a").await.state, state("a").await.at), (State::Unknown, minute(1)));
    let record = store.source(&"acme".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((record.failures, record.error.as_deref(), record.unreachable), (9, Some("service-error"), true));
    failing.take(&poll(minute(10), &[runner("a", true)]), &alerts).await.unwrap();
    assert_eq!(told(&store).await, ["runner.offline", "source.unreachable", "source.recovered"]);
    let uptime = store.uptime(id("acme", "a"), minute(0), minute(11)).await.unwrap().unwrap();
    assert!(uptime.uptime == Some(1.0) && (uptime.coverage - 2.0 / 11.0).abs() < 1e-9, "{uptime:?}");
}

#[tokio::test]
async fn a_source_that_was_never_heard_is_told_after_three_polls() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let alerts = unsent(ALL);
    let mut watch = watch(&store, "acme").await;
    for (number, count) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
        watch.take(&failed(minute(number)), &alerts).await.unwrap();
        assert_eq!(told(&store).await.len(), count, "poll {number}");
    }
    // Who is there in the first list was not created by it.
    watch.take(&poll(minute(4), &[runner("a", true)]), &alerts).await.unwrap();
    assert_eq!(told(&store).await, ["source.unreachable", "source.recovered"]);
}

#[tokio::test]
async fn b13_what_happened_while_the_process_was_down_is_told_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let alerts = unsent(ALL);
    let store = open(directory.path()).await;
    let mut before = watch(&store, "acme").await;
    let all = [runner("a", true), runner("b", true), runner("c", true)];
    before.take(&poll(minute(0), &all), &alerts).await.unwrap();
    store.close().await.unwrap();

    let store = open(directory.path()).await;
    let mut after = watch(&store, "acme").await;
    let now = [runner("a", false), runner("b", true), runner("d", true)];
    after.take(&poll(minute(60), &now), &alerts).await.unwrap();
    assert_eq!(told(&store).await, ["runner.offline", "runner.removed", "runner.created"]);
    let uptime = store.uptime(id("acme", "b"), minute(0), minute(61)).await.unwrap().unwrap();
    assert!(uptime.uptime == Some(1.0) && (uptime.coverage - 2.0 / 61.0).abs() < 1e-9, "{uptime:?}");
}

#[tokio::test]
async fn b17_when_a_template_fails_the_event_is_told_as_json() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template");
    std::fs::write(&template, "{{ new_runner.nmae }}").unwrap();
    let store = open(directory.path()).await;
    let alerts = unsent(&format!("format = \"template\"\ntemplates.offline = \"{}\"", template.display()));
    let mut watch = watch(&store, "acme").await;
    watch.take(&poll(minute(0), &[runner("a", true)]), &alerts).await.unwrap();
    watch.take(&poll(minute(1), &[runner("a", false)]), &alerts).await.unwrap();
    let delivery = store.deliveries(DeliveryFilter::All, None, 9).await.unwrap().remove(0).delivery;
    let body: Value = serde_json::from_slice(&delivery.body).unwrap();
    assert_eq!((&body["type"], &body["runner"]["name"]), (&"runner.offline".into(), &"build-a".into()));
    assert_eq!(delivery.content_type, "application/json");
}

#[tokio::test]
async fn a_poll_that_cannot_be_recorded_has_not_happened() {
    let directory = tempfile::tempdir().unwrap();
    let alerts = unsent("");
    let store = open(directory.path()).await;
    let mut watch = Watch::open(watched("acme", 1), &store).await.unwrap();
    watch.take(&poll(minute(0), &[runner("a", true)]), &alerts).await.unwrap();
    watch.take(&poll(minute(1), &[runner("a", false)]), &alerts).await.unwrap();
    store.close().await.unwrap();
    for _ in 0..3 {
        let taken = watch.take(&poll(minute(2), &[runner("a", false)]), &alerts).await;
        assert!(matches!(taken, Err(Error::Closed)));
    }
    let store = open(directory.path()).await;
    let mut watch = Watch::open(watched("acme", 1), &store).await.unwrap();
    assert_eq!(told(&store).await, Vec::<String>::new());
    assert_eq!(watch.take(&poll(minute(3), &[runner("a", false)]), &alerts).await.unwrap().deliveries, 1);
}

#[tokio::test]
async fn a_clock_that_jumps_makes_no_negative_time_and_no_alerts() {
    let directory = tempfile::tempdir().unwrap();
    let alerts = unsent(ALL);
    let store = open(directory.path()).await;
    let mut watch = watch(&store, "acme").await;
    // An hour ahead, an hour back, to 1970, and right again.
    for now in
        [minute(0), minute(1), minute(61), minute(62), minute(3), jiff::Timestamp::UNIX_EPOCH, minute(64), minute(65)]
    {
        watch.take(&poll(now, &[runner("a", true), runner("b", now.as_second() % 120 == 0)]), &alerts).await.unwrap();
    }
    assert!(told(&store).await.iter().all(|kind| ["runner.online", "runner.offline"].contains(&kind.as_str())));
    for name in ["a", "b"] {
        let mut history = store.runner_history(id("acme", name), None, 100).await.unwrap();
        history.reverse();
        assert!(history.windows(2).all(|pair| {
            pair[0].at < pair[1].at
                && pair[0].known_before <= pair[1].known_before
                && pair[0].online_before <= pair[1].online_before
        }));
    }
    let uptime = store.uptime(id("acme", "a"), minute(0), minute(66)).await.unwrap().unwrap();
    assert_eq!(uptime.uptime, Some(1.0));
    assert!(uptime.coverage <= 1.0, "{uptime:?}");
}

#[tokio::test]
async fn a_watch_that_runs_polls_when_asked_and_has_what_follows_sent() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let (hook, address) = Hook::start().await;
    let alerts = Arc::new(alerts(address, ""));
    let (wake, stop, trigger) = (Arc::new(Notify::new()), CancellationToken::new(), Trigger::default());
    let courier = alerts.couriers(&store).unwrap().remove(0);
    let courier = tokio::spawn(courier.run(wake.clone(), stop.clone()));
    let (list, mut lists) = mpsc::unbounded_channel::<bool>();
    let read = async move || poll(Timestamp::now(), &[runner("a", lists.recv().await.unwrap())]);
    let running = watch(&store, "acme").await.run(read, alerts, wake, trigger.clone(), stop.clone());
    let running = tokio::spawn(running);
    for (number, online) in [true, false, true, false].into_iter().enumerate() {
        list.send(online).unwrap();
        // The first list is the first ever, of which nobody is told.
        while hook.got().len() < number {
            tokio::task::yield_now().await;
        }
        trigger.pull();
    }
    let offline_and_online = ["runner.offline build-a", "runner.online build-a", "runner.offline build-a"];
    assert_eq!(types(&hook.got()), offline_and_online);
    stop.cancel();
    running.await.unwrap();
    courier.await.unwrap();
}

#[test]
fn a_source_is_watched_as_it_is_configured() {
    let text = "jobs.prefixes = [\"ci-test-\"]\n[[runners.github]]\nname = \"acme\"\nrepository = \"acme/site\"\n\
                token_file = \"/t\"\ngrace = \"5m\"\ninterval = \"30s\"\nephemeral = false\ndoubt_mass_removal = false\n\
                [[runners.gitlab]]\nname = \"lab\"\nscope = \"group\"\ngroup = \"acme/tools\"\ntoken_file = \"/t\"\n";
    let settings = Settings::parse(text).unwrap();
    let [acme, lab] = [0, 1].map(|number| Watched::of(&settings.runners[number]));
    assert_eq!(acme.set, "repo: acme/site; github: https://api.github.com");
    assert_eq!((acme.provider, acme.interval), (Provider::GitHub, Duration::from_secs(30)));
    let grace = Grace::Time(Duration::from_mins(5));
    assert_eq!(acme.options, Options { grace, ignore_ephemeral: true, doubt_mass_removal: false });
    assert_eq!(lab.set, "group: acme/tools; gitlab: https://gitlab.com/api/v4");
    let usual = Options { grace: Grace::Polls(3), ignore_ephemeral: false, doubt_mass_removal: true };
    assert_eq!((lab.provider, lab.options), (Provider::GitLab, usual));
}

#[tokio::test]
async fn nothing_is_known_of_a_source_that_is_no_longer_watched() {
    let directory = tempfile::tempdir().unwrap();
    let alerts = unsent(ALL);
    let store = open(directory.path()).await;
    for name in ["acme", "lab"] {
        watch(&store, name).await.take(&poll(minute(0), &[runner("a", true)]), &alerts).await.unwrap();
    }
    for _ in 0..2 {
        retire_sources_but(&[&"lab".parse().unwrap()], &store).await.unwrap();
    }
    let state = async |source| store.runner(id(source, "a")).await.unwrap().unwrap().known.entry;
    assert_eq!(
        (state("acme").await.state, state("acme").await.at),
        (State::Unknown, minute(0) + Duration::from_mins(1))
    );
    assert_eq!(state("lab").await.state, State::Online);
    assert_eq!(told(&store).await, Vec::<String>::new());
}

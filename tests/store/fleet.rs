use ci_bridge::runners::transitions::{Changes, Known};
use ci_bridge::runners::uptime::{Entry, State, Uptime};
use ci_bridge::runners::{ExternalId, Kind, Provider, RunnerId};
use ci_bridge::store::{DeliveryFilter, Error, Heard, RunnerFilter, SourceRecord, Store};

use crate::support::{Home, at, became, delivery, heard, known, recorded, seen, source};

fn id(source_name: &str, runner: &str) -> RunnerId {
    RunnerId::of(&source(source_name), &ExternalId::new(runner))
}

async fn names(store: &Store, filter: &RunnerFilter) -> Vec<String> {
    let runners = store.runners(filter, None, 1000).await.unwrap();
    runners.into_iter().map(|runner| runner.known.seen.name).collect()
}

#[tokio::test]
async fn nothing_is_known_of_a_source_that_was_never_polled() {
    let home = Home::new();
    let store = home.open().await;
    assert_eq!(store.source(&source("acme")).await.unwrap(), None);
    assert!(store.fleet(&source("acme")).await.unwrap().is_empty());
    assert_eq!(store.runner(id("acme", "1")).await.unwrap(), None);
    assert_eq!(store.uptime(id("acme", "1"), at(0), at(9)).await.unwrap(), None);
    assert_eq!(store.runner_history(id("acme", "1"), None, 9).await.unwrap(), []);
}

#[tokio::test]
async fn what_a_poll_came_to_is_there_after_a_restart() {
    let home = Home::new();
    let store = home.open().await;
    let first = known(0, seen("1", Some(true)));
    let doubtful = Known {
        confirmed: None,
        differing: 3,
        differing_since: Some(at(5)),
        missing: true,
        changes: Changes { bits: 0b1011, flapping: true },
        ..known(0, seen("2", None))
    };
    let telling = SourceRecord { not_before: Some(at(90)), ..heard("acme", 0) };
    store.record_poll(recorded(telling.clone(), &[first.clone(), doubtful.clone()])).await.unwrap();
    store.close().await.unwrap();
    let store = home.open().await;
    assert_eq!(store.source(&source("acme")).await.unwrap(), Some(telling));
    let fleet = store.fleet(&source("acme")).await.unwrap();
    assert_eq!(fleet.into_values().collect::<Vec<_>>(), [first.clone(), doubtful]);

    let failing = SourceRecord {
        failures: 4,
        error: Some("timeout".to_owned()),
        unreachable: true,
        polled: at(300),
        ..heard("acme", 0)
    };
    store.record_poll(recorded(failing.clone(), &[])).await.unwrap();
    assert_eq!(store.sources().await.unwrap(), [failing]);
    let record = store.runner(id("acme", "1")).await.unwrap().unwrap();
    assert_eq!((record.id, record.source, record.provider), (id("acme", "1"), source("acme"), Provider::GitHub));
    assert_eq!(record.known, first);
}

#[tokio::test]
async fn a_poll_is_recorded_as_a_whole_or_not_at_all() {
    let home = Home::new();
    let store = home.open().await;
    let sound = known(0, seen("1", Some(true)));
    // The history can't say that it was online for longer than it was known.
    let entry = Entry { online_before: std::time::Duration::from_secs(9), ..sound.entry };
    let broken = Known { entry, ..known(0, seen("2", Some(true))) };
    let mut poll = recorded(heard("acme", 0), &[sound, broken]);
    poll.deliveries.push(delivery("ops", "1", 0));
    assert!(matches!(store.record_poll(poll).await, Err(Error::Conflict(_))));
    assert_eq!(store.sources().await.unwrap(), []);
    assert!(store.fleet(&source("acme")).await.unwrap().is_empty());
    assert_eq!(store.deliveries(DeliveryFilter::All, None, 9).await.unwrap(), []);
}

#[tokio::test]
async fn a_runner_that_was_removed_is_found_when_it_comes_back() {
    let home = Home::new();
    let store = home.open().await;
    let first = known(0, seen("1", Some(true)));
    let removed = became(&first, 60, State::Removed);
    store.record_poll(recorded(heard("acme", 0), &[first, known(0, seen("2", None))])).await.unwrap();
    store.record_poll(recorded(heard("acme", 60), std::slice::from_ref(&removed))).await.unwrap();
    assert_eq!(store.fleet(&source("acme")).await.unwrap().len(), 1);
    let ids = ["1", "2", "3"].map(ExternalId::new);
    let ids: Vec<_> = ids.iter().cycle().take(200).collect();
    let former = store.former(&source("acme"), &ids).await.unwrap();
    assert_eq!(former.into_values().collect::<Vec<_>>(), std::slice::from_ref(&removed));
    assert!(store.former(&source("lab"), &ids).await.unwrap().is_empty());

    store.record_poll(recorded(heard("acme", 120), &[became(&removed, 120, State::Online)])).await.unwrap();
    let history = store.runner_history(id("acme", "1"), None, 10).await.unwrap();
    let states: Vec<_> = history.iter().map(|entry| (entry.at, entry.state)).collect();
    assert_eq!(states, [(at(120), State::Online), (at(60), State::Removed), (at(0), State::Online)]);
}

#[tokio::test]
async fn a_page_has_what_the_filter_says_and_nothing_else() {
    let home = Home::new();
    let store = home.open().await;
    let mut busy = seen("2", Some(false));
    (busy.busy, busy.paused, busy.kind) = (Some(true), Some(false), Some(Kind::Group));
    let mut paused = seen("3", None);
    (paused.paused, paused.labels) = (Some(true), vec!["a\",\"only-1".to_owned(), "%".to_owned()]);
    let gone = became(&known(0, seen("4", Some(true))), 1, State::Removed);
    store.record_poll(recorded(heard("acme", 0), &[known(0, seen("1", Some(true))), gone])).await.unwrap();
    store.record_poll(recorded(heard("lab", 0), &[known(0, busy), known(0, paused)])).await.unwrap();

    let all = RunnerFilter::default();
    let cases = [
        (all.clone(), vec!["Build-1", "Build-2", "Build-3"]),
        (RunnerFilter { provider: Some(Provider::GitHub), ..all.clone() }, vec!["Build-1"]),
        (RunnerFilter { source: Some(source("lab")), ..all.clone() }, vec!["Build-2", "Build-3"]),
        (RunnerFilter { source: Some(source("other")), ..all.clone() }, vec![]),
        (RunnerFilter { kinds: vec![Kind::Group], ..all.clone() }, vec!["Build-2"]),
        (RunnerFilter { kinds: vec![Kind::Project, Kind::Group], ..all.clone() }, vec!["Build-2"]),
        (RunnerFilter { state: Some(State::Online), ..all.clone() }, vec!["Build-1"]),
        (RunnerFilter { state: Some(State::Offline), ..all.clone() }, vec!["Build-2"]),
        (RunnerFilter { state: Some(State::Unknown), ..all.clone() }, vec!["Build-3"]),
        (RunnerFilter { state: Some(State::Removed), ..all.clone() }, vec!["Build-4"]),
        (RunnerFilter { busy: Some(true), ..all.clone() }, vec!["Build-2"]),
        (RunnerFilter { paused: Some(true), ..all.clone() }, vec!["Build-3"]),
        (RunnerFilter { paused: Some(false), ..all.clone() }, vec!["Build-2"]),
        (RunnerFilter { labels: vec!["only-1".to_owned()], ..all.clone() }, vec!["Build-1"]),
        (RunnerFilter { labels: vec!["only".to_owned()], ..all.clone() }, vec![]),
        (RunnerFilter { labels: vec!["%".to_owned()], ..all.clone() }, vec!["Build-3"]),
        (RunnerFilter { labels: vec!["%".to_owned(), "only-1".to_owned()], ..all.clone() }, vec![]),
        (RunnerFilter { name: Some("LD-2".to_owned()), ..all.clone() }, vec!["Build-2"]),
        (RunnerFilter { name: Some("%".to_owned()), ..all.clone() }, vec![]),
        (RunnerFilter { busy: Some(true), state: Some(State::Online), ..all }, vec![]),
    ];
    for (filter, expected) in cases {
        assert_eq!(names(&store, &filter).await, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn pages_tell_of_every_runner_once_also_if_names_are_alike() {
    let home = Home::new();
    let store = home.open().await;
    let runners: Vec<_> = (0..150)
        .map(|number| {
            let mut seen = seen(&number.to_string(), Some(true));
            seen.name = format!("build-{}", number % 3);
            known(0, seen)
        })
        .collect();
    store.record_poll(recorded(heard("acme", 0), &runners)).await.unwrap();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.runners(&RunnerFilter::default(), after, 7).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        found.extend(page.into_iter().map(|runner| (runner.known.seen.name.clone(), runner.id)));
    }
    assert_eq!(found.len(), 150);
    assert!(found.is_sorted());
    found.dedup();
    assert_eq!(found.len(), 150);
}

#[tokio::test]
async fn uptime_is_known_until_the_source_was_last_heard() {
    let home = Home::new();
    let store = home.open().await;
    let first = known(0, seen("1", Some(true)));
    store.record_poll(recorded(heard("acme", 0), std::slice::from_ref(&first))).await.unwrap();
    let offline = became(&first, 60, State::Offline);
    store.record_poll(recorded(heard("acme", 60), &[offline])).await.unwrap();
    let runner = id("acme", "1");
    let uptime = |from, to| store.uptime(runner, at(from), at(to));
    assert_eq!(uptime(0, 120).await.unwrap(), Some(Uptime { uptime: Some(0.5), coverage: 1.0 }));
    assert_eq!(uptime(30, 90).await.unwrap(), Some(Uptime { uptime: Some(0.5), coverage: 1.0 }));
    assert_eq!(uptime(0, 240).await.unwrap(), Some(Uptime { uptime: Some(0.5), coverage: 0.5 }));
    assert_eq!(uptime(-60, 0).await.unwrap(), Some(Uptime { uptime: None, coverage: 0.0 }));
    assert_eq!(uptime(180, 240).await.unwrap(), Some(Uptime { uptime: None, coverage: 0.0 }));
}

#[tokio::test]
async fn pages_of_a_history_go_on_before_the_last_entry() {
    let home = Home::new();
    let store = home.open().await;
    let mut all = vec![known(0, seen("1", Some(true)))];
    for minute in 1..10 {
        let state = if minute % 2 == 1 { State::Offline } else { State::Online };
        all.push(became(&all[all.len() - 1], minute * 60, state));
    }
    store.record_poll(recorded(heard("acme", 540), &all)).await.unwrap();
    let first = store.runner_history(id("acme", "1"), None, 4).await.unwrap();
    let rest = store.runner_history(id("acme", "1"), Some(first[3].at), 100).await.unwrap();
    let entries: Vec<_> = first.into_iter().chain(rest).rev().collect();
    assert_eq!(entries, all.iter().map(|known| known.entry).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_forgotten_changes_no_uptime_of_what_is_kept() {
    let home = Home::new();
    let store = home.open().await;
    let mut all = vec![known(0, seen("1", Some(true)))];
    for minute in 1..10 {
        let state = if minute % 3 == 1 { State::Offline } else { State::Online };
        let last = &all[all.len() - 1];
        all.extend(last.entry.next(at(minute * 60), state).map(|entry| Known { entry, ..last.clone() }));
    }
    let gone = became(&known(0, seen("2", Some(true))), 60, State::Removed);
    let kept = became(&known(0, seen("3", Some(true))), 400, State::Removed);
    all.extend([gone, kept]);
    store.record_poll(recorded(heard("acme", 600), &all)).await.unwrap();
    let runner = id("acme", "1");
    let before = store.uptime(runner, at(330), at(600)).await.unwrap();
    assert!(store.forget_runners(at(330)).await.unwrap() > 0);
    assert_eq!(store.uptime(runner, at(330), at(600)).await.unwrap(), before);
    let oldest = store.runner_history(runner, None, 100).await.unwrap().pop().unwrap();
    assert!(oldest.at <= at(330), "{oldest:?}");
    assert_eq!(store.runner(id("acme", "2")).await.unwrap(), None);
    assert!(store.runner(id("acme", "3")).await.unwrap().is_some());
    assert_eq!(store.forget_runners(at(330)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_source_that_was_heard_of_later_covers_what_came_before() {
    let home = Home::new();
    let store = home.open().await;
    let first = known(0, seen("1", Some(true)));
    let silent = SourceRecord { heard: Some(Heard { at: at(0), until: at(10) }), ..heard("acme", 0) };
    store.record_poll(recorded(silent, &[first])).await.unwrap();
    let uptime = store.uptime(id("acme", "1"), at(0), at(40)).await.unwrap().unwrap();
    assert_eq!(uptime, Uptime { uptime: Some(1.0), coverage: 0.25 });
    store.record_poll(recorded(heard("acme", 20), &[])).await.unwrap();
    let uptime = store.uptime(id("acme", "1"), at(0), at(40)).await.unwrap().unwrap();
    assert_eq!(uptime, Uptime { uptime: Some(1.0), coverage: 1.0 });
}

#[tokio::test]
async fn all_runners_at_a_glance_did_as_each_by_itself() {
    let home = Home::new();
    let store = home.open().await;
    // Runners of two lists, which were read until different times, with more or fewer changes.
    for (name, until) in [("acme", 500), ("lab", 200)] {
        let mut changed = Vec::new();
        for number in 0..6 {
            let mut runner = known(number * 10, seen(&number.to_string(), Some(number % 2 == 0)));
            changed.push(runner.clone());
            for change in 0..number {
                let states = [State::Offline, State::Online, State::Unknown];
                let state = states[usize::try_from(change + number).unwrap() % 3];
                if state != runner.entry.state {
                    runner = became(&runner, 60 + change * 20 + number, state);
                    changed.push(runner.clone());
                }
            }
        }
        // One that is gone.
        let gone = known(0, seen("gone", Some(true)));
        changed.extend([gone.clone(), became(&gone, 30, State::Removed)]);
        store.record_poll(recorded(heard(name, until), &changed)).await.unwrap();
    }
    let from: Vec<_> = (-20..700).step_by(7).map(at).collect();
    for to in [at(200), at(260), at(700)] {
        let glances = store.glance(&from, to).await.unwrap();
        assert_eq!(glances.len(), 12);
        for glance in glances {
            assert_eq!(store.runner(glance.runner.id).await.unwrap().as_ref(), Some(&glance.runner));
            for (from, uptime) in from.iter().zip(glance.uptimes) {
                let alone = store.uptime(glance.runner.id, *from, to).await.unwrap().unwrap();
                assert_eq!(uptime, alone, "{} from {from}", glance.runner.known.seen.name);
            }
        }
    }
}

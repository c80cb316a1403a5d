//! The table: polls from top to bottom, and what is told and known after each of them.

use proptest::prelude::*;

use super::*;

const AT_ONCE: Options = Options { grace: Grace::Polls(0), ignore_ephemeral: false, doubt_mass_removal: true };

fn grace(polls: u32) -> Options {
    Options { grace: Grace::Polls(polls), ..AT_ONCE }
}

fn minute(minute: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + 60 * minute).unwrap()
}

fn runner(id: &str, online: Option<bool>) -> Seen {
    Seen {
        external_id: ExternalId::new(id),
        name: format!("runner-{id}"),
        os: Some("linux".to_owned()),
        labels: vec!["self-hosted".to_owned()],
        online,
        status: State::told(online).as_str().to_owned(),
        busy: Some(false),
        paused: None,
        ephemeral: Some(false),
        version: None,
        kind: None,
        contacted_at: None,
        locked: None,
    }
}

fn up(id: &str) -> Seen {
    runner(id, Some(true))
}

fn down(id: &str) -> Seen {
    runner(id, Some(false))
}

/// A source that is polled every minute.
struct Polled {
    options: Options,
    known: Fleet,
    polls: i64,
}

impl Polled {
    /// After a first poll.
    fn new(options: Options, seen: &[Seen]) -> Self {
        let mut polled = Self { options, known: Fleet::new(), polls: 0 };
        assert_eq!(polled.poll(seen), Vec::<String>::new(), "the first poll tells nobody");
        polled
    }

    fn transitions(&mut self, seen: &[Seen]) -> Vec<Transition> {
        let outcome = evaluate(&self.known, seen, minute(self.polls), self.polls == 0, &self.options);
        self.polls += 1;
        self.known.extend(outcome.changed.into_iter().map(|known| (known.seen.external_id.clone(), known)));
        outcome.transitions
    }

    /// What is told of a poll: `Offline 69: T/T/0 → F/F/0`.
    fn poll(&mut self, seen: &[Seen]) -> Vec<String> {
        self.transitions(seen).iter().map(told).collect()
    }

    /// What is known of a runner: confirmed, seen, and how many polls differed.
    fn state(&self, id: &str) -> String {
        self.known.get(&ExternalId::new(id)).filter(|known| known.is_present()).map_or("–".to_owned(), state)
    }
}

fn state(known: &Known) -> String {
    let letter = |online| match online {
        Some(true) => "T",
        Some(false) => "F",
        None => "?",
    };
    format!("{}/{}/{}", letter(known.confirmed), letter(known.seen.online), known.differing)
}

fn told(transition: &Transition) -> String {
    let Transition { turn, before, after, .. } = transition;
    let states = [before.as_ref(), Some(after).filter(|after| after.is_present())];
    let states = states.map(|known| known.map_or("–".to_owned(), state));
    format!("{turn:?} {}: {}", after.seen.external_id, states.join(" → "))
}

/// Polls a runner `a` as `seen` says (`u` up, `d` down, `?` unknown, `-` absent), and compares what is told and its state
/// after each poll. The first poll is the first one of the source.
fn follow(options: Options, rows: &[(char, &[&str], &str)]) {
    let see = |what: char| match what {
        'u' => vec![up("a")],
        'd' => vec![down("a")],
        '?' => vec![runner("a", None)],
        _ => vec![],
    };
    let mut polled = Polled { options, known: Fleet::new(), polls: 0 };
    for (number, (what, expected, after)) in rows.iter().enumerate() {
        assert_eq!(polled.poll(&see(*what)), *expected, "poll {number}");
        assert_eq!(polled.state("a"), *after, "after poll {number}");
    }
}

const NONE: &[&str] = &[];

#[test]
fn a1_without_grace_every_change_is_told_at_once() {
    let mut polled = Polled::new(AT_ONCE, &[up("69")]);
    assert_eq!(polled.state("69"), "T/T/0");
    assert_eq!(polled.poll(&[down("69")]), ["Offline 69: T/T/0 → F/F/0"]);
    assert_eq!(polled.state("69"), "F/F/0");
    assert_eq!(polled.poll(&[]), ["Removed 69: F/F/0 → –"]);
    for _ in 3..=7 {
        assert_eq!(polled.poll(&[]), NONE);
        assert_eq!(polled.state("69"), "–");
    }
    let created = polled.poll(&[up("420"), down("12")]);
    assert_eq!(created, ["Created 12: – → F/F/0", "Created 420: – → T/T/0"]);
    let renewed = |online| {
        let temple = Some("TempleOS".to_owned());
        Seen { os: temple, labels: vec!["holy".to_owned()], ..runner("420", Some(online)) }
    };
    assert_eq!(polled.poll(&[renewed(true), down("12")]), NONE);
    assert_eq!((polled.state("420"), polled.state("12")), ("T/T/0".to_owned(), "F/F/0".to_owned()));
    let offline = polled.transitions(&[renewed(false), down("12")]);
    assert_eq!(offline.iter().map(told).collect::<Vec<_>>(), ["Offline 420: T/T/0 → F/F/0"]);
    let before = &offline[0].before.as_ref().unwrap().seen;
    assert_eq!((before.os.as_deref(), before.labels.as_slice()), (Some("TempleOS"), ["holy".to_owned()].as_slice()));
    assert_eq!(polled.poll(&[renewed(false), up("12")]), ["Online 12: F/F/0 → T/T/0"]);
    assert_eq!((polled.state("420"), polled.state("12")), ("F/F/0".to_owned(), "T/T/0".to_owned()));
}

#[test]
fn a2_with_a_grace_of_three_the_fourth_poll_in_a_row_is_told() {
    follow(
        grace(3),
        &[
            ('u', NONE, "T/T/0"),
            ('d', NONE, "T/F/1"),
            ('d', NONE, "T/F/2"),
            ('d', NONE, "T/F/3"),
            ('u', NONE, "T/T/0"),
            ('d', NONE, "T/F/1"),
            ('d', NONE, "T/F/2"),
            ('d', NONE, "T/F/3"),
            ('d', &["Offline a: T/F/3 → F/F/0"], "F/F/0"),
            ('d', NONE, "F/F/0"),
            ('u', &["Flapping a: F/F/0 → F/T/1"], "F/T/1"),
            ('u', NONE, "F/T/2"),
            ('u', NONE, "F/T/3"),
            ('d', NONE, "F/F/0"),
            ('u', NONE, "F/T/1"),
            ('u', NONE, "F/T/2"),
            ('u', NONE, "F/T/3"),
            ('u', &["Online a: F/T/3 → T/T/0"], "T/T/0"),
        ],
    );
}

#[test]
fn b1_who_flaps_faster_than_the_grace_is_reported_once_and_never_online_or_offline() {
    let mut polled = Polled::new(grace(3), &[up("a")]);
    for number in 1..100 {
        let (seen, after) = if number % 2 == 1 { (down("a"), "T/F/1") } else { (up("a"), "T/T/0") };
        let expected: &[&str] = if number == 4 { &["Flapping a: T/F/1 → T/T/0"] } else { NONE };
        assert_eq!(polled.poll(&[seen]), expected, "poll {number}");
        assert_eq!(polled.state("a"), after, "poll {number}");
    }
    // It is steady again only when all of the polls that are remembered agree, and may then flap anew.
    for number in 0..REMEMBERED {
        assert!(polled.known.values().all(|known| known.changes.flapping), "poll {number}");
        polled.poll(&[down("a")]);
    }
    assert!(polled.known.values().all(|known| !known.changes.flapping));
}

#[test]
fn b2_removal_has_no_grace() {
    follow(
        grace(3),
        &[('u', NONE, "T/T/0"), ('d', NONE, "T/F/1"), ('d', NONE, "T/F/2"), ('-', &["Removed a: T/F/2 → –"], "–")],
    );
}

#[test]
fn b3_who_comes_back_under_the_same_id_was_removed_and_created() {
    for polls in [0, 3] {
        follow(
            grace(polls),
            &[('u', NONE, "T/T/0"), ('-', &["Removed a: T/T/0 → –"], "–"), ('u', &["Created a: – → T/T/0"], "T/T/0")],
        );
    }
}

#[test]
fn b4_who_is_created_offline_does_not_go_offline() {
    follow(grace(3), &[('-', NONE, "–"), ('d', &["Created a: – → F/F/0"], "F/F/0"), ('d', NONE, "F/F/0")]);
}

#[test]
fn b5_a_new_runner_goes_offline_after_its_grace() {
    follow(
        grace(3),
        &[
            ('-', NONE, "–"),
            ('u', &["Created a: – → T/T/0"], "T/T/0"),
            ('d', NONE, "T/F/1"),
            ('d', NONE, "T/F/2"),
            ('d', NONE, "T/F/3"),
            ('d', &["Offline a: T/F/3 → F/F/0"], "F/F/0"),
        ],
    );
}

#[test]
fn b7_a_change_and_its_end_are_both_told() {
    follow(
        AT_ONCE,
        &[
            ('u', NONE, "T/T/0"),
            ('d', &["Offline a: T/T/0 → F/F/0"], "F/F/0"),
            ('u', &["Online a: F/F/0 → T/T/0"], "T/T/0"),
        ],
    );
}

#[test]
fn b10_new_names_and_labels_are_told_to_nobody_and_known() {
    let mut polled = Polled::new(AT_ONCE, &[up("a")]);
    let renamed = Seen { name: "other".to_owned(), labels: vec![], ..up("a") };
    assert_eq!(polled.poll(std::slice::from_ref(&renamed)), NONE);
    assert_eq!(polled.state("a"), "T/T/0");
    assert_eq!(polled.known[&ExternalId::new("a")].seen, renamed);
}

#[test]
fn b11_a_runner_that_registered_anew_was_removed_and_created() {
    let named = |id: &str| Seen { name: "build".to_owned(), ..up(id) };
    let mut polled = Polled::new(AT_ONCE, &[named("5")]);
    assert_eq!(polled.poll(&[named("6")]), ["Removed 5: T/T/0 → –", "Created 6: – → T/T/0"]);
    assert_eq!((polled.state("5"), polled.state("6")), ("–".to_owned(), "T/T/0".to_owned()));
}

fn many(count: usize) -> Vec<Seen> {
    (0..count).map(|number| up(&format!("{number:02}"))).collect()
}

#[test]
fn b14_an_empty_list_is_believed_when_the_next_poll_says_the_same() {
    let mut polled = Polled::new(AT_ONCE, &many(6));
    assert_eq!(polled.poll(&[]), NONE);
    assert_eq!(polled.state("00"), "T/T/0");
    assert_eq!(polled.poll(&[]).len(), 6);
    assert_eq!(polled.state("00"), "–");
}

#[test]
fn b14_who_is_back_after_a_doubted_removal_was_never_gone() {
    let mut polled = Polled::new(AT_ONCE, &many(6));
    for _ in 0..3 {
        assert_eq!(polled.poll(&[]), NONE);
        assert_eq!(polled.poll(&many(6)), NONE);
        assert!(polled.known.values().all(|known| !known.missing && known.entry.at == minute(0)));
    }
}

#[test]
fn b14_few_or_a_small_part_of_all_are_removed_at_once() {
    assert_eq!(Polled::new(AT_ONCE, &many(MASS - 1)).poll(&[]).len(), MASS - 1);
    assert_eq!(Polled::new(AT_ONCE, &many(20)).poll(&many(11)).len(), 9);
    assert_eq!(Polled::new(AT_ONCE, &many(20)).poll(&many(10)), NONE);
}

#[test]
fn b14_without_the_doubt_all_are_removed_at_once() {
    let options = Options { doubt_mass_removal: false, ..AT_ONCE };
    assert_eq!(Polled::new(options, &many(6)).poll(&[]).len(), 6);
}

#[test]
fn b16_the_grace_is_counted_whoever_is_told() {
    // Nothing that is delivered or not comes back into the function.
    follow(
        grace(3),
        &[
            ('u', NONE, "T/T/0"),
            ('d', NONE, "T/F/1"),
            ('d', NONE, "T/F/2"),
            ('d', NONE, "T/F/3"),
            ('d', &["Offline a: T/F/3 → F/F/0"], "F/F/0"),
        ],
    );
}

#[test]
fn a_grace_of_time_counts_from_the_first_poll_that_differs() {
    let options = Options { grace: Grace::Time(Duration::from_mins(2)), ..AT_ONCE };
    follow(
        options,
        &[
            ('u', NONE, "T/T/0"),
            ('d', NONE, "T/F/1"),
            ('u', NONE, "T/T/0"),
            ('d', NONE, "T/F/1"),
            ('d', NONE, "T/F/2"),
            ('d', &["Offline a: T/F/2 → F/F/0"], "F/F/0"),
        ],
    );
}

#[test]
fn a_poll_that_tells_nothing_neither_counts_nor_ends_a_grace() {
    follow(
        grace(1),
        &[
            ('u', NONE, "T/T/0"),
            ('d', NONE, "T/F/1"),
            ('?', NONE, "T/?/1"),
            ('?', NONE, "T/?/1"),
            ('d', &["Offline a: T/?/1 → F/F/0"], "F/F/0"),
        ],
    );
}

#[test]
fn who_was_never_heard_of_is_neither_online_nor_offline() {
    follow(
        AT_ONCE,
        &[
            ('-', NONE, "–"),
            ('?', &["Created a: – → ?/?/0"], "?/?/0"),
            ('?', NONE, "?/?/0"),
            ('u', &["Online a: ?/?/0 → T/T/0"], "T/T/0"),
        ],
    );
}

#[test]
fn ephemeral_runners_can_be_passed_over() {
    let once = |id: &str| Seen { ephemeral: Some(true), ..up(id) };
    let options = Options { ignore_ephemeral: true, ..AT_ONCE };
    let mut polled = Polled::new(options, &[up("a")]);
    assert_eq!(polled.poll(&[up("a"), once("b")]), NONE);
    assert_eq!(polled.state("b"), "–");
    // One that was known before the option was chosen goes silently.
    let mut polled = Polled::new(AT_ONCE, &[once("b")]);
    polled.options = options;
    assert_eq!(polled.poll(&[once("b")]), NONE);
    assert_eq!(polled.state("b"), "–");
    let mut told = Polled::new(AT_ONCE, &[]);
    assert_eq!(told.poll(&[once("b")]), ["Created b: – → T/T/0"]);
}

#[test]
fn silence_makes_everybody_unknown_once_and_tells_nobody() {
    let mut polled = Polled::new(grace(1), &[up("a"), down("b")]);
    polled.poll(&[down("a"), down("b")]);
    assert_eq!(polled.state("a"), "T/F/1");
    let unknown = silence(&polled.known, minute(5));
    assert_eq!(unknown.len(), 2);
    polled.known.extend(unknown.into_iter().map(|known| (known.seen.external_id.clone(), known)));
    assert!(polled.known.values().all(|known| known.entry.state == State::Unknown && known.entry.at == minute(5)));
    assert_eq!(silence(&polled.known, minute(9)), []);
    // The grace goes on where it was.
    assert_eq!(polled.state("a"), "T/F/1");
    polled.polls = 20;
    assert_eq!(polled.poll(&[down("a"), down("b")]), ["Offline a: T/F/1 → F/F/0"]);
    let entry = polled.known[&ExternalId::new("b")].entry;
    assert_eq!((entry.at, entry.state), (minute(20), State::Offline));
    assert_eq!(entry.known_before, Duration::from_mins(5));
}

#[test]
fn a_history_goes_on_when_its_runner_comes_back() {
    let mut polled = Polled::new(AT_ONCE, &[up("a")]);
    polled.polls = 10;
    polled.poll(&[]);
    polled.polls = 30;
    polled.poll(&[up("a")]);
    let known = &polled.known[&ExternalId::new("a")];
    assert_eq!(known.first_seen, minute(0));
    assert_eq!((known.entry.at, known.entry.online_before), (minute(30), Duration::from_mins(10)));
}

/// The algorithm of an older monitor, which people have written their expectations for: one poll of one source.
mod older {
    use std::collections::BTreeMap;

    #[derive(Clone, Copy)]
    pub(super) struct Runner {
        pub(super) interpret: bool,
        pub(super) since: u32,
    }

    pub(super) fn poll(
        old: &BTreeMap<String, Runner>,
        seen: &BTreeMap<String, bool>,
        grace: u32,
    ) -> (BTreeMap<String, Runner>, Vec<String>) {
        let (mut new, mut alerts) = (BTreeMap::new(), Vec::new());
        for (id, old) in old {
            let Some(raw) = seen.get(id) else {
                alerts.push(format!("Removed {id}"));
                continue;
            };
            let since = if old.interpret == *raw { 0 } else { old.since + 1 };
            if since <= grace {
                new.insert(id.clone(), Runner { interpret: old.interpret, since });
            } else {
                new.insert(id.clone(), Runner { interpret: *raw, since: 0 });
                alerts.push(format!("{} {id}", if *raw { "Online" } else { "Offline" }));
            }
        }
        for (id, raw) in seen.iter().filter(|(id, _)| !old.contains_key(*id)) {
            new.insert(id.clone(), Runner { interpret: *raw, since: 0 });
            alerts.push(format!("Created {id}"));
        }
        (new, alerts)
    }
}

fn lists() -> impl Strategy<Value = Vec<BTreeMap<String, bool>>> {
    let list = prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c"]), any::<bool>(), 0..4);
    let list = list.prop_map(|list| list.into_iter().map(|(id, online)| (id.to_owned(), online)).collect());
    prop::collection::vec(list, 1..60)
}

proptest! {
    #[test]
    fn it_tells_what_the_older_monitor_told(lists in lists(), polls in 0..4_u32) {
        let mut polled = Polled { options: grace(polls), known: Fleet::new(), polls: 0 };
        let mut older = BTreeMap::new();
        for (number, list) in lists.into_iter().enumerate() {
            let (next, mut alerts) = older::poll(&older, &list, polls);
            if number == 0 {
                alerts.clear();
            }
            older = next;
            let seen: Vec<_> = list.iter().map(|(id, online)| runner(id, Some(*online))).collect();
            let told: Vec<_> = polled
                .poll(&seen)
                .into_iter()
                .filter(|told| !told.starts_with("Flapping"))
                .map(|told| told.split(':').next().unwrap().to_owned())
                .collect();
            prop_assert_eq!(told, alerts, "poll {}", number);
            for (id, runner) in &older {
                let known = &polled.known[&ExternalId::new(id)];
                prop_assert_eq!(known.confirmed, Some(runner.interpret));
                prop_assert_eq!(known.differing, runner.since);
            }
        }
    }

    #[test]
    fn the_history_has_what_was_seen_at_each_poll(lists in lists(), polls in 0..4_u32) {
        let mut polled = Polled { options: grace(polls), known: Fleet::new(), polls: 0 };
        for list in lists {
            let seen: Vec<_> = list.iter().map(|(id, online)| runner(id, Some(*online))).collect();
            polled.poll(&seen);
            for (id, known) in &polled.known {
                let online = list.get(id.as_str());
                prop_assert_eq!(known.is_present(), online.is_some());
                if let Some(online) = online {
                    prop_assert_eq!(known.entry.state, State::told(Some(*online)));
                }
            }
        }
    }

    #[test]
    fn who_stays_as_it_is_changes_nothing(lists in lists()) {
        let mut polled = Polled { options: AT_ONCE, known: Fleet::new(), polls: 0 };
        for list in lists {
            let seen: Vec<_> = list.iter().map(|(id, online)| runner(id, Some(*online))).collect();
            polled.poll(&seen);
            // As long as changes are remembered, each poll pushes them further back.
            for _ in 0..=REMEMBERED {
                prop_assert_eq!(polled.poll(&seen), NONE);
            }
            let again = evaluate(&polled.known, &seen, minute(polled.polls), false, &AT_ONCE);
            prop_assert_eq!(again, Outcome::default());
        }
    }
}

//! Entries that are left out, as journalctl leaves them out.

use ci_bridge::journal::{Entry, Filter, From, Gap, Journal};
use proptest::prelude::*;

use crate::support::{Layout, Line, Place, START_USEC, UNIT, as_journalctl, run, text};

fn read(journal: &Journal, from: From, filter: &Filter) -> Vec<Entry> {
    journal.run_where(&run('1'), from, filter).unwrap().collect::<Result<_, _>>().unwrap()
}

/// The arguments by which journalctl does the same.
fn arguments(filter: &Filter) -> Vec<String> {
    let time = |usec: u64| format!("@{}.{:06}", usec / 1_000_000, usec % 1_000_000);
    let priority = filter.priority.map(|priority| format!("--priority={priority}"));
    let since = filter.since_usec.map(|since| format!("--since={}", time(since)));
    let until = filter.until_usec.map(|until| format!("--until={}", time(until)));
    [priority, since, until].into_iter().flatten().collect()
}

/// A run in three files, with words of the manager's and of other runs between.
fn place() -> Place {
    let place = Place::new();
    let line = |at: u64| {
        let priority = (at * 7 % 9).to_string();
        let line = Line::of_job(10 * at, '1', &format!("line {at}"));
        if priority == "8" { line.without("PRIORITY") } else { line.with("PRIORITY", &priority) }
    };
    let part = |remainder: u64| (0..300).filter(move |at| at / 10 % 3 == remainder).map(line).collect::<Vec<_>>();
    place.write("system@1.journal", Layout::USUAL, &part(0));
    place.write("system@2.journal", Layout { compact: false, ..Layout::USUAL }, &part(1));
    place.write("system.journal", Layout::USUAL, &part(2));
    place
}

fn filters() -> impl Strategy<Value = Filter> {
    let time = || prop::option::of((0..3_200_u64).prop_map(|ms| START_USEC + ms * 1000));
    let known = || prop::option::of((0..300_u64).prop_map(|at| START_USEC + at * 10_000));
    let priority = prop::option::of(0..8_u8);
    let filter = |(priority, since_usec, until_usec)| Filter { priority, since_usec, until_usec };
    (priority, prop_oneof![time(), known()], prop_oneof![time(), known()])
        .prop_map(filter)
        .prop_filter("journalctl refuses it", |filter| {
            filter.since_usec.zip(filter.until_usec).is_none_or(|(a, b)| a <= b)
        })
}

#[test]
fn what_is_left_out_is_left_out_by_journalctl_too() {
    let place = place();
    let journal = place.journal();
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(filter in filters(), count in 0..40_usize, at in any::<prop::sample::Index>())| {
        let unit = format!("_SYSTEMD_UNIT={UNIT}");
        let mut arguments = arguments(&filter);
        arguments.push(unit);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let wanted = read(&journal, From::Start, &filter);
        prop_assert_eq!(as_journalctl(&wanted), place.journalctl(&arguments));
        let last = read(&journal, From::Last(count), &filter);
        prop_assert_eq!(&last[..], &wanted[wanted.len().saturating_sub(count)..]);
        let newest_first = journal.run_where(&run('1'), From::Start, &filter).unwrap().newest_first();
        let mut newest_first: Vec<_> = newest_first.map(Result::unwrap).collect();
        newest_first.reverse();
        prop_assert_eq!(&newest_first, &wanted);
        // Behind any entry, also one that is left out.
        let all = read(&journal, From::Start, &Filter::default());
        let position = all[at.index(all.len())].position;
        let behind = wanted.iter().filter(|entry| entry.position.order(&position).is_gt());
        let after = read(&journal, From::After(position), &filter);
        prop_assert_eq!(after.iter().collect::<Vec<_>>(), behind.collect::<Vec<_>>());
        prop_assert_eq!(journal.run_where(&run('1'), From::After(position), &filter).unwrap().gaps(), []);
    });
}

#[test]
fn a_clock_that_was_set_back_hides_nothing() {
    // In this order in the file, an hour apart by the clock.
    let hour = 3_600_000;
    let lines = [0, hour, 2 * hour, hour, 2 * hour, 3 * hour].into_iter().enumerate();
    let lines = lines.map(|(index, at)| Line::of_job(at, '1', &index.to_string()).monotonic(index as u64 * hour));
    let journal = Place::with(&lines.collect::<Vec<_>>());
    for (since, until, expected) in [
        (Some(2), None, vec!["2", "4", "5"]),
        (None, Some(1), vec!["0", "1", "3"]),
        (Some(1), Some(1), vec!["1", "3"]),
        (Some(4), None, vec![]),
    ] {
        let usec = |hours: Option<u64>| hours.map(|hours| START_USEC + hours * hour * 1000);
        let filter = Filter { since_usec: usec(since), until_usec: usec(until), ..Filter::default() };
        let found = read(&journal.journal(), From::Start, &filter);
        assert_eq!(found.iter().map(text).collect::<Vec<_>>(), expected, "{filter:?}");
    }
}

#[test]
fn what_is_missing_is_told_also_if_its_note_is_left_out() {
    let lines = [
        Line::starting(0, '1'),
        Line::of_job(10, '1', "one"),
        Line::dropped(20, '1', 7),
        Line::of_job(20, '1', "two").with("PRIORITY", "3"),
        Line::of_job(30, '1', "three").with("PRIORITY", "3"),
        Line::ended(40, '1'),
    ];
    let place = Place::with(&lines);
    let journal = place.journal();
    let errors = Filter { priority: Some(3), ..Filter::default() };
    let gaps = |from, filter: &Filter| {
        let mut entries = journal.run_where(&run('1'), from, filter).unwrap();
        let found: Vec<_> = entries.by_ref().map(|entry| text(&entry.unwrap())).collect();
        (found.join(" "), entries.gaps())
    };
    let all = place.entries(&run('1'), From::Start);
    assert_eq!(gaps(From::Start, &errors), ("two three".to_owned(), vec![Gap::Suppressed(7)]));
    assert_eq!(gaps(From::Last(2), &errors), ("two three".to_owned(), vec![]));
    assert_eq!(gaps(From::Last(3), &errors), ("two three".to_owned(), vec![Gap::Suppressed(7)]));
    assert_eq!(gaps(From::After(all[1].position), &errors), ("two three".to_owned(), vec![Gap::Suppressed(7)]));
    assert_eq!(gaps(From::After(all[3].position), &errors), ("three".to_owned(), vec![]));
    let later = Filter { since_usec: Some(START_USEC + 25_000), ..errors };
    assert_eq!(gaps(From::Start, &later), ("three".to_owned(), vec![]));
}

#[test]
fn a_lost_beginning_is_of_no_concern_to_who_asks_for_later_lines() {
    let place = Place::with(&[Line::of_job(10, '1', "one"), Line::of_job(20, '1', "two"), Line::ended(30, '1')]);
    for (since, expected) in [(5, vec![Gap::Vacuumed]), (10, vec![Gap::Vacuumed]), (11, vec![])] {
        let filter = Filter { since_usec: Some(START_USEC + since * 1000), ..Filter::default() };
        let entries = place.journal().run_where(&run('1'), From::Start, &filter).unwrap();
        assert_eq!(entries.gaps(), expected, "{since}");
    }
}

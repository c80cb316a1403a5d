//! What is missing is told with its reason, and nothing is told that is not missing.

use std::fs;
use std::os::unix::fs::FileExt as _;

use ci_bridge::journal::{From, Gap, Source};

use crate::support::{DROPPED, FAILED, Layout, Line, Place, START_USEC, STARTED, hex, run, text};

fn finished(at_ms: u64, digit: char) -> Line {
    Line::of_manager(at_ms, digit, STARTED, "Finished ci-test-a.service").with("MESSAGE", "Finished ci-test-a.service")
}

/// The gaps of the whole log: before it is read, and after.
fn gaps(place: &Place, digit: char) -> Vec<Gap> {
    let mut entries = place.journal().run(&run(digit), From::Start).unwrap();
    let before = entries.gaps();
    entries.by_ref().for_each(drop);
    assert_eq!(entries.gaps(), before, "the gaps are known before the entries are read");
    let mut newest_first = place.journal().run(&run(digit), From::Start).unwrap().newest_first();
    newest_first.by_ref().for_each(drop);
    assert_eq!(newest_first.gaps(), before);
    before
}

#[test]
fn a_reader_is_told_of_what_was_deleted_behind_its_position() {
    let place = Place::new();
    place.write("system@1.journal", Layout::USUAL, &[Line::starting(0, '1'), Line::of_job(1, '1', "one")]);
    place.write("system.journal", Layout::USUAL, &[Line::of_job(2, '1', "two"), Line::ended(3, '1')]);
    let all = place.entries(&run('1'), From::Start);
    assert_eq!(gaps(&place, '1'), []);
    fs::remove_file(place.file("system@1.journal")).unwrap();
    for (index, expected) in [vec![Gap::Vacuumed], vec![Gap::Vacuumed], vec![], vec![]].into_iter().enumerate() {
        let mut entries = place.journal().run(&run('1'), From::After(all[index].position)).unwrap();
        assert_eq!(entries.gaps(), expected, "{index}");
        let rest: Vec<_> = entries.by_ref().map(Result::unwrap).collect();
        assert_eq!((rest, entries.gaps()), (all[2.max(index + 1)..].to_vec(), expected), "{index}");
    }
}

#[test]
fn a_run_without_its_first_word_has_lost_its_beginning() {
    let place = Place::new();
    place.write("system@1.journal", Layout::USUAL, &[Line::starting(0, '1'), Line::of_job(1, '1', "one")]);
    let rest = [Line::new(2, "of nobody"), Line::of_job(3, '1', "two"), finished(4, '1'), Line::ended(5, '1')];
    place.write("system.journal", Layout::USUAL, &rest);
    assert_eq!(gaps(&place, '1'), []);
    fs::remove_file(place.file("system@1.journal")).unwrap();
    assert_eq!(gaps(&place, '1'), [Gap::Vacuumed]);
    // Who asks for less than there is does not come to it.
    for (count, expected) in [(1, vec![]), (2, vec![]), (4, vec![Gap::Vacuumed])] {
        assert_eq!(place.journal().run(&run('1'), From::Last(count)).unwrap().gaps(), expected, "{count}");
    }
    assert_eq!(place.journal().find_run(&run('1').job, run('1').invocation).unwrap().unwrap().started_usec, None);
}

#[test]
fn a_run_of_which_only_its_own_lines_are_left_has_lost_its_beginning() {
    let of_nobody = Line::new(0, "of nobody");
    let lines = [Line::of_job(1, '1', "one"), Line::of_job(2, '1', "two")];
    // Nothing is older, so that is where journald has cut.
    assert_eq!(gaps(&Place::with(&lines), '1'), [Gap::Vacuumed]);
    // The manager tells of starts of this unit.
    let place = Place::with(&[vec![of_nobody.clone()], lines.to_vec(), vec![Line::starting(9, '2')]].concat());
    assert_eq!(gaps(&place, '1'), [Gap::Vacuumed]);
    assert_eq!(gaps(&place, '2'), []);
    // A file of a login user that is older shows nothing: those of the system go on their own.
    let place = Place::with(&lines);
    place.write("user-1000.journal", Layout::USUAL, &[of_nobody]);
    assert_eq!(gaps(&place, '1'), [Gap::Vacuumed]);
}

#[test]
fn a_manager_that_does_not_tell_of_starts_loses_nothing() {
    let failed = Line::of_manager(3, '1', FAILED, "Failed").with("PRIORITY", "4").with("UNIT_RESULT", "exit-code");
    let lines = [Line::new(0, "of nobody"), Line::of_job(1, '1', "one"), failed];
    assert_eq!(gaps(&Place::with(&lines), '1'), []);
}

#[test]
fn a_run_that_has_just_begun_has_not_lost_its_beginning() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let at_ms = u64::try_from(now.as_millis()).unwrap() - 1_700_000_000_000;
    let place = Place::with(&[Line::starting(0, '1'), Line::of_job(at_ms, '2', "sooner than the word of its start")]);
    assert_eq!(gaps(&place, '2'), []);
}

#[test]
fn dropped_messages_are_told_with_their_number() {
    let place = Place::with(&[
        Line::starting(0, '1'),
        Line::of_job(1, '1', "one"),
        Line::dropped(2, '1', 40),
        Line::of_job(2, '1', "two"),
        Line::dropped(3, '1', 2),
        Line::of_job(3, '1', "three"),
        Line::ended(4, '1'),
    ]);
    let entries = place.entries(&run('1'), From::Start);
    let notes: Vec<_> = entries.iter().filter_map(|entry| Some((entry.suppressed?, entry.source))).collect();
    assert_eq!(notes, [(40, Source::Other), (2, Source::Other)]);
    assert_eq!(entries.len(), 7);
    let journal = place.journal();
    let mut all = journal.run(&run('1'), From::Start).unwrap();
    // The first is known beforehand; who comes to the end has met them all, each once.
    assert_eq!(all.gaps(), [Gap::Suppressed(40)]);
    all.by_ref().for_each(drop);
    assert_eq!(all.gaps(), [Gap::Suppressed(42)]);
    let mut newest_first = journal.run(&run('1'), From::Start).unwrap().newest_first();
    newest_first.by_ref().for_each(drop);
    assert_eq!(newest_first.gaps(), [Gap::Suppressed(42)]);
    for (count, expected) in [(2, vec![]), (3, vec![Gap::Suppressed(2)]), (7, vec![Gap::Suppressed(42)])] {
        assert_eq!(journal.run(&run('1'), From::Last(count)).unwrap().gaps(), expected, "{count}");
    }
    let mut after = journal.run(&run('1'), From::After(entries[0].position)).unwrap();
    let met: Vec<_> = std::iter::from_fn(|| after.next().map(|_| after.gaps())).collect();
    let (some, all) = (vec![Gap::Suppressed(40)], vec![Gap::Suppressed(42)]);
    assert_eq!(met, [vec![], some.clone(), some, all.clone(), all.clone(), all]);
}

#[test]
fn only_journald_tells_of_dropped_messages() {
    let forged = |line: Line, message: &str| line.with("MESSAGE", message);
    let place = Place::with(&[
        Line::starting(0, '1'),
        forged(Line::dropped(1, '1', 1), "as a user").with("_UID", "995"),
        forged(Line::dropped(2, '1', 2), "as root, but not as journald").with("_TRANSPORT", "journal"),
        forged(Line::dropped(3, '1', 3), "about another unit").with("OBJECT_SYSTEMD_UNIT", "ci-test-b.service"),
        forged(Line::dropped(4, '1', 4), "of something else").with("MESSAGE_ID", &hex('6')),
        Line::of_job(5, '1', "of the job itself").with("MESSAGE_ID", DROPPED).with("N_DROPPED", "5"),
        Line::dropped(6, '1', 6).with("N_DROPPED", "many"),
        Line::ended(7, '1'),
    ]);
    assert_eq!(gaps(&place, '1'), []);
    assert!(place.entries(&run('1'), From::Start).iter().all(|entry| entry.suppressed.is_none()));
}

/// Two runs, the first of which printed too much at its end; journald says so when the second prints its first line,
/// so many milliseconds after the last line of the first.
fn two_runs(pause_ms: u64) -> Place {
    let second = 100 + pause_ms;
    Place::with(&[
        Line::starting(0, '1'),
        Line::of_job(100, '1', "the last that was taken"),
        Line::ended(200, '1'),
        Line::dropped(second, '2', 4600),
        Line::of_job(second, '2', "taken again"),
        Line::starting(second + 1, '2'),
        Line::ended(second + 2, '2'),
        Line::starting(second + 100, '3'),
        Line::of_job(second + 101, '3', "hello"),
    ])
}

#[test]
fn messages_dropped_at_the_end_of_a_run_are_told_by_the_next_one() {
    let soon = two_runs(10_000);
    assert_eq!(gaps(&soon, '1'), [Gap::Suppressed(4600)]);
    // The second run may have lost lines of its own.
    assert_eq!(gaps(&soon, '2'), [Gap::Suppressed(4600)]);
    assert_eq!(gaps(&soon, '3'), []);
    let late = two_runs(3_600_000);
    assert_eq!(gaps(&late, '1'), [Gap::Suppressed(4600)]);
    assert_eq!(gaps(&late, '2'), []);
    assert_eq!(gaps(&late, '3'), []);
    // It stands in the log of the second run all the same, of which nothing is missing there.
    let entries = late.entries(&run('2'), From::Start);
    assert!(entries.iter().all(|entry| entry.suppressed.is_none()));
    assert!(text(&entries[0]).starts_with("Suppressed 4600 messages"));
}

#[test]
fn a_run_that_was_dropped_as_a_whole_is_told_of_too() {
    let place = Place::with(&[
        Line::starting(0, '1'),
        Line::of_job(100, '1', "the last that was taken"),
        Line::ended(200, '1'),
        Line::starting(1000, '2'),
        Line::ended(1100, '2'),
        Line::starting(40_000, '3'),
        Line::dropped(40_001, '3', 7),
        Line::of_job(40_001, '3', "taken again"),
        Line::ended(40_002, '3'),
    ]);
    for digit in ['1', '2', '3'] {
        assert_eq!(gaps(&place, digit), [Gap::Suppressed(7)], "{digit}");
    }
}

/// A journal of three files with a run in each, hours apart.
fn three_files() -> Place {
    let place = Place::new();
    for (name, digit, hour) in [("system@1.journal", '1', 1), ("system@2.journal", '2', 2), ("system.journal", '3', 3)]
    {
        let at = hour * 3_600_000;
        let lines = [Line::starting(at, digit), Line::of_job(at + 1, digit, "hello"), Line::ended(at + 2, digit)];
        place.write(name, Layout::USUAL, &lines);
    }
    for digit in ['1', '2', '3'] {
        assert_eq!(gaps(&place, digit), [], "{digit}");
    }
    place
}

fn overwrite(place: &Place, name: &str, at: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(place.file(name)).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn a_damaged_file_is_a_gap_for_the_runs_of_its_time_alone() {
    let place = three_files();
    // Every bucket of its hash table leads to nothing; the header is whole.
    let bytes = fs::read(place.file("system@2.journal")).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (table, size) = (number(104), usize::try_from(number(112)).unwrap());
    overwrite(&place, "system@2.journal", table, &vec![1; size]);
    for (digit, expected) in [('1', vec![]), ('2', vec![Gap::Unreadable]), ('3', vec![])] {
        assert_eq!(gaps(&place, digit), expected, "{digit}");
        assert_eq!(place.journal().run(&run(digit), From::Last(2)).unwrap().gaps(), expected, "{digit}");
    }
    assert_eq!(place.messages('3'), ["Starting", "hello", "Deactivated"]);
}

#[test]
fn a_file_that_is_no_journal_may_have_been_one_until_it_changed() {
    let place = three_files();
    fs::write(place.file("user-1.journal"), "no journal ".repeat(1000)).unwrap();
    for digit in ['1', '2', '3'] {
        assert_eq!(gaps(&place, digit), [Gap::Unreadable], "{digit}");
    }
    let file = fs::File::options().write(true).open(place.file("user-1.journal")).unwrap();
    // Between the second run and the third.
    let changed = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000 + 5 * 1800);
    file.set_modified(changed).unwrap();
    for (digit, expected) in [('1', vec![Gap::Unreadable]), ('2', vec![Gap::Unreadable]), ('3', vec![])] {
        assert_eq!(gaps(&place, digit), expected, "{digit}");
    }
}

#[test]
fn what_cannot_be_read_is_not_said_to_be_deleted() {
    let place = three_files();
    let all = place.entries(&run('2'), From::Start);
    overwrite(&place, "system@2.journal", 0, &[0; 208]);
    let entries = place.journal().run(&run('2'), From::After(all[0].position)).unwrap();
    assert_eq!(entries.gaps(), [Gap::Unreadable]);
    assert_eq!(entries.count(), 0);
}

#[test]
fn a_run_that_is_not_known_has_been_deleted_or_had_nothing_to_say() {
    let place = Place::with(&[Line::new(10, "of nobody"), Line::starting(20, '1'), Line::ended(30, '1')]);
    // The files of a login user go on their own.
    place.write("user-1000.journal", Layout::USUAL, &[Line::new(0, "of nobody")]);
    let journal = place.journal();
    for (digit, from) in [('1', From::Start), ('1', From::Last(0))] {
        assert!(journal.run(&run(digit), from).unwrap().knows_run());
    }
    let unknown = journal.run(&run('2'), From::Start).unwrap();
    assert_eq!((unknown.knows_run(), unknown.gaps()), (false, vec![]));
    for (at_ms, expected) in [(9, false), (10, true), (40, true)] {
        assert_eq!(journal.reaches_back_to(START_USEC + at_ms * 1000).unwrap(), expected, "{at_ms}");
    }
}

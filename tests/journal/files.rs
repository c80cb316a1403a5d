//! Several files: their order, what they share, and what comes and goes.

use std::fs;
use std::os::unix::fs::FileExt as _;

use ci_bridge::journal::{Error, From, Journal};

use crate::support::{Layout, Line, Place, UNIT, Writer, as_journalctl, job, run, text, wait_until};

#[test]
fn files_are_merged_as_with_journalctl() {
    let place = Place::new();
    let lines = |remainder: u64| {
        let times = (0..200).filter(move |time| time % 7 % 3 == remainder);
        times.map(|time| Line::of_job(time, '1', &format!("line {time}"))).collect::<Vec<_>>()
    };
    place.write("system.journal", Layout::USUAL, &lines(0));
    place.write("user-1000.journal", Layout { compact: false, ..Layout::USUAL }, &lines(1));
    place.write("dirty.journal", Layout { keyed_hash: false, ..Layout::USUAL }, &lines(2));
    fs::rename(place.file("dirty.journal"), place.file("system@0-1.journal~")).unwrap();
    place.write("user-1001.journal", Layout::USUAL, &[Line::new(50, "of nobody")]);
    let all = place.entries(&run('1'), From::Start);
    let expected: Vec<_> = (0..200).map(|time| format!("line {time}")).collect();
    assert_eq!(all.iter().map(text).collect::<Vec<_>>(), expected);
    assert_eq!(as_journalctl(&all), place.journalctl(&[&format!("_SYSTEMD_UNIT={UNIT}")]));
    for count in [1, 5, 100, 199] {
        assert_eq!(place.entries(&run('1'), From::Last(count)), all[200 - count..]);
        assert_eq!(place.entries(&run('1'), From::After(all[count].position)), all[count + 1..]);
    }
}

/// Many lines: one file after the other, and two that share their time.
fn long() -> (Place, Vec<String>) {
    let place = Place::new();
    let line = |time: u64| {
        Line::of_job(time, '1', &format!("line {time} {}", "x".repeat(usize::try_from(time % 97).unwrap())))
    };
    let lines = |times: &mut dyn Iterator<Item = u64>| times.map(line).collect::<Vec<_>>();
    for (name, lines) in [
        ("system@1.journal", lines(&mut (0..3000))),
        ("system@2.journal", lines(&mut (3000..6000))),
        ("system@3.journal", lines(&mut (6000..12_000).filter(|time| time % 3 != 0))),
        ("system@4.journal", lines(&mut (6000..12_000).filter(|time| time % 3 == 0))),
        ("system@5.journal", lines(&mut (12_000..15_000))),
    ] {
        place.write(name, Layout::USUAL, &lines);
        place.archive(name);
    }
    place.write("system.journal", Layout::USUAL, &lines(&mut (15_000..15_100)));
    let messages = lines(&mut (0..15_100)).iter().map(Line::message).collect();
    (place, messages)
}

#[test]
fn a_long_run_is_read_over_all_its_files_as_with_journalctl() {
    let (place, messages) = long();
    let all = place.entries(&run('1'), From::Start);
    assert!(all.iter().map(text).eq(messages));
    assert!(as_journalctl(&all) == place.journalctl(&[&format!("_SYSTEMD_UNIT={UNIT}")]));
    for after in [0, 1023, 1024, 2999, 5000, 11_000, 15_098] {
        assert!(place.entries(&run('1'), From::After(all[after].position)) == all[after + 1..], "{after}");
    }
    assert!(place.entries(&run('1'), From::Last(14_000)) == all[1100..]);
    // A copy of a file adds nothing.
    fs::copy(place.file("system@2.journal"), place.file("system@9.journal")).unwrap();
    assert!(place.entries(&run('1'), From::Start) == all);
}

#[test]
fn a_long_run_can_be_read_by_many_at_once_and_left_at_any_place() {
    let (place, messages) = long();
    let journal = place.journal();
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (journal, messages) = (&journal, &messages);
            scope.spawn(move || {
                // The odd ones leave early.
                let most = if reader % 2 == 1 { 1500 * reader } else { usize::MAX };
                let entries = journal.run(&run('1'), From::Start).unwrap().take(most);
                let read: Vec<_> = entries.map(|entry| text(&entry.unwrap())).collect();
                assert!(read == messages[..most.min(messages.len())], "{reader}: {} entries", read.len());
            });
        }
    });
}

#[test]
fn what_is_broken_in_a_long_run_costs_itself_only_and_is_told_of_at_its_place() {
    let (place, messages) = long();
    let path = place.file("system@2.journal");
    let bytes = fs::read(&path).unwrap();
    let message = bytes.windows(18).position(|bytes| bytes == b"MESSAGE=line 4000 ").unwrap();
    let entry = (message..).step_by(8).find(|at| bytes[*at..*at + 8] == [3, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    fs::File::options().write(true).open(&path).unwrap().write_all_at(&[7], entry as u64).unwrap();
    let read: Vec<_> = place.journal().run(&run('1'), From::Start).unwrap().collect();
    let broken: Vec<_> = (0..read.len()).filter(|place| read[*place].is_err()).collect();
    assert_eq!(broken.len(), 1);
    let whole = read.iter().flatten().map(text);
    assert!(
        whole.eq(messages.iter().enumerate().filter(|(place, _)| *place != 4000).map(|(_, message)| message.clone()))
    );
    // Where it stands exactly is not promised, but it is between lines of its file.
    assert!((3000..=6000).contains(&broken[0]), "{broken:?}");
}

#[test]
fn the_same_entry_in_two_files_comes_once() {
    let place = Place::with(&[Line::of_job(0, '1', "one"), Line::of_job(1, '1', "two")]);
    fs::copy(place.file("system.journal"), place.file("copy.journal")).unwrap();
    assert_eq!(place.messages('1'), ["one", "two"]);
    assert_eq!(place.entries(&run('1'), From::Last(1)).len(), 1);
    assert_eq!(place.journal().run(&run('1'), From::Start).unwrap().newest_first().count(), 2);
}

#[test]
fn files_that_come_and_go_are_noticed() {
    let place = Place::with(&[Line::of_job(1, '1', "one")]);
    let journal = place.journal();
    let messages =
        || journal.run(&run('1'), From::Start).unwrap().map(|entry| text(&entry.unwrap())).collect::<Vec<_>>();
    assert_eq!(messages(), ["one"]);
    place.write("other.journal", Layout::USUAL, &[Line::of_job(2, '1', "two")]);
    assert_eq!(messages(), ["one", "two"]);
    fs::rename(place.file("system.journal"), place.file("system@1.journal")).unwrap();
    place.write("system.journal", Layout::USUAL, &[Line::of_job(3, '1', "three")]);
    assert_eq!(messages(), ["one", "two", "three"]);
    fs::remove_file(place.file("system@1.journal")).unwrap();
    assert_eq!(messages(), ["two", "three"]);
}

#[test]
fn a_file_deleted_while_it_is_read_is_read_to_its_end() {
    let lines: Vec<_> = (0..100).map(|time| Line::of_job(time, '1', "line")).collect();
    let place = Place::with(&lines);
    let mut entries = place.journal().run(&run('1'), From::Start).unwrap();
    entries.next().unwrap().unwrap();
    fs::remove_file(place.file("system.journal")).unwrap();
    assert_eq!(entries.map(Result::unwrap).count(), 99);
}

#[test]
fn a_file_being_written_is_read_as_far_as_it_is() {
    let place = Place::new();
    let mut writer = Writer::open(&place.file("system.journal"), Layout::USUAL);
    let journal = place.journal();
    let mut last = None;
    for index in 0..300 {
        let marker = index.to_string();
        writer.write(&Line::of_job(index, '1', &format!("line {index}")).with("MARKER", &marker));
        // The file does not exist at first.
        wait_until(|| journal.holds(b"MARKER", marker.as_bytes()).unwrap_or(false));
        let from = last.map_or(From::Start, From::After);
        let new: Vec<_> = journal.run(&run('1'), from).unwrap().map(Result::unwrap).collect();
        assert_eq!(new.iter().map(text).collect::<Vec<_>>(), [format!("line {index}")]);
        last = Some(new[0].position);
    }
    writer.close();
    assert_eq!(journal.run(&run('1'), From::Start).unwrap().count(), 300);
    assert!(journal.problems().is_empty());
}

#[test]
fn no_directory_and_no_file_say_where_they_were_sought() {
    let place = Place::new();
    let missing = ci_bridge::journal::Journal::new(vec![place.file("nowhere")]);
    for journal in [missing, place.journal()] {
        let error = journal.last_run(&job()).unwrap_err();
        assert!(matches!(&error, Error::NoJournal { .. }), "{error}");
        assert!(error.to_string().contains(place.path().to_str().unwrap()), "{error}");
    }
}

#[test]
fn the_files_of_namespaces_are_read_as_soon_as_they_are_there() {
    let base = Place::new();
    for directory in ["id", "other", "other.ci", "idle.ci"] {
        fs::create_dir(base.file(directory)).unwrap();
    }
    base.write("id/system.journal", Layout::USUAL, &[Line::starting(0, '1'), Line::ended(4, '1')]);
    base.write("other.ci/system.journal", Layout::USUAL, &[Line::of_job(1, '1', "of another host")]);
    base.write("idle.ci/system.journal", Layout::USUAL, &[Line::of_job(1, '1', "of one with a similar name")]);
    let journal = Journal::new(vec![base.file("id")]);
    let messages =
        || journal.run(&run('1'), From::Start).unwrap().map(|entry| text(&entry.unwrap())).collect::<Vec<_>>();
    assert_eq!(messages(), ["Starting", "Deactivated"]);
    for (namespace, at, expected) in [
        ("id.ci", 2, vec!["Starting", "in id.ci", "Deactivated"]),
        ("id.build.2", 3, vec!["Starting", "in id.ci", "in id.build.2", "Deactivated"]),
    ] {
        fs::create_dir(base.file(namespace)).unwrap();
        assert_eq!(messages().len(), expected.len() - 1);
        let line = Line::of_job(at, '1', &format!("in {namespace}"));
        base.write(&format!("{namespace}/system.journal"), Layout::USUAL, &[line]);
        assert_eq!(messages(), expected);
    }
    assert!(journal.problems().is_empty());
}

#[test]
fn late_lines_in_a_namespace_stay_with_the_run_before() {
    let base = Place::new();
    let sent = |line: Line, at_ms: u64| {
        line.with("_SOURCE_REALTIME_TIMESTAMP", &(1_700_000_000_000_000 + at_ms * 1000).to_string())
    };
    let words = [
        sent(Line::starting(0, '1'), 0),
        sent(Line::ended(10, '1'), 10),
        sent(Line::starting(500, '2'), 499),
        sent(Line::ended(520, '2'), 520),
    ];
    // Its journald has just been started, and no longer finds the first run. The manager's words are elsewhere.
    let untold = Line::new(30, "one").with("_SYSTEMD_UNIT", UNIT).with("_PID", "42").with("_TRANSPORT", "stdout");
    for directory in ["id", "id.ci"] {
        fs::create_dir(base.file(directory)).unwrap();
    }
    base.write("id/system.journal", Layout::USUAL, &words);
    base.write("id.ci/system.journal", Layout::USUAL, &[untold, Line::of_job(510, '2', "two")]);
    let journal = Journal::new(vec![base.file("id")]);
    for (digit, expected) in [('1', ["Starting", "Deactivated", "one"]), ('2', ["Starting", "two", "Deactivated"])] {
        let entries = journal.run(&run(digit), From::Start).unwrap();
        let messages: Vec<_> = entries.map(|entry| text(&entry.unwrap())).collect();
        assert_eq!(messages, expected, "{digit}");
    }
}

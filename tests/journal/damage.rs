//! Files that are not what they should be: an error, never a panic, never without an end.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ci_bridge::journal::{Damage, Error, From, Journal};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{DEACTIVATED, Layout, Line, Place, STARTING, invocation, job, run};

/// A small log of two runs, with all that is read of one.
fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for digit in ['1', '2'] {
        let start = if digit == '1' { 0 } else { 100 };
        lines.push(Line::of_manager(start, digit, STARTING, "Starting"));
        for index in 1..40 {
            let line = Line::of_job(start + index, digit, &format!("line {index}")).with("_STREAM_ID", &"5".repeat(32));
            lines.push(if index % 5 == 0 {
                line.without("_SYSTEMD_INVOCATION_ID").without("_STREAM_ID")
            } else {
                line
            });
        }
        lines.push(Line::of_job(start + 50, digit, &"long ".repeat(300)));
        lines.push(Line::of_manager(start + 60, digit, DEACTIVATED, "Deactivated"));
    }
    lines
}

/// Asks everything of a journal.
fn ask_everything(journal: &Journal) {
    for digit in ['1', '2'] {
        for from in [From::Start, From::Last(10)] {
            if let Ok(entries) = journal.run(&run(digit), from) {
                let position = entries.flatten().last().map(|entry| entry.position);
                if let Some(position) = position
                    && let Ok(entries) = journal.run(&run(digit), From::After(position))
                {
                    entries.newest_first().for_each(drop);
                }
            }
        }
        let _ = journal.find_run(&job(), invocation(digit));
    }
    let _ = journal.last_run(&job());
    let _ = journal.holds(b"UNIT", b"ci-test-a.service");
    let _ = journal.problems();
}

/// The used part of a file: journald reserves 8 MiB, most of which is empty.
fn used(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1
}

/// Offsets at which something is that the reader looks at: the file without its hash tables.
fn places(path: &Path) -> Vec<u64> {
    let bytes = fs::read(path).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let tables = [(number(104), number(112)), (number(120), number(128))];
    let in_table = |at: u64| tables.iter().any(|(start, size)| (*start..start + size).contains(&at));
    let filled = |at: &u64| !in_table(*at) || bytes[usize::try_from(*at).unwrap()] != 0;
    (0..used(path)).filter(filled).collect()
}

#[test]
fn damaged_files_are_read_without_panic_and_to_an_end() {
    for layout in [Layout::USUAL, Layout { compact: false, keyed_hash: false, compressed: false }] {
        let whole = Place::new();
        whole.write("system.journal", layout, &lines());
        let source = whole.file("system.journal");
        let places = places(&source);
        let place = TempDir::new().unwrap();
        let target = place.path().join("system.journal");
        fs::copy(&source, &target).unwrap();
        let pristine = fs::read(&source).unwrap();
        let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8);
        let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(flips in flips, cut in prop::option::weighted(0.2, any::<prop::sample::Index>()))| {
            let file = fs::File::options().write(true).open(&target).unwrap();
            let at: Vec<u64> = flips.iter().map(|(index, _)| *index.get(&places)).collect();
            for (at, (_, value)) in at.iter().zip(&flips) {
                file.write_all_at(&[*value], *at).unwrap();
            }
            if let Some(cut) = cut {
                file.set_len(*cut.get(&places)).unwrap();
            }
            ask_everything(&Journal::new(vec![place.path().to_owned()]));
            if cut.is_some() {
                file.write_all_at(&pristine, 0).unwrap();
            }
            for at in at {
                file.write_all_at(&[pristine[usize::try_from(at).unwrap()]], at).unwrap();
            }
        });
        assert_eq!(fs::read(&target).unwrap(), pristine, "every case began with the whole file");
    }
}

#[test]
fn a_file_of_a_newer_kind_is_left_out_and_told_of() {
    let place = Place::with(&[Line::of_job(1, '1', "one")]);
    place.write("newer.journal", Layout::USUAL, &[Line::of_job(2, '1', "two")]);
    let newer = fs::File::options().write(true).open(place.file("newer.journal")).unwrap();
    newer.write_all_at(&[0x80], 13).unwrap();
    let journal = place.journal();
    let mut entries = journal.run(&run('1'), From::Start).unwrap();
    assert_eq!(entries.by_ref().map(Result::unwrap).count(), 1);
    for problems in [journal.problems(), journal.problems()] {
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].path(), place.file("newer.journal"));
        assert!(matches!(problems[0].damage(), Damage::Unsupported(0x8000)), "{}", problems[0]);
    }
}

#[test]
fn other_things_in_the_directory_do_no_harm() {
    let place = Place::with(&[Line::of_job(1, '1', "one")]);
    fs::write(place.file("empty.journal"), b"").unwrap();
    fs::write(place.file("text.journal"), "no journal ".repeat(1000)).unwrap();
    fs::create_dir(place.file("directory.journal")).unwrap();
    fs::write(place.file("notes.txt"), "not looked at").unwrap();
    assert_eq!(place.messages('1'), ["one"]);
    let journal = place.journal();
    journal.last_run(&job()).unwrap();
    assert_eq!(journal.problems().len(), 3);
    fs::remove_file(place.file("text.journal")).unwrap();
    journal.last_run(&job()).unwrap();
    assert_eq!(journal.problems().len(), 2);
}

#[test]
fn a_journal_without_one_readable_file_is_an_error() {
    let place = Place::new();
    fs::write(place.file("system.journal"), "no journal ".repeat(1000)).unwrap();
    let error = place.journal().last_run(&job()).unwrap_err();
    assert!(matches!(error, Error::Unreadable(_)), "{error}");
}

#[test]
fn a_broken_entry_costs_itself_only_and_is_told_of() {
    let lines: Vec<_> = (0..20).map(|time| Line::of_job(time, '1', &format!("line {time}"))).collect();
    let place = Place::with(&lines);
    let path = place.file("system.journal");
    let bytes = fs::read(&path).unwrap();
    // The fields of an entry lie before it; the one after the last message is its entry.
    let message = bytes.windows(16).position(|bytes| bytes == b"MESSAGE=line 12\0").unwrap();
    let entry = (message..).step_by(8).find(|at| bytes[*at..*at + 8] == [3, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    fs::File::options().write(true).open(&path).unwrap().write_all_at(&[7], entry as u64).unwrap();
    let journal = place.journal();
    let (entries, errors): (Vec<_>, Vec<_>) = journal.run(&run('1'), From::Start).unwrap().partition(Result::is_ok);
    assert_eq!((entries.len(), errors.len()), (19, 1));
    assert!(matches!(errors[0], Err(Error::Damaged(_))));
    assert_eq!(journal.problems().len(), 1);
}

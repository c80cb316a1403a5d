use std::convert::Infallible;

use ci_bridge::archive::{Archive, Entries, Label};
use ci_bridge::journal::{Entry, From, Position, Run, Source};
use jiff::Timestamp;
use tempfile::TempDir;

use crate::support::{DEACTIVATED, Layout, Line, PROCESS_EXITED, Place, STARTING, run};

/// An archive that is gone when the test ends.
fn new_archive() -> (TempDir, Archive) {
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::open(directory.path()).unwrap();
    (directory, archive)
}

pub(crate) fn label(run: &Run) -> Label {
    let ended = Timestamp::from_second(1_700_000_100).unwrap();
    Label { job: run.job.name().clone(), invocation: run.invocation, started: None, ended, complete: true }
}

/// A log of so many entries of real size, the same each time, which does not compress well.
pub(crate) fn noise(count: u64) -> impl Iterator<Item = Entry> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count).map(move |number| {
        let mut message = format!("entry {number} ").into_bytes();
        for _ in 0..10 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            message.extend(random.to_le_bytes());
        }
        let position = Position {
            seqnum_id: [1; 16],
            seqnum: number,
            boot_id: [2; 16],
            monotonic: number * 300,
            realtime: 1_700_000_000_000_000 + number * 300,
            xor_hash: random,
        };
        Entry { position, priority: Some(4), source: Source::Job, message }
    })
}

fn collect<E: std::fmt::Debug>(entries: impl IntoIterator<Item = Result<Entry, E>>) -> Vec<Entry> {
    entries.into_iter().map(Result::unwrap).collect()
}

fn open(archive: &Archive, run: &Run, from: From) -> Entries {
    archive.entries(run, from).unwrap().expect("an archived log")
}

#[test]
fn a_log_reads_the_same_as_from_the_journal() {
    let mut lines = vec![Line::of_manager(0, 'a', STARTING, "Starting ci-test-a.service...")];
    lines.extend((1..3000).map(|number| Line::of_job(number, 'a', &format!("line {number}"))));
    lines.push(Line::of_job(3000, 'a', "").with_bytes("MESSAGE", b"\xff\x00\x1b[1m"));
    lines.push(Line::of_job(3001, 'a', "").without("PRIORITY"));
    lines.push(Line::of_job(3002, 'a', "worse").with("PRIORITY", "3").without("_PID"));
    lines.push(Line::of_job(3003, 'a', "no message").without("MESSAGE"));
    lines.push(Line::of_job(3004, 'a', &"long ".repeat(10_000)));
    lines.push(Line::of_manager(3005, 'a', PROCESS_EXITED, "Main process exited"));
    lines.push(Line::of_manager(3006, 'a', DEACTIVATED, "Deactivated successfully."));
    let run = run('a');
    for layout in Layout::all() {
        let place = Place::new();
        place.write("system.journal", layout, &lines);
        let (_directory, archive) = new_archive();
        archive.write(&label(&run), place.journal().run(&run, From::Start).unwrap()).unwrap();
        let log = place.entries(&run, From::Start);
        assert_eq!(log.len(), lines.len(), "{layout:?}");
        let places = [0, 1, 2998, 3001, 3005, 3006].map(|place: usize| From::After(log[place].position));
        for from in [From::Start, From::Last(0), From::Last(1), From::Last(10_000)].into_iter().chain(places) {
            let open = || (open(&archive, &run, from), place.journal().run(&run, from).unwrap());
            let (of_archive, of_journal) = open();
            assert_eq!(of_archive.gap(), of_journal.gap(), "{layout:?} {from:?}");
            assert_eq!(collect(of_archive), collect(of_journal), "{layout:?} {from:?}");
            let (of_archive, of_journal) = open();
            assert_eq!(collect(of_archive.newest_first()), collect(of_journal.newest_first()), "{layout:?} {from:?}");
        }
    }
}

#[test]
fn a_log_of_many_entries_comes_back() {
    let (_directory, archive) = new_archive();
    let run = run('a');
    let stored = archive.write(&label(&run), noise(60_000).map(Ok::<_, Infallible>)).unwrap();
    assert_eq!(stored.entries, 60_000);
    assert!(open(&archive, &run, From::Start).map(Result::unwrap).eq(noise(60_000)));
    assert!(open(&archive, &run, From::Last(10_000)).map(Result::unwrap).eq(noise(60_000).skip(50_000)));
    let newest_first = collect(open(&archive, &run, From::Start).newest_first().take(10_000));
    assert!(newest_first.into_iter().rev().eq(noise(60_000).skip(50_000)));
}

#[test]
fn entries_of_a_megabyte_come_back_and_so_do_empty_ones() {
    let (_directory, archive) = new_archive();
    let run = run('a');
    let mut log: Vec<_> = noise(20_000).collect();
    for (number, entry) in log.iter_mut().enumerate() {
        let len = if number % 4000 == 1 { 1 << 20 } else { 0 };
        entry.message = entry.message.iter().copied().cycle().take(len).collect();
    }
    // Nothing compresses better, and a reader must believe it.
    log[1].message.fill(0);
    archive.write(&label(&run), log.iter().cloned().map(Ok::<_, Infallible>)).unwrap();
    assert!(collect(open(&archive, &run, From::Start)) == log);
    log.reverse();
    assert!(collect(open(&archive, &run, From::Start).newest_first()) == log);
}

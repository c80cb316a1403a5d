use std::fmt::Debug;

use ci_bridge::archive::{Archive, Begun, Entries, Error, Label, Stored};
use ci_bridge::journal::{Entry, Filter, From, Gap, Journal, Losses, Position, Run, Source};
use jiff::Timestamp;
use tempfile::TempDir;

use crate::support::{DEACTIVATED, Layout, Line, PROCESS_EXITED, Place, START_USEC, STARTING, run};

/// An archive that is gone when the test ends.
fn new_archive() -> (TempDir, Archive) {
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::open(directory.path()).unwrap();
    (directory, archive)
}

pub(crate) fn label(run: &Run) -> Label {
    let ended = Timestamp::from_second(1_700_000_100).unwrap();
    Label { job: run.job.name().clone(), invocation: run.invocation, started: None, ended, settled: true }
}

/// Writes a log of which nothing is missing.
pub(crate) fn write(
    archive: &Archive,
    label: &Label,
    entries: impl IntoIterator<Item = Entry>,
) -> Result<Stored, Error> {
    let mut draft = match archive.begin(label)? {
        Begun::There(stored) => return Ok(*stored),
        Begun::Draft(draft) => draft,
    };
    for entry in entries {
        draft.push(&entry)?;
    }
    draft.finish(&Losses::default())
}

/// Archives what the journal has of a run.
fn take(archive: &Archive, journal: &Journal, run: &Run) {
    let Begun::Draft(mut draft) = archive.begin(&label(run)).unwrap() else { panic!("it is there") };
    let mut entries = journal.run(run, From::Start).unwrap();
    for entry in entries.by_ref() {
        match entry {
            Ok(entry) => draft.push(&entry).unwrap(),
            // It is among what is lost.
            Err(error) => assert!(entries_are_damaged(&error), "{error}"),
        }
    }
    draft.finish(&entries.losses()).unwrap();
}

fn entries_are_damaged(error: &ci_bridge::journal::Error) -> bool {
    matches!(error, ci_bridge::journal::Error::Damaged(_))
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
        Entry { position, priority: Some(4), source: Source::Job, suppressed: None, message }
    })
}

fn collect<E: Debug>(entries: impl IntoIterator<Item = Result<Entry, E>>) -> Vec<Entry> {
    entries.into_iter().map(Result::unwrap).collect()
}

fn open(archive: &Archive, run: &Run, from: From) -> Entries {
    archive.entries(run, from, &Filter::default()).unwrap().expect("an archived log")
}

/// What a reader is told: what is missing before the first line and after the last, and the lines.
type Told = (Vec<Gap>, Vec<Entry>, Vec<Gap>);

/// Holds the archive against the journal from everywhere, with every filter, in both directions.
fn hold_against(archive: &Archive, journal: &Journal, run: &Run, what: &str) {
    let all: Vec<_> = journal.run(run, From::Start).unwrap().filter_map(Result::ok).collect();
    let places = [0, 1, all.len() / 2, all.len().saturating_sub(2), all.len().saturating_sub(1)];
    let nowhere = Position { seqnum: u64::MAX, ..Position::from_bytes(&[7; Position::LEN]) };
    let places = places.into_iter().filter_map(|place| all.get(place)).map(|entry| entry.position).chain([nowhere]);
    let froms = [0, 1, 2, 5, all.len(), 10_000].map(From::Last).into_iter().chain(places.map(From::After));
    let times = |place: usize| all.get(place).map(Entry::realtime_usec);
    let middle = times(all.len() / 2);
    let filters = [
        Filter::default(),
        Filter { priority: Some(7), ..Filter::default() },
        Filter { priority: Some(4), ..Filter::default() },
        Filter { priority: Some(3), ..Filter::default() },
        Filter { since_usec: middle, ..Filter::default() },
        Filter { until_usec: middle, ..Filter::default() },
        Filter { since_usec: times(1), until_usec: middle, priority: Some(6) },
        Filter { since_usec: Some(START_USEC - 1), until_usec: Some(u64::MAX), ..Filter::default() },
        Filter { until_usec: Some(START_USEC - 1), ..Filter::default() },
    ];
    for from in [From::Start].into_iter().chain(froms) {
        for filter in &filters {
            let open = || {
                let of_archive = archive.entries(run, from, filter).unwrap().expect("an archived log");
                (of_archive, journal.run_where(run, from, filter).unwrap())
            };
            let (mut of_archive, mut of_journal) = open();
            let archived: Told = (of_archive.gaps(), collect(&mut of_archive), of_archive.gaps());
            let known: Told =
                (of_journal.gaps(), of_journal.by_ref().filter_map(Result::ok).collect(), of_journal.gaps());
            assert_eq!(archived, known, "{what} {from:?} {filter:?}");
            let (of_archive, of_journal) = open();
            let (mut of_archive, mut of_journal) = (of_archive.newest_first(), of_journal.newest_first());
            let archived: Told = (of_archive.gaps(), collect(&mut of_archive), of_archive.gaps());
            let known: Told =
                (of_journal.gaps(), of_journal.by_ref().filter_map(Result::ok).collect(), of_journal.gaps());
            assert_eq!(archived, known, "{what} {from:?} {filter:?}, newest first");
        }
    }
}

#[test]
fn a_log_reads_the_same_as_from_the_journal() {
    let mut lines = vec![Line::of_manager(0, 'a', STARTING, "Starting ci-test-a.service...")];
    lines.extend((1..600).map(|number| {
        let line = Line::of_job(number, 'a', &format!("line {number}"));
        let priority = number * 7 % 9;
        if priority == 8 { line.without("PRIORITY") } else { line.with("PRIORITY", &priority.to_string()) }
    }));
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
        take(&archive, &place.journal(), &run);
        assert_eq!(collect(open(&archive, &run, From::Start)).len(), lines.len(), "{layout:?}");
        hold_against(&archive, &place.journal(), &run, &format!("{layout:?}"));
    }
}

/// A log of a run that has lost its beginning, lines in its middle, and lines at its end, and belongs to no one else.
fn lossy() -> Vec<Line> {
    vec![
        Line::of_job(10, 'a', "one"),
        Line::of_job(20, 'a', "two").with("PRIORITY", "3"),
        Line::dropped(30, 'a', 7).with("PRIORITY", "4"),
        Line::of_job(31, 'a', "three"),
        Line::dropped(40, 'a', 2).with("PRIORITY", "4"),
        Line::of_job(41, 'a', "four").with("PRIORITY", "3"),
        Line::ended(50, 'a'),
        Line::starting(60, 'b'),
        Line::dropped(70, 'b', 5),
        Line::of_job(71, 'b', "of the next run"),
    ]
}

#[test]
fn what_is_missing_is_told_as_the_journal_told_it() {
    let place = Place::with(&lossy());
    let run = run('a');
    let journal = place.journal();
    let gaps = journal.run(&run, From::Start).unwrap().gaps();
    assert!(gaps.contains(&Gap::Vacuumed) && gaps.iter().any(|gap| matches!(gap, Gap::Suppressed(_))), "{gaps:?}");
    let (_directory, archive) = new_archive();
    take(&archive, &journal, &run);
    hold_against(&archive, &journal, &run, "lossy");
}

#[test]
fn what_the_run_before_lost_is_not_told_of_this_one() {
    let lines = [
        Line::starting(0, '9'),
        Line::of_job(1, '9', "of the run before"),
        // So much later that it must be about what was dropped at its end.
        Line::starting(200_000, 'a'),
        Line::dropped(200_001, 'a', 7),
        Line::of_job(200_002, 'a', "one"),
        Line::dropped(200_003, 'a', 2),
        Line::of_job(200_004, 'a', "two"),
        Line::ended(200_005, 'a'),
    ];
    let place = Place::with(&lines);
    let (_directory, archive) = new_archive();
    for digit in ['9', 'a'] {
        take(&archive, &place.journal(), &run(digit));
        hold_against(&archive, &place.journal(), &run(digit), &digit.to_string());
    }
}

#[test]
fn what_was_unreadable_stays_missing_until_it_can_be_read() {
    let place = Place::new();
    place.write("system@1.journal", Layout::USUAL, &[Line::starting(0, 'a'), Line::of_job(1, 'a', "one")]);
    place.write("system.journal", Layout::USUAL, &[Line::of_job(2, 'a', "two"), Line::ended(3, 'a')]);
    let (path, run) = (place.file("system@1.journal"), run('a'));
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..300]).unwrap();
    let (_directory, archive) = new_archive();
    take(&archive, &place.journal(), &run);
    let entries = open(&archive, &run, From::Start);
    assert_eq!(entries.gaps(), [Gap::Unreadable]);
    assert_eq!(collect(entries).len(), 2);
    hold_against(&archive, &place.journal(), &run, "unreadable");
    std::fs::write(&path, &whole).unwrap();
    take(&archive, &place.journal(), &run);
    let entries = open(&archive, &run, From::Start);
    assert_eq!((entries.gaps(), collect(entries).len()), (vec![], 4));
}

#[test]
fn a_log_of_many_entries_comes_back() {
    let (_directory, archive) = new_archive();
    let run = run('a');
    let stored = write(&archive, &label(&run), noise(60_000)).unwrap();
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
    write(&archive, &label(&run), log.iter().cloned()).unwrap();
    assert!(collect(open(&archive, &run, From::Start)) == log);
    log.reverse();
    assert!(collect(open(&archive, &run, From::Start).newest_first()) == log);
}

//! Entries that arrive are told once, in order, and are those that a query tells.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use ci_bridge::journal::{Entry, From, Journal, Pulse, Tail};
use proptest::prelude::*;

use crate::support::{Layout, Line, Place, STARTED, STARTING, Writer, cursor, hex, run};

/// Writes lines, and waits until they are there.
struct Growing {
    directory: PathBuf,
    journal: Journal,
    writer: Writer,
    at_ms: u64,
    marks: u64,
}

impl Growing {
    fn new(place: &Place, name: &str, at_ms: u64) -> Self {
        let writer = Writer::open(&place.file(name), Layout::USUAL);
        Self { directory: place.path().to_owned(), journal: place.journal(), writer, at_ms, marks: 0 }
    }

    fn write(&mut self, kinds: &[Kind]) {
        for kind in kinds {
            self.at_ms += 1;
            self.writer.write(&kind.line(self.at_ms));
        }
        self.at_ms += 1;
        self.marks += 1;
        let mark = format!("{}-{}", self.at_ms, self.marks);
        self.writer.write(&Line::new(self.at_ms, "a mark").with("MARK", &mark));
        let deadline = Instant::now() + Duration::from_secs(20);
        // There may be no file yet.
        while !self.journal.holds(b"MARK", mark.as_bytes()).unwrap_or(false) {
            assert!(Instant::now() < deadline, "the mark never came");
        }
        self.settle();
    }

    /// Dates the last change of the directory back: what changed a moment ago may do so again unseen, and is listed anew.
    fn settle(&self) {
        let files = std::fs::read_dir(&self.directory).unwrap().count() as u64;
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + files);
        File::open(&self.directory).unwrap().set_modified(long_ago).unwrap();
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Own,
    OwnUntold,
    Manager,
    OfOtherUnit,
    OfPrivileged,
    OfOtherRun,
}

impl Kind {
    fn line(self, at_ms: u64) -> Line {
        let own = Line::of_job(at_ms, '1', &format!("line {at_ms}"));
        match self {
            Self::Own => own,
            Self::OwnUntold => own.without("_SYSTEMD_INVOCATION_ID"),
            Self::Manager => Line::of_manager(at_ms, '1', &hex('e'), "a word"),
            Self::OfOtherUnit => own.with("_SYSTEMD_UNIT", "other.service"),
            Self::OfPrivileged => Line::new(at_ms, "about it")
                .with("_UID", "0")
                .with("OBJECT_SYSTEMD_UNIT", crate::support::UNIT)
                .with("OBJECT_SYSTEMD_INVOCATION_ID", &hex('1')),
            Self::OfOtherRun => Line::of_job(at_ms, '0', "late line of the run before"),
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Kind::Own),
        1 => Just(Kind::OwnUntold),
        1 => Just(Kind::Manager),
        2 => Just(Kind::OfOtherUnit),
        1 => Just(Kind::OfPrivileged),
        1 => Just(Kind::OfOtherRun),
    ]
}

/// Half of the time only what the job prints.
fn chunk() -> impl Strategy<Value = Vec<Kind>> {
    prop_oneof![prop::collection::vec(Just(Kind::Own), 0..12), prop::collection::vec(kinds(), 0..12)]
}

/// All that has arrived; the last look finds nothing.
fn arrived(tail: &mut Tail) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        let arrived = tail.advance().unwrap();
        assert!(!arrived.is_damaged);
        if arrived.entries.is_empty() {
            return entries;
        }
        entries.extend(arrived.entries);
    }
}

fn cursors(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(cursor).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_arrives_is_what_a_query_tells(
        chunks in prop::collection::vec(chunk(), 1..16),
        rotated_at in 0..16_usize,
    ) {
        let place = Place::new();
        let mut files = vec![Growing::new(&place, "system.journal", 0)];
        files[0].writer.write(&Line::of_manager(0, '1', STARTING, "Starting"));
        files[0].write(&[]);
        let mut tail = Tail::at_end(&place.journal(), run('1')).unwrap();
        let mut told = Vec::new();
        for (at, chunk) in chunks.iter().enumerate() {
            if at == rotated_at {
                let at_ms = files.last().unwrap().at_ms;
                files.push(Growing::new(&place, "user-1000.journal", at_ms));
            }
            files.last_mut().unwrap().write(chunk);
            told.extend(arrived(&mut tail));
            let whole = place.entries(&run('1'), From::Start);
            prop_assert_eq!(cursors(&told), cursors(&whole[1..]));
        }
    }
}

#[test]
fn a_flood_arrives_in_bounded_portions() {
    let place = Place::new();
    let mut file = Growing::new(&place, "system.journal", 0);
    file.writer.write(&Line::of_manager(0, '1', STARTING, "Starting"));
    file.write(&[Kind::Own]);
    let mut tail = Tail::at_end(&place.journal(), run('1')).unwrap();
    assert!(arrived(&mut tail).is_empty());
    file.write(&[Kind::Own; 5000]);
    let mut count = 0;
    loop {
        let portion = tail.advance().unwrap().entries.len();
        assert!(portion <= 1000);
        count += portion;
        if portion == 0 {
            break;
        }
    }
    assert_eq!(count, 5000);
}

#[test]
fn a_run_that_has_yet_to_be_told_of_arrives_from_its_start() {
    let place = Place::new();
    let mut file = Growing::new(&place, "system.journal", 0);
    file.write(&[Kind::OfOtherUnit]);
    let mut tail = Tail::at_end(&place.journal(), run('1')).unwrap();
    assert!(arrived(&mut tail).is_empty());
    file.writer.write(&Line::of_manager(5000, '1', STARTING, "Starting"));
    file.at_ms = 5000;
    file.write(&[Kind::OwnUntold, Kind::Own]);
    assert_eq!(arrived(&mut tail).len(), 3);
}

#[test]
fn the_next_run_is_not_taken_for_this_one() {
    let place = Place::new();
    let mut file = Growing::new(&place, "system.journal", 0);
    file.writer.write(&Line::of_manager(0, '1', STARTING, "Starting"));
    file.write(&[Kind::Own]);
    let mut tail = Tail::at_end(&place.journal(), run('1')).unwrap();
    file.write(&[Kind::Own]);
    assert_eq!(arrived(&mut tail).len(), 1);
    file.writer.write(&Line::of_manager(10_000, '1', STARTED, "Finished"));
    file.writer.write(&Line::of_manager(20_000, '2', STARTING, "Starting"));
    file.at_ms = 20_000;
    file.write(&[Kind::OwnUntold]);
    assert_eq!(arrived(&mut tail).len(), 1);
    file.write(&[Kind::OwnUntold]);
    assert!(arrived(&mut tail).is_empty());
}

#[test]
fn the_pulse_beats_after_something_was_written() {
    let place = Place::new();
    let mut file = Growing::new(&place, "system.journal", 0);
    file.write(&[Kind::Own]);
    let mut pulse = Pulse::of(&place.journal());
    assert!(pulse.beats().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while pulse.beats().unwrap() {
        assert!(Instant::now() < deadline, "it beats for ever");
    }
    file.write(&[Kind::Own]);
    assert!(pulse.beats().unwrap());
}

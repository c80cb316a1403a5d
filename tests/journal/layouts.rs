//! Every layout of a file, read as journalctl reads it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use ci_bridge::journal::{Entry, From};

use crate::support::{Layout, Line, Place, UNIT, as_journalctl, hex, invocation, run};

/// A log with everything that has a form of its own: short, shared, large, binary and empty messages.
fn varied() -> Vec<Line> {
    let mut lines = Vec::new();
    for index in 0..100_u64 {
        let at = 10 * index;
        lines.push(match index % 10 {
            0 => Line::of_job(at, '1', "the same again"),
            1 => Line::of_job(at, '1', "").with_bytes("MESSAGE", &[0xff, 0xfe, 0, b'\n', 1, 0x1b]),
            2 => Line::of_job(at, '1', &format!("{index} ").repeat(400)),
            3 => Line::of_job(at, '1', "").with("PRIORITY", "3"),
            4 => Line::new(at, "foreign").with("_SYSTEMD_UNIT", "ci-test-b.service").with("_UID", "0"),
            5 => Line::of_job(at, '1', &"x".repeat(50_000)),
            6 => Line::of_job(at, '1', "more fields").with("CODE_LINE", &index.to_string()).with("_PID", "9"),
            _ => Line::of_job(at, '1', &format!("line {index}")),
        });
    }
    lines
}

fn of_journalctl(place: &Place) -> Vec<(String, Vec<u8>)> {
    place.journalctl(&[&format!("_SYSTEMD_UNIT={UNIT}")])
}

#[test]
fn every_layout_reads_as_with_journalctl() {
    for layout in Layout::all() {
        let place = Place::new();
        place.write("system.journal", layout, &varied());
        let entries = place.entries(&run('1'), From::Start);
        assert_eq!(entries.len(), 90, "{layout:?}");
        assert_eq!(as_journalctl(&entries), of_journalctl(&place), "{layout:?}");
    }
}

#[test]
fn the_last_n_are_the_end_of_all() {
    let place = Place::with(&varied());
    let all = place.entries(&run('1'), From::Start);
    for count in [0, 1, 2, 33, 89, 90, 91, usize::MAX] {
        let start = all.len().saturating_sub(count);
        assert_eq!(place.entries(&run('1'), From::Last(count)), all[start..], "{count}");
    }
}

#[test]
fn after_an_entry_come_the_ones_behind_it() {
    let place = Place::with(&varied());
    let all = place.entries(&run('1'), From::Start);
    for (index, entry) in all.iter().enumerate() {
        let mut entries = place.journal().run(&run('1'), From::After(entry.position)).unwrap();
        assert_eq!(entries.gaps(), []);
        let rest: Vec<Entry> = entries.by_ref().map(Result::unwrap).collect();
        assert_eq!(rest, all[index + 1..]);
    }
}

#[test]
fn newest_first_is_the_reverse() {
    let place = Place::with(&varied());
    let mut all = place.entries(&run('1'), From::Start);
    let middle = all[40].position;
    let reversed = |from| place.journal().run(&run('1'), from).unwrap().newest_first().map(Result::unwrap);
    let after: Vec<Entry> = reversed(From::After(middle)).collect();
    let mut newest: Vec<Entry> = reversed(From::Start).collect();
    newest.reverse();
    assert_eq!(newest, all);
    all.drain(..=40);
    all.reverse();
    assert_eq!(after, all);
}

#[test]
fn priorities_are_those_of_the_entries() {
    let place = Place::with(&[
        Line::of_job(0, '1', "error").with("PRIORITY", "3"),
        Line::of_job(1, '1', "none").without("PRIORITY"),
        Line::of_job(2, '1', "nonsense").with("PRIORITY", "11"),
    ]);
    let priorities: Vec<_> = place.entries(&run('1'), From::Start).iter().map(|entry| entry.priority).collect();
    assert_eq!(priorities, [Some(3), None, None]);
}

#[test]
fn an_entry_without_a_message_has_an_empty_one() {
    let place = Place::with(&[Line::of_job(0, '1', "gone").without("MESSAGE")]);
    assert_eq!(place.messages('1'), [""]);
}

/// Replaces the value of the DATA object that holds `payload` by `packed`, and marks file and object as compressed.
fn repack(file: &mut [u8], payload: &[u8], packed: &[u8], flag: u8) {
    assert!(packed.len() <= payload.len());
    let at = file.windows(payload.len()).position(|bytes| bytes == payload).unwrap();
    let object = at - 72;
    assert_eq!(file[object], 1, "a DATA object of the compact layout");
    file[object + 1] = flag;
    file[object + 8..object + 16].copy_from_slice(&(72 + packed.len() as u64).to_le_bytes());
    file[at..at + packed.len()].copy_from_slice(packed);
    file[12] |= flag;
}

fn lz4(payload: &[u8]) -> Vec<u8> {
    [(payload.len() as u64).to_le_bytes().as_slice(), &lz4_flex::block::compress(payload)].concat()
}

fn xz(payload: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new("xz").args(["--stdout", "--check=none"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let child = child.as_mut().expect("this test needs xz: install the package xz-utils");
    child.stdin.take().unwrap().write_all(payload).unwrap();
    let mut packed = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut packed).unwrap();
    assert!(child.wait().unwrap().success());
    packed
}

#[test]
fn values_packed_by_older_systems_read_as_with_journalctl() {
    let long = "all is well, and all is well, and all is well again. ".repeat(40);
    let payload = format!("MESSAGE={long}").into_bytes();
    for (flag, packed) in [(1, xz(&payload)), (2, lz4(&payload))] {
        let place = Place::new();
        let lines = [Line::of_job(0, '1', "before"), Line::of_job(1, '1', &long)];
        place.write("system.journal", Layout { compressed: false, ..Layout::USUAL }, &lines);
        let path = place.file("system.journal");
        let mut file = fs::read(&path).unwrap();
        repack(&mut file, &payload, &packed, flag);
        fs::write(&path, &file).unwrap();
        assert_eq!(place.messages('1'), ["before", &long]);
        assert_eq!(as_journalctl(&place.entries(&run('1'), From::Start)), of_journalctl(&place));
    }
}

#[test]
fn an_empty_journal_knows_no_run() {
    let place = Place::with(&[Line::new(0, "of nobody")]);
    assert!(place.messages('1').is_empty());
    assert_eq!(place.journal().find_run(&run('1').job, invocation('1')).unwrap(), None);
    assert_eq!(place.journal().last_run(&run('1').job).unwrap(), None);
}

#[test]
fn a_value_is_held_once_its_entry_is_there() {
    let place = Place::with(&[Line::new(0, "fence").with("CI_BRIDGE_FENCE", &hex('5'))]);
    let journal = place.journal();
    assert!(journal.holds(b"CI_BRIDGE_FENCE", hex('5').as_bytes()).unwrap());
    assert!(!journal.holds(b"CI_BRIDGE_FENCE", hex('6').as_bytes()).unwrap());
    assert!(!journal.holds(b"CI_BRIDGE_FENC", hex('5').as_bytes()).unwrap());
}

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;

use super::*;
use crate::journal::{Entry, Gap, Position, Source, message_hash};
use crate::policy::{AllowedJob, Policy, Prefix};

fn job(name: &str) -> AllowedJob {
    let policy = Policy::new(vec![Prefix::parse("ci-test-").unwrap()]);
    policy.admit(&JobName::from_unit(&format!("{name}.service")).unwrap()).unwrap()
}

/// The run of `ci-test-a` whose id ends in `number`; the first two digits are those of its last byte.
fn run(number: u8) -> Run {
    let mut id = [number; 16];
    id[1] = 0xff;
    Run { job: job("ci-test-a"), invocation: InvocationId::from_bytes(&id).unwrap() }
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap()
}

fn label(run: &Run) -> Label {
    let (started, ended) = (Some(time(1_700_000_000_000_000)), time(1_700_000_012_345_678));
    Label { job: run.job.name().clone(), invocation: run.invocation, started, ended, settled: true }
}

fn new_archive() -> (TempDir, Archive) {
    // In memory: to sync hundreds of cases to a disk takes minutes.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = Archive::open(directory.path()).unwrap();
    (directory, archive)
}

fn write(archive: &Archive, label: &Label, entries: &[Entry]) -> Stored {
    write_with(archive, label, entries, &Losses::default())
}

fn write_with(archive: &Archive, label: &Label, entries: &[Entry], losses: &Losses) -> Stored {
    match archive.begin(label).unwrap() {
        Begun::There(stored) => *stored,
        Begun::Draft(mut draft) => {
            for entry in entries {
                draft.push(entry).unwrap();
            }
            draft.finish(losses).unwrap()
        }
    }
}

fn draft(archive: &Archive, label: &Label) -> Box<Draft> {
    match archive.begin(label).unwrap() {
        Begun::There(stored) => panic!("{stored:?}"),
        Begun::Draft(draft) => draft,
    }
}

fn open(archive: &Archive, run: &Run, from: From) -> Entries {
    open_where(archive, run, from, &Filter::default())
}

fn open_where(archive: &Archive, run: &Run, from: From, filter: &Filter) -> Entries {
    archive.entries(run, from, filter).unwrap().unwrap()
}

fn collect(entries: impl IntoIterator<Item = Result<Entry, Error>>) -> Vec<Entry> {
    entries.into_iter().map(Result::unwrap).collect()
}

fn reversed(entries: &[Entry]) -> Vec<Entry> {
    entries.iter().rev().cloned().collect()
}

/// All files of an archive, below its directory.
fn files(archive: &Archive) -> Vec<PathBuf> {
    let directories = read_directory(&archive.directory).unwrap().into_iter();
    directories.flat_map(|directory| read_directory(&directory).unwrap()).collect()
}

/// A line of a stream, a second and a bit after the one before.
fn line(number: u64, message: &str) -> Entry {
    let position = Position {
        seqnum_id: [1; 16],
        seqnum: 1000 + number,
        boot_id: [2; 16],
        monotonic: 5_000_000 + number * 1_000_017,
        realtime: 1_700_000_000_000_000 + number * 1_000_017,
        xor_hash: 0x1234_5678_9abc_def0 ^ message_hash(message.as_bytes()),
    };
    Entry { position, priority: Some(6), source: Source::Job, suppressed: None, message: message.as_bytes().to_vec() }
}

/// So many lines that they fill several blocks.
fn lines(count: u64) -> Vec<Entry> {
    (0..count).map(|number| line(number, &format!("line {number} of the log"))).collect()
}

fn messages() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..100),
        2 => Just(Vec::new()),
        4 => "[a-z ]{0,80}".prop_map(String::into_bytes),
        1 => (any::<u8>(), 0..10_000_usize).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

prop_compose! {
    fn any_entry()(
        position: [u8; Position::LEN],
        priority in prop::option::of(0..8_u8),
        source in prop::sample::select(vec![Source::Job, Source::Systemd, Source::Other]),
        dropped in prop::option::weighted(0.1, any::<u64>()),
        message in messages(),
    ) -> Entry {
        // Only journald tells of lines that it dropped, and it is not of the job.
        let suppressed = dropped.filter(|_| source == Source::Other);
        Entry { position: Position::from_bytes(&position), priority, source, suppressed, message }
    }
}

prop_compose! {
    fn any_losses()(
        gone_before: Option<u64>,
        first_drop in prop::option::of(any::<([u8; Position::LEN], u64)>()),
        drops_since in prop::option::of(any::<[u8; Position::LEN]>()),
        dropped_at_end: Option<(u64, u64)>,
        is_unreadable: bool,
    ) -> Losses {
        let first_drop = first_drop.map(|(position, count)| (Position::from_bytes(&position), count));
        let drops_since = drops_since.map(|position| Position::from_bytes(&position));
        Losses { gone_before, first_drop, drops_since, dropped_at_end, is_unreadable }
    }
}

/// How an entry follows another.
#[derive(Debug, Clone)]
struct Step {
    entry: Entry,
    seqnum: u64,
    monotonic: u64,
    /// The wall clock may be set back.
    realtime: i64,
    new_sequence: bool,
    same_stream: bool,
}

prop_compose! {
    fn any_step()(
        entry in any_entry(),
        seqnum in 1..1000_u64,
        monotonic in 1..10_000_000_u64,
        realtime in -1_000_000..10_000_000_i64,
        new_sequence in prop::bool::weighted(0.02),
        same_stream in prop::bool::weighted(0.8),
    ) -> Step {
        Step { entry, seqnum, monotonic, realtime, new_sequence, same_stream }
    }
}

/// The entries of a run in the order in which the journal gives them.
fn logs() -> impl Strategy<Value = Vec<Entry>> {
    let logs = (any::<[u8; 16]>(), prop::collection::vec(any_step(), 0..200));
    logs.prop_map(|(boot_id, steps)| {
        let (seqnum_id, realtime) = ([0; 16], 1_700_000_000_000_000);
        let mut last = Position { seqnum_id, seqnum: 77, boot_id, monotonic: 1, realtime, xor_hash: 0 };
        let follow = |step: Step| {
            if step.new_sequence {
                (last.seqnum_id, last.seqnum) = (step.entry.position.seqnum_id, step.entry.position.seqnum >> 1);
            }
            last.seqnum += step.seqnum;
            last.monotonic += step.monotonic;
            last.realtime = last.realtime.wrapping_add_signed(step.realtime);
            let others = if step.same_stream { 99 } else { step.entry.position.xor_hash };
            last.xor_hash = others ^ message_hash(&step.entry.message);
            Entry { position: last, ..step.entry }
        };
        steps.into_iter().map(follow).collect()
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_from_anywhere_in_either_order(
        log in logs(), count in 0..300_usize, place: Index, turn in 0..300_usize,
    ) {
        let (_directory, archive) = new_archive();
        let run = run(7);
        let stored = write(&archive, &label(&run), &log);
        prop_assert_eq!(stored.entries, log.len() as u64);
        prop_assert_eq!(collect(open(&archive, &run, From::Start)), log.clone());
        prop_assert_eq!(collect(open(&archive, &run, From::Start).newest_first()), reversed(&log));

        let last = &log[log.len().saturating_sub(count)..];
        prop_assert_eq!(collect(open(&archive, &run, From::Last(count))), last);
        prop_assert_eq!(collect(open(&archive, &run, From::Last(count)).newest_first()), reversed(last));

        let mut turned = open(&archive, &run, From::Start);
        let before = collect(turned.by_ref().take(turn));
        let rest = &log[before.len()..];
        prop_assert_eq!(&before, &log[..before.len()]);
        prop_assert_eq!(collect(turned.newest_first()), reversed(rest));

        if !log.is_empty() {
            let place = place.index(log.len());
            let after = open(&archive, &run, From::After(log[place].position));
            prop_assert_eq!(after.gaps(), []);
            prop_assert_eq!(collect(after), &log[place + 1..]);
            let after = open(&archive, &run, From::After(log[place].position)).newest_first();
            prop_assert_eq!(collect(after), reversed(&log[place + 1..]));
        }
    }

    #[test]
    fn positions_in_no_order_come_back(log in prop::collection::vec(any_entry(), 0..120)) {
        let (_directory, archive) = new_archive();
        write(&archive, &label(&run(7)), &log);
        prop_assert_eq!(collect(open(&archive, &run(7), From::Start)), log.clone());
        prop_assert_eq!(collect(open(&archive, &run(7), From::Start).newest_first()), reversed(&log));
    }

    #[test]
    fn a_place_that_is_gone_is_a_gap_and_the_rest_follows(log in logs(), place: Index) {
        prop_assume!(!log.is_empty());
        let (_directory, archive) = new_archive();
        let place = place.index(log.len());
        let mut left = log.clone();
        let gone = left.remove(place);
        write(&archive, &label(&run(7)), &left);
        let after = open(&archive, &run(7), From::After(gone.position));
        prop_assert_eq!(after.gaps(), [Gap::Vacuumed]);
        prop_assert_eq!(collect(after), &log[place + 1..]);
    }

    #[test]
    fn a_filter_leaves_out_exactly_what_it_does_not_want(
        log in logs(),
        priority in prop::option::of(0..8_u8),
        since in prop::option::of(any::<Index>()),
        until in prop::option::of(any::<Index>()),
        count in 0..300_usize,
        place: Index,
    ) {
        prop_assume!(!log.is_empty());
        let (_directory, archive) = new_archive();
        write(&archive, &label(&run(7)), &log);
        let at = |index: Index| log[index.index(log.len())].realtime_usec();
        let filter = Filter { priority, since_usec: since.map(at), until_usec: until.map(at) };
        // An entry without a priority counts as debug.
        let wanted = |entry: &&Entry| {
            let realtime = entry.realtime_usec();
            priority.is_none_or(|most| entry.priority.unwrap_or(7) <= most)
                && filter.since_usec.is_none_or(|since| realtime >= since)
                && filter.until_usec.is_none_or(|until| realtime <= until)
        };
        let expected: Vec<_> = log.iter().filter(wanted).cloned().collect();
        let open = |from| open_where(&archive, &run(7), from, &filter);
        prop_assert_eq!(collect(open(From::Start)), expected.clone());
        prop_assert_eq!(collect(open(From::Start).newest_first()), reversed(&expected));
        let last = &expected[expected.len().saturating_sub(count)..];
        prop_assert_eq!(collect(open(From::Last(count))), last);
        prop_assert_eq!(collect(open(From::Last(count)).newest_first()), reversed(last));
        let place = &log[place.index(log.len())].position;
        let behind: Vec<_> = log.iter().skip_while(|entry| entry.position != *place).skip(1).filter(wanted).cloned().collect();
        prop_assert_eq!(collect(open(From::After(*place))), behind);
    }

    #[test]
    fn a_label_comes_back(
        name in "ci-test-[a-z]{1,20}(@([a-z]|\\\\x2d){1,30})?",
        id in any::<[u8; 16]>().prop_filter("an id", |id| *id != [0; 16]),
        started in prop::option::of(-1_000_000_000_000_000..200_000_000_000_000_000_i64),
        ended in -1_000_000_000_000_000..200_000_000_000_000_000_i64,
        settled: bool,
        losses in any_losses(),
    ) {
        let (_directory, archive) = new_archive();
        let run = Run { job: job(&name), invocation: InvocationId::from_bytes(&id).unwrap() };
        let label = Label { started: started.map(time), ended: time(ended), settled, ..label(&run) };
        let stored = write_with(&archive, &label, &lines(3), &losses);
        prop_assert_eq!(&stored.losses, &losses);
        prop_assert_eq!(&stored.label, &label);
        let listed: Result<Vec<_>, _> = archive.list().collect();
        prop_assert_eq!(listed.unwrap(), [stored]);
        let entries = open(&archive, &run, From::Start);
        prop_assert_eq!(entries.label(), &label);
    }
}

/// Something that a bad disk does to a file.
#[derive(Debug, Clone)]
enum Harm {
    Flip(Index, u8),
    Cut(Index),
    Overwrite(Index, Vec<u8>),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Append(Vec<u8>),
}

fn harms() -> impl Strategy<Value = Harm> {
    let bytes = || prop_oneof![prop::collection::vec(any::<u8>(), 1..64), (1..2000_usize).prop_map(|len| vec![0; len])];
    prop_oneof![
        4 => (any::<Index>(), 0..8_u8).prop_map(|(index, bit)| Harm::Flip(index, 1 << bit)),
        1 => any::<Index>().prop_map(Harm::Cut),
        2 => (any::<Index>(), bytes()).prop_map(|(index, bytes)| Harm::Overwrite(index, bytes)),
        1 => (any::<Index>(), bytes()).prop_map(|(index, bytes)| Harm::Insert(index, bytes)),
        1 => (any::<Index>(), 1..200_usize).prop_map(|(index, count)| Harm::Remove(index, count)),
        1 => bytes().prop_map(Harm::Append),
    ]
}

fn do_all_harm(bytes: &mut Vec<u8>, harms: &[Harm]) {
    for harm in harms {
        if !bytes.is_empty() {
            do_harm(bytes, harm);
        }
    }
}

fn do_harm(bytes: &mut Vec<u8>, harm: &Harm) {
    let len = bytes.len();
    match harm {
        Harm::Flip(index, bit) => bytes[index.index(len)] ^= bit,
        Harm::Cut(index) => bytes.truncate(index.index(len)),
        Harm::Overwrite(index, with) => {
            bytes[index.index(len)..].iter_mut().zip(with).for_each(|(to, from)| *to = *from);
        }
        Harm::Insert(index, what) => drop(bytes.splice(index.index(len)..index.index(len), what.iter().copied())),
        Harm::Remove(index, count) => drop(bytes.drain(index.index(len)..len.min(index.index(len) + count))),
        Harm::Append(what) => bytes.extend(what),
    }
}

/// Reads all of a log that may be damaged: no entry that is read may be wrong, and what is missing is told.
fn check_damaged(archive: &Archive, log: &[Entry]) -> Result<(), TestCaseError> {
    let Ok(Some(entries)) = archive.entries(&run(7), From::Start, &Filter::default()) else { return Ok(()) };
    let read: Vec<_> = entries.collect();
    let mut expected = log.iter();
    for entry in read.iter().flatten() {
        prop_assert!(expected.any(|expected| expected == entry), "a wrong line: {entry:?}");
    }
    let told = read.iter().any(Result::is_err);
    prop_assert!(told || read.len() == log.len(), "{} of {} entries, and no error", read.len(), log.len());
    let mut backwards: Vec<_> = open(archive, &run(7), From::Start).newest_first().collect();
    backwards.reverse();
    prop_assert_eq!(format!("{backwards:?}"), format!("{read:?}"));
    Ok(())
}

proptest! {
    #[test]
    fn damage_is_an_error_and_never_a_wrong_line(log in logs(), harms in prop::collection::vec(harms(), 1..4)) {
        let (_directory, archive) = new_archive();
        write(&archive, &label(&run(7)), &log);
        let path = archive.path(run(7).invocation);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        do_all_harm(&mut bytes, &harms);
        fs::write(&path, &bytes).unwrap();
        check_damaged(&archive, &log)?;
        for from in [From::Last(5), From::After(line(3, "").position)] {
            if let Ok(Some(entries)) = archive.entries(&run(7), from, &Filter::default()) {
                entries.for_each(drop);
            }
        }
        archive.list().for_each(drop);
        // A damaged footer is found at once, and then the log can be written again.
        if archive.list().any(|listed| matches!(listed, Err(Error::Damaged { .. }))) {
            write(&archive, &label(&run(7)), &log);
            prop_assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    /// What a checksum would catch, behind the checksum.
    #[test]
    fn nothing_that_a_file_says_makes_the_reader_panic(
        log in logs(), losses in any_losses(), harms in prop::collection::vec(harms(), 0..4), noise: Vec<u8>,
    ) {
        let mut block = block::Builder::new().unwrap();
        let mut footer = footer::Builder::new();
        for entry in &log {
            block.push(entry);
        }
        if let Some((mut summary, stored)) = block.take().unwrap() {
            footer.push(&summary);
            let mut stored = stored.to_vec();
            do_all_harm(&mut stored, &harms);
            for bytes in [stored, noise.clone()] {
                summary.checksum = crc32fast::hash(&bytes);
                let _ = block::decode(&summary, &bytes);
                let _ = block::decode(&block::Summary { stored: summary.unfolded, ..summary.clone() }, &bytes);
            }
        }
        let footer = footer.finish(&label(&run(7)), &losses).unwrap();
        let mut footer = footer[..footer.len() - footer::TRAILER].to_vec();
        do_all_harm(&mut footer, &harms);
        for bytes in [footer, noise] {
            let mut end = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
            end.extend(crc32fast::hash(&bytes).to_le_bytes());
            end.extend(footer::HEAD);
            let trailer = footer::Trailer::parse(&end).unwrap();
            let _ = footer::Footer::parse(&bytes, trailer, 8);
        }
    }
}

#[test]
fn a_block_cannot_claim_more_than_its_bytes_can_hold() {
    let mut block = block::Builder::new().unwrap();
    block.push(&line(1, &"x".repeat(10_000)));
    let (honest, _) = block.take().unwrap().unwrap();
    assert!(honest.stored < honest.unfolded);
    let parse = |summary: &block::Summary| {
        let mut footer = footer::Builder::new();
        footer.push(summary);
        let footer = footer.finish(&label(&run(7)), &Losses::default()).unwrap();
        let trailer = footer::Trailer::parse(&footer).unwrap();
        let end = footer::HEAD.len() as u64 + summary.stored;
        footer::Footer::parse(&footer[..trailer.footer], trailer, end).map(drop)
    };
    assert_eq!(parse(&honest), Ok(()));
    for claim in [
        block::Summary { unfolded: 1 << 40, ..honest.clone() },
        block::Summary { entries: 5_000, ..honest.clone() },
        block::Summary { entries: 0, ..honest.clone() },
        block::Summary { stored: honest.unfolded + 1, ..honest.clone() },
    ] {
        assert!(matches!(parse(&claim), Err(footer::NotReadable::Because(_))), "{claim:?}");
    }
}

#[test]
fn a_damaged_block_is_one_error_and_the_others_are_read() {
    let (_directory, archive) = new_archive();
    let log = lines(200);
    write(&archive, &label(&run(7)), &log);
    let path = archive.path(run(7).invocation);
    let block = LogFile::open(&path, run(7).invocation).unwrap().unwrap().blocks()[2].clone();
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(block.at).unwrap() + 10] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let read: Vec<_> = open(&archive, &run(7), From::Start).collect();
    let error = read.iter().find_map(|entry| entry.as_ref().err()).unwrap();
    assert!(matches!(error, Error::Damaged { at, .. } if *at == block.at), "{error}");
    assert_eq!(read.iter().filter(|entry| entry.is_err()).count(), 1);
    assert_eq!(read.iter().flatten().count(), log.len() - block.summary.entries);

    // Where the damage lies is where the reading begins: it is told there as well.
    let first = block.summary.first;
    let mut after = open(&archive, &run(7), From::After(first));
    assert_eq!(after.gaps(), [Gap::Unreadable]);
    assert!(after.next().unwrap().is_err());
    assert!(after.next().unwrap().is_ok());
}

#[test]
fn a_cut_file_is_damaged_wherever_it_is_cut() {
    let (_directory, archive) = new_archive();
    write(&archive, &label(&run(7)), &lines(100));
    let path = archive.path(run(7).invocation);
    let whole = fs::read(&path).unwrap();
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let error = archive.entries(&run(7), From::Start, &Filter::default()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{len}: {error}");
    }
}

#[test]
fn a_newer_version_is_told_from_damage_and_left_alone() {
    let (_directory, archive) = new_archive();
    write(&archive, &label(&run(7)), &lines(3));
    let path = archive.path(run(7).invocation);
    let mut bytes = fs::read(&path).unwrap();
    bytes[7] = 2;
    fs::write(&path, &bytes).unwrap();
    let unsupported = |error: &Error| matches!(error, Error::Unsupported { version: 2, .. });
    assert!(unsupported(&archive.entries(&run(7), From::Start, &Filter::default()).unwrap_err()));
    assert!(unsupported(&archive.begin(&label(&run(7))).unwrap_err()));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_log_that_is_not_there_is_none() {
    let (_directory, archive) = new_archive();
    assert!(archive.entries(&run(7), From::Start, &Filter::default()).unwrap().is_none());
    assert!(archive.list().next().is_none());
}

#[test]
fn another_job_does_not_get_the_log() {
    let (_directory, archive) = new_archive();
    write(&archive, &label(&run(7)), &lines(3));
    let other = Run { job: job("ci-test-b"), ..run(7) };
    assert!(archive.entries(&other, From::Start, &Filter::default()).unwrap().is_none());
    assert!(archive.entries(&run(7), From::Start, &Filter::default()).unwrap().is_some());
}

#[test]
fn an_empty_log_is_a_log() {
    let (_directory, archive) = new_archive();
    assert_eq!(write(&archive, &label(&run(7)), &[]).entries, 0);
    assert_eq!(collect(open(&archive, &run(7), From::Start)), []);
    assert_eq!(open(&archive, &run(7), From::After(line(1, "").position)).gaps(), [Gap::Vacuumed]);
}

#[test]
fn the_log_of_a_tiny_job_costs_little() {
    let (_directory, archive) = new_archive();
    let mut log = vec![
        line(0, "Starting ci-test-a.service - A job that says hello..."),
        line(1, "hello"),
        line(2, "ci-test-a.service: Deactivated successfully."),
        line(3, "Finished ci-test-a.service - A job that says hello."),
    ];
    // The manager's messages share nothing but the boot.
    for (entry, others) in log.iter_mut().zip([0x1f2e_3d4c_5b6a_7988, 0, 0x9182_7364_5546_3728, 0x0123_4567_89ab_cdef])
    {
        entry.position.xor_hash ^= others;
        entry.source = if others == 0 { Source::Job } else { Source::Systemd };
    }
    let stored = write(&archive, &label(&run(7)), &log);
    assert_eq!(collect(open(&archive, &run(7), From::Start)), log);
    assert_eq!(stored.bytes, fs::metadata(archive.path(run(7).invocation)).unwrap().len());
    assert!(stored.bytes <= 400, "{}", stored.bytes);
}

#[test]
fn the_hash_of_lines_of_one_stream_costs_nothing() {
    let sizes = [false, true].map(|alike| {
        let (_directory, archive) = new_archive();
        let mut log = lines(400);
        for (number, entry) in log.iter_mut().enumerate().filter(|_| !alike) {
            entry.position.xor_hash ^= message_hash(&number.to_le_bytes());
        }
        write(&archive, &label(&run(7)), &log).bytes
    });
    assert!(sizes[0] >= sizes[1] + 7 * 400, "{sizes:?}");
}

#[test]
fn a_draft_that_is_not_finished_leaves_nothing() {
    let (_directory, archive) = new_archive();
    let mut half = draft(&archive, &label(&run(7)));
    for entry in lines(200) {
        half.push(&entry).unwrap();
    }
    assert_eq!(files(&archive).len(), 1);
    drop(half);
    assert_eq!(files(&archive), [] as [PathBuf; 0]);
    write(&archive, &label(&run(7)), &lines(200));
    assert_eq!(files(&archive), [archive.path(run(7).invocation)]);
}

#[test]
fn a_log_is_not_there_before_it_is_whole() {
    let (_directory, archive) = new_archive();
    let mut draft = draft(&archive, &label(&run(7)));
    for entry in lines(200) {
        draft.push(&entry).unwrap();
        assert!(archive.entries(&run(7), From::Start, &Filter::default()).unwrap().is_none());
        assert!(archive.list().next().is_none());
    }
    draft.finish(&Losses::default()).unwrap();
    assert_eq!(collect(open(&archive, &run(7), From::Start)), lines(200));
}

#[test]
fn what_is_to_be_kept_free_is_kept_free() {
    let (directory, archive) = new_archive();
    let full = |error: &Error| matches!(error, Error::Full { .. });
    let greedy = archive.clone().keeping_free(u64::MAX);
    assert!(full(&greedy.begin(&label(&run(7))).unwrap_err()));
    assert_eq!(files(&archive), [] as [PathBuf; 0]);
    // There is room for the head, and less and less for the rest.
    let system = rustix::fs::statvfs(directory.path()).unwrap();
    let modest = archive.clone().keeping_free(system.f_bavail * system.f_frsize / 2);
    write(&modest, &label(&run(7)), &lines(200));
    assert_eq!(collect(open(&archive, &run(7), From::Start)), lines(200));
}

#[test]
fn what_a_crash_left_is_deleted_at_the_start_and_nothing_else() {
    let (directory, archive) = new_archive();
    write(&archive, &label(&run(7)), &lines(100));
    let path = archive.path(run(7).invocation);
    let half = directory.path().join("new").join(format!("{}-0", run(8).invocation));
    fs::write(&half, &fs::read(&path).unwrap()[..500]).unwrap();
    let stranger = directory.path().join("07/notes.txt");
    fs::write(&stranger, "what I found").unwrap();

    let archive = Archive::open(directory.path()).unwrap();
    assert!(!half.exists());
    assert!(stranger.exists());
    assert!(archive.entries(&run(8), From::Start, &Filter::default()).unwrap().is_none());
    assert_eq!(collect(open(&archive, &run(7), From::Start)), lines(100));
}

#[test]
fn what_has_been_archived_stays() {
    let (_directory, archive) = new_archive();
    let lost = Losses { gone_before: Some(7), ..Losses::default() };
    let write_lost = |count| write_with(&archive, &label(&run(7)), &lines(count), &lost);
    assert_eq!(write_lost(10).entries, 10);
    // Less is left in the journal now.
    assert_eq!(write_lost(5).entries, 10);
    let unsettled = Label { settled: false, ..label(&run(7)) };
    assert_eq!(write(&archive, &unsettled, &lines(11)).entries, 10);
    assert_eq!(write(&archive, &label(&run(7)), &lines(12)).entries, 12);
    assert!(matches!(archive.begin(&unsettled).unwrap(), Begun::There(stored) if stored.entries == 12));
    assert_eq!(files(&archive), [archive.path(run(7).invocation)]);
}

#[test]
fn of_two_drafts_the_one_that_has_lost_nothing_stays() {
    let (_directory, archive) = new_archive();
    let lost = Losses { is_unreadable: true, ..Losses::default() };
    let (whole, part) = (draft(&archive, &label(&run(7))), draft(&archive, &label(&run(7))));
    whole.finish(&Losses::default()).unwrap();
    assert_eq!(part.finish(&lost).unwrap().losses, Losses::default());
    assert_eq!(open(&archive, &run(7), From::Start).gaps(), []);
}

#[test]
fn what_was_missing_is_told_as_the_reader_comes_to_it() {
    let (_directory, archive) = new_archive();
    let mut log = lines(300);
    for (place, count) in [(10, 3), (250, 4)] {
        log[place].source = Source::Other;
        log[place].suppressed = Some(count);
        log[place].priority = Some(4);
    }
    let at = |place: usize| log[place].position;
    let losses = Losses {
        gone_before: Some(at(0).realtime),
        first_drop: Some((at(10), 3)),
        dropped_at_end: Some((5, at(299).realtime + 1)),
        ..Losses::default()
    };
    write_with(&archive, &label(&run(7)), &log, &losses);
    let gaps = |from, filter: &Filter| {
        let mut entries = open_where(&archive, &run(7), from, filter);
        let before = entries.gaps();
        entries.by_ref().for_each(drop);
        (before, entries.gaps())
    };
    let (gone, dropped) = (Gap::Vacuumed, Gap::Suppressed);
    let all = Filter::default();
    assert_eq!(gaps(From::Start, &all), (vec![gone, dropped(8)], vec![gone, dropped(12)]));
    assert_eq!(gaps(From::Last(10), &all), (vec![dropped(5)], vec![dropped(5)]));
    assert_eq!(gaps(From::Last(100), &all), (vec![dropped(9)], vec![dropped(9)]));
    assert_eq!(gaps(From::Last(301), &all), (vec![gone, dropped(12)], vec![gone, dropped(12)]));
    assert_eq!(gaps(From::After(at(100)), &all), (vec![], vec![dropped(9)]));
    let newest_first = open(&archive, &run(7), From::Start).newest_first();
    assert_eq!(newest_first.gaps(), [gone, dropped(8)]);
    // The note of the drop is left out, but not what it says.
    let errors = Filter { priority: Some(3), ..all };
    assert_eq!(gaps(From::Start, &errors), (vec![gone, dropped(8)], vec![gone, dropped(12)]));
    let early = Filter { until_usec: Some(at(100).realtime), ..all };
    assert_eq!(gaps(From::Start, &early), (vec![gone, dropped(3)], vec![gone, dropped(3)]));
    let late = Filter { since_usec: Some(at(100).realtime), ..all };
    assert_eq!(gaps(From::Start, &late), (vec![dropped(5)], vec![dropped(9)]));
}

#[test]
fn two_that_write_the_same_log_do_not_disturb_each_other() {
    let (_directory, archive) = new_archive();
    let log = lines(500);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(write(&archive, &label(&run(7)), &log).entries, 500));
        }
    });
    assert_eq!(collect(open(&archive, &run(7), From::Start)), log);
    assert_eq!(files(&archive), [archive.path(run(7).invocation)]);
}

#[test]
fn nobody_else_can_read_a_log() {
    let (directory, archive) = new_archive();
    write(&archive, &label(&run(7)), &lines(3));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&archive.path(run(7).invocation)), 0o600);
    assert_eq!(mode(&directory.path().join("07")), 0o700);
    assert_eq!(mode(&directory.path().join("new")), 0o700);
}

#[test]
fn the_list_has_every_log_and_tells_of_damaged_ones() {
    let (directory, archive) = new_archive();
    let stored: Vec<_> =
        (1..100).map(|number| write(&archive, &label(&run(number)), &lines(u64::from(number)))).collect();
    fs::write(directory.path().join("07/notes.txt"), "what I found").unwrap();
    let mut listed: Vec<_> = archive.list().map(Result::unwrap).collect();
    listed.sort_by_key(|stored| stored.entries);
    assert_eq!(listed, stored);

    fs::write(archive.path(run(7).invocation), "nonsense").unwrap();
    // Of the same job, but not of this run.
    fs::copy(archive.path(run(9).invocation), archive.path(run(8).invocation)).unwrap();
    assert!(archive.entries(&run(8), From::Start, &Filter::default()).is_err());
    let (whole, damaged): (Vec<_>, Vec<_>) = archive.list().partition(Result::is_ok);
    assert_eq!(whole.len(), 97);
    let paths: BTreeSet<_> = damaged
        .into_iter()
        .map(|error| match error.unwrap_err() {
            Error::Damaged { path, .. } => path,
            error => panic!("{error}"),
        })
        .collect();
    assert_eq!(paths, BTreeSet::from([7, 8].map(|number| archive.path(run(number).invocation))));
}

#[test]
fn a_log_is_deleted_before_it_is_forgotten() {
    let (_directory, archive) = new_archive();
    for number in 1..5 {
        write(&archive, &label(&run(number)), &lines(300));
    }
    let mut reader = open(&archive, &run(2), From::Start);
    assert!(reader.next().unwrap().is_ok());
    let [one, two, never] = [1, 2, 9].map(|number| run(number).invocation);
    let mut forgotten = Vec::new();
    let forget = |invocation| {
        assert!(!archive.path(invocation).exists());
        forgotten.push(invocation);
    };
    archive.delete([one, never, two], forget).unwrap();
    assert_eq!(forgotten, [one, never, two]);
    assert_eq!(archive.list().count(), 2);
    // Whoever reads goes on reading.
    assert_eq!(collect(reader).len(), 299);
}

#[test]
fn a_log_that_cannot_be_deleted_is_not_forgotten_and_keeps_no_other() {
    let (_directory, archive) = new_archive();
    write(&archive, &label(&run(2)), &lines(3));
    let path = archive.path(run(1).invocation);
    fs::create_dir_all(path.join("a directory cannot be unlinked")).unwrap();
    let mut forgotten = Vec::new();
    let both = [1, 2].map(|number| run(number).invocation);
    let error = archive.delete(both, |invocation| forgotten.push(invocation)).unwrap_err();
    assert!(matches!(&error, Error::Io { path: named, .. } if *named == path), "{error}");
    assert_eq!(forgotten, [run(2).invocation]);
}

#[test]
fn entries_can_be_sent_to_another_thread() {
    fn is_sent<T: Send + 'static>() {}
    is_sent::<Entries>();
    is_sent::<NewestFirst>();
}

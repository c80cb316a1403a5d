//! The way of logs from the journal into the archive, and out of it when there are too many.

use std::env;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ci_bridge::archive::{Archive, Error, Limits};
use ci_bridge::jobs::{Archiver, EndedLog, News, NotArchived};
use ci_bridge::journal::{Entry, Filter, From, Gap, Journal, Run};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::support::{Layout, Line, Place, START_USEC, run};

/// So seldom that no test sees it.
const SELDOM: Duration = Duration::from_hours(1);
const OFTEN: Duration = Duration::from_millis(20);

fn at(ms: u64) -> Timestamp {
    Timestamp::from_microsecond((START_USEC + ms * 1000).cast_signed()).unwrap()
}

/// The log of a run that ended so many milliseconds after the first entry.
fn log(digit: char, ended_ms: u64) -> EndedLog {
    EndedLog { run: run(digit), started: None, ended: at(ended_ms), settled: true }
}

/// The lines of a run of two milliseconds.
fn lines(at_ms: u64, digit: char) -> [Line; 3] {
    [Line::starting(at_ms, digit), Line::of_job(at_ms + 1, digit, "hello"), Line::ended(at_ms + 2, digit)]
}

/// An archiver at work, which ends with the test.
struct Work {
    archiver: Archiver,
    news: mpsc::Receiver<News>,
    archive: Archive,
    /// Why logs can't be archived.
    trouble: watch::Receiver<Option<String>>,
    _stop: tokio_util::sync::DropGuard,
    _directory: TempDir,
}

impl Work {
    fn begin(journal: Journal, limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let archive = Archive::open(directory.path()).unwrap();
        Self::begin_in(directory, archive, journal, limits, SELDOM)
    }

    fn begin_in(directory: TempDir, archive: Archive, journal: Journal, limits: Limits, retry: Duration) -> Self {
        let (archiver, task, news) = Archiver::new(journal, archive.clone(), limits, retry);
        let stop = CancellationToken::new();
        let (troubles, trouble) = watch::channel(None);
        tokio::spawn(task.telling(troubles).run(stop.clone()));
        Self { archiver, news, archive, trouble, _stop: stop.drop_guard(), _directory: directory }
    }

    async fn news(&mut self) -> News {
        tokio::time::timeout(Duration::from_secs(20), self.news.recv()).await.expect("news").expect("an archiver")
    }

    fn entries(&self, run: &Run) -> Option<Vec<Entry>> {
        let entries = self.archive.entries(run, From::Start, &Filter::default()).unwrap()?;
        Some(entries.map(Result::unwrap).collect())
    }
}

/// What a log came to: the digit of its run, its entries, its gaps, and whether it is complete.
fn archived(news: News) -> (Run, u64, Vec<Gap>, bool) {
    match news {
        News::Archived { run, entries, bytes, gaps, complete } => {
            assert!(bytes > 0);
            (run, entries, gaps, complete)
        }
        news => panic!("{news:?}"),
    }
}

#[tokio::test]
async fn what_is_offered_is_archived_in_turn_and_told_of() {
    let place = Place::with(&[lines(0, '1'), lines(10, '2'), lines(20, '3')].concat());
    let mut work = Work::begin(place.journal(), Limits::default());
    for (digit, ended) in [('2', 12), ('1', 2), ('3', 22)] {
        work.archiver.offer(log(digit, ended)).unwrap();
    }
    for digit in ['2', '1', '3'] {
        assert_eq!(archived(work.news().await), (run(digit), 3, vec![], true));
        assert_eq!(work.entries(&run(digit)).unwrap(), place.entries(&run(digit), From::Start));
    }
    // Once more, as after a crash before anybody noted it.
    fs::remove_file(place.file("system.journal")).unwrap();
    work.archiver.offer(log('2', 12)).unwrap();
    assert_eq!(archived(work.news().await), (run('2'), 3, vec![], true));
}

#[tokio::test]
async fn what_is_missing_or_still_on_its_way_makes_a_log_incomplete() {
    let [starting, hello, ended] = lines(0, '1');
    let place = Place::new();
    place.write("system@1.journal", Layout::USUAL, &[starting]);
    place.write("system.journal", Layout::USUAL, &[hello, ended]);
    let mut work = Work::begin(place.journal(), Limits::default());
    let unsettled = EndedLog { settled: false, ..log('1', 2) };
    work.archiver.offer(unsettled).unwrap();
    assert_eq!(archived(work.news().await), (run('1'), 3, vec![], false));

    let place = Place::with(&lines(0, '1')[1..]);
    let mut work = Work::begin(place.journal(), Limits::default());
    work.archiver.offer(log('1', 2)).unwrap();
    assert_eq!(archived(work.news().await), (run('1'), 2, vec![Gap::Vacuumed], false));
}

#[tokio::test]
async fn a_log_that_journald_has_deleted_is_not_taken_for_an_empty_one() {
    let place = Place::with(&lines(100, '1'));
    let mut work = Work::begin(place.journal(), Limits::default());
    // It ended before the oldest entry there is.
    work.archiver.offer(log('2', 50)).unwrap();
    let news = work.news().await;
    assert!(matches!(&news, News::Failed { reason: NotArchived::Deleted, again: false, .. }), "{news:?}");
    assert_eq!(work.entries(&run('2')), None);
    // This one had nothing to say.
    work.archiver.offer(log('3', 150)).unwrap();
    assert_eq!(archived(work.news().await), (run('3'), 0, vec![], true));
    assert_eq!(work.entries(&run('3')), Some(vec![]));
}

#[tokio::test]
async fn a_part_that_was_archived_stays_when_journald_has_deleted_the_rest() {
    let place = Place::with(&lines(0, '1'));
    place.write("system@2.journal", Layout::USUAL, &lines(100, '2'));
    let mut work = Work::begin(place.journal(), Limits::default());
    work.archiver.offer(EndedLog { settled: false, ..log('1', 2) }).unwrap();
    assert_eq!(archived(work.news().await), (run('1'), 3, vec![], false));
    fs::remove_file(place.file("system.journal")).unwrap();
    work.archiver.offer(log('1', 2)).unwrap();
    assert_eq!(archived(work.news().await), (run('1'), 3, vec![], false));
    assert_eq!(work.entries(&run('1')).unwrap().len(), 3);
}

#[tokio::test]
async fn a_journal_that_cannot_be_read_is_tried_again() {
    let place = Place::new();
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::open(directory.path()).unwrap();
    let mut work = Work::begin_in(directory, archive, place.journal(), Limits::default(), OFTEN);
    work.archiver.offer(log('1', 2)).unwrap();
    let news = work.news().await;
    assert!(matches!(&news, News::Failed { reason: NotArchived::Journal(_), again: true, .. }), "{news:?}");
    place.write("system.journal", Layout::USUAL, &lines(0, '1'));
    loop {
        match work.news().await {
            News::Failed { again: true, .. } => {}
            news => break assert_eq!(archived(news), (run('1'), 3, vec![], true)),
        }
    }
}

#[tokio::test]
async fn a_log_too_many_goes_at_the_start_and_the_last_one_of_a_job_never() {
    let place = Place::with(&[lines(0, '1'), lines(10, '2'), lines(20, '3')].concat());
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::open(directory.path()).unwrap();
    let mut work = Work::begin_in(directory, archive.clone(), place.journal(), Limits::default(), SELDOM);
    for (digit, ended) in [('3', 22), ('1', 2), ('2', 12)] {
        work.archiver.offer(log(digit, ended)).unwrap();
        archived(work.news().await);
    }
    // All of them are far too old, and too many.
    let limits = Limits { age: Some(Duration::from_hours(1)), bytes: Some(1), logs_per_job: NonZeroUsize::new(1) };
    let mut next = Work::begin_in(tempfile::tempdir().unwrap(), archive, place.journal(), limits, SELDOM);
    for digit in ['1', '2'] {
        let news = next.news().await;
        assert!(matches!(&news, News::Deleted { invocation } if *invocation == run(digit).invocation), "{news:?}");
        assert_eq!(next.entries(&run(digit)), None);
    }
    assert_eq!(next.entries(&run('3')).unwrap().len(), 3);
    // It goes on to work.
    next.archiver.offer(log('3', 22)).unwrap();
    assert_eq!(archived(next.news().await), (run('3'), 3, vec![], true));
}

#[tokio::test]
async fn an_offer_never_waits() {
    let place = Place::with(&lines(0, '1'));
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::open(directory.path()).unwrap();
    // Nobody works.
    let (archiver, task, _news) = Archiver::new(place.journal(), archive, Limits::default(), SELDOM);
    let accepted = (0..20_000).take_while(|_| archiver.offer(log('1', 2)).is_ok()).count();
    assert_eq!(accepted, 10_000);
    let refused = archiver.offer(log('1', 2)).unwrap_err();
    assert!(matches!(refused, NotArchived::TooMany), "{refused}");
    drop(task);
    assert!(archiver.offer(log('1', 2)).is_err());
}

#[tokio::test]
async fn a_long_log_does_not_hold_up_the_end() {
    let lines: Vec<_> = (0..100).map(|number| Line::of_job(number, '1', &"long ".repeat(200_000))).collect();
    let place = Place::with(&lines);
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::open(directory.path()).unwrap();
    let (archiver, task, mut news) = Archiver::new(place.journal(), archive, Limits::default(), SELDOM);
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    archiver.offer(log('1', 200)).unwrap();
    let drafts = || fs::read_dir(directory.path().join("new")).unwrap().count();
    while drafts() == 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    running.await.unwrap();
    assert_eq!(drafts(), 0);
    assert!(news.recv().await.is_none());
}

/// Where the archive lies; only the process on the small disk has it.
const PLACE: &str = "ARCHIVE_OF_A_TEST";

#[test]
#[ignore = "mounts a file system: make test"]
fn a_full_disk_is_told_once_and_overcome_when_there_is_room() {
    if let Some(place) = env::var_os(PLACE) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let overcome = async { tokio::time::timeout(Duration::from_secs(20), overcome(&PathBuf::from(place))).await };
        return runtime.block_on(overcome).expect("it ends");
    }
    let directory = tempfile::tempdir().unwrap();
    // In a mount namespace of its own, so that nothing is left of it.
    let script = r#"mount -t tmpfs -o size=1m tmpfs "$ARCHIVE_OF_A_TEST" && exec "$@""#;
    let test = "archiver::a_full_disk_is_told_once_and_overcome_when_there_is_room";
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture"])
        .env(PLACE, directory.path())
        .status()
        .unwrap();
    assert!(status.success());
}

/// Archives on a disk that is full first, and has room then.
async fn overcome(place: &Path) {
    // All three as long as what is left when the first is written.
    let noise = |at_ms: u64, digit: char| {
        let line = move |number: u64| {
            let mut random = number + 1;
            let mut text = format!("{digit} {number} ");
            for _ in 0..20 {
                random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ u64::from(digit);
                text.push_str(&format!("{random:016x}"));
            }
            Line::of_job(at_ms + number / 100, digit, &text)
        };
        (0..2000).map(line)
    };
    let lines: Vec<_> = [('1', 0), ('2', 1000), ('3', 2000)]
        .into_iter()
        .flat_map(|(digit, at)| {
            [Line::starting(at, digit)].into_iter().chain(noise(at, digit)).chain([Line::ended(at + 50, digit)])
        })
        .collect();
    let journal = Place::with(&lines);
    let filler = place.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let all = io::copy(&mut io::repeat(1), &mut file);
    assert_eq!(all.unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.set_len(file.metadata().unwrap().len() - 128 * 1024).unwrap();
    drop(file);
    let archive = Archive::open(&place.join("archive")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut work = Work::begin_in(directory, archive, journal.journal(), Limits::default(), OFTEN);
    for (digit, ended) in [('1', 50), ('2', 1050)] {
        work.archiver.offer(log(digit, ended)).unwrap();
        let news = work.news().await;
        let full = |reason: &NotArchived| matches!(reason, NotArchived::Archive(Error::Full { .. }));
        assert!(matches!(&news, News::Failed { reason, again: true, .. } if full(reason)), "{news:?}");
    }
    // Nothing of them is left, so that a small one has room.
    work.archiver.offer(EndedLog { run: run('9'), ..log('9', 3000) }).unwrap();
    let small = loop {
        match work.news().await {
            News::Failed { again: true, .. } => {}
            news => break archived(news),
        }
    };
    assert_eq!(small, (run('9'), 0, vec![], true));
    assert_eq!(work.entries(&run('1')), None);
    assert!(work.trouble.borrow().as_ref().is_some_and(|trouble| trouble.contains("no space")), "{:?}", work.trouble);
    fs::remove_file(&filler).unwrap();
    let mut done = Vec::new();
    while done.len() < 2 {
        match work.news().await {
            News::Failed { again: true, .. } => {}
            news => done.push(archived(news)),
        }
    }
    done.sort_by_key(|(run, ..)| run.invocation);
    assert_eq!(done, ['1', '2'].map(|digit| (run(digit), 2002, vec![], true)));
    assert_eq!(work.entries(&run('2')).unwrap(), journal.entries(&run('2'), From::Start));
    let well = work.trouble.wait_for(Option::is_none);
    tokio::time::timeout(Duration::from_secs(20), well).await.expect("the trouble never ended").unwrap();
}

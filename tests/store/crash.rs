//! The process is killed while it writes: what it was told to be written is there.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use ci_bridge::run::RunId;
use ci_bridge::runners::RunnerId;
use ci_bridge::runners::uptime::State;
use ci_bridge::store::{AuditFilter, DeliveryFilter, Enqueued, PAGE, Phase, Progress, Run, Store};

use crate::support::{
    DIRECTORY, Disk, Home, became, delivery, entry, heard, known, must, open, queued, recorded, running, same_test,
    seen, source, success,
};

/// Tasks that write at the same time.
const WRITERS: i64 = 8;

/// What the process says it was told to be written.
#[derive(Default)]
struct Acknowledged {
    ended: Vec<RunId>,
    queued: Vec<RunId>,
    audited: usize,
    polls: i64,
}

/// Writes until it is killed, and tells of each write when it is acknowledged.
async fn write(directory: &Path) {
    let store = open(directory).await;
    let polls = tokio::spawn(poll_on(store.clone()));
    let writers = (0..WRITERS).map(|writer| tokio::spawn(write_on(store.clone(), writer)));
    futures_util::future::join_all(writers.chain([polls])).await;
}

async fn write_on(store: Store, writer: i64) {
    for number in 0.. {
        let run = queued(number);
        store.insert_run(run.clone()).await.unwrap();
        if writer == 0 {
            assert!(matches!(store.enqueue(run.id, u32::MAX).await.unwrap(), Enqueued::Behind(_)));
            println!("\nqueued {}", run.id);
        } else {
            let progress = Progress { phase: Phase::Ended(success(number)), ..running(number).progress };
            assert!(store.update_run(run.id, progress).await.unwrap());
            println!("\nended {}", run.id);
        }
        store.append_audit(vec![entry(number)]).await.unwrap();
        println!("\naudited");
    }
}

/// Records polls of a source whose only runner has another state each time, which is to be told.
async fn poll_on(store: Store) {
    let fleet = store.fleet(&source("acme")).await.unwrap();
    let mut runner = fleet.into_values().next().unwrap_or_else(|| known(0, seen("1", Some(true))));
    loop {
        let number = runner.entry.at.as_second() + 1;
        let state = if number % 2 == 0 { State::Online } else { State::Offline };
        runner = became(&runner, number, state);
        let mut poll = recorded(heard("acme", number), std::slice::from_ref(&runner));
        poll.deliveries.push(delivery("ops", "1", number));
        store.record_poll(poll).await.unwrap();
        println!("\npoll {number}");
    }
}

/// Starts a test once more, has it write until it has told of `count` writes, and calls `end` to end it.
fn interrupt(test: &str, directory: &Path, count: usize, end: impl Fn(&mut Child)) -> Acknowledged {
    let mut child = same_test(&env::current_exe().unwrap(), test, directory).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = Acknowledged::default();
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        match (words.next(), words.next().map(str::parse::<RunId>)) {
            (Some("ended"), Some(Ok(run))) => told.ended.push(run),
            (Some("queued"), Some(Ok(run))) => told.queued.push(run),
            (Some("audited"), None) => told.audited += 1,
            (Some("poll"), _) => told.polls = line[5..].parse().unwrap(),
            _ => continue,
        }
        seen += 1;
        // What it told before its end is still in the pipe, and read too.
        if seen == count {
            end(&mut child);
        }
    }
    assert!(!child.wait().unwrap().success() && seen >= count, "it ended by itself");
    told
}

async fn assert_kept(told: &Acknowledged, store: &Store) {
    for run in &told.ended {
        let run: Option<Run> = store.run(*run).await.unwrap();
        assert!(run.is_some_and(|run| matches!(run.progress.phase, Phase::Ended(_))), "a run is lost");
    }
    let waiting: Vec<_> = store.waiting().await.unwrap().iter().map(|waiting| waiting.run.id).collect();
    assert!(told.queued.iter().all(|run| waiting.contains(run)), "a run that waits is lost");
    let (mut audited, mut before) = (0, None);
    loop {
        let page = store.audit(before, PAGE, &AuditFilter::default()).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        audited += page.len();
    }
    assert!(audited >= told.audited, "{audited} of {} entries are there", told.audited);
    assert_polls_kept(told.polls, store).await;
}

/// Each poll is there as a whole: the time of the source, the runner, its history, and what is to be told.
async fn assert_polls_kept(polls: i64, store: &Store) {
    let heard = store.source(&source("acme")).await.unwrap().and_then(|source| source.heard).unwrap();
    let last = heard.at.as_second();
    assert!(last >= polls, "{last} of {polls} polls are there");
    let runner = store.fleet(&source("acme")).await.unwrap().into_values().next().unwrap();
    assert_eq!(runner.entry.at, heard.at);
    let (mut entries, mut before) = (0, None);
    loop {
        let page =
            store.runner_history(RunnerId::of(&source("acme"), &runner.seen.external_id), before, PAGE).await.unwrap();
        let Some(oldest) = page.last() else { break };
        before = Some(oldest.at);
        entries += page.len();
    }
    let (mut deliveries, mut before) = (0, None);
    loop {
        let page = store.deliveries(DeliveryFilter::All, before, PAGE).await.unwrap();
        let Some(oldest) = page.last() else { break };
        before = Some(oldest.id);
        deliveries += page.len();
    }
    assert_eq!((entries, deliveries), (usize::try_from(last).unwrap(), usize::try_from(last).unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    if let Some(directory) = env::var_os(DIRECTORY) {
        return write(Path::new(&directory)).await;
    }
    let home = Home::new();
    let mut all = Acknowledged::default();
    for round in 0..12 {
        let kill = |child: &mut Child| child.kill().unwrap();
        let test = "crash::what_was_acknowledged_survives_a_kill";
        let told = interrupt(test, home.path(), 1 + round * round * 3, kill);
        all.ended.extend(told.ended);
        all.queued.extend(told.queued);
        all.audited += told.audited;
        all.polls = all.polls.max(told.polls);
        let store = home.open().await;
        assert_kept(&all, &store).await;
        store.close().await.unwrap();
    }
    assert!(all.ended.len() > 100 && !all.queued.is_empty() && all.polls > 10, "it was killed before it wrote much");
}

/// The disk is a file. What the file system still has in memory is not in it, so a copy of the file is what a disk
/// holds after its power was cut.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts file systems, as root: make test"]
async fn what_was_acknowledged_survives_a_power_cut() {
    if let Some(directory) = env::var_os(DIRECTORY) {
        return write(Path::new(&directory)).await;
    }
    let place = tempfile::tempdir().unwrap();
    let (image, rest) = (place.path().join("image"), place.path().join("rest"));
    File::create(&image).unwrap().set_len(64 * 1024 * 1024).unwrap();
    must("mkfs.ext4", &["-q", "-F"], &image);
    let disk = Disk::in_file(&image);
    for count in [50, 500, 1500] {
        let cut = |child: &mut Child| {
            must("sh", &["-c", &format!("kill -STOP {}", child.id()), "sh"], Path::new(""));
            let stat = format!("/proc/{}/stat", child.id());
            while !fs::read_to_string(&stat).unwrap().contains(") T ") {
                std::thread::yield_now();
            }
            must("cp", &[image.to_str().unwrap()], &rest);
            child.kill().unwrap();
        };
        let test = "crash::what_was_acknowledged_survives_a_power_cut";
        let told = interrupt(test, disk.home.path(), count, cut);
        assert!(!told.ended.is_empty() && !told.queued.is_empty());
        let after = Disk::in_file(&rest);
        let store = after.home.open().await;
        assert_kept(&told, &store).await;
        store.close().await.unwrap();
    }
}

//! The process is killed while it writes: what it was told to be written is there.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use ci_bridge::run::RunId;
use ci_bridge::store::{AuditFilter, Enqueued, PAGE, Phase, Progress, Run, Store};

use crate::support::{DIRECTORY, Disk, Home, entry, must, open, queued, running, same_test, success};

/// Tasks that write at the same time.
const WRITERS: i64 = 8;

/// What the process says it was told to be written.
#[derive(Default)]
struct Acknowledged {
    ended: Vec<RunId>,
    queued: Vec<RunId>,
    audited: usize,
}

/// Writes until it is killed, and tells of each write when it is acknowledged.
async fn write(directory: &Path) {
    let store = open(directory).await;
    let writers = (0..WRITERS).map(|writer| tokio::spawn(write_on(store.clone(), writer)));
    futures_util::future::join_all(writers).await;
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
        let store = home.open().await;
        assert_kept(&all, &store).await;
        store.close().await.unwrap();
    }
    assert!(all.ended.len() > 100 && !all.queued.is_empty(), "it was killed before it wrote much");
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

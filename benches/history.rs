//! How long the history takes with 100,000 runs, on the disk that holds the build. Prints figures and judges none.
//! Run it with `cargo bench --bench history`.

#![expect(clippy::unwrap_used, reason = "a figure that can't be had ends it")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ci_bridge::invocation::{InvocationId, MainExit};
use ci_bridge::policy::JobName;
use ci_bridge::run::{RunId, RunResult};
use ci_bridge::store::{
    self, AuditEntry, AuditFilter, End, Log, LogPlace, Origin, Phase, Progress, Retention, Run, Store,
};
use jiff::Timestamp;
use tokio::task::JoinSet;
use uuid::Uuid;

const RUNS: u32 = 100_000;
const JOBS: u32 = 50;
const PAGE: u32 = 50;
const SAMPLES: usize = 2000;

fn job(number: u32) -> JobName {
    JobName::parse(&format!("ci-bench-job-{}", number % JOBS)).unwrap()
}

fn run(number: u32) -> Run {
    let now = Timestamp::now();
    let end = End {
        at: Some(now),
        result: RunResult::Success,
        exit: Some(MainExit::Code(0)),
        cpu: Some(Duration::from_millis(1234)),
        memory_peak: Some(50_000_000),
        lost: None,
    };
    Run {
        id: RunId::generate(),
        job: job(number),
        origin: Origin::Token { name: "ci".parse().unwrap(), request: Uuid::now_v7() },
        requested: now,
        progress: Progress {
            invocation: InvocationId::from_bytes(Uuid::now_v7().as_bytes()),
            started: Some(now),
            phase: Phase::Ended(end),
        },
        log: Log { place: LogPlace::Journal, complete: true },
    }
}

fn entry(number: u32) -> AuditEntry {
    AuditEntry {
        at: Timestamp::now(),
        kind: if number.is_multiple_of(1000) { "stop" } else { "start" }.to_owned(),
        who: Some("ci".parse().unwrap()),
        address: Some([192, 0, 2, 1].into()),
        request: Some(Uuid::now_v7()),
        job: Some(job(number)),
        run: None,
        outcome: "accepted".to_owned(),
        detail: None,
    }
}

/// Prints the median, the 99th percentile and the longest of the times.
fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("{what:<44} p50 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}", at(50), at(99), at(100));
}

/// The times of `SAMPLES` calls, one after the other.
async fn times<F: Future>(mut call: impl FnMut(usize) -> F) -> Vec<Duration> {
    let mut times = Vec::with_capacity(SAMPLES);
    for number in 0..SAMPLES {
        let begun = Instant::now();
        call(number).await;
        times.push(begun.elapsed());
    }
    times
}

/// Has `callers` do `count` calls each at the same time; returns the time of each call and of all together.
async fn crowd<F>(callers: u32, count: u32, call: impl Fn(u32) -> F) -> (Vec<Duration>, Duration)
where
    F: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let calls: Vec<_> = (0..count).map(|number| call(caller * count + number)).collect();
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(calls.len());
            for call in calls {
                let begun = Instant::now();
                call.await;
                times.push(begun.elapsed());
            }
            times
        });
    }
    let times = tasks.join_all().await.concat();
    (times, begun.elapsed())
}

fn bare_sync(directory: &Path) -> Vec<Duration> {
    let mut file = File::create(directory.join("bare")).unwrap();
    let sync = |_| {
        let begun = Instant::now();
        file.write_all(&[0; 4096]).unwrap();
        file.sync_data().unwrap();
        begun.elapsed()
    };
    (0..SAMPLES).map(sync).collect()
}

async fn open(what: &str, directory: &Path) -> Store {
    let begun = Instant::now();
    let opened = Store::open(directory).await.unwrap();
    println!("{what:<44} {:.1?}", begun.elapsed());
    opened.store
}

/// A copy of a database that is in use: what is left of it when the process is killed.
fn killed(directory: &Path, copy: &Path) {
    std::fs::create_dir(copy).unwrap();
    for suffix in ["", "-wal"] {
        let name = format!("ci-bridge.db{suffix}");
        // By another process: closing the file in this one would drop its locks.
        assert!(Command::new("cp").arg(directory.join(&name)).arg(copy).status().unwrap().success());
    }
}

async fn writes(store: &Store) {
    for callers in [1, 8, 64, 256] {
        let count = (4096 / callers).min(1000);
        let append = |number| {
            let store = store.clone();
            async move {
                store.append_audit(vec![entry(number)]).await.unwrap();
            }
        };
        let (times, all) = crowd(callers, count, append).await;
        let rate = f64::from(callers * count) / all.as_secs_f64();
        tell(&format!("a write, {callers} at once ({rate:.0} a second)"), times);
    }
}

async fn reads(store: &Store) {
    let newest = store.history(&job(0), None, PAGE).await.unwrap();
    let mut middle = newest.last().unwrap().id;
    for _ in 0..RUNS / JOBS / PAGE / 2 {
        middle = store.history(&job(0), Some(middle), PAGE).await.unwrap().last().unwrap().id;
    }
    let page = |before| async move { store.history(&job(0), before, PAGE).await.unwrap() };
    tell("newest 50 runs of a job", times(|_| page(None)).await);
    tell("50 runs in the middle", times(|_| page(Some(middle))).await);
    let run = &newest[7];
    let invocation = run.progress.invocation.unwrap();
    tell("a run by its id", times(|_| store.run(run.id)).await);
    tell("a run by its invocation", times(|_| store.run_of_invocation(invocation)).await);
    tell("runs that have not ended", times(|_| store.unended()).await);
    let (all, rare) = (AuditFilter::default(), AuditFilter { kind: Some("stop".to_owned()), ..AuditFilter::default() });
    tell("50 of the audit", times(|_| store.audit(None, PAGE, &all)).await);
    tell("50 of a rare kind", times(|_| store.audit(None, PAGE, &rare)).await);
}

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    tell("fdatasync of a page, for comparison", bare_sync(directory.path()));

    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let store = open("open, new", &state).await;
    let insert = |number| {
        let store = store.clone();
        async move { store.insert_run(run(number)).await.unwrap() }
    };
    let (_, all) = crowd(500, RUNS / 500, insert).await;
    println!("{:<44} {all:.1?}", "recording of 100,000 runs, 500 at once");
    writes(&store).await;
    reads(&store).await;

    let copy = directory.path().join("killed");
    killed(&state, &copy);
    store.close().await.unwrap();
    let size = std::fs::metadata(state.join("ci-bridge.db")).unwrap().len();
    println!("{:<44} {} MiB", "size", size / 1024 / 1024);
    let store = open("open, closed cleanly", &state).await;
    open("open, killed", &copy).await.close().await.unwrap();

    let begun = Instant::now();
    store::backup(&state, &directory.path().join("backup")).await.unwrap();
    println!("{:<44} {:.1?}", "backup", begun.elapsed());
    let retention = Retention { age: None, runs_per_job: Some(1000) };
    let mut times = Vec::new();
    loop {
        let begun = Instant::now();
        if store.prune(retention, Timestamp::now()).await.unwrap().is_empty() {
            break;
        }
        times.push(begun.elapsed());
    }
    tell("500 runs forgotten", times);
    store.close().await.unwrap();
}

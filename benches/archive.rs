//! What it costs to archive the log of a run and to read it again. Prints a table.
//!
//! ```console
//! $ cargo bench --bench archive
//! ```
//!
//! A million lines such as builds print go through systemd-journal-remote into files as journald writes them, from there
//! into an archive, and out of it. What comes out is compared with what the journal gives before anything is timed.
//! Needs systemd-journal-remote, and 1 GB in the directory for temporary files.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "what a benchmark can't do without ends it"
)]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::env;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ci_bridge::archive::{Archive, Begun, Label, Stored};
use ci_bridge::invocation::InvocationId;
use ci_bridge::journal::{Entry, Filter, From, Journal, Losses, Run};
use ci_bridge::policy::{JobName, Policy, Prefix};
use jiff::Timestamp;

const LINES: u64 = 1_000_000;
/// The log by which memory is measured is so many times as long.
const LONGER: u64 = 5;
const INVOCATION: &str = "6771da733f1441819ab93afdceb1cb5e";
const ROUNDS: usize = 5;
const SHORT_ROUNDS: usize = 500;

/// What prints: now this part of a build, then that, each some lines at a time.
struct Build {
    random: u64,
    kind: u64,
    part: &'static str,
    lines_left: u64,
}

impl Build {
    const NEW: Self = Self { random: 42, kind: 0, part: "", lines_left: 0 };

    /// Looks random and is the same each time (splitmix64).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Small numbers are more frequent than large ones, as in life.
    fn below(&mut self, end: u64) -> u64 {
        let (one, other) = (self.next() % end, self.next() % end);
        one * other / end
    }

    fn word(&mut self) -> &'static str {
        const WORDS: [&str; 24] = [
            "parser", "lexer", "cache", "socket", "journal", "worker", "queue", "token", "archive", "index", "schema",
            "render", "client", "server", "config", "policy", "upload", "session", "metrics", "storage", "router",
            "codec", "buffer", "signal",
        ];
        WORDS[usize::try_from(self.below(24)).unwrap()]
    }

    /// A line as builds, tests and deployments print it.
    fn line(&mut self, printed: u64) -> String {
        if self.lines_left == 0 {
            (self.kind, self.part, self.lines_left) = (self.next() % 12, self.word(), 1 + self.next() % 60);
        }
        self.lines_left -= 1;
        let (a, b, c) = (self.part, self.word(), self.word());
        let (small, large) = (self.below(100), self.below(100_000));
        match self.kind {
            0..=2 => {
                format!("test {a}::{b}::tests::{c}_survives_a_restart_of_the_{a}_in_case_{small} ... ok ({large} us)")
            }
            3 | 4 => {
                format!(
                    "[{}/4120] Building CXX object src/{a}/CMakeFiles/{a}_{b}.dir/{c}_{small}.cpp.o",
                    printed % 4120
                )
            }
            5 | 6 => {
                let (minute, second, micros) = (printed / 60_000 % 60, printed / 1000 % 60, printed * 937 % 1_000_000);
                format!(
                    "2026-08-21T10:{minute:02}:{second:02}.{micros:06}Z  INFO {a}::{b}: request done method=GET \
                     path=/api/{c}/{large} status=200"
                )
            }
            7 => format!("   Compiling {a}-{b} v{}.{small}.{} (registry `crates-io`)", self.below(4), self.below(20)),
            8 => {
                format!("Get:{printed} http://deb.debian.org/debian bookworm/main amd64 lib{a}-{b}{small} [{large} B]")
            }
            9 => {
                format!("warning: unused variable: `{a}_{b}`, in src/{c}/{a}.rs:{small}:13: try prefixing it with `_`")
            }
            10 => format!("layer sha256:{:016x}: pushed in {small} ms", self.next()),
            _ => format!("{a}: {b} took {small}.{:03} s, {large} items, {c} warm", self.below(1000)),
        }
    }
}

/// Has systemd write the lines into a journal in `directory`, with the fields of a job's standard output.
fn write_journal(directory: &Path) {
    let places = ["/usr/lib/systemd/systemd-journal-remote", "/lib/systemd/systemd-journal-remote"];
    let tool = places.iter().find(|place| Path::new(place).exists());
    let mut child = Command::new(tool.expect("install the package systemd-journal-remote"))
        .arg("--output")
        .arg(directory.join("system.journal"))
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = BufWriter::new(child.stdin.take().unwrap());
    let mut build = Build::NEW;
    let (mut realtime, mut monotonic) = (1_795_268_429_486_452, 1_848_411_612);
    for printed in 0..LINES {
        let line = build.line(printed);
        // journald reads some lines at once, which then have one time.
        if printed % 20 == 0 {
            let step = 250 + build.below(80);
            (realtime, monotonic) = (realtime + step, monotonic + step + build.below(2));
        }
        write!(
            input,
            "__REALTIME_TIMESTAMP={realtime}\n__MONOTONIC_TIMESTAMP={monotonic}\n_BOOT_ID={boot}\n_TRANSPORT=stdout\n\
             _STREAM_ID=5d9a53f68b2149479db9255f755b9a2e\nPRIORITY=6\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=bash\n\
             _PID=4711\n_UID=0\n_GID=0\n_COMM=bash\n_EXE=/usr/bin/bash\n_CMDLINE=bash -c build\n\
             _CAP_EFFECTIVE=fcecbfff\n_SYSTEMD_CGROUP=/system.slice/ci-test-a.service\n\
             _SYSTEMD_UNIT=ci-test-a.service\n_SYSTEMD_SLICE=system.slice\n_SYSTEMD_INVOCATION_ID={INVOCATION}\n\
             _MACHINE_ID={boot}\n_HOSTNAME=builder\nMESSAGE={line}\n\n",
            boot = "f794b98b9742454db39018a31ff7ac28",
        )
        .unwrap();
    }
    drop(input);
    assert!(child.wait().unwrap().success(), "systemd-journal-remote failed");
}

fn size_of(directory: &Path) -> u64 {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// What something took.
#[derive(Clone, Copy)]
struct Took {
    elapsed: Duration,
    /// Of the processor; what else runs on the machine makes less of a difference to it.
    processor: Duration,
}

/// Processor time of this thread.
fn processor() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

/// The best of some rounds.
fn time<T>(mut work: impl FnMut() -> T) -> Took {
    let rounds = (0..ROUNDS).map(|_| {
        let (start, processor_before) = (Instant::now(), processor());
        drop(work());
        (start.elapsed(), processor().saturating_sub(processor_before))
    });
    let (elapsed, processor): (Vec<_>, Vec<_>) = rounds.unzip();
    Took { elapsed: elapsed.into_iter().min().unwrap(), processor: processor.into_iter().min().unwrap() }
}

fn write(archive: &Archive, label: &Label, entries: impl Iterator<Item = Entry>) -> Stored {
    archive.delete([label.invocation], |_| ()).unwrap();
    let Begun::Draft(mut draft) = archive.begin(label).unwrap() else { panic!("it is still there") };
    entries.for_each(|entry| draft.push(&entry).unwrap());
    draft.finish(&Losses::default()).unwrap()
}

fn report(what: &str, size: u64, text: u64, took: Option<Took>) {
    let mega = |bytes: u64| bytes as f64 / 1e6;
    print!("{what:40} {:7.1} MB {:6.2} ×", mega(size), mega(text) / mega(size));
    if let Some(Took { elapsed, processor }) = took {
        let (elapsed, processor) = (elapsed.as_secs_f64(), processor.as_secs_f64());
        print!(" {elapsed:8.3} s {processor:8.3} s {:6.0} MB/s", mega(text) / processor);
    }
    println!();
}

fn run_and_label() -> (Run, Label) {
    let job =
        Policy::new(vec![Prefix::parse("ci-test-").unwrap()]).admit(&JobName::parse("ci-test-a").unwrap()).unwrap();
    let invocation: InvocationId = INVOCATION.parse().unwrap();
    let ended = Timestamp::from_second(1_795_268_500).unwrap();
    let label = Label { job: job.name().clone(), invocation, started: None, ended, settled: true };
    (Run { job, invocation }, label)
}

fn open(archive: &Archive, run: &Run, from: From) -> impl Iterator<Item = Entry> {
    archive.entries(run, from, &Filter::default()).unwrap().unwrap().map(Result::unwrap)
}

/// What a process does whose memory is of interest: tells it.
fn do_task(task: &str, place: &Path) {
    let archive = Archive::open(place).unwrap();
    let (run, label) = run_and_label();
    let longer = Label { invocation: "1".repeat(32).parse().unwrap(), ..label };
    match task {
        "write" => {
            let entries = (0..LONGER).flat_map(|_| open(&archive, &run, From::Start));
            write(&archive, &longer, entries);
        }
        "read" => {
            let run = Run { invocation: longer.invocation, ..run };
            assert_eq!(open(&archive, &run, From::Start).count() as u64, LINES * LONGER);
        }
        _ => {}
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim());
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if let [_, task, place] = arguments.as_slice() {
        return do_task(task, Path::new(place));
    }
    let place = tempfile::tempdir().unwrap();
    let [journal_place, archive_place] = ["journal", "archive"].map(|name| place.path().join(name));
    fs::create_dir(&journal_place).unwrap();
    write_journal(&journal_place);
    let journal = Journal::new(vec![journal_place.clone()]);
    let archive = Archive::open(&archive_place).unwrap();
    let (run, label) = run_and_label();
    let from_journal = || journal.run(&run, From::Start).unwrap().map(Result::unwrap);

    let log: Vec<Entry> = from_journal().collect();
    assert_eq!(log.len() as u64, LINES);
    let size = write(&archive, &label, from_journal()).bytes;
    assert!(open(&archive, &run, From::Start).eq(log.iter().cloned()), "the archive has another log");
    let mut text: Vec<u8> = Vec::new();
    for entry in &log {
        text.extend(&entry.message);
        text.push(b'\n');
    }
    let row = |what: &str, size: u64, took: Option<Took>| report(what, size, text.len() as u64, took);
    println!("{LINES} lines, {:.1} MB of text", text.len() as f64 / 1e6);
    println!("{:40} {:>10} {:>8} {:>10} {:>10} {:>11}", "", "size", "ratio", "elapsed", "processor", "speed");
    row("the journal, read", size_of(&journal_place), Some(time(|| from_journal().count())));
    row("the archive, written from memory", size, Some(time(|| write(&archive, &label, log.iter().cloned()))));
    row("the archive, written from the journal", size, Some(time(|| write(&archive, &label, from_journal()))));
    row("the archive, read", size, Some(time(|| open(&archive, &run, From::Start).count())));
    let newest_first =
        || archive.entries(&run, From::Start, &Filter::default()).unwrap().unwrap().newest_first().count();
    row("the archive, read newest first", size, Some(time(newest_first)));
    let file = place.path().join("text");
    fs::write(&file, &text).unwrap();
    for (command, level) in [("zstd", "-1"), ("zstd", "-3"), ("gzip", "-6")] {
        let packed = Command::new(command).args([level, "--stdout"]).arg(&file).stderr(Stdio::null()).output();
        if let Ok(packed) = packed {
            row(&format!("the text alone, {command} {level}"), packed.stdout.len() as u64, None);
        }
    }

    let middle = From::After(log[log.len() / 2].position);
    for (what, from) in [("the last 1,000", From::Last(1000)), ("1,000 after the middle", middle)] {
        let round = |_| {
            let start = Instant::now();
            assert_eq!(open(&archive, &run, from).take(1000).count(), 1000);
            start.elapsed()
        };
        let mut rounds: Vec<_> = (0..SHORT_ROUNDS).map(round).collect();
        rounds.sort();
        println!("{what}: median {:?}, 99 of 100 {:?}", rounds[SHORT_ROUNDS / 2], rounds[SHORT_ROUNDS * 99 / 100]);
    }
    for (what, task) in [("nothing", "start"), ("writes", "write"), ("reads", "read")] {
        let child = Command::new(env::current_exe().unwrap()).arg(task).arg(&archive_place).output().unwrap();
        let memory = String::from_utf8(child.stdout).unwrap();
        println!("memory of a process that {what} {} lines: {}", LINES * LONGER, memory.trim());
    }
}

//! Each of these tests starts itself once more, as the process that comes to grief.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ci_bridge::archive::{Archive, Error};
use ci_bridge::invocation::InvocationId;
use ci_bridge::journal::{Filter, From, Run};

use crate::logs::{label, noise, write};
use crate::support::run;

/// Where the archive lies; only the process that comes to grief has it.
const PLACE: &str = "ARCHIVE_OF_A_TEST";
const ENTRIES: u64 = 6_000;

fn place() -> Option<PathBuf> {
    env::var_os(PLACE).map(PathBuf::from)
}

/// What starts the test `name` of this file once more.
fn command(name: &str) -> Vec<OsString> {
    let test = format!("faults::{name}");
    let arguments = ["--exact", &test, "--include-ignored", "--nocapture"].map(OsString::from);
    [env::current_exe().unwrap().into()].into_iter().chain(arguments).collect()
}

fn numbered(number: u64) -> Run {
    let id = u128::from(number + 1) << 64;
    Run { invocation: InvocationId::from_bytes(&id.to_be_bytes()).unwrap(), ..run('a') }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn a_killed_writer_leaves_whole_logs_and_nothing_else() {
    if let Some(place) = place() {
        return write_until_killed(&place);
    }
    let mut left_something = false;
    for lines in (0..52).step_by(4) {
        let directory = tempfile::tempdir().unwrap();
        let command = command("a_killed_writer_leaves_whole_logs_and_nothing_else");
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .env(PLACE, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told: Vec<_> = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap)
            .skip_while(|line| line != "ready")
            .take(lines + 1)
            .collect();
        child.kill().unwrap();
        child.wait().unwrap();

        left_something |= !is_empty(&directory.path().join("new"));
        let archive = Archive::open(directory.path()).unwrap();
        assert!(is_empty(&directory.path().join("new")));
        let whole = u64::try_from(told.iter().filter(|line| *line == "whole").count()).unwrap();
        let listed: Vec<_> = archive.list().map(Result::unwrap).collect();
        assert!(listed.len() as u64 >= whole, "{} of {whole}", listed.len());
        for number in 0..listed.len() as u64 {
            let entries = archive.entries(&numbered(number), From::Start, &Filter::default()).unwrap();
            let entries = entries.expect("the logs were written in order");
            assert!(entries.map(Result::unwrap).eq(noise(ENTRIES)), "log {number} after {lines} lines");
        }
    }
    assert!(left_something, "the writer was never killed while it wrote");
}

fn write_until_killed(place: &Path) {
    let tell = |word: &str| writeln!(io::stdout(), "{word}").unwrap();
    let archive = Archive::open(place).unwrap();
    // The test runner has written something before.
    tell("\nready");
    for number in 0.. {
        let run = numbered(number);
        let entries = noise(ENTRIES).inspect(|entry| {
            if entry.position.seqnum % 500 == 0 {
                tell("writing");
            }
        });
        write(&archive, &label(&run), entries).unwrap();
        tell("whole");
    }
}

#[test]
#[ignore = "mounts a file system: make test"]
fn a_full_disk_is_told_and_leaves_nothing() {
    if let Some(place) = place() {
        return fill(&place);
    }
    let directory = tempfile::tempdir().unwrap();
    // In a mount namespace of its own, so that nothing is left of it.
    let script = r#"mount -t tmpfs -o size=4m tmpfs "$ARCHIVE_OF_A_TEST" && exec "$@""#;
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .args(command("a_full_disk_is_told_and_leaves_nothing"))
        .env(PLACE, directory.path())
        .status()
        .unwrap();
    assert!(status.success());
}

/// Tries to write a log with more and more room, until it fits.
fn fill(place: &Path) {
    let page = 4096;
    let filler = place.join("filler");
    let archive = Archive::open(place).unwrap();
    let mut failures = 0;
    for pages in 0.. {
        fs::write(&filler, []).unwrap();
        let all = io::copy(&mut io::repeat(1), &mut fs::File::options().append(true).open(&filler).unwrap());
        assert_eq!(all.unwrap_err().kind(), io::ErrorKind::StorageFull);
        let file = fs::File::options().write(true).open(&filler).unwrap();
        let full = file.metadata().unwrap().len();
        file.set_len(full - pages * page).unwrap();
        drop(file);

        let run = numbered(pages);
        match write(&archive, &label(&run), noise(4000)) {
            Ok(stored) => {
                assert!(
                    stored.bytes <= pages * page && stored.bytes > (pages - 2) * page,
                    "{stored:?} in {pages} pages"
                );
                break;
            }
            Err(Error::Full { .. }) => failures += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(is_empty(&place.join("new")));
        assert!(archive.entries(&run, From::Start, &Filter::default()).unwrap().is_none());
        // With room, the same attempt does well.
        if pages % 16 == 0 {
            fs::remove_file(&filler).unwrap();
            assert_eq!(write(&archive, &label(&run), noise(4000)).unwrap().entries, 4000);
            archive.delete([run.invocation], |_| ()).unwrap();
        }
    }
    assert!(failures > 50, "{failures}");
}

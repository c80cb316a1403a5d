//! Journal files, written by `systemd-journal-remote` from journald's export format.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

const REMOTE: &str = "/lib/systemd/systemd-journal-remote";

/// A journal that knows no job.
pub(crate) const FOREIGN_ENTRY: &str = "__REALTIME_TIMESTAMP=1700000000000000\n__MONOTONIC_TIMESTAMP=1000000\n\
    _BOOT_ID=0123456789abcdef0123456789abcdef\n_SYSTEMD_UNIT=cron.service\n_PID=77\nMESSAGE=not of a job\n\n";

/// A directory with journal files.
pub(crate) struct JournalFiles(TempDir, AtomicU32);

impl JournalFiles {
    pub(crate) fn write(entries: &str) -> Self {
        let files = Self(TempDir::new().unwrap(), AtomicU32::new(0));
        if !entries.is_empty() {
            files.add(entries);
        }
        files
    }

    pub(crate) fn directory(&self) -> &Path {
        self.0.path()
    }

    /// Adds a file with these entries.
    pub(crate) fn add(&self, entries: &str) {
        let number = self.1.fetch_add(1, Ordering::Relaxed);
        let exported = self.0.path().join(format!("{number}.export"));
        fs::write(&exported, entries).unwrap();
        let written = Command::new(REMOTE)
            .arg(format!("--output={}", self.0.path().join(format!("{number}.journal")).display()))
            .arg(&exported)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("systemd-journal-remote of the package of that name is needed");
        assert!(written.success(), "systemd-journal-remote failed");
    }

    /// Takes all files away, after it has added one with an entry of nobody.
    pub(crate) fn replace(&self) {
        let before = self.1.load(Ordering::Relaxed);
        self.add(&entry("_SYSTEMD_UNIT=cron.service\n_PID=77\nMESSAGE=not of a job\n"));
        for number in 0..before {
            // Some have been taken away already.
            let _ = fs::remove_file(self.0.path().join(format!("{number}.journal")));
        }
    }

    /// Takes a file away, by its number from 0.
    pub(crate) fn remove(&self, number: usize) {
        fs::remove_file(self.0.path().join(format!("{number}.journal"))).unwrap();
    }
}

/// An entry with these fields, each in a line, that is newer than those before.
pub(crate) fn entry(fields: &str) -> String {
    static ENTRIES: AtomicU32 = AtomicU32::new(0);
    let number = u64::from(ENTRIES.fetch_add(1, Ordering::Relaxed));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    format!(
        "__REALTIME_TIMESTAMP={now}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID=0123456789abcdef0123456789abcdef\n{fields}\n",
        2_000_000 + number
    )
}

/// A line that a run of a job printed, as journald keeps it.
pub(crate) fn line(job: &str, invocation: &str, message: &str) -> String {
    entry(&format!(
        "_TRANSPORT=stdout\n_PID=4711\n_SYSTEMD_UNIT={job}.service\n_SYSTEMD_INVOCATION_ID={invocation}\n\
         PRIORITY=6\nMESSAGE={message}\n"
    ))
}

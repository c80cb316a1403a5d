//! A real journal file, in which numbers were replaced.
//!
//! Bytes alone hardly ever make a file that is worth reading. So this takes one that systemd's own code wrote, and reads
//! from the input where to write what: a number, or the place of something else in the file.
#![no_main]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use ci_bridge::journal::Journal;
use ci_bridge_fuzz::{INVOCATION, ask_everything, directory};
use libfuzzer_sys::fuzz_target;

const REMOTE: &str = "/lib/systemd/systemd-journal-remote";

/// A file and what is in it.
struct Template {
    directory: PathBuf,
    file: File,
    bytes: Vec<u8>,
    /// The offsets of words that are not zero.
    words: Vec<u64>,
}

static TEMPLATE: LazyLock<Template> = LazyLock::new(Template::write);

/// Where, which kind of change, and the number.
const CHANGE: usize = 2 + 1 + 8;

impl Template {
    fn write() -> Self {
        let directory = directory();
        let path = directory.join("system.journal");
        let mut remote = Command::new(REMOTE)
            .arg(format!("--output={}", path.display()))
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("systemd-journal-remote of the package of that name");
        remote.stdin.take().expect("a pipe").write_all(entries().as_bytes()).expect("journal-remote reads");
        assert!(remote.wait().expect("journal-remote ends").success());
        let bytes = fs::read(&path).expect("a journal file");
        let words = bytes.chunks_exact(8).zip((0..).step_by(8)).filter(|(word, _)| **word != [0; 8]);
        let words = words.map(|(_, at)| at).collect();
        let file = OpenOptions::new().write(true).open(path).expect("the same file");
        Self { directory, file, bytes, words }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).expect("room in the file");
    }
}

/// Two runs of the job and what others say, in journald's export format.
fn entries() -> String {
    let hex = |byte: u8| format!("{byte:02x}").repeat(16);
    let invocation = hex(INVOCATION[0]);
    let mut entries = String::new();
    for at in 0..40_u64 {
        let run = if at < 30 { invocation.clone() } else { hex(0x22) };
        let fields = match at % 10 {
            0 => format!(
                "_PID=1\nUNIT=ci-test-a.service\nINVOCATION_ID={run}\nMESSAGE_ID=7d4958e842da4a758f6c1cdc7b36dcc5\n"
            ),
            9 => format!(
                "_PID=1\nUNIT=ci-test-a.service\nINVOCATION_ID={run}\nMESSAGE_ID=7ad2d189f7e94e70a38c781354912448\n"
            ),
            5 => "_PID=7\n_SYSTEMD_UNIT=other.service\n".to_owned(),
            3 => format!("_PID=8\n_SYSTEMD_UNIT=ci-test-a.service\n_STREAM_ID={}\n", hex(0x55)),
            _ => format!(
                "_PID=8\n_SYSTEMD_UNIT=ci-test-a.service\n_SYSTEMD_INVOCATION_ID={run}\n_STREAM_ID={}\n",
                hex(0x55)
            ),
        };
        // Two are long enough to be compressed.
        let message = "x".repeat(if matches!(at, 7 | 21) { 600 } else { 20 });
        entries.push_str(&format!(
            "__REALTIME_TIMESTAMP={}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID={}\n_TRANSPORT=stdout\nPRIORITY={}\n{fields}\
             MESSAGE={message} {at}\n\n",
            1_700_000_000_000_000 + at,
            1_000_000 + at,
            hex(0xb0),
            at % 8,
        ));
    }
    entries
}

fuzz_target!(|changes: &[u8]| {
    let template = &*TEMPLATE;
    let word = |index: u64| template.words[usize::try_from(index).unwrap_or(usize::MAX) % template.words.len()];
    let mut changed = Vec::new();
    for change in changes.chunks_exact(CHANGE).take(16) {
        let at = word(u64::from(u16::from_le_bytes([change[0], change[1]])));
        let number = u64::from_le_bytes(change[3..].try_into().unwrap_or_default());
        match change[2] % 4 {
            0 => template.put(at, &number.to_le_bytes()),
            // What lies elsewhere, or the place of that.
            1 => template.put(at, &word(number).to_le_bytes()),
            2 => template.put(at, &((number % template.bytes.len() as u64) & !7).to_le_bytes()),
            _ => template.put(at + number % 8, &change[4..5]),
        }
        changed.push(at);
    }
    ask_everything(&Journal::new(vec![template.directory.clone()]));
    for at in changed {
        let start = usize::try_from(at).expect("small");
        template.put(at, &template.bytes[start..start + 8]);
    }
});

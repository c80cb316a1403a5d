//! Random logs, written by the real journald: the reader gives what journalctl gives, in every order.
//!
//! The seed is printed; `CI_BRIDGE_SEED` takes another one.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ci_bridge::invocation::InvocationId;
use ci_bridge::journal::{Entry, Filter, From, Journal, Run};
use serde_json::Value;

use crate::machine::{Bed, Plan};
use crate::reader::{PATIENCE, job, journal};

const SEED: u64 = 20_261_121;

/// Jobs that run at the same time, and how often; in the middle the machine loses its power.
const JOBS: usize = 3;
const ROUNDS: usize = 4;

const UNIT: &str = "[Service]\nType=oneshot\nExecStart=/bin/bash /var/lib/ci-test/random-%i\n";

/// Numbers that look like chance (xorshift64*).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % end
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_be_bytes()[0]).take(length).collect()
    }

    /// What a job prints at once: mostly a line or none, of every kind.
    fn output(&mut self) -> Vec<u8> {
        let mut line = match self.below(60) {
            // Longer than journald takes for one line (48 KiB).
            0 => vec![b'x'; 40_000 + self.below(80_000)],
            1 => {
                let length = 2_000 + self.below(40_000);
                BASE64_STANDARD.encode(self.bytes(length)).into_bytes()
            }
            2..10 => Vec::new(),
            10..18 => {
                let length = self.below(300);
                self.bytes(length)
            }
            18..22 => "caf\u{e9} \u{202e}\u{1f980}\r\tend \u{1b}[31m".as_bytes().to_vec(),
            22..25 => b"  \t ".to_vec(),
            25..30 => b"two\0in one".to_vec(),
            _ => format!("line {}", self.next()).into_bytes(),
        };
        if self.below(3) == 0 {
            line.splice(0..0, format!("<{}>", self.below(8)).into_bytes());
        }
        if self.below(20) > 0 {
            line.push(b'\n');
        }
        line
    }

    /// A script that prints and has the journal rotated now and then.
    fn script(&mut self) -> String {
        let mut script =
            "echo $INVOCATION_ID >/var/lib/ci-test/random-$$\nmv /var/lib/ci-test/random-$$ $0-id\n".to_owned();
        for _ in 0..3 + self.below(5) {
            let output: Vec<u8> = (0..self.below(25)).flat_map(|_| self.output()).collect();
            script.push_str(&format!("base64 --decode <<END\n{}\nEND\n", BASE64_STANDARD.encode(output)));
            if self.below(4) == 0 {
                script.push_str("journalctl --rotate\n");
            }
        }
        // journald looks at the unit when it reads a line, and finds it as long as it runs.
        script + "journalctl --sync\n"
    }
}

/// Of an entry: journald's cursor, the priority and the message.
type Told = (String, Option<u8>, Vec<u8>);

fn told(entry: &Entry) -> Told {
    let hex = |id: [u8; 16]| format!("{:032x}", u128::from_be_bytes(id));
    let at = &entry.position;
    let cursor = format!(
        "s={};i={:x};b={};m={:x};t={:x};x={:x}",
        hex(at.seqnum_id),
        at.seqnum,
        hex(at.boot_id),
        at.monotonic,
        at.realtime,
        at.xor_hash
    );
    (cursor, entry.priority, entry.message.clone())
}

fn read(journal: &Journal, run: &Run, from: From) -> Vec<Told> {
    journal.run(run, from).unwrap().map(|entry| told(&entry.unwrap())).collect()
}

fn journalctl(bed: &Bed, run: &Run) -> Vec<Told> {
    let (unit, invocation) = (run.job.unit(), run.invocation);
    let mut command = vec!["journalctl".to_owned(), "--output=json".to_owned(), "--all".to_owned()];
    command.extend([format!("_SYSTEMD_UNIT={unit}"), format!("_SYSTEMD_INVOCATION_ID={invocation}"), "+".to_owned()]);
    command.extend([format!("UNIT={unit}"), format!("INVOCATION_ID={invocation}"), "_PID=1".to_owned()]);
    let parse = |line: &str| {
        let entry: Value = serde_json::from_str(line).unwrap();
        let message = match &entry["MESSAGE"] {
            Value::String(text) => text.as_bytes().to_vec(),
            Value::Array(bytes) => bytes.iter().map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap()).collect(),
            other => panic!("journalctl gave the message {other}"),
        };
        let priority = entry["PRIORITY"].as_str().map(|text| text.parse().unwrap());
        (entry["__CURSOR"].as_str().unwrap().to_owned(), priority, message)
    };
    bed.ok(command).lines().map(parse).collect()
}

#[test]
#[ignore = "boots a bed: make test"]
fn random_logs_are_read_as_journalctl_reads_them() {
    let seed = std::env::var("CI_BRIDGE_SEED").map_or(SEED, |seed| seed.parse().expect("a number"));
    println!("CI_BRIDGE_SEED={seed}");
    // Zero is the one number that this kind of chance never leaves.
    let mut chance = Chance(seed.max(1));
    let bed = Plan::default().journald("RateLimitIntervalSec=0").boot();
    bed.write("/etc/systemd/system/ci-test-random@.service", UNIT);
    bed.ok(["systemctl", "daemon-reload"]);
    let mut runs = Vec::new();
    for round in 0..ROUNDS {
        if round == ROUNDS / 2 {
            bed.crash();
        }
        for number in 0..JOBS {
            bed.write(&format!("/var/lib/ci-test/random-{number}"), &chance.script());
        }
        bed.sh(&format!("systemctl start ci-test-random@{{0..{}}}", JOBS - 1));
        for number in 0..JOBS {
            let invocation = bed.read(&format!("/var/lib/ci-test/random-{number}-id"));
            let invocation = invocation.trim().parse::<InvocationId>().expect("an id");
            runs.push(Run { job: job(&format!("ci-test-random@{number}")), invocation });
        }
        bed.ok(["journalctl", "--sync"]);
    }
    let journal = journal(&bed);
    let mut lines = 0;
    for run in &runs {
        assert!(journal.settle(run, 2, &PATIENCE).unwrap());
        let expected = journalctl(&bed, run);
        lines += expected.len();
        let name = (run.job.unit(), run.invocation);
        assert!(read(&journal, run, From::Start) == expected, "{name:?}");
        let entries = journal.run(run, From::Start).unwrap();
        let mut backward: Vec<_> = entries.newest_first().map(|entry| told(&entry.unwrap())).collect();
        backward.reverse();
        assert!(backward == expected, "{name:?} backward");
        let positions: Vec<_> = journal.run(run, From::Start).unwrap().map(|entry| entry.unwrap().position).collect();
        for _ in 0..4 {
            let at = chance.below(expected.len());
            assert!(read(&journal, run, From::Last(expected.len() - at)) == expected[at..], "{name:?} from {at}");
            let after = From::After(positions[at]);
            assert!(read(&journal, run, after) == expected[at + 1..], "{name:?} after {at}");
        }
        for most in [0, 3, 4, 6, 7] {
            let wanted = |told: &&Told| told.1.unwrap_or(7) <= most;
            let filter = Filter { priority: Some(most), ..Filter::default() };
            let found = journal.run_where(run, From::Start, &filter).unwrap().map(|entry| told(&entry.unwrap()));
            assert!(found.eq(expected.iter().filter(wanted).cloned()), "{name:?} up to priority {most}");
        }
    }
    assert!(lines > 20 * runs.len(), "{lines} lines of {} runs are no test", runs.len());
    assert!(journal.problems().is_empty(), "{:?}", journal.problems());
}

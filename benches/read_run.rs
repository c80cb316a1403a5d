//! Reads a run from the journal of this machine with the bridge's own reader. Prints the seconds of each round on
//! standard output; with 0 rounds, the messages. What was read is told on standard error.
//! Usage: `read_run JOB INVOCATION ROUNDS [LINES]`; LINES is how many of the newest. `benches/reading` starts it.

use std::env;
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::time::Instant;

use anyhow::{Context as _, Result};
use ci_bridge::journal::{From, Journal, Run};
use ci_bridge::policy::{JobName, Policy, Prefix};

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut argument = || arguments.next().context("usage: read_run JOB INVOCATION ROUNDS [LINES]");
    let job = Policy::new(vec![Prefix::parse("ci-test-")?]).admit(&JobName::parse(&argument()?)?)?;
    let run = Run { job, invocation: argument()?.parse()? };
    let rounds: usize = argument()?.parse()?;
    let from = argument().map_or(Ok(From::Start), |lines| lines.parse().map(From::Last))?;

    let journal = Journal::of_host()?;
    let (mut lines, mut bytes) = (0, 0);
    if rounds == 0 {
        let mut out = BufWriter::new(io::stdout().lock());
        for entry in journal.run(&run, from)? {
            let message = entry?.message;
            out.write_all(&message)?;
            out.write_all(b"\n")?;
            lines += 1;
            bytes += message.len();
        }
        out.flush()?;
    }
    for _ in 0..rounds {
        let start = Instant::now();
        (lines, bytes) = (0, 0);
        for entry in journal.run(&run, from)? {
            lines += 1;
            bytes += entry?.message.len();
        }
        println!("{:.6}", start.elapsed().as_secs_f64());
    }
    eprintln!("{lines} lines, {bytes} bytes, at the most {} of memory", peak_memory()?);
    Ok(())
}

/// `VmHWM` of this process, as proc(5) writes it.
fn peak_memory() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(peak.trim().to_owned())
}

//! The commands that talk to a bridge, from a CI job or another machine.
//!
//! They know the API and nothing else of the bridge, so they work with one on any machine.

mod alerts;
mod audit;
mod bridge;
mod follow;
mod manage;
mod outage;
mod run;
mod runners;
mod sse;
mod start;

use std::io::Write;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Method, Response};
use serde_json::{Value, json};

pub(super) use self::alerts::Args as Alerts;
pub(super) use self::alerts::run as alerts;
pub(super) use self::audit::Args as Audit;
pub(super) use self::audit::run as audit;
use self::bridge::{Bridge, Server, Target};
use self::follow::{Event, Following};
pub(super) use self::run::Args as Run;
pub(super) use self::runners::Args as Runners;
pub(super) use self::runners::run as runners;

/// Show whether a job runs and how its last run ended
#[derive(Debug, clap::Args)]
#[command(after_help = STATE_EXAMPLES)]
pub(super) struct State {
    #[command(flatten)]
    target: Target,

    /// Ask about this run instead of the last one
    #[arg(long, value_name = "ID")]
    run: Option<String>,

    /// Wait until the run has ended, for 55 seconds at the most
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u8>,

    /// Print the JSON of the bridge
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

const STATE_EXAMPLES: &str = "\
Examples:
  ci-bridge state ci-test-hello
  ci-bridge state ci-test-hello --wait 50 --json | jq -r .result";

/// Print the log of a job's last run
#[derive(Debug, clap::Args)]
#[command(after_help = LOGS_EXAMPLES)]
pub(super) struct Logs {
    #[command(flatten)]
    lines: LogLines,

    /// Print only lines that were received at this time or later, such as 2026-11-21T10:40:02Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Print only lines that were received at this time or earlier
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

const LOGS_EXAMPLES: &str = "\
Examples:
  ci-bridge logs ci-test-hello
  ci-bridge logs ci-test-hello --priority warning --since 2026-11-21T10:40:02Z
  ci-bridge logs ci-test-hello --lines 50 --json | jq -r '.logs[].message'";

/// Print the newest lines of a job's last run
#[derive(Debug, clap::Args)]
#[command(after_help = TAIL_EXAMPLES)]
pub(super) struct Tail {
    /// Go on until the run has ended; with `--json`, an object a line
    #[arg(long, short)]
    follow: bool,

    #[command(flatten)]
    lines: LogLines,
}

const TAIL_EXAMPLES: &str = "\
Examples:
  ci-bridge tail ci-test-hello
  ci-bridge tail ci-test-hello --follow
  ci-bridge tail ci-test-hello --lines 10 --json | jq -r .state";

#[derive(Debug, clap::Args)]
struct LogLines {
    #[command(flatten)]
    target: Target,

    /// Print only the newest lines, this many
    #[arg(long, value_name = "NUMBER")]
    lines: Option<u32>,

    /// Read this run instead of the last one
    #[arg(long, value_name = "ID")]
    run: Option<String>,

    /// Print only lines of this priority or a more urgent one: 0 to 7, or emerg, alert, crit, err, warning, notice, info,
    /// debug
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<String>,

    /// Print the lines as the job wrote them, with what a terminal or a CI system would obey
    #[arg(long)]
    raw: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

/// Stop a job
#[derive(Debug, clap::Args)]
#[command(after_help = STOP_EXAMPLES)]
pub(super) struct Stop {
    #[command(flatten)]
    target: Target,

    /// Print the JSON of the bridge
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

const STOP_EXAMPLES: &str = "\
Examples:
  ci-bridge stop ci-test-hello";

/// List the runs of a job, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = RUNS_EXAMPLES)]
pub(super) struct Runs {
    #[command(flatten)]
    target: Target,

    /// Print only so many runs
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u32>,

    /// Print only runs before this one
    #[arg(long, value_name = "ID")]
    before: Option<String>,

    /// Print the JSON of the bridge
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

const RUNS_EXAMPLES: &str = "\
Examples:
  ci-bridge runs ci-test-hello
  ci-bridge runs ci-test-hello --limit 1 --json | jq -r '.runs[0].id'";

/// List the jobs that the token may see
#[derive(Debug, clap::Args)]
#[command(after_help = JOBS_EXAMPLES)]
pub(super) struct Jobs {
    /// Print the JSON of the bridge
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

const JOBS_EXAMPLES: &str = "\
Examples:
  ci-bridge jobs
  ci-bridge jobs --json | jq -r '.jobs[].job'";

/// Starts a job and follows it; the exit status is the job's.
pub(super) fn run(args: &Run) -> anyhow::Result<u8> {
    block_on(run::run(args))
}

pub(super) fn state(args: &State, out: &mut impl Write) -> anyhow::Result<()> {
    let wait = args.wait.map(|seconds| seconds.to_string());
    let mut query = Vec::new();
    query.extend(args.run.as_deref().map(|run| ("run", run)));
    query.extend(wait.as_deref().map(|wait| ("wait", wait)));
    let state = block_on(async {
        let bridge = Bridge::new(&args.server)?;
        let answer = bridge.of_job(Method::GET, &args.target, Some("state"), &query).await?;
        Ok(bridge.json(answer).await?)
    })?;
    if args.json {
        writeln!(out, "{state}")?;
        return Ok(());
    }
    let text = |member: &str| state.get(member).and_then(Value::as_str);
    writeln!(out, "{}: {} ({})", args.target.job, text("state").unwrap_or("?"), text("sub_state").unwrap_or("?"))?;
    let code = state.get("exit_code").and_then(Value::as_i64).map(|code| code.to_string());
    for (label, value) in [
        ("run", text("run")),
        ("started", text("started_at")),
        ("finished", text("finished_at")),
        ("result", text("result")),
        ("exit code", code.as_deref()),
        ("signal", text("signal")),
    ] {
        if let Some(value) = value {
            writeln!(out, "  {label:<9}  {value}")?;
        }
    }
    Ok(())
}

pub(super) fn logs(args: &Logs, out: &mut impl Write) -> anyhow::Result<()> {
    let times = [("since", &args.since), ("until", &args.until)];
    let times: Vec<_> = times.into_iter().filter_map(|(name, time)| Some((name, time.as_deref()?))).collect();
    args.lines.print("logs", &times, out)
}

pub(super) fn tail(args: &Tail, out: &mut impl Write) -> anyhow::Result<()> {
    if args.follow { args.lines.follow(out) } else { args.lines.print("tail", &[], out) }
}

impl LogLines {
    fn print(&self, what: &str, more: &[(&str, &str)], out: &mut impl Write) -> anyhow::Result<()> {
        let lines = self.lines.map(|lines| lines.to_string());
        let mut query = vec![("format", if self.json { "json" } else { "text" })];
        query.extend(lines.as_deref().map(|lines| ("lines", lines)));
        query.extend(self.run.as_deref().map(|run| ("run", run)));
        query.extend(self.priority.as_deref().map(|priority| ("priority", priority)));
        query.extend_from_slice(more);
        query.extend((self.raw && !self.json).then_some(("raw", "true")));
        block_on(async {
            let bridge = Bridge::new(&self.server)?;
            let answer = bridge.of_job(Method::GET, &self.target, Some(what), &query).await?;
            copy(&bridge, answer, out).await
        })
    }
}

impl LogLines {
    fn follow(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let lines = self.lines.map(|lines| ("lines", lines.to_string()));
        let run = self.run.clone().map(|run| ("run", run));
        let priority = self.priority.clone().map(|priority| ("priority", priority));
        let wanted = self.raw.then(|| ("raw", "true".to_owned())).into_iter().chain(priority);
        block_on(async {
            let bridge = Bridge::new(&self.server)?;
            let mut following = Following::new(&bridge, &self.target, wanted, lines.into_iter().chain(run));
            loop {
                match (following.next().await?, self.json) {
                    (Event::Line(entry), false) => out.write_all(&line(&entry))?,
                    (Event::Line(entry), true) => writeln!(out, "{entry}")?,
                    (Event::Gap(why), false) => eprintln!("{}: {}", self.target.job, gap(&why)),
                    (Event::Gap(why), true) => writeln!(out, "{}", json!({ "gap": why }))?,
                    (Event::End(verdict), false) => {
                        eprintln!("{}: {}", self.target.job, run::conclude(&verdict).1);
                        return Ok(());
                    }
                    (Event::End(verdict), true) => return Ok(writeln!(out, "{}", json!({ "end": verdict }))?),
                }
                out.flush()?;
            }
        })
    }
}

/// The text of a line; the bytes that the job wrote, if the bridge passes them on.
fn line(entry: &Value) -> Vec<u8> {
    let text = |member: &str| entry.get(member).and_then(Value::as_str);
    let bytes = text("message_base64").and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
    let mut line = bytes.unwrap_or_else(|| text("message").unwrap_or_default().as_bytes().to_vec());
    line.push(b'\n');
    line
}

/// Why lines are missing, in words.
fn gap(why: &Value) -> String {
    let reason = why.get("reason").and_then(Value::as_str).unwrap_or_default();
    match (reason, why.get("count").and_then(Value::as_u64)) {
        ("suppressed", Some(count)) => format!("{count} messages are missing here: journald's rate limit dropped them"),
        ("vacuumed", _) => "lines are missing here: journald has deleted them".to_owned(),
        _ => "lines may be missing here: a journal file cannot be read".to_owned(),
    }
}

/// Passes the body of an answer on, a piece at a time.
async fn copy(bridge: &Bridge, mut answer: Response, out: &mut impl Write) -> anyhow::Result<()> {
    while let Some(piece) = answer.chunk().await.map_err(|source| bridge.unreachable(source))? {
        out.write_all(&piece)?;
    }
    Ok(())
}

pub(super) fn stop(args: &Stop, out: &mut impl Write) -> anyhow::Result<()> {
    let answer = block_on(async {
        let bridge = Bridge::new(&args.server)?;
        let answer = bridge.of_job(Method::POST, &args.target, Some("stop"), &[]).await?;
        Ok(bridge.json(answer).await?)
    })?;
    if args.json {
        writeln!(out, "{answer}")?;
    } else {
        let message = answer.get("msg").and_then(Value::as_str).unwrap_or("stopped");
        writeln!(out, "{}: {message}", args.target.job)?;
    }
    Ok(())
}

pub(super) fn runs(args: &Runs, out: &mut impl Write) -> anyhow::Result<()> {
    let limit = args.limit.map(|limit| limit.to_string());
    let mut query = Vec::new();
    query.extend(limit.as_deref().map(|limit| ("limit", limit)));
    query.extend(args.before.as_deref().map(|before| ("before", before)));
    let answer = block_on(async {
        let bridge = Bridge::new(&args.server)?;
        let answer = bridge.of_job(Method::GET, &args.target, Some("runs"), &query).await?;
        Ok(bridge.json(answer).await?)
    })?;
    if args.json {
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    let row = |run: &Value| {
        let text = |member: &str| run.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
        let result = run.get("result").and_then(Value::as_str).map_or_else(|| text("state"), str::to_owned);
        let took = run.get("duration_seconds").and_then(Value::as_f64).map(|took| format!("{took:.1} s"));
        [text("id"), text("requested_at"), result, took.unwrap_or_default(), text("started_by")]
    };
    print_table(["RUN", "REQUESTED", "RESULT", "TOOK", "BY"], rows(&answer, "runs").iter().map(row), out)
}

/// The elements of a list in an answer.
fn rows<'a>(answer: &'a Value, list: &str) -> &'a [Value] {
    answer.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What services say may have any character: those that a terminal obeys are replaced.
fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

/// Prints rows in columns that are as wide as they need to be.
fn print_table<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

pub(super) fn jobs(args: &Jobs, out: &mut impl Write) -> anyhow::Result<()> {
    let answer = fetch(&args.server, &["jobs"], &[])?;
    if args.json {
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    let row = |job: &Value| {
        let text = |member: &str| job.get(member).and_then(Value::as_str).map(str::to_owned);
        let state = text("state").unwrap_or_else(|| "template".to_owned());
        [text("job").unwrap_or_default(), state, text("description").unwrap_or_default()]
    };
    print_table(["JOB", "STATE", "DESCRIPTION"], rows(&answer, "jobs").iter().map(row), out)
}

/// The JSON at a path of the API.
fn fetch(server: &Server, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
    block_on(async {
        let bridge = Bridge::new(server)?;
        let answer = bridge.get(path, query).await?;
        Ok(bridge.json(answer).await?)
    })
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start")?.block_on(future)
}

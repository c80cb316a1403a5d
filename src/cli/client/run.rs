//! `ci-bridge run`: start, follow, tell the verdict.
//!
//! The log is followed by asking for what came after the last line that was printed. A connection that is lost costs no
//! line: the same question is asked again.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::bridge::{Bridge, CallError, Server, Target};
use crate::cli::EXIT_NOT_RUN;

/// Between two questions while lines come, and the longest while none do.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Between two tries to reach a bridge, and the longest.
const RETRIES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How long a bridge may be out of reach: a reboot of its machine.
const OUT_OF_REACH: Duration = Duration::from_mins(5);

/// How long the last lines of an ended run are waited for, when the bridge says that some may be missing.
const LAST_LINES: Duration = Duration::from_secs(15);

/// The most lines of one answer.
const LINES: &str = "10000";

/// The status of a command that was ended by Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Start a job, show its log while it runs, and exit as it does
///
/// Ctrl-C stops the job; a second one gives up waiting for its end. A lost connection is taken up again where it broke.
///
/// Exit status: the job's own; 1 if the job failed without one (a signal, a timeout, stopped by somebody); 130 after
/// Ctrl-C; 125 if the job could not be started, not be followed to its end, or nobody knows how it ended.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    target: Target,

    /// If the job runs already, follow that run; Ctrl-C then leaves it running
    #[arg(long)]
    join: bool,

    /// Print the verdict as JSON on standard output, and the log on standard error
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

const EXAMPLES: &str = "\
Examples:
  export CI_BRIDGE_URL=https://ci.example.com CI_TOKEN=cib_rw_...
  ci-bridge run ci-test-hello
  ci-bridge run ci-test-build@ --instance feature/login-form
  ci-bridge run ci-test-hello --join --json | jq -r .result";

/// A run that is followed.
struct Following<'a> {
    bridge: &'a Bridge,
    target: &'a Target,
    run: String,
    /// systemd's id of the run, which a bridge still knows after it was started anew.
    invocation: Option<String>,
    /// After which line to go on; `None` before the first answer.
    cursor: Option<String>,
    pause: Duration,
    /// Since when the bridge says that the run has ended, but not that the log is whole.
    ended: Option<Instant>,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<u8> {
    let bridge = Bridge::new(&args.server)?;
    // Before the start: from then on Ctrl-C must reach the job.
    let mut interrupts = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let [Ok(interrupt), Ok(terminate)] = &mut interrupts else { bail!("failed to wait for Ctrl-C") };

    let query = if args.join { [("if_busy", "join")].as_slice() } else { &[] };
    let answer = bridge.of_job(Method::POST, &args.target, None, query).await?;
    let joined = answer.status() == StatusCode::OK;
    let started = bridge.json(answer).await?;
    let text = |pointer| started.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let run = text("/run/id").context("the bridge did not say which run it started")?;
    eprintln!("{}: {} run {run}", args.target.job, if joined { "joined" } else { "started" });

    let pause = PAUSES.0;
    let cursor = text("/cursor").filter(|_| !joined);
    let invocation = text("/run/invocation_id");
    let mut following =
        Following { bridge: &bridge, target: &args.target, run, invocation, cursor, pause, ended: None };
    let mut stopping = false;
    let complete = loop {
        tokio::select! {
            biased;
            () = either(interrupt, terminate) => {
                if stopping || joined {
                    eprintln!("{}: no longer followed", args.target.job);
                    return Ok(INTERRUPTED);
                }
                stopping = true;
                eprintln!("{}: stopping it (Ctrl-C again: do not wait)", args.target.job);
                bridge.of_job(Method::POST, &args.target, Some("stop"), &[]).await.context("the job was not stopped")?;
            }
            step = following.step(args.json) => if let Some(complete) = step? { break complete },
        }
    };
    if !complete {
        let Following { run, .. } = &following;
        eprintln!("{0}: the log may lack lines; all there is: ci-bridge logs {0} --run {run}", args.target.job);
    }
    let verdict = following.verdict().await?;
    if args.json {
        write(io::stdout(), format!("{verdict}\n").as_bytes()).context("failed to print the verdict")?;
    }
    let (status, words) = conclude(&verdict);
    eprintln!("{}: {words}", args.target.job);
    Ok(if stopping { INTERRUPTED } else { status })
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

impl Following<'_> {
    /// Prints what is new and then pauses; at the end, says whether the log was whole.
    ///
    /// May be given up at any moment: a line is printed if and only if the cursor has moved behind it.
    async fn step(&mut self, to_stderr: bool) -> anyhow::Result<Option<bool>> {
        let mut query = vec![("run", self.run.as_str()), ("lines", LINES), ("format", "text")];
        query.extend(self.cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let (headers, text) = self.insistently("tail", &query).await?;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let done = if to_stderr { io::stderr().write_all(&text) } else { write(io::stdout(), &text) };
        done.context("failed to print the log")?;
        if let Some(cursor) = header("x-ci-cursor") {
            self.cursor = Some(cursor.to_owned());
        }
        if header("x-ci-more") == Some("true") {
            return Ok(None);
        }
        if header("x-ci-run-state") == Some("ended") {
            let since = self.ended.get_or_insert_with(Instant::now).elapsed();
            if header("x-ci-complete") == Some("true") || since > LAST_LINES {
                return Ok(Some(header("x-ci-complete") == Some("true")));
            }
        }
        self.pause = if text.is_empty() { (self.pause * 3 / 2).min(PAUSES.1) } else { PAUSES.0 };
        tokio::time::sleep(self.pause).await;
        Ok(None)
    }

    /// How the run ended.
    async fn verdict(&self) -> anyhow::Result<Value> {
        let forgotten = match self.insistently("state", &[("run", &self.run)]).await {
            Ok((_, body)) => return parse(&body),
            Err(CallError::Refused { code, detail, .. }) if code == "no_such_run" => detail,
            Err(error) => return Err(error.into()),
        };
        // A bridge that was started anew has forgotten its own id of the run, but not systemd's of the last one.
        let last = parse(&self.insistently("state", &[]).await?.1)?;
        let invocation = last.get("invocation_id").and_then(Value::as_str);
        if invocation.is_none() || invocation != self.invocation.as_deref() {
            bail!(forgotten);
        }
        Ok(last)
    }

    /// Asks until there is an answer, a refusal for good, or no hope.
    async fn insistently(&self, what: &str, query: &[(&str, &str)]) -> Result<(HeaderMap, Vec<u8>), CallError> {
        let since = Instant::now();
        let mut pause = RETRIES.0;
        loop {
            let error = match self.ask(what, query).await {
                Ok(answer) => return Ok(answer),
                Err(error) if !error.may_pass() || since.elapsed() > OUT_OF_REACH => return Err(error),
                Err(error) => error,
            };
            if pause == RETRIES.0 {
                eprintln!("{}: {error}; trying again", self.target.job);
            }
            tokio::time::sleep(error.retry_after().unwrap_or(pause).min(OUT_OF_REACH)).await;
            pause = (pause * 2).min(RETRIES.1);
        }
    }

    async fn ask(&self, what: &str, query: &[(&str, &str)]) -> Result<(HeaderMap, Vec<u8>), CallError> {
        let answer = self.bridge.of_job(Method::GET, self.target, Some(what), query).await?;
        let headers = answer.headers().clone();
        Ok((headers, self.bridge.bytes(answer).await?))
    }
}

fn write(mut to: impl Write, text: &[u8]) -> io::Result<()> {
    to.write_all(text).and_then(|()| to.flush())
}

fn parse(verdict: &[u8]) -> anyhow::Result<Value> {
    serde_json::from_slice(verdict).context("the bridge told no verdict")
}

/// The exit status for a verdict, and the verdict in words.
fn conclude(verdict: &Value) -> (u8, String) {
    let text = |member: &str| verdict.get(member).and_then(Value::as_str);
    let code = verdict.get("exit_code").and_then(Value::as_u64).and_then(|code| u8::try_from(code).ok());
    match (text("result"), code, text("signal")) {
        (Some("success"), ..) => (0, "success".to_owned()),
        (None | Some("unknown"), ..) => (EXIT_NOT_RUN, "nobody knows any more how it ended".to_owned()),
        (Some(result), Some(code), _) => (code.max(1), format!("{result}, exit code {code}")),
        (Some(result), None, Some(signal)) => (1, format!("{result}, {signal}")),
        (Some(result), None, None) => (1, result.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failed_job_is_never_a_success() {
        for (verdict, status, words) in [
            (json!({"result": "success", "exit_code": 0}), 0, "success"),
            // SuccessExitStatus= of the unit.
            (json!({"result": "success", "exit_code": 42}), 0, "success"),
            (json!({"result": "exit-code", "exit_code": 3}), 3, "exit-code, exit code 3"),
            (json!({"result": "timeout", "exit_code": 0}), 1, "timeout, exit code 0"),
            (json!({"result": "signal", "exit_code": null, "signal": "SIGKILL"}), 1, "signal, SIGKILL"),
            (json!({"result": "stopped", "exit_code": null, "signal": null}), 1, "stopped"),
            (json!({"result": "unknown", "exit_code": null}), EXIT_NOT_RUN, "nobody knows any more how it ended"),
            (json!({"result": null}), EXIT_NOT_RUN, "nobody knows any more how it ended"),
        ] {
            assert_eq!(conclude(&verdict), (status, words.to_owned()), "{verdict}");
        }
    }
}

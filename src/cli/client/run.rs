//! `ci-bridge run`: start, follow, tell the verdict.

use std::io::{self, Write};
use std::pin::pin;

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::bridge::{Bridge, Server, Target};
use super::follow::{Event, Following};
use super::start::{UNKNOWN, start};
use super::{gap, line};
use crate::cli::EXIT_NOT_RUN;

/// The most lines that are shown of a run that is joined.
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

    /// Give the job this input; may be repeated
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = input)]
    inputs: Vec<(String, String)>,

    /// If the job runs already with the same inputs, follow that run; Ctrl-C then leaves it running
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
  ci-bridge run ci-test-deploy@ --instance staging --input version=v1.2
  ci-bridge run ci-test-hello --join --json | jq -r .result";

/// Reads `NAME=VALUE`; what may stand there is the bridge's to say.
fn input(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The body of a start; `None` if the job is given nothing.
fn body(inputs: &[(String, String)]) -> anyhow::Result<Option<Value>> {
    let mut members = Map::new();
    for (name, value) in inputs {
        if members.insert(name.clone(), Value::from(value.as_str())).is_some() {
            bail!("the input `{name}` is given twice");
        }
    }
    Ok((!members.is_empty()).then(|| json!({ "inputs": members })))
}

pub(super) async fn run(args: &Args) -> anyhow::Result<u8> {
    let body = body(&args.inputs)?;
    let bridge = Bridge::new(&args.server)?;
    // Before the start: from then on Ctrl-C must reach the job.
    let mut interrupts = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let [Ok(interrupt), Ok(terminate)] = &mut interrupts else { bail!("failed to wait for Ctrl-C") };

    let query = if args.join { [("if_busy", "join")].as_slice() } else { &[] };
    let mut starting = pin!(start(&bridge, &args.target, query, body.as_ref()));
    let (answer, mut unwanted) = tokio::select! {
        biased;
        answer = &mut starting => (answer?, false),
        // The job may be running by now, so what became of the start has to be known.
        () = either(interrupt, terminate) => {
            eprintln!("{}: stopping it once it is started (Ctrl-C again: do not wait)", args.target.job);
            tokio::select! {
                biased;
                answer = starting => (answer?, true),
                () = either(interrupt, terminate) => {
                    eprintln!("{}: given up; {UNKNOWN}", args.target.job);
                    return Ok(INTERRUPTED);
                }
            }
        }
    };
    let joined = answer.status() == StatusCode::OK;
    let started = bridge.json(answer).await?;
    let text = |pointer| started.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let run = text("/run/id").context("the bridge did not say which run it started")?;
    eprintln!("{}: {} run {run}", args.target.job, if joined { "joined" } else { "started" });

    // The log of a run that was joined need not be read from its beginning.
    let place = match text("/cursor").filter(|_| !joined) {
        Some(cursor) => vec![("cursor", cursor)],
        None => vec![("run", run.clone()), ("lines", LINES.to_owned())],
    };
    let mut following = Following::new(&bridge, &args.target, None, place);
    let print = |text: &[u8]| {
        let done = if args.json { io::stderr().write_all(text) } else { write(io::stdout(), text) };
        done.context("failed to print the log")
    };
    let mut stopping = false;
    let verdict = loop {
        tokio::select! {
            biased;
            () = async { if !unwanted { either(interrupt, terminate).await } } => {
                unwanted = false;
                if stopping || joined {
                    eprintln!("{}: no longer followed", args.target.job);
                    return Ok(INTERRUPTED);
                }
                stopping = true;
                eprintln!("{}: stopping it (Ctrl-C again: do not wait)", args.target.job);
                bridge.of_job(Method::POST, &args.target, Some("stop"), &[]).await.context("the job was not stopped")?;
            }
            event = following.next() => match event? {
                Event::Line(entry) => print(&line(&entry))?,
                Event::Gap(why) => eprintln!("{}: {}", args.target.job, gap(&why)),
                Event::End(verdict) => break verdict,
            },
        }
    };
    if verdict.get("complete") != Some(&Value::Bool(true)) {
        eprintln!("{0}: the log may lack lines; all there is: ci-bridge logs {0} --run {run}", args.target.job);
    }
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

fn write(mut to: impl Write, text: &[u8]) -> io::Result<()> {
    to.write_all(text).and_then(|()| to.flush())
}

/// The exit status for a verdict, and the verdict in words.
pub(super) fn conclude(verdict: &Value) -> (u8, String) {
    let text = |member: &str| verdict.get(member).and_then(Value::as_str);
    let code = verdict.get("exit_code").and_then(Value::as_u64).and_then(|code| u8::try_from(code).ok());
    match (text("result"), code, text("signal")) {
        (Some("success"), ..) => (0, "success".to_owned()),
        (None | Some("lost"), ..) => (EXIT_NOT_RUN, "nobody knows any more how it ended".to_owned()),
        (Some(result), Some(code), _) => (code.max(1), format!("{result}, exit code {code}")),
        (Some(result), None, Some(signal)) => (1, format!("{result}, {signal}")),
        (Some(result), None, None) => (1, result.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_a_name_and_the_rest() {
        let inputs = ["version=v1.2", "note=a=b", "empty="].map(|text| input(text).unwrap());
        let expected = json!({"inputs": {"version": "v1.2", "note": "a=b", "empty": ""}});
        assert_eq!(body(&inputs).unwrap(), Some(expected));
        assert_eq!(body(&[]).unwrap(), None);
        assert!(input("version").is_err());
        let twice = ["a=1", "a=2"].map(|text| input(text).unwrap());
        assert_eq!(body(&twice).unwrap_err().to_string(), "the input `a` is given twice");
    }

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
            (json!({"result": "lost", "exit_code": null}), EXIT_NOT_RUN, "nobody knows any more how it ended"),
            (json!({"result": null}), EXIT_NOT_RUN, "nobody knows any more how it ended"),
        ] {
            assert_eq!(conclude(&verdict), (status, words.to_owned()), "{verdict}");
        }
    }
}

//! `ci-bridge alerts`.

use std::io::Write;

use reqwest::Method;
use serde_json::Value;

use super::bridge::{Bridge, Server};
use super::{block_on, fetch, plain, print_table, rows};

/// List what alerts have told, and have what was given up be sent again
///
/// Takes a token that may write.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ci-bridge alerts list --dead
  ci-bridge alerts replay 12";

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
    Replay(Replay),
}

/// List messages, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = LIST_EXAMPLES)]
struct List {
    /// Print only messages that were given up
    #[arg(long)]
    dead: bool,

    /// Print only so many messages
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u32>,

    /// Print only messages before this one
    #[arg(long, value_name = "ID")]
    before: Option<u64>,

    /// Print the JSON of the bridge
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

const LIST_EXAMPLES: &str = "\
Examples:
  ci-bridge alerts list
  ci-bridge alerts list --dead --json | jq -r '.alerts[].id'";

/// Send a message again that was given up
#[derive(Debug, clap::Args)]
#[command(after_help = REPLAY_EXAMPLES)]
struct Replay {
    /// The message, as the list has it
    id: u64,

    #[command(flatten)]
    server: Server,
}

const REPLAY_EXAMPLES: &str = "\
Examples:
  ci-bridge alerts replay 12";

/// Prints a page of messages, or has one be sent again.
pub(in crate::cli) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    match &args.command {
        Command::List(list) => print(list, out),
        Command::Replay(replay) => {
            let id = replay.id.to_string();
            block_on(async {
                let bridge = Bridge::new(&replay.server)?;
                bridge.call(Method::POST, &["alerts", &id, "replay"], &[], None).await?;
                Ok(())
            })?;
            writeln!(out, "message {id} is sent again")?;
            Ok(())
        }
    }
}

fn print(args: &List, out: &mut impl Write) -> anyhow::Result<()> {
    let (limit, before) = (args.limit.map(|limit| limit.to_string()), args.before.map(|before| before.to_string()));
    let params = [("state", args.dead.then_some("dead")), ("limit", limit.as_deref()), ("before", before.as_deref())];
    let query: Vec<_> = params.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let answer = fetch(&args.server, &["alerts"], &query)?;
    if args.json {
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    let row = |alert: &Value| {
        let text = |member: &str| plain(alert.get(member).and_then(Value::as_str).unwrap_or_default());
        let number = |member: &str| alert.get(member).map(Value::to_string).unwrap_or_default();
        [number("id"), text("at"), text("alert"), text("type"), text("state"), number("attempts"), text("error")]
    };
    let head = ["ID", "AT", "ALERT", "TYPE", "STATE", "TRIED", "ERROR"];
    print_table(head, rows(&answer, "alerts").iter().map(row), out)
}

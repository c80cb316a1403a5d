//! `ci-bridge audit`.

use std::io::Write;

use serde_json::Value;

use super::bridge::Server;
use super::{fetch, print_table, rows};
use crate::policy::JobName;

/// List what was done and refused, newest first
///
/// Takes a token with the scope `audit`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Args {
    /// Print only so many entries
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u32>,

    /// Print only entries before this one
    #[arg(long, value_name = "ID")]
    before: Option<u64>,

    /// Print only entries of this kind: start, stop, write, read, token, audit
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,

    /// Print only entries of the token of this name
    #[arg(long, value_name = "NAME")]
    who: Option<String>,

    /// Print only entries about this job
    #[arg(long, value_parser = JobName::parse)]
    job: Option<JobName>,

    /// The instance of a template
    #[arg(long, value_name = "TEXT", requires = "job")]
    instance: Option<String>,

    /// Print only entries about this run
    #[arg(long, value_name = "ID")]
    run: Option<String>,

    /// Print the JSON of the bridge
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

const EXAMPLES: &str = "\
Examples:
  ci-bridge audit
  ci-bridge audit --job ci-test-hello --kind start
  ci-bridge audit --limit 500 --json | jq -r '.entries[] | select(.outcome == \"token_unknown\") | .address'";

/// Prints a page of the audit.
pub(in crate::cli) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let (limit, before) = (args.limit.map(|limit| limit.to_string()), args.before.map(|before| before.to_string()));
    let params = [
        ("limit", limit.as_deref()),
        ("before", before.as_deref()),
        ("kind", args.kind.as_deref()),
        ("who", args.who.as_deref()),
        ("job", args.job.as_ref().map(JobName::as_str)),
        ("instance", args.instance.as_deref()),
        ("run", args.run.as_deref()),
    ];
    let query: Vec<_> = params.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let answer = fetch(&args.server, &["audit"], &query)?;
    if args.json {
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    let row = |entry: &Value| {
        let text = |member: &str| entry.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
        let id = entry.get("id").map(Value::to_string).unwrap_or_default();
        [id, text("time"), text("kind"), text("who"), text("address"), text("job"), text("outcome"), text("detail")]
    };
    let head = ["ID", "TIME", "KIND", "WHO", "FROM", "JOB", "OUTCOME", "DETAIL"];
    print_table(head, rows(&answer, "entries").iter().map(row), out)
}

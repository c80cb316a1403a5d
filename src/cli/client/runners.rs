//! `ci-bridge runners`: the list, and below it what manages a runner.

use std::io::Write;

use serde_json::Value;

use super::bridge::Server;
use super::{fetch, manage, plain, print_table, rows};

/// List the runners of GitHub and GitLab that are watched, and how they do; manage those of GitLab
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Option<manage::Command>,

    /// Print only runners of this service: github, gitlab
    #[arg(long, value_name = "SERVICE")]
    provider: Option<String>,

    /// Print only runners of the list of this name
    #[arg(long, value_name = "NAME")]
    source: Option<String>,

    /// Print only runners of such a one: repository, organization, enterprise, instance, group, project
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,

    /// Print only runners in this state: online, offline, unknown, removed
    #[arg(long, value_name = "STATE")]
    state: Option<String>,

    /// Print only runners that run a job, or none
    #[arg(long, value_name = "true|false")]
    busy: Option<bool>,

    /// Print only runners that take no new jobs, or do
    #[arg(long, value_name = "true|false")]
    paused: Option<bool>,

    /// Print only runners with this label or tag
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// Print only runners with all of these labels or tags
    #[arg(long, value_name = "TEXT,TEXT")]
    tag_list: Option<String>,

    /// Print only runners with this in their name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,

    /// Print only runners that GitLab means by this: active, paused, online, specific, shared
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,

    /// Print only so many runners
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u32>,

    /// Print only runners after this one
    #[arg(long, value_name = "ID")]
    after: Option<String>,

    /// Print the JSON of the bridge
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

const EXAMPLES: &str = "\
Examples:
  ci-bridge runners
  ci-bridge runners --state offline
  ci-bridge runners --source acme --json | jq -r '.runners[].name'
  ci-bridge runners pause 807186f6-2308-8224-8736-cb17df51c527";

/// Prints a page of the runners, or manages one.
pub(in crate::cli) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    if let Some(command) = &args.command {
        return manage::run(command, out);
    }
    let word = |flag: bool| if flag { "true" } else { "false" };
    let limit = args.limit.map(|limit| limit.to_string());
    let params = [
        ("provider", args.provider.as_deref()),
        ("source", args.source.as_deref()),
        ("kind", args.kind.as_deref()),
        ("state", args.state.as_deref()),
        ("busy", args.busy.map(word)),
        ("paused", args.paused.map(word)),
        ("label", args.label.as_deref()),
        ("tag_list", args.tag_list.as_deref()),
        ("name", args.name.as_deref()),
        ("scope", args.scope.as_deref()),
        ("limit", limit.as_deref()),
        ("after", args.after.as_deref()),
    ];
    let query: Vec<_> = params.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let answer = fetch(&args.server, &["runners"], &query)?;
    if args.json {
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    let row = |runner: &Value| {
        let text = |member: &str| plain(runner.get(member).and_then(Value::as_str).unwrap_or_default());
        let busy = match runner.get("busy").and_then(Value::as_bool) {
            Some(true) => "busy",
            Some(false) => "idle",
            None => "",
        };
        let labels = rows(runner, "labels").iter().filter_map(Value::as_str).map(plain).collect::<Vec<_>>().join(",");
        // Never a foreign text at the beginning of a line, where a CI system would take it for a command.
        [text("state"), text("name"), text("source"), busy.to_owned(), text("since"), text("id"), labels]
    };
    print_table(
        ["STATE", "NAME", "SOURCE", "JOB", "SINCE", "ID", "LABELS"],
        rows(&answer, "runners").iter().map(row),
        out,
    )
}

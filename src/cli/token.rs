//! `ci-bridge token`: register, list and revoke.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use jiff::Timestamp;
use serde_json::json;

use super::files::Files;
use crate::auth::{Access, Denial, Entry, JobPattern, Keyring, NewEntry, Scope, Token, TokenHash, TokenName};
use crate::config::parse_duration;

/// Make, list and revoke tokens
///
/// The tokens file holds only hashes, so a token can be shown once, when it is made. The running service reads the file
/// again when it changes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ci-bridge token new ci --access rw
  ci-bridge token list
  ci-bridge token revoke ci";

#[derive(Debug, Subcommand)]
enum Command {
    New(New),
    List(List),
    Revoke(Revoke),
}

/// Make a token and print it, alone and only this once
#[derive(Debug, clap::Args)]
#[command(after_help = NEW_EXAMPLES)]
struct New {
    /// A name for it, shown in the list and in the service's log
    name: TokenName,

    /// What it may do: `rw` starts, stops and reads, `ro` reads
    #[arg(long, value_name = "rw|ro")]
    access: Access,

    /// Let it see only these jobs: a name, or the beginning of one with `*` at its end; may be repeated
    #[arg(long = "job", value_name = "PATTERN")]
    jobs: Vec<JobPattern>,

    /// Let it do this besides, with `rw`: `audit` reads what everybody did, and takes no `--job`; `runners` manages runners
    /// of GitLab; may be repeated
    #[arg(long = "scope", value_name = "audit|runners")]
    scopes: Vec<Scope>,

    /// Refuse it after this time, such as `90d`
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    expires: Option<Duration>,

    /// Register a token that exists elsewhere by the SHA-256 of its text; nothing is made or printed
    #[arg(long, value_name = "HEX")]
    sha256: Option<TokenHash>,

    #[command(flatten)]
    files: Files,
}

const NEW_EXAMPLES: &str = "\
Examples:
  ci-bridge token new ci --access rw
  ci-bridge token new docs --access rw --job 'ci-docs-*' --expires 90d
  ci-bridge token new auditor --access rw --scope audit
  ci-bridge token new fleet --access rw --scope runners --expires 90d
  ci-bridge token new ci --access rw | gh secret set CI_TOKEN_RW
  ci-bridge token new old --access rw --sha256 \"$(printf %s \"$OLD\" | sha256sum | head -c 64)\"";

/// List the tokens, without their secrets
#[derive(Debug, clap::Args)]
#[command(after_help = LIST_EXAMPLES)]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    files: Files,
}

const LIST_EXAMPLES: &str = "\
Examples:
  ci-bridge token list
  ci-bridge token list --json | jq -r '.tokens[] | select(.state == \"valid\") | .name'";

/// Revoke a token at once; its entry stays, so that its owner is told
#[derive(Debug, clap::Args)]
#[command(after_help = REVOKE_EXAMPLES)]
struct Revoke {
    /// The token's name
    name: TokenName,

    #[command(flatten)]
    files: Files,
}

const REVOKE_EXAMPLES: &str = "\
Examples:
  ci-bridge token revoke ci
  ci-bridge token revoke ci && ci-bridge token new ci --access rw       a new token under the old name";

pub(super) fn run(args: Args, out: &mut impl Write) -> anyhow::Result<()> {
    match args.command {
        Command::New(args) => new(args, out),
        Command::List(args) => list(&args, out),
        Command::Revoke(args) => revoke(&args, out),
    }
}

fn new(args: New, out: &mut impl Write) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let expires = match args.expires {
        None => None,
        Some(Duration::ZERO) => bail!("a token that expires at once is of no use; write for example --expires 90d"),
        Some(time) => Some(now.checked_add(time).context("--expires is too far in the future")?),
    };
    let (hash, made) = if let Some(hash) = args.sha256 {
        (hash, None)
    } else {
        let token = Token::generate(args.access).context("the system has no random numbers")?;
        (TokenHash::of(token.expose()), Some(token))
    };
    let mut editor = args.files.edit_tokens(args.files.settings()?.as_ref())?;
    let name = args.name;
    let entry = NewEntry {
        name: name.clone(),
        access: args.access,
        hash,
        jobs: args.jobs,
        scopes: args.scopes,
        created: now,
        expires,
    };
    editor.add(&entry)?;
    args.files.save_tokens(&editor)?;
    match made {
        Some(token) => writeln!(out, "{}", token.expose())
            .with_context(|| format!("the token could not be shown; run `ci-bridge token revoke {name}`"))?,
        None => eprintln!("registered `{name}`; whether its text is hard to guess can't be seen from its hash"),
    }
    Ok(())
}

fn list(args: &List, out: &mut impl Write) -> anyhow::Result<()> {
    let keyring = Keyring::load(&args.files.tokens_file(args.files.settings()?.as_ref()))?;
    let now = Timestamp::now();
    if args.json {
        let tokens: Vec<_> = keyring.entries().iter().map(|entry| as_json(entry, now)).collect();
        writeln!(out, "{}", json!({ "tokens": tokens }))?;
        return Ok(());
    }
    let mut rows = vec![["NAME", "ACCESS", "STATE", "EXPIRES", "JOBS"].map(str::to_owned)];
    rows.extend(keyring.entries().iter().map(|entry| as_row(entry, now)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    for [name, access, state, expires, jobs] in &rows {
        let [a, b, c, d] = widths;
        writeln!(out, "{name:<a$}  {access:<b$}  {state:<c$}  {expires:<d$}  {jobs}")?;
    }
    Ok(())
}

fn revoke(args: &Revoke, out: &mut impl Write) -> anyhow::Result<()> {
    let mut editor = args.files.edit_tokens(args.files.settings()?.as_ref())?;
    editor.revoke(&args.name, Timestamp::now())?;
    args.files.save_tokens(&editor)?;
    writeln!(out, "revoked `{}`", args.name)?;
    Ok(())
}

fn state(entry: &Entry, now: Timestamp) -> &'static str {
    match entry.valid_at(now) {
        Ok(()) => "valid",
        Err(Denial::Revoked) => "revoked",
        Err(Denial::NotYetValid { .. }) => "not yet valid",
        Err(Denial::Expired { .. }) => "expired",
        Err(Denial::Malformed | Denial::Unknown) => "unknown",
    }
}

fn as_row(entry: &Entry, now: Timestamp) -> [String; 5] {
    let caller = entry.caller();
    let jobs = entry
        .jobs()
        .map_or("all".to_owned(), |jobs| jobs.iter().map(JobPattern::to_string).collect::<Vec<_>>().join(", "));
    let expires = entry.expires.map_or("never".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string());
    let access = std::iter::once(caller.access().to_string()).chain(scopes(entry)).collect::<Vec<_>>().join("+");
    [caller.name().to_string(), access, state(entry, now).to_owned(), expires, jobs]
}

fn scopes(entry: &Entry) -> Vec<String> {
    entry.caller().scopes().iter().map(Scope::to_string).collect()
}

fn as_json(entry: &Entry, now: Timestamp) -> serde_json::Value {
    let caller = entry.caller();
    json!({
        "name": caller.name().as_str(),
        "access": caller.access().to_string(),
        "scopes": scopes(entry),
        "jobs": entry.jobs().map(|jobs| jobs.iter().map(JobPattern::to_string).collect::<Vec<_>>()),
        "state": state(entry, now),
        "created": entry.created,
        "expires": entry.expires,
        "not_before": entry.not_before,
        "revoked": entry.revoked,
    })
}

//! `ci-bridge init`: settings, tokens and the polkit rule of a new installation.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use jiff::Timestamp;
use serde_json::json;

use super::files::{Files, make_directory_of, read_if_there};
use crate::auth::{Access, NewEntry, Token, TokenHash};
use crate::config::{Listen, Owner, Settings, replace_file, starter};
use crate::policy::Prefix;
use crate::setup::polkit;

/// Prepare this machine: write the settings, make two tokens, and let the service start the allowed units
///
/// Writes the settings file and the tokens file if they are not there, and the polkit rule. The tokens are shown once.
/// Nothing that is there is lost when it runs again: it then only brings the polkit rule up to date with the prefixes in
/// the settings file.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Allow the units whose name starts like this; may be repeated
    #[arg(long = "prefix", value_name = "PREFIX", value_parser = Prefix::parse)]
    prefixes: Vec<Prefix>,

    /// Tell what was done as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    files: Files,
}

const EXAMPLES: &str = "\
Examples:
  ci-bridge init --prefix ci-test-
  ci-bridge init --prefix ci-test- --prefix nightly-
  ci-bridge init                     after a change of the prefixes in config.toml

What it prints at its end can be typed at once, and the old form with the token in the URL works as well:
  curl -X POST -H 'Authorization: Bearer TOKEN' http://127.0.0.1:8000/api/job/ci-test-hello
  curl 'http://127.0.0.1:8000/api/job/ci-test-hello/tail?token=TOKEN'";

/// What became of one file.
struct Step {
    /// The path, as the service sees it.
    path: String,
    action: Action,
    /// What is in the file.
    about: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Wrote,
    Updated,
    Kept,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Wrote => "wrote",
            Self::Updated => "updated",
            Self::Kept => "kept",
        }
    }
}

/// A token that was made just now.
struct NewToken {
    name: &'static str,
    about: &'static str,
    token: Token,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let (settings, config) = write_settings(args)?;
    let (tokens, tokens_step) = write_tokens(&args.files, &settings)?;
    let rule = write_rule(&args.files, settings.jobs.policy.prefixes())?;
    let steps = [config, tokens_step, rule];
    if args.json {
        return print_json(&settings, &steps, &tokens, out);
    }
    for Step { path, action, about } in &steps {
        writeln!(out, "{:<8} {path}: {about}", action.word())?;
    }
    if tokens.is_empty() {
        if steps.iter().all(|step| step.action == Action::Kept) {
            writeln!(out, "\nNothing had to be changed.")?;
        } else {
            writeln!(out, "\nThe tokens stay as they are.")?;
        }
        writeln!(out, "A further token: ci-bridge token new NAME --access rw")?;
        return Ok(());
    }
    print_tokens(&settings, &tokens, out)
}

fn write_settings(args: &Args) -> anyhow::Result<(Settings, Step)> {
    let path = args.files.config_file();
    let step = |settings: &Settings, action| {
        let about = format!("allows {}", list(settings.jobs.policy.prefixes()));
        Step { path: path.display().to_string(), action, about }
    };
    if let Some(settings) = args.files.settings()? {
        let present = settings.jobs.policy.prefixes();
        let same = args.prefixes.iter().all(|prefix| present.contains(prefix))
            && present.iter().all(|prefix| args.prefixes.contains(prefix));
        if !args.prefixes.is_empty() && !same {
            bail!(
                "{} allows {} already and was not changed; to allow {} instead, change `prefixes` in it and run \
                 `ci-bridge init` without --prefix",
                path.display(),
                list(present),
                list(&args.prefixes),
            );
        }
        let step = step(&settings, Action::Kept);
        return Ok((settings, step));
    }
    if args.prefixes.is_empty() {
        bail!("there is no {} yet; say which units are allowed, such as --prefix ci-test-", path.display());
    }
    let text = starter(&args.prefixes);
    let settings = Settings::parse(&text).context("failed to make the settings")?;
    make_directory_of(&path, args.files.service_group())?;
    write(&path, &text, args.files.owner())?;
    let step = step(&settings, Action::Wrote);
    Ok((settings, step))
}

fn write_tokens(files: &Files, settings: &Settings) -> anyhow::Result<(Vec<NewToken>, Step)> {
    let mut editor = files.edit_tokens(Some(settings))?;
    let path = files.tokens_file(Some(settings)).display().to_string();
    let registered = editor.keyring().entries().len();
    if registered > 0 {
        let about = format!("{registered} registered {}", if registered == 1 { "token" } else { "tokens" });
        return Ok((Vec::new(), Step { path, action: Action::Kept, about }));
    }
    let mut tokens = Vec::new();
    for (name, about, access) in
        [("ci", "starts, stops and reads", Access::ReadWrite), ("read", "reads only", Access::ReadOnly)]
    {
        let token = Token::generate(access).context("the system has no random numbers")?;
        editor.add(&NewEntry {
            name: name.parse()?,
            access,
            hash: TokenHash::of(token.expose()),
            jobs: Vec::new(),
            scopes: Vec::new(),
            created: Timestamp::now(),
            expires: None,
        })?;
        tokens.push(NewToken { name, about, token });
    }
    files.save_tokens(&editor)?;
    Ok((tokens, Step { path, action: Action::Wrote, about: "the hashes of the tokens `ci` and `read`".to_owned() }))
}

fn write_rule(files: &Files, prefixes: &[Prefix]) -> anyhow::Result<Step> {
    let path = files.below_root(polkit::RULE_PATH);
    let rule = polkit::rule(prefixes);
    let action = match read_if_there(&path)? {
        Some(present) if present == rule => Action::Kept,
        Some(_) => Action::Updated,
        None => Action::Wrote,
    };
    if action != Action::Kept {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
        }
        write(&path, &rule, Owner { mode: 0o644, group: None })?;
    }
    let about = format!("lets the service start and stop {}", list(prefixes));
    Ok(Step { path: path.display().to_string(), action, about })
}

fn write(path: &Path, text: &str, owner: Owner) -> anyhow::Result<()> {
    replace_file(path, text, owner).with_context(|| format!("failed to write {}", path.display()))
}

/// The prefixes as units, such as `ci-test-*`.
fn list(prefixes: &[Prefix]) -> String {
    prefixes.iter().map(|prefix| format!("{}*", prefix.as_str())).collect::<Vec<_>>().join(", ")
}

fn print_tokens(settings: &Settings, tokens: &[NewToken], out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "\nThe tokens are shown only now; keep them as secrets of your CI:")?;
    for NewToken { name, about, token } in tokens {
        writeln!(out, "  {name:<5} {}  {about}", token.expose())?;
    }
    writeln!(out, "\nStart the service:\n  systemctl enable --now ci-bridge")?;
    let (Some(prefix), [writer, reader]) = (settings.jobs.policy.prefixes().first(), tokens) else { return Ok(()) };
    let Some(listen) = settings.listen.first() else { return Ok(()) };
    let job = format!("{}hello", prefix.as_str());
    writeln!(out, "\nWith a unit {job}.service, start it and read its log:")?;
    let curl = |options: &str, token: &Token, tail: &str| {
        let socket = listen.socket_path().map(|path| format!("--unix-socket {} ", path.display())).unwrap_or_default();
        let (token, url) = (token.expose(), listen.local_url());
        format!("  curl {socket}{options}-H 'Authorization: Bearer {token}' '{url}/api/job/{job}{tail}'")
    };
    writeln!(out, "{}", curl("-X POST ", &writer.token, ""))?;
    writeln!(out, "{}", curl("", &reader.token, "/tail?format=text"))?;
    Ok(())
}

fn print_json(settings: &Settings, steps: &[Step], tokens: &[NewToken], out: &mut impl Write) -> anyhow::Result<()> {
    let files: Vec<_> = steps.iter().map(|step| json!({"path": step.path, "action": step.action.word()})).collect();
    let tokens: Vec<_> = tokens
        .iter()
        .map(|new| json!({"name": new.name, "access": new.token.access().to_string(), "token": new.token.expose()}))
        .collect();
    let listen: Vec<_> = settings.listen.iter().map(Listen::to_string).collect();
    let url = settings.listen.first().map(Listen::local_url);
    writeln!(out, "{}", json!({"files": files, "tokens": tokens, "listen": listen, "url": url}))?;
    Ok(())
}

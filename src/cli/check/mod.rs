//! `ci-bridge check`: proves that an installation does what it is to do, and no more.
//!
//! What the service may do is not read from files but tried, as the service's user and over D-Bus: with names of units
//! that do not exist, so that nothing is ever started.

mod drop_in;
mod finding;
mod inputs;
mod journald;
mod lines;
mod probe;
mod unit_files;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use jiff::{Timestamp, ToSpan};

use self::finding::Finding;
use self::journald::Configuration;
use super::files::{Files, read_if_there};
use crate::auth::Keyring;
use crate::config::Settings;
use crate::policy::Policy;
use crate::setup::{SERVICE_USER, polkit};

/// Prove that the installation works and is safe: a line for each thing looked at, with the remedy where one is needed
///
/// Ends with status 0 if nothing is broken, and with 1 otherwise. Run it as root: it changes to the service's user for
/// what that user must and must not be able to do.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Tell the findings as JSON
    #[arg(long)]
    json: bool,

    /// Only try what this user may do
    #[arg(long, hide = true)]
    probe: bool,

    #[command(flatten)]
    files: Files,
}

const EXAMPLES: &str = "\
Examples:
  ci-bridge check
  ci-bridge check --json | jq '.[] | select(.level != \"ok\")'";

/// Returns whether nothing is broken.
pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<bool> {
    let settings = Settings::load(&args.files.config_file())?;
    let policy = &settings.jobs.policy;
    let findings = if args.probe {
        probe::run(policy)
    } else {
        let mut findings = vec![Finding::ok("settings", format!("{} is valid", args.files.config_file().display()))];
        findings.extend(tokens(&args.files.below_root(&settings.tokens_file)));
        findings.push(rule(&args.files, policy)?);
        findings.extend(Configuration::read(&args.files, "")?.findings(&args.files)?);
        let units = unit_files::run(policy);
        findings.extend(units.findings);
        findings.extend(inputs::run(&settings.jobs.inputs, &units.loaded));
        findings.extend(lines::run(policy, &args.files, &units.jobs)?);
        findings.extend(probed(&args.files)?);
        findings
    };
    if args.json || args.probe {
        serde_json::to_writer(&mut *out, &findings)?;
        writeln!(out)?;
    } else {
        for finding in &findings {
            writeln!(out, "{finding}")?;
        }
    }
    Ok(!findings.iter().any(Finding::is_failure))
}

/// Whether there are tokens that let somebody in, and for how long.
fn tokens(path: &Path) -> Vec<Finding> {
    const REMEDY: &str = "make one: ci-bridge token new NAME --access rw";
    let keyring = match Keyring::load(path) {
        Ok(keyring) => keyring,
        Err(error) => return vec![Finding::failure("tokens", error.to_string(), REMEDY)],
    };
    let now = Timestamp::now();
    let valid: Vec<_> = keyring.entries().iter().filter(|entry| entry.valid_at(now).is_ok()).collect();
    if valid.is_empty() {
        return vec![Finding::failure("tokens", format!("{} has no valid token", path.display()), REMEDY)];
    }
    let mut findings = vec![Finding::ok("tokens", format!("{} valid in {}", valid.len(), path.display()))];
    let soon = now.checked_add((14 * 24).hours()).unwrap_or(now);
    for entry in valid {
        if let Some(at) = entry.expires.filter(|at| *at < soon) {
            let name = entry.caller().name();
            findings.push(Finding::warning("tokens", format!("`{name}` expires at {at}"), REMEDY));
        }
    }
    findings
}

/// Whether the polkit rule is the one that these prefixes make.
fn rule(files: &Files, policy: &Policy) -> anyhow::Result<Finding> {
    const REMEDY: &str = "write it anew: ci-bridge init";
    let path = files.below_root(polkit::RULE_PATH);
    Ok(match read_if_there(&path)? {
        None => Finding::failure("polkit rule", format!("{} does not exist", path.display()), REMEDY),
        Some(text) if text != polkit::rule(policy.prefixes()) => {
            let what = format!("{} is not the rule for the prefixes in the settings", path.display());
            Finding::failure("polkit rule", what, REMEDY)
        }
        Some(_) => Finding::ok("polkit rule", format!("{} fits the settings", path.display())),
    })
}

/// What the service's user may do, tried by this program as that user.
fn probed(files: &Files) -> anyhow::Result<Vec<Finding>> {
    let program = std::env::current_exe().context("failed to find this program")?;
    let config = files.config_file();
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", SERVICE_USER, "--regid", SERVICE_USER, "--init-groups", "--"]).arg(&program);
        command
    } else {
        Command::new(&program)
    };
    command.args(["check", "--probe", "--config"]).arg(&config);
    let output = command.output().context("failed to run this program as the service's user")?;
    if let Ok(findings) = serde_json::from_slice(&output.stdout) {
        return Ok(findings);
    }
    bail!(
        "trying what the user {SERVICE_USER} may do failed; is the package installed? {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
}

/// Whether this process is root's.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

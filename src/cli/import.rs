//! `ci-bridge import`: the configuration of another monitor as settings of this one.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{self, Path, PathBuf};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};

use super::files::{make_directory_of, read_if_there, service_group};
use crate::config::{Error, Owner, replace_file};
use crate::import;

/// Where the secrets are to be, unless they are written somewhere.
const SECRETS: &str = "/etc/ci-bridge/secrets";

/// Take over the configuration of another monitor of runners
///
/// Prints sections for the end of config.toml, which say in comments what is different.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    monitor: Monitor,
}

#[derive(Debug, clap::Subcommand)]
enum Monitor {
    GhRunnerUptime(GhRunnerUptime),
}

/// Take over the config.yaml of gh_runner_uptime
///
/// No token and no address of a webhook is printed. The sections name a file for each, in /etc/ci-bridge/secrets, and say
/// in comments what to put there; with --write-secrets these files are made.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct GhRunnerUptime {
    /// Its config.yaml
    file: PathBuf,

    /// Write the tokens and the addresses of webhooks into files in this directory, for the service alone
    #[arg(long, value_name = "DIR")]
    write_secrets: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  ci-bridge import gh-runner-uptime config.yaml
  ci-bridge import gh-runner-uptime config.yaml --write-secrets secrets >new.toml";

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let Monitor::GhRunnerUptime(GhRunnerUptime { file, write_secrets }) = &args.monitor;
    let absolute = |path: &Path| path::absolute(path).with_context(|| format!("failed to find {}", path.display()));
    let text = fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    let whole = absolute(file)?;
    let directory = whole.parent().unwrap_or(&whole);
    let secrets = absolute(write_secrets.as_deref().unwrap_or(Path::new(SECRETS)))?;
    let imported = import::gh_runner_uptime(&text, directory, &secrets)
        .map_err(|fault| Error::Invalid { path: file.clone(), fault })?;
    if write_secrets.is_some() {
        write(&imported.secrets, &secrets)?;
    }
    write!(out, "{}", imported.toml)?;
    Ok(())
}

/// Writes the secrets into files that root and the service may read; nothing that is there is replaced.
fn write(secrets: &BTreeMap<String, SecretString>, directory: &Path) -> anyhow::Result<()> {
    let group = service_group(Path::new("/"));
    let owner = Owner { mode: if group.is_some() { 0o640 } else { 0o600 }, group };
    let mut missing = Vec::new();
    for (name, secret) in secrets {
        let (path, text) = (directory.join(name), format!("{}\n", secret.expose_secret()));
        match read_if_there(&path)? {
            Some(there) if there == text => {}
            Some(_) => bail!(
                "{} is there already, with something else in it; remove it, or name another directory",
                path.display()
            ),
            None => missing.push((path, text)),
        }
    }
    for (path, text) in missing {
        make_directory_of(&path, group)?;
        replace_file(&path, &text, owner).with_context(|| format!("failed to write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

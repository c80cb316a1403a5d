//! `ci-bridge backup`: a copy of the history.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::files::Files;
use crate::config::STATE_DIRECTORY;
use crate::store;

/// Copy the history of runs and the audit into a new file
///
/// Works while the service runs, and as root. Nothing is overwritten; the file is there only if all of the copy is.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The file to make
    file: PathBuf,

    #[command(flatten)]
    files: Files,
}

const EXAMPLES: &str = "\
Examples:
  ci-bridge backup /var/backups/ci-bridge.db
  ci-bridge backup \"/var/backups/ci-bridge-$(date +%F).db\"";

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let settings = args.files.settings()?;
    let directory = settings.as_ref().map_or(Path::new(STATE_DIRECTORY), |settings| &settings.state_directory);
    let directory = args.files.below_root(directory);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start")?;
    runtime.block_on(store::backup(&directory, &args.file))?;
    writeln!(out, "copied the history to {}", args.file.display())?;
    Ok(())
}

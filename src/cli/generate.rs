//! `ci-bridge generate`: man pages and completions, made from the command line itself when a package is built.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// Write the man pages or the shell completions into a directory
#[derive(Debug, clap::Args)]
#[command(hide = true, after_help = EXAMPLES)]
pub(super) struct Args {
    what: What,

    /// The directory, which is made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  ci-bridge generate man target/assets/man
  ci-bridge generate completions target/assets/completions";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// ci-bridge.1 and a page for each command
    Man,
    /// Completions for bash, zsh and fish
    Completions,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let directory = &args.directory;
    let failed = || format!("failed to write to {}", directory.display());
    fs::create_dir_all(directory).with_context(failed)?;
    match args.what {
        What::Man => {
            let mut command = Cli::command().disable_help_subcommand(true);
            command.build();
            for (file, page) in pages(command).with_context(failed)? {
                let file = directory.join(file);
                fs::write(&file, page).with_context(failed)?;
                writeln!(out, "{}", file.display())?;
            }
        }
        What::Completions => {
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                let file = clap_complete::generate_to(shell, &mut Cli::command(), "ci-bridge", directory);
                writeln!(out, "{}", file.with_context(failed)?.display())?;
            }
        }
    }
    Ok(())
}

/// The man pages of `command` and of all its commands, each with the name of its file.
fn pages(command: clap::Command) -> io::Result<Vec<(String, String)>> {
    let inner: Vec<_> = command.get_subcommands().filter(|inner| !inner.is_hide_set()).cloned().collect();
    let source = concat!("ci-bridge ", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command).source(source).manual("ci-bridge");
    let mut text = Vec::new();
    page.render(&mut text)?;
    // What stands after a command's options are its examples; the generator can't know.
    let text = String::from_utf8_lossy(&text)
        .replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n.nf\n")
        .replace(".SH VERSION\n", ".fi\n.SH VERSION\n");
    let mut pages = vec![(page.get_filename(), text)];
    for inner in inner {
        pages.extend(self::pages(inner)?);
    }
    Ok(pages)
}

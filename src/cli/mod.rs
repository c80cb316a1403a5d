//! The command line: what an administrator and a CI job type.
//!
//! A command prints its result on standard output and everything else on standard error. Deliberately absent: decisions.
//! What may be done is decided by `policy` and `auth`; this module only carries it out.

mod files;
mod generate;
mod init;
mod serve;
mod token;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::auth::EditError;
use crate::config;

/// A command that failed.
const EXIT_FAILURE: u8 = 1;

/// A configuration that must be corrected first (`EX_CONFIG` of `sysexits.h`).
const EXIT_CONFIG: u8 = 78;

/// Start allowed systemd units from CI over HTTP, and read their true state and logs.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, propagate_version = true, infer_subcommands = false)]
pub struct Cli {
    /// Show each cause of an error on a line of its own
    #[arg(long, short, global = true)]
    verbose: bool,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ci-bridge init --prefix ci-test-       allow the units ci-test-*.service, make tokens
  systemctl enable --now ci-bridge       start the service
  ci-bridge token new nightly --access ro --expires 90d";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Init(init::Args),
    Token(token::Args),
    Generate(generate::Args),
}

/// Carries out a command line and tells how it went: 0 for success, 1 for a failure, 2 for a wrong command line, 78 for
/// a configuration that must be corrected first.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let mut out = io::stdout();
    let done = match cli.command {
        Command::Serve(args) => serve::run(&args, cli.verbose),
        Command::Init(args) => init::run(&args, &mut out),
        Command::Token(args) => token::run(args, &mut out),
        Command::Generate(args) => generate::run(&args, &mut out),
    };
    match done.and_then(|()| Ok(out.flush()?)) {
        Err(error) if !is_end_of_reading(&error) => {
            eprintln!("{}", explanation(&error, cli.verbose));
            ExitCode::from(exit_code(&error))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Whether whoever reads the output has read enough, as in `ci-bridge token list | head -1`.
///
/// An error with a context is about output that must not get lost.
fn is_end_of_reading(error: &anyhow::Error) -> bool {
    let first = error.chain().next().and_then(|cause| cause.downcast_ref::<io::Error>());
    first.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The error on one line, or with a line for each cause.
fn explanation(error: &anyhow::Error, verbose: bool) -> String {
    let denied = |cause: &io::Error| cause.kind() == io::ErrorKind::PermissionDenied;
    let hint =
        if error.chain().filter_map(|cause| cause.downcast_ref()).any(denied) { "; try again as root" } else { "" };
    if !verbose {
        return format!("error: {error:#}{hint}");
    }
    let causes = error.chain().skip(1).map(|cause| format!("\n  because: {cause}")).collect::<Vec<_>>().concat();
    format!("error: {error}{hint}{causes}")
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let of_the_configuration =
        error.is::<config::Error>() || matches!(error.downcast_ref(), Some(EditError::File(_) | EditError::Form));
    if of_the_configuration { EXIT_CONFIG } else { EXIT_FAILURE }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_that_is_shown_has_examples() {
        fn check(command: &clap::Command) {
            let inner: Vec<_> = command.get_subcommands().filter(|inner| !inner.is_hide_set()).collect();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n") && help.contains("ci-bridge "), "{}", command.get_name());
            inner.into_iter().for_each(check);
        }
        check(&Cli::command());
    }
}

//! The command line: what an administrator and a CI job type.
//!
//! A command prints its result on standard output and everything else on standard error. Deliberately absent: decisions.
//! What may be done is decided by `policy` and `auth`; this module only carries it out.

mod backup;
mod check;
mod client;
mod files;
mod generate;
mod import;
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

/// A job that could not be started or followed: told from the job's own status, as `docker run` does.
const EXIT_NOT_RUN: u8 = 125;

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
  ci-bridge token new nightly --access ro --expires 90d
  CI_TOKEN=cib_rw_... ci-bridge run ci-test-hello";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Init(init::Args),
    Token(token::Args),
    Check(check::Args),
    Backup(backup::Args),
    Import(import::Args),
    Run(client::Run),
    State(client::State),
    Logs(client::Logs),
    Tail(client::Tail),
    Stop(client::Stop),
    Jobs(client::Jobs),
    Runs(client::Runs),
    Runners(Box<client::Runners>),
    Alerts(client::Alerts),
    Audit(client::Audit),
    Generate(generate::Args),
}

/// Carries out a command line and tells how it went: 0 for success, 1 for a failure, 2 for a wrong command line, 78 for
/// a configuration that must be corrected first; `run` has the statuses that its help names.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let mut out = io::stdout();
    let failure = if matches!(cli.command, Command::Run(_)) { EXIT_NOT_RUN } else { EXIT_FAILURE };
    let done = match cli.command {
        Command::Run(args) => client::run(&args),
        Command::Serve(args) => serve::run(&args, cli.verbose).map(|()| 0),
        Command::Init(args) => init::run(&args, &mut out).map(|()| 0),
        Command::Token(args) => token::run(args, &mut out).map(|()| 0),
        Command::Check(args) => check::run(&args, &mut out).map(|sound| if sound { 0 } else { EXIT_FAILURE }),
        Command::Backup(args) => backup::run(&args, &mut out).map(|()| 0),
        Command::Import(args) => import::run(&args, &mut out).map(|()| 0),
        Command::State(args) => client::state(&args, &mut out).map(|()| 0),
        Command::Logs(args) => client::logs(&args, &mut out).map(|()| 0),
        Command::Tail(args) => client::tail(&args, &mut out).map(|()| 0),
        Command::Stop(args) => client::stop(&args, &mut out).map(|()| 0),
        Command::Jobs(args) => client::jobs(&args, &mut out).map(|()| 0),
        Command::Runs(args) => client::runs(&args, &mut out).map(|()| 0),
        Command::Runners(args) => client::runners(&args, &mut out).map(|()| 0),
        Command::Alerts(args) => client::alerts(&args, &mut out).map(|()| 0),
        Command::Audit(args) => client::audit(&args, &mut out).map(|()| 0),
        Command::Generate(args) => generate::run(&args, &mut out).map(|()| 0),
    };
    match done.and_then(|status| Ok(out.flush().map(|()| status)?)) {
        Ok(status) => ExitCode::from(status),
        Err(error) if is_end_of_reading(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", explanation(&error, cli.verbose));
            ExitCode::from(if is_of_the_configuration(&error) { EXIT_CONFIG } else { failure })
        }
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

fn is_of_the_configuration(error: &anyhow::Error) -> bool {
    error.is::<config::Error>() || matches!(error.downcast_ref(), Some(EditError::File(_) | EditError::Form))
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

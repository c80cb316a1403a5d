//! The `ci-bridge` command.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ci_bridge::cli::run(ci_bridge::cli::Cli::parse())
}

//! The command lines below `ci-bridge runners`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use uuid::Uuid;

use super::super::bridge::Server;
use crate::config::parse_duration;

#[derive(Debug, Subcommand)]
pub(in crate::cli::client) enum Command {
    Create(Create),
    Update(Update),
    /// Let a runner of GitLab take no more jobs
    #[command(after_help = PAUSE_EXAMPLES)]
    Pause(One),
    /// Let a runner of GitLab take jobs again
    #[command(after_help = RESUME_EXAMPLES)]
    Resume(One),
    /// Delete a runner of GitLab
    #[command(after_help = DELETE_EXAMPLES)]
    Delete(ByIdOrToken),
    Verify(Verify),
    /// Give a runner of GitLab a new authentication token and print it, alone and only this once
    #[command(after_help = RESET_EXAMPLES)]
    ResetToken(ByIdOrToken),
    /// Let a project use a runner of GitLab
    #[command(after_help = ENABLE_EXAMPLES)]
    Enable(Loan),
    /// Take a runner of GitLab away from a project
    #[command(after_help = DISABLE_EXAMPLES)]
    Disable(Loan),
    /// List the processes that take jobs for a runner of GitLab
    #[command(after_help = MANAGERS_EXAMPLES)]
    Managers(One),
    Jobs(Jobs),
}

const PAUSE_EXAMPLES: &str = "\
Examples:
  ci-bridge runners pause 807186f6-2308-8224-8736-cb17df51c527";

const RESUME_EXAMPLES: &str = "\
Examples:
  ci-bridge runners resume 807186f6-2308-8224-8736-cb17df51c527";

const DELETE_EXAMPLES: &str = "\
Examples:
  ci-bridge runners delete 807186f6-2308-8224-8736-cb17df51c527
  ci-bridge runners delete --source lab --token-file token";

const RESET_EXAMPLES: &str = "\
Examples:
  ci-bridge runners reset-token 807186f6-2308-8224-8736-cb17df51c527 >token
  ci-bridge runners reset-token --source lab --token-file old >token";

const ENABLE_EXAMPLES: &str = "\
Examples:
  ci-bridge runners enable 807186f6-2308-8224-8736-cb17df51c527 acme/site";

const DISABLE_EXAMPLES: &str = "\
Examples:
  ci-bridge runners disable 807186f6-2308-8224-8736-cb17df51c527 acme/site";

const MANAGERS_EXAMPLES: &str = "\
Examples:
  ci-bridge runners managers 807186f6-2308-8224-8736-cb17df51c527";

// The next three stand for several commands, whose help is above: a comment for the documentation would replace it.

#[derive(Debug, clap::Args)]
pub(in crate::cli::client) struct One {
    /// The runner, as the list has it
    pub(super) id: Uuid,

    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli::client) struct Loan {
    /// The runner, as the list has it
    pub(super) id: Uuid,

    /// The project, by its number or path
    pub(super) project: String,

    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli::client) struct ByIdOrToken {
    /// The runner, as the list has it
    #[arg(required_unless_present = "token_file")]
    pub(super) id: Option<Uuid>,

    /// A file with the runner's authentication token, instead of its id; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "id", requires = "source")]
    pub(super) token_file: Option<PathBuf>,

    /// The list of runners whose GitLab is asked, with `--token-file`
    #[arg(long, value_name = "NAME", requires = "token_file")]
    pub(super) source: Option<String>,

    #[command(flatten)]
    pub(super) common: Common,
}

/// What most of the commands take.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// Print the JSON of the bridge
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) server: Server,
}

/// How a runner is to be.
#[derive(Debug, clap::Args)]
pub(super) struct Properties {
    /// What people call it
    #[arg(long, value_name = "TEXT")]
    pub(super) description: Option<String>,

    /// All its tags; `''` for none
    #[arg(long, value_name = "TEXT,TEXT")]
    pub(super) tag_list: Option<String>,

    /// Whether it takes jobs without tags
    #[arg(long, value_name = "true|false")]
    pub(super) run_untagged: Option<bool>,

    /// Whether it takes no jobs
    #[arg(long, value_name = "true|false")]
    pub(super) paused: Option<bool>,

    /// Whether other projects may not be given it
    #[arg(long, value_name = "true|false")]
    pub(super) locked: Option<bool>,

    /// Which jobs it takes: of any branch, or only of protected ones
    #[arg(long, value_name = "not_protected|ref_protected")]
    pub(super) access_level: Option<String>,

    /// The longest time of a job, such as `2h`; at least `10m`
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(super) maximum_timeout: Option<Duration>,

    /// A note for administrators
    #[arg(long, value_name = "TEXT")]
    pub(super) maintenance_note: Option<String>,
}

/// Create a runner of GitLab and print its authentication token, alone and only this once
///
/// Takes a token with the scope `runners`, as all commands that change a runner.
#[derive(Debug, clap::Args)]
#[command(after_help = CREATE_EXAMPLES)]
pub(in crate::cli::client) struct Create {
    /// The list of runners in whose GitLab it is created
    #[arg(long, value_name = "NAME")]
    pub(super) source: String,

    /// Whose it is: instance, group, project
    #[arg(long, value_name = "KIND", required_unless_present = "registration_token_file")]
    pub(super) kind: Option<String>,

    /// The number of the group, for `--kind group`
    #[arg(long, value_name = "NUMBER")]
    pub(super) group: Option<u64>,

    /// The number of the project, for `--kind project`
    #[arg(long, value_name = "NUMBER")]
    pub(super) project: Option<u64>,

    /// A file with a registration token, which says whose the runner is; `-` for standard input. GitLab has retired these
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "group", "project"])]
    pub(super) registration_token_file: Option<PathBuf>,

    #[command(flatten)]
    pub(super) properties: Properties,

    #[command(flatten)]
    pub(super) common: Common,
}

const CREATE_EXAMPLES: &str = "\
Examples:
  ci-bridge runners create --source lab --kind instance --description builder --tag-list linux,big
  ci-bridge runners create --source lab --kind project --project 42 --run-untagged false --tag-list deploy >token";

/// Change a runner of GitLab: what is not named stays
#[derive(Debug, clap::Args)]
#[command(after_help = UPDATE_EXAMPLES)]
pub(in crate::cli::client) struct Update {
    /// The runner, as the list has it
    pub(super) id: Uuid,

    #[command(flatten)]
    pub(super) properties: Properties,

    #[command(flatten)]
    pub(super) common: Common,
}

const UPDATE_EXAMPLES: &str = "\
Examples:
  ci-bridge runners update 807186f6-2308-8224-8736-cb17df51c527 --tag-list linux,arm --maximum-timeout 2h";

/// Ask GitLab whose an authentication token of a runner is
///
/// GitLab counts it as a sign of life of that runner, so don't do it regularly.
#[derive(Debug, clap::Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub(in crate::cli::client) struct Verify {
    /// The list of runners whose GitLab is asked
    #[arg(long, value_name = "NAME")]
    pub(super) source: String,

    /// A file with the token; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: PathBuf,

    /// One of the runner's processes, which GitLab wants for tokens that begin with `glrt-`
    #[arg(long, value_name = "ID")]
    pub(super) system_id: Option<String>,

    #[command(flatten)]
    pub(super) common: Common,
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  ci-bridge runners verify --source lab --token-file token --system-id \"$(cat /etc/gitlab-runner/.runner_system_id)\"
  pass show runner | ci-bridge runners verify --source lab --token-file -";

/// List the jobs that a runner of GitLab took, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = JOBS_EXAMPLES)]
pub(in crate::cli::client) struct Jobs {
    /// The runner, as the list has it
    pub(super) id: Uuid,

    /// Print only jobs in this state: running, success, failed, canceled
    #[arg(long, value_name = "STATE")]
    pub(super) status: Option<String>,

    /// Which come first: `desc` for the newest, `asc` for the oldest
    #[arg(long, value_name = "desc|asc")]
    pub(super) order: Option<String>,

    /// Print only so many jobs
    #[arg(long, value_name = "NUMBER")]
    pub(super) limit: Option<u32>,

    #[command(flatten)]
    pub(super) common: Common,
}

const JOBS_EXAMPLES: &str = "\
Examples:
  ci-bridge runners jobs 807186f6-2308-8224-8736-cb17df51c527 --status failed
  ci-bridge runners jobs 807186f6-2308-8224-8736-cb17df51c527 --limit 500 --json | jq -r '.jobs[].web_url'";

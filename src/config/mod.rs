//! The administrator's settings: a TOML file becomes [`Settings`], which hold only what is valid.
//!
//! Parsing is a function of the text; only [`Settings::load`] reads a file. A key that is not known is refused, so that
//! a misspelt one never counts as absent. Deliberately absent: environment variables, includes and secrets.

mod alerts;
mod api_url;
mod document;
mod duration;
mod history;
mod inputs;
mod listen;
mod replace;
mod runners;
mod size;
mod starter;

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use self::alerts::alert_target;
pub use self::alerts::{Address, Alert, AlertEvent, AlertFormat, JobPattern};
pub use self::api_url::{ApiUrl, NotAnApiUrl};
pub use self::document::Fault;
use self::document::Value;
pub(crate) use self::document::{Document, Section};
pub use self::duration::{NotADuration, parse_duration};
pub use self::history::History;
pub use self::listen::{Listen, ListenError};
pub use self::replace::{Owner, replace_file};
pub use self::runners::{
    GitHubAccess, GitHubScope, GitLabAuth, GitLabScope, Grace, NotASourceName, RunnerList, RunnerSource, SecretPlace,
    SourceName,
};
pub use self::size::{NotASize, parse_size};
pub use self::starter::starter;
use crate::inputs::Inputs;
use crate::policy::{Policy, Prefix};

/// Where the settings are unless `--config` says otherwise.
pub const CONFIG_FILE: &str = "/etc/ci-bridge/config.toml";

/// Where the tokens are unless `tokens_file` says otherwise.
pub const TOKENS_FILE: &str = "/etc/ci-bridge/tokens.toml";
/// Where the state is unless `state_directory` says otherwise.
pub const STATE_DIRECTORY: &str = "/var/lib/ci-bridge";

const DAY: Duration = Duration::from_hours(24);

/// Why a file of the configuration could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there.
    #[error("{} does not exist; make it with `{remedy}`", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The command that makes it.
        remedy: &'static str,
    },
    /// The file could not be read.
    #[error("failed to read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file must be corrected.
    #[error("{}, {fault}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The first mistake in it.
        fault: Fault,
    },
}

/// Reads a file of the configuration; `remedy` is the command that makes it.
pub(crate) fn read_file(path: &Path, remedy: &'static str) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.to_owned(), remedy },
        _ => Error::Read { path: path.to_owned(), source },
    })
}

/// Whether a token may come in the URL as `?token=`, where proxies and shells may record it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueryTokens {
    /// Any token may.
    #[default]
    Allow,
    /// Only a token that can't change anything.
    ReadOnly,
    /// None: only the `Authorization` header counts.
    Deny,
}

impl QueryTokens {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "allow" => Ok(Self::Allow),
            "read-only" => Ok(Self::ReadOnly),
            "deny" => Ok(Self::Deny),
            _ => Err(format!("`{text}` is no choice; write `allow`, `read-only` or `deny`")),
        }
    }
}

/// What the administrator decided, valid as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The addresses to listen on besides the sockets that systemd passes. Default: `127.0.0.1:8000`; empty if only
    /// systemd's sockets are wanted.
    pub listen: Vec<Listen>,
    /// Whether a token may come in the URL.
    pub query_tokens: QueryTokens,
    /// The file with the hashes of the tokens, an absolute path.
    pub tokens_file: PathBuf,
    /// Where the history is kept, an absolute path. Default: `/var/lib/ci-bridge`.
    pub state_directory: PathBuf,
    /// Which jobs there are.
    pub jobs: Jobs,
    /// What one client or all together may use.
    pub limits: Limits,
    /// The lists of runners that are watched, each with its own name: first those of GitHub, then those of GitLab.
    pub runners: Vec<RunnerSource>,
    /// Who is told when something happens, each with its own name.
    pub alerts: Vec<Alert>,
    /// Which logs are kept when journald has deleted them.
    pub archive: Archive,
    /// How long what was is kept.
    pub history: History,
    /// What is told to Prometheus.
    pub metrics: Metrics,
}

/// The section `[metrics]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metrics {
    /// Whether runners are also told of under the names of other exporters. Default: no.
    pub exporter_names: bool,
}

/// The section `[jobs]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jobs {
    /// The allowed prefixes, at least one.
    pub policy: Policy,
    /// How many instances of templates that were not seen before may be asked for in an hour. Default: 200.
    pub instances_per_hour: u32,
    /// What jobs may be given with their start. Default: nothing.
    pub inputs: Inputs,
}

/// The section `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once. Default: 4096, 1 to 1,000,000.
    pub max_connections: usize,
    /// Logs that are followed at once. Default: 2000, 1 to 1,000,000.
    pub max_streams: usize,
    /// Runs of one job that may wait for it. Default: 20, 1 to 10,000.
    pub max_queued_runs: usize,
    /// How long a client may take to send the head of a request, and how long a kept connection may idle.
    /// Default: 10 s, 1 s to 10 min.
    pub header_timeout: Duration,
}

/// The section `[archive]`. The last log of a job is kept whatever the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archive {
    /// Whether logs are archived at all. Default: true. Those that are archived can be read in any case.
    pub enabled: bool,
    /// How long after the end of its run a log is kept. Default: 400 days, at least 1 day.
    pub max_age: Duration,
    /// How many bytes all logs together may take of the disk. Default: 10 GiB.
    pub max_bytes: u64,
    /// How many logs of each job are kept. Default: 1000, 1 to 1,000,000.
    pub max_runs_per_job: NonZeroUsize,
    /// How many bytes of the file system are left free. Default: 1 GiB.
    pub keep_free: u64,
}

impl Settings {
    /// Reads the settings from the file at `path`.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Read`], or [`Error::Invalid`] with the first mistake.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = read_file(path, "ci-bridge init --prefix ci-test-")?;
        Self::parse(&text).map_err(|fault| Error::Invalid { path: path.to_owned(), fault })
    }

    /// Parses the text of a settings file.
    ///
    /// # Errors
    /// The first mistake: invalid TOML, a wrong value, an unknown key, or a missing one, in this order.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let document = Document::parse(text)?;
        let root = document.root();
        let listen = listen(&root)?;
        let query_tokens = root.get("query_tokens").map(|value| value.parsed(QueryTokens::parse)).transpose()?;
        let tokens_file = absolute_path(&root, "tokens_file", TOKENS_FILE)?;
        let state_directory = absolute_path(&root, "state_directory", STATE_DIRECTORY)?;
        let jobs = root.section("jobs")?;
        let prefixes = prefixes(&jobs)?;
        let instances_per_hour = number(&jobs, "instances_per_hour", 200, 1_000_000)?;
        let inputs = inputs::inputs(&jobs, prefixes.as_deref())?;
        let limits = limits(&root.section("limits")?)?;
        let runners = runners::runners(&root)?;
        let alerts = alerts::alerts(&root, &runners)?;
        let archive = archive(&root.section("archive")?)?;
        let history = History::read(&root.section("history")?)?;
        let exporter_names = flag(&root.section("metrics")?, "exporter_names")?;

        document.refuse_unknown()?;
        let prefixes = prefixes
            .filter(|prefixes| !prefixes.is_empty())
            .ok_or_else(|| Fault::new("no job is allowed; add a section `[jobs]` with `prefixes = [\"ci-test-\"]`"))?;
        Ok(Self {
            listen,
            query_tokens: query_tokens.unwrap_or_default(),
            tokens_file,
            state_directory,
            jobs: Jobs { policy: Policy::new(prefixes), instances_per_hour, inputs },
            limits,
            runners,
            alerts,
            archive,
            history,
            metrics: Metrics { exporter_names },
        })
    }
}

fn listen(root: &Section<'_>) -> Result<Vec<Listen>, Fault> {
    let Some(value) = root.get("listen") else { return Ok(vec![Listen::default_address()]) };
    let mut addresses: Vec<Listen> = Vec::new();
    for element in value.one_or_more() {
        let address = element.parsed(str::parse)?;
        if addresses.contains(&address) {
            return Err(element.fault(format!("`{address}` is there twice; remove one")));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn prefixes(jobs: &Section<'_>) -> Result<Option<Vec<Prefix>>, Fault> {
    let Some(value) = jobs.get("prefixes") else { return Ok(None) };
    let mut prefixes: Vec<Prefix> = Vec::new();
    for element in value.list()? {
        let prefix = element.parsed(Prefix::parse)?;
        if prefixes.contains(&prefix) {
            return Err(element.fault(format!("`{}` is there twice; remove one", prefix.as_str())));
        }
        prefixes.push(prefix);
    }
    Ok(Some(prefixes))
}

fn limits(limits: &Section<'_>) -> Result<Limits, Fault> {
    Ok(Limits {
        max_connections: number(limits, "max_connections", 4096, 1_000_000)? as usize,
        max_streams: number(limits, "max_streams", 2000, 1_000_000)? as usize,
        max_queued_runs: number(limits, "max_queued_runs", 20, 10_000)? as usize,
        header_timeout: timeout(limits, "header_timeout", Duration::from_secs(10))?,
    })
}

fn archive(archive: &Section<'_>) -> Result<Archive, Fault> {
    Ok(Archive {
        enabled: archive.get("enabled").map_or(Ok(true), |value| value.flag())?,
        max_age: age(archive, "max_age", 400 * DAY)?,
        max_bytes: size(archive, "max_bytes", 10 << 30)?,
        max_runs_per_job: NonZeroUsize::new(number(archive, "max_runs_per_job", 1000, 1_000_000)? as usize)
            .unwrap_or(NonZeroUsize::MIN),
        keep_free: size(archive, "keep_free", 1 << 30)?,
    })
}

/// A switch that is off unless it is on.
fn flag(section: &Section<'_>, key: &str) -> Result<bool, Fault> {
    section.get(key).map_or(Ok(false), |value| value.flag())
}

fn age(section: &Section<'_>, key: &str, default: Duration) -> Result<Duration, Fault> {
    let Some(value) = section.get(key) else { return Ok(default) };
    let age = value.parsed(parse_duration)?;
    if age < DAY { Err(value.fault("choose `1d` or more")) } else { Ok(age) }
}

fn size(section: &Section<'_>, key: &str, default: u64) -> Result<u64, Fault> {
    section.get(key).map_or(Ok(default), |value| value.parsed(parse_size))
}

fn number(section: &Section<'_>, key: &str, default: u32, max: u32) -> Result<u32, Fault> {
    section.get(key).map_or(Ok(default), |value| value.number(1..=max))
}

fn timeout(section: &Section<'_>, key: &str, default: Duration) -> Result<Duration, Fault> {
    let Some(value) = section.get(key) else { return Ok(default) };
    let timeout = value.parsed(parse_duration)?;
    if timeout < Duration::from_secs(1) || timeout > Duration::from_mins(10) {
        return Err(value.fault("choose between `1s` and `10m`"));
    }
    Ok(timeout)
}

fn absolute_path(section: &Section<'_>, key: &str, default: &str) -> Result<PathBuf, Fault> {
    section.get(key).map_or_else(|| Ok(default.into()), |value| absolute(&value))
}

fn absolute(value: &Value<'_>) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(value.text()?);
    if !path.is_absolute() {
        return Err(value.fault(format!("`{}` must start with `/`", path.display())));
    }
    Ok(path)
}

#[cfg(test)]
mod tests;

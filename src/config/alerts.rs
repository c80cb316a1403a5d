//! Who is told when something happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::{Host, Url};

use super::{Fault, RunnerSource, Section, SourceName, Value, absolute};

/// One `[[alerts]]`: a place that is told, of what, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct Alert {
    /// What the administrator calls it; unique among all of them, of the form of a [`SourceName`].
    pub name: String,
    /// Where it is sent. Whoever knows the address of a chat can often write to it, so it is shown to nobody.
    pub address: Address,
    /// What it looks like. Default: JSON.
    pub format: AlertFormat,
    /// What it tells of. Default: that a runner was created or removed, or is online or offline.
    pub events: BTreeSet<AlertEvent>,
    /// The jobs that `job.failed` and `job.lost` are told of. Default: all.
    pub jobs: Vec<JobPattern>,
    /// The lists of runners of which it tells; `None` for all. Default: all.
    pub sources: Option<BTreeSet<SourceName>>,
    /// The file with what signs the messages, or lets them in. Its path is absolute.
    pub secret_file: Option<PathBuf>,
    /// Whether it may be sent to an address of a private network, or of this machine. Default: no.
    pub allow_private: bool,
}

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alert").field("name", &self.name).field("format", &self.format).finish_non_exhaustive()
    }
}

/// The address of an alert's target.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// It stands in the settings.
    Url(Url),
    /// It is the first line of a file, with an absolute path.
    File(PathBuf),
}

/// What an alert looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlertFormat {
    /// The event as a JSON object.
    Json,
    /// An incoming webhook of Slack, or of what takes the same.
    Slack,
    /// A webhook of Discord.
    Discord,
    /// A message into a room of Matrix.
    Matrix,
    /// A message to a topic of ntfy.
    Ntfy,
    /// What templates make of it.
    Template {
        /// The files of the templates, with absolute paths. What has none is told as JSON.
        files: BTreeMap<AlertEvent, PathBuf>,
        /// The type of what they make. Default: `application/json`.
        content_type: String,
    },
}

/// Something that can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AlertEvent {
    /// A service lists a runner that it did not list before.
    Created,
    /// It no longer lists one.
    Removed,
    /// A runner is connected, for longer than the grace.
    Online,
    /// It is not, for longer than the grace.
    Offline,
    /// Its state changes again and again.
    Flapping,
    /// A list of runners can't be read, and their states are not known.
    SourceUnreachable,
    /// It can be again.
    SourceRecovered,
    /// A run of a job has failed.
    JobFailed,
    /// Nobody knows how a run has ended.
    JobLost,
    /// The bridge can't write its history, or archive logs.
    StorageFailed,
    /// It can again.
    StorageRecovered,
}

impl AlertEvent {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Created,
        Self::Removed,
        Self::Online,
        Self::Offline,
        Self::Flapping,
        Self::SourceUnreachable,
        Self::SourceRecovered,
        Self::JobFailed,
        Self::JobLost,
        Self::StorageFailed,
        Self::StorageRecovered,
    ];
    /// Those that are told of unless `events` says otherwise.
    const DEFAULT: [Self; 4] = [Self::Created, Self::Removed, Self::Online, Self::Offline];

    /// The type of the event in what is sent, such as `runner.offline`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Created => "runner.created",
            Self::Removed => "runner.removed",
            Self::Online => "runner.online",
            Self::Offline => "runner.offline",
            Self::Flapping => "runner.flapping",
            Self::SourceUnreachable => "source.unreachable",
            Self::SourceRecovered => "source.recovered",
            Self::JobFailed => "job.failed",
            Self::JobLost => "job.lost",
            Self::StorageFailed => "storage.failed",
            Self::StorageRecovered => "storage.recovered",
        }
    }

    /// The word of the configuration: the type, for runners without `runner.`.
    fn word(self) -> &'static str {
        self.kind().trim_start_matches("runner.")
    }
}

impl FromStr for AlertEvent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|event| [event.word(), event.kind()].contains(&text)).ok_or_else(|| {
            let words: Vec<_> = Self::ALL.iter().map(|event| format!("`{}`", event.word())).collect();
            format!("`{text}` is no event; choose of {}", words.join(", "))
        })
    }
}

/// Names of jobs: one name, or the beginning of names with a `*` at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPattern(String);

impl JobPattern {
    /// Whether it means the job of that name.
    #[must_use]
    pub fn matches(&self, job: &str) -> bool {
        self.0.strip_suffix('*').map_or(self.0 == job, |beginning| job.starts_with(beginning))
    }
}

impl FromStr for JobPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_.-@\\".contains(&byte);
        let name = text.strip_suffix('*').unwrap_or(text);
        if !text.is_empty() && name.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("`{text}` is no name of a job; write `ci-test-build`, or `ci-test-*` for all that begin so"))
        }
    }
}

/// Reads `[[alerts]]`; `sources` are the lists of runners that there are.
pub(super) fn alerts(root: &Section<'_>, sources: &[RunnerSource]) -> Result<Vec<Alert>, Fault> {
    let mut alerts: Vec<Alert> = Vec::new();
    for section in root.sections("alerts")? {
        let alert = alert(&section, sources)?;
        if alerts.iter().any(|known| known.name == alert.name) {
            return Err(section.fault(format!("`{}` is there twice; give each alert its own name", alert.name)));
        }
        alerts.push(alert);
    }
    Ok(alerts)
}

fn alert(section: &Section<'_>, known: &[RunnerSource]) -> Result<Alert, Fault> {
    let name: SourceName = section.require("name", "name = \"ops\"")?.parsed(str::parse)?;
    let allow_private = section.get("allow_private").map_or(Ok(false), |value| value.flag())?;
    let secret_file = section.get("secret_file");
    let format = format(section)?;
    if let (Some(secret), AlertFormat::Slack | AlertFormat::Discord) = (&secret_file, &format) {
        return Err(secret.fault("Slack and Discord take none: their secret is in `url`"));
    }
    if format == AlertFormat::Matrix && secret_file.is_none() {
        return Err(section.fault("a room of Matrix needs `secret_file`, with the access token of its user"));
    }
    let address = match section.get("url_file") {
        None => {
            let url = section.require("url", "url = \"https://hooks.example.com/…\"")?;
            Address::Url(url.parsed(|text| alert_target(text, &format, allow_private))?)
        }
        Some(file) if section.get("url").is_some() => {
            return Err(file.fault("`url` is there too; remove one of them"));
        }
        Some(file) => Address::File(absolute(&file)?),
    };
    let events = match section.get("events") {
        None => AlertEvent::DEFAULT.into(),
        Some(value) => value.list()?.iter().map(|event| event.parsed(str::parse)).collect::<Result<_, _>>()?,
    };
    let jobs = match section.get("jobs") {
        None => vec![JobPattern("*".to_owned())],
        Some(value) => value.list()?.iter().map(|job| job.parsed(str::parse)).collect::<Result<_, _>>()?,
    };
    let sources = match section.get("sources") {
        None => None,
        Some(value) => {
            let names = value.list()?;
            let names = names.iter().map(|name| name.parsed(|text| source(text, known)));
            Some(names.collect::<Result<_, _>>()?)
        }
    };
    Ok(Alert {
        name: name.to_string(),
        address,
        format,
        events,
        jobs,
        sources,
        secret_file: secret_file.map(|value| absolute(&value)).transpose()?,
        allow_private,
    })
}

/// The name of a list of runners that there is.
fn source(text: &str, known: &[RunnerSource]) -> Result<SourceName, String> {
    known.iter().map(|source| &source.name).find(|name| name.as_str() == text).cloned().ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|source| format!("`{}`", source.name)).collect();
        let names =
            if names.is_empty() { "there is none".to_owned() } else { format!("choose of {}", names.join(", ")) };
        format!("`{text}` is no list of runners; {names}")
    })
}

fn format(section: &Section<'_>) -> Result<AlertFormat, Fault> {
    let templates = section.get("templates");
    let table = section.section("templates")?;
    let mut files = BTreeMap::new();
    for event in AlertEvent::ALL {
        if let Some(value) = table.get(&event.word().replace('.', "_")) {
            files.insert(event, absolute(&value)?);
        }
    }
    let content_type = section.get("content_type");
    let name = section.get("format");
    let format = match name.as_ref().map_or(Ok("json"), Value::text)? {
        "json" => AlertFormat::Json,
        "slack" => AlertFormat::Slack,
        "discord" => AlertFormat::Discord,
        "matrix" => AlertFormat::Matrix,
        "ntfy" => AlertFormat::Ntfy,
        "template" => {
            if files.is_empty() {
                return Err(section.fault("there is no template; write `templates.offline = \"/etc/ci-bridge/FILE\"`"));
            }
            let content_type = content_type.map(|value| value.parsed(header_value)).transpose()?;
            let content_type = content_type.unwrap_or_else(|| "application/json".to_owned());
            return Ok(AlertFormat::Template { files, content_type });
        }
        other => {
            let what =
                format!("`{other}` is no format; choose of `json`, `slack`, `discord`, `matrix`, `ntfy`, `template`");
            return Err(name.map_or_else(|| Fault::new(&what), |value| value.fault(&what)));
        }
    };
    match templates.or(content_type) {
        Some(value) => Err(value.fault("only `format = \"template\"` has this")),
        None => Ok(format),
    }
}

fn header_value(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        Ok(text.to_owned())
    } else {
        Err("a type is written like `text/plain; charset=utf-8`".to_owned())
    }
}

/// The address of an alert's target, as it stands in the settings or in a file.
///
/// # Errors
/// What is wrong with it; that does not repeat it.
pub(crate) fn alert_target(text: &str, format: &AlertFormat, allow_private: bool) -> Result<Url, &'static str> {
    const FORM: &str = "this is no address; write `https://hooks.example.com/…`";
    // A parser of addresses passes over the ends of lines.
    let url: Url = text.parse().ok().filter(|_| !text.contains(['\n', '\r', '\t'])).ok_or(FORM)?;
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => {}
        ("http", Some(_)) if allow_private => {}
        ("http", Some(_)) => {
            return Err(
                "this would send alerts in the clear; write `https://`, or `allow_private = true` for a target in \
                        your own network",
            );
        }
        _ => return Err(FORM),
    }
    if url.host() == Some(Host::Domain("")) || !url.username().is_empty() || url.password().is_some() {
        return Err("the address must have a host and no user");
    }
    if *format == AlertFormat::Matrix && !url.path().ends_with("/send/m.room.message") {
        return Err(
            "write `https://HOST/_matrix/client/v3/rooms/ROOM/send/m.room.message`, with `%21` for the `!` of the room",
        );
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    const OPS: &str = "[[alerts]]\nname = \"ops\"\nurl = \"https://hooks.example.com/s3cret\"\n";

    fn parse(text: &str) -> Result<Vec<Alert>, Fault> {
        Settings::parse(&format!("jobs.prefixes = [\"ci-test-\"]\n{text}")).map(|settings| settings.alerts)
    }

    fn one(text: &str) -> Alert {
        parse(&format!("{OPS}{text}")).unwrap().remove(0)
    }

    fn fault(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn without_a_section_nobody_is_told() {
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn the_smallest_section_has_a_default_for_everything_else() {
        let expected = Alert {
            name: "ops".to_owned(),
            address: Address::Url("https://hooks.example.com/s3cret".parse().unwrap()),
            format: AlertFormat::Json,
            events: [AlertEvent::Created, AlertEvent::Removed, AlertEvent::Online, AlertEvent::Offline].into(),
            jobs: vec![JobPattern("*".to_owned())],
            sources: None,
            secret_file: None,
            allow_private: false,
        };
        assert_eq!(one(""), expected);
    }

    #[test]
    fn every_key_is_read() {
        let alert = one(concat!(
            "format = \"template\"\ncontent_type = \"text/plain\"\nallow_private = true\n",
            "events = [\"offline\", \"runner.flapping\", \"job.lost\"]\njobs = [\"ci-test-*\"]\n",
            "secret_file = \"/s\"\ntemplates.offline = \"/o\"\ntemplates.job_lost = \"/l\"\n",
        ));
        let files = [(AlertEvent::Offline, "/o".into()), (AlertEvent::JobLost, "/l".into())].into();
        assert_eq!(alert.format, AlertFormat::Template { files, content_type: "text/plain".to_owned() });
        assert_eq!(alert.events, [AlertEvent::Offline, AlertEvent::Flapping, AlertEvent::JobLost].into());
        assert_eq!((alert.secret_file, alert.allow_private), (Some("/s".into()), true));
        assert!(alert.jobs[0].matches("ci-test-a") && !alert.jobs[0].matches("ci-tes"));
    }

    #[test]
    fn an_alert_may_tell_of_some_lists_only_and_have_its_address_in_a_file() {
        let list = "[[runners.github]]\nname = \"acme\"\norganization = \"acme\"\ntoken_file = \"/t\"\n";
        let alert = "[[alerts]]\nname = \"ops\"\nurl_file = \"/u\"\nsources = [\"acme\"]\n";
        let alert = parse(&format!("{list}{alert}")).unwrap().remove(0);
        assert_eq!(alert.sources, Some(["acme".parse().unwrap()].into()));
        assert!(alert.address == Address::File("/u".into()));
    }

    #[test]
    fn a_mistake_says_what_to_write() {
        let with = |text: &str| fault(&format!("{OPS}{text}"));
        for (found, part) in [
            (fault("[[alerts]]\nurl = \"https://a.example\"\n"), "`alerts[0].name` is missing"),
            (fault("[[alerts]]\nname = \"ops\"\n"), "`alerts[0].url` is missing"),
            (fault(&format!("{OPS}{OPS}")), "`ops` is there twice"),
            (with("format = \"teams\""), "`teams` is no format"),
            (with("events = [\"down\"]"), "`down` is no event; choose of `created`"),
            (with("jobs = [\"ci-*-a\"]"), "`ci-*-a` is no name of a job"),
            (with("format = \"template\""), "there is no template"),
            (with("templates.online = \"/o\""), "only `format = \"template\"` has this"),
            (with("content_type = \"text/plain\""), "only `format = \"template\"` has this"),
            (with("format = \"slack\"\nsecret_file = \"/s\""), "take none"),
            (with("format = \"matrix\""), "needs `secret_file`"),
            (with("format = \"matrix\"\nsecret_file = \"/s\""), "/send/m.room.message"),
            (
                with("format = \"template\"\ntemplates.offline = \"/o\"\ntemplates.down = \"/o\""),
                "unknown key `alerts.templates.down`",
            ),
            (with("secret_file = \"s\""), "must start with `/`"),
            (with("url_file = \"/u\""), "`url` is there too"),
            (with("sources = [\"acme\"]"), "`acme` is no list of runners; there is none"),
        ] {
            assert!(found.contains(part), "{found}");
        }
    }

    #[test]
    fn an_address_in_the_clear_is_for_the_own_network_and_no_mistake_repeats_it() {
        let url = |url: &str, rest: &str| parse(&format!("[[alerts]]\nname = \"ops\"\nurl = \"{url}\"\n{rest}"));
        assert!(url("http://10.0.0.1/s3cret", "allow_private = true").is_ok());
        for wrong in ["http://10.0.0.1/s3cret", "ftp://a.example/s3cret", "s3cret", "https://me:s3cret@a.example", ""] {
            let fault = url(wrong, "").unwrap_err().to_string();
            assert!(!fault.contains("s3cret"), "{fault}");
        }
        assert!(!format!("{:?}", one("")).contains("s3cret"));
    }
}

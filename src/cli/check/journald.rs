//! What journald keeps, by its configuration.
//!
//! Read from its files and not asked for: journald tells nobody. What was changed since it was started counts all the
//! same; a remedy restarts it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::drop_in;
use super::finding::Finding;
use crate::cli::files::{Files, read_if_there};
use crate::config::parse_duration;

/// Where the configuration is; what is in the first counts most.
///
/// Source: `journald.conf(5)`.
const PLACES: [&str; 4] = ["/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"];

/// systemd's names of the levels of syslog, from 0 to 7.
pub(super) const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// Has journald write to the disk, readable for its group: a directory that is only made is root's alone.
///
/// Source: `systemd-journald.service(8)`.
const KEEP: &str = "mkdir -p /var/log/journal && systemd-tmpfiles --create --prefix /var/log/journal && \
                    systemctl restart systemd-journald && journalctl --flush";

/// So many lines in so much time; journald drops the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RateLimit {
    pub(super) interval: Duration,
    pub(super) burst: u32,
}

impl RateLimit {
    /// journald's own, if nothing is configured.
    const DEFAULT: Self = Self { interval: Duration::from_secs(30), burst: 10_000 };

    /// Whether it can ever drop a line. journald takes less than a line in a microsecond.
    pub(super) fn drops(self) -> bool {
        self.interval.as_micros() > u128::from(self.burst) && self.burst > 0
    }
}

/// `Storage=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    None,
    Volatile,
    /// `persistent` or `auto`: on disk, if the disk can be written to and has the directory.
    Disk,
}

/// One line of a configuration file.
#[derive(Debug)]
struct Assignment {
    key: String,
    value: String,
    file: PathBuf,
}

/// The configuration of the journald of one namespace.
#[derive(Debug)]
pub(super) struct Configuration(Vec<Assignment>);

impl Configuration {
    /// Reads it; `namespace` is empty for the journald of the system.
    pub(super) fn read(files: &Files, namespace: &str) -> anyhow::Result<Self> {
        let name = if namespace.is_empty() { "journald".to_owned() } else { format!("journald@{namespace}") };
        let places: Vec<_> = PLACES.iter().map(|place| files.below_root(place)).collect();
        let paths = paths(&places, &name).with_context(|| format!("failed to list the configuration of {name}"))?;
        let mut all = Vec::new();
        for path in paths {
            match fs::read(&path) {
                Ok(text) => all.extend(assignments(&String::from_utf8_lossy(&text), &path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("failed to read {}", path.display())),
            }
        }
        Ok(Self(all))
    }

    /// The limit for a unit that sets none.
    pub(super) fn rate_limit(&self) -> RateLimit {
        let interval = self.last(&["RateLimitIntervalSec", "RateLimitInterval"], span);
        let burst = self.last(&["RateLimitBurst"], |value| value.parse().ok());
        let limit = RateLimit {
            interval: interval.map_or(RateLimit::DEFAULT.interval, |(interval, _)| interval),
            burst: burst.map_or(RateLimit::DEFAULT.burst, |(burst, _)| burst),
        };
        // One that is zero switches off both, so that a unit which sets only the other has no limit either.
        if limit.interval.is_zero() || limit.burst == 0 {
            RateLimit { interval: Duration::ZERO, burst: 0 }
        } else {
            limit
        }
    }

    /// Whether journald keeps the lines of all units, and beyond a reboot.
    pub(super) fn findings(&self, files: &Files) -> anyhow::Result<Vec<Finding>> {
        let mut findings = vec![self.storage(files)?];
        // Also `info` is too little: a debug message of its own tells the bridge that the log of a run is whole.
        if let Some((level, file)) = self.last(&["MaxLevelStore"], level).filter(|(level, _)| *level != "debug") {
            let what = format!(
                "keeps no line less important than {level}, so no log can be known to be whole (MaxLevelStore= in {})",
                file.display()
            );
            let setting = drop_in::of_journald("zz-level.conf", &["MaxLevelStore=debug".to_owned()]);
            let remedy = format!("{setting} && systemctl restart systemd-journald");
            findings.push(Finding::warning("journal", what, &remedy));
        }
        Ok(findings)
    }

    fn storage(&self, files: &Files) -> anyhow::Result<Finding> {
        let set = self.last(&["Storage"], |value| match value {
            "none" => Some(Storage::None),
            "volatile" => Some(Storage::Volatile),
            "auto" | "persistent" => Some(Storage::Disk),
            _ => None,
        });
        let id = read_if_there(&files.below_root("/etc/machine-id"))?.unwrap_or_default();
        let directory = files.below_root("/var/log/journal").join(id.trim());
        Ok(match set {
            Some((Storage::None, file)) => {
                let what = format!("keeps nothing, so there are no logs (Storage=none in {})", file.display());
                Finding::failure("journal", what, &persistent())
            }
            Some((Storage::Volatile, file)) => {
                let what = "is in memory only, so a reboot loses the logs of all runs";
                let what = format!("{what} (Storage=volatile in {})", file.display());
                Finding::warning("journal", what, &persistent())
            }
            Some((Storage::Disk, _)) | None if !id.trim().is_empty() && directory.is_dir() => {
                Finding::ok("journal", format!("kept in {}", directory.display()))
            }
            Some((Storage::Disk, _)) | None => {
                let what = "is in memory only, so a reboot loses the logs of all runs";
                Finding::warning("journal", what.to_owned(), KEEP)
            }
        })
    }

    /// The last value of these keys that journald understands, and the file that sets it; it ignores the others.
    fn last<T>(&self, keys: &[&str], parse: impl Fn(&str) -> Option<T>) -> Option<(T, &Path)> {
        let mut of_keys = self.0.iter().rev().filter(|assignment| keys.contains(&assignment.key.as_str()));
        of_keys.find_map(|found| Some((parse(&found.value)?, found.file.as_path())))
    }
}

/// Has journald keep what it gets on disk, whatever its configuration says.
pub(super) fn persistent() -> String {
    let setting = drop_in::of_journald("zz-storage.conf", &["Storage=persistent".to_owned()]);
    format!("{setting} && {KEEP}")
}

/// The files in the order in which they count: the main file, then the drop-ins by name.
fn paths(places: &[PathBuf], name: &str) -> io::Result<Vec<PathBuf>> {
    let main = places.iter().map(|place| place.join(format!("{name}.conf"))).find(|path| path.exists());
    let mut drop_ins = BTreeMap::new();
    // Of two with the same name only the one in the first place counts.
    for place in places.iter().rev() {
        let entries = match fs::read_dir(place.join(format!("{name}.conf.d"))) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.path().extension().is_some_and(|kind| kind == "conf") {
                drop_ins.insert(entry.file_name(), entry.path());
            }
        }
    }
    Ok(main.into_iter().chain(drop_ins.into_values()).collect())
}

fn assignments(text: &str, file: &Path) -> Vec<Assignment> {
    let mut section = "";
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if line.starts_with('[') {
            section = line;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| section == "[Journal]") {
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            found.push(Assignment { key, value, file: file.to_owned() });
        }
    }
    found
}

/// A length of time; a number alone is of seconds.
///
/// Source: `systemd.time(7)`.
fn span(text: &str) -> Option<Duration> {
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) if text == "infinity" => Some(Duration::MAX),
        Err(_) => parse_duration(text).ok(),
    }
}

/// The name of a level that is given by its name or number.
fn level(text: &str) -> Option<&'static str> {
    let number = text.parse().ok().and_then(|level: usize| LEVELS.get(level));
    number.or_else(|| LEVELS.iter().find(|level| **level == text)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(text: &str) -> Configuration {
        Configuration(assignments(text, Path::new("/x.conf")))
    }

    #[test]
    fn without_a_setting_the_limit_is_the_one_of_the_manual() {
        for text in ["", "[Journal]\n#RateLimitBurst=0\n", "RateLimitBurst=0\n", "[Other]\nRateLimitBurst=0\n"] {
            assert_eq!(configuration(text).rate_limit(), RateLimit::DEFAULT, "{text}");
        }
        assert!(RateLimit::DEFAULT.drops());
    }

    #[test]
    fn a_zero_switches_the_limit_off() {
        for text in [
            "[Journal]\nRateLimitBurst=0",
            "[Journal]\nRateLimitIntervalSec=0\n",
            "[Journal]\nRateLimitInterval = 0s\n",
            "[Journal]\nRateLimitBurst=5\nRateLimitBurst=0\nRateLimitBurst=many\n",
        ] {
            assert!(!configuration(text).rate_limit().drops(), "{text}");
        }
        assert!(configuration("[Journal]\nRateLimitBurst=0\nRateLimitBurst=5\n").rate_limit().drops());
    }

    #[test]
    fn a_limit_that_is_faster_than_journald_drops_nothing() {
        let drops = |interval: &str| {
            configuration(&format!("[Journal]\nRateLimitIntervalSec={interval}\n")).rate_limit().drops()
        };
        assert!(!drops("1us") && !drops("10ms"));
        assert!(drops("11ms") && drops("5") && drops("1min 30s") && drops("infinity"));
    }

    #[test]
    fn a_level_has_a_name_and_a_number() {
        assert_eq!((level("notice"), level("5"), level("7")), (Some("notice"), Some("notice"), Some("debug")));
        assert_eq!((level("8"), level("loud"), level("")), (None, None, None));
    }

    #[test]
    fn drop_ins_count_by_name_and_a_name_counts_once() {
        let root = tempfile::tempdir().unwrap();
        let places: Vec<_> = ["etc", "run", "lib"].iter().map(|place| root.path().join(place)).collect();
        let write = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        assert_eq!(paths(&places, "journald").unwrap(), [] as [PathBuf; 0]);
        for path in [
            "lib/journald.conf",
            "run/journald.conf",
            "lib/journald.conf.d/10-a.conf",
            "lib/journald.conf.d/50-b.conf",
            "etc/journald.conf.d/10-a.conf",
            "run/journald.conf.d/20-c.conf",
            "etc/journald.conf.d/30-d.conf.dpkg-old",
            "etc/journald@ci.conf.d/60-e.conf",
        ] {
            write(path);
        }
        let expected = ["run/journald.conf", "etc/journald.conf.d/10-a.conf"]
            .into_iter()
            .chain(["run/journald.conf.d/20-c.conf", "lib/journald.conf.d/50-b.conf"])
            .map(|path| root.path().join(path));
        assert!(paths(&places, "journald").unwrap().into_iter().eq(expected));
        assert_eq!(paths(&places, "journald@ci").unwrap(), [root.path().join("etc/journald@ci.conf.d/60-e.conf")]);
    }
}

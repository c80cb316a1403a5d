//! What a unit's settings do to the lines of its job on their way to the journal.

use std::collections::HashMap;
use std::time::Duration;

use zbus::Variant;

/// The settings of a unit that can keep lines of its job out of the journal.
///
/// Source: `systemd.exec(5)`, "Logging and Standard Input/Output".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// `StandardOutput=`, without what may follow a colon.
    pub stdout: String,
    /// `StandardError=`, without what may follow a colon.
    pub stderr: String,
    /// `LogLevelMax=`, from 0, emergency, to 7, debug; `None` if it is not set.
    pub level_max: Option<u8>,
    /// Whether there are `LogFilterPatterns=` (systemd 253 and newer).
    pub filtered: bool,
    /// `LogNamespace=`; empty for the journal of the system.
    pub namespace: String,
    /// `LogRateLimitIntervalSec=`; `None` if it is not set or 0, which is the same to systemd.
    pub limit_interval: Option<Duration>,
    /// `LogRateLimitBurst=`; `None` if it is not set or 0, which is the same to systemd.
    pub limit_burst: Option<u32>,
}

impl LogSettings {
    /// Reads the properties of a `GetAll` reply; those that are not there count as not set.
    ///
    /// Source: `org.freedesktop.systemd1(5)`, interface `Service`.
    pub(super) fn from_properties(properties: &HashMap<&str, Variant<'_>>) -> Self {
        let mut settings = Self::default();
        for (name, value) in properties {
            match (*name, value) {
                ("StandardOutput", Variant::Str(word)) => settings.stdout = word.to_string(),
                ("StandardError", Variant::Str(word)) => settings.stderr = word.to_string(),
                // -1 means that it is not set.
                ("LogLevelMax", Variant::I32(level)) => settings.level_max = u8::try_from(*level).ok(),
                ("LogFilterPatterns", Variant::Array(patterns)) => settings.filtered = !patterns.inner().is_empty(),
                ("LogNamespace", Variant::Str(namespace)) => settings.namespace = namespace.to_string(),
                ("LogRateLimitIntervalUSec", Variant::U64(usec)) if *usec > 0 => {
                    settings.limit_interval = Some(Duration::from_micros(*usec));
                }
                ("LogRateLimitBurst", Variant::U32(burst)) if *burst > 0 => settings.limit_burst = Some(*burst),
                _ => {}
            }
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_of_a_unit_that_sets_nothing_is_no_limit_and_no_filter() {
        let settings = LogSettings::from_properties(&HashMap::from([
            ("StandardOutput", Variant::from("journal")),
            ("StandardError", Variant::from("inherit")),
            ("LogLevelMax", Variant::from(-1)),
            ("LogFilterPatterns", Variant::from(Vec::<(bool, &str)>::new())),
            ("LogNamespace", Variant::from("")),
            ("LogRateLimitIntervalUSec", Variant::from(0_u64)),
            ("LogRateLimitBurst", Variant::from(0_u32)),
        ]));
        let expected =
            LogSettings { stdout: "journal".to_owned(), stderr: "inherit".to_owned(), ..LogSettings::default() };
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_a_unit_sets_is_read() {
        let settings = LogSettings::from_properties(&HashMap::from([
            ("StandardOutput", Variant::from("file")),
            ("StandardError", Variant::from("null")),
            ("LogLevelMax", Variant::from(4)),
            ("LogFilterPatterns", Variant::from(vec![(false, "password")])),
            ("LogNamespace", Variant::from("ci")),
            ("LogRateLimitIntervalUSec", Variant::from(1_u64)),
            ("LogRateLimitBurst", Variant::from(500_u32)),
        ]));
        let expected = LogSettings {
            stdout: "file".to_owned(),
            stderr: "null".to_owned(),
            level_max: Some(4),
            filtered: true,
            namespace: "ci".to_owned(),
            limit_interval: Some(Duration::from_micros(1)),
            limit_burst: Some(500),
        };
        assert_eq!(settings, expected);
    }
}

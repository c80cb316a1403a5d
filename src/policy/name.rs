//! The grammar of a job's name, and the escaping of an instance.
//!
//! A job is the name of a service unit without `.service`. The grammar is narrower than the one of
//! `systemd.unit(5)`: no backslash, one `@` at the most, no `..`. What does not fit is refused with the rule that it
//! broke; nothing is ever cleaned up and then used.

use std::fmt;

/// The longest unit name that systemd accepts, in bytes, with the suffix (`UNIT_NAME_MAX` less its final NUL).
const UNIT_NAME_MAX: usize = 255;

const SERVICE_SUFFIX: &str = ".service";

/// The unit types of `systemd.unit(5)`: a job's name carries none of them.
const UNIT_SUFFIXES: [&str; 11] = [
    ".service",
    ".socket",
    ".device",
    ".mount",
    ".automount",
    ".swap",
    ".target",
    ".path",
    ".timer",
    ".slice",
    ".scope",
];

/// The rule that a name broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no character.
    #[error("a job name must not be empty")]
    Empty,
    /// The unit would be longer than systemd accepts.
    #[error("a job name must fit, with `.service`, into {UNIT_NAME_MAX} bytes")]
    TooLong,
    /// A character outside the grammar.
    #[error("a job name consists of [A-Za-z0-9:_.-] and at most one `@`; pass any other text as ?instance=")]
    Charset,
    /// More than one `@`, or one in the first place.
    #[error("a job name has at most one `@`, and not as its first character")]
    At,
    /// A name that starts like an option or a hidden file.
    #[error("a job name starts with a letter or a digit")]
    Start,
    /// The suffix of a unit type is there.
    #[error("a job is named without its unit suffix: `ci-test-hello`, not `ci-test-hello.service`")]
    Suffix,
    /// Two dots in a row, which a unit that unescapes its instance into a path would follow upwards.
    #[error("a job name or an instance must not contain `..`")]
    DotDot,
    /// `?instance=` on a job that is no template.
    #[error("?instance= goes with a template, a job whose name ends in `@`: `ci-test-build@`")]
    NotATemplate,
    /// A template where a runnable job is asked for.
    #[error("`@` at the end names a template; add ?instance=VALUE")]
    InstanceMissing,
    /// An empty `?instance=`.
    #[error("?instance= must not be empty")]
    InstanceEmpty,
    /// A control character in `?instance=`.
    #[error("?instance= must not contain control characters")]
    InstanceControl,
}

/// A well-formed job name: a unit name without `.service`.
///
/// At most 247 bytes of `[A-Za-z0-9:_.@-]`, plus `\xNN` escapes in an instance that came through
/// [`JobName::with_instance`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobName(String);

impl JobName {
    /// Parses a name as it stands in a URL or a command line.
    ///
    /// # Errors
    /// The [`NameError`] says which rule the text broke.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if !text.bytes().all(|byte| is_plain(byte) || byte == b'@') {
            return Err(NameError::Charset);
        }
        Self::check(text)?;
        Ok(Self(text.to_owned()))
    }

    /// Parses a name that systemd gave, whose instance may hold `\xNN` escapes.
    ///
    /// # Errors
    /// As [`JobName::parse`], and for a unit that is no service.
    pub fn from_unit(unit: &str) -> Result<Self, NameError> {
        let name = unit.strip_suffix(SERVICE_SUFFIX).ok_or(NameError::Suffix)?;
        let (base, instance) = name.split_once('@').unwrap_or((name, ""));
        let escaped = |byte: u8| is_plain(byte) || byte == b'\\' || byte == b'@';
        if !base.bytes().all(is_plain) || !instance.bytes().all(escaped) {
            return Err(NameError::Charset);
        }
        Self::check(name)?;
        Ok(Self(name.to_owned()))
    }

    fn check(name: &str) -> Result<(), NameError> {
        if name.starts_with('@') || name.bytes().filter(|byte| *byte == b'@').count() > 1 {
            return Err(NameError::At);
        }
        if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return Err(NameError::Start);
        }
        if UNIT_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
            return Err(NameError::Suffix);
        }
        if name.contains("..") {
            return Err(NameError::DotDot);
        }
        if name.len() + SERVICE_SUFFIX.len() > UNIT_NAME_MAX {
            return Err(NameError::TooLong);
        }
        Ok(())
    }

    /// Whether the name is a template that still lacks its instance (`ci-test-build@`).
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.0.ends_with('@')
    }

    /// The template of an instance: `ci-test-build@` for `ci-test-build@main`.
    #[must_use]
    pub fn template(&self) -> Option<Self> {
        let at = self.0.find('@')?;
        (at + 1 < self.0.len()).then(|| Self(self.0[..=at].to_owned()))
    }

    /// The instance of this template for `value`, escaped as `systemd-escape(1)` does.
    ///
    /// # Errors
    /// [`NameError::NotATemplate`] if this name is no template; the rule that `value` broke otherwise.
    pub fn with_instance(&self, value: &str) -> Result<Self, NameError> {
        if !self.is_template() {
            return Err(NameError::NotATemplate);
        }
        if value.is_empty() {
            return Err(NameError::InstanceEmpty);
        }
        if value.contains("..") {
            return Err(NameError::DotDot);
        }
        if value.chars().any(char::is_control) {
            return Err(NameError::InstanceControl);
        }
        let name = format!("{}{}", self.0, escape(value));
        Self::check(&name)?;
        Ok(Self(name))
    }

    /// The text that [`JobName::with_instance`] escaped; `None` if the name has no escapes, or no UTF-8 behind them.
    #[must_use]
    pub fn escaped_value(&self) -> Option<String> {
        let (_, instance) = self.0.split_once('@').filter(|(_, instance)| instance.contains('\\'))?;
        unescape(instance)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The unit behind the job, with its suffix.
    #[must_use]
    pub fn unit(&self) -> String {
        format!("{}{SERVICE_SUFFIX}", self.0)
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Whether `byte` stands for itself in a name of the API.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'.' | b'-')
}

/// Escapes `text` for use in a unit name, byte for byte as `systemd-escape(1)` without options does.
///
/// `/` becomes `-`; a leading `.` and every byte outside `[A-Za-z0-9:_.]` become `\xNN` with lower-case digits.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        let stands = byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_') || (byte == b'.' && at > 0);
        if byte == b'/' {
            escaped.push('-');
        } else if stands {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("\\x{byte:02x}"));
        }
    }
    escaped
}

/// The text that [`escape`] made this of; `None` for what it never makes.
fn unescape(escaped: &str) -> Option<String> {
    let mut text = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    loop {
        rest = match rest {
            [] => return String::from_utf8(text).ok(),
            [b'-', rest @ ..] => {
                text.push(b'/');
                rest
            }
            [b'\\', b'x', high, low, rest @ ..] => {
                let digits = [*high, *low];
                text.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                rest
            }
            [b'\\', ..] => return None,
            [byte, rest @ ..] => {
                text.push(*byte);
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_name_is_a_unit_without_its_suffix() {
        let job = JobName::parse("ci-test-hello").unwrap();
        assert_eq!(job.unit(), "ci-test-hello.service");
        assert!(!job.is_template());
        assert_eq!(job.template(), None);
    }

    #[test]
    fn every_broken_rule_is_named() {
        let long = "a".repeat(300);
        for (text, rule) in [
            ("", NameError::Empty),
            ("../etc", NameError::Charset),
            ("ci-test-a\0", NameError::Charset),
            ("ci-test-a\n", NameError::Charset),
            ("ci-test-a\\x3bid", NameError::Charset),
            ("ci-test-a*", NameError::Charset),
            ("ci-test-[a", NameError::Charset),
            ("ci-test-é", NameError::Charset),
            ("ci-test-\u{202e}a", NameError::Charset),
            ("ci-test-a b", NameError::Charset),
            ("ci-test-a@b@c", NameError::At),
            ("@a", NameError::At),
            ("-x", NameError::Start),
            (".x", NameError::Start),
            ("ci@.service", NameError::Suffix),
            ("ci-test-a.timer", NameError::Suffix),
            ("ci-test-b@..-..-x", NameError::DotDot),
            (long.as_str(), NameError::TooLong),
        ] {
            assert_eq!(JobName::parse(text), Err(rule), "{text:?}");
        }
    }

    #[test]
    fn an_instance_is_escaped_and_remembers_its_template() {
        let template = JobName::parse("ci-test-build@").unwrap();
        let job = template.with_instance("feature/login-form").unwrap();
        assert_eq!(job.as_str(), "ci-test-build@feature-login\\x2dform");
        assert_eq!(job.template(), Some(template));
        assert_eq!(JobName::from_unit(&job.unit()), Ok(job));
    }

    #[test]
    fn an_instance_that_climbs_or_hides_is_refused() {
        let template = JobName::parse("ci-test-build@").unwrap();
        assert_eq!(template.with_instance("../../etc/passwd"), Err(NameError::DotDot));
        assert_eq!(template.with_instance("a\nb"), Err(NameError::InstanceControl));
        assert_eq!(template.with_instance(""), Err(NameError::InstanceEmpty));
        assert_eq!(template.with_instance(&"é".repeat(80)), Err(NameError::TooLong));
        let plain = JobName::parse("ci-test-hello").unwrap();
        assert_eq!(plain.with_instance("a"), Err(NameError::NotATemplate));
    }

    #[test]
    fn escaping_follows_the_manual_page() {
        for (text, escaped) in [
            ("main", "main"),
            (".hidden", "\\x2ehidden"),
            ("a.b", "a.b"),
            ("/", "-"),
            ("a-b", "a\\x2db"),
            ("a@b", "a\\x40b"),
            ("é", "\\xc3\\xa9"),
            (" ", "\\x20"),
        ] {
            assert_eq!(escape(text), escaped);
        }
    }

    proptest! {
        #[test]
        fn a_parsed_name_is_its_own_text_and_a_valid_unit(text in "\\PC{0,40}|ci-test-[a-z@.:_-]{0,20}") {
            if let Ok(job) = JobName::parse(&text) {
                prop_assert_eq!(job.as_str(), text.as_str());
                prop_assert!(job.unit().len() <= UNIT_NAME_MAX);
                prop_assert!(job.as_str().bytes().all(|byte| is_plain(byte) || byte == b'@'));
                prop_assert_eq!(JobName::from_unit(&job.unit()), Ok(job));
            }
        }

        #[test]
        fn an_escaped_text_comes_back(text in "\\PC*") {
            prop_assert_eq!(unescape(&escape(&text)), Some(text));
        }

        #[test]
        fn escaped_text_holds_only_what_a_unit_name_may(text in "\\PC*") {
            let allowed = |byte: u8| is_plain(byte) || byte == b'\\';
            prop_assert!(escape(&text).bytes().all(allowed));
        }
    }
}

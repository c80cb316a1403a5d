//! Which units the bridge may touch: a [`JobName`] becomes an [`AllowedJob`] here and nowhere else.
//!
//! Pure: no I/O, no clock, no knowledge of tokens. What depends on the state of systemd (aliases, masks, who owns the
//! unit file) is asked by `jobs` once the name has passed.

mod name;

use std::fmt;

pub use self::name::{JobName, NameError, escape};

/// Names that no prefix may open: the bridge itself, and what the system stands on.
pub(crate) const RESERVED: [&str; 5] = ["ci-bridge", "dbus", "polkit", "systemd-", "user@"];

/// The rule that a configured prefix broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Too short to mean anything.
    #[error("the prefix `{0}` is too short: at least 3 characters, such as `ci-test-`")]
    TooShort(String),
    /// A character that no unit name of a job has.
    #[error("the prefix `{0}` may only hold [A-Za-z0-9:_.-] and must start with a letter or a digit")]
    Charset(String),
    /// Without a separator at its end it would also match longer words.
    #[error("the prefix `{0}` must end in one of `-`, `_`, `.` or `:`, or it also allows longer words")]
    OpenEnd(String),
    /// It would open units of the system.
    #[error("the prefix `{0}` would allow units of the system itself; choose another, such as `ci-test-`")]
    Reserved(String),
}

/// The beginning that every allowed unit's name has, such as `ci-test-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// Parses a prefix from the configuration.
    ///
    /// # Errors
    /// The [`PrefixError`] says what to change.
    pub fn parse(text: &str) -> Result<Self, PrefixError> {
        let owned = || text.to_owned();
        if text.len() < 3 {
            return Err(PrefixError::TooShort(owned()));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'.' | b'-');
        if !text.bytes().all(plain) || !text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return Err(PrefixError::Charset(owned()));
        }
        if !text.ends_with(['-', '_', '.', ':']) {
            return Err(PrefixError::OpenEnd(owned()));
        }
        if RESERVED.iter().any(|reserved| text.starts_with(reserved)) {
            return Err(PrefixError::Reserved(owned()));
        }
        Ok(Self(owned()))
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A job that the administrator allowed.
///
/// There is no other way to one than [`Policy::admit`]; systemd and the journal are asked for nothing else.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllowedJob {
    name: JobName,
    unit: String,
}

impl AllowedJob {
    /// The job's name.
    #[must_use]
    pub fn name(&self) -> &JobName {
        &self.name
    }

    /// The unit's name, with `.service`.
    #[must_use]
    pub fn unit(&self) -> &str {
        &self.unit
    }
}

impl fmt::Debug for AllowedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, f)
    }
}

/// No allowed job has that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such job, or it is not allowed")]
pub struct NotAllowed;

/// The administrator's prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    prefixes: Vec<Prefix>,
}

impl Policy {
    /// A policy that allows what starts with one of `prefixes`; an empty list allows nothing.
    #[must_use]
    pub fn new(prefixes: Vec<Prefix>) -> Self {
        Self { prefixes }
    }

    /// The prefixes, in the order of the configuration.
    #[must_use]
    pub fn prefixes(&self) -> &[Prefix] {
        &self.prefixes
    }

    /// Admits `name` if a prefix allows it.
    ///
    /// The name must go on after the prefix: `ci-test-` alone, `ci-test-.a` and `ci-test-@a` are no jobs.
    ///
    /// # Errors
    /// [`NotAllowed`], without a reason: an unknown job and a forbidden one are not told apart.
    pub fn admit(&self, name: &JobName) -> Result<AllowedJob, NotAllowed> {
        let text = name.as_str();
        let continues = |rest: &str| rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_');
        let allowed = self.prefixes.iter().any(|prefix| text.strip_prefix(prefix.as_str()).is_some_and(continues));
        if !allowed || RESERVED.iter().any(|reserved| text.starts_with(reserved)) {
            return Err(NotAllowed);
        }
        Ok(AllowedJob { name: name.clone(), unit: name.unit() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(prefix: &str) -> Policy {
        Policy::new(vec![Prefix::parse(prefix).unwrap()])
    }

    #[test]
    fn only_a_prefix_admits() {
        let policy = policy("ci-test-");
        for name in ["sshd", "ci-tes", "xci-test-a", "ci-test-", "ci-test-.a", "ci-test-@a", "CI-TEST-a"] {
            assert_eq!(policy.admit(&JobName::parse(name).unwrap()), Err(NotAllowed), "{name}");
        }
        let job = policy.admit(&JobName::parse("ci-test-build@main").unwrap()).unwrap();
        assert_eq!(job.unit(), "ci-test-build@main.service");
    }

    #[test]
    fn no_prefix_allows_nothing() {
        let job = JobName::parse("ci-test-a").unwrap();
        assert_eq!(Policy::new(Vec::new()).admit(&job), Err(NotAllowed));
    }

    #[test]
    fn the_bridge_is_no_job_of_its_own() {
        let wide = policy("ci-");
        assert_eq!(wide.admit(&JobName::parse("ci-bridge").unwrap()), Err(NotAllowed));
        assert!(wide.admit(&JobName::parse("ci-build").unwrap()).is_ok());
    }

    #[test]
    fn a_careless_prefix_is_refused() {
        for text in ["", "c-", "ci*-", "-ci-", "ci-test", "systemd-", "dbus-", "ci-bridge-"] {
            assert!(Prefix::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_admitted_unit_starts_with_the_prefix_and_is_a_service(text in "(ci-test-)?[a-zA-Z0-9@:_.-]{0,30}") {
            if let Ok(name) = JobName::parse(&text)
                && let Ok(job) = policy("ci-test-").admit(&name)
            {
                prop_assert!(job.unit().starts_with("ci-test-"));
                prop_assert!(job.unit().ends_with(".service"));
                prop_assert_eq!(job.name(), &name);
            }
        }
    }
}

//! The jobs of one token.

use std::fmt;
use std::str::FromStr;

use crate::policy::JobName;

/// The rule that a pattern broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A pattern that matches nothing.
    #[error("a job pattern must not be empty")]
    Empty,
    /// A character that no job's name has, or `*` elsewhere than at the end.
    #[error("the job pattern `{0}` is neither a job's name nor the beginning of one with `*` at its end")]
    Form(String),
}

/// A job's exact name, or the beginning of one with `*` at its end.
///
/// `ci-test-build@*` matches the template and all its instances, `ci-test-build@` only the template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPattern {
    stem: String,
    open: bool,
}

impl JobPattern {
    /// Whether `job` is one of the pattern's.
    #[must_use]
    pub fn matches(&self, job: &JobName) -> bool {
        if self.open { job.as_str().starts_with(&self.stem) } else { job.as_str() == self.stem }
    }
}

impl FromStr for JobPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let (stem, open) = text.strip_suffix('*').map_or((text, false), |stem| (stem, true));
        // A backslash belongs to the escaped instance of an exact name.
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b":_.-@\\".contains(&byte);
        let name = open || JobName::from_unit(&format!("{stem}.service")).is_ok();
        if !name || !stem.bytes().all(of_a_name) {
            return Err(PatternError::Form(text.to_owned()));
        }
        Ok(Self { stem: stem.to_owned(), open })
    }
}

impl fmt::Display for JobPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stem, if self.open { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, job: &str) -> bool {
        pattern.parse::<JobPattern>().unwrap().matches(&JobName::parse(job).unwrap())
    }

    #[test]
    fn a_star_matches_what_follows_and_a_name_only_itself() {
        assert!(matches("ci-test-*", "ci-test-hello"));
        assert!(!matches("ci-test-*", "ci-other"));
        assert!(matches("ci-test-hello", "ci-test-hello"));
        assert!(!matches("ci-test-hello", "ci-test-hello2"));
        assert!(matches("ci-test-build@*", "ci-test-build@main"));
        assert!(!matches("ci-test-build@", "ci-test-build@main"));
        assert!(matches("*", "ci-test-hello"));
    }

    #[test]
    fn an_escaped_instance_can_be_named() {
        let job = JobName::parse("ci-test-build@").unwrap().with_instance("a-b").unwrap();
        assert!(job.as_str().parse::<JobPattern>().unwrap().matches(&job));
    }

    #[test]
    fn a_pattern_that_is_no_name_is_refused() {
        for text in ["", "ci-*-x", "**", "ci test", "ci-test-[ab]", "ci-test-?", "ci-test-a.service"] {
            assert!(text.parse::<JobPattern>().is_err(), "{text}");
        }
    }
}

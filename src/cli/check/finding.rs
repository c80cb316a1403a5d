//! One thing looked at, and what was found.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Failure,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finding {
    level: Level,
    subject: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(subject: &str, message: String) -> Self {
        Self { level: Level::Ok, subject: subject.to_owned(), message, remedy: None }
    }

    pub(super) fn warning(subject: &str, message: String, remedy: &str) -> Self {
        Self { level: Level::Warning, subject: subject.to_owned(), message, remedy: Some(remedy.to_owned()) }
    }

    pub(super) fn failure(subject: &str, message: String, remedy: &str) -> Self {
        Self { level: Level::Failure, subject: subject.to_owned(), message, remedy: Some(remedy.to_owned()) }
    }

    pub(super) fn is_failure(&self) -> bool {
        self.level == Level::Failure
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.level {
            Level::Ok => "ok  ",
            Level::Warning => "warn",
            Level::Failure => "FAIL",
        };
        write!(f, "{word}  {}: {}", self.subject, self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n      {remedy}"),
            None => Ok(()),
        }
    }
}

//! The lists of runners that are watched.

use std::fmt;
use std::str::FromStr;

/// The longest name of a source, in bytes.
const NAME_MAX: usize = 64;

/// What the administrator calls a list of runners; unique among all of them.
///
/// 1 to 64 of `A-Z a-z 0-9 . _ -`, the first a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceName(String);

/// A text that can't be a [`SourceName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name; write 1 to {NAME_MAX} of `A-Z a-z 0-9 . _ -`, beginning with a letter or a digit")]
pub struct NotASourceName(String);

impl SourceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SourceName {
    type Err = NotASourceName;

    fn from_str(text: &str) -> Result<Self, NotASourceName> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins_well = text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
        if begins_well && text.len() <= NAME_MAX && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotASourceName(text.chars().take(NAME_MAX + 1).collect()))
        }
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        for text in ["acme", "a", "lab.example-1_x", &"a".repeat(NAME_MAX)] {
            assert_eq!(text.parse::<SourceName>().map(|name| name.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"a".repeat(NAME_MAX + 1)] {
            assert!(text.parse::<SourceName>().is_err(), "{text:?}");
        }
    }
}

//! Patterns of values: regular expressions that match as a whole, in time linear in the length of the value.

use regex::bytes::{Regex, RegexBuilder};

/// The most memory of a compiled pattern, in bytes, which also bounds the time of a match. `.{0,4096}` needs half of it.
const COMPILED_MAX: usize = 1 << 20;

/// The text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is no pattern: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

/// A regular expression in the syntax of the crate `regex`, without Unicode: `\d`, `\w`, `\s` and `(?i)` are about ASCII,
/// and `.` is any byte but a newline.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    whole: Regex,
}

impl Pattern {
    /// Compiles a pattern. It matches the whole value, with `^` and `$` and without.
    ///
    /// # Errors
    /// [`PatternError`] has the reason on one line.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let compile = |pattern: &str| {
            let built = RegexBuilder::new(pattern).unicode(false).size_limit(COMPILED_MAX).build();
            built.map_err(|error| PatternError { pattern: text.to_owned(), reason: reason(&error) })
        };
        // Alone first: `a)|(?:b` would close the group that holds it.
        compile(text)?;
        Ok(Self { text: text.to_owned(), whole: compile(&format!(r"\A(?:{text})\z"))? })
    }

    /// Whether the pattern matches the value from its first to its last byte.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        self.whole.is_match(value.as_bytes())
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// The last line of the crate's message, which draws the place of a mistake in the lines before.
fn reason(error: &regex::Error) -> String {
    let message = error.to_string();
    let last = message.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

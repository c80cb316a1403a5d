//! The grammar of an input's name.

use std::fmt;

/// The longest name, in bytes. The unit's name has to fit beside it.
const NAME_MAX: usize = 32;

/// A name that no input can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` can't be the name of an input; write [a-z0-9_], a letter first, at most {NAME_MAX} characters: `version`"
)]
pub struct InputNameError(String);

/// The name of an input: 1 to 32 bytes of `[a-z0-9_]`, a letter first.
///
/// Each is the name of a credential too: a file name without a colon. Source: `credential_name_valid` of systemd.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InputName(String);

impl InputName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`InputNameError`] has the rule.
    pub fn parse(text: &str) -> Result<Self, InputNameError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let starts = text.starts_with(|first: char| first.is_ascii_lowercase());
        if starts && text.len() <= NAME_MAX && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InputNameError(text.to_owned()))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

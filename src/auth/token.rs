//! The form of a token: made from the system's random numbers, and checked without knowing any.
//!
//! `cib_rw_` or `cib_ro_`, then 43 characters of base 62 that hold 256 random bits, then 6 characters of base 62 that
//! hold the CRC-32 of everything before them. The fixed form lets secret scanners find a token that leaked; the checksum
//! tells a typing error from a token that is not known. It proves nothing about who made the token.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use super::Access;

/// The beginning of every token.
pub(super) const MARK: &str = "cib_";

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// 62^43 is the first power of 62 that is not less than 2^256.
const RANDOM_DIGITS: usize = 43;

/// 62^6 is the first power of 62 that is not less than 2^32.
const CHECKSUM_DIGITS: usize = 6;

/// The rule that a text broke. No variant holds any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text starts otherwise.
    #[error("a token starts with `cib_rw_` or `cib_ro_`")]
    Prefix,
    /// Something was cut off or added.
    #[error("a token has {} characters after its prefix", RANDOM_DIGITS + CHECKSUM_DIGITS)]
    Length,
    /// A character that no token has, such as a space or a quote.
    #[error("a token holds only letters and digits after its prefix")]
    Charset,
    /// At least one character is wrong.
    #[error("the token's checksum is wrong: a character of it was changed")]
    Checksum,
}

/// A well-formed token; its text is never shown by `Debug`.
pub struct Token {
    access: Access,
    text: SecretString,
}

impl Token {
    /// Makes a token with 256 random bits from the operating system.
    ///
    /// # Errors
    /// What the system said if it has no random numbers.
    pub fn generate(access: Access) -> Result<Self, getrandom::Error> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits)?;
        Ok(Self::from_bits(access, bits))
    }

    fn from_bits(access: Access, bits: [u8; 32]) -> Self {
        let prefix = prefix(access);
        // Made once in its final size: a string that grows leaves copies of the secret behind.
        let mut text = String::with_capacity(prefix.len() + RANDOM_DIGITS + CHECKSUM_DIGITS);
        text.push_str(prefix);
        text.extend(base62::<RANDOM_DIGITS>(bits));
        text.extend(checksum(&text));
        Self { access, text: text.into() }
    }

    /// Parses a token; nothing around it is trimmed.
    ///
    /// # Errors
    /// The [`TokenError`] says which rule the text broke.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let access = [Access::ReadWrite, Access::ReadOnly]
            .into_iter()
            .find(|access| text.starts_with(prefix(*access)))
            .ok_or(TokenError::Prefix)?;
        let digits = &text[prefix(access).len()..];
        if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(TokenError::Charset);
        }
        if digits.len() != RANDOM_DIGITS + CHECKSUM_DIGITS {
            return Err(TokenError::Length);
        }
        let (checked, sum) = text.split_at(text.len() - CHECKSUM_DIGITS);
        if !sum.chars().eq(checksum(checked)) {
            return Err(TokenError::Checksum);
        }
        Ok(Self { access, text: text.into() })
    }

    /// What the token was made for. What it may do is decided by the keyring.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// The token's text, to be shown once or to be hashed.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[hidden]", prefix(self.access))
    }
}

fn prefix(access: Access) -> &'static str {
    match access {
        Access::ReadWrite => "cib_rw_",
        Access::ReadOnly => "cib_ro_",
    }
}

fn checksum(text: &str) -> [char; CHECKSUM_DIGITS] {
    base62(crc32fast::hash(text.as_bytes()).to_be_bytes())
}

/// The big-endian number in `bytes` as `DIGITS` digits of base 62, with leading zeros.
fn base62<const DIGITS: usize>(mut bytes: impl AsMut<[u8]>) -> [char; DIGITS] {
    let mut digits = ['0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u16;
        for byte in bytes.as_mut() {
            let value = remainder << 8 | u16::from(*byte);
            // A remainder is below 62, so the quotient of 62 * 256 - 1 by 62 fits into a byte.
            [_, *byte] = (value / 62).to_be_bytes();
            remainder = value % 62;
        }
        *digit = char::from(ALPHABET[usize::from(remainder)]);
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANY_ACCESS: [Access; 2] = [Access::ReadWrite, Access::ReadOnly];

    #[test]
    fn the_form_never_changes() {
        let form = |access, byte| Token::from_bits(access, [byte; 32]).expose().to_owned();
        assert_eq!(form(Access::ReadWrite, 0), "cib_rw_00000000000000000000000000000000000000000001mDSZD");
        assert_eq!(form(Access::ReadOnly, 0xff), "cib_ro_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp14OAxmw");
    }

    #[test]
    fn two_tokens_differ() {
        let [a, b] = [(), ()].map(|()| Token::generate(Access::ReadOnly).unwrap());
        assert_ne!(a.expose(), b.expose());
    }

    #[test]
    fn debug_hides_the_secret() {
        let token = Token::generate(Access::ReadWrite).unwrap();
        assert_eq!(format!("{token:?}"), "cib_rw_[hidden]");
    }

    #[test]
    fn every_broken_rule_is_named() {
        let token = Token::generate(Access::ReadWrite).unwrap();
        let text = token.expose();
        for (text, rule) in [
            (String::new(), TokenError::Prefix),
            ("secret123".to_owned(), TokenError::Prefix),
            (format!(" {text}"), TokenError::Prefix),
            (text.replace("cib_rw_", "cib_run_"), TokenError::Prefix),
            (text[..text.len() - 1].to_owned(), TokenError::Length),
            (format!("{text}0"), TokenError::Length),
            ("cib_rw_".to_owned(), TokenError::Length),
            (format!("{text}\n"), TokenError::Charset),
            (format!("{}é", &text[..text.len() - 2]), TokenError::Charset),
            (text.replace("cib_rw_", "cib_ro_"), TokenError::Checksum),
        ] {
            assert_eq!(Token::parse(&text).err(), Some(rule), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_made_token_parses_to_itself(bits: [u8; 32], access in prop::sample::select(&ANY_ACCESS)) {
            let token = Token::from_bits(access, bits);
            let parsed = Token::parse(token.expose()).unwrap();
            prop_assert_eq!(parsed.expose(), token.expose());
            prop_assert_eq!(parsed.access(), access);
            prop_assert_eq!(token.expose().len(), 7 + 43 + 6);
        }

        #[test]
        fn one_changed_character_is_always_noticed(
            bits: [u8; 32],
            access in prop::sample::select(&ANY_ACCESS),
            at in 0_usize..56,
            other in "[0-9A-Za-z_]|\\PC",
        ) {
            let token = Token::from_bits(access, bits);
            let mut changed = token.expose().to_owned();
            changed.replace_range(at..=at, &other);
            prop_assume!(changed != token.expose());
            prop_assert!(Token::parse(&changed).is_err());
        }

        #[test]
        fn different_bits_are_different_digits(a: [u8; 32], b: [u8; 32]) {
            prop_assert_eq!(a == b, base62::<43>(a) == base62::<43>(b));
        }
    }
}

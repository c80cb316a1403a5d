//! Headers that carry secrets.

use reqwest::header::HeaderValue;

use crate::runners::poll::PollError;

/// A header that no `Debug` shows.
pub(super) fn secret(text: &str) -> Result<HeaderValue, PollError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| PollError::Credential("it has characters that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_in_no_debug_text() {
        let header = secret("Bearer ghp-hidden").unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer ghp-hidden");
        assert!(!format!("{header:?}").contains("hidden"));
        assert!(!secret("two\nlines-hidden").unwrap_err().to_string().contains("hidden"));
    }
}

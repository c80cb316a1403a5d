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

//! The signature of a message, as Standard Webhooks has it.
//!
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use super::Error;
use crate::config::Alert;

/// How a secret begins that is the base64 of its key.
const ENCODED: &str = "whsec_";

/// The secret of a target.
pub(super) struct Secret(SecretString);

impl Secret {
    /// Reads the secret of an alert from the first line of a file.
    pub(super) fn read(alert: &Alert, path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Read { alert: alert.name.clone(), path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let text = text.trim();
        let wrong = |reason| Err(Error::Secret { alert: alert.name.clone(), path: path.to_owned(), reason });
        if text.is_empty() {
            return wrong("it is empty");
        }
        // It may have to stand in a header.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("it must be one line of ASCII without spaces");
        }
        let secret = Self(text.to_owned().into());
        if secret.key().is_none() { wrong("what follows `whsec_` is not base64") } else { Ok(secret) }
    }

    /// The secret as it is written.
    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    fn key(&self) -> Option<Vec<u8>> {
        let text = self.expose();
        text.strip_prefix(ENCODED).map_or_else(|| Some(text.into()), |encoded| STANDARD.decode(encoded).ok())
    }

    /// The value of `webhook-signature` for a message with that id, sent in that second after 1970.
    pub(super) fn sign(&self, id: &str, second: i64, body: &[u8]) -> Option<String> {
        let mut hash = Hmac::<Sha256>::new_from_slice(&self.key()?).ok()?;
        hash.update(format!("{id}.{second}.").as_bytes());
        hash.update(body);
        Some(format!("v1,{}", STANDARD.encode(hash.finalize().into_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's libraries.
    #[test]
    fn the_signature_is_the_one_of_the_standard() {
        let secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned().into());
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn a_secret_without_the_prefix_is_the_key() {
        let plain = Secret("abc".to_owned().into()).sign("id", 1, b"body");
        assert_eq!(plain, Secret("whsec_YWJj".to_owned().into()).sign("id", 1, b"body"));
        assert_ne!(plain, Secret("abd".to_owned().into()).sign("id", 1, b"body"));
    }
}

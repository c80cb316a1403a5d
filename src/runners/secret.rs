//! Tokens and keys: read from their file each time one is needed, so that a new one needs no restart.

use std::io;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use tokio::io::AsyncReadExt;

use crate::config::SecretPlace;
use crate::runners::PollError;

/// The longest secret, in bytes; an RSA key of 16,384 bits in PEM is shorter.
const SECRET_MAX: u64 = 16 * 1024;

/// A secret's place, found.
#[derive(Debug, Clone)]
pub(super) enum Secret {
    File(PathBuf),
    /// A credential that systemd did not hand over, by its name.
    NotHandedOver(String),
}

impl Secret {
    /// Finds the place; `credentials` is the directory of systemd's credentials, if there is one.
    pub(super) fn at(place: &SecretPlace, credentials: Option<&Path>) -> Self {
        match (place, credentials) {
            (SecretPlace::File(path), _) => Self::File(path.clone()),
            (SecretPlace::Credential(name), Some(directory)) => Self::File(directory.join(name)),
            (SecretPlace::Credential(name), None) => Self::NotHandedOver(name.clone()),
        }
    }

    /// The secret, without white space around it.
    pub(super) async fn read(&self) -> Result<SecretString, PollError> {
        let path = match self {
            Self::File(path) => path,
            Self::NotHandedOver(name) => {
                return Err(PollError::Credential(format!(
                    "systemd handed over no credential; add `LoadCredential={name}:/PATH/OF/{name}` to the service"
                )));
            }
        };
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => wrong(path, "does not exist"),
            io::ErrorKind::PermissionDenied => wrong(path, "cannot be read by the user that ci-bridge runs as"),
            io::ErrorKind::InvalidData => wrong(path, "is no text"),
            _ => wrong(path, &format!("cannot be read: {error}")),
        };
        let mut text = String::new();
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        file.take(SECRET_MAX + 1).read_to_string(&mut text).await.map_err(failed)?;
        let text = SecretString::from(text);
        match text.expose_secret() {
            text if text.len() as u64 > SECRET_MAX => Err(wrong(path, "is too long for a secret")),
            text if text.trim().is_empty() => Err(wrong(path, "is empty")),
            text => Ok(text.trim().into()),
        }
    }

    /// The secret, if it is a token: one line of visible characters.
    pub(super) async fn read_token(&self) -> Result<SecretString, PollError> {
        let token = self.read().await?;
        if token.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(token);
        }
        Err(match self {
            Self::File(path) => wrong(path, "must hold the token alone, on one line"),
            Self::NotHandedOver(name) => wrong(Path::new(name), "must hold the token alone, on one line"),
        })
    }
}

/// Reads a secret that came in an answer.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

fn wrong(path: &Path, what: &str) -> PollError {
    PollError::Credential(format!("{} {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(error: &PollError) -> String {
        error.to_string().replace("the token cannot be used: ", "")
    }

    #[tokio::test]
    async fn a_token_is_read_anew_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let secret = Secret::at(&SecretPlace::File(path.clone()), None);
        assert_eq!(secret.read_token().await.unwrap().expose_secret(), "one");
        std::fs::write(&path, "two\n").unwrap();
        assert_eq!(secret.read_token().await.unwrap().expose_secret(), "two");
    }

    #[tokio::test]
    async fn a_credential_is_in_the_directory_that_systemd_names() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("lab"), "one").unwrap();
        let place = SecretPlace::Credential("lab".to_owned());
        let secret = Secret::at(&place, Some(directory.path()));
        assert_eq!(secret.read_token().await.unwrap().expose_secret(), "one");
        let error = Secret::at(&place, None).read_token().await.unwrap_err();
        let expected = "systemd handed over no credential; add `LoadCredential=lab:/PATH/OF/lab` to the service";
        assert_eq!(message(&error), expected);
    }

    #[tokio::test]
    async fn what_is_no_token_is_told_and_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let secret = Secret::at(&SecretPlace::File(path.clone()), None);
        let told = async || message(&secret.read_token().await.unwrap_err()).replace(path.to_str().unwrap(), "F");
        assert_eq!(told().await, "F does not exist");
        let long = "x".repeat(16 * 1024 + 1);
        for (content, expected) in [
            (&b""[..], "F is empty"),
            (b" \n\n", "F is empty"),
            (b"glpat-hidden\nsecond", "F must hold the token alone, on one line"),
            (b"glpat hidden", "F must hold the token alone, on one line"),
            (b"glpat-\xff", "F is no text"),
            (long.as_bytes(), "F is too long for a secret"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(told().await, expected);
        }
    }
}

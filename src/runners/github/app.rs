//! GitHub Apps: the app's private key signs a claim, and GitHub gives a token of the installation for it.
//!
//! Source: GitHub, "Generating a JSON Web Token (JWT) for a GitHub App" and "Generating an installation access token".

use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::header::HeaderValue;
use reqwest::{Method, Url};
use rustls_pki_types::PrivatePkcs1KeyDer;
use rustls_pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::headers;
use crate::config::ApiUrl;
use crate::runners::poll::PollError;
use crate::runners::secret::{self, Secret};
use crate::runners::service::Service;

/// How long a claim begins before now, because clocks differ; GitHub's own advice.
const EARLIER: Duration = Duration::from_mins(1);

/// How long a claim lasts; GitHub takes ten minutes, less the difference of the clocks.
const LASTS: Duration = Duration::from_mins(8);

/// How long before its end a token is replaced.
const SPARE: Duration = Duration::from_mins(5);

/// An installation of an app.
pub(super) struct App {
    id: String,
    installation: u32,
    tokens: Url,
    key: Secret,
    token: Option<Token>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(deserialize_with = "secret::deserialize")]
    token: SecretString,
    expires_at: Timestamp,
}

#[derive(Serialize)]
struct Claim<'a> {
    iat: i64,
    exp: i64,
    iss: &'a str,
}

impl App {
    pub(super) fn new(api: &ApiUrl, id: &str, installation: u32, key: Secret) -> Self {
        let tokens = api.join(&["app", "installations", &installation.to_string(), "access_tokens"]);
        Self { id: id.to_owned(), installation, tokens, key, token: None }
    }

    /// Forgets the token, which GitHub no longer takes.
    pub(super) fn forget(&mut self) {
        self.token = None;
    }

    /// A token of the installation that lasts for a poll at least.
    pub(super) async fn token(
        &mut self,
        service: &mut Service,
        version: &HeaderValue,
    ) -> Result<SecretString, PollError> {
        let now = Timestamp::now();
        let lasting =
            self.token.take().filter(|token| now.saturating_add(SPARE).is_ok_and(|soon| soon < token.expires_at));
        let token = match lasting {
            Some(token) => token,
            None => self.fetch(service, version, now).await?,
        };
        let text = token.token.clone();
        self.token = Some(token);
        Ok(text)
    }

    async fn fetch(&self, service: &mut Service, version: &HeaderValue, now: Timestamp) -> Result<Token, PollError> {
        let claim = self.claim(now).await?;
        let headers = headers(&claim, version)?;
        let answer = service.send(Method::POST, self.tokens.clone(), headers, None).await?;
        match answer.status.as_u16() {
            201 => answer.json(),
            401 => Err(PollError::Credential(format!(
                "GitHub refuses the key of app `{}`; check `app_id`, the key, and the clock of this machine",
                self.id
            ))),
            403 => Err(PollError::Credential(format!("installation {} of the app is suspended", self.installation))),
            404 => Err(PollError::Credential(format!(
                "app `{}` has no installation {}; check `installation_id`",
                self.id, self.installation
            ))),
            _ => Err(service.refusal(&answer)),
        }
    }

    async fn claim(&self, now: Timestamp) -> Result<SecretString, PollError> {
        let pem = self.key.read().await?;
        let der = PrivatePkcs1KeyDer::from_pem_slice(pem.expose_secret().as_bytes()).map_err(|_| {
            PollError::Credential(
                "the app's key is no RSA key in PEM as GitHub makes it (`BEGIN RSA PRIVATE KEY`); \
                 `openssl rsa -traditional` makes one out of other forms"
                    .to_owned(),
            )
        })?;
        let key = EncodingKey::from_rsa_der(der.secret_pkcs1_der());
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or_default();
        let claim =
            Claim { iat: now.as_second() - seconds(EARLIER), exp: now.as_second() + seconds(LASTS), iss: &self.id };
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claim, &key).map(SecretString::from).map_err(|_| {
            PollError::Credential("the app's key is damaged; make a new one in the app's settings".to_owned())
        })
    }
}

//! What a GitHub knows, and how it answers.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::http::header;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use super::{Call, Reply};

#[derive(Default)]
pub(crate) struct GitHub {
    /// The runners, as in the interface.
    pub(crate) runners: Vec<Value>,
    /// Where they are, such as `orgs/acme`.
    pub(crate) place: String,
    /// The tokens that it takes.
    pub(crate) tokens: Vec<String>,
    /// Whether it marks pages with an entity tag.
    pub(crate) etags: bool,
    /// How many more requests it takes, and when it takes new ones, in seconds since 1970.
    pub(crate) quota: Option<(u64, i64)>,
    pub(crate) app: Option<App>,
}

/// A GitHub App with one installation.
pub(crate) struct App {
    pub(crate) id: String,
    pub(crate) installation: u64,
    /// The public key, as DER of PKCS#1.
    pub(crate) public_key: Vec<u8>,
    /// The tokens that it will give, each with its end.
    pub(crate) gives: Vec<(String, String)>,
}

/// A runner that is connected or not.
pub(crate) fn runner(id: u64, name: &str, status: &str) -> Value {
    json!({
        "id": id, "name": name, "os": "linux", "status": status, "busy": false, "ephemeral": false,
        "labels": [{ "id": 5, "name": "self-hosted", "type": "read-only" }],
    })
}

impl GitHub {
    /// A GitHub with one organisation, `acme`, and the token `ghp-good`.
    pub(crate) fn acme(runners: impl IntoIterator<Item = Value>) -> Self {
        Self {
            runners: runners.into_iter().collect(),
            place: "orgs/acme".to_owned(),
            tokens: vec!["ghp-good".to_owned()],
            ..Self::default()
        }
    }

    pub(super) fn reply(&mut self, call: &Call<'_>) -> Reply {
        let bearer = call.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if call.path.first().is_some_and(|part| part == "app") {
            return self.installation_token(call, token);
        }
        if !self.tokens.iter().any(|known| known == token) {
            return Reply::message(401, "Bad credentials");
        }
        if call.path.join("/") != format!("{}/actions/runners", self.place) {
            return Reply::message(404, "Not Found");
        }
        if let Some((0, reset)) = self.quota {
            let mut reply = Reply::message(403, "API rate limit exceeded for user ID 1.");
            quota_headers(&mut reply, 0, reset);
            return reply;
        }
        let (page, headers) = call.page(&self.runners);
        let mut reply = Reply::new(200, json!({ "total_count": self.runners.len(), "runners": page }));
        reply.headers = headers;
        if self.etags {
            let mut hasher = DefaultHasher::new();
            reply.body.to_string().hash(&mut hasher);
            let tag = format!("W/\"{:016x}\"", hasher.finish());
            if call.headers.get(header::IF_NONE_MATCH).is_some_and(|known| *known == *tag) {
                reply = Reply::new(304, Value::Null);
            } else if let Some((left, _)) = &mut self.quota {
                *left -= 1;
            }
            reply.headers.insert(header::ETAG, tag.parse().unwrap());
        } else if let Some((left, _)) = &mut self.quota {
            *left -= 1;
        }
        if let Some((left, reset)) = self.quota {
            quota_headers(&mut reply, left, reset);
        }
        reply
    }

    fn installation_token(&mut self, call: &Call<'_>, claim: &str) -> Reply {
        let Some(app) = &mut self.app else { return Reply::message(404, "Integration not found") };
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_required_spec_claims(&["exp", "iss"]);
        validation.set_issuer(&[&app.id]);
        let key = DecodingKey::from_rsa_der(&app.public_key);
        let Ok(claim) = jsonwebtoken::decode::<Value>(claim, &key, &validation) else {
            return Reply::message(401, "A JSON web token could not be decoded");
        };
        let (begins, ends) = (claim.claims["iat"].as_i64().unwrap(), claim.claims["exp"].as_i64().unwrap());
        if ends - begins > 600 {
            return Reply::message(401, "'Expiration time' claim ('exp') is too far in the future");
        }
        let path = format!("app/installations/{}/access_tokens", app.installation);
        if call.method != "POST" || call.path.join("/") != path || app.gives.is_empty() {
            return Reply::message(404, "Not Found");
        }
        let (token, expires_at) = app.gives.remove(0);
        self.tokens.push(token.clone());
        Reply::new(201, json!({ "token": token, "expires_at": expires_at, "permissions": {} }))
    }
}

fn quota_headers(reply: &mut Reply, left: u64, reset: i64) {
    for (name, value) in [
        ("x-ratelimit-limit", 5000.to_string()),
        ("x-ratelimit-remaining", left.to_string()),
        ("x-ratelimit-reset", reset.to_string()),
        ("x-ratelimit-resource", "core".to_owned()),
    ] {
        reply.headers.insert(name, value.parse().unwrap());
    }
}

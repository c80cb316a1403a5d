//! Who calls: the token of a request becomes a caller, or the request ends here.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::problem::Problem;
use crate::auth::{Caller, Keyring, Scope};
use crate::config::QueryTokens;

/// What decides who may call.
#[derive(Clone)]
pub struct Gate {
    /// The tokens that count at any moment.
    pub keyring: Arc<ArcSwap<Keyring>>,
    /// Which of them may stand in a URL.
    pub query_tokens: QueryTokens,
}

/// A token that came as `?token=`; it was taken out of the URI before anything could log it.
#[derive(Clone)]
struct QueryToken(SecretString);

/// More than one `?token=` in a URI.
#[derive(Clone)]
struct TwoQueryTokens;

/// Takes `?token=` out of the URI, so that nothing behind this point sees it.
pub(super) fn take_query_token(request: &mut Request) {
    if let Some(query) = request.uri().query().filter(|query| query.contains("token")) {
        let is_token = |pair: &&str| pair.split('=').next() == Some("token");
        let (tokens, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_token);
        if let [token, others @ ..] = tokens.as_slice() {
            let value = form_urlencoded::parse(token.as_bytes()).next().map(|(_, value)| value.into_owned());
            let token = QueryToken(SecretString::from(value.unwrap_or_default()));
            let two = !others.is_empty();
            let rest = rest.join("&");
            let path = request.uri().path();
            let target = if rest.is_empty() { path.to_owned() } else { format!("{path}?{rest}") };
            // The parts of a valid URI make a valid URI; a failure must not let the token through.
            *request.uri_mut() = target.parse().unwrap_or_else(|_| Uri::from_static("/"));
            request.extensions_mut().insert(token);
            if two {
                request.extensions_mut().insert(TwoQueryTokens);
            }
        }
    }
}

/// Lets a request pass that has a valid token, and notes whose it is.
pub(super) async fn require_token(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    match authenticate(&gate, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            let mut response = next.run(request).await;
            response.extensions_mut().insert(caller);
            response
        }
        Err(problem) => {
            let mut response = problem.into_response();
            if let Some(leaked) = owner_of_query_token(&gate, &request) {
                response.extensions_mut().insert(leaked);
            }
            response
        }
    }
}

/// Whether a request brings nothing by which its caller could be known.
pub(super) fn has_no_token(request: &Request) -> bool {
    let extensions = request.extensions();
    !request.headers().contains_key(AUTHORIZATION) && extensions.get::<QueryToken>().is_none()
}

/// Whose token stands in the URL, for the audit: it may have been recorded on its way, and has to be replaced.
fn owner_of_query_token(gate: &Gate, request: &Request) -> Option<Arc<Caller>> {
    let QueryToken(token) = request.extensions().get()?;
    gate.keyring.load().authenticate(token.expose_secret(), Timestamp::now()).ok()
}

fn authenticate(gate: &Gate, request: &Request) -> Result<Arc<Caller>, Problem> {
    let from_header = bearer(request.headers())?;
    let from_query = request.extensions().get::<QueryToken>();
    if request.extensions().get::<TwoQueryTokens>().is_some() || (from_header.is_some() && from_query.is_some()) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "token_twice", "send one token, in one place"));
    }
    let token = match (&from_header, from_query) {
        (Some(token), _) => *token,
        (None, Some(_)) if gate.query_tokens == QueryTokens::Deny => {
            let detail = "tokens in the URL are switched off here and this one may have been recorded on its way; revoke \
                          it and send a new one as `Authorization: Bearer TOKEN`";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "token_in_query", detail));
        }
        (None, Some(QueryToken(token))) => token.expose_secret(),
        (None, None) => {
            let detail = "send `Authorization: Bearer TOKEN`";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "token_missing", detail));
        }
    };
    let caller = gate.keyring.load().authenticate(token, Timestamp::now())?;
    if from_header.is_none() && gate.query_tokens == QueryTokens::ReadOnly && caller.may_write() {
        let detail = "a read-write token is not taken from the URL and may have been recorded on its way; revoke it and \
                      send a new one as `Authorization: Bearer TOKEN`";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "token_in_query", detail));
    }
    Ok(caller)
}

/// The token of the `Authorization` header.
///
/// Source: RFC 6750, section 2.1; the scheme is case-insensitive (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let detail = "send one Authorization header";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "authorization_twice", detail));
    }
    let scheme = || {
        let detail = "the Authorization header must be `Bearer TOKEN`";
        Problem::new(StatusCode::UNAUTHORIZED, "authorization_scheme", detail)
    };
    let (word, token) = value.to_str().map_err(|_| scheme())?.split_once(' ').ok_or_else(scheme)?;
    if !word.eq_ignore_ascii_case("bearer") {
        return Err(scheme());
    }
    Ok(Some(token.trim()))
}

/// A caller who may read. Exists only behind [`require_token`].
pub(super) struct Reader(pub(super) Arc<Caller>);

/// A caller who may change something. Exists only for a token that may.
pub(super) struct Writer(pub(super) Arc<Caller>);

/// A caller who may read the audit.
pub(super) struct Auditor;

/// A caller who may change runners.
pub(super) struct RunnerWriter;

impl<S: Sync> FromRequestParts<S> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Arc<Caller>>().cloned();
        let detail = "send `Authorization: Bearer TOKEN`";
        caller.map(Self).ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "token_missing", detail))
    }
}

impl<S: Sync> FromRequestParts<S> for Writer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Reader(caller) = Reader::from_request_parts(parts, state).await?;
        if !caller.may_write() {
            let detail = "the token is read-only; this takes a read-write token";
            return Err(Problem::new(StatusCode::FORBIDDEN, "read_only_token", detail));
        }
        Ok(Self(caller))
    }
}

impl<S: Sync> FromRequestParts<S> for Auditor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        require_scope(Scope::Audit, parts, state).await.map(|()| Self)
    }
}

impl<S: Sync> FromRequestParts<S> for RunnerWriter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        require_scope(Scope::Runners, parts, state).await.map(|()| Self)
    }
}

async fn require_scope<S: Sync>(scope: Scope, parts: &mut Parts, state: &S) -> Result<(), Problem> {
    let Writer(caller) = Writer::from_request_parts(parts, state).await?;
    if !caller.has(scope) {
        let detail = format!(
            "the token has not the scope `{scope}`; make one with `ci-bridge token new NAME --access rw --scope {scope}`"
        );
        return Err(Problem::new(StatusCode::FORBIDDEN, "scope_missing", detail));
    }
    Ok(())
}

//! The handlers of `/api/runners` and `/api/sources`.

use std::mem;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::authenticate::{Reader, Writer};
use super::edge::Outcome;
use super::params::{Params, parse_time, refuse};
use super::problem::Problem;
use super::{AppState, shape};
use crate::config::parse_duration;
use crate::fleet::{Filter, Record};
use crate::runners::uptime::State as Status;
use crate::runners::{Kind, Provider, RunnerId};

/// Entries of one page if the caller does not say.
const PAGE: u32 = 50;
/// The most entries of one page.
const PAGE_MOST: u32 = 500;
/// The window of an uptime if the caller does not say.
const WINDOW: &str = "24h";

/// Which runners GitLab means by its old `scope`; clients such as python-gitlab have it still.
#[derive(Clone, Copy)]
enum Scope {
    Active,
    Paused,
    Online,
    /// Not of the whole GitLab.
    Specific,
    Shared,
}

const SCOPES: [(&str, Scope); 5] = [
    ("active", Scope::Active),
    ("paused", Scope::Paused),
    ("online", Scope::Online),
    ("specific", Scope::Specific),
    ("shared", Scope::Shared),
];

/// There is no such runner.
pub(super) struct NoSuchRunner;

/// The id in the path; what is no id is the id of no runner.
pub(super) struct PathRunner(Option<RunnerId>);

impl<S: Send + Sync> FromRequestParts<S> for PathRunner {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        Ok(path.map_or(Self(None), |Path(id)| Self::of(&id)))
    }
}

impl PathRunner {
    pub(super) fn of(id: &str) -> Self {
        Self(id.parse().ok())
    }

    pub(super) async fn find(&self, state: &AppState) -> Result<Record, Problem> {
        let runner = state.runners.runner(self.0.ok_or(NoSuchRunner)?).await?;
        Ok(runner.ok_or(NoSuchRunner)?)
    }
}

/// `GET /api/runners`
pub(super) async fn list_runners(_: Reader, State(state): State<AppState>, uri: Uri) -> Result<Json<Value>, Problem> {
    let params = Params::of(
        &uri,
        &[
            "provider", "source", "kind", "state", "busy", "paused", "label", "tag_list", "name", "scope", "limit",
            "after",
        ],
    )?;
    let limit = params.number("limit", 1..=PAGE_MOST)?.unwrap_or(PAGE);
    let after = params.text("after").map(str::parse).transpose();
    let after = after.map_err(|_| refuse("`after` is the id of a runner, a UUID".to_owned()))?;
    let mut runners = state.runners.page(&filter(&params)?, after, limit + 1).await?;
    let more = shorten(&mut runners, limit);
    let after = runners.last().filter(|_| more).map(|runner| runner.id);
    let runners: Vec<_> = runners.iter().map(shape::Runner::of).collect();
    Ok(Json(json!({ "runners": runners, "more": more, "after": after })))
}

/// `GET /api/runners/{runner}`
pub(super) async fn show_runner(
    _: Reader,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    Params::of(&uri, &[])?;
    Ok(Json(json!(shape::Runner::of(&path.find(&state).await?))))
}

/// `GET /api/runners/{runner}/transitions`
pub(super) async fn list_transitions(
    _: Reader,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    let params = Params::of(&uri, &["limit", "before"])?;
    let limit = params.number("limit", 1..=PAGE_MOST)?.unwrap_or(PAGE);
    let before = params.time("before")?;
    let runner = path.find(&state).await?.id;
    let mut entries = state.runners.history(runner, before, limit + 1).await?;
    let more = shorten(&mut entries, limit);
    let before = entries.last().filter(|_| more).map(|entry| entry.at);
    let entries: Vec<_> =
        entries.iter().map(|entry| json!({ "at": entry.at, "state": entry.state.as_str() })).collect();
    Ok(Json(json!({ "runner": runner, "transitions": entries, "more": more, "before": before })))
}

/// `GET /api/runners/{runner}/uptime`
pub(super) async fn show_uptime(
    _: Reader,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    let params = Params::of(&uri, &["window"])?;
    let window = params.text("window").unwrap_or(WINDOW);
    let (from, to) = window_of(window, Timestamp::now())?;
    let runner = path.0.ok_or(NoSuchRunner)?;
    let uptime = state.runners.uptime(runner, from, to).await?.ok_or(NoSuchRunner)?;
    Ok(Json(json!({
        "runner": runner, "from": from, "to": to, "uptime": uptime.uptime, "coverage": uptime.coverage,
    })))
}

/// `POST /api/runners/poll`
pub(super) async fn poll_runners(_: Writer, State(state): State<AppState>, uri: Uri) -> Result<Response, Problem> {
    Params::of(&uri, &[])?;
    state.runners.poll_now();
    let sources: Vec<_> = state.runners.configured().map(|(name, _)| name.as_str()).collect();
    let answer = Json(json!({ "msg": "Lists are read", "sources": sources }));
    let mut response = (StatusCode::ACCEPTED, answer).into_response();
    response.extensions_mut().insert(Outcome("polled"));
    Ok(response)
}

/// `GET /api/sources`
pub(super) async fn list_sources(_: Reader, State(state): State<AppState>, uri: Uri) -> Result<Json<Value>, Problem> {
    Params::of(&uri, &[])?;
    let sources = state.runners.sources().await?;
    let sources: Vec<_> = sources.iter().map(shape::Source::of).collect();
    Ok(Json(json!({ "sources": sources })))
}

fn filter(params: &Params) -> Result<Filter, Problem> {
    let source = params.text("source").map(str::parse).transpose();
    let flag = |name| params.choice(name, &[("true", true), ("false", false)]);
    let tags = params.text("tag_list").unwrap_or_default().split(',').map(str::trim).filter(|tag| !tag.is_empty());
    let mut filter = Filter {
        provider: params.choice("provider", &Provider::ALL.map(|provider| (provider.as_str(), provider)))?,
        source: source.map_err(|error| refuse(format!("`source`: {error}")))?,
        kinds: params.choice("kind", &Kind::ALL.map(|kind| (kind.as_str(), kind)))?.into_iter().collect(),
        state: params.choice("state", &Status::ALL.map(|state| (state.as_str(), state)))?,
        busy: flag("busy")?,
        paused: flag("paused")?,
        labels: params.text("label").into_iter().chain(tags).map(str::to_owned).collect(),
        name: params.text("name").map(str::to_owned),
    };
    let is_there = match params.choice("scope", &SCOPES)? {
        None => false,
        Some(Scope::Active) => filter.paused.replace(false).is_some(),
        Some(Scope::Paused) => filter.paused.replace(true).is_some(),
        Some(Scope::Online) => filter.state.replace(Status::Online).is_some(),
        Some(Scope::Specific) => !mem::replace(&mut filter.kinds, vec![Kind::Project, Kind::Group]).is_empty(),
        Some(Scope::Shared) => !mem::replace(&mut filter.kinds, vec![Kind::Instance]).is_empty(),
    };
    if is_there {
        return Err(refuse("`scope` stands for `kind`, `paused` or `state`; leave out one of the two".to_owned()));
    }
    Ok(filter)
}

/// Takes away what is beyond a page, and tells whether that was anything.
pub(super) fn shorten<T>(entries: &mut Vec<T>, limit: u32) -> bool {
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = entries.len() > most;
    entries.truncate(most);
    more
}

/// The beginning and the end of the window that a caller wants.
pub(super) fn window_of(text: &str, now: Timestamp) -> Result<(Timestamp, Timestamp), Problem> {
    parse_window(text, now).ok_or_else(|| {
        refuse(
            "`window` is a length of time up to now, such as 24h, 7d or 30d, or two times as in RFC 3339 with two dots \
             between them, such as 2026-11-01T00:00:00Z..2026-11-08T00:00:00Z"
                .to_owned(),
        )
    })
}

/// The beginning and the end of a window that has a length.
fn parse_window(text: &str, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
    let (from, to) = match text.split_once("..") {
        Some((from, to)) => (parse_time(from)?, parse_time(to)?),
        None => (now.checked_sub(parse_duration(text).ok()?).ok()?, now),
    };
    (from < to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_length_up_to_now_or_lies_between_two_times() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        for (text, from, to) in [
            ("24h", "2026-11-20T10:00:00Z", "2026-11-21T10:00:00Z"),
            ("7d", "2026-11-14T10:00:00Z", "2026-11-21T10:00:00Z"),
            ("2026-01-01T00:00:00Z..2026-02-01T00:00:00+01:00", "2026-01-01T00:00:00Z", "2026-01-31T23:00:00Z"),
        ] {
            assert_eq!(parse_window(text, now), Some((from.parse().unwrap(), to.parse().unwrap())), "{text}");
        }
        for text in [
            "",
            "0s",
            "24",
            "-1d",
            "..",
            "9999999d",
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00Z..",
            "2026-01-01T00:00:00Z..2026-01-01T00:00:00Z",
            "2026-02-01T00:00:00Z..2026-01-01T00:00:00Z",
            "2026-02-01..2026-03-01",
        ] {
            assert_eq!(parse_window(text, now), None, "{text}");
        }
    }
}

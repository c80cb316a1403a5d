//! One service with one token: requests one after the other, within the limits that it tells.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Request, StatusCode, Url};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::config::{RunnerSource, SourceName};
use crate::runners::poll::{Poll, PollError, Quota};
use crate::runners::seen::Seen;
use crate::runners::{limits, link};
use crate::telemetry::Chain;

/// The time for a connection, if the time for an answer is not shorter.
const CONNECT: Duration = Duration::from_secs(10);

/// The largest answer, in bytes. A page of 100 runners is about 60 KB.
const BODY_MAX: usize = 8 * 1024 * 1024;

/// How often a request may be sent on within the service.
const REDIRECTS_MAX: usize = 3;

/// How long to stay away after the first failure, and at most.
const AWAY: Duration = Duration::from_secs(15);
const AWAY_MAX: Duration = Duration::from_mins(5);

/// An answer, whole.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// Where it came from in the end.
    pub(super) url: Url,
}

/// What must be true for the list to be told, for messages.
#[derive(Clone)]
pub(super) struct Terms {
    /// What is listed, such as ``organization `acme` ``.
    pub(super) place: String,
    /// The permission that a token needs.
    pub(super) needs: &'static str,
}

pub(super) struct Service {
    source: SourceName,
    client: Client,
    origin: url::Origin,
    timeout: Duration,
    terms: Terms,
    /// How many requests were sent since [`Service::begin`], as [`Poll::requests`].
    requests: BTreeMap<Option<u16>, u32>,
    quota: Option<Quota>,
    /// Until when nothing is sent; the same for all that ask this service.
    hold: Arc<Mutex<Option<Hold>>>,
    /// How many refusals came one after the other that did not say for how long.
    strikes: u32,
    /// How many polls failed one after the other.
    failures: u32,
    /// The end of the interface, as it was last told.
    sunset: Option<HeaderValue>,
}

/// A time that may not be shortened, also not by setting the clock.
struct Hold {
    until: Timestamp,
    ends: Instant,
}

impl Service {
    /// A service that has not been asked yet.
    ///
    /// # Errors
    /// If TLS can't be set up; most often the system has no certificates of authorities.
    pub(super) fn new(source: &RunnerSource, terms: Terms) -> Result<Self, reqwest::Error> {
        let builder = Client::builder()
            .user_agent(concat!("ci-bridge/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(source.timeout))
            .timeout(source.timeout)
            // Where a redirect leads decides whether the token may go there.
            .redirect(Policy::none())
            .referer(false);
        // A proxy would see a token that is sent without TLS, and this machine needs none.
        let builder = if source.api.is_local() { builder.no_proxy() } else { builder };
        Ok(Self {
            source: source.name.clone(),
            client: builder.build()?,
            origin: source.api.as_url().origin(),
            timeout: source.timeout,
            terms,
            requests: BTreeMap::new(),
            quota: None,
            hold: Arc::default(),
            strikes: 0,
            failures: 0,
            sunset: None,
        })
    }

    /// Another one of the same service, for other requests. What the service tells either of them about limits holds for
    /// both.
    pub(super) fn beside(&self) -> Self {
        Self {
            source: self.source.clone(),
            client: self.client.clone(),
            origin: self.origin.clone(),
            timeout: self.timeout,
            terms: self.terms.clone(),
            requests: BTreeMap::new(),
            quota: None,
            hold: self.hold.clone(),
            strikes: 0,
            failures: 0,
            sunset: self.sunset.clone(),
        }
    }

    /// Begins a poll.
    pub(super) fn begin(&mut self) {
        self.requests.clear();
    }

    /// Ends a poll.
    pub(super) fn conclude(&mut self, at: Timestamp, result: Result<Vec<Seen>, PollError>) -> Poll {
        let away = match &result {
            Ok(_) => {
                self.failures = 0;
                self.strikes = 0;
                None
            }
            Err(PollError::RateLimited { .. } | PollError::Credential(_)) => None,
            Err(_) => {
                let away = limits::doubled(AWAY, self.failures, AWAY_MAX);
                self.failures = self.failures.saturating_add(1);
                Some(limits::after(limits::jittered(away)))
            }
        };
        let not_before = away.max(self.held());
        Poll { at, result, quota: self.quota, not_before, requests: self.requests.clone() }
    }

    /// Until when the service takes nothing.
    fn held(&self) -> Option<Timestamp> {
        let hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner);
        hold.as_ref().filter(|hold| Instant::now() < hold.ends).map(|hold| hold.until)
    }

    fn hold_for(&self, wait: Duration) -> Timestamp {
        let until = limits::after(wait);
        let hold = Hold { until, ends: Instant::now() + wait };
        *self.hold.lock().unwrap_or_else(PoisonError::into_inner) = Some(hold);
        until
    }

    /// Asks for `url`, and for where it leads within the service.
    ///
    /// # Errors
    /// If there is no whole answer, the service takes no requests now, or the answer leads to another place. Any other
    /// status is an answer.
    pub(super) async fn get(&mut self, url: Url, headers: HeaderMap) -> Result<Answer, PollError> {
        let mut url = url;
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send(Method::GET, url, headers.clone(), None).await?;
            if !matches!(answer.status.as_u16(), 301 | 302 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            url = self.within(&answer.url, location.unwrap_or_default()).map_err(|to| PollError::Redirected { to })?;
        }
        Err(PollError::Redirected { to: "one place after the other".to_owned() })
    }

    /// Sends one request. The caller decides what a redirection means.
    ///
    /// # Errors
    /// As [`Service::get`].
    pub(super) async fn send(
        &mut self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, PollError> {
        if let Some(until) = self.held() {
            return Err(PollError::RateLimited { until });
        }
        let mut request = Request::new(method, url);
        *request.headers_mut() = headers;
        *request.body_mut() = body.map(Into::into);
        let answer = self.exchange(request).await;
        *self.requests.entry(answer.as_ref().ok().map(|answer| answer.status.as_u16())).or_default() += 1;
        let answer = answer?;
        self.heed_limits(&answer)?;
        self.heed_sunset(&answer.headers);
        Ok(answer)
    }

    async fn exchange(&self, request: Request) -> Result<Answer, PollError> {
        let broken = |error: reqwest::Error| {
            let is_connecting = error.is_connect();
            if error.is_timeout() && !is_connecting {
                return PollError::Timeout { after: self.timeout };
            }
            let why = Chain(&error.without_url()).to_string();
            if is_connecting { PollError::NotConnected(why) } else { PollError::Unreachable(why) }
        };
        let mut response = self.client.execute(request).await.map_err(broken)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > BODY_MAX {
                return Err(PollError::TooLarge(format!("more than {} MiB for one page", BODY_MAX >> 20)));
            }
            body.extend_from_slice(&chunk);
        }
        let (status, url) = (response.status(), response.url().clone());
        Ok(Answer { status, headers: std::mem::take(response.headers_mut()), body, url })
    }

    /// Takes down what the answer says about limits.
    fn heed_limits(&mut self, answer: &Answer) -> Result<(), PollError> {
        let told = limits::Told::by(&answer.headers);
        self.quota = told.quota.or(self.quota);
        let used_up = told.quota.filter(|quota| quota.left == 0).and(told.until_reset);
        if limits::is_refusal(answer.status, &told, &answer.body) {
            let wait = told.retry_after.or(used_up).unwrap_or_else(|| {
                let wait = limits::doubled(Duration::from_mins(1), self.strikes, Duration::from_hours(1));
                self.strikes = self.strikes.saturating_add(1);
                wait
            });
            return Err(PollError::RateLimited { until: self.hold_for(wait) });
        }
        let unavailable = told.retry_after.filter(|_| answer.status.is_server_error());
        if let Some(wait) = unavailable.or(used_up) {
            self.hold_for(wait);
        }
        Ok(())
    }

    /// Logs, once, that this version of the interface will be gone (RFC 8594).
    fn heed_sunset(&mut self, headers: &HeaderMap) {
        let Some(sunset) = headers.get("sunset").filter(|sunset| self.sunset.as_ref() != Some(*sunset)) else { return };
        let end = sunset.to_str().unwrap_or("an unknown time");
        log::warn!(
            "runners `{}`: the service drops this version of its interface on {end}; set `api_version`",
            self.source
        );
        self.sunset = Some(sunset.clone());
    }

    /// The address of `target` as it stands at `base`, if it is within the service; otherwise what it is instead.
    pub(super) fn within(&self, base: &Url, target: &str) -> Result<Url, String> {
        let url = base.join(target).map_err(|_| "what is no address".to_owned())?;
        // A user in the address would be sent instead of the token.
        if url.origin() == self.origin && url.username().is_empty() && url.password().is_none() {
            return Ok(url);
        }
        Err(if url.has_host() { url.origin().ascii_serialization() } else { "what is no address".to_owned() })
    }

    /// The address of the next page, if there is one.
    pub(super) fn next_page(&self, answer: &Answer) -> Result<Option<Url>, PollError> {
        let next = link::next(&answer.headers).map(|target| self.within(&answer.url, target));
        next.transpose().map_err(|to| PollError::ForeignLink { to })
    }

    /// Why an answer is not the one that was wanted.
    pub(super) fn refusal(&self, answer: &Answer) -> PollError {
        let needs = self.terms.needs;
        match answer.status.as_u16() {
            401 => PollError::Unauthorized,
            403 if answer.headers.contains_key("x-github-sso") => PollError::Forbidden {
                needs: "to be authorized for the single sign-on of the organization, on the page with your tokens",
            },
            403 => PollError::Forbidden { needs },
            404 => PollError::NotFound { place: self.terms.place.clone(), needs },
            410 => PollError::Gone,
            status @ 500..=599 => PollError::Service { status },
            status => PollError::Status { status },
        }
    }
}

impl Answer {
    /// The body, if it is JSON of the right shape.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, PollError> {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("of no type");
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !essence.ends_with("json") {
            return Err(PollError::NotUnderstood(format!("it is {}", essence.chars().take(60).collect::<String>())));
        }
        // The error's own text may quote the body.
        serde_json::from_slice(&self.body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            PollError::NotUnderstood(match error.classify() {
                serde_json::error::Category::Eof => "it ends in the middle".to_owned(),
                serde_json::error::Category::Data => {
                    format!("its JSON has another shape (line {line}, column {column})")
                }
                _ => format!("it is no JSON (line {line}, column {column})"),
            })
        })
    }
}

//! Sends what an alert has to tell, and again until it is taken or given up.
//!
//! Each target has a courier of its own, so that a dead one keeps nobody else waiting. What the outbox calls due concerns
//! different subjects and is sent side by side; what it has taken is recorded before the next is looked for, so that a
//! process that is killed may send something twice, under the same id, and never drops anything.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, StatusCode};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::guard::{Guard, Refusal};
use super::{Alerts, Error, Target};
use crate::config::AlertFormat;
use crate::runners::poller::chance;
use crate::runners::uptime::later;
use crate::store::{self, Attempted, DeliveryRecord, Store};
use crate::telemetry::Chain;

/// The time from each attempt to the next. After the last one comes none.
///
/// Source: the schedule that Standard Webhooks recommends.
const SCHEDULE: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];
/// The longest that a target may have itself left alone.
const LONGEST_PAUSE: Duration = Duration::from_hours(24);
/// Messages that are sent to one target side by side.
const AT_ONCE: u32 = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(15);
/// So much of an answer is read, in bytes, so that its connection can be used again. Nobody is shown any of it.
const ANSWER_MAX: usize = 4096;
/// How long a courier waits when the outbox can't be read or written.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// Who carries the messages to one target.
pub struct Courier {
    target: Arc<Target>,
    client: Client,
    store: Store,
    /// Until then the target wants to be left alone.
    paused_until: Option<Timestamp>,
}

/// What one round of a courier came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// How many messages were sent, or tried to be.
    pub sent: usize,
    /// When the next one is to be sent; `None` if none is left.
    pub next: Option<Timestamp>,
}

impl Alerts {
    /// A courier for each target.
    ///
    /// # Errors
    /// [`Error::Client`] if no connections can be made at all.
    pub fn couriers(&self, store: &Store) -> Result<Vec<Courier>, Error> {
        self.targets.iter().map(|target| Courier::new(target, store)).collect()
    }
}

impl Courier {
    fn new(target: &Arc<Target>, store: &Store) -> Result<Self, Error> {
        let guard = Guard { allow_private: target.alert.allow_private };
        let client = Client::builder()
            .user_agent(concat!("ci-bridge/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            // A proxy would look names up by itself, past the guard.
            .no_proxy()
            .dns_resolver(guard)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .build()
            .map_err(Error::Client)?;
        Ok(Self { target: target.clone(), client, store: store.clone(), paused_until: None })
    }

    /// Sends until `stop`: whatever is due, whenever something may have become due (`wake`), and what is to be tried
    /// again.
    pub async fn run(mut self, wake: Arc<Notify>, stop: CancellationToken) {
        let work = async {
            loop {
                // Before looking, so that nothing is missed that comes in between: it counts from here on, as tokio says of
                // `notify_waiters`.
                let woken = wake.notified();
                let pause = match self.deliver(Timestamp::now()).await {
                    Ok(Round { next: None, .. }) => None,
                    Ok(Round { next: Some(next), .. }) => {
                        Some(Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default())
                    }
                    Err(error) => {
                        let name = &self.target.alert.name;
                        log::error!("what the alert `{name}` has to tell cannot be read or settled: {}", Chain(&error));
                        Some(STORE_PAUSE)
                    }
                };
                match pause {
                    None => woken.await,
                    Some(pause) => {
                        let _ = tokio::time::timeout(pause, woken).await;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Sends what is due at the time `now`, and records what became of it. A few messages at most: there may be more.
    ///
    /// # Errors
    /// When the outbox can't be read, or what became of messages not be recorded: they will be sent again.
    pub async fn deliver(&mut self, now: Timestamp) -> Result<Round, store::Error> {
        let alert = self.target.alert.name.clone();
        let pause = self.paused_until.filter(|until| *until > now);
        let due = if pause.is_some() { Vec::new() } else { self.store.due(&alert, now, AT_ONCE).await? };
        let sent = join_all(due.iter().map(|record| self.send(record, now))).await;
        let mut attempts = Vec::with_capacity(due.len());
        for (record, sent) in due.iter().zip(sent) {
            let attempted = self.judge(record, sent, now);
            let counts = &self.target.sent;
            let count = match &attempted {
                Attempted::Done { .. } => &counts.taken,
                Attempted::Failed { next: Some(_), .. } => &counts.failed,
                Attempted::Failed { next: None, .. } => &counts.dead,
            };
            count.fetch_add(1, Ordering::Relaxed);
            attempts.push((record.id, attempted));
        }
        let sent = attempts.len();
        if !attempts.is_empty() {
            self.store.settle(attempts, now).await?;
        }
        let next = self.store.next_due(&alert).await?;
        Ok(Round { sent, next: next.map(|next| self.paused_until.map_or(next, |until| next.max(until))) })
    }

    async fn send(&self, record: &DeliveryRecord, now: Timestamp) -> Result<Answer, Fault> {
        let Target { alert, url, secret, .. } = self.target.as_ref();
        Guard { allow_private: alert.allow_private }.check(url)?;
        let delivery = &record.delivery;
        let id = delivery.event.to_string();
        let (mut method, mut url) = (Method::POST, url.clone());
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", header(&id)?);
        headers.insert("webhook-timestamp", now.as_second().into());
        headers.insert(CONTENT_TYPE, header(&delivery.content_type)?);
        match (&alert.format, secret) {
            (AlertFormat::Json | AlertFormat::Template { .. }, Some(secret)) => {
                let signature = secret.sign(&id, now.as_second(), &delivery.body).ok_or(Fault::Unsendable)?;
                headers.insert("webhook-signature", header(&signature)?);
            }
            (AlertFormat::Matrix | AlertFormat::Ntfy, Some(secret)) => {
                let mut bearer = header(&format!("Bearer {}", secret.expose()))?;
                bearer.set_sensitive(true);
                headers.insert(AUTHORIZATION, bearer);
            }
            _ => {}
        }
        if alert.format == AlertFormat::Matrix {
            // The end of the path is what a server tells repetitions by.
            method = Method::PUT;
            url.path_segments_mut().map_err(|()| Fault::Unsendable)?.push(&id);
        }
        let mut answer = self.client.request(method, url).headers(headers).body(delivery.body.clone()).send().await?;
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
        let status = answer.status();
        let mut read = 0;
        while read < ANSWER_MAX
            && let Ok(Some(piece)) = answer.chunk().await
        {
            read += piece.len();
        }
        Ok(Answer { status, retry_after })
    }

    /// What an attempt came to, and when it is repeated.
    fn judge(&mut self, record: &DeliveryRecord, sent: Result<Answer, Fault>, now: Timestamp) -> Attempted {
        let (status, error, retry_after) = match sent {
            Ok(Answer { status, .. }) if status.is_success() => return Attempted::Done { status: status.as_u16() },
            Ok(Answer { status, retry_after }) => {
                (Some(status), format!("the answer has status {}", status.as_u16()), retry_after)
            }
            Err(fault) => (None, Chain(&fault).to_string(), None),
        };
        let asked = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        let pause = retry_after.filter(|_| status.is_some_and(|status| asked.contains(&status)));
        if let Some(until) = pause {
            self.paused_until = Some(self.paused_until.map_or(until, |paused| paused.max(until)));
        }
        let next = SCHEDULE
            .get(record.attempts as usize)
            .filter(|_| status != Some(StatusCode::GONE))
            .map(|wait| later(now, wait.mul_f64(1.0 + 0.1 * chance())))
            .map(|next| pause.map_or(next, |until| next.max(until)));
        let (alert, kind) = (&self.target.alert.name, &record.delivery.kind);
        match next {
            Some(_) => log::debug!("the alert `{alert}` could not tell of {kind}: {error}"),
            None => log::error!("the alert `{alert}` gives up telling of {kind}: {error}"),
        }
        Attempted::Failed { status: status.map(|status| status.as_u16()), error, next }
    }
}

/// What a target answered.
struct Answer {
    status: StatusCode,
    /// When it wants to hear the next message.
    retry_after: Option<Timestamp>,
}

/// Why there is no answer. None of these has the address in its text.
#[derive(Debug, thiserror::Error)]
enum Fault {
    /// The target must not be written to.
    #[error("nothing is sent to this target: {0}")]
    Refused(#[from] Refusal),
    /// Something of the message can't be sent.
    #[error("the message cannot be put into a request")]
    Unsendable,
    /// No connection, or one that broke.
    #[error("the target cannot be reached")]
    Unreachable(#[source] reqwest::Error),
}

impl From<reqwest::Error> for Fault {
    fn from(error: reqwest::Error) -> Self {
        Self::Unreachable(error.without_url())
    }
}

fn header(text: &str) -> Result<HeaderValue, Fault> {
    text.parse().map_err(|_| Fault::Unsendable)
}

/// The time that `Retry-After` means, at most a day from now: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(text: &str, now: Timestamp) -> Option<Timestamp> {
    let until = match text.parse() {
        Ok(seconds) => later(now, Duration::from_secs(seconds)),
        Err(_) => jiff::fmt::rfc2822::parse(text).ok()?.timestamp(),
    };
    Some(until.min(later(now, LONGEST_PAUSE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_says_when_it_wants_more_in_seconds_or_by_date_and_within_a_day() {
        let now = Timestamp::from_second(784_111_000).unwrap();
        for (text, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(777)),
            ("999999999999", Some(86_400)),
            ("Sat, 06 Nov 2094 08:49:37 GMT", Some(86_400)),
            ("soon", None),
            ("-5", None),
        ] {
            assert_eq!(retry_after(text, now).map(|until| until.as_second() - now.as_second()), seconds, "{text}");
        }
    }
}

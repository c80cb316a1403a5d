//! What services say about how often they may be asked.
//!
//! Sources: GitHub, "Rate limits for the REST API" and "Best practices for using the REST API"; GitLab, "User and IP
//! rate limits".

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use crate::runners::poll::Quota;

/// The longest time that a service is obeyed for; more is a mistake on its side.
const WAIT_MAX: Duration = Duration::from_hours(24);

/// What an answer says about limits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) retry_after: Option<Duration>,
    pub(super) quota: Option<Quota>,
    /// The time until the quota is whole again.
    pub(super) until_reset: Option<Duration>,
}

impl Told {
    pub(super) fn by(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let number = |github: &str, gitlab: &str| -> Option<i64> {
            text(github).or_else(|| text(gitlab)).and_then(|text| text.parse().ok())
        };
        let now = Timestamp::now();
        // Moments are of the service's clock, which need not agree with the one here.
        let its_now = text(DATE.as_str()).and_then(moment).unwrap_or(now);

        let retry_after = text(RETRY_AFTER.as_str()).and_then(|text| {
            text.parse().map(Duration::from_secs).ok().or_else(|| moment(text).map(|moment| between(its_now, moment)))
        });
        let until_reset = number("x-ratelimit-reset", "ratelimit-reset")
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .map(|reset| between(its_now, reset).min(WAIT_MAX));
        let limit = number("x-ratelimit-limit", "ratelimit-limit").and_then(|limit| u64::try_from(limit).ok());
        let left = number("x-ratelimit-remaining", "ratelimit-remaining").and_then(|left| u64::try_from(left).ok());
        let quota = match (limit, left, until_reset) {
            (Some(limit), Some(left), Some(wait)) => {
                Some(Quota { limit, left, reset_at: now.saturating_add(signed(wait)).unwrap_or(now) })
            }
            _ => None,
        };
        Self { retry_after: retry_after.map(|wait| wait.min(WAIT_MAX)), quota, until_reset }
    }
}

/// Whether an answer refuses a request because there were too many.
pub(super) fn is_refusal(status: StatusCode, told: &Told, body: &[u8]) -> bool {
    match status {
        StatusCode::TOO_MANY_REQUESTS => true,
        // GitHub refuses for a missing permission with the same status.
        StatusCode::FORBIDDEN => {
            told.retry_after.is_some()
                || told.quota.is_some_and(|quota| quota.left == 0)
                || String::from_utf8_lossy(body).to_ascii_lowercase().contains("rate limit")
        }
        _ => false,
    }
}

/// `first`, doubled `times`, at most `max`.
pub(super) fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(max)
}

/// A time up to a tenth shorter or longer, so that several bridges don't come back at once.
pub(super) fn jittered(time: Duration) -> Duration {
    // Without random bits there is no jitter.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    time.mul_f64(0.9 + 0.2 * f64::from(random) / f64::from(u32::MAX))
}

/// The moment in `wait`, in whole seconds, never too early.
pub(super) fn after(wait: Duration) -> Timestamp {
    let now = Timestamp::now();
    now.saturating_add(signed(wait)).unwrap_or(now)
}

fn signed(wait: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(wait).unwrap_or(jiff::SignedDuration::MAX)
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A date of HTTP (RFC 9110, section 5.6.7).
fn moment(text: &str) -> Option<Timestamp> {
    rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[(&'static str, &str)]) -> Told {
        let headers = lines.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()));
        Told::by(&headers.collect())
    }

    #[test]
    fn a_moment_is_of_the_services_clock() {
        // Its clock is 2026-11-21 12:00:00, whatever the one here is.
        let date = ("date", "Sat, 21 Nov 2026 12:00:00 GMT");
        let reset = |name| told(&[date, (name, "1795262430")]).until_reset;
        assert_eq!(reset("x-ratelimit-reset"), Some(Duration::from_secs(30)));
        assert_eq!(reset("ratelimit-reset"), Some(Duration::from_secs(30)));
        let retry = told(&[date, ("retry-after", "Sat, 21 Nov 2026 12:01:00 GMT")]).retry_after;
        assert_eq!(retry, Some(Duration::from_mins(1)));
        assert_eq!(told(&[("retry-after", "7")]).retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_wait_has_a_bound_and_is_never_negative() {
        let date = ("date", "Sat, 21 Nov 2026 12:00:00 GMT");
        assert_eq!(told(&[date, ("x-ratelimit-reset", "1")]).until_reset, Some(Duration::ZERO));
        assert_eq!(told(&[date, ("x-ratelimit-reset", "99999999999")]).until_reset, Some(WAIT_MAX));
        assert_eq!(told(&[("retry-after", "99999999999")]).retry_after, Some(WAIT_MAX));
        for nonsense in ["", "-1", "soon", "99999999999999999999999"] {
            assert_eq!(told(&[("retry-after", nonsense)]).retry_after, None, "{nonsense}");
        }
    }

    #[test]
    fn a_403_is_a_limit_only_if_it_says_so() {
        let nothing = told(&[]);
        let retry = told(&[("retry-after", "60")]);
        let none_left =
            told(&[("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1795262430")]);
        let is =
            |status: u16, told, body: &str| is_refusal(StatusCode::from_u16(status).unwrap(), told, body.as_bytes());
        assert!(!is(403, &nothing, r#"{"message":"Resource not accessible by personal access token"}"#));
        assert!(is(403, &nothing, r#"{"message":"You have exceeded a secondary rate limit."}"#));
        assert!(is(403, &none_left, ""));
        assert!(is(403, &retry, ""));
        assert!(is(429, &nothing, "Retry later"));
        assert!(!is(200, &none_left, ""));
        assert!(!is(500, &nothing, "rate limit"));
    }

    #[test]
    fn waiting_doubles_up_to_a_bound() {
        let first = Duration::from_mins(1);
        let waits = [0, 1, 2, 5, 6, 40].map(|times| doubled(first, times, Duration::from_hours(1)).as_secs() / 60);
        assert_eq!(waits, [1, 2, 4, 32, 60, 60]);
        for _ in 0..100 {
            let wait = jittered(Duration::from_secs(100)).as_secs_f64();
            assert!((90.0..=110.0).contains(&wait), "{wait}");
        }
    }
}

//! Lengths of time as people write them.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};

/// The text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no length of time; write for example `10s`, `5m`, `12h` or `90d`")]
pub struct NotADuration(String);

/// Parses a length of time such as `10s`, `5m`, `1h 30m` or `90d`; a day has 24 hours.
///
/// # Errors
/// [`NotADuration`] for a number without a unit, months and years, anything negative, and anything else.
///
/// Source: the "friendly" format of jiff, `jiff::fmt::friendly`.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    let wrong = || NotADuration(text.to_owned());
    let span: Span = text.parse().map_err(|_| wrong())?;
    let signed: SignedDuration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(signed).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_a_unit() {
        for (text, seconds) in [("10s", 10), ("5m", 300), ("1h 30m", 5400), ("90d", 7_776_000), ("2 weeks", 1_209_600)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "10", "-10s", "10s ago", "ten seconds", "1month", "1y", "s"] {
            assert_eq!(parse_duration(text), Err(NotADuration(text.to_owned())), "{text}");
        }
    }
}

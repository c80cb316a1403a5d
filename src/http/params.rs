//! Query parameters: each known, each given once, each within its bounds, or the request is refused with the rule.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::http::{StatusCode, Uri};
use jiff::Timestamp;

use super::problem::Problem;
use crate::jobs::{Filter, RunId};

/// The words and numbers of syslog(3), as journalctl takes them.
const PRIORITIES: [(&str, u8); 16] = [
    ("0", 0),
    ("1", 1),
    ("2", 2),
    ("3", 3),
    ("4", 4),
    ("5", 5),
    ("6", 6),
    ("7", 7),
    ("emerg", 0),
    ("alert", 1),
    ("crit", 2),
    ("err", 3),
    ("warning", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];

/// The parameters of one request.
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the query of `uri`, of which only the parameters in `accepted` may be there.
    pub(super) fn of(uri: &Uri, accepted: &[&str]) -> Result<Self, Problem> {
        let query = uri.query().unwrap_or_default();
        let mut params: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            // What was no UTF-8 has this character in its place; nothing is repaired and then used.
            if name.contains(char::REPLACEMENT_CHARACTER) || value.contains(char::REPLACEMENT_CHARACTER) {
                return Err(refuse("a parameter is not UTF-8".to_owned()));
            }
            if !accepted.contains(&name.as_ref()) {
                let known = accepted.join(", ");
                return Err(refuse(format!("unknown parameter `{}`; this path takes: {known}", shorten(&name))));
            }
            if params.iter().any(|(known, _)| *known == name) {
                return Err(refuse(format!("the parameter `{name}` is given twice")));
            }
            params.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(params))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn number<T>(&self, name: &str, bounds: RangeInclusive<T>) -> Result<Option<T>, Problem>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if bounds.contains(&number) => Ok(Some(number)),
            _ => Err(refuse(format!("`{name}` is a whole number from {} to {}", bounds.start(), bounds.end()))),
        }
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let choice = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        let words = || choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        choice.map(Some).ok_or_else(|| refuse(format!("`{name}` is one of: {}", words())))
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        Ok(self.choice(name, &[("true", true), ("false", false)])?.unwrap_or(false))
    }

    /// A time since 1970.
    pub(super) fn time(&self, name: &str) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        parse_time(text).map(Some).ok_or_else(|| {
            refuse(format!("`{name}` is a time since 1970 as in RFC 3339, such as 2026-11-21T10:40:02Z (a + as %2B)"))
        })
    }

    /// Which lines of a log are wanted.
    pub(super) fn filter(&self) -> Result<Filter, Problem> {
        let usec = |time: Timestamp| u64::try_from(time.as_microsecond()).unwrap_or_default();
        let (since_usec, until_usec) = (self.time("since")?.map(usec), self.time("until")?.map(usec));
        if since_usec.zip(until_usec).is_some_and(|(since, until)| since > until) {
            return Err(refuse("`since` is not later than `until`".to_owned()));
        }
        Ok(Filter { priority: self.choice("priority", &PRIORITIES)?, since_usec, until_usec })
    }

    pub(super) fn run(&self) -> Result<Option<RunId>, Problem> {
        self.run_id("run")
    }

    pub(super) fn run_id(&self, name: &str) -> Result<Option<RunId>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| refuse(format!("`{name}` is the id of a run, a UUID")))
    }
}

/// A time since 1970, as in RFC 3339.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    let time = is_rfc_3339(text).then(|| text.parse::<Timestamp>().ok()).flatten();
    time.filter(|time| *time >= Timestamp::UNIX_EPOCH)
}

/// Whether a text has the form of a time in RFC 3339; the parser takes others as well.
fn is_rfc_3339(text: &str) -> bool {
    let is_like = |pattern: &str, text: &str| {
        let is_like = |(a, b): (u8, u8)| if a == b'0' { b.is_ascii_digit() } else { a == b };
        pattern.len() == text.len() && pattern.bytes().zip(text.bytes()).all(is_like)
    };
    let Some((time, rest)) = text.split_at_checked("0000-00-00T00:00:00".len()) else { return false };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) if fraction.starts_with(|char: char| char.is_ascii_digit()) => {
            fraction.trim_start_matches(|char: char| char.is_ascii_digit())
        }
        Some(_) => return false,
        None => rest,
    };
    is_like("0000-00-00T00:00:00", time) && (zone == "Z" || is_like("+00:00", zone) || is_like("-00:00", zone))
}

pub(super) fn refuse(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail)
}

/// What a caller sent is quoted, but not at any length.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Result<Params, Problem> {
        let uri: Uri = format!("/?{query}").parse().unwrap();
        Params::of(&uri, &["lines", "raw"])
    }

    #[test]
    fn an_unknown_or_repeated_parameter_is_refused() {
        assert!(params("line=1").is_err());
        assert!(params("lines=1&lines=2").is_err());
        assert!(params("").is_ok());
    }

    #[test]
    fn what_is_no_utf_8_is_refused() {
        for query in ["raw=%ff", "%ff=true", "raw=a%c3", "raw=%EF%BF%BD"] {
            assert!(params(query).is_err(), "{query}");
        }
        assert!(params("raw=%C3%A9").is_ok());
    }

    #[test]
    fn a_number_keeps_its_bounds() {
        for text in ["-1", "0", "1e9", "abc", "", "11", "99999999999999999999"] {
            assert!(params(&format!("lines={text}")).unwrap().number("lines", 1_u32..=10).is_err(), "{text}");
        }
        assert_eq!(params("lines=10").unwrap().number("lines", 1_u32..=10).ok(), Some(Some(10)));
    }

    #[test]
    fn a_time_is_one_of_rfc_3339() {
        let time = |text: &str| Params(vec![("since".to_owned(), text.to_owned())]).filter().map(|all| all.since_usec);
        for text in [
            "",
            "now",
            "1700000000",
            "@1700000000",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-11-14 22:13:20Z",
            "2023-11-14T22:13Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20+01",
            "2023-11-14T22:13:20+0100",
            "2023-11-14T22:13:20Z[UTC]",
            "2023-11-14T22:13:20 01:00",
            "2023-02-30T00:00:00Z",
            "2023-11-14T25:13:20Z",
            "1969-12-31T23:59:59Z",
            "-2023-11-14T22:13:20Z",
            "12023-11-14T22:13:20Z",
            "2023-11-14T22:13:20Z\u{e9}",
            "2023-11-14T22:13:2\u{e9}Z",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
        for (text, usec) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000_000),
            ("2023-11-14T22:13:20.25Z", 1_700_000_000_250_000),
            ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123_456),
            ("2023-11-14T23:13:20+01:00", 1_700_000_000_000_000),
            ("2023-11-14T16:43:20-05:30", 1_700_000_000_000_000),
        ] {
            assert_eq!(time(text).ok(), Some(Some(usec)), "{text}");
        }
    }

    #[test]
    fn a_flag_is_true_or_false() {
        assert!(params("raw=true").unwrap().flag("raw").is_ok_and(|raw| raw));
        assert!(params("raw=1").unwrap().flag("raw").is_err());
    }
}

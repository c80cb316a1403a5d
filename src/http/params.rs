//! Query parameters: each known, each given once, each within its bounds, or the request is refused with the rule.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::http::{StatusCode, Uri};

use super::problem::Problem;
use crate::jobs::RunId;

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

    pub(super) fn run(&self) -> Result<Option<RunId>, Problem> {
        let Some(text) = self.text("run") else { return Ok(None) };
        text.parse().map(Some).map_err(|_| refuse("`run` is the id of a run, a UUID".to_owned()))
    }
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
    fn a_flag_is_true_or_false() {
        assert!(params("raw=true").unwrap().flag("raw").is_ok_and(|raw| raw));
        assert!(params("raw=1").unwrap().flag("raw").is_err());
    }
}

//! How lines are written: as JSON, as text, as NDJSON or as events.
//!
//! Pure: entries become bytes. What is sent when, and how much at once, is decided elsewhere.

use std::io;

use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::ser::Formatter;
use serde_json::{Value, json};

use super::params::{Params, refuse};
use super::problem::Problem;
use super::shape;
use crate::jobs::{Cursor, Entry, Gap, InvocationId, OWN_MARK, neutralise};
use crate::policy::AllowedJob;

/// The format of an answer with lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Text,
    Ndjson,
    /// Server-sent events.
    Events,
}

impl Format {
    const WORDS: [(&'static str, Self); 4] =
        [("json", Self::Json), ("text", Self::Text), ("ndjson", Self::Ndjson), ("sse", Self::Events)];

    /// `?format=`, or else the first type in `Accept` that is one of ours, or else JSON; where lines are followed, text.
    pub(super) fn choose(params: &Params, headers: &HeaderMap, follow: bool) -> Result<Self, Problem> {
        let fits = |format: &Self| !(follow && *format == Self::Json);
        let chosen = match params.choice("format", &Self::WORDS)? {
            Some(format) => format,
            None => Self::accepted(headers, fits, if follow { Self::Text } else { Self::Json }),
        };
        if fits(&chosen) {
            Ok(chosen)
        } else {
            Err(refuse(
                "a JSON object can't be followed; ask for `format=ndjson`, `format=sse` or `format=text`".to_owned(),
            ))
        }
    }

    fn accepted(headers: &HeaderMap, fits: impl Fn(&Self) -> bool, default: Self) -> Self {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let types: Vec<_> = values.flat_map(|value| value.split(',')).map(media_type).collect();
        let ours = || types.iter().filter_map(|name| Self::from_media_type(name));
        let nothing_else = || ours().next().filter(|_| !types.contains(&"*/*"));
        ours().find(fits).or_else(nothing_else).unwrap_or(default)
    }

    fn from_media_type(name: &str) -> Option<Self> {
        match name {
            "application/json" => Some(Self::Json),
            "text/plain" => Some(Self::Text),
            "application/x-ndjson" => Some(Self::Ndjson),
            "text/event-stream" => Some(Self::Events),
            _ => None,
        }
    }

    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json",
            Self::Text => "text/plain; charset=utf-8",
            Self::Ndjson => "application/x-ndjson",
            Self::Events => "text/event-stream",
        })
    }
}

/// A media type without its parameters.
fn media_type(accepted: &str) -> &str {
    accepted.split(';').next().unwrap_or_default().trim()
}

/// Writes the lines of a log in a format, and what stands between and behind them.
pub(super) struct Writer {
    pub(super) format: Format,
    /// Whether text is written as the job wrote it.
    raw: bool,
    job: AllowedJob,
}

impl Writer {
    pub(super) fn new(format: Format, raw: bool, job: AllowedJob) -> Self {
        Self { format, raw, job }
    }

    /// The job whose lines are written.
    pub(super) fn job(&self) -> &AllowedJob {
        &self.job
    }

    /// The number of this way to write: what two writers of the same number write of the same run is the same.
    pub(super) fn form(&self) -> u8 {
        2 * self.format as u8 + u8::from(self.raw)
    }

    /// What stands before the lines.
    pub(super) fn begin(&self, out: &mut Vec<u8>) {
        match self.format {
            Format::Json => out.extend(b"{\"logs\":["),
            Format::Events => out.extend(b"retry: 1000\n\n"),
            Format::Text | Format::Ndjson => {}
        }
    }

    pub(super) fn line(&self, out: &mut Vec<u8>, invocation: InvocationId, entry: &Entry) {
        if self.format == Format::Text {
            if self.raw {
                out.extend(&entry.message);
            } else {
                out.extend(neutralise(&entry.message).as_bytes());
            }
            return out.push(b'\n');
        }
        let cursor = Cursor { invocation, after: Some(entry.position) }.encode(&self.job);
        match self.format {
            // Also the first line of a further piece has one before it.
            Format::Json if out.last() != Some(&b'[') => out.push(b','),
            Format::Events => field(out, "id", &cursor),
            _ => {}
        }
        let neutral = self.format == Format::Events && !self.raw;
        self.object(out, &shape::Line::of(entry, &cursor, neutral));
    }

    /// Says that lines are missing at this place.
    pub(super) fn gap(&self, out: &mut Vec<u8>, gap: Gap) {
        match gap {
            Gap::Vacuumed => self.remark(out, "lines are missing here: journald has deleted them to make room"),
            Gap::Suppressed(1) => self.remark(out, "1 message is missing here: journald's rate limit dropped it"),
            Gap::Suppressed(count) => {
                self.remark(out, &format!("{count} messages are missing here: journald's rate limit dropped them"));
            }
            Gap::Unreadable => self.remark(out, "lines may be missing here: a journal file can't be read"),
        }
        let gap = match gap {
            Gap::Vacuumed => json!({ "reason": "vacuumed" }),
            Gap::Suppressed(count) => json!({ "reason": "suppressed", "count": count }),
            Gap::Unreadable => json!({ "reason": "unreadable" }),
        };
        self.note(out, "gap", &gap, None);
    }

    /// Says that nobody can tell whether the lines before are all of a run that has ended.
    pub(super) fn doubt(&self, out: &mut Vec<u8>) {
        self.remark(out, "the last lines may be missing: journald has not written them in time");
    }

    /// A line of the bridge's own, where the format has no other way to say it.
    fn remark(&self, out: &mut Vec<u8>, text: &str) {
        if self.format == Format::Text {
            out.extend(format!("{OWN_MARK} {text}\n").as_bytes());
        }
    }

    /// What stands behind the lines; `cursor` is the place behind the newest of them.
    pub(super) fn end(&self, out: &mut Vec<u8>, verdict: &Value, cursor: Option<&str>) {
        match self.format {
            Format::Json => {
                out.extend(b"],");
                let members = verdict.to_string();
                out.extend(members.trim_start_matches('{').as_bytes());
                out.push(b'\n');
            }
            Format::Text => {}
            Format::Ndjson | Format::Events => self.note(out, "end", verdict, cursor),
        }
    }

    /// Something other than a line, by its name.
    pub(super) fn note(&self, out: &mut Vec<u8>, name: &str, members: &Value, cursor: Option<&str>) {
        match self.format {
            Format::Events => {
                if let Some(cursor) = cursor {
                    field(out, "id", cursor);
                }
                field(out, "event", name);
                self.object(out, members);
            }
            Format::Ndjson => self.object(out, &json!({ name: members })),
            Format::Json | Format::Text => {}
        }
    }

    fn object(&self, out: &mut Vec<u8>, value: &impl Serialize) {
        if self.format == Format::Events {
            out.extend(b"data: ");
        }
        // Neither writing into memory nor these shapes can fail.
        let _ = value.serialize(&mut serde_json::Serializer::with_formatter(&mut *out, OneLine));
        match self.format {
            Format::Json => {}
            Format::Text | Format::Ndjson => out.push(b'\n'),
            Format::Events => out.extend(b"\n\n"),
        }
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\n"] {
        out.extend(part.as_bytes());
    }
}

/// Compact JSON without the characters that some readers of text take for the end of a line, although neither NDJSON
/// nor the format of events knows them.
struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while !rest.is_ascii()
            && let Some((before, char, after)) = split(rest)
        {
            write!(writer, "{before}\\u{:04x}", u32::from(char))?;
            rest = after;
        }
        writer.write_all(rest.as_bytes())
    }
}

/// The text before and behind the first character that ends a line somewhere; JSON itself escapes the others.
fn split(text: &str) -> Option<(&str, char, &str)> {
    let (at, char) = text.char_indices().find(|(_, char)| matches!(char, '\u{85}' | '\u{2028}' | '\u{2029}'))?;
    Some((&text[..at], char, &text[at + char.len_utf8()..]))
}

#[cfg(test)]
mod tests;

//! `GET /api/runners/{runner}/badge.svg`: how a runner does, as a picture for a page.
//!
//! Pages can't send a token, so the badges of a list may be public. Without a token, those of other lists are answered as
//! those of runners that there are not.

use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use super::AppState;
use super::authenticate::{Gate, Reader, has_no_token, require_token};
use super::params::Params;
use super::problem::Problem;
use super::runners::{NoSuchRunner, PathRunner, window_of};
use crate::runners::uptime::State as Status;

/// The longest name that is shown, in characters.
const NAME_MAX: usize = 40;

const GREEN: &str = "#4c1";
const YELLOW: &str = "#dfb317";
const RED: &str = "#e05d44";
const GREY: &str = "#9f9f9f";

/// Lets a request pass that has a valid token, or none: what is public is shown without.
pub(super) async fn allow_no_token(gate: State<Gate>, request: Request, next: Next) -> Response {
    if has_no_token(&request) { next.run(request).await } else { require_token(gate, request, next).await }
}

/// `GET /api/runners/{runner}/badge.svg`
pub(super) async fn show_badge(
    reader: Result<Reader, Problem>,
    State(state): State<AppState>,
    path: PathRunner,
    uri: Uri,
) -> Result<Response, Problem> {
    let found = path.find(&state).await;
    if let Err(denied) = reader {
        let is_public = |source| state.runners.has_public_badges(source);
        if !found.as_ref().is_ok_and(|runner| is_public(&runner.source)) {
            return Err(denied);
        }
    }
    let runner = found?;
    let params = Params::of(&uri, &["window"])?;
    let name = short(&runner.known.seen.name);
    let svg = if let Some(window) = params.text("window") {
        let (from, to) = window_of(window, Timestamp::now())?;
        let uptime = state.runners.uptime(runner.id, from, to).await?.ok_or(NoSuchRunner)?.uptime;
        let value = uptime.map_or_else(|| "unknown".to_owned(), percent);
        // Between two times there is no short word for it.
        let window = if window.contains("..") { "" } else { window };
        draw(format!("{name} uptime {window}").trim_end(), &value, uptime.map_or(GREY, colour))
    } else {
        let status = runner.known.entry.state;
        let colour = match status {
            Status::Online => GREEN,
            Status::Offline => RED,
            Status::Unknown | Status::Removed => GREY,
        };
        draw(&name, status.as_str(), colour)
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("image/svg+xml; charset=utf-8")),
        // Whoever keeps it asks again before showing it: proxies of README pages keep pictures for hours.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'")),
    ];
    Ok((headers, svg).into_response())
}

fn short(name: &str) -> String {
    let mut short: String = name.chars().take(NAME_MAX).collect();
    if name.chars().nth(NAME_MAX).is_some() {
        short.push('…');
    }
    short
}

/// Never more than is true: only what was always online is 100%.
fn percent(uptime: f64) -> String {
    let text = format!("{:.2}", (uptime * 10_000.0).floor() / 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn colour(uptime: f64) -> &'static str {
    match uptime {
        uptime if uptime >= 0.99 => GREEN,
        uptime if uptime >= 0.9 => YELLOW,
        _ => RED,
    }
}

/// About how wide a text is in Verdana at 11 pixels, in tenths of a pixel.
fn width(text: &str) -> usize {
    let char = |char: char| match char {
        'i' | 'j' | 'l' | 'I' | '\'' | '|' => 35,
        'f' | 't' | 'r' | ' ' | '.' | ',' | '(' | ')' | '-' | '/' | ':' | ';' | '!' | '[' | ']' => 45,
        'm' | 'M' | 'w' | 'W' | '%' | '@' => 105,
        'A'..='Z' | '_' | '0'..='9' | '…' => 75,
        char if char.is_ascii() => 66,
        _ => 110,
    };
    text.chars().map(char).sum()
}

/// A text as XML has it, without what XML can't have or what turns a text around.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => escaped.push('\u{fffd}'),
            char if char.is_control() => escaped.push('\u{fffd}'),
            char => escaped.push(char),
        }
    }
    escaped
}

/// The badge, in the flat form that most have. The texts are made to fit, whatever the font is.
fn draw(label: &str, value: &str, colour: &str) -> String {
    let (label_text, value_text) = (width(label), width(value));
    // Five pixels on each side.
    let (left, right) = (label_text.div_ceil(10) + 10, value_text.div_ceil(10) + 10);
    let (total, label_middle, value_middle) = (left + right, left * 5, left * 10 + right * 5);
    let (label, value) = (escape(label), escape(value));
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" aria-label="{label}: {value}"><title>{label}: {value}</title><linearGradient id="s" x2="0" y2="100%"><stop offset="0" stop-color="#bbb" stop-opacity=".1"/><stop offset="1" stop-opacity=".1"/></linearGradient><clipPath id="r"><rect width="{total}" height="20" rx="3" fill="#fff"/></clipPath><g clip-path="url(#r)"><rect width="{left}" height="20" fill="#555"/><rect x="{left}" width="{right}" height="20" fill="{colour}"/><rect width="{total}" height="20" fill="url(#s)"/></g><g fill="#fff" text-anchor="middle" font-family="Verdana,Geneva,DejaVu Sans,sans-serif" font-size="110" transform="scale(.1)"><text x="{label_middle}" y="150" fill="#010101" fill-opacity=".3" textLength="{label_text}">{label}</text><text x="{label_middle}" y="140" textLength="{label_text}">{label}</text><text x="{value_middle}" y="150" fill="#010101" fill-opacity=".3" textLength="{value_text}">{value}</text><text x="{value_middle}" y="140" textLength="{value_text}">{value}</text></g></svg>
"##
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_never_more_than_is_true() {
        for (uptime, text) in
            [(0.0, "0%"), (0.5, "50%"), (0.123_456, "12.34%"), (0.999, "99.9%"), (0.999_99, "99.99%"), (1.0, "100%")]
        {
            assert_eq!(percent(uptime), text);
        }
        assert_eq!([1.0, 0.98, 0.5].map(colour), [GREEN, YELLOW, RED]);
    }

    #[test]
    fn the_parts_are_as_wide_as_their_texts() {
        let svg = draw("iii", "mmm", GREEN);
        assert!(svg.contains(r#"width="63""#), "{svg}");
        assert!(svg.contains(r##"<rect width="21" height="20" fill="#555"/><rect x="21" width="42""##), "{svg}");
        assert!(svg.contains(r#"<text x="105" y="140" textLength="105">iii</text>"#), "{svg}");
    }

    #[test]
    fn no_text_leaves_its_place() {
        for text in ["</text><script>alert(1)</script>", "\" onload=\"x", "a&b", "]]>", "\0\u{1b}\u{202e}\u{ffff}"] {
            let svg = draw(text, text, RED);
            assert_eq!(svg.matches('<').count(), draw("a", "a", RED).matches('<').count(), "{svg}");
            assert_eq!(svg.matches('"').count(), draw("a", "a", RED).matches('"').count(), "{svg}");
            assert!(!svg.trim_end().contains(|char: char| char.is_control() || char == '\u{202e}'), "{svg}");
        }
        assert_eq!(short(&"ä".repeat(100)).chars().count(), NAME_MAX + 1);
    }
}

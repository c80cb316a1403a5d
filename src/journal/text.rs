//! Job output as harmless text.
//!
//! Whoever shows a log (a terminal, a CI system) acts on some of its bytes: escape sequences move the cursor and answer
//! in the reader's name, a CI system runs lines such as `::set-env …` or `##[…]`, direction marks let text read as
//! something else. [`neutralise`] takes that power away and leaves what a person can read, colours included.
//!
//! Pure. It knows nothing of secrets: masking is another matter.

use std::borrow::Cow;
use std::str::Chars;

/// The longest line that is shown, in bytes, with all that is added to it.
pub const LINE_MAX: usize = 16 << 10;

/// How a line begins that the bridge itself puts into a log.
pub const OWN_MARK: &str = "[ci-bridge]";

/// Room for `…[truncated N bytes]`.
const MARK_MAX: usize = 48;

const ESCAPE: char = '\u{1b}';
const CONTROL_SEQUENCE: char = '\u{9b}';
const BELL: char = '\u{7}';
const STRING_END: char = '\u{9c}';

/// Parameters of a colour that are taken for one; more is no colour but an attempt at something.
const COLOUR_MAX: usize = 64;

/// The text of one message of a job, made safe to be shown or to be read by a CI system.
///
/// `\n`, `\r`, U+2028 and U+2029 end a line; in the result only `\n` does. In it
/// * no control character is left but tab, newline and the escape of a colour (`ESC [ … m`),
/// * a line that begins with `::` has `| ` before it, and `##[` reads `##\[`,
/// * so has a line that begins with [`OWN_MARK`], which only the bridge may say,
/// * marks of direction, and bytes that are not UTF-8, are U+FFFD,
/// * a line has at most [`LINE_MAX`] bytes; a longer one ends in `…[truncated N bytes]`.
///
/// Doing it twice changes nothing more.
///
/// Source: the commands are those of GitHub's runner, which looks for `::` behind white space and for `##[` anywhere.
#[must_use]
pub fn neutralise(message: &[u8]) -> Cow<'_, str> {
    if let Some(text) = already_harmless(message) {
        return Cow::Borrowed(text);
    }
    let text = String::from_utf8_lossy(message);
    let lines: Vec<_> = text.split(['\n', '\u{2028}', '\u{2029}']).flat_map(returns).map(harmless).collect();
    Cow::Owned(lines.join("\n"))
}

/// The message itself if it is one line that needs no change, as most do.
fn already_harmless(message: &[u8]) -> Option<&str> {
    let plain = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
    let hidden = message.contains(&b'#') && message.windows(3).any(|bytes| bytes == b"##[");
    if message.len() > LINE_MAX || hidden || !message.iter().all(plain) {
        return None;
    }
    std::str::from_utf8(message).ok().filter(|text| !is_presumptuous(text))
}

/// The lines that carriage returns make of one: a terminal would show them one over the other.
fn returns(line: &str) -> impl Iterator<Item = &str> {
    let empty = line.chars().all(|char| char == '\r');
    line.split('\r').filter(|part| !part.is_empty()).chain(empty.then_some(""))
}

fn harmless(line: &str) -> String {
    let mut result = String::with_capacity(line.len() + 8);
    // The last two characters that can be seen.
    let mut seen = [' '; 2];
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        let shown = match char {
            ESCAPE => {
                chars = escape(chars.as_str(), &mut result).chars();
                continue;
            }
            CONTROL_SEQUENCE => {
                chars = control_sequence(chars.as_str(), &mut result).chars();
                continue;
            }
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => {
                chars = control_string(chars.as_str()).chars();
                continue;
            }
            '\t' => char,
            _ if char.is_control() => continue,
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
            _ => char,
        };
        if shown == '[' && seen == ['#', '#'] {
            result.push('\\');
        }
        result.push(shown);
        seen = [seen[1], shown];
    }
    if is_presumptuous(&result) {
        result.insert_str(0, "| ");
    }
    shorten(result)
}

/// What follows an escape sequence; `text` starts behind its escape. A colour is kept.
fn escape<'a>(text: &'a str, result: &mut String) -> &'a str {
    let mut chars = text.chars();
    match chars.next() {
        Some('[') => control_sequence(chars.as_str(), result),
        Some(']' | 'P' | 'X' | '^' | '_') => control_string(chars.as_str()),
        Some(' '..='/') => {
            let rest = chars.as_str().trim_start_matches(|char| matches!(char, ' '..='/'));
            rest.strip_prefix(|char| matches!(char, '0'..='~')).unwrap_or(rest)
        }
        Some('0'..='~') => chars.as_str(),
        _ => text,
    }
}

/// What follows a control sequence; `text` starts behind its `ESC [`. A colour is kept.
///
/// Source: ECMA-48, 5.4.
fn control_sequence<'a>(text: &'a str, result: &mut String) -> &'a str {
    let after_parameters = text.trim_start_matches(|char| matches!(char, '0'..='?'));
    let parameters = text.get(..text.len() - after_parameters.len()).unwrap_or_default();
    let colour = |char: char| char.is_ascii_digit() || char == ';';
    if let Some(rest) = after_parameters.strip_prefix('m')
        && parameters.len() <= COLOUR_MAX
        && parameters.chars().all(colour)
    {
        result.push_str("\u{1b}[");
        result.push_str(parameters);
        result.push('m');
        return rest;
    }
    let rest = after_parameters.trim_start_matches(|char| matches!(char, ' '..='/'));
    rest.strip_prefix(|char| matches!(char, '@'..='~')).unwrap_or(rest)
}

/// What follows a string for the terminal, such as a window's title; `text` starts behind what opened it.
///
/// One that is not closed in its line is left visible, so that nothing can hide the rest of a line.
fn control_string(text: &str) -> &str {
    let control = |char: char| char.is_control() && char != '\t';
    let closed = text.find(control).and_then(|at| {
        let end = text.get(at..)?;
        end.strip_prefix([BELL, STRING_END]).or_else(|| end.strip_prefix("\u{1b}\\"))
    });
    closed.unwrap_or(text)
}

/// Whether a CI system would take the line for a command, or a person for the bridge's own, or could once colours are
/// taken out.
fn is_presumptuous(line: &str) -> bool {
    // Characters without width, which some versions of white space include.
    let blank = |char: char| char.is_whitespace() || matches!(char, '\u{200b}' | '\u{2060}' | '\u{feff}' | '\u{180e}');
    let seen = Visible(line.chars()).skip_while(|char| blank(*char));
    ["::", OWN_MARK].iter().any(|mark| seen.clone().take(mark.len()).eq(mark.chars()))
}

/// The characters of a harmless line without its colours.
#[derive(Clone)]
struct Visible<'a>(Chars<'a>);

impl Iterator for Visible<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        loop {
            match self.0.next()? {
                ESCAPE => drop(self.0.find(|char| *char == 'm')),
                char => return Some(char),
            }
        }
    }
}

fn shorten(mut line: String) -> String {
    if line.len() <= LINE_MAX {
        return line;
    }
    let mut end = line.floor_char_boundary(LINE_MAX - MARK_MAX);
    // A colour is kept whole or not at all.
    if let Some(escape) = line.get(..end).and_then(|kept| kept.rfind(ESCAPE))
        && line.get(escape..end).is_some_and(|colour| !colour.contains('m'))
    {
        end = escape;
    }
    let dropped = line.len() - end;
    line.truncate(end);
    line.push_str(&format!("…[truncated {dropped} bytes]"));
    line
}

#[cfg(test)]
mod tests;

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
    std::str::from_utf8(message).ok().filter(|text| !is_command(text))
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
    if is_command(&result) {
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
    let parameters = text.strip_suffix(after_parameters).unwrap_or_default();
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
    let ends = [BELL.to_string(), STRING_END.to_string(), format!("{ESCAPE}\\")];
    let closed = ends.iter().filter_map(|end| Some((text.find(end.as_str())?, end.len()))).min();
    closed.and_then(|(at, len)| text.get(at + len..)).unwrap_or(text)
}

/// Whether a CI system would take the line for a command, or could once colours are taken out.
fn is_command(line: &str) -> bool {
    // Characters without width, which some versions of white space include.
    let blank = |char: char| char.is_whitespace() || matches!(char, '\u{200b}' | '\u{2060}' | '\u{feff}' | '\u{180e}');
    let mut seen = Visible(line.chars()).skip_while(|char| blank(*char));
    seen.next() == Some(':') && seen.next() == Some(':')
}

/// The characters of a harmless line without its colours.
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces that mean something to a terminal or a CI system, or come close to it.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let pieces: Vec<&[u8]> = vec![
            b"::",
            b":",
            b"::error::x",
            b"##[",
            b"#",
            b"##",
            b"[",
            b"\\",
            b"\r",
            b"\n",
            b"\t",
            b" ",
            b"\x1b",
            b"\x1b[",
            b"\x1b[31m",
            b"\x1b[0m",
            b"\x1b[2K",
            b"\x1b[1;",
            b"\x1b]0;title\x07",
            b"\x1b]",
            b"\x1b\\",
            b"\x1bP",
            b"m",
            b";",
            b"\x07",
            b"\0",
            b"\x0b",
            b"\x0c",
            b"\x7f",
            b"\xff",
            b"\xc2\x85",
            b"\xc2\x9b",
            b"\xc2\x9bm",
            b"\xc2\x9d",
            b"\xc2\x9c",
            b"\xe2\x80\xa8",
            b"\xe2\x80\xa9",
            b"\xe2\x80\xae",
            b"\xe2\x81\xa6",
            b"\xc2\xa0",
            b"\xe3\x80\x80",
            b"\xe2\x80\x8b",
            b"\xef\xbb\xbf",
            b"\xf0\x9f\x98\x80",
            b"text",
        ];
        let piece = prop_oneof![
            4 => prop::sample::select(pieces).prop_map(<[u8]>::to_vec),
            1 => prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    fn assert_harmless(text: &str) {
        assert!(!text.contains("##["), "{text:?}");
        for line in text.split(['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}']) {
            assert!(!line.trim_start().starts_with("::"), "{text:?}");
            assert!(line.len() <= LINE_MAX);
        }
        let mut rest = text;
        while let Some(at) = rest.find(ESCAPE) {
            let colour = rest[at..].strip_prefix("\u{1b}[").expect("only colours have an escape");
            rest = colour.trim_start_matches(|char: char| char.is_ascii_digit() || char == ';');
            assert!(rest.starts_with('m'), "{text:?}");
        }
        let bad = |char: char| {
            (char.is_control() && !matches!(char, '\t' | '\n' | ESCAPE))
                || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!text.contains(bad), "{text:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn the_result_is_harmless_and_stays_as_it_is(message in hostile()) {
            let text = neutralise(&message);
            assert_harmless(&text);
            prop_assert_eq!(neutralise(text.as_bytes()), &*text);
            // Also for a reader that takes the colours out.
            let bare: String = text.split('\n').map(|line| Visible(line.chars()).collect::<String>() + "\n").collect();
            assert_harmless(&bare);
        }

        #[test]
        fn plain_text_is_left_alone(message in "[a-zA-Z0-9 \t,.;!?()/=äöü€😀-]{0,200}") {
            prop_assert_eq!(neutralise(message.as_bytes()), message.as_str());
        }

        #[test]
        fn a_long_line_is_cut_once(message in hostile(), repeat in 1_usize..3000) {
            let message = message.repeat(repeat);
            let text = neutralise(&message);
            assert_harmless(&text);
            prop_assert_eq!(neutralise(text.as_bytes()), &*text);
        }
    }

    #[test]
    fn each_rule_shows_in_an_example() {
        let cases: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"plain", "plain"),
            (b"\x1b[1;31mred\x1b[0m", "\u{1b}[1;31mred\u{1b}[0m"),
            (b"\x1b[2J\x1b[Hclear", "clear"),
            (b"\x1b]0;title\x07text", "text"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            (b"\x1b]never closed", "never closed"),
            (b"\x1bPdcs\xc2\x9ctext", "text"),
            (b"\xc2\x9b31mred", "\u{1b}[31mred"),
            (b"\x1b(Btext\x1b=", "text"),
            (b"::set-env name=A::b", "| ::set-env name=A::b"),
            (b" \t\xe3\x80\x80::error::x", "|  \t\u{3000}::error::x"),
            (b"\x1b[31m::error::x", "| \u{1b}[31m::error::x"),
            (b"std::vec", "std::vec"),
            (b"##[error]x", "##\\[error]x"),
            (b"#\x00#[error]x", "##\\[error]x"),
            (b"##\\[error]x", "##\\[error]x"),
            (b"10%\r20%\r\n", "10%\n20%\n"),
            (b"\rprogress\r", "progress"),
            (b"x\xe2\x80\xa8::error::y", "x\n| ::error::y"),
            (b"a\xe2\x80\xaeb", "a\u{fffd}b"),
            (b"a\xff\xfeb\x00c\x07", "a\u{fffd}\u{fffd}bc"),
        ];
        for (message, expected) in cases {
            assert_eq!(neutralise(message), *expected, "{:?}", String::from_utf8_lossy(message));
        }
    }

    #[test]
    fn a_cut_line_says_how_much_is_missing() {
        let text = neutralise(&vec![b'x'; 20_000]).into_owned();
        let (kept, mark) = text.split_once('…').unwrap();
        assert_eq!(mark, format!("[truncated {} bytes]", 20_000 - kept.len()));
        assert!(text.len() <= LINE_MAX);
        let line = vec![b'x'; LINE_MAX];
        assert_eq!(neutralise(&line).as_bytes(), line);
    }

    #[test]
    fn a_cut_splits_no_colour() {
        let coloured = b"\x1b[31mr".repeat(4000);
        assert_harmless(&neutralise(&coloured));
    }

    #[test]
    fn a_plain_line_is_not_copied() {
        assert!(matches!(neutralise(b"plain # text [x] a::b"), Cow::Borrowed(_)));
    }
}

use proptest::prelude::*;

use super::*;

/// Pieces that mean something to a terminal or a CI system, or come close to it.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"::",
        b":",
        b"::error::x",
        b"##[",
        OWN_MARK.as_bytes(),
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
        assert!(!line.trim_start().starts_with(OWN_MARK), "{text:?}");
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
    #![proptest_config(ProptestConfig::with_cases(1000))]
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

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_long_line_is_cut_once(message in hostile()) {
        let message = message.repeat(1 + 3 * LINE_MAX / message.len().max(1));
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
        (b"[ci-bridge] all is well", "| [ci-bridge] all is well"),
        (b"x\r \x1b[1m[ci-bridge] y", "x\n|  \u{1b}[1m[ci-bridge] y"),
        (b"see [ci-bridge]", "see [ci-bridge]"),
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
    let text = neutralise(&b"x".repeat(20_000)).into_owned();
    let (kept, mark) = text.split_once('…').unwrap();
    assert_eq!(mark, format!("[truncated {} bytes]", 20_000 - kept.len()));
    assert!(text.len() <= LINE_MAX);
    let line = vec![b'x'; LINE_MAX];
    assert_eq!(neutralise(&line).as_bytes(), line);
}

#[test]
fn sequences_that_never_close_cost_no_more_than_others() {
    for piece in ["\u{1b}]", "\u{9d}", "\u{1b}]\u{7}", "\u{1b}[", "\u{1b}[3", "\u{1b}(", "\u{1b}P\u{1b}"] {
        let line = piece.repeat(1_000_000 / piece.len());
        assert_harmless(&neutralise(line.as_bytes()));
    }
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

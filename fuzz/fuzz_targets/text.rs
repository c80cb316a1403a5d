//! Output of a job is harmless whatever its bytes, and stays as it is when it is made so again.
#![no_main]

use ci_bridge::journal::text::{LINE_MAX, OWN_MARK, neutralise};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    let text = neutralise(message);
    assert_eq!(neutralise(text.as_bytes()), text, "not the same when done twice");
    for line in text.split('\n') {
        assert!(line.len() <= LINE_MAX, "a line of {} bytes", line.len());
        assert!(!line.contains("##["), "a hidden command");
        let visible = without_colours(line);
        assert!(!visible.contains("##["), "a hidden command, once colours are gone");
        let begin = visible.trim_start();
        assert!(!begin.starts_with("::"), "a command");
        assert!(!begin.starts_with(OWN_MARK), "words of the bridge");
        for char in visible.chars() {
            let direction = matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            assert!(!direction && (char == '\t' || !char.is_control()), "{char:?} is left");
            assert!(!matches!(char, '\u{2028}' | '\u{2029}'), "{char:?} is left");
        }
    }
});

/// The line without `ESC [ digits ; … m`, which is the only escape that may be there.
fn without_colours(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let mut visible = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let parameters = part.strip_prefix('[').and_then(|rest| rest.split_once('m'));
        let (parameters, rest) = parameters.expect("an escape that is no colour");
        assert!(parameters.bytes().all(|byte| byte.is_ascii_digit() || byte == b';'), "no colour: {parameters:?}");
        visible.push_str(rest);
    }
    visible
}

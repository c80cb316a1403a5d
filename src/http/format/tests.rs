use proptest::prelude::*;

use super::*;
use crate::jobs::{Position, Source};
use crate::policy::{JobName, Policy, Prefix};

fn writer(format: Format, raw: bool) -> Writer {
    let policy = Policy::new(vec![Prefix::parse("ci-test-").unwrap()]);
    Writer::new(format, raw, policy.admit(&JobName::parse("ci-test-a").unwrap()).unwrap())
}

fn line(format: Format, raw: bool, message: &[u8]) -> String {
    let position =
        Position { seqnum_id: [1; 16], seqnum: 2, boot_id: [3; 16], monotonic: 4, realtime: 5_000_000, xor_hash: 6 };
    let entry = Entry { position, priority: Some(6), source: Source::Job, suppressed: None, message: message.to_vec() };
    let mut out = Vec::new();
    writer(format, raw).line(&mut out, InvocationId::from_bytes(&[7; 16]).unwrap(), &entry);
    String::from_utf8(out).unwrap()
}

fn gap(format: Format, gap: Gap) -> String {
    let mut out = Vec::new();
    writer(format, true).gap(&mut out, gap);
    String::from_utf8(out).unwrap()
}

/// Pieces that mean something to a reader of lines, of events or of JSON.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "\u{b}",
        "\u{c}",
        "\u{1c}",
        "\u{85}",
        "\u{2028}",
        "\u{2029}",
        "\0",
        "data: ",
        "id: 1",
        "event: end",
        ": ",
        "retry: 9",
        "{\"end\":{}}",
        "\"",
        "\\",
        "\\u0022",
        "::x",
        "\u{feff}",
        "text",
        "\u{e9}",
    ];
    let piece = prop_oneof![
        4 => prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

/// A reader that takes more for the end of a line than it should: each character that Unicode calls one.
fn lines(text: &str) -> Vec<&str> {
    text.split(['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}']).collect()
}

proptest! {
    #[test]
    fn an_event_is_read_as_it_was_written_whatever_the_message(message in hostile(), raw: bool) {
        let text = line(Format::Events, raw, &message);
        let parts = lines(&text);
        let [id, data, "", ""] = parts.as_slice() else { panic!("{text:?}") };
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        prop_assert_eq!(id.strip_prefix("id: "), data["cursor"].as_str());
        let shown = if raw { String::from_utf8_lossy(&message) } else { neutralise(&message) };
        prop_assert_eq!(data["message"].as_str().unwrap(), shown);
        prop_assert_eq!(data["message_base64"].is_string(), std::str::from_utf8(&message).is_err());
    }

    #[test]
    fn an_object_is_one_line_whatever_the_message(message in hostile(), raw: bool) {
        let text = line(Format::Ndjson, raw, &message);
        let parts = lines(&text);
        let [object, ""] = parts.as_slice() else { panic!("{text:?}") };
        let object: Value = serde_json::from_str(object).unwrap();
        prop_assert_eq!(object["message"].as_str().unwrap(), String::from_utf8_lossy(&message));
        let event = line(Format::Events, true, &message);
        prop_assert!(event.ends_with(&format!("\ndata: {text}\n")), "{event:?}");
    }
}

#[test]
fn a_gap_says_what_is_missing_and_why() {
    for (kind, text, json) in [
        (
            Gap::Suppressed(123),
            "123 messages are missing here: journald's rate limit dropped them",
            r#"{"reason":"suppressed","count":123}"#,
        ),
        (
            Gap::Suppressed(1),
            "1 message is missing here: journald's rate limit dropped it",
            r#"{"reason":"suppressed","count":1}"#,
        ),
        (Gap::Vacuumed, "lines are missing here: journald has deleted them to make room", r#"{"reason":"vacuumed"}"#),
        (Gap::Unreadable, "lines may be missing here: a journal file can't be read", r#"{"reason":"unreadable"}"#),
    ] {
        assert_eq!(gap(Format::Text, kind), format!("[ci-bridge] {text}\n"));
        assert_eq!(gap(Format::Ndjson, kind), format!("{{\"gap\":{json}}}\n"));
        assert_eq!(gap(Format::Events, kind), format!("event: gap\ndata: {json}\n\n"));
    }
}

#[test]
fn writers_of_one_number_write_the_same() {
    let kinds =
        [Format::Json, Format::Text, Format::Ndjson, Format::Events].map(|format| [(format, false), (format, true)]);
    let kinds = kinds.as_flattened();
    for (at, (format, raw)) in kinds.iter().enumerate() {
        for (other_format, other_raw) in &kinds[..at] {
            let (one, other) = (writer(*format, *raw), writer(*other_format, *other_raw));
            assert_ne!(one.form(), other.form(), "{format:?} {raw}, {other_format:?} {other_raw}");
        }
    }
}

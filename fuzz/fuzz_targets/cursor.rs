//! A cursor is refused, or is exactly what the bridge has given out for that job.
#![no_main]

use ci_bridge::invocation::InvocationId;
use ci_bridge::jobs::{Cursor, Position};
use ci_bridge_fuzz::job;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (job, other) = (job("ci-test-a"), job("ci-test-b"));
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(cursor) = Cursor::decode(&job, text)
    {
        assert_eq!(cursor.encode(&job), text, "two texts for one place");
    }
    // No text that is made at random has the right tag; so what comes behind that is reached from the other side.
    let Some((invocation, rest)) = bytes.split_first_chunk::<16>() else { return };
    let Some(invocation) = InvocationId::from_bytes(invocation) else { return };
    let after = rest.first_chunk().map(Position::from_bytes);
    let cursor = Cursor { invocation, after };
    let text = cursor.encode(&job);
    assert_eq!(Cursor::decode(&job, &text).as_ref(), Ok(&cursor));
    assert!(Cursor::decode(&other, &text).is_err(), "a cursor is worth something for another job");
    // Any change shows.
    if let Some((at, bit)) = rest.get(Position::LEN..).and_then(|rest| rest.first().zip(rest.get(1))) {
        let mut changed = text.clone().into_bytes();
        let at = usize::from(*at) % changed.len();
        changed[at] ^= 1 << (bit % 7);
        if let Ok(changed) = String::from_utf8(changed) {
            assert!(Cursor::decode(&job, &changed).is_err(), "a damaged cursor is taken: {changed}");
        }
    }
});

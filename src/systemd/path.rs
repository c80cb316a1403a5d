//! Object paths of units.

const UNITS: &str = "/org/freedesktop/systemd1/unit/";

/// The object path of `unit`.
///
/// Every byte outside `[A-Za-z0-9]`, and a digit in the first place, becomes `_xx`.
/// Source: `sd_bus_path_encode(3)`.
pub(super) fn of_unit(unit: &str) -> String {
    let mut path = String::with_capacity(UNITS.len() + unit.len() * 2);
    path.push_str(UNITS);
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && at > 0) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

/// The unit of an object path; `None` for any other object.
pub(super) fn to_unit(path: &str) -> Option<String> {
    let encoded = path.strip_prefix(UNITS)?.as_bytes();
    let mut unit = Vec::with_capacity(encoded.len());
    let mut at = 0;
    while let Some(byte) = encoded.get(at) {
        if *byte == b'_' {
            let digits = std::str::from_utf8(encoded.get(at + 1..at + 3)?).ok()?;
            unit.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            unit.push(*byte);
            at += 1;
        }
    }
    String::from_utf8(unit).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_encoded_as_systemd_does() {
        assert_eq!(of_unit("ci-test-a@b.service"), "/org/freedesktop/systemd1/unit/ci_2dtest_2da_40b_2eservice");
        assert_eq!(of_unit("0a.service"), "/org/freedesktop/systemd1/unit/_30a_2eservice");
    }

    proptest! {
        #[test]
        fn every_unit_comes_back_from_its_path(unit in "[a-z0-9@:_.\\\\-]{1,60}\\.service") {
            prop_assert_eq!(to_unit(&of_unit(&unit)), Some(unit));
        }

        #[test]
        fn no_path_makes_it_stumble(path in "(/org/freedesktop/systemd1/unit/)?\\PC{0,30}") {
            let _ = to_unit(&path);
        }
    }
}

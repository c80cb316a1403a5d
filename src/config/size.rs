//! Amounts of bytes as people write them.

/// The text is no amount of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no size; write a whole number with `B`, `KiB`, `MiB`, `GiB` or `TiB`, for example `10GiB`")]
pub struct NotASize(String);

/// Parses an amount of bytes such as `512MiB` or `10 GiB`: a whole number and a unit of powers of 1024.
///
/// # Errors
/// [`NotASize`] for a number without a unit, units of powers of 1000, fractions, more than 2⁶⁴ - 1 bytes, and anything
/// else.
pub fn parse_size(text: &str) -> Result<u64, NotASize> {
    let wrong = || NotASize(text.to_owned());
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let power = match text.get(digits.len()..).map(str::trim_start) {
        Some("B") => 0,
        Some("KiB") => 1,
        Some("MiB") => 2,
        Some("GiB") => 3,
        Some("TiB") => 4,
        _ => return Err(wrong()),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1024_u64.pow(power)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit() {
        for (text, bytes) in [("0B", 0), ("1KiB", 1024), ("512MiB", 512 << 20), ("10 GiB", 10 << 30), ("3TiB", 3 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "10", "GiB", "1.5GiB", "-1GiB", "+1GiB", "1GB", "1gib", "1G", "1GiB ", "16777216TiB", "10iB"] {
            assert_eq!(parse_size(text), Err(NotASize(text.to_owned())), "{text}");
        }
    }
}

//! Numbers as text, as Redis reads and writes them.

/// A whole number in its one form: no blanks, no sign `+`, no leading zeros.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let one_form = digits.first() != Some(&b'0') || text == b"0";
    if plain && one_form { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// A floating-point number; infinities, but not NaN.
pub(super) fn float(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let plain = !text.is_empty() && !text.starts_with(|letter: char| letter.is_whitespace());
    text.parse().ok().filter(|number: &f64| plain && !number.is_nan())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_one_form() {
        for (text, number) in
            [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(integer(text.as_bytes()), Some(number));
        }
        for text in ["", "-", "+1", "01", "-0", " 1", "1 ", "1.0", "9223372036854775808", "x"] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn floats_may_be_infinite_but_not_nan() {
        assert_eq!(
            (float(b"1e3"), float(b"-inf"), float(b"inf")),
            (Some(1000.0), Some(f64::NEG_INFINITY), Some(f64::INFINITY))
        );
        assert_eq!((float(b"nan"), float(b""), float(b" 1"), float(b"x")), (None, None, None, None));
    }
}

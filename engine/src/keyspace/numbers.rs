//! Numbers as text, as Redis reads and writes them.

use super::extended;

/// A whole number in its one form: no blanks, no sign `+`, no leading zeros.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let one_form = digits.first() != Some(&b'0') || text == b"0";
    if plain && one_form { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// A floating-point number; infinities by name, but not NaN. One that is too large for a double, or too small, is none.
pub(super) fn float(text: &[u8]) -> Option<f64> {
    let number = loose(text).filter(|_| !text.starts_with(b" "))?;
    let digits = text.iter().take_while(|letter| !letter.eq_ignore_ascii_case(&b'e'));
    let zero = !digits.clone().any(|digit| matches!(digit, b'1'..=b'9'));
    let named = number.is_infinite() && !digits.clone().any(u8::is_ascii_digit);
    if hexadecimal(text) || named || number.is_finite() && (number != 0.0 || zero) { Some(number) } else { None }
}

/// A bound of a range of scores: one that is out of range is infinite or 0, as is an empty one.
pub(super) fn bound(text: &[u8]) -> Option<f64> {
    if text.is_empty() { Some(0.0) } else { loose(text.trim_ascii_start()) }
}

fn loose(text: &[u8]) -> Option<f64> {
    if hexadecimal(text) {
        return extended::hexadecimal(text);
    }
    std::str::from_utf8(text).ok()?.parse().ok().filter(|number: &f64| !number.is_nan())
}

fn hexadecimal(text: &[u8]) -> bool {
    text.iter().any(|letter| letter.eq_ignore_ascii_case(&b'x'))
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
        for text in ["nan", "", " 1", "1 ", "x", "0x", "infi", "1e400", "-1e400", "2e-324", "."] {
            assert_eq!(float(text.as_bytes()), None, "{text}");
        }
        for (text, number) in [("5e-324", 5e-324), ("0e9999", 0.0), ("0x10", 16.0), ("-0x1.8p1", -3.0), ("1.", 1.0)] {
            assert_eq!(float(text.as_bytes()), Some(number), "{text}");
        }
    }

    #[test]
    fn a_bound_may_be_out_of_range() {
        for (text, number) in [("", 0.0), (" 1", 1.0), ("1e400", f64::INFINITY), ("1e-400", 0.0), ("0x1", 1.0)] {
            assert_eq!(bound(text.as_bytes()), Some(number), "{text}");
        }
        assert_eq!((bound(b"nan"), bound(b" "), bound(b"1x")), (None, None, None));
    }
}

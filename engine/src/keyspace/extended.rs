//! Sums as `INCRBYFLOAT` reckons them: in the 80-bit floating point of x86, written with 17 decimals less the zeros at the end.
//!
//! That is `long double` where Redis runs on x86-64. On other machines it has more bits (64-bit ARM) or fewer, and Redis gives
//! other digits than this, mostly behind the eighteenth one. Its logs don't depend on it: it logs the result, as `SET` with
//! `KEEPTTL` or as `HSET`.

use std::{cmp::Ordering, iter};

use super::Text;

/// Redis takes no text for a number that is longer.
const MAX_TEXT_BYTES: usize = 5119;

/// `mantissa * 2^exponent`; the mantissa is 0, or its highest bit is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    negative: bool,
    mantissa: u64,
    exponent: i64,
}

impl Extended {
    /// A finite number; nothing if it is so small that it would count as 0.
    pub(super) fn parse(text: &[u8]) -> Option<Extended> {
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let Digits { negative, mut digits, base, mut exponent } = Digits::read(text)?;
        if digits.bits() == 0 {
            return Some(Extended { negative, ..Extended::default() });
        }
        // Beyond these nothing is in range, however many digits there are.
        if !(-30_000..=17_000).contains(&exponent) {
            return None;
        }
        let mut inexact = false;
        if base == 10 {
            let (power, divides) = (exponent.unsigned_abs() as usize, exponent < 0);
            exponent = 0;
            if divides {
                // So many bits that the quotient has more than a mantissa.
                digits.shift_left(66 + 4 * power);
                exponent = -(66 + 4 * power as i64);
            }
            for at in (0..power).step_by(9) {
                let factor = 10_u32.pow((power - at).min(9) as u32);
                if divides {
                    inexact |= digits.divide(factor) > 0;
                } else {
                    digits.scale(factor, 0);
                }
            }
        }
        let (mantissa, exponent) = digits.rounded(64, exponent, inexact);
        Extended { negative, mantissa, exponent }.in_range().filter(|_| exponent + 63 >= -16446)
    }

    fn in_range(self) -> Option<Extended> {
        (self.exponent + 64 <= 16384).then_some(self)
    }

    /// Nothing if it is out of range.
    pub(super) fn sum(self, other: Extended) -> Option<Extended> {
        if self.mantissa == 0 || other.mantissa == 0 {
            return Some(if self.mantissa == 0 { other } else { self });
        }
        let exponent = self.exponent.min(other.exponent);
        let [mut one, mut two] = [self, other].map(|number| {
            let mut natural = Natural::from(number.mantissa);
            natural.shift_left((number.exponent - exponent) as usize);
            natural
        });
        let mut negative = self.negative;
        if self.negative == other.negative {
            one.add(&two);
        } else if one.order(&two) == Ordering::Less {
            two.subtract(&one);
            (one, negative) = (two, other.negative);
        } else {
            one.subtract(&two);
        }
        if one.bits() == 0 {
            return Some(Extended::default());
        }
        let (mantissa, exponent) = one.rounded(64, exponent, false);
        Extended { negative, mantissa, exponent }.in_range()
    }

    pub(super) fn text(self) -> Text {
        let mut number = Natural::from(self.mantissa);
        number.scale(100_000_000, 0);
        number.scale(1_000_000_000, 0);
        if self.exponent < 0 {
            number.shift_right(self.exponent.unsigned_abs() as usize, false);
        } else {
            number.shift_left(self.exponent as usize);
        }
        let mut digits = Vec::new();
        while number.bits() > 0 || digits.len() < 18 {
            digits.push(b'0' + number.divide(10) as u8);
        }
        let zeros = digits.iter().take(17).take_while(|digit| **digit == b'0').count();
        if zeros < 17 {
            digits.insert(17, b'.');
        }
        let mut text: Text = digits.drain(zeros..).rev().collect();
        if self.negative && text != b"0" {
            text.insert(0, b'-');
        }
        text
    }
}

/// A double given in hexadecimal digits, as ZADD takes it.
#[expect(clippy::float_arithmetic, reason = "a product with a power of two is exact, and out of range it is refused")]
pub(super) fn hexadecimal(text: &[u8]) -> Option<f64> {
    if text.len() > MAX_TEXT_BYTES {
        return None;
    }
    let Digits { negative, digits, exponent, .. } = Digits::read(text).filter(|read| read.base == 16)?;
    let sign = if negative { -1.0 } else { 1.0 };
    if digits.bits() == 0 {
        return Some(sign * 0.0);
    }
    let (mantissa, exponent) = digits.rounded(53, exponent, false);
    let number = mantissa as f64 * 2_f64.powi(i32::try_from(exponent).ok()?);
    number.is_normal().then_some(sign * number)
}

/// What a number's text says: `digits * 10^exponent`, or `digits * 2^exponent` where the base is 16.
struct Digits {
    negative: bool,
    digits: Natural,
    base: u32,
    exponent: i64,
}

impl Digits {
    fn read(text: &[u8]) -> Option<Digits> {
        let unsigned = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
        let hexadecimal = unsigned.strip_prefix(b"0x").or(unsigned.strip_prefix(b"0X"));
        let (mut rest, base, mark, step) = match hexadecimal {
            Some(rest) => (rest, 16, b'p', 4),
            None => (unsigned, 10, b'e', 1),
        };
        let (mut digits, mut any, mut point, mut exponent) = (Natural::default(), false, false, 0);
        while let Some((letter, after)) = rest.split_first() {
            match char::from(*letter).to_digit(base) {
                Some(digit) => {
                    digits.scale(base, digit);
                    any = true;
                    exponent -= if point { step } else { 0 };
                }
                None if *letter == b'.' && !point => point = true,
                None => break,
            }
            rest = after;
        }
        if let Some((letter, power)) = rest.split_first() {
            let digits = power.strip_prefix(b"-").or(power.strip_prefix(b"+")).unwrap_or(power);
            if letter.to_ascii_lowercase() != mark || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return None;
            }
            // (More are out of range anyhow.)
            let size = digits.iter().fold(0, |size: i64, digit| (10 * size + i64::from(digit - b'0')).min(1_000_000));
            exponent += if power.starts_with(b"-") { -size } else { size };
        }
        any.then_some(Digits { negative: text.starts_with(b"-"), digits, base, exponent })
    }
}

/// A natural number of any size: digits to the base 2^32, the lowest first, the highest not 0.
#[derive(Default)]
struct Natural(Vec<u32>);

impl From<u64> for Natural {
    fn from(number: u64) -> Natural {
        let mut natural = Natural(vec![number as u32, (number >> 32) as u32]);
        natural.trim();
        natural
    }
}

impl Natural {
    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn bits(&self) -> usize {
        self.0.last().map_or(0, |last| 32 * self.0.len() - last.leading_zeros() as usize)
    }

    fn bit(&self, at: usize) -> bool {
        self.0.get(at / 32).is_some_and(|digit| digit >> (at % 32) & 1 == 1)
    }

    fn order(&self, other: &Natural) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// `self * by + plus`.
    fn scale(&mut self, by: u32, plus: u32) {
        let mut carry = u64::from(plus);
        for digit in &mut self.0 {
            carry += u64::from(*digit) * u64::from(by);
            *digit = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    /// The remainder.
    fn divide(&mut self, by: u32) -> u32 {
        let mut rest = 0;
        for digit in self.0.iter_mut().rev() {
            rest = rest << 32 | u64::from(*digit);
            *digit = (rest / u64::from(by)) as u32;
            rest %= u64::from(by);
        }
        self.trim();
        rest as u32
    }

    fn add(&mut self, other: &Natural) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        let mut carry = 0;
        for (digit, more) in self.0.iter_mut().zip(other.0.iter().chain(iter::repeat(&0))) {
            carry += u64::from(*digit) + u64::from(*more);
            *digit = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    /// Takes away what is not larger.
    fn subtract(&mut self, other: &Natural) {
        let mut borrowed = false;
        for (digit, less) in self.0.iter_mut().zip(other.0.iter().chain(iter::repeat(&0))) {
            let (one, first) = digit.overflowing_sub(*less);
            let (two, second) = one.overflowing_sub(u32::from(borrowed));
            (*digit, borrowed) = (two, first || second);
        }
        self.trim();
    }

    fn shift_left(&mut self, bits: usize) {
        self.scale(1 << (bits % 32), 0);
        if !self.0.is_empty() {
            self.0.splice(0..0, iter::repeat_n(0, bits / 32));
        }
    }

    /// Rounds to the nearest, and to the even one between two; `inexact` if the number was a little larger than it says.
    fn shift_right(&mut self, bits: usize, inexact: bool) {
        let Some(half) = bits.checked_sub(1) else { return };
        let up = self.bit(half) && (inexact || self.bit(bits) || (0..half).any(|at| self.bit(at)));
        self.0.drain(..(bits / 32).min(self.0.len()));
        self.divide(1 << (bits % 32));
        if up {
            self.scale(1, 1);
        }
    }

    /// A mantissa of so many bits, and the exponent that belongs to it.
    fn rounded(mut self, width: usize, mut exponent: i64, inexact: bool) -> (u64, i64) {
        // Once more if rounding up made it longer.
        while self.bits() > width {
            let excess = self.bits() - width;
            self.shift_right(excess, inexact);
            exponent += excess as i64;
        }
        let lacking = width - self.bits();
        self.shift_left(lacking);
        let mantissa = self.0.iter().rev().fold(0, |mantissa, digit| mantissa << 32 | u64::from(*digit));
        (mantissa, exponent - lacking as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(one: &str, two: &str) -> Option<String> {
        let sum = Extended::parse(one.as_bytes())?.sum(Extended::parse(two.as_bytes())?)?;
        String::from_utf8(sum.text()).ok()
    }

    /// Each as a server answers it (7.0.15 on x86-64).
    #[test]
    fn sums_have_the_digits_that_redis_gives_them() {
        for (one, two, expected) in [
            ("10.5", "0.1", "10.6"),
            ("3.0e3", "200", "3200"),
            ("0", "1000.1", "1000.09999999999999998"),
            ("1000.09999999999999998", "0.1", "1000.19999999999999996"),
            ("1000.19999999999999996", "-1000.2", "-0.00000000000000006"),
            ("-0", "0", "0"),
            ("-1e-20", "0", "0"),
            ("1e-17", "0", "0.00000000000000001"),
            ("0", "+.5", "0.5"),
            ("1.", "1e+5", "100001"),
            ("0x10", "0x1p-3", "16.125"),
            ("1", "-1", "0"),
            ("0e99999", "1e-4950", "0"),
        ] {
            assert_eq!(sum(one, two).as_deref(), Some(expected), "{one} {two}");
        }
        let large = sum("1e300", "1").expect("in range");
        assert!(
            large.starts_with("10000000000000000000089973240795591938705239442732907479382600823212656465"),
            "{large}"
        );
        assert_eq!((large.len(), sum("1.1e4932", "0").map(|text| text.len())), (301, Some(4933)));
    }

    #[test]
    fn what_is_no_number_or_out_of_range_is_refused() {
        for text in [
            "",
            "-",
            ".",
            "1e",
            "1e+",
            "x",
            " 1",
            "1 ",
            "0x",
            "1.1.1",
            "--1",
            "inf",
            "nan",
            "1e4933",
            "1e5000",
            "1e-4951",
            "1e999999999999999999999",
            "1e-999999999999999999999",
        ] {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(sum("1.1e4932", "1.1e4932"), None);
        let text = "0".repeat(MAX_TEXT_BYTES);
        assert!(Extended::parse(text.as_bytes()).is_some() && Extended::parse((text + "0").as_bytes()).is_none());
    }
}

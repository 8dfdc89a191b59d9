//! Commands on the bits of strings. The first bit is the highest one of the first byte.

use super::{Call, Done, Failed, Kind, Text};

/// No bit is at this offset or behind it (512 MiB); only an integer that begins before may reach beyond.
const BITS: u64 = 1 << 32;

fn offset(call: &Call<'_>, text: &[u8], unit: u64) -> Result<usize, Failed> {
    let number = u64::try_from(call.integer(text)?).ok();
    let offset = number.and_then(|number| number.checked_mul(unit)).filter(|offset| *offset < BITS);
    offset.and_then(|offset| usize::try_from(offset).ok()).ok_or(Failed::Number)
}

/// Makes room for so many bits. True if there was none.
fn grow(text: &mut Text, bits: usize) -> bool {
    let grows = text.len() < bits.div_ceil(8);
    if grows {
        text.resize(bits.div_ceil(8), 0);
    }
    grows
}

fn bit(text: &[u8], at: usize) -> bool {
    text[at / 8] & 0x80 >> (at % 8) != 0
}

fn set_bit(text: &mut [u8], at: usize, one: bool) {
    let mask = 0x80 >> (at % 8);
    if one {
        text[at / 8] |= mask;
    } else {
        text[at / 8] &= !mask;
    }
}

pub(super) fn setbit(call: &mut Call<'_>) -> Done {
    let [key, at, one] = call.exactly()?;
    let at = offset(call, at, 1)?;
    let one = match one {
        b"0" => false,
        b"1" => true,
        _ => return Err(Failed::Number),
    };
    call.change(key, true, |text: &mut Text| {
        let changes = grow(text, at + 1) || bit(text, at) != one;
        set_bit(text, at, one);
        Ok(changes)
    })
}

/// What an integer becomes that has too few bits for it.
#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

/// An integer in a string.
struct Field {
    signed: bool,
    bits: usize,
    at: usize,
}

impl Field {
    fn parse(call: &Call<'_>, kind: &[u8], at: &[u8]) -> Result<Field, Failed> {
        let (signed, bits) = match kind {
            [b'i', bits @ ..] => (true, bits),
            [b'u', bits @ ..] => (false, bits),
            _ => return Err(Failed::Arguments),
        };
        let bits =
            usize::try_from(call.integer(bits)?).ok().filter(|bits| (1..64 + usize::from(signed)).contains(bits));
        let bits = bits.ok_or(Failed::Arguments)?;
        let at = match at {
            [b'#', number @ ..] => offset(call, number, bits as u64)?,
            number => offset(call, number, 1)?,
        };
        Ok(Field { signed, bits, at })
    }

    fn end(&self) -> usize {
        self.at + self.bits
    }

    fn get(&self, text: &[u8]) -> i128 {
        let bits = (self.at..self.end()).fold(0, |bits, at| bits << 1 | i128::from(bit(text, at)));
        if self.signed { self.extended(bits) } else { bits }
    }

    /// The lowest bits with the highest of them as a sign.
    fn extended(&self, number: i128) -> i128 {
        let unused = 128 - self.bits;
        number << unused >> unused
    }

    fn set(&self, text: &mut [u8], number: i128) {
        for (from_end, at) in (self.at..self.end()).rev().enumerate() {
            set_bit(text, at, number >> from_end & 1 == 1);
        }
    }

    fn is_far_below(&self, number: i64) -> bool {
        self.bits < 64 && number.checked_sub(1 << (self.bits - 1)).is_none()
    }

    fn fitting(&self, number: i128, overflow: Overflow) -> Option<i128> {
        let range = match self.signed {
            true => -(1 << (self.bits - 1))..=(1 << (self.bits - 1)) - 1,
            false => 0..=(1 << self.bits) - 1,
        };
        if range.contains(&number) {
            return Some(number);
        }
        match overflow {
            Overflow::Wrap if self.signed => Some(self.extended(number)),
            Overflow::Wrap => Some(number & range.end()),
            Overflow::Saturate => Some(number.clamp(*range.start(), *range.end())),
            Overflow::Fail => None,
        }
    }
}

/// A change of an integer: to a number, or by it.
struct Change {
    field: Field,
    adds: bool,
    number: i64,
    overflow: Overflow,
}

fn changes(call: &Call<'_>, mut rest: &[&[u8]]) -> Result<Vec<Change>, Failed> {
    let (mut changes, mut overflow) = (Vec::new(), Overflow::Wrap);
    while let Some((name, arguments)) = rest.split_first() {
        rest = match (name.to_ascii_uppercase().as_slice(), arguments) {
            (b"GET", [kind, at, rest @ ..]) => {
                Field::parse(call, kind, at)?;
                rest
            }
            (b"OVERFLOW", [how, rest @ ..]) => {
                overflow = match how.to_ascii_uppercase().as_slice() {
                    b"WRAP" => Overflow::Wrap,
                    b"SAT" => Overflow::Saturate,
                    b"FAIL" => Overflow::Fail,
                    _ => return Err(Failed::Arguments),
                };
                rest
            }
            (name @ (b"SET" | b"INCRBY"), [kind, at, number, rest @ ..]) => {
                let (field, number) = (Field::parse(call, kind, at)?, call.integer(number)?);
                changes.push(Change { field, adds: name == b"INCRBY", number, overflow });
                rest
            }
            _ => return Err(Failed::Arguments),
        };
    }
    Ok(changes)
}

/// Redis makes room also for an integer that then overflows and fails, and where nothing else changes it doesn't log that. Here
/// such a command changes nothing, or the data would be other than its log says.
pub(super) fn bitfield(call: &mut Call<'_>) -> Done {
    let (key, rest) = call.first_and(0)?;
    let changes = changes(call, rest)?;
    let there = call.value::<Text>(key)?.is_some();
    let Some(end) = changes.iter().map(|change| change.field.end()).max() else { return Ok(false) };
    let changed = call.change(key, true, |text: &mut Text| {
        let before = text.len();
        let (grown, mut changed) = (grow(text, end), false);
        for Change { field, adds, number, overflow } in changes {
            let old = field.get(text);
            let wanted = match (adds, field.signed) {
                (true, _) => old + i128::from(number),
                // So far below, the distance to the least number doesn't fit 64 bits, and Redis takes it for one above.
                (false, true) if field.is_far_below(number) && matches!(overflow, Overflow::Saturate) => i128::MAX,
                (false, true) => i128::from(number),
                (false, false) => i128::from(number as u64),
            };
            if let Some(new) = field.fitting(wanted, overflow) {
                changed |= grown || new != old;
                field.set(text, new);
            }
        }
        if !changed {
            text.truncate(before);
        }
        Ok(changed)
    })?;
    if !there && !changed {
        call.remove(key);
    }
    Ok(changed)
}

pub(super) fn bitop(call: &mut Call<'_>) -> Done {
    let [operation, to, from @ ..] = call.arguments else { return Err(Failed::Arguments) };
    let operation = operation.to_ascii_uppercase();
    let combine: fn(u8, u8) -> u8 = match (operation.as_slice(), from) {
        (_, []) => return Err(Failed::Arguments),
        (b"AND", _) => |one, other| one & other,
        (b"OR", _) => |one, other| one | other,
        (b"XOR", _) | (b"NOT", [_]) => |one, other| one ^ other,
        _ => return Err(Failed::Arguments),
    };
    let copy = |key: &&[u8]| call.value::<Text>(key).map(|text| text.cloned().unwrap_or_default());
    let mut texts = from.iter().map(copy).collect::<Result<Vec<Text>, Failed>>()?;
    // All are as long as the longest, with zeros at the end.
    let length = texts.iter().map(Vec::len).max().unwrap_or(0);
    texts.iter_mut().for_each(|text| text.resize(length, 0));
    if operation == b"NOT" {
        texts.push(vec![0xff; length]);
    }
    let join = |mut one: Text, other: Text| {
        one.iter_mut().zip(other).for_each(|(byte, more)| *byte = combine(*byte, more));
        one
    };
    let result = texts.into_iter().reduce(join).unwrap_or_default();
    call.store(to, (!result.is_empty()).then(|| result.into_value()))
}

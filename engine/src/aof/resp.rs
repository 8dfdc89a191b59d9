//! Commands as they stand in a log: `*<argc>\r\n`, then `$<bytes>\r\n<data>\r\n` per argument; and annotations, lines that
//! begin with `#` where a command could begin.

use std::{fmt, ops::Range};

/// A header or annotation line has at most this many bytes, its newline included.
pub const MAX_LINE_BYTES: usize = 1023;
/// An argument has at most this many bytes (512 MiB).
pub const MAX_ARGUMENT_BYTES: u64 = 512 << 20;

/// Appends a command to `out`.
///
/// ```
/// let mut out = Vec::new();
/// engine::aof::resp::encode(&mut out, &["SET", "k", "v"]);
/// assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n");
/// ```
pub fn encode(out: &mut Vec<u8>, arguments: &[impl AsRef<[u8]>]) {
    let at = out.len();
    out.resize(at + encoded_bytes(arguments), 0);
    encode_into(&mut out[at..], arguments);
}

/// Encodes a command at the beginning of `out`, which has room for it. Returns its length.
#[inline]
pub(super) fn encode_into(out: &mut [u8], arguments: &[impl AsRef<[u8]>]) -> usize {
    let mut at = header(out, b'*', arguments.len());
    for argument in arguments {
        let argument = argument.as_ref();
        at += header(&mut out[at..], b'$', argument.len());
        let (data, rest) = out[at..].split_at_mut(argument.len());
        data.copy_from_slice(argument);
        rest[..2].copy_from_slice(b"\r\n");
        at += argument.len() + 2;
    }
    at
}

/// How many bytes [`encode`] appends.
#[must_use]
#[inline]
pub fn encoded_bytes(arguments: &[impl AsRef<[u8]>]) -> usize {
    let argument = |bytes: usize| header_bytes(bytes) + bytes + 2;
    header_bytes(arguments.len()) + arguments.iter().map(|bytes| argument(bytes.as_ref().len())).sum::<usize>()
}

#[inline]
fn header_bytes(number: usize) -> usize {
    match number {
        0..10 => 4,
        10..100 => 5,
        100..1000 => 6,
        _ => 4 + number.ilog10() as usize,
    }
}

/// Writes a header at the beginning of `out`, and returns its length.
#[inline]
fn header(out: &mut [u8], mark: u8, number: usize) -> usize {
    let digit = |number: usize| b'0' + (number % 10) as u8;
    match number {
        0..10 => out[..4].copy_from_slice(&[mark, digit(number), b'\r', b'\n']),
        10..100 => out[..5].copy_from_slice(&[mark, digit(number / 10), digit(number), b'\r', b'\n']),
        100..1000 => {
            let digits = [digit(number / 100), digit(number / 10), digit(number)];
            out[..6].copy_from_slice(&[mark, digits[0], digits[1], digits[2], b'\r', b'\n']);
        }
        _ => {
            let (bytes, mut left) = (header_bytes(number), number);
            for place in out[1..bytes - 2].iter_mut().rev() {
                *place = digit(left);
                left /= 10;
            }
            out[0] = mark;
            out[bytes - 2..bytes].copy_from_slice(b"\r\n");
        }
    }
    header_bytes(number)
}

/// A number in decimal digits, without an allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digits {
    digits: [u8; 10],
    first: usize,
}

impl Digits {
    pub(super) fn of(mut number: u32) -> Digits {
        let (mut digits, mut first) = ([b'0'; 10], 10);
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Digits { digits, first };
            }
        }
    }
}

impl AsRef<[u8]> for Digits {
    fn as_ref(&self) -> &[u8] {
        &self.digits[self.first..]
    }
}

/// Appends the annotation that what follows was executed in this second since the Unix epoch.
pub fn encode_timestamp(out: &mut Vec<u8>, unix_seconds: i64) {
    out.extend_from_slice(format!("#TS:{unix_seconds}\r\n").as_bytes());
}

/// How many bytes [`encode_timestamp`] appends.
#[must_use]
pub fn timestamp_bytes(unix_seconds: i64) -> usize {
    let digits = unix_seconds.unsigned_abs().checked_ilog10().map_or(1, |more| more as usize + 1);
    6 + digits + usize::from(unix_seconds < 0)
}

/// How exact a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// As commands are written.
    #[default]
    Strict,
    /// As Redis 7.0 loads them: any two bytes may stand behind an argument, a line may end in a line feed alone, of a
    /// number counts what its first digits say, and a stray `EXEC` or a nested `MULTI` is nothing.
    Lenient,
}

/// What stands at a place of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command; [`Parser::command`] has it.
    Command,
    /// An annotation, with its second if it is a timestamp.
    Annotation(Option<i64>),
}

/// What was found, and how far it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes.
    pub bytes: usize,
}

/// Why nothing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The bytes end within it. With so many bytes in all it may be whole, or more can be said.
    Short {
        /// A lower bound.
        needed: usize,
        /// It is an annotation: nothing is lost with it.
        annotation: bool,
    },
    /// It can't be one, whatever follows.
    Malformed {
        /// Offset of what is wrong.
        at: usize,
        /// What is wrong.
        what: Malformed,
    },
}

/// What is wrong with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It doesn't begin with `*`.
    NoCommand,
    /// An argument doesn't begin with `$`.
    NoArgument,
    /// The number in its first line is none, or below 1.
    ArgumentCount,
    /// The number before an argument is none, negative, or above [`MAX_ARGUMENT_BYTES`].
    ArgumentLength,
    /// A line of more than [`MAX_LINE_BYTES`].
    LongLine,
    /// Something else than CR LF ends a line or an argument.
    Terminator,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::NoCommand => "a command begins with '*'",
            Malformed::NoArgument => "an argument begins with '$'",
            Malformed::ArgumentCount => "a command has a number of arguments, at least 1",
            Malformed::ArgumentLength => "an argument has a length of 0 to 536870912 bytes",
            Malformed::LongLine => "a line has at most 1023 bytes",
            Malformed::Terminator => "lines and arguments end in CR LF",
        })
    }
}

/// Reads commands out of bytes. It keeps the memory for the places of arguments from command to command.
///
/// ```
/// use engine::aof::resp::{Kind, Parser, Reading};
/// let log = b"#TS:7\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
/// let mut parser = Parser::new(Reading::Strict);
/// let note = parser.next(log).unwrap();
/// assert_eq!((note.kind, note.bytes), (Kind::Annotation(Some(7)), 7));
/// let found = parser.next(&log[note.bytes..]).unwrap();
/// assert_eq!(parser.command(&log[note.bytes..]).collect::<Vec<_>>(), [b"GET".as_slice(), b"k"]);
/// assert_eq!(note.bytes + found.bytes, log.len());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Parser {
    reading: Reading,
    arguments: Vec<Range<usize>>,
}

impl Parser {
    /// A parser.
    #[must_use]
    pub fn new(reading: Reading) -> Parser {
        Parser { reading, arguments: Vec::new() }
    }

    /// Reads what stands at the start of `bytes`.
    ///
    /// # Errors
    /// [`Stop`]; never panics, whatever the bytes are. No bytes at all are [`Stop::Short`].
    pub fn next(&mut self, bytes: &[u8]) -> Result<Found, Stop> {
        self.arguments.clear();
        match bytes.first() {
            None => Err(Stop::Short { needed: 1, annotation: false }),
            Some(b'#') => self.annotation(bytes),
            Some(b'*') => self.parse(bytes),
            Some(_) => Err(Stop::Malformed { at: 0, what: Malformed::NoCommand }),
        }
    }

    /// The arguments of the command that was found last, which `bytes` begins with; its name is the first.
    pub fn command<'a>(&'a self, bytes: &'a [u8]) -> impl ExactSizeIterator<Item = &'a [u8]> {
        self.arguments.iter().map(|range| bytes.get(range.clone()).unwrap_or_default())
    }

    /// Whether the command that was found last has this name, which is in upper case.
    #[must_use]
    pub fn is(&self, bytes: &[u8], name: &str) -> bool {
        self.command(bytes).next().is_some_and(|first| first.eq_ignore_ascii_case(name.as_bytes()))
    }

    fn annotation(&self, bytes: &[u8]) -> Result<Found, Stop> {
        let line = &bytes[..bytes.len().min(MAX_LINE_BYTES)];
        let length = match line.iter().position(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if bytes.len() < MAX_LINE_BYTES => {
                return Err(Stop::Short { needed: bytes.len() + 1, annotation: true });
            }
            // What is left of the line is not skipped.
            None if self.reading == Reading::Lenient => MAX_LINE_BYTES,
            None => return Err(Stop::Malformed { at: 0, what: Malformed::LongLine }),
        };
        let text = bytes[..length].trim_ascii_end();
        let second = text.strip_prefix(b"#TS:").and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
        Ok(Found { kind: Kind::Annotation(second), bytes: length })
    }

    fn parse(&mut self, bytes: &[u8]) -> Result<Found, Stop> {
        let (count, mut at) = self.number(bytes, 0, Malformed::ArgumentCount)?;
        if count < 1 {
            return Err(Stop::Malformed { at: 0, what: Malformed::ArgumentCount });
        }
        for _ in 0..count {
            match bytes.get(at) {
                None => return Err(Stop::Short { needed: at + 1, annotation: false }),
                Some(b'$') => {}
                Some(_) => return Err(Stop::Malformed { at, what: Malformed::NoArgument }),
            }
            let (length, begin) = self.number(bytes, at, Malformed::ArgumentLength)?;
            let length = u64::try_from(length).ok().filter(|length| *length <= MAX_ARGUMENT_BYTES);
            let Some(length) = length else {
                return Err(Stop::Malformed { at, what: Malformed::ArgumentLength });
            };
            let end = begin + length as usize;
            match bytes.get(end..end + 2) {
                Some(b"\r\n") => {}
                Some(_) if self.reading == Reading::Lenient => {}
                Some(_) => return Err(Stop::Malformed { at: end, what: Malformed::Terminator }),
                None => return Err(Stop::Short { needed: end + 2, annotation: false }),
            }
            self.arguments.push(begin..end);
            at = end + 2;
        }
        Ok(Found { kind: Kind::Command, bytes: at })
    }

    /// The number in the line at `at`, behind its mark, and where the next line begins.
    #[inline]
    fn number(&self, bytes: &[u8], at: usize, what: Malformed) -> Result<(i64, usize), Stop> {
        // Most numbers have few digits.
        let digit = |digit: u8| i64::from(digit - b'0');
        match bytes.get(at + 1..) {
            Some([one @ b'0'..=b'9', b'\r', b'\n', ..]) => Ok((digit(*one), at + 4)),
            Some([ten @ b'0'..=b'9', one @ b'0'..=b'9', b'\r', b'\n', ..]) => {
                Ok((10 * digit(*ten) + digit(*one), at + 5))
            }
            Some([hundred @ b'0'..=b'9', ten @ b'0'..=b'9', one @ b'0'..=b'9', b'\r', b'\n', ..]) => {
                Ok((100 * digit(*hundred) + 10 * digit(*ten) + digit(*one), at + 6))
            }
            rest => self.any_number(bytes, rest.unwrap_or_default(), at, what),
        }
    }

    fn any_number(&self, bytes: &[u8], rest: &[u8], at: usize, what: Malformed) -> Result<(i64, usize), Stop> {
        let line = &rest[..rest.len().min(MAX_LINE_BYTES - 1)];
        let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
            return Err(if line.len() == MAX_LINE_BYTES - 1 {
                Stop::Malformed { at, what: Malformed::LongLine }
            } else {
                Stop::Short { needed: bytes.len() + 1, annotation: false }
            });
        };
        let next = at + 1 + end + 1;
        let text = match (line[..end].strip_suffix(b"\r"), self.reading) {
            (Some(text), _) => text,
            (None, Reading::Lenient) => &line[..end],
            (None, Reading::Strict) => return Err(Stop::Malformed { at: at + 1 + end, what: Malformed::Terminator }),
        };
        let number = match self.reading {
            Reading::Strict => exact(text),
            Reading::Lenient => Some(leading(text)),
        };
        number.map(|number| (number, next)).ok_or(Stop::Malformed { at, what })
    }
}

/// Digits and nothing else.
fn exact(text: &[u8]) -> Option<i64> {
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
}

/// What the first digits say, behind blanks and a sign; 0 if there are none. Never beyond what 18 digits hold.
fn leading(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    sign * exact(&digits[..end.min(18)]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], reading: Reading) -> Result<(Vec<Vec<u8>>, usize), Stop> {
        let mut parser = Parser::new(reading);
        let found = parser.next(bytes)?;
        Ok((parser.command(bytes).map(<[u8]>::to_vec).collect(), found.bytes))
    }

    #[test]
    fn numbers_and_terminators_are_exact_or_not() {
        for (text, strict, lenient) in [
            ("*1\r\n$1\r\na\r\n", true, true),
            ("*1\n$1\na\r\n", false, true),
            ("*1\r\n$1\r\naXY", false, true),
            ("*1abc\r\n$1x\r\na\r\n", false, true),
            ("*+1\r\n$ 1\r\na\r\n", false, true),
            ("*01\r\n$1\r\na\r\n", true, true),
            ("*0\r\n", false, false),
            ("*-1\r\n", false, false),
            ("*\r\n", false, false),
            ("*1\r\n$-1\r\n", false, false),
            ("*1\r\n$536870913\r\n", false, false),
            ("*1\r\n*1\r\n", false, false),
            ("+OK\r\n", false, false),
            ("\0", false, false),
        ] {
            assert_eq!(read(text.as_bytes(), Reading::Strict).is_ok(), strict, "{text:?}");
            assert_eq!(read(text.as_bytes(), Reading::Lenient).is_ok(), lenient, "{text:?}");
        }
    }

    #[test]
    fn an_annotation_is_a_line_and_says_a_second_or_nothing() {
        let kind = |text: &[u8], reading| Parser::new(reading).next(text).map(|found| (found.kind, found.bytes));
        assert_eq!(kind(b"#TS:1700000000\r\n*1", Reading::Strict), Ok((Kind::Annotation(Some(1_700_000_000)), 16)));
        assert_eq!(kind(b"# a remark\n", Reading::Strict), Ok((Kind::Annotation(None), 11)));
        assert!(matches!(kind(b"#TS:17", Reading::Strict), Err(Stop::Short { annotation: true, .. })));
        let long = [b"#".as_slice(), &[b'x'; 2000], b"\r\n"].concat();
        assert!(matches!(kind(&long, Reading::Strict), Err(Stop::Malformed { what: Malformed::LongLine, .. })));
        assert_eq!(kind(&long, Reading::Lenient), Ok((Kind::Annotation(None), MAX_LINE_BYTES)));
    }

    #[test]
    fn digits_are_those_of_the_number() {
        for number in [0, 1, 9, 10, 15, 99, 100, 1_000_000_000, u32::MAX] {
            assert_eq!(Digits::of(number).as_ref(), number.to_string().as_bytes());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_every_part_of_it_is_short(
            arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
        ) {
            let mut out = Vec::new();
            encode(&mut out, &arguments);
            for reading in [Reading::Strict, Reading::Lenient] {
                prop_assert_eq!(read(&out, reading), Ok((arguments.clone(), out.len())));
                for end in 0..out.len() {
                    match read(&out[..end], reading) {
                        Err(Stop::Short { needed, annotation: false }) => prop_assert!(needed > end && needed <= out.len()),
                        other => prop_assert!(false, "cut at {end}: {other:?}"),
                    }
                }
            }
        }

        #[test]
        fn no_bytes_panic_and_what_is_found_lies_within(bytes: Vec<u8>, star: bool) {
            let bytes = if star { [b"*".as_slice(), &bytes].concat() } else { bytes };
            for reading in [Reading::Strict, Reading::Lenient] {
                if let Ok(found) = Parser::new(reading).next(&bytes) {
                    prop_assert!(found.bytes > 0 && found.bytes <= bytes.len());
                }
            }
        }
    }
}

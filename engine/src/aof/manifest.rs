//! The list of a log's files: one base, what was written since, and what a rewrite has replaced.
//!
//! A line per file, as pairs of words: `file <name> seq <number> type <b|h|i>`; names with other than plain bytes are
//! quoted. The reader takes what Redis 7.0 takes, and refuses what it refuses.
//!
//! Three more keys are ours, and skipped by Redis: `synced <bytes>` at a file that was closed, so that it need not be proven again;
//! `salt <number>` at a file whose batches have checksums; and, last in each line, `crc <8 digits>`, the CRC-32 of all lines
//! without these pairs, in lower-case hexadecimal digits. Each line has it, so that a line that is lost is missed whichever it is.

use crc32fast::Hasher;
use thiserror::Error;

/// A line has at most this many bytes, its newline included.
pub const MAX_LINE_BYTES: usize = 1024;

/// What a file is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// The state that the increments build on.
    Base,
    /// Replaced by a rewrite; to be deleted.
    History,
    /// Commands, in the order of the entries.
    Increment,
}

impl FileKind {
    const fn letter(self) -> char {
        match self {
            FileKind::Base => 'b',
            FileKind::History => 'h',
            FileKind::Increment => 'i',
        }
    }
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the log's directory; not a path.
    pub name: String,
    /// Its sequence number; not 0. It grows from increment to increment.
    pub seq: i64,
    /// What it is.
    pub kind: FileKind,
    /// It was closed with so many bytes, all of them durable.
    pub synced: Option<u64>,
    /// Its batches have checksums, with this salt.
    pub salt: Option<u32>,
}

/// The files of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// At most one.
    pub base: Option<Entry>,
    /// In no particular order.
    pub history: Vec<Entry>,
    /// Oldest first.
    pub increments: Vec<Entry>,
    /// It has checksums, so it is known to be whole.
    pub summed: bool,
}

/// Why a file is no manifest. Nothing was changed. Remedy: restore it from a copy, or correct the line.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {wrong}")]
pub struct ManifestError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Wrong {
    /// It has no line at all.
    #[error("the manifest is empty")]
    Empty,
    /// A line holds nothing.
    #[error("a blank line")]
    Blank,
    /// A line is longer than [`MAX_LINE_BYTES`].
    #[error("a line of more than 1024 bytes")]
    LongLine,
    /// The last line has no newline, as after a write that was cut off.
    #[error("the line does not end in a newline: it may be cut off")]
    NoNewline,
    /// A NUL byte.
    #[error("a NUL byte")]
    Nul,
    /// A quote is not closed, or something follows it at once.
    #[error("quotes that don't match")]
    Quotes,
    /// Words that are no pairs, or too few.
    #[error("not of the form 'file NAME seq NUMBER type b|h|i'")]
    Pairs,
    /// A key that must be there is missing; a number 0, or a word that is no number, counts as missing.
    #[error("'{0}' is missing")]
    Missing(&'static str),
    /// The name is a path.
    #[error("the name '{0}' is a path; the files of a log lie in its own directory")]
    Path(String),
    /// The name is not UTF-8.
    #[error("the name is not UTF-8")]
    NotUtf8,
    /// The type is none of b, h, i.
    #[error("unknown type '{0}'; there are b (base), h (history), i (increment)")]
    Kind(String),
    /// There are two bases.
    #[error("a second base")]
    SecondBase,
    /// The sequence number of an increment is not above that of the one before.
    #[error("increment {seq} behind increment {before}: sequence numbers grow")]
    Order {
        /// Its number.
        seq: i64,
        /// That of the one before; 0 if it is the first.
        before: i64,
    },
    /// The value of a key of ours is no number of its kind.
    #[error("the value of '{0}' is not a number")]
    Number(&'static str),
    /// Something was changed, or lines are missing. (To change it by hand, take the pairs `crc …` away.)
    #[error("the checksum doesn't match: the manifest was changed, or has lost lines")]
    Checksum,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`ManifestError`], with the line.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let mut manifest = Manifest::default();
        if bytes.is_empty() {
            return Err(ManifestError { line: 1, wrong: Wrong::Empty });
        }
        let (mut rest, mut line) = (bytes, 0);
        let (mut stated, mut sums) = (Vec::new(), Hasher::new());
        while !rest.is_empty() {
            line += 1;
            let longest = &rest[..rest.len().min(MAX_LINE_BYTES)];
            let end = longest.iter().position(|byte| *byte == b'\n').map_or(longest.len(), |end| end + 1);
            let (text, after) = rest.split_at(end);
            rest = after;
            let (plain, sum) = without_sum(text);
            sums.update(plain);
            if sum.is_some() {
                sums.update(b"\n");
            }
            stated.push(sum);
            // (What a comment has beyond the longest line is a line of its own.)
            if text[0] != b'#' {
                manifest.line(text).map_err(|wrong| ManifestError { line, wrong })?;
            }
        }
        manifest.summed = stated.iter().any(Option::is_some);
        let found = sums.finalize();
        if manifest.summed && stated.iter().any(|stated| *stated != Some(found)) {
            return Err(ManifestError { line, wrong: Wrong::Checksum });
        }
        Ok(manifest)
    }

    /// A new base, and the increment that goes with it: everything else is history.
    pub(super) fn replaced_by(&mut self, base: Entry, increment: Option<Entry>) {
        let old = self.base.replace(base).into_iter().chain(self.increments.drain(..));
        self.history.extend(old.map(|entry| Entry { kind: FileKind::History, synced: None, ..entry }));
        self.increments.extend(increment);
        self.summed = true;
    }

    /// The files that are loaded, in order.
    pub(super) fn live(&self) -> impl Iterator<Item = &Entry> {
        self.base.iter().chain(&self.increments)
    }

    /// All files: the base, then history, then increments.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.base.iter().chain(&self.history).chain(&self.increments)
    }

    /// Takes one line in.
    fn line(&mut self, text: &[u8]) -> Result<(), Wrong> {
        if text.contains(&0) {
            return Err(Wrong::Nul);
        }
        if !text.ends_with(b"\n") {
            return Err(if text.len() == MAX_LINE_BYTES { Wrong::LongLine } else { Wrong::NoNewline });
        }
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err(Wrong::Blank);
        }
        let words = words(text).ok_or(Wrong::Quotes)?;
        if words.len() < 6 || !words.len().is_multiple_of(2) {
            return Err(Wrong::Pairs);
        }
        let (mut name, mut seq, mut kind) = (None, 0, None);
        let (mut synced, mut salt) = (None, None);
        for pair in words.chunks_exact(2) {
            let (key, value) = (&pair[0], &pair[1]);
            // Of a key that is there twice the last one counts; others are for later versions.
            if key.eq_ignore_ascii_case(b"file") {
                name = Some(value);
            } else if key.eq_ignore_ascii_case(b"seq") {
                seq = number(value);
            } else if key.eq_ignore_ascii_case(b"type") {
                kind = Some(value);
            } else if key.eq_ignore_ascii_case(b"synced") {
                synced = Some(own_number("synced", value)?);
            } else if key.eq_ignore_ascii_case(b"salt") {
                let number = u32::try_from(own_number("salt", value)?);
                salt = Some(number.map_err(|_| Wrong::Number("salt"))?);
            }
        }
        let name = name.filter(|name| !name.is_empty()).ok_or(Wrong::Missing("file"))?;
        let kind = kind.ok_or(Wrong::Missing("type"))?;
        if seq == 0 {
            return Err(Wrong::Missing("seq"));
        }
        let name = String::from_utf8(name.clone()).map_err(|_| Wrong::NotUtf8)?;
        if name.contains(['/', '\\']) {
            return Err(Wrong::Path(name));
        }
        match kind.first() {
            Some(b'b') if self.base.is_some() => Err(Wrong::SecondBase),
            Some(b'b') => {
                self.base = Some(Entry { name, seq, kind: FileKind::Base, synced, salt });
                Ok(())
            }
            Some(b'h') => {
                self.history.push(Entry { name, seq, kind: FileKind::History, synced, salt });
                Ok(())
            }
            Some(b'i') => {
                let before = self.increments.last().map_or(0, |entry| entry.seq);
                if seq <= before {
                    return Err(Wrong::Order { seq, before });
                }
                self.increments.push(Entry { name, seq, kind: FileKind::Increment, synced, salt });
                Ok(())
            }
            _ => Err(Wrong::Kind(String::from_utf8_lossy(kind).into_owned())),
        }
    }

    /// The manifest as a file that [`Manifest::parse`] reads back: the base, then history, then increments.
    ///
    /// # Errors
    /// An entry that no line can hold: a name that is empty, a path, or too long.
    pub fn encode(&self) -> Result<Vec<u8>, Wrong> {
        let mut lines = Vec::new();
        for entry in self.entries() {
            if entry.name.is_empty() {
                return Err(Wrong::Missing("file"));
            }
            if entry.name.contains(['/', '\\']) {
                return Err(Wrong::Path(entry.name.clone()));
            }
            if entry.name.contains('\0') {
                return Err(Wrong::Nul);
            }
            let mut line = format!("file {} seq {} type {}", quoted(&entry.name), entry.seq, entry.kind.letter());
            if let Some(synced) = entry.synced {
                line += &format!(" synced {synced}");
            }
            if let Some(salt) = entry.salt {
                line += &format!(" salt {salt}");
            }
            line.push('\n');
            if line.len() + if self.summed { SUM_BYTES } else { 0 } > MAX_LINE_BYTES {
                return Err(Wrong::LongLine);
            }
            lines.push(line);
        }
        if !self.summed {
            return Ok(lines.concat().into_bytes());
        }
        let sum = format!(" crc {:08x}\n", crc32fast::hash(lines.concat().as_bytes()));
        Ok(lines.iter().flat_map(|line| [line.trim_end_matches('\n'), &sum]).collect::<String>().into_bytes())
    }
}

/// Length of a line's ` crc xxxxxxxx`.
const SUM_BYTES: usize = 13;

/// A line without its checksum, and that.
fn without_sum(line: &[u8]) -> (&[u8], Option<u32>) {
    let split = line.strip_suffix(b"\n").and_then(|text| text.split_at_checked(text.len().checked_sub(SUM_BYTES)?));
    let sum = split.and_then(|(_, pair)| {
        let digits = pair.strip_prefix(b" crc ")?;
        let lower = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        u32::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| lower)?, 16).ok()
    });
    match (sum, split) {
        (Some(sum), Some((plain, _))) => (plain, Some(sum)),
        _ => (line, None),
    }
}

fn own_number(key: &'static str, value: &[u8]) -> Result<u64, Wrong> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(Wrong::Number(key))
}

/// The name as it is, or quoted if a reader would take it for something else.
fn quoted(name: &str) -> String {
    let plain = |byte: u8| (0x21..=0x7e).contains(&byte) && !matches!(byte, b'\\' | b'"' | b'\'');
    if name.bytes().all(plain) {
        return name.to_owned();
    }
    let mut out = String::from("\"");
    for byte in name.bytes() {
        match byte {
            b'\\' | b'"' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x07 => out.push_str("\\a"),
            0x08 => out.push_str("\\b"),
            0x20..=0x7e => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

/// Splits a line into words. A quote may begin anywhere in a word; behind it comes a blank or the end. `None` if one is not
/// closed.
fn words(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = text.trim_ascii_start();
    while !rest.is_empty() {
        let mut word = Vec::new();
        loop {
            match rest {
                [] => break,
                [byte, ..] if is_blank(*byte) => break,
                [quote @ (b'"' | b'\''), after @ ..] => {
                    rest = quote_to_end(*quote, after, &mut word)?;
                    if rest.first().is_some_and(|byte| !is_blank(*byte)) {
                        return None;
                    }
                }
                [byte, after @ ..] => {
                    word.push(*byte);
                    rest = after;
                }
            }
        }
        words.push(word);
        while let [byte, after @ ..] = rest
            && is_blank(*byte)
        {
            rest = after;
        }
    }
    Some(words)
}

/// Takes in what is quoted and returns what follows. Between single quotes only a single quote can be escaped.
fn quote_to_end<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, after) = rest.split_first()?;
        rest = match (byte, after) {
            (byte, after) if *byte == quote => return Some(after),
            (b'\\', [b'\'', after @ ..]) if quote == b'\'' => {
                word.push(b'\'');
                after
            }
            (b'\\', [b'x', high, low, after @ ..])
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(digit(*high) << 4 | digit(*low));
                after
            }
            (b'\\', [escaped, after @ ..]) if quote == b'"' => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 0x07,
                    b'b' => 0x08,
                    other => *other,
                });
                after
            }
            (byte, after) => {
                word.push(*byte);
                after
            }
        };
    }
}

fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn digit(hex: u8) -> u8 {
    char::from(hex).to_digit(16).map_or(0, |digit| digit as u8)
}

/// What the first digits say, with a sign; 0 if there are none, and the largest there is if they say more.
fn number(text: &[u8]) -> i64 {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits.fold(0_i64, |number, digit| number.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    if negative { -number } else { number }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrong(text: &str) -> Option<(usize, Wrong)> {
        Manifest::parse(text.as_bytes()).err().map(|error| (error.line, error.wrong))
    }

    #[test]
    fn each_wrong_line_has_its_own_error_and_number() {
        let base = "file b seq 1 type b\n";
        for (text, expected) in [
            ("\n", Wrong::Blank),
            ("file i seq 1 type i", Wrong::NoNewline),
            ("file i\0 seq 1 type i\n", Wrong::Nul),
            ("file \"i seq 1 type i\n", Wrong::Quotes),
            ("file \"i\"x seq 1 type i\n", Wrong::Quotes),
            ("file i seq 1\n", Wrong::Pairs),
            ("file i seq 1 type i more\n", Wrong::Pairs),
            ("file i type i pad x\n", Wrong::Missing("seq")),
            ("file i seq 0 type i\n", Wrong::Missing("seq")),
            ("file i seq two type i\n", Wrong::Missing("seq")),
            ("file i seq 1 pad x\n", Wrong::Missing("type")),
            ("seq 1 type i pad x\n", Wrong::Missing("file")),
            ("file ../i seq 1 type i\n", Wrong::Path("../i".into())),
            ("file \"a\\\\b\" seq 1 type i\n", Wrong::Path("a\\b".into())),
            ("file i seq 1 type x\n", Wrong::Kind("x".into())),
            ("file b2 seq 2 type b\n", Wrong::SecondBase),
            ("file i seq -4 type i\n", Wrong::Order { seq: -4, before: 0 }),
            ("file i seq 1 type i synced x\n", Wrong::Number("synced")),
            ("file i seq 1 type i salt 4294967296\n", Wrong::Number("salt")),
            ("file i seq 1 type i synced -1\n", Wrong::Number("synced")),
            ("file i seq 1 type i crc 00000000\n", Wrong::Checksum),
        ] {
            assert_eq!(wrong(&format!("{base}{text}")), Some((2, expected)), "{text}");
        }
        assert_eq!(wrong(""), Some((1, Wrong::Empty)));
        let long = format!("file i seq 1 type i pad {}\n", "x".repeat(1000));
        assert_eq!(wrong(&long[..1023]), Some((1, Wrong::NoNewline)));
        assert_eq!(wrong(&long).map(|(line, _)| line), Some(1));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            names in prop::collection::vec("[^/\\\\\0]{1,20}", 1..6),
            base: bool,
            summed: bool,
            synced: Option<u64>,
            salt: Option<u32>,
        ) {
            let entry = |name: &String, seq, kind| Entry { name: name.clone(), seq, kind, synced, salt };
            let manifest = Manifest {
                base: base.then(|| entry(&names[0], 3, FileKind::Base)),
                history: vec![entry(&names[0], -2, FileKind::History)],
                increments: (1..).zip(&names).map(|(seq, name)| entry(name, seq, FileKind::Increment)).collect(),
                summed,
            };
            let bytes = manifest.encode().unwrap();
            prop_assert_eq!(Manifest::parse(&bytes), Ok(manifest));
            if summed {
                // No line can be lost, and no bit changed.
                let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
                for lost in 0..lines.len() {
                    let rest = [&lines[..lost], &lines[lost + 1..]].concat().concat();
                    prop_assert!(Manifest::parse(&rest).is_err());
                }
                for bit in 0..8 * bytes.len() {
                    let mut flipped = bytes.clone();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    prop_assert!(Manifest::parse(&flipped).is_err(), "bit {}", bit);
                }
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, entry in "file [ -~]{0,30} seq [ -~]{0,5} type [ -~]{0,3}\n") {
            let _ = Manifest::parse(&bytes);
            if let Ok(manifest) = Manifest::parse(entry.as_bytes()) {
                prop_assert_eq!(Manifest::parse(&manifest.encode().unwrap()), Ok(manifest));
            }
        }
    }
}

//! What happened in a run, as one number and as the last lines before a verdict.
//!
//! Every I/O call (arguments, content, result, virtual time), every decision, fault and verdict goes in. Two runs of one
//! seed have one hash, in one process, in two, and on two machines; a difference means that something else than the
//! seed decided. The last calls are kept as plain values and become text only when somebody asks.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fmt::Write as _,
    sync::{Arc, LazyLock},
};

use crate::prng::fold;

/// How many names have their words at hand.
const NAMES: usize = 4;

/// How many calls [`Trace::last`] remembers.
pub const REMEMBERED: usize = 64;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An I/O call was accepted.
    Begin = 1,
    /// An I/O call completed.
    End = 2,
    /// A choice that the schedule can see: a yield, a start, a kill, a power cut.
    Decision = 3,
    /// A fault fired.
    Fault = 4,
    /// What a crash left behind.
    Crash = 5,
    /// What a client or the workload did.
    Workload = 6,
    /// What an oracle said.
    Verdict = 7,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded, with a number: bytes, a length, entries.
    Ok(u64),
    /// It failed with this kind of error.
    Failed(std::io::ErrorKind),
    /// It was in flight at the crash.
    InFlight,
}

/// One I/O call, as the ring keeps it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its number in the run, from 1.
    pub number: u64,
    /// Engine nanoseconds of virtual time at its start.
    pub at_ns: u64,
    /// The name of the operation.
    pub what: &'static str,
    /// The file, if it is about one.
    pub name: Option<Arc<OsStr>>,
    /// Its offset or new length, if it has one.
    pub offset: Option<u64>,
    /// Its length in bytes, if it has one.
    pub length: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// The running hash and the ring of the last calls.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    last: VecDeque<Call>,
    /// The names that came last, and their words.
    names: VecDeque<(Arc<OsStr>, u64)>,
    /// The words that are literals, each with what was made of it.
    literals: Vec<(&'static str, u64)>,
}

impl Default for Trace {
    fn default() -> Self {
        Trace::new()
    }
}

impl Trace {
    /// An empty trace.
    #[must_use]
    pub fn new() -> Trace {
        Trace {
            hash: 0x5ea3_a11d_15c0_7eed,
            last: VecDeque::with_capacity(REMEMBERED),
            names: VecDeque::new(),
            literals: Vec::new(),
        }
    }

    /// Adds one event.
    pub fn event(&mut self, kind: Kind, words: &[u64]) {
        let mut hash = fold(self.hash ^ (kind as u64), 0x9e37_79b9_7f4a_7c15 ^ words.len() as u64);
        for &word in words {
            hash = fold(hash ^ word, 0xa076_1d64_78bd_642f);
        }
        self.hash = hash;
    }

    /// Adds bytes: their length and checksum.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(word(bytes));
    }

    /// Adds zeros, as [`Trace::bytes`] would.
    pub fn zeros(&mut self, count: usize) {
        let crc = (0..count / ZEROS.len()).fold(0, |crc, _| ZeroRun::get().append(crc));
        let crc = summed_on(crc, &ZEROS[..count % ZEROS.len()]);
        self.word((count as u64) << 32 ^ u64::from(crc));
    }

    /// Adds a name, as [`Trace::bytes`] would: if it is one of those that came last, it needs no look at its letters.
    pub fn name(&mut self, name: &Arc<OsStr>) {
        let known = self.names.iter().find(|(last, _)| Arc::ptr_eq(last, name));
        let word = known.map(|(_, word)| *word).unwrap_or_else(|| {
            if self.names.len() == NAMES {
                self.names.pop_front();
            }
            let word = word(name.as_encoded_bytes());
            self.names.push_back((name.clone(), word));
            word
        });
        self.word(word);
    }

    /// Adds a word of the program, as [`Trace::bytes`] would: there are few of them.
    pub fn literal(&mut self, text: &'static str) {
        // One word is mostly one literal: its address tells it apart.
        let known = self.literals.iter().find(|(other, _)| std::ptr::eq(*other, text));
        let word = known.map(|(_, word)| *word).unwrap_or_else(|| {
            let word = word(text.as_bytes());
            self.literals.push((text, word));
            word
        });
        self.word(word);
    }

    /// Adds what [`word`] made of some bytes, as [`Trace::bytes`] would.
    pub fn word(&mut self, word: u64) {
        self.hash = fold(self.hash ^ word, 0xe703_7ed1_a0b4_28db);
    }

    /// Remembers a call that was accepted; its outcome comes with [`Trace::ended`].
    pub fn began(&mut self, call: Call) {
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(call);
    }

    /// Fills in the outcome of the call `number`, if it is still remembered.
    pub fn ended(&mut self, number: u64, outcome: Outcome) {
        // The newest calls end first, mostly.
        if let Some(call) = self.last.iter_mut().rev().find(|call| call.number == number) {
            call.outcome = outcome;
        }
    }

    /// The number that the run so far follows to.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last calls as text, oldest first.
    #[must_use]
    pub fn last(&self) -> Vec<String> {
        self.last.iter().map(line).collect()
    }
}

/// What the hash takes in of some bytes: their length and checksum.
#[must_use]
pub fn word(bytes: &[u8]) -> u64 {
    (bytes.len() as u64) << 32 ^ u64::from(checksum(bytes))
}

/// CRC-32. Most of what files hold are zeros that prepare them: those are found quicker than they are summed up.
fn checksum(bytes: &[u8]) -> u32 {
    let (mut crc, mut summed, mut at) = (0, 0, 0);
    while let Some(piece) = bytes.get(at..at + ZEROS.len()) {
        if *piece == ZEROS {
            crc = ZeroRun::get().append(summed_on(crc, &bytes[summed..at]));
            summed = at + ZEROS.len();
        }
        at += ZEROS.len();
    }
    summed_on(crc, &bytes[summed..])
}

fn summed_on(crc: u32, bytes: &[u8]) -> u32 {
    if bytes.is_empty() {
        return crc;
    }
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

const ZEROS: [u8; 1024] = [0; 1024];

/// What [`ZEROS`] behind some bytes make of their checksum: the sum of a part for each byte of it, since a CRC is linear.
struct ZeroRun([[u32; 256]; 4]);

impl ZeroRun {
    fn get() -> &'static ZeroRun {
        static RUN: LazyLock<ZeroRun> = LazyLock::new(ZeroRun::new);
        &RUN
    }

    fn new() -> ZeroRun {
        let of_nothing = summed_on(0, &ZEROS);
        let of_bits: [u32; 32] = std::array::from_fn(|bit| summed_on(1 << bit, &ZEROS) ^ of_nothing);
        let mut parts = [[0; 256]; 4];
        for (place, part) in parts.iter_mut().enumerate() {
            for (byte, sum) in part.iter_mut().enumerate() {
                let bits = (0..8).filter(|bit| byte >> bit & 1 == 1);
                *sum = bits.fold(if place == 0 { of_nothing } else { 0 }, |sum, bit| sum ^ of_bits[8 * place + bit]);
            }
        }
        ZeroRun(parts)
    }

    fn append(&self, crc: u32) -> u32 {
        let bytes = crc.to_le_bytes();
        self.0.iter().zip(bytes).fold(0, |sum, (part, byte)| sum ^ part[usize::from(byte)])
    }
}

fn line(call: &Call) -> String {
    let mut text = format!("#{} {}.{:03} us {}", call.number, call.at_ns / 1000, call.at_ns % 1000, call.what);
    // Writing to a string cannot fail.
    if let Some(name) = &call.name {
        let _ = write!(text, " {}", name.display());
    }
    if let Some(offset) = call.offset {
        let _ = write!(text, " at {offset}");
    }
    if let Some(length) = call.length {
        let _ = write!(text, " length {length}");
    }
    let _ = match call.outcome {
        Outcome::Ok(count) => write!(text, " -> {count}"),
        Outcome::Failed(kind) => write!(text, " -> error: {kind}"),
        Outcome::InFlight => write!(text, " -> in flight"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u64) -> Call {
        Call {
            number,
            at_ns: 1_234_567,
            what: "write",
            name: Some(Arc::from(OsStr::new("wal-1"))),
            offset: Some(512),
            length: Some(9),
            outcome: Outcome::InFlight,
        }
    }

    #[test]
    fn order_kind_and_grouping_of_events_count() {
        let hash = |events: &[(Kind, &[u64])]| {
            let mut trace = Trace::new();
            for (kind, words) in events {
                trace.event(*kind, words);
            }
            trace.hash()
        };
        let base = hash(&[(Kind::Begin, &[1, 2]), (Kind::End, &[3])]);
        assert_eq!(base, hash(&[(Kind::Begin, &[1, 2]), (Kind::End, &[3])]));
        assert_ne!(base, hash(&[(Kind::End, &[3]), (Kind::Begin, &[1, 2])]));
        assert_ne!(base, hash(&[(Kind::Begin, &[1, 2]), (Kind::Fault, &[3])]));
        assert_ne!(base, hash(&[(Kind::Begin, &[1]), (Kind::End, &[2, 3])]));
        assert_ne!(hash(&[(Kind::End, &[0])]), hash(&[(Kind::End, &[])]));
    }

    #[test]
    fn content_counts() {
        let hash = |bytes: &[u8]| {
            let mut trace = Trace::new();
            trace.bytes(bytes);
            trace.hash()
        };
        assert_ne!(hash(b"abc"), hash(b"abd"));
        assert_ne!(hash(b""), hash(b"\0"));
    }

    #[test]
    fn zeros_are_summed_up_as_all_bytes_are() {
        let mut bytes = vec![0; 9000];
        for (at, byte) in [(0, 0), (8999, 7), (1024, 1), (5000, 200), (3071, 3)] {
            bytes[at] = byte;
            for range in [0..9000, 1..9000, 0..1024, 1024..3072, 3000..8191, 5001..8999, 77..77] {
                assert_eq!(checksum(&bytes[range.clone()]), crc32fast::hash(&bytes[range.clone()]), "{range:?}");
            }
        }
    }

    #[test]
    fn zeros_count_as_bytes() {
        for count in [0, 1, 1023, 1024, 5000] {
            let (mut one, mut two) = (Trace::new(), Trace::new());
            one.zeros(count);
            two.bytes(&vec![0; count]);
            assert_eq!(one.hash(), two.hash(), "{count}");
        }
    }

    #[test]
    fn a_name_counts_as_its_bytes_do() {
        let (mut one, mut two) = (Trace::new(), Trace::new());
        let names: [Arc<OsStr>; 2] = [OsStr::new("a").into(), OsStr::new("b").into()];
        for name in [0, 0, 1, 0] {
            one.name(&names[name]);
            two.bytes(names[name].as_encoded_bytes());
        }
        for number in 0..3 * NAMES {
            let name: Arc<OsStr> = OsStr::new(&format!("wal-{number}")).into();
            one.name(&name);
            two.bytes(name.as_encoded_bytes());
        }
        for literal in ["read", "write", "read"] {
            one.literal(literal);
            two.bytes(literal.as_bytes());
        }
        assert_eq!(one.hash(), two.hash());
    }

    #[test]
    fn only_the_last_calls_are_kept_and_they_read_well() {
        let mut trace = Trace::new();
        for number in 1..=(REMEMBERED as u64 + 3) {
            trace.began(call(number));
        }
        trace.ended(1, Outcome::Ok(0)); // forgotten already: no harm
        trace.ended(REMEMBERED as u64 + 2, Outcome::Ok(9));
        trace.ended(4, Outcome::Failed(std::io::ErrorKind::StorageFull));
        let lines = trace.last();
        assert_eq!(lines.len(), REMEMBERED);
        assert_eq!(lines[0], "#4 1234.567 us write wal-1 at 512 length 9 -> error: no storage space");
        assert_eq!(lines[REMEMBERED - 2], "#66 1234.567 us write wal-1 at 512 length 9 -> 9");
        assert_eq!(lines[REMEMBERED - 1], "#67 1234.567 us write wal-1 at 512 length 9 -> in flight");
    }
}

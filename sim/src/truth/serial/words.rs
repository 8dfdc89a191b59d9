//! Anomalies by name, and their steps in words.

use std::{fmt, ops::Bound};

use super::{Anomaly, Committed, Key, Read, ValueId, Violation};

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why<'a> {
    /// It is the same one: first it looks, then it commits.
    Itself,
    /// ww
    Overwritten(&'a Key),
    /// wr: by the statement of the second one.
    Read { read: usize, key: &'a Key },
    /// rw: of what the statement of the first one saw.
    Replaced { read: usize, key: &'a Key },
    /// rt
    Acknowledged,
}

/// Says it, of this history.
pub(super) struct Words<'a>(pub(super) &'a [Committed]);

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Anomaly::NumberTwice => "a number that was given twice",
            Anomaly::AbortedRead => "aborted read",
            Anomaly::IntermediateRead => "intermediate read",
            Anomaly::CircularFlow => "circular flow",
            Anomaly::LostUpdate => "lost update",
            Anomaly::ReadSkew => "read skew",
            Anomaly::LongFork => "long fork",
            Anomaly::WriteSkew => "write skew",
            Anomaly::Phantom => "phantom",
            Anomaly::RealTime => "against real time",
        })
    }
}

impl Words<'_> {
    /// What two transactions have that only one can have.
    pub(super) fn pair(&self, anomaly: Anomaly, one: usize, two: usize) -> Violation {
        let steps = vec![format!("{} and {}", name(&self.0[one]), name(&self.0[two]))];
        Violation { anomaly, steps }
    }

    pub(super) fn cycle(&self, steps: &[(usize, Why<'_>, usize)]) -> Violation {
        let whys: Vec<Why<'_>> = steps.iter().map(|(_, why, _)| *why).collect();
        let said = steps.iter().map(|(one, why, two)| self.step(&self.0[*one], *why, &self.0[*two])).collect();
        Violation { anomaly: self.anomaly(&whys, steps), steps: said }
    }

    fn anomaly(&self, whys: &[Why<'_>], steps: &[(usize, Why<'_>, usize)]) -> Anomaly {
        let replaced = |why: &Why<'_>| matches!(why, Why::Replaced { .. });
        let adjacent = (0..whys.len()).any(|at| replaced(&whys[at]) && replaced(&whys[(at + 1) % whys.len()]));
        let keys: Vec<&Key> = whys
            .iter()
            .filter_map(|why| match why {
                Why::Overwritten(key) | Why::Replaced { key, .. } => Some(*key),
                _ => None,
            })
            .collect();
        let phantom = steps.iter().any(|(one, why, _)| match why {
            Why::Replaced { read, key } => absent(&self.0[*one].reads[*read], key),
            _ => false,
        });
        match whys.iter().filter(|why| replaced(why)).count() {
            _ if whys.contains(&Why::Acknowledged) => Anomaly::RealTime,
            0 => Anomaly::CircularFlow,
            1 if keys.len() == whys.len() && keys.iter().all(|key| *key == keys[0]) => Anomaly::LostUpdate,
            1 => Anomaly::ReadSkew,
            _ if !adjacent => Anomaly::LongFork,
            _ if phantom => Anomaly::Phantom,
            _ => Anomaly::WriteSkew,
        }
    }

    fn step(&self, one: &Committed, why: Why<'_>, two: &Committed) -> String {
        match why {
            Why::Itself => format!("{} looks before it commits", name(one)),
            Why::Overwritten(key) => {
                format!("{} {} before {} {} it", name(one), wrote(one, key), name(two), does(two, key))
            }
            Why::Read { read, key } => format!("{} {}; {}", name(one), wrote(one, key), self.finds(two, read, key)),
            Why::Replaced { read, key } => {
                format!("{}, before {} {} it", self.finds(one, read, key), name(two), does(two, key))
            }
            Why::Acknowledged => {
                let at = one.acknowledged.unwrap_or(0);
                format!("{} is acknowledged at {at}, before {} begins at {}", name(one), name(two), two.began)
            }
        }
    }

    /// What a statement found of a key.
    pub(super) fn finds(&self, reader: &Committed, read: usize, key: &Key) -> String {
        let (how, found) = match &reader.reads[read] {
            Read::Get { found, .. } => ("gets".into(), *found),
            Read::Range { from, to, found, .. } => {
                let found = found.iter().find(|(other, _)| *other == key.1).map(|(_, value)| *value);
                (format!("scans {}..{} and of", edge(from), edge(to)), found)
            }
        };
        let found = found.map_or("nothing".into(), |value| value.to_string());
        format!("{} (statement {read} of its reads) {how} {} finds {found}", name(reader), show(key))
    }
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "value {}.{}", self.transaction, self.statement)
    }
}

fn name(one: &Committed) -> String {
    format!("T{} ({:?}, CSN {})", one.number, one.isolation, one.csn)
}

fn show(key: &Key) -> String {
    format!("{}/\"{}\"", key.0, key.1.escape_ascii())
}

fn edge(bound: &Bound<Vec<u8>>) -> String {
    match bound {
        Bound::Unbounded => String::new(),
        Bound::Included(key) => format!("\"{}\"", key.escape_ascii()),
        Bound::Excluded(key) => format!("(\"{}\")", key.escape_ascii()),
    }
}

/// What a transaction left behind of a key.
fn left(one: &Committed, key: &Key) -> Option<ValueId> {
    one.writes.iter().rev().find(|(other, _)| other == key).and_then(|(_, value)| *value)
}

fn wrote(one: &Committed, key: &Key) -> String {
    match left(one, key) {
        Some(value) => format!("puts {value} in {}", show(key)),
        None => format!("deletes {}", show(key)),
    }
}

fn does(one: &Committed, key: &Key) -> &'static str {
    if left(one, key).is_some() { "puts" } else { "deletes" }
}

/// Whether a statement shows a key to be missing from a range.
fn absent(read: &Read, key: &Key) -> bool {
    matches!(read, Read::Range { found, .. } if found.iter().all(|(other, _)| *other != key.1))
}

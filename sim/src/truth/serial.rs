//! Whether what committed transactions were told fits their isolation: pure, and without a look at the store.
//!
//! Each transaction is one event or two, and each fact says that one event comes before another:
//!
//! | isolation | events |
//! |---|---|
//! | serializable | one: it looks and commits at once |
//! | snapshot | it looks, later it commits |
//! | read committed | it commits; what it reads was committed before that, and nothing is said of what it doesn't see |
//!
//! | fact | edge |
//! |---|---|
//! | ww: two write a key, in the order of their commit numbers | the first commits -> the second looks |
//! | wr: one reads what another wrote | the writer commits -> the reader looks |
//! | rw: one reads what another replaces, an absent key and one missing in a range included | the reader looks -> the writer commits |
//! | rt: one is acknowledged before another begins | the first commits -> the second looks |
//!
//! A cycle means that no order fits. So write skew is a cycle among serializable transactions only, and a lost update, read skew or a
//! long fork among those of a snapshot, too. A read of nothing may be one before the first version or behind any removal: those
//! that no snapshot fits which fits the rest of the transaction are left out, and of the others only that is an edge which follows from each.

mod graph;
mod versions;
mod words;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, ops::Bound};

use engine::txn::options::Isolation;

use self::{
    graph::Graph,
    versions::{Seen, Versions},
    words::{Why, Words},
};

/// A table's number, and the key in it.
pub type Key = (u32, Vec<u8>);

/// Names a value: no two statements write the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueId {
    /// The number of the transaction that wrote it.
    pub transaction: u64,
    /// The number of its statement.
    pub statement: u64,
}

/// A transaction that committed. After a crash: one that was delivered.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its own among all transactions of the history.
    pub number: u64,
    /// Its commit number, which is its own, too. It isn't looked at where nothing was written.
    pub csn: u64,
    /// What it was to see. (A write outside of a transaction is one of read committed.)
    pub isolation: Isolation,
    /// What its statements found. Those that found its own writes say nothing and may be left out; one that found nothing because of a
    /// removal of its own that a savepoint took back must be.
    pub reads: Vec<Read>,
    /// What it wrote, in order; `None` removes. What a savepoint took back is not among it; a value that was written over is.
    pub writes: Vec<(Key, Option<ValueId>)>,
    /// When it began to begin: on any clock that all of the history shares. (A count of events is sharper than virtual time.)
    pub began: u64,
    /// When its client knew that whoever begins sees it.
    pub acknowledged: Option<u64>,
}

/// What one statement found.
#[derive(Clone, Debug)]
pub enum Read {
    /// One key.
    Get {
        /// The key.
        key: Key,
        /// What it held.
        found: Option<ValueId>,
    },
    /// A range, as far as the scan was consumed: all keys of it that are not in `found` were absent.
    Range {
        /// The table's number.
        table: u32,
        /// Where it begins.
        from: Bound<Vec<u8>>,
        /// Where it ends.
        to: Bound<Vec<u8>>,
        /// Keys and what they held.
        found: Vec<(Vec<u8>, ValueId)>,
    },
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions.
    pub transactions: u64,
    /// Edges between their events.
    pub edges: u64,
    /// Events from which a cycle was looked for.
    pub cycles: u64,
}

/// What a history can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// Two transactions have a number, or two that wrote have a commit number.
    NumberTwice,
    /// G1a: what was read comes from a transaction that did not commit.
    AbortedRead,
    /// G1b: what was read was not what its transaction left behind.
    IntermediateRead,
    /// G1c: each read what the other wrote, or wrote over it.
    CircularFlow,
    /// A transaction wrote over what it had not seen.
    LostUpdate,
    /// G-single: of what another transaction did one part was seen and one wasn't.
    ReadSkew,
    /// Two transactions see two others in different orders.
    LongFork,
    /// G2: each read what the other replaced.
    WriteSkew,
    /// The same, with a key that was absent from a range.
    Phantom,
    /// What was acknowledged before another one began comes after it.
    RealTime,
}

/// An anomaly, and the statements that show it: each step says why one transaction comes before the next, the last one before the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its kind.
    pub anomaly: Anomaly,
    /// In words.
    pub steps: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.anomaly, self.steps.join("; "))
    }
}

/// What happened to a transaction, by its place in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    of: usize,
    commits: bool,
}

/// Looks for what the history can't be. `aborted`: the transactions that are known not to have committed, or to be lost. The order of
/// `history` means nothing.
///
/// # Errors
/// The first anomaly. One of a cycle is named by a shortest one.
pub fn check(history: &[Committed], aborted: &BTreeSet<u64>) -> Result<Counts, Violation> {
    let versions = Versions::of(history)?;
    let mut graph = Graph::default();
    let commits = |of: usize| Event { of, commits: true };
    let looks = |of: usize| Event { of, commits: history[of].isolation != Isolation::Snapshot };
    for of in 0..history.len() {
        graph.add(looks(of), commits(of), Why::Itself);
    }
    for (key, one, two) in versions.pairs() {
        graph.add(commits(one), looks(two), Why::Overwritten(key));
    }
    let floors = floors(history);
    for (of, transaction) in history.iter().enumerate() {
        for Seen { read, key, written, replaced } in versions.seen_by(transaction, floors[of], aborted)? {
            if let Some(writer) = written {
                graph.add(commits(writer), looks(of), Why::Read { read, key });
            }
            if let Some(writer) = replaced.filter(|_| transaction.isolation != Isolation::ReadCommitted) {
                graph.add(looks(of), commits(writer), Why::Replaced { read, key });
            }
        }
    }
    for (one, two) in in_real_time(history) {
        graph.add(commits(one), looks(two), Why::Acknowledged);
    }
    match graph.shortest_cycle() {
        None => Ok(Counts { transactions: history.len() as u64, edges: graph.edges(), cycles: graph.nodes() }),
        Some(cycle) => {
            let steps: Vec<(usize, Why<'_>, usize)> = cycle
                .into_iter()
                .filter(|(_, why, _)| *why != Why::Itself)
                .map(|(a, why, b)| (a.of, why, b.of))
                .collect();
            Err(Words(history).cycle(&steps))
        }
    }
}

/// What each transaction's snapshot has at least: the highest commit number of those that were acknowledged before it began.
fn floors(history: &[Committed]) -> Vec<u64> {
    let (ends, _) = ends(history);
    let mut highest = vec![0];
    for (_, of) in &ends {
        let csn = if history[*of].writes.is_empty() { 0 } else { history[*of].csn };
        highest.push(csn.max(highest[highest.len() - 1]));
    }
    history.iter().map(|other| highest[ends.partition_point(|(end, _)| *end < other.began)]).collect()
}

/// Who was acknowledged before who began; what follows from the rest is left out.
fn in_real_time(history: &[Committed]) -> Vec<(usize, usize)> {
    let (ends, begins) = ends(history);
    let mut pairs = Vec::new();
    for (two, transaction) in history.iter().enumerate() {
        let before = ends.partition_point(|(end, _)| *end < transaction.began);
        // Who ended before one of these began comes before that one, and so before this one.
        let from = ends.partition_point(|(end, _)| *end < begins[before]);
        pairs.extend(ends[from..before].iter().map(|(_, one)| (*one, two)));
    }
    pairs
}

/// Acknowledgements in order; and the latest beginning of so many of them, from none on.
fn ends(history: &[Committed]) -> (Vec<(u64, usize)>, Vec<u64>) {
    let mut ends: Vec<(u64, usize)> =
        history.iter().enumerate().filter_map(|(of, one)| Some((one.acknowledged?, of))).collect();
    ends.sort_unstable();
    let mut begins = vec![0];
    for (_, of) in &ends {
        begins.push(history[*of].began.max(begins[begins.len() - 1]));
    }
    (ends, begins)
}

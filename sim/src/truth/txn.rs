//! The truth of a store of transactions, kept from outside: what every transaction was answered, and in which order they were accepted.
//!
//! Each commit's number is known as soon as it is accepted, so what the tables hold at any number is known, too. Every answer of a
//! statement, every recovery and every look at a disk is held against that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::rows::Rows;
pub use super::rows::{Key, Kind, Table, entry};
use crate::{oracle::Before, report::Violation, runner::virtual_us, workload::Level};

/// What an open, or a look at a disk, found of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The last commit of the newest root.
    pub root: u64,
    /// The last commit that there is.
    pub end: u64,
    /// Commits that came from the logs.
    pub replayed: u64,
    /// The tables that clients use, by number; `None` where nobody could ask.
    pub tables: Option<BTreeMap<u32, Found>>,
    /// Their rows.
    pub rows: BTreeMap<Key, Bytes>,
}

/// A table that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// The commit that it came with.
    pub created: u64,
}

/// How a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its client may go on with it.
    Open,
    /// Its commit was asked for.
    Committing,
    /// It was aborted, left, or killed: nothing of it counts.
    Aborted,
    /// Its client was told that it failed: nothing of it counts.
    Failed,
    /// It is committed, at this number.
    Accepted(u64),
    /// A crash took it.
    Lost,
}

/// What a statement read of what others have committed.
#[derive(Clone, Debug)]
pub enum Read {
    /// A key.
    Get {
        /// The key.
        key: Key,
        /// Its value.
        found: Option<Bytes>,
    },
    /// All keys of a table in a range, the last one excluded.
    Range {
        /// The table.
        table: u32,
        /// The first key.
        from: Vec<u8>,
        /// The key that it ends before.
        to: Vec<u8>,
        /// What there was.
        found: Vec<(Vec<u8>, Bytes)>,
    },
}

impl Read {
    fn what(&self) -> String {
        match self {
            Read::Get { key: (table, key), .. } => format!("{} of table {table}", key.escape_ascii()),
            Read::Range { table, from, to, .. } => {
                format!("{}..{} of table {table}", from.escape_ascii(), to.escape_ascii())
            }
        }
    }
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// What it is to see.
    pub level: Level,
    /// The store's number of it; 0 for a single write.
    pub id: u64,
    /// Its age: what was begun first of those that it does over, then itself.
    pub age: (u64, u64),
    /// The last commit that it sees.
    pub snapshot: Option<u64>,
    /// When it began and when it was acknowledged, as a count of events.
    pub began: u64,
    /// The same.
    pub acknowledged: Option<u64>,
    /// What it read that it had not written itself.
    pub reads: Vec<Read>,
    /// What it wrote, in order; what a savepoint took back is not among it.
    pub writes: Vec<(Key, Option<Bytes>)>,
    /// How it stands.
    pub standing: Standing,
    savepoints: Vec<(u64, usize)>,
    locks: BTreeSet<Key>,
    /// Somebody else has one of its rows: its client learns that with its next call.
    doomed: bool,
    statements: u64,
    accepted_us: u64,
}

impl Transaction {
    /// What it did to a key.
    fn own(&self, key: &Key) -> Option<&Option<Bytes>> {
        self.writes.iter().rev().find(|(of, _)| of == key).map(|(_, value)| value)
    }

    /// What it leaves behind, once per key.
    fn result(&self) -> BTreeMap<&Key, &Option<Bytes>> {
        self.writes.iter().map(|(key, value)| (key, value)).collect()
    }
}

/// The truth.
#[derive(Debug, Default)]
pub struct Truth {
    rows: Rows,
    transactions: BTreeMap<u64, Transaction>,
    events: u64,
    /// Everything up to here was delivered by an open.
    delivered: u64,
    /// Everything up to here was said to be durable, or seen where only what is durable is seen.
    durable: u64,
    /// The same when images of checkpoints were looked at last, and the count of events.
    durable_then: u64,
    events_then: u64,
    /// Everything up to here was said to be visible.
    visible: u64,
    /// The highest numbers that were ever told.
    newest_id: u64,
    newest_csn: u64,
    /// A table that is being loaded, or nobody knows whether it was.
    loading: Option<load::Loading>,
    /// When others saw tables that were loaded, as a count of events, and the transactions that these are.
    exposed: BTreeMap<u32, (u64, u64)>,
    /// Who asks for which row.
    waiting: BTreeMap<u64, Key>,
    /// Backups under way, with what they must have.
    backups: BTreeMap<String, u64>,
    made: u64,
    /// A drive may lie, or the disk was damaged: what is found counts.
    trusting: bool,
    /// How old what a crash takes may be, in microseconds, where that is promised.
    window_us: Option<u64>,
    ended_us: Option<u64>,
    checked: BTreeMap<&'static str, u64>,
}

/// The truth, as clients and the runner share it.
pub type TruthRef = Arc<Mutex<Truth>>;

/// Looks at it. Never held across an await.
pub fn lock(truth: &TruthRef) -> MutexGuard<'_, Truth> {
    truth.lock().unwrap_or_else(PoisonError::into_inner)
}

type Check = Result<(), Violation>;

/// A rule that does not hold.
pub(crate) fn broken(invariant: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Check {
    Err(Violation { invariant, expected: expected.into(), found: found.into(), last: Vec::new(), life: 0 })
}

/// A commit's number, for people.
struct C(u64);

impl fmt::Display for C {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 40, self.0 & ((1 << 40) - 1))
    }
}

/// The value of a transaction's statement: at least 8 bytes, and no other begins with these.
#[must_use]
pub fn value(number: u64, statement: u64, bytes: u64) -> Bytes {
    let word = number << 16 | statement;
    let fill = word.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = std::iter::once(word).chain((1..).map(|at: u64| fill.wrapping_mul(at).rotate_left(17)));
    words.flat_map(u64::to_le_bytes).take(bytes.max(8) as usize).collect()
}

/// Which statement wrote a value.
#[must_use]
pub fn writer(value: &[u8]) -> Option<(u64, u64)> {
    let word = u64::from_le_bytes(*value.first_chunk()?);
    Some((word >> 16, word & 0xffff))
}

fn words(value: Option<&Bytes>) -> String {
    match value.map(|value| (writer(value), value.len())) {
        None => "nothing".into(),
        Some((Some((number, statement)), bytes)) => {
            format!("{bytes} bytes of transaction {number}, statement {statement}")
        }
        Some((None, bytes)) => format!("{bytes} bytes of nobody"),
    }
}

impl Truth {
    /// At the beginning of a run. `trusting`: a drive may lie, so what is found counts; `window_us`: how old what a crash takes may be.
    #[must_use]
    pub fn new(trusting: bool, window_us: Option<u64>) -> Truth {
        Truth { trusting, window_us, ..Truth::default() }
    }

    /// How often each rule was checked.
    #[must_use]
    pub fn checked(&self) -> &BTreeMap<&'static str, u64> {
        &self.checked
    }

    /// All transactions, by number.
    #[must_use]
    pub fn transactions(&self) -> &BTreeMap<u64, Transaction> {
        &self.transactions
    }

    fn count(&mut self, invariant: &'static str) {
        *self.checked.entry(invariant).or_default() += 1;
    }

    /// Someone is about to begin a transaction: its number here.
    pub fn begins(&mut self, level: Level) -> u64 {
        let number = self.transactions.len() as u64 + 1;
        self.events += 1;
        let transaction = Transaction {
            level,
            id: 0,
            age: (0, 0),
            snapshot: None,
            began: self.events,
            acknowledged: None,
            reads: Vec::new(),
            writes: Vec::new(),
            standing: Standing::Open,
            savepoints: Vec::new(),
            locks: BTreeSet::new(),
            doomed: false,
            statements: 0,
            accepted_us: 0,
        };
        self.transactions.insert(number, transaction);
        number
    }

    /// It has begun: what the store says of it. `first` is the age of the one that it does over.
    pub fn begun(
        &mut self,
        number: u64,
        id: u64,
        first: Option<u64>,
        snapshot: Option<u64>,
        needs_durable: bool,
    ) -> Check {
        self.count("I15");
        if id <= self.newest_id {
            return broken("I15", format!("a transaction's number above {}", C(self.newest_id)), C(id).to_string());
        }
        self.newest_id = id;
        if let Some(transaction) = self.transactions.get_mut(&number) {
            (transaction.id, transaction.age, transaction.snapshot) = (id, (first.unwrap_or(id), id), snapshot);
        }
        snapshot.map_or(Ok(()), |at| self.sees(at, needs_durable))
    }

    /// A statement or a transaction sees all commits up to `at`. Where only what is durable is seen, that is a promise.
    pub fn sees(&mut self, at: u64, needs_durable: bool) -> Check {
        self.count("I27");
        if at < self.visible {
            let expected = format!("what was acknowledged before, up to commit {}, is seen", C(self.visible));
            return broken("I27", expected, format!("only what is up to commit {}", C(at)));
        }
        if needs_durable {
            self.durable = self.durable.max(at);
        }
        Ok(())
    }

    /// The bytes that its next statement writes.
    pub fn issue(&mut self, number: u64, bytes: u64) -> Bytes {
        let Some(transaction) = self.transactions.get_mut(&number) else { return Bytes::new() };
        transaction.statements += 1;
        value(number, transaction.statements, bytes)
    }

    /// A statement of it has written a key.
    pub fn wrote(&mut self, number: u64, key: Key, value: Option<Bytes>) {
        for (other, one) in &mut self.transactions {
            one.doomed |= *other != number && one.standing == Standing::Open && one.locks.contains(&key);
        }
        if let Some(transaction) = self.transactions.get_mut(&number) {
            transaction.locks.insert(key.clone());
            transaction.writes.push((key, value));
        }
    }

    /// It set a savepoint.
    pub fn saved(&mut self, number: u64, name: u64) {
        if let Some(transaction) = self.transactions.get_mut(&number) {
            transaction.savepoints.retain(|(there, _)| *there != name);
            transaction.savepoints.push((name, transaction.writes.len()));
        }
    }

    /// Whether it has a savepoint of this name.
    #[must_use]
    pub fn has_savepoint(&self, number: u64, name: u64) -> bool {
        self.transactions.get(&number).is_some_and(|one| one.savepoints.iter().any(|(there, _)| *there == name))
    }

    /// It went back to a savepoint.
    pub fn undone(&mut self, number: u64, name: u64) {
        let Some(transaction) = self.transactions.get_mut(&number) else { return };
        if let Some(place) = transaction.savepoints.iter().position(|(there, _)| *there == name) {
            transaction.writes.truncate(transaction.savepoints[place].1);
            transaction.savepoints.truncate(place);
        }
    }

    /// Whether a transaction can still write.
    #[must_use]
    pub fn is_open(&self, number: u64) -> bool {
        self.transactions.get(&number).is_some_and(|one| one.standing == Standing::Open)
    }

    /// Whether a transaction is committed.
    #[must_use]
    pub fn is_accepted(&self, number: u64) -> bool {
        self.transactions.get(&number).is_some_and(|one| matches!(one.standing, Standing::Accepted(_)))
    }

    /// Whether it may not write.
    #[must_use]
    pub fn is_read_only(&self, number: u64) -> bool {
        self.transactions.get(&number).is_some_and(|one| one.level == Level::ReadOnly)
    }

    /// It ended, or its end begins. What is accepted stays so.
    pub fn ended(&mut self, number: u64, standing: Standing) {
        if let Some(transaction) = self.transactions.get_mut(&number)
            && matches!(transaction.standing, Standing::Open | Standing::Committing)
        {
            transaction.standing = standing;
        }
    }

    /// It is committed, after all that were accepted before it.
    pub fn accepted(&mut self, number: u64, csn: u64) -> Check {
        self.numbered(csn)?;
        let Some(mut transaction) = self.transactions.remove(&number) else { return Ok(()) };
        transaction.standing = Standing::Accepted(csn);
        transaction.accepted_us = virtual_us().unwrap_or(0);
        let snapshot = transaction.snapshot.filter(|_| transaction.level != Level::Committed);
        let mut check = Ok(());
        if let Some(snapshot) = snapshot {
            self.count("I27");
            let lost = transaction.result().keys().find_map(|key| Some((*key, self.rows.between(key, snapshot, csn)?)));
            if let Some((key, other)) = lost {
                let expected = format!(
                    "transaction {number} wrote {} of table {} at {}, and nobody did since its snapshot {}",
                    key.1.escape_ascii(),
                    key.0,
                    C(csn),
                    C(snapshot)
                );
                check = broken("I27", expected, format!("commit {} did", C(other)));
            }
        }
        if transaction.level == Level::Serializable {
            self.count("I27");
            let changed = transaction.reads.iter().find(|read| !self.still_holds(read, csn - 1));
            if let Some(read) = changed {
                let expected = format!("transaction {number} reads at commit {} what it did before", C(csn));
                check = check.and(broken("I27", expected, format!("something changed of {}", read.what())));
            }
        }
        transaction.writes.retain(|(key, value)| self.rows.install(csn, key, value.as_ref()));
        self.transactions.insert(number, transaction);
        check
    }

    /// Whether a read finds the same at a commit.
    fn still_holds(&self, read: &Read, at: u64) -> bool {
        match read {
            Read::Get { key, found } => self.rows.get(key, at) == found.as_ref(),
            Read::Range { table, from, to, found } => {
                let rows = self.rows.table(*table, at);
                let within = rows.iter().filter(|(key, _)| *key >= from && *key < to);
                within.eq(found.iter().map(|(key, value)| (key, value)))
            }
        }
    }

    /// A commit's number was told.
    fn numbered(&mut self, csn: u64) -> Check {
        self.count("I15");
        if csn <= self.newest_csn {
            return broken("I15", format!("a commit's number above {}", C(self.newest_csn)), C(csn).to_string());
        }
        self.newest_csn = csn;
        Ok(())
    }

    /// Its client was told that it is committed; `visible`: whoever begins sees it.
    pub fn acknowledged(&mut self, number: u64, csn: u64, visible: bool) -> Check {
        self.events += 1;
        let events = self.events;
        if visible {
            self.visible = self.visible.max(csn);
        }
        let Some(transaction) = self.transactions.get_mut(&number) else { return Ok(()) };
        transaction.acknowledged = Some(events).filter(|_| visible);
        match transaction.standing {
            Standing::Accepted(accepted) if accepted != csn => {
                broken("I15", format!("transaction {number} is commit {}", C(accepted)), format!("told as {}", C(csn)))
            }
            _ => Ok(()),
        }
    }

    /// Everything up to here was said to be durable.
    pub fn durable(&mut self, csn: u64) {
        self.durable = self.durable.max(csn);
        self.visible = self.visible.max(csn);
    }

    /// A table is there. `csn`: its creation was just accepted.
    pub fn created(&mut self, id: u32, name: &str, kind: Kind, created: u64) {
        let table = Table { name: name.to_owned(), kind, created, dropped: None };
        self.rows.tables.entry(id).or_insert(table);
        self.newest_csn = self.newest_csn.max(created);
    }

    /// A table was dropped.
    pub fn dropped(&mut self, id: u32, csn: u64) -> Check {
        if let Some(table) = self.rows.tables.get_mut(&id) {
            table.dropped = Some(csn);
        }
        self.numbered(csn)
    }

    /// The table of this name, if there is one.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<u32> {
        self.rows.tables.iter().find(|(_, table)| table.name == name && table.dropped.is_none()).map(|(id, _)| *id)
    }

    /// Whether there was never a table of this name.
    #[must_use]
    pub fn lacks(&self, name: &str) -> bool {
        self.rows.tables.values().all(|table| table.name != name)
    }

    /// It asks for a row. Whether nobody but younger ones can have it, who give way.
    pub fn waits(&mut self, number: u64, key: Key) -> bool {
        self.count("I20");
        let age = self.transactions.get(&number).map_or((0, 0), |one| one.age);
        let holds = |one: &&Transaction| one.standing == Standing::Open && !one.doomed && one.locks.contains(&key);
        let mut holders = self.transactions.values().filter(holds).peekable();
        let younger = holders.peek().is_some() && holders.all(|holder| holder.age > age);
        let first = self.waiting.values().all(|other| *other != key);
        self.waiting.insert(number, key);
        younger && first
    }

    /// It was answered.
    pub fn waited(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    /// The answer to a read of a key, by someone who sees what was committed up to some moment from `low` to `high`.
    pub fn got(&mut self, number: Option<u64>, key: &Key, found: Option<&Bytes>, (low, high): (u64, u64)) -> Check {
        self.count("I27");
        let own = number.and_then(|number| self.transactions.get(&number)).filter(|one| one.standing == Standing::Open);
        if let Some(value) = own.and_then(|one| one.own(key)) {
            return self.answered(number, key, value.as_ref(), found, "its own write");
        }
        if self.is_blind(number, key.0) {
            return self.answered(number, key, None, found, "a moment before it was loaded").map(|()| {
                self.reads_blindly(number, || Read::Get { key: key.clone(), found: None });
            });
        }
        let moments = std::iter::once(low).chain(self.rows.changes(key.0, low, high));
        let values: Vec<Option<&Bytes>> = moments.map(|at| self.rows.get(key, at)).collect();
        if !values.contains(&found) {
            let what = format!("commit {}", C(high));
            return self.answered(number, key, values.last().copied().flatten(), found, &what);
        }
        self.reads(number, || Read::Get { key: key.clone(), found: found.cloned() });
        Ok(())
    }

    fn answered(
        &self,
        number: Option<u64>,
        key: &Key,
        value: Option<&Bytes>,
        found: Option<&Bytes>,
        by: &str,
    ) -> Check {
        if value == found {
            return Ok(());
        }
        let who = number.map_or_else(|| "a read by itself".into(), |number| format!("transaction {number}"));
        let (expected, found) = (words(value), words(found));
        broken("I27", format!("{who} reads {} of table {} as of {by}: {expected}", key.1.escape_ascii(), key.0), found)
    }

    /// The answer to a scan of `from..to`, in ascending order, by someone who sees commit `at`.
    pub fn scanned(
        &mut self,
        number: Option<u64>,
        table: u32,
        (from, to): (&[u8], &[u8]),
        found: &[(Vec<u8>, Bytes)],
        at: u64,
    ) -> Check {
        self.count("I27");
        let own = number.and_then(|number| self.transactions.get(&number)).filter(|one| one.standing == Standing::Open);
        let kind = self.rows.tables.get(&table).map_or(Kind::Rows, |info| info.kind);
        let written = own.map(Transaction::result).unwrap_or_default();
        let of = if let Kind::Index(of) = kind { of } else { table };
        let own_writes: Vec<_> = written.into_iter().filter(|((in_table, _), _)| *in_table == of).collect();
        if kind != Kind::Rows && self.rows.tables[&table].created > at && !own_writes.is_empty() {
            // (Of an index that is younger than what it sees it sees its own entries.)
            return Ok(());
        }
        let blind = self.is_blind(number, of);
        let committed = if blind { BTreeMap::new() } else { self.rows.table(of, at) };
        let mut rows = if of == table { committed.clone() } else { BTreeMap::new() };
        if of != table && self.rows.tables[&table].created <= at {
            rows = committed.clone();
        }
        for ((_, key), value) in own_writes {
            match value {
                Some(value) => drop(rows.insert(key.clone(), value.clone())),
                None => drop(rows.remove(key)),
            }
        }
        if of != table {
            rows = rows.iter().map(|(key, value)| entry(key, value)).collect();
        }
        let within = |key: &Vec<u8>| key.as_slice() >= from && key.as_slice() < to;
        let expected = rows.iter().filter(|(key, _)| within(key));
        if !expected.clone().eq(found.iter().map(|(key, value)| (key, value))) {
            let found: BTreeMap<_, _> = found.iter().cloned().collect();
            let wrong =
                rows.keys().filter(|key| within(key)).chain(found.keys()).find(|key| rows.get(*key) != found.get(*key));
            let Some(key) = wrong else {
                return broken("I27", "a scan has each key once, in order", format!("{} keys", found.len()));
            };
            let what = format!("commit {}, scanned", C(at));
            return self.answered(number, &(table, key.clone()), rows.get(key), found.get(key), &what);
        }
        if kind == Kind::Rows {
            let found = committed.into_iter().filter(|(key, _)| within(key)).collect();
            let read = || Read::Range { table, from: from.to_vec(), to: to.to_vec(), found };
            if blind { self.reads_blindly(number, read) } else { self.reads(number, read) }
        }
        Ok(())
    }

    /// What it read says nothing of its snapshot, but it holds when it commits, if it is serializable.
    fn reads_blindly(&mut self, number: Option<u64>, read: impl FnOnce() -> Read) {
        let level = number.and_then(|number| self.transactions.get(&number)).map(|one| one.level);
        if level == Some(Level::Serializable) {
            self.reads(number, read);
        }
    }

    fn reads(&mut self, number: Option<u64>, read: impl FnOnce() -> Read) {
        if let Some(one) = number.and_then(|number| self.transactions.get_mut(&number))
            && one.standing == Standing::Open
        {
            one.reads.push(read());
        }
    }
}

mod judge;
mod load;

//! What a client does with transactions, as text both ways. Each word stands behind `tx`.
//!
//! A client has one transaction at a time. Outside of one a read or a write is a transaction of its own, and what needs one does nothing: so
//! any of these may be left out of a plan.

use std::{fmt, str::FromStr};

/// Tables that clients use: rows, rows, rows, rows in memory alone, an index of the first, rows that are there once they are loaded.
pub const TABLES: u64 = 6;
/// The one in memory alone.
pub const MEMORY: u64 = 3;
/// The index of table 0.
pub const INDEX: u64 = 4;

/// The one that is there when it is loaded.
pub const LOADED: u64 = 5;

/// What a transaction is to see, and whether it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// `rc`: read committed.
    Committed,
    /// `si`: a snapshot.
    Snapshot,
    /// `ser`: serializable.
    Serializable,
    /// `ro`: a snapshot, and it writes nothing.
    ReadOnly,
}

impl Level {
    /// All of them, with their names.
    pub const ALL: [(Level, &'static str); 4] =
        [(Level::Committed, "rc"), (Level::Snapshot, "si"), (Level::Serializable, "ser"), (Level::ReadOnly, "ro")];
}

/// A use that must fail, with the right error and without any effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// `value-too-large`
    Value,
    /// `key-too-large`
    Key,
    /// `unknown-table`
    Table,
    /// `unknown-savepoint`
    Savepoint,
    /// `use-after-commit`
    Ended,
    /// `write-read-only`
    ReadOnly,
    /// `write-index`
    Index,
}

impl Misuse {
    /// All of them, with their names.
    pub const ALL: [(Misuse, &'static str); 7] = [
        (Misuse::Value, "value-too-large"),
        (Misuse::Key, "key-too-large"),
        (Misuse::Table, "unknown-table"),
        (Misuse::Savepoint, "unknown-savepoint"),
        (Misuse::Ended, "use-after-commit"),
        (Misuse::ReadOnly, "write-read-only"),
        (Misuse::Index, "write-index"),
    ];
}

/// One step of a client. [`fmt::Display`] and [`FromStr`] are each other's inverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `begin rc|si|ser|ro`: one that is open is left.
    Begin(Level),
    /// `put TABLE KEY BYTES`
    Put {
        /// Number of the table.
        table: u64,
        /// Number of the key.
        key: u64,
        /// Bytes of the value; at least 8 are written, so that it is told from all others.
        bytes: u64,
    },
    /// `del TABLE KEY`
    Delete {
        /// Number of the table.
        table: u64,
        /// Number of the key.
        key: u64,
    },
    /// `get TABLE KEY`
    Get {
        /// Number of the table.
        table: u64,
        /// Number of the key.
        key: u64,
    },
    /// `scan TABLE KEY..KEY fwd|back`; the last key is not of it.
    Scan {
        /// Number of the table.
        table: u64,
        /// The first key.
        from: u64,
        /// The key that it ends before.
        to: u64,
        /// From the end.
        back: bool,
    },
    /// `prefix TABLE TENS`: the ten keys with these tens.
    Prefix {
        /// Number of the table.
        table: u64,
        /// All digits of a key but the last.
        tens: u64,
    },
    /// `save NAME`: a savepoint.
    Save(u64),
    /// `undo NAME`: back to a savepoint.
    Undo(u64),
    /// `commit`
    Commit,
    /// `submit`: commits, and waits for nothing.
    Submit,
    /// `abort`
    Abort,
    /// `leave`: drops the transaction.
    Leave,
    /// `abandon`: drops the commit after a few polls.
    Abandon,
    /// `create TABLE`
    Create(u64),
    /// `drop TABLE`
    Drop(u64),
    /// `load TABLE ROWS BYTES fwd|back`: a new table, built past the logs, of keys from 0 on.
    Load {
        /// Number of the table.
        table: u64,
        /// How many keys it has.
        rows: u64,
        /// Bytes of each value.
        bytes: u64,
        /// The last key comes first, and the first one twice.
        back: bool,
    },
    /// `sync`: all commits so far.
    Sync,
    /// `checkpoint` or `checkpoint wait`
    Checkpoint {
        /// Until it is made.
        wait: bool,
    },
    /// `backup`: into a directory of its own, which is opened.
    Backup,
    /// `bad USE`
    Bad(Misuse),
}

fn name_of<T: Copy + PartialEq>(all: &[(T, &'static str)], value: T) -> &'static str {
    all.iter().find(|(one, _)| *one == value).map_or("", |(_, name)| name)
}

fn named<T: Copy>(all: &[(T, &'static str)], word: &str) -> Result<T, String> {
    let names = || all.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    all.iter()
        .find(|(_, name)| *name == word)
        .map(|(one, _)| *one)
        .ok_or_else(|| format!("'{word}' is none of {}", names()))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Step::Begin(level) => write!(f, "begin {}", name_of(&Level::ALL, level)),
            Step::Put { table, key, bytes } => write!(f, "put {table} {key} {bytes}"),
            Step::Delete { table, key } => write!(f, "del {table} {key}"),
            Step::Get { table, key } => write!(f, "get {table} {key}"),
            Step::Scan { table, from, to, back } => {
                write!(f, "scan {table} {from}..{to} {}", if back { "back" } else { "fwd" })
            }
            Step::Prefix { table, tens } => write!(f, "prefix {table} {tens}"),
            Step::Save(name) => write!(f, "save {name}"),
            Step::Undo(name) => write!(f, "undo {name}"),
            Step::Commit => f.write_str("commit"),
            Step::Submit => f.write_str("submit"),
            Step::Abort => f.write_str("abort"),
            Step::Leave => f.write_str("leave"),
            Step::Abandon => f.write_str("abandon"),
            Step::Create(table) => write!(f, "create {table}"),
            Step::Drop(table) => write!(f, "drop {table}"),
            Step::Load { table, rows, bytes, back } => {
                write!(f, "load {table} {rows} {bytes} {}", if back { "back" } else { "fwd" })
            }
            Step::Sync => f.write_str("sync"),
            Step::Checkpoint { wait: false } => f.write_str("checkpoint"),
            Step::Checkpoint { wait: true } => f.write_str("checkpoint wait"),
            Step::Backup => f.write_str("backup"),
            Step::Bad(misuse) => write!(f, "bad {}", name_of(&Misuse::ALL, misuse)),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Step, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |word: &str| word.parse::<u64>().map_err(|_| format!("'{word}' is not a number"));
        let table = |word: &str| match number(word)? {
            table if table < TABLES => Ok(table),
            table => Err(format!("there is no table {table}: they are 0 to {}", TABLES - 1)),
        };
        let range = |word: &str| {
            let (from, to) = word.split_once("..").ok_or_else(|| format!("'{word}' is not KEY..KEY, as in 3..9"))?;
            Ok::<_, String>((number(from)?, number(to)?))
        };
        Ok(match *words.as_slice() {
            ["begin", level] => Step::Begin(named(&Level::ALL, level)?),
            ["put", t, key, bytes] => Step::Put { table: table(t)?, key: number(key)?, bytes: number(bytes)? },
            ["del", t, key] => Step::Delete { table: table(t)?, key: number(key)? },
            ["get", t, key] => Step::Get { table: table(t)?, key: number(key)? },
            ["scan", t, keys, direction] => {
                let (from, to) = range(keys)?;
                Step::Scan { table: table(t)?, from, to, back: named(&[(false, "fwd"), (true, "back")], direction)? }
            }
            ["prefix", t, tens] => Step::Prefix { table: table(t)?, tens: number(tens)? },
            ["save", name] => Step::Save(number(name)?),
            ["undo", name] => Step::Undo(number(name)?),
            ["commit"] => Step::Commit,
            ["submit"] => Step::Submit,
            ["abort"] => Step::Abort,
            ["leave"] => Step::Leave,
            ["abandon"] => Step::Abandon,
            ["create", t] => Step::Create(table(t)?),
            ["drop", t] => Step::Drop(table(t)?),
            ["load", t, rows, bytes, direction] => Step::Load {
                table: table(t)?,
                rows: number(rows)?,
                bytes: number(bytes)?,
                back: named(&[(false, "fwd"), (true, "back")], direction)?,
            },
            ["sync"] => Step::Sync,
            ["checkpoint"] => Step::Checkpoint { wait: false },
            ["checkpoint", "wait"] => Step::Checkpoint { wait: true },
            ["backup"] => Step::Backup,
            ["bad", misuse] => Step::Bad(named(&Misuse::ALL, misuse)?),
            _ => {
                return Err(format!(
                    "'tx {text}' is no step of a transaction; there are: tx begin, put, del, get, scan, prefix, save, undo, \
                     commit, submit, abort, leave, abandon, create, drop, load, sync, checkpoint, backup, bad"
                ));
            }
        })
    }
}

/// The bytes of a key.
#[must_use]
pub fn key_bytes(key: u64) -> Vec<u8> {
    format!("k{key:02}").into_bytes()
}

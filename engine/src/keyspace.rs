//! A data set to log: databases of keys with strings, lists, sets, hashes and sorted sets, changed by Redis commands.
//!
//! It executes what command logs contain, as Redis 7.0 does; a command that fails changes nothing. It answers no questions:
//! reading commands are accepted and do nothing. What it doesn't know it names: nothing is ever skipped silently. It waits for
//! nothing either: a command that blocks does what it can at once.
//!
//! Expiry is a time of the wall clock, in milliseconds. Without a clock ([`Keyspace::load`]) no key is ever expired, as
//! while a log is loaded; with one ([`Keyspace::execute`]) a key that is expired is gone before the command sees it.

mod bits;
mod extended;
mod hashes;
mod keys;
mod lists;
mod logged;
mod numbers;
mod sets;
mod shards;
mod snapshot;
mod sorted;
mod strings;
mod table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thiserror::Error;

use crate::aof::load::DataSet;

use shards::{Item, Shards};

pub use snapshot::KeyspaceSnapshot;
pub(crate) use snapshot::rebuild;

/// Databases, as in a default configuration of Redis.
pub const DATABASES: usize = 16;

/// A byte string.
pub type Text = Vec<u8>;

/// What a key holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Bytes.
    String(Text),
    /// Elements in order; never empty.
    List(VecDeque<Text>),
    /// Members; never empty.
    Set(BTreeSet<Text>),
    /// Fields with their values; never empty.
    Hash(BTreeMap<Text, Text>),
    /// Members with their scores, none of them NaN; never empty.
    Sorted(BTreeMap<Text, f64>),
}

impl Value {
    /// The name of its type.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        self.as_ref().type_name()
    }

    /// A view of it.
    #[must_use]
    pub const fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Value::String(value) => ValueRef::String(value.as_slice()),
            Value::List(value) => ValueRef::List(value),
            Value::Set(value) => ValueRef::Set(value),
            Value::Hash(value) => ValueRef::Hash(value),
            Value::Sorted(value) => ValueRef::Sorted(value),
        }
    }

    /// Whether no key may have it: all but strings, when they are empty.
    fn is_gone(&self) -> bool {
        match self {
            Value::String(_) => false,
            Value::List(value) => value.is_empty(),
            Value::Set(value) => value.is_empty(),
            Value::Hash(value) => value.is_empty(),
            Value::Sorted(value) => value.is_empty(),
        }
    }
}

/// A key's value and its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// Milliseconds since the Unix epoch from which on the key is gone.
    pub expires_ms: Option<i64>,
}

impl Entry {
    /// A view of it.
    #[must_use]
    pub fn as_ref(&self) -> EntryRef<'_> {
        EntryRef { value: self.value.as_ref(), expires_ms: self.expires_ms }
    }
}

/// A view of what a key holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueRef<'a> {
    /// Bytes.
    String(&'a [u8]),
    /// Elements in order.
    List(&'a VecDeque<Text>),
    /// Members.
    Set(&'a BTreeSet<Text>),
    /// Fields with their values.
    Hash(&'a BTreeMap<Text, Text>),
    /// Members with their scores.
    Sorted(&'a BTreeMap<Text, f64>),
}

impl ValueRef<'_> {
    /// The name of its type.
    #[must_use]
    pub const fn type_name(self) -> &'static str {
        match self {
            ValueRef::String(_) => "string",
            ValueRef::List(_) => "list",
            ValueRef::Set(_) => "set",
            ValueRef::Hash(_) => "hash",
            ValueRef::Sorted(_) => "zset",
        }
    }
}

/// A view of a key's value and its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EntryRef<'a> {
    /// The value.
    pub value: ValueRef<'a>,
    /// Milliseconds since the Unix epoch from which on the key is gone.
    pub expires_ms: Option<i64>,
}

/// One database.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Database {
    keys: Shards,
}

impl Database {
    /// All keys, in the order of their bytes, also those that are expired and not removed yet.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], EntryRef<'_>)> {
        self.keys.sorted()
    }

    /// A key's entry.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<EntryRef<'_>> {
        self.keys.get(key)
    }

    /// Puts a key in place; not with a value that no key may have.
    fn insert(&mut self, key: &[u8], entry: Entry) {
        if !entry.value.is_gone() {
            self.keys.insert(key, entry);
        }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// Why a command did nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CommandError {
    /// No command of Redis 7.0 has this name.
    #[error("unknown command '{0}'")]
    Unknown(String),
    /// Redis has it, this data set hasn't.
    #[error("command '{0}' is not supported: the data set has strings, lists, sets, hashes and sorted sets")]
    Unsupported(String),
    /// Too few or too many arguments, or ones that don't go together.
    #[error("wrong arguments for '{0}'")]
    Arguments(String),
    /// The key holds a value of another type.
    #[error("'{0}' on a key that holds a {1}")]
    Type(String, &'static str),
    /// An argument or the value is no number, or the result would be none.
    #[error("'{0}' needs a number, or its result is out of range")]
    Number(String),
    /// The key must be there.
    #[error("'{0}' on a key that is not there")]
    NoKey(String),
}

/// The databases, and the one that is selected.
#[derive(Clone, Debug)]
pub struct Keyspace {
    databases: Vec<Database>,
    selected: usize,
    /// The command that was executed last, by its name in upper case.
    last: Option<(&'static str, Run)>,
    /// Keys that a command found to have expired, by database, where somebody wants to know.
    expired: Option<Vec<(usize, Text)>>,
}

impl PartialEq for Keyspace {
    fn eq(&self, other: &Keyspace) -> bool {
        (self.selected, &self.databases) == (other.selected, &other.databases)
    }
}

impl Default for Keyspace {
    fn default() -> Keyspace {
        Keyspace::new()
    }
}

impl Keyspace {
    /// No keys; database 0 is selected.
    #[must_use]
    pub fn new() -> Keyspace {
        Keyspace { databases: vec![Database::default(); DATABASES], selected: 0, last: None, expired: None }
    }

    /// The databases by number.
    #[must_use]
    pub fn databases(&self) -> &[Database] {
        &self.databases
    }

    /// The number of the selected database.
    #[must_use]
    pub fn selected(&self) -> usize {
        self.selected
    }

    /// Executes a command of a log, at no time: nothing expires. True if it changed something.
    ///
    /// # Errors
    /// [`CommandError`]; nothing was changed.
    pub fn load(&mut self, command: &[&[u8]]) -> Result<bool, CommandError> {
        self.run(command, None)
    }

    /// Executes a command at a time, in milliseconds since the Unix epoch. True if it changed something, so that it is to be
    /// logged; Redis logs the same ones. Where keys expire, what is to be logged is not what was given: see
    /// [`Keyspace::execute_logged`].
    ///
    /// # Errors
    /// [`CommandError`]; nothing was changed.
    ///
    /// ```
    /// use engine::keyspace::{Keyspace, ValueRef};
    /// let mut keys = Keyspace::new();
    /// assert_eq!(keys.execute(&[b"SET", b"n", b"41", b"PX", b"1000"], 5000), Ok(true));
    /// assert_eq!(keys.execute(&[b"INCR", b"n"], 5999), Ok(true));
    /// assert_eq!(keys.databases()[0].get(b"n").map(|entry| entry.value), Some(ValueRef::String(b"42")));
    /// assert_eq!(keys.execute(&[b"DEL", b"n"], 6000), Ok(false), "it is expired");
    /// ```
    pub fn execute(&mut self, command: &[&[u8]], now_ms: i64) -> Result<bool, CommandError> {
        self.run(command, Some(now_ms))
    }

    /// The data as it is now, for a rewrite of its log.
    #[must_use]
    pub fn snapshot(&self) -> KeyspaceSnapshot {
        KeyspaceSnapshot::new(self)
    }

    fn run(&mut self, command: &[&[u8]], now_ms: Option<i64>) -> Result<bool, CommandError> {
        let given = command.first().copied().unwrap_or_default();
        let run = match self.last {
            // Commands come in runs of the same.
            Some((name, run)) if name.as_bytes() == given => run,
            _ => {
                let (name, run) = table::find(given)?;
                self.last = Some((name, run));
                run
            }
        };
        let mut call = Call { keyspace: self, arguments: command.get(1..).unwrap_or_default(), now_ms };
        run(&mut call).map_err(|failed| {
            let name = String::from_utf8_lossy(given).to_ascii_uppercase();
            match failed {
                Failed::Arguments => CommandError::Arguments(name),
                Failed::Type(found) => CommandError::Type(name, found),
                Failed::Number => CommandError::Number(name),
                Failed::NoKey => CommandError::NoKey(name),
            }
        })
    }
}

/// A `SET` without options, for [`Keyspace`].
#[derive(Debug)]
pub struct Prepared(Item);

impl DataSet for Keyspace {
    type Prepared = Prepared;

    fn prepare(command: &[&[u8]]) -> Option<Prepared> {
        match command {
            [name, key, value] if name.eq_ignore_ascii_case(b"SET") => Some(Prepared(Item::text(key, value))),
            _ => None,
        }
    }

    fn load_prepared(&mut self, commands: &mut dyn Iterator<Item = Prepared>) {
        self.databases[self.selected].keys.put_all(commands.map(|Prepared(item)| item));
    }

    fn load(&mut self, command: &[&[u8]]) -> Result<bool, CommandError> {
        Keyspace::load(self, command)
    }

    fn begin_file(&mut self) {
        self.selected = 0;
    }
}

/// How a command fails; a [`CommandError`] without the command's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    Arguments,
    Type(&'static str),
    Number,
    NoKey,
}

/// A command under way.
struct Call<'a> {
    keyspace: &'a mut Keyspace,
    /// Without the name.
    arguments: Arguments<'a>,
    now_ms: Option<i64>,
}

/// What a command does.
type Run = fn(&mut Call<'_>) -> Done;
type Done = Result<bool, Failed>;
type Arguments<'a> = &'a [&'a [u8]];

impl<'a> Call<'a> {
    /// Exactly so many arguments.
    fn exactly<const N: usize>(&self) -> Result<[&'a [u8]; N], Failed> {
        self.arguments.try_into().map_err(|_| Failed::Arguments)
    }

    /// One argument, and at least `least` more.
    fn first_and(&self, least: usize) -> Result<(&'a [u8], &'a [&'a [u8]]), Failed> {
        match self.arguments.split_first() {
            Some((first, rest)) if rest.len() >= least => Ok((first, rest)),
            _ => Err(Failed::Arguments),
        }
    }

    /// One argument, and at least one pair.
    fn first_and_pairs(&self) -> Result<(&'a [u8], &'a [&'a [u8]]), Failed> {
        let (first, rest) = self.first_and(2)?;
        if rest.len().is_multiple_of(2) { Ok((first, rest)) } else { Err(Failed::Arguments) }
    }

    fn integer(&self, text: &[u8]) -> Result<i64, Failed> {
        numbers::integer(text).ok_or(Failed::Number)
    }

    fn float(&self, text: &[u8]) -> Result<f64, Failed> {
        numbers::float(text).ok_or(Failed::Number)
    }

    /// How long a command that blocks would wait, in seconds. Here none does: where there is nothing, it changes nothing.
    fn timeout(&self, text: &[u8]) -> Result<(), Failed> {
        // In milliseconds it is a whole number of 64 bits; what is less than one is cut off.
        let seconds = self.float(text)?;
        if (-0.001..=9_223_372_036_854_775.0).contains(&seconds) { Ok(()) } else { Err(Failed::Number) }
    }

    /// At least one key, and how long to wait.
    fn keys_and_timeout(&self) -> Result<Arguments<'a>, Failed> {
        match self.arguments.split_last() {
            Some((timeout, keys)) if !keys.is_empty() => self.timeout(timeout).map(|()| keys),
            _ => Err(Failed::Arguments),
        }
    }

    /// Keys behind their number, and what follows them.
    fn counted_keys(&self, arguments: Arguments<'a>) -> Result<(Arguments<'a>, Arguments<'a>), Failed> {
        let (number, rest) = arguments.split_first().ok_or(Failed::Arguments)?;
        let number = usize::try_from(self.integer(number)?).ok().filter(|number| *number > 0);
        rest.split_at_checked(number.ok_or(Failed::Number)?).ok_or(Failed::Arguments)
    }

    /// Keys behind their number, the end to pop from, and how many items.
    fn keys_end_and_count(&self, arguments: Arguments<'a>) -> Result<(Arguments<'a>, &'a [u8], i64), Failed> {
        let (keys, rest) = self.counted_keys(arguments)?;
        match rest {
            [end] => Ok((keys, end, 1)),
            [end, option, count] if option.eq_ignore_ascii_case(b"COUNT") => {
                let count = self.integer(count)?;
                if count > 0 { Ok((keys, end, count)) } else { Err(Failed::Number) }
            }
            _ => Err(Failed::Arguments),
        }
    }

    /// The selected database, with `key` removed if it is expired.
    fn database(&mut self, key: &[u8]) -> &mut Database {
        self.database_of(self.keyspace.selected, key)
    }

    fn database_of(&mut self, number: usize, key: &[u8]) -> &mut Database {
        let database = &mut self.keyspace.databases[number];
        if let Some(now) = self.now_ms
            && database.keys.get(key).is_some_and(|entry| entry.expires_ms.is_some_and(|expires| expires <= now))
        {
            database.keys.remove(key);
            if let Some(expired) = &mut self.keyspace.expired {
                expired.push((number, Text::from(key)));
            }
        }
        database
    }

    fn exists(&mut self, key: &[u8]) -> bool {
        self.database(key).keys.contains_key(key)
    }

    fn entry(&mut self, key: &[u8]) -> Option<&mut Entry> {
        self.database(key).keys.get_mut(key)
    }

    /// Sets a key to a string, without an expiry.
    fn set_text(&mut self, key: &[u8], value: &[u8]) {
        self.database(key).keys.insert_text(key, value);
    }

    /// Sets a key, without an expiry.
    fn set(&mut self, key: &[u8], value: Value) {
        self.database(key).keys.insert(key, Entry { value, expires_ms: None });
    }

    /// Puts a result in place of what the key holds, whatever that is; of nothing, nothing stays.
    fn store(&mut self, key: &[u8], result: Option<Value>) -> Done {
        let removed = self.remove(key);
        let Some(result) = result else { return Ok(removed) };
        self.set(key, result);
        Ok(true)
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        self.database(key).keys.remove(key).is_some()
    }

    /// Changes a value of one type, which is made if it is missing and `create` says so, and removed if no key may have it
    /// then. False if there is none.
    fn change<T: Kind>(&mut self, key: &[u8], create: bool, change: impl FnOnce(&mut T) -> Done) -> Done {
        let database = self.database(key);
        let Some(entry) = database.keys.get_mut(key) else {
            if !create {
                return Ok(false);
            }
            let mut value = T::default();
            let done = change(&mut value)?;
            database.insert(key, Entry { value: value.into_value(), expires_ms: None });
            return Ok(done);
        };
        let done = change(T::of(&mut entry.value)?)?;
        if entry.value.is_gone() {
            database.keys.remove(key);
        }
        Ok(done)
    }

    /// Changes the first of these values that is there.
    fn change_first<T: Kind>(&mut self, keys: Arguments<'_>, change: impl Fn(&mut T) -> Done) -> Done {
        for key in keys {
            if self.change(key, false, &change)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The value of a key, if it is of one type; nothing if the key is missing.
    fn value<T: Kind>(&mut self, key: &[u8]) -> Result<Option<&mut T>, Failed> {
        self.entry(key).map(|entry| T::of(&mut entry.value)).transpose()
    }
}

/// A type of value.
trait Kind: Default {
    fn of(value: &mut Value) -> Result<&mut Self, Failed>;
    fn into_value(self) -> Value;
}

macro_rules! kind {
    ($type:ty, $variant:ident) => {
        impl Kind for $type {
            fn of(value: &mut Value) -> Result<&mut Self, Failed> {
                match value {
                    Value::$variant(value) => Ok(value),
                    other => Err(Failed::Type(other.type_name())),
                }
            }

            fn into_value(self) -> Value {
                Value::$variant(self)
            }
        }
    };
}

kind!(Text, String);
kind!(VecDeque<Text>, List);
kind!(BTreeSet<Text>, Set);
kind!(BTreeMap<Text, Text>, Hash);
kind!(BTreeMap<Text, f64>, Sorted);

#[cfg(test)]
mod tests;

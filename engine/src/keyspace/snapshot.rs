//! The data at one moment, as the commands that rebuild it.

use crate::aof::{Commands, Snapshot};

use super::{Database, Entry, Keyspace, Text, Value};

/// A command rebuilds so many elements, members or fields at most.
const ITEMS: usize = 64;
/// A snapshot writes so many bytes at once, or one key.
const PIECE_BYTES: usize = 64 << 10;

/// All keys of a [`Keyspace`] at one moment. What happens to the keyspace afterwards doesn't show.
#[derive(Debug)]
pub struct KeyspaceSnapshot {
    databases: Vec<Database>,
    /// The database that is being written, and its last key that was.
    at: usize,
    last: Option<Text>,
}

impl KeyspaceSnapshot {
    pub(super) fn new(keyspace: &Keyspace) -> KeyspaceSnapshot {
        KeyspaceSnapshot { databases: keyspace.databases.clone(), at: 0, last: None }
    }
}

impl Snapshot for KeyspaceSnapshot {
    fn write(&mut self, commands: &mut Commands) -> bool {
        let until = commands.bytes() + PIECE_BYTES;
        while let Some(database) = self.databases.get(self.at) {
            let from = match &self.last {
                Some(last) => std::ops::Bound::Excluded(last.clone()),
                None => std::ops::Bound::Unbounded,
            };
            for (key, entry) in database.keys.range((from, std::ops::Bound::Unbounded)) {
                rebuild(key, entry, |command| commands.add(self.at as u32, command));
                if commands.bytes() >= until {
                    self.last = Some(key.clone());
                    return true;
                }
            }
            (self.at, self.last) = (self.at + 1, None);
        }
        false
    }
}

/// The commands that rebuild a key, as Redis rewrites it: at most 64 items each, then its expiry.
pub(crate) fn rebuild(key: &[u8], entry: &Entry, mut command: impl FnMut(&[&[u8]])) {
    let mut items = |name: &[u8], items: &mut dyn Iterator<Item = [&[u8]; 2]>, single: bool| {
        let mut arguments: Vec<&[u8]> = Vec::with_capacity(2 + 2 * ITEMS);
        let mut count = 0;
        for [one, two] in items {
            if count == 0 {
                arguments.extend([name, key]);
            }
            arguments.push(one);
            if !single {
                arguments.push(two);
            }
            count += 1;
            if count == ITEMS {
                command(&arguments);
                arguments.clear();
                count = 0;
            }
        }
        if count > 0 {
            command(&arguments);
        }
    };
    match &entry.value {
        Value::String(value) => command(&[b"SET", key, value]),
        Value::List(list) => items(b"RPUSH", &mut list.iter().map(|item| [item.as_slice(), b""]), true),
        Value::Set(set) => items(b"SADD", &mut set.iter().map(|member| [member.as_slice(), b""]), true),
        Value::Hash(hash) => items(b"HMSET", &mut hash.iter().map(|(field, value)| [field.as_slice(), value]), false),
        Value::Sorted(sorted) => {
            // The shortest digits that read back as the same number.
            let scores: Vec<String> = sorted.values().map(f64::to_string).collect();
            let pairs =
                &mut scores.iter().zip(sorted.keys()).map(|(score, member)| [score.as_bytes(), member.as_slice()]);
            items(b"ZADD", pairs, false);
        }
    }
    if let Some(expires) = entry.expires_ms {
        command(&[b"PEXPIREAT", key, expires.to_string().as_bytes()]);
    }
}

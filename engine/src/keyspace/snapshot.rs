//! The data at one moment, as the commands that rebuild it.

use crate::aof::{Commands, Snapshot};

use super::{Database, Entry, Keyspace, Value};

/// A command rebuilds so many elements, members or fields at most.
const ITEMS: usize = 64;

/// All keys of a [`Keyspace`] at one moment. What happens to the keyspace afterwards doesn't show.
#[derive(Debug)]
pub struct KeyspaceSnapshot {
    databases: Vec<Database>,
    /// The database that is being written, and its part.
    at: (usize, usize),
}

impl KeyspaceSnapshot {
    pub(super) fn new(keyspace: &Keyspace) -> KeyspaceSnapshot {
        KeyspaceSnapshot { databases: keyspace.databases.clone(), at: (0, 0) }
    }
}

impl Snapshot for KeyspaceSnapshot {
    fn write(&mut self, commands: &mut Commands) -> bool {
        let (number, part) = self.at;
        let Some(database) = self.databases.get_mut(number) else { return false };
        if let Some(keys) = database.keys.part_at(part) {
            for (key, entry) in keys {
                rebuild(key, entry, |command| commands.add(number as u32, command));
            }
            self.at.1 += 1;
            return true;
        }
        // Whoever changes its keys from now on need not copy them.
        database.keys.clear();
        self.at = (number + 1, 0);
        true
    }
}

/// The commands that rebuild a key, as Redis rewrites it: at most 64 items each, then its expiry.
pub(crate) fn rebuild(key: &[u8], entry: &Entry, mut command: impl FnMut(&[&[u8]])) {
    if let (Value::String(value), None) = (&entry.value, entry.expires_ms) {
        return command(&[b"SET", key, value]);
    }
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

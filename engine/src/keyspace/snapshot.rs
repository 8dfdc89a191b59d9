//! The data at one moment, as the commands that rebuild it.

use crate::aof::{Commands, Snapshot};

use super::{Database, EntryRef, Keyspace, ValueRef};

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
        if let Some(keys) = database.keys.next_part(part) {
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
pub(crate) fn rebuild(key: &[u8], entry: EntryRef<'_>, mut command: impl FnMut(&[&[u8]])) {
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
    match entry.value {
        ValueRef::String(value) => command(&[b"SET", key, value]),
        ValueRef::List(list) => items(b"RPUSH", &mut list.iter().map(|item| [item.as_slice(), b""]), true),
        ValueRef::Set(set) => items(b"SADD", &mut set.iter().map(|member| [member.as_slice(), b""]), true),
        ValueRef::Hash(hash) => {
            items(b"HMSET", &mut hash.iter().map(|(field, value)| [field.as_slice(), value]), false)
        }
        ValueRef::Sorted(sorted) => {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn written(commands: &[&[&str]]) -> String {
        let mut keys = Keyspace::new();
        for command in commands {
            keys.load(&command.iter().map(|word| word.as_bytes()).collect::<Vec<_>>()).expect("a command");
        }
        let (mut snapshot, mut out) = (keys.snapshot(), Commands::default());
        while snapshot.write(&mut out) {}
        String::from_utf8(out.into_bytes()).expect("text")
    }

    #[test]
    fn a_key_is_written_as_redis_writes_it() {
        let text = written(&[&["SET", "s", "v"], &["PEXPIREAT", "s", "1700000000000"]]);
        let expected = "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nSET\r\n$1\r\ns\r\n$1\r\nv\r\n\
                        *3\r\n$9\r\nPEXPIREAT\r\n$1\r\ns\r\n$13\r\n1700000000000\r\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_command_has_at_most_64_items() {
        for (count, commands) in [(1, 1), (64, 1), (65, 2), (128, 2), (129, 3)] {
            let numbers: Vec<String> = (0..count).map(|number| number.to_string()).collect();
            for (name, pairs) in [("RPUSH", false), ("SADD", false), ("ZADD", true), ("HMSET", true)] {
                let items: Vec<&str> = numbers
                    .iter()
                    .flat_map(
                        |number| if pairs { vec![number.as_str(), number.as_str()] } else { vec![number.as_str()] },
                    )
                    .collect();
                let command: Vec<&str> = [name, "key"].into_iter().chain(items).collect();
                let text = written(&[&command]);
                assert_eq!(text.matches(&format!("\r\n{name}\r\n")).count(), commands, "{name} {count}");
            }
        }
    }

    #[test]
    fn a_score_reads_back_as_the_same_number() {
        for score in ["0.1", "1e300", "-1e-300", "inf", "-inf", "3", "179769313486231570000", "5e-324"] {
            let text = written(&[&["ZADD", "z", score, "m"]]);
            let at = text.split("\r\n").skip_while(|word| *word != "z").nth(2).expect("a score");
            assert_eq!(at.parse::<f64>(), score.parse::<f64>());
        }
    }
}

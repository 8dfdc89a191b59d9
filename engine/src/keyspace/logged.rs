//! What to log of what was executed: nothing expires while a log is loaded, so times are logged as points in time, results in place of
//! sums of floats, and a key that has expired as its removal. As Redis does.

use super::{CommandError, EntryRef, Keyspace, Text, ValueRef};

impl Keyspace {
    /// Executes a command at a time, in milliseconds since the Unix epoch, and tells `log` what is to be logged: the number of a database
    /// and a command, none, one or several. Loaded in this order they lead to the same data. True if the command changed something.
    ///
    /// # Errors
    /// [`CommandError`]; the command changed nothing. A key that it found to have expired is removed all the same, and that is told.
    ///
    /// ```
    /// use engine::keyspace::Keyspace;
    /// let (mut keys, mut logged) = (Keyspace::new(), Vec::new());
    /// for (command, now) in [("SET k v PX 100", 5000), ("APPEND k w", 5200), ("INCRBYFLOAT n 0.5", 5200)] {
    ///     let command: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
    ///     keys.execute_logged(&command, now, |_, command| {
    ///         logged.push(String::from_utf8_lossy(&command.join(&b' ')).into_owned());
    ///     })?;
    /// }
    /// assert_eq!(logged, ["SET k v PXAT 5100", "DEL k", "APPEND k w", "SET n 0.5"]);
    /// # Ok::<(), engine::keyspace::CommandError>(())
    /// ```
    pub fn execute_logged(
        &mut self,
        command: &[&[u8]],
        now_ms: i64,
        mut log: impl FnMut(u32, &[&[u8]]),
    ) -> Result<bool, CommandError> {
        let database = self.selected;
        self.expired = Some(Vec::new());
        let result = self.execute(command, now_ms);
        for (database, key) in self.expired.take().unwrap_or_default() {
            log(database as u32, &[b"DEL", &key]);
        }
        if result == Ok(true) {
            self.effect(database, command, |command| log(database as u32, command));
        }
        result
    }

    /// Removes every key whose time is over, and tells `log` to log that. Looks at all keys; whoever doesn't call it keeps expired keys
    /// in memory until they are asked for. Returns how many there were.
    pub fn remove_expired(&mut self, now_ms: i64, mut log: impl FnMut(u32, &[&[u8]])) -> usize {
        let mut count = 0;
        for (number, database) in self.databases.iter_mut().enumerate() {
            let over = |entry: EntryRef<'_>| entry.expires_ms.is_some_and(|expires| expires <= now_ms);
            let keys: Vec<Text> =
                database.iter().filter(|(_, entry)| over(*entry)).map(|(key, _)| Text::from(key)).collect();
            for key in &keys {
                database.keys.remove(key);
                log(number as u32, &[b"DEL", key]);
            }
            count += keys.len();
        }
        count
    }

    /// What a command that has changed something in `database` comes to.
    fn effect(&self, database: usize, command: &[&[u8]], mut log: impl FnMut(&[&[u8]])) {
        let name = self.last.map_or("", |(name, _)| name);
        let [_, key, rest @ ..] = command else { return log(command) };
        let entry = self.databases[database].get(key);
        match (name, entry) {
            // It is the log that says where a command belongs.
            ("SELECT", _) => {}
            ("EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT" | "GETEX" | "SET" | "SETEX" | "PSETEX", None) => {
                log(&[b"DEL", key]);
            }
            ("EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT" | "GETEX", Some(entry)) => match entry.expires_ms {
                Some(at) => log(&[b"PEXPIREAT", key, at.to_string().as_bytes()]),
                None => log(&[b"PERSIST", key]),
            },
            (
                "SET" | "SETEX" | "PSETEX" | "INCRBYFLOAT",
                Some(EntryRef { value: ValueRef::String(value), expires_ms }),
            ) => match expires_ms {
                Some(at) => log(&[b"SET", key, value, b"PXAT", at.to_string().as_bytes()]),
                None => log(&[b"SET", key, value]),
            },
            ("HINCRBYFLOAT", Some(EntryRef { value: ValueRef::Hash(hash), .. })) => {
                let value = rest.first().and_then(|field| Some((*field, hash.get(*field)?)));
                match value {
                    Some((field, value)) => log(&[b"HSET", key, field, value]),
                    None => log(command),
                }
            }
            _ => log(command),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Commands of which times, floats and other keys decide what they do; `K` and `L` are keys, `N` a number, `T` a time.
    const COMMANDS: &[&str] = &[
        "SET K N",
        "SET K N PX N",
        "SET K N EX 1",
        "SET K N PXAT T KEEPTTL",
        "SET K N KEEPTTL",
        "SET K N XX GET",
        "SET K N PXAT T",
        "SETEX K 1 N",
        "PSETEX K N N",
        "SETNX K N",
        "EXPIRE K 1",
        "EXPIRE K -1",
        "PEXPIRE K N NX",
        "PEXPIREAT K T GT",
        "PEXPIREAT K T",
        "PERSIST K",
        "GETEX K PX N",
        "GETEX K PERSIST",
        "GETEX K PXAT T",
        "GETDEL K",
        "APPEND K N",
        "INCRBY K N",
        "INCRBYFLOAT K 0.N",
        "SETRANGE K 3 N",
        "RENAME K L",
        "RENAMENX K L",
        "COPY K L REPLACE",
        "COPY K L DB 1",
        "MOVE K 1",
        "SELECT 1",
        "SELECT 0",
        "SWAPDB 0 1",
        "DEL K L",
        "MSET K N L N",
        "MSETNX K N L N",
        "RPUSH lK N",
        "EXPIRE lK 1",
        "LMOVE lK lL LEFT RIGHT",
        "BLPOP lK lL 0",
        "SADD sK N",
        "PEXPIRE sK N",
        "SUNIONSTORE sL sK sL",
        "HINCRBYFLOAT hK f 0.N",
        "PEXPIRE hK N",
        "ZADD zK N m",
        "ZUNIONSTORE zL 2 zK zL",
        "PEXPIRE zK N",
    ];

    proptest! {
        #[test]
        fn what_is_logged_leads_to_the_same_data(
            steps in prop::collection::vec((0..COMMANDS.len(), 0..3_u8, 0..3_u8, 1..400_i64, 0..300_i64), 0..300),
            sweep in 0..300_usize,
        ) {
            let (mut keys, mut loaded) = (Keyspace::new(), Keyspace::new());
            let mut now = 1_700_000_000_000;
            for (step, (command, one, two, number, later)) in steps.into_iter().enumerate() {
                now += later / 3;
                let words: Vec<String> = COMMANDS[command]
                    .split(' ')
                    .map(|word| match word {
                        "N" => number.to_string(),
                        "0.N" => format!("0.{number}"),
                        "T" => (now + number - 100).to_string(),
                        word if word.len() <= 2 && word.ends_with('K') => word.replace('K', &format!("k{one}")),
                        word if word.len() <= 2 && word.ends_with('L') => word.replace('L', &format!("k{two}")),
                        word => word.to_owned(),
                    })
                    .collect();
                let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
                let mut logged = Vec::new();
                let mut log = |database: u32, command: &[&[u8]]| {
                    logged.push((database, command.iter().map(|word| word.to_vec()).collect::<Vec<_>>()));
                };
                let _ = keys.execute_logged(&words, now, &mut log);
                if step == sweep {
                    keys.remove_expired(now, &mut log);
                }
                for (database, command) in logged {
                    prop_assert!(loaded.load(&[b"SELECT", database.to_string().as_bytes()]).is_ok());
                    let command: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
                    prop_assert_eq!(loaded.load(&command), Ok(true), "{:?}", words);
                }
                prop_assert_eq!(keys.databases(), loaded.databases(), "after {:?} at {}", words, now);
            }
        }
    }
}

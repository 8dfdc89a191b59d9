//! Commands on keys of any type, and on databases.

use super::{Call, DATABASES, Done, Failed};

/// How a time is given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    InSeconds,
    InMilliseconds,
    AtSecond,
    AtMillisecond,
}

impl Until {
    /// By the name of an option of `SET`.
    pub(super) fn from_option(name: &[u8]) -> Option<Until> {
        Some(match name {
            b"EX" => Until::InSeconds,
            b"PX" => Until::InMilliseconds,
            b"EXAT" => Until::AtSecond,
            b"PXAT" => Until::AtMillisecond,
            _ => return None,
        })
    }

    /// The time in milliseconds since the Unix epoch; for the options of `SET`, which take no times that are over.
    pub(super) fn time(self, call: &Call<'_>, number: &[u8]) -> Result<i64, Failed> {
        let number = call.integer(number)?;
        if number <= 0 { Err(Failed::Number) } else { self.reckon(call, number) }
    }

    fn reckon(self, call: &Call<'_>, number: i64) -> Result<i64, Failed> {
        // A log has times, not durations: without a clock a duration begins at the epoch.
        let now = call.now_ms.unwrap_or(0);
        let time = match self {
            Until::InSeconds => number.checked_mul(1000).and_then(|ms| ms.checked_add(now)),
            Until::InMilliseconds => number.checked_add(now),
            Until::AtSecond => number.checked_mul(1000),
            Until::AtMillisecond => Some(number),
        };
        time.ok_or(Failed::Number)
    }
}

fn expires(call: &mut Call<'_>, kind: Until) -> Done {
    let (key, rest) = call.first_and(1)?;
    let number = call.integer(rest[0])?;
    let time = kind.reckon(call, number)?;
    let (mut only_new, mut only_there, mut only_greater, mut only_less) = (false, false, false, false);
    for option in &rest[1..] {
        match option.to_ascii_uppercase().as_slice() {
            b"NX" => only_new = true,
            b"XX" => only_there = true,
            b"GT" => only_greater = true,
            b"LT" => only_less = true,
            _ => return Err(Failed::Arguments),
        }
    }
    if only_new && (only_there || only_greater || only_less) || only_greater && only_less {
        return Err(Failed::Arguments);
    }
    let over = call.now_ms.is_some_and(|now| time <= now);
    let Some(entry) = call.entry(key) else { return Ok(false) };
    // A key without an end lives longest.
    let wanted = match entry.expires_ms {
        None => !only_there && !only_greater,
        Some(before) => !only_new && (!only_greater || time > before) && (!only_less || time < before),
    };
    if wanted && !over {
        entry.expires_ms = Some(time);
    }
    Ok(wanted && (!over || call.remove(key)))
}

pub(super) fn expire(call: &mut Call<'_>) -> Done {
    expires(call, Until::InSeconds)
}

pub(super) fn pexpire(call: &mut Call<'_>) -> Done {
    expires(call, Until::InMilliseconds)
}

pub(super) fn expireat(call: &mut Call<'_>) -> Done {
    expires(call, Until::AtSecond)
}

pub(super) fn pexpireat(call: &mut Call<'_>) -> Done {
    expires(call, Until::AtMillisecond)
}

pub(super) fn persist(call: &mut Call<'_>) -> Done {
    let [key] = call.exactly()?;
    Ok(call.entry(key).is_some_and(|entry| entry.expires_ms.take().is_some()))
}

pub(super) fn del(call: &mut Call<'_>) -> Done {
    let keys = call.arguments;
    if keys.is_empty() {
        return Err(Failed::Arguments);
    }
    Ok(keys.iter().filter(|key| call.remove(key)).count() > 0)
}

fn renames(call: &mut Call<'_>, replace: bool) -> Done {
    let [from, to] = call.exactly()?;
    if !call.exists(from) {
        return Err(Failed::NoKey);
    }
    if from == to || !replace && call.exists(to) {
        return Ok(false);
    }
    let entry = call.database(from).keys.remove(from);
    let entry = entry.ok_or(Failed::NoKey)?;
    call.database(to).keys.insert(to, entry);
    Ok(true)
}

pub(super) fn rename(call: &mut Call<'_>) -> Done {
    renames(call, true)
}

pub(super) fn renamenx(call: &mut Call<'_>) -> Done {
    renames(call, false)
}

fn number_of_database(call: &Call<'_>, text: &[u8]) -> Result<usize, Failed> {
    let number = usize::try_from(call.integer(text)?).ok();
    number.filter(|number| *number < DATABASES).ok_or(Failed::Number)
}

pub(super) fn copy(call: &mut Call<'_>) -> Done {
    let (from, rest) = call.first_and(1)?;
    let (to, mut options) = (rest[0], &rest[1..]);
    let (mut database, mut replace) = (call.keyspace.selected, false);
    while let Some((option, after)) = options.split_first() {
        options = after;
        match (option.to_ascii_uppercase().as_slice(), after) {
            (b"REPLACE", _) => replace = true,
            (b"DB", [number, after @ ..]) => {
                database = number_of_database(call, number)?;
                options = after;
            }
            _ => return Err(Failed::Arguments),
        }
    }
    if database == call.keyspace.selected && from == to {
        return Err(Failed::Arguments);
    }
    let Some(entry) = call.entry(from).cloned() else { return Ok(false) };
    let target = call.database_of(database, to);
    if !replace && target.keys.contains_key(to) {
        return Ok(false);
    }
    target.keys.insert(to, entry);
    Ok(true)
}

pub(super) fn moves(call: &mut Call<'_>) -> Done {
    let [key, number] = call.exactly()?;
    let number = number_of_database(call, number)?;
    if number == call.keyspace.selected {
        return Err(Failed::Arguments);
    }
    if call.database_of(number, key).keys.contains_key(key) {
        return Ok(false);
    }
    let Some(entry) = call.database(key).keys.remove(key) else { return Ok(false) };
    call.database_of(number, key).keys.insert(key, entry);
    Ok(true)
}

pub(super) fn select(call: &mut Call<'_>) -> Done {
    let [number] = call.exactly()?;
    call.keyspace.selected = number_of_database(call, number)?;
    // It changes no key, so it is logged only where a key's change follows.
    Ok(false)
}

pub(super) fn swapdb(call: &mut Call<'_>) -> Done {
    let [one, other] = call.exactly()?;
    let (one, other) = (number_of_database(call, one)?, number_of_database(call, other)?);
    call.keyspace.databases.swap(one, other);
    Ok(true)
}

fn flush_options(call: &Call<'_>) -> Result<(), Failed> {
    match call.arguments {
        [] => Ok(()),
        [how] if how.eq_ignore_ascii_case(b"SYNC") || how.eq_ignore_ascii_case(b"ASYNC") => Ok(()),
        _ => Err(Failed::Arguments),
    }
}

pub(super) fn flushdb(call: &mut Call<'_>) -> Done {
    flush_options(call)?;
    let selected = call.keyspace.selected;
    call.keyspace.databases[selected].keys.clear();
    Ok(true)
}

pub(super) fn flushall(call: &mut Call<'_>) -> Done {
    flush_options(call)?;
    call.keyspace.databases.iter_mut().for_each(|database| database.keys.clear());
    Ok(true)
}

/// It asks for something, and changes nothing.
pub(super) fn reads(_: &mut Call<'_>) -> Done {
    Ok(false)
}

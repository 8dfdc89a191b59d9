//! Commands on strings.

use super::{Call, Done, Entry, Failed, Text, Value, extended::Extended, keys::Until, numbers};

/// A string has at most this many bytes (512 MiB).
const MAX_STRING_BYTES: usize = 512 << 20;

pub(super) fn set(call: &mut Call<'_>) -> Done {
    let (key, rest) = call.first_and(1)?;
    let (value, mut options) = (rest[0], &rest[1..]);
    if options.is_empty() {
        call.set_text(key, value);
        return Ok(true);
    }
    let (mut until, mut keep, mut only_new, mut only_there, mut get) = (None, false, false, false, false);
    while let Some((option, after)) = options.split_first() {
        let option = option.to_ascii_uppercase();
        options = after;
        match option.as_slice() {
            b"KEEPTTL" => keep = true,
            b"NX" => only_new = true,
            b"XX" => only_there = true,
            b"GET" => get = true,
            name => {
                let kind = Until::from_option(name).ok_or(Failed::Arguments)?;
                let (number, after) = options.split_first().ok_or(Failed::Arguments)?;
                // The same one again counts instead of the first.
                if until.is_some_and(|(before, _)| before != kind) {
                    return Err(Failed::Arguments);
                }
                until = Some((kind, *number));
                options = after;
            }
        }
    }
    if only_new && only_there || keep && until.is_some() {
        return Err(Failed::Arguments);
    }
    let until = until.map(|(kind, number)| kind.time(call, number)).transpose()?;
    let there = call.exists(key);
    if get {
        call.value::<Text>(key)?;
    }
    if only_new && there || only_there && !there {
        return Ok(false);
    }
    let kept = if keep { call.entry(key).and_then(|entry| entry.expires_ms) } else { None };
    let entry = Entry { value: Value::String(value.to_vec()), expires_ms: until.or(kept) };
    call.database(key).keys.insert(key, entry);
    Ok(true)
}

fn set_until(call: &mut Call<'_>, kind: Until) -> Done {
    let [key, number, value] = call.exactly()?;
    let until = kind.time(call, number)?;
    let entry = Entry { value: Value::String(value.to_vec()), expires_ms: Some(until) };
    call.database(key).keys.insert(key, entry);
    Ok(true)
}

pub(super) fn setex(call: &mut Call<'_>) -> Done {
    set_until(call, Until::InSeconds)
}

pub(super) fn psetex(call: &mut Call<'_>) -> Done {
    set_until(call, Until::InMilliseconds)
}

pub(super) fn setnx(call: &mut Call<'_>) -> Done {
    let [key, value] = call.exactly()?;
    let missing = !call.exists(key);
    if missing {
        call.set_text(key, value);
    }
    Ok(missing)
}

pub(super) fn getset(call: &mut Call<'_>) -> Done {
    let [key, value] = call.exactly()?;
    call.value::<Text>(key)?;
    call.set_text(key, value);
    Ok(true)
}

pub(super) fn getdel(call: &mut Call<'_>) -> Done {
    let [key] = call.exactly()?;
    call.value::<Text>(key)?;
    Ok(call.remove(key))
}

pub(super) fn getex(call: &mut Call<'_>) -> Done {
    let (key, mut options) = call.first_and(0)?;
    let (mut until, mut persist) = (None, false);
    while let Some((option, after)) = options.split_first() {
        options = after;
        if option.eq_ignore_ascii_case(b"PERSIST") {
            persist = true;
        } else {
            let kind = Until::from_option(&option.to_ascii_uppercase()).ok_or(Failed::Arguments)?;
            let (number, after) = options.split_first().ok_or(Failed::Arguments)?;
            if until.is_some_and(|(before, _)| before != kind) {
                return Err(Failed::Arguments);
            }
            until = Some((kind, *number));
            options = after;
        }
    }
    if persist && until.is_some() {
        return Err(Failed::Arguments);
    }
    // Where there is no key, the time isn't looked at.
    if call.value::<Text>(key)?.is_none() {
        return Ok(false);
    }
    let Some((kind, number)) = until else {
        return Ok(persist && call.entry(key).is_some_and(|entry| entry.expires_ms.take().is_some()));
    };
    let time = kind.time(call, number)?;
    if call.now_ms.is_some_and(|now| time <= now) {
        return Ok(call.remove(key));
    }
    if let Some(entry) = call.entry(key) {
        entry.expires_ms = Some(time);
    }
    Ok(true)
}

pub(super) fn mset(call: &mut Call<'_>) -> Done {
    let pairs = call.arguments;
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(Failed::Arguments);
    }
    for pair in pairs.chunks_exact(2) {
        call.set_text(pair[0], pair[1]);
    }
    Ok(true)
}

pub(super) fn msetnx(call: &mut Call<'_>) -> Done {
    if !call.arguments.len().is_multiple_of(2) {
        return Err(Failed::Arguments);
    }
    let keys = call.arguments.iter().step_by(2);
    let mut any = false;
    for key in keys {
        any |= call.exists(key);
    }
    if any { Ok(false) } else { mset(call) }
}

pub(super) fn append(call: &mut Call<'_>) -> Done {
    let [key, more] = call.exactly()?;
    call.change(key, true, |text: &mut Text| {
        if text.len() + more.len() > MAX_STRING_BYTES {
            return Err(Failed::Number);
        }
        text.extend_from_slice(more);
        Ok(true)
    })
}

pub(super) fn setrange(call: &mut Call<'_>) -> Done {
    let [key, offset, bytes] = call.exactly()?;
    let offset = usize::try_from(call.integer(offset)?).map_err(|_| Failed::Number)?;
    if bytes.is_empty() {
        call.value::<Text>(key)?;
        return Ok(false);
    }
    let end = offset.checked_add(bytes.len()).filter(|end| *end <= MAX_STRING_BYTES);
    let end = end.ok_or(Failed::Number)?;
    call.change(key, true, |text: &mut Text| {
        if text.len() < end {
            text.resize(end, 0);
        }
        text[offset..end].copy_from_slice(bytes);
        Ok(true)
    })
}

fn add(call: &mut Call<'_>, key: &[u8], by: Option<i64>) -> Done {
    let by = by.ok_or(Failed::Number)?;
    // A string that is missing counts as 0; one that is empty is no number.
    let there = call.exists(key);
    call.change(key, true, |text: &mut Text| {
        let before = if there { numbers::integer(text) } else { Some(0) };
        let after = before.and_then(|before| before.checked_add(by)).ok_or(Failed::Number)?;
        *text = after.to_string().into_bytes();
        Ok(true)
    })
}

pub(super) fn incr(call: &mut Call<'_>) -> Done {
    let [key] = call.exactly()?;
    add(call, key, Some(1))
}

pub(super) fn decr(call: &mut Call<'_>) -> Done {
    let [key] = call.exactly()?;
    add(call, key, Some(-1))
}

pub(super) fn incrby(call: &mut Call<'_>) -> Done {
    let [key, by] = call.exactly()?;
    let by = call.integer(by)?;
    add(call, key, Some(by))
}

pub(super) fn decrby(call: &mut Call<'_>) -> Done {
    let [key, by] = call.exactly()?;
    let by = call.integer(by)?;
    add(call, key, by.checked_neg())
}

pub(super) fn incrbyfloat(call: &mut Call<'_>) -> Done {
    let [key, by] = call.exactly()?;
    let by = Extended::parse(by).ok_or(Failed::Number)?;
    let there = call.exists(key);
    call.change(key, true, |text: &mut Text| {
        let before = if there { Extended::parse(text) } else { Some(Extended::default()) };
        *text = before.and_then(|before| before.sum(by)).ok_or(Failed::Number)?.text();
        Ok(true)
    })
}

//! Commands on lists.

use std::collections::VecDeque;

use super::{Call, Done, Failed, Text};

type List = VecDeque<Text>;

/// An end of a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

fn put(list: &mut List, side: Side, element: Text) {
    match side {
        Side::Left => list.push_front(element),
        Side::Right => list.push_back(element),
    }
}

fn take(list: &mut List, side: Side) -> Option<Text> {
    match side {
        Side::Left => list.pop_front(),
        Side::Right => list.pop_back(),
    }
}

/// Takes so many elements, or all there are. False if there were none.
fn take_some(list: &mut List, side: Side, count: i64) -> bool {
    (0..count).map_while(|_| take(list, side)).count() > 0
}

fn push(call: &mut Call<'_>, side: Side, create: bool) -> Done {
    let (key, elements) = call.first_and(1)?;
    call.change(key, create, |list: &mut List| {
        elements.iter().for_each(|element| put(list, side, element.to_vec()));
        Ok(true)
    })
}

pub(super) fn rpush(call: &mut Call<'_>) -> Done {
    push(call, Side::Right, true)
}

pub(super) fn lpush(call: &mut Call<'_>) -> Done {
    push(call, Side::Left, true)
}

pub(super) fn rpushx(call: &mut Call<'_>) -> Done {
    push(call, Side::Right, false)
}

pub(super) fn lpushx(call: &mut Call<'_>) -> Done {
    push(call, Side::Left, false)
}

fn pop(call: &mut Call<'_>, side: Side) -> Done {
    let (key, count) = call.first_and(0)?;
    let count = match count {
        [] => 1,
        [count] => call.integer(count)?,
        _ => return Err(Failed::Arguments),
    };
    if count < 0 {
        return Err(Failed::Arguments);
    }
    call.change(key, false, |list: &mut List| Ok(take_some(list, side, count)))
}

pub(super) fn lpop(call: &mut Call<'_>) -> Done {
    pop(call, Side::Left)
}

pub(super) fn rpop(call: &mut Call<'_>) -> Done {
    pop(call, Side::Right)
}

/// The place that an index names, which counts from the end if it is negative.
fn place(index: i64, length: usize) -> i64 {
    if index < 0 { index.saturating_add(length as i64) } else { index }
}

pub(super) fn lset(call: &mut Call<'_>) -> Done {
    let [key, index, element] = call.exactly()?;
    let index = call.integer(index)?;
    if !call.exists(key) {
        return Err(Failed::NoKey);
    }
    call.change(key, false, |list: &mut List| {
        let place = usize::try_from(place(index, list.len())).ok();
        let slot = place.and_then(|place| list.get_mut(place)).ok_or(Failed::Number)?;
        *slot = element.to_vec();
        Ok(true)
    })
}

pub(super) fn lrem(call: &mut Call<'_>) -> Done {
    let [key, count, element] = call.exactly()?;
    let count = call.integer(count)?;
    call.change(key, false, |list: &mut List| {
        let (before, mut left) = (list.len(), if count == 0 { u64::MAX } else { count.unsigned_abs() });
        let mut stays = |one: &Text| {
            let goes = one == element && left > 0;
            left -= u64::from(goes);
            !goes
        };
        if count < 0 {
            let mut kept: List = VecDeque::with_capacity(before);
            list.drain(..).rev().filter(&mut stays).for_each(|one| kept.push_front(one));
            *list = kept;
        } else {
            list.retain(&mut stays);
        }
        Ok(list.len() < before)
    })
}

pub(super) fn ltrim(call: &mut Call<'_>) -> Done {
    let [key, first, last] = call.exactly()?;
    let (first, last) = (call.integer(first)?, call.integer(last)?);
    call.change(key, false, |list: &mut List| {
        let length = list.len() as i64;
        let (first, last) = (place(first, list.len()).max(0), place(last, list.len()).min(length - 1));
        if first > last {
            list.clear();
        } else {
            list.truncate(last as usize + 1);
            list.drain(..first as usize);
        }
        Ok((list.len() as i64) < length)
    })
}

pub(super) fn linsert(call: &mut Call<'_>) -> Done {
    let [key, place, pivot, element] = call.exactly()?;
    let behind = match place.to_ascii_uppercase().as_slice() {
        b"BEFORE" => 0,
        b"AFTER" => 1,
        _ => return Err(Failed::Arguments),
    };
    call.change(key, false, |list: &mut List| {
        let Some(at) = list.iter().position(|one| one == pivot) else { return Ok(false) };
        list.insert(at + behind, element.to_vec());
        Ok(true)
    })
}

fn moves(call: &mut Call<'_>, from: &[u8], to: &[u8], sides: (Side, Side)) -> Done {
    // Both must be lists before one is changed; where nothing can be moved, the other one may be anything.
    if call.value::<List>(from)?.is_none() {
        return Ok(false);
    }
    call.value::<List>(to)?;
    let mut taken = None;
    call.change(from, false, |list: &mut List| {
        taken = take(list, sides.0);
        Ok(true)
    })?;
    let Some(element) = taken else { return Ok(false) };
    call.change(to, true, |list: &mut List| {
        put(list, sides.1, element);
        Ok(true)
    })
}

pub(super) fn rpoplpush(call: &mut Call<'_>) -> Done {
    let [from, to] = call.exactly()?;
    moves(call, from, to, (Side::Right, Side::Left))
}

pub(super) fn brpoplpush(call: &mut Call<'_>) -> Done {
    let [from, to, timeout] = call.exactly()?;
    call.timeout(timeout)?;
    moves(call, from, to, (Side::Right, Side::Left))
}

fn side(text: &[u8]) -> Result<Side, Failed> {
    match text.to_ascii_uppercase().as_slice() {
        b"LEFT" => Ok(Side::Left),
        b"RIGHT" => Ok(Side::Right),
        _ => Err(Failed::Arguments),
    }
}

pub(super) fn lmove(call: &mut Call<'_>) -> Done {
    let [from, to, one, other] = call.exactly()?;
    let sides = (side(one)?, side(other)?);
    moves(call, from, to, sides)
}

pub(super) fn blmove(call: &mut Call<'_>) -> Done {
    let [from, to, one, other, timeout] = call.exactly()?;
    let sides = (side(one)?, side(other)?);
    call.timeout(timeout)?;
    moves(call, from, to, sides)
}

/// Pops from the first of the lists that is there.
fn pop_first(call: &mut Call<'_>, keys: &[&[u8]], side: Side, count: i64) -> Done {
    call.change_first(keys, |list: &mut List| Ok(take_some(list, side, count)))
}

pub(super) fn blpop(call: &mut Call<'_>) -> Done {
    let keys = call.keys_and_timeout()?;
    pop_first(call, keys, Side::Left, 1)
}

pub(super) fn brpop(call: &mut Call<'_>) -> Done {
    let keys = call.keys_and_timeout()?;
    pop_first(call, keys, Side::Right, 1)
}

pub(super) fn lmpop(call: &mut Call<'_>) -> Done {
    let (keys, end, count) = call.keys_end_and_count(call.arguments)?;
    pop_first(call, keys, side(end)?, count)
}

pub(super) fn blmpop(call: &mut Call<'_>) -> Done {
    let (timeout, rest) = call.first_and(0)?;
    call.timeout(timeout)?;
    let (keys, end, count) = call.keys_end_and_count(rest)?;
    pop_first(call, keys, side(end)?, count)
}

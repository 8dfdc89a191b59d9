//! Commands on sorted sets. Members are ordered by score, then by bytes.

use std::collections::BTreeMap;

use super::{Call, Done, Failed, Text};

type Sorted = BTreeMap<Text, f64>;

/// NaN if the infinities of both signs meet.
#[expect(
    clippy::float_arithmetic,
    reason = "scores are doubles, and one addition is the same on every machine (IEEE 754)"
)]
fn sum(one: f64, two: f64) -> f64 {
    one + two
}

/// What `ZADD` may do.
#[derive(Default)]
struct Rules {
    only_new: bool,
    only_there: bool,
    only_greater: bool,
    only_less: bool,
    adds: bool,
}

pub(super) fn zadd(call: &mut Call<'_>) -> Done {
    let (key, mut rest) = call.first_and(2)?;
    let mut rules = Rules::default();
    while let Some((option, after)) = rest.split_first() {
        match option.to_ascii_uppercase().as_slice() {
            b"NX" => rules.only_new = true,
            b"XX" => rules.only_there = true,
            b"GT" => rules.only_greater = true,
            b"LT" => rules.only_less = true,
            b"CH" => {}
            b"INCR" => rules.adds = true,
            _ => break,
        }
        rest = after;
    }
    let compares = rules.only_greater || rules.only_less;
    let contradicts = rules.only_new && (rules.only_there || compares) || rules.only_greater && rules.only_less;
    if rest.is_empty() || !rest.len().is_multiple_of(2) || contradicts || rules.adds && rest.len() > 2 {
        return Err(Failed::Arguments);
    }
    let pairs = rest.chunks_exact(2).map(|pair| Ok((call.float(pair[0])?, pair[1])));
    let pairs = pairs.collect::<Result<Vec<_>, Failed>>()?;
    call.change(key, !rules.only_there, |set: &mut Sorted| {
        let mut changed = false;
        for (score, member) in pairs {
            let before = set.get(member).copied();
            let score = if rules.adds { sum(before.unwrap_or(0.0), score) } else { score };
            if score.is_nan() {
                return Err(Failed::Number);
            }
            let wanted = match before {
                None => !rules.only_there,
                Some(before) => {
                    let rises = !rules.only_greater || score > before;
                    !rules.only_new && rises && (!rules.only_less || score < before)
                }
            };
            if wanted && before != Some(score) {
                set.insert(member.to_vec(), score);
                changed = true;
            }
        }
        Ok(changed)
    })
}

pub(super) fn zincrby(call: &mut Call<'_>) -> Done {
    let [key, by, member] = call.exactly()?;
    let by = call.float(by)?;
    call.change(key, true, |set: &mut Sorted| {
        let score = sum(set.get(member).copied().unwrap_or(0.0), by);
        if score.is_nan() {
            return Err(Failed::Number);
        }
        set.insert(member.to_vec(), score);
        Ok(true)
    })
}

pub(super) fn zrem(call: &mut Call<'_>) -> Done {
    let (key, members) = call.first_and(1)?;
    call.change(key, false, |set: &mut Sorted| {
        Ok(members.iter().filter(|member| set.remove(**member).is_some()).count() > 0)
    })
}

/// The members in order.
fn ordered(set: &Sorted) -> Vec<Text> {
    let mut members: Vec<(&Text, f64)> = set.iter().map(|(member, score)| (member, *score)).collect();
    members.sort_by(|one, other| one.1.total_cmp(&other.1).then_with(|| one.0.cmp(other.0)));
    members.into_iter().map(|(member, _)| member.clone()).collect()
}

fn pop(call: &mut Call<'_>, highest: bool) -> Done {
    let (key, count) = call.first_and(0)?;
    let count = match count {
        [] => 1,
        [count] => usize::try_from(call.integer(count)?).map_err(|_| Failed::Arguments)?,
        _ => return Err(Failed::Arguments),
    };
    call.change(key, false, |set: &mut Sorted| {
        let mut members = ordered(set);
        if highest {
            members.reverse();
        }
        members.truncate(count);
        Ok(members.iter().filter(|member| set.remove(*member).is_some()).count() > 0)
    })
}

pub(super) fn zpopmin(call: &mut Call<'_>) -> Done {
    pop(call, false)
}

pub(super) fn zpopmax(call: &mut Call<'_>) -> Done {
    pop(call, true)
}

pub(super) fn zremrangebyrank(call: &mut Call<'_>) -> Done {
    let [key, first, last] = call.exactly()?;
    let (first, last) = (call.integer(first)?, call.integer(last)?);
    call.change(key, false, |set: &mut Sorted| {
        let members = ordered(set);
        let length = members.len() as i64;
        let place = |index: i64| if index < 0 { index.saturating_add(length) } else { index };
        let range = place(first).max(0)..=place(last).min(length - 1);
        let goes = (0..).zip(members).filter(|(rank, _)| range.contains(rank));
        Ok(goes.filter(|(_, member)| set.remove(member).is_some()).count() > 0)
    })
}

/// A bound of a range of scores: the score, and whether it is left out.
fn bound(call: &Call<'_>, text: &[u8]) -> Result<(f64, bool), Failed> {
    match text.strip_prefix(b"(") {
        Some(text) => Ok((call.float(text)?, true)),
        None => Ok((call.float(text)?, false)),
    }
}

pub(super) fn zremrangebyscore(call: &mut Call<'_>) -> Done {
    let [key, least, most] = call.exactly()?;
    let (least, most) = (bound(call, least)?, bound(call, most)?);
    call.change(key, false, |set: &mut Sorted| {
        let before = set.len();
        set.retain(|_, score| {
            let above = if least.1 { *score > least.0 } else { *score >= least.0 };
            let below = if most.1 { *score < most.0 } else { *score <= most.0 };
            !(above && below)
        });
        Ok(set.len() < before)
    })
}

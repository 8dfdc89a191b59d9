//! Commands on sorted sets. Members are ordered by score, then by bytes.

use std::{cmp::Ordering, collections::BTreeMap};

use super::{Call, Done, Failed, Kind, Text, Value, numbers};

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
        let before = set.get(member).copied();
        let score = sum(before.unwrap_or(0.0), by);
        if score.is_nan() {
            return Err(Failed::Number);
        }
        set.insert(member.to_vec(), score);
        Ok(before != Some(score))
    })
}

pub(super) fn zrem(call: &mut Call<'_>) -> Done {
    let (key, members) = call.first_and(1)?;
    call.change(key, false, |set: &mut Sorted| {
        Ok(members.iter().filter(|member| set.remove(**member).is_some()).count() > 0)
    })
}

/// The members in order.
fn ordered(set: &Sorted) -> Vec<(Text, f64)> {
    let mut members: Vec<(&Text, f64)> = set.iter().map(|(member, score)| (member, *score)).collect();
    // (None is NaN, and -0 is where 0 is.)
    let by_score = |one: f64, other: f64| one.partial_cmp(&other).unwrap_or(Ordering::Equal);
    members.sort_by(|one, other| by_score(one.1, other.1).then_with(|| one.0.cmp(other.0)));
    members.into_iter().map(|(member, score)| (member.clone(), score)).collect()
}

fn take(set: &mut Sorted, highest: bool, count: usize) -> bool {
    let mut members = ordered(set);
    if highest {
        members.reverse();
    }
    members.truncate(count);
    members.iter().filter(|(member, _)| set.remove(member).is_some()).count() > 0
}

fn pop(call: &mut Call<'_>, highest: bool) -> Done {
    let (key, count) = call.first_and(0)?;
    let count = match count {
        [] => 1,
        [count] => usize::try_from(call.integer(count)?).map_err(|_| Failed::Arguments)?,
        _ => return Err(Failed::Arguments),
    };
    call.change(key, false, |set: &mut Sorted| Ok(take(set, highest, count)))
}

pub(super) fn zpopmin(call: &mut Call<'_>) -> Done {
    pop(call, false)
}

pub(super) fn zpopmax(call: &mut Call<'_>) -> Done {
    pop(call, true)
}

/// Pops from the first of the sets that is there.
fn pop_first(call: &mut Call<'_>, keys: &[&[u8]], highest: bool, count: usize) -> Done {
    call.change_first(keys, |set: &mut Sorted| Ok(take(set, highest, count)))
}

pub(super) fn bzpopmin(call: &mut Call<'_>) -> Done {
    let keys = call.keys_and_timeout()?;
    pop_first(call, keys, false, 1)
}

pub(super) fn bzpopmax(call: &mut Call<'_>) -> Done {
    let keys = call.keys_and_timeout()?;
    pop_first(call, keys, true, 1)
}

fn pop_counted(call: &mut Call<'_>, (keys, end, count): (&[&[u8]], &[u8], i64)) -> Done {
    let highest = match end.to_ascii_uppercase().as_slice() {
        b"MIN" => false,
        b"MAX" => true,
        _ => return Err(Failed::Arguments),
    };
    pop_first(call, keys, highest, usize::try_from(count).unwrap_or(usize::MAX))
}

pub(super) fn zmpop(call: &mut Call<'_>) -> Done {
    let counted = call.keys_end_and_count(call.arguments)?;
    pop_counted(call, counted)
}

pub(super) fn bzmpop(call: &mut Call<'_>) -> Done {
    let (timeout, rest) = call.first_and(0)?;
    call.timeout(timeout)?;
    let counted = call.keys_end_and_count(rest)?;
    pop_counted(call, counted)
}

/// How the bounds of a range are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Member,
}

/// A range of a sorted set; bounds of scores and members say whether they are left out.
enum Range<'a> {
    Ranks(i64, i64),
    Scores((f64, bool), (f64, bool)),
    Members(Bound<'a>, Bound<'a>),
}

#[derive(Clone, Copy)]
enum Bound<'a> {
    Lowest,
    Highest,
    Member(&'a [u8], bool),
}

impl<'a> Bound<'a> {
    fn parse(text: &'a [u8]) -> Result<Bound<'a>, Failed> {
        match text {
            b"-" => Ok(Bound::Lowest),
            b"+" => Ok(Bound::Highest),
            [b'[', member @ ..] => Ok(Bound::Member(member, false)),
            [b'(', member @ ..] => Ok(Bound::Member(member, true)),
            _ => Err(Failed::Arguments),
        }
    }

    /// How a member compares to the bound, which is between two members if it is left out.
    fn order(self, member: &[u8], left_out: Ordering) -> Ordering {
        match self {
            Bound::Lowest => Ordering::Greater,
            Bound::Highest => Ordering::Less,
            Bound::Member(bound, leaves_out) => match member.cmp(bound) {
                Ordering::Equal if leaves_out => left_out,
                order => order,
            },
        }
    }
}

impl<'a> Range<'a> {
    fn parse(call: &Call<'_>, by: By, least: &'a [u8], most: &'a [u8]) -> Result<Range<'a>, Failed> {
        let score = |text: &[u8]| {
            let number = text.strip_prefix(b"(");
            numbers::bound(number.unwrap_or(text)).map(|score| (score, number.is_some())).ok_or(Failed::Number)
        };
        Ok(match by {
            By::Rank => Range::Ranks(call.integer(least)?, call.integer(most)?),
            By::Score => Range::Scores(score(least)?, score(most)?),
            By::Member => Range::Members(Bound::parse(least)?, Bound::parse(most)?),
        })
    }

    fn is_above_least(&self, (member, score): &(Text, f64)) -> bool {
        match self {
            Range::Ranks(..) => true,
            Range::Scores((least, left_out), _) => score > least || !left_out && score == least,
            Range::Members(least, _) => least.order(member, Ordering::Less) != Ordering::Less,
        }
    }

    fn is_below_most(&self, (member, score): &(Text, f64)) -> bool {
        match self {
            Range::Ranks(..) => true,
            Range::Scores(_, (most, left_out)) => score < most || !left_out && score == most,
            Range::Members(_, most) => most.order(member, Ordering::Greater) != Ordering::Greater,
        }
    }

    /// The members in the range, from its other end if `reverse`, which is where ranks count from then.
    fn of(&self, set: &Sorted, reverse: bool) -> Vec<(Text, f64)> {
        let mut members = ordered(set);
        if let Range::Ranks(first, last) = *self {
            if reverse {
                members.reverse();
            }
            let length = members.len() as i64;
            let place = |index: i64| if index < 0 { index.saturating_add(length) } else { index };
            let range = place(first).max(0)..=place(last).min(length - 1);
            return (0..).zip(members).filter(|(rank, _)| range.contains(rank)).map(|(_, member)| member).collect();
        }
        // Where scores differ, a range by members is what lies between two places, and they are looked for like this.
        let overlaps = members.last().is_some_and(|last| self.is_above_least(last))
            && members.first().is_some_and(|first| self.is_below_most(first));
        let members = members.into_iter();
        match (overlaps, reverse) {
            (false, _) => Vec::new(),
            (true, false) => members
                .skip_while(|member| !self.is_above_least(member))
                .take_while(|member| self.is_below_most(member))
                .collect(),
            (true, true) => members
                .rev()
                .skip_while(|member| !self.is_below_most(member))
                .take_while(|member| self.is_above_least(member))
                .collect(),
        }
    }
}

fn remove_range(call: &mut Call<'_>, by: By) -> Done {
    let [key, least, most] = call.exactly()?;
    let range = Range::parse(call, by, least, most)?;
    call.change(key, false, |set: &mut Sorted| {
        Ok(range.of(set, false).iter().filter(|(member, _)| set.remove(member).is_some()).count() > 0)
    })
}

pub(super) fn zremrangebyrank(call: &mut Call<'_>) -> Done {
    remove_range(call, By::Rank)
}

pub(super) fn zremrangebyscore(call: &mut Call<'_>) -> Done {
    remove_range(call, By::Score)
}

pub(super) fn zremrangebylex(call: &mut Call<'_>) -> Done {
    remove_range(call, By::Member)
}

fn store(call: &mut Call<'_>, to: &[u8], result: Sorted) -> Done {
    call.store(to, (!result.is_empty()).then(|| result.into_value()))
}

pub(super) fn zrangestore(call: &mut Call<'_>) -> Done {
    let [to, from, least, most, options @ ..] = call.arguments else { return Err(Failed::Arguments) };
    let (mut by, mut reverse, mut limit, mut rest) = (By::Rank, false, (0, -1), options);
    while let Some((option, after)) = rest.split_first() {
        rest = match (option.to_ascii_uppercase().as_slice(), after) {
            (b"BYSCORE", _) if by == By::Rank => {
                by = By::Score;
                after
            }
            (b"BYLEX", _) if by == By::Rank => {
                by = By::Member;
                after
            }
            (b"REV", _) if !reverse => {
                reverse = true;
                after
            }
            (b"LIMIT", [offset, count, after @ ..]) => {
                limit = (call.integer(offset)?, call.integer(count)?);
                after
            }
            _ => return Err(Failed::Arguments),
        };
    }
    // Ranks have no limit; the one that limits nothing goes unnoticed.
    if by == By::Rank && limit.1 != -1 {
        return Err(Failed::Arguments);
    }
    let (least, most) = if reverse && by != By::Rank { (most, least) } else { (least, most) };
    let range = Range::parse(call, by, least, most)?;
    let mut members = call.value::<Sorted>(from)?.map(|set| range.of(set, reverse)).unwrap_or_default();
    if by != By::Rank {
        let offset = usize::try_from(limit.0).map_or(members.len(), |offset| offset.min(members.len()));
        members.drain(..offset);
        members.truncate(usize::try_from(limit.1).unwrap_or(usize::MAX));
    }
    store(call, to, members.into_iter().collect())
}

#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Least,
    Most,
}

impl Aggregate {
    fn of(self, one: f64, other: f64) -> f64 {
        match self {
            // Infinities of both signs make 0 here.
            Aggregate::Sum => Some(sum(one, other)).filter(|sum| !sum.is_nan()).unwrap_or(0.0),
            Aggregate::Least => one.min(other),
            Aggregate::Most => one.max(other),
        }
    }
}

/// 0 where there is no product.
#[expect(clippy::float_arithmetic, reason = "one multiplication is the same on every machine (IEEE 754)")]
fn weighted(score: f64, weight: f64) -> f64 {
    Some(score * weight).filter(|product| !product.is_nan()).unwrap_or(0.0)
}

/// Sets that are to be combined.
struct Sources<'a> {
    to: &'a [u8],
    sets: Vec<Sorted>,
    aggregate: Aggregate,
}

/// The sources of a command, with their scores weighted; members of sets count 1 each.
fn sources<'a>(call: &mut Call<'a>, has_options: bool) -> Result<Sources<'a>, Failed> {
    let (to, rest) = call.first_and(2)?;
    let (keys, mut rest) = call.counted_keys(rest)?;
    let (mut weights, mut aggregate) = (vec![1.0; keys.len()], Aggregate::Sum);
    while let Some((option, after)) = rest.split_first() {
        rest = match (option.to_ascii_uppercase().as_slice(), after) {
            (b"WEIGHTS", after) if has_options => {
                let (given, after) = after.split_at_checked(keys.len()).ok_or(Failed::Arguments)?;
                weights = given.iter().map(|weight| call.float(weight)).collect::<Result<_, _>>()?;
                after
            }
            (b"AGGREGATE", [how, after @ ..]) if has_options => {
                aggregate = match how.to_ascii_uppercase().as_slice() {
                    b"SUM" => Aggregate::Sum,
                    b"MIN" => Aggregate::Least,
                    b"MAX" => Aggregate::Most,
                    _ => return Err(Failed::Arguments),
                };
                after
            }
            _ => return Err(Failed::Arguments),
        };
    }
    let mut sets = Vec::with_capacity(keys.len());
    for (key, weight) in keys.iter().zip(weights) {
        sets.push(match call.entry(key).map(|entry| &entry.value) {
            None => Sorted::new(),
            Some(Value::Sorted(set)) => {
                set.iter().map(|(member, score)| (member.clone(), weighted(*score, weight))).collect()
            }
            Some(Value::Set(set)) => set.iter().map(|member| (member.clone(), weight)).collect(),
            Some(other) => return Err(Failed::Type(other.type_name())),
        });
    }
    Ok(Sources { to, sets, aggregate })
}

pub(super) fn zunionstore(call: &mut Call<'_>) -> Done {
    let Sources { to, mut sets, aggregate } = sources(call, true)?;
    // Sums depend on their order: the smallest set comes first.
    sets.sort_by_key(Sorted::len);
    let mut result = Sorted::new();
    for (member, score) in sets.into_iter().flatten() {
        result.entry(member).and_modify(|before| *before = aggregate.of(*before, score)).or_insert(score);
    }
    store(call, to, result)
}

pub(super) fn zinterstore(call: &mut Call<'_>) -> Done {
    let Sources { to, mut sets, aggregate } = sources(call, true)?;
    sets.sort_by_key(Sorted::len);
    let join = |one: Sorted, other: Sorted| {
        let both = one.into_iter().filter_map(|(member, score)| {
            let score = aggregate.of(score, *other.get(&member)?);
            Some((member, score))
        });
        both.collect()
    };
    let result = sets.into_iter().reduce(join).unwrap_or_default();
    store(call, to, result)
}

pub(super) fn zdiffstore(call: &mut Call<'_>) -> Done {
    let Sources { to, sets, .. } = sources(call, false)?;
    let mut sets = sets.into_iter();
    let mut result = sets.next().unwrap_or_default();
    for other in sets {
        result.retain(|member, _| !other.contains_key(member));
    }
    store(call, to, result)
}

//! Commands on sets.

use std::collections::BTreeSet;

use super::{Call, Done, Failed, Kind, Text};

type Set = BTreeSet<Text>;

pub(super) fn sadd(call: &mut Call<'_>) -> Done {
    let (key, members) = call.first_and(1)?;
    call.change(key, true, |set: &mut Set| Ok(members.iter().filter(|member| set.insert(member.to_vec())).count() > 0))
}

pub(super) fn srem(call: &mut Call<'_>) -> Done {
    let (key, members) = call.first_and(1)?;
    call.change(key, false, |set: &mut Set| Ok(members.iter().filter(|member| set.remove(**member)).count() > 0))
}

pub(super) fn smove(call: &mut Call<'_>) -> Done {
    let [from, to, member] = call.exactly()?;
    // Where nothing can be moved, the other one may be anything.
    if call.value::<Set>(from)?.is_none() {
        return Ok(false);
    }
    call.value::<Set>(to)?;
    if from == to || !call.change(from, false, |set: &mut Set| Ok(set.remove(member)))? {
        return Ok(false);
    }
    call.change(to, true, |set: &mut Set| {
        set.insert(member.to_vec());
        Ok(true)
    })
}

fn store(call: &mut Call<'_>, combine: fn(&Set, &Set) -> Set) -> Done {
    let (to, from) = call.first_and(1)?;
    let copy = |key: &&[u8]| call.value::<Set>(key).map(|set| set.cloned().unwrap_or_default());
    let sets = from.iter().map(copy).collect::<Result<Vec<_>, Failed>>()?;
    let result = sets.into_iter().reduce(|one, other| combine(&one, &other)).unwrap_or_default();
    call.store(to, (!result.is_empty()).then(|| result.into_value()))
}

pub(super) fn sunionstore(call: &mut Call<'_>) -> Done {
    store(call, |one, other| one | other)
}

pub(super) fn sinterstore(call: &mut Call<'_>) -> Done {
    store(call, |one, other| one & other)
}

pub(super) fn sdiffstore(call: &mut Call<'_>) -> Done {
    store(call, |one, other| one - other)
}

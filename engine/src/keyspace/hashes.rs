//! Commands on hashes.

use std::collections::BTreeMap;

use super::{Call, Done, Failed, Text, extended::Extended, numbers};

type Hash = BTreeMap<Text, Text>;

pub(super) fn hset(call: &mut Call<'_>) -> Done {
    let (key, pairs) = call.first_and_pairs()?;
    call.change(key, true, |hash: &mut Hash| {
        for pair in pairs.chunks_exact(2) {
            hash.insert(pair[0].to_vec(), pair[1].to_vec());
        }
        Ok(true)
    })
}

pub(super) fn hsetnx(call: &mut Call<'_>) -> Done {
    let [key, field, value] = call.exactly()?;
    call.change(key, true, |hash: &mut Hash| {
        let missing = !hash.contains_key(field);
        if missing {
            hash.insert(field.to_vec(), value.to_vec());
        }
        Ok(missing)
    })
}

pub(super) fn hdel(call: &mut Call<'_>) -> Done {
    let (key, fields) = call.first_and(1)?;
    call.change(key, false, |hash: &mut Hash| {
        Ok(fields.iter().filter(|field| hash.remove(**field).is_some()).count() > 0)
    })
}

pub(super) fn hincrby(call: &mut Call<'_>) -> Done {
    let [key, field, by] = call.exactly()?;
    let by = call.integer(by)?;
    call.change(key, true, |hash: &mut Hash| {
        let before = hash.get(field).map_or(Some(0), |value| numbers::integer(value));
        let after = before.and_then(|before| before.checked_add(by)).ok_or(Failed::Number)?;
        hash.insert(field.to_vec(), after.to_string().into_bytes());
        Ok(true)
    })
}

pub(super) fn hincrbyfloat(call: &mut Call<'_>) -> Done {
    let [key, field, by] = call.exactly()?;
    let by = Extended::parse(by).ok_or(Failed::Number)?;
    call.change(key, true, |hash: &mut Hash| {
        let before = hash.get(field).map_or(Some(Extended::default()), |value| Extended::parse(value));
        let after = before.and_then(|before| before.sum(by)).ok_or(Failed::Number)?;
        hash.insert(field.to_vec(), after.text());
        Ok(true)
    })
}

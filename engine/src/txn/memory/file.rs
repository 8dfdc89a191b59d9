//! The bytes of a whole state. Not part of the format: no store that anybody keeps has such a file.

use super::*;

/// Everything is a number of 8 bytes, or such a number and as many bytes; at the end the CRC of it.
pub(super) fn encode(root: &Root) -> Vec<u8> {
    let RootMeta { uuid, sequence, point, next_table, logs, wall_ns } = root.meta;
    let mut out = Vec::new();
    let number = |out: &mut Vec<u8>, number: u64| out.extend_from_slice(&number.to_le_bytes());
    let bytes = |out: &mut Vec<u8>, bytes: &[u8]| {
        number(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    };
    bytes(&mut out, &uuid);
    let Point { csn, next_csn, epoch } = point;
    let numbers = [sequence, csn.to_bits(), next_csn.to_bits(), epoch.get(), next_table.0.into(), logs.into()];
    numbers.into_iter().chain([wall_ns.cast_unsigned()]).for_each(|field| number(&mut out, field));
    number(&mut out, root.catalog.tables().count() as u64);
    for table in root.catalog.tables() {
        let (key, value) = catalog::encode(table, [0; 16]);
        bytes(&mut out, &key);
        bytes(&mut out, &value);
        let rows = root.tables.get(&table.id);
        number(&mut out, rows.map_or(0, |rows| rows.len() as u64));
        for (key, value) in rows.into_iter().flat_map(|rows| rows.iter()) {
            bytes(&mut out, key);
            bytes(&mut out, value);
        }
    }
    let crc = crc32fast::hash(&out);
    number(&mut out, crc.into());
    out
}

/// Reads it, or `None` if it is not whole.
pub(super) fn decode(file: &[u8]) -> Option<Root> {
    let (mut rest, crc) = file.split_last_chunk()?;
    if u64::from_le_bytes(*crc) != u64::from(crc32fast::hash(rest)) {
        return None;
    }
    let rest = &mut rest;
    let uuid = take(rest)?.try_into().ok()?;
    let sequence = number(rest)?;
    let (csn, next_csn) = (Csn::from_bits(number(rest)?)?, Csn::from_bits(number(rest)?)?);
    let point = Point { csn, next_csn, epoch: Epoch::new(number(rest)?)? };
    let next_table = TableId(number(rest)?.try_into().ok()?);
    let (logs, wall_ns) = (number(rest)?.try_into().ok()?, number(rest)?.cast_signed());
    let (mut infos, mut tables) = (Vec::new(), BTreeMap::new());
    for _ in 0..number(rest)? {
        let (info, _) = catalog::decode(take(rest)?, take(rest)?).ok()?;
        let mut rows = Map::new();
        for _ in 0..number(rest)? {
            rows.insert(take(rest)?.to_vec(), take(rest)?.into());
        }
        if !rows.is_empty() {
            tables.insert(info.id, Arc::new(rows));
        }
        infos.push(info);
    }
    let catalog = Arc::new(Catalog::assemble(next_table, infos).ok()?);
    Some(Root { meta: RootMeta { uuid, sequence, point, next_table, logs, wall_ns }, catalog, tables })
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (number, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(u64::from_le_bytes(*number))
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = usize::try_from(number(rest)?).ok()?;
    let (taken, behind) = rest.split_at_checked(bytes)?;
    *rest = behind;
    Some(taken)
}

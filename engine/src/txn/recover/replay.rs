//! What the logs hold behind the root, as versions in memory.
//!
//! It changes no byte, so that whatever can't be makes the open refuse. Rows of a table stand in one log, so the order of each log is the
//! order of commits for each of its tables. Doing it twice is doing it once: a new open begins with the same root.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    plant::{Plants, planted},
    txn::{
        catalog::{Catalog, TableInfo, TableKind},
        generation::Generation,
        ids::{Csn, TableId},
        open::Parts,
        overlay::Live,
        redo::{Op, Part, Record, Shape},
        storage::State,
    },
};

use super::{chain::Chain, indexes::UnusableIndex, lobs::assemble};

/// The tables as they were at the end.
pub(in crate::txn) struct Replayed {
    pub(in crate::txn) catalog: Arc<Catalog>,
    pub(in crate::txn) generation: Arc<Generation>,
    pub(in crate::txn) commits: u64,
    pub(in crate::txn) unusable: Vec<UnusableIndex>,
}

/// Replays what counts of rows that are logged.
///
/// # Errors
/// What no run of the program writes.
pub(in crate::txn) fn replay(
    state: &impl State,
    chain: &Chain,
    logs: Vec<Parts>,
    generation: Arc<Generation>,
    plants: &Plants,
) -> Result<Replayed, String> {
    let mut catalog = Catalog::clone(state.catalog());
    let mut dropped = BTreeSet::new();
    // Which tables there are first: rows of one that is gone by the end need not be read.
    for_each_part(chain, logs.first(), None, |part| tables(&part, &mut catalog, &mut dropped, plants))?;
    let replay = Replay { catalog: &catalog, dropped: &dropped, generation: &generation, end: chain.end };
    let twice = planted!(plants, TxnReplayTwice).then(|| state.meta().point.csn);
    let mut again = 0;
    for log in &logs {
        for_each_part(chain, Some(log), twice, |part| {
            again += u64::from(twice.is_some_and(|root| part.stamp.csn <= root));
            replay.rows(log, &part)
        })?;
    }
    let commits: u64 = chain.spans.iter().map(|(first, last)| last.to_bits() - first.to_bits() + 1).sum();
    Ok(Replayed { catalog: Arc::new(catalog), generation, commits: commits + again, unusable: Vec::new() })
}

/// The parts of a log that count. (All records of it were read once already.) With a planted bug those up to the root, too.
fn for_each_part<'a>(
    chain: &Chain,
    log: Option<&'a Parts>,
    twice: Option<Csn>,
    mut act: impl FnMut(Part<'a>) -> Result<(), String>,
) -> Result<(), String> {
    for (_, record) in log.into_iter().flatten() {
        if let Ok(Record::Part(part)) = Record::decode(record)
            && (chain.counts(part.stamp.csn) || twice.is_some_and(|root| part.stamp.csn <= root))
        {
            act(part)?;
        }
    }
    Ok(())
}

/// What a part does to the catalog.
fn tables(
    part: &Part<'_>,
    catalog: &mut Catalog,
    dropped: &mut BTreeSet<TableId>,
    plants: &Plants,
) -> Result<(), String> {
    let created = part.stamp.csn;
    for op in part.ops() {
        match op {
            Op::Create { id, log, name, shape } => {
                let kind = match shape {
                    Shape::Rows => TableKind::Rows,
                    Shape::Memory => TableKind::Memory,
                    Shape::Index { of, derive } => TableKind::Index { of, derive: derive.into() },
                };
                let table = TableInfo { id, name: name.into(), kind, log, meta: 0, created };
                catalog.create(table).map_err(|why| format!("commit {created} creates table '{name}': {why}"))?;
            }
            Op::Drop { id } => {
                let elsewhere = catalog.table(id).is_some_and(|info| info.log != 0);
                if elsewhere && planted!(plants, TxnDropOneLog) {
                    continue;
                }
                let table = catalog.remove(id);
                table.ok_or_else(|| format!("commit {created} drops table {}, which there isn't", id.0))?;
                dropped.insert(id);
            }
            Op::Table { .. } | Op::Put { .. } | Op::Delete { .. } | Op::PutLob { .. } => {}
        }
    }
    Ok(())
}

struct Replay<'a> {
    catalog: &'a Catalog,
    dropped: &'a BTreeSet<TableId>,
    generation: &'a Generation,
    end: Csn,
}

impl Replay<'_> {
    /// What a part does to rows; their large values stand in front of it.
    fn rows(&self, log: &Parts, part: &Part<'_>) -> Result<(), String> {
        let csn = part.stamp.csn;
        // Nobody reads anything older than the end.
        let live = Live { snapshots: &[], visible: self.end };
        let mut table = None;
        for op in part.ops() {
            let (key, value) = match op {
                Op::Table { id, .. } => {
                    let known = self.catalog.table(id).is_some();
                    if !known && !self.dropped.contains(&id) {
                        return Err(format!("commit {csn} has rows of table {}, which there isn't", id.0));
                    }
                    if self.catalog.table(id).is_some_and(|info| info.kind != TableKind::Rows) {
                        return Err(format!("commit {csn} has rows of table {}, of which none are logged", id.0));
                    }
                    table = known.then_some(id);
                    continue;
                }
                Op::Put { key, value } => (key, Some(value.into())),
                Op::Delete { key } => (key, None),
                // (Of a table that is gone by the end pieces may be, too.)
                Op::PutLob { .. } if table.is_none() => continue,
                Op::PutLob { key, value } => {
                    let assembled = assemble(log, part.stamp.txn, value);
                    (key, Some(assembled.map_err(|why| format!("commit {csn}: {why}"))?))
                }
                Op::Create { .. } | Op::Drop { .. } => continue,
            };
            if let Some(table) = table {
                let installed = self.generation.install(table, key, value, csn, &live);
                installed.map_err(|why| format!("commit {csn}, table {}: {why}", table.0))?;
            }
        }
        Ok(())
    }
}

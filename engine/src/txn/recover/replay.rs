//! What the logs hold behind the root, as versions in memory.
//!
//! It changes no byte, so that whatever can't be makes the open refuse. Rows of a table stand in one log, so the order of each log is the
//! order of commits for each of its tables. Doing it twice is doing it once: a new open begins with the same root.
//!
//! It is done in units, by the caller and by tasks beside it: first stretches of the logs, each of which becomes rows in order of their
//! keys, then groups of tables. In between it is known which tables there are. What comes of it is the same whoever does which.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    env::Env,
    plant::{Plants, planted},
    txn::{
        catalog::{Catalog, TableInfo, TableKind},
        crew,
        generation::Generation,
        ids::{Csn, TableId},
        overlay::{Key, Overlay},
        progress::{Phase, Teller},
        redo::{self, Op, Part, Shape},
    },
    wal::Lsn,
};

use super::{
    chain::Chain,
    indexes::UnusableIndex,
    lobs::{Pieces, assemble},
    rows::{Row, Twice, newest},
};

/// Bytes of a stretch, about: few enough to be sorted in a core's cache.
const STRETCH_BYTES: usize = 4 << 20;
/// Rows that a unit builds, at least, if there are tables enough.
const GROUP_ROWS: usize = 1 << 15;

/// The tables as they were at the end.
pub(in crate::txn) struct Replayed {
    pub(in crate::txn) catalog: Arc<Catalog>,
    pub(in crate::txn) generation: Arc<Generation>,
    pub(in crate::txn) commits: u64,
    pub(in crate::txn) unusable: Vec<UnusableIndex>,
}

/// Why it can't be replayed.
pub(in crate::txn) enum NotReplayed {
    /// What no run of the program writes.
    Wrong(String),
    /// A task panicked.
    Io(io::Error),
}

impl From<io::Error> for NotReplayed {
    fn from(error: io::Error) -> NotReplayed {
        NotReplayed::Io(error)
    }
}

/// The records of a log, in stretches. They share the memory that the log was read into.
#[derive(Debug, Default)]
pub(in crate::txn) struct Records {
    stretches: Vec<Vec<Bytes>>,
    /// Those that are pieces of values: whoever names them may stand in another stretch.
    pieces: Pieces,
    last_bytes: usize,
    bytes: u64,
}

impl Records {
    pub(in crate::txn) fn push(&mut self, lsn: Lsn, record: Bytes) {
        self.bytes += record.len() as u64;
        if redo::is_piece(&record) {
            return self.pieces.push((lsn, record));
        }
        if self.stretches.is_empty() || self.last_bytes >= STRETCH_BYTES {
            self.stretches.push(Vec::new());
            self.last_bytes = 0;
        }
        self.last_bytes += record.len();
        if let Some(last) = self.stretches.last_mut() {
            last.push(record);
        }
    }

    /// What is below the log's floor may be there, or not: nothing may depend on it.
    pub(in crate::txn) fn forget_pieces(&mut self, floor: Lsn) {
        self.pieces.retain(|(lsn, _)| *lsn >= floor);
    }

    /// Bytes of all of them.
    pub(in crate::txn) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Replays what counts of rows that are logged, with so many tasks beside the caller.
///
/// # Errors
/// [`NotReplayed`].
pub(in crate::txn) async fn replay<E: Env>(
    env: &E,
    workers: u16,
    (root, catalog, chain): (Csn, &Catalog, &Chain),
    mut logs: Vec<Records>,
    generation: Arc<Generation>,
    plants: &Plants,
    teller: &mut Teller<'_, E>,
) -> Result<Replayed, NotReplayed> {
    let pieces: Vec<Pieces> = logs.iter_mut().map(|log| mem::take(&mut log.pieces)).collect();
    let stretches: Vec<_> = (0..).zip(logs).flat_map(stretches_of).collect();
    let records: Vec<u64> = stretches.iter().map(|(_, records)| records.len() as u64).collect();
    teller.next(Phase::Replaying, records.iter().sum());
    let twice = planted!(plants, TxnReplayTwice).then_some(root);
    let counts = chain.clone();
    let work = move |(log, records): (usize, Vec<Bytes>)| Stretch::of(&counts, twice, (log, &pieces[log]), &records);
    let part_of = |done: usize| records[..done].iter().sum();
    let read = crew::each(env, workers, stretches, work, |done| teller.done(part_of(done))).await?;
    teller.end();

    let mut catalog = Catalog::clone(catalog);
    let mut dropped = BTreeSet::new();
    let mut runs: BTreeMap<TableId, Vec<Vec<Row>>> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    let mut again = 0;
    for stretch in read {
        let stretch = stretch.map_err(NotReplayed::Wrong)?;
        again += stretch.again;
        for part in stretch.catalog.iter().filter_map(|record| Part::again(record)) {
            tables(&part, &mut catalog, &mut dropped, plants).map_err(NotReplayed::Wrong)?;
        }
        for (table, Changes { first, rows, wrong }) in stretch.tables {
            let (_, known) = seen.entry(table).or_insert((first, None));
            *known = known.take().or(wrong);
            runs.entry(table).or_default().push(rows);
        }
    }
    for (table, (csn, wrong)) in seen {
        check(&catalog, &dropped, table, csn).map_err(NotReplayed::Wrong)?;
        // (Of a table that is gone by the end pieces may be, too.)
        if let Some(wrong) = wrong.filter(|_| catalog.table(table).is_some()) {
            return Err(NotReplayed::Wrong(wrong));
        }
    }
    // Rows of a table that is gone by the end are nothing.
    runs.retain(|table, runs| catalog.table(*table).is_some() && rows_of(runs) > 0);

    let groups = groups(runs);
    let rows: Vec<u64> = groups.iter().map(|group| group.iter().map(|(_, runs)| rows_of(runs) as u64).sum()).collect();
    teller.next(Phase::Building, rows.iter().sum());
    let part_of = |done: usize| rows[..done].iter().sum();
    let built = crew::each(env, workers, groups, build, |done| teller.done(part_of(done))).await?;
    for group in built {
        for (table, overlay) in group.map_err(NotReplayed::Wrong)? {
            generation.adopt(table, overlay);
        }
    }
    teller.end();
    let commits: u64 = chain.spans.iter().map(|(first, last)| last.to_bits() - first.to_bits() + 1).sum();
    Ok(Replayed { catalog: Arc::new(catalog), generation, commits: commits + again, unusable: Vec::new() })
}

fn stretches_of((log, records): (usize, Records)) -> impl Iterator<Item = (usize, Vec<Bytes>)> {
    records.stretches.into_iter().map(move |records| (log, records))
}

/// What a stretch of a log does.
#[derive(Default)]
struct Stretch {
    tables: BTreeMap<TableId, Changes>,
    /// Records that create or drop tables.
    catalog: Vec<Bytes>,
    /// The planted bug: commits that the root has.
    again: u64,
}

/// What a stretch does to a table.
struct Changes {
    /// The first commit that does anything.
    first: Csn,
    /// By key.
    rows: Vec<Row>,
    /// Why a value in pieces can't be put together.
    wrong: Option<String>,
}

impl Stretch {
    /// Reads the parts that count. (All records were read once already.) With a planted bug those up to the root, too.
    fn of(
        chain: &Chain,
        twice: Option<Csn>,
        (log, pieces): (usize, &Pieces),
        records: &[Bytes],
    ) -> Result<Stretch, String> {
        let mut stretch = Stretch::default();
        for record in records {
            let Some(part) = Part::again(record) else { continue };
            let counts = chain.counts(part.stamp.csn);
            if counts || twice.is_some_and(|root| part.stamp.csn <= root) {
                stretch.take(&part, pieces)?;
                stretch.again += u64::from(!counts);
            }
            // The catalog is in the first log.
            if counts && log == 0 && part.ops().any(|op| matches!(op, Op::Create { .. } | Op::Drop { .. })) {
                stretch.catalog.push(record.clone());
            }
        }
        for (table, changes) in &mut stretch.tables {
            let rows = mem::take(&mut changes.rows);
            changes.rows.reserve(rows.len());
            newest(vec![rows], |row| changes.rows.push(row)).map_err(|twice| twice_in(*table, &twice))?;
        }
        Ok(stretch)
    }

    fn take(&mut self, part: &Part<'_>, pieces: &Pieces) -> Result<(), String> {
        let csn = part.stamp.csn;
        let mut changes = None;
        for op in part.ops() {
            let (key, value) = match op {
                Op::Table { id, .. } => {
                    let new = || Changes { first: csn, rows: Vec::new(), wrong: None };
                    changes = Some(self.tables.entry(id).or_insert_with(new));
                    continue;
                }
                Op::Put { key, value } => (key, Ok(Some(value.into()))),
                Op::Delete { key } => (key, Ok(None)),
                Op::PutLob { key, value } => (key, assemble(pieces, part.stamp.txn, value).map(Some)),
                Op::Create { .. } | Op::Drop { .. } => continue,
            };
            let Some(changes) = &mut changes else { continue };
            match value {
                Ok(value) => changes.rows.push(Row { key: Key::new(key), csn, value }),
                Err(why) => drop(changes.wrong.get_or_insert_with(|| format!("commit {csn}: {why}"))),
            }
        }
        Ok(())
    }
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

/// Whether a table can have rows that are logged.
fn check(catalog: &Catalog, dropped: &BTreeSet<TableId>, table: TableId, csn: Csn) -> Result<(), String> {
    match catalog.table(table) {
        None if !dropped.contains(&table) => {
            Err(format!("commit {csn} has rows of table {}, which there isn't", table.0))
        }
        Some(info) if info.kind != TableKind::Rows => {
            Err(format!("commit {csn} has rows of table {}, of which none are logged", table.0))
        }
        _ => Ok(()),
    }
}

fn twice_in(table: TableId, Twice(csn): &Twice) -> String {
    format!("commit {csn}, table {}: the table has a newer version", table.0)
}

/// Tables, each with its rows: runs in the order of commits.
type Group = Vec<(TableId, Vec<Vec<Row>>)>;

fn rows_of(runs: &[Vec<Row>]) -> usize {
    runs.iter().map(Vec::len).sum()
}

fn groups(runs: BTreeMap<TableId, Vec<Vec<Row>>>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut rows = GROUP_ROWS;
    for (table, runs) in runs {
        if rows >= GROUP_ROWS {
            groups.push(Group::new());
            rows = 0;
        }
        rows += rows_of(&runs);
        if let Some(last) = groups.last_mut() {
            last.push((table, runs));
        }
    }
    groups
}

fn build(group: Group) -> Result<Vec<(TableId, Overlay)>, String> {
    let overlay = |(table, runs): (TableId, Vec<Vec<Row>>)| {
        let mut ascending = Overlay::ascending(rows_of(&runs));
        let built = newest(runs, |row| ascending.push(row.key, row.value, row.csn));
        built.map_err(|twice| twice_in(table, &twice))?;
        Ok((table, ascending.finish()))
    };
    group.into_iter().map(overlay).collect()
}

//! What the logs hold behind the root, as versions in memory.
//!
//! It changes no byte, so that whatever can't be makes the open refuse. Rows of a table stand in one log, so the order of each log is the
//! order of commits for each of its tables. Doing it twice is doing it once: a new open begins with the same root.
//!
//! It is done in units, by the caller and by tasks beside it: first [stretches](super::stretch) of the logs, then tables, large ones by
//! ranges of their keys. In between it is known which tables there are. What comes of it is the same whoever does which.

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
        overlay::{Ascending, Fragment, Key, Moved, Overlay, ValuePlace, Values},
        progress::{Phase, Teller},
        redo::{Op, Part, Shape},
    },
};

use super::{
    chain::Chain,
    indexes::UnusableIndex,
    lobs::Pieces,
    reading::Delivered,
    records::OldWindows,
    rows::newest,
    stretch::{Changes, Row, Stretch, ValueAt, twice_in},
};

/// Rows that a unit builds, at least, if there are so many.
const UNIT_ROWS: usize = 1 << 15;
/// Rows of which one is looked at for where a table is divided.
const SAMPLED: usize = 1 << 9;

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

/// Replays what counts of rows that are logged, with so many tasks beside the caller.
///
/// # Errors
/// [`NotReplayed`].
pub(in crate::txn) async fn replay<E: Env>(
    env: &E,
    workers: u16,
    (root, catalog, chain): (Csn, &Catalog, &Chain),
    mut logs: Vec<Delivered>,
    generation: Arc<Generation>,
    plants: &Plants,
    teller: &mut Teller<'_, E>,
) -> Result<Replayed, NotReplayed> {
    let pieces: Vec<Pieces> = logs.iter_mut().map(|log| mem::take(&mut log.pieces)).collect();
    let twice = planted!(plants, TxnReplayTwice).then_some(root);
    let judge = |after: Csn, stretch: Stretch| (twice.is_none() && stretch.fits(after, root, chain), stretch);
    let stretches: Vec<(bool, Stretch)> = logs
        .into_iter()
        .flat_map(|log| log.stretches.into_iter().map(move |stretch| judge(log.after, stretch)))
        .collect();
    let records: Vec<u64> = stretches.iter().map(|(_, stretch)| stretch.records.len() as u64).collect();
    teller.next(Phase::Replaying, records.iter().sum());
    let counts = chain.clone();
    let old = OldWindows::default();
    let work = move |(fits, stretch): (bool, Stretch)| Settled::of(fits, stretch, (&counts, twice), &pieces, &old);
    let part_of = |done: usize| records[..done].iter().sum();
    let read = crew::each(env, workers, stretches, work, |done| teller.done(part_of(done))).await?;
    teller.end();

    let mut catalog = Catalog::clone(catalog);
    let mut dropped = BTreeSet::new();
    let mut changed: BTreeMap<TableId, Changed> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    let mut again = 0;
    for settled in read {
        let Settled { stretch, wrong, catalog: records, again: more } = settled.map_err(NotReplayed::Wrong)?;
        again += more;
        for part in records.iter().filter_map(|record| Part::again(record)) {
            tables(&part, &mut catalog, &mut dropped, plants).map_err(NotReplayed::Wrong)?;
        }
        for ((table, changes), wrong) in stretch.into_iter().zip(wrong) {
            let (_, known) = seen.entry(table).or_insert((changes.first, None));
            *known = known.take().or(wrong);
            changed.entry(table).or_default().add(changes);
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
    changed.retain(|table, changed| catalog.table(*table).is_some() && rows_of(&changed.runs) > 0);

    let units = units(changed);
    let rows: Vec<u64> = units.iter().map(|unit| unit.rows() as u64).collect();
    teller.next(Phase::Building, rows.iter().sum());
    let part_of = |done: usize| rows[..done].iter().sum();
    let mut building = Building { generation: &generation, table: None, wrong: None };
    let told = |done| teller.done(part_of(done));
    crew::in_order(env, workers, units, Unit::build, told, |built| building.take(built)).await?;
    building.end().map_err(NotReplayed::Wrong)?;
    teller.end();
    let commits: u64 = chain.spans.iter().map(|(first, last)| last.to_bits() - first.to_bits() + 1).sum();
    Ok(Replayed { catalog: Arc::new(catalog), generation, commits: commits + again, unusable: Vec::new() })
}

/// What a stretch does as the chain says, without what it was read from.
struct Settled {
    stretch: BTreeMap<TableId, Changes>,
    /// By table, why a value in pieces can't be put together.
    wrong: Vec<Option<String>>,
    /// Records that create or drop tables.
    catalog: Vec<Bytes>,
    /// The planted bug: commits that the root has.
    again: u64,
}

impl Settled {
    fn of(
        fits: bool,
        stretch: Stretch,
        (chain, twice): (&Chain, Option<Csn>),
        pieces: &[Pieces],
        old: &OldWindows,
    ) -> Result<Settled, String> {
        let (mut stretch, again) = if fits { (stretch, 0) } else { stretch.again(chain, twice)? };
        let wrong = stretch.copy_values(&pieces[stretch.log], old);
        let catalog = stretch.catalog.iter().map(|nth| stretch.records.nth(*nth)).collect();
        stretch.records.leave_to(old);
        Ok(Settled { stretch: stretch.tables, wrong, catalog, again })
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

/// What the logs do to a table.
#[derive(Default)]
struct Changed {
    /// Of all runs.
    values: Values,
    /// In the order of commits.
    runs: Vec<Run>,
}

/// Rows by key, of which each is there once.
struct Run {
    rows: Vec<Row>,
    /// How far their values have moved.
    moved: Moved,
}

impl Changed {
    fn add(&mut self, changes: Changes) {
        self.runs.push(Run { rows: changes.rows, moved: self.values.adopt(changes.values) });
    }
}

fn rows_of(runs: &[Run]) -> usize {
    runs.iter().map(|run| run.rows.len()).sum()
}

/// What is built at once.
enum Unit {
    Tables(Vec<(TableId, Changed)>),
    /// A range of a large one.
    Range(Large, Vec<Run>),
}

/// A table of which a range is built.
struct Large {
    table: TableId,
    /// How many rows it has at most.
    rows: usize,
    /// With the first of its ranges: of all of them.
    values: Values,
}

/// What came of it.
enum Built {
    Tables(Vec<(TableId, Overlay)>),
    Range(Large, Box<Fragment>),
}

fn units(changed: BTreeMap<TableId, Changed>) -> Vec<Unit> {
    let mut units = Vec::new();
    let (mut group, mut grouped) = (Vec::new(), 0);
    for (table, changed) in changed {
        let rows = rows_of(&changed.runs);
        if rows >= 2 * UNIT_ROWS {
            let mut values = changed.values;
            let range = |runs| Unit::Range(Large { table, rows, values: mem::take(&mut values) }, runs);
            units.extend(ranges(changed.runs).into_iter().map(range));
            continue;
        }
        group.push((table, changed));
        grouped += rows;
        if grouped >= UNIT_ROWS {
            units.push(Unit::Tables(mem::take(&mut group)));
            grouped = 0;
        }
    }
    units.extend((!group.is_empty()).then_some(Unit::Tables(group)));
    units
}

/// Divides the rows of a table by key into ranges of about [`UNIT_ROWS`].
fn ranges(mut runs: Vec<Run>) -> Vec<Vec<Run>> {
    let sampled = runs.iter().flat_map(|run| run.rows.iter().step_by(SAMPLED));
    let mut keys: Vec<Key> = sampled.map(|row| row.key.clone()).collect();
    keys.sort_unstable_by(|a, b| a.bytes().cmp(b.bytes()));
    let count = rows_of(&runs).div_ceil(UNIT_ROWS);
    let mut firsts: Vec<&Key> = (1..count).map(|nth| &keys[nth * keys.len() / count]).collect();
    firsts.dedup_by(|a, b| a.bytes() == b.bytes());
    // From the last one down, so that nothing is moved twice.
    let from = |first: &Key, run: &mut Run| {
        let place = run.rows.partition_point(|row| row.key.bytes() < first.bytes());
        Run { rows: run.rows.split_off(place), moved: run.moved }
    };
    let mut ranges: Vec<Vec<Run>> =
        firsts.iter().rev().map(|first| runs.iter_mut().map(|run| from(first, run)).collect()).collect();
    ranges.push(runs);
    ranges.reverse();
    ranges
}

impl Unit {
    fn rows(&self) -> usize {
        match self {
            Unit::Tables(tables) => tables.iter().map(|(_, changed)| rows_of(&changed.runs)).sum(),
            Unit::Range(_, runs) => rows_of(runs),
        }
    }

    fn build(self) -> Result<Built, String> {
        match self {
            Unit::Tables(tables) => {
                let overlay = |(table, Changed { values, runs }): (TableId, Changed)| {
                    let mut ascending = Overlay::ascending(rows_of(&runs), values);
                    ascending.join(newest_of(table, runs)?);
                    Ok((table, ascending.finish()))
                };
                Ok(Built::Tables(tables.into_iter().map(overlay).collect::<Result<_, String>>()?))
            }
            Unit::Range(large, runs) => {
                let newest = newest_of(large.table, runs)?;
                Ok(Built::Range(large, Box::new(newest)))
            }
        }
    }
}

/// The newest version of each row, by key.
fn newest_of(table: TableId, mut runs: Vec<Run>) -> Result<Fragment, String> {
    let rows: Vec<&[Row]> = runs.iter().map(|run| &run.rows[..]).collect();
    let mut places = Vec::with_capacity(rows_of(&runs));
    newest(&rows, |run, at| places.push((run, at))).map_err(|twice| twice_in(table, &twice))?;
    let take = |(run, at): (usize, usize)| {
        let Run { rows, moved } = &mut runs[run];
        let Row { key, csn, value } = mem::take(&mut rows[at]);
        let value = if let ValueAt::Here(value) = value { moved.place(value) } else { ValuePlace::default() };
        (key, value, csn)
    };
    Ok(Fragment::of(places.into_iter().map(take)))
}

/// Puts ranges together, in their order.
struct Building<'a> {
    generation: &'a Generation,
    /// The large table that is not complete yet.
    table: Option<(TableId, Ascending)>,
    wrong: Option<String>,
}

impl Building<'_> {
    fn take(&mut self, built: Result<Built, String>) {
        match built {
            Ok(Built::Tables(tables)) => {
                tables.into_iter().for_each(|(table, overlay)| self.generation.adopt(table, overlay));
            }
            Ok(Built::Range(Large { table, rows: most, values }, fragment)) => {
                if self.table.as_ref().is_none_or(|(other, _)| *other != table) {
                    self.adopt();
                }
                let (_, ascending) = self.table.get_or_insert_with(|| (table, Overlay::ascending(most, values)));
                ascending.join(*fragment);
            }
            Err(wrong) => drop(self.wrong.get_or_insert(wrong)),
        }
    }

    fn adopt(&mut self) {
        if let Some((table, ascending)) = self.table.take() {
            self.generation.adopt(table, ascending.finish());
        }
    }

    fn end(mut self) -> Result<(), String> {
        self.adopt();
        self.wrong.map_or(Ok(()), Err)
    }
}

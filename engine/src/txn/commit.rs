//! The one order of commits: under one mutex a transaction gets its number, its parts get their places in the logs, and its versions
//! become the newest. Nothing is waited for under it.
//!
//! A commit counts once all its parts are durable, and all parts of all commits before it: whatever a crash leaves is a beginning
//! of this order. Before it is accepted nothing has happened, should its future be dropped; afterwards it is committed.

use std::{collections::VecDeque, sync::Arc};

use smallvec::SmallVec;

use crate::{
    env::Env,
    plant::planted,
    wal::{AppendError, Lsn},
};

use super::{
    catalog::{Catalog, CatalogError, TableInfo, TableKind},
    error::{CommitError, Conflict, TxError},
    generation::Generation,
    ids::{Csn, TableId, TxnId},
    index::Entries,
    loads::Loads,
    lob::{Lobs, Pieces, Refs},
    locks::{Owner, Refusal},
    logs::{Capture, Lacking, Writers},
    options::Sync,
    overlay::{KeyRange, ValueRef},
    redo::{LobRef, MAX_PART_BYTES, Op, PART_HEAD_BYTES, Record, Shape, Stamp, encode_part},
    shared::Shared,
    storage::{State, Storage},
    table::Table,
    undo::WriteSet,
    validate::{Changed, ReadSet},
    view::{View, Visibility},
    volatile::Volatile,
};

/// Versions of a Memory table that are copied while nobody commits: some 100 us.
const COPIED_AT_ONCE: usize = 256;

/// What the commit mutex guards.
pub(super) struct Pipeline<E: Env> {
    /// `None` once it is closed.
    writers: Option<Writers<E>>,
    /// The newest one.
    pub(super) generation: Arc<Generation>,
    pub(super) catalog: Arc<Catalog>,
    /// Its Memory tables.
    pub(super) volatile: Volatile,
    /// The number of the next commit; `None` once all of this epoch are used.
    pub(super) next: Option<Csn>,
    /// Of each log the epoch record, while no root states a later commit than that does.
    pub(super) epoch_records: Option<(Csn, Vec<Lsn>)>,
    /// Values in pieces of transactions that have no number yet: no log is released beyond them.
    pub(super) pieces: Pieces,
    /// Who keeps its locks until its commit is durable.
    held: VecDeque<(Csn, Arc<Owner>)>,
    /// Records of commits that the logs were given.
    pub(super) parts: u64,
    /// Room for the live snapshots.
    snapshots: Vec<Csn>,
    /// The keeper knows that commits are many.
    busy: bool,
}

impl<E: Env> AsMut<Writers<E>> for Pipeline<E> {
    fn as_mut(&mut self) -> &mut Writers<E> {
        self.writers.as_mut().expect("what uses the logs has ended, or sees that the store is closed")
    }
}

/// What a transaction has to write.
#[derive(Clone, Copy)]
pub(super) enum Writes<'a> {
    Set(&'a WriteSet),
    One(&'a Table, &'a [u8], Option<&'a [u8]>),
    /// With what an index has at once.
    Create(&'a str, &'a TableKind, &'a Entries),
    Drop(TableId),
}

/// A transaction at its end. Its owner, if it has one, takes no more locks.
pub(super) struct Candidate<'a, S> {
    pub(super) txn: TxnId,
    pub(super) writes: Writes<'a>,
    /// Its locks; `None` for a single write, which needs its row to be free, and for a change of the catalog.
    pub(super) owner: Option<&'a Arc<Owner>>,
    /// What it read, on what view, and since when that must not have changed.
    pub(super) reads: Option<(&'a ReadSet, &'a View<S>, Csn)>,
}

/// A commit that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) csn: Csn,
    /// With [`Sync::Instant`]: what has to be durable for it.
    pub(super) capture: Option<Capture>,
}

/// Why a commit was not accepted. Nothing happened.
pub(super) enum Rejected {
    Never(CommitError),
    /// A single write has to lock its row: somebody owns it, or it changes indexes as well.
    RowTaken,
    /// The table can't be created or dropped.
    Catalog(CatalogError),
}

enum Attempt {
    Rejected(Rejected),
    Lack(Lacking),
}

impl From<TxError> for Attempt {
    fn from(error: TxError) -> Attempt {
        Attempt::Rejected(Rejected::Never(error.into()))
    }
}

/// The parts of a transaction, each with the log that it goes into.
#[derive(Default)]
struct Parts(SmallVec<[(u8, Vec<u8>); 2]>);

/// What a part takes beside its keys and values: its head and a table, and so much for each row.
const PART_ROOM: usize = PART_HEAD_BYTES + 16;
const ROW_ROOM: usize = 8;
/// Room that is made in one step: large values are not in a part.
const LARGEST_ROOM: usize = 1 << 20;

impl<E: Env> Pipeline<E> {
    pub(super) fn new(
        writers: Writers<E>,
        generation: Arc<Generation>,
        (catalog, volatile): (Arc<Catalog>, Volatile),
        next: Option<Csn>,
        epoch_records: (Csn, Vec<Lsn>),
    ) -> Pipeline<E> {
        let (pieces, held, snapshots, busy) = (Pieces::new(), VecDeque::new(), Vec::new(), false);
        let (writers, epoch_records) = (Some(writers), Some(epoch_records));
        Pipeline {
            writers,
            generation,
            catalog,
            volatile,
            next,
            epoch_records,
            pieces,
            held,
            parts: 0,
            snapshots,
            busy,
        }
    }
}

impl<E: Env> Pipeline<E> {
    /// What the logs have up to the last commit; `None` once the store is closed.
    pub(super) fn capture(&mut self, last: Csn) -> Option<Capture> {
        self.writers.as_mut().map(|writers| writers.capture(last))
    }

    /// For a close.
    pub(super) fn take_writers(&mut self) -> Option<Writers<E>> {
        self.writers.take()
    }
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    /// Accepts a transaction: it gets its number and its places, and its versions are the newest. Waits only for room.
    pub(super) async fn accept(&self, candidate: &Candidate<'_, S::State>) -> Result<Accepted, Rejected> {
        self.wait_for_memory().await.map_err(Rejected::Never)?;
        let mut lobs = self.write_lobs(candidate.txn, candidate.writes).await.map_err(Rejected::Never)?;
        loop {
            match self.try_accept(candidate, &mut lobs) {
                Ok(accepted) => return Ok(accepted),
                Err(Attempt::Rejected(why)) => return Err(why),
                Err(Attempt::Lack(lacking)) => {
                    self.logs.make_way(lacking).await.map_err(|error| Rejected::Never(not_appended(error)))?;
                    self.wait_for_memory().await.map_err(Rejected::Never)?;
                }
            }
        }
    }

    fn try_accept<'a>(
        &self,
        candidate: &Candidate<'a, S::State>,
        lobs: &mut Lobs<'a, E, S>,
    ) -> Result<Accepted, Attempt> {
        // Outside of the mutex, since rows may be many; a change of the catalog is a few bytes, and needs the number.
        let (view, mut parts) = match candidate.writes {
            Writes::One(table, key, after) => (None, self.part_of_row(table, key, after)?),
            writes => {
                let view = self.horizon.look();
                let parts = self.parts_of_rows(&view.catalog, writes, &lobs.refs)?;
                (Some(view), parts)
            }
        };
        let mut pipeline = self.commit();
        let behind = lobs.any && planted!(self.options.plants(), TxnLobBehind);
        if behind {
            self.predict_lobs(&mut pipeline, candidate.writes, lobs);
        }
        // A table may have gone, and the rows of it with it.
        if behind || view.is_some_and(|view| !Arc::ptr_eq(&pipeline.catalog, &view.catalog)) {
            parts = match candidate.writes {
                Writes::One(..) => parts,
                writes => self.parts_of_rows(&pipeline.catalog, writes, &lobs.refs)?,
            };
        }
        self.accept_under(&mut pipeline, candidate, parts, lobs)
    }

    fn accept_under(
        &self,
        pipeline: &mut Pipeline<E>,
        candidate: &Candidate<'_, S::State>,
        mut parts: Parts,
        lobs: &Lobs<'_, E, S>,
    ) -> Result<Accepted, Attempt> {
        self.alive()?;
        let csn = pipeline.next.ok_or(TxError::Closed)?;
        if let Writes::One(table, ..) = candidate.writes {
            if pipeline.catalog.table(table.id()).is_none() {
                return Err(TxError::UnknownTable(table.name().to_owned()).into());
            }
            if pipeline.catalog.is_indexed(table.id()) && !planted!(self.options.plants(), TxnIndexNotDerived) {
                return Err(Attempt::Rejected(Rejected::RowTaken));
            }
        }
        let edited = edit(&pipeline.catalog, candidate.writes, csn, self.logs.count())
            .map_err(|error| Attempt::Rejected(Rejected::Catalog(error)))?;
        if let Some(edited) = &edited
            && self.is_logged()
        {
            parts.add_catalog(edited, candidate.writes)?;
        }
        if let Some((reads, view, since)) = candidate.reads {
            let (keys, ranges) =
                (!planted!(self.options.plants(), TxnWriteSkew), !planted!(self.options.plants(), TxnPhantom));
            let Pipeline { catalog, volatile, .. } = &*pipeline;
            let changed = Since { view, catalog, volatile, loads: &self.loads, keys, ranges };
            let name = |table| view.catalog.table(table).map_or_else(String::new, |info| info.name.to_string());
            let validated = reads.validate(since, &changed);
            validated.map_err(|table| TxError::from(Conflict::Read { table: name(table) }))?;
        }
        for (log, part) in &parts.0 {
            let bytes = part.len() + lobs.behind_bytes(*log);
            pipeline.as_mut().room(usize::from(*log), bytes).map_err(Attempt::Lack)?;
        }
        let csn = match candidate.writes {
            Writes::Set(_) if planted!(self.options.plants(), TxnMultishardNomarker) => {
                self.apart(pipeline, candidate.txn, csn, &mut parts)
            }
            _ => csn,
        };
        if planted!(self.options.plants(), UpstreamL22Rows) {
            self.by_row(pipeline, candidate.txn, csn, &mut parts)?;
        }
        if self.horizon.durable() == self.horizon.committed() {
            self.passes.nothing_is_pending(self.env.monotonic());
        }
        match candidate.writes {
            // Whoever takes the row from here on sees its new version: nobody takes it between the look at it and that.
            Writes::One(table, key, _) => {
                let write = || self.write(pipeline, candidate, csn, &mut parts);
                if self.locks.while_free(table.id(), key, write).is_none() {
                    // Who has the row may be waiting for the page in which room is held.
                    pipeline.as_mut().give_back();
                    return Err(Attempt::Rejected(Rejected::RowTaken));
                }
            }
            Writes::Set(_) | Writes::Create(..) | Writes::Drop(_) => self.write(pipeline, candidate, csn, &mut parts),
        }
        lobs.append_behind(pipeline);
        if let Some(edited) = edited {
            self.set_catalog(pipeline, edited);
        }
        pipeline.next = csn.next();
        self.horizon.commit(csn);
        if let Some(owner) = candidate.owner {
            match self.horizon.visibility() {
                Visibility::Committed => self.locks.end(owner),
                // Until others see what it wrote they wait for it, and don't fail.
                Visibility::Durable => pipeline.held.push_back((csn, Arc::clone(owner))),
            }
        }
        let mut capture = if self.options.sync == Sync::Instant { pipeline.capture(csn) } else { None };
        if let Some(capture) = &mut capture
            && planted!(self.options.plants(), TxnAckOwnParts)
        {
            for (log, next) in (0..).zip(&mut capture.next) {
                *next = if parts.0.iter().any(|(own, _)| *own == log) { *next } else { Lsn(0) };
            }
        }
        Ok(Accepted { csn, capture })
    }

    /// From here on there are these tables.
    pub(super) fn set_catalog(&self, pipeline: &mut Pipeline<E>, catalog: Catalog) {
        let catalog = Arc::new(catalog);
        pipeline.catalog = Arc::clone(&catalog);
        pipeline.volatile = pipeline.volatile.follow(&catalog, self.versions.blocks());
        self.horizon.swap(|view| View {
            catalog,
            generations: view.generations.clone(),
            volatile: pipeline.volatile.clone(),
            state: view.state.clone(),
        });
    }

    /// Accepts a commit of nothing, or says what a log lacks for it.
    pub(super) fn accept_nothing(&self, pipeline: &mut Pipeline<E>) -> Result<Result<Csn, Lacking>, CommitError> {
        let nothing = WriteSet::default();
        let writes = Writes::Set(&nothing);
        let txn = self.next_txn()?;
        let lobs = self.no_lobs(txn);
        let parts = self.parts_of_rows(&pipeline.catalog, writes, &lobs.refs)?;
        let candidate = Candidate { txn, writes, owner: None, reads: None };
        match self.accept_under(pipeline, &candidate, parts, &lobs) {
            Ok(accepted) => Ok(Ok(accepted.csn)),
            Err(Attempt::Lack(lacking)) => Ok(Err(lacking)),
            Err(Attempt::Rejected(Rejected::Never(error))) => Err(error),
            // (It has no rows, and changes no catalog.)
            Err(Attempt::Rejected(Rejected::RowTaken | Rejected::Catalog(_))) => Err(TxError::Closed.into()),
        }
    }

    /// The planted bug: each part but the last becomes a commit of its own. The commit of the last.
    fn apart(&self, pipeline: &mut Pipeline<E>, txn: TxnId, mut csn: Csn, parts: &mut Parts) -> Csn {
        while parts.0.len() > 1
            && let Some(next) = csn.next()
        {
            let (log, mut part) = parts.0.remove(0);
            let stamp = Stamp { participants: 1 << log, csn, txn, durable: self.horizon.durable() };
            stamp.put(&mut part).expect("a part was encoded");
            pipeline.as_mut().append(usize::from(log), &part);
            csn = next;
        }
        csn
    }

    /// The planted bug: each row of a part but the last becomes a part of its own.
    fn by_row(&self, pipeline: &mut Pipeline<E>, txn: TxnId, csn: Csn, parts: &mut Parts) -> Result<(), Attempt> {
        let participants = parts.participants();
        let stamp = Stamp { participants, csn, txn, durable: self.horizon.durable() };
        let mut rows = Parts::default();
        for (log, mut part) in std::mem::take(&mut parts.0) {
            stamp.put(&mut part).expect("a part was encoded");
            let (first, mut table) = (rows.0.len(), None);
            if let Ok(Record::Part(part)) = Record::decode(&part) {
                for op in part.ops() {
                    match op {
                        Op::Table { .. } => table = Some(op),
                        _ => rows.add(log, 0, table.into_iter().chain([op]))?,
                    }
                }
            }
            // Many would never find room in one page: then it stays whole.
            let bytes = rows.0[first..].iter().map(|(_, row)| row.len() + 64).sum();
            if bytes as u64 > (self.options.log_buffer_bytes / 8).min(32 << 10) {
                rows.0.truncate(first);
            } else {
                pipeline.as_mut().room(usize::from(log), bytes).map_err(Attempt::Lack)?;
            }
            parts.0.push(if rows.0.len() > first { rows.0.remove(rows.0.len() - 1) } else { (log, part) });
        }
        for (log, row) in &mut rows.0 {
            stamp.put(row).expect("a part was encoded");
            pipeline.as_mut().room(usize::from(*log), row.len()).map_err(Attempt::Lack)?;
            pipeline.as_mut().append(usize::from(*log), row);
        }
        for (log, part) in &parts.0 {
            pipeline.as_mut().room(usize::from(*log), part.len()).map_err(Attempt::Lack)?;
        }
        Ok(())
    }

    /// The parts into the logs, the versions into the newest generation. There is room, so nothing here can fail.
    fn write(&self, pipeline: &mut Pipeline<E>, candidate: &Candidate<'_, S::State>, csn: Csn, parts: &mut Parts) {
        let participants = parts.participants();
        let stamp = Stamp { participants, csn, txn: candidate.txn, durable: self.horizon.durable() };
        for (log, part) in &mut parts.0 {
            stamp.put(part).expect("a part was encoded, and a commit's number is above the last one that is durable");
            pipeline.as_mut().append(usize::from(*log), part);
        }
        pipeline.parts += parts.0.len() as u64;
        let bytes = parts.0.iter().map(|(_, part)| part.len() as u64).sum();
        if self.checkpoints.logged.add(bytes, self.options.checkpoint_log_bytes) {
            self.gates.checkpointer.open();
        }
        self.logged(bytes);
        let Pipeline { generation, snapshots, catalog, volatile, .. } = pipeline;
        let plants = self.options.plants();
        let mut live = self.horizon.live(snapshots);
        if planted!(plants, TxnPruneLive) {
            live.snapshots = &[];
        }
        let install = |table: TableId, key: &[u8], after: Option<ValueRef<'_>>| {
            if catalog.table(table).is_some() {
                let installed = volatile.install(table, (key, after), csn, &live, &plants);
                let installed = installed.unwrap_or_else(|| generation.install(table, key, after, csn, &live));
                installed.expect("commits come in order, and the newest generation is not frozen");
            }
        };
        match candidate.writes {
            Writes::Set(set) => {
                for (table, writes) in set.tables() {
                    writes.for_each(|(key, after)| install(table, key, after.as_ref().map(ValueRef::Shared)));
                }
            }
            Writes::One(table, key, after) => install(table.id(), key, after.map(ValueRef::Bytes)),
            Writes::Create(_, _, entries) => {
                for (key, value) in entries {
                    let installed = generation.install(catalog.next(), key, Some(ValueRef::Shared(value)), csn, &live);
                    installed.expect("it is a new table, and each key is there once");
                }
            }
            Writes::Drop(_) => {}
        }
        if !pipeline.busy && self.versions.blocks().is_busy() {
            pipeline.busy = true;
            self.gates.keeper.open();
        }
    }

    /// Copies some of the Memory tables without what is removed for everybody; false if there is nothing to copy.
    pub(super) fn copy_volatile(&self) -> bool {
        let mut pipeline = self.commit();
        let Pipeline { snapshots, volatile, .. } = &mut *pipeline;
        volatile.copy_some(COPIED_AT_ONCE, &self.horizon.live(snapshots))
    }

    /// Puts those copies in their places that are complete.
    pub(super) fn place_copies(&self) {
        let old = {
            let mut pipeline = self.commit();
            let Some(tidied) = pipeline.volatile.tidied() else { return };
            let old = std::mem::replace(&mut pipeline.volatile, tidied.clone());
            let view = self.horizon.swap(|view| View {
                catalog: Arc::clone(&view.catalog),
                generations: view.generations.clone(),
                volatile: tidied,
                state: view.state.clone(),
            });
            (old, view)
        };
        // Nobody has to wait for that.
        drop(old);
    }

    /// Everything up to `csn` survives a power cut now: what waited for that goes on.
    pub(super) fn became_durable(&self, csn: Csn) {
        self.horizon.make_durable(csn);
        let durable = self.horizon.durable();
        let owners: Vec<_> = {
            let mut pipeline = self.commit();
            let ended = pipeline.held.iter().take_while(|(csn, _)| *csn <= durable).count();
            pipeline.held.drain(..ended).collect()
        };
        owners.iter().for_each(|(_, owner)| self.locks.end(owner));
        self.gates.durable.open();
    }

    /// Whether commits go into logs.
    pub(super) fn is_logged(&self) -> bool {
        self.options.sync != Sync::NoSync
    }

    /// The part of a single write.
    fn part_of_row(&self, table: &Table, key: &[u8], after: Option<&[u8]>) -> Result<Parts, TxError> {
        let (mut parts, info) = (Parts::default(), &*table.0);
        match info.kind {
            _ if !self.is_logged() => {}
            TableKind::Rows => {
                let bytes = ROW_ROOM + key.len() + after.map_or(0, <[u8]>::len);
                parts.add(info.log, bytes, [head(info), row(key, after, None)])?;
            }
            TableKind::Memory | TableKind::Index { .. } => parts.add(0, 0, [])?,
        }
        Ok(parts)
    }

    /// One part per log, with the rows of all its tables; those of tables that are gone, or are not logged, are left out. If there
    /// are none, a void one, so that there is no gap in the numbers.
    fn parts_of_rows(&self, catalog: &Catalog, writes: Writes<'_>, lobs: &Refs<'_>) -> Result<Parts, TxError> {
        let mut parts = Parts::default();
        if !self.is_logged() {
            return Ok(parts);
        }
        match writes {
            Writes::Set(set) => {
                for log in 0..self.logs.count() as u8 {
                    let tables = set.tables().filter_map(|(table, writes)| Some((logged(catalog, table)?, writes)));
                    let mut of_log = tables.filter(|(info, _)| info.log == log).peekable();
                    if of_log.peek().is_some() {
                        let ops = of_log.flat_map(|(info, writes)| {
                            let rows = writes.map(|(key, after)| row(key, after.as_deref(), lobs.get(&(info.id, key))));
                            std::iter::once(head(info)).chain(rows)
                        });
                        // (All of it is in this log, mostly.)
                        parts.add(log, set.bytes().min(LARGEST_ROOM) + ROW_ROOM * set.len(), ops)?;
                    }
                }
            }
            Writes::One(..) | Writes::Create(..) | Writes::Drop(_) => return Ok(parts),
        }
        if parts.0.is_empty() {
            parts.add(0, 0, [])?;
        }
        Ok(parts)
    }
}

impl Parts {
    /// The logs that they go into, as bits.
    fn participants(&self) -> u16 {
        self.0.iter().fold(0, |bits, (log, _)| bits | 1 << log)
    }

    /// `bytes`: about so many keys and values.
    fn add<'a>(&mut self, log: u8, bytes: usize, ops: impl IntoIterator<Item = Op<'a>>) -> Result<(), TxError> {
        let mut part = Vec::with_capacity(PART_ROOM + bytes);
        // Keys and values were checked when they came in, so it is all of them together.
        encode_part(&mut part, ops)
            .map_err(|_| TxError::TooLarge { bytes: MAX_PART_BYTES + 1, limit: MAX_PART_BYTES })?;
        self.0.push((log, part));
        Ok(())
    }

    fn add_catalog(&mut self, edited: &Catalog, writes: Writes<'_>) -> Result<(), TxError> {
        match writes {
            Writes::Create(name, ..) => {
                let created = edited.named(name).map(|info| {
                    let shape = match &info.kind {
                        TableKind::Rows => Shape::Rows,
                        TableKind::Memory => Shape::Memory,
                        TableKind::Index { of, derive } => Shape::Index { of: *of, derive },
                    };
                    Op::Create { id: info.id, log: info.log, name: &info.name, shape }
                });
                self.add(0, 0, created)
            }
            Writes::Drop(id) => self.add(0, 0, [Op::Drop { id }]),
            Writes::Set(_) | Writes::One(..) => Ok(()),
        }
    }
}

/// A table whose rows are logged.
pub(super) fn logged(catalog: &Catalog, table: TableId) -> Option<&TableInfo> {
    catalog.table(table).map(|info| &**info).filter(|info| info.kind == TableKind::Rows)
}

fn head(info: &TableInfo) -> Op<'static> {
    Op::Table { id: info.id, meta: info.meta }
}

fn row<'a>(key: &'a [u8], after: Option<&'a [u8]>, lob: Option<&LobRef>) -> Op<'a> {
    match (after, lob) {
        (Some(_), Some(lob)) => Op::PutLob { key, value: *lob },
        (Some(value), None) => Op::Put { key, value },
        (None, _) => Op::Delete { key },
    }
}

/// The catalog behind a commit that changes it.
fn edit(catalog: &Catalog, writes: Writes<'_>, csn: Csn, logs: usize) -> Result<Option<Catalog>, CatalogError> {
    let mut edited = match writes {
        Writes::Create(..) | Writes::Drop(_) => catalog.clone(),
        Writes::Set(_) | Writes::One(..) => return Ok(None),
    };
    match writes {
        Writes::Create(name, kind, _) => {
            let id = edited.next();
            let log = (id.0 as usize % logs) as u8;
            edited.create(TableInfo { id, name: name.into(), kind: kind.clone(), log, meta: 0, created: csn })?;
        }
        Writes::Drop(id) if edited.is_indexed(id) => return Err(CatalogError::Indexed),
        Writes::Drop(id) => drop(edited.remove(id).ok_or(CatalogError::Range("table"))?),
        Writes::Set(_) | Writes::One(..) => {}
    }
    Ok(Some(edited))
}

/// What changed since a snapshot, for a validation.
struct Since<'a, S, B> {
    view: &'a View<S>,
    catalog: &'a Catalog,
    volatile: &'a Volatile,
    loads: &'a Loads<B>,
    /// What is looked at: false for a planted bug.
    keys: bool,
    ranges: bool,
}

impl<S, B> Since<'_, S, B> {
    /// Whether the table has come or gone, with all its rows at once.
    fn table(&self, table: TableId) -> bool {
        self.catalog.table(table).is_none() || self.loads.came_behind(self.view, table).is_some()
    }
}

impl<S: State, B> Changed for Since<'_, S, B> {
    fn key(&self, table: TableId, key: &[u8], after: Csn) -> bool {
        let newest = match self.volatile.table(table) {
            Some(overlay) => overlay.newest(key),
            None => self.view.newest(table, key),
        };
        self.keys && (self.table(table) || newest.is_some_and(|newest| newest > after))
    }

    fn range(&self, table: TableId, range: KeyRange<'_>, after: Csn) -> bool {
        let changed = match self.volatile.table(table) {
            Some(overlay) => overlay.changed_since(range, after),
            None => self.view.changed_since(table, range, after),
        };
        self.ranges && (self.table(table) || changed)
    }
}

/// Why a log took nothing.
pub(super) fn not_appended(error: AppendError) -> CommitError {
    match error {
        AppendError::TooLarge { bytes, limit } => CommitError::Not(TxError::TooLarge { bytes, limit }),
        AppendError::NoRoom(failure) => CommitError::NoRoom(failure),
        AppendError::Poisoned(failure) | AppendError::Indeterminate { failure, .. } => {
            CommitError::Not(TxError::Poisoned(failure))
        }
        AppendError::Closed | AppendError::EmptyBatch | AppendError::WriterExists => CommitError::Not(TxError::Closed),
    }
}

/// Why a lock was not given, or a commit not begun.
pub(super) fn refused(refusal: Refusal, timeout: std::time::Duration) -> TxError {
    match refusal {
        Refusal::Wounded { by } => TxError::Conflict(Conflict::Wounded { by }),
        Refusal::Timeout => TxError::Timeout(timeout),
        Refusal::Ended => TxError::Ended,
    }
}

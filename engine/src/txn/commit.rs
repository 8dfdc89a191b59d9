//! The one order of commits: under one mutex a transaction gets its number, its parts get their places in the logs, its versions
//! become the newest. Nothing is waited for under it.
//!
//! A commit counts once all its parts are durable, and all parts of all commits before it: whatever a crash leaves is a beginning
//! of this order. What becomes of one whose future is dropped: before it is accepted nothing happened; afterwards it is committed.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
};

use crate::{
    env::Env,
    sync::{Mutex, MutexGuard},
    wal::AppendError,
};

use super::{
    catalog::{Catalog, TableInfo, TableKind},
    core::Core,
    error::{CommitError, Conflict, TxError},
    generation::Generation,
    ids::{Csn, TableId, TxnId},
    locks::{Owner, Refusal},
    logs::{Capture, Writers},
    options::Sync,
    redo::{Op, Shape, Stamp, encode_part},
    storage::{State, Storage},
    undo::{After, WriteSet},
    validate::{Changed, ReadSet},
    view::{View, Visibility},
};

/// What the commit mutex guards.
pub(super) struct Pipeline<E: Env> {
    inner: Mutex<Inner<E>>,
}

pub(super) struct Inner<E: Env> {
    pub(super) writers: Writers<E>,
    /// The newest one.
    pub(super) generation: Arc<Generation>,
    pub(super) catalog: Arc<Catalog>,
    /// The number of the next commit; `None` once all of this epoch are used.
    pub(super) next: Option<Csn>,
    /// Who keeps its locks until its commit is durable.
    held: VecDeque<(Csn, Arc<Owner>)>,
    /// Room for the live snapshots.
    snapshots: Vec<Csn>,
}

/// What a transaction has to write.
#[derive(Clone, Copy)]
pub(super) enum Writes<'a> {
    Set(&'a WriteSet),
    One(TableId, &'a [u8], &'a After),
    Create(&'a str, &'a TableKind),
    Drop(TableId),
}

/// A transaction at its end.
pub(super) struct Candidate<'a, S> {
    pub(super) txn: TxnId,
    pub(super) writes: Writes<'a>,
    /// Its locks; `None` for a single write, which needs its row to be free.
    pub(super) owner: Option<&'a Arc<Owner>>,
    /// What it read that must not have changed since its snapshot.
    pub(super) reads: Option<(&'a ReadSet, &'a View<S>, Csn)>,
}

/// A commit that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) csn: Csn,
    /// What has to be durable for it; `None` if nothing is logged.
    pub(super) capture: Option<Capture>,
}

/// Why a commit was not accepted yet.
pub(super) enum NotYet {
    /// Never: nothing happened.
    Never(CommitError),
    /// Somebody owns the row of a single write: it is to be waited for.
    RowTaken,
    /// There is a table of this name, or none of this number.
    Table,
    /// A log has no room: way has to be made in it.
    Lack(usize, crate::wal::Lack),
}

/// The parts of a transaction, each with the log it goes into; made for one catalog.
#[derive(Default)]
struct Parts(Vec<(u8, Vec<u8>)>);

impl<E: Env> Pipeline<E> {
    pub(super) fn new(
        writers: Writers<E>,
        generation: Arc<Generation>,
        catalog: Arc<Catalog>,
        next: Option<Csn>,
    ) -> Pipeline<E> {
        let inner = Inner { writers, generation, catalog, next, held: VecDeque::new(), snapshots: Vec::new() };
        Pipeline { inner: Mutex::new(inner) }
    }

    /// The commit mutex. Should a thread have panicked under it, the caller finds the store poisoned: see [`Core::alive`].
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner<E>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Env, S: Storage<E>> Core<E, S> {
    /// Accepts a transaction: gives it its number, its places, and makes its versions the newest. Waits only for room.
    pub(super) async fn accept(&self, candidate: &Candidate<'_, S::State>) -> Result<Accepted, NotYet> {
        loop {
            self.make_memory().await.map_err(NotYet::Never)?;
            match self.try_accept(candidate) {
                Err(NotYet::Lack(log, lack)) => {
                    self.logs.make_way(log, lack).await.map_err(|error| NotYet::Never(not_appended(error)))?;
                }
                other => return other,
            }
        }
    }

    fn try_accept(&self, candidate: &Candidate<'_, S::State>) -> Result<Accepted, NotYet> {
        let (mut parts, mut encoded_for) = (Parts::default(), None);
        loop {
            let mut inner = self.pipeline.lock();
            self.alive().map_err(|error| NotYet::Never(error.into()))?;
            let catalog = Arc::clone(&inner.catalog);
            let logged = self.options.sync != Sync::NoSync;
            // Rows are encoded outside of the mutex; a catalog that changed meanwhile may have lost a table of them.
            let is_row = matches!(candidate.writes, Writes::Set(_) | Writes::One(..));
            if is_row && logged && !encoded_for.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &catalog)) {
                drop(inner);
                parts = Parts::of_rows(&catalog, candidate.writes).map_err(NotYet::Never)?;
                encoded_for = Some(catalog);
                continue;
            }
            return self.accept_under(&mut inner, candidate, &catalog, &mut parts, logged);
        }
    }

    fn accept_under(
        &self,
        inner: &mut Inner<E>,
        candidate: &Candidate<'_, S::State>,
        catalog: &Arc<Catalog>,
        parts: &mut Parts,
        logged: bool,
    ) -> Result<Accepted, NotYet> {
        let never = |error: TxError| NotYet::Never(error.into());
        let csn = inner.next.ok_or_else(|| never(TxError::Closed))?;
        let with_catalog = edit(catalog, candidate.writes, csn, self.logs.count())?;
        if logged && with_catalog.is_some() {
            *parts = Parts::of_catalog(with_catalog.as_ref().unwrap_or(catalog), candidate.writes).map_err(NotYet::Never)?;
        }
        if let Some(owner) = candidate.owner {
            match owner.begin_commit() {
                Ok(()) => {}
                // It is committing already, and came here for room before.
                Err(Refusal::Ended) if owner.is_committing() => {}
                Err(refusal) => return Err(never(refused(refusal, self.options.lock_timeout))),
            }
        }
        if let Some((reads, view, since)) = candidate.reads {
            let changed = Since { view, catalog };
            reads.validate(since, &changed).map_err(|table| never(Conflict::Read { table: name(view, table) }.into()))?;
        }
        for (log, part) in &parts.0 {
            let log = usize::from(*log);
            inner.writers.room(log, part.len() as u64).map_err(|lack| NotYet::Lack(log, lack))?;
        }
        if let Writes::One(table, key, after) = candidate.writes {
            // Nobody takes the row between the look at it and the version: whoever takes it then sees that.
            let done = self.locks.while_free(table, key, || self.write(inner, candidate, csn, parts, catalog));
            done.ok_or(NotYet::RowTaken)?;
            let _ = after;
        } else {
            self.write(inner, candidate, csn, parts, catalog);
        }
        if let Some(with) = with_catalog {
            let with = Arc::new(with);
            inner.catalog = Arc::clone(&with);
            self.horizon.swap(|view| View {
                catalog: with,
                generations: view.generations.clone(),
                state: view.state.clone(),
            });
        }
        inner.next = csn.next();
        self.horizon.commit(csn);
        if let Some(owner) = candidate.owner {
            match self.horizon.visibility() {
                Visibility::Committed => self.locks.end(owner),
                Visibility::Durable => inner.held.push_back((csn, Arc::clone(owner))),
            }
        }
        let capture = (logged && self.options.sync == Sync::Instant).then(|| {
            inner.writers.share();
            inner.writers.capture(csn)
        });
        Ok(Accepted { csn, capture })
    }

    /// The parts into the logs, the versions into the newest generation. Nothing here can fail: there is room.
    fn write(
        &self,
        inner: &mut Inner<E>,
        candidate: &Candidate<'_, S::State>,
        csn: Csn,
        parts: &mut Parts,
        catalog: &Catalog,
    ) {
        let participants = parts.0.iter().fold(0, |bits, (log, _)| bits | 1_u16 << log);
        let stamp = Stamp { participants, csn, txn: candidate.txn, durable: self.horizon.durable() };
        for (log, part) in &mut parts.0 {
            stamp.put(part).expect("a part was encoded");
            inner.writers.append(usize::from(*log), part);
        }
        let Inner { generation, snapshots, .. } = inner;
        let live = self.horizon.live(snapshots);
        let mut install = |table: TableId, key: &[u8], after: &After| {
            if catalog.table(table).is_some() {
                let installed = generation.install(table, key, after.clone(), csn, &live);
                debug_assert_eq!(installed, Ok(()), "commits come in order, and the newest generation is not frozen");
            }
        };
        match candidate.writes {
            Writes::Set(set) => {
                for (table, writes) in set.tables() {
                    writes.for_each(|(key, after)| install(table, key, after));
                }
            }
            Writes::One(table, key, after) => install(table, key, after),
            Writes::Create(..) | Writes::Drop(_) => {}
        }
    }

    /// Everything up to `csn` survives a power cut now: what waited for that is told.
    pub(super) fn became_durable(&self, csn: Csn) {
        self.horizon.make_durable(csn);
        let mut inner = self.pipeline.lock();
        let durable = self.horizon.durable();
        let ended = inner.held.iter().take_while(|(csn, _)| *csn <= durable).count();
        let owners: Vec<Arc<Owner>> = inner.held.drain(..ended).map(|(_, owner)| owner).collect();
        drop(inner);
        owners.iter().for_each(|owner| self.locks.end(owner));
    }
}

impl Parts {
    /// One part per log, with the rows of all its tables; those of tables that are gone, or are not logged, are left out.
    fn of_rows(catalog: &Catalog, writes: Writes<'_>) -> Result<Parts, CommitError> {
        let mut parts = Parts::default();
        match writes {
            Writes::One(table, key, after) => {
                if let Some(info) = logged(catalog, table) {
                    parts.add(info.log, head(info).into_iter().chain([row(key, after)]))?;
                }
            }
            Writes::Set(set) => {
                let mut logs: Vec<u8> =
                    set.tables().filter_map(|(table, _)| Some(logged(catalog, table)?.log)).collect();
                logs.sort_unstable();
                logs.dedup();
                for log in logs {
                    let tables = set.tables().filter_map(|(table, writes)| Some((logged(catalog, table)?, writes)));
                    let of_log = tables.filter(|(info, _)| info.log == log);
                    parts.add(
                        log,
                        of_log.flat_map(|(info, writes)| {
                            head(info).into_iter().chain(writes.map(|(key, after)| row(key, after)))
                        }),
                    )?;
                }
            }
            Writes::Create(..) | Writes::Drop(_) => {}
        }
        if parts.0.is_empty() {
            // So that there is no gap in the numbers.
            parts.add(0, [])?;
        }
        Ok(parts)
    }

    fn of_catalog(catalog: &Catalog, writes: Writes<'_>) -> Result<Parts, CommitError> {
        let mut parts = Parts::default();
        match writes {
            Writes::Create(name, _) => {
                let created = catalog.named(name).map(|info| {
                    let shape = match &info.kind {
                        TableKind::Rows => Shape::Rows,
                        TableKind::Memory => Shape::Memory,
                        TableKind::Index { of, derive } => Shape::Index { of: *of, derive },
                    };
                    Op::Create { id: info.id, log: info.log, name: &info.name, shape }
                });
                parts.add(0, created)?;
            }
            Writes::Drop(id) => parts.add(0, [Op::Drop { id }])?,
            Writes::Set(_) | Writes::One(..) => {}
        }
        Ok(parts)
    }

    fn add<'a>(&mut self, log: u8, ops: impl IntoIterator<Item = Op<'a>>) -> Result<(), CommitError> {
        let mut part = Vec::new();
        // Keys, values and their sum were checked as they came in.
        encode_part(&mut part, ops).map_err(|error| CommitError::Stalled(error.to_string()))?;
        self.0.push((log, part));
        Ok(())
    }
}

fn logged(catalog: &Catalog, table: TableId) -> Option<&Arc<TableInfo>> {
    catalog.table(table).filter(|info| info.kind == TableKind::Rows)
}

fn head(info: &TableInfo) -> [Op<'static>; 1] {
    [Op::Table { id: info.id, meta: info.meta }]
}

fn row<'a>(key: &'a [u8], after: &'a After) -> Op<'a> {
    match after {
        Some(value) => Op::Put { key, value },
        None => Op::Delete { key },
    }
}

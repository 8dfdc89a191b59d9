//! One transaction: what it sees, its statements, its savepoints, its end.

use std::{future::Future, ops::RangeBounds, pin::pin, sync::Arc};

use crate::{env::Env, plant::planted};

use super::{
    catalog::TableKind,
    commit::{Accepted, Candidate, Rejected, Writes, refused},
    error::{CommitError, Conflict, TxError},
    ids::{Csn, TableId, TxnId},
    index::Entries,
    locks::Owner,
    options::{Isolation, TxOptions},
    pages::Pages,
    scan::{Scan, Statement},
    shared::Shared,
    storage::{Direction, Lookup, Storage, Value},
    table::Table,
    undo::{After, WriteSet},
    validate::ReadSet,
    view::{Snapshot, View},
};

/// A transaction. What it writes nobody else sees before it is committed, and then everybody sees all of it at once. Dropped, it aborts.
///
/// It takes the lock of each row when it writes it, and waits for who has it, but never two for each other: of those the younger fails
/// with [`Conflict::Wounded`]. After a [`Conflict`] it has ended, and is to be done over as
/// [`retry_of`](TxOptions::retry_of) what [`Tx::retry`] gives.
///
/// After its end writes fail with [`TxError::Ended`], and reads see what is visible then.
pub struct Tx<E: Env, S: Storage<E> = Pages<E>> {
    pub(super) shared: Arc<Shared<E, S>>,
    id: TxnId,
    options: TxOptions,
    owner: Arc<Owner>,
    /// What it reads; `None` if each statement begins one, and after its end.
    snapshot: Option<Snapshot<S::State>>,
    reads: Option<ReadSet>,
    pub(super) writes: WriteSet,
    ended: bool,
}

/// What is passed on to a transaction that does another one over: so it is as old as that, and sooner or later nobody is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry(pub(super) super::locks::Age);

/// A commit that is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its place in the order of commits; for one that wrote nothing the last that it could see.
    pub csn: Csn,
    /// Whether it survives a power cut already.
    pub durable: bool,
}

/// A commit that is accepted: it is in its place in the order, and will be durable sooner or later unless the store fails before.
pub struct Ticket<E: Env, S: Storage<E> = Pages<E>> {
    shared: Arc<Shared<E, S>>,
    accepted: Accepted,
}

impl<E: Env, S: Storage<E>> Ticket<E, S> {
    /// Its place in the order of commits.
    #[must_use]
    pub fn csn(&self) -> Csn {
        self.accepted.csn
    }

    /// Waits until it survives a power cut; with [`Sync::NoSync`](super::options::Sync::NoSync) that takes a checkpoint.
    ///
    /// # Errors
    /// [`CommitError::Indeterminate`].
    pub async fn durable(&self) -> Result<(), CommitError> {
        self.shared.wait_until_durable(&self.accepted).await
    }
}

impl<E: Env, S: Storage<E>> Tx<E, S> {
    pub(super) fn begin(shared: Arc<Shared<E, S>>, options: TxOptions) -> Result<Tx<E, S>, TxError> {
        shared.alive()?;
        let id = shared.next_txn()?;
        let owner = Owner::new(id, options.retry_of.map(|retry| retry.0));
        let snapshot = (options.isolation != Isolation::ReadCommitted).then(|| shared.horizon.begin());
        let validated = options.isolation == Isolation::Serializable && !options.read_only;
        let reads = validated.then(|| ReadSet::new(shared.options.read_set_limit));
        let writes = WriteSet::new(shared.options.plants());
        Ok(Tx { shared, id, options, owner, snapshot, reads, writes, ended: false })
    }

    /// Its number. Never given out again.
    #[must_use]
    pub fn id(&self) -> TxnId {
        self.id
    }

    /// What one that does it over is begun with.
    #[must_use]
    pub fn retry(&self) -> Retry {
        Retry(self.owner.age())
    }

    /// The last commit that it sees; `None` if each statement sees what is visible then.
    #[must_use]
    pub fn snapshot(&self) -> Option<Csn> {
        self.snapshot.as_ref().map(|snapshot| snapshot.csn)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`TxError`]. After a [`Conflict`] or [`TxError::SnapshotTooOld`] the transaction has ended.
    pub async fn get(&mut self, table: &Table, key: &[u8]) -> Result<Option<Value>, TxError> {
        self.check_read(table)?;
        if let Some(after) = self.writes.get(table.id(), key) {
            return Ok(after.clone().map(Value::from));
        }
        if let Some(reads) = &mut self.reads {
            reads.key(table.id(), key);
        }
        let Some(csn) = self.snapshot() else { return self.shared.read_visible(table, key).await };
        let now = planted!(self.shared.options.plants(), TxnUnrepeatable);
        let csn = if now { self.shared.horizon.visible() } else { csn };
        let view = self.view()?;
        match view.get(table.id(), key, csn) {
            Lookup::Found(value) => Ok(Some(value)),
            Lookup::Absent => Ok(None),
            Lookup::NotInMemory => Ok(view.read(table.id(), key).await?),
        }
    }

    /// The value of each of some keys, in their order, as [`Tx::get`] gives them: with a snapshot all are of one moment. See
    /// [`Store::get_many`](super::Store::get_many) for when it is faster.
    ///
    /// # Errors
    /// As [`Tx::get`].
    pub async fn get_many<K: AsRef<[u8]>>(&mut self, table: &Table, keys: &[K]) -> Result<Vec<Option<Value>>, TxError> {
        self.check_read(table)?;
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        let own: Vec<Option<After>> = keys.iter().map(|key| self.writes.get(table.id(), key).cloned()).collect();
        let others: Vec<&[u8]> = keys.iter().zip(&own).filter(|(_, own)| own.is_none()).map(|(key, _)| *key).collect();
        if let Some(reads) = &mut self.reads {
            others.iter().for_each(|key| reads.key(table.id(), key));
        }
        let found = match self.snapshot() {
            None => self.shared.read_many_visible(table, &others).await?,
            Some(csn) => {
                let view = self.view()?;
                let found = view.get_many(table.id(), &others, csn);
                view.read_missing(table.id(), &others, found).await?
            }
        };
        let mut found = found.into_iter();
        let value = |own: Option<After>| own.map_or_else(|| found.next().flatten(), |after| after.map(Value::from));
        Ok(own.into_iter().map(value).collect())
    }

    /// Sets a key. May wait for who has the row.
    ///
    /// # Errors
    /// [`TxError`]; the key is as it was. After a [`Conflict`] or [`TxError::SnapshotTooOld`] the transaction has ended.
    pub async fn put(&mut self, table: &Table, key: &[u8], value: &[u8]) -> Result<(), TxError> {
        self.shared.check_value(value)?;
        self.write(table, key, Some(value)).await
    }

    /// Removes a key; nothing happens if there is none. May wait for who has the row.
    ///
    /// # Errors
    /// As [`Tx::put`].
    pub async fn delete(&mut self, table: &Table, key: &[u8]) -> Result<(), TxError> {
        self.write(table, key, None).await
    }

    async fn write(&mut self, table: &Table, key: &[u8], value: Option<&[u8]>) -> Result<(), TxError> {
        self.check_write(table)?;
        self.shared.check_key(key)?;
        self.check_room(key.len() + value.map_or(0, <[u8]>::len))?;
        self.lock_row(table.id(), key).await?;
        let plants = self.shared.options.plants();
        if let Some(csn) = self.snapshot()
            && !planted!(plants, TxnLostUpdate)
        {
            let view = self.view()?;
            if let Some(newer) = self.shared.loads.came_behind(&view, table.id()) {
                return Err(self.conflict(Conflict::WriteWrite { newer }));
            }
            let view = if table.0.kind == TableKind::Memory { self.shared.horizon.view() } else { view };
            let newest = view.newest(table.id(), key);
            if let Some(newer) = newest.filter(|newest| *newest > csn) {
                return Err(self.conflict(Conflict::WriteWrite { newer }));
            }
        }
        let derived = self.derived(table.id(), key, value).await?;
        let bytes = derived.iter().map(|(_, key, after)| key.len() + after.as_ref().map_or(0, |value| value.len()));
        self.check_room(key.len() + value.map_or(0, <[u8]>::len) + bytes.sum::<usize>())?;
        self.writes.write(table.id(), key, value.map(Into::into));
        for (index, key, after) in derived {
            self.writes.write(index, &key, after);
        }
        Ok(())
    }

    /// Whether it may write so many bytes more.
    fn check_room(&self, more: usize) -> Result<(), TxError> {
        let (bytes, limit) = ((self.writes.bytes() + more) as u64, self.shared.options.max_txn_bytes);
        if bytes > limit { Err(TxError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// Locks a whole table, for a transaction that will write much of it. Waits for all who have rows of it.
    ///
    /// # Errors
    /// As [`Tx::put`].
    pub async fn lock_table(&mut self, table: &Table) -> Result<(), TxError> {
        self.check_write(table)?;
        let shared = Arc::clone(&self.shared);
        let deadline = shared.env.monotonic() + shared.options.lock_timeout;
        let now = || shared.env.monotonic();
        let locked = rousing(&shared, shared.locks.table(&self.owner, table.id(), deadline, now)).await;
        locked.map_err(|refusal| self.refused(refused(refusal, shared.options.lock_timeout)))
    }

    async fn lock_row(&mut self, table: TableId, key: &[u8]) -> Result<(), TxError> {
        let shared = Arc::clone(&self.shared);
        let deadline = shared.env.monotonic() + shared.options.lock_timeout;
        let now = || shared.env.monotonic();
        let locked = rousing(&shared, shared.locks.row(&self.owner, (table, key), deadline, now)).await;
        locked.map_err(|refusal| self.refused(refused(refusal, shared.options.lock_timeout)))
    }

    /// The keys of a range with their values, in order. What this transaction writes later is not in it.
    ///
    /// # Errors
    /// As [`Tx::get`].
    pub fn scan<'a>(
        &'a mut self,
        table: &Table,
        range: impl RangeBounds<[u8]>,
        direction: Direction,
    ) -> Result<Scan<'a, E, S>, TxError> {
        self.check_read(table)?;
        let range = (range.start_bound(), range.end_bound());
        // A scan is one statement: it sees one moment.
        let (snapshot, statement) = match &self.snapshot {
            Some(snapshot) => (snapshot.clone(), None),
            None => {
                let snapshot = self.shared.horizon.begin();
                (snapshot.clone(), Some(Statement { shared: Arc::clone(&self.shared), snapshot }))
            }
        };
        let csn = snapshot.csn;
        let Some(view) = snapshot.view() else { return Err(self.refused(TxError::SnapshotTooOld)) };
        let reads = self.reads.as_mut();
        Ok(Scan::new(view, csn, &self.writes, reads, statement, table.id(), range, direction))
    }

    /// The keys that begin with `prefix`.
    ///
    /// # Errors
    /// As [`Tx::get`].
    pub fn prefix<'a>(
        &'a mut self,
        table: &Table,
        prefix: &[u8],
        direction: Direction,
    ) -> Result<Scan<'a, E, S>, TxError> {
        use std::ops::Bound;
        let behind = behind_prefix(prefix);
        let end = behind.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.scan(table, (Bound::Included(prefix), end), direction)
    }

    /// Sets a savepoint here; if there is one of this name, it moves here.
    ///
    /// # Errors
    /// [`TxError::Ended`], [`Conflict::Wounded`].
    pub fn savepoint(&mut self, name: &str) -> Result<(), TxError> {
        self.check_active()?;
        self.writes.savepoint(name);
        Ok(())
    }

    /// Takes back what was written since a savepoint, and removes it and all that were set after it. Locks stay.
    ///
    /// # Errors
    /// [`TxError::UnknownSavepoint`], [`TxError::Ended`], [`Conflict::Wounded`].
    pub fn rollback_to(&mut self, name: &str) -> Result<(), TxError> {
        self.check_active()?;
        self.writes.rollback_to(name).map_err(|_| TxError::UnknownSavepoint(name.to_owned()))
    }

    /// Commits, and returns as soon as that is accepted: it has its place in the order, and who begins now sees it, or will. The
    /// [`Ticket`] waits until it is durable.
    ///
    /// If this future is dropped before it is accepted, the transaction aborts.
    ///
    /// # Errors
    /// [`CommitError`]: not committed, and the transaction has ended.
    pub async fn submit(&mut self) -> Result<Ticket<E, S>, CommitError> {
        let accepted = self.accept().await?;
        self.shared.rouse_keeper();
        Ok(Ticket { shared: Arc::clone(&self.shared), accepted })
    }

    /// Commits, and returns when that is as safe as the [sync type](super::options::Sync) says.
    ///
    /// If this future is dropped before the commit is accepted, the transaction aborts; afterwards it is committed.
    ///
    /// # Errors
    /// [`CommitError`]: not committed, unless it is [`CommitError::Indeterminate`]; the transaction has ended.
    pub async fn commit(&mut self) -> Result<Commit, CommitError> {
        let accepted = self.accept().await?;
        if accepted.csn <= self.shared.horizon.durable() {
            return Ok(Commit { csn: accepted.csn, durable: true });
        }
        let durable = self.shared.settle(&accepted).await?;
        Ok(Commit { csn: accepted.csn, durable })
    }

    async fn accept(&mut self) -> Result<Accepted, CommitError> {
        self.check_active()?;
        if self.writes.is_empty() {
            // What it saw is one moment, whether something has changed since or not.
            let csn = self.snapshot().unwrap_or_else(|| self.shared.horizon.visible());
            self.end();
            return Ok(Accepted { csn, capture: None });
        }
        if let Err(refusal) = self.owner.begin_commit() {
            self.abort();
            return Err(self.refused(refused(refusal, self.shared.options.lock_timeout)).into());
        }
        // From here on only the end is left, whatever it is. (Dropped before it is accepted, it aborts.)
        // (Who only writes doesn't hold what it has seen while it waits for memory: that may be what takes it.)
        let view = self.reads.as_ref().and(self.snapshot.as_ref()).and_then(Snapshot::view);
        let since = self.snapshot().unwrap_or_default();
        let reads = match (&self.reads, &view) {
            (Some(reads), Some(view)) => Some((reads, &**view, since)),
            (Some(_), None) => return Err(self.refused(TxError::SnapshotTooOld).into()),
            (None, _) => None,
        };
        let candidate = Candidate { txn: self.id, writes: Writes::Set(&self.writes), owner: Some(&self.owner), reads };
        let accepted = self.shared.accept(&candidate).await;
        match accepted {
            Ok(accepted) => {
                self.forget();
                Ok(accepted)
            }
            Err(Rejected::Never(error)) => {
                self.abort();
                if let CommitError::Not(error) = &error {
                    self.shared.counts.refused(error);
                }
                Err(error)
            }
            // (Of other writes than these.)
            Err(Rejected::RowTaken | Rejected::Catalog(_)) => {
                self.abort();
                Err(TxError::Ended.into())
            }
        }
    }

    /// Commits nothing but a new index with its entries. It has ended then.
    pub(super) async fn accept_index(
        &mut self,
        name: &str,
        kind: &TableKind,
        entries: &Entries,
    ) -> Result<Accepted, Rejected> {
        let timeout = self.shared.options.lock_timeout;
        let begun = self.owner.begin_commit();
        begun.map_err(|refusal| Rejected::Never(self.refused(refused(refusal, timeout)).into()))?;
        let writes = Writes::Create(name, kind, entries);
        let candidate = Candidate { txn: self.id, writes, owner: Some(&self.owner), reads: None };
        let accepted = self.shared.accept(&candidate).await;
        match &accepted {
            Ok(_) => self.forget(),
            Err(_) => self.abort(),
        }
        accepted
    }

    /// Takes everything back. Nobody saw any of it.
    pub fn abort(&mut self) {
        if !self.ended {
            self.shared.counts.abort();
            self.end();
        }
    }

    /// Ends it without a commit.
    fn end(&mut self) {
        self.shared.locks.end(&self.owner);
        self.forget();
    }

    /// It has ended; whose its locks are now is another matter.
    fn forget(&mut self) {
        self.ended = true;
        self.writes.rollback();
        self.reads = None;
        if let Some(snapshot) = self.snapshot.take() {
            self.shared.horizon.end(&snapshot);
        }
    }

    fn view(&mut self) -> Result<Arc<View<S::State>>, TxError> {
        let view = self.snapshot.as_ref().and_then(Snapshot::view);
        view.ok_or_else(|| self.refused(TxError::SnapshotTooOld))
    }

    /// Reads go on after the end.
    fn check_read(&mut self, table: &Table) -> Result<(), TxError> {
        self.shared.alive()?;
        if !self.ended {
            self.check_active()?;
        }
        self.shared.check_readable(table)
    }

    fn check_write(&mut self, table: &Table) -> Result<(), TxError> {
        self.shared.alive()?;
        self.check_active()?;
        if self.options.read_only {
            return Err(TxError::ReadOnly);
        }
        self.shared.check_writable(table)
    }

    /// An older transaction may have taken its locks; then it has ended.
    fn check_active(&mut self) -> Result<(), TxError> {
        if self.ended {
            return Err(TxError::Ended);
        }
        let checked = self.owner.check();
        checked.map_err(|refusal| self.refused(refused(refusal, self.shared.options.lock_timeout)))
    }

    fn conflict(&mut self, conflict: Conflict) -> TxError {
        self.refused(TxError::Conflict(conflict))
    }

    /// With a conflict, or without its snapshot, it has ended.
    fn refused(&mut self, error: TxError) -> TxError {
        self.shared.counts.refused(&error);
        if matches!(error, TxError::Conflict(_) | TxError::SnapshotTooOld) {
            self.abort();
        }
        error
    }
}

impl<E: Env, S: Storage<E>> Drop for Tx<E, S> {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Waits for a lock. The keeper has to know that there is a deadline.
async fn rousing<E: Env, S: Storage<E>, T>(shared: &Shared<E, S>, lock: impl Future<Output = T>) -> T {
    let mut lock = pin!(lock);
    let mut roused = false;
    std::future::poll_fn(|context| {
        let polled = lock.as_mut().poll(context);
        if polled.is_pending() && !roused {
            roused = true;
            shared.gates.keeper.open();
        }
        polled
    })
    .await
}

/// The first key behind all that begin with a prefix; `None` if there is none.
fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

#[cfg(test)]
mod tests {
    use super::behind_prefix;

    #[test]
    fn a_prefix_ends_where_the_next_one_begins() {
        for (prefix, behind) in [
            (&b"a"[..], Some(&b"b"[..])),
            (b"a\xff", Some(b"b")),
            (b"a\xfe\xff\xff", Some(b"a\xff")),
            (b"", None),
            (b"\xff\xff", None),
        ] {
            assert_eq!(behind_prefix(prefix).as_deref(), behind);
        }
    }
}

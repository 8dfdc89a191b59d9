//! A client's place at the store: the transaction that it has open, and its steps. Every answer is held against the truth.

use std::{
    future::{Future, poll_fn},
    ops::Bound,
    pin::pin,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use engine::txn::{
    Commit, Retry, Store, Table, Tx,
    catalog::TableKind,
    error::{CommitError, Conflict, TableError, TxError},
    ids::Csn,
    options::{Isolation, Sync, TableOptions, TxOptions},
    pages::Pages,
    storage::{Direction, StorageError},
};

use super::Visibility;
use crate::{
    env::SimEnv,
    fault::Fault,
    report::Violation,
    subject::{Stepped, Surroundings},
    truth::txn::{Key, Kind, Standing, Truth, broken, lock},
    workload::{
        Level, Step,
        statement::{INDEX, MEMORY, key_bytes},
    },
};

/// Tables that clients use, by number.
pub(super) const NAMES: [&str; 6] = ["k0", "k1", "k2", "k3", "k4", "k5"];
/// Where each transaction leaves its number.
pub(super) const DONE: &str = "done";
/// The function of the index.
pub(super) const DERIVE: &str = "by value";

/// The store as clients see it.
type Shop<const B: usize> = Store<SimEnv, Pages<SimEnv, B>>;

/// What a client has open.
#[derive(Default)]
pub struct Seat<const B: usize> {
    open: Option<Open<B>>,
    /// What its last transaction did was in vain: the next one does it over.
    retry: Option<(Retry, u64)>,
}

struct Open<const B: usize> {
    tx: Tx<SimEnv, Pages<SimEnv, B>>,
    number: u64,
}

/// One step of a client.
pub(super) struct Walk<'a, const B: usize> {
    pub(super) store: &'a Shop<B>,
    pub(super) around: &'a Surroundings,
}

pub(super) fn said(answer: impl Into<String>) -> Stepped {
    Stepped { answer: answer.into(), after: None }
}

/// A row's key, as the truth has it.
fn row(table: &Table, key: &[u8]) -> Key {
    (table.id().0, key.to_vec())
}

impl<const B: usize> Walk<'_, B> {
    pub(super) async fn step(&self, seat: &mut Seat<B>, step: Step) -> Result<Stepped, Violation> {
        self.prepare().await?;
        match step {
            Step::Begin(level) => self.begin(seat, level),
            Step::Put { table, key, bytes } => self.write(seat, table, key, Some(bytes)).await,
            Step::Delete { table, key } => self.write(seat, table, key, None).await,
            Step::Get { table: INDEX, key } => {
                let key = [&[b'0' + (key % 8) as u8][..], &key_bytes(key)].concat();
                let behind = [&key[..], &[0]].concat();
                self.scan(seat, INDEX, (key, behind), Direction::Forward).await
            }
            Step::Get { table, key } => self.get(seat, table, key).await,
            Step::Scan { table, from, to, back } => {
                let direction = if back { Direction::Backward } else { Direction::Forward };
                let digit = |key: u64| vec![b'0' + (key % 8) as u8];
                let range = if table == INDEX { (digit(from), digit(to)) } else { (key_bytes(from), key_bytes(to)) };
                self.scan(seat, table, range, direction).await
            }
            Step::Prefix { table, tens } => self.prefix(seat, table, tens).await,
            Step::Save(name) => self.savepoint(seat, name),
            Step::Undo(name) => self.rollback(seat, name),
            Step::Commit => self.commit(seat).await,
            Step::Submit => self.submit(seat).await,
            Step::Abandon => self.abandon(seat).await,
            Step::Abort => {
                if let Some(open) = &mut seat.open {
                    self.truth(|truth| truth.ended(open.number, Standing::Aborted));
                    open.tx.abort();
                }
                Ok(said("aborted"))
            }
            Step::Leave => {
                self.leave(seat);
                Ok(said("left"))
            }
            Step::Create(table) => self.create(seat, table).await,
            Step::Drop(table) => self.drop_table(table).await,
            Step::Load { table, rows, bytes, back } => self.load(table, rows, bytes, back).await,
            Step::Sync => match self.store.sync().await {
                Ok(csn) => {
                    self.truth(|truth| truth.durable(csn.to_bits()));
                    Ok(Stepped { answer: format!("{csn}"), after: Some("after a sync") })
                }
                Err(error) => Ok(said(error.to_string())),
            },
            Step::Checkpoint { wait } => self.checkpoint(wait).await,
            Step::Backup => self.backup().await,
            Step::Bad(misuse) => self.misuse(misuse).await,
        }
    }

    pub(super) fn truth<T>(&self, look: impl FnOnce(&mut Truth) -> T) -> T {
        look(&mut lock(&self.around.truth))
    }

    /// Whether only what is durable is seen.
    fn needs_durable(&self) -> bool {
        let txn = &self.around.options.txn;
        let usual = if txn.sync == Sync::Instant { Visibility::Durable } else { Visibility::Committed };
        txn.visibility.unwrap_or(usual) == Visibility::Durable
    }

    fn begin(&self, seat: &mut Seat<B>, level: Level) -> Result<Stepped, Violation> {
        self.leave(seat);
        let isolation = match level {
            Level::Committed => Isolation::ReadCommitted,
            Level::Snapshot | Level::ReadOnly => Isolation::Snapshot,
            Level::Serializable => Isolation::Serializable,
        };
        let retry = seat.retry.take();
        let options =
            TxOptions { isolation, read_only: level == Level::ReadOnly, retry_of: retry.map(|(retry, _)| retry) };
        self.meet_loaded()?;
        let number = self.truth(|truth| truth.begins(level));
        let tx = match self.store.begin(options) {
            Ok(tx) => tx,
            Err(error) => {
                self.truth(|truth| truth.ended(number, Standing::Failed));
                self.judge(&error, None)?;
                return Ok(said(error.to_string()));
            }
        };
        let (id, snapshot) = (tx.id().to_bits(), tx.snapshot().map(Csn::to_bits));
        self.truth(|truth| truth.begun(number, id, retry.map(|(_, first)| first), snapshot, self.needs_durable()))?;
        seat.open = Some(Open { tx, number });
        let after = Some("after a snapshot was taken").filter(|_| snapshot.is_some() && self.needs_durable());
        Ok(Stepped { answer: format!("transaction {number}, snapshot {snapshot:?}"), after })
    }

    fn leave(&self, seat: &mut Seat<B>) {
        if let Some(open) = seat.open.take() {
            self.truth(|truth| truth.ended(open.number, Standing::Aborted));
        }
    }

    /// A table by its number. It is there if the truth says so.
    fn table(&self, name: &str) -> Result<Option<Table>, Violation> {
        self.meet_loaded()?;
        let known = self.truth(|truth| truth.table(name));
        match (self.store.table(name), known) {
            (Ok(table), Some(id)) if table.id().0 == id => Ok(Some(table)),
            (Err(TxError::UnknownTable(_)), None) => Ok(None),
            (found, known) => {
                broken("I13", format!("table {name} is {known:?}"), format!("{:?}", found.map(|table| table.id())))?;
                Ok(None)
            }
        }
    }

    async fn write(&self, seat: &mut Seat<B>, table: u64, key: u64, bytes: Option<u64>) -> Result<Stepped, Violation> {
        let Some(table) = self.table(NAMES[table as usize])? else { return Ok(said("no such table")) };
        let (key, most) = (key_bytes(key), super::most_value_bytes(&self.around.options));
        let Some(open) = &mut seat.open else {
            return self.write_once(&table, &key, bytes.map(|bytes| bytes.min(most))).await;
        };
        let number = open.number;
        let value = bytes.map(|bytes| self.truth(|truth| truth.issue(number, bytes.min(most))));
        // (Who writes an indexed row may have to read, and who creates the index has a lock of its own.)
        let at_once = table.name() != NAMES[0] && self.truth(|truth| truth.waits(number, row(&table, &key)));
        let written = match &value {
            Some(value) => waiting(open.tx.put(&table, &key, value)).await,
            None => waiting(open.tx.delete(&table, &key)).await,
        };
        self.truth(|truth| truth.waited(number));
        let (written, waited) = written;
        if waited && at_once {
            let expected = format!("transaction {number} takes the row of a younger one at once");
            broken("I20", expected, "it waited")?;
        }
        match written {
            Ok(()) if !self.truth(|truth| truth.is_open(number)) => {
                broken("I21", format!("transaction {number} has ended, and writes nothing"), "it wrote")
                    .map(|()| Stepped::default())
            }
            Ok(()) => {
                self.truth(|truth| truth.wrote(number, row(&table, &key), value));
                Ok(said("written"))
            }
            Err(error) => self.failed(seat, &error),
        }
    }

    async fn write_once(&self, table: &Table, key: &[u8], bytes: Option<u64>) -> Result<Stepped, Violation> {
        let number = self.truth(|truth| truth.begins(Level::Committed));
        let value = bytes.map(|bytes| self.truth(|truth| truth.issue(number, bytes)));
        self.truth(|truth| {
            truth.wrote(number, row(table, key), value.clone());
            truth.ended(number, Standing::Committing);
        });
        let committed = match &value {
            Some(value) => self.accepting(number, self.store.put(table, key, value)).await?,
            None => self.accepting(number, self.store.delete(table, key)).await?,
        };
        self.committed(number, &committed)
    }

    async fn get(&self, seat: &mut Seat<B>, table: u64, key: u64) -> Result<Stepped, Violation> {
        let Some(table) = self.table(NAMES[table as usize])? else { return Ok(said("no such table")) };
        let key = key_bytes(key);
        let low = self.store.visible().to_bits();
        if seat.open.as_ref().is_none_or(|open| open.tx.snapshot().is_none()) {
            self.truth(|truth| truth.sees(low, self.needs_durable()))?;
        }
        let (number, snapshot, found) = match &mut seat.open {
            Some(open) => (Some(open.number), open.tx.snapshot(), open.tx.get(&table, &key).await),
            None => (None, None, self.store.get(&table, &key).await),
        };
        let moments = match snapshot {
            Some(snapshot) => (snapshot.to_bits(), snapshot.to_bits()),
            None => (low, self.store.visible().to_bits()),
        };
        match found {
            Ok(found) => {
                let found = found.map(|value| Bytes::copy_from_slice(&value));
                self.truth(|truth| truth.got(number, &row(&table, &key), found.as_ref(), moments))?;
                Ok(said(if found.is_some() { "found" } else { "absent" }))
            }
            Err(error) => self.failed(seat, &error),
        }
    }

    async fn prefix(&self, seat: &mut Seat<B>, table: u64, tens: u64) -> Result<Stepped, Violation> {
        let prefix = if table == INDEX { vec![b'0' + (tens % 8) as u8] } else { format!("k{tens}").into_bytes() };
        let mut behind = prefix.clone();
        if let Some(last) = behind.last_mut() {
            *last += 1;
        }
        self.read_range(seat, table, (prefix, behind), Direction::Forward, true).await
    }

    async fn scan(
        &self,
        seat: &mut Seat<B>,
        table: u64,
        range: (Vec<u8>, Vec<u8>),
        way: Direction,
    ) -> Result<Stepped, Violation> {
        self.read_range(seat, table, range, way, false).await
    }

    /// All of a range, or of a prefix, in one statement.
    async fn read_range(
        &self,
        seat: &mut Seat<B>,
        table: u64,
        (from, to): (Vec<u8>, Vec<u8>),
        way: Direction,
        prefix: bool,
    ) -> Result<Stepped, Violation> {
        let Some(table) = self.table(NAMES[table as usize])? else { return Ok(said("no such table")) };
        let by_itself = seat.open.is_none();
        if by_itself {
            self.begin(seat, Level::Committed)?;
        }
        let Some(open) = &mut seat.open else { return Ok(said("no transaction")) };
        let at = open.tx.snapshot().unwrap_or_else(|| self.store.visible()).to_bits();
        if open.tx.snapshot().is_none() {
            self.truth(|truth| truth.sees(at, self.needs_durable()))?;
        }
        let number = open.number;
        let found = collect(&mut open.tx, &table, (&from, &to), way, prefix).await;
        let stepped = match found {
            Ok(found) => {
                self.truth(|truth| truth.scanned(Some(number), table.id().0, (&from, &to), &found, at))?;
                said(format!("{} keys", found.len()))
            }
            Err(error) => self.failed(seat, &error)?,
        };
        if by_itself {
            self.leave(seat);
        }
        Ok(stepped)
    }

    fn savepoint(&self, seat: &mut Seat<B>, name: u64) -> Result<Stepped, Violation> {
        let Some(open) = &mut seat.open else { return Ok(said("no transaction")) };
        match open.tx.savepoint(&name.to_string()) {
            Ok(()) => self.truth(|truth| truth.saved(open.number, name)),
            Err(error) => return self.failed(seat, &error),
        }
        Ok(said("saved"))
    }

    fn rollback(&self, seat: &mut Seat<B>, name: u64) -> Result<Stepped, Violation> {
        let Some(open) = &mut seat.open else { return Ok(said("no transaction")) };
        let known = self.truth(|truth| truth.has_savepoint(open.number, name));
        match open.tx.rollback_to(&name.to_string()) {
            Ok(()) if known => {
                self.truth(|truth| truth.undone(open.number, name));
                Ok(said("undone"))
            }
            Err(TxError::UnknownSavepoint(_)) if !known => Ok(said("unknown")),
            Ok(()) | Err(TxError::UnknownSavepoint(_)) => {
                broken("I21", format!("savepoint {name} is known: {known}"), "the opposite")
                    .map(|()| Stepped::default())
            }
            Err(error) => self.failed(seat, &error),
        }
    }

    /// Leaves the transaction's number behind, and how much it wrote. False if that fails, and so the transaction has.
    async fn receipt(&self, seat: &mut Seat<B>) -> Result<bool, Violation> {
        let Some(open) = &mut seat.open else { return Ok(false) };
        let number = open.number;
        let written = self.truth(|truth| {
            let one = truth.transactions().get(&number);
            one.filter(|one| one.standing == Standing::Open).map_or(0, |one| one.writes.len())
        });
        if let (Some(done), true) = (self.table(DONE)?, written > 0) {
            let (key, value) = (number.to_be_bytes(), self.truth(|truth| truth.issue(number, 8)));
            match open.tx.put(&done, &key, &value).await {
                Ok(()) => self.truth(|truth| truth.wrote(number, row(&done, &key), Some(value))),
                Err(error) => {
                    self.failed(seat, &error)?;
                    self.leave(seat);
                    return Ok(false);
                }
            }
        }
        self.truth(|truth| truth.ended(number, Standing::Committing));
        Ok(true)
    }

    async fn commit(&self, seat: &mut Seat<B>) -> Result<Stepped, Violation> {
        if !self.receipt(seat).await? {
            return Ok(said("no transaction"));
        }
        let Some(mut open) = seat.open.take() else { return Ok(said("no transaction")) };
        let committed = self.accepting(open.number, open.tx.commit()).await?;
        self.remember(seat, &open, committed.as_ref().err());
        self.committed(open.number, &committed)
    }

    async fn submit(&self, seat: &mut Seat<B>) -> Result<Stepped, Violation> {
        if !self.receipt(seat).await? {
            return Ok(said("no transaction"));
        }
        let Some(mut open) = seat.open.take() else { return Ok(said("no transaction")) };
        let number = open.number;
        let submitted = self.accepting(number, open.tx.submit()).await?;
        self.remember(seat, &open, submitted.as_ref().err());
        let ticket = match submitted {
            Ok(ticket) => ticket,
            Err(error) => return self.committed(number, &Err(error)),
        };
        let csn = ticket.csn();
        self.committed(number, &Ok(Commit { csn, durable: false }))?;
        // (What was read alone is not a commit, and waits for nothing.)
        let waits = number.is_multiple_of(2) && self.truth(|truth| truth.is_accepted(number));
        match if waits { ticket.durable().await } else { return Ok(said(format!("accepted as {csn}"))) } {
            Ok(()) => self.committed(number, &Ok(Commit { csn, durable: true })),
            Err(error) => Ok(said(error.to_string())),
        }
    }

    async fn abandon(&self, seat: &mut Seat<B>) -> Result<Stepped, Violation> {
        if !self.receipt(seat).await? {
            return Ok(said("no transaction"));
        }
        let Some(mut open) = seat.open.take() else { return Ok(said("no transaction")) };
        let number = open.number;
        let mut check = Ok(());
        {
            let mut commit = pin!(open.tx.commit());
            for _ in 0..1 + number % 3 {
                let polled = poll_fn(|context| {
                    let before = self.store.committed();
                    let polled = commit.as_mut().poll(context);
                    Poll::Ready((polled, (self.store.committed() > before).then(|| self.store.committed())))
                });
                let (polled, accepted) = polled.await;
                if let Some(csn) = accepted {
                    check = check.and(self.truth(|truth| truth.accepted(number, csn.to_bits())));
                }
                if polled.is_ready() {
                    break;
                }
                madsim::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.truth(|truth| truth.ended(number, Standing::Aborted));
        check.map(|()| said("abandoned"))
    }

    /// Waits for what may commit. It is accepted in the poll in which the last commit changes: nobody else does anything meanwhile.
    async fn accepting<T>(&self, number: u64, commit: impl Future<Output = T>) -> Result<T, Violation> {
        self.observed(commit, |truth, csn| truth.accepted(number, csn)).await
    }

    async fn observed<T>(
        &self,
        work: impl Future<Output = T>,
        mut accepted: impl FnMut(&mut Truth, u64) -> Result<(), Violation>,
    ) -> Result<T, Violation> {
        let mut work = pin!(work);
        let mut check = Ok(());
        let answer = poll_fn(|context| {
            let before = self.store.committed();
            let polled = work.as_mut().poll(context);
            let after = self.store.committed();
            if after > before {
                let told = self.truth(|truth| accepted(truth, after.to_bits()));
                check = std::mem::replace(&mut check, Ok(())).and(told);
            }
            polled
        });
        let answer = answer.await;
        check.map(|()| answer)
    }

    /// A commit was answered.
    fn committed(&self, number: u64, answer: &Result<Commit, CommitError>) -> Result<Stepped, Violation> {
        match answer {
            Ok(Commit { csn, durable }) => {
                let visible = *durable || !self.needs_durable();
                self.truth(|truth| {
                    // (Who wrote nothing is told what it saw.)
                    truth.ended(number, Standing::Aborted);
                    if *durable {
                        truth.durable(csn.to_bits());
                    }
                    truth.acknowledged(number, csn.to_bits(), visible)
                })?;
                let after = durable.then_some("after a commit");
                Ok(Stepped { answer: format!("transaction {number} is commit {csn}, durable: {durable}"), after })
            }
            Err(CommitError::Indeterminate { csn, .. }) => Ok(said(format!("commit {csn} is accepted, and not known"))),
            Err(error) => {
                if self.truth(|truth| truth.is_accepted(number)) {
                    broken("I21", format!("transaction {number} is not committed: {error}"), "it was accepted")?;
                }
                self.truth(|truth| truth.ended(number, Standing::Failed));
                if let CommitError::Not(error) = error {
                    self.judge(error, Some(number))?;
                }
                Ok(said(error.to_string()))
            }
        }
    }

    fn remember(&self, seat: &mut Seat<B>, open: &Open<B>, error: Option<&CommitError>) {
        if error.is_some_and(CommitError::is_retryable) {
            seat.retry = Some((open.tx.retry(), self.age(open.number)));
        }
    }

    fn age(&self, number: u64) -> u64 {
        self.truth(|truth| truth.transactions().get(&number).map_or(0, |one| one.age.0))
    }

    /// A statement of the open transaction failed.
    fn failed(&self, seat: &mut Seat<B>, error: &TxError) -> Result<Stepped, Violation> {
        let number = seat.open.as_ref().map(|open| open.number);
        if let (TxError::Conflict(conflict), Some(open)) = (error, &seat.open) {
            seat.retry = Some((open.tx.retry(), self.age(open.number)));
            if let (Conflict::WriteWrite { newer }, Some(snapshot)) = (conflict, open.tx.snapshot())
                && *newer <= snapshot
            {
                broken("I27", format!("a commit above the snapshot {snapshot}"), newer.to_string())?;
            }
        }
        self.judge(error, number)?;
        if let (TxError::Conflict(_) | TxError::SnapshotTooOld, Some(number)) = (error, number) {
            self.truth(|truth| truth.ended(number, Standing::Failed));
        }
        Ok(said(error.to_string()))
    }

    /// Whether something may fail like this.
    pub(super) fn judge(&self, error: &TxError, number: Option<u64>) -> Result<(), Violation> {
        let machine = &self.around.machine;
        let fired = Fault::ALL.iter().any(|fault| machine.fired().count(*fault) > 0);
        let holds = match error {
            TxError::Ended => number.is_none_or(|number| !self.truth(|truth| truth.is_open(number))),
            TxError::ReadOnly => number.is_some_and(|number| self.truth(|truth| truth.is_read_only(number))),
            TxError::IndexIsDerived(name) => name == NAMES[INDEX as usize],
            // (It was dropped while this waited.)
            TxError::UnknownTable(_) | TxError::Timeout(_) | TxError::TooLarge { .. } => true,
            TxError::Conflict(_) => number.is_some(),
            TxError::Storage(StorageError::Corrupt { .. }) => machine.marked_errors() > 0,
            TxError::Storage(_) | TxError::IndexUnusable(_) | TxError::Poisoned(_) => fired,
            _ => false,
        };
        if holds { Ok(()) } else { broken("I21", "a statement fails only for a reason", error.to_string()) }
    }

    async fn create(&self, seat: &Seat<B>, table: u64) -> Result<Stepped, Violation> {
        let name = NAMES[table as usize];
        let kind = match table {
            MEMORY => TableKind::Memory,
            INDEX => match self.table(NAMES[0])? {
                // (It would wait for its own transaction.)
                Some(of) if seat.open.is_none() => TableKind::Index { of: of.id(), derive: DERIVE.into() },
                _ => return Ok(said("not now")),
            },
            _ => TableKind::Rows,
        };
        self.create_named(name, kind).await
    }

    /// Creates what there never was of the tables that every plan has.
    async fn prepare(&self) -> Result<(), Violation> {
        for name in [NAMES[0], NAMES[1], NAMES[2], DONE] {
            if self.truth(|truth| truth.lacks(name)) {
                self.create_named(name, TableKind::Rows).await?;
            }
        }
        Ok(())
    }

    async fn create_named(&self, name: &str, kind: TableKind) -> Result<Stepped, Violation> {
        let told = kind_of(&kind);
        let created = self.store.create_table_with(name, TableOptions { kind });
        let created = self.observed(created, |truth, csn| {
            let id = self.store.tables().iter().find(|info| *info.name == *name).map_or(0, |info| info.id.0);
            truth.created(id, name, told, csn);
            Ok(())
        });
        match created.await? {
            Ok(_) => Ok(said("created")),
            Err(error) => self.not_changed(&error, name),
        }
    }

    async fn drop_table(&self, table: u64) -> Result<Stepped, Violation> {
        let name = NAMES[table as usize];
        let Some(table) = self.table(name)? else { return Ok(said("no such table")) };
        let dropped = self.observed(self.store.drop_table(name), |truth, csn| truth.dropped(table.id().0, csn));
        match dropped.await? {
            Ok(()) => Ok(said("dropped")),
            Err(error) => self.not_changed(&error, name),
        }
    }

    /// Whether the catalog may be left as it is for this reason.
    pub(super) fn not_changed(&self, error: &TableError, name: &str) -> Result<Stepped, Violation> {
        self.meet_loaded()?;
        let there = self.truth(|truth| truth.table(name).is_some() || truth.loading().is_some_and(|of| of == name));
        let indexed = self.truth(|truth| truth.table(NAMES[INDEX as usize])).is_some();
        let holds = match error {
            TableError::Exists(_) => there,
            TableError::Unknown(_) | TableError::NotRows(_) => true,
            TableError::HasIndex(_) => indexed && name == NAMES[0],
            TableError::Commit(CommitError::Not(error)) => {
                return self.judge(error, Some(0)).map(|()| said(error.to_string()));
            }
            TableError::Commit(_) => true,
            _ => false,
        };
        if !holds {
            broken("I21", format!("table {name} is there: {there}, indexed: {indexed}"), error.to_string())?;
        }
        Ok(said(error.to_string()))
    }
}

/// An answer, and whether it had to be waited for.
async fn waiting<T>(work: impl Future<Output = T>) -> (T, bool) {
    let (mut work, mut waited) = (pin!(work), false);
    let answer = poll_fn(|context| {
        let polled = work.as_mut().poll(context);
        waited |= polled.is_pending();
        polled
    });
    let answer = answer.await;
    (answer, waited)
}

/// What the truth calls it.
pub(super) fn kind_of(kind: &TableKind) -> Kind {
    match kind {
        TableKind::Rows => Kind::Rows,
        TableKind::Memory => Kind::Memory,
        TableKind::Index { of, .. } => Kind::Index(of.0),
    }
}

/// The keys of a range with their values, in ascending order.
async fn collect<const B: usize>(
    tx: &mut Tx<SimEnv, Pages<SimEnv, B>>,
    table: &Table,
    (from, to): (&[u8], &[u8]),
    way: Direction,
    prefix: bool,
) -> Result<Vec<(Vec<u8>, Bytes)>, TxError> {
    let mut scan = match prefix {
        true => tx.prefix(table, from, way)?,
        false => tx.scan(table, (Bound::Included(from), Bound::Excluded(to)), way)?,
    };
    let mut found = Vec::new();
    while let Some((key, value)) = scan.next().await? {
        found.push((key.to_vec(), Bytes::copy_from_slice(value)));
    }
    if way == Direction::Backward {
        found.reverse();
    }
    Ok(found)
}

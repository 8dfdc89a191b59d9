//! Where the tables of a store rest: what is asked of whoever keeps them, and what that promises at a crash.
//!
//! A **state** is all tables at one CSN. It never changes. The next one is made as a **draft**: the newest state with the changes of
//! each table merged in; publishing it is one step, before which nothing of it can be found, and after which it survives every crash.
//! What is newer than the newest state is in memory above, and in the logs.
//!
//! ```text
//! examine --load--> a storage that reads --establish--> and writes:   draft, merge.., publish   ..released
//!         --create--------------------------------------^
//! ```
//! [`MemoryStorage`](super::memory::MemoryStorage) is the model; [`Pages`](super::pages::Pages) is the default. Both pass one suite.

use std::{
    any::Any,
    future::Future,
    io,
    ops::{Bound, Deref},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use thiserror::Error;

use super::{
    catalog::Catalog,
    check::CheckReport,
    ids::{Csn, Epoch, TableId},
    pages::{BODY_BYTES, node::NodeRef},
    stats::StorageStats,
};
use crate::{env::Env, plant::Plants};

pub use super::blocks::{Blocks, Memory};

pub(super) mod files;
#[cfg(test)]
pub(super) mod suite;

/// Keys between two ends. One that ends before it begins has none.
pub type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the smallest key up.
    Forward,
    /// From the largest key down.
    Backward,
}

/// Changes in ascending order of their keys, each key once.
pub trait Changes {
    /// The change at hand, `None` at the end: a key with its new value, or with `None` if it is removed.
    fn current(&self) -> Option<(&[u8], Option<&[u8]>)>;

    /// Goes on to the next one.
    fn advance(&mut self);
}

/// Tables on a disk, in the directory of a store.
///
/// - A [`State`] is immutable and keeps its bytes while a clone of it lives.
/// - A table that is built from nothing needs no draft until it is whole: [`build`](Storage::build), [`extend`](Storage::extend)..,
///   [`complete`](Storage::complete), [`adopt`](Storage::adopt).
/// - One draft at a time. [`merge`](Storage::merge) changes nothing but the draft. A draft that is dropped was never there.
/// - Before [`publish`](Storage::publish) is called nothing of the draft can be found by a later `examine`. Once it is `Ok` the new
///   state survives every crash. [`PublishError::Unknown`] means either state; the storage takes no drafts any more.
/// - Space of an older state is written again only after [`released`](Storage::released), and only when no `State` needs it.
/// - What is given to it is committed, and durable elsewhere, before `merge` is called.
pub trait Storage<E: Env>: Send + Sync + Sized + 'static {
    /// Bytes of the longest key.
    const KEY_LIMIT_BYTES: usize;
    /// What was found in a directory.
    type Examined: Send;
    /// All tables at one CSN.
    type State: State;
    /// A state being written.
    type Draft: Send + 'static;
    /// A table that is being built apart from the states. Dropped, it was never there.
    type Build: Send + 'static;

    /// Looks at a directory that the caller has locked. Changes no byte of it. What is wrong with single root copies is among the
    /// answers: whether it matters depends on the logs.
    ///
    /// # Errors
    /// [`StorageError::Io`]: try again.
    fn examine(
        env: &E,
        dir: &E::Dir,
        options: &StorageOptions,
    ) -> impl Future<Output = Result<Self::Examined, StorageError>> + Send;

    /// What was found.
    fn roots(examined: &Self::Examined) -> &Roots;

    /// Looks at all that the best root leads to, and notes what is wrong with it; what root copies say by themselves is noted already.
    /// Changes no byte.
    fn check(_examined: &Self::Examined, _report: &mut CheckReport) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// The best root, [`Roots::best`], as the newest state: it can be read, and no byte was changed. Checks what stands between the
    /// root and its tables; their own pages are checked as they are read.
    ///
    /// # Errors
    /// `Io`, `NewerVersion`, `OtherStore`, `PageBytes`, `Corrupt`.
    fn load(examined: Self::Examined) -> impl Future<Output = Result<Self, StorageError>> + Send;

    /// A new storage without tables in a directory that has no root: its first root is durable when this returns, and needs no
    /// [`establish`](Storage::establish). After a crash or an error there is that root or none; then it is called again.
    ///
    /// # Errors
    /// `Io`.
    fn create(examined: Self::Examined, birth: Birth) -> impl Future<Output = Result<Self, StorageError>> + Send;

    /// Makes durable what [`load`](Storage::load) found, and takes out of the way what an interrupted publish has left; from here on
    /// drafts are taken. `stated` is the highest sequence of a root that anything outside states to be durable, or 0: new roots get
    /// higher ones.
    ///
    /// # Errors
    /// `Io`: nothing was decided, open the store anew; likewise if the future is dropped.
    fn establish(&self, stated: u64) -> impl Future<Output = Result<(), StorageError>> + Send;

    /// The newest state.
    fn newest(&self) -> Self::State;

    /// A draft of the state that follows the newest one, for all commits up to `to.csn`.
    ///
    /// # Errors
    /// `Busy`, `NotEstablished`, `Poisoned`.
    fn draft(&self, to: Point) -> Result<Self::Draft, StorageError>;

    /// Merges changes into a table of the draft; a table that it doesn't have begins empty. Several times for a table is as once.
    ///
    /// # Errors
    /// `Io`, `Corrupt`: the draft is of no use any more. It is to be dropped, and then another one may be begun.
    ///
    /// # Panics
    /// If a key is longer than [`Storage::KEY_LIMIT_BYTES`]: they are checked when they come in.
    fn merge<C: Changes + Send>(
        &self,
        draft: &mut Self::Draft,
        table: TableId,
        changes: &mut C,
    ) -> impl Future<Output = Result<(), StorageError>> + Send;

    /// Begins to build a table of this number, empty. Several may be under way, and a draft beside them.
    fn build(&self, table: TableId) -> Self::Build;

    /// Adds rows to what is built: above all that it has, and none is removed. Nothing of it is durable.
    ///
    /// # Errors
    /// `Io`: it is of no use any more. `Broken` then, if the future was dropped, and once it is complete.
    ///
    /// # Panics
    /// As [`merge`](Storage::merge).
    fn extend<C: Changes + Send>(
        &self,
        build: &mut Self::Build,
        rows: &mut C,
    ) -> impl Future<Output = Result<(), StorageError>> + Send;

    /// Asks the disk to begin with what is there of a build that is to be published, beside what is added to it: given now and then.
    fn hasten(&self, build: &mut Self::Build) {
        let _ = build;
    }

    /// Says that no more rows come. A cursor in front of the first.
    ///
    /// # Errors
    /// As [`extend`](Storage::extend).
    fn complete(
        &self,
        build: &mut Self::Build,
    ) -> impl Future<Output = Result<<Self::State as State>::Cursor, StorageError>> + Send;

    /// Makes what was built a table of the draft, which has none of this number. Publishing makes it durable.
    ///
    /// # Errors
    /// `Broken`: it isn't complete, or the draft has rows under its number.
    fn adopt(&self, draft: &mut Self::Draft, build: Self::Build) -> Result<(), StorageError>;

    /// Gives back at once what a build takes of the disk; what is only dropped goes at some later [`released`](Storage::released).
    fn discard(&self, build: Self::Build) -> impl Future<Output = ()> + Send;

    /// Makes the draft the newest state, with these tables. Those of it that are not among them are dropped, and their space with them.
    ///
    /// # Errors
    /// See [`PublishError`].
    fn publish(
        &self,
        draft: Self::Draft,
        catalog: Arc<Catalog>,
    ) -> impl Future<Output = Result<Self::State, PublishError>> + Send;

    /// Its numbers.
    fn stats(&self) -> StorageStats {
        StorageStats::default()
    }

    /// Nothing outside needs a state older than `state` any more: no log begins after it.
    fn released(&self, state: &Self::State) -> impl Future<Output = ()> + Send;
}

/// All tables at one CSN, to be read. Clones are the same state.
pub trait State: Clone + Send + Sync + 'static {
    /// A walk over a table of it.
    type Cursor: Cursor;

    /// Its numbers.
    fn meta(&self) -> &RootMeta;

    /// Its tables.
    fn catalog(&self) -> &Arc<Catalog>;

    /// Looks a key up without waiting for the disk. A table that there isn't is empty.
    fn get_now(&self, table: TableId, key: &[u8]) -> Lookup;

    /// Looks keys of one table up as [`State::get_now`] does, one answer for each in their order behind what `found` holds. Who can
    /// wait for the memory of several at a time overrides it.
    fn get_many_now(&self, table: TableId, keys: &[&[u8]], found: &mut Vec<Lookup>) {
        found.extend(keys.iter().map(|key| self.get_now(table, key)));
    }

    /// Looks a key up. A table that there isn't is empty.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    fn get(&self, table: TableId, key: &[u8]) -> impl Future<Output = Result<Option<Value>, StorageError>> + Send;

    /// A cursor in front of the first key of a range, in its direction.
    fn cursor(&self, table: TableId, range: KeyRange<'_>, direction: Direction) -> Self::Cursor;
}

/// A walk over the keys of a table within a range. It keeps its state.
pub trait Cursor: Send + 'static {
    /// Goes on to the next key; false at the end, and from then on.
    ///
    /// # Errors
    /// `Io`, `Corrupt`: it is at no key, and goes on with the one that it didn't reach. So it does if the future is dropped.
    fn advance(&mut self) -> impl Future<Output = Result<bool, StorageError>> + Send;

    /// The same where the next key is at hand; else false, and [`Cursor::advance`] tells. Who has most of them at hand overrides it.
    fn advance_now(&mut self) -> bool {
        false
    }

    /// The key that it is at, with its value; `None` before the first one and at the end.
    fn current(&self) -> Option<(&[u8], &[u8])>;
}

/// What a look-up in memory gave.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The key has this value.
    Found(Value),
    /// There is no such key.
    Absent,
    /// The disk has to be asked.
    NotInMemory,
}

/// Bytes of a value. It keeps what they stand in.
#[derive(Clone)]
pub struct Value(Held);

#[derive(Clone)]
enum Held {
    Shared(Arc<[u8]>),
    Page { page: NodeRef<BODY_BYTES>, from: u32, bytes: u32 },
}

impl Value {
    /// A part of a page; empty where there is no such. (Of a page of another size than the usual one it is a copy.)
    pub(super) fn of_page<const B: usize>(page: &NodeRef<B>, from: usize, bytes: usize) -> Value {
        match (page as &dyn Any).downcast_ref::<NodeRef<BODY_BYTES>>() {
            Some(page) => Value(Held::Page { page: NodeRef::clone(page), from: from as u32, bytes: bytes as u32 }),
            None => Value(Held::Shared(part(page.body(), from, bytes).into())),
        }
    }
}

impl From<Arc<[u8]>> for Value {
    fn from(bytes: Arc<[u8]>) -> Value {
        Value(Held::Shared(bytes))
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Shared(bytes) => bytes,
            Held::Page { page, from, bytes } => part(page.body(), *from as usize, *bytes as usize),
        }
    }
}

fn part(body: &[u8], from: usize, bytes: usize) -> &[u8] {
    body.get(from..).and_then(|rest| rest.get(..bytes)).unwrap_or_default()
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.escape_ascii())
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Value {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

/// How a storage is used. A start: [`StorageOptions::new`].
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// Free memory, and what holds the bound on it, shared with whoever else takes of it and counts there.
    pub blocks: Arc<Blocks>,
    /// Length of a chunk file, in bytes: 16 pages to 256 MiB, and at most what one bitmap page covers; else the nearest.
    pub chunk_bytes: u64,
    /// How much of a draft is written at a time, in bytes: at least a page.
    pub piece_bytes: u64,
    /// Who is let go first: after each piece of a draft a pause of three times as long as somebody waited last, while anybody waits. Drafts are
    /// then written only in what [`Env::spawn`] runs.
    pub waiting: Option<Arc<Waiting>>,
    /// A planted bug.
    #[cfg(feature = "plants")]
    pub plants: Plants,
}

impl StorageOptions {
    /// The defaults: chunks of 256 MiB, pieces of 512 KiB, and these blocks.
    #[must_use]
    pub fn new(blocks: Arc<Blocks>) -> StorageOptions {
        StorageOptions {
            blocks,
            chunk_bytes: 256 << 20,
            piece_bytes: 512 << 10,
            waiting: None,
            #[cfg(feature = "plants")]
            plants: Plants::default(),
        }
    }

    #[cfg(feature = "plants")]
    pub(super) fn plants(&self) -> Plants {
        self.plants.clone()
    }

    #[cfg(not(feature = "plants"))]
    pub(super) fn plants(&self) -> Plants {
        Plants::default()
    }
}

/// How many wait until something else than a draft is durable, how many did, and how long that took last.
#[derive(Debug, Default)]
pub struct Waiting {
    now: AtomicU64,
    served: AtomicU64,
    last_us: AtomicU64,
}

/// One who waits, until it is dropped.
#[derive(Debug)]
pub struct Waiter<'a>(&'a Waiting);

impl Waiting {
    /// One more waits.
    pub fn enter(&self) -> Waiter<'_> {
        self.now.fetch_add(1, Ordering::Relaxed);
        Waiter(self)
    }

    /// How often somebody has waited to the end.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// How long that took last, to the microsecond; zero before anybody did.
    #[must_use]
    pub fn last(&self) -> Duration {
        Duration::from_micros(self.last_us.load(Ordering::Relaxed))
    }

    /// Whether anybody does.
    #[must_use]
    pub fn any(&self) -> bool {
        self.now.load(Ordering::Relaxed) > 0
    }
}

impl Waiter<'_> {
    /// It is durable, after so long.
    pub fn served(self, after: Duration) {
        self.0.last_us.store(after.as_micros() as u64, Ordering::Relaxed);
        self.0.served.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where the logs stand when a draft is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The last commit that it holds.
    pub csn: Csn,
    /// What the next commit's CSN is.
    pub next_csn: Csn,
    /// The epoch that it is made in.
    pub epoch: Epoch,
}

impl Point {
    /// No commit yet, and the first epoch's first one next.
    #[must_use]
    pub fn of_new_store() -> Point {
        Point { csn: Csn::default(), next_csn: Csn::first(Epoch::FIRST), epoch: Epoch::FIRST }
    }
}

/// What a new store is given for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    /// Its name among all stores.
    pub uuid: [u8; 16],
    /// How many logs it has: 1 to 16.
    pub logs: u16,
}

impl Birth {
    /// What the first root says of itself.
    pub(super) fn root(&self, catalog: &Catalog, wall_ns: i64) -> RootMeta {
        RootMeta {
            uuid: self.uuid,
            sequence: 0,
            point: Point::of_new_store(),
            next_table: catalog.next(),
            logs: self.logs,
            wall_ns,
        }
    }
}

/// What a root says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootMeta {
    /// The store.
    pub uuid: [u8; 16],
    /// Which root: 0 is that of a new store, and later ones have higher numbers.
    pub sequence: u64,
    /// Where the logs stood.
    pub point: Point,
    /// The number of the next table.
    pub next_table: TableId,
    /// How many logs the store has.
    pub logs: u16,
    /// When it was written, in nanoseconds since the Unix epoch; for people.
    pub wall_ns: i64,
}

/// One of the places where a root may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCopy {
    /// There is no such file.
    Absent,
    /// It was written by a newer version.
    Newer,
    /// It can't be read: torn or damaged.
    Unreadable {
        /// Where, in bytes.
        offset: u64,
        /// Why.
        what: String,
    },
    /// It names a root.
    Root(RootMeta),
}

/// What an examination of a directory found, besides what needs the logs to be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The root copies, by the names of their files.
    pub copies: Vec<(&'static str, RootCopy)>,
    /// Whether there are files that hold tables.
    pub has_chunks: bool,
}

impl Roots {
    /// The newest root that can be read.
    #[must_use]
    pub fn best(&self) -> Option<&RootMeta> {
        let readable =
            self.copies.iter().filter_map(|(_, copy)| if let RootCopy::Root(meta) = copy { Some(meta) } else { None });
        readable.max_by_key(|meta| meta.sequence)
    }
}

/// Why a storage didn't do what it was asked for. Nothing that anybody was promised is lost by it.
#[derive(Clone, Debug, Error)]
pub enum StorageError {
    /// The machine said no. Remedy: free space, or mend what is broken, and try again.
    #[error("{operation} of {file} failed: {message}")]
    Io {
        /// What was being done: `read`, `write`, `sync`..
        operation: &'static str,
        /// The file that it was done to.
        file: String,
        /// The machine's kind of error.
        kind: io::ErrorKind,
        /// The machine's words.
        message: String,
    },
    /// Bytes are not those that were written. Remedy: restore a backup.
    #[error("{file} is damaged at byte {offset}: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A newer version wrote the file. Remedy: open the store with that one.
    #[error("{file} was written by a newer version")]
    NewerVersion {
        /// The file.
        file: String,
    },
    /// Files of several stores are in one directory. Remedy: take out what doesn't belong there.
    #[error("{file} belongs to another store")]
    OtherStore {
        /// The file.
        file: String,
    },
    /// The store has pages of another size. Remedy: open it with that size.
    #[error("the store has pages of {store} bytes, not of {ours}")]
    PageBytes {
        /// Its pages, in bytes.
        store: u32,
        /// Those of this storage, in bytes.
        ours: u32,
    },
    /// There is no root that can be read. Remedy: restore a backup.
    #[error("there is no root that can be read")]
    NoRoot,
    /// Another draft is under way. Remedy: publish or drop it.
    #[error("another draft is under way")]
    Busy,
    /// A merge into the draft failed or was interrupted. Remedy: begin another draft.
    #[error("a merge into the draft failed or was interrupted")]
    Broken,
    /// It was only loaded. Remedy: establish it.
    #[error("the storage was not established")]
    NotEstablished,
    /// What a root copy holds is unknown, since a write of it failed or was interrupted. Remedy: reopen the store; either is right.
    #[error("what the root copies are is unknown: {0}; reopen the store")]
    Poisoned(String),
}

impl StorageError {
    pub(super) fn io(operation: &'static str, file: impl Into<String>, error: &io::Error) -> StorageError {
        StorageError::Io { operation, file: file.into(), kind: error.kind(), message: error.to_string() }
    }
}

/// Why a draft was not published.
#[derive(Clone, Debug, Error)]
pub enum PublishError {
    /// It certainly was not, and is gone; the newest state is what it was. Remedy: that of the error, then another draft.
    #[error(transparent)]
    Not(#[from] StorageError),
    /// It may have been. The storage reads on, and takes no drafts. Remedy: reopen the store; it has either state.
    #[error("whether the root was published is unknown: {0}; reopen the store")]
    Unknown(StorageError),
}

//! The default storage: immutable trees of checksummed pages in chunk files, under a root copy.
//!
//! - A batch of sorted changes makes a new tree that shares what it didn't touch with the old one. Pages never change where a state that
//!   lives, or that the disk may still need, has them (`space`). So nothing of a draft is found before its root copy is written, and
//!   readers wait for nobody.
//! - Every page is checked against the checksum that whoever names it states: an older page of the same place doesn't pass.
//! - A publish syncs every chunk file that was written, then writes one root copy, the one that is not in use ([`root`]). If a chunk fails
//!   the draft is gone, and nothing else. If the root copy fails nobody knows: there is no second try and no other copy.
//! - Memory is bounded: pages and slots (`cache`) are counted where the rest of the store counts.
//!
//! The walks over trees do no I/O. They ask a [`Source`] for a page, and its error leaves them where they were: the cache fails with the
//! page that is missing, their caller loads that one, keeps it until the call, and calls again.
//!
//! Everything is generic over `B`, the bytes of a page behind its header: [`BODY_BYTES`] for pages of 8 KiB, less in tests, so that some
//! tens of keys make a deep tree.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

pub use super::storage::Changes;
use super::{
    catalog::Catalog,
    check::CheckReport,
    ids::{PageNo, TableId},
    stats::StorageStats,
    storage::{
        Birth, Point, PublishError, RootMeta, Roots, Storage, StorageError, StorageOptions, Waiting,
        files::{self, prepare, put_in_place},
    },
};
use crate::{
    env::{Dir, Env, File, OpenMode, interruptible, write_all_at},
    plant::{Plants, planted},
    sync::{Mutex, MutexGuard},
};

mod build;
mod check;
mod draft;
mod open;
mod state;

mod writing;

mod space;

pub mod chunk;
pub mod directory;
pub mod root;

mod cache;

pub mod cursor;
pub mod format;
pub mod merge;
pub mod node;

pub use build::PagesBuild;
use cache::Cache;
pub use draft::PagesDraft;
use draft::{CATALOG, Finished};
use format::{ChildRef, Run, page_at};
use node::{Flaw, NewNode, Node, NodeRef, PageError};
pub use open::PagesExamined;
use root::{Root, file_of, slot_of};
use space::{ChunkSpace, DraftSpace, Unsure};
use state::RootState;
pub use state::{PagesCursor, PagesState};

/// Bytes of a page behind its header, in a store: pages of 8192 bytes.
pub const BODY_BYTES: usize = 8192 - format::PAGE_HEADER_BYTES;

/// Where pages are read from.
pub trait Source<const B: usize> {
    /// Why a page can't be had. A [`PageError`] where the bytes are at fault.
    type Error: From<PageError>;

    /// The page that `child` names, decoded with [`Node::decode`]. An error leaves whoever asked as it was: the call can be repeated.
    fn page(&self, child: &ChildRef) -> Result<NodeRef<B>, Self::Error>;
}

/// Where new pages go. Nothing of it is found by anybody before the root that it leads to is published.
pub trait Draft<const B: usize> {
    /// Why there is no room.
    type Error;

    /// The first of so many free pages side by side in one chunk.
    fn allocate(&mut self, pages: u32) -> Result<PageNo, Self::Error>;

    /// A node to make a page of: one that nobody uses any more, or a new one.
    fn frame(&mut self) -> NewNode<B> {
        NewNode::new(Node::blank())
    }

    /// Takes an allocated page: header and body, in this order, are its bytes.
    fn write(&mut self, page: PageNo, header: [u8; format::PAGE_HEADER_BYTES], node: NodeRef<B>);

    /// Takes a value for the allocated pages of `run`; the rest of the last one is zero.
    fn write_run(&mut self, run: &Run, value: &[u8]);
}

/// Bytes of the longest key.
#[must_use]
pub const fn key_limit<const B: usize>() -> usize {
    if B / 8 < format::KEY_LIMIT_BYTES { B / 8 } else { format::KEY_LIMIT_BYTES }
}

/// How many whole pages a value of so many bytes takes.
#[must_use]
pub const fn run_pages<const B: usize>(bytes: u64) -> u64 {
    bytes.div_ceil((B + format::PAGE_HEADER_BYTES) as u64)
}

/// Length of a page in its file, in bytes.
const fn page_bytes<const B: usize>() -> u64 {
    (B + format::PAGE_HEADER_BYTES) as u64
}

/// A tree's root; `None` if it is empty.
type Tree = Option<ChildRef>;

type FileOf<E> = <<E as Env>::Dir as Dir>::File;

/// Tables in pages of `B` bytes and a header. Clones are the same storage.
pub struct Pages<E: Env, const B: usize = BODY_BYTES>(Arc<Shared<E, B>>);

struct Shared<E: Env, const B: usize> {
    env: E,
    dir: E::Dir,
    cache: Arc<Cache<B>>,
    uuid: [u8; 16],
    chunk_pages: u32,
    piece_bytes: u64,
    waiting: Option<Arc<Waiting>>,
    plants: Plants,
    /// The number of the next chunk file.
    next_chunk: Arc<AtomicU32>,
    control: Mutex<Control<E, B>>,
}

struct Control<E: Env, const B: usize> {
    newest: PagesState<E, B>,
    /// All that may live, by sequence.
    states: Vec<Weak<RootState<E, B>>>,
    /// The highest sequence that any root had; `None` until it is established.
    highest: Option<u64>,
    /// The root that was released last.
    released: Option<u64>,
    drafting: bool,
    poisoned: Option<String>,
    /// Chunk files whose length, or some of whose pages, is not known until the next open.
    unsure: BTreeMap<u32, Unsure>,
    /// Chunk files that no root needs once the one of this sequence is released.
    doomed: Vec<(u64, Vec<u32>)>,
    /// Chunk files that no root ever needed.
    useless: Vec<u32>,
    /// Which root copies there are.
    exists: Vec<bool>,
    names: Names,
}

/// How syncs of the directory went. One that fails may lose the names of all files that were made before it ended: the machine tells
/// only who asked for it, and the next sync says that all is well.
#[derive(Clone, Copy, Default)]
struct Names {
    failed: u64,
    /// One is under way, or its future was dropped.
    syncing: bool,
}

impl Names {
    /// If one is under way, that is how it ended.
    fn end(&mut self, failed: bool) {
        self.failed += u64::from(failed && self.syncing);
        self.syncing = false;
    }
}

impl<E: Env, const B: usize> Control<E, B> {
    fn new(newest: PagesState<E, B>) -> Control<E, B> {
        Control {
            states: vec![Arc::downgrade(&newest.0)],
            newest,
            highest: None,
            released: None,
            drafting: false,
            poisoned: None,
            unsure: BTreeMap::new(),
            doomed: Vec::new(),
            useless: Vec::new(),
            exists: Vec::new(),
            names: Names::default(),
        }
    }
}

impl<E: Env, const B: usize> Shared<E, B> {
    /// A poisoned mutex is taken as it is: a panic under it leaves at worst a draft that never ends.
    fn lock(&self) -> MutexGuard<'_, Control<E, B>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A draft is over, published or not.
    fn end(&self, draft: &PagesDraft<E, B>) {
        let mut control = self.lock();
        control.drafting = false;
        // (If a root copy may have been written, it may name them.)
        if control.poisoned.is_none() {
            let useless = draft.writing.useless(&control.newest.0.space);
            let sequence = control.newest.0.meta.sequence;
            control.doomed.push((sequence, useless));
        }
        if let Some((first, pages)) = draft.writing.flight() {
            control.unsure.entry(first.chunk).or_default().pages.set(first.index, pages);
        }
    }

    /// Makes the names of new files durable.
    async fn sync_names(&self) -> Result<(), StorageError> {
        self.lock().names.end(true);
        self.lock().names.syncing = true;
        let synced = interruptible(|| self.dir.sync()).await;
        self.lock().names.end(synced.is_err());
        synced.map_err(|error| StorageError::io("sync", "the directory", &error))
    }

    /// The root copy of a finished draft, at its place and durable. An error is of before anything was written; in the other case
    /// the inner one says what became of it.
    async fn write_root(&self, root: &Root, exists: bool) -> Result<Result<(), StorageError>, StorageError> {
        let (name, bytes) = (file_of(root.meta.sequence), root.encode());
        let failed = |operation| move |error: std::io::Error| StorageError::io(operation, name, &error);
        if !exists {
            prepare(&self.dir, &bytes).await?;
            self.lock().poisoned = Some(INTERRUPTED.to_owned());
            return Ok(put_in_place(&self.dir, name).await);
        }
        let file = interruptible(|| self.dir.open(name, OpenMode::Write)).await.map_err(failed("open"))?;
        // From here on a future that is dropped leaves a write that may yet take effect.
        self.lock().poisoned = Some(INTERRUPTED.to_owned());
        if let Err(error) = write_all_at(&file, &bytes, 0).await {
            return Ok(Err(failed("write")(error)));
        }
        Ok(interruptible(|| file.sync_data()).await.map_err(failed("sync")))
    }

    fn root(&self, meta: RootMeta, catalog: Tree, directory: Tree) -> Root {
        let (page_bytes, next_chunk) = (page_bytes::<B>() as u32, self.next_chunk.load(Ordering::Relaxed));
        Root { meta, page_bytes, next_chunk, chunk_pages: self.chunk_pages, catalog, directory }
    }
}

const INTERRUPTED: &str = "the write of a root copy was interrupted";

impl<E: Env, const B: usize> Storage<E> for Pages<E, B> {
    const KEY_LIMIT_BYTES: usize = key_limit::<B>();
    type Examined = PagesExamined<E>;
    type State = PagesState<E, B>;
    type Draft = PagesDraft<E, B>;
    type Build = PagesBuild<E, B>;

    async fn examine(env: &E, dir: &E::Dir, options: &StorageOptions) -> Result<PagesExamined<E>, StorageError> {
        PagesExamined::new(env, dir, options).await
    }

    fn roots(examined: &PagesExamined<E>) -> &Roots {
        &examined.roots
    }

    async fn check(examined: &PagesExamined<E>, report: &mut CheckReport) {
        examined.check::<B>(report).await;
    }

    async fn load(examined: PagesExamined<E>) -> Result<Self, StorageError> {
        examined.load().await
    }

    async fn create(examined: PagesExamined<E>, birth: Birth) -> Result<Self, StorageError> {
        examined.create(birth).await
    }

    async fn establish(&self, stated: u64) -> Result<(), StorageError> {
        let Shared { dir, .. } = &*self.0;
        let (newest, useless) = {
            let mut control = self.0.lock();
            match &control.poisoned {
                Some(why) => return Err(StorageError::Poisoned(why.clone())),
                None if control.highest.is_some() => return Ok(()),
                // Until all of it is done: what is left in the middle may yet take effect.
                None => control.poisoned = Some("it was not established to the end".to_owned()),
            }
            (control.newest.clone(), control.useless.clone())
        };
        let RootState { meta, catalog_tree, directory, space, reader, .. } = &*newest.0;
        // A copy that was found is not a durable one, nor is its name, unless a log states it: after a sync that failed another one
        // proves nothing. Both are made anew, with the same bytes.
        // (Of the first root, 0, no log states anything.)
        if (stated != meta.sequence || stated == 0) && !planted!(self.0.plants, CkptCopyTrusted) {
            let bytes = self.0.root(*meta, *catalog_tree, *directory).encode();
            prepare(dir, &bytes).await?;
            put_in_place(dir, file_of(meta.sequence)).await?;
        }
        for number in useless {
            files::remove(dir, &chunk::name_of(number)).await?;
        }
        files::remove(dir, files::TEMPORARY).await?;
        // Nor is a name that was found.
        let synced = interruptible(|| dir.sync()).await;
        synced.map_err(|error| StorageError::io("sync", "the directory", &error))?;
        for (number, found) in space {
            if let Some(chunk) = reader.chunk(*number) {
                chunk.establish(dir, found.pages).await?;
            }
        }
        let mut control = self.0.lock();
        control.useless.clear();
        control.poisoned = None;
        control.highest = Some(stated.max(meta.sequence));
        Ok(())
    }

    fn newest(&self) -> PagesState<E, B> {
        self.0.lock().newest.clone()
    }

    fn draft(&self, to: Point) -> Result<PagesDraft<E, B>, StorageError> {
        let mut control = self.0.lock();
        match &*control {
            Control { poisoned: Some(why), .. } => return Err(StorageError::Poisoned(why.clone())),
            Control { highest: None, .. } => return Err(StorageError::NotEstablished),
            Control { drafting: true, .. } => return Err(StorageError::Busy),
            _ => control.drafting = true,
        }
        let base = control.newest.clone();
        // A state that is gone can't come back: whoever clones one has one.
        control.states.retain(|state| state.strong_count() > 0);
        let older: Vec<_> = control.states.iter().filter_map(Weak::upgrade).collect();
        let space = DraftSpace::new(
            &base.0.space,
            older.iter().map(|state| &state.space),
            control.released >= Some(base.0.meta.sequence) || planted!(self.0.plants, CkptReuseUnreleased),
            &control.unsure,
            base.0.directory_pages.clone(),
            (self.0.chunk_pages, &self.0.next_chunk),
        );
        let space = space.reusing(planted!(self.0.plants, CkptReuseEarly));
        drop(control);
        Ok(PagesDraft::new(&self.0, to, base, space))
    }

    async fn merge<C: Changes + Send>(
        &self,
        draft: &mut PagesDraft<E, B>,
        table: TableId,
        changes: &mut C,
    ) -> Result<(), StorageError> {
        draft.merge(table, changes).await
    }

    fn build(&self, table: TableId) -> PagesBuild<E, B> {
        PagesBuild::new(&self.0, table)
    }

    async fn extend<C: Changes + Send>(&self, build: &mut PagesBuild<E, B>, rows: &mut C) -> Result<(), StorageError> {
        build.extend(rows).await
    }

    fn hasten(&self, build: &mut PagesBuild<E, B>) {
        build.hasten();
    }

    async fn complete(&self, build: &mut PagesBuild<E, B>) -> Result<PagesCursor<E, B>, StorageError> {
        build.finish().await
    }

    fn adopt(&self, draft: &mut PagesDraft<E, B>, build: PagesBuild<E, B>) -> Result<(), StorageError> {
        draft.adopt(build)
    }

    async fn discard(&self, build: PagesBuild<E, B>) {
        for number in build.take_files() {
            // What is left is removed after the next open.
            let _ = files::remove(&self.0.dir, &chunk::name_of(number)).await;
        }
    }

    async fn publish(
        &self,
        mut draft: PagesDraft<E, B>,
        catalog: Arc<Catalog>,
    ) -> Result<PagesState<E, B>, PublishError> {
        let Finished { catalog_tree, trees, reader, space, directory, directory_pages } =
            draft.finish(&catalog).await?;
        let base = &draft.base.0;
        let (highest, exists) = {
            let control = self.0.lock();
            (control.highest.unwrap_or(base.meta.sequence), control.exists.clone())
        };
        // Never into the copy that is in use.
        let sequence = highest + 1 + u64::from(slot_of(highest + 1) == slot_of(base.meta.sequence));
        let slot = slot_of(sequence);
        let (point, next_table, wall_ns) = (draft.to, catalog.next(), self.0.env.wall_ns());
        let meta = RootMeta { sequence, point, next_table, wall_ns, ..base.meta };
        let root = self.0.root(meta, catalog_tree, directory);
        let written = self.0.write_root(&root, exists.get(slot).is_some_and(|exists| *exists)).await?;
        if let Err(error) = written {
            self.0.lock().poisoned = Some(error.to_string());
            return Err(PublishError::Unknown(error));
        }
        let gone = base.space.keys().copied().filter(|number| !space.contains_key(number)).collect();
        let state = PagesState(Arc::new(RootState {
            meta,
            catalog,
            catalog_tree,
            trees,
            reader,
            space,
            directory,
            directory_pages,
        }));
        let mut control = self.0.lock();
        control.newest = state.clone();
        control.states.push(Arc::downgrade(&state.0));
        control.highest = Some(sequence);
        control.poisoned = None;
        control.doomed.push((sequence, gone));
        control.exists.iter_mut().skip(slot).take(1).for_each(|exists| *exists = true);
        drop(control);
        Ok(state)
    }

    fn stats(&self) -> StorageStats {
        let (hits, misses, evictions, cached_bytes) = self.0.cache.counts();
        let newest = Storage::newest(self);
        let space = &newest.0.space;
        let bytes = |pages: fn(&ChunkSpace) -> u32| {
            space.values().map(|chunk| u64::from(pages(chunk)) * page_bytes::<B>()).sum()
        };
        StorageStats {
            hits,
            misses,
            evictions,
            cached_bytes,
            files: space.len() as u64,
            file_bytes: bytes(|chunk| chunk.pages),
            used_bytes: bytes(|chunk| chunk.live.count()),
        }
    }

    async fn released(&self, state: &PagesState<E, B>) {
        let sequence = state.0.meta.sequence;
        let doomed: Vec<u32> = {
            let mut control = self.0.lock();
            control.released = control.released.max(Some(sequence));
            let (now, later) =
                std::mem::take(&mut control.doomed).into_iter().partition(|(after, _)| *after <= sequence);
            control.doomed = later;
            let now: Vec<(u64, Vec<u32>)> = now;
            now.into_iter().flat_map(|(_, numbers)| numbers).collect()
        };
        for number in doomed {
            // What is left is removed after the next open.
            let _ = files::remove(&self.0.dir, &chunk::name_of(number)).await;
        }
    }
}

impl<E: Env, const B: usize> Clone for Pages<E, B> {
    fn clone(&self) -> Self {
        Pages(Arc::clone(&self.0))
    }
}

impl<E: Env, const B: usize> fmt::Debug for Pages<E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pages of {} bytes, {:?}", page_bytes::<B>(), self.0.lock().newest)
    }
}

/// Child `index` of an inner page. It must be of the same table and stand one level below, so that a walk of any bytes ends.
fn descend<const B: usize, S: Source<B>>(source: &S, parent: &Node<B>, index: usize) -> Result<NodeRef<B>, S::Error> {
    let child = parent.child(index);
    let node = source.page(&child)?;
    below(&node, &child, parent)?;
    Ok(node)
}

fn below<const B: usize>(node: &Node<B>, child: &ChildRef, parent: &Node<B>) -> Result<(), PageError> {
    let flaw = |offset, what| Err(PageError { page: child.page, offset, what });
    match () {
        () if node.level().checked_add(1) != Some(parent.level()) => flaw(page_at::LEVEL, Flaw::Level),
        () if node.table() != parent.table() => flaw(page_at::TABLE, Flaw::Table),
        () => Ok(()),
    }
}

#[cfg(test)]
mod storage_tests;
#[cfg(test)]
mod tests;

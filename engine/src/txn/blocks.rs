//! Memory in blocks of one size, that of a page in memory: pages and versions of rows take the same ones, so that what the ones let go is
//! there for the others. (An allocator keeps it between pages that stay, where nothing larger fits, and for the thread that had it.)
//!
//! A block counts from when it is made until it is let go, wherever it is: as a page, in versions, on its way, or free. Where memory is full
//! a page goes for each block that is taken, so all together stays within the bound.
//!
//! Once commits are many, some are ready ahead of them, each of which was written to once, so that the system has given it. (A page of new
//! memory costs more than the commits that it holds, above all where the system has to ask its host for it.)
//!
//! Nothing depends on where a block came from.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use super::pages::{
    BODY_BYTES,
    node::{NewNode, Node, NodeRef},
};
use crate::{
    gate::{Gate, Wait},
    sync::{Mutex, MutexGuard},
};

/// A block of the size of a usual page.
pub(super) type Block = NewNode<BODY_BYTES>;

/// The most bytes that are ready ahead: at a million commits a second some 20 ms.
const READY_BYTES: u64 = 4 << 20;
/// At most this part of the memory there is.
const READY_PART: u64 = 64;
/// So many blocks are made by commits before anybody makes them ahead: most stores are quiet.
const QUIET: u64 = 128;
/// So many are given back without letting others in between.
const AT_ONCE: usize = 64;

/// Bytes in memory, counted together, with a bound. Whoever adds some that it can do without gives back as much as is beyond it.
#[derive(Debug)]
pub struct Memory {
    limit: u64,
    used: AtomicU64,
}

impl Memory {
    /// A bound in bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Memory> {
        Arc::new(Memory { limit, used: AtomicU64::new(0) })
    }

    /// The bound, in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that are in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts more.
    pub fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts less: of what was added before.
    pub fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether so many bytes more would be more than there should be.
    #[must_use]
    pub fn is_full(&self, bytes: u64) -> bool {
        self.used().saturating_add(bytes) > self.limit
    }

    /// Whether more is in use than there should be.
    #[must_use]
    pub fn is_beyond(&self) -> bool {
        self.is_full(0)
    }
}

/// Bytes that a block takes, with its count and what an allocator adds.
pub(super) const fn block_bytes<const B: usize>() -> u64 {
    (size_of::<Node<B>>() + 2 * size_of::<usize>()).next_multiple_of(16) as u64
}

/// Who can do without pages.
pub(super) trait Evict<const B: usize>: Send + Sync {
    /// A page that nobody has asked for lately, and that nobody reads.
    fn evict(&self) -> Option<NewNode<B>>;
}

/// All blocks of a store that are free.
pub struct Blocks<const B: usize = BODY_BYTES> {
    free: Mutex<Vec<NewNode<B>>>,
    /// Counts all of them, and has the bound.
    memory: Arc<Memory>,
    /// Those that are pages in slots.
    pages: AtomicU64,
    /// Bytes of the slots.
    slots: AtomicU64,
    cache: Mutex<Option<Weak<dyn Evict<B>>>>,
    /// So many are enough ahead of commits.
    enough: usize,
    /// Blocks that commits have made, up to [`QUIET`].
    missed: AtomicU64,
    /// Blocks that commits found here.
    found: AtomicU64,
    /// Opened when there are few.
    low: Gate,
}

impl<const B: usize> Blocks<B> {
    /// None yet, counted where their bound is.
    #[must_use]
    pub fn new(memory: &Arc<Memory>) -> Arc<Blocks<B>> {
        let enough = READY_BYTES.min(memory.limit() / READY_PART) / block_bytes::<B>();
        Arc::new(Blocks {
            free: Mutex::default(),
            memory: Arc::clone(memory),
            pages: AtomicU64::new(0),
            slots: AtomicU64::new(0),
            cache: Mutex::default(),
            enough: enough as usize,
            missed: AtomicU64::new(0),
            found: AtomicU64::new(0),
            low: Gate::default(),
        })
    }

    /// The same for pages of another size, which have blocks of their own; those of the usual size have these.
    pub(super) fn of_size<const OTHER: usize>(self: &Arc<Self>) -> Arc<Blocks<OTHER>> {
        let these: Arc<dyn Any + Send + Sync> = Arc::<Self>::clone(self);
        these.downcast().unwrap_or_else(|_| Blocks::new(&self.memory))
    }

    /// What has the bound.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Who lets go of a page when all memory is in use.
    pub(super) fn serve(&self, cache: Weak<dyn Evict<B>>) {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = Some(cache);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<NewNode<B>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that nobody else has, with whatever was in it. Those that are ready for commits it leaves: who makes them would be kept busy.
    pub(super) fn take(&self) -> NewNode<B> {
        let ready = if self.is_busy() { self.enough } else { 0 };
        self.pop(ready).map_or_else(|| self.make(), |(block, _)| block)
    }

    /// The same for a commit.
    pub(super) fn take_for_commit(&self) -> NewNode<B> {
        let (block, left) = match self.pop(0) {
            Some((block, left)) => {
                self.found.fetch_add(1, Ordering::Relaxed);
                (block, left)
            }
            None => {
                if !self.is_busy() {
                    self.missed.fetch_add(1, Ordering::Relaxed);
                }
                (self.make(), 0)
            }
        };
        if left <= self.enough / 2 && self.is_busy() {
            self.low.open();
        }
        block
    }

    /// One of those that are free, and how many are left; none if that is fewer.
    fn pop(&self, leave: usize) -> Option<(NewNode<B>, usize)> {
        let mut free = self.lock();
        let left = free.len().checked_sub(1).filter(|left| *left >= leave)?;
        free.pop().map(|block| (block, left))
    }

    /// A page's, if all memory is in use, or a new one.
    fn make(&self) -> NewNode<B> {
        let page = if self.memory.is_full(block_bytes::<B>()) { self.evict() } else { None };
        page.unwrap_or_else(|| {
            self.memory.add(block_bytes::<B>());
            NewNode::new(Node::blank())
        })
    }

    /// A page's, where there is one: who looks for one goes over all slots.
    fn evict(&self) -> Option<NewNode<B>> {
        if self.pages.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner).clone();
        cache?.upgrade()?.evict()
    }

    /// Takes one back.
    pub(super) fn give(&self, block: NewNode<B>) {
        self.lock().push(block);
    }

    /// The same, unless somebody still reads it.
    pub(super) fn give_page(&self, page: NodeRef<B>) {
        self.own(page).into_iter().for_each(|block| self.give(block));
    }

    /// A page as a block, unless somebody still reads it: then it goes with him, and counts no more.
    pub(super) fn own(&self, page: NodeRef<B>) -> Option<NewNode<B>> {
        let block = NodeRef::try_unique(page).ok();
        if block.is_none() {
            self.memory.give_back(block_bytes::<B>());
        }
        block
    }

    /// So many count from now on that were made elsewhere.
    pub(super) fn adopt(&self, blocks: u64) {
        self.memory.add(blocks * block_bytes::<B>());
    }

    /// Takes back many.
    pub(super) fn give_all(&self, blocks: impl IntoIterator<Item = NewNode<B>>) {
        let mut blocks = blocks.into_iter().peekable();
        while blocks.peek().is_some() {
            self.lock().extend(blocks.by_ref().take(AT_ONCE));
        }
    }

    /// Lets go of some while more memory is in use than there should be, those that are free first: something else than blocks has grown.
    pub(super) fn shrink(&self) {
        while self.memory.is_beyond() && self.pop(0).map(|(block, _)| block).or_else(|| self.evict()).is_some() {
            self.memory.give_back(block_bytes::<B>());
        }
    }

    /// One more is a page in a slot.
    pub(super) fn cache(&self) {
        self.pages.fetch_add(1, Ordering::Relaxed);
    }

    /// And one less.
    pub(super) fn uncache(&self) {
        self.pages.fetch_sub(1, Ordering::Relaxed);
    }

    /// There are so many more bytes of slots.
    pub(super) fn add_slots(&self, bytes: u64) {
        self.slots.fetch_add(bytes, Ordering::Relaxed);
        self.memory.add(bytes);
    }

    /// And so many less.
    pub(super) fn drop_slots(&self, bytes: u64) {
        self.slots.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.give_back(bytes);
    }

    /// Bytes of pages in slots, and of the slots.
    pub(super) fn cached(&self) -> u64 {
        self.pages.load(Ordering::Relaxed) * block_bytes::<B>() + self.slots.load(Ordering::Relaxed)
    }

    /// Whether somebody should make blocks ahead. Once it is so, it stays so.
    pub(super) fn is_busy(&self) -> bool {
        self.missed.load(Ordering::Relaxed) >= QUIET
    }

    /// Makes one more ready; false if there are enough.
    pub(super) fn fill(&self) -> bool {
        let wanted = self.lock().len() < self.enough;
        if wanted {
            self.give(self.make());
        }
        wanted
    }

    /// Bytes that are free.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().len() as u64 * block_bytes::<B>()
    }

    /// Blocks that commits found here.
    pub(super) fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    /// What to pass to [`wait`](Blocks::wait).
    pub(super) fn seq(&self) -> u64 {
        self.low.seq()
    }

    /// Until there are few, or [`wake`](Blocks::wake).
    pub(super) fn wait(&self, seen: u64) -> Wait<'_> {
        self.low.wait(seen)
    }

    pub(super) fn wake(&self) {
        self.low.open();
    }
}

/// A page that is in no slot: it goes back if it is dropped.
pub(super) struct Unplaced<const B: usize> {
    page: Option<NodeRef<B>>,
    blocks: Arc<Blocks<B>>,
}

impl<const B: usize> Unplaced<B> {
    pub(super) fn new(page: NodeRef<B>, blocks: &Arc<Blocks<B>>) -> Unplaced<B> {
        Unplaced { page: Some(page), blocks: Arc::clone(blocks) }
    }

    pub(super) fn page(&self) -> Option<&NodeRef<B>> {
        self.page.as_ref()
    }

    /// To be written, while nobody else has it.
    pub(super) fn page_mut(&mut self) -> Option<&mut Node<B>> {
        self.page.as_mut().and_then(NodeRef::get_mut)
    }

    /// It is somebody else's.
    pub(super) fn place(mut self) -> Option<NodeRef<B>> {
        self.page.take()
    }
}

impl<const B: usize> Drop for Unplaced<B> {
    fn drop(&mut self) {
        self.page.take().into_iter().for_each(|page| self.blocks.give_page(page));
    }
}

impl<const B: usize> fmt::Debug for Blocks<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in free blocks", self.bytes())
    }
}

impl<const B: usize> Drop for Blocks<B> {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes());
    }
}

#[cfg(test)]
mod tests;

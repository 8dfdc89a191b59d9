//! Pages in memory, within a bound: a slot for each page of a chunk file, and a clock that empties those that nobody asks for.
//!
//! A slot is found by its index alone, and read without writing to anything that others read, but for a count in stripes. What a slot
//! holds is right for every state that reads it: a page that is named by a living state is not written, and who writes one fills its
//! slot anew.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwapAny, Guard};

use super::{
    chunk::Chunk,
    format::ChildRef,
    node::{NewNode, NodeRef},
};
use crate::{
    env::File,
    gate::Gate,
    plant::{Plants, planted},
    prefetch::prefetch,
    sync::{Mutex, MutexGuard},
    txn::{
        blocks::{Blocks, Evict, Unplaced},
        ids::PageNo,
        storage::{StorageError, StorageOptions},
    },
};

/// So many pages that go may be read by somebody until who needs a block makes a new one.
const READ: usize = 8;

/// Slots that are allocated together.
const SLOTS: usize = 256;

type Slots<const B: usize> = Box<[ArcSwapAny<Option<NodeRef<B>>>]>;

/// A page in memory, as a look at its slot gives it.
pub(super) type Held<const B: usize> = Guard<Option<NodeRef<B>>>;

/// Bytes of slots that are allocated together.
const SLOT_BYTES: u64 = (SLOTS * size_of::<usize>()) as u64;

/// The slots of one chunk file.
#[derive(Debug)]
pub(super) struct Frames<const B: usize> {
    pieces: Box<[OnceLock<Slots<B>>]>,
    blocks: Arc<Blocks<B>>,
}

impl<const B: usize> Frames<B> {
    pub(super) fn new(pages: u32, blocks: &Arc<Blocks<B>>) -> Arc<Frames<B>> {
        let pieces = (0..(pages as usize).div_ceil(SLOTS)).map(|_| OnceLock::new()).collect();
        Arc::new(Frames { pieces, blocks: Arc::clone(blocks) })
    }

    fn slot(&self, page: u32) -> Option<&ArcSwapAny<Option<NodeRef<B>>>> {
        self.pieces.get(page as usize / SLOTS)?.get()?.get(page as usize % SLOTS)
    }

    /// What a slot holds.
    pub(super) fn look(&self, page: u32) -> Option<Held<B>> {
        let held = self.slot(page)?.load();
        held.is_some().then_some(held)
    }

    /// Asks for what says whether a slot holds something.
    pub(super) fn warm(&self, page: u32) {
        self.slot(page).into_iter().for_each(prefetch);
    }

    /// Fills a slot, and gives back what it held.
    fn fill(&self, page: u32, node: NodeRef<B>) -> Option<NodeRef<B>> {
        let Some(piece) = self.pieces.get(page as usize / SLOTS) else { return Some(node) };
        let slots = piece.get_or_init(|| {
            self.blocks.add_slots(SLOT_BYTES);
            (0..SLOTS).map(|_| ArcSwapAny::new(None)).collect()
        });
        // (Before it can be taken out again, so that nothing is counted below zero.)
        self.blocks.cache();
        let held = slots[page as usize % SLOTS].swap(Some(node));
        if held.is_some() {
            self.blocks.uncache();
        }
        held
    }

    /// Empties a slot whose page was not looked at since the last time.
    fn tick(&self, slot: &ArcSwapAny<Option<NodeRef<B>>>) -> Option<NodeRef<B>> {
        let touched = slot.load().as_ref().is_none_or(|node| node.untouch());
        // (If it is filled again in between, that page goes: it is on the disk.)
        let held = if touched { None } else { slot.swap(None) }?;
        self.blocks.uncache();
        Some(held)
    }
}

impl<const B: usize> Drop for Frames<B> {
    fn drop(&mut self) {
        for slots in self.pieces.iter().filter_map(OnceLock::get) {
            for page in slots.iter().filter_map(|slot| slot.swap(None)) {
                self.blocks.uncache();
                self.blocks.give_page(page);
            }
            self.blocks.drop_slots(SLOT_BYTES);
        }
    }
}

/// All slots of a storage.
#[derive(Debug)]
pub(super) struct Cache<const B: usize> {
    pub(super) blocks: Arc<Blocks<B>>,
    clock: Mutex<Clock<B>>,
    /// Pages that somebody is reading from the disk.
    loading: Mutex<BTreeMap<PageNo, Arc<Gate>>>,
    hits: [Stripe; STRIPES],
    misses: AtomicU64,
    plants: Plants,
}

/// Parts of the count of hits.
const STRIPES: usize = 32;

/// A count apart from others, so that who reads other pages doesn't wait for its cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe(AtomicU64);

/// A hand that goes round all slots.
#[derive(Debug)]
struct Clock<const B: usize> {
    frames: Vec<Weak<Frames<B>>>,
    /// Which of them, which piece, which slot is next.
    at: (usize, usize, usize),
    evictions: u64,
}

impl<const B: usize> Cache<B> {
    pub(super) fn new(options: &StorageOptions) -> Arc<Cache<B>> {
        let clock = Mutex::new(Clock { frames: Vec::new(), at: (0, 0, 0), evictions: 0 });
        let (hits, misses) = (Default::default(), AtomicU64::new(0));
        let blocks = options.blocks.of_size::<B>();
        let (loading, plants) = (Mutex::default(), options.plants());
        let cache = Arc::new(Cache { blocks, clock, loading, hits, misses, plants });
        let weak: Weak<Cache<B>> = Arc::downgrade(&cache);
        cache.blocks.serve(weak);
        cache
    }

    /// Counts pages that were found in memory, the last of which is this.
    pub(super) fn hit(&self, page: u32, pages: u64) {
        self.hits[page as usize % STRIPES].0.fetch_add(pages, Ordering::Relaxed);
    }

    /// Hits, misses, evictions, bytes.
    pub(super) fn counts(&self) -> (u64, u64, u64, u64) {
        let hits = self.hits.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum();
        let evictions = self.lock().evictions;
        (hits, self.misses.load(Ordering::Relaxed), evictions, self.blocks.cached())
    }

    /// From now on the clock goes over these, too.
    pub(super) fn add(&self, frames: &Arc<Frames<B>>) {
        let mut clock = self.lock();
        clock.frames.retain(|frames| frames.strong_count() > 0);
        clock.frames.push(Arc::downgrade(frames));
        clock.at = (0, 0, 0);
    }

    fn lock(&self) -> MutexGuard<'_, Clock<B>> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a page into its slot, and empties others if it is too many.
    pub(super) fn put(&self, frames: &Frames<B>, page: u32, node: NodeRef<B>) {
        frames.fill(page, node).into_iter().for_each(|held| self.blocks.give_page(held));
        self.blocks.shrink();
    }

    /// The page that `child` names: from memory, or from the disk. Several who want it at once read it once; whoever is dropped while it
    /// reads leaves it to the next.
    pub(super) async fn load<F: File>(
        &self,
        chunk: &Chunk<F, B>,
        child: &ChildRef,
    ) -> Result<NodeRef<B>, StorageError> {
        loop {
            if let Some(node) = chunk.frames.look(child.page.index).and_then(Guard::into_inner) {
                self.hit(child.page.index, 1);
                return Ok(node);
            }
            let (gate, seen) = match self.enter(child.page) {
                Ok(_reading) => {
                    self.misses.fetch_add(1, Ordering::Relaxed);
                    let mut node = Unplaced::new(self.blocks.take().shareable(), &self.blocks);
                    let node = match node.page_mut() {
                        Some(page) => chunk.read_page(child, page, &self.plants).await.map(|()| node.place())?,
                        None => None,
                    };
                    // (Nobody else had it.)
                    let Some(node) = node else { continue };
                    // So that it isn't what makes room for itself.
                    node.touch();
                    self.put(&chunk.frames, child.page.index, NodeRef::clone(&node));
                    return Ok(node);
                }
                Err(others) => others,
            };
            gate.wait(seen).await;
        }
    }

    /// The right to read a page, or who else has it.
    fn enter(&self, page: PageNo) -> Result<Reading<'_, B>, (Arc<Gate>, u64)> {
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        match loading.get(&page) {
            Some(gate) => Err((Arc::clone(gate), gate.seq())),
            None => {
                loading.insert(page, Arc::default());
                Ok(Reading { cache: self, page })
            }
        }
    }
}

struct Reading<'a, const B: usize> {
    cache: &'a Cache<B>,
    page: PageNo,
}

impl<const B: usize> Drop for Reading<'_, B> {
    fn drop(&mut self) {
        let gate = self.cache.loading.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.page);
        if let Some(gate) = gate {
            gate.open();
        }
    }
}

impl<const B: usize> Evict<B> for Cache<B> {
    fn evict(&self) -> Option<NewNode<B>> {
        if planted!(self.plants, TxnMemoryUnbounded) {
            return None;
        }
        // (One that is read goes with its reader.)
        std::iter::from_fn(|| self.lock().evict()).take(READ).find_map(|page| self.blocks.own(page))
    }
}

impl<const B: usize> Clock<B> {
    /// Empties the next slot that nobody has asked for since the last time round, but goes not much more than twice round: others may fill
    /// what it empties.
    fn evict(&mut self) -> Option<NodeRef<B>> {
        let mut rounds = 0;
        while rounds < 3 {
            let (chunk, piece, slot) = self.at;
            let Some(frames) = self.frames.get(chunk) else {
                self.at = (0, 0, 0);
                rounds += 1;
                continue;
            };
            let frames = frames.upgrade();
            let Some((frames, slots)) = frames.as_ref().and_then(|frames| Some((frames, frames.pieces.get(piece)?)))
            else {
                self.at = (chunk + 1, 0, 0);
                continue;
            };
            let mut slots = slots.get().into_iter().flatten().enumerate().skip(slot);
            if let Some((slot, node)) = slots.find_map(|(slot, held)| Some((slot, frames.tick(held)?))) {
                self.at = (chunk, piece, slot + 1);
                self.evictions += 1;
                return Some(node);
            }
            self.at = (chunk, piece + 1, 0);
        }
        None
    }
}

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

use arc_swap::{ArcSwapOption, Guard};

use super::{chunk::Chunk, format::ChildRef, node::Node, page_bytes};
use crate::{
    env::File,
    gate::Gate,
    plant::Plants,
    sync::{Mutex, MutexGuard},
    txn::{
        ids::PageNo,
        storage::{Memory, StorageError, StorageOptions},
    },
};

/// Slots that are allocated together.
const SLOTS: usize = 256;

type Slots<const B: usize> = Box<[ArcSwapOption<Node<B>>]>;

/// Of all memory this part is for spare nodes, at most.
const SPARE_PART: u64 = 16;

/// A page in memory, as a look at its slot gives it.
pub(super) type Held<const B: usize> = Guard<Option<Arc<Node<B>>>>;

/// Bytes that a page in memory takes, with the counts of its `Arc`.
pub(super) const fn frame_bytes<const B: usize>() -> u64 {
    (size_of::<Node<B>>() + 2 * size_of::<usize>()).next_multiple_of(16) as u64
}

/// Bytes of slots that are allocated together.
const SLOT_BYTES: u64 = (SLOTS * size_of::<usize>()) as u64;

/// The slots of one chunk file.
#[derive(Debug)]
pub(super) struct Frames<const B: usize> {
    pieces: Box<[OnceLock<Slots<B>>]>,
    memory: Arc<Memory>,
}

impl<const B: usize> Frames<B> {
    pub(super) fn new(pages: u32, memory: &Arc<Memory>) -> Arc<Frames<B>> {
        let pieces = (0..(pages as usize).div_ceil(SLOTS)).map(|_| OnceLock::new()).collect();
        Arc::new(Frames { pieces, memory: Arc::clone(memory) })
    }

    fn slot(&self, page: u32) -> Option<&ArcSwapOption<Node<B>>> {
        self.pieces.get(page as usize / SLOTS)?.get()?.get(page as usize % SLOTS)
    }

    /// What a slot holds.
    pub(super) fn look(&self, page: u32) -> Option<Held<B>> {
        let held = self.slot(page)?.load();
        held.is_some().then_some(held)
    }

    /// Fills a slot, and gives back what it held. The bytes are counted.
    fn fill(&self, page: u32, node: Arc<Node<B>>) -> Option<Arc<Node<B>>> {
        let piece = self.pieces.get(page as usize / SLOTS)?;
        let slots = piece.get_or_init(|| {
            self.memory.add(SLOT_BYTES);
            (0..SLOTS).map(|_| ArcSwapOption::empty()).collect()
        });
        let held = slots[page as usize % SLOTS].swap(Some(node));
        if held.is_none() {
            self.memory.add(frame_bytes::<B>());
        }
        held
    }

    /// Empties a slot whose page was not looked at since the last time.
    fn tick(&self, slot: &ArcSwapOption<Node<B>>) -> Option<Arc<Node<B>>> {
        let touched = slot.load().as_ref().is_none_or(|node| node.untouch());
        // (If it is filled again in between, that page goes: it is on the disk.)
        let held = if touched { None } else { slot.swap(None) }?;
        self.memory.give_back(frame_bytes::<B>());
        Some(held)
    }
}

impl<const B: usize> Drop for Frames<B> {
    fn drop(&mut self) {
        for slots in self.pieces.iter().filter_map(OnceLock::get) {
            let filled = slots.iter().filter(|slot| slot.load().is_some()).count() as u64;
            self.memory.give_back(SLOT_BYTES + filled * frame_bytes::<B>());
        }
    }
}

/// Nodes that nobody uses any more, for the next pages. New memory would cost more than what becomes of it, and an allocator keeps what it is
/// given back in pieces where nothing else has room; so some are kept, about as many as are written in one piece. Their bytes are
/// counted as if they were always here: the others are pages that have no slot yet.
#[derive(Debug)]
pub(super) struct Spares<const B: usize> {
    nodes: Mutex<Vec<Arc<Node<B>>>>,
    most: u64,
    memory: Arc<Memory>,
}

impl<const B: usize> Drop for Spares<B> {
    fn drop(&mut self) {
        self.memory.give_back(self.most * frame_bytes::<B>());
    }
}

impl<const B: usize> Spares<B> {
    fn new(memory: &Arc<Memory>, most: u64) -> Arc<Spares<B>> {
        memory.add(most * frame_bytes::<B>());
        Arc::new(Spares { nodes: Mutex::default(), most, memory: Arc::clone(memory) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Node<B>>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that nobody else has, with whatever it held.
    pub(super) fn take(&self) -> Arc<Node<B>> {
        let spare = self.lock().pop();
        spare.unwrap_or_else(|| Arc::new(Node::blank()))
    }

    /// Takes one back, unless somebody still reads it, or there are enough.
    pub(super) fn give(&self, mut node: Arc<Node<B>>) {
        let mut nodes = self.lock();
        if (nodes.len() as u64) < self.most && Arc::get_mut(&mut node).is_some() {
            nodes.push(node);
        }
    }
}

/// All slots of a storage.
#[derive(Debug)]
pub(super) struct Cache<const B: usize> {
    pub(super) memory: Arc<Memory>,
    pub(super) spares: Arc<Spares<B>>,
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
    pub(super) fn new(options: &StorageOptions) -> Cache<B> {
        let clock = Mutex::new(Clock { frames: Vec::new(), at: (0, 0, 0), evictions: 0 });
        let (hits, misses) = (Default::default(), AtomicU64::new(0));
        let memory = options.memory.part();
        let spares = options.piece_bytes.min(memory.limit() / SPARE_PART).div_ceil(page_bytes::<B>());
        let spares = Spares::new(&memory, spares);
        Cache { memory, spares, clock, loading: Mutex::default(), hits, misses, plants: options.plants() }
    }

    /// Counts pages that were found in memory, the last of which is this.
    pub(super) fn hit(&self, page: u32, pages: u64) {
        self.hits[page as usize % STRIPES].0.fetch_add(pages, Ordering::Relaxed);
    }

    /// Hits, misses, evictions, bytes.
    pub(super) fn counts(&self) -> (u64, u64, u64, u64) {
        let hits = self.hits.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum();
        let evictions = self.clock.lock().unwrap_or_else(PoisonError::into_inner).evictions;
        (hits, self.misses.load(Ordering::Relaxed), evictions, self.memory.used())
    }

    /// From now on the clock goes over these, too.
    pub(super) fn add(&self, frames: &Arc<Frames<B>>) {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.frames.retain(|frames| frames.strong_count() > 0);
        clock.frames.push(Arc::downgrade(frames));
        clock.at = (0, 0, 0);
    }

    /// Puts a page into its slot, and empties others if it is too many.
    pub(super) fn put(&self, frames: &Frames<B>, page: u32, node: Arc<Node<B>>) {
        frames.fill(page, node).into_iter().for_each(|held| self.spares.give(held));
        if self.memory.is_beyond() {
            self.clock.lock().unwrap_or_else(PoisonError::into_inner).turn(&self.memory, &self.spares);
        }
    }

    /// The page that `child` names: from memory, or from the disk. Several who want it at once read it once; whoever is dropped while it
    /// reads leaves it to the next.
    pub(super) async fn load<F: File>(
        &self,
        chunk: &Chunk<F, B>,
        child: &ChildRef,
    ) -> Result<Arc<Node<B>>, StorageError> {
        loop {
            if let Some(node) = chunk.frames.look(child.page.index).and_then(Guard::into_inner) {
                self.hit(child.page.index, 1);
                return Ok(node);
            }
            let (gate, seen) = match self.enter(child.page) {
                Ok(_reading) => {
                    self.misses.fetch_add(1, Ordering::Relaxed);
                    let mut node = self.spares.take();
                    // (Nobody else has it.)
                    chunk.read_page(child, Arc::make_mut(&mut node), &self.plants).await?;
                    // So that it isn't what makes room for itself.
                    node.touch();
                    self.put(&chunk.frames, child.page.index, Arc::clone(&node));
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

impl<const B: usize> Clock<B> {
    /// Goes on until memory is within its bound, but not much more than twice round: others may have filled it.
    fn turn(&mut self, memory: &Memory, spares: &Spares<B>) {
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
            self.at = (chunk, piece + 1, 0);
            for (slot, held) in slots.get().into_iter().flatten().enumerate().skip(slot) {
                if let Some(node) = frames.tick(held) {
                    self.evictions += 1;
                    spares.give(node);
                }
                if !memory.is_beyond() {
                    self.at = (chunk, piece, slot + 1);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_node_is_one_that_nobody_reads_and_there_are_not_too_many() {
        let memory = Memory::new(u64::MAX);
        let spares = Spares::<480>::new(&memory, 2);
        assert_eq!(memory.used(), 2 * frame_bytes::<480>());
        let nodes: Vec<_> = (0..4).map(|_| spares.take()).collect();
        let read = Arc::clone(&nodes[0]);
        let places: Vec<_> = nodes.iter().map(Arc::as_ptr).collect();
        nodes.into_iter().for_each(|node| spares.give(node));
        let mut taken = [spares.take(), spares.take()];
        assert_eq!(
            taken.each_ref().map(Arc::as_ptr),
            [places[2], places[1]],
            "the first is read, the last one too many"
        );
        assert!(taken.iter_mut().all(|node| Arc::get_mut(node).is_some()) && Arc::strong_count(&read) == 1);
        drop(spares);
        assert_eq!(memory.used(), 0);
    }
}

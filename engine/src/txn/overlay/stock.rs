//! Memory that is ready: pieces for what commits install, each of which was written to once, so that the system has given it. A commit
//! that gets one doesn't wait for that. (A page of new memory costs more than the commits that it holds, above all where the system has to
//! ask its host for it.)
//!
//! Nothing depends on whether a piece came from here: whoever finds none makes one.

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::{arena, chain::Entry, tree::Leaf, values::PIECE_BYTES};
use crate::{
    gate::{Gate, Wait},
    sync::{Mutex, MutexGuard},
    txn::storage::Memory,
};

/// The most bytes that are ready: at a million commits a second some 20 ms.
const MOST_BYTES: u64 = 4 << 20;
/// At most this part of the memory there is.
const PART: u64 = 64;
/// Of which so many eighths are for values, for entries, and the rest for leaves.
const VALUES: u64 = 5;
const ENTRIES: u64 = 2;
/// So many pieces are made by commits before anybody makes them ahead: most stores are quiet.
const QUIET: u64 = 16;

/// Pieces of one kind.
#[derive(Debug)]
struct Shelf<T> {
    pieces: Mutex<Vec<Vec<T>>>,
    /// Elements of a piece.
    elements: usize,
    /// What is written into one so that its memory is there.
    blank: fn() -> T,
    /// So many pieces are enough.
    enough: usize,
}

impl<T> Shelf<T> {
    fn new(bytes: u64, elements: usize, blank: fn() -> T) -> Shelf<T> {
        let enough = bytes / (elements * size_of::<T>()) as u64;
        Shelf { pieces: Mutex::default(), elements, blank, enough: enough as usize }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<T>>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn piece_bytes(&self) -> u64 {
        (self.elements * size_of::<T>()) as u64
    }

    fn bytes(&self) -> u64 {
        self.lock().len() as u64 * self.piece_bytes()
    }

    /// One of them, and how many are left.
    fn take(&self) -> (Option<Vec<T>>, usize) {
        let mut pieces = self.lock();
        (pieces.pop(), pieces.len())
    }

    /// Whether one more is wanted.
    fn wants(&self) -> bool {
        self.lock().len() < self.enough
    }

    /// Makes one more, without the mutex while it does.
    fn fill(&self, memory: &Memory) {
        let mut piece = Vec::with_capacity(self.elements);
        piece.resize_with(self.elements, self.blank);
        piece.clear();
        memory.add(self.piece_bytes());
        self.lock().push(piece);
    }
}

/// Pieces of all kinds, for all generations of a store.
#[derive(Debug)]
pub(crate) struct Stock {
    values: Shelf<u8>,
    entries: Shelf<Entry>,
    leaves: Shelf<Leaf>,
    /// Pieces that commits have made, up to [`QUIET`].
    missed: AtomicU64,
    /// Pieces that commits found here.
    taken: AtomicU64,
    /// Opened when there are few.
    low: Gate,
    /// Counts the pieces while they are here.
    memory: Arc<Memory>,
}

impl Stock {
    pub(crate) fn new(memory: &Arc<Memory>) -> Stock {
        let bytes = MOST_BYTES.min(memory.limit() / PART);
        let (values, entries) = (bytes / 8 * VALUES, bytes / 8 * ENTRIES);
        Stock {
            // (Not zeros: who asks for those is given memory that isn't there yet.)
            values: Shelf::new(values, PIECE_BYTES, || 1),
            entries: Shelf::new(entries, arena::PIECE, Entry::blank),
            leaves: Shelf::new(bytes - values - entries, arena::PIECE, Leaf::blank),
            missed: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            low: Gate::default(),
            memory: Arc::clone(memory),
        }
    }

    pub(super) fn values(&self) -> Option<Vec<u8>> {
        self.take(&self.values)
    }

    pub(super) fn entries(&self) -> Option<Vec<Entry>> {
        self.take(&self.entries)
    }

    pub(super) fn leaves(&self) -> Option<Vec<Leaf>> {
        self.take(&self.leaves)
    }

    fn take<T>(&self, shelf: &Shelf<T>) -> Option<Vec<T>> {
        let (piece, left) = shelf.take();
        match piece {
            Some(_) => {
                self.memory.give_back(shelf.piece_bytes());
                self.taken.fetch_add(1, Ordering::Relaxed);
            }
            None if !self.is_busy() => _ = self.missed.fetch_add(1, Ordering::Relaxed),
            None => {}
        }
        if left <= shelf.enough / 2 && self.is_busy() {
            self.low.open();
        }
        piece
    }

    /// Whether somebody should make pieces ahead. Once it is so, it stays so.
    pub(crate) fn is_busy(&self) -> bool {
        self.missed.load(Ordering::Relaxed) >= QUIET
    }

    /// Makes one piece; false if there are enough of all kinds.
    pub(crate) fn fill(&self) -> bool {
        // (One of each in turn: none waits until there is enough of the others.)
        let Stock { values, entries, leaves, memory, .. } = self;
        let wanted = [values.wants(), entries.wants(), leaves.wants()];
        if wanted[0] {
            values.fill(memory);
        }
        if wanted[1] {
            entries.fill(memory);
        }
        if wanted[2] {
            leaves.fill(memory);
        }
        wanted.contains(&true)
    }

    /// Bytes that are ready.
    pub(crate) fn bytes(&self) -> u64 {
        let Stock { values, entries, leaves, .. } = self;
        values.bytes() + entries.bytes() + leaves.bytes()
    }

    /// Pieces that commits found here.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// What to pass to [`wait`](Stock::wait).
    pub(crate) fn seq(&self) -> u64 {
        self.low.seq()
    }

    /// Until there are few, or [`wake`](Stock::wake).
    pub(crate) fn wait(&self, seen: u64) -> Wait<'_> {
        self.low.wait(seen)
    }

    pub(crate) fn wake(&self) {
        self.low.open();
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::{
        ids::{Csn, Epoch},
        overlay::{Live, Overlay, ValueRef},
    };

    /// Bytes that are ready, and what they are counted as.
    fn ready(stock: &Stock) -> (u64, u64) {
        let Stock { values, entries, leaves, .. } = stock;
        let bytes = values.lock().iter().map(Vec::capacity).sum::<usize>()
            + entries.lock().iter().map(Vec::capacity).sum::<usize>() * size_of::<Entry>()
            + leaves.lock().iter().map(Vec::capacity).sum::<usize>() * size_of::<Leaf>();
        (bytes as u64, stock.memory.used())
    }

    fn fill(stock: &Stock) -> u64 {
        while stock.fill() {}
        let (bytes, counted) = ready(stock);
        assert_eq!(bytes, counted);
        bytes
    }

    #[test]
    fn it_is_filled_to_its_part_of_the_memory_and_counted() {
        for (limit, most) in [(u64::MAX, MOST_BYTES), (256 << 20, MOST_BYTES), (64 << 20, 1 << 20), (1 << 20, 16 << 10)]
        {
            let memory = Memory::new(limit);
            let stock = Stock::new(&memory);
            let bytes = fill(&stock);
            assert!(bytes <= most && (bytes > most / 4 * 3 || most < 1 << 20), "{bytes} of {most}");
            drop(stock);
            assert_eq!(memory.used(), 0);
        }
    }

    #[test]
    fn commits_take_what_is_there_and_make_the_rest() {
        let stock = Arc::new(Stock::new(&Memory::new(64 << 20)));
        let full = fill(&stock);
        let (mut filled, mut seen) = (0, stock.seq());
        let overlay = Overlay::default().stocked(&stock);
        let live = Live { snapshots: &[], visible: Csn::default() };
        let key = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let csns: Vec<Csn> =
            std::iter::successors(Some(Csn::first(Epoch::FIRST)), |csn| csn.next()).take(30_000).collect();
        for (number, csn) in (0..).zip(&csns) {
            overlay.install(&key(number), Some(ValueRef::Bytes(&[7; 100])), *csn, &live).expect("they ascend");
            if stock.seq() != seen {
                seen = stock.seq();
                filled += 1;
                fill(&stock);
            }
        }
        // (3.1 MB of values alone.)
        assert!(stock.is_busy() && filled > 3, "{filled}");
        let (bytes, counted) = ready(&stock);
        assert!(bytes == counted && bytes < full);
        assert!((0..).zip(&csns).all(|(number, csn)| overlay.newest(&key(number)) == Some(*csn)));
    }

    #[test]
    fn few_pieces_make_nobody_busy() {
        let stock = Stock::new(&Memory::new(64 << 20));
        for _ in 1..QUIET {
            assert!(stock.values().is_none() && !stock.is_busy());
        }
        assert!(stock.entries().is_none() && stock.is_busy());
    }
}

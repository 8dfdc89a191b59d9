use super::*;
use crate::txn::{
    ids::{Csn, Epoch},
    overlay::{Live, Overlay, ValueRef},
};

const BYTES: u64 = block_bytes::<BODY_BYTES>();

fn csns() -> impl Iterator<Item = Csn> {
    std::iter::successors(Some(Csn::first(Epoch::FIRST)), |csn| csn.next())
}

fn key(number: u64) -> [u8; 8] {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

fn blocks(limit: u64) -> Arc<Blocks> {
    Blocks::new(&Memory::new(limit))
}

#[test]
fn a_block_fills_a_page_and_is_counted_from_when_it_is_made() {
    assert_eq!(BYTES, 8192);
    let blocks = blocks(u64::MAX);
    let taken: Vec<Block> = (0..4).map(|_| blocks.take()).collect();
    assert_eq!((blocks.memory().used(), blocks.bytes()), (4 * BYTES, 0));
    let places: Vec<_> = taken.iter().map(|block| block.body().as_ptr()).collect();
    blocks.give_all(taken);
    assert_eq!((blocks.memory().used(), blocks.bytes()), (4 * BYTES, 4 * BYTES));
    let again = blocks.take();
    assert_eq!(again.body().as_ptr(), places[3], "the last one comes first");

    // What somebody still reads goes with him.
    let page = again.shareable();
    let read = NodeRef::clone(&page);
    blocks.give_page(page);
    assert_eq!((blocks.memory().used(), blocks.bytes()), (3 * BYTES, 3 * BYTES));
    drop(read);
    // And what is in no slot goes back.
    drop(Unplaced::new(blocks.take().shareable(), &blocks));
    assert_eq!((blocks.memory().used(), blocks.bytes()), (3 * BYTES, 3 * BYTES));
    let memory = Arc::clone(blocks.memory());
    drop(blocks);
    assert_eq!(memory.used(), 0);
}

/// Pages that can go, and how often somebody looked for one.
struct Cache {
    pages: Mutex<(Vec<Block>, usize)>,
    blocks: Arc<Blocks>,
}

impl Cache {
    fn put(&self, pages: impl IntoIterator<Item = Block>) {
        let pages = pages.into_iter().inspect(|_| self.blocks.cache());
        self.pages.lock().expect("nobody panics with it").0.extend(pages);
    }
}

impl Evict<BODY_BYTES> for Cache {
    fn evict(&self) -> Option<Block> {
        let mut cache = self.pages.lock().expect("nobody panics with it");
        cache.1 += 1;
        cache.0.pop().inspect(|_| self.blocks.uncache())
    }
}

#[test]
fn where_memory_is_full_a_page_goes_for_each_block() {
    let blocks = blocks(10 * BYTES);
    let cache = Arc::new(Cache { pages: Mutex::default(), blocks: Arc::clone(&blocks) });
    cache.put((0..8).map(|_| blocks.take()));
    let weak: Weak<Cache> = Arc::downgrade(&cache);
    blocks.serve(weak);
    let looks = || cache.pages.lock().expect("nobody panics with it").1;
    let mut versions: Vec<Block> = (0..2).map(|_| blocks.take()).collect();
    assert_eq!((blocks.memory().used(), looks()), (10 * BYTES, 0));
    versions.extend((0..8).map(|_| blocks.take()));
    assert_eq!((blocks.memory().used(), looks()), (10 * BYTES, 8));
    // No page is left: rather more memory than nothing, and nobody looks for one.
    versions.push(blocks.take());
    assert_eq!((blocks.memory().used(), looks()), (11 * BYTES, 8));
    blocks.give_all(versions.drain(..4));
    // Something else has grown: first those go that are free.
    blocks.memory().add(2 * BYTES);
    blocks.shrink();
    assert_eq!((blocks.memory().used(), blocks.bytes(), looks()), (10 * BYTES, BYTES, 8));
    cache.put(versions);
    blocks.memory().add(3 * BYTES);
    blocks.shrink();
    assert_eq!((blocks.memory().used(), blocks.bytes(), looks()), (10 * BYTES, 0, 10));
    blocks.memory().give_back(5 * BYTES);
}

#[test]
fn pages_of_another_size_have_blocks_of_their_own() {
    let blocks = blocks(u64::MAX);
    assert!(Arc::ptr_eq(&blocks, &blocks.of_size::<BODY_BYTES>()));
    let small = blocks.of_size::<480>();
    small.give(small.take());
    assert_eq!((blocks.bytes(), small.bytes()), (0, block_bytes::<480>()));
    assert_eq!(blocks.memory().used(), block_bytes::<480>());
}

#[test]
fn so_many_are_ready_as_their_part_of_the_memory_allows() {
    for (limit, most) in
        [(u64::MAX, READY_BYTES), (256 << 20, READY_BYTES), (64 << 20, 1 << 20), (1 << 20, 16 << 10), (1 << 10, 0)]
    {
        let blocks = blocks(limit);
        while blocks.fill() {}
        assert_eq!((blocks.bytes(), blocks.memory().used()), (most, most));
    }
}

#[test]
fn commits_take_what_is_there_and_give_it_back_as_a_whole() {
    let blocks = blocks(64 << 20);
    let (mut filled, mut seen) = (0, blocks.seq());
    let overlay = Overlay::default().of_blocks(&blocks);
    let live = Live { snapshots: &[], visible: Csn::default() };
    for (number, csn) in (0..30_000).zip(csns()) {
        overlay.install(&key(number), Some(ValueRef::Bytes(&[7; 100])), csn, &live).expect("they ascend");
        if blocks.seq() != seen {
            seen = blocks.seq();
            filled += 1;
            while blocks.fill() {}
        }
    }
    // (3.1 MB of values alone.)
    assert!(blocks.is_busy() && filled > 3 && blocks.found() > 200, "{filled}");
    let used = overlay.bytes() as u64 + blocks.bytes();
    assert_eq!(blocks.memory().used(), used);
    assert!((0..).zip(csns()).take(30_000).all(|(number, csn)| overlay.newest(&key(number)) == Some(csn)));
    overlay.freeze();
    drop(overlay);
    let free = blocks.bytes();
    assert!(blocks.memory().used() == free && free > used / 10 * 9, "{free} of {used}");
}

#[test]
fn what_was_built_elsewhere_is_counted_and_goes_to_the_others() {
    let blocks = blocks(u64::MAX);
    let overlay = Overlay::default();
    let live = Live { snapshots: &[], visible: Csn::default() };
    for (number, csn) in (0..1000).zip(csns()) {
        // (Long keys stand among the values.)
        let key = [&key(number)[..], &[b'k'; 90]].concat();
        overlay.install(&key, Some(ValueRef::Bytes(&[7; 3000])), csn, &live).expect("they ascend");
    }
    let overlay = overlay.of_blocks(&blocks);
    assert_eq!(blocks.memory().used(), overlay.bytes() as u64);
    drop(overlay);
    assert!(blocks.bytes() > 100_000 && blocks.memory().used() == blocks.bytes());
}

#[test]
fn few_blocks_make_nobody_busy() {
    let blocks = blocks(64 << 20);
    let taken: Vec<Block> = (1..QUIET).map(|_| blocks.take_for_commit()).collect();
    assert!(!blocks.is_busy());
    drop(blocks.take_for_commit());
    assert!(blocks.is_busy() && taken.len() as u64 == QUIET - 1);

    // From then on some are theirs alone.
    while blocks.fill() {}
    let (ready, used) = (blocks.bytes(), blocks.memory().used());
    drop(blocks.take());
    assert_eq!((blocks.bytes(), blocks.memory().used()), (ready, used + BYTES));
    drop(blocks.take_for_commit());
    assert_eq!(blocks.bytes(), ready - BYTES);
}

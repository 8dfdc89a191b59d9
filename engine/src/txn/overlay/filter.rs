//! Says of most keys that a table has no version of them, without a lock: a Bloom filter (Bloom 1970) in blocks of a cache line
//! (Putze, Sanders, Singler 2007). Of a key that was added it never says so.
//!
//! It grows by being built anew, four times as large and a few keys at each addition, so that no addition pays for all. Both are
//! filled meanwhile; the old one stays where it is, since somebody may be looking at it.
//!
//! One at a time adds. Whoever looks without an order between the addition and the look may miss the key; whoever was told of its CSN
//! in any way is in such an order.

use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foldhash::fast::FixedState;

use crate::prefetch::prefetch;

/// Keys that the smallest one is made for.
const LEAST_KEYS: usize = 64;
/// Each is so many times as large as the one before, as a power of two.
const GROWTH_BITS: usize = 2;
/// Sizes that there are. Beyond the largest, false positives become more.
const SIZES: usize = 13;
/// Bits for each key that a size is made for.
const KEY_BITS: usize = 12;
/// Bits that a key sets in its block. Their places and the block's number come from different bits of the hash.
const PROBES: u32 = 5;
/// Keys that a new one gets with each that is added.
const MOVED: usize = 16;

const WORDS: usize = 8;
const BLOCK_BITS: usize = WORDS * 64;
const PLACE_BITS: u32 = BLOCK_BITS.trailing_zeros();

#[derive(Debug, Default)]
#[repr(align(64))]
struct Block([AtomicU64; WORDS]);

/// What anybody looks at.
#[derive(Debug, Default)]
pub(super) struct Filter {
    sizes: [OnceLock<Box<[Block]>>; SIZES],
    /// Which one holds all keys, from 1; 0: there are no keys.
    current: AtomicUsize,
}

/// What only the one that adds needs.
#[derive(Debug, Default)]
pub(super) struct Filling {
    keys: usize,
    /// How many of the keys the next size has by now, once there is one.
    moved: Option<usize>,
    bytes: usize,
}

impl Filling {
    /// Bytes that the filter takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The same in every run.
pub(super) fn hash(key: &[u8]) -> u64 {
    let mut hasher = FixedState::with_seed(0x5ea_0a11).build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// Keys that a size is made for.
fn capacity(size: usize) -> usize {
    LEAST_KEYS << (GROWTH_BITS * size)
}

impl Filter {
    /// Whether a key may have been added.
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        let current = self.current.load(Ordering::Acquire);
        let blocks = current.checked_sub(1).and_then(|size| self.sizes.get(size)?.get());
        let Some(Block(words)) = blocks.and_then(|blocks| block(blocks, hash)) else { return false };
        probes(hash).all(|(word, mask)| words[word].load(Ordering::Relaxed) & mask != 0)
    }

    /// Makes room for so many keys, before the first.
    pub(super) fn reserve(&self, filling: &mut Filling, keys: usize) {
        if keys > 0 && filling.keys == 0 {
            let size = (0..SIZES - 1).find(|size| capacity(*size) >= keys).unwrap_or(SIZES - 1);
            self.make(filling, size);
            self.current.store(size + 1, Ordering::Release);
        }
    }

    /// Adds a key that was not added before; `nth` gives the hashes of those that were, in the order in which they were added.
    pub(super) fn add(&self, filling: &mut Filling, hash: u64, nth: impl Fn(usize) -> u64) {
        let mut current = self.current.load(Ordering::Relaxed);
        if current == 0 {
            self.make(filling, 0);
            current = 1;
            self.current.store(current, Ordering::Release);
        }
        self.set(current - 1, hash);
        if let Some(moved) = filling.moved {
            self.set(current, hash);
            let upto = filling.keys.min(moved + MOVED);
            (moved..upto).for_each(|key| self.set(current, nth(key)));
            filling.moved = Some(upto);
            if upto == filling.keys {
                self.current.store(current + 1, Ordering::Release);
                filling.moved = None;
            }
        } else if filling.keys >= capacity(current - 1) && current < SIZES {
            self.make(filling, current);
            self.set(current, hash);
            filling.moved = Some(0);
        }
        filling.keys += 1;
    }

    /// Asks for the memory that an addition needs, and doesn't wait for it: nothing depends on what is loaded here.
    pub(super) fn warm(&self, hash: u64) {
        let current = self.current.load(Ordering::Relaxed);
        // (While one is made, both are filled.)
        for blocks in self.sizes.iter().skip(current.saturating_sub(1)).take(2).filter_map(OnceLock::get) {
            block(blocks, hash).into_iter().for_each(prefetch);
        }
    }

    fn make(&self, filling: &mut Filling, size: usize) {
        let blocks = (capacity(size) * KEY_BITS).div_ceil(BLOCK_BITS);
        if let Some(place) = self.sizes.get(size) {
            place.get_or_init(|| (0..blocks).map(|_| Block::default()).collect());
            filling.bytes += blocks * size_of::<Block>();
        }
    }

    /// Not a read-modify-write: only one adds.
    fn set(&self, size: usize, hash: u64) {
        let blocks = self.sizes.get(size).and_then(OnceLock::get);
        let Some(Block(words)) = blocks.and_then(|blocks| block(blocks, hash)) else { return };
        for (word, mask) in probes(hash) {
            words[word].store(words[word].load(Ordering::Relaxed) | mask, Ordering::Relaxed);
        }
    }
}

fn block(blocks: &[Block], hash: u64) -> Option<&Block> {
    blocks.get((((hash >> 32) * blocks.len() as u64) >> 32) as usize)
}

/// Words of a block, each with a bit.
fn probes(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..PROBES).map(move |probe| {
        let bit = (hash >> (probe * PLACE_BITS)) as usize % BLOCK_BITS;
        (bit / 64, 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_and_little_else() {
        let key = |number: usize| hash(&(number as u64).to_be_bytes());
        let (filter, mut filling) = (Filter::default(), Filling::default());
        assert!(!filter.may_hold(key(0)) && filling.bytes() == 0);
        for number in 0..100_000 {
            filter.add(&mut filling, key(number), key);
            // Just before and after a new one is taken, and while it is made.
            assert!(filter.may_hold(key(number)) && filter.may_hold(key(number / 2)), "{number}");
            if number.is_power_of_two() {
                assert!((0..=number).all(|number| filter.may_hold(key(number))), "{number}");
                let wrong = (1_000_000..1_010_000).filter(|number| filter.may_hold(key(*number))).count();
                assert!(wrong < 200, "{wrong} of 10000 at {number}");
            }
        }
        // 262,144 keys at 12 bits, and a third of it in those before.
        assert!(filling.bytes() < 530_000, "{}", filling.bytes());
    }
}

//! The keys of a node, in order: the part of the tree that decides how fast it is.
//!
//! A node's keys lie between its two fences, and so does whatever is looked for in it. So the bytes that the fences share need no
//! look, and the 8 behind them, as a number, decide most comparisons: an entry is looked at where two are equal.

use bytemuck::{Pod, Zeroable};

use super::chain::{Chains, NONE};
use crate::prefetch::prefetch;

/// Keys of a node.
pub(super) const FAN: usize = 32;
/// Heads of a cache line.
const LINE: usize = 8;
/// Bytes that the fences must share beyond those that are skipped before a node's heads are made anew: it is a look at all its keys.
const SKIP_STEP: usize = 4;

/// Keys in order.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Keys {
    /// The 8 bytes behind those that are skipped, big-endian, zeros behind the end; those that are not used are the largest.
    heads: [u64; FAN],
    pub(super) entries: [u32; FAN],
    len: u16,
    /// Bytes that all keys share with whatever is looked for here.
    skip: u16,
    rest: [u16; 2],
}

/// The first 8 bytes of a key behind `skip`, as a number: of two keys that share those the larger one's is not the smaller.
#[inline]
pub(crate) fn head(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    match rest.first_chunk() {
        Some(head) => u64::from_be_bytes(*head),
        None => rest.iter().enumerate().fold(0, |all, (at, byte)| all | u64::from(*byte) << (56 - 8 * at)),
    }
}

impl Keys {
    pub(super) fn new(skip: u16) -> Keys {
        Keys { heads: [u64::MAX; FAN], entries: [NONE; FAN], len: 0, skip, rest: [0; 2] }
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    pub(super) fn used(&self) -> &[u32] {
        &self.entries[..self.len()]
    }

    /// Asks for all its memory together, and doesn't wait for it: nothing depends on what is loaded here.
    pub(super) fn warm(&self) {
        self.heads.iter().step_by(LINE).for_each(prefetch);
        self.entries.iter().step_by(2 * LINE).for_each(prefetch);
        prefetch(&self.len);
    }

    /// Where a key stands; if it isn't there, where it would.
    #[inline]
    pub(super) fn find(&self, chains: &Chains, key: &[u8]) -> Result<usize, usize> {
        let skip = usize::from(self.skip);
        let head = head(key, skip);
        // No branch: one head of each cache line first, so that all lines are asked for at once; then halves of the one line.
        let below = |at: usize| usize::from(self.heads[at] < head);
        let mut less = LINE * (1..FAN / LINE).map(|line| below(line * LINE - 1)).sum::<usize>();
        for half in [LINE / 2, LINE / 4, LINE / 8, 1] {
            less += half * below(less + half - 1);
        }
        let same = self.heads[less..self.len()].iter().take_while(|other| **other == head).count();
        if same == 0 {
            return Err(less);
        }
        let place = self.entries[less..less + same]
            .binary_search_by(|entry| rest(chains.key(*entry), skip).cmp(rest(key, skip)));
        place.map(|at| less + at).map_err(|at| less + at)
    }

    /// There must be room.
    pub(super) fn insert(&mut self, at: usize, entry: u32, key: &[u8]) {
        let len = self.len();
        self.heads.copy_within(at..len, at + 1);
        self.entries.copy_within(at..len, at + 1);
        self.heads[at] = head(key, usize::from(self.skip));
        self.entries[at] = entry;
        self.len += 1;
    }

    /// All entries have got larger numbers.
    pub(super) fn moved(&mut self, by: u32) {
        let len = self.len();
        self.entries[..len].iter_mut().for_each(|entry| *entry += by);
    }

    /// The keys from one on, as a node of their own.
    pub(super) fn split(&mut self, at: usize) -> Keys {
        let (mut right, count) = (Keys::new(self.skip), self.len() - at);
        right.heads[..count].copy_from_slice(&self.heads[at..at + count]);
        right.entries[..count].copy_from_slice(&self.entries[at..at + count]);
        right.len = count as u16;
        self.cut(at);
        right
    }

    pub(super) fn cut(&mut self, len: usize) {
        self.heads[len..].fill(u64::MAX);
        self.len = len as u16;
    }

    /// Between narrower fences more bytes may be skipped.
    pub(super) fn fence(&mut self, chains: &Chains, low: Option<u32>, high: Option<u32>) {
        let (Some(low), Some(high)) = (low, high) else { return };
        let (low, high) = (chains.key(low), chains.key(high));
        let shared = low.iter().zip(high).take_while(|(a, b)| a == b).count().min(usize::from(u16::MAX));
        if shared < usize::from(self.skip) + SKIP_STEP {
            return;
        }
        self.skip = shared as u16;
        let len = self.len();
        for (place, entry) in self.heads.iter_mut().zip(&self.entries[..len]) {
            *place = head(chains.key(*entry), shared);
        }
    }
}

fn rest(key: &[u8], skip: usize) -> &[u8] {
    key.get(skip..).unwrap_or_default()
}

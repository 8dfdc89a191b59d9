//! A circle of pages between one producer and one drain, bounded in bytes.
//!
//! Pages are counted by two marks that never go back: `appended` (pages that the producer has filled) and `drained` (pages
//! whose bytes were written). Page `n` lies at `n mod pages`, and at most `pages` lie between the marks, so a full ring
//! sends the producer to drain, and memory stays bounded. The producer holds one page outside of the circle and fills it
//! without looking at anything else; a drain takes all full pages at once, in order, and gives them back when they were
//! written.
//!
//! What doesn't fit a page has a buffer of its own (an *appendix*), in the place in the order where a page would be. Page
//! buffers are allocated when they are first needed and then go round: a steady state allocates nothing.
//!
//! After MemTable's ring of linked buffers; unlike there, taking and giving back are two steps, so that a page is never
//! filled while it is being written, and a drain takes all full pages instead of one.

use std::collections::VecDeque;

/// What a filled page holds, and where it belongs.
#[derive(Debug)]
pub(crate) struct Filled<T> {
    pub(crate) tag: T,
    pub(crate) bytes: Vec<u8>,
    appendix: bool,
}

/// The circle. All of it is behind the mutex of its owner; the page that the producer fills is not.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    /// Filled and not taken, oldest first: the pages `taken..appended`.
    full: VecDeque<Filled<T>>,
    /// Buffers of pages that wait to be filled.
    empty: Vec<Vec<u8>>,
    /// Page buffers that exist, here or outside.
    allocated: usize,
    pages: usize,
    page_bytes: usize,
    appended: u64,
    taken: u64,
    drained: u64,
    /// Bytes of appendices that were accepted and not written yet.
    appendix_bytes: u64,
    /// Takes turns with the queue that a drain works on, so that neither is allocated anew.
    spare: VecDeque<Filled<T>>,
}

impl<T> Ring<T> {
    /// A circle of `pages` pages (at least 2: one to fill, one to write) of `page_bytes` each.
    pub(crate) fn new(pages: usize, page_bytes: usize) -> Ring<T> {
        debug_assert!(pages >= 2 && page_bytes > 0);
        Ring {
            full: VecDeque::with_capacity(pages),
            empty: Vec::with_capacity(pages),
            allocated: 0,
            pages,
            page_bytes,
            appended: 0,
            taken: 0,
            drained: 0,
            appendix_bytes: 0,
            spare: VecDeque::with_capacity(pages),
        }
    }

    /// Bytes of one page; what is longer needs an appendix.
    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Whether a page or an appendix more can be put in now.
    pub(crate) fn has_room(&self) -> bool {
        self.appended - self.drained < self.pages as u64
    }

    /// Whether an appendix of `bytes` may come in: one at least, else as many as the pages of the ring would hold.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        let limit = (self.pages * self.page_bytes) as u64;
        self.has_room() && (self.appendix_bytes == 0 || self.appendix_bytes + bytes <= limit)
    }

    /// An empty page for the producer, unless all are in use.
    pub(crate) fn empty_page(&mut self) -> Option<Vec<u8>> {
        if let Some(page) = self.empty.pop() {
            return Some(page);
        }
        (self.allocated < self.pages).then(|| {
            self.allocated += 1;
            Vec::with_capacity(self.page_bytes)
        })
    }

    /// Puts a filled page or an appendix in. The caller has made sure that there [is room](Ring::has_room).
    pub(crate) fn append(&mut self, tag: T, bytes: Vec<u8>, appendix: bool) {
        debug_assert!(self.has_room(), "the producer looks before it appends");
        if appendix {
            self.appendix_bytes += bytes.len() as u64;
        }
        self.appended += 1;
        self.full.push_back(Filled { tag, bytes, appendix });
    }

    /// Gives back a page that the producer did not use.
    pub(crate) fn put_back(&mut self, page: Vec<u8>) {
        debug_assert!(page.is_empty() && self.empty.len() < self.allocated, "it is a page of this ring");
        self.empty.push(page);
    }

    /// How many pages have come back from their drain.
    pub(crate) fn drained(&self) -> u64 {
        self.drained
    }

    /// Whether nothing waits to be taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.full.is_empty()
    }

    /// What waits to be taken, oldest first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.full.iter().map(|filled| &filled.tag)
    }

    /// Everything that is full, in order, for one drain.
    pub(crate) fn take(&mut self) -> VecDeque<Filled<T>> {
        self.taken = self.appended;
        std::mem::replace(&mut self.full, std::mem::take(&mut self.spare))
    }

    /// Gives back what was taken; it has been written, or never will be.
    pub(crate) fn give_back(&mut self, mut taken: VecDeque<Filled<T>>) {
        for Filled { mut bytes, appendix, .. } in taken.drain(..) {
            self.drained += 1;
            if appendix {
                self.appendix_bytes -= bytes.len() as u64;
            } else {
                bytes.clear();
                self.empty.push(bytes);
            }
        }
        debug_assert!(self.drained <= self.taken && self.taken <= self.appended);
        if self.spare.capacity() == 0 {
            self.spare = taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Drains everything into `file`, as a writer of one file does.
    fn drain(ring: &mut Ring<()>, file: &mut Vec<u8>) {
        let taken = ring.take();
        taken.iter().for_each(|filled| file.extend_from_slice(&filled.bytes));
        ring.give_back(taken);
    }

    #[test]
    fn the_nth_page_fills_the_ring_and_the_one_before_does_not() {
        for pages in [2, 3, 8] {
            let mut ring = Ring::new(pages, 8);
            for filled in 1..=pages {
                assert!(ring.has_room(), "{filled} of {pages}");
                let mut page = ring.empty_page().unwrap();
                page.push(1);
                ring.append((), page, false);
            }
            assert!(!ring.has_room());
            assert!(ring.empty_page().is_none(), "memory is bounded");
            drain(&mut ring, &mut Vec::new());
            assert!(ring.has_room());
        }
    }

    #[test]
    fn what_is_taken_still_counts_until_it_is_given_back() {
        let mut ring = Ring::new(2, 8);
        for _ in 0..2 {
            let page = ring.empty_page().unwrap();
            ring.append((), page, false);
        }
        let taken = ring.take();
        assert!(ring.is_empty() && !ring.has_room(), "a page that is being written is not free");
        ring.give_back(taken);
        assert!(ring.has_room());
    }

    proptest! {
        /// Whatever is appended and drained in whatever order comes out whole and in order, appendices included, and the
        /// marks stay within the circle.
        #[test]
        fn bytes_come_out_in_order(steps: Vec<(bool, u8)>, pages in 2_usize..5) {
            let mut ring = Ring::new(pages, 8);
            let (mut expected, mut file) = (Vec::new(), Vec::new());
            let mut in_flight = None;
            for (index, (append, length)) in steps.into_iter().enumerate() {
                if append {
                    let length = usize::from(length) % 20;
                    let large = length > ring.page_bytes();
                    if if large { ring.has_room_for(length as u64) } else { ring.has_room() } {
                        let mut bytes =
                            if large { Vec::with_capacity(length) } else { ring.empty_page().unwrap() };
                        bytes.resize(length, index as u8);
                        expected.extend_from_slice(&bytes);
                        ring.append((), bytes, large);
                    }
                } else if let Some(taken) = in_flight.take() {
                    let taken: VecDeque<Filled<()>> = taken;
                    taken.iter().for_each(|filled| file.extend_from_slice(&filled.bytes));
                    ring.give_back(taken);
                } else {
                    in_flight = Some(ring.take());
                }
                prop_assert!(ring.drained <= ring.taken && ring.taken <= ring.appended);
                prop_assert!(ring.appended - ring.drained <= pages as u64);
                prop_assert!(ring.allocated <= pages);
            }
            if let Some(taken) = in_flight.take() {
                taken.iter().for_each(|filled| file.extend_from_slice(&filled.bytes));
                ring.give_back(taken);
            }
            drain(&mut ring, &mut file);
            prop_assert_eq!(file, expected);
        }
    }
}

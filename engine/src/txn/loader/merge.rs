//! Rows of several trees in one order; of those with the same key that of the last tree counts.

use crate::txn::storage::{Cursor, StorageError};

use super::batch::{Batch, head_of};

/// Rows are handed on so many bytes at a time.
const BATCH_BYTES: u64 = 256 << 10;

/// A merge under way. After an error, or if a future of it is dropped, it is of no use.
pub(super) struct Merging<C> {
    sources: Vec<Source<C>>,
    /// Those that have a row, as a heap: the first row is the first one's.
    heap: Vec<usize>,
    prefix_bytes: usize,
}

struct Source<C> {
    cursor: C,
    /// Of the row that it is at.
    head: u64,
}

impl<C: Cursor> Source<C> {
    fn key(&self) -> &[u8] {
        self.cursor.current().map_or(&[], |(key, _)| key)
    }

    async fn advance(&mut self, prefix_bytes: usize) -> Result<bool, StorageError> {
        let goes_on = self.cursor.advance().await?;
        self.head = head_of(self.key(), prefix_bytes);
        Ok(goes_on)
    }
}

impl<C: Cursor> Merging<C> {
    /// Of cursors in front of their first rows, all of whose keys have so many bytes in common.
    pub(super) async fn new(cursors: Vec<C>, prefix_bytes: usize) -> Result<Merging<C>, StorageError> {
        let sources = cursors.into_iter().map(|cursor| Source { cursor, head: 0 }).collect();
        let mut merging = Merging { sources, heap: Vec::new(), prefix_bytes };
        for index in 0..merging.sources.len() {
            if merging.sources[index].advance(prefix_bytes).await? {
                merging.heap.push(index);
            }
        }
        for place in (0..merging.heap.len() / 2).rev() {
            merging.sink(place);
        }
        Ok(merging)
    }

    /// Adds the next rows to an empty batch; false if there are none any more.
    pub(super) async fn fill(&mut self, batch: &mut Batch) -> Result<bool, StorageError> {
        while let Some(first) = self.heap.first().copied() {
            let source = &mut self.sources[first];
            if let Some((key, value)) = source.cursor.current()
                && batch.last() != Some(key)
            {
                if batch.bytes() >= BATCH_BYTES {
                    break;
                }
                batch.put(key, value);
            }
            if !source.advance(self.prefix_bytes).await? {
                self.heap.swap_remove(0);
            }
            self.sink(0);
        }
        Ok(!batch.is_empty())
    }

    /// Whether the row of one source comes before that of another: by its key, then the last tree's.
    fn is_before(&self, a: usize, b: usize) -> bool {
        let (left, right) = (&self.sources[a], &self.sources[b]);
        let order = left.head.cmp(&right.head).then_with(|| left.key().cmp(right.key())).then(b.cmp(&a));
        order.is_lt()
    }

    /// Lets a source go down the heap to where it belongs.
    fn sink(&mut self, mut place: usize) {
        loop {
            let mut least = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.heap.len() && self.is_before(self.heap[child], self.heap[least]) {
                    least = child;
                }
            }
            if least == place {
                return;
            }
            self.heap.swap(place, least);
            place = least;
        }
    }
}

//! The keys of a range in order: a transaction's own writes, the generations' versions and what is below, merged.

use std::{cmp::Ordering, mem, ops::Bound, sync::Arc};

use smallvec::SmallVec;

use crate::env::Env;

use super::{
    error::TxError,
    ids::{Csn, TableId},
    overlay::{Batch, Overlay},
    shared::Shared,
    storage::{Cursor, Direction, KeyRange, State, Storage},
    undo::{After, WriteSet},
    validate::ReadSet,
    view::{Snapshot, View},
};

/// Entries that are taken from a generation at a time: few at first, since many scans end soon.
const FIRST_BATCH: usize = 8;
const LARGEST_BATCH: usize = 256;

/// A scan of a table. It sees one moment, and what its transaction had written before it began.
pub struct Scan<'a, E: Env, S: Storage<E>> {
    at: Csn,
    direction: Direction,
    table: TableId,
    range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    own: Own<'a>,
    layers: SmallVec<[Layer; 2]>,
    /// What the storage has.
    below: <S::State as State>::Cursor,
    reads: Option<&'a mut ReadSet>,
    /// The moment, if it is this statement's alone.
    _statement: Option<Statement<E, S>>,
    /// What stands at the key that was taken last, and the storage before its first: it is passed when the next one is asked for, so that
    /// nothing is lost should that fail, or be dropped.
    taken: SmallVec<[Source; 4]>,
    ended: bool,
}

/// A moment that one statement sees.
pub(super) struct Statement<E: Env, S: Storage<E>> {
    pub(super) shared: Arc<Shared<E, S>>,
    pub(super) snapshot: Snapshot<S::State>,
}

/// What the transaction itself has written, in the scan's direction.
struct Own<'a> {
    rest: Box<dyn Iterator<Item = (&'a [u8], &'a After)> + Send + 'a>,
    current: Option<(&'a [u8], &'a After)>,
}

/// What a generation has.
struct Layer {
    overlay: Arc<Overlay>,
    batch: Batch,
    /// The one before, whose memory is the next one's.
    spare: Batch,
    next: usize,
    size: usize,
    begun: bool,
    /// There may be more behind the batch.
    more: bool,
}

/// Where the next key is from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Own,
    Layer(usize),
    Below,
}

impl<'a, E: Env, S: Storage<E>> Scan<'a, E, S> {
    #[expect(clippy::too_many_arguments, reason = "what it reads, how, and what of it")]
    pub(super) fn new(
        view: Arc<View<S::State>>,
        at: Csn,
        writes: &'a WriteSet,
        reads: Option<&'a mut ReadSet>,
        statement: Option<Statement<E, S>>,
        table: TableId,
        range: KeyRange<'_>,
        direction: Direction,
    ) -> Scan<'a, E, S> {
        let own = writes.range(table, range);
        let mut rest: Box<dyn Iterator<Item = _> + Send + 'a> = match direction {
            Direction::Forward => Box::new(own),
            Direction::Backward => Box::new(own.rev()),
        };
        let own = Own { current: rest.next(), rest };
        let layer = |overlay| {
            let (batch, spare, next, size) = (Batch::default(), Batch::default(), 0, FIRST_BATCH);
            Layer { overlay, batch, spare, next, size, begun: false, more: true }
        };
        let layers = match view.volatile.table(table) {
            Some(overlay) => std::iter::once(Arc::clone(overlay)).map(layer).collect(),
            None => view.generations.iter().filter_map(|generation| generation.table(table)).map(layer).collect(),
        };
        let below = view.state.cursor(table, range, direction);
        let taken = SmallVec::from_slice(&[Source::Below]);
        let range = (range.0.map(<[u8]>::to_vec), range.1.map(<[u8]>::to_vec));
        let _statement = statement;
        Scan { at, direction, table, range, own, layers, below, reads, _statement, taken, ended: false }
    }

    /// The next key with its value; `None` at the end, and from then on.
    ///
    /// # Errors
    /// [`TxError::Storage`]: the scan stays where it is.
    pub async fn next(&mut self) -> Result<Option<(&[u8], &[u8])>, TxError> {
        let source = loop {
            if self.ended {
                return Ok(None);
            }
            self.pass().await?;
            let source = self.take();
            self.note_range(source);
            match source {
                None => {
                    self.ended = true;
                    return Ok(None);
                }
                Some(Source::Below) => break Source::Below,
                Some(source) if self.at(source).is_some_and(|(_, value)| value.is_some()) => break source,
                // It is removed.
                Some(_) => {}
            }
        };
        Ok(self.at(source).and_then(|(key, value)| Some((key, value?))))
    }

    /// Goes behind the last key wherever it stands: in all sources but the newest it has older versions.
    async fn pass(&mut self) -> Result<(), TxError> {
        while let Some(source) = self.taken.last() {
            match source {
                Source::Own => self.own.current = self.own.rest.next(),
                Source::Layer(nth) => self.layers[*nth].next += 1,
                Source::Below if self.below.advance_now() => {}
                Source::Below => drop(self.below.advance().await?),
            }
            self.taken.pop();
        }
        self.layers.iter_mut().for_each(|layer| layer.fill(&self.range, self.at, self.direction));
        Ok(())
    }

    /// Takes the next key from all sources that have it; the newest of them.
    fn take(&mut self) -> Option<Source> {
        let Scan { own, layers, below, taken, direction, .. } = self;
        let mut first: Option<&[u8]> = None;
        let mut offer = |key, source| {
            // (The only one is mostly compared with nothing. Comparing it with an empty slice, at an address where nothing is, took a
            // third of a scan: libc loads nothing from there, which the processor does slowly.)
            let order = first.map(|first| match direction {
                Direction::Forward => <[u8]>::cmp(key, first),
                Direction::Backward => <[u8]>::cmp(first, key),
            });
            match order {
                Some(Ordering::Greater) => return,
                Some(Ordering::Less) => taken.clear(),
                Some(Ordering::Equal) | None => {}
            }
            first = Some(key);
            taken.push(source);
        };
        if let Some((key, _)) = below.current() {
            offer(key, Source::Below);
        }
        for (nth, layer) in layers.iter().enumerate().rev() {
            if let Some((key, _)) = layer.current() {
                offer(key, Source::Layer(nth));
            }
        }
        if let Some((key, _)) = own.current {
            offer(key, Source::Own);
        }
        self.taken.last().copied()
    }

    /// The key that a source is at, with its value unless it is removed.
    #[inline(always)]
    fn at(&self, source: Source) -> Option<(&[u8], Option<&[u8]>)> {
        match source {
            Source::Own => self.own.current.map(|(key, after)| (key, after.as_deref())),
            Source::Layer(nth) => self.layers[nth].current(),
            Source::Below => self.below.current().map(|(key, value)| (key, Some(value))),
        }
    }

    /// What a serializable transaction has read: from the range's beginning to the key that was taken, or all of it.
    fn note_range(&mut self, to: Option<Source>) {
        let Some(reads) = self.reads.take() else { return };
        let (from, end) = (self.range.0.as_ref().map(Vec::as_slice), self.range.1.as_ref().map(Vec::as_slice));
        let range = match (to.and_then(|source| self.at(source)), self.direction) {
            (None, _) => (from, end),
            (Some((key, _)), Direction::Forward) => (from, Bound::Included(key)),
            (Some((key, _)), Direction::Backward) => (Bound::Included(key), end),
        };
        reads.range(self.table, range);
        self.reads = Some(reads);
    }
}

impl<E: Env, S: Storage<E>> Drop for Statement<E, S> {
    fn drop(&mut self) {
        self.shared.horizon.end(&self.snapshot);
    }
}

impl Layer {
    /// Sees that there is an entry at hand, unless there are none left.
    fn fill(&mut self, range: &(Bound<Vec<u8>>, Bound<Vec<u8>>), at: Csn, direction: Direction) {
        while self.current().is_none() && self.more {
            let whole = (range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice));
            let mut batch = mem::take(&mut self.spare);
            let rest = if self.begun { self.batch.rest(whole, direction) } else { Some(whole) };
            match rest {
                Some(rest) => self.overlay.batch(rest, at, direction, self.size, &mut batch),
                None => {
                    batch.clear();
                    self.more = false;
                }
            }
            self.spare = mem::replace(&mut self.batch, batch);
            (self.next, self.begun) = (0, true);
            self.size = (self.size * 2).min(LARGEST_BATCH);
        }
    }

    #[inline]
    fn current(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.batch.nth(self.next)
    }
}

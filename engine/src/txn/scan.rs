//! The keys of a range in order: a transaction's own writes, the generations' versions and what is below, merged.

use std::{ops::Bound, sync::Arc};

use smallvec::SmallVec;

use crate::env::Env;

use super::{
    error::TxError,
    ids::{Csn, TableId},
    overlay::{Batch, Overlay, Value as Version},
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
    below: Below<<S::State as State>::Cursor>,
    reads: Option<&'a mut ReadSet>,
    /// The moment, if it is this statement's alone.
    _statement: Option<Statement<E, S>>,
    /// The last key that was taken. What stands at it in each source is passed when the next one is asked for, so that nothing is
    /// lost should that fail, or be dropped.
    key: Option<Vec<u8>>,
    /// Its value, if it is not of the storage.
    value: Version,
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
    next: usize,
    size: usize,
    begun: bool,
    /// There may be more behind the batch.
    more: bool,
}

/// What the storage has.
struct Below<C> {
    cursor: C,
    /// It has been asked for its first key.
    begun: bool,
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
        let layer =
            |overlay| Layer { overlay, batch: Batch::default(), next: 0, size: FIRST_BATCH, begun: false, more: true };
        let layers = match view.volatile.table(table) {
            Some(overlay) => std::iter::once(Arc::clone(overlay)).map(layer).collect(),
            None => view.generations.iter().filter_map(|generation| generation.table(table)).map(layer).collect(),
        };
        let below = Below { cursor: view.state.cursor(table, range, direction), begun: false };
        let range = (range.0.map(<[u8]>::to_vec), range.1.map(<[u8]>::to_vec));
        let value = Version::default();
        let _statement = statement;
        Scan { at, direction, table, range, own, layers, below, reads, _statement, key: None, value, ended: false }
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
            for layer in &mut self.layers {
                layer.fill(&self.range, self.at, self.direction);
            }
            let Some(source) = self.first() else {
                self.ended = true;
                self.note_range(None);
                return Ok(None);
            };
            let found = self.take(source);
            if self.reads.is_some() {
                let key = self.key.take();
                self.note_range(key.as_deref());
                self.key = key;
            }
            if found {
                break source;
            }
        };
        Ok(match source {
            Source::Below => self.below.cursor.current(),
            Source::Own | Source::Layer(_) => self.key.as_deref().map(|key| (key, &*self.value)),
        })
    }

    /// Goes behind the last key wherever it stands: in all sources but the newest it has older versions.
    async fn pass(&mut self) -> Result<(), TxError> {
        let at_key = |current: Option<(&[u8], &[u8])>| {
            current.zip(self.key.as_deref()).is_some_and(|((current, _), key)| current == key)
        };
        if !self.below.begun || at_key(self.below.cursor.current()) {
            self.below.cursor.advance().await?;
            self.below.begun = true;
        }
        if let Some(key) = &self.key {
            self.own.pass(key);
            self.layers.iter_mut().for_each(|layer| layer.pass(key));
        }
        Ok(())
    }

    /// Which source has the next key; of several the newest.
    fn first(&self) -> Option<Source> {
        let own = self.own.current.map(|(key, _)| (key, Source::Own));
        let layers = self.layers.iter().enumerate().filter_map(|(nth, layer)| Some((layer.key()?, Source::Layer(nth))));
        let below = self.below.cursor.current().map(|(key, _)| (key, Source::Below));
        let mut first: Option<(&[u8], Source)> = None;
        for (key, source) in own.into_iter().chain(layers).chain(below) {
            let before = first.is_none_or(|(first, _)| match self.direction {
                Direction::Forward => key < first,
                Direction::Backward => key > first,
            });
            if before {
                first = Some((key, source));
            }
        }
        first.map(|(_, source)| source)
    }

    /// Takes the key from there, and its value unless that can be borrowed; false if it is removed.
    fn take(&mut self, source: Source) -> bool {
        let (key, value) = match source {
            Source::Own => self.own.current.map(|(key, after)| (key, after.clone())),
            Source::Layer(nth) => self.layers[nth].current().map(|(key, value)| (key, value.cloned())),
            Source::Below => self.below.cursor.current().map(|(key, _)| (key, Some(Version::default()))),
        }
        .unwrap_or_default();
        let taken = self.key.get_or_insert_default();
        taken.clear();
        taken.extend_from_slice(key);
        let found = value.is_some();
        self.value = value.unwrap_or_default();
        found
    }

    /// What a serializable transaction has read: from the range's beginning to this key, or all of it.
    fn note_range(&mut self, to: Option<&[u8]>) {
        let Some(reads) = &mut self.reads else { return };
        let (from, end) = (self.range.0.as_ref().map(Vec::as_slice), self.range.1.as_ref().map(Vec::as_slice));
        let range = match (to, self.direction) {
            (None, _) => (from, end),
            (Some(key), Direction::Forward) => (from, Bound::Included(key)),
            (Some(key), Direction::Backward) => (Bound::Included(key), end),
        };
        reads.range(self.table, range);
    }
}

impl<E: Env, S: Storage<E>> Drop for Statement<E, S> {
    fn drop(&mut self) {
        self.shared.horizon.end(&self.snapshot);
    }
}

impl Own<'_> {
    fn pass(&mut self, key: &[u8]) {
        if self.current.is_some_and(|(own, _)| own == key) {
            self.current = self.rest.next();
        }
    }
}

impl Layer {
    /// Sees that there is an entry at hand, unless there are none left.
    fn fill(&mut self, range: &(Bound<Vec<u8>>, Bound<Vec<u8>>), at: Csn, direction: Direction) {
        while self.current().is_none() && self.more {
            let whole = (range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice));
            let mut batch = Batch::default();
            let rest = if self.begun { self.batch.rest(whole, direction) } else { Some(whole) };
            match rest {
                Some(rest) => self.overlay.batch(rest, at, direction, self.size, &mut batch),
                None => self.more = false,
            }
            (self.batch, self.next, self.begun) = (batch, 0, true);
            self.size = (self.size * 2).min(LARGEST_BATCH);
        }
    }

    fn current(&self) -> Option<(&[u8], Option<&Version>)> {
        self.batch.nth(self.next)
    }

    fn key(&self) -> Option<&[u8]> {
        self.current().map(|(key, _)| key)
    }

    fn pass(&mut self, key: &[u8]) {
        if self.key() == Some(key) {
            self.next += 1;
        }
    }
}

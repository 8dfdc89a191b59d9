//! A table built from a stream of rows, past the logs, and published whole.
//!
//! Rows are collected in memory and sorted ([`batch`]). A batch that lies above all of the one before goes on with its tree, so what comes
//! in ascending order is written once; another begins a tree of its own, and at the end all of them are merged into one ([`merge`]). Then
//! a checkpoint takes that with it. Trees are built apart from all states: a crash before leaves nothing of them.
//!
//! A tree has files of its own, which are open. So that they stay few, trees of one rank are merged into one of the next rank once there
//! are [`MOST_TREES`] of them (the stepped merge of Jagadish et al., "Incremental Organization for Data Recording and Warehousing", 1997).

use std::sync::Arc;

use thiserror::Error;

use crate::env::Env;

mod batch;
mod merge;

use batch::Batch;
use merge::Merging;

use super::{
    catalog::{Catalog, CatalogError, TableKind},
    error::{CheckpointError, TableError, TxError},
    ids::{Csn, TableId},
    loads::{Load, Outcome},
    options::TableOptions,
    pages::Pages,
    redo::MAX_NAME_BYTES,
    shared::Shared,
    storage::{State, Storage, StorageError},
};

/// The most that is collected, in bytes.
const MOST_BYTES: u64 = 1 << 30;
/// What is collected of rows that all came in ascending order: they need no sorting, and stay in a core's cache.
const SORTED_BYTES: u64 = 1 << 20;
/// Trees of one rank, at most.
const MOST_TREES: usize = 64;

/// Builds a table; see [`Store::loader`](super::Store::loader). Dropped before [`finish`](Loader::finish), there is no table. It takes
/// about [`dirty_bytes`](super::options::Options::dirty_bytes) of memory at most, and on the disk what its rows take: twice that while
/// rows that didn't come in ascending order are merged. That is at the end, and each 64 times `dirty_bytes` before.
pub struct Loader<E: Env, S: Storage<E> = Pages<E>> {
    shared: Arc<Shared<E, S>>,
    name: Arc<str>,
    id: TableId,
    limit_bytes: u64,
    batch: Batch,
    /// What of the memory counts as the batch's.
    counted_bytes: u64,
    /// The last one may go on. The ranks descend.
    trees: Vec<Tree<E, S>>,
    /// Its name is set apart, and nobody else gives it up.
    reserved: bool,
    /// A call failed or was interrupted.
    broken: bool,
}

/// A tree of rows in ascending order.
struct Tree<E: Env, S: Storage<E>> {
    build: S::Build,
    /// How often its rows were merged.
    rank: u32,
    rows: u64,
    last: Vec<u8>,
    /// Once it is complete: its rows.
    cursor: Option<<S::State as State>::Cursor>,
}

/// What a load did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// The commit that the table came with.
    pub csn: Csn,
    /// Its rows.
    pub rows: u64,
}

/// Why rows were not loaded. There is no table of them, unless it says otherwise.
#[derive(Clone, Debug, Error)]
pub enum LoadError {
    /// The table can't be created.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Only [`TableKind::Rows`] can be loaded. Remedy: load the rows, then create an index of them.
    #[error("only tables of rows can be loaded")]
    Kind,
    /// The row can't be taken: it is too large, or the store is closed or poisoned. Remedy: that of the error; the loader takes others.
    #[error(transparent)]
    Row(#[from] TxError),
    /// The rows can't be written or read back. Remedy: that of the error, then another loader.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No root was published with the table. Remedy: that of the error, then another loader. With [`CheckpointError::Unknown`] and
    /// [`CheckpointError::Log`] the table is there as a whole after a reopen, or not at all.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An earlier call failed or was interrupted. Remedy: another loader.
    #[error("an earlier call of this loader failed or was interrupted")]
    Broken,
}

impl<E: Env, S: Storage<E>> Loader<E, S> {
    pub(super) fn new(shared: &Arc<Shared<E, S>>, name: &str, options: &TableOptions) -> Result<Self, LoadError> {
        shared.alive()?;
        if options.kind != TableKind::Rows {
            return Err(LoadError::Kind);
        }
        if !(1..=MAX_NAME_BYTES).contains(&(name.len() as u64)) {
            return Err(TableError::Name(name.len()).into());
        }
        let id = {
            let mut pipeline = shared.commit();
            let mut catalog = Catalog::clone(&pipeline.catalog);
            let id = catalog.reserve(name).map_err(|error| match error {
                CatalogError::NameTaken => TableError::Exists(name.to_owned()),
                _ => TableError::TooMany,
            })?;
            shared.set_catalog(&mut pipeline, catalog);
            id
        };
        let limit_bytes = shared.options.dirty_bytes.min(MOST_BYTES);
        Ok(Loader {
            shared: Arc::clone(shared),
            name: name.into(),
            id,
            limit_bytes,
            batch: Batch::default(),
            counted_bytes: 0,
            trees: Vec::new(),
            reserved: true,
            broken: false,
        })
    }

    /// Adds a row. Of rows with the same key the one that was added last counts.
    ///
    /// # Errors
    /// [`LoadError`]. After [`LoadError::Row`] it goes on with other rows; after any other, or if the future is dropped, it is of no use.
    pub async fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), LoadError> {
        self.shared.check_key(key)?;
        self.shared.check_value(value)?;
        if self.broken {
            return Err(LoadError::Broken);
        }
        let bytes = self.batch.bytes_with(key, value);
        if bytes > self.limit_bytes.min(SORTED_BYTES) && !self.batch.is_empty() {
            if bytes > self.limit_bytes || self.all_ascend() {
                self.put_down().await?;
            } else {
                self.batch.make_room(self.limit_bytes, key, value);
            }
        }
        self.batch.push(key, value);
        self.count();
        Ok(())
    }

    /// Publishes the table: when this returns it is durable, and whoever begins then sees it. Dropped, it may be there or not.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn finish(mut self) -> Result<LoadReport, LoadError> {
        if self.broken {
            return Err(LoadError::Broken);
        }
        self.put_down().await?;
        let (build, rows) = self.one_tree().await?;
        let outcome = Outcome::default();
        let (name, id) = (Arc::clone(&self.name), self.id);
        self.reserved = false;
        self.shared.loads.add(Load { name, id, build: Some(build), csn: None, outcome: Arc::clone(&outcome) });
        let last = self.shared.checkpoint().await;
        match outcome.get() {
            Some(Ok(csn)) => Ok(LoadReport { csn: *csn, rows }),
            Some(Err(error)) => Err(error.clone().into()),
            None => Err(last.err().unwrap_or(CheckpointError::Closed).into()),
        }
    }

    /// What the batch has grown by counts, and pages go for it.
    fn count(&mut self) {
        let held = self.batch.held_bytes();
        if held > self.counted_bytes {
            self.shared.versions.memory().add(held - self.counted_bytes);
            self.counted_bytes = held;
            self.shared.versions.blocks().shrink();
        }
    }

    /// Whether all rows that ever came did so in ascending order. (Where some didn't, small batches would be many trees.)
    fn all_ascend(&self) -> bool {
        let above = |tree: &Tree<E, S>| self.batch.first().is_some_and(|first| tree.last.as_slice() < first);
        self.batch.ascends() && self.trees.len() < 2 && self.trees.iter().all(above)
    }

    /// The rows that were collected go into a tree.
    async fn put_down(&mut self) -> Result<(), LoadError> {
        self.shared.alive()?;
        self.broken = true;
        self.batch.sort();
        let storage = &self.shared.storage;
        if let (Some(first), Some(last)) = (self.batch.first(), self.batch.last()) {
            let goes_on = self.trees.last().is_some_and(|tree| tree.last.as_slice() < first);
            if !goes_on {
                if let Some(tree) = self.trees.last_mut() {
                    tree.complete(storage).await?;
                }
                while let Some((first, rank)) = self.too_many() {
                    let trees = self.trees.split_off(first);
                    let merged = self.merge(trees, false).await?;
                    self.trees.push(Tree { rank: rank + 1, ..merged });
                }
                self.trees.push(Tree::new(storage.build(self.id)));
            }
            let alone = self.trees.len() == 1;
            if let Some(tree) = self.trees.last_mut() {
                tree.last.clear();
                tree.last.extend_from_slice(last);
                tree.rows += self.batch.rows();
                storage.extend(&mut tree.build, &mut self.batch).await?;
                // (Where there are several, none of them is published.)
                if alone {
                    storage.hasten(&mut tree.build);
                }
            }
        }
        self.batch.clear();
        self.broken = false;
        Ok(())
    }

    /// All rows in one tree, and how many they are.
    async fn one_tree(&mut self) -> Result<(S::Build, u64), LoadError> {
        let storage = &self.shared.storage;
        let mut trees = std::mem::take(&mut self.trees);
        if trees.is_empty() {
            trees.push(Tree::new(storage.build(self.id)));
        }
        if let Some(last) = trees.last_mut() {
            last.complete(storage).await?;
        }
        if trees.len() == 1
            && let Some(tree) = trees.pop()
        {
            return Ok((tree.build, tree.rows));
        }
        let whole = self.merge(trees, true).await?;
        Ok((whole.build, whole.rows))
    }

    /// From where on trees are to be merged, and their rank.
    fn too_many(&self) -> Option<(usize, u32)> {
        let rank = self.trees.last()?.rank;
        let same = self.trees.iter().rev().take_while(|tree| tree.rank == rank).count();
        (same >= MOST_TREES).then(|| (self.trees.len() - same, rank))
    }

    /// Merges trees, which are complete, into another one, which may be the one to be published. (What a row of each takes, and a small
    /// batch, counts for nothing.)
    async fn merge(&self, trees: Vec<Tree<E, S>>, published: bool) -> Result<Tree<E, S>, LoadError> {
        let storage = &self.shared.storage;
        let (builds, cursors): (Vec<_>, Vec<_>) = trees.into_iter().map(|tree| (tree.build, tree.cursor)).unzip();
        let mut merging = Merging::new(cursors.into_iter().flatten().collect(), self.batch.prefix_bytes()).await?;
        let mut whole = Tree::new(storage.build(self.id));
        let mut batch = Batch::default();
        while merging.fill(&mut batch).await? {
            whole.rows += batch.rows();
            storage.extend(&mut whole.build, &mut batch).await?;
            if published {
                storage.hasten(&mut whole.build);
            }
            batch.clear();
        }
        drop(merging);
        for build in builds {
            storage.discard(build).await;
        }
        whole.complete(storage).await?;
        Ok(whole)
    }
}

impl<E: Env, S: Storage<E>> Tree<E, S> {
    fn new(build: S::Build) -> Tree<E, S> {
        Tree { build, rank: 0, rows: 0, last: Vec::new(), cursor: None }
    }

    async fn complete(&mut self, storage: &S) -> Result<(), StorageError> {
        self.cursor = Some(storage.complete(&mut self.build).await?);
        Ok(())
    }
}

impl<E: Env, S: Storage<E>> Drop for Loader<E, S> {
    fn drop(&mut self) {
        self.shared.versions.memory().give_back(self.counted_bytes);
        if self.reserved {
            self.shared.give_up_load(&self.name);
        }
    }
}

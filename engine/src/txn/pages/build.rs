//! A table that is built apart from all states, from rows in ascending order, in chunk files of its own. Several may be under way, and a
//! draft beside them. A draft takes one whole, files and all; until then nothing leads to it, and after a crash its files are in nobody's
//! directory, so they go.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use super::{
    Shared, Tree,
    merge::Merge,
    space::{DraftSpace, Space},
    state::{PagesCursor, PagesState, Reader, RootState, Stop},
    writing::{Pace, Writing},
};
use crate::{
    env::Env,
    txn::{
        ids::TableId,
        storage::{Changes, Direction, StorageError},
    },
};

/// A table of [`Pages`](super::Pages) that is being built.
pub struct PagesBuild<E: Env, const B: usize> {
    shared: Arc<Shared<E, B>>,
    table: TableId,
    merge: Merge<B>,
    /// `None` once somebody else has it.
    writing: Option<Writing<E, B>>,
    /// Its tree, once it is complete.
    tree: Option<Tree>,
    /// Something failed or was interrupted.
    broken: bool,
}

impl<E: Env, const B: usize> PagesBuild<E, B> {
    pub(super) fn new(shared: &Arc<Shared<E, B>>, table: TableId) -> Self {
        // (It holds nothing of any commit: its pages say what the newest root says.)
        let csn = shared.lock().newest.0.meta.point.csn;
        let space = DraftSpace::apart(shared.chunk_pages, &shared.next_chunk);
        let writing = Some(Writing::new(shared, Reader::new(&shared.cache), space));
        let merge = Merge::new(None, table, csn);
        PagesBuild { shared: Arc::clone(shared), table, merge, writing, tree: None, broken: false }
    }

    /// Adds rows behind those that it has.
    pub(super) async fn extend<C: Changes + Send>(&mut self, rows: &mut C) -> Result<(), StorageError> {
        if self.tree.is_some() {
            return Err(StorageError::Broken);
        }
        self.begin()?;
        let Some(writing) = &mut self.writing else { return Err(StorageError::Broken) };
        while let Some((key, value)) = rows.current() {
            if let Some(value) = value {
                self.merge.append(key, value, &mut writing.work).map_err(failed)?;
            }
            rows.advance();
            if writing.has_piece(Pace::Whole) {
                writing.write_piece(Pace::Whole).await?;
            }
        }
        self.broken = false;
        Ok(())
    }

    /// Asks the disk to begin with what there is.
    pub(super) fn hasten(&mut self) {
        if let Some(writing) = &mut self.writing {
            writing.begin_write_back();
        }
    }

    /// No more rows come: it has a tree, which is walked from the first row on.
    pub(super) async fn finish(&mut self) -> Result<PagesCursor<E, B>, StorageError> {
        self.begin()?;
        let Some(writing) = &mut self.writing else { return Err(StorageError::Broken) };
        let tree = match self.tree {
            Some(tree) => tree,
            None => writing.finish(self.table, &mut self.merge, &mut Nothing, Pace::Whole).await?,
        };
        self.tree = Some(tree);
        self.broken = false;
        let newest = Arc::clone(&self.shared.lock().newest.0);
        let state = PagesState(Arc::new(RootState {
            meta: newest.meta,
            catalog: Arc::default(),
            catalog_tree: None,
            trees: Vec::new(),
            reader: writing.reader.clone(),
            space: Space::new(),
            directory: None,
            directory_pages: Vec::new(),
        }));
        let all = (Bound::Unbounded, Bound::Unbounded);
        Ok(PagesCursor::new(state, self.table, tree, all, Direction::Forward))
    }

    /// What a draft takes of it.
    pub(super) fn complete(mut self) -> Result<(TableId, Tree, Writing<E, B>), StorageError> {
        self.begin()?;
        let (tree, writing) = self.tree.zip(self.writing.take()).ok_or(StorageError::Broken)?;
        Ok((self.table, tree, writing))
    }

    /// Its files, which nobody needs any more.
    pub(super) fn take_files(mut self) -> BTreeSet<u32> {
        self.writing.take().map(|mut writing| writing.take_made()).unwrap_or_default()
    }

    /// From here on it is of no use until this is taken back.
    fn begin(&mut self) -> Result<(), StorageError> {
        if std::mem::replace(&mut self.broken, true) { Err(StorageError::Broken) } else { Ok(()) }
    }
}

impl<E: Env, const B: usize> Drop for PagesBuild<E, B> {
    fn drop(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        let files = writing.take_made();
        if !files.is_empty() {
            let mut control = self.shared.lock();
            let sequence = control.newest.0.meta.sequence;
            control.doomed.push((sequence, files.into_iter().collect()));
        }
    }
}

fn failed<const B: usize>(stop: Stop<B>) -> StorageError {
    match stop {
        Stop::Failed(error) => error,
        // (Nothing is read where rows are only added.)
        Stop::Missing(_) => StorageError::Broken,
    }
}

/// No changes.
struct Nothing;

impl Changes for Nothing {
    fn current(&self) -> Option<(&[u8], Option<&[u8]>)> {
        None
    }

    fn advance(&mut self) {}
}

//! A storage that keeps its tables in ordered maps: the model of what a storage promises, and enough for tests.
//!
//! A published state is one file, written whole; so it survives what it must, and costs what the whole store has of bytes.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError},
};

use super::{
    catalog::{self, Catalog},
    ids::{Csn, Epoch, TableId},
    pages::format::KEY_LIMIT_BYTES,
    storage::{
        Birth, Changes, Cursor, Direction, KeyRange, Lookup, Point, PublishError, RootCopy, RootMeta, Roots, State,
        Storage, StorageError, StorageOptions, Value,
        files::{prepare, put_in_place, read_whole},
    },
};
use crate::{
    env::Env,
    sync::{Mutex, MutexGuard},
};

mod file;

/// The file that a state stands in.
const ROOT: &str = "root-memory";

type Map = BTreeMap<Vec<u8>, Arc<[u8]>>;

/// Tables in ordered maps. Clones are the same storage.
#[derive(Debug)]
pub struct MemoryStorage<E: Env> {
    env: E,
    dir: E::Dir,
    control: Arc<Mutex<Control>>,
}

#[derive(Debug)]
struct Control {
    newest: MemoryState,
    /// The highest sequence that a root ever had; `None` until it is established.
    highest: Option<u64>,
    drafting: bool,
    poisoned: Option<String>,
}

/// A state of a [`MemoryStorage`].
#[derive(Clone, Debug)]
pub struct MemoryState(Arc<Root>);

#[derive(Debug)]
struct Root {
    meta: RootMeta,
    catalog: Arc<Catalog>,
    tables: BTreeMap<TableId, Arc<Map>>,
}

/// What a [`MemoryStorage`] found.
#[derive(Debug)]
pub struct MemoryExamined<E: Env> {
    env: E,
    dir: E::Dir,
    roots: Roots,
    root: Option<Root>,
}

/// A draft of a [`MemoryStorage`].
#[derive(Debug)]
pub struct MemoryDraft {
    to: Point,
    tables: BTreeMap<TableId, Arc<Map>>,
    control: Arc<Mutex<Control>>,
}

/// A table of a [`MemoryStorage`] that is being built.
#[derive(Debug)]
pub struct MemoryBuild {
    table: TableId,
    rows: Arc<Map>,
    complete: bool,
}

impl Drop for MemoryDraft {
    fn drop(&mut self) {
        lock(&self.control).drafting = false;
    }
}

/// A poisoned mutex is taken as it is: what it guards changes in single assignments.
fn lock(control: &Mutex<Control>) -> MutexGuard<'_, Control> {
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E: Env> MemoryStorage<E> {
    fn new(env: E, dir: E::Dir, root: Root, highest: Option<u64>) -> MemoryStorage<E> {
        let newest = MemoryState(Arc::new(root));
        let control = Arc::new(Mutex::new(Control { newest, highest, drafting: false, poisoned: None }));
        MemoryStorage { env, dir, control }
    }
}

impl<E: Env> Storage<E> for MemoryStorage<E> {
    const KEY_LIMIT_BYTES: usize = KEY_LIMIT_BYTES;
    type Examined = MemoryExamined<E>;
    type State = MemoryState;
    type Draft = MemoryDraft;
    type Build = MemoryBuild;

    async fn examine(env: &E, dir: &E::Dir, _: &StorageOptions) -> Result<MemoryExamined<E>, StorageError> {
        let root = read_whole(dir, ROOT, u64::MAX).await?.map(|bytes| file::decode(&bytes));
        let copy = match &root {
            None => RootCopy::Absent,
            Some(None) => RootCopy::Unreadable { offset: 0, what: "it is not whole".to_owned() },
            Some(Some(root)) => RootCopy::Root(root.meta),
        };
        let roots = Roots { copies: vec![(ROOT, copy)], has_chunks: false };
        Ok(MemoryExamined { env: env.clone(), dir: dir.clone(), roots, root: root.flatten() })
    }

    fn roots(examined: &MemoryExamined<E>) -> &Roots {
        &examined.roots
    }

    async fn load(examined: MemoryExamined<E>) -> Result<Self, StorageError> {
        let root = examined.root.ok_or(StorageError::NoRoot)?;
        Ok(MemoryStorage::new(examined.env, examined.dir, root, None))
    }

    async fn create(examined: MemoryExamined<E>, birth: Birth) -> Result<Self, StorageError> {
        let catalog = Arc::new(Catalog::new());
        let meta = birth.root(&catalog, examined.env.wall_ns());
        let root = Root { meta, catalog, tables: BTreeMap::new() };
        prepare(&examined.dir, &file::encode(&root)).await?;
        put_in_place(&examined.dir, ROOT).await?;
        Ok(MemoryStorage::new(examined.env, examined.dir, root, Some(0)))
    }

    async fn establish(&self, stated: u64) -> Result<(), StorageError> {
        // The same file once more: the one that was found may exist in the machine's memory alone.
        let newest = self.newest();
        prepare(&self.dir, &file::encode(&newest.0)).await?;
        put_in_place(&self.dir, ROOT).await?;
        lock(&self.control).highest = Some(stated.max(newest.0.meta.sequence));
        Ok(())
    }

    fn newest(&self) -> MemoryState {
        lock(&self.control).newest.clone()
    }

    fn draft(&self, to: Point) -> Result<MemoryDraft, StorageError> {
        let mut control = lock(&self.control);
        match &*control {
            Control { poisoned: Some(why), .. } => Err(StorageError::Poisoned(why.clone())),
            Control { highest: None, .. } => Err(StorageError::NotEstablished),
            Control { drafting: true, .. } => Err(StorageError::Busy),
            Control { newest, .. } => {
                let tables = newest.0.tables.clone();
                control.drafting = true;
                Ok(MemoryDraft { to, tables, control: Arc::clone(&self.control) })
            }
        }
    }

    async fn merge<C: Changes + Send>(
        &self,
        draft: &mut MemoryDraft,
        table: TableId,
        changes: &mut C,
    ) -> Result<(), StorageError> {
        apply(draft.tables.entry(table).or_default(), changes);
        Ok(())
    }

    fn build(&self, table: TableId) -> MemoryBuild {
        MemoryBuild { table, rows: Arc::default(), complete: false }
    }

    async fn extend<C: Changes + Send>(&self, build: &mut MemoryBuild, rows: &mut C) -> Result<(), StorageError> {
        if build.complete {
            return Err(StorageError::Broken);
        }
        apply(&mut build.rows, rows);
        Ok(())
    }

    async fn complete(&self, build: &mut MemoryBuild) -> Result<MemoryCursor, StorageError> {
        build.complete = true;
        let (map, range) = (Arc::clone(&build.rows), (Bound::Unbounded, Bound::Unbounded));
        Ok(MemoryCursor { map, range, direction: Direction::Forward, current: None, ended: false })
    }

    fn adopt(&self, draft: &mut MemoryDraft, build: MemoryBuild) -> Result<(), StorageError> {
        if !build.complete || draft.tables.contains_key(&build.table) {
            return Err(StorageError::Broken);
        }
        draft.tables.insert(build.table, build.rows);
        Ok(())
    }

    async fn discard(&self, build: MemoryBuild) {
        drop(build);
    }

    async fn publish(&self, mut draft: MemoryDraft, catalog: Arc<Catalog>) -> Result<MemoryState, PublishError> {
        let base = self.newest();
        let highest = lock(&self.control).highest.unwrap_or_default();
        let mut tables = std::mem::take(&mut draft.tables);
        tables.retain(|id, map| catalog.table(*id).is_some() && !map.is_empty());
        let meta = RootMeta {
            sequence: highest + 1,
            point: draft.to,
            next_table: catalog.next(),
            wall_ns: self.env.wall_ns(),
            ..base.0.meta
        };
        let root = Root { meta, catalog, tables };
        prepare(&self.dir, &file::encode(&root)).await?;
        // Should the future be dropped from here on, nobody knows either.
        lock(&self.control).poisoned = Some("it was interrupted".to_owned());
        if let Err(error) = put_in_place(&self.dir, ROOT).await {
            lock(&self.control).poisoned = Some(error.to_string());
            return Err(PublishError::Unknown(error));
        }
        let state = MemoryState(Arc::new(root));
        let mut control = lock(&self.control);
        (control.newest, control.highest, control.poisoned) = (state.clone(), Some(highest + 1), None);
        Ok(state)
    }

    async fn released(&self, _: &MemoryState) {}
}

fn apply(map: &mut Arc<Map>, changes: &mut impl Changes) {
    let map = Arc::make_mut(map);
    while let Some((key, value)) = changes.current() {
        assert!(key.len() <= KEY_LIMIT_BYTES, "a key that is too long came in");
        match value {
            Some(value) => map.insert(key.to_vec(), value.into()),
            None => map.remove(key),
        };
        changes.advance();
    }
}

impl State for MemoryState {
    type Cursor = MemoryCursor;

    fn meta(&self) -> &RootMeta {
        &self.0.meta
    }

    fn catalog(&self) -> &Arc<Catalog> {
        &self.0.catalog
    }

    fn get_now(&self, table: TableId, key: &[u8]) -> Lookup {
        let value = self.0.tables.get(&table).and_then(|map| map.get(key));
        value.map_or(Lookup::Absent, |value| Lookup::Found(Arc::clone(value).into()))
    }

    async fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Value>, StorageError> {
        Ok(self.0.tables.get(&table).and_then(|map| map.get(key)).map(|value| Arc::clone(value).into()))
    }

    fn cursor(&self, table: TableId, (from, to): KeyRange<'_>, direction: Direction) -> MemoryCursor {
        let map = self.0.tables.get(&table).cloned().unwrap_or_default();
        let range = (from.map(<[u8]>::to_vec), to.map(<[u8]>::to_vec));
        MemoryCursor { map, range, direction, current: None, ended: false }
    }
}

/// A cursor of a [`MemoryState`].
#[derive(Debug)]
pub struct MemoryCursor {
    map: Arc<Map>,
    /// What is left.
    range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    direction: Direction,
    current: Option<(Vec<u8>, Arc<[u8]>)>,
    ended: bool,
}

impl Cursor for MemoryCursor {
    async fn advance(&mut self) -> Result<bool, StorageError> {
        let (from, to) = &self.range;
        let (from, to) = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        let next = match (from, to) {
            _ if self.ended => None,
            // A map's range must not be empty in these ways.
            (Bound::Included(from), Bound::Included(to)) if from > to => None,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to))
            | (Bound::Excluded(from), Bound::Included(to))
                if from >= to =>
            {
                None
            }
            range => {
                let mut range = self.map.range::<[u8], _>(range);
                if self.direction == Direction::Forward { range.next() } else { range.next_back() }
            }
        };
        let next = next.map(|(key, value)| (key.clone(), Arc::clone(value)));
        match (&next, self.direction) {
            (None, _) => self.ended = true,
            (Some((key, _)), Direction::Forward) => self.range.0 = Bound::Excluded(key.clone()),
            (Some((key, _)), Direction::Backward) => self.range.1 = Bound::Excluded(key.clone()),
        }
        self.current = next;
        Ok(!self.ended)
    }

    fn current(&self) -> Option<(&[u8], &[u8])> {
        self.current.as_ref().map(|(key, value)| (key.as_slice(), &**value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{env::OsEnv, txn::storage::suite};

    #[test]
    fn it_keeps_what_a_storage_promises() {
        suite::run::<MemoryStorage<OsEnv>>();
    }
}

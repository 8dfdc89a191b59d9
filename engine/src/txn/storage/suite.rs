//! What every storage must do, on the real file system, held against ordered maps.

use std::{collections::BTreeMap, ops::RangeBounds, path::Path};

use proptest::{prelude::*, test_runner::TestRunner};

use super::*;
use crate::{
    env::{Dir, Env, OsEnv, block_on},
    txn::catalog::{TableInfo, TableKind},
};

pub(in crate::txn) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
pub(in crate::txn) type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// All of it.
pub(in crate::txn) fn run<S: Storage<OsEnv>>() {
    a_new_storage_is_empty_and_is_found_again::<S>();
    drafts_are_taken_one_at_a_time_and_only_once_established::<S>();
    a_table_that_is_not_in_the_catalog_is_gone::<S>();
    sequences_are_above_all_that_is_stated::<S>();
    what_is_built_is_one_table_of_one_draft::<S>();
    agrees_with_maps::<S>();
}

/// A batch as a storage takes it.
pub(in crate::txn) struct Sorted<'a> {
    rest: std::collections::btree_map::Iter<'a, Vec<u8>, Option<Vec<u8>>>,
    current: Option<(&'a [u8], Option<&'a [u8]>)>,
}

impl<'a> Sorted<'a> {
    pub(in crate::txn) fn new(batch: &'a Batch) -> Sorted<'a> {
        let mut sorted = Sorted { rest: batch.iter(), current: None };
        sorted.advance();
        sorted
    }
}

impl Changes for Sorted<'_> {
    fn current(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.current
    }

    fn advance(&mut self) {
        self.current = self.rest.next().map(|(key, value)| (key.as_slice(), value.as_deref()));
    }
}

pub(in crate::txn) const BIRTH: Birth = Birth { uuid: [7; 16], logs: 2 };

pub(in crate::txn) fn options() -> StorageOptions {
    // Small chunks: a few hundred keys need several.
    StorageOptions {
        chunk_bytes: 64 << 10,
        piece_bytes: 4 << 10,
        ..StorageOptions::new(Blocks::new(&Memory::new(512 << 10)))
    }
}

pub(in crate::txn) fn point(number: u64) -> Point {
    let csn = |number| Csn::from_bits((1 << 40) | number).expect("it is of epoch 1");
    Point { csn: csn(number), next_csn: csn(number + 1), epoch: Epoch::FIRST }
}

pub(in crate::txn) fn table(id: u32) -> TableInfo {
    let name = format!("table {id}").as_str().into();
    TableInfo { id: TableId(id), name, kind: TableKind::Rows, log: 1, meta: 3, created: point(1).csn }
}

pub(in crate::txn) async fn examine<S: Storage<OsEnv>>(path: &Path) -> S::Examined {
    let dir = OsEnv.dir(path, false).await.expect("it is there");
    S::examine(&OsEnv, &dir, &options()).await.expect("the disk works")
}

pub(in crate::txn) async fn create<S: Storage<OsEnv>>(path: &Path) -> S {
    S::create(examine::<S>(path).await, BIRTH).await.expect("the disk works")
}

pub(in crate::txn) async fn open<S: Storage<OsEnv>>(path: &Path) -> S {
    let storage = S::load(examine::<S>(path).await).await.expect("nothing is damaged");
    storage.establish(0).await.expect("the disk works");
    storage
}

pub(in crate::txn) async fn publish<S: Storage<OsEnv>>(
    storage: &S,
    number: u64,
    changes: &BTreeMap<TableId, Batch>,
    catalog: &Catalog,
) -> S::State {
    let mut draft = storage.draft(point(number)).expect("there is no other");
    for (table, batch) in changes {
        storage.merge(&mut draft, *table, &mut Sorted::new(batch)).await.expect("the disk works");
    }
    storage.publish(draft, Arc::new(catalog.clone())).await.expect("the disk works")
}

/// All rows of a table within a range, in a direction.
pub(in crate::txn) async fn scan<S: State>(
    state: &S,
    table: TableId,
    range: KeyRange<'_>,
    direction: Direction,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut cursor = state.cursor(table, range, direction);
    assert!(cursor.current().is_none());
    let mut rows = Vec::new();
    // (Both ways, in turns: what is at hand is what the other one gives.)
    while rows.len() % 3 != 0 && cursor.advance_now() || cursor.advance().await.expect("nothing is damaged") {
        let (key, value) = cursor.current().expect("it is at a key");
        rows.push((key.to_vec(), value.to_vec()));
    }
    assert!(!cursor.advance_now() && cursor.current().is_none());
    assert!(!cursor.advance().await.expect("it has ended") && cursor.current().is_none());
    rows
}

/// Every file of a directory.
pub(in crate::txn) fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    block_on(async {
        let dir = OsEnv.dir(path, false).await.expect("it is there");
        let mut found = BTreeMap::new();
        for entry in dir.list().await.expect("the disk works") {
            let name = entry.name.to_string_lossy().into_owned();
            let bytes = files::read_whole(&dir, &name, u64::MAX).await.expect("the disk works");
            found.insert(name, bytes.expect("it is listed"));
        }
        found
    })
}

const ALL: KeyRange<'_> = (Bound::Unbounded, Bound::Unbounded);

fn a_new_storage_is_empty_and_is_found_again<S: Storage<OsEnv>>() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let examined = examine::<S>(folder.path()).await;
        assert_eq!(S::roots(&examined).best(), None);
        assert!(matches!(S::load(examined).await, Err(StorageError::NoRoot)));
        assert!(files(folder.path()).is_empty(), "nothing was written");
        let storage = create::<S>(folder.path()).await;
        let state = storage.newest();
        let RootMeta { uuid, sequence, point, next_table, logs, .. } = *state.meta();
        assert_eq!((uuid, sequence, point, next_table, logs), ([7; 16], 0, Point::of_new_store(), TableId(1), 2));
        assert_eq!(scan(&state, TableId(1), ALL, Direction::Forward).await, []);
        let before = files(folder.path());
        let examined = examine::<S>(folder.path()).await;
        assert_eq!(S::roots(&examined).best(), Some(state.meta()));
        let again = S::load(examined).await.expect("nothing is damaged");
        assert_eq!((again.newest().meta(), again.newest().catalog()), (state.meta(), state.catalog()));
        assert_eq!(files(folder.path()), before, "a look changes no byte");
    });
}

fn drafts_are_taken_one_at_a_time_and_only_once_established<S: Storage<OsEnv>>() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = create::<S>(folder.path()).await;
        let draft = storage.draft(point(1)).expect("there is no other");
        assert!(matches!(storage.draft(point(1)), Err(StorageError::Busy)));
        drop(draft);
        drop(storage.draft(point(1)).expect("the other one is gone"));
        let loaded = S::load(examine::<S>(folder.path()).await).await.expect("nothing is damaged");
        assert!(matches!(loaded.draft(point(1)), Err(StorageError::NotEstablished)));
        loaded.establish(0).await.expect("the disk works");
        drop(loaded.draft(point(1)).expect("now it may be"));
    });
}

fn a_table_that_is_not_in_the_catalog_is_gone<S: Storage<OsEnv>>() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = create::<S>(folder.path()).await;
        let mut catalog = Catalog::new();
        catalog.create(table(1)).expect("a new name");
        catalog.create(table(2)).expect("a new name");
        let rows: Batch = (0..500_u32).map(|key| (key.to_be_bytes().to_vec(), Some(vec![1; 90]))).collect();
        let changes = BTreeMap::from([(TableId(1), rows.clone()), (TableId(2), rows)]);
        let both = publish(&storage, 1, &changes, &catalog).await;
        catalog.remove(TableId(1));
        let one = publish(&storage, 2, &BTreeMap::new(), &catalog).await;
        for (state, table, count) in [(&both, 1, 500), (&both, 2, 500), (&one, 1, 0), (&one, 2, 500)] {
            assert_eq!(scan(state, TableId(table), ALL, Direction::Forward).await.len(), count);
        }
        let again = open::<S>(folder.path()).await;
        assert_eq!((again.newest().catalog(), again.newest().meta()), (&Arc::new(catalog), one.meta()));
        assert!(matches!(again.newest().get_now(TableId(1), &[0; 4]), Lookup::Absent));
    });
}

fn sequences_are_above_all_that_is_stated<S: Storage<OsEnv>>() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        drop(create::<S>(folder.path()).await);
        for stated in [5, 5, 6, 100] {
            let storage = S::load(examine::<S>(folder.path()).await).await.expect("nothing is damaged");
            storage.establish(stated).await.expect("the disk works");
            let before = storage.newest().meta().sequence;
            let first = publish(&storage, 1, &BTreeMap::new(), &Catalog::new()).await.meta().sequence;
            let next = publish(&storage, 2, &BTreeMap::new(), &Catalog::new()).await.meta().sequence;
            assert!(first > before.max(stated) && next > first, "{before}, {stated}: {first}, {next}");
        }
    });
}

fn what_is_built_is_one_table_of_one_draft<S: Storage<OsEnv>>() {
    let folder = tempfile::tempdir().expect("a folder");
    let batch: Batch = (0..2000_u32).map(|number| (number.to_be_bytes().to_vec(), Some(vec![7; 50]))).collect();
    block_on(async {
        let storage = create::<S>(folder.path()).await;
        let mut catalog = Catalog::new();
        catalog.create(table(1)).expect("a new name");
        let mut build = storage.build(TableId(1));
        storage.extend(&mut build, &mut Sorted::new(&batch)).await.expect("the disk works");
        let mut draft = storage.draft(point(1)).expect("what is built is no draft");
        let early = storage.build(TableId(1));
        assert!(matches!(storage.adopt(&mut draft, early), Err(StorageError::Broken)));
        drop(storage.complete(&mut build).await.expect("the disk works"));
        let more = storage.extend(&mut build, &mut Sorted::new(&batch)).await;
        assert!(matches!(more, Err(StorageError::Broken)));
        storage.merge(&mut draft, TableId(2), &mut Sorted::new(&batch)).await.expect("the disk works");
        storage.adopt(&mut draft, build).expect("it is complete");
        let mut second = storage.build(TableId(1));
        drop(storage.complete(&mut second).await.expect("the disk works"));
        assert!(matches!(storage.adopt(&mut draft, second), Err(StorageError::Broken)));
        catalog.create(table(2)).expect("a new name");
        storage.publish(draft, Arc::new(catalog)).await.expect("the disk works");
        drop(storage);
        let state = open::<S>(folder.path()).await.newest();
        let rows = scan(&state, TableId(1), ALL, Direction::Forward).await;
        assert!(rows == scan(&state, TableId(2), ALL, Direction::Forward).await && rows.len() == 2000);
    });
}

// --- Against ordered maps

#[derive(Clone, Debug)]
enum Step {
    /// A draft with changes of some tables is published, or dropped.
    Draft(Vec<(u32, Batch)>, bool),
    /// The table goes, and comes back as another one.
    Replace(u32),
    /// It comes back with rows that were built in so many parts, and is published or dropped.
    Build(u32, Batch, u8, bool),
    /// No older state is needed from outside.
    Release,
    /// All states are let go.
    Forget,
    /// The storage is dropped as it is, and opened.
    Reopen,
}

/// A few tables, each with its number as of now.
const TABLES: u32 = 3;

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (0..600_u32).prop_map(|number| format!("key-{number:05}").into_bytes()),
        2 => (0..3_u8, 0..59_usize).prop_map(|(byte, length)| vec![byte; length]),
        1 => proptest::collection::vec(any::<u8>(), 0..12),
    ]
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        2 => Just(None),
        6 => (any::<u8>(), 0..60_usize).prop_map(|(byte, length)| Some(vec![byte; length])),
        1 => (any::<u8>(), 100..9000_usize).prop_map(|(byte, length)| Some(vec![byte; length])),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let batch = prop_oneof![
        3 => proptest::collection::btree_map(key(), value(), 0..200),
        1 => (0..600_u32, 0..400_u32).prop_map(|(from, many)| {
            (from..from + many).map(|number| (format!("key-{number:05}").into_bytes(), None)).collect()
        }),
    ];
    let draft = proptest::collection::vec((0..TABLES, batch), 0..4);
    let rows = proptest::collection::btree_map(key(), value(), 0..400);
    let built = (0..TABLES, rows, 1..4_u8, proptest::bool::weighted(0.8));
    prop_oneof![
        2 => built.prop_map(|(table, rows, parts, published)| Step::Build(table, rows, parts, published)),
        8 => (draft, proptest::bool::weighted(0.8)).prop_map(|(changes, published)| Step::Draft(changes, published)),
        1 => (0..TABLES).prop_map(Step::Replace),
        4 => Just(Step::Release),
        2 => Just(Step::Forget),
        2 => Just(Step::Reopen),
    ]
}

/// The rows of each table.
type Model = BTreeMap<TableId, Rows>;

fn agrees_with_maps<S: Storage<OsEnv>>() {
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() };
    let steps = proptest::collection::vec(step(), 1..24);
    let probes = proptest::collection::vec((key(), 0..3_u8), 6);
    TestRunner::new(config)
        .run(&(steps, probes), |(steps, probes)| {
            let folder = tempfile::tempdir().expect("a folder");
            block_on(walk::<S>(folder.path(), steps, &probes));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

async fn walk<S: Storage<OsEnv>>(path: &Path, steps: Vec<Step>, probes: &[(Vec<u8>, u8)]) {
    let mut storage = create::<S>(path).await;
    let mut catalog = Catalog::new();
    let mut ids: Vec<TableId> = (1..=TABLES).map(TableId).collect();
    ids.iter().for_each(|id| drop(catalog.create(table(id.0)).expect("a new name")));
    let mut model = Model::new();
    let mut states: Vec<(S::State, Model)> = vec![(storage.newest(), Model::new())];
    for (step, number) in steps.into_iter().zip(1..) {
        match step {
            Step::Draft(changes, published) => {
                let mut draft = storage.draft(point(number)).expect("there is no other");
                let mut next = model.clone();
                for (table, batch) in &changes {
                    let table = ids[*table as usize];
                    storage.merge(&mut draft, table, &mut Sorted::new(batch)).await.expect("the disk works");
                    let rows = next.entry(table).or_default();
                    for (key, value) in batch {
                        match value {
                            Some(value) => rows.insert(key.clone(), value.clone()),
                            None => rows.remove(key),
                        };
                    }
                }
                if published {
                    model = next;
                    let state = storage.publish(draft, Arc::new(catalog.clone())).await.expect("the disk works");
                    assert_eq!(state.meta().point, point(number));
                    states.push((state, model.clone()));
                }
            }
            Step::Replace(which) => {
                let id = &mut ids[which as usize];
                catalog.remove(*id);
                model.remove(id);
                *id = catalog.next();
                catalog.create(table(id.0)).expect("a new name");
                states.push((publish(&storage, number, &BTreeMap::new(), &catalog).await, model.clone()));
            }
            Step::Build(which, mut rows, parts, published) => {
                rows.retain(|_, value| value.is_some());
                let id = catalog.next();
                let mut build = storage.build(id);
                let rest: Vec<_> = rows.iter().collect();
                for part in rest.chunks(rest.len().div_ceil(parts.into()).max(1)) {
                    let part: Batch = part.iter().map(|(key, value)| ((*key).clone(), (*value).clone())).collect();
                    storage.extend(&mut build, &mut Sorted::new(&part)).await.expect("the disk works");
                }
                let mut cursor = storage.complete(&mut build).await.expect("the disk works");
                for (key, value) in &rows {
                    assert!(cursor.advance().await.expect("nothing is damaged"));
                    assert_eq!(cursor.current(), Some((key.as_slice(), value.as_deref().expect("a row"))));
                }
                assert!(!cursor.advance().await.expect("nothing is damaged"));
                if published {
                    let mut draft = storage.draft(point(number)).expect("there is no other");
                    storage.adopt(&mut draft, build).expect("it is complete");
                    let gone = std::mem::replace(&mut ids[which as usize], id);
                    catalog.remove(gone);
                    model.remove(&gone);
                    catalog.create(table(id.0)).expect("a new name");
                    model.insert(id, rows.into_iter().filter_map(|(key, value)| Some((key, value?))).collect());
                    let state = storage.publish(draft, Arc::new(catalog.clone())).await.expect("the disk works");
                    states.push((state, model.clone()));
                } else if parts == 1 {
                    storage.discard(build).await;
                }
            }
            Step::Release => storage.released(&storage.newest()).await,
            Step::Forget => drop(states.drain(..states.len() - 1)),
            Step::Reopen => {
                states.clear();
                drop(storage);
                storage = open::<S>(path).await;
                states.push((storage.newest(), model.clone()));
            }
        }
        let (newest, _) = states.last().expect("there is one");
        assert_eq!(storage.newest().meta(), newest.meta());
        // All that live, not only the newest.
        for (state, model) in &states {
            check(state, model, &ids, probes).await;
        }
    }
}

async fn check<S: State>(state: &S, model: &Model, ids: &[TableId], probes: &[(Vec<u8>, u8)]) {
    let none = Rows::new();
    for id in ids {
        let rows = model.get(id).unwrap_or(&none);
        let within = |range: KeyRange<'_>| -> Vec<(Vec<u8>, Vec<u8>)> {
            let holds = |key: &[u8]| RangeBounds::<[u8]>::contains(&range, key);
            rows.iter().filter(|(key, _)| holds(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        for pair in probes.chunks(2) {
            let bound = |(key, kind): &'_ (Vec<u8>, u8)| match kind {
                0 => Bound::Included(key.clone()),
                1 => Bound::Excluded(key.clone()),
                _ => Bound::Unbounded,
            };
            let ends = (bound(&pair[0]), bound(&pair[1]));
            let range = (ends.0.as_ref().map(Vec::as_slice), ends.1.as_ref().map(Vec::as_slice));
            let mut expected = within(range);
            assert_eq!(scan(state, *id, range, Direction::Forward).await, expected);
            expected.reverse();
            assert_eq!(scan(state, *id, range, Direction::Backward).await, expected);
        }
        assert_eq!(scan(state, *id, ALL, Direction::Forward).await, within(ALL));
        let keys: Vec<&[u8]> =
            probes.iter().map(|(key, _)| key).chain(rows.keys().step_by(7)).map(Vec::as_slice).collect();
        let check = |found: &Lookup, expected: Option<&Vec<u8>>| match found {
            Lookup::Found(value) => assert_eq!(Some(&value.to_vec()), expected),
            Lookup::Absent => assert_eq!(expected, None),
            Lookup::NotInMemory => {}
        };
        let mut together = vec![Lookup::Absent];
        state.get_many_now(*id, &keys, &mut together);
        assert_eq!(together.len(), 1 + keys.len(), "one answer for each, behind what was there");
        keys.iter().zip(&together[1..]).for_each(|(key, found)| check(found, rows.get(*key)));
        for key in keys {
            let expected = rows.get(key);
            check(&state.get_now(*id, key), expected);
            let found = state.get(*id, key).await.expect("nothing is damaged");
            assert_eq!(found.map(|value| value.to_vec()).as_ref(), expected);
        }
    }
}

//! A store beside ordered maps: whatever is done to both, both say the same, also after they were opened again.

use std::{collections::BTreeMap, ops::Bound};

use engine::{
    env::{OsEnv, block_on},
    txn::{
        Store, Table, Tx,
        catalog::TableKind,
        error::{TableError, TxError},
        index::Functions,
        memory::MemoryStorage,
        options::{Isolation, Options, Sync, TableOptions, TxOptions},
        pages::Pages,
        storage::{Direction, Storage},
    },
};
use proptest::prelude::*;

/// The last one is a Memory table.
const TABLES: [&str; 4] = ["a", "b", "c", MEMORY];
const MEMORY: &str = "memory";
/// An index of the first one, if it is there.
const INDEX: &str = "index";

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
type Model = BTreeMap<&'static str, Map>;

#[derive(Clone, Debug)]
enum Write {
    Put(usize, u8, usize),
    Delete(usize, u8),
    Savepoint(u8),
    RollbackTo(u8),
}

#[derive(Clone, Debug)]
enum Step {
    /// A put of its own.
    Put(usize, u8, usize),
    Delete(usize, u8),
    Transaction(Vec<Write>, bool),
    Scan(usize, Bound<u8>, Bound<u8>, bool),
    DropTable(usize),
    /// Creates the index, or drops it.
    Index,
    Checkpoint,
    /// Is opened again with the index's function, or without.
    Close(bool),
    Crash(bool),
}

/// Some keys are written again and again.
fn number() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), 0..8_u8]
}

/// A few are logged in pieces.
fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0..50_usize, 6 => 0..700_usize, 1 => 1000..5000_usize]
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        4 => (0..4_usize, number(), bytes()).prop_map(|(table, key, bytes)| Write::Put(table, key, bytes)),
        2 => (0..4_usize, number()).prop_map(|(table, key)| Write::Delete(table, key)),
        1 => (0..3_u8).prop_map(Write::Savepoint),
        1 => (0..3_u8).prop_map(Write::RollbackTo),
    ]
}

fn bound() -> impl Strategy<Value = Bound<u8>> {
    prop_oneof![Just(Bound::Unbounded), any::<u8>().prop_map(Bound::Included), any::<u8>().prop_map(Bound::Excluded)]
}

fn with() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.8)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_usize, number(), bytes()).prop_map(|(table, key, bytes)| Step::Put(table, key, bytes)),
        2 => (0..4_usize, number()).prop_map(|(table, key)| Step::Delete(table, key)),
        6 => (prop::collection::vec(write(), 0..12), any::<bool>()).prop_map(|(writes, commits)| Step::Transaction(writes, commits)),
        3 => (0..4_usize, bound(), bound(), any::<bool>()).prop_map(|(table, from, to, back)| Step::Scan(table, from, to, back)),
        1 => (0..4_usize).prop_map(Step::DropTable),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Index),
        2 => with().prop_map(Step::Close),
        4 => with().prop_map(Step::Crash),
    ]
}

/// Keys with common beginnings, of several lengths.
fn key(number: u8) -> Vec<u8> {
    [&b"key/"[..(number % 5) as usize], &[number / 16], &vec![b'x'; (number % 3) as usize * 7]].concat()
}

fn value(number: u8, bytes: usize) -> Vec<u8> {
    vec![number; bytes]
}

/// None, one or two entries.
fn derive(key: &[u8], value: &[u8], tell: &mut dyn FnMut(&[u8], &[u8])) {
    if !value.is_empty() {
        tell(&[&[(value.len() / 20) as u8], key].concat(), &value[..value.len().min(4)]);
    }
    if value.len() % 2 == 1 {
        tell(&[b"odd/", key].concat(), b"");
    }
}

fn derived(rows: &Map) -> Map {
    let mut entries = Map::new();
    for (key, value) in rows {
        derive(key, value, &mut |key, value| drop(entries.insert(key.to_vec(), value.to_vec())));
    }
    entries
}

/// The index beside what is derived from the first table.
async fn compare_index<S: Storage<OsEnv>>(
    tx: &mut Tx<OsEnv, S>,
    store: &Store<OsEnv, S>,
    model: &Model,
    usable: bool,
) -> Result<(), TestCaseError> {
    let everything = (Bound::Unbounded, Bound::Unbounded);
    match store.table(INDEX) {
        Ok(_) if usable => compare(tx, store, INDEX, &derived(&model[TABLES[0]]), everything, Direction::Forward).await,
        Ok(index) => {
            let refused = tx.get(&index, b"k").await;
            prop_assert!(matches!(refused, Err(TxError::IndexUnusable(_))), "{:?}", refused);
            Ok(())
        }
        Err(_) => Ok(()),
    }
}

async fn create<S: Storage<OsEnv>>(store: &Store<OsEnv, S>, name: &str) {
    let kind = if name == MEMORY { TableKind::Memory } else { TableKind::Rows };
    store.create_table_with(name, TableOptions { kind }).await.unwrap();
}

async fn create_index<S: Storage<OsEnv>>(store: &Store<OsEnv, S>) -> Result<Table, TableError> {
    let kind = TableKind::Index { of: store.table(TABLES[0]).unwrap().id(), derive: "f".into() };
    store.create_table_with(INDEX, TableOptions { kind }).await
}

async fn compare<S: Storage<OsEnv>>(
    tx: &mut Tx<OsEnv, S>,
    store: &Store<OsEnv, S>,
    name: &str,
    model: &Map,
    range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    direction: Direction,
) -> Result<(), TestCaseError> {
    let inside = |key: &Vec<u8>| {
        let above = match &range.0 {
            Bound::Included(from) => key >= from,
            Bound::Excluded(from) => key > from,
            Bound::Unbounded => true,
        };
        let below = match &range.1 {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        above && below
    };
    let mut expected: Vec<_> = model.iter().filter(|(key, _)| inside(key)).collect();
    if direction == Direction::Backward {
        expected.reverse();
    }
    let table = store.table(name).unwrap();
    let borrowed = (range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice));
    let mut scan = tx.scan(&table, borrowed, direction).unwrap();
    for (key, value) in expected {
        prop_assert_eq!(scan.next().await.unwrap(), Some((key.as_slice(), value.as_slice())), "{} {:?}", name, range);
    }
    prop_assert_eq!(scan.next().await.unwrap(), None);
    drop(scan);
    // The same keys in one call, each with one beside it that is mostly absent.
    let keys: Vec<Vec<u8>> = model.keys().flat_map(|key| [key.clone(), [key.as_slice(), b"-"].concat()]).collect();
    let found = tx.get_many(&table, &keys).await.unwrap();
    prop_assert_eq!(found.len(), keys.len());
    for (key, found) in keys.iter().zip(found) {
        prop_assert_eq!(found.as_deref(), model.get(key).map(Vec::as_slice), "{} {:?}", name, key);
    }
    Ok(())
}

fn run<S: Storage<OsEnv>>(steps: Vec<Step>, options: Options, isolation: Isolation) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let everything = || (Bound::Unbounded, Bound::Unbounded);
    block_on(async {
        let open = async |with| {
            let indexes = if with { Functions::default().with("f", derive) } else { Functions::default() };
            let options = Options { indexes, ..options.clone() };
            Store::<OsEnv, S>::open(OsEnv, folder.path(), options).await.expect("an undamaged store opens")
        };
        let (mut store, _) = open(true).await;
        let mut has_function = true;
        // An index follows its rows unless it was there when the store was opened without its function.
        let mut usable = true;
        let mut model = Model::new();
        for name in TABLES {
            create(&store, name).await;
            model.insert(name, Map::new());
        }
        create_index(&store).await.unwrap();
        let tx_options = TxOptions { isolation, ..TxOptions::default() };
        for step in steps {
            match step {
                Step::Put(table, number, bytes) => {
                    let name = TABLES[table];
                    store.put(&store.table(name).unwrap(), &key(number), &value(number, bytes)).await.unwrap();
                    model.get_mut(name).unwrap().insert(key(number), value(number, bytes));
                }
                Step::Delete(table, number) => {
                    let name = TABLES[table];
                    store.delete(&store.table(name).unwrap(), &key(number)).await.unwrap();
                    model.get_mut(name).unwrap().remove(&key(number));
                }
                Step::Transaction(writes, commits) => {
                    let mut mine = model.clone();
                    let mut savepoints: Vec<(u8, Model)> = Vec::new();
                    let mut tx = store.begin(tx_options).unwrap();
                    for write in writes {
                        match write {
                            Write::Put(table, number, bytes) => {
                                let table = store.table(TABLES[table]).unwrap();
                                tx.put(&table, &key(number), &value(number, bytes)).await.unwrap();
                                mine.get_mut(table.name()).unwrap().insert(key(number), value(number, bytes));
                            }
                            Write::Delete(table, number) => {
                                let table = store.table(TABLES[table]).unwrap();
                                tx.delete(&table, &key(number)).await.unwrap();
                                mine.get_mut(table.name()).unwrap().remove(&key(number));
                            }
                            Write::Savepoint(name) => {
                                tx.savepoint(&name.to_string()).unwrap();
                                savepoints.retain(|(other, _)| *other != name);
                                savepoints.push((name, mine.clone()));
                            }
                            Write::RollbackTo(name) => {
                                let there = savepoints.iter().position(|(other, _)| *other == name);
                                prop_assert_eq!(tx.rollback_to(&name.to_string()).is_ok(), there.is_some());
                                if let Some(there) = there {
                                    mine = savepoints.drain(there..).next().unwrap().1;
                                }
                            }
                        }
                    }
                    for name in TABLES {
                        compare(&mut tx, &store, name, &mine[name], everything(), Direction::Forward).await?;
                    }
                    compare_index(&mut tx, &store, &mine, usable).await?;
                    if commits {
                        tx.commit().await.unwrap();
                        model = mine;
                    } else {
                        tx.abort();
                    }
                }
                Step::Scan(table, from, to, back) => {
                    let name = TABLES[table];
                    let range = (from.map(key), to.map(key));
                    let direction = if back { Direction::Backward } else { Direction::Forward };
                    let mut tx = store.begin(tx_options).unwrap();
                    compare(&mut tx, &store, name, &model[name], range, direction).await?;
                }
                Step::DropTable(table) => {
                    let name = TABLES[table];
                    if table == 0 && store.table(INDEX).is_ok() {
                        let refused = store.drop_table(name).await;
                        prop_assert!(matches!(&refused, Err(TableError::HasIndex(index)) if index == INDEX));
                        store.drop_table(INDEX).await.unwrap();
                    }
                    store.drop_table(name).await.unwrap();
                    create(&store, name).await;
                    model.insert(name, Map::new());
                }
                Step::Checkpoint => drop(store.checkpoint().await.unwrap()),
                Step::Index if store.table(INDEX).is_ok() => store.drop_table(INDEX).await.unwrap(),
                Step::Index => {
                    let created = create_index(&store).await;
                    prop_assert_eq!(created.is_ok(), has_function, "{:?}", created);
                    usable = true;
                }
                Step::Close(with) | Step::Crash(with) => {
                    let (last, epoch) = (store.committed(), store.epoch());
                    if matches!(step, Step::Close(_)) {
                        store.close().await.unwrap();
                    } else {
                        // (Its process dies: what counts is what it had said to be durable.)
                        store.sync().await.unwrap();
                        drop(store);
                    }
                    let (again, report) = open(with).await;
                    prop_assert_eq!((report.end, report.dropped_parts), (last, 0));
                    (has_function, usable) = (with, with);
                    prop_assert_eq!(report.unusable.is_empty(), with || again.table(INDEX).is_err());
                    prop_assert!(report.epoch > epoch);
                    store = again;
                    model.insert(MEMORY, Map::new());
                }
            }
            for name in TABLES {
                let table = store.table(name).unwrap();
                for (key, value) in model[name].iter().take(3) {
                    let found = store.get(&table, key).await.unwrap();
                    prop_assert_eq!(found.as_deref(), Some(value.as_slice()));
                }
                let keys: Vec<&Vec<u8>> = model[name].keys().collect();
                let found = store.get_many(&table, &keys).await.unwrap();
                prop_assert!(
                    found
                        .iter()
                        .map(|found| found.as_deref())
                        .eq(model[name].values().map(|value| Some(value.as_slice())))
                );
            }
            compare_index(&mut store.begin(tx_options).unwrap(), &store, &model, usable).await?;
        }
        let mut tx = store.begin(tx_options).unwrap();
        compare_index(&mut tx, &store, &model, usable).await?;
        for name in TABLES {
            compare(&mut tx, &store, name, &model[name], everything(), Direction::Forward).await?;
            compare(&mut tx, &store, name, &model[name], everything(), Direction::Backward).await?;
        }
        Ok(())
    })
}

fn options() -> impl Strategy<Value = (Options, Isolation)> {
    let sync = prop_oneof![Just(Sync::Instant), Just(Sync::Periodic)];
    let isolation =
        prop_oneof![Just(Isolation::ReadCommitted), Just(Isolation::Snapshot), Just(Isolation::Serializable)];
    (sync, isolation, 1..4_u16, any::<bool>()).prop_map(|(sync, isolation, logs, checkpoint_at_close)| {
        let options = Options {
            sync,
            logs,
            checkpoint_at_close,
            cache_bytes: 256 << 10,
            dirty_bytes: 16 << 10,
            chunk_bytes: 64 << 10,
            log_segment_bytes: 16 << 10,
            log_buffer_bytes: 16 << 10,
            max_value_bytes: 16 << 10,
            max_txn_bytes: 256 << 10,
            lob_bytes: 1 << 10,
            ..Options::default()
        };
        (options, isolation)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn pages_say_what_maps_say((options, isolation) in options(), steps in prop::collection::vec(step(), 0..60)) {
        run::<Pages<OsEnv, 480>>(steps, options, isolation)?;
    }

    #[test]
    fn maps_below_say_what_maps_say((options, isolation) in options(), steps in prop::collection::vec(step(), 0..60)) {
        run::<MemoryStorage<OsEnv>>(steps, options, isolation)?;
    }
}

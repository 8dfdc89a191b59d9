//! A store beside ordered maps: whatever is done to both, both say the same, also after they were opened again.

use std::{collections::BTreeMap, ops::Bound};

use engine::{
    env::{OsEnv, block_on},
    txn::{
        Store, Tx,
        memory::MemoryStorage,
        options::{Isolation, Options, Sync, TxOptions},
        pages::Pages,
        storage::{Direction, Storage},
    },
};
use proptest::prelude::*;

const TABLES: [&str; 3] = ["a", "b", "c"];

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
    Checkpoint,
    Close,
    Crash,
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        4 => (0..3_usize, any::<u8>(), prop_oneof![0..50_usize, 0..700_usize]).prop_map(|(table, key, bytes)| Write::Put(table, key, bytes)),
        2 => (0..3_usize, any::<u8>()).prop_map(|(table, key)| Write::Delete(table, key)),
        1 => (0..3_u8).prop_map(Write::Savepoint),
        1 => (0..3_u8).prop_map(Write::RollbackTo),
    ]
}

fn bound() -> impl Strategy<Value = Bound<u8>> {
    prop_oneof![Just(Bound::Unbounded), any::<u8>().prop_map(Bound::Included), any::<u8>().prop_map(Bound::Excluded)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, any::<u8>(), 0..300_usize).prop_map(|(table, key, bytes)| Step::Put(table, key, bytes)),
        2 => (0..3_usize, any::<u8>()).prop_map(|(table, key)| Step::Delete(table, key)),
        6 => (prop::collection::vec(write(), 0..12), any::<bool>()).prop_map(|(writes, commits)| Step::Transaction(writes, commits)),
        3 => (0..3_usize, bound(), bound(), any::<bool>()).prop_map(|(table, from, to, back)| Step::Scan(table, from, to, back)),
        1 => (0..3_usize).prop_map(Step::DropTable),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
    ]
}

/// Keys with common beginnings, of several lengths.
fn key(number: u8) -> Vec<u8> {
    [&b"key/"[..(number % 5) as usize], &[number / 16], &vec![b'x'; (number % 3) as usize * 7]].concat()
}

fn value(number: u8, bytes: usize) -> Vec<u8> {
    vec![number; bytes]
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
    Ok(())
}

fn run<S: Storage<OsEnv>>(steps: Vec<Step>, options: Options, isolation: Isolation) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let everything = || (Bound::Unbounded, Bound::Unbounded);
    block_on(async {
        let open = async || {
            Store::<OsEnv, S>::open(OsEnv, folder.path(), options.clone()).await.expect("an undamaged store opens")
        };
        let (mut store, _) = open().await;
        let mut model = Model::new();
        for name in TABLES {
            store.create_table(name).await.unwrap();
            model.insert(name, Map::new());
        }
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
                    store.drop_table(name).await.unwrap();
                    store.create_table(name).await.unwrap();
                    model.insert(name, Map::new());
                }
                Step::Checkpoint => drop(store.checkpoint().await.unwrap()),
                Step::Close | Step::Crash => {
                    let (last, epoch) = (store.committed(), store.epoch());
                    if matches!(step, Step::Close) {
                        store.close().await.unwrap();
                    } else {
                        // (Its process dies: what counts is what it had said to be durable.)
                        store.sync().await.unwrap();
                        drop(store);
                    }
                    let (again, report) = open().await;
                    prop_assert_eq!((report.end, report.dropped_parts), (last, 0));
                    prop_assert!(report.epoch > epoch);
                    store = again;
                }
            }
            for name in TABLES {
                for (key, value) in model[name].iter().take(3) {
                    let found = store.get(&store.table(name).unwrap(), key).await.unwrap();
                    prop_assert_eq!(found.as_deref(), Some(value.as_slice()));
                }
            }
        }
        let mut tx = store.begin(tx_options).unwrap();
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
            max_txn_bytes: 64 << 10,
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

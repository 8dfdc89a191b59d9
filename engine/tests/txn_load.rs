//! Loaded tables against ordered maps, through the public interface, on both storages.

#![expect(clippy::disallowed_methods, reason = "looks at the files from outside")]

use std::{collections::BTreeMap, ops::Bound, path::Path};

use engine::{
    env::{OsEnv, block_on},
    txn::{
        LoadError, Loader, Store,
        catalog::TableKind,
        error::{CommitError, Conflict, TableError, TxError},
        memory::MemoryStorage,
        options::{Isolation, Options, Sync, TableOptions, TxOptions},
        pages::Pages,
        storage::{Direction, Storage},
    },
};
use proptest::{prelude::*, test_runner::TestRunner};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn small() -> Options {
    Options {
        sync: Sync::Instant,
        cache_bytes: 256 << 10,
        dirty_bytes: 16 << 10,
        max_value_bytes: 4 << 10,
        chunk_bytes: 64 << 10,
        ..Options::default()
    }
}

async fn open<S: Storage<OsEnv>>(path: &Path, options: &Options) -> Store<OsEnv, S> {
    Store::open(OsEnv, path, options.clone()).await.expect("it opens").0
}

async fn rows<S: Storage<OsEnv>>(store: &Store<OsEnv, S>, name: &str) -> Rows {
    let table = store.table(name).expect("it is there");
    let mut tx = store.begin(TxOptions::default()).expect("it is open");
    let mut scan = tx.scan(&table, (Bound::Unbounded, Bound::Unbounded), Direction::Forward).expect("it begins");
    let mut rows = Rows::new();
    while let Some((key, value)) = scan.next().await.expect("it goes on") {
        assert!(rows.last_key_value().is_none_or(|(last, _)| last.as_slice() < key), "keys ascend");
        rows.insert(key.to_vec(), value.to_vec());
    }
    rows
}

fn loader<S: Storage<OsEnv>>(store: &Store<OsEnv, S>, name: &str) -> Loader<OsEnv, S> {
    store.loader(name, TableOptions::default()).expect("the name is free")
}

fn chunks(path: &Path) -> usize {
    let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("chunk-")).count()
}

/// Some rows in the order in which they come: ascending for a while, then others, some of them again.
fn stream() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let key = (0..4000_u32, 0..3_u8).prop_map(|(number, long)| {
        let mut key = format!("key-{number:05}").into_bytes();
        key.extend(vec![b'x'; usize::from(long) * 20]);
        key
    });
    let value = prop_oneof![
        8 => (any::<u8>(), 0..100_usize).prop_map(|(byte, length)| vec![byte; length]),
        1 => (any::<u8>(), 1000..4000_usize).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let ascending = (0..3000_u32, 0..600_u32).prop_map(|(from, many)| {
        (from..from + many).map(|n| (format!("key-{n:05}").into_bytes(), vec![1; 40])).collect()
    });
    let any_order = proptest::collection::vec((key, value), 0..600);
    proptest::collection::vec(prop_oneof![ascending, any_order], 0..5).prop_map(|parts| parts.concat())
}

fn loads_what_a_map_has<S: Storage<OsEnv>>() {
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let run = TestRunner::new(config).run(&(stream(), 0..3_u8), |(stream, beside)| {
        let folder = tempfile::tempdir().expect("a folder");
        let expected: Rows = stream.iter().cloned().collect();
        block_on(async {
            let store = open::<S>(folder.path(), &small()).await;
            let other = store.create_table("other").await.expect("a new name");
            let mut loader = loader(&store, "loaded");
            let half = stream.len() / 2;
            for (number, (key, value)) in stream.iter().enumerate() {
                loader.add(key, value).await.expect("the disk works");
                if number == half && beside > 0 {
                    // Others go on, and so do checkpoints.
                    store.put(&other, b"key", b"value").await.expect("there is room");
                    store.checkpoint().await.expect("the disk works");
                }
            }
            let report = loader.finish().await.expect("the disk works");
            assert_eq!(report.rows, expected.len() as u64);
            assert!(store.durable() >= report.csn);
            assert!(rows(&store, "loaded").await == expected);
            let loaded = store.table("loaded").expect("it is there");
            store.put(&loaded, b"key-00007", b"later").await.expect("it is a table like any other");
            if beside == 2 {
                store.close().await.expect("the disk works");
            } else {
                drop(store);
            }
            let mut expected = expected;
            expected.insert(b"key-00007".to_vec(), b"later".to_vec());
            let store = open::<S>(folder.path(), &small()).await;
            assert!(rows(&store, "loaded").await == expected);
            assert_eq!(rows(&store, "other").await.len(), usize::from(beside > 0 && !stream.is_empty()));
            store.drop_table("loaded").await.expect("it is there");
            store.checkpoint().await.expect("the disk works");
            store.close().await.expect("the disk works");
        });
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn pages_load_what_a_map_has() {
    loads_what_a_map_has::<Pages<OsEnv, 480>>();
}

#[test]
fn a_storage_in_memory_loads_what_a_map_has() {
    loads_what_a_map_has::<MemoryStorage<OsEnv>>();
}

/// Files of a store that this process has open.
fn open_files(path: &Path) -> usize {
    let links =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.starts_with(path)).count()
}

#[test]
fn a_large_load_in_any_order_has_few_files_open_and_the_last_of_equal_rows() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let options = Options { chunk_bytes: 4 << 20, ..small() };
        let store = open::<Pages<OsEnv>>(folder.path(), &options).await;
        let (before, mut most) = (open_files(folder.path()), 0);
        let mut loader = loader(&store, "loaded");
        let mut expected = Rows::new();
        // Enough for six trees of the second rank, and some of the first: a batch has 8 rows.
        for number in 0..8 * (64 * 6 + 5) {
            let key = number % 2003 * 799 % 2003;
            let value = [&u32::to_be_bytes(number)[..], &[0; 1800]].concat();
            loader.add(&key.to_be_bytes(), &value).await.unwrap();
            expected.insert(key.to_be_bytes().to_vec(), value);
            if number % 64 == 0 {
                most = most.max(open_files(folder.path()) - before);
            }
        }
        assert!((64..80).contains(&most), "{most} files were open");
        assert_eq!(loader.finish().await.unwrap().rows, expected.len() as u64);
        assert!(rows(&store, "loaded").await == expected);
        store.close().await.unwrap();
    });
}

#[test]
fn a_load_that_is_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open::<Pages<OsEnv>>(folder.path(), &small()).await;
        let table = store.create_table("table").await.unwrap();
        let mut given_up = loader(&store, "loaded");
        for number in (0..2000_u32).rev() {
            given_up.add(&number.to_be_bytes(), &[1; 50]).await.unwrap();
        }
        assert!(chunks(folder.path()) > 3, "trees that wait to be merged");
        for name in ["loaded", "table"] {
            let twice = store.loader(name, TableOptions::default());
            assert!(matches!(twice.err(), Some(LoadError::Table(TableError::Exists(_)))));
        }
        assert!(matches!(store.create_table("loaded").await, Err(TableError::Exists(_))));
        assert!(store.table("loaded").is_err());
        drop(given_up);
        // What it had on the disk goes with the next checkpoint that has something to do.
        store.put(&table, b"key", b"value").await.unwrap();
        store.checkpoint().await.unwrap();
        assert_eq!(chunks(folder.path()), 1);
        let mut loader = loader(&store, "loaded");
        loader.add(b"key", b"value").await.unwrap();
        assert_eq!(loader.finish().await.unwrap().rows, 1);
        assert_eq!(rows(&store, "loaded").await.len(), 1);
        store.close().await.unwrap();
    });
}

#[test]
fn a_transaction_that_began_before_a_load_meets_it_as_a_conflict() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open::<Pages<OsEnv>>(folder.path(), &small()).await;
        let other = store.create_table("other").await.unwrap();
        let mut loader = loader(&store, "loaded");
        loader.add(b"key", b"value").await.unwrap();
        let isolation = Isolation::Serializable;
        let mut writer = store.begin(TxOptions::default()).unwrap();
        let mut reader = store.begin(TxOptions { isolation, ..TxOptions::default() }).unwrap();
        reader.put(&other, b"key", b"value").await.unwrap();
        let csn = loader.finish().await.unwrap().csn;
        let table = store.table("loaded").unwrap();
        // It sees none of the table, and so must not overwrite rows of it, nor rely on that they are not there.
        assert!(writer.get(&table, b"key").await.unwrap().is_none());
        let conflict = writer.put(&table, b"key", b"other").await;
        assert!(matches!(conflict, Err(TxError::Conflict(Conflict::WriteWrite { newer })) if newer == csn));
        assert!(reader.get(&table, b"key").await.unwrap().is_none());
        let conflict = reader.commit().await;
        assert!(matches!(conflict, Err(CommitError::Not(TxError::Conflict(Conflict::Read { .. })))), "{conflict:?}");
        let mut again = store.begin(TxOptions::default()).unwrap();
        assert_eq!(again.get(&table, b"key").await.unwrap().as_deref(), Some(&b"value"[..]));
        again.put(&table, b"key", b"other").await.unwrap();
        again.commit().await.unwrap();
        store.close().await.unwrap();
    });
}

#[test]
fn what_cannot_be_loaded_is_a_typed_error() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open::<Pages<OsEnv>>(folder.path(), &small()).await;
        let memory = store.loader("table", TableOptions { kind: TableKind::Memory });
        assert!(matches!(memory.err(), Some(LoadError::Kind)));
        let nameless = store.loader("", TableOptions::default());
        assert!(matches!(nameless.err(), Some(LoadError::Table(TableError::Name(0)))));
        let mut loader = loader(&store, "table");
        let key = loader.add(&[1; 1001], b"").await;
        assert!(matches!(key, Err(LoadError::Row(TxError::KeyTooLarge { .. }))));
        let value = loader.add(b"key", &[1; 5000]).await;
        assert!(matches!(value, Err(LoadError::Row(TxError::ValueTooLarge { .. }))));
        loader.add(b"key", b"value").await.unwrap();
        store.close().await.unwrap();
        assert!(matches!(loader.finish().await, Err(LoadError::Row(TxError::Closed))));
    });
}

//! Index tables through the store's public interface, on the real file system.

#![expect(clippy::disallowed_methods, reason = "looks at the files from outside")]

mod store;

use std::{collections::BTreeMap, future::Future};

use engine::{
    env::{OsEnv, block_on},
    txn::{
        Table, Visibility,
        catalog::TableKind,
        error::{CommitError, TableError, TxError},
        index::Functions,
        options::{Options, TableOptions, TxOptions},
        storage::Direction,
    },
};

use store::{Db, all, instant, keys, open};

/// Rows by their values.
fn by_value(key: &[u8], value: &[u8], tell: &mut dyn FnMut(&[u8], &[u8])) {
    tell(&[value, b"/", key].concat(), key);
}

fn indexed(options: Options) -> Options {
    Options { indexes: Functions::default().with("by value", by_value), ..options }
}

async fn index(store: &Db, of: &Table, name: &str) -> Result<Table, TableError> {
    let kind = TableKind::Index { of: of.id(), derive: "by value".into() };
    store.create_table_with(name, TableOptions { kind }).await
}

#[test]
fn an_index_follows_its_rows_and_is_written_by_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(folder.path(), &indexed(instant())).await;
        let rows = store.create_table("rows").await.unwrap();
        store.put(&rows, b"1", b"red").await.unwrap();
        store.put(&rows, b"2", b"red").await.unwrap();
        let colours = index(&store, &rows, "colours").await.unwrap();
        assert_eq!(keys(&store, &colours).await, ["red/1", "red/2"]);
        let mut old = store.begin(TxOptions::default()).unwrap();
        let mut tx = store.begin(TxOptions::default()).unwrap();
        tx.put(&rows, b"1", b"blue").await.unwrap();
        tx.savepoint("one").unwrap();
        tx.put(&rows, b"1", b"green").await.unwrap();
        tx.delete(&rows, b"2").await.unwrap();
        assert_eq!(tx.get(&colours, b"green/1").await.unwrap().as_deref(), Some(&b"1"[..]));
        assert!(tx.get(&colours, b"blue/1").await.unwrap().is_none());
        tx.rollback_to("one").unwrap();
        tx.commit().await.unwrap();
        assert_eq!(keys(&store, &colours).await, ["blue/1", "red/2"]);
        store.put(&rows, b"2", b"blue").await.unwrap();
        store.delete(&rows, b"1").await.unwrap();
        assert_eq!(keys(&store, &colours).await, ["blue/2"]);
        let then = all(&mut old, &colours, Direction::Forward).await;
        assert_eq!(then, [(b"red/1".to_vec(), b"1".to_vec()), (b"red/2".to_vec(), b"2".to_vec())]);

        let mut tx = store.begin(TxOptions::default()).unwrap();
        assert!(matches!(tx.put(&colours, b"k", b"").await, Err(TxError::IndexIsDerived(_))));
        assert!(matches!(tx.delete(&colours, b"k").await, Err(TxError::IndexIsDerived(_))));
        assert!(matches!(tx.lock_table(&colours).await, Err(TxError::IndexIsDerived(_))));
        let put = store.put(&colours, b"k", b"").await;
        assert!(matches!(put, Err(CommitError::Not(TxError::IndexIsDerived(_)))));
        // Its entry would have a key that is too long; then the row is not written either.
        let refused = tx.put(&rows, &[b'k'; 500], &[b'v'; 500]).await;
        assert!(matches!(refused, Err(TxError::KeyTooLarge { bytes: 1001, limit: 1000 })), "{refused:?}");
        assert!(tx.get(&rows, &[b'k'; 500]).await.unwrap().is_none());
        tx.put(&rows, &[b'k'; 500], &[b'v'; 499]).await.unwrap();
        store.close().await.unwrap();
    });
}

#[test]
fn wrong_indexes_are_typed_errors() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(folder.path(), &indexed(Options::default())).await;
        let rows = store.create_table("rows").await.unwrap();
        let memory = TableOptions { kind: TableKind::Memory };
        let memory = store.create_table_with("memory", memory).await.unwrap();
        let one = index(&store, &rows, "one").await.unwrap();
        assert!(matches!(index(&store, &rows, "one").await, Err(TableError::Exists(_))));
        assert!(matches!(index(&store, &memory, "two").await, Err(TableError::NotRows(name)) if name == "memory"));
        assert!(matches!(index(&store, &one, "two").await, Err(TableError::NotRows(name)) if name == "one"));
        let kind = TableKind::Index { of: rows.id(), derive: "by size".into() };
        let unknown = store.create_table_with("two", TableOptions { kind }).await;
        assert!(matches!(unknown, Err(TableError::UnknownFunction(name)) if name == "by size"));
        let gone = store.create_table("gone").await.unwrap();
        store.drop_table("gone").await.unwrap();
        assert!(matches!(index(&store, &gone, "two").await, Err(TableError::Unknown(_))));
        index(&store, &rows, "two").await.unwrap();
        assert!(matches!(store.drop_table("rows").await, Err(TableError::HasIndex(name)) if name == "one"));
        store.drop_table("one").await.unwrap();
        assert!(matches!(store.drop_table("rows").await, Err(TableError::HasIndex(name)) if name == "two"));
        store.drop_table("two").await.unwrap();
        store.drop_table("rows").await.unwrap();
        store.close().await.unwrap();
    });
}

#[test]
fn an_index_without_its_function_is_refused_and_derived_anew_once_it_is_back() {
    for checkpoint in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { checkpoint_at_close: checkpoint, ..Options::default() };
        block_on(async {
            let store = open(folder.path(), &indexed(options.clone())).await;
            let rows = store.create_table("rows").await.unwrap();
            store.put(&rows, b"1", b"red").await.unwrap();
            index(&store, &rows, "colours").await.unwrap();
            store.put(&rows, b"2", b"red").await.unwrap();
            store.close().await.unwrap();

            let (store, report) = <Db>::open(OsEnv, folder.path(), options.clone()).await.unwrap();
            assert_eq!(report.unusable.len(), 1);
            assert_eq!(report.unusable[0].name, "colours");
            assert!(report.unusable[0].why.contains("by value"));
            let (rows, colours) = (store.table("rows").unwrap(), store.table("colours").unwrap());
            assert!(matches!(store.get(&colours, b"red/1").await, Err(TxError::IndexUnusable(_))));
            store.put(&rows, b"1", b"blue").await.unwrap();
            store.delete(&rows, b"2").await.unwrap();
            assert!(matches!(store.put(&colours, b"k", b"").await, Err(CommitError::Not(TxError::IndexIsDerived(_)))));
            store.close().await.unwrap();

            let (store, report) = <Db>::open(OsEnv, folder.path(), indexed(options.clone())).await.unwrap();
            assert_eq!(report.unusable, []);
            let (rows, colours) = (store.table("rows").unwrap(), store.table("colours").unwrap());
            assert_eq!(keys(&store, &colours).await, ["blue/1"]);
            store.put(&rows, b"3", b"red").await.unwrap();
            store.close().await.unwrap();

            let store = open(folder.path(), &options).await;
            store.drop_table("colours").await.unwrap();
            store.drop_table("rows").await.unwrap();
            store.close().await.unwrap();
        });
    }
}

#[test]
fn an_index_that_is_created_waits_for_who_writes_rows_and_they_for_it() {
    for visibility in [Visibility::Committed, Visibility::Durable] {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { visibility: Some(visibility), ..indexed(instant()) };
        block_on(async {
            let store = open(folder.path(), &options).await;
            let rows = store.create_table("rows").await.unwrap();
            let mut older = store.begin(TxOptions::default()).unwrap();
            older.put(&rows, b"1", b"red").await.unwrap();
            let mut creation = Box::pin(index(&store, &rows, "colours"));
            let mut put = Box::pin(store.put(&rows, b"2", b"blue"));
            assert!(poll_once(&mut creation).is_pending(), "the older one has a row");
            assert!(poll_once(&mut put).is_pending(), "the index has the table, or waits for it");
            older.commit().await.unwrap();
            let colours = creation.await.unwrap();
            put.await.unwrap();
            assert_eq!(keys(&store, &colours).await, ["blue/2", "red/1"]);
            store.close().await.unwrap();
        });
    }
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[test]
fn rows_and_index_agree_whoever_writes_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { cache_bytes: 1 << 20, dirty_bytes: 32 << 10, ..indexed(Options::default()) };
    let options = Options { max_value_bytes: 1 << 10, max_txn_bytes: 64 << 10, ..options };
    let store = block_on(open(folder.path(), &options));
    let rows = block_on(store.create_table("rows")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (store, rows) = (&store, &rows);
            scope.spawn(move || {
                for number in 0..400_u32 {
                    let key = ((number * 7 + thread) % 90).to_be_bytes();
                    let value = [b'a' + (number % 23) as u8; 40];
                    let written = match number % 3 {
                        0 => block_on(store.delete(rows, &key)),
                        _ => block_on(store.put(rows, &key, &value)),
                    };
                    written.unwrap();
                }
            });
        }
        for name in ["one", "two"] {
            block_on(index(&store, &rows, name)).unwrap();
        }
    });
    for again in [false, true] {
        let store = if again { block_on(open(folder.path(), &options)) } else { store.clone() };
        block_on(async {
            let rows = store.table("rows").unwrap();
            let mut tx = store.begin(TxOptions::default()).unwrap();
            let mut expected = BTreeMap::new();
            for (key, value) in all(&mut tx, &rows, Direction::Forward).await {
                by_value(&key, &value, &mut |key, value| drop(expected.insert(key.to_vec(), value.to_vec())));
            }
            for name in ["one", "two"] {
                let found = all(&mut tx, &store.table(name).unwrap(), Direction::Forward).await;
                assert_eq!(found, expected.clone().into_iter().collect::<Vec<_>>());
            }
            drop(tx);
            store.close().await.unwrap();
        });
    }
}

#[test]
fn a_page_that_is_damaged_takes_an_index_and_not_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let first_letter =
        |key: &[u8], value: &[u8], tell: &mut dyn FnMut(&[u8], &[u8])| tell(&[&value[..1], key].concat(), b"");
    let options = Options { indexes: Functions::default().with("by value", first_letter), ..instant() };
    let value = [b'z'; 100];
    block_on(async {
        let store = open(folder.path(), &options).await;
        let (rows, others) = (store.create_table("rows").await.unwrap(), store.create_table("others").await.unwrap());
        store.put(&rows, b"1", &value).await.unwrap();
        store.put(&others, b"1", b"a").await.unwrap();
        index(&store, &rows, "letters").await.unwrap();
        index(&store, &others, "of others").await.unwrap();
        store.checkpoint().await.unwrap();
        store.put(&rows, b"2", b"y").await.unwrap();
        store.put(&others, b"2", b"b").await.unwrap();
        store.put(&others, b"1", b"c").await.unwrap();
        drop(store);
        let mut damaged = 0;
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let mut bytes = std::fs::read(&path).unwrap();
                if let Some(at) = bytes.windows(value.len()).position(|window| window == value) {
                    bytes[at] ^= 1;
                    std::fs::write(&path, bytes).unwrap();
                    damaged += 1;
                }
            }
        }
        assert_eq!(damaged, 1);
        let (store, report) = <Db>::open(OsEnv, folder.path(), options.clone()).await.unwrap();
        let names: Vec<_> = report.unusable.iter().map(|index| index.name.as_str()).collect();
        assert_eq!(names, ["letters"], "{report:?}");
        let letters = store.table("letters").unwrap();
        assert!(matches!(store.get(&letters, b"y2").await, Err(TxError::IndexUnusable(_))));
        assert_eq!(keys(&store, &store.table("of others").unwrap()).await, ["b2", "c1"]);
        let rows = store.table("rows").unwrap();
        assert_eq!(store.get(&rows, b"2").await.unwrap().as_deref(), Some(&b"y"[..]));
        assert!(matches!(store.get(&rows, b"1").await, Err(TxError::Storage(_))));
        store.drop_table("letters").await.unwrap();
        drop(store);
    });
}

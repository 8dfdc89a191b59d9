//! The store against ordered maps, through its public interface, on the real file system.

#![expect(clippy::disallowed_methods, reason = "looks at the files from outside")]

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    ops::Bound,
    path::Path,
    task::Poll,
    time::Duration,
};

use engine::{
    env::{OsEnv, block_on},
    txn::{
        BackupError, Store, Table, Tx, Visibility,
        catalog::TableKind,
        error::{CommitError, Conflict, TableError, TxError},
        index::Functions,
        options::{Isolation, Options, Sync, TableOptions, TxOptions},
        storage::Direction,
    },
};

type Db = Store<OsEnv>;

async fn open(path: &Path, options: &Options) -> Db {
    <Store<OsEnv>>::open(OsEnv, path, options.clone()).await.expect("it opens").0
}

fn instant() -> Options {
    Options { sync: Sync::Instant, ..Options::default() }
}

async fn all(tx: &mut Tx<OsEnv>, table: &Table, direction: Direction) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut scan = tx.scan(table, (Bound::Unbounded, Bound::Unbounded), direction).expect("it begins");
    let mut found = Vec::new();
    while let Some((key, value)) = scan.next().await.expect("it goes on") {
        found.push((key.to_vec(), value.to_vec()));
    }
    found
}

#[test]
fn what_is_committed_is_there_after_a_close_and_after_a_drop() {
    for (logs, close, checkpoint_at_close) in [(1, true, true), (3, true, false), (2, false, false)] {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { logs, checkpoint_at_close, checkpoint_after_recovery: false, ..instant() };
        block_on(async {
            let store = open(folder.path(), &options).await;
            let mut expected = BTreeMap::new();
            for name in ["a", "b", "c"] {
                let table = store.create_table(name).await.unwrap();
                for number in 0..50_u32 {
                    let mut tx = store.begin(TxOptions::default()).unwrap();
                    tx.put(&table, &number.to_be_bytes(), name.as_bytes()).await.unwrap();
                    tx.put(&table, b"last", &number.to_be_bytes()).await.unwrap();
                    assert!(tx.commit().await.unwrap().durable);
                    expected.insert((name, number.to_be_bytes().to_vec()), name.as_bytes().to_vec());
                }
                expected.insert((name, b"last".to_vec()), 49_u32.to_be_bytes().to_vec());
            }
            if close {
                store.close().await.unwrap();
            } else {
                drop(store);
            }
            let mut verified = BTreeMap::new();
            let report = <Store<OsEnv>>::verify(OsEnv, folder.path(), options.clone(), |table, key, value| {
                verified.insert((table.name.to_string(), key.to_vec()), value.to_vec());
            });
            assert_eq!(report.await.unwrap().epoch.get(), 2);
            assert!(
                verified
                    .iter()
                    .map(|((name, key), value)| ((name.as_str(), key), value))
                    .eq(expected.iter().map(|((name, key), value)| ((*name, key), value)))
            );
            for again in 0..3 {
                let (store, report) = <Store<OsEnv>>::open(OsEnv, folder.path(), options.clone()).await.unwrap();
                assert_eq!(report.epoch.get(), again + 2);
                assert_eq!(report.replayed > 0, !checkpoint_at_close, "{report:?}");
                for name in ["a", "b", "c"] {
                    let table = store.table(name).unwrap();
                    let mut tx = store.begin(TxOptions::default()).unwrap();
                    let model: Vec<_> = expected
                        .iter()
                        .filter(|((of, _), _)| *of == name)
                        .map(|((_, key), value)| (key.clone(), value.clone()))
                        .collect();
                    assert_eq!(all(&mut tx, &table, Direction::Forward).await, model);
                    let backward: Vec<_> = model.into_iter().rev().collect();
                    assert_eq!(all(&mut tx, &table, Direction::Backward).await, backward);
                }
                store.close().await.unwrap();
            }
        });
    }
}

#[test]
fn snapshots_see_one_moment_and_the_later_writer_of_a_row_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(folder.path(), &Options::default()).await;
        let table = store.create_table("t").await.unwrap();
        store.put(&table, b"k", b"1").await.unwrap();
        let mut old = store.begin(TxOptions::default()).unwrap();
        let mut committed =
            store.begin(TxOptions { isolation: Isolation::ReadCommitted, ..TxOptions::default() }).unwrap();
        assert_eq!(old.get(&table, b"k").await.unwrap().as_deref(), Some(&b"1"[..]));
        let newer = store.put(&table, b"k", b"2").await.unwrap().csn;
        assert_eq!(old.get(&table, b"k").await.unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(committed.get(&table, b"k").await.unwrap().as_deref(), Some(&b"2"[..]));
        let refused = old.put(&table, b"k", b"3").await;
        assert!(
            matches!(&refused, Err(error @ TxError::Conflict(Conflict::WriteWrite { newer: found })) if *found == newer && error.is_retryable()),
            "{refused:?}"
        );
        // It has ended, and reads go on.
        assert!(matches!(old.put(&table, b"x", b"").await, Err(TxError::Ended)));
        assert!(matches!(old.commit().await, Err(CommitError::Not(TxError::Ended))));
        assert_eq!(old.get(&table, b"k").await.unwrap().as_deref(), Some(&b"2"[..]));
        committed.put(&table, b"k", b"4").await.unwrap();
        committed.commit().await.unwrap();
        assert_eq!(store.get(&table, b"k").await.unwrap().as_deref(), Some(&b"4"[..]));
        store.close().await.unwrap();
    });
}

#[test]
fn of_two_that_skew_a_write_one_begins_again_if_they_are_serializable() {
    for (isolation, both) in [(Isolation::Snapshot, true), (Isolation::Serializable, false)] {
        let folder = tempfile::tempdir().unwrap();
        block_on(async {
            let store = open(folder.path(), &Options::default()).await;
            let table = store.create_table("doctors").await.unwrap();
            let options = TxOptions { isolation, ..TxOptions::default() };
            let (mut one, mut two) = (store.begin(options).unwrap(), store.begin(options).unwrap());
            assert!(one.get(&table, b"two").await.unwrap().is_none());
            assert_eq!(all(&mut two, &table, Direction::Forward).await, []);
            one.put(&table, b"one", b"off").await.unwrap();
            two.put(&table, b"two", b"off").await.unwrap();
            one.commit().await.unwrap();
            let second = two.commit().await;
            assert_eq!(second.is_ok(), both, "{second:?}");
            assert!(both || second.is_err_and(|error| error.is_retryable()));
            store.close().await.unwrap();
        });
    }
}

#[test]
fn savepoints_go_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(folder.path(), &Options::default()).await;
        let table = store.create_table("t").await.unwrap();
        store.put(&table, b"a", b"old").await.unwrap();
        let mut tx = store.begin(TxOptions::default()).unwrap();
        tx.put(&table, b"a", b"1").await.unwrap();
        tx.savepoint("one").unwrap();
        tx.put(&table, b"a", b"2").await.unwrap();
        tx.delete(&table, b"b").await.unwrap();
        tx.savepoint("two").unwrap();
        tx.put(&table, b"c", b"3").await.unwrap();
        tx.rollback_to("one").unwrap();
        assert!(matches!(tx.rollback_to("two"), Err(TxError::UnknownSavepoint(_))));
        assert_eq!(all(&mut tx, &table, Direction::Forward).await, [(b"a".to_vec(), b"1".to_vec())]);
        tx.abort();
        assert_eq!(store.get(&table, b"a").await.unwrap().as_deref(), Some(&b"old"[..]));
        store.close().await.unwrap();
    });
}

#[test]
fn wrong_use_is_a_typed_error_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let options = Options { max_value_bytes: 1024, max_txn_bytes: 4096, ..Options::default() };
        let store = open(folder.path(), &options).await;
        let table = store.create_table("t").await.unwrap();
        assert!(matches!(store.create_table("t").await, Err(TableError::Exists(_))));
        assert!(matches!(store.create_table("").await, Err(TableError::Name(0))));
        assert!(matches!(store.drop_table("u").await, Err(TableError::Unknown(_))));
        assert!(matches!(store.table("u"), Err(TxError::UnknownTable(_))));
        let long = vec![0; 1001];
        let mut tx = store.begin(TxOptions::default()).unwrap();
        assert!(matches!(tx.put(&table, &long, b"").await, Err(TxError::KeyTooLarge { bytes: 1001, limit: 1000 })));
        assert!(matches!(
            tx.put(&table, b"k", &[0; 1025]).await,
            Err(TxError::ValueTooLarge { bytes: 1025, limit: 1024 })
        ));
        for number in 0..3_u8 {
            tx.put(&table, &[number], &[0; 1024]).await.unwrap();
        }
        assert!(matches!(tx.put(&table, b"k", &[0; 1024]).await, Err(TxError::TooLarge { .. })));
        let mut reader = store.begin(TxOptions { read_only: true, ..TxOptions::default() }).unwrap();
        assert!(matches!(reader.put(&table, b"k", b"").await, Err(TxError::ReadOnly)));
        store.drop_table("t").await.unwrap();
        assert!(matches!(tx.put(&table, b"k", b"").await, Err(TxError::UnknownTable(_))));
        // What it wrote to a table that is gone is left out.
        let commit = tx.commit().await.unwrap();
        assert_eq!(commit.csn, store.committed());
        let again = store.create_table("t").await.unwrap();
        assert!(again.id() > table.id());
        assert!(store.get(&again, &[0]).await.unwrap().is_none());
        assert!(matches!(
            <Store<OsEnv>>::open(OsEnv, folder.path(), options.clone()).await,
            Err(engine::txn::error::OpenError::Locked)
        ));
        let other = store.clone();
        store.close().await.unwrap();
        assert!(matches!(other.put(&again, b"k", b"").await, Err(CommitError::Not(TxError::Closed))));
        assert!(matches!(other.begin(TxOptions::default()), Err(TxError::Closed)));
    });
}

/// Nobody waits for the first commit: neither its ticket nor its future. Its locks are held until it is durable all the same.
#[test]
fn a_commit_that_nobody_waits_for_becomes_durable() {
    let folder = tempfile::tempdir().unwrap();
    let quick = Options { sync_period: Duration::from_millis(5), lock_timeout: Duration::from_secs(5), ..instant() };
    block_on(async {
        let store = open(folder.path(), &quick).await;
        let table = store.create_table("t").await.unwrap();
        for (round, submits) in [true, false].into_iter().enumerate() {
            let mut tx = store.begin(TxOptions::default()).unwrap();
            tx.put(&table, b"row", b"first").await.unwrap();
            if submits {
                drop(tx.submit().await.unwrap());
            } else {
                let mut commit = Box::pin(tx.commit());
                poll_fn(|context| Poll::Ready(commit.as_mut().poll(context).is_ready())).await;
            }
            let csn = store.committed();
            while store.durable() < csn {
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut tx = store.begin(TxOptions::default()).unwrap();
            tx.put(&table, b"row", b"second").await.unwrap();
            assert!(tx.commit().await.unwrap().durable, "{round}");
        }
        store.close().await.unwrap();
    });
}

/// Nothing is logged, but a ticket and a close can be relied on.
#[test]
fn without_a_log_a_ticket_takes_a_checkpoint_and_so_does_a_close() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { sync: Sync::NoSync, logs: 2, checkpoint_at_close: false, ..Options::default() };
    block_on(async {
        let store = open(folder.path(), &options).await;
        let table = store.create_table("t").await.unwrap();
        let mut tx = store.begin(TxOptions::default()).unwrap();
        tx.put(&table, b"waited for", b"1").await.unwrap();
        let ticket = tx.submit().await.unwrap();
        assert!(store.durable() < ticket.csn());
        ticket.durable().await.unwrap();
        assert!(store.durable() >= ticket.csn());
        store.put(&table, b"closed", b"2").await.unwrap();
        store.close().await.unwrap();
        let store = open(folder.path(), &options).await;
        let table = store.table("t").unwrap();
        for (key, value) in [("waited for", "1"), ("closed", "2")] {
            assert_eq!(store.get(&table, key.as_bytes()).await.unwrap().as_deref(), Some(value.as_bytes()));
        }
        store.close().await.unwrap();
    });
}

#[test]
fn a_checkpoint_goes_beside_readers_and_writers_and_the_log_shrinks() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        sync: Sync::Periodic,
        dirty_bytes: 64 << 10,
        log_segment_bytes: 64 << 10,
        cache_bytes: 1 << 20,
        chunk_bytes: 1 << 20,
        max_value_bytes: 64 << 10,
        ..Options::default()
    };
    block_on(async {
        let store = open(folder.path(), &options).await;
        let table = store.create_table("t").await.unwrap();
        for number in 0..2000_u32 {
            store.put(&table, &number.to_be_bytes(), &[number as u8; 100]).await.unwrap();
        }
        let mut old = store.begin(TxOptions::default()).unwrap();
        for number in (0..2000_u32).filter(|number| number % 3 > 0) {
            if number % 3 == 1 {
                store.put(&table, &number.to_be_bytes(), b"new").await.unwrap();
            } else {
                store.delete(&table, &number.to_be_bytes()).await.unwrap();
            }
        }
        let report = store.checkpoint().await.unwrap();
        assert_eq!(report.csn, store.committed());
        let before: Vec<_> =
            (0..2000_u32).map(|number| (number.to_be_bytes().to_vec(), vec![number as u8; 100])).collect();
        assert_eq!(all(&mut old, &table, Direction::Forward).await, before);
        let after: Vec<_> = before
            .iter()
            .enumerate()
            .filter(|(number, _)| number % 3 != 2)
            .map(|(number, (key, value))| (key.clone(), if number % 3 == 1 { b"new".to_vec() } else { value.clone() }))
            .collect();
        let mut new = store.begin(TxOptions::default()).unwrap();
        assert_eq!(all(&mut new, &table, Direction::Forward).await, after);
        store.put(&table, b"behind", b"it").await.unwrap();
        drop((old, new));
        let logs: u64 = std::fs::read_dir(folder.path().join("log-0"))
            .unwrap()
            // The log is open: a spare that it removes or renames meanwhile is not there.
            .filter_map(|entry| entry.unwrap().metadata().ok())
            .map(|metadata| metadata.len())
            .sum();
        assert!(logs < 7 * (64 << 10), "{logs} bytes are left of 500,000");
        drop(store);
        let (store, report) = <Store<OsEnv>>::open(OsEnv, folder.path(), options.clone()).await.unwrap();
        assert!(report.replayed < 100, "{report:?}");
        let table = store.table("t").unwrap();
        let mut tx = store.begin(TxOptions::default()).unwrap();
        let found = all(&mut tx, &table, Direction::Forward).await;
        assert_eq!(found[..after.len()], after);
        store.close().await.unwrap();
    });
}

#[test]
fn a_log_that_has_grown_makes_a_checkpoint_due_by_whoever_makes_it_grow() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { checkpoint_log_bytes: 1 << 20, checkpoint_after_recovery: false, ..instant() };
    let chunks = || {
        let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("chunk-")).count()
    };
    block_on(async {
        let store = open(folder.path(), &options).await;
        let table = store.create_table("table").await.unwrap();
        for number in 0..60_u8 {
            store.put(&table, &[number], &[number; 1 << 10]).await.unwrap();
        }
        drop(store);
        assert_eq!(chunks(), 0, "60 KiB are less than 1 MiB");
        // What is replayed is part of what the log has. (Nothing else would make one for an hour.)
        let options = Options { checkpoint_log_bytes: 64 << 10, ..options };
        let store = open(folder.path(), &options).await;
        let mut number = 60;
        while chunks() == 0 && number < 64 {
            store.put(&table, &[number], &[number; 1 << 10]).await.unwrap();
            std::thread::sleep(Duration::from_millis(500));
            number += 1;
        }
        assert!(chunks() > 0, "a checkpoint with 64 KiB in the log, most of which an earlier life has written");
    });
}

#[test]
fn a_backup_is_a_store_of_its_own_while_the_store_goes_on() {
    let (folder, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let to = target.path().join("copy");
    let options = Options { logs: 3, ..Options::default() };
    block_on(async {
        let store = open(folder.path(), &options).await;
        for name in ["a", "b", "c", "gone"] {
            let table = store.create_table(name).await.unwrap();
            for number in 0..300_u32 {
                store.put(&table, &number.to_be_bytes(), &vec![1; number as usize * 10]).await.unwrap();
            }
        }
        store.drop_table("gone").await.unwrap();
        let before = store.committed();
        let writer = store.clone();
        let report = std::thread::scope(|scope| {
            scope.spawn(move || {
                block_on(async {
                    let table = writer.table("a").unwrap();
                    for number in 0..2000_u32 {
                        writer.put(&table, &number.to_be_bytes(), b"later").await.unwrap();
                    }
                });
            });
            block_on(store.backup(&to)).unwrap()
        });
        assert!(report.csn >= before && (report.tables, report.rows >= 900) == (3, true), "{report:?}");
        assert!(matches!(store.backup(&to).await, Err(BackupError::TargetNotEmpty)));
        store.close().await.unwrap();
        for again in 0..2 {
            let (copy, found) = <Store<OsEnv>>::open(OsEnv, &to, options.clone()).await.unwrap();
            assert_eq!(
                (found.created, found.end >= report.csn, found.replayed <= again),
                (false, true, true),
                "{found:?}"
            );
            let mut tx = copy.begin(TxOptions::default()).unwrap();
            let mut rows = 0;
            for name in ["a", "b", "c"] {
                let found = all(&mut tx, &copy.table(name).unwrap(), Direction::Forward).await;
                let later = found.iter().take_while(|(_, value)| value == b"later").count();
                rows += found.len() as u64;
                assert!(name == "a" || later == 0 && found.len() == 300, "{name}: {later}");
            }
            assert_eq!(rows, report.rows);
            assert!(copy.table("gone").is_err());
            assert!(copy.create_table("new").await.unwrap().id().0 > 4 || again == 1);
            copy.drop_table("new").await.unwrap();
            drop(tx);
            copy.close().await.unwrap();
        }
    });
}

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

async fn keys(store: &Db, table: &Table) -> Vec<String> {
    let mut tx = store.begin(TxOptions::default()).unwrap();
    let all = all(&mut tx, table, Direction::Forward).await;
    all.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
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
fn a_memory_table_is_one_table_for_all_and_gone_after_an_open() {
    let folder = tempfile::tempdir().unwrap();
    // As little memory as there can be: what a Memory table holds makes nobody wait, and no snapshot go.
    let options = Options { dirty_bytes: 16 << 10, pinned_bytes: 0, max_value_bytes: 1 << 10, ..Options::default() };
    block_on(async {
        let store = open(folder.path(), &options).await;
        let mut old = store.begin(TxOptions::default()).unwrap();
        let memory = TableOptions { kind: TableKind::Memory };
        let memory = store.create_table_with("memory", memory).await.unwrap();
        let rows = store.create_table("rows").await.unwrap();
        for number in 0..1000_u32 {
            store.put(&memory, &number.to_be_bytes(), &[1; 100]).await.unwrap();
        }
        // The snapshot is older than the table, and still conflicts.
        assert!(old.get(&memory, &0_u32.to_be_bytes()).await.unwrap().is_none());
        let refused = old.put(&memory, &0_u32.to_be_bytes(), b"").await;
        assert!(matches!(refused, Err(TxError::Conflict(Conflict::WriteWrite { .. }))), "{refused:?}");
        let serializable = TxOptions { isolation: Isolation::Serializable, ..TxOptions::default() };
        let mut reader = store.begin(serializable).unwrap();
        assert_eq!(all(&mut reader, &memory, Direction::Backward).await.len(), 1000);
        for number in 0..900_u32 {
            store.delete(&memory, &number.to_be_bytes()).await.unwrap();
        }
        store.put(&rows, b"k", b"").await.unwrap();
        store.checkpoint().await.unwrap();
        reader.put(&rows, b"k", b"v").await.unwrap_err();
        let mut reader = store.begin(serializable).unwrap();
        assert_eq!(all(&mut reader, &memory, Direction::Forward).await.len(), 100);
        store.put(&memory, b"new", b"").await.unwrap();
        reader.put(&rows, b"other", b"").await.unwrap();
        let committed = reader.commit().await;
        assert!(matches!(committed, Err(CommitError::Not(TxError::Conflict(Conflict::Read { .. })))), "{committed:?}");
        store.close().await.unwrap();
        let store = open(folder.path(), &options).await;
        assert_eq!(keys(&store, &store.table("memory").unwrap()).await, [""; 0]);
        assert_eq!(keys(&store, &store.table("rows").unwrap()).await, ["k"]);
        store.close().await.unwrap();
    });
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

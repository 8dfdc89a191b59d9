//! The store against ordered maps, through its public interface, on the real file system.

#![expect(clippy::disallowed_methods, reason = "looks at the files from outside")]

mod store;

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    task::Poll,
    time::Duration,
};

use engine::{
    env::{OsEnv, block_on},
    txn::{
        BackupError, Store,
        catalog::TableKind,
        error::{CommitError, Conflict, TableError, TxError},
        options::{Isolation, Options, Sync, TableOptions, TxOptions},
        storage::Direction,
    },
};

use store::{all, instant, keys, open};

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
fn what_was_logged_makes_a_sync_due_long_before_the_period_ends() {
    let folder = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let options =
        Options { sync: Sync::Periodic, sync_period: hour, sync_threshold: 1_000_000_000, ..Options::default() };
    block_on(async {
        let store = open(folder.path(), &options).await;
        let table = store.create_table("table").await.unwrap();
        let created = store.durable();
        for number in 0..48_u8 {
            store.put(&table, &[number], &[number; 64 << 10]).await.unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(store.durable(), created, "3 MiB are less than 4");
        // These are logged in pieces.
        for number in 48..=50_u8 {
            store.put(&table, &[number], &vec![number; 700 << 10]).await.unwrap();
        }
        let synced = (0..60_000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            store.durable() > created
        });
        assert!(synced, "nobody syncs");
        store.close().await.unwrap();
    });
}

#[test]
fn many_commits_find_memory_ready_and_few_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { sync: Sync::Periodic, checkpoint_at_close: false, ..Options::default() };
    block_on(async {
        let store = open(folder.path(), &options).await;
        let table = store.create_table("table").await.unwrap();
        let mut number = 0_u32;
        for _ in 0..1000 {
            number += 1;
            store.put(&table, &number.to_be_bytes(), &[7; 100]).await.unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((store.stats().ready_bytes, store.stats().blocks_found), (0, 0));
        while store.stats().blocks_found == 0 {
            assert!(number < 10_000_000, "{:?}", store.stats());
            number += 1;
            store.put(&table, &number.to_be_bytes(), &[7; 100]).await.unwrap();
        }
        let full = (0..60_000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            store.stats().ready_bytes > 3 << 20
        });
        let stats = store.stats();
        assert!(full && stats.ready_bytes <= 4 << 20 && stats.memory_bytes > stats.ready_bytes, "{stats:?}");
        // Whoever makes it ends with the store.
        store.close().await.unwrap();
        open(folder.path(), &options).await.close().await.unwrap();
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

#[test]
fn the_snapshot_that_keeps_too_much_goes_and_one_that_keeps_nothing_stays() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        Options { dirty_bytes: 64 << 10, pinned_bytes: 32 << 10, max_value_bytes: 4 << 10, ..Options::default() };
    block_on(async {
        let store = open(folder.path(), &options).await;
        let table = store.create_table("t").await.unwrap();
        let mut old = store.begin(TxOptions::default()).unwrap();
        for number in 0..60_u32 {
            store.put(&table, &number.to_be_bytes(), &[1; 1000]).await.unwrap();
        }
        let mut young = store.begin(TxOptions::default()).unwrap();
        store.checkpoint().await.unwrap();
        let mut younger = store.begin(TxOptions::default()).unwrap();
        let gone = old.get(&table, &0_u32.to_be_bytes()).await;
        assert!(matches!(gone, Err(TxError::SnapshotTooOld)), "{gone:?}");
        // (What began in between keeps the same versions.)
        let gone = young.get(&table, &0_u32.to_be_bytes()).await;
        assert!(matches!(gone, Err(TxError::SnapshotTooOld)), "{gone:?}");
        store.put(&table, b"k", b"v").await.unwrap();
        store.checkpoint().await.unwrap();
        assert!(younger.get(&table, &0_u32.to_be_bytes()).await.unwrap().is_some());
        assert_eq!(store.stats().snapshots_too_old, 2);
        store.close().await.unwrap();
    });
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

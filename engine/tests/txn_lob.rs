//! Values that are logged in pieces, through the store's public interface and beside what its logs hold.

use std::{collections::BTreeMap, path::Path};

use engine::{
    env::{OsEnv, block_on},
    txn::{
        Store, Table,
        catalog::TableKind,
        error::{CommitError, OpenError, TxError},
        index::Functions,
        options::{Isolation, Options, Sync, TableOptions, TxOptions},
        redo::{Lob, Op, Record},
    },
    wal::{Durability, Lsn, Wal},
};

type Db = Store<OsEnv>;
type Rows = BTreeMap<(String, Vec<u8>), Vec<u8>>;

const LOB: usize = 1 << 10;

fn options() -> Options {
    Options {
        sync: Sync::Instant,
        lob_bytes: LOB as u64,
        checkpoint_at_close: false,
        checkpoint_after_recovery: false,
        ..Options::default()
    }
}

async fn open(path: &Path, options: &Options) -> Db {
    <Store<OsEnv>>::open(OsEnv, path, options.clone()).await.expect("it opens").0
}

/// Some bytes that say where they belong.
fn value(mark: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251 + mark) as u8).collect()
}

async fn verified(path: &Path, options: &Options) -> Result<Rows, OpenError> {
    let mut rows = Rows::new();
    let deliver = |table: &engine::txn::catalog::TableInfo, key: &[u8], value: &[u8]| {
        rows.insert((table.name.to_string(), key.to_vec()), value.to_vec());
    };
    <Store<OsEnv>>::verify(OsEnv, path, options.clone(), deliver).await?;
    Ok(rows)
}

async fn held(store: &Db, expected: &Rows) {
    for ((name, key), value) in expected {
        let found = store.get(&store.table(name).unwrap(), key).await.unwrap();
        assert!(found.as_deref() == Some(&value[..]), "{name} {}", key.escape_ascii());
    }
}

/// The records of a log of a store that is closed.
async fn records(store: &Path, log: usize) -> Vec<Vec<u8>> {
    let path = store.join(format!("log-{log}"));
    let (wal, _) = Wal::open(OsEnv, &path, engine::wal::Options::new()).await.unwrap();
    let (mut records, mut found) = (wal.records(Lsn(0)), Vec::new());
    while let Some((_, record)) = records.next().await.unwrap() {
        found.push(record.to_vec());
    }
    wal.close().await.unwrap();
    found
}

/// How many pieces a log has, the bytes in them, and how many values its parts name in pieces.
async fn pieces(store: &Path, log: usize) -> (usize, usize, usize) {
    let (mut pieces, mut bytes, mut named) = (0, 0, 0);
    for record in records(store, log).await {
        match Record::decode(&record).unwrap() {
            Record::Lob(Lob { data, .. }) => (pieces, bytes) = (pieces + 1, bytes + data.len()),
            Record::Part(part) => named += part.ops().filter(|op| matches!(op, Op::PutLob { .. })).count(),
            Record::Epoch(_) | Record::Checkpoint(_) | Record::Mark(_) => {}
        }
    }
    (pieces, bytes, named)
}

#[test]
fn large_values_stand_in_front_of_their_commit_in_the_log_of_their_table() {
    for logs in [1, 3] {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { logs, ..options() };
        let mut expected = Rows::new();
        block_on(async {
            let store = open(folder.path(), &options).await;
            let mut tx = store.begin(TxOptions::default()).unwrap();
            for name in ["a", "b", "c"] {
                let table = store.create_table(name).await.unwrap();
                for (mark, bytes) in [0, 1, LOB, LOB + 1, 2 * LOB, 10 * LOB + 5].into_iter().enumerate() {
                    let key = bytes.to_be_bytes();
                    tx.put(&table, &key, &value(mark, bytes)).await.unwrap();
                    expected.insert((name.into(), key.to_vec()), value(mark, bytes));
                }
                tx.put(&table, b"gone", &value(0, 5 * LOB)).await.unwrap();
                tx.delete(&table, b"gone").await.unwrap();
                // One write alone.
                store.put(&table, b"alone", &value(9, 4 * LOB)).await.unwrap();
                expected.insert((name.into(), b"alone".to_vec()), value(9, 4 * LOB));
            }
            assert!(tx.commit().await.unwrap().durable);
            held(&store, &expected).await;
            store.close().await.unwrap();
            assert!(verified(folder.path(), &options).await.unwrap() == expected);
            // Of each table three of six values, with 2, 2 and 11 pieces, and the one alone.
            let tables_of = |log| (1..=3).filter(|id| id % usize::from(logs) == log).count();
            for log in 0..usize::from(logs) {
                let (pieces, bytes, named) = pieces(folder.path(), log).await;
                let tables = tables_of(log);
                assert_eq!((pieces, bytes, named), (tables * 19, tables * (17 * LOB + 6), tables * 4), "log {log}");
            }
            let store = open(folder.path(), &options).await;
            held(&store, &expected).await;
            store.checkpoint().await.unwrap();
            let copy = folder.path().join("copy");
            store.backup(&copy).await.unwrap();
            assert!(verified(&copy, &options).await.unwrap() == expected, "the copy");
            drop(store);
            // The logs have let go of them.
            for log in 0..usize::from(logs) {
                assert_eq!(pieces(folder.path(), log).await, (0, 0, 0));
            }
            held(&open(folder.path(), &options).await, &expected).await;
        });
    }
}

#[test]
fn what_does_not_commit_is_not_named() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(folder.path(), &options()).await;
        let table = store.create_table("t").await.unwrap();
        let serializable = TxOptions { isolation: Isolation::Serializable, ..TxOptions::default() };
        let mut tx = store.begin(TxOptions::default()).unwrap();
        tx.put(&table, b"aborted", &value(1, 9 * LOB)).await.unwrap();
        tx.abort();
        let mut tx = store.begin(TxOptions::default()).unwrap();
        tx.savepoint("s").unwrap();
        tx.put(&table, b"taken back", &value(1, 9 * LOB)).await.unwrap();
        tx.rollback_to("s").unwrap();
        tx.put(&table, b"kept", b"small").await.unwrap();
        tx.commit().await.unwrap();
        let mut skewed = store.begin(serializable).unwrap();
        assert!(skewed.get(&table, b"read").await.unwrap().is_none());
        skewed.put(&table, b"refused", &value(2, 3 * LOB)).await.unwrap();
        store.put(&table, b"read", b"written").await.unwrap();
        assert!(skewed.commit().await.unwrap_err().is_retryable());
        // Of a table that is dropped meanwhile nothing is named, and the rest stays.
        let doomed = store.create_table("doomed").await.unwrap();
        let mut tx = store.begin(TxOptions::default()).unwrap();
        tx.put(&doomed, b"k", &value(3, 2 * LOB)).await.unwrap();
        tx.put(&table, b"k", &value(4, 2 * LOB)).await.unwrap();
        store.drop_table("doomed").await.unwrap();
        tx.commit().await.unwrap();
        store.close().await.unwrap();
        let rows = verified(folder.path(), &options()).await.unwrap();
        let expected = [("k", value(4, 2 * LOB)), ("kept", b"small".to_vec()), ("read", b"written".to_vec())];
        let expected = expected.map(|(key, value)| (("t".to_owned(), key.as_bytes().to_vec()), value));
        assert!(rows == Rows::from(expected), "{:?}", rows.keys());
        // Those of the refused one came when it was to commit; those that were taken back before never did.
        assert_eq!(pieces(folder.path(), 0).await, (5, 5 * LOB, 1));
    });
}

#[test]
fn indexes_follow_large_rows() {
    let derive = |key: &[u8], value: &[u8], tell: &mut dyn FnMut(&[u8], &[u8])| tell(&[&value[..8], key].concat(), b"");
    let options = Options { indexes: Functions::default().with("first", derive), logs: 2, ..options() };
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(folder.path(), &options).await;
        let rows = store.create_table("rows").await.unwrap();
        let kind = TableKind::Index { of: rows.id(), derive: "first".into() };
        store.create_table_with("index", TableOptions { kind }).await.unwrap();
        let memory = TableOptions { kind: TableKind::Memory };
        let memory: Table = store.create_table_with("memory", memory).await.unwrap();
        store.put(&rows, b"k", &value(1, 9 * LOB)).await.unwrap();
        store.put(&rows, b"k", &value(2, 7 * LOB)).await.unwrap();
        store.put(&memory, b"k", &value(3, 7 * LOB)).await.unwrap();
        assert!(store.get(&memory, b"k").await.unwrap().is_some_and(|found| *found == *value(3, 7 * LOB)));
        store.close().await.unwrap();
        // Neither an index nor a Memory table is logged.
        let (first, second) = (pieces(folder.path(), 0).await, pieces(folder.path(), 1).await);
        assert_eq!((first.0 + second.0, first.2 + second.2), (16, 2));
        let store = open(folder.path(), &options).await;
        let index = store.table("index").unwrap();
        let entry = |mark| [&value(mark, 8)[..], b"k"].concat();
        assert!(store.get(&index, &entry(2)).await.unwrap().is_some());
        assert!(store.get(&index, &entry(1)).await.unwrap().is_none());
        store.close().await.unwrap();
    });
}

#[test]
fn without_a_log_there_are_no_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { sync: Sync::NoSync, ..options() };
    block_on(async {
        let store = open(folder.path(), &options).await;
        let table = store.create_table("t").await.unwrap();
        store.put(&table, b"k", &value(1, 9 * LOB)).await.unwrap();
        store.close().await.unwrap();
        assert_eq!(pieces(folder.path(), 0).await, (0, 0, 0));
        let expected = Rows::from([(("t".into(), b"k".to_vec()), value(1, 9 * LOB))]);
        assert!(verified(folder.path(), &options).await.unwrap() == expected);
    });
}

#[test]
fn after_a_close_a_large_value_is_refused_as_any_other() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(folder.path(), &options()).await;
        let table = store.create_table("t").await.unwrap();
        let mut tx = store.begin(TxOptions::default()).unwrap();
        tx.put(&table, b"k", &value(1, 9 * LOB)).await.unwrap();
        store.close().await.unwrap();
        assert!(matches!(tx.commit().await, Err(CommitError::Not(TxError::Closed))));
    });
}

/// What has a right checksum and makes no sense was written by nobody: nothing is guessed.
#[test]
fn a_piece_that_is_missing_or_wrong_is_refused() {
    type Forge = fn(usize, &mut Vec<u8>);
    let forgeries: [(&str, Forge, bool); 4] = [
        ("nothing", |_, _| {}, true),
        ("a byte", |_, record| *record.last_mut().unwrap() ^= 1, false),
        ("a number", |nth, record| record[4] ^= u8::from(nth == 2) << 1, false),
        ("another transaction", |_, record| record[8] ^= 1, false),
    ];
    for (what, forge, opens) in forgeries {
        let folder = tempfile::tempdir().unwrap();
        block_on(async {
            let store = open(folder.path(), &options()).await;
            let table = store.create_table("t").await.unwrap();
            store.put(&table, b"k", &value(1, 4 * LOB)).await.unwrap();
            store.close().await.unwrap();
            // The same log, with another piece.
            let records = records(folder.path(), 0).await;
            let path = folder.path().join("log-0");
            std::fs::remove_dir_all(&path).unwrap();
            let (wal, _) = Wal::open(OsEnv, &path, engine::wal::Options::new()).await.unwrap();
            let mut nth = 0;
            for mut record in records {
                if let Record::Lob(_) = Record::decode(&record).unwrap() {
                    forge(nth, &mut record);
                    nth += 1;
                }
                wal.append(record, Durability::Sync).await.unwrap();
            }
            wal.close().await.unwrap();
            assert_eq!(nth, 4);
            match <Store<OsEnv>>::open(OsEnv, folder.path(), options()).await {
                Ok((store, _)) => {
                    assert!(opens, "{what}");
                    held(&store, &Rows::from([(("t".into(), b"k".to_vec()), value(1, 4 * LOB))])).await;
                }
                Err(OpenError::Corrupt(_)) => assert!(!opens, "{what}"),
                Err(other) => panic!("{what}: {other}"),
            }
        });
    }
}

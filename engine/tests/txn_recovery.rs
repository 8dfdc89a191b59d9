//! A store that is opened with commits in its logs: the same comes of it whoever replays them, and it is told how far it has come.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use engine::{
    env::{OsEnv, block_on},
    txn::{
        RecoveryReport, Store,
        options::{Options, TxOptions},
        progress::{OnProgress, Phase, Progress},
    },
};

type Rows = BTreeMap<(String, Vec<u8>), Vec<u8>>;

fn options() -> Options {
    Options {
        logs: 2,
        log_segment_bytes: 1 << 20,
        checkpoint_after_recovery: false,
        checkpoint_at_close: false,
        ..Options::default()
    }
}

/// Several stretches in each of two logs; rows that change again near by and far away, rows that go, a table that goes.
fn fill(path: &Path) -> (Rows, u64) {
    let mut rows = Rows::new();
    let mut commits = 0;
    block_on(async {
        let (store, _) = <Store<OsEnv>>::open(OsEnv, path, options()).await.unwrap();
        let mut tables = Vec::new();
        for name in ["a", "b", "c", "gone", "empty"] {
            tables.push(store.create_table(name).await.unwrap());
            commits += 1;
        }
        for number in 0..3_000_u64 {
            let mut tx = store.begin(TxOptions::default()).unwrap();
            for (nth, table) in tables[..4].iter().enumerate() {
                // Ascending in one table, scattered in the others; with a long key now and then.
                let spread = if nth == 0 { number } else { number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 2_000 };
                let mut key = format!("key {spread:06}").into_bytes();
                if spread.is_multiple_of(7) {
                    key.resize(60, b'k');
                }
                if number % 5 == 4 && nth > 0 {
                    tx.delete(table, &key).await.unwrap();
                    rows.remove(&(table.name().to_owned(), key));
                } else {
                    let value = vec![number as u8; if nth == 1 { 40 } else { 2_000 }];
                    tx.put(table, &key, &value).await.unwrap();
                    rows.insert((table.name().to_owned(), key), value);
                }
            }
            tx.commit().await.unwrap();
            commits += 1;
        }
        store.drop_table("gone").await.unwrap();
        commits += 1;
        rows.retain(|(table, _), _| table != "gone");
        store.close().await.unwrap();
    });
    (rows, commits)
}

fn verified(path: &Path, options: Options) -> (Rows, RecoveryReport) {
    let mut rows = Rows::new();
    let deliver = |table: &engine::txn::catalog::TableInfo, key: &[u8], value: &[u8]| {
        rows.insert((table.name.to_string(), key.to_vec()), value.to_vec());
    };
    let report = block_on(<Store<OsEnv>>::verify(OsEnv, path, options, deliver)).unwrap();
    (rows, report)
}

#[test]
fn the_same_is_replayed_with_any_number_of_workers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (expected, commits) = fill(&path);
    let mut reports = Vec::new();
    for recovery_workers in [0, 1, 2, 4] {
        let (rows, report) = verified(&path, Options { recovery_workers, ..options() });
        assert!(rows == expected, "{recovery_workers} workers");
        assert_eq!(report.replayed, commits);
        reports.push(report);
    }
    assert!(reports.iter().all(|report| *report == reports[0]));
    block_on(async {
        let (store, _) = <Store<OsEnv>>::open(OsEnv, &path, options()).await.unwrap();
        // What was replayed is a beginning like any other: it is written to and read, and a checkpoint takes it in.
        let table = store.table("b").unwrap();
        for number in 0..2_000_u64 {
            store.put(&table, format!("key {number:06}").as_bytes(), b"new").await.unwrap();
        }
        store.checkpoint().await.unwrap();
        store.close().await.unwrap();
    });
    let mut expected = expected;
    for number in 0..2_000_u64 {
        expected.insert(("b".into(), format!("key {number:06}").into_bytes()), b"new".to_vec());
    }
    let (rows, report) = verified(&path, options());
    assert!(rows == expected && report.replayed == 0);
}

#[test]
fn it_is_told_how_far_an_open_has_come() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (_, commits) = fill(&path);
    let told: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let tell = Arc::clone(&told);
    let on_progress = OnProgress::new(move |progress| tell.lock().unwrap().push(progress));
    block_on(async {
        let (store, _) = <Store<OsEnv>>::open(OsEnv, &path, Options { on_progress, ..options() }).await.unwrap();
        store.close().await.unwrap();
    });
    let told = told.lock().unwrap();
    assert!(told.is_sorted_by_key(|progress| (progress.phase, progress.done)), "{told:?}");
    for phase in [Phase::Reading, Phase::Replaying, Phase::Building] {
        let of: Vec<_> = told.iter().filter(|progress| progress.phase == phase).collect();
        let (first, last) = (of.first().unwrap(), of.last().unwrap());
        assert_eq!((first.done, last.total), (0, Some(last.done)), "{phase:?}");
        assert!(last.done >= commits - 6, "{phase:?}: {}", last.done);
        assert_eq!(first.total.is_none(), phase == Phase::Reading);
    }
}

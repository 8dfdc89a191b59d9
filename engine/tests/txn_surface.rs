//! What a stranger meets of the store: the front end without futures, its numbers, its explanation, a look at its files.

#![expect(clippy::disallowed_methods, reason = "looks at the files from outside")]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use engine::txn::{
    Stats,
    blocking::Store,
    error::{CommitError, Conflict, OpenError, TxError},
    options::{Isolation, Options, Sync, TableOptions, TxOptions},
    storage::Direction,
};
use engine::wal;

fn options() -> Options {
    Options { sync: Sync::Instant, checkpoint_after_recovery: false, ..Options::default() }
}

fn open(path: &Path, options: &Options) -> Store {
    Store::open(path, options.clone()).expect("it opens").0
}

#[test]
fn a_store_without_futures_does_what_the_other_does() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"), &options());
    let table = store.create_table("t").unwrap();
    assert_eq!((store.tables().len(), store.table("t").unwrap()), (1, table.clone()));
    assert!(store.put(&table, b"a", b"1").unwrap().durable);
    let mut tx = store.begin(TxOptions::default()).unwrap();
    assert_eq!(tx.snapshot(), Some(store.visible()));
    tx.savepoint("s").unwrap();
    tx.put(&table, b"a", b"2").unwrap();
    tx.rollback_to("s").unwrap();
    tx.put(&table, b"ab", b"3").unwrap();
    tx.delete(&table, b"a").unwrap();
    assert!(tx.get(&table, b"a").unwrap().is_none());
    let values = |found: Vec<Option<_>>| found.iter().map(Option::is_some).collect::<Vec<_>>();
    assert_eq!(values(tx.get_many(&table, &["a", "ab", "b"]).unwrap()), [false, true, false], "with its own writes");
    assert_eq!(values(store.get_many(&table, &["a", "ab", "b"]).unwrap()), [true, false, false]);
    assert_eq!(store.get(&table, b"a").unwrap().as_deref(), Some(&b"1"[..]));
    let ticket = tx.submit().unwrap();
    ticket.durable().unwrap();
    assert!(ticket.csn() <= store.durable() && matches!(tx.put(&table, b"x", b"y"), Err(TxError::Ended)));
    store.delete(&table, b"none").unwrap();
    let large = vec![7; 100_000];
    store.put(&table, b"large", &large).unwrap();
    assert_eq!(store.checkpoint().unwrap().csn, store.committed());
    store.wait_durable(store.sync().unwrap()).unwrap();
    let mut loader = store.loader("loaded", TableOptions::default()).unwrap();
    for number in [3_u8, 1, 2, 3] {
        loader.add(&[number], &[number]).unwrap();
    }
    assert_eq!(loader.finish().unwrap().rows, 3);
    let source = folder.path().join("log");
    let (wal, _) = wal::blocking::Wal::open(&source, wal::Options::new()).unwrap();
    wal.append(b"4", wal::Durability::Sync).unwrap();
    wal.close().unwrap();
    let loaded = store.table("loaded").unwrap();
    for records in [1, 0] {
        let report = store.import(&source, wal::Options::new(), (&table, b"imported"), |_, record, tell| {
            tell(&loaded, record, Some(record));
            Ok(())
        });
        assert_eq!(report.unwrap().records, records, "and a second time nothing");
    }
    store.delete(&table, b"imported").unwrap();
    store.backup(folder.path().join("copy")).unwrap();
    store.close().unwrap();

    for name in ["store", "copy"] {
        let mut rows = 0;
        let report = Store::verify(folder.path().join(name), options(), |_, _, _| rows += 1).unwrap();
        assert_eq!((rows, report.created), (6, false));
        let store = open(&folder.path().join(name), &options());
        let table = store.table("t").unwrap();
        // Nothing is in memory yet.
        assert_eq!(store.get(&table, b"large").unwrap().as_deref(), Some(&large[..]), "{name}");
        let mut tx = store.begin(TxOptions { read_only: true, ..TxOptions::default() }).unwrap();
        tx.lock_table(&table).unwrap_err();
        let mut keys = Vec::new();
        for direction in [Direction::Forward, Direction::Backward] {
            let mut scan = tx.prefix(&table, b"a", direction).unwrap();
            while let Some((key, _)) = scan.next().unwrap() {
                keys.push(key.to_vec());
            }
        }
        let mut scan = tx.scan(&table, .., Direction::Backward).unwrap();
        keys.push(scan.next().unwrap().expect("a last one").0.to_vec());
        assert_eq!(keys, [b"ab".to_vec(), b"ab".to_vec(), b"large".to_vec()]);
        drop(scan);
        tx.abort();
        store.drop_table("t").unwrap();
        assert!(matches!(store.get(&table, b"ab"), Err(TxError::UnknownTable(_))));
        store.close().unwrap();
    }
}

/// Threads that wait for each other's rows, and for the disk: no call of one hangs because it has no executor.
#[test]
fn threads_wait_for_rows_without_an_executor() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), &options());
    let table = store.create_table("t").unwrap();
    store.put(&table, b"sum", &0_u64.to_le_bytes()).unwrap();
    let add = |store: &Store| {
        let mut retry_of = None;
        loop {
            let mut tx = store.begin(TxOptions { retry_of, ..TxOptions::default() }).unwrap();
            retry_of = Some(tx.retry());
            let sum = tx.get(&table, b"sum").unwrap().expect("it was put");
            let sum = u64::from_le_bytes((*sum).try_into().expect("8 bytes")) + 1;
            let done = tx.put(&table, b"sum", &sum.to_le_bytes()).map_err(CommitError::from).and_then(|()| tx.commit());
            match done {
                Err(error) if error.is_retryable() => {}
                done => return assert!(done.unwrap().durable),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| add(&store)));
        }
    });
    assert_eq!(store.get(&table, b"sum").unwrap().as_deref(), Some(&100_u64.to_le_bytes()[..]));
    let stats = store.stats();
    assert_eq!((stats.commits, stats.pending, stats.snapshots), (102, 0, 0));
    assert_eq!(stats.aborts, stats.write_conflicts + stats.wounded + stats.read_conflicts);
    store.close().unwrap();
}

#[test]
fn each_thing_that_is_done_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let lock_timeout = Duration::from_millis(5);
    let store = open(folder.path(), &Options { logs: 2, lock_timeout, ..options() });
    let none = store.stats();
    let mut quiet = Stats::default();
    (quiet.generations, quiet.storage, quiet.logs, quiet.memory_bytes) =
        (1, none.storage, none.logs.clone(), none.memory_bytes);
    assert_eq!(none, quiet, "nothing was done");
    let mut before = none;
    let mut since = |store: &Store| {
        let now = store.stats();
        let then = std::mem::replace(&mut before, now.clone());
        let counts = |stats: &Stats| {
            let conflicts = [stats.write_conflicts, stats.wounded, stats.read_conflicts];
            [stats.commits, stats.parts, stats.aborts, conflicts.iter().sum(), stats.lock_waits, stats.timeouts]
        };
        let (now, then) = (counts(&now), counts(&then));
        std::array::from_fn::<u64, 6, _>(|at| now[at] - then[at])
    };
    let [one, two] = ["one", "two"].map(|name| store.create_table(name).unwrap());
    assert_eq!(since(&store), [2, 2, 0, 0, 0, 0], "tables");
    store.put(&one, b"k", b"v").unwrap();
    assert_eq!(since(&store), [1, 1, 0, 0, 0, 0], "a single write");
    let mut tx = store.begin(TxOptions::default()).unwrap();
    tx.put(&one, b"k", b"w").unwrap();
    tx.put(&two, b"k", b"w").unwrap();
    tx.commit().unwrap();
    assert_eq!(since(&store), [1, 2, 0, 0, 0, 0], "rows in two logs");
    drop(tx);
    let mut reader = store.begin(TxOptions::default()).unwrap();
    assert_eq!(store.stats().snapshots, 1);
    reader.commit().unwrap();
    assert_eq!((since(&store), store.stats().snapshots), ([0; 6], 0), "one that wrote nothing");

    let mut dropped = store.begin(TxOptions::default()).unwrap();
    dropped.put(&one, b"x", b"y").unwrap();
    drop(dropped);
    store.begin(TxOptions::default()).unwrap().abort();
    assert_eq!(since(&store), [0, 0, 2, 0, 0, 0], "an end without a commit");

    let mut late = store.begin(TxOptions::default()).unwrap();
    store.put(&one, b"k", b"x").unwrap();
    let conflict = late.put(&one, b"k", b"y");
    assert!(matches!(conflict, Err(TxError::Conflict(Conflict::WriteWrite { .. }))));
    assert_eq!((since(&store), store.stats().write_conflicts), ([1, 1, 1, 1, 0, 0], 1));

    let serializable = TxOptions { isolation: Isolation::Serializable, ..TxOptions::default() };
    let mut late = store.begin(serializable).unwrap();
    late.get(&one, b"k").unwrap();
    late.put(&two, b"z", b"z").unwrap();
    store.put(&one, b"k", b"z").unwrap();
    assert!(matches!(late.commit(), Err(CommitError::Not(TxError::Conflict(Conflict::Read { .. })))));
    assert_eq!((since(&store), store.stats().read_conflicts), ([1, 1, 1, 1, 0, 0], 1));

    let (mut old, mut young) = (store.begin(TxOptions::default()).unwrap(), store.begin(TxOptions::default()).unwrap());
    old.put(&one, b"a", b"a").unwrap();
    assert!(matches!(young.put(&one, b"a", b"b"), Err(TxError::Timeout(_))));
    assert_eq!(since(&store), [0, 0, 0, 0, 1, 1], "a wait that was too long");
    young.put(&one, b"b", b"b").unwrap();
    old.put(&one, b"b", b"a").unwrap();
    assert!(matches!(young.commit(), Err(CommitError::Not(TxError::Conflict(Conflict::Wounded { .. })))));
    old.commit().unwrap();
    assert_eq!((since(&store)[..4].to_vec(), store.stats().wounded), (vec![1, 1, 1, 1], 1));
    store.close().unwrap();
}

#[test]
fn checkpoints_and_the_cache_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let small = Options { cache_bytes: 256 << 10, dirty_bytes: 64 << 10, max_value_bytes: 4 << 10, ..options() };
    let store = open(folder.path(), &small);
    let table = store.create_table("t").unwrap();
    for number in 0..100_u32 {
        store.put(&table, &number.to_be_bytes(), &[1; 100]).unwrap();
    }
    let full = store.stats();
    assert_eq!((full.checkpoints, full.generations, full.pinned_bytes), (0, 1, 0));
    assert!(full.generation_bytes > 100 * 100 && full.memory_bytes >= full.generation_bytes, "{full:?}");
    // Whoever looks at the versions as they were keeps them.
    let held = store.begin(TxOptions::default()).unwrap();
    store.checkpoint().unwrap();
    let stats = store.stats();
    assert_eq!((stats.checkpoints, stats.checkpoint_changes, stats.failed_checkpoints), (1, 100, 0));
    assert_eq!((stats.generation_bytes, stats.pinned_bytes), (0, full.generation_bytes));
    assert!(stats.storage.files == 1 && stats.storage.used_bytes > 100 * 100, "{:?}", stats.storage);
    assert!(stats.storage.file_bytes >= stats.storage.used_bytes);
    store.checkpoint().unwrap();
    assert_eq!(store.stats().checkpoints, 1, "there was nothing to do");
    drop(held);
    assert_eq!(store.stats().pinned_bytes, 0);
    for number in 100..3000_u32 {
        store.put(&table, &number.to_be_bytes(), &[1; 400]).unwrap();
    }
    store.close().unwrap();

    let store = open(folder.path(), &small);
    let table = store.table("t").unwrap();
    let opened = store.stats().storage;
    store.get(&table, &7_u32.to_be_bytes()).unwrap().expect("it was put");
    let cold = store.stats().storage;
    assert!(cold.misses > opened.misses && cold.cached_bytes > opened.cached_bytes, "{opened:?}, {cold:?}");
    store.get(&table, &7_u32.to_be_bytes()).unwrap().expect("it was put");
    let warm = store.stats().storage;
    assert_eq!((warm.misses, warm.evictions), (cold.misses, 0));
    assert!(warm.hits > cold.hits, "{warm:?}");
    for number in 0..3000_u32 {
        store.get(&table, &number.to_be_bytes()).unwrap().expect("it was put");
    }
    let full = store.stats();
    assert!(full.storage.evictions > 0 && full.memory_bytes <= 256 << 10, "{full:?}");
    assert!(full.storage.cached_bytes <= full.memory_bytes);
    let mut tx = store.begin(TxOptions::default()).unwrap();
    let mut scan = tx.scan(&table, .., Direction::Forward).unwrap();
    while scan.next().unwrap().is_some() {}
    drop(scan);
    assert!(store.stats().storage.misses > full.storage.misses);
    drop(tx);
    store.close().unwrap();
}

/// The files of a folder and those below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    files.sort();
    files
}

#[test]
fn a_check_changes_nothing_and_finds_what_is_wrong_in_any_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    assert!(matches!(Store::check(&path, options()), Err(OpenError::NotFound)));
    let options = Options { logs: 2, log_segment_bytes: 16 << 10, log_buffer_bytes: 16 << 10, ..options() };
    let store = open(&path, &options);
    assert!(matches!(Store::check(&path, options.clone()), Err(OpenError::Locked)));
    let [one, two] = ["one", "two"].map(|name| store.create_table(name).unwrap());
    for number in 0..30_u8 {
        store.put(&one, &[number], &[number; 100]).unwrap();
        store.put(&two, &[number], &[number; 100]).unwrap();
    }
    store.checkpoint().unwrap();
    for number in 0..20_u8 {
        store.put(&one, &[number], &[1; 50]).unwrap();
        store.put(&two, &[number], &[1; 50]).unwrap();
    }
    store.backup(folder.path().join("copy")).unwrap();
    // Nothing of it is closed: the checkpoint of the backup is there, and what comes after it is in the logs alone.
    for number in 0..20_u8 {
        store.put(&one, &[number], &[2; 50]).unwrap();
        store.put(&two, &[number], &[2; 50]).unwrap();
    }
    let store_of_a_crash = folder.path().join("crashed");
    let status = std::process::Command::new("cp").arg("-r").args([&path, &store_of_a_crash]).status().unwrap();
    assert!(status.success());
    store.close().unwrap();

    let copied = Store::check(folder.path().join("copy"), options.clone()).unwrap();
    assert!(copied.is_clean() && copied.rows == 60, "{copied:?}");
    let crashed = Store::check(&store_of_a_crash, options.clone()).unwrap();
    assert!(
        crashed.is_sound() && crashed.recovery.as_ref().is_some_and(|recovery| recovery.replayed == 40),
        "{crashed:?}"
    );

    for (path, closed) in [(path, true), (store_of_a_crash, false)] {
        let before: Vec<_> = files(&path).into_iter().map(|file| (std::fs::read(&file).unwrap(), file)).collect();
        assert!(Store::check(&path, options.clone()).unwrap().is_clean(), "closed: {closed}");
        let after: Vec<_> = files(&path).into_iter().map(|file| (std::fs::read(&file).unwrap(), file)).collect();
        assert!(before == after, "it changes nothing");
        let mut found_in_logs = [0, 0];
        for (bytes, file) in &before {
            let name = file.strip_prefix(&path).unwrap().to_str().unwrap();
            let is_root = name.starts_with("root");
            for at in (0..bytes.len().min(90_000)).step_by(if is_root { 11 } else { 211 }) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 4;
                std::fs::write(file, &damaged).unwrap();
                let report = Store::check(&path, options.clone()).unwrap();
                if report.is_clean() {
                    assert!(!is_root, "byte {at} of {name}");
                    continue;
                }
                assert!(report.findings.iter().any(|finding| finding.file == name), "byte {at} of {name}: {report:?}");
                if let Some(log) = name.strip_prefix("log-") {
                    // One of two identities, or the end of a log that was not closed, may be as a crash leaves them.
                    found_in_logs[usize::from(log.starts_with('1'))] += usize::from(at >= 8192);
                } else if !is_root {
                    assert!(!report.is_sound(), "byte {at} of {name}");
                }
            }
            std::fs::write(file, bytes).unwrap();
        }
        assert!(found_in_logs.iter().all(|found| *found > 5), "closed: {closed}, {found_in_logs:?}");
    }
}

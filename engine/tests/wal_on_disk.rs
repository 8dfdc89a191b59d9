//! The log on the real file system: what a user sees, and what bad input does to it.
#![expect(clippy::disallowed_methods, reason = "a test stands outside the engine, where users and disasters are")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use engine::wal::{AppendError, Durability, Lsn, OpenError, Options, ReadError, SyncError, TailKind, blocking::Wal};
use tempfile::TempDir;

const SMALL: u64 = 16 * 1024;

fn options() -> Options {
    Options::new().segment_bytes(SMALL)
}

fn payload(number: u64, length: usize) -> Bytes {
    (0..length).map(|at| (number as usize * 31 + at) as u8).collect()
}

fn contents(wal: &Wal) -> Vec<Bytes> {
    wal.records(Lsn(1)).map(|record| record.expect("readable").1).collect()
}

/// Name and bytes of every file.
fn snapshot(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(path)
        .expect("directory")
        .map(|entry| entry.expect("entry").path())
        .map(|path| (path.clone(), fs::read(path).unwrap_or_default()))
        .collect();
    files.sort();
    files
}

/// A closed log of `count` records in several segments.
fn filled(count: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("log");
    let (wal, _) = Wal::open(&path, options()).expect("new");
    for number in 0..count {
        wal.append(payload(number, 1000), Durability::Buffered).expect("append");
    }
    wal.close().expect("close");
    (folder, path)
}

fn segments(path: &Path) -> Vec<PathBuf> {
    snapshot(path).into_iter().map(|(path, _)| path).collect()
}

fn refused(path: &Path) -> OpenError {
    let before = snapshot(path);
    let error = Wal::open(path, options()).expect_err("refused");
    assert_eq!(snapshot(path), before, "a refused open changes no byte");
    error
}

#[test]
fn records_of_all_sizes_survive_close_and_open() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("log");
    let sizes = [0, 1, 3, 4, 100, 4096, 20_000, 70_000, 5 << 20, 7];
    let mut all = Vec::new();
    for round in 0..3_u64 {
        let (wal, report) = Wal::open(&path, options()).expect("open");
        assert_eq!(report.records(), all.len() as u64);
        assert_eq!(report.tail, if round == 0 { TailKind::New } else { TailKind::Clean });
        assert_eq!(report.unproven_from, report.next, "a closed log is proven to its end");
        assert_eq!(contents(&wal), all);
        for (number, size) in sizes.into_iter().enumerate() {
            let class = [Durability::Sync, Durability::Written, Durability::Buffered][number % 3];
            let record = payload(round * 100 + number as u64, size);
            let lsn = wal.append(record.clone(), class).expect("append");
            all.push(record.clone());
            assert_eq!(lsn, Lsn(all.len() as u64));
            assert_eq!(wal.read(lsn).expect("read your own"), record);
        }
        let batch: Vec<_> = (0..5).map(|number| payload(number, 50)).collect();
        wal.append_batch(&batch, Durability::Sync).expect("batch");
        all.extend(batch);
        assert_eq!(contents(&wal), all);
        wal.close().expect("close");
    }
}

#[test]
fn a_record_of_64_mib_gets_a_segment_of_its_own() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("log");
    let (wal, _) = Wal::open(&path, options()).expect("open");
    let big = payload(1, 64 << 20);
    wal.append("before", Durability::Sync).expect("append");
    wal.append(big.clone(), Durability::Sync).expect("append");
    wal.append("after", Durability::Sync).expect("append");
    drop(wal);
    let (wal, report) = Wal::open(&path, options()).expect("open");
    assert_eq!(report.records(), 3);
    assert!(wal.read(Lsn(2)).expect("read") == big);
    assert_eq!(wal.read(Lsn(3)).expect("read"), "after");
}

#[test]
fn a_process_that_forgets_to_close_keeps_what_was_written() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("log");
    for round in 0..20_u64 {
        let (wal, report) = Wal::open(&path, options()).expect("open");
        assert_eq!(report.records(), round * 3);
        for number in 0..3 {
            wal.append(payload(number, 500), Durability::Written).expect("append");
        }
    }
    assert!(segments(&path).len() < 12, "opens don't pile up segments: {:?}", segments(&path));
}

#[test]
fn many_threads_share_syncs_and_each_gets_its_own_lsn() {
    let folder = tempfile::tempdir().expect("folder");
    let (wal, _) = Wal::open(folder.path().join("log"), options()).expect("open");
    let mut lsns: Vec<Lsn> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8_u64)
            .map(|writer| {
                let wal = wal.clone();
                scope.spawn(move || {
                    (0..50)
                        .map(|number| wal.append(payload(writer * 50 + number, 120), Durability::Sync).expect("append"))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().expect("writer")).collect()
    });
    lsns.sort();
    assert_eq!(lsns, (1..=400).map(Lsn).collect::<Vec<_>>());
    assert_eq!(wal.durable(), Lsn(401));
}

#[test]
fn definite_errors_leave_no_trace() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("log");
    let (wal, _) = Wal::open(&path, options().max_record_bytes(100)).expect("open");
    assert!(matches!(
        wal.append(payload(0, 101), Durability::Sync),
        Err(AppendError::TooLarge { bytes: 101, limit: 100 })
    ));
    assert!(matches!(wal.append_batch(&[""; 0], Durability::Sync), Err(AppendError::EmptyBatch)));
    assert!(matches!(wal.wait_durable(Lsn(1)), Err(SyncError::NotAppended { .. })));
    assert!(matches!(wal.read(Lsn(0)), Err(ReadError::NotFound { .. })));
    let other = wal.clone();
    wal.close().expect("close");
    assert!(matches!(other.append("late", Durability::Sync), Err(AppendError::Closed)));
    let (_, report) = Wal::open(&path, options()).expect("open");
    assert_eq!(report.records(), 0);
}

#[test]
fn a_second_handle_is_locked_out_until_the_first_is_closed() {
    let (_folder, path) = filled(1);
    let (wal, _) = Wal::open(&path, options()).expect("open");
    let error = Wal::open(&path, options()).expect_err("locked");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    wal.close().expect("close");
    Wal::open(&path, options()).expect("open");
}

#[test]
fn options_out_of_range_are_named() {
    let folder = tempfile::tempdir().expect("folder");
    for (options, name) in [
        (Options::new().segment_bytes(0), "segment_bytes"),
        (Options::new().segment_bytes(SMALL + 1), "segment_bytes"),
        (Options::new().buffer_bytes(1), "buffer_bytes"),
        (Options::new().max_record_bytes(1 << 40), "max_record_bytes"),
    ] {
        let error = Wal::open(folder.path().join("log"), options).expect_err("refused");
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(!folder.path().join("log").exists(), "checked before anything is touched");
}

#[test]
fn a_directory_that_is_a_file_or_has_no_parent_is_an_error() {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("file"), "x").expect("write");
    assert!(matches!(Wal::open(folder.path().join("file"), options()), Err(OpenError::Io { .. })));
    assert!(matches!(Wal::open(folder.path().join("no/log"), options()), Err(OpenError::Io { .. })));
    let absent = Wal::open(folder.path().join("absent"), options().create(false));
    assert!(matches!(absent, Err(OpenError::Io { .. })));
}

#[test]
fn foreign_files_are_ignored_and_stay() {
    let (_folder, path) = filled(30);
    fs::write(path.join("notes.txt"), "mine").expect("write");
    fs::create_dir(path.join("wal-00000099.seg")).expect("directory");
    let (wal, report) = Wal::open(&path, options()).expect("open");
    assert_eq!((report.records(), report.foreign), (30, 2));
    wal.close().expect("close");
    assert_eq!(fs::read(path.join("notes.txt")).expect("read"), b"mine");
}

#[test]
fn every_segment_that_is_removed_truncated_or_zeroed_is_noticed_or_held_nothing() {
    let (_folder, path) = filled(60);
    let all = segments(&path);
    assert!(all.len() > 4, "{all:?}");
    let spare = all[all.len() - 1].clone();
    for file in all {
        let bytes = fs::read(&file).expect("read");
        let damages: [(&str, Option<Vec<u8>>); 5] = [
            ("removed", None),
            ("emptied", Some(Vec::new())),
            ("cut in the identity", Some(bytes[..40].to_vec())),
            ("cut behind the identity", Some(bytes[..8192].to_vec())),
            ("zeroed", Some(vec![0; bytes.len()])),
        ];
        for (damage, bytes_then) in damages {
            match bytes_then {
                None => fs::remove_file(&file).expect("remove"),
                Some(bytes) => fs::write(&file, bytes).expect("write"),
            }
            if file == spare {
                // Prepared and never started: it holds nothing, and nothing is lost with it.
                let copy = tempfile::tempdir().expect("folder");
                for (file, bytes) in snapshot(&path) {
                    fs::write(copy.path().join(file.file_name().expect("name")), bytes).expect("copy");
                }
                let (wal, report) = Wal::open(copy.path(), options()).expect(damage);
                assert_eq!(report.records(), 60);
                assert_eq!(contents(&wal).len(), 60);
            } else {
                let error = refused(&path);
                assert!(matches!(error, OpenError::Corrupt { .. }), "{damage} {}: {error}", file.display());
            }
            fs::write(&file, &bytes).expect("restore");
        }
    }
    let (_, report) = Wal::open(&path, options()).expect("restored");
    assert_eq!(report.records(), 60);
}

#[test]
fn a_flipped_bit_in_a_closed_log_is_never_silent() {
    let (_folder, path) = filled(20);
    let expected = {
        let (wal, _) = Wal::open(&path, options()).expect("open");
        let all = contents(&wal);
        wal.close().expect("close");
        all
    };
    let mut refusals = 0;
    for (file, bytes) in snapshot(&path) {
        for at in (0..bytes.len()).step_by(97) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&file, flipped).expect("write");
            let copy = tempfile::tempdir().expect("folder");
            for (file, bytes) in snapshot(&path) {
                fs::write(copy.path().join(file.file_name().expect("name")), bytes).expect("copy");
            }
            match Wal::open(copy.path(), options()) {
                Ok((wal, _)) => assert_eq!(contents(&wal), expected, "flip at {at} of {}", file.display()),
                Err(OpenError::Corrupt { .. } | OpenError::OtherLog { .. } | OpenError::NewerVersion { .. }) => {
                    refusals += 1
                }
                Err(other) => panic!("{other}"),
            }
        }
        fs::write(&file, bytes).expect("restore");
    }
    assert!(refusals > 50, "{refusals}");
}

#[test]
fn a_newer_version_and_another_log_have_errors_of_their_own() {
    let (_folder, path) = filled(30);
    let (_other_folder, other) = filled(30);
    let (first, foreign) = (segments(&path)[0].clone(), segments(&other)[0].clone());
    let bytes = fs::read(&first).expect("read");

    fs::copy(&foreign, &first).expect("copy");
    assert!(matches!(refused(&path), OpenError::OtherLog { .. }));
    fs::write(&first, &bytes).expect("restore");

    let stray = path.join("wal-00000077.seg");
    fs::copy(&foreign, &stray).expect("copy");
    assert!(matches!(refused(&path), OpenError::OtherLog { .. }), "also where the generation is the same");
    fs::copy(&first, &stray).expect("copy");
    assert!(matches!(refused(&path), OpenError::Corrupt { .. }), "a copy of a file of the same log");
    fs::remove_file(&stray).expect("remove");

    let mut newer = bytes.clone();
    for copy in [0, 4096] {
        newer[copy + 8] = 2;
        let crc = crc32fast::hash(&newer[copy..copy + 76]);
        newer[copy + 76..copy + 80].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(&first, newer).expect("write");
    assert!(matches!(refused(&path), OpenError::NewerVersion { major: 2, .. }));

    fs::write(&first, bytes).expect("restore");
    let (_, report) = Wal::open(&path, options()).expect("restored");
    assert_eq!(report.records(), 30);
}

#[test]
fn directories_of_every_format_version_that_landed_still_open() {
    // Written by the program of that version: twenty records, a batch, a close, and a record of a process that just ended.
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1.0");
    let copy = tempfile::tempdir().expect("folder");
    for (file, bytes) in snapshot(&fixture) {
        fs::write(copy.path().join(file.file_name().expect("name")), bytes).expect("copy");
    }
    let (wal, report) = Wal::open(copy.path(), options()).expect("open");
    assert_eq!((report.records(), report.tail), (24, TailKind::End));
    let mut expected: Vec<Bytes> = (0..20_u8).map(|number| vec![number; usize::from(number) * 50].into()).collect();
    expected.extend(["one", "", "three", "left open"].map(Bytes::from));
    assert_eq!(contents(&wal), expected);
}

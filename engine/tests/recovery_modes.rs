//! What each recovery mode does about damage, on the real file system.
#![expect(clippy::disallowed_methods, reason = "a test looks at the files behind the log's back")]

use std::{fs, path::Path};

use engine::wal::{Durability, Lsn, OpenError, Options, RecoveryMode, TailKind, blocking::Wal};
use proptest::prelude::*;

const RECORDS: u64 = 400;

fn options() -> Options {
    Options::new().segment_bytes(16 << 10)
}

/// A closed log over several segments.
fn log(path: &Path) {
    let (wal, _) = Wal::open(path, options()).unwrap();
    for number in 0..RECORDS {
        wal.append(record(number), Durability::Buffered).unwrap();
    }
    wal.close().unwrap();
}

fn record(number: u64) -> Vec<u8> {
    let mut record = vec![number as u8; 100];
    record[..8].copy_from_slice(&number.to_le_bytes());
    record
}

fn segments(path: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "seg"));
    files.sort();
    files
}

fn flip(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

fn all(wal: &Wal) -> Vec<(Lsn, Vec<u8>)> {
    wal.records(Lsn(1)).map(|item| item.map(|(lsn, record)| (lsn, record.to_vec())).unwrap()).collect()
}

fn is_prefix(records: &[(Lsn, Vec<u8>)]) -> bool {
    records.iter().zip(1..).all(|((lsn, bytes), expected)| lsn.0 == expected && *bytes == record(expected - 1))
}

#[test]
fn point_in_time_cuts_at_the_damage_and_sets_the_rest_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    log(&path);
    let files = segments(&path);
    assert!(files.len() >= 4, "{files:?}");
    flip(&files[1], 12_000);

    assert!(matches!(Wal::open(&path, options()), Err(OpenError::Corrupt { .. })));
    assert!(matches!(Wal::open(&path, options().recovery(RecoveryMode::Absolute)), Err(OpenError::Corrupt { .. })));
    let before: u64 = segments(&path).len() as u64;

    let (wal, report) = Wal::open(&path, options().recovery(RecoveryMode::PointInTime)).unwrap();
    assert_eq!(report.tail, TailKind::Damaged);
    let kept = all(&wal);
    assert!(is_prefix(&kept) && !kept.is_empty() && (kept.len() as u64) < RECORDS, "{} records", kept.len());
    assert!(report.dropped.iter().any(|dropped| dropped.records > 0), "{report:?}");
    let aside = fs::read_dir(&path)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".seg.cut"));
    assert!(aside.count() as u64 >= before - 3, "whole segments keep their bytes under another name");
    let next = wal.append(record(kept.len() as u64), Durability::Sync).unwrap();
    assert_eq!(next.0, kept.len() as u64 + 1);
    wal.close().unwrap();

    let (wal, report) = Wal::open(&path, options()).unwrap();
    assert_eq!((report.tail, report.records()), (TailKind::Clean, kept.len() as u64 + 1));
    assert!(is_prefix(&all(&wal)));
}

#[test]
fn a_log_without_its_beginning_is_refused_in_every_mode() {
    for mode in RecoveryMode::ALL {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        log(&path);
        fs::remove_file(&segments(&path)[0]).unwrap();
        assert!(Wal::open(&path, options().recovery(mode)).is_err(), "{mode:?}");
    }
}

#[test]
fn salvage_delivers_what_is_behind_a_gap_and_names_the_gap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    log(&path);
    flip(&segments(&path)[1], 12_000);
    let mut found = Vec::new();
    let report = Wal::salvage(&path, |lsn, bytes| found.push((lsn, bytes.to_vec()))).unwrap();
    assert_eq!((report.records, report.gaps.len()), (RECORDS - 1, 1));
    let lost = report.gaps[0].clone();
    assert_eq!(lost.end - lost.start, 1);
    assert!(found.iter().all(|(lsn, bytes)| *bytes == record(lsn.0 - 1)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes are damaged: no mode panics or invents, and what is refused stays as it is.
    #[test]
    fn no_damage_makes_any_mode_invent(
        damages in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let original = folder.path().join("log");
        log(&original);
        for (file, offset) in &damages {
            let files = segments(&original);
            let file = file.get(&files);
            let length = fs::metadata(file).unwrap().len() as usize;
            flip(file, offset.index(length));
        }
        let mut salvaged = Vec::new();
        let salvage = Wal::salvage(&original, |lsn, bytes| salvaged.push((lsn, bytes.to_vec())));
        if salvage.is_ok() {
            prop_assert!(salvaged.iter().all(|(lsn, bytes)| *bytes == record(lsn.0 - 1)));
        }
        let verified = Wal::verify(&original, options(), |_, _| {}).map(|report| report.records());
        let opened = Wal::open(&original, options());
        prop_assert_eq!(verified.is_ok(), opened.is_ok(), "verify and open agree");
        if let Ok((wal, report)) = opened {
            prop_assert_eq!(Some(report.records()), verified.ok());
            prop_assert!(is_prefix(&all(&wal)));
            wal.close().unwrap();
        }
        if let Ok((wal, _)) = Wal::open(&original, options().recovery(RecoveryMode::PointInTime)) {
            prop_assert!(is_prefix(&all(&wal)));
        }
    }
}

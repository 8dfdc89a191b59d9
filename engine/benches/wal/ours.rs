//! The log, through its public API, doing what the baselines do. Each case makes sure that it did it.

use std::{path::Path, time::Instant};

use engine::wal::{Durability, Lsn, Options, blocking::Wal};

use super::{RECORD, Sizes};

fn options() -> Options {
    Options::new()
}

fn create(dir: &Path, options: Options) -> Wal {
    Wal::open(dir.join("log"), options).expect("open").0
}

/// Every record that was appended is there after a reopen.
fn holds(dir: &Path, wal: Wal, records: u64) {
    wal.close().expect("close");
    let (_, report) = Wal::open(dir.join("log"), options()).expect("reopen");
    assert_eq!(report.records(), records);
}

/// Appends until the log goes on in a prepared segment: the steady state.
fn warm_up(wal: &Wal) -> u64 {
    let mut records = 0;
    while wal.stats().rotations == 0 {
        wal.append(RECORD, Durability::Buffered).expect("append");
        records += 1;
    }
    wal.sync().expect("sync");
    // The background has time to prepare what it wants.
    std::thread::sleep(std::time::Duration::from_millis(200));
    records
}

pub(crate) fn buffered_writer(dir: &Path, sizes: Sizes) -> f64 {
    let wal = create(dir, options());
    let before = warm_up(&wal);
    let mut writer = wal.writer().expect("writer");
    let began = Instant::now();
    for _ in 0..sizes.buffered {
        writer.append(RECORD).expect("append");
    }
    let rate = sizes.buffered as f64 / began.elapsed().as_secs_f64();
    drop(writer);
    holds(dir, wal, before + sizes.buffered);
    rate
}

pub(crate) fn buffered_shared(dir: &Path, sizes: Sizes) -> f64 {
    let wal = create(dir, options());
    let before = warm_up(&wal);
    let began = Instant::now();
    for _ in 0..sizes.buffered {
        wal.append(RECORD, Durability::Buffered).expect("append");
    }
    let rate = sizes.buffered as f64 / began.elapsed().as_secs_f64();
    holds(dir, wal, before + sizes.buffered);
    rate
}

fn one_thread(dir: &Path, sizes: Sizes, options: Options) -> f64 {
    let wal = create(dir, options);
    let before = warm_up(&wal);
    let syncs = wal.stats().syncs;
    let began = Instant::now();
    for _ in 0..sizes.synced {
        wal.append(RECORD, Durability::Sync).expect("append");
    }
    let rate = sizes.synced as f64 / began.elapsed().as_secs_f64();
    assert!(wal.stats().syncs - syncs >= sizes.synced, "each append is durable by a sync of its own");
    holds(dir, wal, before + sizes.synced);
    rate
}

pub(crate) fn synced(dir: &Path, sizes: Sizes) -> f64 {
    one_thread(dir, sizes, options())
}

pub(crate) fn synced_writes(dir: &Path, sizes: Sizes) -> f64 {
    one_thread(dir, sizes, options().synced_writes(true))
}

pub(crate) fn grouped(dir: &Path, sizes: Sizes) -> f64 {
    const WRITERS: u64 = 32;
    let each = sizes.grouped / WRITERS;
    let wal = create(dir, options());
    let before = warm_up(&wal);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            let wal = wal.clone();
            scope.spawn(move || {
                for _ in 0..each {
                    wal.append(RECORD, Durability::Sync).expect("append");
                }
            });
        }
    });
    let rate = (each * WRITERS) as f64 / began.elapsed().as_secs_f64();
    let (stats, frames) = (wal.stats(), each * WRITERS);
    assert!(stats.syncs * WRITERS >= frames, "no sync covers more than one append of each writer");
    assert_eq!(wal.durable(), wal.next(), "what was acknowledged is durable");
    holds(dir, wal, before + each * WRITERS);
    rate
}

/// A closed log with so many records.
fn filled(dir: &Path, records: u64) {
    let wal = create(dir, options());
    let mut writer = wal.writer().expect("writer");
    for _ in 0..records {
        writer.append(RECORD).expect("append");
    }
    drop(writer);
    wal.close().expect("close");
}

/// Iterates over all records of an open log.
pub(crate) fn replay(dir: &Path, sizes: Sizes) -> f64 {
    filled(dir, sizes.replayed);
    let (wal, _) = Wal::open(dir.join("log"), options()).expect("open");
    let began = Instant::now();
    let (mut count, mut sum) = (0, 0);
    for record in wal.records(Lsn(1)) {
        sum += u64::from(record.expect("record").1[99]);
        count += 1;
    }
    let rate = sizes.replayed as f64 / began.elapsed().as_secs_f64();
    assert_eq!((count, sum), (sizes.replayed, sizes.replayed * u64::from(RECORD[0])));
    rate
}

/// Opens it: all of it is read, checked, and judged.
pub(crate) fn open(dir: &Path, sizes: Sizes) -> f64 {
    filled(dir, sizes.replayed);
    let began = Instant::now();
    let (_, report) = Wal::open(dir.join("log"), options()).expect("open");
    let rate = sizes.replayed as f64 / began.elapsed().as_secs_f64();
    assert_eq!(report.records(), sizes.replayed);
    rate
}

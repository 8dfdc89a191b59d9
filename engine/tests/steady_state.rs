//! In the steady state the log allocates nothing, and a log that is dropped has lost nothing.
#![allow(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "a counting allocator has no safe form, and threads are what one test is about"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use engine::{
    aof::{
        CommandLog,
        options::{Fsync, Options as AofOptions},
    },
    env::{OsEnv, block_on},
    keyspace::Keyspace,
    wal::{Durability, Lsn, Options, blocking::Wal},
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static HELD_BYTES: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more, and isn't the one under test.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        let _ = HELD_BYTES.try_with(|held| held.set(held.get() + layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = HELD_BYTES.try_with(|held| held.set(held.get() - layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_data_set_takes_at_most_twice_the_memory_of_what_is_in_it() {
    let value = [b'x'; 100];
    for keys in [20_000_u64, 70_000, 100_000] {
        let before = HELD_BYTES.get();
        let mut data = Keyspace::new();
        let mut payload = 0;
        for number in 0..keys {
            let key = format!("key:{number:09}");
            data.load(&[b"SET", key.as_bytes(), &value]).unwrap();
            payload += key.len() + value.len();
        }
        let held = HELD_BYTES.get() - before;
        assert!(held as usize <= 2 * payload, "{keys} keys: {held} bytes for {payload}");
        assert!(held as usize > payload, "the counter counts");
        drop(data);
        assert_eq!(HELD_BYTES.get(), before);
    }
}

#[test]
fn appends_that_fit_a_page_allocate_nothing_and_neither_do_writes_and_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(folder.path().join("log"), Options::new()).unwrap();
    let round = || {
        for _ in 0..3000 {
            wal.append([7; 100].as_slice(), Durability::Buffered).unwrap();
        }
        for _ in 0..20 {
            wal.append([7; 100].as_slice(), Durability::Written).unwrap();
            wal.append([7; 100].as_slice(), Durability::Sync).unwrap();
        }
    };
    // The pages of the ring and what threads make once come into being.
    (0..2).for_each(|_| round());
    assert_eq!(wal.stats().rotations, 0, "a rotation prepares a segment, which allocates");
    assert_eq!(allocations(round), 0);
}

/// Both front ends, with checksums and without. (Under `everysec` it is for the clock to say which thread does the work.)
#[test]
fn commands_that_fit_a_page_allocate_nothing_and_neither_do_rounds() {
    for append_fsync in [Fsync::No, Fsync::Always] {
        for (checksums, split_large, alone) in
            [(true, false, true), (true, false, false), (false, true, true), (false, true, false)]
        {
            let folder = tempfile::tempdir().unwrap();
            let options = AofOptions { append_fsync, checksums, split_large, ..AofOptions::default() };
            let mut keys = Keyspace::new();
            let (log, _) = block_on(CommandLog::open(OsEnv, folder.path(), options, &mut keys)).unwrap();
            let mut writer = alone.then(|| log.writer().unwrap());
            let command: [&[u8]; 3] = [b"SET", b"key", &[7; 100]];
            let unit: [&[&[u8]]; 2] = [&command, &command];
            let mut work = || {
                block_on(async {
                    for round in 0..20_u32 {
                        for number in 0..200 {
                            // Another database now and then: the number is written, too.
                            let database = (round + number / 50) % 12;
                            match &mut writer {
                                Some(writer) => {
                                    writer.append(database, &command).await.unwrap();
                                    writer.append_unit(database, &unit).await.unwrap();
                                }
                                None => {
                                    log.append(database, &command).await.unwrap();
                                    log.append_unit(database, &unit).await.unwrap();
                                }
                            }
                        }
                        match &mut writer {
                            Some(writer) => writer.round().await.unwrap(),
                            None => log.round().await.unwrap(),
                        }
                    }
                });
            };
            // The pages of the ring and what threads make once come into being.
            (0..2).for_each(|_| work());
            assert_eq!(
                allocations(work),
                0,
                "{append_fsync:?}, checksums {checksums}, {}",
                if alone { "writer" } else { "shared" }
            );
            drop(writer);
            block_on(log.close()).unwrap();
        }
    }
}

#[test]
fn a_log_that_is_dropped_without_a_close_has_lost_nothing() {
    for records in [0, 1, 700, 40_000] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (wal, _) = Wal::open(&path, Options::new()).unwrap();
        let mut writer = wal.writer().unwrap();
        for _ in 0..records {
            writer.append([7; 100]).unwrap();
        }
        drop(writer);
        drop(wal);
        let (wal, report) = Wal::open(&path, Options::new()).unwrap();
        assert_eq!((report.records(), wal.next()), (records, Lsn(records + 1)));
    }
}

#[test]
fn many_threads_lose_and_reorder_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new().segment_bytes(64 << 10).buffer_bytes(16 << 10);
    let (wal, _) = Wal::open(folder.path().join("log"), options).unwrap();
    let threads: Vec<_> = (0..4_u8)
        .map(|thread| {
            let wal = wal.clone();
            std::thread::spawn(move || {
                let mut last = Lsn(0);
                for number in 0..500_u32 {
                    let mut record = vec![thread; 5 + (number as usize * 37) % 6000];
                    record[..4].copy_from_slice(&number.to_le_bytes());
                    let class = [Durability::Buffered, Durability::Written, Durability::Sync][number as usize % 3];
                    let lsn = wal.append(&record, class).unwrap();
                    assert!(lsn > last);
                    last = lsn;
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut next = [0_u32; 4];
    for item in wal.records(Lsn(1)) {
        let (_, record) = item.unwrap();
        let number = u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
        let thread = usize::from(record[4]);
        assert_eq!(number, next[thread], "each thread's records are in order");
        next[thread] += 1;
    }
    assert_eq!(next, [500; 4]);
    wal.close().unwrap();
}

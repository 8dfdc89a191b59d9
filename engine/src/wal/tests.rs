//! What a store of several logs asks of each of them: an open in two halves, room that stays, floors and segments at its word.
#![expect(clippy::disallowed_methods, reason = "tests look at the files themselves")]

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    io,
    path::Path,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;

use super::{examine::Examined, producer::Lack, *};
use crate::{
    env::{OsEnv, block_on},
    faulty::{Faulty, Syncs},
};

/// Of a log that is not open: one that is renames and removes its spares meanwhile.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(path) else { return BTreeMap::new() };
    let entries = entries.map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn options() -> Options {
    Options::new().segment_bytes(64 << 10).buffer_bytes(16 << 10)
}

async fn examine(path: &Path, options: Options) -> (Result<Examined<OsEnv>, OpenError>, Vec<(Lsn, Bytes)>) {
    let mut delivered = Vec::new();
    let mut deliver = |lsn, record: InWindow<'_>| delivered.push((lsn, record.shared()));
    let examined = Wal::examine(OsEnv, path, options, &mut deliver).await;
    (examined, delivered)
}

fn expect_records(delivered: &[(Lsn, Bytes)], expected: &[&str]) {
    let expected: Vec<_> = (1..).map(Lsn).zip(expected.iter().map(|text| Bytes::from(text.to_string()))).collect();
    assert_eq!(delivered, expected);
}

// --- Two halves

#[test]
fn what_is_examined_and_dropped_is_as_it_was_and_free() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    block_on(async {
        let (absent, delivered) = examine(&path, options()).await;
        assert_eq!(absent.unwrap().report().tail, TailKind::New);
        assert!(delivered.is_empty() && !path.exists(), "the directory isn't made");

        let (wal, _) = Wal::open(OsEnv, &path, options()).await.unwrap();
        wal.append("one", Durability::Sync).await.unwrap();
        wal.append_batch(&["two", "three"], Durability::Sync).await.unwrap();
        drop(wal);

        let before = files(&path);
        for _ in 0..2 {
            let (examined, delivered) = examine(&path, options()).await;
            let examined = examined.unwrap();
            expect_records(&delivered, &["one", "two", "three"]);
            assert_eq!((examined.report().first, examined.report().next), (Lsn(1), Lsn(4)));
            let (second, _) = examine(&path, options()).await;
            assert!(matches!(second, Err(OpenError::Locked { .. })), "the first one holds the lock");
            drop(examined);
        }
        assert_eq!(files(&path), before);

        let (refused, _) = examine(&path, options().recovery(RecoveryMode::Absolute)).await;
        assert!(matches!(refused, Err(OpenError::Unclean { .. })));
        assert_eq!(files(&path), before);
        // Neither the refused one nor the dropped ones hold it.
        let (wal, _) = Wal::open(OsEnv, &path, options()).await.unwrap();
        wal.close().await.unwrap();
    });
}

#[test]
fn the_second_half_opens_what_the_first_one_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    block_on(async {
        let (examined, _) = examine(&path, options()).await;
        let (wal, report) = examined.unwrap().open().await.unwrap();
        assert_eq!((report.tail, report.generation), (TailKind::New, 1));
        wal.append("one", Durability::Written).await.unwrap();
        wal.append("two", Durability::Written).await.unwrap();
        drop(wal);

        let (examined, delivered) = examine(&path, options()).await;
        let examined = examined.unwrap();
        expect_records(&delivered, &["one", "two"]);
        let found = examined.report().clone();
        let (wal, report) = examined.open().await.unwrap();
        assert_eq!(report, found);
        assert_eq!((wal.next(), wal.durable()), (Lsn(3), Lsn(3)));
        // What was delivered is also what was carried over.
        assert_eq!(wal.read(Lsn(2)).await.unwrap(), "two");
        wal.close().await.unwrap();

        let (examined, _) = examine(&folder.path().join("none"), options().create(false)).await;
        let refused = examined.unwrap().open().await;
        assert!(matches!(refused, Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound));
        assert!(!folder.path().join("none").exists());
    });
}

#[test]
fn released_records_are_told_by_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    block_on(async {
        let (wal, _) = Wal::open(OsEnv, &path, options()).await.unwrap();
        for text in ["one", "two", "three"] {
            wal.append(text, Durability::Sync).await.unwrap();
        }
        wal.truncate_front(Lsn(3)).await.unwrap();
        wal.close().await.unwrap();
        let (examined, delivered) = examine(&path, options()).await;
        let first = examined.unwrap().report().first;
        assert_eq!(first, Lsn(3));
        let counted: Vec<_> = delivered.into_iter().filter(|(lsn, _)| *lsn >= first).collect();
        assert_eq!(counted, [(Lsn(3), Bytes::from("three"))]);
    });
}

// --- Room

async fn opened(folder: &Path, options: Options) -> (Wal<OsEnv>, Writer<OsEnv>) {
    let (wal, _) = Wal::open(OsEnv, &folder.join("log"), options).await.unwrap();
    let writer = wal.writer().unwrap();
    (wal, writer)
}

/// Asks for room until it is there.
async fn make_room<E: Env>(wal: &Wal<E>, writer: &mut Writer<E>, bytes: u64) -> Result<(), AppendError> {
    while let Err(lack) = writer.room(bytes) {
        wal.make_way(lack).await?;
    }
    Ok(())
}

async fn all<E: Env>(wal: &Wal<E>) -> Vec<Bytes> {
    let (mut records, mut found) = (wal.records(Lsn(1)), Vec::new());
    while let Some((_, record)) = records.next().await.unwrap() {
        found.push(record);
    }
    found
}

#[test]
fn room_that_is_held_is_not_taken_by_marks_and_syncs_of_others() {
    for shared in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        block_on(async {
            let (wal, mut writer) = opened(folder.path(), options().idle(Duration::from_millis(1))).await;
            let mut appended = 0;
            // Rooms of changing lengths come upon every place in a page and in a segment.
            for round in 0..300_u64 {
                let record = vec![round as u8; (round * 37 % 900) as usize];
                make_room(&wal, &mut writer, record.len() as u64).await.unwrap();
                let wakes = Arc::new(Wakes::default());
                // What was shared and not written waits for the writer; it is not taken from under the room.
                let synced = poll(pin!(wal.sync()), &wakes).map(Result::unwrap);
                assert!(shared || synced.is_ready());
                let floor = poll(pin!(wal.truncate_front(Lsn(1))), &wakes);
                assert!(matches!(floor, Poll::Pending | Poll::Ready(Err(TruncateError::Busy))));
                assert!(shared || floor.is_ready());
                let marked = wal.log.mark(crate::codec::Mark::Synced, None).await.unwrap();
                assert!(!marked, "the writer has the page");
                assert_eq!(writer.append_ready(&record), Lsn(round + 1));
                appended += 1;
                match (shared, round % 3) {
                    (true, 0) => {
                        writer.share();
                        wal.wait_durable(Lsn(appended)).await.unwrap();
                    }
                    (true, _) => writer.share(),
                    (false, 0) => writer.publish(),
                    (false, _) => {}
                }
            }
            writer.publish();
            wal.sync().await.unwrap();
            assert_eq!((wal.durable(), all(&wal).await.len()), (Lsn(appended + 1), appended as usize));
            assert!(wal.stats().rotations > 1, "segments ended on the way");
            drop(writer);
            wal.close().await.unwrap();
        });
    }
}

#[test]
fn room_that_nobody_uses_costs_nothing() {
    for large in [Large::Appendix, Large::Split] {
        let folder = tempfile::tempdir().unwrap();
        block_on(async {
            let (wal, mut writer) = opened(folder.path(), options().large(large)).await;
            let mut expected = Vec::new();
            for round in 0..40_usize {
                // Larger than a page; then small ones come instead, or one that fits, or nothing.
                make_room(&wal, &mut writer, 20_000).await.unwrap();
                let lengths: &[usize] = [&[] as &[usize], &[10, 5000, 20], &[20_000], &[7000, 20_000, 1]][round % 4];
                for length in lengths {
                    let record = vec![round as u8; *length];
                    make_room(&wal, &mut writer, *length as u64).await.unwrap();
                    writer.append_ready(&record);
                    expected.push(Bytes::from(record));
                }
                match round % 3 {
                    0 => writer.publish(),
                    1 => writer.share(),
                    _ => assert!(writer.sync().await.unwrap() > Lsn(expected.len() as u64)),
                }
            }
            writer.sync().await.unwrap();
            assert_eq!(all(&wal).await, expected);
            drop(writer);
            wal.close().await.unwrap();
            let (wal, _) = Wal::open(OsEnv, &folder.path().join("log"), options()).await.unwrap();
            assert_eq!(all(&wal).await, expected);
        });
    }
}

#[test]
fn what_can_never_have_room_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let machine = Faulty::new();
        let (wal, _) =
            Wal::open(machine.clone(), &folder.path().join("log"), options().max_record_bytes(100)).await.unwrap();
        let mut writer = wal.writer().unwrap();
        let lack = writer.room(101).unwrap_err();
        assert!(matches!(wal.make_way(lack).await, Err(AppendError::TooLarge { bytes: 101, limit: 100 })));
        writer.room(100).unwrap();
        writer.append_ready(&[1; 100]);
        machine.let_syncs(Syncs::Fail);
        assert!(writer.sync().await.is_err());
        let lack = writer.room(100).unwrap_err();
        assert!(matches!(wal.make_way(lack).await, Err(AppendError::Poisoned(_))));
        assert!(matches!(writer.rotate().unwrap_err(), Lack::Never(AppendError::Poisoned(_))));
        assert!(matches!(writer.floor(Lsn(1)).unwrap_err(), Lack::Never(AppendError::Poisoned(_))));
    });
}

#[test]
fn room_waits_for_pages_and_segments() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let (wal, mut writer) = opened(folder.path(), options()).await;
        let (mut pages, mut spares) = (0, 0);
        for round in 0..200_u64 {
            while let Err(lack) = writer.room(3000) {
                match lack {
                    Lack::Pages(_) => pages += 1,
                    Lack::Spare(_) => spares += 1,
                    Lack::Never(error) => panic!("{error}"),
                }
                wal.make_way(lack).await.unwrap();
            }
            assert_eq!(writer.append_ready(&[7; 3000]), Lsn(round + 1));
        }
        assert!(pages > 10 && spares > 0, "{pages} {spares}");
        assert_eq!(wal.stats().waits, pages + spares);
        writer.sync().await.unwrap();
        assert_eq!(all(&wal).await.len(), 200);
    });
}

// --- What is handed over can be waited for, whatever the writer does next

#[derive(Default)]
struct Wakes(AtomicU64);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>, wakes: &Arc<Wakes>) -> Poll<T> {
    future.poll(&mut Context::from_waker(&Waker::from(wakes.clone())))
}

/// One waiter syncs, the next one waits for its turn, and the writer goes on in the page that this one needs.
#[test]
fn a_waiter_whose_page_the_writer_took_back_goes_on() {
    for shared in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let machine = Faulty::new();
        let wakes = Arc::new(Wakes::default());
        let (wal, _) = block_on(Wal::open(machine.clone(), &folder.path().join("log"), options())).unwrap();
        let mut writer = wal.writer().unwrap();
        let append = |writer: &mut Writer<Faulty>, hand_over| {
            block_on(make_room(&wal, writer, 10)).unwrap();
            writer.append_ready(&[1; 10]);
            match (hand_over, shared) {
                (true, true) => writer.share(),
                (true, false) => writer.publish(),
                (false, _) => {}
            }
        };
        append(&mut writer, true);
        machine.let_syncs(Syncs::Hang);
        let mut first = pin!(wal.sync());
        assert!(poll(first.as_mut(), &wakes).is_pending() && machine.hanging() == 1);
        append(&mut writer, true);
        let mut second = pin!(wal.sync());
        assert!(poll(second.as_mut(), &wakes).is_pending(), "it waits for the first one's sync");
        append(&mut writer, false);
        machine.let_syncs(Syncs::Work);
        assert!(poll(first.as_mut(), &wakes).is_ready());
        if shared {
            assert!(poll(second.as_mut(), &wakes).is_ready(), "a promised page stays within reach");
        } else {
            assert!(poll(second.as_mut(), &wakes).is_pending(), "its record is in the writer's page again");
            let before = wakes.0.load(Ordering::SeqCst);
            writer.publish();
            assert!(wakes.0.load(Ordering::SeqCst) > before, "it is woken");
            assert!(poll(second.as_mut(), &wakes).is_ready());
        }
    }
}

#[test]
fn a_shared_page_takes_many_records_and_goes_out_in_one_write() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let (wal, mut writer) = opened(folder.path(), options()).await;
        let before = wal.stats().writes;
        for _ in 0..50 {
            make_room(&wal, &mut writer, 10).await.unwrap();
            writer.append_ready(&[1; 10]);
            writer.share();
        }
        assert_eq!(writer.next(), Lsn(51));
        wal.wait_durable(Lsn(50)).await.unwrap();
        assert_eq!(wal.stats().writes, before + 1);
        drop(writer);
        wal.close().await.unwrap();
    });
}

// --- Floors, segments

#[test]
fn a_floor_counts_once_its_mark_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    block_on(async {
        let (wal, mut writer) = opened(folder.path(), options()).await;
        for round in 0..300_u64 {
            make_room(&wal, &mut writer, 1000).await.unwrap();
            writer.append_ready(&[round as u8; 1000]);
        }
        writer.sync().await.unwrap();
        let kept = wal.log.lock().members.len();
        let floor = writer.floor(Lsn(250)).unwrap();
        assert_eq!(wal.first(), Lsn(1), "accepted is not durable");
        // The writer goes on meanwhile.
        writer.room(10).unwrap();
        writer.append_ready(&[1; 10]);
        assert_eq!(wal.finish_floor(floor).await.unwrap(), Lsn(250));
        assert_eq!(wal.first(), Lsn(250));
        // A floor goes no further than what is durable.
        let durable = wal.durable();
        writer.room(10).unwrap();
        writer.append_ready(&[2; 10]);
        let floor = writer.floor(Lsn(1000)).unwrap();
        assert!(writer.next() > durable);
        assert_eq!(wal.finish_floor(floor).await.unwrap(), durable);
        // Nor back.
        let floor = writer.floor(Lsn(5)).unwrap();
        assert_eq!(wal.finish_floor(floor).await.unwrap(), durable);
        assert!(wal.log.lock().members.len() < kept, "segments came back");
        drop(writer);
        wal.close().await.unwrap();
        let (wal, report) = Wal::open(OsEnv, &path, options()).await.unwrap();
        assert_eq!((report.first, report.next), (durable, Lsn(303)));
        assert_eq!(wal.read(Lsn(302)).await.unwrap(), [2; 10].as_slice());
    });
}

#[test]
fn the_next_record_begins_a_segment_once_the_writer_rotates() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let (wal, mut writer) = opened(folder.path(), options()).await;
        for turn in 1..=3_u64 {
            make_room(&wal, &mut writer, 10).await.unwrap();
            let lsn = writer.append_ready(&[1; 10]);
            for _ in 0..2 {
                // The second time there is nothing to do.
                while let Err(lack) = writer.rotate() {
                    wal.make_way(lack).await.unwrap();
                }
            }
            assert_eq!(wal.stats().rotations, turn);
            writer.publish();
            wal.sync().await.unwrap();
            // All before the rotation can go, segments and all.
            let floor = writer.floor(Lsn(lsn.0 + 1)).unwrap();
            wal.finish_floor(floor).await.unwrap();
            assert_eq!(wal.log.lock().members.len(), 1, "the segment in front is not needed");
            assert!(wal.log.lock().tail_length >= 64 << 10, "the new one has its full length");
        }
        assert_eq!(writer.next(), Lsn(4));
        drop(writer);
        wal.close().await.unwrap();
        let (_, report) = Wal::open(OsEnv, &folder.path().join("log"), options()).await.unwrap();
        assert_eq!((report.first, report.next), (Lsn(4), Lsn(4)));
    });
}

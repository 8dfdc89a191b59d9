//! The storage of pages: the suite, and what only it promises.

use std::{collections::BTreeSet, ops::Bound, path::Path};

use super::*;
use crate::{
    env::{OsEnv, block_on},
    txn::{
        check::{CheckReport, Wrong},
        pages::{
            node::Stored,
            root::{ROOT_BYTES, ROOT_FILES},
        },
        storage::{
            Blocks, Cursor, Direction, Lookup, Memory, RootCopy, State,
            suite::{self, Batch, Sorted, point, table},
        },
    },
};

#[test]
fn small_pages_keep_what_a_storage_promises() {
    suite::run::<Pages<OsEnv, 480>>();
}

#[test]
fn large_pages_keep_what_a_storage_promises() {
    suite::run::<Pages<OsEnv>>();
}

type Small = Pages<OsEnv, 480>;

/// Rows `from..to`, each with a value of so many bytes, or removed.
fn rows(range: std::ops::Range<u32>, bytes: Option<usize>) -> Batch {
    range.map(|key| (format!("key {key:06}").into_bytes(), bytes.map(|bytes| vec![key as u8; bytes]))).collect()
}

fn catalog(tables: u32) -> Catalog {
    let mut catalog = Catalog::new();
    (1..=tables).for_each(|id| drop(catalog.create(table(id)).expect("a new name")));
    catalog
}

async fn publish(storage: &Small, number: u64, changes: &[(u32, Batch)], catalog: Catalog) -> PagesState<OsEnv, 480> {
    let changes = changes.iter().map(|(table, batch)| (TableId(*table), batch.clone())).collect();
    suite::publish(storage, number, &changes, &catalog).await
}

async fn count(state: &PagesState<OsEnv, 480>) -> usize {
    let mut cursor = state.cursor(TableId(1), (Bound::Unbounded, Bound::Unbounded), Direction::Forward);
    let mut count = 0;
    while cursor.advance().await.expect("nothing is damaged") {
        count += 1;
    }
    count
}

/// Every page that a state needs.
async fn needed(state: &PagesState<OsEnv, 480>) -> BTreeSet<PageNo> {
    let RootState { trees, catalog_tree, space, directory_pages, reader, .. } = &*state.0;
    let mut found: BTreeSet<PageNo> = directory_pages.iter().copied().collect();
    for (number, chunk) in space {
        found.insert(PageNo { chunk: *number, index: 0 });
        assert!(found.insert(chunk.bitmap.page), "two bitmaps at one place");
    }
    let mut rest: Vec<ChildRef> = trees.iter().map(|(_, root)| *root).chain(*catalog_tree).collect();
    while let Some(child) = rest.pop() {
        assert!(found.insert(child.page), "{child:?} is needed twice");
        let node = reader.load(&child).await.expect("nothing is damaged");
        for index in 0..node.len() {
            if !node.is_leaf() {
                rest.push(node.child(index));
            } else if let Stored::Run(run) = node.value(index) {
                for next in 0..run_pages::<480>(run.bytes) as u32 {
                    assert!(found.insert(PageNo { index: run.page.index + next, ..run.page }));
                }
            }
        }
    }
    found
}

fn in_use(state: &PagesState<OsEnv, 480>) -> BTreeSet<PageNo> {
    let pages = |(number, chunk): (&u32, &space::ChunkSpace)| {
        let (number, live) = (*number, Arc::clone(&chunk.live));
        (0..chunk.pages).filter(move |index| live.has(*index)).map(move |index| PageNo { chunk: number, index })
    };
    state.0.space.iter().flat_map(pages).collect()
}

#[test]
fn what_is_in_use_is_what_is_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = suite::create::<Small>(folder.path()).await;
        let steps = [
            (vec![(1, rows(0..400, Some(30))), (2, rows(0..50, Some(700)))], catalog(2)),
            (vec![(1, rows(100..140, None)), (2, rows(10..20, Some(5)))], catalog(2)),
            (vec![(1, rows(0..400, None))], catalog(2)),
            // A table whose rows come and that isn't in the catalog: nothing of it stays.
            (vec![(1, rows(0..300, Some(40))), (3, rows(0..300, Some(900)))], catalog(2)),
            (vec![], catalog(1)),
            (vec![], catalog(1)),
            (vec![(1, rows(0..300, None))], Catalog::new()),
        ];
        for ((changes, catalog), number) in steps.into_iter().zip(1..) {
            let state = publish(&storage, number, &changes, catalog).await;
            assert_eq!(in_use(&state), needed(&state).await, "at {number}");
            storage.released(&state).await;
        }
        // Merged twice in one draft: what the first one wrote and the second one replaced is free.
        let mut draft = storage.draft(point(9)).expect("there is no other");
        for batch in [rows(0..300, Some(40)), rows(200..500, Some(300)), rows(0..100, None)] {
            storage.merge(&mut draft, TableId(1), &mut Sorted::new(&batch)).await.expect("the disk works");
        }
        let state = storage.publish(draft, Arc::new(catalog(1))).await.expect("the disk works");
        assert_eq!((in_use(&state), count(&state).await), (needed(&state).await, 400));
    });
}

fn bytes_of(path: &Path) -> u64 {
    suite::files(path).values().map(|bytes| bytes.len() as u64).sum()
}

#[test]
fn space_is_written_again_once_it_is_released_and_nobody_reads_it() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = suite::create::<Small>(folder.path()).await;
        let mut number = 0;
        let mut again = async |release: bool| {
            for _ in 0..8 {
                number += 1;
                let changes = [(1, rows(0..300, Some(20 + number as usize % 2)))];
                let state = publish(&storage, number, &changes, catalog(1)).await;
                if release {
                    storage.released(&state).await;
                }
            }
            bytes_of(folder.path())
        };
        let first = again(true).await;
        assert_eq!(again(true).await, first, "it doesn't grow");
        let unreleased = again(false).await;
        assert!(unreleased > 3 * first, "{first}, then {unreleased}");
        let held = storage.newest();
        let rows = count(&held).await;
        again(true).await;
        assert_eq!(count(&held).await, rows, "it reads what it did");
        drop(held);
        let after = again(true).await;
        assert_eq!(again(true).await, after, "nor now");
    });
}

#[test]
fn nothing_that_the_root_in_use_needs_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = suite::create::<Small>(folder.path()).await;
        for number in 1..12 {
            let (before, base) = (suite::files(folder.path()), storage.newest());
            let batch = rows(number * 20..number * 20 + 60, Some(30 * number as usize));
            let state = publish(&storage, number.into(), &[(1, batch)], catalog(1)).await;
            let after = suite::files(folder.path());
            let copy = file_of(base.0.meta.sequence);
            assert_eq!(before.get(copy), after.get(copy), "the copy in use");
            for PageNo { chunk, index } in in_use(&base) {
                let (name, at) = (chunk::name_of(chunk), index as usize * 512);
                assert_eq!(before[&name][at..at + 512], after[&name][at..at + 512], "page {index}");
            }
            drop(base);
            storage.released(&state).await;
        }
    });
}

#[test]
fn chunk_files_without_pages_go_once_that_is_released() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = suite::create::<Small>(folder.path()).await;
        let full = publish(&storage, 1, &[(1, rows(0..4000, Some(80)))], catalog(1)).await;
        assert!(full.0.space.len() > 4, "{} chunks", full.0.space.len());
        storage.released(&full).await;
        let empty = publish(&storage, 2, &[], Catalog::new()).await;
        assert!(empty.0.space.len() <= 1, "{:?}", empty.0.space.keys());
        assert!(bytes_of(folder.path()) > 300_000, "they are there still");
        assert_eq!(count(&full).await, 4000, "and are read");
        storage.released(&empty).await;
        assert_eq!(count(&full).await, 4000, "still");
        assert!(bytes_of(folder.path()) < 100_000, "{:?}", suite::files(folder.path()).keys());
        // What an abandoned draft has made goes, too.
        let mut draft = storage.draft(point(3)).expect("there is no other");
        let batch = rows(0..4000, Some(80));
        storage.merge(&mut draft, TableId(1), &mut Sorted::new(&batch)).await.expect("the disk works");
        drop(draft);
        storage.released(&storage.newest()).await;
        assert!(bytes_of(folder.path()) < 200_000);
    });
}

#[test]
fn what_no_root_needs_is_taken_away_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = suite::create::<Small>(folder.path()).await;
        let state = publish(&storage, 1, &[(1, rows(0..60, Some(30)))], catalog(1)).await;
        storage.released(&state).await;
        let good = suite::files(folder.path());
        // A draft that grows a file and makes another one, and is left.
        let mut draft = storage.draft(point(2)).expect("there is no other");
        let batch = rows(0..2000, Some(90));
        storage.merge(&mut draft, TableId(1), &mut Sorted::new(&batch)).await.expect("the disk works");
        prepare(&storage.0.dir, b"a root that was not finished").await.expect("the disk works");
        std::mem::forget(draft);
        let longer = |files: &BTreeMap<String, Vec<u8>>| {
            files.len() > good.len() + 1 && files["chunk-00000001.pages"].len() > good["chunk-00000001.pages"].len()
        };
        assert!(longer(&suite::files(folder.path())));
        let looked = Small::load(suite::examine::<Small>(folder.path()).await).await.expect("nothing is damaged");
        assert!(longer(&suite::files(folder.path())), "a look changes nothing");
        looked.establish(0).await.expect("the disk works");
        let lengths = |files: BTreeMap<String, Vec<u8>>| -> Vec<(String, usize)> {
            files.into_iter().map(|(name, bytes)| (name, bytes.len())).collect()
        };
        assert_eq!(lengths(suite::files(folder.path())), lengths(good));
    });
}

#[test]
fn a_draft_that_a_merge_has_failed_in_is_not_published() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = suite::create::<Small>(folder.path()).await;
        let first = publish(&storage, 1, &[(1, rows(0..60, Some(30)))], catalog(1)).await;
        let mut draft = storage.draft(point(2)).expect("there is no other");
        // A bitmap page can't tell of so many pages.
        let large = Batch::from([(b"key".to_vec(), Some(vec![1; 2 << 20]))]);
        let failed = storage.merge(&mut draft, TableId(1), &mut Sorted::new(&large)).await;
        assert!(matches!(failed, Err(StorageError::Io { kind: std::io::ErrorKind::FileTooLarge, .. })));
        let published = storage.publish(draft, Arc::new(catalog(1))).await;
        assert!(matches!(published, Err(PublishError::Not(StorageError::Broken))));
        assert_eq!(storage.newest().meta(), first.meta());
        // What fits does, in a chunk file of its own, and goes again.
        let large = Batch::from([(b"key".to_vec(), Some(vec![1; 1 << 20]))]);
        let state = publish(&storage, 2, &[(1, large)], catalog(1)).await;
        let value = state.get(TableId(1), b"key").await.expect("nothing is damaged").expect("it is there");
        assert_eq!((value.len(), in_use(&state)), (1 << 20, needed(&state).await));
        let state = publish(&storage, 3, &[(1, Batch::from([(b"key".to_vec(), None)]))], catalog(1)).await;
        storage.released(&state).await;
        assert!(bytes_of(folder.path()) < 100_000, "{}", bytes_of(folder.path()));
    });
}

/// What a look-up said; `None` if nothing.
fn told(found: Lookup) -> Option<Option<Vec<u8>>> {
    match found {
        Lookup::Found(value) => Some(Some(value.to_vec())),
        Lookup::Absent => Some(None),
        Lookup::NotInMemory => None,
    }
}

#[test]
fn memory_stays_within_its_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = suite::create::<Small>(folder.path()).await;
        publish(&storage, 1, &[(1, rows(0..5000, Some(60)))], catalog(1)).await;
        drop(storage);
        let memory = Memory::new(40 << 10);
        let options = StorageOptions { blocks: Blocks::new(&memory), ..suite::options() };
        let dir = OsEnv.dir(folder.path(), false).await.expect("it is there");
        let storage = Small::load(Small::examine(&OsEnv, &dir, &options).await.expect("the disk works")).await;
        let storage = storage.expect("nothing is damaged");
        let state = storage.newest();
        let mut missed = 0;
        for key in (0..5000).step_by(3) {
            let key = format!("key {:06}", key * 7 % 5000);
            missed += u32::from(matches!(state.get_now(TableId(1), key.as_bytes()), Lookup::NotInMemory));
            assert!(state.get(TableId(1), key.as_bytes()).await.expect("nothing is damaged").is_some());
            assert!(
                matches!(state.get_now(TableId(1), key.as_bytes()), Lookup::Found(_)),
                "what was just read is there"
            );
            assert!(memory.used() <= 40 << 10, "{} bytes", memory.used());
        }
        assert!(missed > 500, "{missed} had to be read");
        // Of many in one call those are found that are in memory, and nothing is said of the others.
        let keys: Vec<_> = (0..200).map(|key| format!("key {:06}", key * 25)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
        let alone: Vec<_> = keys.iter().map(|key| state.get_now(TableId(1), key)).map(told).collect();
        let mut together = Vec::new();
        state.get_many_now(TableId(1), &keys, &mut together);
        let together: Vec<_> = together.into_iter().map(told).collect();
        assert_eq!(together, alone);
        assert!(
            together.contains(&None) && together.iter().any(Option::is_some),
            "some are in memory, and some are not"
        );
        drop((state, storage));
        assert_eq!(memory.used(), 0, "all is given back");
    });
}

#[test]
fn readers_that_miss_the_same_page_read_it_once_and_survive_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        publish(&suite::create::<Small>(folder.path()).await, 1, &[(1, rows(0..9, Some(9)))], catalog(1)).await;
        let storage = suite::open::<Small>(folder.path()).await;
        let state = storage.newest();
        let get = || Box::pin(state.get(TableId(1), b"key 000003"));
        let values = futures_of(vec![get(), get(), get()]).await;
        assert!(values.iter().all(|value| value.as_ref().is_ok_and(Option::is_some)));
    });
}

/// All of them, polled in turn.
async fn futures_of<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match std::pin::Pin::new(future).poll(context) {
            std::task::Poll::Ready(output) => {
                done.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

/// Opens and reads everything; the first error.
async fn read_all(path: &Path) -> Result<usize, StorageError> {
    let dir = OsEnv.dir(path, false).await.expect("it is there");
    let storage = Small::load(Small::examine(&OsEnv, &dir, &suite::options()).await?).await?;
    let state = storage.newest();
    let mut cursor = state.cursor(TableId(1), (Bound::Unbounded, Bound::Unbounded), Direction::Forward);
    let mut count = 0;
    while cursor.advance().await? {
        count += 1;
    }
    Ok(count)
}

#[test]
fn damage_of_any_page_is_found_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = suite::create::<Small>(folder.path()).await;
        let state = publish(&storage, 1, &[(1, rows(0..60, Some(200)))], catalog(1)).await;
        let used = in_use(&state);
        drop((state, storage));
        let good = suite::files(folder.path());
        let (name, bytes) = good.iter().find(|(name, _)| name.starts_with("chunk")).expect("there is one");
        let write = async |bytes: &[u8]| {
            let dir = OsEnv.dir(folder.path(), false).await.expect("it is there");
            let file = dir.open(name, OpenMode::Write).await.expect("it is there");
            write_all_at(&file, bytes, 0).await.expect("the disk works");
            file.set_len(bytes.len() as u64).await.expect("the disk works");
        };
        for PageNo { index, .. } in used {
            let at = index as usize * 512 + 20;
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            write(&damaged).await;
            match read_all(folder.path()).await {
                Err(StorageError::Corrupt { file, offset, .. }) => {
                    assert_eq!(&file, name);
                    assert!(offset / 512 <= u64::from(index) + 3, "{offset} for page {index}");
                }
                Err(StorageError::OtherStore { .. }) => assert_eq!(index, 0),
                other => panic!("page {index}: {other:?}"),
            }
        }
        write(&bytes[..bytes.len() - 1]).await;
        assert!(matches!(read_all(folder.path()).await, Err(StorageError::Corrupt { .. })), "a file that is too short");
        write(bytes).await;
        assert_eq!(read_all(folder.path()).await.expect("it is as it was"), 60);
        let other: Result<Pages<OsEnv>, _> = Pages::load(suite::examine::<Pages<OsEnv>>(folder.path()).await).await;
        assert!(matches!(other, Err(StorageError::PageBytes { store: 512, ours: 8192 })));
    });
}

/// What a check reports of a folder.
async fn checked(path: &Path) -> CheckReport {
    let mut report = CheckReport::default();
    suite::examine::<Small>(path).await.check::<480>(&mut report).await;
    report
}

/// Writes a file anew, whatever it had.
async fn overwrite(path: &Path, name: &str, bytes: &[u8]) {
    let dir = OsEnv.dir(path, false).await.expect("it is there");
    let file = dir.open(name, OpenMode::Write).await.expect("it is there");
    write_all_at(&file, bytes, 0).await.expect("the disk works");
    file.set_len(bytes.len() as u64).await.expect("the disk works");
}

#[test]
fn a_check_finds_every_byte_of_every_page_in_use_and_of_headers() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = suite::create::<Small>(folder.path()).await;
        let mut large = rows(0..40, Some(60));
        large.extend(rows(50..52, Some(700)));
        publish(&storage, 1, &[(1, large), (2, rows(0..9, Some(9)))], catalog(2)).await;
        let state = publish(&storage, 2, &[(1, rows(3..6, None))], catalog(2)).await;
        let used = in_use(&state);
        drop((state, storage));
        let report = checked(folder.path()).await;
        assert!(report.is_clean() && report.leftovers.is_empty(), "{report:?}");
        assert_eq!(report.rows, 37 + 2 + 9);
        assert!(report.pages + 1 == used.len() as u64, "all but the header: {} of {}", report.pages, used.len());
        let good = suite::files(folder.path());
        let (name, bytes) = good.iter().find(|(name, _)| name.starts_with("chunk")).expect("there is one");
        let mut behind = 0;
        for PageNo { index, .. } in used {
            let page = index as usize * 512;
            for at in page..page + 512 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at % 8);
                overwrite(folder.path(), name, &damaged).await;
                let report = checked(folder.path()).await;
                assert!(!report.is_sound(), "byte {at} of page {index}");
                let finding = &report.findings[0];
                assert_eq!(&finding.file, name);
                behind += u32::from(finding.what == Wrong::Remainder);
                // (Of a value the first of its pages is named.)
                let first = finding.offset / 512;
                assert!(first <= u64::from(index) && first + 2 > u64::from(index), "{finding} for byte {at}");
            }
        }
        assert!(behind > 472, "also what means nothing is zero: {behind}");
        overwrite(folder.path(), name, bytes).await;
        for name in ROOT_FILES {
            for at in 0..ROOT_BYTES {
                let mut damaged = good[name].clone();
                damaged[at] ^= 1 << (at % 8);
                overwrite(folder.path(), name, &damaged).await;
                let examined = suite::examine::<Small>(folder.path()).await;
                let copy = examined.roots.copies.iter().find(|(file, _)| *file == name).expect("it is listed");
                assert!(matches!(copy.1, RootCopy::Unreadable { .. }), "byte {at} of {name}");
            }
            overwrite(folder.path(), name, &good[name]).await;
        }
    });
}

#[test]
fn a_check_reports_all_that_is_wrong_and_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = suite::create::<Small>(folder.path()).await;
        let changes = [(1, rows(0..200, Some(60))), (2, rows(0..200, Some(60)))];
        let state = publish(&storage, 1, &changes, catalog(2)).await;
        let leaves: Vec<PageNo> = {
            let RootState { trees, reader, .. } = &*state.0;
            let mut leaves = Vec::new();
            for (_, root) in trees {
                let node = reader.load(root).await.expect("nothing is damaged");
                leaves.push(node.child(1).page);
            }
            leaves
        };
        drop((state, storage));
        let good = suite::files(folder.path());
        let (name, bytes) = good.iter().find(|(name, _)| name.starts_with("chunk")).expect("there is one");
        let mut damaged = bytes.clone();
        damaged[39] ^= 1;
        for leaf in &leaves {
            damaged[leaf.index as usize * 512 + 300] ^= 1;
        }
        overwrite(folder.path(), name, &damaged).await;
        let report = checked(folder.path()).await;
        let found: Vec<(u64, Wrong)> =
            report.findings.into_iter().map(|finding| (finding.offset, finding.what)).collect();
        let page = |page: &PageNo| (u64::from(page.index) * 512, Wrong::Page(node::Flaw::Checksum));
        let header = (chunk::CHUNK_HEADER_BYTES as u64 - 4, Wrong::Header("crc can't be this".to_owned()));
        assert_eq!(found, [header, page(&leaves[0]), page(&leaves[1])]);
        assert!(report.rows > 150, "the others are read: {}", report.rows);
        // A file that isn't there, one that is too short, one that nobody needs.
        overwrite(folder.path(), name, bytes).await;
        let dir = OsEnv.dir(folder.path(), false).await.expect("it is there");
        dir.open("chunk-00000009.pages", OpenMode::CreateNew).await.expect("the disk works");
        assert_eq!(checked(folder.path()).await.leftovers, ["chunk-00000009.pages"]);
        overwrite(folder.path(), name, &bytes[..bytes.len() - 512]).await;
        let wrongs: Vec<_> = checked(folder.path()).await.findings.into_iter().map(|finding| finding.what).collect();
        assert!(wrongs.contains(&Wrong::Short) || wrongs.contains(&Wrong::Beyond), "{wrongs:?}");
        dir.rename(name, "elsewhere").await.expect("the disk works");
        let wrongs: Vec<_> = checked(folder.path()).await.findings.into_iter().map(|finding| finding.what).collect();
        assert_eq!(wrongs, [Wrong::Missing]);
    });
}

/// A bitmap that is wrong though every page is whole: a defect, which only the whole walk finds.
#[test]
fn a_check_holds_bitmaps_against_what_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    block_on(async {
        let storage = suite::create::<Small>(folder.path()).await;
        let mut draft = storage.draft(point(1)).expect("there is no other");
        let lost = draft.lose(2);
        let batch = rows(0..60, Some(60));
        storage.merge(&mut draft, TableId(1), &mut Sorted::new(&batch)).await.expect("the disk works");
        storage.publish(draft, Arc::new(catalog(1))).await.expect("the disk works");
        let report = checked(folder.path()).await;
        let found: Vec<_> = report.findings.iter().map(|finding| (finding.offset, finding.what.clone())).collect();
        assert_eq!(found, [(u64::from(lost.index) * 512, Wrong::Lost(2))]);
    });
}

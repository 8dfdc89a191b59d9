use bytes::Bytes;

use super::*;

struct Bench {
    disk: Disk,
    dir: DirId,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(DiskOptions::default())
    }

    fn with(options: DiskOptions) -> Bench {
        let mut disk = Disk::new(options);
        let dir = disk.make_dir(Path::new("/d"));
        Bench { disk, dir }
    }

    fn open(&mut self, name: &str, mode: OpenMode) -> FileId {
        match self.disk.run(Op::Open { dir: self.dir, name: OsStr::new(name).into(), mode }) {
            Ok(Done::File(file)) => file,
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, file: FileId, offset: u64, data: &[u8]) -> io::Result<u64> {
        match self.disk.run(Op::Write { file, offset, data: Bytes::copy_from_slice(data) })? {
            Done::Count(count) => Ok(count),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn reads_return_what_was_written_over_pages_and_gaps() {
    let mut bench = Bench::new();
    let file = bench.open("a", OpenMode::CreateNew);
    let (mut model, mut prng) = (Vec::new(), Prng::new(1));
    for step in 0..300_u64 {
        let (offset, length) = (prng.below(20_000) as usize, prng.below(9000) as usize);
        if prng.chance(1, 5) {
            bench.disk.run(Op::SetLen { file, len: offset as u64 }).unwrap();
            model.resize(offset, 0);
        } else {
            let data = vec![step as u8; length];
            bench.write(file, offset as u64, &data).unwrap();
            if length > 0 {
                model.resize(model.len().max(offset + length), 0);
                model[offset..offset + length].copy_from_slice(&data);
            }
        }
        if prng.chance(1, 4) {
            let op = if prng.chance(1, 2) { Op::SyncAll { file } } else { Op::SyncData { file } };
            bench.disk.run(op).unwrap();
        }
        assert!(bench.disk.read_file(bench.dir, "a").unwrap() == model, "step {step}");
    }
    // What a sync of everything promises is everything.
    bench.disk.run(Op::SyncAll { file }).unwrap();
    bench.disk.run(Op::SyncDir { dir: bench.dir }).unwrap();
    assert!(bench.disk.pessimal().read_file(bench.dir, "a").unwrap() == model);
}

/// The names in a directory with what each file holds.
fn held(disk: &mut Disk, dir: DirId) -> Vec<(String, Vec<u8>)> {
    let Ok(Done::Entries(entries)) = disk.run(Op::List { dir }) else { panic!("it lists") };
    let read = |name: &OsStr| disk.read_file(dir, name).unwrap();
    entries.iter().map(|entry| (entry.name.to_string_lossy().into_owned(), read(&entry.name))).collect()
}

fn shown(image: &Image, dir: DirId) -> Vec<(String, Vec<u8>)> {
    let read = |name: &str, length: u64| {
        let file = image.open(dir, name).unwrap();
        let mut bytes = vec![1; length as usize + 1];
        let held = file.read(0, &mut bytes);
        assert_eq!((held as u64, file.len()), (length, length), "as listed");
        bytes.truncate(held);
        bytes
    };
    let entries = image.list(dir).into_iter().map(|entry| (entry.name.into_string().unwrap(), entry.len));
    entries.map(|(name, length)| (name.clone(), read(&name, length))).collect()
}

#[test]
fn an_image_shows_what_the_process_sees_or_what_is_durable_and_stays_as_it_is() {
    let mut prng = Prng::new(2);
    let name = |prng: &mut Prng| -> Name { OsStr::new(*prng.pick(&["a", "b", "c", "d"])).into() };
    for _ in 0..20 {
        let mut bench = Bench::new();
        let dir = bench.dir;
        for step in 0..150_u64 {
            let mode = if prng.chance(1, 2) { OpenMode::CreateNew } else { OpenMode::Write };
            let opened = bench.disk.run(Op::Open { dir, name: name(&mut prng), mode });
            let op = match (opened, prng.below(8)) {
                (Ok(Done::File(file)), 0..3) => {
                    let data = vec![step as u8 | 1; prng.below(9000) as usize];
                    Op::Write { file, offset: prng.below(9000), data: data.into() }
                }
                (Ok(Done::File(file)), 3) => Op::SetLen { file, len: prng.below(12_000) },
                (Ok(Done::File(file)), 4) => Op::SyncAll { file },
                (Ok(Done::File(file)), _) => Op::SyncData { file },
                (_, 0) => Op::Remove { dir, name: name(&mut prng) },
                (_, 1..3) => Op::Rename { dir, from: name(&mut prng), to: name(&mut prng) },
                _ => Op::SyncDir { dir },
            };
            let (live, durable) = (bench.disk.image(), bench.disk.durable_image());
            let before = (held(&mut bench.disk.fork(), dir), held(&mut bench.disk.pessimal(), dir));
            // Whatever comes of it.
            let _ = bench.disk.run(op);
            assert!((shown(&live, dir), shown(&durable, dir)) == before, "step {step}");
        }
    }
}

#[test]
fn a_full_disk_gives_a_short_write_and_then_the_error() {
    let mut bench = Bench::with(DiskOptions { capacity: 3 * PAGE_BYTES as u64, ..DiskOptions::default() });
    let file = bench.open("a", OpenMode::CreateNew);
    assert_eq!(bench.write(file, 100, &[1; 20_000]).unwrap(), 3 * PAGE_BYTES as u64 - 100);
    let full = bench.write(file, 3 * PAGE_BYTES as u64, b"x").unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(bench.write(file, 0, b"overwrites fit").unwrap(), 14);
    bench.disk.run(Op::SetLen { file, len: 10 }).unwrap();
    assert_eq!(bench.write(file, 8000, b"freed").unwrap(), 5);
}

#[test]
fn removed_files_give_their_space_back_when_the_removal_is_durable_and_nobody_reads() {
    let mut bench = Bench::with(DiskOptions { capacity: PAGE_BYTES as u64, ..DiskOptions::default() });
    let first = bench.open("a", OpenMode::CreateNew);
    bench.write(first, 0, b"x").unwrap();
    bench.disk.run(Op::Remove { dir: bench.dir, name: OsStr::new("a").into() }).unwrap();
    bench.disk.run(Op::SyncDir { dir: bench.dir }).unwrap();
    let second = bench.open("b", OpenMode::CreateNew);
    assert!(bench.write(second, 0, b"y").is_err(), "the open handle holds the space");
    bench.disk.close(first);
    bench.write(second, 0, b"y").unwrap();
}

#[test]
fn a_failed_sync_is_reported_once_to_each_handle_that_was_open() {
    let mut bench = Bench::new();
    let one = bench.open("a", OpenMode::CreateNew);
    let two = bench.open("a", OpenMode::Write);
    bench.write(one, 0, b"x").unwrap();
    let id = bench.disk.begin(Op::SyncData { file: one }, Inject::Fails { full: false, seed: 1 });
    assert!(bench.disk.complete(id, &mut []).is_err());
    let three = bench.open("a", OpenMode::Write);
    let sync = |disk: &mut Disk, file| disk.run(Op::SyncData { file }).is_ok();
    assert!(sync(&mut bench.disk, one), "it was told");
    assert!(!sync(&mut bench.disk, two), "told now");
    assert!(sync(&mut bench.disk, two), "once");
    assert!(sync(&mut bench.disk, three), "opened later");
}

#[test]
fn eviction_shows_what_a_failed_sync_left_on_the_disk() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut bench = Bench::new();
        let file = bench.open("a", OpenMode::CreateNew);
        bench.write(file, 0, b"old").unwrap();
        bench.disk.run(Op::SyncAll { file }).unwrap();
        assert!(!bench.disk.evict(file), "nothing to tell");
        bench.write(file, 0, b"new").unwrap();
        let id = bench.disk.begin(Op::SyncData { file }, Inject::Fails { full: false, seed });
        bench.disk.complete(id, &mut []).unwrap_err();
        assert_eq!(bench.disk.read_file(bench.dir, "a").unwrap(), b"new", "the cache keeps the new bytes");
        bench.disk.evict(file);
        seen.insert(bench.disk.read_file(bench.dir, "a").unwrap());
    }
    assert_eq!(seen, [b"old".to_vec(), b"new".to_vec()].into());
}

#[test]
fn a_shared_page_is_copied_before_it_changes() {
    let mut bench = Bench::new();
    let file = bench.open("a", OpenMode::CreateNew);
    bench.write(file, 0, b"before").unwrap();
    let image = bench.disk.fork();
    bench.write(file, 0, b"after!").unwrap();
    assert_eq!(image.read_file(bench.dir, "a").unwrap(), b"before");
    assert_eq!(bench.disk.read_file(bench.dir, "a").unwrap(), b"after!");
}

#[test]
fn only_keeps_the_named_files_and_dir_keeps_the_names() {
    let cut = |names: &[&str]| {
        let mut bench = Bench::new();
        for name in ["a", "b"] {
            let file = bench.open(name, OpenMode::CreateNew);
            bench.disk.run(Op::SyncDir { dir: bench.dir }).unwrap();
            bench.write(file, 0, b"x").unwrap();
        }
        bench.open("c", OpenMode::CreateNew);
        let keep = Keep::Only(names.iter().filter_map(|name| name.parse().ok()).collect());
        bench.disk.power_cut(&keep, &mut Prng::new(1));
        bench.disk.files(bench.dir).map(|(name, len)| format!("{}={len}", name.display())).collect::<Vec<_>>()
    };
    assert_eq!(cut(&["a"]), ["a=1", "b=0"]);
    assert_eq!(cut(&["b", "dir"]), ["a=0", "b=1", "c=0"]);
    assert_eq!(cut(&[]), ["a=0", "b=0"]);
}

/// Each sector is written once after the last sync, so that a survival is the newest content or nothing, which the text can
/// say.
#[test]
fn what_a_drawn_cut_kept_can_be_said_and_cut_again() {
    let mut kept_some = 0;
    for seed in 0..200 {
        let mut bench = Bench::new();
        let old = bench.open("old", OpenMode::CreateNew);
        bench.write(old, 0, &[1; 9000]).unwrap();
        bench.disk.run(Op::SyncAll { file: old }).unwrap();
        bench.disk.run(Op::SyncDir { dir: bench.dir }).unwrap();
        bench.write(old, 700, &[2; 6000]).unwrap();
        bench.write(old, 8192, &[3; 3000]).unwrap();
        let new = bench.open("new.tmp", OpenMode::CreateNew);
        bench.write(new, 0, &[4; 5000]).unwrap();
        let (from, to) = (OsStr::new("new.tmp").into(), OsStr::new("new").into());
        bench.disk.run(Op::Rename { dir: bench.dir, from, to }).unwrap();
        let pending = bench.disk.fork();
        bench.disk.power_cut(&Keep::Draw, &mut Prng::new(seed));
        let keep = pending.kept(&bench.disk);
        kept_some += u64::from(!matches!(keep, Keep::None | Keep::All));
        let keep: Keep = keep.to_string().parse().unwrap();
        let mut again = pending.fork();
        again.power_cut(&keep, &mut Prng::new(0));
        assert!(again.settled());
        // A name that was there between two changes is none of the states that can be said.
        let between = bench.disk.read_file(bench.dir, "new.tmp").is_some();
        assert!(between || again.same_content(bench.dir, &bench.disk, bench.dir), "seed {seed}: {keep}");
    }
    assert!(kept_some > 100, "{kept_some}");
}

#[test]
fn keep_all_is_the_live_view_and_nothing_is_pending_after_any_cut() {
    for (seed, keep) in (0..30).flat_map(|seed| [(seed, Keep::All), (seed, Keep::None), (seed, Keep::Draw)]) {
        let mut bench = Bench::new();
        let file = bench.open("a", OpenMode::CreateNew);
        bench.write(file, 300, &[7; 5000]).unwrap();
        bench.disk.run(Op::SetLen { file, len: 4000 }).unwrap();
        bench.write(file, 9000, &[8; 50]).unwrap();
        let live = bench.disk.fork();
        bench.disk.power_cut(&keep, &mut Prng::new(seed));
        assert!(bench.disk.settled());
        assert!(keep != Keep::All || bench.disk.same_content(bench.dir, &live, bench.dir));
        let again = bench.disk.fork();
        bench.disk.power_cut(&Keep::Draw, &mut Prng::new(seed + 1));
        assert!(bench.disk.same_content(bench.dir, &again, bench.dir));
    }
}

#[test]
fn damage_is_on_the_medium_and_in_the_cache() {
    let mut bench = Bench::new();
    bench.disk.write_foreign(bench.dir, "a", b"abc");
    assert!(bench.disk.flip(bench.dir, "a", 1, 0x20));
    assert!(!bench.disk.flip(bench.dir, "a", 3, 1));
    assert_eq!(bench.disk.damage(bench.dir, "a", 2, b"XYZ"), Some(1));
    assert_eq!(bench.disk.damage(bench.dir, "nobody", 0, b"X"), None);
    assert_eq!(bench.disk.read_file(bench.dir, "a").unwrap(), b"aBX");
    assert_eq!(bench.disk.pessimal().read_file(bench.dir, "a").unwrap(), b"aBX");
}

#[test]
fn a_dropped_file_stays_open_for_its_operation_in_flight() {
    let mut bench = Bench::new();
    let file = bench.open("a", OpenMode::CreateNew);
    let id = bench.disk.begin(Op::Write { file, offset: 0, data: Bytes::from_static(b"x") }, Inject::Nothing);
    bench.disk.close(file);
    bench.disk.complete(id, &mut []).unwrap();
    assert_eq!(bench.disk.read_file(bench.dir, "a").unwrap(), b"x");
    assert!(bench.disk.run(Op::Len { file }).is_err(), "closed now");
}

/// Not a benchmark: a bound that only a change of the shape (copying all content, say) breaks. `--nocapture` prints it.
#[test]
#[allow(clippy::disallowed_methods, reason = "measures the simulator, decides nothing in it")]
fn an_image_with_its_cut_costs_microseconds() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c", "d"] {
        let file = bench.open(name, OpenMode::CreateNew);
        bench.write(file, 0, &[1; 8192]).unwrap();
        bench.disk.run(Op::SyncAll { file }).unwrap();
        for step in 0..8 {
            bench.write(file, step * 100, &[2; 100]).unwrap();
        }
    }
    bench.disk.run(Op::SyncDir { dir: bench.dir }).unwrap();
    let (mut prng, rounds) = (Prng::new(1), 2000);
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        let mut image = bench.disk.fork();
        std::hint::black_box(image.pessimal());
        std::hint::black_box(image.power_cut(&Keep::Draw, &mut prng));
    }
    let each = start.elapsed() / rounds;
    println!("fork + pessimal + power cut of 32 KiB with 32 pending writes: {each:?}");
    assert!(each.as_micros() < 500, "{each:?}");
}

#[test]
fn an_image_knows_the_zeros_of_pages_that_hold_nothing_else() {
    const PAGE: u64 = PAGE_BYTES as u64;
    let mut bench = Bench::new();
    let file = bench.open("a", OpenMode::CreateNew);
    bench.write(file, 0, &[1; 100]).unwrap();
    bench.write(file, PAGE, &vec![0; 3 * PAGE_BYTES]).unwrap();
    bench.write(file, 6 * PAGE, &[1]).unwrap();
    bench.write(file, 9 * PAGE + 7, &[0; 9]).unwrap();
    let known = |bench: &Bench, offset| bench.disk.image().open(bench.dir, "a").unwrap().known_zeros(offset);
    assert_eq!(known(&bench, 0), 0);
    assert_eq!(known(&bench, PAGE - 1), 0, "it stands in a page with other bytes");
    assert_eq!((known(&bench, PAGE), known(&bench, 2 * PAGE + 5)), (5 * PAGE, 4 * PAGE - 5));
    assert_eq!(known(&bench, 6 * PAGE), 0);
    assert_eq!(known(&bench, 7 * PAGE), 2 * PAGE, "pages that nobody has written are known, one in part is not");
    assert_eq!(known(&bench, 20 * PAGE), 0, "nothing stands behind the end");
    bench.write(file, 3 * PAGE + 9, &[1]).unwrap();
    assert_eq!(known(&bench, PAGE), 2 * PAGE);
}

#[test]
fn images_share_all_until_what_they_show_changes() {
    let mut bench = Bench::new();
    let file = bench.open("a", OpenMode::CreateNew);
    bench.write(file, 0, &[1; 5000]).unwrap();
    bench.disk.run(Op::SyncAll { file }).unwrap();
    bench.disk.run(Op::SyncDir { dir: bench.dir }).unwrap();
    let mut last = bench.disk.durable_image();
    let mut same = |bench: &Bench| {
        let image = bench.disk.durable_image();
        let same = image.shares_all(&last);
        last = image;
        same
    };
    assert!(same(&bench));
    bench.write(file, 5000, &[2; 10]).unwrap();
    assert!(same(&bench), "what is pending is not durable");
    bench.disk.run(Op::SyncData { file }).unwrap();
    assert!(!same(&bench), "other bytes");
    bench.disk.run(Op::SetLen { file, len: 9000 }).unwrap();
    bench.disk.run(Op::SyncAll { file }).unwrap();
    assert!(!same(&bench), "another length");
    bench.open("b", OpenMode::CreateNew);
    assert!(same(&bench));
    bench.disk.run(Op::SyncDir { dir: bench.dir }).unwrap();
    assert!(!same(&bench), "another name");
    assert!(same(&bench));
}

//! Litmus tests of the `posix` profile: for each small program, the crash states that are reached over many seeds are
//! exactly the legal ones, written down by hand. Nothing else is reached (no false alarms), and all of them are (no
//! blind spots).
//!
//! A state is the directory as text: `name:content` for each file, sorted. One character stands for one sector with that
//! byte in all of it, `.` for a sector of zeros, `?` for anything else; a file shorter than a sector is shown as it is.

use std::{collections::BTreeSet, ffi::OsStr, path::Path};

use bytes::Bytes;
use engine::env::OpenMode;
use sim::{
    disk::{DirId, Disk, DiskOptions, Done, FileId, Inject, Keep, Op, OpId},
    prng::Prng,
};

const SEEDS: u64 = 4000;
const SECTOR: u64 = 512;

/// A disk under a program, in words short enough to read a program as a line.
struct Bench {
    disk: Disk,
    dir: DirId,
    sector_bytes: u64,
    /// What a failing sync draws its details from.
    seed: u64,
}

impl Bench {
    fn new(sector_bytes: u64, seed: u64) -> Bench {
        let mut disk = Disk::new(DiskOptions { sector_bytes: sector_bytes as u32, ..DiskOptions::default() });
        let dir = disk.make_dir(Path::new("/d"));
        Bench { disk, dir, sector_bytes, seed }
    }

    /// A durable file with one sector per character.
    fn durable(&mut self, name: &str, sectors: &str) -> FileId {
        let content = self.sectors(sectors);
        self.disk.write_foreign(self.dir, name, &content);
        self.open(name, OpenMode::Write)
    }

    /// A durable file with just these bytes.
    fn durable_bytes(&mut self, name: &str, bytes: &str) -> FileId {
        self.disk.write_foreign(self.dir, name, bytes.as_bytes());
        self.open(name, OpenMode::Write)
    }

    fn create(&mut self, name: &str) -> FileId {
        self.open(name, OpenMode::CreateNew)
    }

    fn open(&mut self, name: &str, mode: OpenMode) -> FileId {
        match self.disk.run(Op::Open { dir: self.dir, name: OsStr::new(name).into(), mode }) {
            Ok(Done::File(file)) => file,
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, file: FileId, sector: u64, sectors: &str) {
        let op = self.writing(file, sector * self.sector_bytes, sectors);
        self.disk.run(op).unwrap();
    }

    fn write_bytes(&mut self, file: FileId, offset: u64, bytes: &str) {
        let data = Bytes::copy_from_slice(bytes.as_bytes());
        self.disk.run(Op::Write { file, offset, data }).unwrap();
    }

    fn writing(&self, file: FileId, offset: u64, sectors: &str) -> Op {
        Op::Write { file, offset, data: self.sectors(sectors).into() }
    }

    fn sectors(&self, sectors: &str) -> Vec<u8> {
        sectors.bytes().flat_map(|byte| vec![byte; self.sector_bytes as usize]).collect()
    }

    fn begin(&mut self, op: Op) -> OpId {
        self.disk.begin(op, Inject::Nothing)
    }

    fn end(&mut self, op: OpId) {
        self.disk.complete(op, &mut []).unwrap();
    }

    fn sync(&mut self, file: FileId) {
        self.disk.run(Op::SyncAll { file }).unwrap();
    }

    fn sync_data(&mut self, file: FileId) {
        self.disk.run(Op::SyncData { file }).unwrap();
    }

    fn fail(&mut self, op: Op) {
        let id = self.disk.begin(op, Inject::Fails { full: false, seed: self.seed });
        self.disk.complete(id, &mut []).unwrap_err();
    }

    fn lie(&mut self, op: Op) {
        let id = self.disk.begin(op, Inject::Lies);
        self.disk.complete(id, &mut []).unwrap();
    }

    fn sync_dir(&mut self) {
        self.disk.run(Op::SyncDir { dir: self.dir }).unwrap();
    }

    fn rename(&mut self, from: &str, to: &str) {
        let (from, to) = (OsStr::new(from).into(), OsStr::new(to).into());
        self.disk.run(Op::Rename { dir: self.dir, from, to }).unwrap();
    }

    fn remove(&mut self, name: &str) {
        self.disk.run(Op::Remove { dir: self.dir, name: OsStr::new(name).into() }).unwrap();
    }

    fn set_len(&mut self, file: FileId, sectors: u64) {
        self.disk.run(Op::SetLen { file, len: sectors * self.sector_bytes }).unwrap();
    }
}

fn state(disk: &Disk, dir: DirId, sector_bytes: u64) -> String {
    let names: Vec<_> = disk.files(dir).map(|(name, _)| name.clone()).collect();
    let files = names.iter().map(|name| {
        let bytes = disk.read_file(dir, name).unwrap();
        let content: String = if bytes.len() < SECTOR as usize {
            String::from_utf8(bytes).unwrap().replace('\0', ".")
        } else {
            bytes.chunks(sector_bytes as usize).map(sector).collect()
        };
        format!("{}:{content}", name.display())
    });
    files.collect::<Vec<_>>().join(" ")
}

fn sector(bytes: &[u8]) -> char {
    match bytes[0] {
        first if bytes.iter().any(|&byte| byte != first) => '?',
        0 => '.',
        byte => char::from(byte),
    }
}

#[derive(Clone, Copy)]
enum Crash {
    PowerCut,
    Kill,
}

/// Runs `program` and a crash under many seeds and compares the states reached with the `legal` ones.
#[track_caller]
fn check(sector_bytes: u64, crash: Crash, program: impl Fn(&mut Bench), legal: &[&str]) {
    let legal: BTreeSet<String> = legal.iter().map(|state| (*state).to_owned()).collect();
    let mut reached = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut bench = Bench::new(sector_bytes, seed);
        program(&mut bench);
        let mut prng = Prng::new(seed).fork("crash");
        match crash {
            Crash::PowerCut => {
                for image in [bench.disk.pessimal(), all(&bench.disk)] {
                    let state = state(&image, bench.dir, sector_bytes);
                    assert!(legal.contains(&state), "an end of the range is not legal: {state}");
                }
                bench.disk.power_cut(&Keep::Draw, &mut prng);
            }
            Crash::Kill => bench.disk.kill(&mut prng),
        }
        reached.insert(state(&bench.disk, bench.dir, sector_bytes));
    }
    let illegal: Vec<_> = reached.difference(&legal).collect();
    let unreached: Vec<_> = legal.difference(&reached).collect();
    assert!(illegal.is_empty() && unreached.is_empty(), "illegal: {illegal:?}; legal but never reached: {unreached:?}");
}

fn all(disk: &Disk) -> Disk {
    let mut image = disk.fork();
    image.power_cut(&Keep::All, &mut Prng::new(0));
    image
}

#[track_caller]
fn power_cut(program: impl Fn(&mut Bench), legal: &[&str]) {
    check(SECTOR, Crash::PowerCut, program, legal);
}

// --- data

#[test]
fn an_unsynced_overwrite_may_vanish_per_sector() {
    power_cut(
        |b| {
            let a = b.durable("a", "xx");
            b.write(a, 0, "AB");
        },
        &["a:xx", "a:Ax", "a:xB", "a:AB"],
    );
}

#[test]
fn a_large_sector_lands_whole() {
    check(
        4096,
        Crash::PowerCut,
        |b| {
            let a = b.durable("a", "xx");
            b.write(a, 0, "AB");
        },
        &["a:xx", "a:Ax", "a:xB", "a:AB"],
    );
}

#[test]
fn two_unsynced_overwrites_have_no_order() {
    power_cut(
        |b| {
            let a = b.durable("a", "xx");
            b.write(a, 0, "A");
            b.write(a, 1, "B");
        },
        &["a:xx", "a:Ax", "a:xB", "a:AB"],
    );
}

#[test]
fn writes_to_two_files_have_no_order() {
    power_cut(
        |b| {
            let (one, two) = (b.durable("a", "x"), b.durable("b", "y"));
            b.write(one, 0, "A");
            b.write(two, 0, "B");
        },
        &["a:x b:y", "a:A b:y", "a:x b:B", "a:A b:B"],
    );
}

#[test]
fn a_sector_written_once_is_not_torn() {
    power_cut(
        |b| {
            let a = b.durable_bytes("a", "ab");
            b.write_bytes(a, 0, "CD");
        },
        &["a:ab", "a:CD"],
    );
}

#[test]
fn a_sector_written_twice_may_land_as_any_mix_of_the_pending_versions() {
    power_cut(
        |b| {
            let a = b.durable_bytes("a", "ab");
            b.write_bytes(a, 0, "CD");
            b.write_bytes(a, 0, "EF");
        },
        &["a:ab", "a:CD", "a:CF", "a:ED", "a:EF"],
    );
}

#[test]
fn a_synced_write_survives() {
    power_cut(
        |b| {
            let a = b.durable("a", "x");
            b.write(a, 0, "AB");
            b.sync_data(a);
        },
        &["a:AB"],
    );
}

// --- lengths

#[test]
fn an_appended_length_is_independent_of_the_data() {
    power_cut(
        |b| {
            let a = b.durable("a", "");
            b.write(a, 0, "A");
            b.write(a, 1, "B");
        },
        &["a:", "a:A", "a:.", "a:AB", "a:.B", "a:A.", "a:.."],
    );
}

#[test]
fn a_length_without_data_may_show_bytes_of_a_removed_file() {
    power_cut(
        |b| {
            b.durable("s", "S");
            b.disk.kill(&mut Prng::new(0)); // closes it
            b.remove("s");
            b.sync_dir();
            let a = b.create("a");
            b.sync_dir();
            b.write(a, 0, "A");
        },
        &["a:", "a:A", "a:.", "a:S"],
    );
}

#[test]
fn an_allocated_page_has_no_stale_bytes() {
    power_cut(
        |b| {
            b.durable("s", "SSSSSSSS");
            b.disk.kill(&mut Prng::new(0));
            b.remove("s");
            b.sync_dir();
            let a = b.durable("a", "x");
            b.write(a, 1, "A");
        },
        &["a:x", "a:x.", "a:xA"],
    );
}

#[test]
fn a_page_sync_covers_the_data_and_not_the_length() {
    power_cut(
        |b| {
            let a = b.durable("a", "");
            b.write(a, 0, "A");
            b.disk.run(Op::SyncPages { file: a }).unwrap();
        },
        &["a:", "a:A"],
    );
}

#[test]
fn a_truncation_may_vanish_and_may_leave_zeros_under_the_old_length() {
    power_cut(
        |b| {
            let a = b.durable("a", "AB");
            b.set_len(a, 1);
        },
        &["a:AB", "a:A.", "a:A"],
    );
}

#[test]
fn bytes_that_were_cut_do_not_come_back_under_a_later_length() {
    power_cut(
        |b| {
            let a = b.durable("a", "AB");
            b.set_len(a, 1);
            b.set_len(a, 3);
        },
        &["a:AB", "a:A.", "a:A", "a:A.."],
    );
}

#[test]
fn a_write_after_a_truncation_lands_by_itself() {
    power_cut(
        |b| {
            let a = b.durable("a", "AB");
            b.set_len(a, 1);
            b.write(a, 2, "C");
        },
        &["a:AB", "a:A.", "a:A", "a:A..", "a:A.C"],
    );
}

#[test]
fn data_written_over_a_page_that_was_cut_off_is_not_torn() {
    check(
        4096,
        Crash::PowerCut,
        |b| {
            let a = b.durable("a", "AB");
            b.set_len(a, 1);
            b.write(a, 1, "C");
        },
        &["a:AB", "a:A.", "a:AC", "a:A"],
    );
}

#[test]
fn a_data_sync_does_not_owe_a_shrink() {
    power_cut(
        |b| {
            let a = b.durable("a", "AB");
            b.set_len(a, 1);
            b.sync_data(a);
        },
        &["a:AB", "a:A.", "a:A"],
    );
}

#[test]
fn a_full_sync_covers_a_shrink() {
    power_cut(
        |b| {
            let a = b.durable("a", "AB");
            b.set_len(a, 1);
            b.sync(a);
        },
        &["a:A"],
    );
}

#[test]
fn a_data_sync_keeps_what_was_written_after_a_shrink() {
    // Length 0 would cut off what the sync promised.
    power_cut(
        |b| {
            let a = b.durable("a", "AB");
            b.set_len(a, 0);
            b.write(a, 0, "C");
            b.sync_data(a);
        },
        &["a:CB", "a:C.", "a:C"],
    );
}

// --- syncs in time

#[test]
fn a_sync_in_flight_promises_nothing() {
    power_cut(
        |b| {
            let a = b.durable("a", "xx");
            b.write(a, 0, "AB");
            b.begin(Op::SyncAll { file: a });
        },
        &["a:xx", "a:Ax", "a:xB", "a:AB"],
    );
}

#[test]
fn a_sync_does_not_cover_a_write_that_came_after_it_began() {
    power_cut(
        |b| {
            let a = b.durable("a", "xx");
            b.write(a, 0, "A");
            let sync = b.begin(Op::SyncAll { file: a });
            b.write(a, 1, "B");
            b.end(sync);
        },
        &["a:Ax", "a:AB"],
    );
}

#[test]
fn a_sector_written_during_a_sync_may_land_as_a_mix() {
    power_cut(
        |b| {
            let a = b.durable_bytes("a", "ab");
            b.write_bytes(a, 0, "CD");
            let sync = b.begin(Op::SyncAll { file: a });
            b.write_bytes(a, 0, "EF");
            b.end(sync);
        },
        &["a:CD", "a:CF", "a:ED", "a:EF"],
    );
}

#[test]
fn a_sector_written_after_a_sync_is_not_torn() {
    power_cut(
        |b| {
            let a = b.durable_bytes("a", "ab");
            b.write_bytes(a, 0, "CD");
            b.sync(a);
            b.write_bytes(a, 0, "EF");
        },
        &["a:CD", "a:EF"],
    );
}

#[test]
fn a_write_in_flight_may_have_happened() {
    power_cut(
        |b| {
            let a = b.durable("a", "xx");
            let write = b.writing(a, 0, "AB");
            b.begin(write);
        },
        &["a:xx", "a:Ax", "a:xB", "a:AB"],
    );
}

// --- failed and lying syncs

#[test]
fn a_failed_sync_may_have_written_each_sector() {
    power_cut(
        |b| {
            let a = b.durable("a", "xx");
            b.write(a, 0, "AB");
            b.fail(Op::SyncAll { file: a });
        },
        &["a:xx", "a:Ax", "a:xB", "a:AB"],
    );
}

#[test]
fn a_sync_after_a_failed_one_brings_nothing_back() {
    power_cut(
        |b| {
            let a = b.durable("a", "xx");
            b.write(a, 0, "A");
            b.fail(Op::SyncAll { file: a });
            b.write(a, 1, "B");
            b.sync(a);
            b.sync(a);
        },
        &["a:xB", "a:AB"],
    );
}

#[test]
fn a_write_after_a_failed_sync_is_pending_like_any_other() {
    power_cut(
        |b| {
            let a = b.durable("a", "xx");
            b.write(a, 0, "A");
            b.fail(Op::SyncAll { file: a });
            b.write(a, 1, "B");
        },
        &["a:xx", "a:Ax", "a:xB", "a:AB"],
    );
}

#[test]
fn a_rewrite_after_a_failed_sync_is_covered_by_the_next_one() {
    power_cut(
        |b| {
            let a = b.durable("a", "x");
            b.write(a, 0, "A");
            b.fail(Op::SyncAll { file: a });
            b.write(a, 0, "A");
            b.sync(a);
        },
        &["a:A"],
    );
}

#[test]
fn an_append_whose_sync_failed_may_leave_its_length_without_data() {
    power_cut(
        |b| {
            let a = b.durable("a", "");
            b.write(a, 0, "A");
            b.fail(Op::SyncAll { file: a });
            b.sync(a);
        },
        &["a:", "a:.", "a:A"],
    );
}

#[test]
fn a_failed_directory_sync_may_have_written_each_name_and_writes_no_other_later() {
    power_cut(
        |b| {
            b.create("a");
            b.create("b");
            b.fail(Op::SyncDir { dir: b.dir });
            b.sync_dir();
        },
        &["", "a:", "b:", "a: b:"],
    );
}

#[test]
fn a_lying_sync_promises_nothing() {
    power_cut(
        |b| {
            let a = b.durable("a", "x");
            b.write(a, 0, "A");
            b.lie(Op::SyncAll { file: a });
        },
        &["a:x", "a:A"],
    );
}

#[test]
fn an_honest_sync_after_a_lying_one_covers_both() {
    power_cut(
        |b| {
            let a = b.durable("a", "xx");
            b.write(a, 0, "A");
            b.lie(Op::SyncAll { file: a });
            b.write(a, 1, "B");
            b.sync(a);
        },
        &["a:AB"],
    );
}

// --- names

#[test]
fn an_unsynced_name_may_vanish() {
    power_cut(
        |b| {
            b.create("a");
            b.create("b");
        },
        &["", "a:", "b:", "a: b:"],
    );
}

#[test]
fn a_file_sync_does_not_cover_the_name() {
    power_cut(
        |b| {
            let a = b.create("a");
            b.write(a, 0, "A");
            b.sync(a);
        },
        &["", "a:A"],
    );
}

#[test]
fn a_directory_sync_covers_the_name_and_not_the_content() {
    power_cut(
        |b| {
            let a = b.create("a");
            b.write(a, 0, "A");
            b.sync_dir();
        },
        &["a:", "a:.", "a:A"],
    );
}

#[test]
fn a_directory_sync_does_not_cover_a_name_that_came_after_it_began() {
    power_cut(
        |b| {
            b.create("a");
            let sync = b.begin(Op::SyncDir { dir: b.dir });
            b.create("b");
            b.end(sync);
        },
        &["a:", "a: b:"],
    );
}

#[test]
fn a_rename_over_a_file_without_any_sync_may_leave_it_old_empty_zero_or_new() {
    power_cut(
        |b| {
            b.durable("M", "x");
            let t = b.create("t");
            b.write(t, 0, "N");
            b.rename("t", "M");
        },
        &["M:x", "M:x t:", "M:x t:.", "M:x t:N", "M:", "M:.", "M:N"],
    );
}

#[test]
fn a_rename_of_a_synced_file_is_atomic() {
    power_cut(
        |b| {
            b.durable("M", "x");
            let t = b.create("t");
            b.write(t, 0, "N");
            b.sync(t);
            b.rename("t", "M");
        },
        &["M:x", "M:x t:N", "M:N"],
    );
}

#[test]
fn a_rename_with_both_syncs_survives() {
    power_cut(
        |b| {
            b.durable("M", "x");
            let t = b.create("t");
            b.write(t, 0, "N");
            b.sync(t);
            b.rename("t", "M");
            b.sync_dir();
        },
        &["M:N"],
    );
}

#[test]
fn a_rename_by_itself_is_old_or_new() {
    power_cut(
        |b| {
            b.durable("a", "x");
            b.rename("a", "b");
        },
        &["a:x", "b:x"],
    );
}

#[test]
fn changes_of_one_name_keep_their_order() {
    power_cut(
        |b| {
            let a = b.create("a");
            b.write(a, 0, "1");
            b.sync(a);
            b.rename("a", "b");
            b.create("a");
        },
        &["", "a:1", "b:1", "a: b:1"],
    );
}

#[test]
fn an_unsynced_removal_may_be_undone() {
    power_cut(
        |b| {
            b.durable("a", "x");
            b.durable("b", "y");
            b.remove("a");
            b.remove("b");
        },
        &["a:x b:y", "a:x", "b:y", ""],
    );
}

// --- process kills

#[test]
fn a_kill_keeps_what_was_written() {
    check(
        SECTOR,
        Crash::Kill,
        |b| {
            let a = b.create("a");
            b.write(a, 0, "AB");
            b.create("b");
            b.remove("b");
        },
        &["a:AB"],
    );
}

#[test]
fn a_killed_write_leaves_a_prefix_that_ends_at_a_page_boundary() {
    check(
        4096,
        Crash::Kill,
        |b| {
            let a = b.durable("a", "xxx");
            let write = b.writing(a, 0, "ABC");
            b.begin(write);
        },
        &["a:xxx", "a:Axx", "a:ABx", "a:ABC"],
    );
}

#[test]
fn a_killed_write_within_one_page_is_all_or_nothing() {
    check(
        SECTOR,
        Crash::Kill,
        |b| {
            let a = b.durable("a", "xxxx");
            let write = b.writing(a, SECTOR, "ABC");
            b.begin(write);
        },
        &["a:xxxx", "a:xABC"],
    );
}

#[test]
fn a_killed_unaligned_write_splits_at_the_pages_of_the_file() {
    check(
        SECTOR,
        Crash::Kill,
        |b| {
            let a = b.durable("a", "xxxxxxxxx");
            let write = b.writing(a, 6 * SECTOR, "ABC");
            b.begin(write);
        },
        &["a:xxxxxxxxx", "a:xxxxxxABx", "a:xxxxxxABC"],
    );
}

#[test]
fn a_killed_rename_happened_or_not() {
    check(
        SECTOR,
        Crash::Kill,
        |b| {
            b.durable("a", "x");
            b.begin(Op::Rename { dir: b.dir, from: OsStr::new("a").into(), to: OsStr::new("b").into() });
        },
        &["a:x", "b:x"],
    );
}

#[test]
fn a_kill_makes_nothing_durable() {
    power_cut(
        |b| {
            let a = b.durable("a", "x");
            b.write(a, 0, "A");
            b.disk.kill(&mut Prng::new(0));
        },
        &["a:x", "a:A"],
    );
}

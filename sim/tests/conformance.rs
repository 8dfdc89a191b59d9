//! One suite for every machine: each claim of the contracts in `engine::env` that can be seen without a crash, as one
//! function over any [`Env`]. The simulated machine, its still form, and the real one pass the same claims, so what
//! is found on one means something on the other.

use std::{
    ffi::OsStr,
    io::{ErrorKind, IoSlice},
    path::Path,
    time::Duration,
};

use engine::env::{Dir, EntryKind, Env, File, OpenMode, OsEnv, block_on};
use madsim::runtime::Runtime;
use sim::{
    disk::{Disk, DiskOptions},
    env::{Machine, MachineOptions, SimEnv},
    prng::Prng,
};

/// One test per claim and machine.
macro_rules! conformance {
    ($($claim:ident)*) => {
        mod on_the_simulated_machine {
            $(#[test] fn $claim() {
                super::Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
                    let env = super::Machine::new(super::MachineOptions::default(), &super::Prng::new(1)).env();
                    super::$claim(super::case(env, super::Path::new("/case")).await).await;
                });
            })*
        }
        mod on_the_still_machine {
            $(#[test] fn $claim() {
                let env = super::SimEnv::still(super::Disk::new(super::DiskOptions::default()));
                super::block_on(async { super::$claim(super::case(env, super::Path::new("/case")).await).await });
            })*
        }
        mod on_the_real_machine {
            $(#[test] fn $claim() {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("case");
                super::block_on(async { super::$claim(super::case(super::OsEnv, &path).await).await });
            })*
        }
    };
}

conformance! {
    a_missing_directory_is_not_found_unless_it_is_to_be_created
    only_the_last_component_is_created
    a_file_is_not_a_directory
    creating_a_directory_that_exists_opens_it
    create_new_makes_an_empty_file_and_refuses_an_existing_one
    a_missing_file_is_not_found
    a_file_that_was_opened_for_reading_refuses_writes
    the_listing_is_sorted_and_has_lengths
    the_listing_tells_files_from_others
    the_lock_excludes_a_second_one_until_it_is_dropped
    the_lock_changes_no_byte
    a_read_at_or_past_the_end_returns_nothing
    a_read_makes_progress_until_the_end
    a_write_extends_the_file_and_zero_fills_the_gap
    an_overwrite_changes_only_its_range
    empty_reads_and_writes_do_nothing
    a_vectored_write_takes_a_prefix_of_its_buffers
    room_is_kept_without_a_change_of_length_or_content
    two_handles_see_one_file
    rename_moves_a_file
    rename_replaces_and_the_replaced_file_stays_readable
    remove_keeps_open_handles_readable
    a_removed_name_can_be_created_anew
    set_len_cuts
    set_len_extends_with_zeros_also_over_what_was_cut
    syncs_change_nothing_that_is_seen
    random_bytes_are_not_repeated
    the_wall_clock_is_after_2020
    the_monotonic_clock_goes_with_sleep
    a_yield_returns
}

/// A machine with an empty directory on it.
struct Case<'a, E: Env> {
    env: E,
    path: &'a Path,
    dir: E::Dir,
}

async fn case<E: Env>(env: E, path: &Path) -> Case<'_, E> {
    let dir = env.dir(path, true).await.unwrap();
    Case { env, path, dir }
}

impl<E: Env> Case<'_, E> {
    async fn create(&self, name: &str, content: &[u8]) -> <E::Dir as Dir>::File {
        let file = self.dir.open(name, OpenMode::CreateNew).await.unwrap();
        write(&file, content, 0).await;
        file
    }

    async fn content(&self, name: &str) -> Vec<u8> {
        content(&self.dir.open(name, OpenMode::Read).await.unwrap()).await
    }

    async fn names(&self) -> Vec<String> {
        self.dir.list().await.unwrap().into_iter().map(|entry| entry.name.into_string().unwrap()).collect()
    }
}

async fn write(file: &impl File, mut data: &[u8], mut offset: u64) {
    while !data.is_empty() {
        let count = file.write_at(data, offset).await.unwrap();
        assert!(0 < count && count <= data.len(), "a write takes at least one byte");
        (data, offset) = (&data[count..], offset + count as u64);
    }
}

async fn content(file: &impl File) -> Vec<u8> {
    let (mut all, mut buf) = (Vec::new(), [0; 1000]);
    loop {
        match file.read_at(&mut buf, all.len() as u64).await.unwrap() {
            0 => break,
            count => all.extend_from_slice(&buf[..count]),
        }
    }
    assert_eq!(file.len().await.unwrap(), all.len() as u64);
    all
}

#[track_caller]
fn kind<T>(result: std::io::Result<T>) -> ErrorKind {
    result.err().expect("an error was promised").kind()
}

// --- directories

async fn a_missing_directory_is_not_found_unless_it_is_to_be_created<E: Env>(case: Case<'_, E>) {
    let path = case.path.join("sub");
    assert_eq!(kind(case.env.dir(&path, false).await), ErrorKind::NotFound);
    assert!(case.env.dir(&path, true).await.is_ok());
    assert!(case.env.dir(&path, false).await.is_ok());
}

async fn only_the_last_component_is_created<E: Env>(case: Case<'_, E>) {
    assert_eq!(kind(case.env.dir(&case.path.join("one/two"), true).await), ErrorKind::NotFound);
    assert_eq!(case.names().await, [""; 0]);
}

async fn a_file_is_not_a_directory<E: Env>(case: Case<'_, E>) {
    case.create("file", b"x").await;
    assert_eq!(kind(case.env.dir(&case.path.join("file"), false).await), ErrorKind::NotADirectory);
}

async fn creating_a_directory_that_exists_opens_it<E: Env>(case: Case<'_, E>) {
    case.create("file", b"x").await;
    let again = case.env.dir(case.path, true).await.unwrap();
    assert_eq!(again.list().await.unwrap().len(), 1);
    assert_eq!(case.dir.clone().list().await.unwrap().len(), 1);
}

// --- names

async fn create_new_makes_an_empty_file_and_refuses_an_existing_one<E: Env>(case: Case<'_, E>) {
    let file = case.dir.open("a", OpenMode::CreateNew).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 0);
    write(&file, b"kept", 0).await;
    assert_eq!(kind(case.dir.open("a", OpenMode::CreateNew).await), ErrorKind::AlreadyExists);
    assert_eq!(case.content("a").await, b"kept");
}

async fn a_missing_file_is_not_found<E: Env>(case: Case<'_, E>) {
    assert_eq!(kind(case.dir.open("a", OpenMode::Read).await), ErrorKind::NotFound);
    assert_eq!(kind(case.dir.open("a", OpenMode::Write).await), ErrorKind::NotFound);
    assert_eq!(kind(case.dir.rename("a", "b").await), ErrorKind::NotFound);
    assert_eq!(kind(case.dir.remove("a").await), ErrorKind::NotFound);
    assert_eq!(case.names().await, [""; 0]);
}

async fn a_file_that_was_opened_for_reading_refuses_writes<E: Env>(case: Case<'_, E>) {
    case.create("a", b"kept").await;
    let file = case.dir.open("a", OpenMode::Read).await.unwrap();
    assert!(file.write_at(b"lost", 0).await.is_err());
    assert!(file.set_len(0).await.is_err());
    assert_eq!(content(&file).await, b"kept");
}

async fn the_listing_is_sorted_and_has_lengths<E: Env>(case: Case<'_, E>) {
    for (name, length) in [("b", 0), ("a-1", 3), ("B", 5000), ("a", 1)] {
        case.create(name, &vec![1; length]).await;
    }
    let entries = case.dir.list().await.unwrap();
    let found: Vec<_> = entries.iter().map(|entry| (entry.name.to_str().unwrap(), entry.len)).collect();
    assert_eq!(found, [("B", 5000), ("a", 1), ("a-1", 3), ("b", 0)]);
}

async fn the_listing_tells_files_from_others<E: Env>(case: Case<'_, E>) {
    case.create("file", b"x").await;
    case.env.dir(&case.path.join("folder"), true).await.unwrap();
    let entries = case.dir.list().await.unwrap();
    let found: Vec<_> = entries.iter().map(|entry| (entry.name.as_os_str(), entry.kind, entry.len)).collect();
    assert_eq!(found, [(OsStr::new("file"), EntryKind::File, 1), (OsStr::new("folder"), EntryKind::Other, 0)]);
}

async fn rename_moves_a_file<E: Env>(case: Case<'_, E>) {
    let file = case.create("a", b"moved").await;
    case.dir.rename("a", "b").await.unwrap();
    assert_eq!(case.names().await, ["b"]);
    assert_eq!(case.content("b").await, b"moved");
    write(&file, b"MOVED", 0).await;
    assert_eq!(case.content("b").await, b"MOVED", "the handle follows the file");
}

async fn rename_replaces_and_the_replaced_file_stays_readable<E: Env>(case: Case<'_, E>) {
    let old = case.create("a", b"old").await;
    case.create("t", b"new").await;
    case.dir.rename("t", "a").await.unwrap();
    assert_eq!(case.names().await, ["a"]);
    assert_eq!(case.content("a").await, b"new");
    assert_eq!(content(&old).await, b"old");
}

async fn remove_keeps_open_handles_readable<E: Env>(case: Case<'_, E>) {
    let file = case.create("a", b"here").await;
    case.dir.remove("a").await.unwrap();
    case.dir.sync().await.unwrap();
    assert_eq!(case.names().await, [""; 0]);
    assert_eq!(content(&file).await, b"here");
    write(&file, b"!", 4).await;
    assert_eq!(content(&file).await, b"here!");
}

async fn a_removed_name_can_be_created_anew<E: Env>(case: Case<'_, E>) {
    let old = case.create("a", b"old").await;
    case.dir.remove("a").await.unwrap();
    case.create("a", b"").await;
    assert_eq!(case.content("a").await, b"");
    assert_eq!(content(&old).await, b"old");
}

// --- the lock

async fn the_lock_excludes_a_second_one_until_it_is_dropped<E: Env>(case: Case<'_, E>) {
    let again = case.env.dir(case.path, false).await.unwrap();
    let lock = case.dir.lock().await.unwrap();
    assert_eq!(kind(case.dir.lock().await), ErrorKind::WouldBlock);
    assert_eq!(kind(again.lock().await), ErrorKind::WouldBlock);
    drop(lock);
    let lock = again.lock().await.expect("dropping releases it");
    assert_eq!(kind(case.dir.lock().await), ErrorKind::WouldBlock);
    drop(lock);
}

async fn the_lock_changes_no_byte<E: Env>(case: Case<'_, E>) {
    case.create("a", b"x").await;
    let lock = case.dir.lock().await.unwrap();
    assert_eq!(case.names().await, ["a"]);
    drop(lock);
    assert_eq!(case.names().await, ["a"]);
}

// --- content

async fn a_read_at_or_past_the_end_returns_nothing<E: Env>(case: Case<'_, E>) {
    let file = case.create("a", b"abc").await;
    let mut buf = [7; 4];
    assert_eq!(file.read_at(&mut buf, 3).await.unwrap(), 0);
    assert_eq!(file.read_at(&mut buf, 1 << 40).await.unwrap(), 0);
    assert_eq!(buf, [7; 4], "nothing was filled");
}

async fn a_read_makes_progress_until_the_end<E: Env>(case: Case<'_, E>) {
    let data: Vec<u8> = (0..10_000_u32).map(|index| (index % 251) as u8).collect();
    let file = case.create("a", &data).await;
    let mut buf = vec![0; 20_000];
    let mut done = 0;
    while done < data.len() {
        let count = file.read_at(&mut buf[done..], done as u64).await.unwrap();
        assert!(0 < count && done + count <= data.len());
        done += count;
    }
    assert_eq!(buf[..done], data);
    assert!(buf[done..].iter().all(|&byte| byte == 0), "nothing past the end was filled");
}

async fn a_write_extends_the_file_and_zero_fills_the_gap<E: Env>(case: Case<'_, E>) {
    let file = case.create("a", b"ab").await;
    write(&file, b"z", 9000).await;
    let mut expected = vec![0; 9001];
    expected[..2].copy_from_slice(b"ab");
    expected[9000] = b'z';
    assert_eq!(content(&file).await, expected);
}

async fn an_overwrite_changes_only_its_range<E: Env>(case: Case<'_, E>) {
    let file = case.create("a", &[1; 10_000]).await;
    write(&file, &[2; 4500], 3000).await;
    let expected: Vec<u8> = (0..10_000).map(|index| if (3000..7500).contains(&index) { 2 } else { 1 }).collect();
    assert_eq!(content(&file).await, expected);
}

async fn empty_reads_and_writes_do_nothing<E: Env>(case: Case<'_, E>) {
    let file = case.create("a", b"ab").await;
    assert_eq!(file.write_at(&[], 100).await.unwrap(), 0);
    assert_eq!(file.read_at(&mut [], 0).await.unwrap(), 0);
    assert_eq!(content(&file).await, b"ab");
}

async fn a_vectored_write_takes_a_prefix_of_its_buffers<E: Env>(case: Case<'_, E>) {
    let file = case.create("a", b"before").await;
    let (one, two, three) = ([1; 3000], [], [3; 5000]);
    let mut bufs = &mut [IoSlice::new(&one), IoSlice::new(&two), IoSlice::new(&three)][..];
    let mut done = 0;
    while !bufs.is_empty() {
        let count = file.write_vectored_at(bufs, 2 + done as u64).await.unwrap();
        assert!(count > 0, "a write takes at least one byte");
        done += count;
        IoSlice::advance_slices(&mut bufs, count);
    }
    assert_eq!(done, 8000);
    assert_eq!(content(&file).await, [b"be".as_slice(), &one, &three].concat());
    assert_eq!(file.write_vectored_at(&[IoSlice::new(&two)], 100).await.unwrap(), 0);
}

async fn room_is_kept_without_a_change_of_length_or_content<E: Env>(case: Case<'_, E>) {
    let file = case.create("a", b"abc").await;
    let kept = file.reserve(3, 1 << 20).await.unwrap();
    assert_eq!(content(&file).await, b"abc");
    write(&file, b"def", 3).await;
    if kept {
        file.set_len(6).await.unwrap();
    }
    assert_eq!(content(&file).await, b"abcdef");
}

async fn two_handles_see_one_file<E: Env>(case: Case<'_, E>) {
    let one = case.create("a", b"one").await;
    let two = case.dir.open("a", OpenMode::Write).await.unwrap();
    write(&two, b"two", 3).await;
    assert_eq!(content(&one).await, b"onetwo");
    one.set_len(1).await.unwrap();
    assert_eq!(content(&two).await, b"o");
}

async fn set_len_cuts<E: Env>(case: Case<'_, E>) {
    let file = case.create("a", &[1; 10_000]).await;
    file.set_len(5000).await.unwrap();
    assert_eq!(content(&file).await, [1; 5000]);
    file.set_len(0).await.unwrap();
    assert_eq!(content(&file).await, b"");
}

async fn set_len_extends_with_zeros_also_over_what_was_cut<E: Env>(case: Case<'_, E>) {
    let file = case.create("a", &[1; 10_000]).await;
    file.sync_all().await.unwrap();
    file.set_len(5).await.unwrap();
    file.set_len(9000).await.unwrap();
    let mut expected = vec![0; 9000];
    expected[..5].fill(1);
    assert_eq!(content(&file).await, expected);
}

async fn syncs_change_nothing_that_is_seen<E: Env>(case: Case<'_, E>) {
    let file = case.create("a", &[1; 5000]).await;
    file.sync_data().await.unwrap();
    file.set_len(4000).await.unwrap();
    file.sync_all().await.unwrap();
    write(&file, &[2; 10], 4000).await;
    file.sync_pages().await.unwrap();
    case.dir.sync().await.unwrap();
    let mut expected = vec![1; 4010];
    expected[4000..].fill(2);
    assert_eq!(content(&file).await, expected);
    assert_eq!(case.names().await, ["a"]);
}

// --- the rest of the machine

async fn random_bytes_are_not_repeated<E: Env>(case: Case<'_, E>) {
    let (mut one, mut two) = ([0; 32], [0; 32]);
    case.env.fill_random(&mut one);
    case.env.fill_random(&mut two);
    assert_ne!(one, two);
    assert_ne!(one, [0; 32]);
}

async fn the_wall_clock_is_after_2020<E: Env>(case: Case<'_, E>) {
    assert!(case.env.wall_ns() > 1_577_836_800_000_000_000);
}

async fn the_monotonic_clock_goes_with_sleep<E: Env>(case: Case<'_, E>) {
    let before = case.env.monotonic();
    case.env.sleep(Duration::from_millis(2)).await;
    let passed = case.env.monotonic() - before;
    // On a still machine nothing takes time.
    assert!(passed >= Duration::from_millis(2) || passed.is_zero());
}

async fn a_yield_returns<E: Env>(case: Case<'_, E>) {
    case.env.yield_now().await;
}

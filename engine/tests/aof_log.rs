//! The command log on the real disk: what is appended is loaded again, whatever ended the process before.

#![expect(clippy::disallowed_methods, reason = "the test looks at the files, and changes them")]

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use engine::{
    aof::{
        CommandLog, LogError, OpenError, Phase,
        load::Loaded,
        manifest::Manifest,
        options::{Fsync, Options},
        resp,
    },
    env::{Env, OsEnv, block_on},
    keyspace::Keyspace,
};
use proptest::prelude::*;

type Log = CommandLog<OsEnv>;

fn always() -> Options {
    Options { append_fsync: Fsync::Always, ..Options::default() }
}

async fn open(path: &Path, options: &Options) -> Result<(Log, Keyspace, Loaded), OpenError> {
    let mut keys = Keyspace::new();
    let (log, loaded) = CommandLog::open(OsEnv, path, options.clone(), &mut keys).await?;
    Ok((log, keys, loaded))
}

/// Executes a command and logs it.
async fn run(log: &Log, keys: &mut Keyspace, command: &[&str]) {
    let command: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
    if keys.execute(&command, 0).unwrap() && command[0] != b"SELECT" {
        log.append(keys.selected() as u32, &command).await.unwrap();
    }
}

fn directory(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_log_is_switched_off_and_on_and_the_old_one_goes() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let mut keys = Keyspace::new();
        let (log, _) = CommandLog::open(OsEnv, folder.path(), Options::default(), &mut keys).await.unwrap();
        log.append(0, &["SET", "logged", "1"]).await.unwrap();
        keys.load(&[b"SET", b"logged", b"1"]).unwrap();
        assert_eq!(log.phase(), Phase::On);
        log.clone().close().await.unwrap();
        assert_eq!(log.phase(), Phase::Off);
        // What happens while it is off is in memory only.
        keys.load(&[b"SET", b"meanwhile", b"2"]).unwrap();
        let enabled = CommandLog::enable(OsEnv, folder.path(), Options::default(), || keys.snapshot()).await;
        let (log, first) = enabled.unwrap();
        log.append(0, &["SET", "collected", "3"]).await.unwrap();
        log.sync().await.unwrap();
        assert_eq!(log.phase(), Phase::On);
        first.done().await.unwrap();
        log.close().await.unwrap();
        let listed = std::fs::read_dir(folder.path().join("appendonlydir")).unwrap();
        let mut files: Vec<_> = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let expected = ["appendonly.aof.2.base.aof", "appendonly.aof.2.incr.aof", "appendonly.aof.manifest"];
        assert_eq!(files, expected);
        let mut again = Keyspace::new();
        CommandLog::verify(OsEnv, folder.path(), Options::default(), &mut again).await.unwrap();
        keys.load(&[b"SET", b"collected", b"3"]).unwrap();
        assert_eq!(again.databases(), keys.databases());
    });
}

#[test]
fn what_is_logged_is_loaded_under_every_policy_and_size() {
    for policy in [Fsync::Always, Fsync::EverySecond, Fsync::No] {
        for (ring_page_bytes, split_large) in [(64 << 10, false), (16, false), (16, true), (1, true)] {
            let folder = tempfile::tempdir().unwrap();
            let options = Options { append_fsync: policy, ring_page_bytes, split_large, ..Options::default() };
            let mut expected = Keyspace::new();
            for life in 0..3 {
                block_on(async {
                    let (log, mut keys, loaded) = open(folder.path(), &options).await.unwrap();
                    assert_eq!(
                        (keys.databases(), loaded.failures),
                        (expected.databases(), 0),
                        "{policy:?} life {life}"
                    );
                    for round in 0..10 {
                        run(&log, &mut keys, &["INCR", "counter"]).await;
                        run(&log, &mut keys, &["SELECT", &(round % 3).to_string()]).await;
                        run(&log, &mut keys, &["RPUSH", "list", &"x".repeat(round * 7)]).await;
                        log.round().await.unwrap();
                    }
                    log.close().await.unwrap();
                    expected = keys;
                });
            }
        }
    }
}

#[test]
fn a_file_that_was_cut_anywhere_is_loaded_up_to_there_and_later_commands_survive() {
    let folder = tempfile::tempdir().unwrap();
    let (mut states, mut ends) = (Vec::new(), Vec::new());
    let increment = folder.path().join("appendonlydir/appendonly.aof.1.incr.aof");
    block_on(async {
        let (log, mut keys, _) = open(folder.path(), &always()).await.unwrap();
        for number in 0..3 {
            run(&log, &mut keys, &["APPEND", "text", &number.to_string()]).await;
            log.round().await.unwrap();
            states.push(keys.clone());
            ends.push(log.end().0);
            let unit: [&[&str]; 2] = [&["INCR", "a"], &["INCR", "b"]];
            for command in unit {
                keys.load(&command.iter().map(|word| word.as_bytes()).collect::<Vec<_>>()).unwrap();
            }
            log.append_unit(0, &unit).await.unwrap();
            log.round().await.unwrap();
            states.push(keys.clone());
            ends.push(log.end().0);
        }
        log.close().await.unwrap();
    });
    let (bytes, manifest) = (fs::read(&increment).unwrap(), "appendonlydir/appendonly.aof.manifest");
    let closed = fs::read(folder.path().join(manifest)).unwrap();
    let mut opened = Manifest::parse(&closed).unwrap();
    assert_eq!(opened.increments[0].synced.take(), Some(bytes.len() as u64));
    let whole = opened.encode().unwrap();
    for cut in 0..bytes.len() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("appendonlydir")).unwrap();
        fs::write(folder.path().join("appendonlydir/appendonly.aof.1.base.aof"), "").unwrap();
        fs::write(folder.path().join(manifest), &whole).unwrap();
        fs::write(folder.path().join("appendonlydir/appendonly.aof.1.incr.aof"), &bytes[..cut]).unwrap();
        if cut % 10 == 0 {
            // What was closed is known to be longer.
            fs::write(folder.path().join(manifest), &closed).unwrap();
            let refused = block_on(open(folder.path(), &always())).err().unwrap();
            assert!(refused.to_string().contains("missing or changed"), "cut at {cut}: {refused}");
            fs::write(folder.path().join(manifest), &whole).unwrap();
        }
        let survived = ends.iter().filter(|end| **end <= cut as u64).count();
        let mut expected = survived.checked_sub(1).map_or_else(Keyspace::new, |last| states[last].clone());
        block_on(async {
            let (log, mut keys, loaded) = open(folder.path(), &always()).await.unwrap();
            assert_eq!(keys.databases(), expected.databases(), "cut at {cut}");
            assert_eq!(loaded.files[1].1.good, survived.checked_sub(1).map_or(0, |last| ends[last]));
            run(&log, &mut keys, &["SET", "later", "there"]).await;
            log.round().await.unwrap();
            drop(log);
            expected.load(&[b"SET", b"later", b"there"]).unwrap();
            let (log, keys, _) = open(folder.path(), &always()).await.unwrap();
            assert_eq!(keys.databases(), expected.databases(), "after a cut at {cut}");
            log.close().await.unwrap();
        });
        let left = directory(&folder.path().join("appendonlydir"));
        assert_eq!(left.len(), 3, "{:?}", left.iter().map(|(name, _)| name).collect::<Vec<_>>());
    }
}

#[test]
fn a_refused_open_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("appendonlydir");
    let refused = |what: &str| {
        let before = (directory(folder.path()), directory(&inner));
        let error = block_on(open(folder.path(), &always())).err().unwrap_or_else(|| panic!("{what} was opened"));
        assert_eq!((directory(folder.path()), directory(&inner)), before, "{what}");
        error
    };
    fs::create_dir(&inner).unwrap();
    fs::write(folder.path().join("dump.rdb"), "REDIS").unwrap();
    assert!(matches!(refused("a snapshot without a log"), OpenError::OtherData { .. }));
    fs::remove_file(folder.path().join("dump.rdb")).unwrap();
    fs::write(inner.join("appendonly.aof.3.incr.aof"), "*1").unwrap();
    assert!(matches!(refused("no manifest"), OpenError::NoManifest { files, .. } if files.len() == 1));
    fs::write(inner.join("appendonly.aof.manifest"), "file a seq 1 type x\n").unwrap();
    assert!(matches!(refused("a wrong manifest"), OpenError::Load(_)));
    fs::write(inner.join("appendonly.aof.manifest"), "file appendonly.aof.3.incr.aof seq 3 type i crc 12345678\n")
        .unwrap();
    assert!(refused("a manifest that lost a line").to_string().contains("the checksum doesn't match"));
    fs::write(inner.join("appendonly.aof.manifest"), "file appendonly.aof.3.incr.aof seq 3 type i\n").unwrap();
    fs::write(inner.join("appendonly.aof.3.incr.aof"), "*1\r\n$4\r\nPING\r\nrubbish").unwrap();
    assert!(matches!(refused("rubbish at the end"), OpenError::Load(_)));

    // A damaged tail up to a bound is cut, and kept.
    let allowed = Options { aof_load_corrupt_tail_max_size: 7, ..always() };
    let short = Options { aof_load_corrupt_tail_max_size: 6, ..always() };
    assert!(block_on(open(folder.path(), &short)).is_err());
    let (log, _, loaded) = block_on(open(folder.path(), &allowed)).unwrap();
    assert_eq!((loaded.files[0].1.good, loaded.files[0].1.length), (14, 21));
    assert_eq!(fs::read(inner.join("appendonly.aof.3.incr.aof.cut")).unwrap(), b"rubbish");
    assert!(matches!(block_on(open(folder.path(), &always())), Err(OpenError::Locked { .. })));
    block_on(log.close()).unwrap();
}

/// A manifest as Redis writes it says nothing of a line that it lost.
#[test]
fn what_a_manifest_without_checksums_does_not_list_is_never_lost() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("appendonlydir");
    fs::create_dir(&inner).unwrap();
    let set = |key: &str| {
        let mut bytes = Vec::new();
        resp::encode(&mut bytes, &["SET", key, "value"]);
        bytes
    };
    fs::write(inner.join("appendonly.aof.1.incr.aof"), set("listed")).unwrap();
    fs::write(inner.join("appendonly.aof.2.incr.aof"), set("lost")).unwrap();
    fs::write(inner.join("appendonly.aof.manifest"), "file appendonly.aof.1.incr.aof seq 1 type i\n").unwrap();
    let unlisted = || directory(&inner).into_iter().filter(|(_, bytes)| *bytes == set("lost")).count();
    for opens in 1..=3 {
        block_on(async {
            let (log, keys, _) = open(folder.path(), &always()).await.unwrap();
            assert_eq!(keys.databases()[0].len(), 1);
            log.close().await.unwrap();
        });
        assert_eq!(unlisted(), 1, "after {opens} opens: {:?}", directory(&inner));
    }
}

#[test]
fn a_rewrite_leaves_the_data_and_nothing_else() {
    for (policy, ring_page_bytes) in [(Fsync::Always, 64 << 10), (Fsync::EverySecond, 64), (Fsync::No, 64)] {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { append_fsync: policy, ring_page_bytes, ..Options::default() };
        let expected = block_on(async {
            let (log, mut keys, _) = open(folder.path(), &options).await.unwrap();
            for number in 0..500 {
                run(&log, &mut keys, &["SELECT", &(number % 2 * 5).to_string()]).await;
                run(&log, &mut keys, &["INCR", "counter"]).await;
                run(&log, &mut keys, &["ZADD", "scores", &(f64::from(number) / 7.0).to_string(), &number.to_string()])
                    .await;
                run(&log, &mut keys, &["HSET", "hash", &number.to_string(), "value"]).await;
                run(&log, &mut keys, &["EXPIREAT", "hash", "99999999999"]).await;
            }
            log.round().await.unwrap();
            let before = log.bytes();
            let rewrite = log.rewrite(|| keys.snapshot()).await.unwrap();
            for _ in 0..100 {
                run(&log, &mut keys, &["RPUSH", "later", "item"]).await;
                log.round().await.unwrap();
            }
            let rewritten = rewrite.done().await.unwrap();
            assert_eq!(rewritten.before, before);
            assert!(rewritten.base < before / 2 && log.bytes() < before, "{rewritten:?}");
            assert!(!log.rewrite_is_due());
            // A second one builds on the first.
            let rewrite = log.rewrite(|| keys.snapshot()).await.unwrap();
            rewrite.done().await.unwrap();
            log.close().await.unwrap();
            keys
        });
        let left = directory(&folder.path().join("appendonlydir"));
        let names: Vec<_> = left.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["appendonly.aof.2.base.aof", "appendonly.aof.3.incr.aof", "appendonly.aof.manifest"]
                .map(|name| { if name.contains("base") { "appendonly.aof.3.base.aof" } else { name } })
        );
        let manifest = Manifest::parse(&left[2].1).unwrap();
        assert!(manifest.summed && manifest.history.is_empty() && manifest.increments[0].synced == Some(0));
        let (log, keys, _) = block_on(open(folder.path(), &options)).unwrap();
        assert_eq!(keys.databases(), expected.databases());
        block_on(log.close()).unwrap();
    }
}

/// What is not synced yet when a rewrite is due is synced in the background, and then little is left for the switch.
#[test]
fn a_rewrite_is_due_when_most_is_synced() {
    for policy in [Fsync::Always, Fsync::EverySecond, Fsync::No] {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { append_fsync: policy, ring_page_bytes: 4 << 10, ..Options::default() };
        block_on(async {
            let (log, mut keys, _) = open(folder.path(), &options).await.unwrap();
            run(&log, &mut keys, &["SET", "k", &"v".repeat(500_000)]).await;
            log.round().await.unwrap();
            assert!(!log.rewrite_is_due(), "nobody asked for it, and the log is small");
            log.schedule_rewrite();
            let mut asked = 1;
            while !log.rewrite_is_due() {
                assert!(asked < 60_000, "it is never due");
                asked += 1;
                OsEnv.sleep(Duration::from_millis(1)).await;
            }
            // (Each second the log is synced anyway.)
            assert!(policy == Fsync::EverySecond || (asked > 1) == (policy == Fsync::No), "{policy:?}: {asked}");
            let unsynced = log.end().0 - log.durable().0;
            assert!(unsynced <= 64 << 10, "{policy:?}: {unsynced} bytes are left to sync");
            assert!(log.rewrite_is_due(), "until it begins");
            let rewrite = log.rewrite(|| keys.snapshot()).await.unwrap();
            assert!(!log.rewrite_is_due(), "it has begun");
            rewrite.done().await.unwrap();
            assert!(!log.rewrite_is_due(), "it was asked for once");
            log.close().await.unwrap();
        });
    }
}

#[test]
fn a_writer_appends_alone() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let (log, mut keys, _) =
            open(folder.path(), &Options { append_fsync: Fsync::No, ..Options::default() }).await.unwrap();
        let mut writer = log.writer().unwrap();
        assert!(matches!(log.append(0, &["INCR", "n"]).await, Err(LogError::WriterExists)));
        assert!(matches!(log.writer().map(drop), Err(LogError::WriterExists)));
        for number in 0..10_000 {
            let number = number.to_string();
            keys.load(&[b"SET", number.as_bytes(), b"value"]).unwrap();
            writer.append(0, &["SET", &number, "value"]).await.unwrap();
        }
        writer.round().await.unwrap();
        let rewrite = writer.rewrite(|| keys.snapshot()).await.unwrap();
        keys.load(&[b"SET", b"last", b"value"]).unwrap();
        writer.append(0, &["SET", "last", "value"]).await.unwrap();
        writer.round().await.unwrap();
        rewrite.done().await.unwrap();
        drop(writer);
        log.wait_durable(log.end()).await.unwrap();
        assert_eq!(log.durable(), log.end());
        log.close().await.unwrap();
        let (log, again, _) = open(folder.path(), &Options::default()).await.unwrap();
        assert_eq!(again.databases(), keys.databases());
        drop(log);
    });
}

/// A page holds the first command with its SELECT, in 34 bytes, or three others, in 33.
#[test]
fn the_nth_page_switch_makes_the_writer_drain_and_the_one_before_does_not() {
    const PAGE: usize = 34;
    let command: [&[u8]; 1] = [b"a"];
    for ring_pages in [2, 3, 8] {
        for (alone, checksums) in [(true, false), (false, false), (true, true), (false, true)] {
            let folder = tempfile::tempdir().unwrap();
            let options =
                Options { append_fsync: Fsync::No, ring_pages, ring_page_bytes: PAGE, checksums, ..Options::default() };
            let increment = folder.path().join("appendonlydir/appendonly.aof.1.incr.aof");
            let line = if checksums { 36 } else { 0 };
            block_on(async {
                let (log, _, _) = open(folder.path(), &options).await.unwrap();
                let mut writer = alone.then(|| log.writer().unwrap());
                let mut append = async || match &mut writer {
                    Some(writer) => writer.append(0, &command).await.unwrap(),
                    None => log.append(0, &command).await.unwrap(),
                };
                let done = || (log.stats().waits, log.stats().writes, fs::metadata(&increment).unwrap().len());
                for page in 1..=ring_pages {
                    for _ in 0..if page == 1 { 1 } else { 3 } {
                        append().await;
                    }
                    assert_eq!(done(), (0, 0, 0), "page {page} of {ring_pages} is full");
                }
                append().await;
                let full = 34 + (ring_pages - 1) * 33 + ring_pages * line;
                assert_eq!(done(), (1, 1, full as u64), "the switch from page {ring_pages}");
            });
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Commands of one unit: the lengths of their arguments.
    Append(u32, Vec<Vec<usize>>),
    Round,
    Sync,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![0..12_usize, 0..300_usize];
    let commands = prop::collection::vec(prop::collection::vec(length, 1..4), 1..3);
    prop_oneof![
        6 => (prop_oneof![Just(0), 0..12_u32], commands).prop_map(|(number, unit)| Step::Append(number, unit)),
        1 => Just(Step::Round),
        1 => Just(Step::Sync),
    ]
}

/// Runs the steps on a log without checksums, and returns its file.
async fn file_of(path: &Path, options: &Options, alone: bool, steps: &[(Step, u8)]) -> Vec<u8> {
    let (log, _, _) = open(path, options).await.unwrap();
    let mut writer = alone.then(|| log.writer().unwrap());
    for (step, letter) in steps {
        match step {
            Step::Append(database, unit) => {
                let commands = arguments(unit, *letter);
                let commands: Vec<&[Vec<u8>]> = commands.iter().map(Vec::as_slice).collect();
                match &mut writer {
                    Some(writer) => writer.append_unit(*database, &commands).await.unwrap(),
                    None => log.append_unit(*database, &commands).await.unwrap(),
                };
            }
            Step::Round => match &mut writer {
                Some(writer) => writer.round().await.unwrap(),
                None => log.round().await.unwrap(),
            },
            Step::Sync => drop(log.sync().await.unwrap()),
        }
    }
    drop(writer);
    log.close().await.unwrap();
    fs::read(path.join("appendonlydir/appendonly.aof.1.incr.aof")).unwrap()
}

fn arguments(unit: &[Vec<usize>], letter: u8) -> Vec<Vec<Vec<u8>>> {
    unit.iter().map(|lengths| lengths.iter().map(|bytes| vec![letter; *bytes]).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the ring, and whether large records are split or stand beside it, the file is the commands in their order.
    #[test]
    fn the_file_is_the_same_for_every_ring(
        steps in prop::collection::vec((step(), any::<u8>()), 0..50),
        ring_pages in 2..9_usize,
        ring_page_bytes in prop_oneof![1..40_usize, 40..400_usize, Just(64 << 10)],
        alone: bool,
    ) {
        let (mut expected, mut selected) = (Vec::new(), None);
        for (step, letter) in &steps {
            let Step::Append(database, unit) = step else { continue };
            if selected.replace(database) != Some(database) {
                resp::encode(&mut expected, &["SELECT", &database.to_string()]);
            }
            let marks = unit.len() > 1;
            marks.then(|| resp::encode(&mut expected, &["MULTI"]));
            arguments(unit, *letter).iter().for_each(|command| resp::encode(&mut expected, command));
            marks.then(|| resp::encode(&mut expected, &["EXEC"]));
        }
        for split_large in [false, true] {
            let options = Options {
                append_fsync: Fsync::No, ring_pages, ring_page_bytes, split_large, checksums: false, ..Options::default()
            };
            let folder = tempfile::tempdir().unwrap();
            let file = block_on(file_of(folder.path(), &options, alone, &steps));
            prop_assert!(file == expected, "split {split_large}");
        }
    }
}

#[test]
fn many_committers_share_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _, _) = block_on(open(folder.path(), &always())).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..20 {
                    block_on(async {
                        let position = log.append(0, &["INCR", "n"]).await.unwrap();
                        log.round().await.unwrap();
                        assert!(log.durable() >= position);
                    });
                }
            });
        }
    });
    let stats = log.stats();
    assert!(stats.syncs < 320 && stats.commands == 320, "{stats:?}");
    block_on(log.close()).unwrap();
    let (log, keys, _) = block_on(open(folder.path(), &always())).unwrap();
    let value = keys.databases()[0].get(b"n").map(|entry| entry.value);
    assert_eq!(value, Some(engine::keyspace::ValueRef::String(b"320")));
    drop(log);
}

/// While files grow the disk keeps room for them; none of it is left behind.
#[test]
fn a_closed_log_takes_no_more_room_than_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { append_fsync: Fsync::No, ..Options::default() };
    block_on(async {
        let (log, mut keys, _) = open(folder.path(), &options).await.unwrap();
        for round in 0..2 {
            for number in 0..9_000 {
                let command: [&[u8]; 3] = [b"SET", &number.to_string().into_bytes(), &[b'x'; 1000]];
                keys.load(&command).unwrap();
                log.append(0, &command).await.unwrap();
                if number % 100 == 0 {
                    log.round().await.unwrap();
                }
            }
            if round == 0 {
                log.rewrite(|| keys.snapshot()).await.unwrap().done().await.unwrap();
            }
        }
        log.close().await.unwrap();
    });
    let mut large = 0;
    for entry in fs::read_dir(folder.path().join("appendonlydir")).unwrap() {
        let metadata = entry.unwrap().metadata().unwrap();
        large += usize::from(metadata.len() > 8 << 20);
        assert!(metadata.blocks() * 512 <= metadata.len() + (64 << 10), "{metadata:?}");
    }
    assert_eq!(large, 2, "a base and an increment");
}

#[test]
fn a_long_rewrite_is_synced_on_the_way_and_begins_with_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        Options { aof_timestamp_enabled: true, checksums: false, append_fsync: Fsync::No, ..Options::default() };
    block_on(async {
        let (log, mut keys, _) = open(folder.path(), &options).await.unwrap();
        for number in 0..11_000 {
            keys.load(&[b"SET", number.to_string().as_bytes(), &[b'x'; 1000]]).unwrap();
        }
        let rewritten = log.rewrite(|| keys.snapshot()).await.unwrap().done().await.unwrap();
        assert!(rewritten.base > 10 << 20 && rewritten.syncs >= 3, "{rewritten:?}");
        log.close().await.unwrap();
    });
    let base = fs::read(folder.path().join("appendonlydir/appendonly.aof.2.base.aof")).unwrap();
    assert!(base.starts_with(b"#TS:"));
}

//! Files in MemTable's dialect: their bytes, what they load as, and the log that is made of one.
#![expect(clippy::disallowed_methods, reason = "the test looks at the files, and changes them")]

use std::{fs, path::Path};

use engine::{
    aof::{
        CommandLog,
        check::End,
        load::LoadError,
        memtable::{self, Loaded},
        options::{Fsync, Options},
        resp::{self, Malformed},
    },
    env::{OsEnv, block_on},
    keyspace::{Keyspace, ValueRef},
};
use proptest::prelude::*;

fn options() -> Options {
    Options { append_fsync: Fsync::Always, ..Options::default() }
}

fn load(path: &Path) -> Result<(Keyspace, Loaded), LoadError> {
    let mut keys = Keyspace::new();
    let loaded = block_on(memtable::load(&OsEnv, path, &mut keys))?;
    assert_eq!(keys.selected(), 0);
    Ok((keys, loaded))
}

/// Switches a log on for what was loaded, appends a command, leaves without a close, and opens again.
fn append_to(keys: &Keyspace, directory: &Path, options: &Options, command: &[&[u8]]) -> Keyspace {
    let mut after = Keyspace::new();
    block_on(async {
        let enabled = CommandLog::enable(OsEnv, directory, options.clone(), || keys.snapshot()).await;
        let (log, first) = enabled.unwrap();
        log.append(0, command).await.unwrap();
        first.done().await.unwrap();
        log.round().await.unwrap();
        drop(log);
        let (log, _) = CommandLog::open(OsEnv, directory, options.clone(), &mut after).await.unwrap();
        log.close().await.unwrap();
    });
    after
}

type Command<'a> = (u32, &'a [&'a str]);

/// Commands of several databases; the same key has another value in each.
const COMMANDS: [Command<'_>; 9] = [
    (0, &["set", "k", "zero"]),
    (3, &["set", "k", "three"]),
    (0, &["append", "k", "!"]),
    (3, &["append", "k", "!"]),
    (3, &["append", "k", "?"]),
    (15, &["rpush", "list", "a", "", "c\r\n"]),
    (0, &["set", "select", "3"]),
    (2, &["set", "k", "two"]),
    (0, &["set", "last", "zero"]),
];

/// The file of the commands, and where each of them ends.
fn file_of(commands: &[Command<'_>]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    let ends = commands.iter().map(|(database, command)| {
        memtable::encode(&mut bytes, *database, command);
        bytes.len()
    });
    let ends = ends.collect();
    (bytes, ends)
}

/// The data set after these commands.
fn state_of(commands: &[Command<'_>]) -> Keyspace {
    let mut keys = Keyspace::new();
    for (database, command) in commands {
        keys.load(&[b"SELECT", database.to_string().as_bytes()]).unwrap();
        keys.load(&command.iter().map(|word| word.as_bytes()).collect::<Vec<_>>()).unwrap();
    }
    keys
}

#[test]
fn the_dialect_is_written_byte_for_byte() {
    let written = |database, command: &[&str]| {
        let mut out = Vec::new();
        memtable::encode(&mut out, database, command);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(written(0, &["set", "k", "v"]), "*3\r\n$3\r\nset\r\n$1\r\nk\r\n$1\r\nv\r\n");
    assert_eq!(
        written(3, &["set", "k", "v"]),
        "*2\r\n$6\r\nselect\r\n$1\r\n3\r\n*3\r\n$3\r\nset\r\n$1\r\nk\r\n$1\r\nv\r\n"
    );
    assert_eq!(written(15, &["FLUSHDB"]), "*2\r\n$6\r\nselect\r\n$2\r\n15\r\n*1\r\n$7\r\nFLUSHDB\r\n");
    let removal = |database| {
        let mut out = Vec::new();
        memtable::encode_removal(&mut out, database, b"k");
        String::from_utf8(out).unwrap()
    };
    assert_eq!(removal(0), "*2\r\n$6\r\nselect\r\n$1\r\n0\r\n*2\r\n$3\r\ndel\r\n$1\r\nk\r\n");
    assert_eq!(removal(12), "*2\r\n$6\r\nselect\r\n$2\r\n12\r\n*2\r\n$3\r\ndel\r\n$1\r\nk\r\n");
}

#[test]
fn a_select_counts_for_one_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("appendonly.aof");
    let (bytes, _) = file_of(&COMMANDS);
    fs::write(&path, &bytes).unwrap();
    let (keys, loaded) = load(&path).unwrap();
    assert_eq!(keys.databases(), state_of(&COMMANDS).databases());
    let text = |database: usize| keys.databases()[database].get(b"k").map(|entry| entry.value);
    assert_eq!(text(0), Some(ValueRef::String(b"zero!")));
    assert_eq!(text(3), Some(ValueRef::String(b"three!?")));
    let checked = loaded.checked;
    assert_eq!((checked.good, checked.length, checked.end), (bytes.len() as u64, bytes.len() as u64, End::File));
    // Nine commands, and five selects of five lines each.
    let lines = COMMANDS.iter().map(|(_, command)| 1 + 2 * command.len() as u64).sum::<u64>() + 5 * 5;
    assert_eq!((checked.commands, checked.good_lines, loaded.failures), (14, lines, 0));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// The key has expired long ago by any clock, and a removal was logged for one of two.
#[test]
fn what_was_removed_for_its_age_is_gone_by_the_log_and_not_by_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("appendonly.aof");
    let mut bytes = Vec::new();
    for database in [0, 3] {
        for key in ["removed", "there"] {
            memtable::encode(&mut bytes, database, &["set", key, "v"]);
            memtable::encode(&mut bytes, database, &["pexpireat", key, "1"]);
        }
        memtable::encode_removal(&mut bytes, database, b"removed");
    }
    fs::write(&path, &bytes).unwrap();
    let (keys, _) = load(&path).unwrap();
    for database in [0, 3] {
        let names: Vec<_> = keys.databases()[database].iter().map(|(key, _)| key.to_vec()).collect();
        assert_eq!(names, [b"there".to_vec()], "database {database}");
    }
}

#[test]
fn a_tail_torn_anywhere_is_never_appended_to() {
    let (bytes, ends) = file_of(&COMMANDS);
    for (cut, checksums) in (0..=bytes.len()).map(|cut| (cut, cut % 2 == 0)) {
        let options = Options { checksums, ..options() };
        let folder = tempfile::tempdir().unwrap();
        // Where MemTable leaves it.
        let path = folder.path().join("appendonly.aof");
        fs::write(&path, &bytes[..cut]).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let expected = state_of(&COMMANDS[..whole]);
        let good = if whole == 0 { 0 } else { ends[whole - 1] };

        let (keys, loaded) = load(&path).unwrap();
        assert_eq!(keys.databases(), expected.databases(), "cut at {cut}");
        assert_eq!((loaded.checked.good, loaded.checked.length), (good as u64, cut as u64), "cut at {cut}");
        assert_eq!(loaded.checked.end.is_torn(), good < cut, "cut at {cut}: {:?}", loaded.checked.end);
        let lines = bytes[..good].windows(2).filter(|pair| pair == b"\r\n").count();
        // (One argument has a line end of its own.)
        assert_eq!(loaded.checked.good_lines as usize, lines - usize::from(whole > 5), "cut at {cut}");

        // (As a log of Redis 6 the file would be read otherwise: the log goes by another name, or to another place.)
        let directory = folder.path().join("data");
        let mut after = append_to(&keys, &directory, &options, &[b"set", b"later", b"there"]);
        let later = after.databases()[0].get(b"later").map(|entry| entry.value);
        assert_eq!(later, Some(ValueRef::String(b"there")), "cut at {cut}");
        after.load(&[b"SELECT", b"0"]).unwrap();
        after.load(&[b"del", b"later"]).unwrap();
        assert_eq!(after.databases(), expected.databases(), "cut at {cut}");
        assert_eq!(fs::read(&path).unwrap(), &bytes[..cut], "the file stays");
    }
}

#[test]
fn what_is_no_command_is_reported_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let (good, _) = file_of(&COMMANDS[..4]);
    let at = good.len() as u64;
    let multi = "*1\r\n$5\r\nMULTI\r\n*1\r\n$4\r\nEXEC\r\n";
    for (tail, end) in [
        ("rubbish", End::Malformed(at, Malformed::NoCommand)),
        ("+OK\r\n", End::Malformed(at, Malformed::NoCommand)),
        ("#TS:1700000000\r\n", End::Malformed(at, Malformed::NoCommand)),
        ("*0\r\n", End::Malformed(at, Malformed::ArgumentCount)),
        (multi, End::Unit(at)),
        ("*1\r\n$4\r\nEXEC\r\n", End::Unit(at)),
        // What comes behind it was lost by whoever appended it.
        (
            "*2\r\n$6\r\nselect\r\n*3\r\n$3\r\nset\r\n$1\r\nk\r\n$1\r\nv\r\n",
            End::Malformed(at + 16, Malformed::NoArgument),
        ),
    ] {
        let bytes = [&good, tail.as_bytes()].concat();
        fs::write(&path, &bytes).unwrap();
        let (keys, loaded) = load(&path).unwrap();
        assert_eq!(keys.databases(), state_of(&COMMANDS[..4]).databases());
        assert_eq!((loaded.checked.good, loaded.checked.end), (at, end), "{tail:?}");
        assert_eq!(loaded.checked.good_lines, 7 + 5 + 7 + 7 + 5 + 7, "{tail:?}");

        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_database_that_is_not_there_is_refused_and_a_failed_command_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let (bytes, _) = file_of(&[(0, &["set", "k", "v"]), (3, &["rpush", "k", "v"]), (0, &["rpush", "k", "v"])]);
    fs::write(&path, &bytes).unwrap();
    let (_, loaded) = load(&path).unwrap();
    assert_eq!((loaded.failures, loaded.failed[0].0), (1, 27 + 23 + 29));

    let (bytes, _) = file_of(&[(0, &["set", "k", "v"]), (99, &["set", "k", "lost"])]);
    fs::write(&path, &bytes).unwrap();
    let refused = load(&path);
    assert!(matches!(refused, Err(LoadError::Command { at: 27, .. })), "{refused:?}");
    let nothing = load(&folder.path().join("no such file"));
    assert!(matches!(&nothing, Err(LoadError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Hostile bytes: no panic, and what is good ends where an item ends.
    #[test]
    fn any_bytes_are_loaded_or_refused(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..8),
            Just(b"*2\r\n$6\r\nselect\r\n$1\r\n3\r\n".to_vec()),
            Just(b"*1\r\n$4\r\nping\r\n".to_vec()),
            Just(b"*1\r\n$5\r\nMULTI\r\n".to_vec()),
            Just(b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$1\r\nv\r\n".to_vec()),
            Just(b"*3\r\n$3".to_vec()),
        ], 0..8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes = pieces.concat();
        fs::write(&path, &bytes).unwrap();
        if let Ok((keys, loaded)) = load(&path) {
            let good = loaded.checked.good as usize;
            prop_assert!(good <= bytes.len());
            fs::write(&path, &bytes[..good]).unwrap();
            let (again, whole) = load(&path).unwrap();
            prop_assert_eq!(again.databases(), keys.databases());
            prop_assert_eq!((whole.checked.good, whole.checked.end), (good as u64, End::File));
            // A command behind it is read, and nothing that came before takes it in.
            let mut longer = bytes[..good].to_vec();
            resp::encode(&mut longer, &["set", "new", "v"]);
            fs::write(&path, &longer).unwrap();
            let (keys, whole) = load(&path).unwrap();
            prop_assert_eq!(whole.checked.commands, loaded.checked.commands + 1);
            prop_assert!(keys.databases()[0].get(b"new").is_some());
        }
    }
}

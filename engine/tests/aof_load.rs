//! Directories that a real server wrote, loaded here: the data set is the one that the server loaded from them.
#![expect(clippy::disallowed_methods, reason = "a test reads its fixtures")]

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use engine::{
    aof::{
        check::End,
        load::{LoadError, LoadOptions, Loaded, load},
        rdb::RdbError,
        resp::{self, Reading},
    },
    env::{OsEnv, block_on},
    keyspace::{CommandError, Keyspace, ValueRef},
};
use sha2::{Digest, Sha256};

fn fixtures(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/redis").join(folder)
}

/// Loads a directory both ways: read at once, and read by a task of its own.
fn open(path: &Path, options: &LoadOptions) -> Result<(Keyspace, Loaded), LoadError> {
    let load = |ahead_bytes| {
        let (mut keys, options) = (Keyspace::new(), LoadOptions { ahead_bytes, ..options.clone() });
        let loaded = block_on(load(&OsEnv, path, &options, &mut keys))?;
        Ok((keys, loaded))
    };
    let (at_once, ahead): (Result<_, LoadError>, _) = (load(u64::MAX), load(0));
    match (&at_once, &ahead) {
        (Err(at_once), Err(ahead)) => assert_eq!(at_once.to_string(), LoadError::to_string(ahead)),
        (at_once, ahead) => assert_eq!(at_once.as_ref().ok(), ahead.as_ref().ok()),
    }
    ahead
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes as the fixtures state them: long ones by their hash.
fn stated(bytes: &[u8]) -> String {
    if bytes.len() > 4096 { format!("sha256:{}:{}", hex(&Sha256::digest(bytes)), bytes.len()) } else { hex(bytes) }
}

/// A score as the server prints it: seventeen significant digits, without zeros at the end.
fn score(score: f64) -> String {
    if score.is_infinite() {
        return if score > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let digits = format!("{score:.16e}");
    let (mantissa, exponent) = digits.split_once('e').expect("an exponent");
    let exponent: i32 = exponent.parse().expect("a number");
    let trim = |text: &str| text.trim_end_matches('0').trim_end_matches('.').to_owned();
    if (-5..17).contains(&exponent) {
        let text = format!("{score:.*}", (16 - exponent) as usize);
        if text.contains('.') { trim(&text) } else { text }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
    }
}

/// The data set as the fixtures state it; with a time, without what has expired by then.
fn dump(keys: &Keyspace, now_ms: Option<i64>) -> String {
    let mut out = String::new();
    for (number, database) in keys.databases().iter().enumerate() {
        for (key, entry) in database.iter() {
            if now_ms.is_some_and(|now| entry.expires_ms.is_some_and(|expires| expires <= now)) {
                continue;
            }
            let list = |items: Vec<String>| items.join(",");
            let value = match entry.value {
                ValueRef::String(value) => stated(value),
                ValueRef::List(items) => list(items.iter().map(|item| stated(item)).collect()),
                ValueRef::Set(items) => list(items.iter().map(|item| stated(item)).collect()),
                ValueRef::Hash(pairs) => {
                    list(pairs.iter().map(|(one, two)| format!("{}={}", stated(one), stated(two))).collect())
                }
                ValueRef::Sorted(members) => {
                    list(members.iter().map(|(member, at)| format!("{}={}", stated(member), score(*at))).collect())
                }
            };
            let (name, expires) = (entry.value.type_name(), entry.expires_ms.unwrap_or(-1));
            let _ = writeln!(out, "{number}\t{}\t{name}\t{expires}\t{value}", hex(key));
        }
    }
    out
}

/// The first line that differs, so that a failure can be read.
fn assert_same(name: &str, found: &str, expected: &str) {
    let differs = found.lines().zip(expected.lines()).find(|(one, two)| one != two);
    assert!(differs.is_none(), "{name}: {differs:?}");
    assert_eq!(found.lines().count(), expected.lines().count(), "{name}");
}

#[test]
fn directories_of_a_real_server_load_as_they_do_there() {
    for (name, folder, file) in [
        ("a_resp_base_incr", "appendonlydir", "appendonly.aof"),
        ("c_timestamps", "appendonlydir", "appendonly.aof"),
        ("h1_history_kept", "appendonlydir", "appendonly.aof"),
        ("h2_killed_during_rewrite_resp", "appendonlydir", "appendonly.aof"),
        ("h5_enabled_at_runtime", "appendonlydir", "appendonly.aof"),
        ("h6_other_names", "logs", "my log.aof"),
        ("h7_empty_start", "appendonlydir", "appendonly.aof"),
        ("h9_flush_and_rename", "appendonlydir", "appendonly.aof"),
        // With a base in RDB format.
        ("b_rdb_base_incr", "appendonlydir", "appendonly.aof"),
        ("h3_killed_during_rewrite_rdb", "appendonlydir", "appendonly.aof"),
        ("h4_failed_rewrites_many_incr", "appendonlydir", "appendonly.aof"),
        ("h8_empty_start_rdb", "appendonlydir", "appendonly.aof"),
        ("e_torn/70_rdb_whole", "appendonlydir", "appendonly.aof"),
        ("e_torn/76_rdb_base_checksum_zero", "appendonlydir", "appendonly.aof"),
        ("e_torn/79_rdb_base_trailing_resp", "appendonlydir", "appendonly.aof"),
    ] {
        let options = LoadOptions { name: file.into(), ..LoadOptions::default() };
        let (keys, loaded) =
            open(&fixtures(name).join(folder), &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(loaded.failures, 0, "{name}: {:?}", loaded.failed);
        let expected = fs::read_to_string(fixtures(name).join("expected.tsv")).expect("the data set is stated");
        assert_same(name, &dump(&keys, None), &expected);
        assert!(loaded.files.iter().all(|(_, checked)| checked.end == End::File));
    }
}

/// The times of its keys lie within a minute; what a load sees depends on when it is.
#[test]
fn expired_keys_are_gone_by_the_clock_and_not_by_the_load() {
    for name in ["j1_expired_resp", "j2_expired_rdb"] {
        expires(name);
    }
}

fn expires(name: &str) {
    let (keys, _) = open(&fixtures(name).join("appendonlydir"), &LoadOptions::default()).expect("it loads");
    let expected = |file: &str| fs::read_to_string(fixtures(name).join(file)).expect("it is stated");
    let expires =
        keys.databases().iter().flat_map(|database| database.iter().filter_map(|(_, entry)| entry.expires_ms));
    // One more lives until the year 2100.
    let near: Vec<i64> = expires.filter(|time| *time < 4_000_000_000_000).collect();
    let (first, last) = (near.iter().min().expect("some expire"), near.iter().max().expect("some expire"));
    assert_same("before", &dump(&keys, Some(first - 1)), &expected("expected_before.tsv"));
    assert_same("after", &dump(&keys, Some(*last)), &expected("expected.tsv"));
}

#[test]
fn what_the_data_set_has_not_is_named() {
    let error = open(&fixtures("i1_streams_functions_resp/appendonlydir"), &LoadOptions::default()).err();
    assert!(
        matches!(&error, Some(LoadError::Command { error: CommandError::Unsupported(name), .. }) if !name.is_empty()),
        "{error:?}"
    );
    let error = open(&fixtures("i2_streams_functions_rdb/appendonlydir"), &LoadOptions::default()).err();
    assert!(matches!(error, Some(LoadError::Rdb { error: RdbError::Unsupported(_), .. })), "{error:?}");
    let nothing = open(&fixtures("no such folder"), &LoadOptions::default()).err();
    assert!(matches!(nothing, Some(LoadError::Nothing { .. })), "{nothing:?}");
}

#[test]
fn a_damaged_rdb_base_is_refused_for_what_is_wrong_with_it() {
    for (name, expected) in [
        ("71_rdb_base_torn_incr_whole", RdbError::Short),
        ("73_rdb_base_checksum_cut", RdbError::Short),
        ("74_rdb_base_all_checksum_cut", RdbError::Short),
        ("75_rdb_base_bit_flip", RdbError::Checksum),
        ("77_rdb_base_magic_only", RdbError::Short),
    ] {
        let error = open(&fixtures("e_torn").join(name).join("appendonlydir"), &LoadOptions::default()).err();
        assert!(matches!(&error, Some(LoadError::Rdb { error, .. }) if *error == expected), "{name}: {error:?}");
    }
    let garbage = open(&fixtures("e_torn/78_rdb_base_trailing_garbage/appendonlydir"), &LoadOptions::default()).err();
    assert!(matches!(&garbage, Some(LoadError::Damaged { end: End::Malformed(..), .. })), "{garbage:?}");
}

/// A directory with the base of the torn fixtures and this increment.
fn torn(folder: &Path, increment: &[u8]) {
    let manifest = "file b.aof seq 2 type b\nfile i.aof seq 2 type i\n";
    let base = fs::read(fixtures("e_torn").join("00_whole.2.base.aof")).expect("the base is there");
    for (name, bytes) in [("appendonly.aof.manifest", manifest.as_bytes()), ("b.aof", &base), ("i.aof", increment)] {
        fs::write(folder.join(name), bytes).expect("written");
    }
}

/// Loaded leniently, a damaged increment gives the server's data set, or is refused as there. Where ours differs, and why:
const DIVERGENCES: &[(&str, &str)] = &[
    ("33_argc_minus_one", "the server crashes on it; ours names the damage"),
    ("53_multi_discard", "the server crashes on it; ours takes DISCARD as the end of the unit"),
];

#[test]
fn damaged_increments_load_as_in_the_server_or_are_refused_as_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut loaded, mut refused) = (0, 0);
    let table = fs::read_to_string(fixtures("e_torn/load.tsv")).expect("the verdicts are there");
    for row in table.lines().filter(|line| !line.starts_with('#')) {
        let [name, verdict, sha, whole_only] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let Ok(increment) = fs::read(fixtures("e_torn").join(format!("{name}.2.incr.aof"))) else { continue };
        torn(folder.path(), &increment);
        let lenient = LoadOptions { reading: Reading::Lenient, ..LoadOptions::default() };
        let found = open(folder.path(), &lenient);
        if DIVERGENCES.iter().any(|(case, _)| *case == name) {
            continue;
        }
        match (&found, verdict) {
            (Ok((keys, _)), "started") => {
                assert_eq!(hex(&Sha256::digest(dump(keys, None))), sha, "{name}: {}", dump(keys, None));
                loaded += 1;
            }
            (Err(_), "refused") => refused += 1,
            (found, _) => panic!("{name}: the server {verdict}, ours {:?}", found.as_ref().map(|(_, loaded)| loaded)),
        }
        let whole = open(folder.path(), &LoadOptions { truncated: false, ..lenient });
        // A remark that is cut off is torn to us, and the server doesn't see it.
        let remark =
            matches!(&found, Ok((_, loaded)) if loaded.files.iter().any(|(_, file)| file.end == End::ShortAnnotation));
        assert!(whole.is_ok() == (whole_only == "started") || remark, "{name}: {:?}", whole.err());
    }
    assert!(loaded > 40 && refused >= 12, "{loaded} and {refused}");
}

/// More batches than are ever read ahead, with units, failures and a large value in between, and an end that is cut off.
#[test]
fn a_long_increment_is_executed_in_order_while_it_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    torn(folder.path(), b"");
    let (mut model, _) = open(folder.path(), &LoadOptions::default()).expect("the base loads");
    let (mut increment, mut failures) = (Vec::new(), 0);
    let large = vec![b'x'; 300_000];
    for number in 0..40_000_u32 {
        let (key, value) = (format!("key:{}", number % 5000), number.to_string());
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let commands: Vec<Vec<&[u8]>> = match number % 1000 {
            7 => vec![vec![b"MULTI"], vec![b"SET", key, value], vec![b"INCR", key], vec![b"EXEC"]],
            8 => vec![vec![b"LPUSH", b"key:6", value]],
            9 => vec![vec![b"SELECT", if number % 2000 == 9 { b"1" } else { b"0" }]],
            10 if number % 10_000 == 10 => vec![vec![b"SET", b"large", &large]],
            number if number % 5 == 0 => vec![vec![b"APPEND", key, value]],
            _ => vec![vec![b"set", key, value]],
        };
        for command in commands {
            resp::encode(&mut increment, &command);
            if !matches!(command[0], b"MULTI" | b"EXEC") {
                failures += u64::from(model.load(&command).is_err());
            }
        }
    }
    assert!(failures > 0);
    let good = increment.len() as u64;
    increment.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
    torn(folder.path(), &increment);
    let (keys, loaded) = open(folder.path(), &LoadOptions::default()).expect("loads");
    let (_, last) = loaded.files.last().expect("a file");
    assert_eq!((last.good, last.end), (good, End::ShortCommand));
    assert!(keys.databases() == model.databases() && loaded.failures == failures);
}

/// Only the last file may be cut off; in an earlier one a remark may be.
#[test]
fn an_increment_that_is_not_the_last_must_be_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = fs::read(fixtures("e_torn").join("00_whole.2.incr.aof")).expect("the increment is there");
    torn(folder.path(), &whole[..800]);
    fs::write(folder.path().join("i3.aof"), &whole).expect("written");
    let manifest = "file b.aof seq 2 type b\nfile i.aof seq 2 type i\nfile i3.aof seq 3 type i\n";
    fs::write(folder.path().join("appendonly.aof.manifest"), manifest).expect("written");
    let error = open(folder.path(), &LoadOptions::default()).err();
    assert!(
        matches!(&error, Some(LoadError::Torn { file, good: 707, length: 800, end: End::ShortCommand }) if file == "i.aof"),
        "{error:?}"
    );
    fs::remove_file(folder.path().join("i.aof")).expect("removed");
    let error = open(folder.path(), &LoadOptions::default()).err();
    assert!(matches!(&error, Some(LoadError::Missing { file }) if file == "i.aof"), "{error:?}");
}

//! The command log against a live redis-server: our directories load there, its directories load here, with equal content.
//!
//! Needs `redis-server` and `redis-check-aof` (Debian package `redis-server`, version 7). Where they are missing the tests say so
//! and pass, but not where `CI` is set.

#![expect(clippy::disallowed_methods, reason = "the test plays a process beside the log")]

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use engine::{
    aof::{
        CommandLog,
        options::{Fsync, Options},
    },
    env::{OsEnv, block_on},
    keyspace::{CommandError, Keyspace, ValueRef},
};

mod draws;
mod server;

use draws::Draws;
use server::{Reply, Server, accepted_by_the_tool, missing};

/// All that our data set holds, as [`Server::dump`] tells it of a server.
fn dump(keys: &Keyspace) -> Vec<Vec<(Vec<u8>, String)>> {
    let database = |database: &engine::keyspace::Database| {
        let mut all: Vec<_> = database
            .iter()
            .map(|(key, entry)| {
                let content = match entry.value {
                    ValueRef::String(value) => format!("{:?}", value.to_vec()),
                    ValueRef::List(list) => format!("{:?}", list.iter().map(|item| item.to_vec()).collect::<Vec<_>>()),
                    ValueRef::Set(set) => format!("{:?}", set.iter().map(|item| item.to_vec()).collect::<Vec<_>>()),
                    ValueRef::Hash(hash) => {
                        let pairs = hash.iter().map(|(field, value)| vec![field.to_vec(), value.to_vec()]);
                        format!("{:?}", pairs.collect::<Vec<_>>())
                    }
                    ValueRef::Sorted(sorted) => {
                        let mut scores: Vec<_> =
                            // (The server says 0 for -0.)
                            sorted.iter().map(|(member, score)| (member.to_vec(), if *score == 0.0 { 0.0 } else { *score })).collect();
                        scores.sort_by(|one, two| one.0.cmp(&two.0));
                        format!("{scores:?}")
                    }
                };
                let until = entry.expires_ms.map_or_else(String::new, |time| format!(" until {time}"));
                (key.to_vec(), content + &until)
            })
            .collect();
        all.sort();
        all
    };
    keys.databases().iter().map(database).collect()
}

/// Executes a command at a time at which only what was over long ago is, and collects what is to be logged.
fn execute(keys: &mut Keyspace, command: &[String], unit: &mut Vec<Vec<Vec<u8>>>) -> Result<bool, CommandError> {
    keys.execute_logged(&bytes(command), 1_700_000_000_000, |_, command| {
        unit.push(command.iter().map(|word| word.to_vec()).collect());
    })
}

fn bytes(command: &[String]) -> Vec<&[u8]> {
    command.iter().map(|word| word.as_bytes()).collect()
}

#[test]
fn our_directory_loads_in_redis_with_equal_content() {
    if missing() {
        return;
    }
    for (number, options) in [
        Options { append_fsync: Fsync::No, ..Options::default() },
        Options { append_fsync: Fsync::No, checksums: false, aof_timestamp_enabled: true, ..Options::default() },
        Options { append_fsync: Fsync::EverySecond, ring_page_bytes: 100, split_large: true, ..Options::default() },
        Options {
            append_fsync: Fsync::Always,
            append_filename: "appendonly.aof".into(),
            ring_page_bytes: 100,
            ..Options::default()
        },
    ]
    .into_iter()
    .enumerate()
    {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut server = Server::start(theirs.path(), true).expect("a server");
        let mut keys = Keyspace::new();
        let mut draws = Draws(number as u64);
        block_on(async {
            // Two of them are switched on for data in memory, of which there is none yet.
            let (log, mut rewrite) = if number % 2 == 0 {
                (CommandLog::open(OsEnv, ours.path(), options, &mut keys).await.unwrap().0, None)
            } else {
                let (log, first) = CommandLog::enable(OsEnv, ours.path(), options, || keys.snapshot()).await.unwrap();
                (log, Some(first))
            };
            for round in 0..400 {
                let database = draws.below(3) as u32;
                let select = [b"SELECT".to_vec(), database.to_string().into_bytes()];
                let select: Vec<&[u8]> = select.iter().map(Vec::as_slice).collect();
                server.ask(&select);
                keys.load(&select).unwrap();
                let mut unit = Vec::new();
                for _ in 0..1 + draws.below(4) {
                    let command = draws.command();
                    let (theirs, ours) = (server.ask(&bytes(&command)), execute(&mut keys, &command, &mut unit));
                    assert_eq!(matches!(theirs, Reply::Error(_)), ours.is_err(), "{command:?}: {theirs:?} {ours:?}");
                }
                let unit: Vec<&[Vec<u8>]> = unit.iter().map(Vec::as_slice).collect();
                if !unit.is_empty() {
                    log.append_unit(database, &unit).await.unwrap();
                }
                log.round().await.unwrap();
                if round % 150 == 149 {
                    // On a slow disk the one before may still run; then this one would be refused.
                    if let Some(rewrite) = rewrite.take() {
                        rewrite.done().await.unwrap();
                    }
                    rewrite = Some(log.rewrite(|| keys.snapshot()).await.unwrap());
                }
            }
            rewrite.expect("two rewrites").done().await.unwrap();
            log.close().await.unwrap();
        });
        let expected = server.digest();
        assert_eq!(server.dump(), dump(&keys));
        server.stop();
        assert!(accepted_by_the_tool(ours.path()));
        let mut server = Server::start(ours.path(), true).expect("our directory");
        assert_eq!(server.digest(), expected, "options {number}");
        server.stop();
    }
}

#[test]
fn a_command_is_to_be_logged_where_redis_logs_it() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), true).expect("a server");
    let (mut keys, mut draws) = (Keyspace::new(), Draws(11));
    let mut before = server.logged_bytes();
    for number in 0..15_000 {
        let command = draws.command();
        let ours = keys.execute(&bytes(&command), 1_700_000_000_000);
        let theirs = server.ask(&bytes(&command));
        let after = server.logged_bytes();
        let same = (matches!(theirs, Reply::Error(_)), after > before) == (ours.is_err(), ours == Ok(true));
        assert!(same, "{command:?}: {theirs:?}, {} bytes logged; ours: {ours:?}", after - before);
        before = after;
        if number % 100 == 0 {
            let (theirs, ours) = (server.dump(), dump(&keys));
            for (theirs, ours) in theirs.iter().flatten().zip(ours.iter().flatten()) {
                assert_eq!(theirs, ours, "after {number} commands");
            }
            assert_eq!(theirs.len(), ours.len());
            server.ask(&[b"SELECT", b"0"]);
        }
    }
}

#[test]
fn no_command_that_writes_is_unknown() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), true).expect("a server");
    let names = server.ask(&[b"COMMAND", b"LIST", b"FILTERBY", b"ACLCAT", b"write"]).texts();
    for name in names.iter().map(|name| name.split(|letter| *letter == b'|').next().unwrap_or(name)) {
        let internal = [b"pfdebug".as_slice(), b"restore-asking"].contains(&name);
        let known = !matches!(Keyspace::new().load(&[name]), Err(CommandError::Unknown(_)));
        assert_eq!(known, !internal, "{}", String::from_utf8_lossy(name));
    }
}

#[test]
fn a_directory_of_redis_loads_here_goes_on_and_loads_there_again() {
    if missing() {
        return;
    }
    for preamble in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let mut draws = Draws(77);
        let mut server = Server::start(folder.path(), preamble).expect("a server");
        for round in 0..600 {
            server.ask(&[b"SELECT", draws.below(3).to_string().as_bytes()]);
            let command = draws.command();
            let multi = draws.below(5) == 0;
            if multi {
                server.ask(&[b"MULTI"]);
                server.ask(&bytes(&draws.command()));
            }
            server.ask(&bytes(&command));
            if multi {
                server.ask(&[b"EXEC"]);
            }
            if round == 300 {
                server.rewrite();
            }
        }
        let expected = server.dump();
        server.stop();
        let mut keys = Keyspace::new();
        block_on(async {
            let (log, loaded) = CommandLog::open(OsEnv, folder.path(), Options::default(), &mut keys).await.unwrap();
            assert_eq!((dump(&keys), loaded.failures), (expected, 0), "preamble {preamble}");
            for _ in 0..200 {
                let command = draws.command();
                keys.load(&[b"SELECT", b"2"]).unwrap();
                let mut unit = Vec::new();
                let _ = execute(&mut keys, &command, &mut unit);
                for command in unit {
                    log.append(2, &command).await.unwrap();
                }
            }
            log.close().await.unwrap();
        });
        // There and back: what the server appends behind our batches has no checksum, and is loaded all the same.
        assert!(accepted_by_the_tool(folder.path()));
        let mut server = Server::start(folder.path(), preamble).expect("our directory");
        assert_eq!(server.dump(), dump(&keys));
        for _ in 0..50 {
            server.ask(&[b"SELECT", b"1"]);
            server.ask(&bytes(&draws.command()));
        }
        let expected = server.dump();
        server.stop();
        let mut keys = Keyspace::new();
        let (log, _) = block_on(CommandLog::open(OsEnv, folder.path(), Options::default(), &mut keys)).unwrap();
        assert_eq!(dump(&keys), expected);
        block_on(log.close()).unwrap();
    }
}

#[test]
fn a_file_that_was_cut_at_any_byte_holds_the_same_there_and_here() {
    if missing() {
        return;
    }
    let mut log = Vec::new();
    let mut draws = Draws(5);
    let encode = |log: &mut Vec<u8>, command: &str| {
        engine::aof::resp::encode(log, &command.split(' ').collect::<Vec<_>>());
    };
    encode(&mut log, "SELECT 0");
    while log.len() < 1900 {
        let unit = draws.below(3) == 0;
        if unit {
            encode(&mut log, "MULTI");
        }
        for _ in 0..1 + draws.below(3) {
            encode(&mut log, &format!("INCR n{}", draws.below(3)));
            encode(&mut log, &format!("APPEND s{} {}", draws.below(3), draws.below(1_000_000)));
        }
        if unit {
            encode(&mut log, "EXEC");
        }
    }
    // A server ends when it is asked to load a torn file again, so each cut gets one of its own: two at a time.
    thread::scope(|scope| {
        for half in 0..2 {
            let log = &log;
            scope
                .spawn(move || (1..=log.len()).filter(|cut| cut % 2 == half).for_each(|cut| same_content(&log[..cut])));
        }
    });
}

/// Loads a log of these bytes in a server and here.
fn same_content(log: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("appendonlydir");
    fs::create_dir(&inner).unwrap();
    let file = |name: &str| -> PathBuf { inner.join(name) };
    fs::write(file("appendonly.aof.1.base.aof"), "").unwrap();
    fs::write(file("appendonly.aof.1.incr.aof"), log).unwrap();
    let manifest = "file appendonly.aof.1.base.aof seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n";
    fs::write(file("appendonly.aof.manifest"), manifest).unwrap();
    let mut keys = Keyspace::new();
    let verified = block_on(CommandLog::verify(OsEnv, folder.path(), Options::default(), &mut keys)).unwrap();
    assert_eq!(verified.files[1].1.length, log.len() as u64);
    let mut server = Server::start(folder.path(), false).expect("a server that takes what was cut off");
    assert_eq!(dump(&keys), server.dump(), "cut at {}", log.len());
}

#[test]
fn a_log_of_one_file_becomes_a_directory_that_redis_loads() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut log = Vec::new();
    for number in 0..100 {
        engine::aof::resp::encode(&mut log, &["RPUSH", "list", &number.to_string()]);
    }
    fs::write(folder.path().join("appendonly.aof"), &log).unwrap();
    let mut keys = Keyspace::new();
    block_on(async {
        let (log, _) = CommandLog::open(OsEnv, folder.path(), Options::default(), &mut keys).await.unwrap();
        keys.load(&[b"RPUSH", b"list", b"later"]).unwrap();
        log.append(0, &["RPUSH", "list", "later"]).await.unwrap();
        log.close().await.unwrap();
    });
    assert!(!folder.path().join("appendonly.aof").exists() && accepted_by_the_tool(folder.path()));
    let mut server = Server::start(folder.path(), false).expect("our directory");
    assert_eq!(server.dump(), dump(&keys));
    server.stop();
}

#[test]
fn the_same_commands_give_the_same_bytes() {
    if missing() {
        return;
    }
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = Server::start(theirs.path(), false).expect("a server");
    let mut draws = Draws(9);
    let options = Options { checksums: false, append_fsync: Fsync::No, ..Options::default() };
    let mut keys = Keyspace::new();
    block_on(async {
        let (log, _) = CommandLog::open(OsEnv, ours.path(), options, &mut keys).await.unwrap();
        for _ in 0..300 {
            let database = draws.below(3) as u32;
            let number = database.to_string();
            server.ask(&[b"SELECT", number.as_bytes()]);
            keys.load(&[b"SELECT", number.as_bytes()]).unwrap();
            let command = draws.command();
            // What the server logs in other words than it was given.
            let reworded = [
                "BLMOVE",
                "BLMPOP",
                "BLPOP",
                "BRPOP",
                "BRPOPLPUSH",
                "BZMPOP",
                "BZPOPMAX",
                "BZPOPMIN",
                "EXPIRE",
                "EXPIREAT",
                "GETDEL",
                "GETEX",
                "GETSET",
                "HINCRBYFLOAT",
                "INCRBYFLOAT",
                "LMPOP",
                "PEXPIREAT",
                "SET",
                "SETRANGE",
                "ZINCRBY",
                "ZMPOP",
                "ZPOPMAX",
                "ZPOPMIN",
            ];
            if reworded.contains(&command[0].as_str()) {
                continue;
            }
            server.ask(&bytes(&command));
            if keys.execute(&bytes(&command), 1_700_000_000_000) == Ok(true) {
                log.append(database, &command).await.unwrap();
            }
        }
        log.close().await.unwrap();
    });
    server.stop();
    let increment = |folder: &Path| fs::read(folder.join("appendonlydir/appendonly.aof.1.incr.aof")).unwrap();
    let (ours, theirs) = (increment(ours.path()), increment(theirs.path()));
    let same = ours.iter().zip(&theirs).take_while(|(one, two)| one == two).count();
    let near = |bytes: &[u8]| {
        String::from_utf8_lossy(&bytes[same.saturating_sub(120)..bytes.len().min(same + 80)]).into_owned()
    };
    assert!(ours == theirs, "from byte {same} on, ours:\n{}\ntheirs:\n{}", near(&ours), near(&theirs));
}

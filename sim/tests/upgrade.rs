//! A log of one file, as before Redis 7, becomes a directory; wherever that is interrupted, nothing is lost.

use std::path::Path;

use engine::{
    aof::{CommandLog, options::Options, resp},
    keyspace::{Keyspace, ValueRef},
    plant::{Plant, Plants},
};
use sim::{
    disk::{Disk, DiskOptions, Keep},
    env::{SimEnv, run_still},
    prng::Prng,
};

const DATA: &str = "/data";
const COMMANDS: i64 = 200;

/// A data directory with a log of one file; its last command is cut off.
fn old() -> Disk {
    let mut disk = Disk::new(DiskOptions::default());
    let dir = disk.make_dir(Path::new(DATA));
    let mut log = Vec::new();
    for _ in 0..COMMANDS {
        resp::encode(&mut log, &["INCR", "n"]);
    }
    log.extend_from_slice(b"*2\r\n$4\r\nIN");
    disk.write_foreign(dir, "appendonly.aof", &log);
    disk
}

/// Opens a copy of `disk`, up to the call with this number. What is left, and the number that was loaded.
fn open(disk: &Disk, crash: u64, plants: Plants) -> (Disk, Option<Result<i64, String>>) {
    let env = SimEnv::still(disk.fork());
    env.machine().arm_crash(crash);
    let opened = run_still(async {
        let mut keys = Keyspace::new();
        let options = Options { plants, ..Options::default() };
        let opened = CommandLog::open(env.clone(), Path::new(DATA), options, &mut keys).await;
        env.machine().disarm();
        opened.map_err(|error| error.to_string())?;
        match keys.databases()[0].get(b"n").map(|entry| entry.value) {
            Some(ValueRef::String(text)) => Ok(String::from_utf8_lossy(text).parse().unwrap_or(-1)),
            _ => Ok(0),
        }
    });
    (env.disk(), opened)
}

/// Interrupts the first open at each of its calls, and opens what three kinds of power cuts leave. How many crashes there were, and
/// after how many of them something was missing.
fn storm(plants: &Plants) -> (u64, u64) {
    let (mut crashes, mut missing) = (0, 0);
    for (call, keep) in (1..).flat_map(|call| [(call, Keep::All), (call, Keep::None), (call, Keep::Draw)]) {
        let (mut left, ended) = open(&old(), call, plants.clone());
        if ended.is_some() {
            break;
        }
        crashes += 1;
        left.power_cut(&keep, &mut Prng::new(call));
        for _ in 0..2 {
            let (after, opened) = open(&left, u64::MAX, Plants::default());
            missing += u64::from(opened.expect("nothing waits") != Ok(COMMANDS));
            left = after;
            left.power_cut(&Keep::None, &mut Prng::new(call));
        }
    }
    (crashes, missing)
}

#[test]
fn an_interrupted_upgrade_loses_nothing() {
    let (after, opened) = open(&old(), u64::MAX, Plants::default());
    assert_eq!(opened.expect("nothing waits"), Ok(COMMANDS));
    let dir = after.dir_at(Path::new(DATA)).expect("it is there");
    assert_eq!(after.files(dir).count(), 0, "the old file is gone");
    let (crashes, missing) = storm(&Plants::default());
    assert!(crashes > 60 && missing == 0, "{crashes} crashes, {missing} with a loss");
}

#[test]
fn its_planted_bug_shows() {
    let (_, missing) = storm(&Plants::only(Plant::AofUpgradeRemovesFirst));
    assert!(missing > 0);
}

//! The recovery mode that cuts a damaged log destroys no byte of what lies behind the cut, whenever its open is interrupted.

use std::{collections::BTreeMap, ffi::OsStr, path::Path};

use engine::wal::{Durability, Lsn, Options, RecoveryMode, TailKind, Wal};
use sim::{
    disk::{Disk, DiskOptions, Keep},
    env::{SimEnv, run_still},
    prng::Prng,
};

const LOG: &str = "/log";

fn options() -> Options {
    Options::new().segment_bytes(16 << 10)
}

/// A closed log of several segments, and where each file stands.
fn log() -> Disk {
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new(LOG));
    let env = SimEnv::still(disk);
    let written = run_still(async {
        let (wal, _) = Wal::open(env.clone(), Path::new(LOG), options()).await?;
        for number in 0..400_u64 {
            wal.append(vec![number as u8; 100], Durability::Sync).await.expect("appended");
        }
        wal.close().await.expect("closed");
        Ok::<_, engine::wal::OpenError>(())
    });
    written.expect("nothing waits").expect("it opens");
    let mut disk = env.disk();
    disk.power_cut(&Keep::All, &mut Prng::new(0));
    disk
}

fn files(disk: &Disk) -> BTreeMap<String, Vec<u8>> {
    let dir = disk.dir_at(Path::new(LOG)).expect("it is there");
    let names: Vec<String> = disk.files(dir).map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    names.into_iter().filter_map(|name| disk.read_file(dir, OsStr::new(&name)).map(|bytes| (name, bytes))).collect()
}

/// How a log ended, and its records.
type Opened = (TailKind, Vec<(Lsn, Vec<u8>)>);

/// Opens the log on a copy of `disk`, up to the call with this number. What is left, how the log ended, and its records.
fn open(disk: &Disk, crash: u64) -> (Disk, Option<Opened>) {
    let env = SimEnv::still(disk.fork());
    env.machine().arm_crash(crash);
    let opened = run_still(async {
        let mode = options().recovery(RecoveryMode::PointInTime);
        let (wal, report) = Wal::open(env.clone(), Path::new(LOG), mode).await.expect("it is cut, not refused");
        env.machine().disarm();
        let mut records = Vec::new();
        let mut reader = wal.records(Lsn(1));
        while let Some((lsn, record)) = reader.next().await.expect("readable") {
            records.push((lsn, record.to_vec()));
        }
        (report.tail, records)
    });
    (env.disk(), opened)
}

#[test]
fn an_interrupted_cut_sets_aside_what_lies_behind_it_all_the_same() {
    let mut damaged = log();
    let before = files(&damaged);
    let names: Vec<&String> = before.keys().collect();
    assert!(names.len() >= 4, "{names:?}");
    let dir = damaged.dir_at(Path::new(LOG)).expect("it is there");
    assert!(damaged.flip(dir, OsStr::new(names[1]), 12_000, 0x10));
    let (_, uninterrupted) = open(&damaged, u64::MAX);
    let (tail, expected) = uninterrupted.expect("nothing waits");
    assert!(tail == TailKind::Damaged && !expected.is_empty() && expected.len() < 400, "{tail:?}");

    let mut crashes = 0;
    for (call, keep) in (1..).flat_map(|call| [(call, Keep::All), (call, Keep::None), (call, Keep::Draw)]) {
        let (mut left, ended) = open(&damaged, call);
        if ended.is_some() {
            break;
        }
        crashes += 1;
        left.power_cut(&keep, &mut Prng::new(call));
        let (after, opened) = open(&left, u64::MAX);
        let (_, records) = opened.expect("nothing waits");
        assert!(records == expected, "crash at call {call}, keep {keep}: {} records", records.len());
        let after = files(&after);
        for name in &names[2..] {
            let kept = after.get(&format!("{name}.cut")).or_else(|| after.get(*name));
            assert!(
                kept == before.get(*name),
                "crash at call {call}, keep {keep}: {name} is lost; {:?} became {:?}",
                files(&left).keys(),
                after.keys()
            );
        }
    }
    assert!(crashes > 60, "{crashes}");
}

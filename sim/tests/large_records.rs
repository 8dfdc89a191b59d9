//! However large records reach the file (M08, M09): the bytes there are the same.

use std::{collections::BTreeMap, ffi::OsStr, path::Path};

use engine::wal::{Durability, Large, Options, Wal};
use proptest::prelude::*;
use sim::{
    disk::{Disk, DiskOptions},
    env::{SimEnv, run_still},
};

/// The files of a log after these appends, and how many writes they took.
fn files(large: Large, buffer_bytes: u64, appends: &[(usize, bool)]) -> (BTreeMap<String, Vec<u8>>, u64) {
    let mut disk = Disk::new(DiskOptions::default());
    let dir = disk.make_dir(Path::new("/log"));
    let env = SimEnv::still(disk);
    let writes = run_still(async {
        // Without a rotation: it makes durable what was written until then, and frames say how far that is.
        let options = Options::new().segment_bytes(16 << 20).buffer_bytes(buffer_bytes).large(large);
        let (wal, _) = Wal::open(env.clone(), Path::new("/log"), options).await.expect("opened");
        for (number, (size, sync)) in appends.iter().enumerate() {
            let class = if *sync { Durability::Sync } else { Durability::Buffered };
            wal.append(vec![number as u8; *size], class).await.expect("appended");
        }
        let writes = wal.stats().writes;
        wal.close().await.expect("closed");
        writes
    });
    let disk = env.disk();
    let names: Vec<_> = disk.files(dir).map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    let files = names.into_iter().filter_map(|name| Some((name.clone(), disk.read_file(dir, OsStr::new(&name))?)));
    (files.collect(), writes.expect("nothing waits"))
}

#[test]
fn a_record_larger_than_the_whole_ring_is_split_into_many_writes() {
    let appends = [(10, false), (30_000, false), (10, true)];
    let (whole, few) = files(Large::Appendix, 4096, &appends);
    let (split, many) = files(Large::Split, 4096, &appends);
    assert!(whole == split && many >= few + 5, "{few} and {many} writes");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_give_the_same_bytes(
        appends in prop::collection::vec((prop_oneof![4 => 0..300_usize, 1 => 0..40_000_usize], any::<bool>()), 1..20),
        buffer_bytes in prop_oneof![Just(4096_u64), Just(16_384)],
    ) {
        let (whole, _) = files(Large::Appendix, buffer_bytes, &appends);
        let (split, _) = files(Large::Split, buffer_bytes, &appends);
        prop_assert!(whole == split);
    }
}

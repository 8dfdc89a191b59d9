//! A store of small pages and logs, so that the little that a test writes has trees, checkpoints and segments; and what an open would show.

use std::{collections::BTreeMap, path::Path};

use engine::txn::{
    Store,
    error::OpenError,
    options::{Options, Sync},
    pages::Pages,
};
use sim::{
    disk::Disk,
    env::{SimEnv, run_still},
};

pub(crate) type Small = Pages<SimEnv, 480>;
/// By table and key.
pub(crate) type Rows = BTreeMap<(String, Vec<u8>), Vec<u8>>;

pub(crate) fn small_options() -> Options {
    Options {
        sync: Sync::Instant,
        logs: 2,
        cache_bytes: 256 << 10,
        dirty_bytes: 64 << 10,
        max_value_bytes: 16 << 10,
        chunk_bytes: 24 << 9,
        log_segment_bytes: 16 << 10,
        log_buffer_bytes: 16 << 10,
        ..Options::default()
    }
}

/// What an open would show of the store at `path`.
pub(crate) fn rows(disk: &Disk, path: &str, options: Options) -> Result<Rows, OpenError> {
    let env = SimEnv::still(disk.fork());
    let mut rows = Rows::new();
    let verified = run_still(Store::<SimEnv, Small>::verify(env, Path::new(path), options, |table, key, value| {
        rows.insert((table.name.to_string(), key.to_vec()), value.to_vec());
    }));
    verified.expect("nothing waits").map(|_| rows)
}

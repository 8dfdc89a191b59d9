//! How fast a table is loaded, in ascending and in random order: `cargo run --release -p engine --example load [ROWS [DIRECTORY]]`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it measures the clock, and decides nothing by it"
)]

use std::time::Instant;

use engine::{
    env::{OsEnv, block_on},
    txn::{
        Store,
        options::{Options, TableOptions},
    },
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows: u64 = std::env::args().nth(1).map_or(Ok(10_000_000), |rows| rows.parse())?;
    let within = std::env::args().nth(2).map_or_else(std::env::current_dir, |path| Ok(path.into()))?;
    for (order, multiplier) in [("ascending", 1), ("random", 0x9E37_79B9_7F4A_7C15_u64)] {
        let folder = tempfile::tempdir_in(&within)?;
        block_on(async {
            let (store, _) = <Store<OsEnv>>::open(OsEnv, folder.path(), Options::default()).await?;
            let began = Instant::now();
            let mut loader = store.loader("table", TableOptions::default())?;
            let (mut key, mut value) = ([0; 16], [7; 100]);
            for number in 0..rows {
                key[..8].copy_from_slice(&number.wrapping_mul(multiplier).to_be_bytes());
                value[..8].copy_from_slice(&number.to_be_bytes());
                loader.add(&key, &value).await?;
            }
            let added = began.elapsed();
            let report = loader.finish().await?;
            let took = began.elapsed();
            let speed = u128::from(rows) / took.as_millis().max(1);
            println!(
                "{order:>9}: {} rows in {took:.2?} ({added:.2?} until the last was added), {speed} thousand rows/s",
                report.rows
            );
            store.close().await?;
            Ok::<(), Box<dyn std::error::Error>>(())
        })?;
    }
    Ok(())
}

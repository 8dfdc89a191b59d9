//! What a durable commit takes by the number of logs that it has parts in: `cargo run --release -p engine --example several_logs`.
//! One thread commits, so nobody shares a sync; the rounds of the stores take turns.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic,
    reason = "it measures the clock, and decides nothing by it"
)]

use std::{
    error::Error,
    time::{Duration, Instant},
};

use engine::{
    env::{OsEnv, block_on},
    txn::{
        Store, Table,
        options::{Options, Sync, TxOptions},
    },
};

const LOGS: [u16; 4] = [1, 2, 4, 8];
const ROUNDS: usize = 15;
const COMMITS: u32 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in(std::env::current_dir()?)?;
    block_on(async {
        let mut stores = Vec::new();
        for logs in LOGS {
            let options = Options { logs, sync: Sync::Instant, ..Options::default() };
            let path = folder.path().join(logs.to_string());
            let (store, _) = <Store<OsEnv>>::open(OsEnv, &path, options).await?;
            let mut tables = Vec::new();
            for number in 0..logs {
                tables.push(store.create_table(&format!("t{number}")).await?);
            }
            stores.push((store, tables, Vec::new()));
        }
        for round in 0..ROUNDS {
            for (store, tables, times) in &mut stores {
                let began = Instant::now();
                for number in 0..COMMITS {
                    commit(store, tables, round as u32 * COMMITS + number).await?;
                }
                times.push(began.elapsed() / COMMITS);
            }
        }
        println!("{:>5} {:>10} {:>10} {:>10}  per commit", "logs", "median", "least", "most");
        for (store, tables, mut times) in stores {
            times.sort_unstable();
            let us = |time: Duration| time.as_secs_f64() * 1e6;
            let (median, least, most) = (times[ROUNDS / 2], times[0], times[ROUNDS - 1]);
            println!("{:>5} {:>7.0} us {:>7.0} us {:>7.0} us", tables.len(), us(median), us(least), us(most));
            store.close().await?;
        }
        Ok(())
    })
}

/// A row in each table: tables are spread over the logs in the order in which they are created.
async fn commit(store: &Store<OsEnv>, tables: &[Table], number: u32) -> Result<(), Box<dyn Error>> {
    let mut tx = store.begin(TxOptions::default())?;
    for table in tables {
        tx.put(table, &number.to_be_bytes(), &[b'v'; 100]).await?;
    }
    tx.commit().await?;
    Ok(())
}

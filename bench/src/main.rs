//! Seawall's store beside others: the same rows, the same disk, the same run.
//!
//! Each measurement is made in a process of its own, so that nobody's memory, cache or background threads are in another's way.
//! Within a case the repeats are interleaved: everybody once, then everybody again, so that a noisy machine is noisy to all.

mod case;
mod child;
mod device;
mod goal;
mod keys;
mod peer;
mod raw;
mod report;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use serde::{Deserialize, Serialize};

/// Whatever goes wrong ends one measurement.
type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures Seawall's store beside redb, fjall, sled, SQLite and LMDB, and beside raw loops that do the same to the disk.
#[derive(Parser)]
struct Flags {
    /// Small sizes and one repeat: does it run?
    #[arg(long)]
    quick: bool,
    /// Interleaved repeats of each measurement [default: 5; 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: Option<u32>,
    /// Rows of a table that is read or loaded [default: 10000000; 20000 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1000..1 << 40))]
    keys: Option<u64>,
    /// Commits that are recovered, at most as many as there are keys [default: 1000000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..1 << 40))]
    recovered: Option<u64>,
    /// How long each measurement goes on that has no end of its own, in seconds [default: 3; 0.2 with --quick]
    #[arg(long)]
    seconds: Option<f64>,
    /// Everybody's cache, in MiB [default: 3072; 256 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u64).range(64..1 << 20))]
    cache_mib: Option<u64>,
    /// Bounds the memory of a table of 4 GiB under a cache of 256 MiB, instead of 512 MiB under 64 MiB
    #[arg(long)]
    large: bool,
    /// Only cases whose name contains one of these texts
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these of seawall, no_sync, redb, fjall, sled, sqlite, heed; the raw loops always take part
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(peer::NAMES))]
    peers: Vec<String>,
    /// Where the files go: a disk, not a RAM disk [default: beside this program]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Gives up a measurement after so many seconds
    #[arg(long, default_value_t = 900)]
    patience: u64,
    /// One JSON object per line instead of tables
    #[arg(long)]
    json: bool,
    /// The cases, and what each measures
    #[arg(long)]
    list: bool,
    #[arg(long, hide = true)]
    child: Option<String>,
}

/// How much is done.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Sizes {
    keys: u64,
    recovered: u64,
    seconds: f64,
    cache_bytes: u64,
    /// The cache whose bound is measured, and what of rows goes through it.
    bound_bytes: u64,
    bounded_bytes: u64,
}

impl Sizes {
    fn of(flags: &Flags) -> Sizes {
        let by = |quick, full| if flags.quick { quick } else { full };
        let keys = flags.keys.unwrap_or(by(20_000, 10_000_000));
        let (bound_bytes, bounded_bytes) = match (flags.large, flags.quick) {
            (true, _) => (256 << 20, 4 << 30),
            (false, false) => (64 << 20, 512 << 20),
            (false, true) => (16 << 20, 32 << 20),
        };
        Sizes {
            keys,
            recovered: flags.recovered.unwrap_or(1_000_000).min(keys),
            seconds: flags.seconds.unwrap_or(if flags.quick { 0.2 } else { 3.0 }).clamp(0.01, 3600.0),
            cache_bytes: flags.cache_mib.unwrap_or(by(256, 3072)) << 20,
            bound_bytes,
            bounded_bytes,
        }
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(task) = &flags.child {
        return child::main(task);
    }
    if flags.list {
        for case in case::CASES {
            println!("{:<20}{}", case.name, case.measures);
        }
        return ExitCode::SUCCESS;
    }
    let beside = || std::env::current_exe().ok().and_then(|program| program.parent().map(PathBuf::from));
    let plan = run::Plan {
        sizes: Sizes::of(&flags),
        repeats: flags.repeats.unwrap_or(if flags.quick { 1 } else { 5 }),
        only: flags.only,
        peers: flags.peers,
        dir: flags.dir.or_else(beside).unwrap_or_else(|| PathBuf::from(".")),
        patience: std::time::Duration::from_secs(flags.patience),
    };
    match run::run(&plan) {
        Ok(outcome) => {
            report::print(&plan, &outcome, flags.json);
            if outcome.interrupted {
                eprintln!("interrupted: the rest was not measured; the files are removed");
                return ExitCode::from(130);
            }
            if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

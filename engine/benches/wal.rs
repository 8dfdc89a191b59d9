//! The log beside raw loops that do the same to the same disk: `cargo bench -p engine`.
//!
//! All cases of a repeat run one after the other, then the next repeat begins (interleaved), so that a noisy disk is noisy
//! to all. What counts is the ratio of a case to its baseline in the same repeat; medians, with minimum and maximum.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic,
    reason = "a benchmark measures the clock, and decides nothing by it"
)]
#![allow(missing_docs, reason = "a program, not an interface")]

#[path = "wal/commands.rs"]
mod commands;
#[path = "wal/ours.rs"]
mod ours;
#[path = "wal/raw.rs"]
mod raw;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Redis brings an allocator of its own, too, and does without huge pages like this program; the baselines allocate nothing.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Payload of every record in every case.
pub(crate) static RECORD: &[u8] = &[0x5e; RECORD_BYTES];
pub(crate) const RECORD_BYTES: usize = 100;
/// Bytes of a frame with such a payload.
pub(crate) const FRAME_BYTES: usize = 116;

const HELP: &str = "\
The log beside raw loops that do the same.

Usage: cargo bench -p engine [-- OPTIONS]

  --json         one JSON line per case instead of the table
  --quick        small sizes and 3 repeats: does it run?
  --repeats N    interleaved repeats (default 7)
  --filter TEXT  only cases whose name contains TEXT, with their baselines
  --dir PATH     where the files go (default: the target directory); a disk, not a RAM disk
  --help         this text
";

/// How much each case does.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) buffered: u64,
    pub(crate) synced: u64,
    pub(crate) grouped: u64,
    pub(crate) replayed: u64,
    pub(crate) loaded: u64,
}

struct Options {
    json: bool,
    repeats: usize,
    filter: String,
    dir: PathBuf,
    sizes: Sizes,
}

/// A case: what it is held against, the goal as a ratio, and what it measures (operations per second).
struct Case {
    name: &'static str,
    baseline: Option<(&'static str, f64)>,
    run: fn(&Path, Sizes) -> f64,
}

const CASES: &[Case] = &[
    Case { name: "raw-buffered", baseline: None, run: raw::buffered },
    Case { name: "buffered, single producer", baseline: Some(("raw-buffered", 0.7)), run: ours::buffered_writer },
    Case { name: "buffered, shared handle", baseline: Some(("raw-buffered", 0.5)), run: ours::buffered_shared },
    Case { name: "raw-synced", baseline: None, run: raw::synced },
    Case { name: "synced, one thread", baseline: Some(("raw-synced", 0.9)), run: ours::synced },
    Case { name: "synced write, one thread", baseline: Some(("raw-synced", 0.9)), run: ours::synced_writes },
    Case { name: "raw-group, 32 writers", baseline: None, run: raw::grouped },
    Case { name: "synced, 32 writers", baseline: Some(("raw-group, 32 writers", 0.7)), run: ours::grouped },
    Case { name: "raw-read", baseline: None, run: raw::read },
    Case { name: "replay", baseline: Some(("raw-read", 0.5)), run: ours::replay },
    Case { name: "open of the same log", baseline: Some(("raw-read", 0.0)), run: ours::open },
    Case { name: "commands, no sync", baseline: Some(("raw-buffered", 0.5)), run: commands::appended },
    Case { name: "plain mutex buffer", baseline: None, run: commands::plain },
    Case {
        name: "commands, shared handle",
        baseline: Some(("plain mutex buffer", 0.0)),
        run: commands::appended_shared,
    },
    Case { name: "commands, single producer", baseline: Some(("plain mutex buffer", 0.0)), run: commands::appended },
    Case { name: "commands, 32 committers", baseline: Some(("raw-group, 32 writers", 0.9)), run: commands::committed },
    Case { name: "redis, 32 clients", baseline: None, run: commands::redis_committed },
    Case { name: "32 committers again", baseline: Some(("redis, 32 clients", 0.0)), run: commands::committed },
    Case { name: "rounds of 32 commands", baseline: Some(("redis, 32 clients", 2.0)), run: commands::committed_rounds },
    Case { name: "redis load", baseline: None, run: commands::redis_loaded },
    Case { name: "commands, load", baseline: Some(("redis load", 5.0)), run: commands::loaded },
    Case { name: "redis rewrite", baseline: None, run: commands::redis_rewritten },
    Case { name: "commands, rewrite", baseline: Some(("redis rewrite", 3.0)), run: commands::rewritten },
];

fn main() -> ExitCode {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        eprintln!("huge pages stay on: {error}");
    }
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("error: {message}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let folder = match tempfile::Builder::new().prefix("seawall-bench-").tempdir_in(&options.dir) {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("error: no folder in {}: {error}; choose another with --dir", options.dir.display());
            return ExitCode::from(2);
        }
    };
    let redis = commands::has_redis();
    if !redis {
        eprintln!("redis-server is missing: no comparison with it");
    }
    let wanted = |case: &Case| {
        let asked = case.name.contains(&options.filter)
            || CASES.iter().any(|other| {
                other.name.contains(&options.filter) && other.baseline.is_some_and(|(name, _)| name == case.name)
            });
        asked && (redis || !case.name.starts_with("redis"))
    };
    let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for repeat in 1..=options.repeats {
        for case in CASES.iter().filter(|case| wanted(case)) {
            eprint!("\rrepeat {repeat} of {}: {:<32}", options.repeats, case.name);
            let at = folder.path().join(format!("{repeat}"));
            std::fs::create_dir_all(&at).expect("a folder");
            figures.entry(case.name).or_default().push((case.run)(&at, options.sizes));
            std::fs::remove_dir_all(&at).expect("remove");
        }
    }
    eprint!("\r{:60}\r", "");
    report(&options, &figures);
    ExitCode::SUCCESS
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let full = Sizes { buffered: 250_000, synced: 2_000, grouped: 24_000, replayed: 2_000_000, loaded: 1_000_000 };
    let quick = Sizes { buffered: 200_000, synced: 50, grouped: 640, replayed: 100_000, loaded: 20_000 };
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned();
    let mut options = Options { json: false, repeats: 7, filter: String::new(), dir: target, sizes: full };
    while let Some(arg) = args.next() {
        let mut value = |what: &str| args.next().ok_or_else(|| format!("{arg} needs {what}"));
        match arg.as_str() {
            "--json" => options.json = true,
            "--quick" => {
                options.sizes = quick;
                options.repeats = options.repeats.min(3);
            }
            "--repeats" => {
                let number = value("a number")?;
                options.repeats =
                    number.parse().ok().filter(|repeats| *repeats > 0).ok_or("--repeats needs 1 or more")?;
            }
            "--filter" => options.filter = value("a text")?,
            "--dir" => options.dir = value("a path")?.into(),
            // Cargo passes it to every benchmark.
            "--bench" => {}
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(Some(options))
}

fn report(options: &Options, figures: &BTreeMap<&str, Vec<f64>>) {
    if !options.json {
        println!("{:<28}{:>14}{:>14}{:>14}{:>9}{:>16}{:>7}", "case", "per second", "min", "max", "ratio", "of", "goal");
    }
    for case in CASES {
        let Some(values) = figures.get(case.name) else { continue };
        let ratio = case.baseline.and_then(|(name, goal)| {
            let base = figures.get(name)?;
            let mut ratios: Vec<f64> = values.iter().zip(base).map(|(ours, raw)| ours / raw).collect();
            ratios.sort_by(f64::total_cmp);
            Some((ratios, name, goal))
        });
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let (median, min, max) = (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1]);
        if options.json {
            let mut line =
                format!("{{\"case\":\"{}\",\"per_second\":{median:.0},\"min\":{min:.0},\"max\":{max:.0}", case.name);
            if let Some((ratios, name, goal)) = &ratio {
                line += &format!(
                    ",\"baseline\":\"{name}\",\"ratio\":{:.3},\"ratio_min\":{:.3},\"ratio_max\":{:.3},\"goal\":{goal}",
                    ratios[ratios.len() / 2],
                    ratios[0],
                    ratios[ratios.len() - 1]
                );
            }
            println!("{line}}}");
        } else {
            print!("{:<28}{median:>14.0}{min:>14.0}{max:>14.0}", case.name);
            if let Some((ratios, name, goal)) = &ratio {
                let middle = ratios[ratios.len() / 2];
                let met = match *goal {
                    0.0 => String::new(),
                    goal => format!("{goal} {}", if middle >= goal { "met" } else { "missed" }),
                };
                print!("{middle:>9.2} of {name} ({:.2} to {:.2}) {met}", ratios[0], ratios[ratios.len() - 1]);
            }
            println!();
        }
    }
}

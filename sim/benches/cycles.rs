//! Crash-and-recover cycles per second of one core: `cargo bench -p sim`.
//!
//! A cycle is a life: appends of 100 bytes (ten with one client), two of them acknowledged as durable, a power cut with a
//! drawn survival, and a recovery that all default oracles judge. Runs of 3 lives keep the log within some 5 KiB; in a
//! campaign it is about as long. Each run has a runtime of its own.
#![expect(
    clippy::disallowed_methods,
    clippy::float_arithmetic,
    reason = "a benchmark measures the clock, and decides nothing by it"
)]
#![allow(missing_docs, reason = "a program, not an interface")]

use std::{collections::BTreeMap, process::ExitCode, time::Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use sim::{
    campaign::run_here,
    disk::Keep,
    plan::{At, Crash, CrashKind, End, EngineOptions, Life, MachinePlan, Plan},
    report::Verdict,
    workload::{Class, Op},
};

const LIVES: u64 = 3;
const HELP: &str = "\
Crash-and-recover cycles per second of one core.

Usage: cargo bench -p sim [-- OPTIONS]

  --clients N  only with so many clients: 1 or 8
  --json       one JSON line per case instead of the table
  --quick      few runs: does it work?
  --help       this text
";

fn main() -> ExitCode {
    let mut cases = vec![(1, 20_000), (8, 5_000)];
    let (mut json, mut runs, mut repeats) = (false, 400, 7);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--clients" => {
                let wanted = args.next().and_then(|count| count.parse().ok());
                cases.retain(|(clients, _)| Some(*clients) == wanted);
            }
            "--json" => json = true,
            "--quick" => (runs, repeats) = (20, 3),
            "--bench" => {}
            "--help" | "-h" => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("error: unknown option {other}\n\n{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    let mut figures: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for repeat in 0..repeats {
        for &(clients, _) in &cases {
            let began = Instant::now();
            let mut cycles = 0;
            for run in 0..runs {
                let outcome = run_here(&plan(repeat * runs + run, clients), None);
                assert_eq!(outcome.verdict, Verdict::Pass, "seed {}", outcome.seed);
                cycles += outcome.cycles;
            }
            figures.entry(clients).or_default().push(cycles as f64 / began.elapsed().as_secs_f64());
        }
    }
    if !json {
        println!("{:<12}{:>14}{:>12}{:>12}{:>16}", "clients", "cycles/s", "min", "max", "goal");
    }
    for (clients, goal) in cases {
        let mut values = figures.remove(&clients).unwrap_or_default();
        values.sort_by(f64::total_cmp);
        let (median, min, max) = (values[values.len() / 2], values[0], values[values.len() - 1]);
        if json {
            println!(
                "{{\"clients\":{clients},\"cycles_per_second\":{median:.0},\"min\":{min:.0},\"max\":{max:.0},\"goal\":{goal}}}"
            );
        } else {
            let met = if median >= f64::from(goal) { "met" } else { "missed" };
            println!("{clients:<12}{median:>14.0}{min:>12.0}{max:>12.0}{goal:>9} {met}");
        }
    }
    ExitCode::SUCCESS
}

/// [`LIVES`] lives, each with ten appends or two per client, and two that wait for durability.
fn plan(seed: u64, clients: usize) -> Plan {
    let append = |class| Op::Append { bytes: 100, class };
    let buffered = |count| vec![append(Class::Buffered); count];
    let ops: Vec<Vec<Op>> = match clients {
        1 => vec![[buffered(4), vec![append(Class::Sync)], buffered(4), vec![append(Class::Sync)]].concat()],
        _ => (0..clients)
            .map(|client| [buffered(1), vec![append(if client < 2 { Class::Sync } else { Class::Written })]].concat())
            .collect(),
    };
    let crash = Crash { kind: CrashKind::PowerCut, at: At::Done, keep: Keep::Draw };
    let life = Life { clients: ops, end: End::Crash(crash), ..Life::default() };
    Plan {
        seed,
        subject: "wal".into(),
        engine: EngineOptions { segment_bytes: 32 << 10, buffer_bytes: 64 << 10, ..EngineOptions::default() },
        machine: MachinePlan::default(),
        files: Vec::new(),
        lives: vec![life; LIVES as usize],
        image_checks: 1,
        damage_checks: 0,
        no_faults: false,
    }
}

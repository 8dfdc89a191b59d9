//! A bank whose money is conserved: through power cuts on a simulated machine, and through `kill -9` on a real disk.
//!
//! `cargo run --release -p sim --example bank -- simulate` and `-- kill`.

mod bank;
mod killed;
mod simulated;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use engine::plant::{Plant, Plants};
use indicatif::ProgressBar;

use bank::Failure;

/// Transfers between accounts, interrupted at any moment; after each interruption the money is counted.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// On a simulated machine whose power fails at drawn calls, also during recovery and checkpoints
    Simulate {
        /// How often the power fails
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        crashes: u64,
        /// Which run: the same number, the same run
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// A bug to plant in the engine (`sim --list` names them): money should be lost, or appear
        #[arg(long)]
        plant: Option<String>,
    },
    /// On a real disk, in a process that is killed with SIGKILL at drawn moments
    Kill {
        /// How often it is killed
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
        kills: u64,
        /// Where the store is, created if missing and kept; without it, a temporary folder that goes in the end
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Seeds the transfers and the moments
        #[arg(long, default_value_t = 42)]
        seed: u64,
    },
    /// The process that `kill` starts
    #[command(hide = true)]
    Work {
        dir: PathBuf,
        #[arg(long)]
        seed: u64,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Simulate { crashes, seed, plant } => {
            let plants = plant.map_or(Ok(Plants::default()), |name| {
                let plant = Plant::ALL.iter().find(|plant| plant.name() == name);
                plant
                    .map(|plant| Plants::only(*plant))
                    .ok_or_else(|| format!("no planted bug is called '{name}'; sim --list names them"))
            })?;
            let bar = ProgressBar::new(crashes);
            let counts = simulated::run(seed, crashes, plants, |counts| bar.set_position(counts.crashes))?;
            bar.finish_and_clear();
            println!(
                "{} power cuts, {} of them before the bank was open; {} transfers acknowledged, {} checkpoints: the money is all there",
                counts.crashes, counts.in_recovery, counts.transfers, counts.checkpoints
            );
        }
        Command::Kill { kills, dir, seed } => {
            let temporary = tempfile::tempdir()?;
            let dir = dir.unwrap_or_else(|| temporary.path().to_owned());
            std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}; another --dir?", dir.display()))?;
            let bar = ProgressBar::new(kills);
            let transfers = killed::run(&dir, kills, seed, |done| bar.set_position(done))?;
            bar.finish_and_clear();
            println!("{kills} kills, {transfers} transfers acknowledged: the money is all there");
        }
        Command::Work { dir, seed } => killed::work(&dir, seed)?,
    }
    Ok(())
}

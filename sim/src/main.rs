//! The simulator's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(sim::cli::main(std::env::args_os()))
}

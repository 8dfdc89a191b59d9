//! A seeded simulator that puts storage code through crashes, torn writes and lost syncs.
//!
//! From the top down: [`runner`] takes a [`plan`] to a verdict; [`workload`] draws plans; [`oracle`], [`truth`], [`image`] and [`damage`] judge;
//! [`subject`] is what is under test; [`mod@env`] is its machine, on the simulated [`disk`] with its [`fault`]s.
#![forbid(unsafe_code)]

#[cfg(not(madsim))]
compile_error!(
    "the simulator needs `--cfg madsim`, which .cargo/config.toml sets. An environment variable RUSTFLAGS or \
     CARGO_ENCODED_RUSTFLAGS replaces it: unset it, or add `--cfg madsim` to it; and build from inside the workspace."
);

pub mod cli;

pub mod campaign;
pub mod osrun;
pub mod scenario;
pub mod shrink;

pub mod report;
pub mod runner;

pub mod invariant;

pub mod damage;
pub mod evidence;
pub mod image;
pub mod oracle;
pub mod truth;

pub mod subject;

pub mod plan;
pub mod start;
pub mod workload;

pub mod env;

pub mod disk;

pub mod fault;

pub mod trace;

pub mod prng;

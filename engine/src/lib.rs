//! A segmented write-ahead log that can be trusted because it can be broken at will.
//!
//! Three things can be opened: [`wal`], the log itself; [`aof`], a command log in the format of Redis, with [`keyspace`] for its data; and
//! [`txn`], a store of tables with transactions, on logs. Below them `segment` is one file of a log, [`codec`] its bytes, and [`mod@env`] the
//! machine. A file sees only what stands below it, and nothing but `env` touches the machine, so the simulator can put the
//! very same code through power cuts, torn writes and failing disks.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

pub mod wal;

pub mod txn;

mod prefetch;

mod segment;

mod ring;

mod worker;

pub mod aof;
pub mod codec;
pub mod keyspace;

mod failure;

mod gate;

mod sync;

#[cfg(all(test, feature = "loom"))]
mod memory;

#[cfg(test)]
mod faulty;

pub mod env;

#[cfg(feature = "plants")]
pub mod plant;
#[cfg(not(feature = "plants"))]
mod plant;

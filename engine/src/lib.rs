//! A segmented write-ahead log, behind an abstract file system and clock.
#![forbid(unsafe_code)]

pub mod env;

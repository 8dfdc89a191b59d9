//! The command log: an append-only file of commands, in the directory format of Redis 7.
//!
//! This is the reading half so far: the commands ([`resp`]), the list of files ([`manifest`]), what a file's bytes are
//! worth ([`check`]), bases of RDB format ([`rdb`]), and loading a directory into a data set ([`load`]). Nothing here writes.
//!
//! The formats are those of Redis 7.0's documentation and of directories that its server wrote.

pub mod check;
pub mod load;
pub mod manifest;
pub mod options;
pub mod rdb;
pub mod resp;

mod window;

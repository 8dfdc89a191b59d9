//! What is asked of each store, and who they are.

mod fjall;
mod heed;
mod redb;
mod seawall;
mod sled;
mod sqlite;

use std::path::Path;

use crate::{Result, keys::Key};

pub use seawall::{Seawall, Use};

/// How safe a commit is when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safety {
    /// It survives a power cut.
    Durable,
    /// Nobody syncs for it: a power cut may take it.
    Buffered,
}

/// How keys are read; whoever has no call for many reads them one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    One,
    Many,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub safety: Safety,
    /// For pages or blocks, in bytes; a hint to those that map files or have more than one cache.
    pub cache_bytes: u64,
    /// Nothing that was logged is written into tables by itself, for who can be told: so that an open has all of it to replay.
    pub stays_in_log: bool,
}

/// Rows to be loaded.
pub type Load<'a> = dyn Iterator<Item = (Key, &'a [u8])> + 'a;

/// Reads keys at one moment, some hundreds in a call; how many of them there are.
pub type Reader<'a> = Box<dyn FnMut(&[Key]) -> Result<u64> + 'a>;

/// A store with one table.
pub trait Peer: Sync {
    /// One put, as a transaction of its own, as safe as the settings say.
    fn put(&self, key: &Key, value: &[u8]) -> Result<()>;

    /// Puts many rows into an empty table, in the way that suits the store best; durable at its end.
    fn load(&self, rows: &mut Load<'_>, sorted: bool) -> Result<()>;

    /// Makes everything durable that was put.
    fn sync(&self) -> Result<()>;

    /// Reads for one thread, as of now.
    fn reader(&self, call: Call) -> Result<Reader<'_>>;

    /// Visits all rows in order, at one moment; how many there are. Each value's first byte is read.
    fn scan(&self) -> Result<u64>;

    /// Closes it.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Who takes part, by the name of `--peers`.
pub const NAMES: [&str; 7] = ["seawall", "no_sync", "redb", "fjall", "sled", "sqlite", "heed"];

/// The others, beside whom ours is measured.
pub const PEERS: &[&str] = &["redb", "fjall", "sled", "sqlite", "heed"];

/// Of these, those whose commits go into a B-tree on the disk.
pub const B_TREES: [&str; 3] = ["redb", "sqlite", "heed"];

/// Those that replay a log when they are opened.
pub const REPLAYING: [&str; 3] = ["fjall", "sled", "sqlite"];

/// Opens a store in a folder, or creates it there.
pub fn open(name: &str, path: &Path, settings: Settings) -> Result<Box<dyn Peer>> {
    std::fs::create_dir_all(path)?;
    Ok(match name {
        "seawall" => Box::new(Seawall::open(path, settings, Use::Logged)?),
        "no_sync" => Box::new(Seawall::open(path, settings, Use::NotLogged)?),
        "redb" => Box::new(redb::Redb::open(path, settings)?),
        "fjall" => Box::new(fjall::Fjall::open(path, settings)?),
        "sled" => Box::new(sled::Sled::open(path, settings)?),
        "sqlite" => Box::new(sqlite::Sqlite::open(path, settings)?),
        "heed" => Box::new(heed::Heed::open(path, settings)?),
        other => return Err(format!("no peer is called {other}").into()),
    })
}

//! What a store has done since it was opened, and what it holds, as plain numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{env::Env, wal};

use super::{
    error::{Conflict, TxError},
    ids::Csn,
    shared::Shared,
    storage::Storage,
};

/// Numbers of one open store. Cheap to take; compare two to see what happened in between. Those of other threads may be a moment old.
///
/// ```
/// use engine::txn::{blocking::Store, options::{Options, Sync}};
///
/// let folder = tempfile::tempdir()?;
/// let (store, _) = Store::open(folder.path(), Options { sync: Sync::Instant, ..Options::default() })?;
/// let table = store.create_table("table")?;
/// store.put(&table, b"key", b"value")?;
/// let stats = store.stats();
/// assert_eq!((stats.commits, stats.pending), (2, 0)); // the table is one
/// assert!(stats.logs[0].syncs > 0);
/// # store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Commits that were accepted: transactions that wrote, single writes, and tables that were created or dropped.
    pub commits: u64,
    /// Those of them that are not durable.
    pub pending: u64,
    /// Records of commits that went into the logs: one for each log that a commit has rows in.
    pub parts: u64,
    /// Transactions that ended without a commit: aborted, dropped, or by a conflict.
    pub aborts: u64,
    /// Transactions that ended because somebody had written a row since their snapshot ([`Conflict::WriteWrite`]).
    pub write_conflicts: u64,
    /// Transactions that ended because an older one took a row of theirs ([`Conflict::Wounded`]).
    pub wounded: u64,
    /// Serializable transactions that ended because what they had read had changed ([`Conflict::Read`]).
    pub read_conflicts: u64,
    /// Transactions that ended because their snapshot held too much ([`TxError::SnapshotTooOld`]).
    pub snapshots_too_old: u64,
    /// Times that a row, or a part of a whole table, was waited for.
    pub lock_waits: u64,
    /// Those of these waits that took too long ([`TxError::Timeout`]).
    pub timeouts: u64,
    /// Times that a commit waited for a checkpoint, since memory was full of versions.
    pub memory_waits: u64,
    /// Snapshots in use: of transactions, and of scans that are one statement.
    pub snapshots: u64,
    /// Checkpoints that published a root.
    pub checkpoints: u64,
    /// Attempts that didn't.
    pub failed_checkpoints: u64,
    /// Keys that checkpoints wrote or removed.
    pub checkpoint_changes: u64,
    /// Generations that are read now: one, and those that a checkpoint is about to merge.
    pub generations: u64,
    /// Bytes of their versions.
    pub generation_bytes: u64,
    /// Bytes of versions that are kept only because somebody's snapshot needs them;
    /// [`pinned_bytes`](super::options::Options::pinned_bytes) bounds them.
    pub pinned_bytes: u64,
    /// Bytes of memory that are free for the next pages and versions: what others have let go of, and once commits are many up to 4 MiB that
    /// are made ahead of them, at most a 64th of [`cache_bytes`](super::options::Options::cache_bytes).
    pub ready_bytes: u64,
    /// Blocks of memory, of 8 KiB, that commits found free.
    pub blocks_found: u64,
    /// All that counts towards [`cache_bytes`](super::options::Options::cache_bytes), in bytes.
    pub memory_bytes: u64,
    /// Of what keeps the tables on the disk.
    pub storage: StorageStats,
    /// Of each log.
    pub logs: Vec<wal::Stats>,
}

/// Numbers of what keeps the tables on the disk; zeros where there is nothing to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageStats {
    /// Pages that were asked for and were in memory.
    pub hits: u64,
    /// Pages that were read from the disk.
    pub misses: u64,
    /// Pages that were taken out of memory to make room.
    pub evictions: u64,
    /// Bytes of pages in memory, with what finds them there.
    pub cached_bytes: u64,
    /// Files of the newest state.
    pub files: u64,
    /// Bytes that these have.
    pub file_bytes: u64,
    /// Bytes of them that the newest state uses.
    pub used_bytes: u64,
}

/// What is counted by itself: nothing on the way of a commit that meets nobody.
#[derive(Debug, Default)]
pub(super) struct Counts {
    aborts: AtomicU64,
    write_conflicts: AtomicU64,
    wounded: AtomicU64,
    read_conflicts: AtomicU64,
    snapshots_too_old: AtomicU64,
    timeouts: AtomicU64,
    memory_waits: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    /// A transaction ended without a commit.
    pub(super) fn abort(&self) {
        count(&self.aborts);
    }

    /// A statement or a commit was refused.
    pub(super) fn refused(&self, error: &TxError) {
        match error {
            TxError::Conflict(Conflict::WriteWrite { .. }) => count(&self.write_conflicts),
            TxError::Conflict(Conflict::Wounded { .. }) => count(&self.wounded),
            TxError::Conflict(Conflict::Read { .. }) => count(&self.read_conflicts),
            TxError::SnapshotTooOld => count(&self.snapshots_too_old),
            TxError::Timeout(_) => count(&self.timeouts),
            _ => {}
        }
    }

    /// A commit waits for a checkpoint.
    pub(super) fn memory_wait(&self) {
        count(&self.memory_waits);
    }
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    pub(super) fn stats(&self) -> Stats {
        let counts = &self.counts;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (checkpoints, failed_checkpoints, checkpoint_changes) = self.checkpoints.counts();
        let parts = self.commit().parts;
        // (What is replaced between the two looks may be counted once too often.)
        let (generations, generation_bytes) = {
            let view = self.horizon.view();
            (view.generations.len() as u64, view.generations.iter().map(|generation| generation.bytes()).sum())
        };
        Stats {
            commits: self.since_open(self.horizon.committed()),
            pending: self.pending(),
            parts,
            aborts: of(&counts.aborts),
            write_conflicts: of(&counts.write_conflicts),
            wounded: of(&counts.wounded),
            read_conflicts: of(&counts.read_conflicts),
            snapshots_too_old: of(&counts.snapshots_too_old),
            lock_waits: self.locks.waits(),
            timeouts: of(&counts.timeouts),
            memory_waits: of(&counts.memory_waits),
            snapshots: self.horizon.snapshots(),
            checkpoints,
            failed_checkpoints,
            checkpoint_changes,
            generations,
            generation_bytes,
            pinned_bytes: self.versions.bytes().saturating_sub(generation_bytes),
            ready_bytes: self.versions.blocks().bytes(),
            blocks_found: self.versions.blocks().found(),
            memory_bytes: self.versions.memory().used(),
            storage: self.storage.stats(),
            logs: (0..self.logs.count()).map(|log| self.logs.wal(log).stats()).collect(),
        }
    }

    /// The number of this epoch's commits up to this one: they have no gaps.
    fn since_open(&self, csn: Csn) -> u64 {
        (csn.to_bits() + 1).saturating_sub(Csn::first(self.epoch).to_bits())
    }
}

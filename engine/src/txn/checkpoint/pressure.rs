//! Back-pressure: commits wait, before they are accepted, while memory is full of versions.
//!
//! It is full at twice `dirty_bytes`; a checkpoint gives it back. From three quarters of that on it is tight, and then commits that
//! are not durable are bounded as well. Whoever goes away while waiting has committed nothing. Where the checkpoint that would
//! help has just failed, nobody waits: the commit is refused.

use std::time::Duration;

use crate::{
    env::Env,
    plant::planted,
    txn::{
        error::{CheckpointError, CommitError, TxError},
        shared::{Shared, lock},
        storage::{Storage, StorageError},
    },
};

/// After a checkpoint that failed, while memory is full.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What a commit waits for.
#[derive(PartialEq, Eq)]
enum Pressure {
    None,
    /// Too many commits are not durable, and memory is tight.
    Pending,
    /// Memory is full.
    Full,
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    /// Bytes of versions that a checkpoint would give back.
    pub(super) fn version_bytes(&self) -> u64 {
        self.horizon.look().generations.iter().map(|generation| generation.bytes()).sum()
    }

    /// Before a commit: waits while memory is full of versions, or tight and too many commits are pending.
    pub(in crate::txn) async fn wait_for_memory(&self) -> Result<(), CommitError> {
        loop {
            // (What nobody but a snapshot holds is among these.)
            if self.versions.bytes() < self.options.dirty_bytes {
                return Ok(());
            }
            let seen = self.gates.checkpointed.seq();
            let bytes = self.version_bytes();
            if bytes >= self.options.dirty_bytes {
                self.gates.checkpointer.open();
            }
            let pressure = self.pressure(bytes);
            if pressure == Pressure::None {
                return Ok(());
            }
            self.alive()?;
            if pressure == Pressure::Pending && self.is_logged() {
                // A sync is all that it takes, and who waits for one may as well begin it.
                self.pass().await.map_err(TxError::Poisoned)?;
                continue;
            }
            if let Some(why) = self.stalled() {
                return Err(CommitError::Stalled(why));
            }
            self.counts.memory_wait();
            self.gates.checkpointed.wait(seen).await;
        }
    }

    fn pressure(&self, bytes: u64) -> Pressure {
        let full = 2 * self.options.dirty_bytes;
        if bytes >= full {
            Pressure::Full
        } else if bytes > full / 4 * 3
            && self.pending() >= self.options.pending_transaction_limit
            && !planted!(self.options.plants(), TxnPendingUnbounded)
        {
            Pressure::Pending
        } else {
            Pressure::None
        }
    }

    /// Why no checkpoint gives memory back: the last one failed a moment ago, or there can be none any more. Else, if the last one
    /// failed, there is another attempt.
    fn stalled(&self) -> Option<String> {
        let mut inner = lock(&self.checkpoints.inner);
        let error = inner.last.as_ref().err()?;
        if is_final(error) || self.env.monotonic() < inner.at + RETRY {
            return Some(error.to_string());
        }
        if inner.asked == inner.done {
            inner.asked += 1;
            drop(inner);
            self.gates.checkpointer.open();
        }
        None
    }
}

/// Whether no checkpoint can be made in this life any more.
pub(super) fn is_final(error: &CheckpointError) -> bool {
    use CheckpointError::{Closed, Storage, Unknown};
    matches!(error, Unknown(_) | Storage(StorageError::Poisoned(_)) | Closed)
}

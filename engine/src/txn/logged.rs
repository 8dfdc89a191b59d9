//! How much was logged since something.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that commits have logged.
#[derive(Debug, Default)]
pub(super) struct Logged(AtomicU64);

impl Logged {
    /// So many more: whether that crosses a limit.
    pub(super) fn add(&self, bytes: u64, limit: u64) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        before < limit && before + bytes >= limit
    }

    /// Whether it is so much.
    pub(super) fn is_at_least(&self, limit: u64) -> bool {
        self.0.load(Ordering::Relaxed) >= limit
    }

    /// It begins anew.
    pub(super) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

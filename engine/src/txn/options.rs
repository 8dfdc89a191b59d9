//! What a store and its transactions can be told, checked before anything is touched.

use std::{fmt, str::FromStr, time::Duration};

use crate::wal::{OptionsError, RecoveryMode};

use crate::plant::Plants;

use super::{
    catalog::TableKind,
    index::Functions,
    logs::LogOptions,
    progress::OnProgress,
    redo::{MAX_LOGS, MAX_PIECE_BYTES},
    view::Visibility,
};

/// Options of a store. Each names its unit and range; a value out of range is an [`OptionsError`] at open.
///
/// ```
/// use engine::txn::options::{Options, Sync};
/// let options = Options { sync: Sync::Instant, ..Options::default() };
/// assert!(options.validate().is_ok());
/// assert_eq!(Options { logs: 17, ..options }.validate().unwrap_err().option, "logs");
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether open creates what is missing. Default true.
    pub create: bool,
    /// How many logs a new store writes in parallel: 1 to 16, default 1. A store keeps the number that it was created with.
    pub logs: u16,
    /// What a commit waits for. Default [`Sync::Periodic`].
    pub sync: Sync,
    /// `periodic`: the time between two syncs, 1 ms to 1 h. Default 500 ms. The next one begins sooner behind 4 MiB of log.
    pub sync_period: Duration,
    /// `periodic`: when more commits than this are not durable, the next sync begins at once: 1 to 10^9, default 100.
    pub sync_threshold: u64,
    /// From when on others see a commit. Default: [`Visibility::Durable`] for [`Sync::Instant`], else [`Visibility::Committed`].
    pub visibility: Option<Visibility>,
    /// The bound on memory, in bytes: pages and versions take up to seven eighths of it, and the rest is left for what nobody counts, above all
    /// what the allocator adds. 256 KiB to 1 TiB, default 256 MiB; see [`Options::with_cache`] for another.
    pub cache_bytes: u64,
    /// So many bytes of versions make a checkpoint due, and at twice as many commits wait for it: 16 KiB to a quarter of
    /// `cache_bytes`. Default 32 MiB.
    pub dirty_bytes: u64,
    /// Versions that are kept only because somebody's snapshot needs them may take so many bytes; beyond that the oldest snapshot gets
    /// [`TxError::SnapshotTooOld`](super::error::TxError::SnapshotTooOld). Below twice `dirty_bytes` one checkpoint can be enough for
    /// that. 0 to 1 TiB, default 64 MiB.
    pub pinned_bytes: u64,
    /// A checkpoint is due so long after the last: 1 s to 30 days, looked at every 3 s. Default 1 h.
    pub checkpoint_period: Duration,
    /// A checkpoint is due when this much was logged since the last, in bytes: 64 KiB to 1 TiB, looked at when a commit crosses it and
    /// every 3 s. Default 1 GiB.
    pub checkpoint_log_bytes: u64,
    /// Whether an open that replays commits has a checkpoint made at once, in the background, so that the next one need not replay them
    /// again (K21). Default true.
    pub checkpoint_after_recovery: bool,
    /// Whether a close makes a checkpoint, so that the next open has nothing to replay. Default true.
    pub checkpoint_at_close: bool,
    /// Length of a chunk file, in bytes; see [`StorageOptions`](super::storage::StorageOptions). Default 256 MiB.
    pub chunk_bytes: u64,
    /// How much a checkpoint writes at a time, in bytes: 4 KiB to 64 MiB, default 512 KiB. While commits wait for syncs of their own it is an eighth of
    /// that. What it has written is synced at its end, and whenever it is eight times as much (128 times while commits wait).
    pub checkpoint_piece_bytes: u64,
    /// Length of a log's segment; see [`segment_bytes`](crate::wal::Options::segment_bytes). Default 64 MiB.
    pub log_segment_bytes: u64,
    /// How many bytes wait in memory for a log; see [`buffer_bytes`](crate::wal::Options::buffer_bytes). Default 1 MiB.
    pub log_buffer_bytes: u64,
    /// How long a log must be quiet before it proves its end; see [`idle`](crate::wal::Options::idle). Default 1 s.
    pub log_idle: Duration,
    /// The largest value, in bytes: 1 KiB to 128 MiB, at most a quarter of `cache_bytes`. Default 16 MiB.
    pub max_value_bytes: u64,
    /// A value longer than this is logged in pieces of this length, in front of the commit that writes it: 1 KiB to 1 MiB, default
    /// 64 KiB.
    pub lob_bytes: u64,
    /// All keys and values that a transaction may write, in bytes: `max_value_bytes` to 239 MiB. Default 64 MiB.
    pub max_txn_bytes: u64,
    /// While versions take more than three quarters of the memory that commits wait for (one and a half times `dirty_bytes`), a commit
    /// waits before it is accepted until fewer than so many are not durable yet: 1 or more, default 30,000 (L18).
    pub pending_transaction_limit: u64,
    /// How long a transaction waits for a row: 1 ms to 1 h. Default 10 s.
    pub lock_timeout: Duration,
    /// How many keys and ranges a serializable transaction remembers one by one of what it read: 16 or more. Default 10,000.
    pub read_set_limit: usize,
    /// What indexes are derived by, by name. Default none.
    pub indexes: Functions,
    /// What open does about damage to a log. Default [`RecoveryMode::TolerateTornTail`].
    pub recovery: RecoveryMode,
    /// How many tasks an open has beside the caller to replay the logs, while there is work for them: 0 to 16, default 2. What is
    /// replayed is the same with any number.
    pub recovery_workers: u16,
    /// Who is told how far an open has come. Default nobody.
    pub on_progress: OnProgress,
    /// A planted bug.
    #[cfg(feature = "plants")]
    pub plants: Plants,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            create: true,
            logs: 1,
            sync: Sync::default(),
            sync_period: Duration::from_millis(500),
            sync_threshold: 100,
            visibility: None,
            cache_bytes: 256 << 20,
            dirty_bytes: 32 << 20,
            pinned_bytes: 64 << 20,
            checkpoint_period: Duration::from_secs(3600),
            checkpoint_log_bytes: 1 << 30,
            checkpoint_after_recovery: true,
            checkpoint_at_close: true,
            chunk_bytes: 256 << 20,
            checkpoint_piece_bytes: 512 << 10,
            log_segment_bytes: 64 << 20,
            log_buffer_bytes: 1 << 20,
            log_idle: Duration::from_secs(1),
            max_value_bytes: 16 << 20,
            lob_bytes: 64 << 10,
            max_txn_bytes: 64 << 20,
            pending_transaction_limit: 30_000,
            lock_timeout: Duration::from_secs(10),
            read_set_limit: 10_000,
            indexes: Functions::default(),
            recovery: RecoveryMode::default(),
            recovery_workers: 2,
            on_progress: OnProgress::default(),
            #[cfg(feature = "plants")]
            plants: Plants::default(),
        }
    }
}

impl Options {
    /// What pages and versions may take of the memory.
    pub(super) fn counted_bytes(&self) -> u64 {
        self.cache_bytes - self.cache_bytes / 8
    }

    /// The defaults for so many bytes of memory, in their proportions: an eighth of `cache_bytes` makes a checkpoint due (`dirty_bytes`),
    /// snapshots may keep a quarter (`pinned_bytes`), and a value may take as much (`max_value_bytes`, at most 16 MiB). The more memory
    /// there is for versions, the more commits a checkpoint writes at once, and the longer the logs are that an open replays (at
    /// most `checkpoint_log_bytes`).
    ///
    /// ```
    /// use engine::txn::options::Options;
    /// let options = Options::with_cache(2 << 30);
    /// assert_eq!((options.dirty_bytes, options.pinned_bytes), (256 << 20, 512 << 20));
    /// assert_eq!(Options::with_cache(256 << 20).dirty_bytes, Options::default().dirty_bytes);
    /// assert!(Options::with_cache(1 << 20).validate().is_ok());
    /// ```
    #[must_use]
    pub fn with_cache(cache_bytes: u64) -> Options {
        let quarter = cache_bytes / 4;
        let defaults = Options::default();
        Options {
            cache_bytes,
            dirty_bytes: cache_bytes / 8,
            pinned_bytes: quarter,
            max_value_bytes: defaults.max_value_bytes.min(quarter),
            ..defaults
        }
    }

    #[cfg(feature = "plants")]
    pub(super) fn plants(&self) -> Plants {
        self.plants.clone()
    }

    #[cfg(not(feature = "plants"))]
    pub(super) fn plants(&self) -> Plants {
        Plants::default()
    }

    /// Checks all ranges.
    ///
    /// # Errors
    /// The first option that is out of its range.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let hour = 3_600_000;
        let quarter = self.cache_bytes / 4;
        let checks = [
            ("logs", u64::from(self.logs), 1, u64::from(MAX_LOGS), "1 to 16"),
            ("sync_period", ms(self.sync_period), 1, hour, "1 ms to 1 h"),
            ("sync_threshold", self.sync_threshold, 1, 1_000_000_000, "1 to 1000000000 commits"),
            ("cache_bytes", self.cache_bytes, 256 << 10, 1 << 40, "262144 bytes to 1 TiB"),
            ("dirty_bytes", self.dirty_bytes, 16 << 10, quarter, "16384 bytes to a quarter of cache_bytes"),
            ("pinned_bytes", self.pinned_bytes, 0, 1 << 40, "at most 1 TiB"),
            ("checkpoint_period", ms(self.checkpoint_period), 1000, 30 * 24 * hour, "1 s to 30 days"),
            ("checkpoint_log_bytes", self.checkpoint_log_bytes, 64 << 10, 1 << 40, "65536 bytes to 1 TiB"),
            ("checkpoint_piece_bytes", self.checkpoint_piece_bytes, 4 << 10, 64 << 20, "4096 to 67108864 bytes"),
            (
                "max_value_bytes",
                self.max_value_bytes,
                1 << 10,
                (128 << 20).min(quarter),
                "1024 bytes to 128 MiB, at most a quarter of cache_bytes",
            ),
            ("lob_bytes", self.lob_bytes, 1 << 10, MAX_PIECE_BYTES, "1024 bytes to 1 MiB"),
            ("max_txn_bytes", self.max_txn_bytes, self.max_value_bytes, 239 << 20, "max_value_bytes to 239 MiB"),
            ("pending_transaction_limit", self.pending_transaction_limit, 1, u64::MAX, "1 or more"),
            ("lock_timeout", ms(self.lock_timeout), 1, hour, "1 ms to 1 h"),
            ("recovery_workers", u64::from(self.recovery_workers), 0, 16, "0 to 16"),
            ("read_set_limit", self.read_set_limit as u64, 16, u64::MAX, "16 or more"),
        ];
        for (option, value, least, most, expected) in checks {
            if !(least..=most).contains(&value) {
                return Err(OptionsError { option, value, expected });
            }
        }
        if self.sync == Sync::NoSync && self.visibility == Some(Visibility::Durable) {
            let expected = "'committed' under no_sync, which makes nothing durable";
            return Err(OptionsError { option: "visibility", value: 0, expected });
        }
        // (By the names that they have here.)
        self.log().to_wal().validate().map_err(|error| match error.option {
            "segment_bytes" => OptionsError { option: "log_segment_bytes", ..error },
            "buffer_bytes" => OptionsError { option: "log_buffer_bytes", ..error },
            "idle" => OptionsError { option: "log_idle", ..error },
            _ => error,
        })
    }

    /// Those of each log.
    pub(super) fn log(&self) -> LogOptions {
        LogOptions {
            segment_bytes: self.log_segment_bytes,
            buffer_bytes: self.log_buffer_bytes,
            idle: self.log_idle,
            max_txn_bytes: self.max_txn_bytes,
            recovery: self.recovery,
            create: self.create,
            plants: self.plants(),
        }
    }

    /// From when on others see a commit.
    pub(super) fn visibility(&self) -> Visibility {
        self.visibility.unwrap_or(match self.sync {
            Sync::Instant => Visibility::Durable,
            Sync::Periodic | Sync::NoSync => Visibility::Committed,
        })
    }
}

/// What a commit waits for, and so what a power cut may take. [`FromStr`] and [`fmt::Display`] are each other's inverse, in any
/// letter case: `periodic`, `instant`, `no_sync`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// A commit returns at once, unless the last sync that has ended began more than one and a half periods ago; then it waits for the
    /// next. A power cut takes what was committed since, at most.
    #[default]
    Periodic,
    /// A commit returns when it survives a power cut.
    Instant,
    /// Nothing is logged: a crash, also of the process alone, takes what was committed since the last checkpoint.
    NoSync,
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sync::Periodic => "periodic",
            Sync::Instant => "instant",
            Sync::NoSync => "no_sync",
        })
    }
}

/// There is no such sync type. Remedy: one of `periodic`, `instant`, `no_sync`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no sync type; there are periodic, instant and no_sync")]
pub struct UnknownSync(String);

impl FromStr for Sync {
    type Err = UnknownSync;

    fn from_str(text: &str) -> Result<Sync, UnknownSync> {
        [Sync::Periodic, Sync::Instant, Sync::NoSync]
            .into_iter()
            .find(|sync| sync.to_string().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownSync(text.to_owned()))
    }
}

/// How a table is created. The default: [`TableKind::Rows`].
#[derive(Clone, Debug, Default)]
pub struct TableOptions {
    /// What it holds.
    pub kind: TableKind,
}

/// How a transaction sees others, and others' commits it. The default: [`Isolation::Snapshot`], not read-only, no retry.
#[derive(Clone, Copy, Debug, Default)]
pub struct TxOptions {
    /// What it sees.
    pub isolation: Isolation,
    /// It writes nothing; a write fails with [`TxError::ReadOnly`](super::error::TxError::ReadOnly).
    pub read_only: bool,
    /// The transaction that this one does over, after a conflict: so it gets older, and in the end nobody is before it.
    pub retry_of: Option<super::transaction::Retry>,
}

/// What a transaction sees of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what is visible when it begins.
    ReadCommitted,
    /// All statements see what was visible when the transaction began ("repeatable read"); of two that write a row one has to be done over.
    #[default]
    Snapshot,
    /// As if it were alone: also what it read must not have changed until it commits, else it has to be done over.
    Serializable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_types_parse_in_any_case_and_nothing_else_does() {
        for sync in [Sync::Periodic, Sync::Instant, Sync::NoSync] {
            for text in [sync.to_string(), sync.to_string().to_uppercase()] {
                assert_eq!(text.parse::<Sync>(), Ok(sync));
            }
        }
        for text in ["", "always", "no-sync", "instant "] {
            assert_eq!(text.parse::<Sync>(), Err(UnknownSync(text.to_owned())));
        }
    }

    #[test]
    fn ranges_hold_at_their_ends() {
        let with = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.validate().map_err(|error| error.option)
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|options| options.logs = 0), Err("logs"));
        assert_eq!(with(|options| options.logs = 16), Ok(()));
        assert_eq!(with(|options| options.sync_period = Duration::ZERO), Err("sync_period"));
        assert_eq!(with(|options| options.dirty_bytes = 64 << 20), Ok(()));
        assert_eq!(with(|options| options.dirty_bytes = (64 << 20) + 1), Err("dirty_bytes"));
        assert_eq!(with(|options| options.checkpoint_log_bytes = 1 << 10), Err("checkpoint_log_bytes"));
        assert_eq!(with(|options| options.max_txn_bytes = 1 << 20), Err("max_txn_bytes"));
        assert_eq!(with(|options| options.max_value_bytes = 65 << 20), Err("max_value_bytes"));
        assert_eq!(with(|options| options.pending_transaction_limit = 0), Err("pending_transaction_limit"));
        assert_eq!(with(|options| options.lob_bytes = 1 << 20), Ok(()));
        assert_eq!(with(|options| options.lob_bytes = 1023), Err("lob_bytes"));
        assert_eq!(with(|options| options.recovery_workers = 0), Ok(()));
        assert_eq!(with(|options| options.recovery_workers = 17), Err("recovery_workers"));
        assert_eq!(with(|options| options.read_set_limit = 15), Err("read_set_limit"));
        assert_eq!(with(|options| options.log_segment_bytes = 1), Err("log_segment_bytes"));
        assert_eq!(with(|options| options.log_buffer_bytes = 0), Err("log_buffer_bytes"));
        assert_eq!(with(|options| options.log_idle = Duration::ZERO), Err("log_idle"));
    }
}

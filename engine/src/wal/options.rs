//! What a log can be told, checked before anything is touched.

use std::time::Duration;

use thiserror::Error;

use crate::{
    codec::{BLOCK_BYTES, FIRST_FRAME_OFFSET, MAX_BODY_BYTES},
    plant::Plants,
};

use super::decision::RecoveryMode;

/// Options of a log. Each setter names its unit and range; a value out of range is an [`OptionsError`] at open.
///
/// ```
/// let options = engine::wal::Options::new().segment_bytes(16 << 20).buffer_bytes(1 << 20);
/// assert!(options.validate().is_ok());
/// assert_eq!(engine::wal::Options::new().segment_bytes(1).validate().unwrap_err().option, "segment_bytes");
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    segment_bytes: u64,
    buffer_bytes: u64,
    max_record_bytes: u64,
    create: bool,
    idle: Duration,
    synced_writes: bool,
    large: Large,
    recovery: RecoveryMode,
    #[cfg(all(test, feature = "loom"))]
    model_page_bytes: Option<u64>,
    pub(crate) plants: Plants,
}

/// How a record that is larger than a page of the buffer reaches the file. The bytes there are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Large {
    /// In one write of its own, in a place in the order where a page would be.
    #[default]
    Appendix,
    /// In pages like everything else: more and smaller writes, and whoever appends next may wait for them.
    Split,
}

/// An option outside its range.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("option {option} is {value}: {expected}")]
pub struct OptionsError {
    /// The option's name.
    pub option: &'static str,
    /// The value it was given.
    pub value: u64,
    /// What it must be.
    pub expected: &'static str,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            buffer_bytes: 1 << 20,
            max_record_bytes: 64 << 20,
            create: true,
            idle: Duration::from_secs(1),
            synced_writes: false,
            large: Large::default(),
            recovery: RecoveryMode::default(),
            #[cfg(all(test, feature = "loom"))]
            model_page_bytes: None,
            plants: Plants::default(),
        }
    }
}

impl Options {
    /// The defaults: segments of 64 MiB, a buffer of 1 MiB, records up to 64 MiB, create what is missing.
    #[must_use]
    pub fn new() -> Options {
        Options::default()
    }

    /// Length of a segment in bytes: a multiple of 4096 from 16 KiB to 2 GiB. Default 64 MiB. A record that doesn't fit
    /// into an empty segment gets one of its own. May change between opens.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Options {
        self.segment_bytes = bytes;
        self
    }

    /// How many bytes of frames may wait in memory before an append waits for the operating system: 4 KiB to 1 GiB.
    /// Default 1 MiB. The buffer is a ring of at least four pages, of 64 KiB where that fits; a record larger than a page
    /// travels beside it, in order.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: u64) -> Options {
        self.buffer_bytes = bytes;
        self
    }

    /// The largest payload of a record, or of a batch in all, that is accepted: 1 byte to 255 MiB. Default 64 MiB.
    #[must_use]
    pub fn max_record_bytes(mut self, bytes: u64) -> Options {
        self.max_record_bytes = bytes;
        self
    }

    /// Whether open creates the directory (its last component) and the log if they are missing. Default true.
    #[must_use]
    pub fn create(mut self, create: bool) -> Options {
        self.create = create;
        self
    }

    /// How long the log must be quiet before it proves its end: what is buffered is synced, and a mark is written and
    /// synced that states so. 1 ms to 1 day; default 1 s. Without the mark, damage behind the last sync of a log that was
    /// neither closed nor appended to again looks like a torn tail.
    #[must_use]
    pub fn idle(mut self, idle: Duration) -> Options {
        self.idle = idle;
        self
    }

    /// Whether a commit of one page may be one synced write (`RWF_DSYNC` on Linux) instead of a write and a sync, where
    /// nothing before it is undurable. Default false: measure it on your disk.
    #[must_use]
    pub fn synced_writes(mut self, synced_writes: bool) -> Options {
        self.synced_writes = synced_writes;
        self
    }

    /// How a record larger than a page of the buffer is written. Default [`Large::Appendix`].
    #[must_use]
    pub fn large(mut self, large: Large) -> Options {
        self.large = large;
        self
    }

    /// What open does about damage. Default [`RecoveryMode::TolerateTornTail`].
    #[must_use]
    pub fn recovery(mut self, mode: RecoveryMode) -> Options {
        self.recovery = mode;
        self
    }

    /// Plants a bug.
    #[cfg(feature = "plants")]
    #[must_use]
    pub fn plants(mut self, plants: Plants) -> Options {
        self.plants = plants;
        self
    }

    /// Checks every option.
    ///
    /// # Errors
    /// The first one that is out of range.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let check = |option, value: u64, range: std::ops::RangeInclusive<u64>, multiple: u64, expected| {
            if range.contains(&value) && value.is_multiple_of(multiple) {
                Ok(())
            } else {
                Err(OptionsError { option, value, expected })
            }
        };
        check(
            "segment_bytes",
            self.segment_bytes,
            2 * FIRST_FRAME_OFFSET..=2 << 30,
            BLOCK_BYTES,
            "use a multiple of 4096 from 16384 to 2147483648",
        )?;
        check("buffer_bytes", self.buffer_bytes, BLOCK_BYTES..=1 << 30, 1, "use 4096 to 1073741824")?;
        // The rest of a body's 28 bits is room for the item headers of a batch.
        const { assert!((255 << 20) < MAX_BODY_BYTES) };
        check("max_record_bytes", self.max_record_bytes, 1..=255 << 20, 1, "use 1 to 267386880")?;
        let idle_ms = u64::try_from(self.idle.as_millis()).unwrap_or(u64::MAX);
        check("idle", idle_ms, 1..=24 * 3600 * 1000, 1, "use 1 ms to 1 day")
    }

    pub(crate) fn segment_length(&self) -> u64 {
        self.segment_bytes
    }

    pub(crate) fn segment_blocks(&self) -> u32 {
        // Validated: at most 2 GiB.
        (self.segment_bytes / BLOCK_BYTES) as u32
    }

    /// A ring of this shape, however small, for the model check.
    #[cfg(all(test, feature = "loom"))]
    pub(super) fn model(mut self, pages: u64, page_bytes: u64) -> Options {
        self.buffer_bytes = pages * page_bytes;
        self.model_page_bytes = Some(page_bytes);
        self
    }

    /// Pages of the ring, and bytes of each.
    pub(crate) fn ring(&self) -> (usize, usize) {
        #[cfg(all(test, feature = "loom"))]
        if let Some(page_bytes) = self.model_page_bytes {
            return ((self.buffer_bytes / page_bytes) as usize, page_bytes as usize);
        }
        const PAGE_BYTES: u64 = 64 * 1024;
        const LEAST_PAGES: u64 = 4;
        let page_bytes = PAGE_BYTES.min(self.buffer_bytes / LEAST_PAGES);
        ((self.buffer_bytes / page_bytes) as usize, page_bytes as usize)
    }

    pub(crate) fn recovery_mode(&self) -> RecoveryMode {
        self.recovery
    }

    pub(crate) fn idle_after(&self) -> Duration {
        self.idle
    }

    pub(crate) fn writes_synced(&self) -> bool {
        self.synced_writes
    }

    pub(crate) fn splits(&self) -> bool {
        self.large == Large::Split
    }

    pub(crate) fn record_limit(&self) -> u64 {
        self.max_record_bytes
    }

    pub(crate) fn creates(&self) -> bool {
        self.create
    }
}

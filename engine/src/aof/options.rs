//! Options of a command log, with the names and defaults of redis.conf.

use thiserror::Error;

use crate::plant::{Plants, planted};

use super::{
    load::{AHEAD_BYTES, LoadOptions},
    log::{PAGE_BYTES, PAGES},
    resp::Reading,
    rewrite::SYNC_BYTES,
};

/// When what was written is synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Before any command of a round is acknowledged.
    Always,
    /// In the background, once a second.
    #[default]
    EverySecond,
    /// When the operating system does.
    No,
}

/// Options. Each field is a directive of redis.conf, with its default there, unless it says that it isn't in redis.conf: those are set here alone.
#[derive(Clone, Debug)]
pub struct Options {
    /// `appendfilename`: what the names of the log's files begin with; not a path. Default `appendonly.aof`.
    pub append_filename: String,
    /// `appenddirname`: the log's directory within the data directory; not a path. Default `appendonlydir`.
    pub append_dirname: String,
    /// `appendfsync`. Default every second.
    pub append_fsync: Fsync,
    /// `no-appendfsync-on-rewrite`: no sync while a rewrite runs, so that some 30 s may be lost. Default no.
    pub no_append_fsync_on_rewrite: bool,
    /// `auto-aof-rewrite-percentage`: growth at which the log is rewritten by itself; 0 is never. Default 100.
    pub auto_aof_rewrite_percentage: u64,
    /// `auto-aof-rewrite-min-size`: only a log of more bytes is. Default 64 MiB.
    pub auto_aof_rewrite_min_size: u64,
    /// `aof-load-truncated`: a last file that was cut off is loaded up to there. Default yes.
    pub aof_load_truncated: bool,
    /// `aof-load-corrupt-tail-max-size`: a damaged tail of at most so many bytes is cut, too; 0 is none. Default 0.
    pub aof_load_corrupt_tail_max_size: u64,
    /// `aof-use-rdb-preamble`: accepted, and without effect: a rewrite writes commands. Bases in RDB format are read. Default yes.
    pub aof_use_rdb_preamble: bool,
    /// `aof-timestamp-enabled`: the second is noted where it changes. Default no.
    pub aof_timestamp_enabled: bool,
    /// `aof-rewrite-incremental-fsync`: a file being rewritten is synced as it grows. Default yes.
    pub aof_rewrite_incremental_fsync: bool,
    /// Bytes of a base after which it is synced while it is written, at least 1. Not in redis.conf. Default 4 MiB.
    pub rewrite_sync_bytes: u64,
    /// `aof-disable-auto-gc`: files that a rewrite has replaced are kept. Default no.
    pub aof_disable_auto_gc: bool,
    /// Pages of the ring between appends and the file, at least 2. They also hold what comes in while the log goes on in a new increment,
    /// some milliseconds of syncs: so much is the most that a rewrite takes without making appends wait. Not in redis.conf. Default 32.
    pub ring_pages: usize,
    /// Bytes of a page, at least 1. Not in redis.conf. Default 64 KiB.
    pub ring_page_bytes: usize,
    /// Commands larger than a page are split over pages; else they stand beside the ring. The file is the same. Not in redis.conf.
    /// Default no.
    pub split_large: bool,
    /// What is written at once begins with an annotation that has its checksum, so that a torn or damaged batch is known for one.
    /// Redis skips annotations. Without them a crash may leave commands that read well and were never given. Not in redis.conf.
    /// Default yes.
    pub checksums: bool,
    /// A file of at least so many bytes is read and parsed in the background while it is loaded. Not in redis.conf. Default 1 MiB.
    pub load_ahead_bytes: u64,
    /// Begin an empty log beside a snapshot in RDB format, which then no longer counts. Not in redis.conf. Default no.
    pub ignore_rdb: bool,
    /// A planted bug.
    #[cfg(feature = "plants")]
    pub plants: Plants,
}

/// An option that is out of range.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{option} {wrong}")]
pub struct OptionsError {
    /// The option.
    pub option: &'static str,
    /// What it should be.
    pub wrong: &'static str,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            append_filename: "appendonly.aof".into(),
            append_dirname: "appendonlydir".into(),
            append_fsync: Fsync::default(),
            no_append_fsync_on_rewrite: false,
            auto_aof_rewrite_percentage: 100,
            auto_aof_rewrite_min_size: 64 << 20,
            aof_load_truncated: true,
            aof_load_corrupt_tail_max_size: 0,
            aof_use_rdb_preamble: true,
            aof_timestamp_enabled: false,
            aof_rewrite_incremental_fsync: true,
            rewrite_sync_bytes: SYNC_BYTES,
            aof_disable_auto_gc: false,
            ring_pages: PAGES,
            ring_page_bytes: PAGE_BYTES,
            split_large: false,
            checksums: true,
            load_ahead_bytes: AHEAD_BYTES,
            ignore_rdb: false,
            #[cfg(feature = "plants")]
            plants: Plants::default(),
        }
    }
}

/// Why a text is no configuration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {directive} {wrong}")]
pub struct ConfigError {
    /// The line, from 1.
    pub line: usize,
    /// The directive.
    pub directive: String,
    /// What it should be.
    pub wrong: &'static str,
}

impl Options {
    /// Reads a redis.conf, or a part of one. Directives that are not about the log are skipped; the later of two counts.
    ///
    /// # Errors
    /// [`ConfigError`]: a value that is wrong, or a directive that sounds as if it were about the log and isn't known.
    ///
    /// ```
    /// use engine::aof::options::{Fsync, Options};
    /// let options = Options::parse("appendfsync always # slow\nauto-aof-rewrite-min-size 1gb\nport 6379\n")?;
    /// assert_eq!((options.append_fsync, options.auto_aof_rewrite_min_size), (Fsync::Always, 1 << 30));
    /// assert_eq!(Options::parse("aof-load-truncatd no").unwrap_err().line, 1);
    /// # Ok::<(), engine::aof::options::ConfigError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Options, ConfigError> {
        let mut options = Options::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (directive, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let directive = directive.to_ascii_lowercase();
            options.set(&directive, value(rest)).map_err(|wrong| ConfigError { line: index + 1, directive, wrong })?;
        }
        Ok(options)
    }

    fn set(&mut self, directive: &str, value: &str) -> Result<(), &'static str> {
        match directive {
            "appendfilename" => self.append_filename = name(value)?,
            "appenddirname" => self.append_dirname = name(value)?,
            "appendfsync" => {
                self.append_fsync = match value.to_ascii_lowercase().as_str() {
                    "always" => Fsync::Always,
                    "everysec" => Fsync::EverySecond,
                    "no" => Fsync::No,
                    _ => return Err("is always, everysec or no"),
                }
            }
            "no-appendfsync-on-rewrite" => self.no_append_fsync_on_rewrite = yes(value)?,
            "auto-aof-rewrite-percentage" => {
                self.auto_aof_rewrite_percentage = value.parse().map_err(|_| "is a whole number, 0 for never")?;
            }
            "auto-aof-rewrite-min-size" => self.auto_aof_rewrite_min_size = size(value)?,
            "aof-load-truncated" => self.aof_load_truncated = yes(value)?,
            "aof-load-corrupt-tail-max-size" => self.aof_load_corrupt_tail_max_size = size(value)?,
            "aof-use-rdb-preamble" => self.aof_use_rdb_preamble = yes(value)?,
            "aof-timestamp-enabled" => self.aof_timestamp_enabled = yes(value)?,
            "aof-disable-auto-gc" => self.aof_disable_auto_gc = yes(value)?,
            "aof-rewrite-incremental-fsync" => self.aof_rewrite_incremental_fsync = yes(value)?,
            // Whether there is a log is for who opens one to say.
            "appendonly" => return yes(value).map(drop),
            other if ["append", "aof-", "auto-aof-", "no-append"].iter().any(|start| other.starts_with(start)) => {
                return Err("is not a known directive");
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the options make sense.
    ///
    /// # Errors
    /// [`OptionsError`], with the first that doesn't.
    pub fn validate(&self) -> Result<(), OptionsError> {
        for (option, value) in [("append_filename", &self.append_filename), ("append_dirname", &self.append_dirname)] {
            name(value).map_err(|wrong| OptionsError { option, wrong })?;
        }
        let ranges = [
            ("ring_pages", (2..=1 << 20).contains(&self.ring_pages), "is from 2 to 1048576"),
            ("ring_page_bytes", (1..=1 << 30).contains(&self.ring_page_bytes), "is from 1 to 1073741824"),
            ("rewrite_sync_bytes", self.rewrite_sync_bytes > 0, "is at least 1"),
        ];
        match ranges.into_iter().find(|(_, holds, _)| !holds) {
            Some((option, _, wrong)) => Err(OptionsError { option, wrong }),
            None => Ok(()),
        }
    }

    /// Whether batches have checksums.
    pub(super) fn sums(&self, plants: &Plants) -> bool {
        self.checksums && !planted!(plants, AofNoChecksums)
    }

    #[cfg(feature = "plants")]
    pub(super) fn plants(&self) -> Plants {
        self.plants.clone()
    }

    #[cfg(not(feature = "plants"))]
    pub(super) fn plants(&self) -> Plants {
        Plants::default()
    }

    /// Whether a log of `bytes`, base and increments, is to be rewritten by itself, when it had `reference` bytes after the
    /// last rewrite: growth of at least the percentage, and more than the smallest size.
    #[must_use]
    pub fn rewrite_is_due(&self, bytes: u64, reference: u64) -> bool {
        let growth = (u128::from(bytes) * 100 / u128::from(reference.max(1))).checked_sub(100);
        self.auto_aof_rewrite_percentage != 0
            && bytes > self.auto_aof_rewrite_min_size
            && growth.is_some_and(|growth| growth >= u128::from(self.auto_aof_rewrite_percentage))
    }

    /// How such a log is loaded.
    #[must_use]
    pub fn loading(&self) -> LoadOptions {
        LoadOptions {
            name: self.append_filename.clone(),
            reading: Reading::Strict,
            truncated: self.aof_load_truncated,
            until: None,
            corrupt_tail_bytes: self.aof_load_corrupt_tail_max_size,
            ahead_bytes: self.load_ahead_bytes,
        }
    }
}

/// The value of a directive, without quotes and without a remark behind it.
fn value(rest: &str) -> &str {
    let rest = rest.trim();
    for quote in ['"', '\''] {
        if let Some((inner, _)) = rest.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return inner;
        }
    }
    rest.split(" #").next().unwrap_or_default().trim()
}

fn yes(value: &str) -> Result<bool, &'static str> {
    match value.to_ascii_lowercase().as_str() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("is yes or no"),
    }
}

fn name(value: &str) -> Result<String, &'static str> {
    let plain = !value.is_empty() && !value.contains(['/', '\\', '\0']) && value != "." && value != "..";
    if plain { Ok(value.to_owned()) } else { Err("is a name, not a path") }
}

/// Bytes, with a unit: k is 1000, kb 1024, and so on.
fn size(value: &str) -> Result<u64, &'static str> {
    const WRONG: &str = "is a number of bytes, such as 1048576, 1mb or 64mb";
    let digits = value.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return Err(WRONG),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or(WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_rewritten_by_size_and_growth() {
        const MIB: u64 = 1 << 20;
        let due = |bytes, reference, percentage| {
            Options { auto_aof_rewrite_percentage: percentage, ..Options::default() }.rewrite_is_due(bytes, reference)
        };
        assert!(!due(64 * MIB, 0, 100), "the size must be larger");
        assert!(due(64 * MIB + 1, 0, 100), "a reference of 0 counts as 1");
        assert!(!due(128 * MIB - 1, 64 * MIB, 100), "growth of 99");
        assert!(due(128 * MIB, 64 * MIB, 100), "growth of exactly 100");
        assert!(!due(65 * MIB, 70 * MIB, 1), "it has shrunk");
        assert!(!due(u64::MAX, 1, 0), "never");
        assert!(due(u64::MAX, 1, 100));
    }

    #[test]
    fn a_configuration_is_read_and_what_is_wrong_is_named() {
        let read = |text: &str| format!("{:?}", Options::parse(text));
        assert_eq!(read(""), format!("{:?}", Ok::<_, ConfigError>(Options::default())));
        let text = "# the log\nAppendOnly yes\nappendfilename \"my log.aof\"\nappenddirname logs\nappendfsync no\n\
                    no-appendfsync-on-rewrite yes\nauto-aof-rewrite-percentage 50\nauto-aof-rewrite-min-size 3k\n\
                    aof-load-truncated no\naof-load-corrupt-tail-max-size 512b\naof-use-rdb-preamble no\n\
                    aof-timestamp-enabled yes\naof-rewrite-incremental-fsync no\n\
                    aof-disable-auto-gc yes\nsave 900 1\n";
        let expected = Options {
            append_filename: "my log.aof".into(),
            append_dirname: "logs".into(),
            append_fsync: Fsync::No,
            no_append_fsync_on_rewrite: true,
            auto_aof_rewrite_percentage: 50,
            auto_aof_rewrite_min_size: 3000,
            aof_load_truncated: false,
            aof_load_corrupt_tail_max_size: 512,
            aof_use_rdb_preamble: false,
            aof_timestamp_enabled: true,
            aof_rewrite_incremental_fsync: false,
            aof_disable_auto_gc: true,
            ..Options::default()
        };
        assert_eq!(read(text), format!("{:?}", Ok::<_, ConfigError>(expected)));
        for wrong in [
            "appendfsync sometimes",
            "appendonly maybe",
            "appendfilename a/b",
            "appendfilename ..",
            "appenddirname",
            "auto-aof-rewrite-percentage -1",
            "auto-aof-rewrite-min-size 1tb",
            "auto-aof-rewrite-min-size 99999999999999999999",
            "auto-aof-rewrite-min-size 99999999999gb",
            "aof-no-such-thing yes",
        ] {
            let error = Options::parse(&format!("\n{wrong}")).err();
            assert!(error.as_ref().is_some_and(|error| error.line == 2), "{wrong}: {error:?}");
        }
    }
}

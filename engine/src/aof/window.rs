//! A file read forward: what is at hand of it, and more on demand.

use std::{io, ops::Range};

use crc32fast::Hasher;

use crate::env::{File, read_at_most};

/// Bytes that are read at once.
const WINDOW_BYTES: usize = 256 * 1024;

/// The bytes of a file from some place on, as far as they were read. Memory: 256 KiB, or as much as is asked for at once.
pub(super) struct Window<'f, F> {
    file: &'f F,
    length: u64,
    bytes: Vec<u8>,
    /// Where the bytes begin in the file, and how many of them are done with.
    offset: u64,
    used: usize,
    /// Of what was done with and is no longer at hand.
    hasher: Hasher,
}

impl<'f, F: File> Window<'f, F> {
    /// Nothing at hand yet, from one byte to another, where the file ends.
    pub(super) fn within(file: &'f F, places: Range<u64>) -> Window<'f, F> {
        Window { file, length: places.end, bytes: Vec::new(), offset: places.start, used: 0, hasher: Hasher::new() }
    }

    /// The file.
    pub(super) fn file(&self) -> &'f F {
        self.file
    }

    /// Length of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Checksum of all that was done with.
    pub(super) fn digest(&self) -> u32 {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.bytes[..self.used]);
        hasher.finalize()
    }

    /// Where in the file the rest begins.
    pub(super) fn at(&self) -> u64 {
        self.offset + self.used as u64
    }

    /// What is at hand and not done with.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    /// Is done with the next `count` bytes, which are at hand, and returns them.
    pub(super) fn take(&mut self, count: usize) -> &[u8] {
        self.used += count;
        &self.bytes[self.used - count..self.used]
    }

    /// The last `count` bytes that were taken, until more is read.
    pub(super) fn taken(&self, count: usize) -> &[u8] {
        &self.bytes[self.used - count..self.used]
    }

    /// Reads on, so that `needed` bytes are at hand if the file has them, or some more at least. False at its end.
    pub(super) async fn more(&mut self, needed: usize) -> io::Result<bool> {
        self.hasher.update(&self.bytes[..self.used]);
        self.bytes.drain(..self.used);
        self.offset += self.used as u64;
        self.used = 0;
        let held = self.bytes.len();
        let end = self.offset + held as u64;
        let wanted = WINDOW_BYTES.max(needed.saturating_sub(held)) as u64;
        self.bytes.resize(held + wanted.min(self.length.saturating_sub(end)) as usize, 0);
        let read = read_at_most(self.file, &mut self.bytes[held..], end).await?;
        self.bytes.truncate(held + read);
        Ok(read > 0)
    }
}

//! The side that encodes commands: one page, and what the increment has seen so far.
//!
//! While a command fits the page nothing else is looked at: no mutex, no allocation. What needs more goes through
//! [`Producer::make_room`], under the log's mutex.

use crate::{
    plant::{Plants, planted},
    ring::Ring,
};

use super::{
    resp::{self, Digits},
    sums::LINE_BYTES,
};

/// What a filled page of the ring means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// How far the log reaches with it, in bytes since open.
    pub(super) upto: u64,
    /// What it begins with.
    pub(super) head: Head,
    /// A batch ends with it.
    pub(super) ends: bool,
}

/// What the bytes of a page begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The line of a batch that ends with the page; to be filled in.
    Batch,
    /// The line of a batch that goes on in the next pages: bytes behind the line, and their CRC-32.
    Large(u32, u32),
    /// Nothing of the kind.
    Plain,
    /// There are no bytes: a new increment begins here.
    Switch,
}

/// Something to append: a command, or several that are executed as one.
#[derive(Debug)]
pub(super) struct Record<'a, A> {
    /// The database that it is executed in.
    pub(super) database: u32,
    pub(super) commands: &'a [&'a [A]],
    /// The second since the Unix epoch to note, where that is wanted.
    pub(super) second: Option<i64>,
}

/// A large record on its way into pages. It was accepted as a whole.
struct Rest {
    bytes: Vec<u8>,
    /// How much of it is in pages.
    done: usize,
    head: Head,
}

/// All pages are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Accepts commands, one after the other.
pub(super) struct Producer {
    /// The page being filled; without capacity if there is none.
    page: Vec<u8>,
    /// How much may be put into it.
    page_bytes: usize,
    /// The page is a buffer of its own for one large record.
    appendix: bool,
    rest: Option<Rest>,
    /// Bytes accepted since open.
    pub(super) accepted: u64,
    pub(super) commands: u64,
    /// The database that a reader of the increment would have selected here; `None` when the log was opened, as in Redis, and behind a
    /// switch, which may fail and leave the old increment where it was.
    database: Option<u32>,
    /// The second that was noted last.
    second: Option<i64>,
    /// Batches begin with a line for their checksum.
    sums: bool,
}

const MULTI: &[&[u8]] = &[b"MULTI"];
const EXEC: &[&[u8]] = &[b"EXEC"];

impl Producer {
    /// At the end of an increment.
    pub(super) fn new(sums: bool) -> Producer {
        Producer {
            page: Vec::new(),
            page_bytes: 0,
            appendix: false,
            rest: None,
            accepted: 0,
            commands: 0,
            database: None,
            second: None,
            sums,
        }
    }

    /// Appends a record if the page has room for it.
    #[inline]
    pub(super) fn append<A: AsRef<[u8]>>(&mut self, record: &Record<'_, A>) -> bool {
        let bytes = self.encoded_bytes(record);
        let fits = self.page.len().max(self.line_bytes()) + bytes <= self.page_bytes;
        if fits {
            self.encode(record, bytes);
        }
        fits
    }

    /// Bytes that a record would take here.
    pub(super) fn encoded_bytes<A: AsRef<[u8]>>(&self, record: &Record<'_, A>) -> usize {
        let mut bytes = record.commands.iter().map(|command| resp::encoded_bytes(command)).sum::<usize>();
        if record.second != self.second && record.second.is_some() {
            bytes += record.second.map_or(0, resp::timestamp_bytes);
        }
        if Some(record.database) != self.database {
            bytes += resp::encoded_bytes(&[b"SELECT".as_slice(), Digits::of(record.database).as_ref()]);
        }
        if record.commands.len() > 1 {
            bytes += resp::encoded_bytes(MULTI) + resp::encoded_bytes(EXEC);
        }
        bytes
    }

    fn encode<A: AsRef<[u8]>>(&mut self, record: &Record<'_, A>, bytes: usize) {
        if self.page.is_empty() {
            self.page.resize(self.line_bytes(), 0);
            self.accepted += self.line_bytes() as u64;
        }
        let before = self.page.len();
        if let Some(second) = record.second.filter(|second| Some(*second) != self.second) {
            resp::encode_timestamp(&mut self.page, second);
            self.second = Some(second);
        }
        if Some(record.database) != self.database {
            resp::encode(&mut self.page, &[b"SELECT".as_slice(), Digits::of(record.database).as_ref()]);
            self.database = Some(record.database);
        }
        let unit = record.commands.len() > 1;
        if unit {
            resp::encode(&mut self.page, MULTI);
        }
        let mut at = self.page.len();
        self.page.resize(before + bytes - if unit { resp::encoded_bytes(EXEC) } else { 0 }, 0);
        for command in record.commands {
            at += resp::encode_into(&mut self.page[at..], command);
        }
        if unit {
            resp::encode(&mut self.page, EXEC);
        }
        debug_assert_eq!(self.page.len() - before, bytes);
        self.accepted += bytes as u64;
        self.commands += record.commands.len() as u64;
    }

    /// Bytes of the line that a batch begins with.
    fn line_bytes(&self) -> usize {
        if self.sums { LINE_BYTES } else { 0 }
    }

    /// Bytes that were accepted and that the ring hasn't.
    pub(super) fn held(&self) -> u64 {
        (self.page.len() + self.rest.as_ref().map_or(0, |rest| rest.bytes.len() - rest.done)) as u64
    }

    /// Sees that the page has room for `bytes`.
    pub(super) fn make_room(&mut self, ring: &mut Ring<Page>, bytes: usize, split: bool) -> Result<(), Full> {
        self.hand_over(ring, split)?;
        if bytes > ring.page_bytes() {
            if !ring.has_room_for(bytes as u64) {
                return Err(Full);
            }
            let bytes = bytes + self.line_bytes();
            (self.page, self.page_bytes, self.appendix) = (Vec::with_capacity(bytes), bytes, true);
        } else {
            self.page = ring.empty_page().ok_or(Full)?;
            self.page_bytes = ring.page_bytes() + self.line_bytes();
        }
        Ok(())
    }

    /// Puts what was accepted into the ring.
    pub(super) fn hand_over(&mut self, ring: &mut Ring<Page>, split: bool) -> Result<(), Full> {
        if self.appendix && split && !self.page.is_empty() {
            let bytes = std::mem::take(&mut self.page);
            let data = &bytes[self.line_bytes()..];
            let head = if self.sums { Head::Large(data.len() as u32, crc32fast::hash(data)) } else { Head::Plain };
            self.rest = Some(Rest { bytes, done: 0, head });
            (self.appendix, self.page_bytes) = (false, 0);
        }
        self.split(ring)?;
        if !self.page.is_empty() {
            if !ring.has_room() {
                return Err(Full);
            }
            let head = if self.sums { Head::Batch } else { Head::Plain };
            ring.append(Page { upto: self.accepted, head, ends: true }, std::mem::take(&mut self.page), self.appendix);
        } else if self.page.capacity() > 0 && !self.appendix {
            ring.put_back(std::mem::take(&mut self.page));
        } else {
            self.page = Vec::new();
        }
        (self.page_bytes, self.appendix) = (0, false);
        Ok(())
    }

    /// Puts a large record into pages, as many as there are.
    fn split(&mut self, ring: &mut Ring<Page>) -> Result<(), Full> {
        while let Some(rest) = &mut self.rest {
            if !ring.has_room() {
                return Err(Full);
            }
            let mut page = ring.empty_page().ok_or(Full)?;
            // The line of a batch stays in one piece.
            let least = if rest.done == 0 && self.sums { LINE_BYTES } else { 0 };
            let piece = &rest.bytes[rest.done..rest.bytes.len().min(rest.done + ring.page_bytes().max(least))];
            page.extend_from_slice(piece);
            rest.done += piece.len();
            let head = std::mem::replace(&mut rest.head, Head::Plain);
            let left = rest.bytes.len() - rest.done;
            ring.append(Page { upto: self.accepted - left as u64, head, ends: left == 0 }, page, false);
            if left == 0 {
                self.rest = None;
            }
        }
        Ok(())
    }

    /// Lets a new increment begin here.
    pub(super) fn switch(&mut self, ring: &mut Ring<Page>, split: bool, plants: &Plants) -> Result<(), Full> {
        self.hand_over(ring, split)?;
        if !ring.has_room() {
            return Err(Full);
        }
        ring.append(Page { upto: self.accepted, head: Head::Switch, ends: true }, Vec::new(), true);
        self.database = if planted!(plants, RewriteSelectForgotten) { Some(0) } else { None };
        self.second = None;
        Ok(())
    }
}

//! Reading frames out of one file, through a window of its bytes that their records may share.

use std::{
    io,
    ops::{Deref, Range},
};

use bytes::{Bytes, BytesMut};

#[cfg(feature = "plants")]
use crate::plant::{Plants, planted};
use crate::{
    codec::{FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, Frame, Header, Undecodable},
    env::{Dir, File, interruptible, read_at_most},
};

use super::Segment;

/// Bytes that a scan reads at once: few at first, since often only the start is looked at, then four times as many each
/// time.
const FIRST_WINDOW_BYTES: u64 = 8 * 1024;
const WINDOW_BYTES: u64 = 256 * 1024;

/// A frame that a [`Scanner`] found, with its body still in the scanner's window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) header: Header,
    pub(crate) crc: u32,
    pub(crate) offset: u64,
}

impl Found {
    /// Offset of the first byte behind it.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.header.frame_bytes()
    }
}

/// Bytes of one file that were read. What was read once is not read again: after a failed sync in an earlier process a page
/// may be evicted, and read differently a moment later.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Generation of the segment; 0 is none.
    generation: u64,
    length: u64,
    /// Memory, which records may share; the first `held` bytes of it were read.
    bytes: Bytes,
    held: usize,
    offset: u64,
    /// The frames from the first one on up to this offset were decoded out of these bytes, as far as they hold them still.
    whole: u64,
}

/// Reads frames out of one file through a window of bytes.
pub(crate) struct Scanner<'a, F> {
    file: &'a F,
    seed: u32,
    window: Window,
    #[cfg(feature = "plants")]
    plants: Plants,
}

impl<'a, F: File> Scanner<'a, F> {
    /// Begins to scan the file of a segment, or goes on with the window of an earlier scan of it. The memory of a window of
    /// another segment is used again.
    pub(crate) async fn new<D: Dir<File = F>>(
        file: &'a F,
        segment: &Segment<D>,
        mut window: Window,
    ) -> io::Result<Scanner<'a, F>> {
        if window.generation != segment.generation() {
            let length = interruptible(|| file.len()).await?;
            window.held = 0;
            window = Window { generation: segment.generation(), length, offset: 0, whole: 0, ..window };
        }
        Ok(Scanner {
            file,
            seed: segment.seed(),
            window,
            #[cfg(feature = "plants")]
            plants: segment.plants.clone(),
        })
    }

    /// What was read, for a later scan.
    pub(crate) fn into_window(self) -> Window {
        self.window
    }

    /// Length of what is scanned, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.window.length
    }

    /// Decodes the frame at `offset`. The outer error is the machine's and says nothing about the log.
    pub(crate) async fn frame(&mut self, offset: u64) -> io::Result<Result<Found, Undecodable>> {
        match self.frame_now(offset) {
            Some(found) => Ok(Ok(found)),
            None => self.frame_filled(offset).await,
        }
    }

    /// Decodes the frame at `offset` if it is in the window as a whole.
    pub(crate) fn frame_now(&self, offset: u64) -> Option<Found> {
        let frame = Frame::decode(self.bytes(offset), self.seed, offset).ok()?;
        Some(Found { header: frame.header, crc: frame.crc, offset })
    }

    /// The same, for who goes from the first frame on from each one to the next: what was found whole on this way before, in
    /// these very bytes, isn't summed up again.
    pub(crate) fn frame_on_the_way(&self, offset: u64) -> Option<Found> {
        if offset >= self.window.whole {
            return self.frame_now(offset);
        }
        let (header, crc) = Frame::decode_again(self.bytes(offset), self.seed, offset)?;
        Some(Found { header, crc, offset })
    }

    /// All frames from the first one up to `end` were decoded, one after the other.
    pub(crate) fn found_whole(&mut self, end: u64) {
        self.window.whole = end;
    }

    async fn frame_filled(&mut self, offset: u64) -> io::Result<Result<Found, Undecodable>> {
        self.fill(offset, FRAME_HEADER_BYTES).await?;
        let Some(header) = Header::peek(self.bytes(offset), self.seed, offset) else {
            #[cfg(feature = "plants")]
            if planted!(self.plants, WalLenNotChecksummed)
                && let Some(frame) = Frame::decode_body_alone(self.bytes(offset), self.seed, offset)
            {
                return Ok(Ok(Found { header: frame.header, crc: frame.crc, offset }));
            }
            return Ok(Err(Undecodable::NoHeader));
        };
        // The length is only plausible: it may ask for no more memory than the file has bytes.
        if offset + FRAME_HEADER_BYTES + header.body_bytes > self.window.length {
            return Ok(Err(Undecodable::BadBody));
        }
        self.fill(offset, FRAME_HEADER_BYTES + header.body_bytes).await?;
        Ok(Frame::decode(self.bytes(offset), self.seed, offset).map(|frame| Found {
            header: frame.header,
            crc: frame.crc,
            offset,
        }))
    }

    /// Where a frame would end whose header at `offset` is plausible, as far as the file goes.
    pub(crate) fn torn_end(&self, offset: u64) -> u64 {
        let header = Header::peek(self.bytes(offset), self.seed, offset);
        header.map_or(offset, |header| (offset + header.frame_bytes()).min(self.window.length))
    }

    /// The body of the frame that was found last.
    pub(crate) fn body(&self, found: &Found) -> &[u8] {
        let bytes = self.bytes(found.offset + FRAME_HEADER_BYTES);
        bytes.get(..found.header.body_bytes as usize).unwrap_or_default()
    }

    /// A [`Scanner::body`] where it stands.
    pub(crate) fn in_window(&self, found: &Found) -> InWindow<'_> {
        let begin = (found.offset + FRAME_HEADER_BYTES - self.window.offset) as usize;
        InWindow { window: &self.window.bytes, range: begin..begin + found.header.body_bytes as usize }
    }

    /// The next intact frame at or after `offset`, wherever it stands. Used behind the end of a log, to count what a crash
    /// left there and to learn what it claims.
    pub(crate) async fn survivor(&mut self, mut offset: u64) -> io::Result<Option<Found>> {
        offset = offset.next_multiple_of(FRAME_ALIGN_BYTES);
        loop {
            offset = self.behind_known_zeros(offset);
            if offset + FRAME_HEADER_BYTES > self.window.length {
                return Ok(None);
            }
            self.fill(offset, FRAME_HEADER_BYTES).await?;
            let bytes = self.bytes(offset);
            let (hit, scanned) = plausible(bytes, self.seed, offset);
            match hit {
                None => offset += scanned,
                Some(at) => {
                    offset += at;
                    if let Ok(found) = self.frame(offset).await? {
                        return Ok(Some(found));
                    }
                    offset += FRAME_ALIGN_BYTES;
                }
            }
        }
    }

    /// The first place at or after `offset` where a header may stand, if what was read ends in zeros and the machine knows
    /// that zeros follow; else `offset`.
    fn behind_known_zeros(&self, offset: u64) -> u64 {
        let read = self.bytes(offset);
        if read.len() as u64 >= FRAME_HEADER_BYTES || read.iter().any(|byte| *byte != 0) {
            return offset;
        }
        let end = offset + read.len() as u64;
        match self.file.known_zeros(end) {
            0 => offset,
            // The kind of a frame stands in byte 7, and is never 0.
            zeros => offset.max((end + zeros).saturating_sub(7).next_multiple_of(FRAME_ALIGN_BYTES)),
        }
    }

    /// The part of the window from `offset` on.
    fn bytes(&self, offset: u64) -> &[u8] {
        let at = offset.checked_sub(self.window.offset).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.window.bytes.get(at..self.window.held)).unwrap_or_default()
    }

    /// Makes the window hold `count` bytes from `offset` on, as far as the file has them.
    async fn fill(&mut self, offset: u64, count: u64) -> io::Result<()> {
        let end = (offset + count).min(self.window.length);
        let window = &mut self.window;
        if offset >= window.offset && end <= window.offset + window.held as u64 {
            return Ok(());
        }
        let onward = window.held > 0 && offset > window.offset;
        let usual = if onward { (4 * window.held as u64).min(WINDOW_BYTES) } else { FIRST_WINDOW_BYTES };
        let wanted = count.max(usual).min(window.length.saturating_sub(offset)) as usize;
        // After an error the window holds nothing, so that a second try reads again.
        window.held = 0;
        window.whole = 0;
        window.offset = offset;
        // The memory is used again if nobody holds a record in it.
        let mut memory = std::mem::take(&mut window.bytes).try_into_mut().unwrap_or_default();
        if memory.len() < wanted {
            memory = BytesMut::zeroed(wanted);
        }
        window.held = read_at_most(self.file, &mut memory[..wanted], offset).await?;
        window.bytes = memory.freeze();
        Ok(())
    }
}

/// Bytes that were read, in the window that they were read into with others: who keeps many shares windows, not each of them.
#[derive(Clone, Debug)]
pub(crate) struct InWindow<'a> {
    window: &'a Bytes,
    range: Range<usize>,
}

impl<'a> InWindow<'a> {
    /// What they stand in.
    pub(crate) fn window(&self) -> &'a Bytes {
        self.window
    }

    /// Where they stand there.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// A part of them.
    pub(crate) fn slice(&self, part: Range<usize>) -> InWindow<'a> {
        let begin = self.range.start;
        InWindow { window: self.window, range: begin + part.start..begin + part.end }
    }

    /// By themselves: they keep the window.
    pub(crate) fn shared(&self) -> Bytes {
        self.window.slice(self.range())
    }
}

impl Deref for InWindow<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.window[self.range()]
    }
}

impl<'a> From<&'a Bytes> for InWindow<'a> {
    fn from(window: &'a Bytes) -> InWindow<'a> {
        InWindow { window, range: 0..window.len() }
    }
}

/// Where in `bytes`, which stand at `offset`, the first plausible header stands, and how many bytes were looked at: all but
/// those that are shorter than a header.
fn plausible(bytes: &[u8], seed: u32, offset: u64) -> (Option<u64>, u64) {
    /// Zeros are skipped in pieces of these sizes.
    const PAGE: usize = 4096;
    const PIECE: usize = 256;
    let (step, header) = (FRAME_ALIGN_BYTES as usize, FRAME_HEADER_BYTES as usize);
    let mut at = 0;
    while at + header <= bytes.len() {
        // Kind 0 is never valid, and the kind stands in byte 7.
        if bytes[at + 7] >> 4 != 0 {
            if Header::peek(&bytes[at..], seed, offset + at as u64).is_some() {
                return (Some(at as u64), at as u64);
            }
        } else if bytes.get(at..at + PAGE).is_some_and(|page| *page == [0; PAGE]) {
            at += PAGE - 8;
            continue;
        } else if bytes.get(at..at + PIECE).is_some_and(|piece| *piece == [0; PIECE]) {
            at += PIECE - 8;
            continue;
        }
        at += step;
    }
    (None, at as u64)
}

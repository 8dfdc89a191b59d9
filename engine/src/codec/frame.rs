//! One frame: a 16-byte header, a body, zeros up to the next multiple of four.

use super::{BLOCK_BYTES, FRAME_ALIGN_BYTES, Position, get_u16, get_u32, offset_u32};

/// Length of the header in bytes.
pub const FRAME_HEADER_BYTES: u64 = 16;
/// Bodies are shorter than 256 MiB.
pub const MAX_BODY_BYTES: u64 = (1 << 28) - 1;
/// The `undurable` field of a frame that claims nothing.
pub const NO_CLAIM: u16 = u16::MAX;

/// Offset of each header field, in bytes; FORMAT.md is held against this table.
pub(super) mod at {
    pub(crate) const CRC: usize = 0;
    pub(crate) const LENGTH_KIND: usize = 4;
    pub(crate) const ORDINAL: usize = 8;
    pub(crate) const UNDURABLE: usize = 12;
    pub(crate) const HCHECK: usize = 14;
    pub(crate) const BODY: usize = 16;
}

/// What a frame holds. 0 is never valid, so zeros are never a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameKind {
    /// One record.
    Record = 1,
    /// Several records, all or none of which are recovered.
    Batch = 2,
    /// The first frame of a segment: where it stands in the chain.
    Start = 3,
    /// The last frame of a rotated segment: who follows.
    Seal = 4,
    /// A statement about the log that uses no LSN.
    Mark = 5,
    /// Nothing; fills up to a block boundary.
    Filler = 6,
}

impl FrameKind {
    /// All kinds, in the order of their codes, which count from 1.
    pub const ALL: [FrameKind; 6] =
        [FrameKind::Record, FrameKind::Batch, FrameKind::Start, FrameKind::Seal, FrameKind::Mark, FrameKind::Filler];

    fn from_code(code: u32) -> Option<FrameKind> {
        FrameKind::ALL.get((code as usize).wrapping_sub(1)).copied()
    }
}

/// Bytes that a frame with this body takes on disk.
#[must_use]
pub const fn frame_bytes(body_bytes: u64) -> u64 {
    (FRAME_HEADER_BYTES + body_bytes).next_multiple_of(FRAME_ALIGN_BYTES)
}

/// A header whose `hcheck` was found right: its length may be trusted to look further, and for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body holds.
    pub kind: FrameKind,
    /// Length of the body in bytes.
    pub body_bytes: u64,
    /// First LSN of the frame, counted from the segment's base LSN.
    pub ordinal: u32,
    /// Distance back from the frame to what was known durable, in blocks rounded up.
    pub undurable: u16,
}

/// A frame that was fully checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Its checksum, as stored.
    pub crc: u32,
    /// Its body.
    pub body: &'a [u8],
}

/// Why no frame stands at a place. None of these is an error by itself: every log ends in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecodable {
    /// Fewer bytes than a header, or no plausible header.
    NoHeader,
    /// A plausible header whose body is cut off or fails its checksum.
    BadBody,
}

impl Header {
    /// Reads a plausible header at `offset`, or `None`.
    #[must_use]
    pub fn peek(bytes: &[u8], seed: u32, offset: u64) -> Option<Header> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES as usize)?;
        let word = get_u32(bytes, at::LENGTH_KIND);
        let kind = FrameKind::from_code(word >> 28)?;
        let (ordinal, undurable) = (get_u32(bytes, at::ORDINAL), get_u16(bytes, at::UNDURABLE));
        if get_u16(bytes, at::HCHECK) != hcheck(seed, offset, word, ordinal, undurable) {
            return None;
        }
        Some(Header { kind, body_bytes: u64::from(word & MAX_BODY_BYTES as u32), ordinal, undurable })
    }

    /// Bytes of the whole frame on disk.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        frame_bytes(self.body_bytes)
    }

    /// Up to where this frame, standing at `offset` of `generation`, states the log to be durable.
    #[must_use]
    pub fn claim(&self, generation: u64, offset: u64) -> Option<Position> {
        (self.undurable != NO_CLAIM)
            .then(|| Position { generation, offset: offset.saturating_sub(u64::from(self.undurable) * BLOCK_BYTES) })
    }

    /// The `undurable` field for a frame at `offset`, given how far the same segment is durable.
    #[must_use]
    pub fn undurable_at(offset: u64, durable_offset: Option<u64>) -> u16 {
        match durable_offset {
            Some(durable) => u16::try_from(offset.saturating_sub(durable).div_ceil(BLOCK_BYTES)).unwrap_or(NO_CLAIM),
            None => NO_CLAIM,
        }
    }
}

impl<'a> Frame<'a> {
    /// Decodes the frame at the start of `bytes`, which stands at `offset` of a segment with `seed`.
    ///
    /// # Errors
    /// [`Undecodable`]; never panics, whatever the bytes are.
    pub fn decode(bytes: &'a [u8], seed: u32, offset: u64) -> Result<Frame<'a>, Undecodable> {
        let header = Header::peek(bytes, seed, offset).ok_or(Undecodable::NoHeader)?;
        let end = at::BODY as u64 + header.body_bytes;
        let body = usize::try_from(end).ok().and_then(|end| bytes.get(at::BODY..end)).ok_or(Undecodable::BadBody)?;
        let crc = get_u32(bytes, at::CRC);
        if crc != checksum(seed, offset, &bytes[at::LENGTH_KIND..at::BODY + body.len()], &[]) {
            return Err(Undecodable::BadBody);
        }
        Ok(Frame { header, crc, body })
    }

    /// The header and the checksum of a frame that was decoded out of these very bytes before; `None` if they can't be.
    pub(crate) fn decode_again(bytes: &[u8], seed: u32, offset: u64) -> Option<(Header, u32)> {
        let header = Header::peek(bytes, seed, offset)?;
        (header.frame_bytes() <= bytes.len() as u64).then(|| (header, get_u32(bytes, at::CRC)))
    }

    /// The planted bug, planted through both checksums of a header: a frame of which one bit behind the length and before
    /// the body has changed passes, and says what it says now. (A changed length reads another body, which fails anyhow.)
    #[cfg(feature = "plants")]
    pub(crate) fn decode_body_alone(bytes: &'a [u8], seed: u32, offset: u64) -> Option<Frame<'a>> {
        const FIRST_BIT: u32 = 8 * at::LENGTH_KIND as u32 + 28;
        let stored: [u8; at::BODY] = bytes.get(..at::BODY)?.try_into().ok()?;
        let word = get_u32(&stored, at::LENGTH_KIND);
        let body_bytes = u64::from(word & MAX_BODY_BYTES as u32);
        let body = bytes.get(at::BODY..at::BODY + body_bytes as usize)?;
        let intact = (FIRST_BIT..8 * at::BODY as u32).any(|bit| {
            let before = (u128::from_le_bytes(stored) ^ 1 << bit).to_le_bytes();
            Header::peek(&before, seed, offset).is_some()
                && get_u32(&before, at::CRC) == checksum(seed, offset, &before[at::LENGTH_KIND..], body)
        });
        let (ordinal, undurable) = (get_u32(&stored, at::ORDINAL), get_u16(&stored, at::UNDURABLE));
        let header = Header { kind: FrameKind::from_code(word >> 28)?, body_bytes, ordinal, undurable };
        intact.then_some(Frame { header, crc: get_u32(&stored, at::CRC), body })
    }

    /// Appends a frame to `out`, to stand at `offset` of a segment with `seed`; `body` writes its bytes. Returns its checksum.
    pub fn encode(
        out: &mut Vec<u8>,
        seed: u32,
        offset: u64,
        kind: FrameKind,
        ordinal: u32,
        undurable: u16,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> u32 {
        let start = out.len();
        out.extend_from_slice(&[0; at::BODY]);
        body(out);
        let body_bytes = out.len() - start - at::BODY;
        let mut header = header(seed, offset, kind, body_bytes, ordinal, undurable);
        let crc = checksum(seed, offset, &header[at::LENGTH_KIND..], &out[start + at::BODY..]);
        header[..at::LENGTH_KIND].copy_from_slice(&crc.to_le_bytes());
        out[start..start + at::BODY].copy_from_slice(&header);
        pad(out, body_bytes);
        crc
    }

    /// As [`Frame::encode`], for a body that is there as a whole: it is summed up where it lies, not in the copy that was
    /// just written.
    pub fn encode_whole(
        out: &mut Vec<u8>,
        seed: u32,
        offset: u64,
        kind: FrameKind,
        ordinal: u32,
        undurable: u16,
        body: &[u8],
    ) -> u32 {
        let mut header = header(seed, offset, kind, body.len(), ordinal, undurable);
        let crc = checksum(seed, offset, &header[at::LENGTH_KIND..], body);
        header[..at::LENGTH_KIND].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(body);
        pad(out, body.len());
        crc
    }
}

/// A header without its checksum. Put together from whole words: reading back what was just stored in pieces stalls.
fn header(seed: u32, offset: u64, kind: FrameKind, body_bytes: usize, ordinal: u32, undurable: u16) -> [u8; at::BODY] {
    debug_assert!(body_bytes as u64 <= MAX_BODY_BYTES, "callers bound the body");
    let word = body_bytes as u32 | (kind as u32) << 28;
    let check = hcheck(seed, offset, word, ordinal, undurable);
    const {
        assert!(at::CRC == 0 && at::LENGTH_KIND == 4 && at::ORDINAL == 8 && at::UNDURABLE == 12 && at::HCHECK == 14);
    }
    let low = u64::from(word) << 32;
    let high = u64::from(ordinal) | u64::from(undurable) << 32 | u64::from(check) << 48;
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

/// Zeros up to where the next frame begins.
fn pad(out: &mut Vec<u8>, body_bytes: usize) {
    let padding = frame_bytes(body_bytes as u64) as usize - at::BODY - body_bytes;
    for _ in 0..padding {
        out.push(0);
    }
}

/// The checksum of a frame: over its header behind the checksum's own place, and its body, which may lie apart.
fn checksum(seed: u32, offset: u64, header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed ^ offset_u32(offset));
    hasher.update(header);
    if !body.is_empty() {
        hasher.update(body);
    }
    hasher.finalize()
}

/// Folds seed, offset and bytes 4..14 into 16 bits by multiplication with the 64-bit golden ratio.
fn hcheck(seed: u32, offset: u64, length_kind: u32, ordinal: u32, undurable: u16) -> u16 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut fold = u64::from(seed ^ offset_u32(offset));
    for word in [length_kind, ordinal, u32::from(undurable)] {
        fold = (fold ^ u64::from(word)).wrapping_mul(GOLDEN);
        fold ^= fold >> 32;
    }
    (fold & 0xFFFF) as u16
}

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
    /// All kinds, in the order of their codes.
    pub const ALL: [FrameKind; 6] =
        [FrameKind::Record, FrameKind::Batch, FrameKind::Start, FrameKind::Seal, FrameKind::Mark, FrameKind::Filler];

    fn from_code(code: u32) -> Option<FrameKind> {
        FrameKind::ALL.into_iter().find(|kind| *kind as u32 == code)
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
        if get_u16(bytes, at::HCHECK) != hcheck(seed, offset, bytes) {
            return None;
        }
        Some(Header {
            kind,
            body_bytes: u64::from(word & MAX_BODY_BYTES as u32),
            ordinal: get_u32(bytes, at::ORDINAL),
            undurable: get_u16(bytes, at::UNDURABLE),
        })
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
        let covered =
            usize::try_from(end).ok().and_then(|end| bytes.get(at::LENGTH_KIND..end)).ok_or(Undecodable::BadBody)?;
        let crc = get_u32(bytes, at::CRC);
        if crc != checksum(seed, offset, covered) {
            return Err(Undecodable::BadBody);
        }
        Ok(Frame { header, crc, body: &covered[at::BODY - at::LENGTH_KIND..] })
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
        out.resize(start + at::BODY, 0);
        body(out);
        let body_bytes = (out.len() - start - at::BODY) as u32;
        debug_assert!(u64::from(body_bytes) <= MAX_BODY_BYTES, "callers bound the body");
        let header = &mut out[start..start + at::BODY];
        header[at::LENGTH_KIND..at::ORDINAL].copy_from_slice(&(body_bytes | (kind as u32) << 28).to_le_bytes());
        header[at::ORDINAL..at::UNDURABLE].copy_from_slice(&ordinal.to_le_bytes());
        header[at::UNDURABLE..at::HCHECK].copy_from_slice(&undurable.to_le_bytes());
        let check = hcheck(seed, offset, header);
        header[at::HCHECK..at::BODY].copy_from_slice(&check.to_le_bytes());
        let crc = checksum(seed, offset, &out[start + at::LENGTH_KIND..]);
        out[start..start + at::LENGTH_KIND].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + frame_bytes(u64::from(body_bytes)) as usize, 0);
        crc
    }
}

fn checksum(seed: u32, offset: u64, covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed ^ offset_u32(offset));
    hasher.update(covered);
    hasher.finalize()
}

/// Folds seed, offset and bytes 4..14 into 16 bits by multiplication with the 64-bit golden ratio.
fn hcheck(seed: u32, offset: u64, header: &[u8]) -> u16 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut fold = u64::from(seed ^ offset_u32(offset));
    for word in
        [get_u32(header, at::LENGTH_KIND), get_u32(header, at::ORDINAL), u32::from(get_u16(header, at::UNDURABLE))]
    {
        fold = (fold ^ u64::from(word)).wrapping_mul(GOLDEN);
        fold ^= fold >> 32;
    }
    (fold & 0xFFFF) as u16
}

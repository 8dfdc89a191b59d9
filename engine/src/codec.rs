//! Bytes in, bytes out: identities and frames of the log, exactly as FORMAT.md draws them.
//!
//! Pure and total: no I/O, no panic on any input, no allocation that a length field from the disk could inflate.
//! A frame's checksum starts from its segment's seed and its own offset, so a frame that was written elsewhere, or in an
//! earlier life of the same file, never passes.

mod body;
mod frame;
mod identity;

pub use body::{Batch, Mark, SEAL_BODY_BYTES, START_BODY_BYTES, Seal, Start, encode_batch_body};
pub use frame::{FRAME_HEADER_BYTES, Frame, FrameKind, Header, MAX_BODY_BYTES, NO_CLAIM, Undecodable, frame_bytes};
pub use identity::{BadIdentity, FORMAT_MAJOR, FORMAT_MINOR, IDENTITY_BYTES, Identity, MAGIC};

/// The unit of segment sizes and of durability claims, in bytes.
pub const BLOCK_BYTES: u64 = 4096;

/// Offsets of the two copies of a segment's identity.
pub const IDENTITY_OFFSETS: [u64; 2] = [0, BLOCK_BYTES];

/// Offset of the first frame of a segment.
pub const FIRST_FRAME_OFFSET: u64 = 2 * BLOCK_BYTES;

/// Frames start at multiples of this many bytes.
pub const FRAME_ALIGN_BYTES: u64 = 4;

/// A place in the log: ordered first by generation, then by offset. Everything before it, on its chain, is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Generation of the segment; 0 before the first.
    pub generation: u64,
    /// Offset in bytes in that segment's file.
    pub offset: u64,
}

/// Little-endian fields at fixed offsets. Every caller has checked the length of `bytes` before.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

pub(crate) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// Offsets are stored in 32 bits. Segments are bounded below 4 GiB, so the cast loses nothing; should that ever break,
/// the largest value makes the field a claim about nothing that exists, not a wrong place.
fn offset_u32(offset: u64) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod format_test;
#[cfg(test)]
mod tests;

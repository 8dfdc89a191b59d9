//! Who a segment is: written twice, at the start of the file, before any frame.

use thiserror::Error;

use super::{BLOCK_BYTES, FIRST_FRAME_OFFSET, Position, array, get_u16, get_u32, get_u64, offset_u32};

/// The first bytes of every segment.
pub const MAGIC: [u8; 8] = *b"seawall\0";
/// Readers refuse any other major version.
pub const FORMAT_MAJOR: u16 = 1;
/// Readers accept any minor version of their major one.
pub const FORMAT_MINOR: u16 = 0;
/// Encoded length in bytes.
pub const IDENTITY_BYTES: usize = 80;

/// Offset of each field, in bytes; FORMAT.md is held against this table.
pub(super) mod at {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const MAJOR: usize = 8;
    pub(crate) const MINOR: usize = 10;
    pub(crate) const SEGMENT_BLOCKS: usize = 12;
    pub(crate) const UUID: usize = 16;
    pub(crate) const NUMBER: usize = 32;
    pub(crate) const GENERATION: usize = 40;
    pub(crate) const DURABLE_GENERATION: usize = 48;
    pub(crate) const DURABLE_OFFSET: usize = 56;
    pub(crate) const FLAGS: usize = 60;
    pub(crate) const FIRST_FRAME: usize = 64;
    pub(crate) const SALT: usize = 68;
    pub(crate) const CRC: usize = 76;
}

/// The identity of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The log that it belongs to.
    pub uuid: [u8; 16],
    /// Its place in the chain, counted from 1.
    pub number: u64,
    /// Never used twice in a log; grows along the chain.
    pub generation: u64,
    /// The planned length of the file, in blocks of 4 KiB. A single record larger than that may exceed it.
    pub segment_blocks: u32,
    /// How far the log was known to be durable when this was written: evidence.
    pub durable: Position,
    /// Drawn anew by each open: should a crash take the name of a segment, the next one with its generation still differs.
    pub salt: u64,
}

/// Why bytes are not an identity.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadIdentity {
    /// Too short, wrong magic, wrong checksum or impossible fields: nobody's identity.
    #[error("not a readable segment identity")]
    Unreadable,
    /// Intact, but of a format that this reader doesn't know.
    #[error("segment format {major}.{minor} is newer than {FORMAT_MAJOR}.{FORMAT_MINOR}")]
    Newer {
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
}

impl Identity {
    /// Encodes one copy.
    #[must_use]
    pub fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut out = [0; IDENTITY_BYTES];
        let mut put = |offset: usize, bytes: &[u8]| out[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(at::MAGIC, &MAGIC);
        put(at::MAJOR, &FORMAT_MAJOR.to_le_bytes());
        put(at::MINOR, &FORMAT_MINOR.to_le_bytes());
        put(at::SEGMENT_BLOCKS, &self.segment_blocks.to_le_bytes());
        put(at::UUID, &self.uuid);
        put(at::NUMBER, &self.number.to_le_bytes());
        put(at::GENERATION, &self.generation.to_le_bytes());
        put(at::DURABLE_GENERATION, &self.durable.generation.to_le_bytes());
        put(at::DURABLE_OFFSET, &offset_u32(self.durable.offset).to_le_bytes());
        put(at::FIRST_FRAME, &offset_u32(FIRST_FRAME_OFFSET).to_le_bytes());
        put(at::SALT, &self.salt.to_le_bytes());
        let crc = crc32fast::hash(&out[..at::CRC]);
        out[at::CRC..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes one copy from the first bytes of `bytes`.
    ///
    /// # Errors
    /// [`BadIdentity`]; a newer version is told apart only if its checksum stands where ours does.
    pub fn decode(bytes: &[u8]) -> Result<Identity, BadIdentity> {
        let Some(bytes) = bytes.get(..IDENTITY_BYTES) else { return Err(BadIdentity::Unreadable) };
        if bytes[at::MAGIC..at::MAJOR] != MAGIC || get_u32(bytes, at::CRC) != crc32fast::hash(&bytes[..at::CRC]) {
            return Err(BadIdentity::Unreadable);
        }
        let (major, minor) = (get_u16(bytes, at::MAJOR), get_u16(bytes, at::MINOR));
        if major > FORMAT_MAJOR {
            return Err(BadIdentity::Newer { major, minor });
        }
        let identity = Identity {
            uuid: array(bytes, at::UUID),
            number: get_u64(bytes, at::NUMBER),
            generation: get_u64(bytes, at::GENERATION),
            segment_blocks: get_u32(bytes, at::SEGMENT_BLOCKS),
            durable: Position {
                generation: get_u64(bytes, at::DURABLE_GENERATION),
                offset: u64::from(get_u32(bytes, at::DURABLE_OFFSET)),
            },
            salt: get_u64(bytes, at::SALT),
        };
        // Version 1 defines no flag and one place for the first frame: anything else was not written by it.
        let sound = major == FORMAT_MAJOR
            && identity.generation != 0
            && identity.durable.generation <= identity.generation
            && get_u32(bytes, at::FLAGS) == 0
            && u64::from(get_u32(bytes, at::FIRST_FRAME)) == FIRST_FRAME_OFFSET;
        if sound { Ok(identity) } else { Err(BadIdentity::Unreadable) }
    }

    /// What every frame checksum of this segment starts from.
    #[must_use]
    pub fn seed(&self) -> u32 {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&self.uuid);
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.generation.to_le_bytes());
        bytes[32..].copy_from_slice(&self.salt.to_le_bytes());
        crc32fast::hash(&bytes)
    }

    /// The planned length of the file in bytes.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        u64::from(self.segment_blocks) * BLOCK_BYTES
    }

    /// The first bytes of the file: both copies, up to the first frame.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(FIRST_FRAME_OFFSET as usize);
        self.encode_head(&mut head);
        head
    }

    /// Writes the same to `out`, which is empty.
    pub(crate) fn encode_head(&self, out: &mut Vec<u8>) {
        let copy = self.encode();
        out.resize(FIRST_FRAME_OFFSET as usize, 0);
        for offset in super::IDENTITY_OFFSETS {
            out[offset as usize..][..IDENTITY_BYTES].copy_from_slice(&copy);
        }
    }
}

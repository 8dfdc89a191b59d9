//! What stands inside the frames that are not plain records.

use bytes::Bytes;

use super::{Position, array, get_u32, get_u64, offset_u32};

/// Offset of each field of a start body, in bytes; FORMAT.md is held against this table.
pub(super) mod start_at {
    pub(crate) const BASE_LSN: usize = 0;
    pub(crate) const PREDECESSOR_GENERATION: usize = 8;
    pub(crate) const PREDECESSOR_END: usize = 16;
    pub(crate) const PREDECESSOR_CRC: usize = 20;
    pub(crate) const DURABLE_GENERATION: usize = 24;
    pub(crate) const DURABLE_OFFSET: usize = 32;
    pub(crate) const CARRIED_FRAMES: usize = 36;
    pub(crate) const CARRIED_CRC: usize = 40;
    pub(crate) const FLOOR_LSN: usize = 44;
    pub(crate) const WALL_NS: usize = 52;
    pub(crate) const METADATA: usize = 60;
}

/// Offset of each field of a seal body, in bytes.
pub(super) mod seal_at {
    pub(crate) const NEXT_LSN: usize = 0;
    pub(crate) const SUCCESSOR_GENERATION: usize = 8;
    pub(crate) const END: usize = 16;
}

/// Offset of each field of an item of a batch body, in bytes.
pub(super) mod item_at {
    pub(crate) const LENGTH: usize = 0;
    pub(crate) const CRC: usize = 4;
    pub(crate) const PAYLOAD: usize = 8;
}

/// Length of a start body without application metadata, in bytes.
pub const START_BODY_BYTES: u64 = start_at::METADATA as u64;
/// Length of a seal body, in bytes.
pub const SEAL_BODY_BYTES: u64 = seal_at::END as u64;

/// The body of the first frame of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// LSN of the first record of this segment.
    pub base_lsn: u64,
    /// End of what counts in the predecessor; generation 0 if there is none.
    pub predecessor: Position,
    /// Checksum of the predecessor's last frame that counts.
    pub predecessor_crc: u32,
    /// How far the log was known to be durable when this was written: evidence.
    pub durable: Position,
    /// How many frames after this one were carried over by recovery; without all of them the segment doesn't count.
    pub carried_frames: u32,
    /// CRC-32 of the carried frames' bytes.
    pub carried_crc: u32,
    /// Records below this LSN may be gone.
    pub floor_lsn: u64,
    /// When it was written, for people.
    pub wall_ns: i64,
    /// What the application wants to find again.
    pub metadata: Bytes,
}

impl Start {
    /// Appends the body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.base_lsn.to_le_bytes());
        out.extend_from_slice(&self.predecessor.generation.to_le_bytes());
        out.extend_from_slice(&offset_u32(self.predecessor.offset).to_le_bytes());
        out.extend_from_slice(&self.predecessor_crc.to_le_bytes());
        out.extend_from_slice(&self.durable.generation.to_le_bytes());
        out.extend_from_slice(&offset_u32(self.durable.offset).to_le_bytes());
        out.extend_from_slice(&self.carried_frames.to_le_bytes());
        out.extend_from_slice(&self.carried_crc.to_le_bytes());
        out.extend_from_slice(&self.floor_lsn.to_le_bytes());
        out.extend_from_slice(&self.wall_ns.to_le_bytes());
        out.extend_from_slice(&self.metadata);
    }

    /// Decodes a body, or `None` if it is too short.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Start> {
        let metadata = body.get(start_at::METADATA..)?;
        Some(Start {
            base_lsn: get_u64(body, start_at::BASE_LSN),
            predecessor: Position {
                generation: get_u64(body, start_at::PREDECESSOR_GENERATION),
                offset: u64::from(get_u32(body, start_at::PREDECESSOR_END)),
            },
            predecessor_crc: get_u32(body, start_at::PREDECESSOR_CRC),
            durable: Position {
                generation: get_u64(body, start_at::DURABLE_GENERATION),
                offset: u64::from(get_u32(body, start_at::DURABLE_OFFSET)),
            },
            carried_frames: get_u32(body, start_at::CARRIED_FRAMES),
            carried_crc: get_u32(body, start_at::CARRIED_CRC),
            floor_lsn: get_u64(body, start_at::FLOOR_LSN),
            wall_ns: i64::from_le_bytes(array(body, start_at::WALL_NS)),
            metadata: Bytes::copy_from_slice(metadata),
        })
    }
}

/// The body of the last frame of a rotated segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// LSN of the first record of the successor.
    pub next_lsn: u64,
    /// Generation of the successor, whose identity is durable before this is written.
    pub successor_generation: u64,
}

impl Seal {
    /// Appends the body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.next_lsn.to_le_bytes());
        out.extend_from_slice(&self.successor_generation.to_le_bytes());
    }

    /// Decodes a body, or `None` if its length is wrong.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Seal> {
        (body.len() == seal_at::END).then(|| Seal {
            next_lsn: get_u64(body, seal_at::NEXT_LSN),
            successor_generation: get_u64(body, seal_at::SUCCESSOR_GENERATION),
        })
    }
}

/// Offset of each field of a mark body, in bytes.
pub(super) mod mark_at {
    pub(crate) const KIND: usize = 0;
    pub(crate) const FLOOR_LSN: usize = 4;
}

/// What a mark states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Everything before it was durable when it was written.
    Synced,
    /// The same, and the log was closed: nothing follows.
    Closed,
    /// Records below this LSN are released.
    Floor {
        /// The oldest LSN that is kept.
        lsn: u64,
    },
}

impl Mark {
    /// Its code, the first field of the body.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Mark::Synced => 1,
            Mark::Closed => 2,
            Mark::Floor { .. } => 3,
        }
    }

    /// Length of the body in bytes.
    #[must_use]
    pub const fn body_bytes(self) -> u64 {
        match self {
            Mark::Synced | Mark::Closed => mark_at::FLOOR_LSN as u64,
            Mark::Floor { .. } => mark_at::FLOOR_LSN as u64 + 8,
        }
    }

    /// Appends the body to `out`.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code().to_le_bytes());
        if let Mark::Floor { lsn } = self {
            out.extend_from_slice(&lsn.to_le_bytes());
        }
    }

    /// Decodes a body, or `None` if it states nothing known.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Mark> {
        let code = body.get(..mark_at::FLOOR_LSN).map(|code| get_u32(code, mark_at::KIND))?;
        let mark = match code {
            1 => Mark::Synced,
            2 => Mark::Closed,
            3 => Mark::Floor { lsn: body.get(mark_at::FLOOR_LSN..mark_at::FLOOR_LSN + 8).map(|lsn| get_u64(lsn, 0))? },
            _ => return None,
        };
        (body.len() as u64 == mark.body_bytes()).then_some(mark)
    }
}

/// Appends a batch body to `out`: for each payload its length, its checksum, itself.
pub fn encode_batch_body<'a>(out: &mut Vec<u8>, payloads: impl IntoIterator<Item = &'a [u8]>) {
    for payload in payloads {
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
        out.extend_from_slice(payload);
    }
}

/// The items of a batch body, in order; each is the payload's range in the body, or `None` once the body is malformed.
/// The frame's checksum proves the batch as a whole; the item's own one is for readers that fetch a single item.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Batch<'a> {
    /// Reads `body` as a batch.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Batch<'a> {
        Batch { body, at: 0 }
    }

    /// How many records it holds, or `None` if it is malformed or empty.
    #[must_use]
    pub fn count(body: &'a [u8]) -> Option<u32> {
        let mut count = 0_u32;
        for item in Batch::new(body) {
            item?;
            count = count.checked_add(1)?;
        }
        (count > 0).then_some(count)
    }

    fn item(&mut self) -> Option<std::ops::Range<usize>> {
        let header = self.body.get(self.at..self.at.checked_add(item_at::PAYLOAD)?)?;
        let length = usize::try_from(get_u32(header, item_at::LENGTH)).ok()?;
        let start = self.at + item_at::PAYLOAD;
        let range = start..start.checked_add(length)?;
        let payload = self.body.get(range.clone())?;
        (crc32fast::hash(payload) == get_u32(header, item_at::CRC)).then_some(range)
    }
}

impl Iterator for Batch<'_> {
    type Item = Option<std::ops::Range<usize>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.body.len() {
            return None;
        }
        let item = self.item();
        self.at = item.as_ref().map_or(self.body.len(), |range| range.end);
        Some(item)
    }
}

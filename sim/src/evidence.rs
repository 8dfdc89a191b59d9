//! What a log's files say about themselves, read by another reader than the engine's: only the codec is shared.
//!
//! Two questions are answered on a disk image: which records the log consists of, and where each ends; and how far anything
//! intact in the directory *states* the log to be durable (the evidence floor).

use std::collections::BTreeMap;

use engine::codec::{
    Batch, FIRST_FRAME_OFFSET, FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, Frame, FrameKind, IDENTITY_OFFSETS, Identity,
    Position, Seal, Start,
};

/// The files of a log by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// One started segment of the chain.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its file.
    pub name: String,
    /// Its generation.
    pub generation: u64,
    /// Where each frame ends, with the LSN that follows it; ascending.
    pub frames: Vec<(u64, u64)>,
}

impl Member {
    /// End of what counts in it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.frames.last().map_or(FIRST_FRAME_OFFSET, |(end, _)| *end)
    }
}

/// The log, as its files describe it.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Oldest first.
    pub members: Vec<Member>,
    /// Generations that an intact seal on the chain names as successors, or that an open has put in the place of one that it names.
    pub named: Vec<u64>,
}

/// The readable copies of a file's identity.
fn copies(bytes: &[u8]) -> impl Iterator<Item = Identity> {
    IDENTITY_OFFSETS.into_iter().filter_map(|at| Identity::decode(bytes.get(at as usize..)?).ok())
}

/// The identity of a file: of two readable copies the one that counts more.
#[must_use]
pub fn identity(bytes: &[u8]) -> Option<Identity> {
    copies(bytes).max_by_key(|identity| (identity.generation, identity.durable))
}

/// The frame at a place, if it is intact.
#[must_use]
pub fn frame<'a>(bytes: &'a [u8], identity: &Identity, at: u64) -> Option<Frame<'a>> {
    Frame::decode(bytes.get(at as usize..)?, identity.seed(), at).ok()
}

/// The intact frames at or after `offset`, wherever they stand, each with its place: found the slow way, by trying every one.
pub fn intact_frames<'a>(bytes: &'a [u8], identity: &Identity, offset: u64) -> impl Iterator<Item = (u64, Frame<'a>)> {
    let mut at = offset;
    std::iter::from_fn(move || {
        while at + FRAME_HEADER_BYTES <= bytes.len() as u64 {
            let place = at;
            if let Some(found) = frame(bytes, identity, place) {
                at += found.header.frame_bytes();
                return Some((place, found));
            }
            at += FRAME_ALIGN_BYTES;
        }
        None
    })
}

/// Where the frames of a file stand, from the first one on, whatever they say.
#[must_use]
pub fn frame_offsets(bytes: &[u8]) -> Vec<u64> {
    let Some(identity) = identity(bytes) else { return Vec::new() };
    let mut offsets = Vec::new();
    let mut at = FIRST_FRAME_OFFSET;
    while let Some(found) = frame(bytes, &identity, at) {
        offsets.push(at);
        at += found.header.frame_bytes();
    }
    offsets
}

/// The start of a file, if it and all frames that it says were carried are intact.
fn start(bytes: &[u8], identity: &Identity) -> Option<Start> {
    let first = frame(bytes, identity, FIRST_FRAME_OFFSET).filter(|first| first.header.kind == FrameKind::Start)?;
    let start = Start::decode(first.body)?;
    let (mut at, mut crcs) = (FIRST_FRAME_OFFSET + first.header.frame_bytes(), crc32fast::Hasher::new());
    for _ in 0..start.carried_frames {
        let carried = frame(bytes, identity, at)?;
        crcs.update(&carried.crc.to_le_bytes());
        at += carried.header.frame_bytes();
    }
    (crcs.finalize() == start.carried_crc).then_some(start)
}

impl Chain {
    /// Reads the chain of an undamaged log.
    #[must_use]
    pub fn read(files: &Files) -> Chain {
        let mut started: BTreeMap<u64, (&String, &[u8], Identity, Start)> = BTreeMap::new();
        for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".seg")) {
            if let Some(identity) = identity(bytes)
                && let Some(start) = start(bytes, &identity)
            {
                started.insert(identity.generation, (name, bytes, identity, start));
            }
        }
        let mut chain = Chain::default();
        let mut next = started.last_key_value().map(|(generation, _)| (*generation, u64::MAX));
        let mut follower = None;
        while let Some((generation, end)) = next {
            let Some((name, bytes, identity, start)) = started.get(&generation) else { break };
            let mut member = Member { name: (*name).clone(), generation, frames: Vec::new() };
            let (mut at, mut lsn) = (FIRST_FRAME_OFFSET, start.base_lsn);
            while at < end
                && let Some(found) = frame(bytes, identity, at)
                && u64::from(found.header.ordinal) == lsn - start.base_lsn
            {
                at += found.header.frame_bytes();
                lsn += match found.header.kind {
                    FrameKind::Record => 1,
                    FrameKind::Batch => u64::from(Batch::count(found.body).unwrap_or(0)),
                    FrameKind::Seal => {
                        chain.named.extend(Seal::decode(found.body).map(|seal| seal.successor_generation));
                        chain.named.extend(follower);
                        0
                    }
                    FrameKind::Start | FrameKind::Mark | FrameKind::Filler => 0,
                };
                member.frames.push((at, lsn));
                if found.header.kind == FrameKind::Seal {
                    break;
                }
            }
            chain.members.push(member);
            follower = Some(generation);
            next =
                (start.predecessor.generation != 0).then_some((start.predecessor.generation, start.predecessor.offset));
        }
        chain.members.reverse();
        chain
    }

    /// The LSN after the last record that lies wholly before `floor`.
    #[must_use]
    pub fn proven_next(&self, floor: Position) -> u64 {
        let proven = self.members.iter().flat_map(|member| {
            let generation = member.generation;
            member.frames.iter().filter(move |(end, _)| Position { generation, offset: *end } <= floor)
        });
        proven.map(|(_, next)| *next).max().unwrap_or(0)
    }

    /// Whether bytes `from..to` of a file hold something that counts and lies before `floor`: for its identity, whether the
    /// segment does.
    #[must_use]
    pub fn matters(&self, name: &str, from: u64, to: u64, floor: Position) -> bool {
        let Some(member) = self.members.iter().find(|member| member.name == name) else { return false };
        let begins = if from < FIRST_FRAME_OFFSET { FIRST_FRAME_OFFSET } else { from };
        let frames = member
            .frames
            .iter()
            .scan(FIRST_FRAME_OFFSET, |begin, (end, _)| Some((std::mem::replace(begin, *end), *end)));
        let mut touched = frames.filter(|(begin, end)| *begin < to.max(begins + 1) && *end > begins);
        touched.any(|(begin, _)| Position { generation: member.generation, offset: begin } < floor)
    }
}

/// How far anything intact in the directory states the log to be durable: every identity copy, every start, every frame
/// wherever it stands.
#[must_use]
pub fn floor(files: &Files) -> Position {
    let mut floor = Position::default();
    for (name, bytes) in files {
        for copy in copies(bytes) {
            floor = floor.max(copy.durable);
        }
        // A temporary file is no part of the log, but what its identity states was true.
        let Some(identity) = identity(bytes).filter(|_| name.ends_with(".seg")) else { continue };
        for (at, found) in intact_frames(bytes, &identity, FIRST_FRAME_OFFSET) {
            floor = floor.max(found.header.claim(identity.generation, at).unwrap_or_default());
            if found.header.kind == FrameKind::Start
                && let Some(start) = Start::decode(found.body)
            {
                floor = floor.max(start.durable);
            }
        }
    }
    floor
}

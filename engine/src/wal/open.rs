//! The writing half of open: one new segment that makes what recovery delivers durable.
//!
//! The new segment F carries every frame that nothing proved, written anew, behind a start that names the cut in its
//! predecessor. Its one sync is the cut, the promise that what was delivered stays, and the rewrite of pages whose sync may
//! have failed in an earlier process: open never trusts a sync of bytes that it did not write itself. F gets its name only
//! once it is complete, so a crash before that leaves the old files to decide the same again. Then a synced mark follows,
//! then a spare gets its identity (which states F to be durable, so that losing F is noticed), then what F replaced is
//! removed.

use std::sync::Arc;

use tracing::warn;

use crate::{
    codec::{
        BLOCK_BYTES, FIRST_FRAME_OFFSET, Frame, FrameKind, Header, Identity, Mark, NO_CLAIM, Position,
        START_BODY_BYTES, Start, frame_bytes,
    },
    env::{Dir, Env, File, OpenMode, interruptible, write_all_at},
    plant::planted,
    segment::{Name, Segment, sync_written},
};

use super::{
    Lsn,
    error::OpenError,
    jobs::create,
    log::{Member, Opened, State},
    options::Options,
    producer::{Tail, Watermark},
    recover::{Findings, INDEX_BYTES, Link},
    report::{RecoveryReport, TailKind},
    stats::Stats,
};

/// The most room for new records in the segment that open writes.
const FIRST_BYTES: u64 = 1 << 20;

/// Steps 5 to 8 of the open protocol.
pub(super) async fn establish<E: Env>(
    env: &E,
    dir: &E::Dir,
    lock: <E::Dir as Dir>::Lock,
    options: &Options,
    mut examined: Findings<E::Dir>,
) -> Result<(Opened<E>, RecoveryReport), OpenError> {
    let uuid = examined.uuid.unwrap_or_else(|| {
        let mut uuid = [0; 16];
        env.fill_random(&mut uuid);
        uuid
    });
    #[cfg(feature = "plants")]
    if let Some((end, length)) = examined.end {
        let torn = length > end.offset;
        if torn && planted!(options.plants, WalReuseTornTail) {
            let offset = length.next_multiple_of(crate::codec::FRAME_ALIGN_BYTES);
            return resume(dir, lock, options, examined, offset).await;
        }
        if torn && planted!(options.plants, WalCutInPlace) {
            return resume(dir, lock, options, examined, end.offset).await;
        }
        if planted!(options.plants, WalCreateBeforeSeal) {
            start_early(env, dir, options, &examined, uuid).await?;
        }
    }
    if planted!(options.plants, WalTrustOldSync)
        && let Some(link) = examined.chain.last()
    {
        let name = link.segment.name().text();
        let old = interruptible(|| dir.open(&name, OpenMode::Write)).await.map_err(OpenError::io("open", &name))?;
        interruptible(|| old.sync_data()).await.map_err(OpenError::io("sync", &name))?;
    }
    let mut identity = Identity {
        uuid,
        number: examined.chain.last().map_or(1, |link| link.segment.identity.number + 1),
        // One more than is needed leaves room for the planted bug above.
        generation: examined.max_generation + 1 + u64::from(planted!(options.plants, WalCreateBeforeSeal)),
        segment_blocks: 0,
        durable: examined.evidence.unwrap_or_default(),
        salt: random_salt(env),
    };
    let slot = examined.max_slot + 1;
    let (length, frames_end) = first_length(options, &examined);
    identity.segment_blocks = State::<E>::segment_blocks(length);
    let segment = Segment::new(slot, identity, &options.plants);
    let (mut file, index) = encode_new(env, &segment, &examined);
    debug_assert_eq!(file.len() as u64, frames_end, "the length was reckoned from what is carried");
    let ordinal = (examined.next_lsn - examined.cut_lsn) as u32;
    // The mark stands in a block of its own, so that one damaged block can't take a record and the proof of it.
    let filled_from = file.len() as u64;
    let late_filler = planted!(options.plants, WalMarkBeforeFiller);
    if !late_filler {
        encode_filler(&mut file, segment.seed(), ordinal, filled_from, None);
    }
    // Before the new segment: once that stands, a later open would take them for what it replaced, and remove them.
    set_aside(dir, &examined.set_aside).await?;
    if planted!(options.plants, WalRemoveBeforeCut) {
        remove(dir, &examined.removable).await;
    }
    segment.create(dir, &file, length, &options.plants).await.map_err(OpenError::io("create", segment.name()))?;

    let marked_from = file.len();
    if late_filler {
        encode_filler(&mut file, segment.seed(), ordinal, filled_from, Some(filled_from));
    }
    let at = file.len() as u64;
    let crc = encode_mark(&mut file, segment.seed(), ordinal, at, Some(at), Mark::Synced);
    if let Some(open) = segment.file() {
        write_all_at(open, &file[marked_from..], marked_from as u64)
            .await
            .map_err(OpenError::io("write", segment.name()))?;
        let synced = interruptible(|| sync_written(open, &options.plants)).await;
        synced.map_err(OpenError::io("sync", segment.name()))?;
    }
    let end = file.len() as u64;
    let durable = Watermark { lsn: examined.next_lsn, sequence: 0, position: segment.position(end) };

    let spare =
        Segment::new(slot + 1, successor_identity(&segment.identity, options, durable.position), &options.plants);
    let spare = create(dir, spare, &options.plants).await?;
    remove(dir, &examined.removable).await;

    let report = report(&examined, segment.generation());
    let stats = Stats {
        recoveries: u64::from(examined.tail != TailKind::New),
        recovered: report.records(),
        ..Stats::default()
    };
    let segment = Arc::new(segment);
    let mut members: Vec<Member<E::Dir>> = examined.chain.drain(..).map(Member::from).collect();
    members.push(Member { base_lsn: examined.cut_lsn, segment: segment.clone(), end: u64::MAX, index });
    let tail = Tail { segment, base_lsn: examined.cut_lsn, offset: end, length, crc };
    let opened = Opened {
        lock,
        members,
        tail,
        durable,
        floor_lsn: examined.floor_lsn,
        spares: [spare].into(),
        next_slot: slot + 2,
        stats,
    };
    Ok((opened, report))
}

/// Prepared bytes of the segment that open writes: what it carries, a mark, and a part of what a segment has, so that
/// open stays quick. Also where its frames end.
fn first_length<D: Dir>(options: &Options, examined: &Findings<D>) -> (u64, u64) {
    let carried: u64 = examined.carried().map(|carried| frame_bytes(carried.body.len() as u64)).sum();
    let end = FIRST_FRAME_OFFSET + frame_bytes(START_BODY_BYTES) + carried;
    let marked = end + 3 * BLOCK_BYTES;
    let room = (options.segment_length() / 16).clamp(2 * BLOCK_BYTES, FIRST_BYTES);
    ((marked + room).next_multiple_of(BLOCK_BYTES), end)
}

/// A crash may take the name of a segment that was written already; the next open then takes its generation again, and
/// blocks of the lost file may show behind the tail of the new one. The salt keeps them apart.
fn random_salt<E: Env>(env: &E) -> u64 {
    let mut salt = [0; 8];
    env.fill_random(&mut salt);
    u64::from_le_bytes(salt)
}

/// The planted bugs: go on in the old segment, behind its torn tail or in place of it.
#[cfg(feature = "plants")]
async fn resume<E: Env>(
    dir: &E::Dir,
    lock: <E::Dir as Dir>::Lock,
    options: &Options,
    examined: Findings<E::Dir>,
    offset: u64,
) -> Result<(Opened<E>, RecoveryReport), OpenError> {
    let newest = examined.all_links.last().ok_or(std::io::ErrorKind::NotFound);
    let newest = newest.map_err(|kind| OpenError::io("open", "a segment")(kind.into()))?;
    let base_lsn = newest.base_lsn;
    let segment = Arc::new(Segment::new(newest.segment.slot, newest.segment.identity.clone(), &options.plants));
    let name = segment.name().text();
    let file = interruptible(|| dir.open(&name, OpenMode::Write)).await.map_err(OpenError::io("open", &name))?;
    let length = interruptible(|| file.len()).await.map_err(OpenError::io("read", &name))?.max(offset);
    segment.attach(file);
    let report = report(&examined, examined.max_generation + 1);
    let mut members: Vec<Member<E::Dir>> = examined.all_links.into_iter().map(Member::from).collect();
    if let Some(last) = members.last_mut() {
        last.segment = segment.clone();
        last.end = u64::MAX;
    }
    let tail = Tail { segment: segment.clone(), base_lsn, offset, length, crc: 0 };
    let durable = Watermark { lsn: examined.next_lsn, sequence: 0, position: segment.position(offset) };
    let mut identity = successor_identity(&segment.identity, options, durable.position);
    identity.generation = examined.max_generation + 1;
    let slot = examined.max_slot + 1;
    let spare = create(dir, Segment::new(slot, identity, &options.plants), &options.plants).await?;
    let opened = Opened {
        lock,
        members,
        tail,
        durable,
        floor_lsn: examined.floor_lsn,
        spares: [spare].into(),
        next_slot: slot + 1,
        stats: Stats::default(),
    };
    Ok((opened, report))
}

/// The planted bug: starts a successor of the torn segment before the torn one is cut.
#[cfg(feature = "plants")]
async fn start_early<E: Env>(
    env: &E,
    dir: &E::Dir,
    options: &Options,
    examined: &Findings<E::Dir>,
    uuid: [u8; 16],
) -> Result<(), OpenError> {
    let Some(last) = examined.all_links.last() else { return Ok(()) };
    let identity = Identity {
        uuid,
        number: last.segment.identity.number + 1,
        generation: examined.max_generation + 1,
        segment_blocks: options.segment_blocks(),
        durable: Position::default(),
        salt: random_salt(env),
    };
    let segment = Segment::<E::Dir>::new(examined.max_slot + 2, identity, &options.plants);
    let start = Start {
        base_lsn: examined.next_lsn,
        predecessor: last.segment.position(last.end),
        predecessor_crc: last.end_crc,
        carried_crc: crc32fast::hash(&[]),
        floor_lsn: examined.floor_lsn,
        ..Start::default()
    };
    let mut file = segment.identity.head();
    Frame::encode(&mut file, segment.seed(), FIRST_FRAME_OFFSET, FrameKind::Start, 0, NO_CLAIM, |out| {
        start.encode(out);
    });
    let length = file.len() as u64;
    segment.create(dir, &file, length, &options.plants).await.map_err(OpenError::io("create", segment.name()))
}

/// The bytes of the new segment up to the last carried frame, and its index.
fn encode_new<E: Env>(env: &E, segment: &Segment<E::Dir>, examined: &Findings<E::Dir>) -> (Vec<u8>, Vec<(u64, u64)>) {
    let seed = segment.seed();
    let first = FIRST_FRAME_OFFSET + frame_bytes(START_BODY_BYTES);
    let (mut index, mut crcs) = (Vec::<(u64, u64)>::new(), Vec::with_capacity(4 * examined.kept.len()));
    let carried_bytes: u64 = examined.carried().map(|carried| frame_bytes(carried.body.len() as u64)).sum();
    // Room for the filler and the mark that follow.
    let mut file = Vec::with_capacity((first + carried_bytes + 3 * BLOCK_BYTES) as usize);
    segment.identity.encode_head(&mut file);
    // The start sums up the frames behind it: it is put in its place when they stand.
    file.resize(first as usize, 0);
    for carried in examined.carried() {
        let offset = file.len() as u64;
        // What is carried was unproven, and is until this segment is synced.
        let crc = Frame::encode(
            &mut file,
            seed,
            offset,
            carried.kind,
            (carried.lsn - examined.cut_lsn) as u32,
            NO_CLAIM,
            |out| out.extend_from_slice(&carried.body),
        );
        crcs.extend_from_slice(&crc.to_le_bytes());
        if index.last().is_none_or(|(_, last)| offset >= last + INDEX_BYTES) {
            index.push((carried.lsn, offset));
        }
    }
    let predecessor = examined.chain.last().map(|link| link.segment.position(link.end)).unwrap_or_default();
    let start = Start {
        base_lsn: examined.cut_lsn,
        predecessor,
        predecessor_crc: examined.chain.last().map_or(0, |link| link.end_crc),
        // The cut is where the evidence ends, or before.
        durable: predecessor,
        carried_frames: (crcs.len() / 4) as u32,
        carried_crc: crc32fast::hash(&crcs),
        floor_lsn: examined.floor_lsn,
        wall_ns: env.wall_ns(),
        ..Start::default()
    };
    let mut frame = Vec::with_capacity(frame_bytes(START_BODY_BYTES) as usize);
    Frame::encode(&mut frame, seed, FIRST_FRAME_OFFSET, FrameKind::Start, 0, NO_CLAIM, |out| start.encode(out));
    file[FIRST_FRAME_OFFSET as usize..first as usize].copy_from_slice(&frame);
    (file, index)
}

/// The identity of the segment that follows `identity`.
fn successor_identity(identity: &Identity, options: &Options, durable: Position) -> Identity {
    Identity {
        number: identity.number + 1,
        generation: identity.generation + 1,
        segment_blocks: options.segment_blocks(),
        durable,
        ..identity.clone()
    }
}

/// Appends a filler up to the next block. It is synced before the mark behind it is written: the mark states that
/// everything before it is durable, and the filler is part of that. `offset` is where `out` ends in the file. Returns the
/// filler's checksum, if there is one.
pub(super) fn encode_filler(
    out: &mut Vec<u8>,
    seed: u32,
    ordinal: u32,
    offset: u64,
    durable: Option<u64>,
) -> Option<u32> {
    let body_bytes = filler_bytes(offset).checked_sub(frame_bytes(0))?;
    let undurable = Header::undurable_at(offset, durable);
    Some(Frame::encode(out, seed, offset, FrameKind::Filler, ordinal, undurable, |out| {
        out.resize(out.len() + body_bytes as usize, 0);
    }))
}

/// Appends a mark. `offset` is where `out` ends in the file. Returns the mark's checksum.
pub(super) fn encode_mark(
    out: &mut Vec<u8>,
    seed: u32,
    ordinal: u32,
    offset: u64,
    durable: Option<u64>,
    mark: Mark,
) -> u32 {
    let undurable = Header::undurable_at(offset, durable);
    Frame::encode(out, seed, offset, FrameKind::Mark, ordinal, undurable, |out| mark.encode(out))
}

/// Length of the filler frame that brings `offset` to a block boundary.
pub(super) fn filler_bytes(offset: u64) -> u64 {
    match offset.next_multiple_of(BLOCK_BYTES) - offset {
        0 => 0,
        gap if gap < frame_bytes(0) => gap + BLOCK_BYTES,
        gap => gap,
    }
}

/// Gives segments behind the cut of a damaged log a name that isn't the log's, and makes that durable.
async fn set_aside<D: Dir>(dir: &D, names: &[Name]) -> Result<(), OpenError> {
    for name in names {
        let (name, aside) = (name.text(), Name::SetAside(name.slot()).text());
        interruptible(|| dir.rename(&name, &aside)).await.map_err(OpenError::io("rename", name))?;
    }
    if !names.is_empty() {
        interruptible(|| dir.sync()).await.map_err(OpenError::io("sync", "the directory"))?;
    }
    Ok(())
}

/// Hygiene: what fails here is tried again at the next open, and never counts.
async fn remove<D: Dir>(dir: &D, names: &[Name]) {
    for name in names {
        let name = name.text();
        if let Err(error) = interruptible(|| dir.remove(&name)).await {
            warn!(file = name, %error, "could not remove what the log no longer needs");
        }
    }
}

pub(super) fn report<D: Dir>(examined: &Findings<D>, generation: u64) -> RecoveryReport {
    RecoveryReport {
        first: Lsn(examined.floor_lsn),
        next: Lsn(examined.next_lsn),
        tail: examined.tail,
        unproven_from: Lsn(examined.unproven_from),
        segments: examined.members,
        dropped: examined.dropped.clone(),
        carried: examined.next_lsn - examined.cut_lsn,
        generation,
        evidence: examined.evidence,
        foreign: examined.foreign,
        unreadable: examined.unreadable,
    }
}

impl<D: Dir> From<Link<D>> for Member<D> {
    fn from(link: Link<D>) -> Member<D> {
        Member { base_lsn: link.base_lsn, segment: link.segment, end: link.end, index: link.index }
    }
}

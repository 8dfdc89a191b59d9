//! Oracles that look at the disk itself: what an open left in the directory, and whether its report is true.

use std::{ffi::OsStr, path::Path};

use engine::{
    codec::{FIRST_FRAME_OFFSET, FrameKind, Identity},
    wal::DropReason,
};

use crate::{
    disk::{DirId, Disk, Op},
    env::SimEnv,
    evidence,
    oracle::ensure,
    prng::Prng,
    report::Violation,
    runner::LOG_DIR,
    subject::Recovered,
};

/// Whether both hold the same files with the same bytes in the log's directory.
#[must_use]
pub fn same_directory(one: &Disk, two: &Disk) -> bool {
    match (one.dir_at(Path::new(LOG_DIR)), two.dir_at(Path::new(LOG_DIR))) {
        (Some(dir), Some(other)) => one.same_content(dir, two, other),
        (one, two) => one.is_none() && two.is_none(),
    }
}

/// Whether a failure of this call is one of the log in [`LOG_DIR`].
#[must_use]
pub fn concerns_the_log(disk: &Disk, op: &Op) -> bool {
    disk.dir_at(Path::new(LOG_DIR)).is_some_and(|dir| concerns_a_log(disk, dir, op))
}

/// Whether a failure of this call is one of the log itself: a write of frames, or a sync of a segment that was started. A
/// segment that is only prepared holds nothing yet; what fails there costs nothing but the preparation.
#[must_use]
pub fn concerns_a_log(disk: &Disk, dir: DirId, op: &Op) -> bool {
    let file = match op {
        Op::Write { offset, .. } | Op::WriteSynced { offset, .. } if *offset < FIRST_FRAME_OFFSET => return false,
        Op::Write { data, .. } | Op::WriteSynced { data, .. } if data.iter().any(|byte| *byte != 0) => return true,
        // The rest of a frame after a short write may be zeros, as what prepares a segment is.
        Op::Write { file, .. } | Op::WriteSynced { file, .. } => *file,
        Op::SyncData { file } | Op::SyncAll { file } | Op::SyncPages { file } => *file,
        _ => return false,
    };
    let mut head = vec![0; START_WITHIN];
    let held = disk.read_open(file, 0, &mut head);
    // Of the segments that were started only the newest is written and synced.
    let names = disk.files(dir).map(|(name, _)| name);
    let newest = names.filter_map(|name| Some(started(&read_head(disk, dir, name))?.generation)).max();
    started(&head[..held]).is_some_and(|identity| Some(identity.generation) >= newest)
}

/// Bytes of a segment's head that hold its start.
const START_WITHIN: usize = FIRST_FRAME_OFFSET as usize + 256;

/// The identity of a segment, if its bytes begin with a valid start.
fn started(bytes: &[u8]) -> Option<Identity> {
    let identity = evidence::identity(bytes)?;
    let frame = evidence::frame(bytes, &identity, FIRST_FRAME_OFFSET)?;
    (frame.header.kind == FrameKind::Start).then_some(identity)
}

/// Names and lengths in the log's directory.
fn files(disk: &Disk) -> Vec<(&str, u64)> {
    let Some(dir) = disk.dir_at(Path::new(LOG_DIR)) else { return Vec::new() };
    // No file in a simulation has a name that is not text.
    disk.files(dir).map(|(name, length)| (name.to_str().unwrap_or_default(), length)).collect()
}

fn read(disk: &Disk, name: &str) -> Vec<u8> {
    disk.dir_at(Path::new(LOG_DIR)).and_then(|dir| disk.read_file(dir, OsStr::new(name))).unwrap_or_default()
}

/// The bytes of a segment that hold its start.
fn read_head(disk: &Disk, dir: DirId, name: &OsStr) -> Vec<u8> {
    let mut head = vec![0; START_WITHIN];
    let held = disk.read_part(dir, name, 0, &mut head).unwrap_or(0);
    head.truncate(held);
    head
}

/// Calls that an open of this directory may need: a constant, some per file, some per 64 KiB, some per record read back.
#[must_use]
pub fn open_bound(image: &Disk, recovered: &Recovered) -> u64 {
    let files = files(image);
    let bytes: u64 = files.iter().map(|(_, length)| length).sum();
    // Injected interruptions and short transfers at most double what is needed, with a wide margin.
    4 * (100 + 30 * files.len() as u64 + bytes / 512 + 4 * recovered.records.len() as u64)
}

/// After an open: segments that hold the log, its own one, at most two spares; no temporary file; foreign files as they were.
///
/// # Errors
/// A violation of I22.
pub fn clean_directory(disk: &Disk, recovered: &Recovered, foreign: (&str, &[u8])) -> Result<(), Violation> {
    let files = files(disk);
    let segments = files.iter().filter(|(name, _)| name.ends_with(".seg")).count() as u64;
    let temporary = files.iter().filter(|(name, _)| name.ends_with(".tmp")).count();
    // Open's own, one spare that is ready and one more that was released.
    let bound = recovered.segments + 3;
    ensure(
        temporary == 0 && segments <= bound,
        "I22",
        format_args!("at most {bound} segments, no temporary file"),
        format_args!("{files:?}"),
    )?;
    ensure(
        read(disk, foreign.0) == foreign.1,
        "I22",
        format_args!("{} untouched", foreign.0),
        format_args!("{files:?}"),
    )
}

/// Holds what the report says was left behind against the image that recovery began from, with a reader of its own that
/// tries every offset.
///
/// # Errors
/// A violation of I26.
pub fn report_is_true(image: &Disk, recovered: &Recovered) -> Result<(), Violation> {
    for dropped in &recovered.dropped {
        let bytes = read(image, &dropped.file);
        let (frames, end) = intact_frames(&bytes, dropped.offset);
        ensure(
            dropped.bytes >= end.saturating_sub(dropped.offset) && dropped.offset + dropped.bytes <= bytes.len() as u64,
            "I26",
            format_args!("bytes left behind in {} from {} to {end} at least", dropped.file, dropped.offset),
            format_args!("{} reported", dropped.bytes),
        )?;
        ensure(
            dropped.frames == frames,
            "I26",
            format_args!("{frames} intact frames left behind in {} from {}", dropped.file, dropped.offset),
            format_args!("{} reported", dropped.frames),
        )?;
        let whole = dropped.why == DropReason::NeverStarted;
        ensure(
            !whole || dropped.offset == FIRST_FRAME_OFFSET,
            "I26",
            format_args!("{} never started, so all of it is left behind", dropped.file),
            format_args!("from {}", dropped.offset),
        )?;
    }
    Ok(())
}

/// How many frames are intact at or after `offset`, and the end of the last one.
fn intact_frames(bytes: &[u8], offset: u64) -> (u64, u64) {
    let Some(identity) = evidence::identity(bytes) else { return (0, 0) };
    let frames = evidence::intact_frames(bytes, &identity, offset);
    frames.fold((0, 0), |(count, _), (at, frame)| (count + 1, at + frame.header.frame_bytes()))
}

/// After a clean close, even the worst power cut leaves the end of the log proven by another file than the last: the
/// loss of everything in the last started segment is refused, never taken for a log that ends before it.
///
/// # Errors
/// A violation of I4.
pub fn closed_end_is_proven(
    pessimal: &Disk,
    recover: impl FnOnce(&Disk) -> Result<Recovered, String>,
) -> Result<(), Violation> {
    let mut damaged = pessimal.fork();
    let Some(dir) = damaged.dir_at(Path::new(LOG_DIR)) else { return Ok(()) };
    let segments = files(pessimal).into_iter().filter(|(name, _)| name.ends_with(".seg"));
    let started =
        segments.filter_map(|(name, length)| Some((started(&read_head(pessimal, dir, name.as_ref()))?, name, length)));
    let Some((_, last, length)) = started.max_by_key(|(identity, ..)| identity.generation) else { return Ok(()) };
    damaged.damage(dir, OsStr::new(last), FIRST_FRAME_OFFSET, &vec![0; (length - FIRST_FRAME_OFFSET) as usize]);
    match recover(&damaged) {
        Err(_) => Ok(()),
        Ok(recovered) => ensure(
            false,
            "I4",
            format_args!("the loss of all of {last} in a closed log is refused"),
            format_args!("it opened with {} records", recovered.records.len()),
        ),
    }
}

/// Damages a copy below what is surely durable and opens it: a refusal must leave every byte as it was. Returns whether
/// the open was refused, so that the check ran.
///
/// # Errors
/// A violation of I25.
pub fn refusals_change_nothing(
    image: &Disk,
    draws: &mut Prng,
    recover: impl Fn(SimEnv) -> Result<Recovered, String>,
) -> Result<Vec<&'static str>, Violation> {
    let mut damaged = image.fork();
    // What is pending is not durable, and a still machine never loses it: settle first.
    damaged.power_cut(&crate::disk::Keep::All, draws);
    let segments: Vec<String> =
        files(&damaged).into_iter().map(|(name, _)| name.to_owned()).filter(|name| name.ends_with(".seg")).collect();
    let Some(dir) = damaged.dir_at(Path::new(LOG_DIR)) else { return Ok(Vec::new()) };
    if segments.is_empty() {
        return Ok(Vec::new());
    }
    let segment = draws.pick(&segments).clone();
    // The checksum of its start, or a version from the future.
    damaged.flip(dir, OsStr::new(&segment), FIRST_FRAME_OFFSET, 1);
    let env = SimEnv::still(damaged.fork());
    match recover(env.clone()) {
        Ok(_) => Ok(Vec::new()),
        Err(message) => {
            let unchanged = same_directory(&damaged, &env.disk());
            ensure(unchanged, "I25", "a refused open changes no byte", message)?;
            Ok(vec!["I25"])
        }
    }
}

//! A file of a store is damaged: what was there is there still, or missed when it is opened or read.

use std::ffi::OsStr;

use engine::{
    codec::FIRST_FRAME_OFFSET,
    txn::{
        pages::format::{PAGE_HEADER_BYTES, checksum},
        redo::Record,
    },
};

use super::files::{dirs, files, same_files};
use crate::{
    damage::{self, Damage, What},
    disk::{DirId, Disk, Keep},
    env::SimEnv,
    evidence::{self, Chain, floor, intact_frames},
    oracle::ensure,
    prng::Prng,
    report::Violation,
    subject::{Past, Recovered, UNREAD},
    truth::txn::lock,
};

/// Where a root copy says its sequence.
const ROOT_SEQUENCE_AT: usize = 32;
/// What of a root copy is not zero.
const ROOT_USED_BYTES: u64 = 124;

/// A file is damaged: whatever opens then has what there was at the commit that it ends with, and no part of a transaction; what is
/// refused is left as it was. Only what no log proves any more may be gone. And where a root copy is damaged and the logs still reach back
/// to the other one, that one has all of its pages.
pub(super) fn judge<const B: usize>(
    image: &Disk,
    past: &Past<'_>,
    draws: &mut Prng,
    recover: impl Fn(SimEnv) -> Result<Recovered, String>,
) -> Result<Vec<&'static str>, Violation> {
    let mut sound = image.fork();
    // What is pending is not durable, and a still machine never loses it: settle first.
    sound.power_cut(&Keep::All, draws);
    let files = files(&sound);
    let (false, Ok(undamaged)) = (files.is_empty(), recover(SimEnv::still(sound.fork()))) else {
        return Ok(Vec::new());
    };
    let (dir, damage) = draw::<B>(&sound, past.earlier, &files, draws);
    let mut damaged = sound.fork();
    if !damage.apply_in(dir, &mut damaged, past.earlier) {
        return Ok(Vec::new());
    }
    let env = SimEnv::still(damaged.fork());
    match recover(env.clone()) {
        Ok(recovered) => {
            let flaw = recovered.flaw.as_deref().unwrap_or_default();
            ensure(flaw.is_empty(), "I12", format_args!("{damage}: refused, or nothing is there in part"), flaw)?;
            if let Some(stored) = &recovered.stored {
                lock(past.truth).holds_damaged(stored, &format!("after {damage}"))?;
            }
            let owed = proves_all(&sound, &damaged, dir, &damage.file);
            let rows = match (&recovered.stored, &undamaged.stored) {
                (Some(stored), Some(sound)) => lock(past.truth).has_all(stored, sound),
                _ => true,
            };
            let same = rows && recovered.records == undamaged.records;
            ensure(
                same || !owed,
                "I4",
                format_args!(
                    "{damage}: refused, or all of {} records, and all rows, are there",
                    undamaged.records.len()
                ),
                format_args!("it opened with {}, or with others", recovered.records.len()),
            )?;
            Ok(if owed { vec!["I12", "I4"] } else { vec!["I12"] })
        }
        Err(message) => {
            // (Else a log was released for the damaged copy, and that is the reason.)
            let pages = damage.file.starts_with("root-") && message.contains("chunk-");
            ensure(
                !pages,
                "I4a",
                format_args!("{damage}: the other root copy has its pages, or counts no more"),
                &message,
            )?;
            if message.starts_with(UNREAD) {
                // It opened, and what is damaged was seen when it was read.
                return Ok(vec!["I4"]);
            }
            ensure(
                same_files(&damaged, &env.disk()),
                "I25",
                format_args!("{damage}: a refused open changes no byte"),
                message,
            )?;
            Ok(vec!["I25"])
        }
    }
}

/// One for any file of a store, or for the root copy that counts, or for a page that was written over.
fn draw<const B: usize>(
    disk: &Disk,
    earlier: Option<&Disk>,
    files: &[(DirId, String, u64)],
    draws: &mut Prng,
) -> (DirId, Damage) {
    let drawn = match draws.below(6) {
        0 => draw_root(disk, files, draws),
        1 | 2 => earlier.and_then(|earlier| draw_older::<B>(disk, earlier, files, draws)),
        _ => None,
    };
    drawn.unwrap_or_else(|| draw_any(disk, files, draws))
}

/// One for any file, mostly where there is something.
fn draw_any(disk: &Disk, files: &[(DirId, String, u64)], draws: &mut Prng) -> (DirId, Damage) {
    let (dir, file, length) = draws.pick(files).clone();
    let bytes = disk.read_file(dir, OsStr::new(&file)).unwrap_or_default();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    let end = if draws.chance(1, 8) { length } else { used };
    if end == 0 {
        return (dir, Damage { file, what: What::Lose });
    }
    let place = draws.below(end);
    let what = match draws.below(8) {
        0..=2 => What::Flip { offset: place, mask: 1 << draws.below(8) },
        3 => What::Zero { offset: place / 512 * 512, bytes: 512 },
        4 => What::Stale { offset: place / 512 * 512, bytes: 512 },
        5 => What::Shorten { length: place },
        _ => What::Lose,
    };
    (dir, Damage { file, what })
}

/// The newest root copy can't be read.
fn draw_root(disk: &Disk, files: &[(DirId, String, u64)], draws: &mut Prng) -> Option<(DirId, Damage)> {
    let copies = files.iter().filter(|(_, name, _)| name.starts_with("root-"));
    let copies = copies.filter_map(|(dir, name, _)| {
        let bytes = disk.read_file(*dir, OsStr::new(name))?;
        Some((sequence(&bytes)?, *dir, name))
    });
    let (_, dir, name) = copies.max()?;
    let what = What::Flip { offset: draws.below(ROOT_USED_BYTES), mask: 1 << draws.below(8) };
    Some((dir, Damage { file: name.clone(), what }))
}

/// A page reads as it did before the write that is lost.
fn draw_older<const B: usize>(
    disk: &Disk,
    earlier: &Disk,
    files: &[(DirId, String, u64)],
    draws: &mut Prng,
) -> Option<(DirId, Damage)> {
    let page_bytes = B + PAGE_HEADER_BYTES;
    let mut places = Vec::new();
    for (dir, name, _) in files.iter().filter(|(_, name, _)| name.starts_with("chunk-")) {
        let read = |disk: &Disk| disk.read_file(*dir, OsStr::new(name)).unwrap_or_default();
        let (now, before) = (read(disk), read(earlier));
        let pages = now.chunks_exact(page_bytes).zip(before.chunks_exact(page_bytes)).enumerate();
        let replaced =
            pages.filter(|(_, (now, before))| now != before && page_csn(now).is_some() && page_csn(before).is_some());
        places.extend(replaced.map(|(index, _)| (*dir, name, (index * page_bytes) as u64)));
    }
    let (dir, file, offset) = (!places.is_empty()).then(|| *draws.pick(&places))?;
    Some((dir, Damage { file: file.clone(), what: What::Older { offset, bytes: page_bytes as u64 } }))
}

/// The commit that a page states, if these bytes are one. (Others are parts of long values, or were torn.)
pub(super) fn page_csn(page: &[u8]) -> Option<u64> {
    let word = |at: usize| Some(u64::from_le_bytes(*page.get(at..)?.first_chunk()?));
    let (header, body) = page.split_first_chunk::<PAGE_HEADER_BYTES>()?;
    let crc = u32::from_le_bytes(*header.first_chunk()?);
    (crc == checksum(word(16)?, header, body)).then(|| word(8))?
}

fn sequence(root: &[u8]) -> Option<u64> {
    root.get(ROOT_SEQUENCE_AT..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

/// Whether, after damage to a file of this directory, what is left proves everything that was there: that of a log by its own statements,
/// a root copy by what the logs say, pages always, since the parent of each has its checksum.
fn proves_all(sound: &Disk, damaged: &Disk, dir: DirId, file: &str) -> bool {
    let is_log = dirs(sound).iter().skip(1).any(|(_, log)| *log == dir);
    if is_log {
        let chain = Chain::read(&damage::segments_in(sound, dir));
        let end = chain.members.iter().flat_map(|member| &member.frames).map(|(_, next)| *next).max();
        return end.is_some_and(|end| chain.proven_next(floor(&damage::segments_in(damaged, dir))) >= end);
    }
    !file.starts_with("root-") || logs_know(sound, &sound.read_file(dir, OsStr::new(file)).unwrap_or_default())
}

/// Whether the logs have the commits behind the older root, or say that this one is durable. (Where nothing is logged, a root is all
/// that there is of its commits until then, and whoever can't read it finds the older one.)
fn logs_know(disk: &Disk, root: &[u8]) -> bool {
    let sequence = sequence(root);
    let knows = |bytes: &[u8]| {
        let identity = evidence::identity(bytes);
        let mut frames = identity.iter().flat_map(|identity| intact_frames(bytes, identity, FIRST_FRAME_OFFSET));
        frames.any(|(_, frame)| match Record::decode(frame.body) {
            Ok(Record::Part(part)) => part.ops().next().is_some(),
            Ok(Record::Checkpoint(checkpoint)) => Some(checkpoint.sequence) == sequence,
            _ => false,
        })
    };
    dirs(disk).iter().skip(1).any(|(_, log)| damage::segments_in(disk, *log).values().any(|bytes| knows(bytes)))
}

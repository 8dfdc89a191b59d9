//! What oracles know of a store's files: root copies, chunks of pages, and a directory for each log.

use std::{ffi::OsStr, path::Path};

use engine::{
    codec::FIRST_FRAME_OFFSET,
    txn::{
        pages::format::{PAGE_HEADER_BYTES, checksum},
        redo::Record,
    },
};

use super::{
    Txn,
    content::is_of_clients,
    seat::{Seat, Walk, kind_of},
};
use crate::{
    damage::{self, Damage, What},
    disk::{DirId, Disk, Keep, Op},
    env::SimEnv,
    evidence::{self, Chain, floor, intact_frames},
    image,
    oracle::ensure,
    prng::Prng,
    report::Violation,
    runner::LOG_DIR,
    subject::{Inspect, Recovered, Stepped, Surroundings, UNREAD},
    truth::txn::Truth,
    workload::Step,
};

/// Where a root copy says its sequence.
const ROOT_SEQUENCE_AT: usize = 32;
/// A store has so many logs at most.
const MOST_LOGS: u16 = 16;

/// The directories of a store, with their names: its own, then those of its logs.
fn dirs(disk: &Disk) -> Vec<(String, DirId)> {
    let logs = (0..MOST_LOGS).map(|log| format!("{LOG_DIR}/log-{log}"));
    let paths = std::iter::once(LOG_DIR.to_owned()).chain(logs);
    paths.filter_map(|path| disk.dir_at(Path::new(&path)).map(|dir| (path, dir))).collect()
}

/// All files of a store: the directory, the name, the length.
fn files(disk: &Disk) -> Vec<(DirId, String, u64)> {
    let of = |dir| disk.files(dir).map(move |(name, length)| (dir, name.to_string_lossy().into_owned(), length));
    dirs(disk).into_iter().flat_map(|(_, dir)| of(dir)).collect()
}

/// Whether a store has a file of this name beside its logs.
fn belongs(name: &str) -> bool {
    let chunk = name.strip_prefix("chunk-").and_then(|name| name.strip_suffix(".pages"));
    matches!(name, "root-0" | "root-1") || chunk.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

impl<const B: usize> Inspect for Txn<SimEnv, B> {
    type Seat = Seat<B>;

    async fn step(&self, seat: &mut Seat<B>, step: Step, around: &Surroundings) -> Result<Stepped, Violation> {
        Walk { store: &self.store, around }.step(seat, step).await
    }

    fn newest_page(disk: &Disk) -> Option<u64> {
        let (_, store) = *dirs(disk).first()?;
        let page_bytes = B + PAGE_HEADER_BYTES;
        let chunks: Vec<_> = disk.files(store).map(|(name, _)| name.to_owned()).collect();
        let chunks = chunks.iter().filter(|name| name.to_string_lossy().starts_with("chunk-"));
        let bytes: Vec<_> = chunks.filter_map(|name| disk.read_file(store, name)).collect();
        let word = |page: &[u8], at: usize| Some(u64::from_le_bytes(*page.get(at..)?.first_chunk()?));
        let csn = |page: &[u8]| {
            let (header, body) = page.split_first_chunk::<PAGE_HEADER_BYTES>()?;
            let crc = u32::from_le_bytes(*header.first_chunk()?);
            // (Others are parts of long values, or were torn.)
            (crc == checksum(word(page, 16)?, header, body)).then(|| word(page, 8))?
        };
        bytes.iter().flat_map(|bytes| bytes.chunks_exact(page_bytes)).filter_map(csn).max()
    }

    fn introduce(&self, truth: &mut Truth) {
        for info in self.store.tables().iter().filter(|info| is_of_clients(&info.name)) {
            truth.created(info.id.0, &info.name, kind_of(&info.kind), info.created.to_bits());
        }
    }

    const NOTICES_DAMAGE: bool = false;

    /// A write or a sync of a log. (A checkpoint that fails costs no more than that: the logs have everything.)
    fn concerns_the_log(disk: &Disk, op: &Op) -> bool {
        let dir = op.file().and_then(|file| disk.dir_of(file));
        dir.is_some_and(|dir| {
            dirs(disk).iter().skip(1).any(|(_, log)| *log == dir) && image::concerns_a_log(disk, dir, op)
        })
    }

    fn same_files(one: &Disk, two: &Disk) -> bool {
        let (dirs, others) = (dirs(one), dirs(two));
        let same = |((path, dir), (of, other)): (&(String, DirId), &(String, DirId))| {
            path == of && one.same_content(*dir, two, *other)
        };
        dirs.len() == others.len() && dirs.iter().zip(&others).all(same)
    }

    fn open_bound(image: &Disk, recovered: &Recovered) -> u64 {
        let files = files(image);
        let bytes: u64 = files.iter().map(|(_, _, length)| length).sum();
        // Injected interruptions and short transfers at most double what is needed, with a wide margin. A page of 512 bytes is read at
        // a time, and all rows are read back.
        let rows = recovered.records.len() + recovered.stored.as_ref().map_or(0, |stored| stored.rows.len());
        4 * (400 + 60 * files.len() as u64 + bytes / 256 + 4 * rows as u64)
    }

    fn clean_directory(disk: &Disk, _: &Recovered, foreign: (&str, &[u8])) -> Result<(), Violation> {
        let dirs = dirs(disk);
        let Some((_, store)) = dirs.first() else { return ensure(false, "I22", LOG_DIR, "nothing") };
        let names: Vec<String> = disk.files(*store).map(|(name, _)| name.to_string_lossy().into_owned()).collect();
        // (A checkpoint may be under way already, and it may be the first to write this copy.)
        let stray = names.iter().find(|name| *name != foreign.0 && *name != "root.tmp" && !belongs(name));
        ensure(stray.is_none(), "I22", "root copies and chunks", format_args!("{names:?}"))?;
        let kept = disk.read_file(*store, OsStr::new(foreign.0)).is_some_and(|bytes| bytes == foreign.1);
        ensure(kept, "I22", format_args!("{} untouched", foreign.0), format_args!("{names:?}"))?;
        for (path, log) in dirs.iter().skip(1) {
            // Its keeper may be preparing one already.
            let segment = |name: &str| name.ends_with(".seg") || name.ends_with(".tmp");
            let stray = disk.files(*log).find(|(name, _)| !segment(&name.to_string_lossy()));
            ensure(stray.is_none(), "I22", format_args!("segments in {path}"), format_args!("{stray:?}"))?;
        }
        Ok(())
    }

    /// A file is damaged: whatever opens then delivers no part of a transaction, and what is refused is left as it was. What was there is
    /// there still, or missed when it is opened or read; only what no log proves any more may be gone.
    fn damage_is_refused(
        image: &Disk,
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
        let mut damaged = sound.fork();
        let (dir, damage) = draw_damage(&sound, &files, draws);
        if !damage.apply_in(dir, &mut damaged) {
            return Ok(Vec::new());
        }
        let env = SimEnv::still(damaged.fork());
        match recover(env.clone()) {
            Ok(recovered) => {
                let flaw = recovered.flaw.unwrap_or_default();
                ensure(flaw.is_empty(), "I12", format_args!("{damage}: refused, or nothing is there in part"), flaw)?;
                let owed = proves_all(&sound, &damaged, dir, &damage.file);
                ensure(
                    recovered.records == undamaged.records || !owed,
                    "I4",
                    format_args!("{damage}: refused, or all of {} records are there", undamaged.records.len()),
                    format_args!("it opened with {}, or with others", recovered.records.len()),
                )?;
                Ok(if owed { vec!["I12", "I4"] } else { vec!["I12"] })
            }
            // It opened, and what is damaged was seen when it was read.
            Err(message) if message.starts_with(UNREAD) => Ok(vec!["I4"]),
            Err(message) => {
                let unchanged = Self::same_files(&damaged, &env.disk());
                ensure(unchanged, "I25", format_args!("{damage}: a refused open changes no byte"), message)?;
                Ok(vec!["I25"])
            }
        }
    }

    fn proven_next(_: &Disk) -> Option<u64> {
        None
    }
}

/// One for any file of a store, mostly where there is something.
fn draw_damage(disk: &Disk, files: &[(DirId, String, u64)], draws: &mut Prng) -> (DirId, Damage) {
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
    let sequence =
        root.get(ROOT_SEQUENCE_AT..).and_then(|rest| rest.first_chunk()).map(|word| u64::from_le_bytes(*word));
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

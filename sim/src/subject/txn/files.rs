//! What oracles know of a store's files: root copies, chunks of pages, and a directory for each log.

use std::{ffi::OsStr, path::Path};

use engine::txn::pages::format::PAGE_HEADER_BYTES;

use super::{
    Txn,
    content::is_of_clients,
    damages::{self, page_csn},
    seat::{Seat, Walk, kind_of},
};
use crate::{
    disk::{DirId, Disk, Op},
    env::SimEnv,
    image,
    oracle::ensure,
    prng::Prng,
    report::Violation,
    runner::LOG_DIR,
    subject::{Inspect, Past, Recovered, Stepped, Surroundings},
    truth::txn::Truth,
    workload::Step,
};

/// A store has so many logs at most.
const MOST_LOGS: u16 = 16;

/// The directories of a store, with their names: its own, then those of its logs.
pub(super) fn dirs(disk: &Disk) -> Vec<(String, DirId)> {
    let logs = (0..MOST_LOGS).map(|log| format!("{LOG_DIR}/log-{log}"));
    let paths = std::iter::once(LOG_DIR.to_owned()).chain(logs);
    paths.filter_map(|path| disk.dir_at(Path::new(&path)).map(|dir| (path, dir))).collect()
}

/// All files of a store: the directory, the name, the length.
pub(super) fn files(disk: &Disk) -> Vec<(DirId, String, u64)> {
    let of = |dir| disk.files(dir).map(move |(name, length)| (dir, name.to_string_lossy().into_owned(), length));
    dirs(disk).into_iter().flat_map(|(_, dir)| of(dir)).collect()
}

/// Whether a store has a file of this name beside its logs.
fn belongs(name: &str) -> bool {
    let chunk = name.strip_prefix("chunk-").and_then(|name| name.strip_suffix(".pages"));
    matches!(name, "root-0" | "root-1") || chunk.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether both hold the same files with the same bytes.
pub(super) fn same_files(one: &Disk, two: &Disk) -> bool {
    let (dirs, others) = (dirs(one), dirs(two));
    let same = |((path, dir), (of, other)): (&(String, DirId), &(String, DirId))| {
        path == of && one.same_content(*dir, two, *other)
    };
    dirs.len() == others.len() && dirs.iter().zip(&others).all(same)
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
        bytes.iter().flat_map(|bytes| bytes.chunks_exact(page_bytes)).filter_map(page_csn).max()
    }

    fn introduce(&self, truth: &mut Truth) {
        for info in self.store.tables().iter().filter(|info| is_of_clients(&info.name)) {
            truth.created(info.id.0, &info.name, kind_of(&info.kind), info.created.to_bits());
        }
    }

    const LOOKS_BACK: bool = true;

    /// What changes files of tables, or makes them durable, and the names of a log's segments: they go when it is released.
    fn of_checkpoint(disk: &Disk, op: &Op) -> bool {
        let store = disk.dir_at(Path::new(LOG_DIR));
        match op {
            Op::Rename { .. } | Op::Remove { .. } => true,
            Op::SyncDir { dir } => Some(*dir) == store,
            Op::Write { file, .. } | Op::SyncData { file } | Op::SyncAll { file } | Op::SetLen { file, .. } => {
                disk.dir_of(*file) == store
            }
            _ => false,
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
        same_files(one, two)
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

    fn damage_is_refused(
        image: &Disk,
        past: &Past<'_>,
        draws: &mut Prng,
        recover: impl Fn(SimEnv) -> Result<Recovered, String>,
    ) -> Result<Vec<&'static str>, Violation> {
        damages::judge::<B>(image, past, draws, recover)
    }

    fn proven_next(_: &Disk) -> Option<u64> {
        None
    }
}

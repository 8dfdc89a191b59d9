//! The files of a log's directory: their names, and how a list of them is replaced.

use std::io;

use tracing::debug;

use crate::{
    env::{Dir, Env, File, OpenMode, interruptible, write_all_at},
    failure::Failure,
    plant::{Plants, planted},
};

use super::manifest::{Entry, FileKind, Manifest};

/// A base that is being written, until it has its name.
pub(super) const TEMPORARY_BASE: &str = "temp-rewriteaof-bg-0.aof";

/// Names of the files of one log.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// `appendfilename`.
    pub(super) name: String,
}

impl Names {
    pub(super) fn manifest(&self) -> String {
        format!("{}.manifest", self.name)
    }

    pub(super) fn temporary_manifest(&self) -> String {
        format!("temp-{}.manifest", self.name)
    }

    /// What a log that is being switched on collects, until its first base is complete.
    pub(super) fn temporary_increment(&self) -> String {
        format!("temp-{}.incr", self.name)
    }

    /// The manifest of a log that is being switched on, until it counts.
    pub(super) fn first_manifest(&self) -> String {
        format!("temp-{}.first.manifest", self.name)
    }

    /// A salt for a new file, if it is to have checksums.
    pub(super) fn salt<E: Env>(&self, env: &E, checksums: bool) -> Option<u32> {
        let mut bytes = [0; 4];
        if checksums {
            env.fill_random(&mut bytes);
        }
        checksums.then_some(u32::from_le_bytes(bytes))
    }

    fn base(&self, seq: i64) -> Entry {
        let name = format!("{}.{seq}.base.aof", self.name);
        Entry { name, seq, kind: FileKind::Base, synced: None, salt: None }
    }

    fn increment(&self, seq: i64) -> Entry {
        let name = format!("{}.{seq}.incr.aof", self.name);
        Entry { name, seq, kind: FileKind::Increment, synced: None, salt: None }
    }

    /// The one file of a log before Redis 7.
    pub(super) fn single(&self) -> Entry {
        Entry { name: self.name.clone(), ..self.base(1) }
    }

    /// The next base of a log.
    pub(super) fn next_base(&self, manifest: &Manifest) -> Entry {
        let bases = manifest.base.iter().chain(manifest.history.iter().filter(|entry| entry.name.contains(".base.")));
        self.base(bases.map(|entry| entry.seq).max().unwrap_or(0).max(0) + 1)
    }

    /// The next increment of a log.
    pub(super) fn next_increment(&self, manifest: &Manifest) -> Entry {
        let history = manifest.history.iter().filter(|entry| entry.name.contains(".incr."));
        let increments = manifest.increments.iter().chain(history);
        self.increment(increments.map(|entry| entry.seq).max().unwrap_or(0).max(0) + 1)
    }

    /// Whether a file that no manifest lists is one that a log of this name began and did not finish.
    pub(super) fn is_left_over(&self, file: &str) -> bool {
        let temporary = [self.temporary_manifest(), self.temporary_increment(), self.first_manifest()];
        file == TEMPORARY_BASE || temporary.iter().any(|name| name == file) || self.is_of_a_log(file)
    }

    /// Whether it has the name of a base or of an increment.
    pub(super) fn is_of_a_log(&self, file: &str) -> bool {
        let Some(rest) = file.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix('.')) else { return false };
        let Some((seq, kind)) = rest.split_once('.') else { return false };
        seq.parse::<u64>().is_ok() && matches!(kind, "base.aof" | "base.rdb" | "incr.aof")
    }
}

/// Why a manifest was not replaced.
#[derive(Debug)]
pub(super) struct NotReplaced {
    pub(super) failure: Failure,
    /// Which one a power cut would leave is unknown; else it is the old one.
    pub(super) unknown: bool,
}

impl NotReplaced {
    fn harmless(failure: Failure) -> NotReplaced {
        NotReplaced { failure, unknown: false }
    }
}

/// The machine is asked to keep room for so many bytes at a time.
const ROOM_BYTES: u64 = 4 << 20;

/// How far the machine keeps room for a file. Extending a file costs half of what a write does, so for one that has grown it is done
/// ahead.
#[derive(Clone, Copy, Debug)]
pub(super) enum Room {
    /// To here, in bytes.
    To(u64),
    /// The machine knows nothing of the kind.
    Nothing,
}

impl Room {
    /// Before a write: there shall be room to its end, and further on.
    pub(super) async fn keep<F: File>(&mut self, file: &F, from: u64, end: u64) {
        let Room::To(to) = *self else { return };
        if end <= to.max(ROOM_BYTES) {
            return;
        }
        let to = to.max(from);
        *self = match interruptible(|| file.reserve(to, ROOM_BYTES)).await {
            Ok(true) => Room::To(to + ROOM_BYTES),
            // (Whatever it is, the write will tell.)
            Ok(false) | Err(_) => Room::Nothing,
        };
    }

    /// Nothing is appended any more to a file that has so many bytes: what is not used is given back. What fails costs only the room.
    pub(super) async fn give_back<F: File>(self, file: &F, length: u64) {
        if matches!(self, Room::To(to) if to > length) {
            let _ = interruptible(|| file.set_len(length)).await;
        }
    }
}

/// Creates an empty file, in place of one of the same name that nothing lists.
pub(super) async fn create<D: Dir>(dir: &D, name: &str) -> Result<D::File, Failure> {
    let mut created = interruptible(|| dir.open(name, OpenMode::CreateNew)).await;
    if created.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
        interruptible(|| dir.remove(name)).await.map_err(|error| Failure::new("remove", name, &error))?;
        created = interruptible(|| dir.open(name, OpenMode::CreateNew)).await;
    }
    created.map_err(|error| Failure::new("create", name, &error))
}

/// Replaces the manifest. When this returns, the new one survives a power cut, and so does every name that was given in the
/// directory before.
pub(super) async fn replace_manifest<D: Dir>(
    dir: &D,
    names: &Names,
    manifest: &Manifest,
    plants: &Plants,
) -> Result<(), NotReplaced> {
    let name = names.manifest();
    if planted!(plants, RewriteManifestInplace)
        && let Ok(file) = dir.open(&name, OpenMode::Write).await
        && let Ok(bytes) = manifest.encode()
    {
        let written = async {
            file.set_len(0).await?;
            write_all_at(&file, &bytes, 0).await?;
            file.sync_all().await
        };
        let failed = |error| NotReplaced { failure: Failure::new("write", &name, &error), unknown: false };
        return written.await.map_err(failed);
    }
    let temporary = names.temporary_manifest();
    write_manifest(dir, &temporary, manifest, plants).await.map_err(NotReplaced::harmless)?;
    put_manifest(dir, names, &temporary, plants).await
}

/// Writes a manifest under a name that doesn't count yet, and syncs it.
pub(super) async fn write_manifest<D: Dir>(
    dir: &D,
    temporary: &str,
    manifest: &Manifest,
    plants: &Plants,
) -> Result<(), Failure> {
    let bytes = manifest
        .encode()
        .map_err(|wrong| Failure::new("write", temporary, &io::Error::new(io::ErrorKind::InvalidInput, wrong)))?;
    let file = create(dir, temporary).await?;
    let failed = |error| Failure::new("write", temporary, &error);
    write_all_at(&file, &bytes, 0).await.map_err(failed)?;
    if !planted!(plants, AofManifestUnsynced) {
        interruptible(|| file.sync_all()).await.map_err(|error| Failure::new("sync", temporary, &error))?;
    }
    Ok(())
}

/// Puts a manifest in place that was written under another name.
pub(super) async fn put_manifest<D: Dir>(
    dir: &D,
    names: &Names,
    temporary: &str,
    plants: &Plants,
) -> Result<(), NotReplaced> {
    // A manifest names only what is there for good: a power cut may keep any of the names that were given since the last sync.
    if !planted!(plants, AofNamesUnsynced) {
        sync_names(dir).await.map_err(NotReplaced::harmless)?;
    }
    let unknown = |failure| NotReplaced { failure, unknown: true };
    let name = names.manifest();
    let renamed = interruptible(|| dir.rename(temporary, &name)).await;
    renamed.map_err(|error| unknown(Failure::new("rename", temporary, &error)))?;
    if planted!(plants, RewriteRenameNoDirsync) {
        return Ok(());
    }
    sync_names(dir).await.map_err(unknown)?;
    debug!("manifest replaced");
    Ok(())
}

/// Makes the names in a directory durable.
pub(super) async fn sync_names<D: Dir>(dir: &D) -> Result<(), Failure> {
    interruptible(|| dir.sync()).await.map_err(|error| Failure::new("sync", "the directory", &error))
}

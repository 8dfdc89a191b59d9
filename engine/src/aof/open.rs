//! Opening: what is there is loaded, proven, and made ready to be appended to.
//!
//! Nothing is written before all of it was loaded. Then the last increment goes on if its close is on record; otherwise its good
//! part is copied into a new one, because what a torn or unsynced file shows now need not be what the disk holds.

use std::{io, path::Path};

use tracing::{debug, info, warn};

use crate::{
    env::{Dir, Entry as DirEntry, EntryKind, Env, File, OpenMode, interruptible, read_at_most, write_all_at},
    failure::Failure,
    plant::{Plants, planted},
};

use super::{
    check::{Check, End, Role, Walk},
    error::OpenError,
    files::{self, Names},
    job::Target,
    load::{self, DataSet, LoadError, LoadOptions, Loaded, Source},
    log::{Log, Opened},
    manifest::{Entry, Manifest},
    options::Options,
    sums::{self, LINE_BYTES, MARK},
};

/// What Redis calls a snapshot in RDB format.
const RDB_NAME: &str = "dump.rdb";
/// A file is copied by pieces of so many bytes.
const COPY_BYTES: usize = 64 << 10;

pub(super) async fn open<E: Env>(
    env: E,
    path: &Path,
    options: Options,
    data: &mut impl DataSet,
) -> Result<(Log<E>, Loaded), OpenError> {
    options.validate()?;
    let (outer, lock) = lock(&env, path).await?;
    let names = Names { name: options.append_filename.clone() };
    let inner_path = path.join(&options.append_dirname);
    let opening = Opening { env: &env, options: &options, names: &names, plants: options.plants() };
    let found = opening.find(&outer, &inner_path, data).await?;
    let Found { listed, loaded, there } = found;
    // As it was read: the one that stands there by the end has checksums anyway.
    let whole = !matches!(&there, There::Log(_, manifest) if !manifest.summed);
    let (dir, made) = match there {
        There::Log(dir, manifest) => {
            if !whole {
                opening.set_unlisted_aside(&dir, &listed, &manifest).await?;
            }
            let made = opening.go_on(&dir, manifest, &loaded).await?;
            (dir, made)
        }
        There::Nothing => {
            let dir = opening.create_dir(&inner_path).await?;
            let made = opening.begin(&dir).await?;
            (dir, made)
        }
        There::SingleFile => {
            let dir = opening.create_dir(&inner_path).await?;
            let made = opening.upgrade(&outer, &dir, &loaded).await?;
            (dir, made)
        }
    };
    if whole {
        opening.clean(&dir, &listed, &made.manifest).await;
    }
    let opened = Opened {
        lock,
        target: made.target,
        manifest: made.manifest,
        collecting: None,
        earlier_bytes: made.earlier_bytes,
        reference_bytes: made.base_bytes,
    };
    Ok((Log::new(env, dir, names, options, opened), loaded))
}

/// Opens the data directory, or creates it, and locks it.
pub(super) async fn lock<E: Env>(env: &E, path: &Path) -> Result<(E::Dir, <E::Dir as Dir>::Lock), OpenError> {
    let what = path.display().to_string();
    let outer = interruptible(|| env.dir(path, true)).await.map_err(OpenError::io("open directory", &what))?;
    let lock = interruptible(|| outer.lock()).await.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { path: path.to_owned() },
        _ => OpenError::io("lock", &what)(error),
    })?;
    Ok((outer, lock))
}

/// What [`open`] with these options would load, and its verdict. Changes no byte.
pub(super) async fn verify<E: Env>(
    env: E,
    path: &Path,
    options: Options,
    data: &mut impl DataSet,
) -> Result<Loaded, OpenError> {
    options.validate()?;
    let names = Names { name: options.append_filename.clone() };
    let what = path.display().to_string();
    let outer = interruptible(|| env.dir(path, false)).await.map_err(OpenError::io("open directory", &what))?;
    let opening = Opening { env: &env, options: &options, names: &names, plants: options.plants() };
    Ok(opening.find(&outer, &path.join(&options.append_dirname), data).await?.loaded)
}

/// What was there before an open.
struct Found<D> {
    /// What is in the log's directory.
    listed: Vec<DirEntry>,
    loaded: Loaded,
    there: There<D>,
}

/// What kind of log there is.
enum There<D> {
    /// None: a new one begins.
    Nothing,
    /// The log's directory and its manifest.
    Log(D, Manifest),
    /// One file in the data directory, as before Redis 7.
    SingleFile,
}

/// What is ready to be appended to.
struct Made<E: Env> {
    target: Target<E>,
    manifest: Manifest,
    earlier_bytes: u64,
    base_bytes: u64,
}

pub(super) struct Opening<'a, E> {
    pub(super) env: &'a E,
    pub(super) options: &'a Options,
    pub(super) names: &'a Names,
    pub(super) plants: Plants,
}

impl<E: Env> Opening<'_, E> {
    fn source<'s>(&'s self, dir: &'s E::Dir, options: &'s LoadOptions) -> Source<'s, E> {
        Source { env: self.env, dir, options, plants: self.plants.clone() }
    }

    /// Looks for a log and loads it. Writes nothing.
    async fn find(&self, outer: &E::Dir, path: &Path, data: &mut impl DataSet) -> Result<Found<E::Dir>, OpenError> {
        let name = &self.options.append_dirname;
        let dir = match interruptible(|| self.env.dir(path, false)).await {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.find_without_manifest(outer, Vec::new(), None, data).await;
            }
            Err(error) => return Err(OpenError::io("open directory", name)(error)),
        };
        let listed = list(&dir, name).await?;
        let mut manifest = match load::read_manifest(&dir, &self.names.manifest()).await {
            Ok(manifest) => manifest,
            Err(LoadError::Nothing { .. }) => match self.unfinished(&dir).await {
                // All that is missing is the manifest's name.
                Some(manifest) if manifest.live().all(|entry| is_there(&listed, &entry.name)) => manifest,
                unfinished => return self.find_without_manifest(outer, listed, unfinished, data).await,
            },
            Err(error) => return Err(error.into()),
        };
        if planted!(self.plants, AofSumsIgnored) {
            manifest.base.iter_mut().chain(&mut manifest.increments).for_each(|entry| entry.salt = None);
        }
        let loaded = self.source(&dir, &self.options.loading()).load(&manifest, data).await?;
        Ok(Found { listed, loaded, there: There::Log(dir, manifest) })
    }

    /// A log of one file, or none.
    async fn find_without_manifest(
        &self,
        outer: &E::Dir,
        listed: Vec<DirEntry>,
        unfinished: Option<Manifest>,
        data: &mut impl DataSet,
    ) -> Result<Found<E::Dir>, OpenError> {
        let there = list(outer, "the data directory").await?;
        let mut loaded = Loaded::default();
        if is_there(&there, &self.names.name) {
            let entry = self.names.single();
            self.source(outer, &self.options.loading()).load_one(&entry, true, data, &mut loaded).await?;
            return Ok(Found { listed, loaded, there: There::SingleFile });
        }
        self.may_begin(&listed, unfinished.as_ref())?;
        if is_there(&there, RDB_NAME) && !self.options.ignore_rdb && !planted!(self.plants, AofIgnoreRdb) {
            return Err(OpenError::OtherData { file: RDB_NAME.into() });
        }
        Ok(Found { listed, loaded, there: There::Nothing })
    }

    pub(super) async fn create_dir(&self, path: &Path) -> Result<E::Dir, OpenError> {
        let created = interruptible(|| self.env.dir(path, true)).await;
        created.map_err(OpenError::io("create directory", &self.options.append_dirname))
    }

    /// Makes the one file of an older log the base of a new one. Until the manifest is durable the old file is the log, and the next
    /// open begins again; only then it is removed.
    async fn upgrade(&self, outer: &E::Dir, dir: &E::Dir, loaded: &Loaded) -> Result<Made<E>, OpenError> {
        let old = self.names.single();
        let reads = |error| OpenError::io("read", &old.name)(error);
        let from = interruptible(|| outer.open(&old.name, OpenMode::Read)).await.map_err(reads)?;
        let good = loaded.files.first().map_or(0, |(_, checked)| checked.good);
        let mut manifest = Manifest { summed: true, ..Manifest::default() };
        let mut base = Entry { synced: Some(good), ..self.names.next_base(&manifest) };
        if loaded.begins > 0 {
            // It begins in RDB format.
            base.name = base.name.replace(".base.aof", ".base.rdb");
        }
        let to = self.create(dir, &base.name).await?;
        let mut piece = vec![0; COPY_BYTES];
        let mut at = 0;
        while at < good {
            let wanted = (good - at).min(piece.len() as u64) as usize;
            let read = read_at_most(&from, &mut piece[..wanted], at).await.map_err(reads)?;
            if read < wanted {
                return Err(reads(io::Error::other("it has become shorter since it was loaded")));
            }
            write_all_at(&to, &piece[..read], at).await.map_err(OpenError::io("write", &base.name))?;
            at += read as u64;
            self.env.yield_now().await;
        }
        let length = interruptible(|| from.len()).await.map_err(reads)?;
        if length == good {
            let check = Check::default();
            let mut walk = Walk::new(&to, loaded.begins, check).await.map_err(reads)?;
            while walk.next().await.map_err(reads)?.is_some() {}
            if walk.digest() != loaded.digest {
                return Err(reads(io::Error::other("it reads differently from when it was loaded")));
            }
        }
        interruptible(|| to.sync_all()).await.map_err(OpenError::io("sync", &base.name))?;
        let increment = self.next_increment(&manifest);
        let file = self.create(dir, &increment.name).await?;
        let target = Target::end_of(&increment, file, 0);
        manifest.base = Some(base);
        manifest.increments.push(increment);
        if planted!(self.plants, AofUpgradeRemovesFirst) {
            let _ = outer.remove(&old.name).await;
            let _ = outer.sync().await;
        }
        self.replace(dir, &manifest).await?;
        match interruptible(|| outer.remove(&old.name)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(file = old.name, %error, "it was replaced, and can be removed");
            }
            _ => {}
        }
        info!(file = old.name, bytes = good, "upgraded");
        Ok(Made { target, manifest, earlier_bytes: good, base_bytes: good })
    }

    /// Goes on in a log that was loaded.
    async fn go_on(&self, dir: &E::Dir, mut manifest: Manifest, loaded: &Loaded) -> Result<Made<E>, OpenError> {
        let length =
            |name: &str| loaded.files.iter().find(|(file, _)| file == name).map_or(0, |(_, checked)| checked.good);
        let base_bytes = manifest.base.as_ref().map_or(0, |base| length(&base.name));
        let last = manifest.increments.last().cloned();
        let total: u64 = loaded.files.iter().map(|(_, checked)| checked.good).sum();
        if let Some(entry) = &last {
            let file = interruptible(|| dir.open(&entry.name, OpenMode::Write)).await;
            let file = file.map_err(OpenError::io("open", &entry.name))?;
            let total = total - loaded.files.last().map_or(0, |(_, checked)| checked.good);
            let (good, whole, torn) = loaded.files.last().map_or((0, true, true), |(_, checked)| {
                let inside = planted!(self.plants, AofMultiTruncInside);
                let good = if inside { checked.whole } else { checked.good };
                (good, checked.good == checked.length, !matches!(checked.end, End::Malformed(..) | End::Unit(_)))
            });
            if !torn {
                self.keep_aside(&file, entry, good, dir).await?;
            }
            if good < loaded.files.last().map_or(0, |(_, checked)| checked.length)
                && planted!(self.plants, AofAppendBehindTail)
            {
                let length = interruptible(|| file.len()).await.map_err(OpenError::io("read", &entry.name))?;
                let target = Target::end_of(entry, file, length);
                return Ok(Made { target, manifest, earlier_bytes: total, base_bytes });
            }
            let trusted = planted!(self.plants, AofTrustOldSync);
            if trusted {
                let synced = async {
                    file.set_len(good).await?;
                    file.sync_all().await
                };
                synced.await.map_err(OpenError::io("sync", &entry.name))?;
            }
            let summed = entry.salt.is_some() == self.options.sums(&self.plants);
            if trusted || (whole && summed && entry.synced == Some(good)) {
                let target = Target::end_of(entry, file, good);
                // Which manifest the disk holds is not known either: the sync after its rename may have failed.
                if !planted!(self.plants, AofManifestTrusted) {
                    manifest.summed = true;
                    self.replace(dir, &manifest).await?;
                }
                return Ok(Made { target, manifest, earlier_bytes: total, base_bytes });
            }
            // What a power cut would leave of it is not known: a sync now would not prove it, if one failed before.
            let new = self.next_increment(&manifest);
            let (copied, bytes) = self.copy(&file, entry, (good, loaded.digest), dir, &new).await?;
            debug!(from = entry.name, to = new.name, bytes, "copied");
            manifest.increments.pop();
            manifest.increments.push(Entry { synced: Some(bytes), ..new.clone() });
            manifest.summed = true;
            self.replace(dir, &manifest).await?;
            let _ = dir.remove(&entry.name).await;
            let target = Target::end_of(&new, copied, bytes);
            return Ok(Made { target, manifest, earlier_bytes: total, base_bytes });
        }
        // A base alone, as a Redis that was stopped in an upgrade leaves it.
        let new = self.next_increment(&manifest);
        let file = self.create(dir, &new.name).await?;
        manifest.increments.push(new.clone());
        manifest.summed = true;
        self.replace(dir, &manifest).await?;
        let target = Target::end_of(&new, file, 0);
        Ok(Made { target, manifest, earlier_bytes: total, base_bytes })
    }

    /// A damaged tail that is cut, not merely torn, stays in a file beside the log.
    async fn keep_aside(
        &self,
        file: &<E::Dir as Dir>::File,
        entry: &Entry,
        good: u64,
        dir: &E::Dir,
    ) -> Result<(), OpenError> {
        let name = format!("{}.cut", entry.name);
        let length = interruptible(|| file.len()).await.map_err(OpenError::io("read", &entry.name))?;
        let mut tail = vec![0; length.saturating_sub(good) as usize];
        read_at_most(file, &mut tail, good).await.map_err(OpenError::io("read", &entry.name))?;
        let aside = self.create(dir, &name).await?;
        write_all_at(&aside, &tail, 0).await.map_err(OpenError::io("write", &name))?;
        interruptible(|| aside.sync_all()).await.map_err(OpenError::io("sync", &name))
    }

    /// Copies what is good of an increment into a new one, in new batches, and makes it durable. Returns the file and its length.
    async fn copy(
        &self,
        from: &<E::Dir as Dir>::File,
        entry: &Entry,
        (good, digest): (u64, u32),
        dir: &E::Dir,
        new: &Entry,
    ) -> Result<(<E::Dir as Dir>::File, u64), OpenError> {
        let reads = |error| OpenError::io("read", &entry.name)(error);
        let to = self.create(dir, &new.name).await?;
        let line = vec![0; if new.salt.is_some() { LINE_BYTES } else { 0 }];
        let (mut batch, mut length) = (line.clone(), 0);
        let mut walk = Walk::new(from, 0, self.options.loading().check(entry)).await.map_err(reads)?;
        let mut open_unit = false;
        loop {
            let role = walk.next().await.map_err(reads)?.filter(|_| walk.offset() <= good);
            let full = batch.len() >= COPY_BYTES && !open_unit;
            match role {
                Some(Role::Begins) => open_unit = true,
                Some(Role::Executes | Role::Discards) => open_unit = false,
                _ => {}
            }
            if (full || role.is_none()) && batch.len() > line.len() {
                if let Some(salt) = new.salt {
                    sums::seal(&mut batch, salt, length, length);
                }
                write_all_at(&to, &batch, length).await.map_err(OpenError::io("write", &new.name))?;
                length += batch.len() as u64;
                batch.truncate(line.len());
                self.env.yield_now().await;
            }
            match role {
                Some(_) if !walk.item().starts_with(MARK) => batch.extend_from_slice(walk.item()),
                Some(_) => {}
                None => break,
            }
        }
        // To its end, so that it has seen what was loaded.
        while walk.next().await.map_err(reads)?.is_some() {}
        // After a failed sync the cache may have forgotten, since the file was loaded, what the disk never had.
        let inside = planted!(self.plants, AofMultiTruncInside);
        if walk.digest() != digest && !inside && !planted!(self.plants, AofSecondReadTrusted) {
            return Err(reads(io::Error::other("it reads differently from when it was loaded")));
        }
        interruptible(|| to.sync_all()).await.map_err(OpenError::io("sync", &new.name))?;
        Ok((to, length))
    }

    /// The files of a log that was being switched on. Where there is no manifest it was for the first time; if they are not all there,
    /// they hold nothing that was acknowledged.
    pub(super) async fn unfinished(&self, dir: &E::Dir) -> Option<Manifest> {
        load::read_manifest(dir, &self.names.first_manifest()).await.ok().filter(|manifest| manifest.summed)
    }

    /// Whether a new log may begin where no manifest is.
    pub(super) fn may_begin(&self, listed: &[DirEntry], unfinished: Option<&Manifest>) -> Result<(), OpenError> {
        let unfinished =
            |name: &str| unfinished.is_some_and(|manifest| manifest.live().any(|entry| entry.name == name));
        let of_a_log = |name: &str| name.starts_with(&format!("{}.", self.names.name)) && !name.ends_with(".manifest");
        let files: Vec<String> = (listed.iter().filter_map(|entry| entry.name.to_str()))
            .filter(|name| of_a_log(name) && !unfinished(name))
            .filter(|name| !listed.iter().any(|entry| entry.name == **name && entry.len == 0))
            .take(10)
            .map(str::to_owned)
            .collect();
        if !files.is_empty() {
            return Err(OpenError::NoManifest { dir: self.options.append_dirname.clone(), files });
        }
        Ok(())
    }

    /// Begins a log: an empty base, an empty increment, and the manifest that names them.
    async fn begin(&self, dir: &E::Dir) -> Result<Made<E>, OpenError> {
        let mut manifest = Manifest { summed: true, ..Manifest::default() };
        let base = Entry { synced: Some(0), ..self.names.next_base(&manifest) };
        let increment = self.next_increment(&manifest);
        self.create(dir, &base.name).await?;
        let file = self.create(dir, &increment.name).await?;
        let target = Target::end_of(&increment, file, 0);
        manifest.base = Some(base);
        manifest.increments.push(increment);
        self.replace(dir, &manifest).await?;
        info!("a new log");
        Ok(Made { target, manifest, earlier_bytes: 0, base_bytes: 0 })
    }

    pub(super) fn next_increment(&self, manifest: &Manifest) -> Entry {
        let salt = self.names.salt(self.env, self.options.sums(&self.plants));
        Entry { salt, ..self.names.next_increment(manifest) }
    }

    pub(super) async fn create(&self, dir: &E::Dir, name: &str) -> Result<<E::Dir as Dir>::File, OpenError> {
        files::create(dir, name).await.map_err(OpenError::Failed)
    }

    async fn replace(&self, dir: &E::Dir, manifest: &Manifest) -> Result<(), OpenError> {
        let replaced = files::replace_manifest(dir, self.names, manifest, &self.plants).await;
        replaced.map_err(|error| OpenError::Failed(error.failure))
    }

    /// A manifest without checksums may have lost a line, and a file that it doesn't list be one of the log. (1) It is neither removed
    /// now nor overwritten by a file that this open begins; (2) nor removed by the next open, whose manifest is whole: it gets a name
    /// that counts for nothing.
    async fn set_unlisted_aside(
        &self,
        dir: &E::Dir,
        listed: &[DirEntry],
        manifest: &Manifest,
    ) -> Result<(), OpenError> {
        let is_listed = |name: &str| manifest.entries().any(|entry| entry.name == name);
        for entry in listed.iter().filter(|entry| entry.kind == EntryKind::File && entry.len > 0) {
            let Some(name) = entry.name.to_str().filter(|name| self.names.is_of_a_log(name) && !is_listed(name)) else {
                continue;
            };
            let asides = (1..).map(|number| format!("{name}.unlisted.{number}"));
            let taken = |aside: &String| listed.iter().any(|entry| entry.name == **aside);
            let Some(aside) = asides.into_iter().find(|aside| !taken(aside)) else { continue };
            interruptible(|| dir.rename(name, &aside)).await.map_err(OpenError::io("rename", name))?;
            warn!(file = name, aside, "the manifest doesn't list it, and may have lost a line");
        }
        Ok(())
    }

    /// Removes what this log began and did not finish, and what is history. Only where the manifest that was read is known to be
    /// whole: else a file that it doesn't list may be one that it lost.
    async fn clean(&self, dir: &E::Dir, listed: &[DirEntry], manifest: &Manifest) {
        for entry in listed {
            let Some(name) = entry.name.to_str() else { continue };
            let in_use = manifest.live().any(|entry| entry.name == name);
            let history = manifest.history.iter().any(|entry| entry.name == name) && !self.options.aof_disable_auto_gc;
            let left_over = self.names.is_left_over(name) && !manifest.history.iter().any(|entry| entry.name == name);
            if !in_use && (history || left_over) && entry.kind == EntryKind::File {
                let removed = interruptible(|| dir.remove(name)).await;
                debug!(file = name, ok = removed.is_ok(), "left over");
            }
        }
    }
}

fn is_there(listed: &[DirEntry], name: &str) -> bool {
    listed.iter().any(|entry| entry.kind == EntryKind::File && entry.name == *name)
}

pub(super) async fn list<D: Dir>(dir: &D, what: &str) -> Result<Vec<DirEntry>, OpenError> {
    interruptible(|| dir.list()).await.map_err(OpenError::io("list", what))
}

impl<E: Env> Log<E> {
    /// States in the manifest how long the present increment is, so that the next open need not prove it. The log is durable
    /// without it, so a failure costs only that.
    pub(super) async fn state_end(&self) {
        let (mut manifest, target) = {
            let state = self.lock();
            (state.manifest.clone(), state.target.clone())
        };
        target.give_back_room().await;
        if let Some(last) = manifest.increments.last_mut() {
            last.synced = Some(target.offset);
        }
        manifest.summed = true;
        if let Err(error) = files::replace_manifest(&self.dir, &self.names, &manifest, &self.plants).await {
            let failure: Failure = error.failure;
            tracing::warn!(%failure, "closed without a record of that");
        }
    }
}

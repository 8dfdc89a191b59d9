//! The dialect of MemTable: one file of commands as they were received, without a manifest, without MULTI and EXEC.
//!
//! A `select` stands before each command whose database is not 0, and counts for that command alone: behind it the database is 0
//! again. That is not what Redis makes of such a file, so it must be read as what it is: with [`load`], or [`import`] before a log is
//! opened where it lies.
//!
//! - Nothing here ever writes to such a file, and nothing is appended to one: what ends it badly can't get in front of anything.
//! - The dialect can't say that commands belong together. A log made of it can: what is appended there as a unit is atomic.
//! - Keys that expired or were evicted are removed by a command of their own ([`encode_removal`]), so that what is loaded doesn't hang
//!   on the clock.

use std::{io, path::Path};

use tracing::info;

use crate::{
    env::{Dir, Env, File, OpenMode, interruptible, read_at_most, write_all_at},
    keyspace::CommandError,
};

use super::{
    check::{Check, Checked, End, Role, Walk},
    error::OpenError,
    files::{self, Names, TEMPORARY_BASE},
    load::{DataSet, LoadError},
    manifest::{Entry, Manifest},
    options::Options,
    resp::{self, Digits, Malformed},
    sums::{self, LINE_BYTES},
};

/// A file is copied by pieces of so many bytes.
const COPY_BYTES: usize = 64 << 10;

/// Appends a command that was executed in `database`.
///
/// ```
/// let mut out = Vec::new();
/// engine::aof::memtable::encode(&mut out, 3, &["set", "k", "v"]);
/// assert_eq!(out, b"*2\r\n$6\r\nselect\r\n$1\r\n3\r\n*3\r\n$3\r\nset\r\n$1\r\nk\r\n$1\r\nv\r\n");
/// ```
pub fn encode(out: &mut Vec<u8>, database: u32, command: &[impl AsRef<[u8]>]) {
    if database != 0 {
        encode_select(out, database);
    }
    resp::encode(out, command);
}

/// Appends the removal of a key that has expired or was evicted. It names its database, also 0.
///
/// ```
/// let mut out = Vec::new();
/// engine::aof::memtable::encode_removal(&mut out, 0, b"k");
/// assert_eq!(out, b"*2\r\n$6\r\nselect\r\n$1\r\n0\r\n*2\r\n$3\r\ndel\r\n$1\r\nk\r\n");
/// ```
pub fn encode_removal(out: &mut Vec<u8>, database: u32, key: &[u8]) {
    encode_select(out, database);
    resp::encode(out, &[b"del", key]);
}

fn encode_select(out: &mut Vec<u8>, database: u32) {
    resp::encode(out, &[b"select".as_slice(), Digits::of(database).as_ref()]);
}

/// What was loaded, and what was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// How far the file is whole, in bytes and lines, and what ends it. A `select` is whole with its command only.
    pub checked: Checked,
    /// Commands that failed, as they did when they were logged: offset, reason. The first hundred.
    pub failed: Vec<(u64, CommandError)>,
    /// How many failed.
    pub failures: u64,
    /// The file in the log's directory that holds what [`import`] did not take, if there was something.
    pub cut: Option<String>,
    /// Checksum of what was read.
    digest: u32,
}

/// Loads the file `path` into `data`, which should be empty, up to what is torn or no command; the report says where that is.
/// Changes no byte.
///
/// # Errors
/// [`LoadError::Command`] and [`LoadError::Io`]. A database that `data` hasn't is one: its commands would go elsewhere.
pub async fn load<E: Env>(env: &E, path: &Path, data: &mut impl DataSet) -> Result<Loaded, LoadError> {
    let name = path.display().to_string();
    let file = open(env, path).await.map_err(LoadError::io("open", &name))?;
    load_file(&file, &name, data).await
}

/// Makes a command log out of the file `path`, in the data directory `directory`, where there is none yet: its base, with commands
/// as they stand in the file. `data`, which should be empty, is loaded on the way. [`CommandLog::open`](super::CommandLog::open) with the
/// same options opens the log.
///
/// The file stays as it is, and may lie in the same directory; it is not looked at any more. Until the manifest is durable there is no
/// log, so a crash at any step leaves nothing but the file and what another import replaces, or asks to move away.
///
/// What is torn at the end of the file is left out, with `aof-load-truncated yes`; damage of at most `aof-load-corrupt-tail-max-size` bytes
/// also is. A copy of it stays in the log's directory ([`Loaded::cut`]).
///
/// # Errors
/// [`OpenError`]: [`OpenError::LogExists`] if there is a log, and [`OpenError::Load`] if the file can't be loaded as a whole.
pub async fn import<E: Env>(
    env: &E,
    path: &Path,
    directory: &Path,
    options: &Options,
    data: &mut impl DataSet,
) -> Result<Loaded, OpenError> {
    options.validate()?;
    let name = path.display().to_string();
    let file = open(env, path).await.map_err(OpenError::io("open", &name))?;
    let outer = interruptible(|| env.dir(directory, true)).await;
    let outer = outer.map_err(OpenError::io("open directory", directory.display().to_string()))?;
    let _lock = interruptible(|| outer.lock()).await.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { path: directory.to_owned() },
        _ => OpenError::io("lock", directory.display().to_string())(error),
    })?;
    let inner = directory.join(&options.append_dirname);
    let names = Names { name: options.append_filename.clone() };
    let importing = Importing { env, options, names, file: &file, name: &name };
    importing.may_begin(&inner).await?;
    let mut loaded = load_file(&file, &name, data).await?;
    importing.may_cut(&loaded.checked)?;
    // Nothing was written so far.
    let dir = interruptible(|| env.dir(&inner, true)).await;
    let dir = dir.map_err(OpenError::io("create directory", &options.append_dirname))?;
    loaded.cut = importing.make(&dir, &loaded).await?;
    info!(file = name, bytes = loaded.checked.good, "imported");
    Ok(loaded)
}

async fn open<E: Env>(env: &E, path: &Path) -> io::Result<<E::Dir as Dir>::File> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no name in UTF-8"));
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = interruptible(|| env.dir(parent, false)).await?;
    interruptible(|| dir.open(name, OpenMode::Read)).await
}

async fn load_file<F: File>(file: &F, name: &str, data: &mut impl DataSet) -> Result<Loaded, LoadError> {
    let mut entries = Entries::new(file).await.map_err(LoadError::io("read", name))?;
    let (mut failed, mut failures) = (Vec::new(), 0);
    let refuse = |at: u64| move |error| LoadError::Command { file: name.to_owned(), at, error };
    let mut selected = false;
    data.begin_file();
    while let Some(item) = entries.next().await.map_err(LoadError::io("read", name))? {
        let (at, command) = (entries.walk.at(), entries.walk.command().collect::<Vec<_>>());
        match (item, data.load(&command)) {
            (Item::Select, done) => {
                done.map_err(refuse(at))?;
                selected = true;
                continue;
            }
            (Item::Command, Ok(_)) => {}
            (Item::Command, Err(error @ (CommandError::Unknown(_) | CommandError::Unsupported(_)))) => {
                return Err(refuse(at)(error));
            }
            (Item::Command, Err(error)) => {
                failures += 1;
                if failed.len() < 100 {
                    failed.push((at, error));
                }
            }
        }
        if std::mem::take(&mut selected) {
            data.load(&[b"SELECT", b"0"]).map_err(refuse(at))?;
        }
    }
    if selected {
        data.load(&[b"SELECT", b"0"]).map_err(refuse(entries.good.0))?;
    }
    let (digest, checked) = entries.finish();
    Ok(Loaded { checked, failed, failures, cut: None, digest })
}

/// What stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    /// It says where the next command belongs.
    Select,
    Command,
}

/// A walk through a file of this dialect.
struct Entries<'f, F> {
    walk: Walk<'f, F>,
    lines: u64,
    commands: u64,
    /// Behind the last command: bytes, lines, commands.
    good: (u64, u64, u64),
    /// What ends the file, if its grammar doesn't.
    end: Option<End>,
}

impl<'f, F: File> Entries<'f, F> {
    async fn new(file: &'f F) -> io::Result<Entries<'f, F>> {
        let walk = Walk::new(file, 0, Check::default()).await?;
        Ok(Entries { walk, lines: 0, commands: 0, good: (0, 0, 0), end: None })
    }

    /// Goes to the next item; `None` at what ends the file.
    async fn next(&mut self) -> io::Result<Option<Item>> {
        if self.end.is_some() {
            return Ok(None);
        }
        let Some(role) = self.walk.next().await? else { return Ok(None) };
        match role {
            Role::Command => {}
            Role::Annotation => self.end = Some(End::Malformed(self.walk.at(), Malformed::NoCommand)),
            Role::Begins | Role::Executes | Role::Discards | Role::Stray => {
                self.end = Some(End::Unit(self.walk.at()));
            }
        }
        if self.end.is_some() {
            return Ok(None);
        }
        let mut command = self.walk.command();
        self.lines += 1 + 2 * command.len() as u64;
        self.commands += 1;
        if command.next().is_some_and(|name| name.eq_ignore_ascii_case(b"select")) {
            return Ok(Some(Item::Select));
        }
        self.good = (self.walk.offset(), self.lines, self.commands);
        Ok(Some(Item::Command))
    }

    /// The checksum of what was seen, and what was found.
    fn finish(self) -> (u32, Checked) {
        let digest = self.walk.digest();
        let (good, good_lines, commands) = self.good;
        let found = self.walk.checked();
        let end = match self.end.unwrap_or(found.end) {
            // A `select` ends it, and its command is missing.
            End::File if good < found.length => End::ShortCommand,
            end => end,
        };
        (digest, Checked { good, good_lines, commands, end, ..found })
    }
}

struct Importing<'a, E: Env> {
    env: &'a E,
    options: &'a Options,
    names: Names,
    file: &'a <E::Dir as Dir>::File,
    name: &'a str,
}

impl<E: Env> Importing<'_, E> {
    /// Whether the log's directory has no log.
    async fn may_begin(&self, path: &Path) -> Result<(), OpenError> {
        let name = &self.options.append_dirname;
        let listed = match interruptible(|| self.env.dir(path, false)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(OpenError::io("open directory", name)(error)),
            Ok(dir) => interruptible(|| dir.list()).await.map_err(OpenError::io("list", name))?,
        };
        let (manifest, of_a_log) = (self.names.manifest(), format!("{}.", self.names.name));
        if listed.iter().any(|entry| entry.name == *manifest) {
            return Err(OpenError::LogExists { dir: name.clone() });
        }
        // (What an import began is empty, cut, or temporary.)
        let files = listed.iter().filter(|entry| entry.len > 0).filter_map(|entry| entry.name.to_str());
        let files = files.filter(|file| file.starts_with(&of_a_log) && !file.ends_with(".cut"));
        let files: Vec<String> = files.take(10).map(str::to_owned).collect();
        if files.is_empty() { Ok(()) } else { Err(OpenError::NoManifest { dir: name.clone(), files }) }
    }

    /// Whether what is behind the good part may be left out.
    fn may_cut(&self, checked: &Checked) -> Result<(), LoadError> {
        let &Checked { length, good, good_lines, end, .. } = checked;
        let file = self.name.to_owned();
        match end {
            End::File => Ok(()),
            end if end.is_torn() && self.options.aof_load_truncated => Ok(()),
            end if end.is_torn() => Err(LoadError::Torn { file, good, length, end }),
            _ if length - good <= self.options.aof_load_corrupt_tail_max_size => Ok(()),
            end => Err(LoadError::Damaged { file, good, line: good_lines, end }),
        }
    }

    /// Writes the log; the manifest last. Returns the name of what was left out.
    async fn make(&self, dir: &E::Dir, loaded: &Loaded) -> Result<Option<String>, OpenError> {
        let plants = self.options.plants();
        let salt = || self.names.salt(self.env, self.options.sums(&plants));
        let mut manifest = Manifest { counted: true, ..Manifest::default() };
        let base = Entry { salt: salt(), ..self.names.next_base(&manifest) };
        let increment = Entry { salt: salt(), ..self.names.next_increment(&manifest) };
        let Checked { good, length, .. } = loaded.checked;
        let cut = (good < length).then(|| format!("{}.cut", base.name));
        if let Some(cut) = &cut {
            self.keep(dir, cut, good..length).await?;
        }
        let bytes = self.copy(dir, base.salt, loaded).await?;
        files::create(dir, &increment.name).await.map_err(OpenError::Failed)?;
        let renamed = interruptible(|| dir.rename(TEMPORARY_BASE, &base.name)).await;
        renamed.map_err(OpenError::io("rename", TEMPORARY_BASE))?;
        manifest.base = Some(Entry { synced: Some(bytes), ..base });
        manifest.increments.push(increment);
        let replaced = files::replace_manifest(dir, &self.names, &manifest, &plants).await;
        replaced.map_err(|error| OpenError::Failed(error.failure))?;
        Ok(cut)
    }

    /// Copies a part of the file as it is.
    async fn keep(&self, dir: &E::Dir, name: &str, part: std::ops::Range<u64>) -> Result<(), OpenError> {
        let to = files::create(dir, name).await.map_err(OpenError::Failed)?;
        let mut piece = vec![0; COPY_BYTES];
        let mut at = part.start;
        while at < part.end {
            let wanted = (part.end - at).min(COPY_BYTES as u64) as usize;
            let read = read_at_most(self.file, &mut piece[..wanted], at).await;
            let read = read.map_err(OpenError::io("read", self.name))?;
            if read == 0 {
                return Err(self.changed());
            }
            write_all_at(&to, &piece[..read], at - part.start).await.map_err(OpenError::io("write", name))?;
            at += read as u64;
            self.env.yield_now().await;
        }
        interruptible(|| to.sync_all()).await.map_err(OpenError::io("sync", name))
    }

    /// Copies the commands into a base, with a `select` where the database changes. Returns its length.
    async fn copy(&self, dir: &E::Dir, salt: Option<u32>, loaded: &Loaded) -> Result<u64, OpenError> {
        let reads = || OpenError::io("read", self.name);
        let to = files::create(dir, TEMPORARY_BASE).await.map_err(OpenError::Failed)?;
        let line = if salt.is_some() { LINE_BYTES } else { 0 };
        let (mut batch, mut length) = (vec![0; line], 0);
        let mut zero = Vec::new();
        encode_select(&mut zero, 0);
        // What a reader of the base has selected, and what the next command needs.
        let (mut selected, mut next) = (zero.clone(), None);
        let mut entries = Entries::new(self.file).await.map_err(reads())?;
        loop {
            let item = entries.next().await.map_err(reads())?;
            match item {
                Some(Item::Select) => next = Some(entries.walk.item().to_vec()),
                Some(Item::Command) => {
                    let select = next.take().unwrap_or_else(|| zero.clone());
                    if select != selected {
                        batch.extend_from_slice(&select);
                        selected = select;
                    }
                    batch.extend_from_slice(entries.walk.item());
                }
                None => {}
            }
            if batch.len() > line && (item.is_none() || batch.len() >= COPY_BYTES) {
                if let Some(salt) = salt {
                    sums::seal(&mut batch, salt, length, length);
                }
                write_all_at(&to, &batch, length).await.map_err(OpenError::io("write", TEMPORARY_BASE))?;
                length += batch.len() as u64;
                batch.truncate(line);
                self.env.yield_now().await;
            }
            if item.is_none() {
                break;
            }
        }
        // Somebody may still append to it.
        if entries.finish() != (loaded.digest, loaded.checked) {
            return Err(self.changed());
        }
        interruptible(|| to.sync_all()).await.map_err(OpenError::io("sync", TEMPORARY_BASE))?;
        Ok(length)
    }

    fn changed(&self) -> OpenError {
        OpenError::io("read", self.name)(io::Error::other("it reads differently from when it was loaded"))
    }
}

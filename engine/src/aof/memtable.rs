//! The dialect of MemTable: one file of commands as they were received, without a manifest, without MULTI and EXEC.
//!
//! A `select` stands before each command whose database is not 0, and counts for that command alone: behind it the database is 0
//! again. That is not what Redis makes of such a file, so it must be read as what it is: with [`load`]. A log is then switched on for what
//! was loaded, with [`CommandLog::enable`](super::CommandLog::enable).
//!
//! - Nothing here ever writes to such a file, and nothing is appended to one: what ends it badly can't get in front of anything.
//! - The dialect can't say that commands belong together. A log made of it can: what is appended there as a unit is atomic.
//! - Keys that expired or were evicted are removed by a command of their own ([`encode_removal`]), so that what is loaded doesn't hang
//!   on the clock.

use std::{io, path::Path};

use crate::{
    env::{Dir, Env, File, OpenMode, interruptible},
    keyspace::CommandError,
};

use super::{
    check::{Check, Checked, End, Role, Walk},
    load::{DataSet, Failures, LoadError},
    resp::{self, Digits, Malformed},
};

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
}

/// Loads the file `path` into `data`, which should be empty, up to what is torn or no command; the report says where that is.
/// Changes no byte.
///
/// ```
/// use engine::{aof::{CommandLog, memtable, options::Options}, env::{OsEnv, block_on}, keyspace::Keyspace};
///
/// async fn upgrade(file: &std::path::Path, data: &std::path::Path) -> Result<Keyspace, Box<dyn std::error::Error>> {
///     let mut keys = Keyspace::new();
///     let loaded = memtable::load(&OsEnv, file, &mut keys).await?;
///     if loaded.checked.good < loaded.checked.length {
///         eprintln!("not loaded from byte {} on: {}", loaded.checked.good, loaded.checked.end);
///     }
///     // The file may go when this log is on; it is never written to.
///     let (log, first) = CommandLog::enable(OsEnv, data, Options::default(), || keys.snapshot()).await?;
///     first.done().await?;
///     log.close().await?;
///     Ok(keys)
/// }
///
/// let folder = tempfile::tempdir()?;
/// let mut bytes = Vec::new();
/// memtable::encode(&mut bytes, 3, &["set", "k", "v"]);
/// std::fs::write(folder.path().join("old"), &bytes)?;
/// let keys = block_on(upgrade(&folder.path().join("old"), folder.path()))?;
/// let mut again = Keyspace::new();
/// block_on(CommandLog::open(OsEnv, folder.path(), Options::default(), &mut again))?;
/// assert_eq!(again.databases(), keys.databases());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`LoadError::Command`] and [`LoadError::Io`]. A database that `data` hasn't is one: its commands would go elsewhere.
pub async fn load<E: Env>(env: &E, path: &Path, data: &mut impl DataSet) -> Result<Loaded, LoadError> {
    let name = path.display().to_string();
    let file = open(env, path).await.map_err(LoadError::io("open", &name))?;
    load_file(&file, &name, data).await
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
    let mut failures = Failures::default();
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
            (Item::Command, done) => failures.note(name, at, done)?,
        }
        if std::mem::take(&mut selected) {
            data.load(&[b"SELECT", b"0"]).map_err(refuse(at))?;
        }
    }
    if selected {
        data.load(&[b"SELECT", b"0"]).map_err(refuse(entries.good.0))?;
    }
    Ok(Loaded { checked: entries.finish(), failed: failures.first, failures: failures.count })
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

    /// What was found.
    fn finish(self) -> Checked {
        let (good, good_lines, commands) = self.good;
        let found = self.walk.checked();
        let end = match self.end.unwrap_or(found.end) {
            // A `select` ends it, and its command is missing.
            End::File if good < found.length => End::ShortCommand,
            end => end,
        };
        Checked { good, good_lines, commands, end, ..found }
    }
}

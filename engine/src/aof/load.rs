//! Loading a log's directory into a data set: the base, then each increment, unit by unit. Writes nothing.

use std::{io, path::Path};

use thiserror::Error;

use crate::{
    env::{Dir, Env, File, OpenMode, interruptible, read_at_most},
    keyspace::CommandError,
    plant::{Plants, planted},
};

use super::{
    ahead::{Found, Read, pipe},
    check::{Check, Checked, End, Role},
    manifest::{Entry, Manifest, ManifestError},
    rdb::{self, RdbError},
    resp::Reading,
};

/// What a log is loaded into: commands change it. [`Keyspace`](crate::keyspace::Keyspace) is one; yours may be another, as in the example
/// `own_data`.
pub trait DataSet {
    /// A command of which all was done that needs no data: parsed, copied, hashed. [`Infallible`](std::convert::Infallible) where
    /// there is none.
    type Prepared: Send + 'static;

    /// Prepares a command, in the background while others are executed. `None` if there is nothing to gain, or if it might fail:
    /// then it goes to [`DataSet::load`] in its turn.
    fn prepare(command: &[&[u8]]) -> Option<Self::Prepared> {
        let _ = command;
        None
    }

    /// Executes commands that were prepared, one after the other.
    fn load_prepared(&mut self, commands: &mut dyn Iterator<Item = Self::Prepared>);

    /// Executes a command of the log. True if it changed something.
    ///
    /// # Errors
    /// [`CommandError`]; nothing was changed. [`CommandError::Unknown`] and [`CommandError::Unsupported`] end the loading; with any
    /// other the command failed when it was logged, too, and the next one follows.
    fn load(&mut self, command: &[&[u8]]) -> Result<bool, CommandError>;

    /// Another file begins: database 0 is selected.
    fn begin_file(&mut self);
}

/// Starting a task costs more than to parse so many bytes.
pub(super) const AHEAD_BYTES: u64 = 1 << 20;
/// A manifest has at most this many bytes: some ten thousand files.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// `appendfilename`: what the names of the log's files begin with.
    pub name: String,
    /// How exact to be.
    pub reading: Reading,
    /// `aof-load-truncated`: whether a last file that was cut off is loaded up to there.
    pub truncated: bool,
    /// End before the first timestamp that is later than this second since the Unix epoch.
    pub until: Option<i64>,
    /// `aof-load-corrupt-tail-max-size`: a last file of which at most so many bytes at the end are damaged is loaded up to there.
    pub corrupt_tail_bytes: u64,
    /// A file of at least so many bytes is read and parsed in the background, while its commands are executed.
    pub ahead_bytes: u64,
}

impl LoadOptions {
    /// How a file of the manifest is read.
    pub(super) fn check(&self, entry: &Entry) -> Check {
        let (salt, durable) = (entry.salt, entry.synced.unwrap_or(0));
        Check { reading: self.reading, until: self.until, salt, durable }
    }
}

impl Default for LoadOptions {
    /// As in redis.conf: `appendonly.aof`, and a last file that was cut off is loaded; strictly read, to its end.
    fn default() -> LoadOptions {
        LoadOptions {
            name: "appendonly.aof".into(),
            reading: Reading::Strict,
            truncated: true,
            until: None,
            corrupt_tail_bytes: 0,
            ahead_bytes: AHEAD_BYTES,
        }
    }
}

/// What was loaded, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Each file in the order of loading, with how far it is whole and what ends it. What the last one has beyond its good
    /// part was dropped.
    pub files: Vec<(String, Checked)>,
    /// Commands that failed, as they did when they were logged: file, offset, reason. The first hundred.
    pub failed: Vec<(String, u64, CommandError)>,
    /// How many failed.
    pub failures: u64,
    /// Checksum of the commands that were read of the last file, and where they begin.
    pub(super) digest: u32,
    pub(super) begins: u64,
}

/// Why a log was not loaded. What the data set holds then is of no use. Nothing was written.
#[derive(Debug, Error)]
pub enum LoadError {
    /// There is no manifest, so there is no log.
    #[error("there is no log: {file} is missing")]
    Nothing {
        /// The manifest.
        file: String,
    },
    /// The manifest is damaged. Remedy: restore it from a copy, or correct it.
    #[error("{file}, {error}")]
    Manifest {
        /// The manifest.
        file: String,
        /// What is wrong with it.
        error: ManifestError,
    },
    /// The manifest is longer than any that was written.
    #[error("{file} has {bytes} bytes, at most 1048576 are read")]
    LongManifest {
        /// The manifest.
        file: String,
        /// Its length.
        bytes: u64,
    },
    /// A file that the manifest names is not there. Remedy: restore it.
    #[error("{file} is missing, and the manifest names it")]
    Missing {
        /// The file.
        file: String,
    },
    /// What a file holds in RDB format can't be read. Remedy: have Redis rewrite it with `aof-use-rdb-preamble no`, or restore it.
    #[error("{file}, near byte {at}: {error}")]
    Rdb {
        /// The file.
        file: String,
        /// About where.
        at: u64,
        /// What is wrong, or not supported.
        error: RdbError,
    },
    /// A file ends within a command or a unit, and is not the last one, or must be whole. Remedy: restore it, or cut it.
    #[error("{file} is whole up to byte {good} of {length}: {end}")]
    Torn {
        /// The file.
        file: String,
        /// Up to here it is whole.
        good: u64,
        /// Its length.
        length: u64,
        /// What ends it.
        end: End,
    },
    /// A file holds something else than commands. Remedy: restore it, or cut it.
    #[error("{file} is damaged behind line {line}, byte {good}: {end}")]
    Damaged {
        /// The file.
        file: String,
        /// Up to here it is whole, in bytes.
        good: u64,
        /// And in lines.
        line: u64,
        /// What is wrong.
        end: End,
    },
    /// The data set can't execute a command.
    #[error("{file}, byte {at}: {error}")]
    Command {
        /// The file.
        file: String,
        /// Where the command stands.
        at: u64,
        /// What is wrong with it.
        error: CommandError,
    },
    /// The machine failed. Remedy: try again.
    #[error("{operation} {file}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The file.
        file: String,
        /// The machine's words.
        source: io::Error,
    },
}

impl LoadError {
    pub(super) fn io(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> LoadError {
        move |source| LoadError::Io { operation, file: file.to_owned(), source }
    }
}

/// Loads the log in the directory `path` (`appenddirname`) into `data`, which should be empty.
///
/// # Errors
/// [`LoadError`].
pub async fn load<E: Env>(
    env: &E,
    path: &Path,
    options: &LoadOptions,
    data: &mut impl DataSet,
) -> Result<Loaded, LoadError> {
    let what = path.display().to_string();
    let manifest_name = format!("{}.manifest", options.name);
    let dir = interruptible(|| env.dir(path, false)).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LoadError::Nothing { file: manifest_name.clone() },
        _ => LoadError::io("open directory", &what)(error),
    })?;
    let manifest = read_manifest(&dir, &manifest_name).await?;
    Source { env, dir: &dir, options, plants: Plants::default() }.load(&manifest, data).await
}

/// Where to load from, and how.
pub(super) struct Source<'a, E: Env> {
    pub(super) env: &'a E,
    pub(super) dir: &'a E::Dir,
    pub(super) options: &'a LoadOptions,
    pub(super) plants: Plants,
}

impl<E: Env> Source<'_, E> {
    /// Loads the files that a manifest names.
    pub(super) async fn load(&self, manifest: &Manifest, data: &mut impl DataSet) -> Result<Loaded, LoadError> {
        let entries: Vec<_> = manifest.live().collect();
        let mut loaded = Loaded::default();
        for (number, entry) in entries.iter().enumerate() {
            self.load_one(entry, number + 1 == entries.len(), data, &mut loaded).await?;
        }
        Ok(loaded)
    }

    /// Loads one file, which may end within a command if it is the last one.
    pub(super) async fn load_one(
        &self,
        entry: &Entry,
        last: bool,
        data: &mut impl DataSet,
        loaded: &mut Loaded,
    ) -> Result<(), LoadError> {
        let name = &entry.name;
        let file = interruptible(|| self.dir.open(name, OpenMode::Read)).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LoadError::Missing { file: name.clone() },
            _ => LoadError::io("open", name)(error),
        })?;
        data.begin_file();
        let checked = self.execute(file, entry, data, loaded).await?;
        let Checked { good, good_lines, length, end, .. } = checked;
        match end {
            End::File => {}
            End::Later(_) if last => {}
            // Nothing is appended to it any more, so nothing is lost with a remark.
            End::ShortAnnotation if !last => {}
            end if end.is_torn() && last && self.options.truncated => {}
            end if end.is_torn() || matches!(end, End::Later(_)) => {
                return Err(LoadError::Torn { file: name.clone(), good, length, end });
            }
            End::Malformed(..) | End::Unit(_) if last && length - good <= self.options.corrupt_tail_bytes => {}
            end => return Err(LoadError::Damaged { file: name.clone(), good, line: good_lines, end }),
        }
        loaded.files.push((name.clone(), checked));
        Ok(())
    }

    /// Executes the commands of one file; those of a unit once it is whole.
    async fn execute<S: DataSet>(
        &self,
        file: <E::Dir as Dir>::File,
        entry: &Entry,
        data: &mut S,
        loaded: &mut Loaded,
    ) -> Result<Checked, LoadError> {
        let name = entry.name.as_str();
        let mut magic = [0; 5];
        let read = read_at_most(&file, &mut magic, 0).await.map_err(LoadError::io("read", name))?;
        let begins = if &magic[..read] == rdb::MAGIC {
            let read = rdb::load(&file, data).await.map_err(LoadError::io("read", name))?;
            read.map_err(|(at, error)| LoadError::Rdb { file: name.to_owned(), at, error })?
        } else {
            0
        };
        let mut failures = Failures::default();
        let mut execute = |data: &mut S, at: u64, command: &[&[u8]]| failures.note(name, at, data.load(command));
        let (reader, batches) = pipe::<S::Prepared>();
        let length = file.len().await.map_err(LoadError::io("read", name))?;
        let at_once = length < self.options.ahead_bytes;
        let reading = reader.read(file, begins..length, self.options.check(entry), S::prepare, at_once);
        let _task = if at_once {
            reading.await;
            None
        } else {
            Some(self.env.spawn("seawall aof load", reading).map_err(LoadError::io("start to read", name))?)
        };
        // The commands of an open unit; what begins and what ends it are none.
        let mut unit: Option<Vec<(u64, Vec<Vec<u8>>)>> = None;
        let mut done = None;
        while let Some(mut batch) = batches.next(done).await {
            if !at_once && batches.are_all_read() && planted!(self.plants, AofReaderEndsLoad) {
                break;
            }
            batch.drain(|found| {
                match (found, &mut unit) {
                    (Found::Prepared(commands), _) => data.load_prepared(commands),
                    (Found::Command(at, command), None) => execute(data, at, command)?,
                    (Found::Command(at, command), Some(commands)) => {
                        commands.push((at, command.iter().map(|argument| argument.to_vec()).collect()));
                    }
                    (Found::Role(Role::Executes), _) => {
                        for (at, command) in unit.take().into_iter().flatten() {
                            execute(data, at, &command.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
                        }
                    }
                    (Found::Role(role), _) => unit = (role == Role::Begins).then(Vec::new),
                }
                Ok(())
            })?;
            done = Some(batch);
        }
        loaded.failures += failures.count;
        let left = MOST_FAILURES.saturating_sub(loaded.failed.len());
        loaded.failed.extend(failures.first.into_iter().take(left).map(|(at, error)| (name.to_owned(), at, error)));
        let Read { checked, digest } = batches.read().map_err(LoadError::io("read", name))?;
        (loaded.digest, loaded.begins) = (digest, begins);
        Ok(checked)
    }
}

pub(super) async fn read_manifest<D: Dir>(dir: &D, name: &str) -> Result<Manifest, LoadError> {
    let file = interruptible(|| dir.open(name, OpenMode::Read)).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LoadError::Nothing { file: name.to_owned() },
        _ => LoadError::io("open", name)(error),
    })?;
    let bytes = interruptible(|| file.len()).await.map_err(LoadError::io("read", name))?;
    if bytes > MAX_MANIFEST_BYTES {
        return Err(LoadError::LongManifest { file: name.to_owned(), bytes });
    }
    let mut text = vec![0; bytes as usize];
    let read = read_at_most(&file, &mut text, 0).await.map_err(LoadError::io("read", name))?;
    Manifest::parse(&text[..read]).map_err(|error| LoadError::Manifest { file: name.to_owned(), error })
}

/// So many commands that failed are told one by one.
const MOST_FAILURES: usize = 100;

/// Commands of a file that failed, as they did when they were logged.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Where they stand, and why: the first of them.
    pub(super) first: Vec<(u64, CommandError)>,
    pub(super) count: u64,
}

impl Failures {
    /// Takes note of how a command of `file` ended; what the data set has no command for ends the loading.
    pub(super) fn note(&mut self, file: &str, at: u64, ended: Result<bool, CommandError>) -> Result<(), LoadError> {
        match ended {
            Ok(_) => {}
            Err(error @ (CommandError::Unknown(_) | CommandError::Unsupported(_))) => {
                return Err(LoadError::Command { file: file.to_owned(), at, error });
            }
            Err(error) => {
                self.count += 1;
                if self.first.len() < MOST_FAILURES {
                    self.first.push((at, error));
                }
            }
        }
        Ok(())
    }
}

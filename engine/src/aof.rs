//! The command log: an append-only file of commands, in the directory format of Redis 7.
//!
//! [`CommandLog`] is written by whoever executes commands: each command that changed the data is appended, and a *round* ends
//! before its effects are told to anybody. What a round's end means is the policy, `appendfsync`:
//!
//! | policy | a process kill loses | a power cut loses |
//! |---|---|---|
//! | `always` | nothing of a round that has ended | nothing of a round that has ended |
//! | `everysec` | nothing of a round that has ended; while a sync is under way, what came in the last 2 s | what came in the last second and while two syncs took their time, at most; while a sync is under way, 2 s more |
//! | `no` | nothing of a round that has ended | what the operating system had not written, about 30 s |
//!
//! While a rewrite switches to a new increment (some milliseconds, with several syncs), `everysec` and `no` end rounds without
//! waiting for it, as under a sync.
//!
//! With `no-appendfsync-on-rewrite yes` a policy counts as `no` while a rewrite runs. [`CommandLog::wait_durable`] waits for a
//! sync under any policy, and is the only thing to go by where a single command matters. After a failed sync, under any policy,
//! nothing is acknowledged any more until the log is opened again; opening writes all that is not known to be durable into a
//! file of its own. (Redis goes on once a later sync succeeds, which proves nothing about the first.)
//!
//! Below it: the commands ([`resp`]), the list of files ([`manifest`]), what a file's bytes are worth ([`check`]), bases of
//! RDB format ([`rdb`]), and loading a directory into a data set ([`load`]). Beside it: the dialect of MemTable ([`memtable`]).
//!
//! The formats are those of Redis 7.0's documentation and of directories that its server wrote.

use std::{
    fmt,
    path::Path,
    sync::{Arc, PoisonError},
    time::Duration,
};

use crate::{
    env::Env,
    failure::Failure,
    gate::{Gate, race},
    plant::planted,
    sync::Mutex,
};

mod ahead;
pub mod check;
mod commit;
mod enable;
mod error;
mod files;
mod job;
mod keeper;
pub mod load;
mod log;
pub mod manifest;
pub mod memtable;
#[cfg(all(test, feature = "loom"))]
mod model;
mod open;
pub mod options;
mod producer;
pub mod rdb;
pub mod resp;
mod rewrite;
mod sums;
mod window;
mod writer;

pub use error::{LogError, OpenError, RewriteError};
pub use log::Stats;
pub use rewrite::{Commands, Rewritten, Snapshot};
pub use writer::Writer;

use commit::{Stuck, Want};
use keeper::Keeper;
use load::{DataSet, Loaded};
use log::{Log, POSTPONE};
use options::{Fsync, Options};
use producer::Record;

/// How far the log reached when something had been appended: bytes since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// Whether a log is on (`OFF`, `WAIT_REWRITE` and `ON` of Redis).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It was closed.
    Off,
    /// It was switched on, and its first base is not complete: what is collected would not be loaded.
    WaitRewrite,
    /// What is appended is logged.
    On,
}

/// A handle of an open command log.
///
/// ```
/// use engine::{aof::{CommandLog, options::{Fsync, Options}}, env::{OsEnv, block_on}, keyspace::Keyspace};
///
/// async fn demo(path: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
///     let options = Options { append_fsync: Fsync::Always, ..Options::default() };
///     let mut keys = Keyspace::new();
///     let (log, _) = CommandLog::open(OsEnv, path, options.clone(), &mut keys).await?;
///     let command: [&[u8]; 3] = [b"SET", b"greeting", b"hello"];
///     if keys.execute(&command, 0)? {
///         log.append(0, &command).await?;
///     }
///     log.round().await?; // it survives a power cut now
///     log.close().await?;
///
///     let mut again = Keyspace::new();
///     let (log, loaded) = CommandLog::open(OsEnv, path, options, &mut again).await?;
///     assert_eq!((again, loaded.failures), (keys, 0));
///     log.close().await?;
///     Ok(())
/// }
///
/// let folder = tempfile::tempdir()?;
/// block_on(demo(folder.path()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CommandLog<E: Env> {
    log: Arc<Log<E>>,
    keeper: Arc<Keeper<E>>,
}

impl<E: Env> Clone for CommandLog<E> {
    fn clone(&self) -> Self {
        CommandLog { log: self.log.clone(), keeper: self.keeper.clone() }
    }
}

impl<E: Env> CommandLog<E> {
    /// Opens the log in the data directory `path`, or creates it, and loads it into `data`, which should be empty. What was
    /// loaded is durable when this returns.
    ///
    /// The data directory is locked while a handle is open; the log's files are in a directory within it.
    ///
    /// # Errors
    /// [`OpenError`]; what `data` holds then is of no use.
    pub async fn open(
        env: E,
        path: &Path,
        options: Options,
        data: &mut impl DataSet,
    ) -> Result<(CommandLog<E>, Loaded), OpenError> {
        let (log, loaded) = open::open(env, path, options, data).await?;
        let log = Arc::new(log);
        let keeper = Keeper::spawn(&log).map_err(OpenError::io("start", "the log's background task"))?;
        Ok((CommandLog { log, keeper: Arc::new(keeper) }, loaded))
    }

    /// What [`CommandLog::open`] with these options would load into `data`, and its verdict. Changes no byte, and takes no lock.
    ///
    /// # Errors
    /// As [`CommandLog::open`].
    pub async fn verify(env: E, path: &Path, options: Options, data: &mut impl DataSet) -> Result<Loaded, OpenError> {
        open::verify(env, path, options, data).await
    }

    /// Switches a log on for data that is in memory: what was logged before, if anything was, is replaced by what `snapshot` returns
    /// once that is written, and until then it is [`Phase::WaitRewrite`]: commands are collected, and nothing of them is durable
    /// (rounds count as under `no`, and waits for durability last until the log is on). A crash before leaves what was there before.
    ///
    /// Nothing may happen to the data between the snapshot and the first command that is appended to this handle. Where the
    /// [`Rewrite`] fails, the next attempt is a rewrite: a second later [`CommandLog::rewrite_is_due`] asks for it; after ten
    /// attempts the log is poisoned. To switch a log off, close it.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed but for files that count for nothing.
    ///
    /// ```
    /// use engine::{aof::{CommandLog, Phase, options::Options}, env::{OsEnv, block_on}, keyspace::Keyspace};
    ///
    /// let folder = tempfile::tempdir()?;
    /// block_on(async {
    ///     let mut keys = Keyspace::new();
    ///     keys.execute(&[b"SET", b"greeting", b"hello"], 0)?;
    ///     let (log, first) = CommandLog::enable(OsEnv, folder.path(), Options::default(), || keys.snapshot()).await?;
    ///     first.done().await?;
    ///     assert_eq!(log.phase(), Phase::On);
    ///     log.close().await?;
    ///     let mut again = Keyspace::new();
    ///     CommandLog::open(OsEnv, folder.path(), Options::default(), &mut again).await?;
    ///     assert_eq!(again.databases(), keys.databases());
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn enable<S: Snapshot>(
        env: E,
        path: &Path,
        options: Options,
        snapshot: impl FnOnce() -> S,
    ) -> Result<(CommandLog<E>, Rewrite<E>), OpenError> {
        let log = Arc::new(enable::enable(env, path, options).await?);
        let keeper = Keeper::spawn(&log).map_err(OpenError::io("start", "the log's background task"))?;
        let log = CommandLog { log, keeper: Arc::new(keeper) };
        let rewrite = log.spawn_rewrite(snapshot());
        Ok((log, rewrite.map_err(OpenError::Failed)?))
    }

    /// Appends one command, which was executed in `database`. It is in memory then; [`CommandLog::round`] does the rest. Waits
    /// only while all pages are full. A command that was accepted stays in the log even if this future is dropped.
    ///
    /// # Errors
    /// [`LogError`]; the command was not appended.
    pub async fn append(&self, database: u32, command: &[impl AsRef<[u8]>]) -> Result<Position, LogError> {
        self.append_unit(database, &[command]).await
    }

    /// Appends commands that were executed as one: all or none of them are loaded.
    ///
    /// # Errors
    /// As [`CommandLog::append`].
    pub async fn append_unit<A: AsRef<[u8]>>(&self, database: u32, commands: &[&[A]]) -> Result<Position, LogError> {
        let record = self.record(database, commands)?;
        loop {
            let drained = {
                let mut guard = self.log.lock();
                let state = &mut *guard;
                state.accepts()?;
                let Some(mut producer) = (if state.has_writer { None } else { state.producer.take() }) else {
                    return Err(LogError::WriterExists);
                };
                let mut accepted = producer.append(&record);
                if !accepted {
                    let bytes = producer.encoded_bytes(&record);
                    accepted =
                        producer.make_room(&mut state.ring, bytes, state.split).is_ok() && producer.append(&record);
                }
                let position = Position(producer.accepted);
                state.producer = Some(producer);
                if accepted {
                    self.log.rouse(guard);
                    return Ok(position);
                }
                state.stats.waits += 1;
                if self.log.drops_when_full(state) {
                    return Ok(position);
                }
                state.ring.drained()
            };
            self.log.wait(Want::Drained(drained)).await?;
        }
    }

    fn record<'a, A: AsRef<[u8]>>(&self, database: u32, commands: &'a [&'a [A]]) -> Result<Record<'a, A>, LogError> {
        if commands.is_empty() || commands.iter().any(|command| command.is_empty()) {
            return Err(LogError::Empty);
        }
        let noted = self.log.options.aof_timestamp_enabled;
        let second = noted.then(|| self.log.env.wall_ns().div_euclid(1_000_000_000));
        let unit = commands.len() > 1 && !planted!(self.log.plants, AofUnitUnmarked);
        Ok(Record { database, commands, unit, second })
    }

    /// A [`Writer`], which alone may append until it is dropped, and does so without a lock.
    ///
    /// # Errors
    /// [`LogError::WriterExists`], [`LogError::Closed`].
    pub fn writer(&self) -> Result<Writer<E>, LogError> {
        let mut state = self.log.lock();
        if state.closed {
            return Err(LogError::Closed);
        }
        if state.has_writer {
            return Err(LogError::WriterExists);
        }
        state.has_writer = true;
        drop(state);
        Ok(Writer::new(self.clone()))
    }

    /// Ends a round: returns when everything appended so far is as safe as the policy says.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], and [`LogError::Stalled`]: what was appended is in memory, and will be written.
    pub async fn round(&self) -> Result<(), LogError> {
        let (log, options) = (&self.log, &self.log.options);
        let (want, keeper) = {
            let mut state = log.lock();
            if state.closed {
                return Err(LogError::Closed);
            }
            let accepted = state.accepted();
            let held_back = state.holds_syncs_back(options);
            match options.append_fsync {
                Fsync::Always if !held_back => (Some(Want::Durable(accepted)), false),
                Fsync::EverySecond | Fsync::No if state.postpones(options.append_fsync) => {
                    let now = log.env.monotonic();
                    let first = state.postponed.is_none();
                    let since = *state.postponed.get_or_insert(now);
                    if now.saturating_sub(since) < POSTPONE {
                        (None, first)
                    } else {
                        state.stats.delayed += 1;
                        (Some(Want::Written(accepted)), false)
                    }
                }
                Fsync::Always | Fsync::EverySecond | Fsync::No => (Some(Want::Written(accepted)), false),
            }
        };
        if keeper {
            log.gates.keeper.open();
        }
        match want {
            Some(want) => Ok(log.wait(want).await?),
            None => Ok(()),
        }
    }

    /// Waits until everything up to `position` survives a power cut; syncs if nobody else does. To give up after some time, see
    /// [`CommandLog::wait_durable_for`], or drop the future.
    ///
    /// # Errors
    /// [`LogError::NotAppended`] and those of [`CommandLog::round`]. What was durable before a failure is reported as durable.
    pub async fn wait_durable(&self, position: Position) -> Result<(), LogError> {
        let end = self.log.lock().accepted();
        if position.0 > end {
            return Err(LogError::NotAppended { position: position.0, end });
        }
        Ok(self.log.wait(Want::Durable(position.0)).await?)
    }

    /// As [`CommandLog::wait_durable`], for at most about `time`; works on any executor. What was begun goes on behind it. On the real
    /// machine a write or sync that this very call makes is seen through first: the time bounds waiting for others.
    ///
    /// # Errors
    /// [`LogError::TimedOut`], [`LogError::NoTimer`], and those of [`CommandLog::wait_durable`].
    ///
    /// ```
    /// # use engine::{aof::{CommandLog, LogError, options::Options}, env::{OsEnv, block_on}, keyspace::Keyspace};
    /// # use std::time::Duration;
    /// # let folder = tempfile::tempdir()?;
    /// # block_on(async {
    /// let (log, _) = CommandLog::open(OsEnv, folder.path(), Options::default(), &mut Keyspace::new()).await?;
    /// let position = log.append(0, &["SET", "k", "v"]).await?;
    /// match log.wait_durable_for(position, Duration::from_millis(500)).await {
    ///     Ok(()) => assert!(log.durable() >= position),
    ///     Err(LogError::TimedOut { .. }) => {} // it may come yet: wait again
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # log.close().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn wait_durable_for(&self, position: Position, time: Duration) -> Result<(), LogError> {
        if position <= self.durable() {
            return Ok(());
        }
        let timer = Timer::start(&self.log.env, time)?;
        let mut result = None;
        race(async { result = Some(self.wait_durable(position).await) }, timer.gate.wait(timer.seen)).await;
        result.unwrap_or_else(|| Err(LogError::TimedOut { position: position.0, durable: self.durable().0 }))
    }

    /// Waits until everything appended so far survives a power cut.
    ///
    /// # Errors
    /// Those of [`CommandLog::round`].
    pub async fn sync(&self) -> Result<Position, LogError> {
        let end = self.log.lock().accepted();
        self.log.wait(Want::Durable(end)).await?;
        Ok(Position(end))
    }

    /// Rewrites the log: `snapshot` is called once, at the moment at which the log goes on in a new increment, and what it returns
    /// is written into a new base in the background. It is called with the log's mutex held: nothing may be appended between it
    /// and the state that it stands for, and it must not use the log.
    ///
    /// The switch makes the old increment durable. Meanwhile what is appended goes into the ring, and an append waits once that is
    /// full. Where much is not synced yet (under `no`, or at a high rate) that is a pause of some ten milliseconds; to avoid it, begin
    /// when [`CommandLog::rewrite_is_due`] says so, which has the old increment synced in the background first; a rewrite that nobody
    /// but you wants is asked for by [`CommandLog::schedule_rewrite`].
    ///
    /// # Errors
    /// [`RewriteError::Running`], [`RewriteError::Log`]; what comes later is told by [`Rewrite::done`].
    ///
    /// ```
    /// use engine::{aof::{CommandLog, options::Options}, env::{OsEnv, block_on}, keyspace::Keyspace};
    ///
    /// let folder = tempfile::tempdir()?;
    /// block_on(async {
    ///     let mut keys = Keyspace::new();
    ///     let (log, _) = CommandLog::open(OsEnv, folder.path(), Options::default(), &mut keys).await?;
    ///     for _ in 0..1000 {
    ///         keys.execute(&[b"INCR", b"counter"], 0)?;
    ///         log.append(0, &["INCR", "counter"]).await?;
    ///     }
    ///     let rewritten = log.rewrite(|| keys.snapshot()).await?.done().await?;
    ///     assert_eq!(rewritten.base, 95); // a checksum, SELECT 0, SET counter 1000
    ///     log.close().await?;
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn rewrite<S: Snapshot>(&self, snapshot: impl FnOnce() -> S) -> Result<Rewrite<E>, RewriteError> {
        if self.log.lock().has_writer {
            return Err(RewriteError::Log(LogError::WriterExists));
        }
        self.begin_rewrite(snapshot).await
    }

    async fn begin_rewrite<S: Snapshot>(&self, snapshot: impl FnOnce() -> S) -> Result<Rewrite<E>, RewriteError> {
        let snapshot = self.log.mark_rewrite(snapshot).await?;
        self.spawn_rewrite(snapshot).map_err(RewriteError::Failed)
    }

    fn spawn_rewrite(&self, snapshot: impl Snapshot) -> Result<Rewrite<E>, Failure> {
        let outcome = Arc::new(Outcome { result: Mutex::new(None), gate: Gate::default() });
        let (log, told) = (self.log.clone(), outcome.clone());
        let task = self.log.env.spawn("seawall aof rewrite", async move {
            let result = log.rewrite(snapshot).await;
            *told.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            told.gate.open();
        });
        match task {
            Ok(task) => {
                self.keeper.keep_rewrite(task);
                Ok(Rewrite { outcome, log: self.clone() })
            }
            Err(error) => {
                self.log.lock().rewriting = None;
                Err(Failure::new("start", "the rewrite's task", &error))
            }
        }
    }

    /// Asks for a rewrite at the next opportunity: [`CommandLog::rewrite_is_due`] says when. It does not count how often it was asked.
    pub fn schedule_rewrite(&self) {
        self.log.lock().scheduled = true;
    }

    /// Whether the log should be rewritten now: by `auto-aof-rewrite-percentage` and `auto-aof-rewrite-min-size`, or because
    /// [`CommandLog::schedule_rewrite`] asked for it. After three failures in a row the former is not so for a minute, then for two,
    /// four, up to an hour.
    ///
    /// Where more than half a ring is not synced yet (1 MiB by default), it is not due before that is done in the background, so that
    /// the switch to the new increment takes no longer than the ring holds; if eight syncs didn't help, it is due all the same. Ask
    /// often: between rounds.
    #[must_use]
    pub fn rewrite_is_due(&self) -> bool {
        self.log.rewrite_is_due()
    }

    /// Whether it is on.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let state = self.log.lock();
        match (state.closed, &state.collecting) {
            (true, _) => Phase::Off,
            (false, Some(_)) => Phase::WaitRewrite,
            (false, None) => Phase::On,
        }
    }

    /// Bytes of the log's files: base and increments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.log.lock().bytes()
    }

    /// Everything up to here survives a power cut.
    #[must_use]
    pub fn durable(&self) -> Position {
        Position(self.log.lock().durable)
    }

    /// Everything up to here is with the operating system, and survives a process kill.
    #[must_use]
    pub fn written(&self) -> Position {
        Position(self.log.lock().written)
    }

    /// Where the next command is appended, but for what a [`Writer`] has not handed over.
    #[must_use]
    pub fn end(&self) -> Position {
        Position(self.log.lock().accepted())
    }

    /// What the log has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.log.lock();
        match &state.producer {
            Some(producer) => Stats { commands: producer.commands, bytes: producer.accepted, ..state.stats },
            None => state.stats,
        }
    }

    /// Switches the log off: ends a rewrite that is under way, makes everything durable, states so in the manifest, and releases the
    /// directory. Other handles refuse work from now on. Dropping the last handle instead makes durable what it can, and tells nobody
    /// when that fails.
    ///
    /// # Errors
    /// Those of [`CommandLog::round`]; the directory is released all the same. [`LogError::WriterExists`] closes nothing.
    /// [`LogError::NoBase`]: it was switched on and never got so far; what it had collected is gone, and what was there before stays.
    pub async fn close(self) -> Result<(), LogError> {
        let log = &self.log;
        {
            let mut state = log.lock();
            if state.closed {
                return Err(LogError::Closed);
            }
            if state.has_writer {
                return Err(LogError::WriterExists);
            }
            state.closed = true;
        }
        log.open_all();
        self.keeper.stop().await;
        let accepted = log.lock().accepted();
        let mut result = log.wait(Want::Durable(accepted)).await;
        if let Err(Stuck::Stalled(_)) = result {
            // One last attempt.
            log.write_now().await;
            result = log.wait(Want::Durable(accepted)).await;
        }
        log.drain().await;
        if result.is_ok() {
            log.state_end().await;
        }
        log.forget_collected().await;
        let lock = log.lock().lock.take();
        drop(lock);
        Ok(result?)
    }
}

impl<E: Env> fmt::Debug for CommandLog<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.log.lock();
        f.debug_struct("CommandLog").field("end", &state.accepted()).field("durable", &state.durable).finish()
    }
}

/// Opens its gate after some time; stops when dropped. A task of its own, because only such a one may sleep.
struct Timer<E: Env> {
    gate: Arc<Gate>,
    seen: u64,
    /// It ends with the gate, so that dropping it, behind the opening, waits for nothing.
    _task: E::Task,
}

impl<E: Env> Timer<E> {
    fn start(env: &E, time: Duration) -> Result<Timer<E>, LogError> {
        let gate = Arc::new(Gate::default());
        let seen = gate.seq();
        let (sleeper, bell) = (env.clone(), gate.clone());
        let task = env.spawn("seawall aof timer", async move {
            if race(bell.wait(seen), sleeper.sleep(time)).await {
                bell.open();
            }
        });
        match task {
            Ok(task) => Ok(Timer { gate, seen, _task: task }),
            Err(error) => Err(LogError::NoTimer(Arc::new(Failure::new("start", "a timer", &error)))),
        }
    }
}

impl<E: Env> Drop for Timer<E> {
    fn drop(&mut self) {
        self.gate.open();
    }
}

struct Outcome {
    result: Mutex<Option<Result<Rewritten, RewriteError>>>,
    gate: Gate,
}

/// A rewrite under way. It goes on when this is dropped.
pub struct Rewrite<E: Env> {
    outcome: Arc<Outcome>,
    log: CommandLog<E>,
}

impl<E: Env> Rewrite<E> {
    /// Waits for its end.
    ///
    /// # Errors
    /// [`RewriteError`]; the log is as it was, and goes on, unless the error is [`RewriteError::Log`].
    pub async fn done(self) -> Result<Rewritten, RewriteError> {
        loop {
            let seen = self.outcome.gate.seq();
            if let Some(result) = self.outcome.result.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                return result;
            }
            self.outcome.gate.wait(seen).await;
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.outcome.result.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl<E: Env> fmt::Debug for Rewrite<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rewrite").field("log", &self.log).field("done", &self.is_done()).finish()
    }
}

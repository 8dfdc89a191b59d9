//! The command log as a subject: each record is an element that a command pushes to one list of a real data set, so that a
//! command that is lost, doubled or out of order shows in what is loaded.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use engine::{
    aof::{
        CommandLog, LogError, OpenError, Phase, Position, RewriteError, Writer,
        manifest::{Entry, Manifest},
        options::{Fsync, Options},
    },
    env::Env,
    keyspace::{Keyspace, ValueRef},
    plant::Plants,
    wal::Durability,
};

use super::{
    Inspect, NotAppended, NotRead, NotTruncated, Past, Recovered, Refusal, Stepped, Subject, Surroundings,
    stream::Stream,
};
use crate::{
    disk::{Disk, Keep, Op},
    env::SimEnv,
    oracle::ensure,
    plan::{CommandOptions, EngineOptions, Policy},
    prng::Prng,
    report::Violation,
    runner::LOG_DIR,
    workload::Step,
};

/// The list that records are pushed to.
pub const LIST: &[u8] = b"log";
/// A second database is written to in between, so that what is selected matters.
const OTHER: (u32, &[u8]) = (3, b"noise");
/// Where the log's files are.
const FILES_DIR: &str = "/log/appendonlydir";
/// The file that lists them.
const MANIFEST: &str = "appendonly.aof.manifest";
/// What is collected until a log that was switched on has a base.
const COLLECTED: &str = "temp-appendonly.aof.incr";
/// How often it asks, each millisecond, whether a rewrite is due.
const ASKS_FOR_A_REWRITE: u32 = 50;

/// An open command log and the data that it is the log of.
pub struct Commands<E: Env> {
    /// Another one when it was switched off and on.
    log: Arc<Mutex<CommandLog<E>>>,
    keys: Arc<Mutex<Keyspace>>,
    /// What the log accepted.
    stream: Arc<Mutex<Stream>>,
    place: Arc<Place<E>>,
}

/// What it takes to switch it on again.
struct Place<E> {
    env: E,
    path: PathBuf,
    engine: EngineOptions,
    plants: Plants,
}

impl<E: Env> Clone for Commands<E> {
    fn clone(&self) -> Self {
        let Commands { log, keys, stream, place } = self;
        Commands { log: log.clone(), keys: keys.clone(), stream: stream.clone(), place: place.clone() }
    }
}

impl<E: Env> Commands<E> {
    fn keys(&self) -> MutexGuard<'_, Keyspace> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> CommandLog<E> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stream(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Executes what the log has accepted just now. Returns the LSN of the first record.
    fn execute(&self, records: &[Bytes]) -> u64 {
        let mut keys = self.keys();
        let first = records_of(&keys).len() as u64 + 1;
        for record in records {
            push(&mut keys, record);
        }
        first
    }

    /// Something in the other database, now and then.
    async fn noise(&self, records: &[Bytes]) -> Result<(), LogError> {
        if records.iter().map(Bytes::len).sum::<usize>() % 3 == 0 {
            let (database, key) = OTHER;
            let command = [b"INCR".as_slice(), key];
            let position = self.log().append(database, &command).await?;
            self.stream().accepted(database, &[&command], position.0);
            let mut keys = self.keys();
            let number = database.to_string();
            for command in [&[b"SELECT".as_slice(), number.as_bytes()], &[b"INCR", key], &[b"SELECT", b"0"]] {
                // The data set has both commands and the database.
                let _ = keys.load(command);
            }
        }
        Ok(())
    }
}

fn push(keys: &mut Keyspace, record: &[u8]) {
    // A list takes anything.
    let _ = keys.load(&[b"RPUSH", LIST, record]);
}

/// Every record, in order.
fn records_of(keys: &Keyspace) -> Vec<Vec<u8>> {
    match keys.databases()[0].get(LIST).map(|entry| entry.value) {
        Some(ValueRef::List(list)) => list.iter().map(|item| item.to_vec()).collect(),
        _ => Vec::new(),
    }
}

fn recovered(keys: &Keyspace) -> Recovered {
    let records: Vec<(u64, Bytes)> = (1..).zip(records_of(keys).into_iter().map(Bytes::from)).collect();
    Recovered {
        first: 1,
        reported: records.len() as u64,
        unproven_from: records.len() as u64 + 1,
        records,
        dropped: Vec::new(),
        generation: None,
        segments: 0,
        tail: "with its last file",
        flaw: None,
        stored: None,
    }
}

fn options(options: &EngineOptions, plants: Plants) -> Options {
    let commands = options.commands;
    Options {
        append_fsync: match commands.policy {
            Policy::Always => Fsync::Always,
            Policy::EverySecond => Fsync::EverySecond,
            Policy::No => Fsync::No,
        },
        ring_pages: commands.ring_pages,
        ring_page_bytes: commands.ring_page_bytes,
        split_large: options.split_large,
        aof_timestamp_enabled: commands.timestamps,
        no_append_fsync_on_rewrite: commands.no_sync_on_rewrite,
        aof_disable_auto_gc: commands.keep_history,
        checksums: commands.checksums,
        rewrite_sync_bytes: commands.rewrite_sync_bytes,
        load_ahead_bytes: if commands.load_ahead { 0 } else { u64::MAX },
        plants,
        ..Options::default()
    }
}

fn refusal(error: &OpenError) -> Refusal {
    Refusal { io: error.is_io(), message: error.to_string() }
}

impl<E: Env> Subject<E> for Commands<E> {
    async fn open(env: E, path: &Path, engine: &EngineOptions, plants: Plants) -> Result<(Self, Recovered), Refusal> {
        let mut keys = Keyspace::new();
        let place = Place { env: env.clone(), path: path.to_owned(), engine: engine.clone(), plants: plants.clone() };
        let opened = CommandLog::open(env, path, options(engine, plants), &mut keys).await;
        let (log, _) = opened.map_err(|error| refusal(&error))?;
        // The next command says where it is executed.
        let _ = keys.load(&[b"SELECT", b"0"]);
        let recovered = recovered(&keys);
        let (log, keys) = (Arc::new(Mutex::new(log)), Arc::new(Mutex::new(keys)));
        Ok((Commands { log, keys, stream: Arc::default(), place: Arc::new(place) }, recovered))
    }

    async fn peek(env: impl Env, path: &Path, engine: &EngineOptions, plants: Plants) -> Result<Recovered, Refusal> {
        let mut keys = Keyspace::new();
        let verified = CommandLog::verify(env, path, options(engine, plants), &mut keys).await;
        verified.map_err(|error| refusal(&error))?;
        Ok(recovered(&keys))
    }

    async fn append(&self, records: &[Bytes], _: bool, class: Durability) -> Result<(u64, Durability), NotAppended> {
        let definite = |error: LogError| NotAppended::Definite(error.to_string());
        self.noise(records).await.map_err(definite)?;
        let commands: Vec<[&[u8]; 3]> = records.iter().map(|record| [b"RPUSH".as_slice(), LIST, record]).collect();
        let unit: Vec<&[&[u8]]> = commands.iter().map(<[&[u8]; 3]>::as_slice).collect();
        // What is accepted is executed at once: nothing comes in between, not even a snapshot.
        let log = self.log();
        let position = log.append_unit(0, &unit).await.map_err(definite)?;
        self.stream().accepted(0, &unit, position.0);
        let first = self.execute(records);
        let indeterminate = |_| NotAppended::Indeterminate(first);
        let reached = match class {
            Durability::Buffered => Durability::Buffered,
            Durability::Written => {
                let on = log.phase() == Phase::On;
                let CommandOptions { policy, no_sync_on_rewrite, .. } = self.place.engine.commands;
                log.round().await.map_err(indeterminate)?;
                match policy {
                    _ if !on => Durability::Buffered,
                    Policy::Always if !no_sync_on_rewrite || log.durable() >= position => Durability::Sync,
                    // A round may end before what was written to the ring is with the operating system.
                    _ if log.written() < position => Durability::Buffered,
                    Policy::Always | Policy::EverySecond | Policy::No => Durability::Written,
                }
            }
            Durability::Sync => {
                log.wait_durable(position).await.map_err(indeterminate)?;
                Durability::Sync
            }
        };
        Ok((first, reached))
    }

    async fn sync(&self) -> Result<u64, String> {
        let next = self.next();
        self.log().sync().await.map_err(|error| error.to_string())?;
        Ok(next)
    }

    async fn wait(&self, _: u64) -> Result<(), String> {
        // A position is known to who appended; here all of them are waited for.
        let log = self.log();
        log.wait_durable(log.end()).await.map_err(|error| error.to_string())
    }

    async fn read(&self, lsn: u64) -> Result<Bytes, NotRead> {
        let records = records_of(&self.keys());
        let record = records.get(lsn.saturating_sub(1) as usize).cloned();
        record.map(Bytes::from).ok_or_else(|| NotRead::Missing("no such record".into()))
    }

    async fn scan(&self) -> Result<Vec<(u64, Bytes)>, NotRead> {
        Ok(recovered(&self.keys()).records)
    }

    fn next(&self) -> u64 {
        records_of(&self.keys()).len() as u64 + 1
    }

    async fn truncate_front(&self, _: u64) -> Result<u64, NotTruncated> {
        Err(NotTruncated::Definite("a command log is rewritten, not truncated".into()))
    }

    async fn truncate_back(&self, _: u64) -> Result<(), NotTruncated> {
        Err(NotTruncated::Definite("a command log is rewritten, not truncated".into()))
    }

    async fn follow(&self, _: u64) -> Result<Vec<(u64, Bytes)>, NotRead> {
        Err(NotRead::Refused("a command log is not followed".into()))
    }

    async fn write(&self, records: &[Bytes]) -> Result<u64, NotAppended> {
        let definite = |error: LogError| NotAppended::Definite(error.to_string());
        let mut writer: Writer<E> = self.log().writer().map_err(definite)?;
        let mut first = None;
        for record in records {
            let command = [b"RPUSH".as_slice(), LIST, record];
            let appended: Result<Position, _> = writer.append(0, &command).await;
            match appended {
                Ok(position) => {
                    self.stream().accepted(0, &[&command], position.0);
                    let lsn = self.execute(std::slice::from_ref(record));
                    first = first.or(Some(lsn));
                }
                // Those before it were accepted.
                Err(error) => return Err(first.map_or_else(|| definite(error), NotAppended::Indeterminate)),
            }
        }
        first.ok_or_else(|| NotAppended::Definite("nothing to write".into()))
    }

    async fn rewrite(&self, wait: bool) -> Result<(), String> {
        let text = |error: RewriteError| error.to_string();
        let rewrite = self.log().rewrite(|| self.keys().snapshot()).await.map_err(text)?;
        if wait {
            rewrite.done().await.map_err(text)?;
        }
        Ok(())
    }

    async fn rewrite_soon(&self) -> Result<(), String> {
        self.log().schedule_rewrite();
        // A server asks between rounds. It is never due while another one runs, or while writes fail.
        for _ in 0..ASKS_FOR_A_REWRITE {
            if self.log().rewrite_is_due() {
                return self.rewrite(false).await;
            }
            self.place.env.sleep(Duration::from_millis(1)).await;
        }
        Err("not due yet".into())
    }

    async fn switch(&self) -> Result<(), String> {
        self.log().close().await.map_err(|error| error.to_string())?;
        let Place { env, path, engine, plants } = &*self.place;
        let options = options(engine, plants.clone());
        let enabled = CommandLog::enable(env.clone(), path, options, || self.keys().snapshot()).await;
        let (log, mut first) = enabled.map_err(|error| error.to_string())?;
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = log.clone();
        self.stream().begin_anew();
        loop {
            let failed = match first.done().await {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            };
            // Attempts go on as they would in a server.
            env.sleep(Duration::from_secs(1)).await;
            first = match log.rewrite_is_due() {
                true => log.rewrite(|| self.keys().snapshot()).await.map_err(|error| error.to_string())?,
                false => return Err(failed),
            };
        }
    }

    async fn close(self) -> Result<(), String> {
        self.log().close().await.map_err(|error| error.to_string())
    }
}

/// Names and lengths in the log's own directory.
fn files(disk: &Disk) -> Vec<(String, u64)> {
    let Some(dir) = disk.dir_at(Path::new(FILES_DIR)) else { return Vec::new() };
    disk.files(dir).map(|(name, length)| (name.to_string_lossy().into_owned(), length)).collect()
}

fn read(disk: &Disk, dir: &str, name: &str) -> Option<Vec<u8>> {
    read_from(disk, dir, name, 0)
}

fn read_from(disk: &Disk, dir: &str, name: &str, offset: u64) -> Option<Vec<u8>> {
    disk.dir_at(Path::new(dir)).and_then(|dir| disk.read_file_from(dir, OsStr::new(name), offset))
}

fn manifest(disk: &Disk) -> Option<Manifest> {
    Manifest::parse(&read(disk, FILES_DIR, MANIFEST)?).ok()
}

impl Inspect for Commands<SimEnv> {
    type Seat = ();

    async fn step(&self, (): &mut (), _: Step, _: &Surroundings) -> Result<Stepped, Violation> {
        Ok(Stepped::default())
    }

    const NOTICES_DAMAGE: bool = false;

    /// A sync of an increment. (A write that fails is tried again; what fails in a rewrite costs no more than that.)
    fn concerns_the_log(disk: &Disk, op: &Op) -> bool {
        let Op::SyncData { file } = op else { return false };
        disk.name_of(*file).is_some_and(|name| name.to_string_lossy().ends_with(".incr.aof"))
    }

    fn same_files(one: &Disk, two: &Disk) -> bool {
        [LOG_DIR, FILES_DIR].into_iter().all(|path| match (one.dir_at(Path::new(path)), two.dir_at(Path::new(path))) {
            (Some(dir), Some(other)) => one.same_content(dir, two, other),
            (one, two) => one.is_none() && two.is_none(),
        })
    }

    fn open_bound(image: &Disk, _: &Recovered) -> u64 {
        let files = files(image);
        let bytes: u64 = files.iter().map(|(_, length)| length).sum();
        // The one file of an older log.
        let outer = image.dir_at(Path::new(LOG_DIR)).into_iter().flat_map(|dir| image.files(dir));
        let bytes = bytes + outer.map(|(_, length)| length).sum::<u64>();
        // Injected interruptions and short transfers at most double what is needed, with a wide margin.
        4 * (100 + 10 * files.len() as u64 + bytes / 512)
    }

    fn clean_directory(disk: &Disk, _: &Recovered, foreign: (&str, &[u8])) -> Result<(), Violation> {
        let there = files(disk);
        let Some(manifest) = manifest(disk) else {
            return ensure(false, "I22", "a manifest", format_args!("{there:?}"));
        };
        let listed: Vec<&str> = manifest.entries().map(|entry| entry.name.as_str()).collect();
        let stray = there.iter().find(|(name, _)| name != MANIFEST && !listed.contains(&name.as_str()));
        ensure(stray.is_none(), "I22", format_args!("{listed:?} and the manifest"), format_args!("{there:?}"))?;
        let kept = read(disk, LOG_DIR, foreign.0).is_some_and(|bytes| bytes == foreign.1);
        ensure(kept, "I22", format_args!("{} untouched", foreign.0), format_args!("{there:?}"))
    }

    /// One file is damaged. Where checksums or the manifest state what it holds, the damage is noticed: that is all of a log but for
    /// the end of an increment that was not closed.
    fn damage_is_refused(
        image: &Disk,
        _: &Past<'_>,
        draws: &mut Prng,
        recover: impl Fn(SimEnv) -> Result<Recovered, String>,
    ) -> Result<Vec<&'static str>, Violation> {
        let mut damaged = image.fork();
        // What is pending is not durable, and a still machine never loses it: settle first.
        damaged.power_cut(&Keep::All, draws);
        let sound = damaged.fork();
        let files = files(&damaged);
        let (Some(dir), Some(manifest)) = (damaged.dir_at(Path::new(FILES_DIR)), manifest(&damaged)) else {
            return Ok(Vec::new());
        };
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let (name, length) = draws.pick(&files).clone();
        let what = match draws.below(4) {
            0 => damaged.lose(dir, OsStr::new(&name)).then(|| format!("{name} is lost")),
            // Nothing in it begins as this does.
            1 => damaged.flip(dir, OsStr::new(&name), 0, 1).then(|| format!("{name}, byte 0, bit 0 flipped")),
            _ if length == 0 => None,
            _ => {
                let (byte, bit) = (draws.below(length), draws.below(8));
                let flipped = damaged.flip(dir, OsStr::new(&name), byte, 1 << bit);
                flipped.then(|| format!("{name} of {length} bytes, byte {byte}, bit {bit} flipped"))
            }
        };
        let Some(what) = what else { return Ok(Vec::new()) };
        let stated = |entry: &Entry| entry.name == name && entry.salt.is_some() && entry.synced == Some(length);
        // (A base that is empty need not be there to be the same: but it is listed.)
        let noticed =
            name == MANIFEST && manifest.summed || manifest.base.iter().chain(&manifest.increments).any(stated);
        let Ok(whole) = recover(SimEnv::still(sound)) else { return Ok(Vec::new()) };
        let env = SimEnv::still(damaged.fork());
        let mut checked = Vec::new();
        if noticed {
            checked.push("I4");
        }
        match recover(env.clone()) {
            Ok(recovered) => {
                let same = recovered.records == whole.records;
                let found = format!("{} of {} records", recovered.records.len(), whole.records.len());
                ensure(!noticed || same, "I4", format_args!("{what}: noticed, or nothing is missing"), found)?;
            }
            Err(message) => {
                let unchanged = Self::same_files(&damaged, &env.disk());
                ensure(unchanged, "I25", "a refused open changes no byte", message)?;
                checked.push("I25");
            }
        }
        Ok(checked)
    }

    fn proven_next(_: &Disk) -> Option<u64> {
        None
    }

    fn opened(&self, disk: &Disk) {
        if let Some(last) = manifest(disk).and_then(|manifest| manifest.increments.last().cloned()) {
            let bytes = files(disk).iter().find(|(name, _)| *name == last.name).map_or(0, |(_, length)| *length);
            self.stream().begin(&last.name, last.seq, bytes);
        }
    }

    fn in_place(&self, disk: &Disk, whole: bool) -> Result<bool, Violation> {
        let (log, mut stream) = (self.log(), self.stream());
        let (durable, written, end) = (log.durable(), log.written(), log.end());
        let found = format!("durable to {}, written to {}, accepted to {}", durable.0, written.0, end.0);
        ensure(durable <= written && written <= end, "I19", "durable, written and accepted in this order", found)?;
        let increments = match log.phase() {
            Phase::Off => return Ok(false),
            Phase::WaitRewrite => {
                // It is begun again when its first base is.
                stream.forget(COLLECTED);
                vec![COLLECTED.to_owned()]
            }
            Phase::On => {
                let increments = manifest(disk).map(|manifest| manifest.increments).unwrap_or_default();
                increments.into_iter().filter(|entry| stream.is_in(entry.seq)).map(|entry| entry.name).collect()
            }
        };
        let names: Vec<&str> = increments.iter().map(String::as_str).collect();
        stream.check(&names, written.0, whole, |name, offset| read_from(disk, FILES_DIR, name, offset))
    }
}

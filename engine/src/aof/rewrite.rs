//! Rewriting: the data as it is now replaces all that led to it.
//!
//! At one moment the log switches to a new increment and the owner of the data makes a snapshot of it; then a task writes what the
//! snapshot says into a base, while commands go on into the increment. Each step leaves a directory that loads to the same data:
//! the old base with all increments, until a durable manifest names the new base and the new increment alone.

use std::{
    io,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tracing::{debug, warn};

use crate::{
    env::{Dir, Env, File, interruptible, write_all_at},
    failure::Failure,
    plant::{Plants, planted},
    sync::Mutex,
};

use super::{
    commit::Want,
    enable::ATTEMPTS_APART,
    error::{LogError, RewriteError},
    files::{self, NotReplaced, Room, TEMPORARY_BASE},
    log::{Log, State},
    manifest::{Entry, Manifest},
    resp,
    sums::{self, LINE_BYTES},
};

/// A file being rewritten is synced whenever so many bytes were written, where `aof-rewrite-incremental-fsync` says so.
pub(super) const SYNC_BYTES: u64 = 4 << 20;
/// A piece of a base is written when it has so many bytes, or as many as are synced at a time.
const PIECE_BYTES: usize = 256 << 10;
/// From so many failures in a row on, rewrites that begin by themselves wait.
const FAILURES: u32 = 3;
/// How long, at most.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// The data at one moment, as the commands that rebuild it from nothing. What happens to the data afterwards must not show.
pub trait Snapshot: Send + 'static {
    /// Writes some of the commands that were not written yet, some hundred kilobytes at most. False when there are none left.
    fn write(&mut self, commands: &mut Commands) -> bool;
}

/// Commands on their way into a base.
#[derive(Debug, Default)]
pub struct Commands {
    bytes: Vec<u8>,
    database: Option<u32>,
}

impl Commands {
    /// Adds a command that is to be executed in a database.
    pub fn add(&mut self, database: u32, command: &[impl AsRef<[u8]>]) {
        if Some(database) != self.database {
            let number = database.to_string();
            resp::encode(&mut self.bytes, &[b"SELECT".as_slice(), number.as_bytes()]);
            self.database = Some(database);
        }
        resp::encode(&mut self.bytes, command);
    }

    /// How many bytes there are since they were last written out.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The commands as they stand in a file.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A rewrite under way, as the log sees it.
pub(super) struct Rewriting {
    /// The log reaches so far where it switches.
    at: u64,
    phase: Phase,
}

impl Rewriting {
    /// The first one of a log that was switched on just now: there is nothing to switch from.
    pub(super) fn first() -> Rewriting {
        Rewriting { at: 0, phase: Phase::Switched(0) }
    }
}

/// What comes before a mark.
enum First {
    /// A switch that is on its way.
    Switch,
    /// The ring is full: it is written up to here.
    Drain(u64),
}

enum Phase {
    /// The switch is in the ring.
    Marked,
    /// It has been made; the log had so many bytes in earlier files.
    Switched(u64),
    NotSwitched(Failure),
}

/// What a rewrite has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewritten {
    /// Bytes of the log before: base and increments.
    pub before: u64,
    /// Bytes of the new base.
    pub base: u64,
    /// How often the new base was synced.
    pub syncs: u64,
}

impl<E: Env> State<E> {
    /// The switch that a rewrite waits for has ended.
    pub(super) fn switched(&mut self, result: Result<u64, Failure>) {
        self.ahead = 0;
        if let Some(rewriting) = &mut self.rewriting {
            rewriting.phase = match result {
                Ok(bytes) => Phase::Switched(bytes),
                Err(failure) => Phase::NotSwitched(failure),
            };
        }
    }

    /// A manifest is in place that names a new base of so many bytes.
    pub(super) fn has_base(&mut self, manifest: &Manifest, bytes: u64) {
        self.manifest = manifest.clone();
        self.earlier_bytes = bytes;
        self.reference_bytes = self.bytes();
    }
}

impl<E: Env> Log<E> {
    /// Marks the place where the log switches, and takes the snapshot there. The mark of a rewrite that failed may still wait to be
    /// written; its switch comes first, so that there is never a second one on the way, and no rewrite takes another's for its own.
    pub(super) async fn mark_rewrite<S: Snapshot>(&self, snapshot: impl FnOnce() -> S) -> Result<S, RewriteError> {
        loop {
            let first = {
                let mut guard = self.lock();
                let state = &mut *guard;
                state.accepts().map_err(RewriteError::Log)?;
                if state.rewriting.is_some() {
                    return Err(RewriteError::Running);
                }
                if state.has_mark() && !planted!(self.plants, RewriteMarksAgain) {
                    First::Switch
                } else {
                    let Some(mut producer) = state.producer.take() else {
                        return Err(RewriteError::Log(LogError::WriterExists));
                    };
                    let marked = producer.switch(&mut state.ring, state.split, &self.plants);
                    state.published = state.published.max(producer.accepted - producer.held());
                    let at = producer.accepted;
                    state.producer = Some(producer);
                    if marked.is_ok() {
                        state.rewriting = Some(Rewriting { at, phase: Phase::Marked });
                        state.scheduled = false;
                        let snapshot = snapshot();
                        drop(guard);
                        return Ok(snapshot);
                    }
                    First::Drain(state.ring.drained())
                }
            };
            match first {
                First::Switch => self.write_now().await,
                First::Drain(upto) => {
                    self.wait(Want::Drained(upto)).await.map_err(|stuck| RewriteError::Log(stuck.into()))?;
                }
            }
        }
    }

    /// The task: from the mark to the end.
    pub(super) async fn rewrite(self: Arc<Self>, snapshot: impl Snapshot) -> Result<Rewritten, RewriteError> {
        let result = self.rewrite_marked(snapshot).await;
        {
            let mut state = self.lock();
            state.rewriting = None;
            match &result {
                Ok(_) => {
                    state.stats.rewrites += 1;
                    state.failures = 0;
                }
                Err(RewriteError::Closed) => {}
                Err(error) => {
                    warn!(%error, "not rewritten");
                    state.failures += 1;
                    state.failed_at = self.env.monotonic();
                    state.gives_up();
                }
            }
        }
        self.open_all();
        result
    }

    async fn rewrite_marked(&self, snapshot: impl Snapshot) -> Result<Rewritten, RewriteError> {
        let before = self.switched().await?;
        let written = self.write_base(snapshot).await;
        let (base, syncs, salt) = match written {
            Ok(written) => written,
            Err(error) => {
                let _ = self.dir.remove(TEMPORARY_BASE).await;
                return Err(error);
            }
        };
        let collecting = self.lock().collecting.clone();
        let manifest = match collecting {
            Some(increment) => self.switch_on(increment, base, salt).await?,
            None => self.replace(base, salt).await?,
        };
        if !self.options.aof_disable_auto_gc {
            self.collect(manifest).await;
        }
        debug!(before, base, "rewritten");
        Ok(Rewritten { before, base, syncs })
    }

    /// Waits until the log goes on in the new increment. Returns the bytes of what came before.
    async fn switched(&self) -> Result<u64, RewriteError> {
        loop {
            let at = {
                let state = self.lock();
                if state.closed {
                    return Err(RewriteError::Closed);
                }
                if let Some(failure) = &state.failure {
                    return Err(RewriteError::Log(LogError::Poisoned(failure.clone())));
                }
                let Some(rewriting) = &state.rewriting else { return Err(RewriteError::Closed) };
                match &rewriting.phase {
                    Phase::Switched(bytes) => return Ok(*bytes),
                    Phase::NotSwitched(failure) => return Err(RewriteError::Failed(failure.clone())),
                    Phase::Marked => rewriting.at,
                }
            };
            match self.wait(Want::Written(at)).await {
                // What is before the mark is written; the mark itself is with the next write.
                Ok(()) => {
                    if !self.lock().rewriting.as_ref().is_some_and(|rewriting| matches!(rewriting.phase, Phase::Marked))
                    {
                        continue;
                    }
                    self.write_now().await;
                }
                // (The switch is made when writes succeed again, and does no harm without a rewrite.)
                Err(stuck) => return Err(RewriteError::Log(stuck.into())),
            }
        }
    }

    /// Writes the base under its temporary name. Returns its length, how often it was synced, and its salt.
    async fn write_base(&self, mut snapshot: impl Snapshot) -> Result<(u64, u64, Option<u32>), RewriteError> {
        let salt = self.names.salt(&self.env, self.options.sums(&self.plants));
        let file = Arc::new(files::create(&self.dir, TEMPORARY_BASE).await.map_err(RewriteError::Failed)?);
        let failed = |operation| move |error| RewriteError::Failed(Failure::new(operation, TEMPORARY_BASE, &error));
        let line = vec![0; if salt.is_some() { LINE_BYTES } else { 0 }];
        let mut commands = Commands { bytes: line.clone(), database: None };
        if self.options.aof_timestamp_enabled {
            resp::encode_timestamp(&mut commands.bytes, self.env.wall_ns().div_euclid(1_000_000_000));
        }
        let sync_bytes = self.options.rewrite_sync_bytes;
        let piece = PIECE_BYTES.min(sync_bytes as usize);
        let (mut offset, mut synced, mut syncs) = (0, 0, 0);
        let mut room = Room::To(0);
        let mut syncing: Option<Syncing<E>> = None;
        loop {
            let more = snapshot.write(&mut commands);
            if commands.bytes.len() >= piece || !more {
                {
                    let state = self.lock();
                    if state.closed || state.stops {
                        return Err(RewriteError::Closed);
                    }
                    if let Some(failure) = &state.failure {
                        return Err(RewriteError::Log(LogError::Poisoned(failure.clone())));
                    }
                }
                if let Some(salt) = salt {
                    sums::seal(&mut commands.bytes, salt, offset, offset);
                }
                if commands.bytes.len() > line.len() {
                    room.keep(&*file, offset, offset + commands.bytes.len() as u64).await;
                    write_all_at(&*file, &commands.bytes, offset).await.map_err(failed("write"))?;
                    offset += commands.bytes.len() as u64;
                }
                commands.bytes.truncate(line.len());
                if self.options.aof_rewrite_incremental_fsync && offset - synced >= sync_bytes {
                    if let Some(syncing) = syncing.take() {
                        syncing.end(&self.plants).await.map_err(failed("sync"))?;
                    }
                    syncing = Some(Syncing::begin(&self.env, &file).map_err(failed("sync"))?);
                    (synced, syncs) = (offset, syncs + 1);
                }
                self.env.yield_now().await;
            }
            if !more {
                break;
            }
        }
        if let Some(syncing) = syncing {
            syncing.end(&self.plants).await.map_err(failed("sync"))?;
        }
        room.give_back(&*file, offset).await;
        if !planted!(self.plants, RewriteBaseUnsynced) {
            interruptible(|| file.sync_all()).await.map_err(failed("sync"))?;
        }
        Ok((offset, syncs + 1, salt))
    }

    /// Gives the base its name, and lets a new manifest name it and the present increment alone.
    async fn replace(&self, bytes: u64, salt: Option<u32>) -> Result<Manifest, RewriteError> {
        let mut manifest = self.lock().manifest.clone();
        let entry = Entry { synced: Some(bytes), salt, ..self.names.next_base(&manifest) };
        let current = manifest.increments.pop();
        manifest.replaced_by(entry.clone(), current);
        self.rename(TEMPORARY_BASE, &entry.name).await.map_err(RewriteError::Failed)?;
        if planted!(self.plants, RewriteHistoryFirst) {
            self.remove_history(&manifest).await;
        }
        if let Err(error) = files::replace_manifest(&self.dir, &self.names, &manifest, &self.plants).await {
            if !error.unknown {
                let _ = self.dir.remove(&entry.name).await;
            }
            return Err(self.not_replaced(error));
        }
        self.lock().has_base(&manifest, bytes);
        Ok(manifest)
    }

    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        interruptible(|| self.dir.rename(from, to)).await.map_err(|error| Failure::new("rename", from, &error))
    }

    /// Where it is unknown which manifest a power cut would leave, the log is poisoned.
    pub(super) fn not_replaced(&self, error: NotReplaced) -> RewriteError {
        if !error.unknown {
            return RewriteError::Failed(error.failure);
        }
        let failure = self.lock().fail(error.failure);
        self.open_all();
        RewriteError::Log(LogError::Poisoned(failure))
    }

    /// Removes what the manifest calls history, then lets a manifest forget it. What fails is left to the next time: it takes room,
    /// and no part in the log.
    async fn collect(&self, mut manifest: Manifest) {
        if !self.remove_history(&manifest).await {
            return;
        }
        manifest.history.clear();
        match files::replace_manifest(&self.dir, &self.names, &manifest, &self.plants).await {
            Ok(()) => self.lock().manifest = manifest,
            Err(error) if error.unknown => {
                self.lock().fail(error.failure);
                self.open_all();
            }
            Err(error) => warn!(failure = %error.failure, "history stays listed"),
        }
    }

    async fn remove_history(&self, manifest: &Manifest) -> bool {
        for entry in &manifest.history {
            match interruptible(|| self.dir.remove(&entry.name)).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    warn!(file = entry.name, %error, "history is not removed");
                    return false;
                }
                _ => {}
            }
        }
        true
    }

    /// Whether the log is to be rewritten, since somebody asked for it or it has grown so far, and nothing stands against that.
    pub(super) fn rewrite_is_due(&self) -> bool {
        let mut state = self.lock();
        if state.rewriting.is_some() || state.accepts().is_err() {
            return false;
        }
        if state.collecting.is_some() {
            return self.env.monotonic() >= state.failed_at + ATTEMPTS_APART;
        }
        let throttled = (state.failures >= FAILURES)
            .then(|| throttle(state.failures))
            .is_some_and(|wait| self.env.monotonic() < state.failed_at + wait);
        let grown = || !throttled && self.options.rewrite_is_due(state.bytes(), state.reference_bytes);
        if !state.scheduled && !grown() {
            return false;
        }
        let due = state.is_synced_ahead(&self.options);
        drop(state);
        if !due {
            self.gates.syncer.open();
        }
        due
    }
}

/// A sync of a base on the way, while more of it is written. There is never a second one: where one of two fails, the other may succeed
/// without what the failed one dropped.
struct Syncing<E: Env> {
    task: E::Task,
    result: Arc<Mutex<io::Result<()>>>,
}

impl<E: Env> Syncing<E> {
    fn begin<F: File>(env: &E, file: &Arc<F>) -> io::Result<Syncing<E>> {
        let result = Arc::new(Mutex::new(Err(io::Error::other("it did not come to its end"))));
        let (file, told) = (file.clone(), result.clone());
        let task = env.spawn("seawall aof base sync", async move {
            let synced = interruptible(|| file.sync_data()).await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = synced;
        })?;
        Ok(Syncing { task, result })
    }

    async fn end(self, plants: &Plants) -> io::Result<()> {
        self.task.await;
        if planted!(plants, RewriteBaseSyncIgnored) {
            return Ok(());
        }
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut result, Ok(()))
    }
}

/// How long a rewrite that begins by itself waits after so many failures: 1, 2, 4, … minutes, an hour at most.
fn throttle(failures: u32) -> Duration {
    let minutes = 1_u64.checked_shl(failures.saturating_sub(FAILURES)).unwrap_or(u64::MAX);
    Duration::from_secs(minutes.saturating_mul(60)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_make_rewrites_wait_longer_and_longer() {
        let minutes = |failures| throttle(failures).as_secs() / 60;
        assert_eq!((3..12).map(minutes).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(minutes(u32::MAX), 60);
    }
}

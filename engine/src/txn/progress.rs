//! What an open tells while it reads a store's logs and replays them.

use std::{fmt, sync::Arc, time::Duration};

use crate::env::Env;

/// Within a phase it is told no more often than this.
const PAUSE: Duration = Duration::from_millis(100);
/// The clock is looked at once for so many records.
const RECORDS: u64 = 4096;

/// How far an open has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it does.
    pub phase: Phase,
    /// Of that, how much is done.
    pub done: u64,
    /// How much there is to do in this phase; `None` while nobody knows.
    pub total: Option<u64>,
}

/// What an open does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Reads the logs: counted in records.
    Reading,
    /// Takes the changes of rows out of them: counted in records.
    Replaying,
    /// Makes versions in memory of them: counted in rows, of which a row that was changed in distant places may be there more than once.
    Building,
}

/// Who is told how far an open has come; the default is nobody.
///
/// It is called by the one who opens, on the same thread, at the begin and the end of each phase, and in between at most every 100 ms: so it
/// should return at once. In a phase `done` never falls, and at its end it is `total`. An open that fails tells no more; of a new store
/// there is the first phase alone. A verify tells the same.
///
/// ```
/// use engine::{env::{OsEnv, block_on}, txn::{Store, options::Options, progress::OnProgress}};
/// let on_progress = OnProgress::new(|progress| println!("{:?}: {} of {:?}", progress.phase, progress.done, progress.total));
/// let options = Options { on_progress, ..Options::default() };
/// # let folder = tempfile::tempdir()?;
/// let (store, _) = block_on(<Store<OsEnv>>::open(OsEnv, folder.path(), options))?;
/// block_on(store.close())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct OnProgress(Option<Arc<dyn Fn(Progress) + Send + Sync>>);

impl OnProgress {
    /// This function is told.
    pub fn new(told: impl Fn(Progress) + Send + Sync + 'static) -> OnProgress {
        OnProgress(Some(Arc::new(told)))
    }
}

impl fmt::Debug for OnProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "OnProgress" } else { "nobody" })
    }
}

/// Tells it, and not too often.
pub(super) struct Teller<'a, E: Env> {
    env: &'a E,
    told: &'a OnProgress,
    /// When something was told last.
    last: Duration,
    now: Progress,
}

impl<'a, E: Env> Teller<'a, E> {
    /// The first phase begins.
    pub(super) fn begin(env: &'a E, told: &'a OnProgress) -> Teller<'a, E> {
        let now = Progress { phase: Phase::Reading, done: 0, total: None };
        let mut teller = Teller { env, told, last: Duration::ZERO, now };
        teller.tell();
        teller
    }

    /// One more record was read.
    pub(super) fn read_one(&mut self) {
        self.now.done += 1;
        if self.now.done.is_multiple_of(RECORDS) {
            self.tell_in_time();
        }
    }

    /// So much of this phase is done.
    pub(super) fn done(&mut self, done: u64) {
        self.now.done = done;
        self.tell_in_time();
    }

    /// This phase is over; how much it was.
    pub(super) fn end(&mut self) -> u64 {
        let done = *self.now.total.get_or_insert(self.now.done);
        self.now.done = done;
        self.tell();
        done
    }

    /// Another phase begins.
    pub(super) fn next(&mut self, phase: Phase, total: u64) {
        self.now = Progress { phase, done: 0, total: Some(total) };
        self.tell();
    }

    fn tell_in_time(&mut self) {
        if self.told.0.is_some() && self.env.monotonic() >= self.last + PAUSE {
            self.tell();
        }
    }

    fn tell(&mut self) {
        if let Some(told) = &self.told.0 {
            self.last = self.env.monotonic();
            told(self.now);
        }
    }
}

//! From a plan to a verdict: lives of the machine, one after the other, each an open, clients, and an end.
//!
//! Everything runs on one thread in virtual time. The clients of a life are tasks of a node that a crash kills; the
//! runner itself stands outside, looks at the disk between two steps and never takes part.

mod client;
mod images;
mod opening;

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use engine::{
    plant::{Plant, Plants},
    txn::options::Sync,
    wal::{Durability, Wal},
};
use madsim::{
    runtime::{Handle, NodeHandle, Runtime},
    time::TimeHandle,
};

use self::client::Client;
use crate::{
    damage::{self, Damage, Judged},
    disk::{Disk, Image, Keep},
    env::{ImageEnv, Machine, MachineOptions, SimEnv, run_still},
    evidence::Files,
    fault::{Fault, FaultRates, Fired},
    invariant,
    oracle::{Before, History},
    plan::{At, Crash, CrashKind, Decided, End, FaultAt, Life, Plan},
    prng::Prng,
    report::{Outcome, Verdict, Violation},
    subject::{
        Inspect, Recovered, Refusal, Subject, Surroundings,
        commands::Commands,
        txn::{SMALL_PAGE, Txn, USUAL_PAGE},
    },
    truth::txn::{Truth, TruthRef},
    workload,
};

/// Where the log lives on the simulated disk.
pub const LOG_DIR: &str = "/log";
/// A file in its directory that the engine must never touch.
const FOREIGN: (&str, &[u8]) = ("notes.txt", b"not the log's");
/// Names in that directory that a plan can't give to files of its own.
pub const TAKEN: [&str; 2] = [FOREIGN.0, "appendonlydir"];
/// An open may fail this often on a faulty machine before the machine is made to behave.
const FAULTY_OPENS: usize = 4;
/// Virtual time after which a life that doesn't end is stuck. An engine microsecond is a virtual millisecond.
const STUCK: Duration = Duration::from_secs(60 * 60 * 24 * 5);
/// Operations that a violation shows.
const LAST_OPERATIONS: usize = 12;

/// Runs `plan`, with `plant` planted, to its verdict.
#[must_use]
pub fn run(plan: &Plan, plant: Option<Plant>) -> Outcome {
    judge(plan, plant, false)
}

/// The same, and what drawn power cuts kept is part of [`Outcome::decided`].
#[must_use]
pub fn record(plan: &Plan, plant: Option<Plant>) -> Outcome {
    judge(plan, plant, true)
}

fn judge(plan: &Plan, plant: Option<Plant>, recording: bool) -> Outcome {
    match plan.subject.as_str() {
        "wal" => judge_as::<Wal<SimEnv>>(plan, plant, recording),
        "txn" if plan.engine.txn.small_pages => judge_as::<Txn<SimEnv, SMALL_PAGE>>(plan, plant, recording),
        "txn" => judge_as::<Txn<SimEnv, USUAL_PAGE>>(plan, plant, recording),
        _ => judge_as::<Commands<SimEnv>>(plan, plant, recording),
    }
}

fn judge_as<S: Subject<SimEnv> + Inspect>(plan: &Plan, plant: Option<Plant>, recording: bool) -> Outcome {
    let runtime = Runtime::with_seed_and_config(plan.seed, madsim::Config::default());
    let plants = plant.map_or_else(Plants::default, Plants::only);
    runtime.block_on(async {
        let mut run = Run::<S> { recording, ..Run::new(plan, plants.clone()) };
        let verdict = match run.lives().await {
            Ok(()) => Verdict::Pass,
            Err(Stop::Violation(violation)) => Verdict::Violation(violation),
            Err(Stop::Harness(message)) => Verdict::Harness(message),
        };
        run.outcome(verdict, plant.map(|plant| (plant.name(), plants.reached())))
    })
}

/// Engine microseconds since the run on this thread began; for logs.
#[must_use]
pub fn virtual_us() -> Option<u64> {
    TimeHandle::try_current().map(|time| time.elapsed().as_millis() as u64)
}

/// Why a run ends early.
enum Stop {
    Violation(Violation),
    Harness(String),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Stop {
        Stop::Violation(violation)
    }
}

/// What the clients of a life share with the runner.
struct Shared {
    history: History,
    /// The same of transactions.
    truth: TruthRef,
    /// Set by the first violation that a client saw.
    violation: Option<Violation>,
    /// The last operations.
    last: Vec<client::Note>,
    operations: u64,
    /// A rewrite was begun in the present life.
    rewrites: bool,
    image_draws: Prng,
    /// The image that was recovered last after an acknowledgement, and what came of it.
    judged: Option<(Image, Result<Recovered, String>)>,
}

type SharedRef = Arc<Mutex<Shared>>;

fn lock(shared: &SharedRef) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at the truth of transactions.
fn truth<T>(shared: &SharedRef, look: impl FnOnce(&mut Truth) -> T) -> T {
    let truth = lock(shared).truth.clone();
    look(&mut crate::truth::txn::lock(&truth))
}

struct Run<'a, S> {
    plan: &'a Plan,
    plants: Plants,
    machine: Machine,
    shared: SharedRef,
    crash_draws: Prng,
    check_draws: Prng,
    damage_draws: Prng,
    /// The disk as it was when the present life began, where that is of interest.
    earlier: Option<Disk>,
    /// The plan has damaged what was synced, or put a snapshot there: an open may be refused for it.
    damaged: bool,
    /// Faults that had struck before the present life.
    fired_before: Fired,
    decided: Vec<Decided>,
    /// What drawn power cuts kept is part of that.
    recording: bool,
    life: usize,
    cycles: u64,
    lives: u64,
    records_recovered: u64,
    records_dropped: u64,
    bytes_dropped: u64,
    crashes: BTreeMap<&'static str, u64>,
    subject: std::marker::PhantomData<S>,
}

/// How waiting for a node's work ended.
enum Ended<T> {
    Finished(T),
    Crashed,
}

impl<'a, S: Subject<SimEnv> + Inspect> Run<'a, S> {
    fn new(plan: &'a Plan, plants: Plants) -> Self {
        let prng = Prng::new(plan.seed);
        let options = MachineOptions {
            sector_bytes: plan.machine.sector_bytes,
            capacity: if plan.machine.capacity_bytes == 0 { u64::MAX / 2 } else { plan.machine.capacity_bytes },
            latency_us: plan.machine.latency_us,
            rates: plan
                .machine
                .rates
                .iter()
                .fold(FaultRates::calm(), |rates, (fault, calls)| rates.with(*fault, *calls)),
            marks_errors: S::concerns_the_log,
            ..MachineOptions::default()
        };
        let machine = Machine::new(options, &prng.fork("machine"));
        machine.with_disk(|disk| {
            let dir = disk.make_dir(Path::new(LOG_DIR));
            disk.write_foreign(dir, FOREIGN.0, FOREIGN.1);
        });
        let history = History::new(plan.lies(), plan.loss_window_us());
        let truth = Truth::new(plan.lies(), plan.loss_window_us());
        let shared = Shared {
            history,
            truth: Arc::new(Mutex::new(truth)),
            violation: None,
            last: Vec::new(),
            operations: 0,
            rewrites: false,
            image_draws: prng.fork("image checks"),
            judged: None,
        };
        Run {
            plan,
            plants,
            machine,
            shared: Arc::new(Mutex::new(shared)),
            crash_draws: prng.fork("crashes"),
            check_draws: prng.fork("checks"),
            damage_draws: prng.fork("damages"),
            earlier: None,
            damaged: false,
            fired_before: Fired::default(),
            decided: Vec::new(),
            recording: false,
            life: 0,
            cycles: 0,
            lives: 0,
            records_recovered: 0,
            records_dropped: 0,
            bytes_dropped: 0,
            crashes: BTreeMap::new(),
            subject: std::marker::PhantomData,
        }
    }

    async fn lives(&mut self) -> Result<(), Stop> {
        self.put_files()?;
        let mut before = Before::Nothing;
        let last_open = Life::default();
        // One open more than there are lives: the last end is judged too.
        for (number, life) in self.plan.lives.iter().chain(std::iter::once(&last_open)).enumerate() {
            self.life = number;
            let result = self.life(life, before).await;
            before = match result {
                Ok(Some(before)) => match self.damages(life) {
                    Ok(()) => before,
                    Err(mut violation) => {
                        violation.life = number;
                        return Err(Stop::Violation(violation));
                    }
                },
                Ok(None) => return Ok(()),
                Err(Stop::Violation(mut violation)) => {
                    self.note_strikes();
                    violation.life = number;
                    violation.last = self.machine.last_calls();
                    let shared = lock(&self.shared);
                    let from = shared.last.len().saturating_sub(LAST_OPERATIONS);
                    violation.last.extend(shared.last[from..].iter().map(client::Note::text));
                    return Err(Stop::Violation(violation));
                }
                Err(harness) => return Err(harness),
            };
        }
        Ok(())
    }

    /// Puts the files in place that the plan begins with. What is whole in them counts as acknowledged.
    fn put_files(&mut self) -> Result<(), Violation> {
        let history = &mut lock(&self.shared).history;
        let mut first = 1;
        for file in &self.plan.files {
            let appends: Vec<_> = file.appends().map(|sizes| history.issue(&sizes)).collect();
            let records: Vec<&[Bytes]> = appends.iter().map(|(_, records)| &**records).collect();
            let (bytes, whole) = file.content(&records);
            for (append, records) in &appends[..whole] {
                history.answered(*append, Durability::Sync, &Ok(first), 0)?;
                first += records.len() as u64;
            }
            self.machine.with_disk(|disk| {
                let dir = disk.make_dir(Path::new(LOG_DIR));
                disk.write_foreign(dir, &file.name, &bytes);
            });
            // A log may refuse to begin beside a snapshot.
            self.damaged |= file.is_snapshot();
        }
        Ok(())
    }

    /// The faults that struck since the last time, and new ones that shall.
    fn set_faults_at(&mut self, faults: &[FaultAt]) -> Vec<FaultAt> {
        let strikes = self.machine.strikes().into_iter().map(|(fault, io)| FaultAt { io, fault }).collect();
        self.machine.set_faults_at(faults.iter().map(|at| (at.fault, at.io)).collect());
        strikes
    }

    /// What the seed decided in the present life.
    fn decided(&mut self) -> &mut Decided {
        if self.decided.len() <= self.life {
            self.decided.resize_with(self.life + 1, Decided::default);
        }
        &mut self.decided[self.life]
    }

    /// Remembers which faults struck in this life since its open.
    fn note_strikes(&mut self) {
        self.decided().faults = self.set_faults_at(&[]);
    }

    /// Tries damages on copies of the disk that the life has left, then does those that the plan has for it.
    fn damages(&mut self, life: &Life) -> Result<(), Violation> {
        let lying = lock(&self.shared).history.lying();
        if S::NOTICES_DAMAGE && self.plan.damage_checks > 0 && !lying {
            // As the next open would find it, with nothing pending.
            let mut sound = self.machine.fork();
            sound.power_cut(&Keep::All, &mut self.damage_draws);
            let files = damage::segments(&sound);
            if let Ok(undamaged) = self.recover_image(sound.image()) {
                for _ in 0..self.plan.damage_checks {
                    let Some(drawn) = Damage::draw(&files, &mut self.damage_draws) else { break };
                    self.damage(&sound, &files, &undamaged, &drawn)?;
                }
            }
        }
        for damage in &life.damage {
            self.damaged |= self.machine.with_disk(|disk| {
                disk.power_cut(&Keep::All, &mut Prng::new(0));
                damage.apply(disk, self.earlier.as_ref())
            });
            if self.damaged {
                truth(&self.shared, Truth::damaged);
            }
        }
        Ok(())
    }

    fn damage(&mut self, sound: &Disk, files: &Files, undamaged: &Recovered, damage: &Damage) -> Result<(), Violation> {
        let mut damaged = sound.fork();
        if !damage.apply(&mut damaged, None) {
            return Ok(());
        }
        let left = damage::segments(&damaged);
        let result = recover_still::<S>(damaged.image(), &self.plan.engine, &self.plants);
        let judged = damage::judge(files, undamaged, damage, &left, &result)?;
        if let Ok(recovered) = &result {
            // What no longer stands as before was appended once, at least: a truncation may be lost, nothing is made up.
            lock(&self.shared).history.delivers_only_issued(recovered, undamaged)?;
        }
        *self.crashes.entry(damage.event()).or_default() += 1;
        let (event, invariant) = match judged {
            Judged::Noticed => ("damage-noticed", "I4"),
            Judged::Harmless => ("damage-harmless", "I4a"),
            Judged::Undecidable => ("damage-undecidable", "I4"),
        };
        *self.crashes.entry(event).or_default() += 1;
        lock(&self.shared).history.count(invariant);
        Ok(())
    }

    /// One life. `None` if nothing can follow: a lying drive was found out.
    async fn life(&mut self, life: &Life, before: Before) -> Result<Option<Before>, Stop> {
        self.lives += 1;
        self.fired_before = self.machine.fired();
        self.set_faults_at(&life.opening_faults);
        let opened = self.open(life, before).await;
        self.decided().opening_faults = self.set_faults_at(&life.faults);
        let Some((node, subject)) = opened? else { return Ok(None) };

        let crash = match &life.end {
            End::Crash(crash) => Some(crash.clone()),
            End::Close => None,
        };
        if let Some(Crash { at: At::Io(io), .. }) = &crash {
            self.machine.arm_crash(*io);
        }
        let one_in = if S::LOOKS_BACK { images::ONE_IN * self.plan.image_checks } else { 0 };
        self.machine.watch(one_in, S::of_checkpoint);
        let clients: Vec<_> = life
            .clients
            .iter()
            .enumerate()
            .map(|(number, ops)| {
                let client = Client {
                    number,
                    subject: subject.clone(),
                    machine: self.machine.clone(),
                    shared: self.shared.clone(),
                    plan_checks: self.plan.image_checks,
                    options: self.plan.engine.clone(),
                    reading: self.plants.for_reading(),
                    alone: life.clients.len() == 1 && !self.plan.no_faults,
                    // Twice the idle time, and the calls of a preparation and of a mark.
                    quiet_us: 2 * self.plan.engine.idle_us + 40 * self.plan.machine.latency_us.1,
                    draws: Prng::new(self.plan.seed)
                        .fork("client")
                        .fork_nth("life", self.life as u64)
                        .fork_nth("number", number as u64),
                    mine: Vec::new(),
                    seat: S::Seat::default(),
                    around: Surroundings {
                        truth: lock(&self.shared).truth.clone(),
                        machine: self.machine.clone(),
                        options: self.plan.engine.clone(),
                        reading: self.plants.for_reading(),
                    },
                };
                node.spawn(Box::pin(client.run(ops.clone())))
            })
            .collect();
        let work = async move {
            for client in clients {
                // A client that was killed or panicked shows in the crash, or in the violation it left.
                drop(client.await);
            }
        };
        let ended = self.until_crash(work).await?;
        if let Some(violation) = lock(&self.shared).violation.take() {
            return Err(violation.into());
        }
        let before = match (ended, crash) {
            (Ended::Crashed, Some(crash)) | (Ended::Finished(()), Some(crash)) => {
                self.in_place(&subject)?;
                drop(subject);
                self.judge_images()?;
                self.pages_follow_logs()?;
                self.crash(&node, &crash, None).await
            }
            (_, None) => {
                self.in_place(&subject)?;
                let fired_before = self.machine.fired();
                let closing = node.spawn(async move { subject.close().await });
                let closed = self.until_crash(async move { closing.await.ok() }).await?;
                let ok = matches!(closed, Ended::Finished(Some(Ok(()))));
                self.machine.disarm();
                self.judge_images()?;
                let calm = self.machine.fired() == fired_before;
                if ok && calm && !self.plan.no_faults && !lock(&self.shared).history.lying() {
                    lock(&self.shared).history.count("I4");
                    let pessimal = self.machine.with_disk(|disk| disk.pessimal());
                    let reading = self.plants.for_reading();
                    let recover = |disk: &Disk| {
                        recover_still::<S>(disk.image(), &self.plan.engine, &reading).map_err(String::from)
                    };
                    S::closed_end_is_proven(&pessimal, recover)?;
                }
                // A log that failed can't be closed cleanly; it ends like a killed process.
                let crash = Crash { kind: CrashKind::Kill, at: At::Done, keep: Keep::Draw };
                let before = self.stop_node(&node, &crash).await;
                if ok { Before::Close } else { before }
            }
        };
        self.note_strikes();
        Ok(Some(before))
    }

    /// All that the log has written in this life is in its place.
    fn in_place(&self, subject: &S) -> Result<(), Violation> {
        if self.machine.with_disk(|disk| subject.in_place(disk, true))? {
            lock(&self.shared).history.count("I19");
        }
        Ok(())
    }

    /// What was looked at of checkpoints since the last time.
    fn judge_images(&self) -> Result<(), Violation> {
        images::judge::<S>(&self.machine, &self.shared, &self.plan.engine, &self.plants.for_reading())
    }

    /// No page on the disk has what the logs don't have there, at whatever moment a crash comes.
    fn pages_follow_logs(&self) -> Result<(), Violation> {
        if self.plan.engine.txn.sync == Sync::NoSync || self.plan.no_faults {
            return Ok(());
        }
        let pessimal = self.machine.pessimal();
        let Some(newest) = S::newest_page(&pessimal) else { return Ok(()) };
        match self.recover_image(pessimal.image()).map(|found| found.stored) {
            Ok(Some(stored)) => truth(&self.shared, |truth| truth.pages(newest, stored.end)),
            // (The next open judges that.)
            _ => Ok(()),
        }
    }

    /// Runs an uninterrupted recovery.
    fn recover_image(&self, image: Image) -> Result<Recovered, String> {
        self.recover_image_at(image, LOG_DIR)
    }

    /// The same of what is in another directory.
    fn recover_image_at(&self, image: Image, path: &str) -> Result<Recovered, String> {
        let reading = self.plants.for_reading();
        recover_still_at::<S>(image, Path::new(path), &self.plan.engine, &reading).map_err(String::from)
    }

    /// Waits for `work` or for the armed crash, whichever comes first.
    async fn until_crash<T>(&self, work: impl Future<Output = T>) -> Result<Ended<T>, Stop> {
        let machine = self.machine.clone();
        let mut work = Box::pin(work);
        let mut crashed = Box::pin(async move { machine.crashed().await });
        let both = std::future::poll_fn(move |context| {
            if crashed.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ended::Crashed);
            }
            work.as_mut().poll(context).map(Ended::Finished)
        });
        let stuck = || {
            let mut message = format!("life {} does not end: a waiter was forgotten", self.life);
            let notes = lock(&self.shared);
            let answered = notes.last.iter().map(client::Note::text);
            self.machine.last_calls().into_iter().chain(answered).for_each(|line| message.extend(["\n  ", &line]));
            Stop::Harness(message)
        };
        match madsim::time::timeout(STUCK, both).await {
            Ok(ended) => Ok(ended),
            Err(_) => Err(stuck()),
        }
    }

    /// Ends the process as planned: in an attempt to open, or at the end of the life.
    async fn crash(&mut self, node: &NodeHandle, crash: &Crash, attempt: Option<usize>) -> Before {
        self.cycles += 1;
        let failures = [Fault::EioWrite, Fault::EioSync, Fault::EioDirSync, Fault::Enospc];
        let failed = failures.iter().any(|fault| self.machine.fired().count(*fault) > self.fired_before.count(*fault));
        let calm = !failed && attempt.is_none() && self.plan.machine.capacity_bytes == 0;
        lock(&self.shared).history.ends(calm);
        truth(&self.shared, |truth| truth.ends(calm));
        let name = match crash.kind {
            CrashKind::Kill => "kill",
            CrashKind::PowerCut => "power-cut",
        };
        *self.crashes.entry(name).or_default() += 1;
        let recording = self.recording && crash.kind == CrashKind::PowerCut && crash.keep == Keep::Draw;
        let pending = recording.then(|| self.machine.fork());
        let before = self.stop_node(node, crash).await;
        if let Some(pending) = pending {
            let kept = self.machine.with_disk(|disk| pending.kept(disk));
            let decided = self.decided();
            match attempt {
                Some(attempt) => drop(decided.opening_kept.insert(attempt, kept)),
                None => decided.kept = Some(kept),
            }
        }
        before
    }

    async fn stop_node(&mut self, node: &NodeHandle, crash: &Crash) -> Before {
        self.machine.halt();
        Handle::current().kill(node.id());
        // The tasks are dropped when the scheduler comes round; only then is nobody left to touch the disk.
        madsim::task::yield_now().await;
        match crash.kind {
            CrashKind::Kill => {
                self.machine.kill(&mut self.crash_draws);
                Before::Kill
            }
            CrashKind::PowerCut => {
                self.machine.power_cut(&crash.keep, &mut self.crash_draws);
                Before::PowerCut
            }
        }
    }

    fn outcome(&self, verdict: Verdict, reached: Option<(&'static str, u64)>) -> Outcome {
        let shared = lock(&self.shared);
        let mut checked = shared.history.checked();
        for (id, count) in crate::truth::txn::lock(&shared.truth).checked() {
            *checked.entry(id).or_default() += count;
        }
        let fired = self.machine.fired();
        let mut fired: BTreeMap<&'static str, u64> = fired
            .iter()
            .filter(|(fault, count)| *count > 0 || self.plan.machine.rates.contains_key(fault))
            .map(|(fault, count)| (fault.name(), count))
            .collect();
        fired.extend(self.crashes.iter().map(|(name, count)| (*name, *count)));
        let code = match &verdict {
            Verdict::Pass => 0,
            Verdict::Violation(violation) => 1 + violation.invariant.bytes().map(u64::from).sum::<u64>(),
            Verdict::Harness(_) => 2,
        };
        Outcome {
            seed: self.plan.seed,
            subject: self.plan.subject.clone(),
            drawn: workload::drawn(self.plan),
            trace_hash: self.machine.finish_trace(&[code, self.cycles, shared.operations]),
            verdict,
            lives: self.lives,
            cycles: self.cycles,
            operations: shared.operations,
            acknowledged: shared.history.acknowledged().clone(),
            enabled: self.plan.machine.rates.keys().map(|fault| fault.name()).collect(),
            fired,
            checked,
            applicable: invariant::applicable(self.plan),
            reached: reached.into_iter().collect(),
            records_recovered: self.records_recovered,
            records_dropped: self.records_dropped,
            bytes_dropped: self.bytes_dropped,
            decided: self.decided.clone(),
        }
    }
}

/// What an uninterrupted recovery of an image would deliver. It judges what the disk holds, so a planted bug is not in
/// `plants`, unless nothing could be read without it.
fn recover_still<S: Subject<SimEnv>>(
    image: Image,
    options: &crate::plan::EngineOptions,
    plants: &Plants,
) -> Result<Recovered, Refusal> {
    recover_still_at::<S>(image, Path::new(LOG_DIR), options, plants)
}

fn recover_still_at<S: Subject<SimEnv>>(
    image: Image,
    path: &Path,
    options: &crate::plan::EngineOptions,
    plants: &Plants,
) -> Result<Recovered, Refusal> {
    untold(|| run_still(S::peek(ImageEnv::new(image), path, &options.still(), plants.clone())))
}

/// The same, and the log is really opened.
fn open_still<S: Subject<SimEnv>>(
    env: SimEnv,
    options: &crate::plan::EngineOptions,
    plants: &Plants,
) -> Result<Recovered, Refusal> {
    // The question is what the disk holds, not whether there is room to go on.
    env.machine().behave();
    untold(|| {
        let opened = run_still(S::open(env, Path::new(LOG_DIR), &options.still(), plants.clone()));
        opened.map(|result| result.map(|(_, recovered)| recovered))
    })
}

/// What an oracle does to a copy is not part of the run, so it isn't logged.
fn untold(recover: impl FnOnce() -> Option<Result<Recovered, Refusal>>) -> Result<Recovered, Refusal> {
    let recovered = if tracing::level_filters::LevelFilter::current() == tracing::level_filters::LevelFilter::OFF {
        recover()
    } else {
        tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), recover)
    };
    let waits = || Refusal { io: false, message: "it waits for something on a machine where nothing happens".into() };
    recovered.unwrap_or_else(|| Err(waits()))
}

//! The machine behind the processes: it numbers the calls, draws their latency and their faults, and crashes on time.

use std::{
    cell::OnceCell,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use engine::env::OpenMode;
use madsim::time::{Sleep, TimeHandle};

use super::{
    SimEnv,
    call::{Core, lock},
};
use crate::{
    disk::{CutReport, DirId, Disk, DiskOptions, Done, FileId, Image, Inject, Keep, Op, OpId, prepared},
    fault::{Fault, FaultPlan, FaultRates, Fired},
    prng::Prng,
    trace::{Call, Kind, Outcome, Trace},
};

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    /// The unit that lands whole: 512 or 4096.
    pub sector_bytes: u32,
    /// How much file content fits, in bytes.
    pub capacity: u64,
    /// Shortest and longest time of a call, in engine microseconds; at least 1.
    pub latency_us: (u64, u64),
    /// How often faults strike.
    pub rates: FaultRates,
    /// Explicit faults: each strikes the first call that it applies to, from the call with this number on.
    pub at: Vec<(Fault, u64)>,
    /// Which failed writes and syncs [`Machine::marked_errors`] counts.
    pub marks_errors: fn(&Disk, &Op) -> bool,
    /// The wall clock at the start, in nanoseconds since the Unix epoch.
    pub wall_start_ns: i64,
}

impl Default for MachineOptions {
    fn default() -> Self {
        MachineOptions {
            sector_bytes: 512,
            capacity: 1 << 30,
            latency_us: (1, 20),
            rates: FaultRates::calm(),
            at: Vec::new(),
            marks_errors: |_, _| true,
            wall_start_ns: 1_700_000_000_000_000_000,
        }
    }
}

/// A simulated machine. It outlives its processes; clones are the same machine.
#[derive(Clone)]
pub struct Machine {
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "machine after {} calls", self.io_count())
    }
}

impl Machine {
    /// A machine with an empty disk, whose draws are labelled streams of `prng`.
    #[must_use]
    pub fn new(options: MachineOptions, prng: &Prng) -> Machine {
        let disk = Disk::new(DiskOptions { sector_bytes: options.sector_bytes, capacity: options.capacity });
        Machine::on(disk, options, prng)
    }

    /// A machine with this disk; `sector_bytes` and `capacity` of the options don't count.
    #[must_use]
    pub fn on(disk: Disk, options: MachineOptions, prng: &Prng) -> Machine {
        Machine { state: Arc::new(Mutex::new(State::new(disk, options, prng, false))) }
    }

    /// A machine without time and faults: see [`SimEnv::still`].
    #[must_use]
    pub fn still(disk: Disk) -> Machine {
        let prng = Prng::new(0).fork_nth("still", disk.age());
        Machine { state: Arc::new(Mutex::new(State::new(disk, MachineOptions::default(), &prng, true))) }
    }

    pub(super) fn of(core: &Core) -> Machine {
        Machine { state: core.state.clone() }
    }

    /// The machine as the present process sees it: valid until the next [`Machine::kill`] or [`Machine::power_cut`].
    #[must_use]
    pub fn env(&self) -> SimEnv {
        SimEnv { core: Core { state: self.state.clone(), life: self.lock().life } }
    }

    /// How many calls were accepted so far. A yield counts, since it is a crash point.
    #[must_use]
    pub fn io_count(&self) -> u64 {
        self.lock().io
    }

    /// Halts the machine at the `nth` call from now (1 is the next one): when it begins, or, half of the time, when it
    /// would have completed.
    pub fn arm_crash(&self, nth: u64) {
        self.lock().armed = Armed::In(nth.max(1));
    }

    /// Takes back [`Machine::arm_crash`].
    pub fn disarm(&self) {
        self.lock().armed = Armed::Off;
    }

    /// Ready when the machine has halted.
    pub fn crashed(&self) -> impl Future<Output = ()> + Send + use<> {
        Crashed { state: self.state.clone() }
    }

    /// Halts the machine now: from here on every call stays pending.
    pub fn halt(&self) {
        let state = &mut *self.lock();
        state.settle();
        state.halt();
    }

    /// The process dies: see [`Disk::kill`]. The next [`Machine::env`] is a new process. Its tasks must be gone.
    pub fn kill(&self, prng: &mut Prng) {
        let state = &mut *self.lock();
        state.settle();
        state.disk.kill(prng);
        state.next_life(&[1]);
    }

    /// The power goes: see [`Disk::power_cut`]. The next [`Machine::env`] is a new process. Its tasks must be gone.
    pub fn power_cut(&self, keep: &Keep, prng: &mut Prng) -> CutReport {
        let state = &mut *self.lock();
        state.settle();
        let report = state.disk.power_cut(keep, prng);
        let CutReport { kept, lost, mixed, stale, names_kept, names_lost } = report;
        state.next_life(&[2, kept, lost, mixed, stale, names_kept, names_lost]);
        report
    }

    /// Adds explicit faults in place of those that are still to come. They count calls from now: 1 is the next one.
    pub fn set_faults_at(&self, at: Vec<(Fault, u64)>) {
        let state = &mut *self.lock();
        let from = state.io;
        state.strikes_from = from;
        state.strikes.clear();
        state.plan.set_at(at.into_iter().map(|(fault, io)| (fault, from + io)).collect());
    }

    /// The faults that struck since [`Machine::set_faults_at`], counted as it counts.
    #[must_use]
    pub fn strikes(&self) -> Vec<(Fault, u64)> {
        self.lock().strikes.clone()
    }

    /// Switches all faults off for good, and gives the disk space.
    pub fn behave(&self) {
        let state = &mut *self.lock();
        state.plan.set_rates(FaultRates::calm());
        state.disk.set_capacity(u64::MAX / 2);
    }

    /// How often each fault took effect.
    #[must_use]
    pub fn fired(&self) -> Fired {
        self.lock().plan.fired()
    }

    /// From now on takes an image of the disk at one in so many calls, of those that `of` names; none if that is 0.
    pub fn watch(&self, one_in: u32, of: Which) {
        let state = &mut *self.lock();
        state.watching = (one_in > 0).then_some((one_in, of));
        state.images.clear();
    }

    /// What power cuts would have left at worst, when these calls had ended.
    #[must_use]
    pub fn take_images(&self) -> Vec<Image> {
        std::mem::take(&mut self.lock().images)
    }

    /// How many writes and syncs failed that count: see [`MachineOptions::marks_errors`].
    #[must_use]
    pub fn marked_errors(&self) -> u64 {
        self.lock().marked_errors
    }

    /// A copy of the disk as it is now, with what is pending and in flight.
    #[must_use]
    pub fn fork(&self) -> Disk {
        self.with_disk(|disk| disk.fork())
    }

    /// The image that keeps only what completed syncs promise.
    #[must_use]
    pub fn pessimal(&self) -> Disk {
        self.with_disk(|disk| disk.pessimal())
    }

    /// Looks at the disk, or changes it behind the back of the process.
    pub fn with_disk<T>(&self, look: impl FnOnce(&mut Disk) -> T) -> T {
        let state = &mut *self.lock();
        state.settle();
        look(&mut state.disk)
    }

    /// Adds an event of the caller to the trace.
    pub fn note(&self, kind: Kind, words: &[u64]) {
        self.lock().trace.event(kind, words);
    }

    /// The number that the run so far follows to.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.lock().trace.hash()
    }

    /// Adds the verdict and returns the final hash.
    pub fn finish_trace(&self, verdict: &[u64]) -> u64 {
        let state = &mut *self.lock();
        state.trace.event(Kind::Verdict, verdict);
        state.trace.hash()
    }

    /// The last calls as text, oldest first.
    #[must_use]
    pub fn last_calls(&self) -> Vec<String> {
        self.lock().trace.last()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

struct Crashed {
    state: Arc<Mutex<State>>,
}

impl Future for Crashed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.halted {
            return Poll::Ready(());
        }
        if !state.waiters.iter().any(|waiter| waiter.will_wake(context.waker())) {
            state.waiters.push(context.waker().clone());
        }
        Poll::Pending
    }
}

/// When the machine halts by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Armed {
    Off,
    /// At the call so many from now.
    In(u64),
    /// When this call would complete.
    Within(OpId),
}

/// Which calls.
type Which = fn(&Disk, &Op) -> bool;

/// So many images wait to be looked at.
const MOST_IMAGES: usize = 8;

/// A call in flight.
pub(super) struct Ticket {
    op: OpId,
    number: u64,
    /// The lock that it takes: if nobody waits for the answer, nobody holds it.
    lock: Option<DirId>,
    /// What is asked again should the disk be full: whether the failure counts.
    write: Option<Box<Op>>,
    /// Whether a failure counts once it is told: a sync that takes seconds has not failed while others go on.
    fails_late: bool,
    /// The disk is to be looked at when it has ended.
    image: bool,
}

pub(super) enum Accepted {
    /// The machine has halted, or the process is gone.
    Halted,
    /// The call may take effect at once.
    Now(Ticket),
    /// It takes effect when this has passed.
    After(Ticket, Sleep),
}

pub(super) struct State {
    pub(super) disk: Disk,
    still: bool,
    life: u64,
    halted: bool,
    armed: Armed,
    waiters: Vec<Waker>,
    plan: FaultPlan,
    marks_errors: fn(&Disk, &Op) -> bool,
    marked_errors: u64,
    strikes: Vec<(Fault, u64)>,
    strikes_from: u64,
    latency_us: (u64, u64),
    latency: Prng,
    crash_point: Prng,
    random: Prng,
    io: u64,
    wall_ns: i64,
    time: OnceCell<TimeHandle>,
    trace: Trace,
    /// At one in how many calls, and at which, images are taken.
    watching: Option<(u32, Which)>,
    image_draws: Prng,
    images: Vec<Image>,
    /// Calls whose future was dropped, with the time at which they take effect.
    abandoned: Vec<(u64, Ticket)>,
}

impl State {
    fn new(disk: Disk, options: MachineOptions, prng: &Prng, still: bool) -> State {
        let (shortest, longest) = options.latency_us;
        State {
            disk,
            still,
            life: 0,
            halted: false,
            armed: Armed::Off,
            waiters: Vec::new(),
            plan: FaultPlan::new(options.rates, options.at, prng),
            marks_errors: options.marks_errors,
            marked_errors: 0,
            strikes: Vec::new(),
            strikes_from: 0,
            latency_us: (shortest.max(1), longest.max(shortest).max(1)),
            latency: prng.fork("latency"),
            crash_point: prng.fork("crash point"),
            random: prng.fork("random bytes"),
            io: 0,
            wall_ns: options.wall_start_ns,
            time: OnceCell::new(),
            trace: Trace::new(),
            watching: None,
            image_draws: prng.fork("images"),
            images: Vec::new(),
            abandoned: Vec::new(),
        }
    }

    pub(super) fn still(&self) -> bool {
        self.still
    }

    pub(super) fn alive(&self, life: u64) -> bool {
        self.life == life && !self.halted
    }

    pub(super) fn accept(&mut self, life: u64, op: Op) -> Accepted {
        if !self.alive(life) {
            return Accepted::Halted;
        }
        self.settle();
        self.io += 1;
        let number = self.io;
        let lock = if let Op::Lock { dir } = op { Some(dir) } else { None };
        if self.still {
            let op = self.disk.begin(op, Inject::Nothing);
            let ticket = Ticket { op, number, lock, write: None, fails_late: false, image: false };
            return if self.crash_point(Some(ticket.op)) { Accepted::Halted } else { Accepted::Now(ticket) };
        }
        let (op, inject) = self.strike(op);
        let slow_us = self.slow_us(&op);
        self.trace_begin(&op);
        let fails = matches!(inject, Inject::Fails { .. });
        let marked = fails && (self.marks_errors)(&self.disk, &op);
        self.marked_errors += u64::from(marked && slow_us == 0);
        let write = (!fails && self.disk.bounded() && matches!(op, Op::Write { .. } | Op::WriteSynced { .. }))
            .then(|| Box::new(op.clone()));
        let fails_late = marked && slow_us > 0;
        let image = match self.watching {
            Some((one_in, of)) => self.image_draws.chance(1, u64::from(one_in)) && of(&self.disk, &op),
            None => false,
        };
        let ticket = Ticket { op: self.disk.begin(op, inject), number, lock, write, fails_late, image };
        if self.crash_point(Some(ticket.op)) {
            return Accepted::Halted;
        }
        let (shortest, longest) = self.latency_us;
        let delay = if shortest == longest { shortest } else { shortest + self.latency.below(longest - shortest + 1) };
        // An engine microsecond is a madsim millisecond.
        let delay = Duration::from_millis(delay + slow_us);
        Accepted::After(ticket, self.time().map_or_else(|| madsim::time::sleep(delay), |time| time.sleep(delay)))
    }

    /// The result of a call whose time has come; `None` if the machine has halted.
    pub(super) fn finish(&mut self, life: u64, ticket: Ticket, buf: &mut [u8]) -> Option<io::Result<Done>> {
        if !self.alive(life) {
            return None;
        }
        if !self.abandoned.is_empty() {
            self.settle();
        }
        if self.armed == Armed::Within(ticket.op) {
            self.halt();
        }
        if self.halted {
            return None;
        }
        let result = self.disk.complete(ticket.op, buf);
        // Nothing was injected: the disk is really full.
        let full = result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull);
        let marked = |write: &Op| (self.marks_errors)(&self.disk, write);
        self.marked_errors += u64::from(ticket.fails_late || full && ticket.write.as_deref().is_some_and(marked));
        if full && self.plan.rates().one_in(Fault::Enospc) == 0 {
            self.struck(Fault::Enospc);
        }
        if ticket.image && self.images.len() < MOST_IMAGES {
            self.images.push(self.disk.durable_image());
        }
        if !self.still {
            self.trace_end(&ticket, &result, buf);
        }
        Some(result)
    }

    /// Nobody waits for this call any more; it takes effect in its time all the same.
    pub(super) fn abandon(&mut self, life: u64, ticket: Ticket, sleep: &Sleep) {
        if !self.alive(life) {
            return;
        }
        // Without a runtime everything is being torn down, and nobody will look.
        if let Some(time) = TimeHandle::try_current() {
            let left = sleep.deadline().saturating_duration_since(time.now_instant());
            let due = (time.elapsed() + left).as_micros() as u64;
            let at = self.abandoned.partition_point(|(other, _)| *other <= due);
            self.abandoned.insert(at, (due, ticket));
        }
    }

    /// A yield: `None` if the machine has halted, `Some(true)` if there is nobody to yield to.
    pub(super) fn yields(&mut self, life: u64) -> Option<bool> {
        if !self.alive(life) {
            return None;
        }
        self.settle();
        self.io += 1;
        if !self.still {
            self.trace.event(Kind::Decision, &[self.io, self.now_ns()]);
        }
        if self.crash_point(None) { None } else { Some(self.still) }
    }

    pub(super) fn wall_ns(&self) -> i64 {
        self.wall_ns.saturating_add_unsigned(self.now_ns())
    }

    pub(super) fn fill_random(&mut self, buf: &mut [u8]) {
        self.random.fill(buf);
    }

    fn halt(&mut self) {
        self.halted = true;
        for waiter in self.waiters.drain(..) {
            waiter.wake();
        }
    }

    fn next_life(&mut self, words: &[u64]) {
        self.trace.event(Kind::Crash, words);
        self.life += 1;
        self.halted = false;
        self.armed = Armed::Off;
        self.abandoned.clear();
        self.waiters.clear();
    }

    /// Whether the machine halts at this call.
    fn crash_point(&mut self, op: Option<OpId>) -> bool {
        match self.armed {
            Armed::In(1) => match op {
                Some(op) if self.crash_point.chance(1, 2) => self.armed = Armed::Within(op),
                _ => {
                    self.armed = Armed::Off;
                    self.halt();
                }
            },
            Armed::In(left) => self.armed = Armed::In(left - 1),
            Armed::Off | Armed::Within(_) => {}
        }
        self.halted
    }

    /// Lets abandoned calls take effect whose time has come. Nobody can look at the machine in between, so this is the
    /// same as doing it on time.
    fn settle(&mut self) {
        if self.abandoned.is_empty() || self.halted {
            return;
        }
        let now = self.now_ns();
        while self.abandoned.first().is_some_and(|(due, _)| *due <= now) {
            let (_, ticket) = self.abandoned.remove(0);
            if self.armed == Armed::Within(ticket.op) {
                self.armed = Armed::Off;
                self.halt();
                return;
            }
            let result = self.disk.complete(ticket.op, &mut []);
            self.trace_end(&ticket, &result, &[]);
            match (result, ticket.lock) {
                (Ok(Done::File(file)), _) => self.disk.close(file),
                (Ok(_), Some(dir)) => self.disk.unlock(dir),
                _ => {}
            }
        }
    }

    /// Engine nanoseconds of virtual time: a madsim microsecond each.
    pub(super) fn now_ns(&self) -> u64 {
        if self.still {
            return 0;
        }
        self.time().map_or(0, |time| time.elapsed().as_micros() as u64)
    }

    /// The clock of the runtime that the machine runs in; asked for once.
    fn time(&self) -> Option<&TimeHandle> {
        match self.time.get() {
            Some(time) => Some(time),
            None => TimeHandle::try_current().map(|time| self.time.get_or_init(|| time)),
        }
    }

    /// Draws the faults of a call. All that apply are asked, so that no fault moves the draws of another; one strikes.
    fn strike(&mut self, mut op: Op) -> (Op, Inject) {
        if self.plan.calm() {
            return (op, Inject::Nothing);
        }
        let io = self.io;
        if self.plan.strikes(Fault::WallJump, io) {
            let stream = self.plan.stream(Fault::WallJump);
            let jump = 1_000_000_000 * (1 + stream.below(3600)) as i64;
            let jump = if stream.chance(1, 2) { jump } else { -jump };
            self.wall_ns = self.wall_ns.saturating_add(jump);
            self.struck(Fault::WallJump);
        }
        if let Op::Read { file, .. } = op
            && self.disk.evictable(file)
            && self.plan.strikes(Fault::Evict, io)
            && self.disk.evict(file)
        {
            self.struck(Fault::Evict);
        }
        let mut hit = None;
        for &fault in self.applicable(&op) {
            if self.plan.strikes(fault, io) {
                hit = hit.or(Some(fault));
            }
        }
        let Some(fault) = hit else { return (op, Inject::Nothing) };
        self.struck(fault);
        let seed = self.plan.stream(fault).next_u64();
        // A short call makes some progress, but not all of it.
        let short = |length: u64| 1 + Prng::new(seed).below(length - 1);
        let inject = match fault {
            Fault::Eintr => Inject::Interrupted,
            Fault::LyingSync => Inject::Lies,
            Fault::Enospc => Inject::Fails { full: true, seed },
            Fault::ShortRead | Fault::ShortWrite => {
                match &mut op {
                    Op::Read { length, .. } => *length = short(*length),
                    Op::Write { data, .. } => data.truncate(short(data.len() as u64) as usize),
                    _ => {}
                }
                Inject::Nothing
            }
            _ => Inject::Fails { full: false, seed },
        };
        (op, inject)
    }

    /// How much longer than others a sync takes. It may fail all the same.
    fn slow_us(&mut self, op: &Op) -> u64 {
        let syncs = matches!(op, Op::SyncData { .. } | Op::SyncAll { .. });
        if !syncs || !self.plan.strikes(Fault::SlowSync, self.io) {
            return 0;
        }
        self.struck(Fault::SlowSync);
        1 + self.plan.stream(Fault::SlowSync).below(Fault::SLOWEST_SYNC_US)
    }

    /// The faults that can strike this call, the most telling one first.
    fn applicable(&self, op: &Op) -> &'static [Fault] {
        match op {
            Op::Read { length, .. } if *length > 1 => &[Fault::EioRead, Fault::Eintr, Fault::ShortRead],
            Op::Read { .. } => &[Fault::EioRead, Fault::Eintr],
            Op::WriteSynced { .. } => &[Fault::EioSync, Fault::Enospc, Fault::Eintr],
            Op::Write { data, .. } if data.len() > 1 => {
                &[Fault::EioWrite, Fault::Enospc, Fault::Eintr, Fault::ShortWrite]
            }
            Op::Write { .. } => &[Fault::EioWrite, Fault::Enospc, Fault::Eintr],
            Op::SyncData { .. } | Op::SyncAll { .. } | Op::SyncPages { .. } => {
                &[Fault::EioSync, Fault::Enospc, Fault::LyingSync, Fault::Eintr]
            }
            Op::SyncDir { .. } => &[Fault::EioDirSync, Fault::LyingSync, Fault::Eintr],
            Op::Open { mode: OpenMode::CreateNew, .. } | Op::SetLen { .. } => &[Fault::Enospc, Fault::Eintr],
            Op::Dir { .. } | Op::Lock { .. } | Op::Open { .. } | Op::Rename { .. } => &[Fault::Eintr],
            Op::Remove { .. } | Op::List { .. } | Op::Len { .. } => &[Fault::Eintr],
        }
    }

    fn struck(&mut self, fault: Fault) {
        self.plan.struck(fault);
        self.strikes.push((fault, self.io - self.strikes_from));
        self.trace.event(Kind::Fault, &[self.io, fault as u64]);
    }

    fn trace_begin(&mut self, op: &Op) {
        let at_ns = self.now_ns();
        let named = |disk: &Disk, file: &FileId| disk.name_of(*file);
        let (name, offset, length) = match op {
            Op::Dir { .. } | Op::Lock { .. } | Op::List { .. } | Op::SyncDir { .. } => (None, None, None),
            Op::Open { name, .. } | Op::Remove { name, .. } | Op::Rename { to: name, .. } => {
                (Some(name.clone()), None, None)
            }
            Op::Len { file } | Op::SyncData { file } | Op::SyncAll { file } | Op::SyncPages { file } => {
                (named(&self.disk, file), None, None)
            }
            Op::SetLen { file, len } => (named(&self.disk, file), None, Some(*len)),
            Op::Read { file, offset, length } => (named(&self.disk, file), Some(*offset), Some(*length)),
            Op::Write { file, offset, data } | Op::WriteSynced { file, offset, data } => {
                if prepared(data) {
                    self.trace.zeros(data.len());
                } else {
                    self.trace.bytes(data);
                }
                (named(&self.disk, file), Some(*offset), Some(data.len() as u64))
            }
        };
        self.trace.literal(op.name());
        match op {
            // These came with the call, and nobody has seen them before.
            Op::Open { name, .. } | Op::Remove { name, .. } => self.trace.bytes(name.as_encoded_bytes()),
            Op::Rename { from, to, .. } => {
                self.trace.bytes(to.as_encoded_bytes());
                self.trace.bytes(from.as_encoded_bytes());
            }
            _ => {
                if let Some(name) = &name {
                    self.trace.name(name);
                }
            }
        }
        self.trace.event(Kind::Begin, &[self.io, at_ns, offset.unwrap_or(u64::MAX), length.unwrap_or(u64::MAX)]);
        let (number, what, outcome) = (self.io, op.name(), Outcome::InFlight);
        self.trace.began(Call { number, at_ns, what, name, offset, length, outcome });
    }

    fn trace_end(&mut self, ticket: &Ticket, result: &io::Result<Done>, buf: &[u8]) {
        let (word, outcome) = match result {
            Ok(done) => {
                let count = match done {
                    Done::Unit | Done::Dir(_) | Done::File(_) => 0,
                    Done::Count(count) => *count,
                    Done::Entries(entries) => entries.len() as u64,
                };
                (count, Outcome::Ok(count))
            }
            Err(error) => (1 << 63 | error.kind() as u64, Outcome::Failed(error.kind())),
        };
        if let Ok(Done::Count(count)) = result {
            self.trace.bytes(&buf[..buf.len().min(*count as usize)]);
        }
        self.trace.event(Kind::End, &[ticket.number, self.now_ns(), word]);
        self.trace.ended(ticket.number, outcome);
    }
}

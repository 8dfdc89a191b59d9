//! The engine's machine in the simulator: the simulated disk, virtual time, and faults on every call.
//!
//! A call is accepted by the disk at its first poll and takes effect after a drawn latency, so clients, background work
//! and crashes interleave at every call. Dropping a future that was polled doesn't take its call back. A machine that
//! was halted answers nothing any more, and handles of a process that is dead stay silent for ever.
//!
//! A *still* machine ([`SimEnv::still`]) has no latency, no faults and needs no runtime: oracles recover copies of the
//! disk on it.

use std::{
    ffi::OsString,
    future::Future,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use engine::env::{Dir, Entry, Env, File, OpenMode};
use madsim::time::Instant;

use crate::{
    disk::{DirId, Disk, DiskOptions, Done, FileId, Inject, Keep, Name, Op, OpId},
    fault::{Fault, FaultPlan, FaultRates, Fired},
    prng::Prng,
    trace::{Call, Kind, Outcome, Trace},
};

/// Calls whose numbers [`Machine::arm_crash`] never reaches.
const NEVER: u64 = u64::MAX;

/// What a machine is made of.
#[derive(Clone, Copy, Debug)]
pub struct MachineOptions {
    /// 512 or 4096.
    pub sector_bytes: u32,
    /// Bytes of file content that fit.
    pub capacity: u64,
    /// Least and greatest latency of a call, in engine microseconds.
    pub latency_us: (u64, u64),
    /// How often each fault strikes.
    pub rates: FaultRates,
    /// The wall clock when the machine starts, in nanoseconds since the Unix epoch.
    pub wall_start_ns: i64,
}

impl Default for MachineOptions {
    fn default() -> MachineOptions {
        MachineOptions {
            sector_bytes: 512,
            capacity: 1 << 40,
            latency_us: (1, 50),
            rates: FaultRates::calm(),
            wall_start_ns: 1_700_000_000_000_000_000,
        }
    }
}

/// The machine as the runner sees it, from outside.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    disk: Disk,
    faults: FaultPlan,
    trace: Trace,
    /// Which process is alive; handles of earlier ones are inert.
    process: u64,
    halted: bool,
    /// Virtual time passes: calls have latencies.
    timed: Option<Instant>,
    latency_us: (u64, u64),
    latency: Prng,
    random: Prng,
    crash: Prng,
    calls: u64,
    /// Number of the call that explicit faults count from.
    faults_from: u64,
    /// The call at which the machine halts.
    armed: u64,
    /// The armed call takes effect first.
    halt_after: Option<OpId>,
    crash_waker: Option<Waker>,
    wall_ns: i64,
}

impl Inner {
    fn new(disk: Disk, faults: FaultPlan, prng: &Prng, timed: bool, options: &MachineOptions) -> Inner {
        Inner {
            disk,
            faults,
            trace: Trace::new(),
            process: 1,
            halted: false,
            timed: timed.then(Instant::now),
            latency_us: options.latency_us,
            latency: prng.fork("latency"),
            random: prng.fork("random bytes"),
            crash: prng.fork("crash before or after"),
            calls: 0,
            faults_from: 0,
            armed: NEVER,
            halt_after: None,
            crash_waker: None,
            wall_ns: options.wall_start_ns,
        }
    }

    /// Engine nanoseconds since the machine started; a virtual microsecond each.
    fn now_ns(&self) -> u64 {
        self.timed.map_or(0, |start| start.elapsed().as_micros() as u64)
    }

    fn halt(&mut self) {
        self.halted = true;
        if let Some(waker) = self.crash_waker.take() {
            waker.wake();
        }
    }

    /// Chooses the fault that strikes `op`, if any; short reads and writes change the call itself.
    fn strike(&mut self, op: &mut Op) -> Inject {
        let call = self.calls - self.faults_from;
        let mut fault = |fault: Fault| {
            let strikes = self.faults.strikes(fault, call);
            if strikes && fault != Fault::Evict {
                self.faults.struck(fault);
            }
            strikes
        };
        if fault(Fault::Eintr) {
            return Inject::Interrupted;
        }
        match op {
            Op::Read { file, length, .. } => {
                let file = *file;
                if fault(Fault::EioRead) {
                    return self.fails(Fault::EioRead, false);
                }
                if *length > 1 && fault(Fault::ShortRead) {
                    *length = 1 + self.faults.stream(Fault::ShortRead).below(*length - 1);
                }
                if self.faults.strikes(Fault::Evict, call) && self.disk.evict(file) {
                    self.faults.struck(Fault::Evict);
                }
            }
            Op::Write { data, .. } => {
                if fault(Fault::EioWrite) {
                    return self.fails(Fault::EioWrite, false);
                }
                if fault(Fault::Enospc) {
                    return self.fails(Fault::Enospc, true);
                }
                if data.len() > 1 && fault(Fault::ShortWrite) {
                    data.truncate(1 + self.faults.stream(Fault::ShortWrite).below(data.len() as u64 - 1) as usize);
                }
            }
            Op::Open { mode: OpenMode::CreateNew, .. } if fault(Fault::Enospc) => {
                return self.fails(Fault::Enospc, true);
            }
            Op::SyncData { .. } | Op::SyncAll { .. } | Op::SyncPages { .. } => {
                if fault(Fault::EioSync) {
                    return self.fails(Fault::EioSync, false);
                }
                if fault(Fault::LyingSync) {
                    return Inject::Lies;
                }
            }
            Op::SyncDir { .. } => {
                if fault(Fault::EioDirSync) {
                    return self.fails(Fault::EioDirSync, false);
                }
                if fault(Fault::LyingSync) {
                    return Inject::Lies;
                }
            }
            _ => {}
        }
        Inject::Nothing
    }

    fn fails(&mut self, fault: Fault, full: bool) -> Inject {
        Inject::Fails { full, seed: self.faults.stream(fault).next_u64() }
    }
}

impl Machine {
    /// A machine with an empty disk, inside a madsim runtime.
    #[must_use]
    pub fn new(options: MachineOptions, prng: &Prng) -> Machine {
        let disk = Disk::new(DiskOptions { sector_bytes: options.sector_bytes, capacity: options.capacity });
        let faults = FaultPlan::new(options.rates, Vec::new(), &prng.fork("faults"));
        Machine { inner: Arc::new(Mutex::new(Inner::new(disk, faults, prng, true, &options))) }
    }

    /// The machine for the process that is alive.
    #[must_use]
    pub fn env(&self) -> SimEnv {
        SimEnv { process: self.lock().process, inner: self.inner.clone() }
    }

    /// Looks at the disk, or changes it behind the engine's back.
    pub fn with_disk<T>(&self, look: impl FnOnce(&mut Disk) -> T) -> T {
        look(&mut self.lock().disk)
    }

    /// A copy of the disk.
    #[must_use]
    pub fn fork(&self) -> Disk {
        self.lock().disk.fork()
    }

    /// How many calls were begun.
    #[must_use]
    pub fn io_count(&self) -> u64 {
        self.lock().calls
    }

    /// How often each fault took effect.
    #[must_use]
    pub fn fired(&self) -> Fired {
        self.lock().faults.fired()
    }

    /// Faults at the given numbers of calls, counted from the next one.
    pub fn set_faults_at(&self, at: Vec<(Fault, u64)>) {
        let mut inner = self.lock();
        inner.faults_from = inner.calls;
        inner.faults.set_at(at);
    }

    /// No fault strikes from now on, and the disk has space.
    pub fn behave(&self) {
        let mut inner = self.lock();
        inner.faults.set_rates(FaultRates::calm());
        inner.disk.set_capacity(u64::MAX / 2);
    }

    /// Halts the machine at the `io`-th call from now (1 is the next): while it is in flight, or right after it.
    pub fn arm_crash(&self, io: u64) {
        let mut inner = self.lock();
        inner.armed = inner.calls.saturating_add(io.max(1));
        inner.halt_after = None;
    }

    /// Takes [`Machine::arm_crash`] back.
    pub fn disarm(&self) {
        let mut inner = self.lock();
        inner.armed = NEVER;
        inner.halt_after = None;
    }

    /// Ready once the machine has halted.
    pub fn crashed(&self) -> impl Future<Output = ()> + use<> {
        let inner = self.inner.clone();
        std::future::poll_fn(move |context| {
            let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.halted {
                return Poll::Ready(());
            }
            inner.crash_waker = Some(context.waker().clone());
            Poll::Pending
        })
    }

    /// Answers nothing from now on.
    pub fn halt(&self) {
        self.lock().halt();
    }

    /// The process died; a new one may begin. Its tasks must be gone.
    pub fn kill(&self, prng: &mut Prng) {
        let mut inner = self.lock();
        inner.disk.kill(prng);
        inner.next_process(1);
    }

    /// The power was cut; the machine starts again with what the disk kept.
    pub fn power_cut(&self, keep: &Keep, prng: &mut Prng) {
        let mut inner = self.lock();
        let report = inner.disk.power_cut(keep, prng);
        inner.trace.event(Kind::Crash, &[report.kept, report.lost, report.mixed, report.names_kept, report.names_lost]);
        inner.next_process(2);
    }

    /// The last calls as text, oldest first.
    #[must_use]
    pub fn last_calls(&self) -> Vec<String> {
        self.lock().trace.last()
    }

    /// The trace hash of the run, with `words` as its last event.
    #[must_use]
    pub fn finish_trace(&self, words: &[u64]) -> u64 {
        let mut inner = self.lock();
        let now = inner.now_ns();
        inner.trace.event(Kind::Verdict, words);
        inner.trace.event(Kind::Verdict, &[now]);
        inner.trace.hash()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn next_process(&mut self, how: u64) {
        self.process += 1;
        self.halted = false;
        self.armed = NEVER;
        self.halt_after = None;
        self.trace.event(Kind::Decision, &[how, self.process]);
    }
}

/// The machine as one process sees it.
#[derive(Clone)]
pub struct SimEnv {
    inner: Arc<Mutex<Inner>>,
    process: u64,
}

impl SimEnv {
    /// A machine without time and faults on `disk`; every future is ready at its first poll.
    #[must_use]
    pub fn still(disk: Disk) -> SimEnv {
        let prng = Prng::new(0);
        let faults = FaultPlan::new(FaultRates::calm(), Vec::new(), &prng);
        let inner = Inner::new(disk, faults, &prng, false, &MachineOptions::default());
        SimEnv { inner: Arc::new(Mutex::new(inner)), process: 1 }
    }

    /// A copy of the disk as it is now.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.lock().disk.fork()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if the process is alive.
    fn alive(&self) -> Option<MutexGuard<'_, Inner>> {
        let inner = self.lock();
        (inner.process == self.process && !inner.halted).then_some(inner)
    }

    /// One call, from its acceptance to its result.
    async fn call(&self, op: Op, name: Option<&Name>, buf: &mut [u8]) -> io::Result<Done> {
        let Some((mut flight, latency)) = self.begin(op, name) else { return std::future::pending().await };
        if let Some(latency) = latency {
            madsim::time::sleep(latency).await;
        }
        let Some(result) = flight.finish(buf) else { return std::future::pending().await };
        result
    }

    /// Accepts a call. `None`: the process is dead, or died with this call in flight.
    fn begin(&self, mut op: Op, name: Option<&Name>) -> Option<(Flight, Option<Duration>)> {
        let mut guard = self.alive()?;
        let inner = &mut *guard;
        inner.calls += 1;
        let inject = inner.strike(&mut op);
        let (number, what) = (inner.calls, op.name());
        let (offset, length) = match &op {
            Op::Read { offset, length, .. } => (Some(*offset), Some(*length)),
            Op::Write { offset, data, .. } => {
                if inner.timed.is_some() {
                    inner.trace.bytes(data);
                }
                (Some(*offset), Some(data.len() as u64))
            }
            Op::SetLen { len, .. } => (Some(*len), None),
            _ => (None, None),
        };
        let mut latency = None;
        if inner.timed.is_some() {
            let (least, greatest) = inner.latency_us;
            let drawn = least + inner.latency.below(greatest.saturating_sub(least) + 1);
            latency = Some(Duration::from_millis(drawn.max(1)));
            let at_ns = inner.now_ns();
            let words = [number, at_ns, what.len() as u64, offset.unwrap_or(0), length.unwrap_or(0), drawn];
            inner.trace.event(Kind::Begin, &words);
            if inject != Inject::Nothing {
                inner.trace.event(Kind::Fault, &[number]);
            }
            let outcome = Outcome::InFlight;
            inner.trace.began(Call { number, at_ns, what, name: name.cloned(), offset, length, outcome });
        }
        let id = inner.disk.begin(op, inject);
        let mut died = false;
        if number >= inner.armed {
            inner.armed = NEVER;
            if inner.crash.chance(1, 2) {
                inner.halt();
                died = true;
            } else {
                inner.halt_after = Some(id);
            }
        }
        drop(guard);
        let flight = Flight { env: self.clone(), id: Some(id), number, latency };
        (!died).then_some((flight, latency))
    }
}

/// A call that the disk has accepted.
struct Flight {
    env: SimEnv,
    id: Option<OpId>,
    number: u64,
    latency: Option<Duration>,
}

impl Flight {
    /// Lets the call take effect; `None` if the process has died meanwhile.
    fn finish(&mut self, buf: &mut [u8]) -> Option<io::Result<Done>> {
        let mut guard = self.env.alive()?;
        let inner = &mut *guard;
        let id = self.id.take()?;
        let result = inner.disk.complete(id, buf);
        if inner.timed.is_some() {
            let outcome = match &result {
                Ok(Done::Count(count)) => Outcome::Ok(*count),
                Ok(Done::Entries(entries)) => Outcome::Ok(entries.len() as u64),
                Ok(Done::Unit | Done::Dir(_) | Done::File(_)) => Outcome::Ok(0),
                Err(error) => Outcome::Failed(error.kind()),
            };
            let word = match outcome {
                Outcome::Ok(count) => count,
                Outcome::Failed(kind) => 1 << 63 | kind as u64,
                Outcome::InFlight => u64::MAX,
            };
            let now = inner.now_ns();
            inner.trace.event(Kind::End, &[self.number, now, word]);
            if let Ok(Done::Count(count)) = &result {
                inner.trace.bytes(&buf[..(*count as usize).min(buf.len())]);
            }
            inner.trace.ended(self.number, outcome);
        }
        if inner.halt_after == Some(id) {
            inner.halt();
            return None;
        }
        Some(result)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // The caller lost interest, the disk didn't: the call takes effect when its time has come.
        if self.id.is_none() || self.env.alive().is_none() {
            return;
        }
        let mut flight = Flight { env: self.env.clone(), id: self.id.take(), number: self.number, latency: None };
        match self.latency {
            Some(latency) => drop(madsim::task::spawn(async move {
                madsim::time::sleep(latency).await;
                flight.land();
            })),
            None => flight.land(),
        }
    }
}

impl Flight {
    /// Takes effect with nobody to tell; a file that it opened is closed again.
    fn land(&mut self) {
        if let Some(Ok(Done::File(file))) = self.finish(&mut [])
            && let Some(mut inner) = self.env.alive()
        {
            inner.disk.close(file);
        }
    }
}

fn unit(done: Done) {
    drop(done);
}

fn wrong<T>() -> io::Result<T> {
    Err(io::Error::other("the simulated disk answered another question"))
}

impl Env for SimEnv {
    type Dir = SimDir;

    async fn dir(&self, path: &Path, create: bool) -> io::Result<SimDir> {
        match self.call(Op::Dir { path: path.into(), create }, None, &mut []).await? {
            Done::Dir(id) => Ok(SimDir { env: self.clone(), id }),
            _ => wrong(),
        }
    }

    fn wall_ns(&self) -> i64 {
        let mut inner = self.lock();
        let call = inner.calls - inner.faults_from;
        if inner.faults.strikes(Fault::WallJump, call) {
            inner.faults.struck(Fault::WallJump);
            // Up to a day, forward or back.
            let jump = inner.faults.stream(Fault::WallJump).below(2 * 86_400_000_000_000) as i64 - 86_400_000_000_000;
            inner.wall_ns += jump;
        }
        inner.wall_ns + inner.now_ns() as i64
    }

    fn fill_random(&self, buf: &mut [u8]) {
        self.lock().random.fill(buf);
    }

    async fn yield_now(&self) {
        let timed = self.lock().timed.is_some();
        if timed {
            madsim::task::yield_now().await;
        }
    }
}

/// A directory of the simulated disk.
#[derive(Clone)]
pub struct SimDir {
    env: SimEnv,
    id: DirId,
}

/// The lock on a directory.
pub struct SimLock {
    env: SimEnv,
    id: DirId,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Some(mut inner) = self.env.alive() {
            inner.disk.unlock(self.id);
        }
    }
}

impl Dir for SimDir {
    type File = SimFile;
    type Lock = SimLock;

    async fn lock(&self) -> io::Result<SimLock> {
        self.env.call(Op::Lock { dir: self.id }, None, &mut []).await?;
        Ok(SimLock { env: self.env.clone(), id: self.id })
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<SimFile> {
        let name: Name = OsString::from(name).into();
        match self.env.call(Op::Open { dir: self.id, name: name.clone(), mode }, Some(&name), &mut []).await? {
            Done::File(id) => Ok(SimFile { env: self.env.clone(), id, name }),
            _ => wrong(),
        }
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to): (Name, Name) = (OsString::from(from).into(), OsString::from(to).into());
        let op = Op::Rename { dir: self.id, from, to: to.clone() };
        self.env.call(op, Some(&to), &mut []).await.map(unit)
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let name: Name = OsString::from(name).into();
        self.env.call(Op::Remove { dir: self.id, name: name.clone() }, Some(&name), &mut []).await.map(unit)
    }

    async fn list(&self) -> io::Result<Vec<Entry>> {
        match self.env.call(Op::List { dir: self.id }, None, &mut []).await? {
            Done::Entries(entries) => Ok(entries),
            _ => wrong(),
        }
    }

    async fn sync(&self) -> io::Result<()> {
        self.env.call(Op::SyncDir { dir: self.id }, None, &mut []).await.map(unit)
    }
}

/// An open file of the simulated disk.
pub struct SimFile {
    env: SimEnv,
    id: FileId,
    name: Name,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if let Some(mut inner) = self.env.alive() {
            inner.disk.close(self.id);
        }
    }
}

impl SimFile {
    async fn count(&self, op: Op, buf: &mut [u8]) -> io::Result<u64> {
        match self.env.call(op, Some(&self.name), buf).await? {
            Done::Count(count) => Ok(count),
            _ => wrong(),
        }
    }

    async fn unit(&self, op: Op) -> io::Result<()> {
        self.env.call(op, Some(&self.name), &mut []).await.map(unit)
    }
}

impl File for SimFile {
    async fn len(&self) -> io::Result<u64> {
        self.count(Op::Len { file: self.id }, &mut []).await
    }

    async fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let op = Op::Read { file: self.id, offset, length: buf.len() as u64 };
        self.count(op, buf).await.map(|count| count as usize)
    }

    async fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let op = Op::Write { file: self.id, offset, data: Bytes::copy_from_slice(buf) };
        self.count(op, &mut []).await.map(|count| count as usize)
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.unit(Op::SyncData { file: self.id }).await
    }

    async fn sync_all(&self) -> io::Result<()> {
        self.unit(Op::SyncAll { file: self.id }).await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.unit(Op::SetLen { file: self.id, len }).await
    }

    async fn sync_pages(&self) -> io::Result<()> {
        self.unit(Op::SyncPages { file: self.id }).await
    }
}

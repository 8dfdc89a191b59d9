//! The faults that a machine may show while it runs, each with the real event behind it and what must survive it.
//!
//! Crashes are not here: they are chosen by the runner, and what they leave is the disk's persistence model.
//!
//! A fault that is off draws nothing, and each one that is on draws from a stream of its own: switching one on leaves
//! the draws of all others as they were. Whether a fault fired is counted, because a fault that never fired tested
//! nothing.

use crate::prng::Prng;

/// A fault of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A call is interrupted by a signal before it did anything. The caller retries; nothing is lost or repeated.
    Eintr,
    /// A read returns fewer bytes than asked for, away from the end. It must not be taken for the end of the log.
    ShortRead,
    /// A write takes fewer bytes than given. The rest must follow.
    ShortWrite,
    /// A read fails with an I/O error, once. A retry or an error, never "end of log".
    EioRead,
    /// A write fails with an I/O error after any prefix of it. The range is unknown from then on.
    EioWrite,
    /// A file sync fails; its pages are dropped as clean and each sector of them may or may not have reached the disk. A
    /// later sync reports success without writing them: nothing of them may be acknowledged, ever.
    EioSync,
    /// A directory sync fails; each name that it covered may or may not have reached the disk. As for files.
    EioDirSync,
    /// The disk is full: a write, a create, an extension or a sync (delayed allocation) fails, now and not for ever.
    Enospc,
    /// A sync returns success without a flush, as drives with a volatile cache and no working flush do. Nothing can
    /// promise durability then; a loss must be detected, never be silent.
    LyingSync,
    /// The page cache drops clean pages, so that a read goes to the disk. Shows what a failed sync left there.
    Evict,
    /// The wall clock jumps, forward or backward. Nothing may depend on it.
    WallJump,
    /// A file sync takes up to five seconds, as on a busy or a failing disk. Others must go on meanwhile.
    SlowSync,
}

impl Fault {
    /// How many there are.
    pub const COUNT: usize = 12;

    /// Engine microseconds that a slow sync takes at most.
    pub const SLOWEST_SYNC_US: u64 = 5_000_000;

    /// All of them, in the order of reports.
    pub const ALL: [Fault; Fault::COUNT] = [
        Fault::Eintr,
        Fault::ShortRead,
        Fault::ShortWrite,
        Fault::EioRead,
        Fault::EioWrite,
        Fault::EioSync,
        Fault::EioDirSync,
        Fault::Enospc,
        Fault::LyingSync,
        Fault::Evict,
        Fault::WallJump,
        Fault::SlowSync,
    ];

    /// The name in scenario files, flags and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Eintr => "eintr",
            Fault::ShortRead => "short-read",
            Fault::ShortWrite => "short-write",
            Fault::EioRead => "eio-read",
            Fault::EioWrite => "eio-write",
            Fault::EioSync => "eio-sync",
            Fault::EioDirSync => "eio-dir-sync",
            Fault::Enospc => "enospc",
            Fault::LyingSync => "lying-sync",
            Fault::Evict => "evict",
            Fault::WallJump => "wall-jump",
            Fault::SlowSync => "slow-sync",
        }
    }

    /// The fault of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Fault> {
        Fault::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// One line for a person.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Fault::Eintr => "a call is interrupted before it did anything",
            Fault::ShortRead => "a read returns fewer bytes than asked for",
            Fault::ShortWrite => "a write takes fewer bytes than given",
            Fault::EioRead => "a read fails once",
            Fault::EioWrite => "a write fails after some prefix of it",
            Fault::EioSync => "a file sync fails and drops what it should have written",
            Fault::EioDirSync => "a directory sync fails and drops names",
            Fault::Enospc => "the disk is full for one call",
            Fault::LyingSync => "a sync returns success and makes nothing durable",
            Fault::Evict => "the page cache forgets clean pages",
            Fault::WallJump => "the wall clock jumps, either way",
            Fault::SlowSync => "a file sync takes up to five seconds",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// How often each fault strikes: one in N calls that it applies to; 0 is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates([u32; Fault::COUNT]);

impl FaultRates {
    /// All faults off.
    #[must_use]
    pub const fn calm() -> FaultRates {
        FaultRates([0; Fault::COUNT])
    }

    /// The same rates with `fault` at one in `calls` (0 is off).
    #[must_use]
    pub const fn with(mut self, fault: Fault, calls: u32) -> FaultRates {
        self.0[fault.index()] = calls;
        self
    }

    /// One in how many calls; 0 is off.
    #[must_use]
    pub const fn one_in(&self, fault: Fault) -> u32 {
        self.0[fault.index()]
    }

    /// The faults that are on, with their rates.
    pub fn on(&self) -> impl Iterator<Item = (Fault, u32)> + '_ {
        Fault::ALL.into_iter().map(|fault| (fault, self.one_in(fault))).filter(|(_, calls)| *calls != 0)
    }
}

/// How often each fault took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fired([u64; Fault::COUNT]);

impl Fired {
    /// How often `fault` took effect.
    #[must_use]
    pub const fn count(&self, fault: Fault) -> u64 {
        self.0[fault.index()]
    }

    /// Adds the counts of another machine or run.
    pub fn add(&mut self, other: &Fired) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// All faults with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> + '_ {
        Fault::ALL.into_iter().map(|fault| (fault, self.count(fault)))
    }
}

/// The fault plan of one machine: rates, explicit faults, and a stream for each.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    rates: FaultRates,
    /// Explicit faults that are still to come: each strikes the first call that it applies to from that number on.
    at: Vec<(Fault, u64)>,
    streams: [Prng; Fault::COUNT],
    fired: Fired,
}

impl FaultPlan {
    /// A plan that draws from `prng`, one labelled stream per fault.
    #[must_use]
    pub fn new(rates: FaultRates, at: Vec<(Fault, u64)>, prng: &Prng) -> FaultPlan {
        FaultPlan { rates, at, streams: Fault::ALL.map(|fault| prng.fork(fault.name())), fired: Fired::default() }
    }

    /// Whether `fault` strikes the call `io`, which must be one that it applies to. Counts nothing yet.
    pub fn strikes(&mut self, fault: Fault, io: u64) -> bool {
        if !self.at.is_empty()
            && let Some(index) = self.at.iter().position(|&(which, from)| which == fault && io >= from)
        {
            self.at.swap_remove(index);
            return true;
        }
        match self.rates.one_in(fault) {
            0 => false,
            calls => self.streams[fault.index()].chance(1, u64::from(calls)),
        }
    }

    /// Whether no fault can strike now.
    #[must_use]
    pub fn calm(&self) -> bool {
        self.at.is_empty() && self.rates == FaultRates::calm()
    }

    /// The stream that decides how `fault` strikes.
    pub fn stream(&mut self, fault: Fault) -> &mut Prng {
        &mut self.streams[fault.index()]
    }

    /// Counts that `fault` took effect.
    pub fn struck(&mut self, fault: Fault) {
        self.fired.0[fault.index()] += 1;
    }

    /// How often each fault took effect.
    #[must_use]
    pub fn fired(&self) -> Fired {
        self.fired
    }

    /// Replaces the explicit faults that are still to come.
    pub fn set_at(&mut self, at: Vec<(Fault, u64)>) {
        self.at = at;
    }

    /// The rates in force.
    #[must_use]
    pub fn rates(&self) -> FaultRates {
        self.rates
    }

    /// Changes the rates from now on, and forgets explicit faults if `rates` is calm.
    pub fn set_rates(&mut self, rates: FaultRates) {
        self.rates = rates;
        if rates == FaultRates::calm() {
            self.at.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault.index(), index);
            assert_eq!(Fault::from_name(fault.name()), Some(fault));
            assert!(!fault.about().is_empty());
        }
        assert_eq!(Fault::from_name("flood"), None);
    }

    #[test]
    fn switching_one_fault_on_leaves_the_draws_of_the_others() {
        let pattern = |rates: FaultRates| {
            let mut plan = FaultPlan::new(rates, Vec::new(), &Prng::new(5));
            (0..500)
                .map(|io| {
                    plan.strikes(Fault::Eintr, io);
                    plan.strikes(Fault::EioSync, io)
                })
                .collect::<Vec<_>>()
        };
        let alone = pattern(FaultRates::calm().with(Fault::EioSync, 10));
        assert!(alone.contains(&true) && alone.contains(&false));
        assert_eq!(alone, pattern(FaultRates::calm().with(Fault::EioSync, 10).with(Fault::Eintr, 3)));
    }

    #[test]
    fn a_fault_that_is_off_never_strikes() {
        let mut plan = FaultPlan::new(FaultRates::calm(), Vec::new(), &Prng::new(5));
        assert!(Fault::ALL.into_iter().all(|fault| (0..100).all(|io| !plan.strikes(fault, io))));
    }

    #[test]
    fn an_explicit_fault_strikes_once_at_the_first_call_it_applies_to() {
        let mut plan = FaultPlan::new(FaultRates::calm(), vec![(Fault::EioSync, 10)], &Prng::new(5));
        let hits: Vec<u64> = (0..30).step_by(4).filter(|&io| plan.strikes(Fault::EioSync, io)).collect();
        assert_eq!(hits, [12]);
    }
}

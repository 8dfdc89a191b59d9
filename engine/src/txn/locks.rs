//! Row locks, and locks of whole tables: one owner each, and nobody waits for ever for who waits for him.
//!
//! Wound-wait: a transaction waits only for an older one, or for one that is committing and so asks for no more locks. Whom else it meets
//! it dooms: that one's locks are given away at once, since its writes are private, and it learns at its next call. So waits form no
//! cycle and the oldest is never doomed. Released locks go to the oldest waiter. Which shard a row is in decides nothing.
//!
//! A waiter that is dropped leaves no trace; a lock that was handed to it goes on to the next. A deadline is looked at by the waiter
//! when it is woken: [`Locks::wake_overdue`] wakes it then, since no timer of the caller's executor is known here.
//!
//! Order of mutexes: shard > one transaction's. The deadlines' is taken alone. Nobody is woken under any.

use std::{
    collections::BTreeMap,
    future::Future,
    hash::{BuildHasher, Hasher},
    mem,
    pin::Pin,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use foldhash::fast::FixedState;

use crate::{
    plant::{Plants, planted},
    sync::{Mutex, MutexGuard},
};

use super::{ids::TableId, undo::Key};

use owner::{Place, Row, State, Wait, What};
use shard::{Later, Shard};

pub(super) use owner::{Age, Owner, Refusal};

mod shard;

mod owner;

#[cfg(all(test, feature = "loom"))]
mod model;

#[cfg(test)]
mod tests;

const SHARDS: usize = 64;

/// The locks of a store.
#[derive(Debug)]
pub(super) struct Locks {
    shards: Box<[Mutex<Shard>]>,
    /// Who waits until when.
    deadlines: Mutex<BTreeMap<(Duration, Age), Arc<Owner>>>,
    plants: Plants,
    /// How often somebody had to wait.
    waits: AtomicU64,
}

impl Default for Locks {
    fn default() -> Locks {
        Locks::new(SHARDS)
    }
}

impl Locks {
    pub(super) fn planted(plants: Plants) -> Locks {
        Locks { plants, ..Locks::default() }
    }
}

impl Locks {
    fn new(shards: usize) -> Locks {
        let shards = (0..shards).map(|_| Mutex::default()).collect();
        Locks { shards, deadlines: Mutex::default(), plants: Plants::default(), waits: AtomicU64::new(0) }
    }

    /// Waits for a row until `deadline` on the clock `now`, and holds it until [`Locks::end`]. A row that is held already is given.
    pub(super) fn row<'a, N: Fn() -> Duration>(
        &'a self,
        owner: &'a Arc<Owner>,
        (table, key): (TableId, &[u8]),
        deadline: Duration,
        now: N,
    ) -> Acquire<'a, N> {
        let row = (table, Key::from_slice(key));
        let place = Place { shard: self.shard_of(&row), what: What::Row(row) };
        Acquire { locks: self, owner, place, deadline, now, queued: false }
    }

    /// Waits for a whole table, shard by shard. Parts that it got before it is dropped or refused stay held until [`Locks::end`].
    pub(super) async fn table(
        &self,
        owner: &Arc<Owner>,
        table: TableId,
        deadline: Duration,
        now: impl Fn() -> Duration,
    ) -> Result<(), Refusal> {
        for shard in 0..self.shards.len() {
            let place = Place { shard, what: What::Part(table) };
            Acquire { locks: self, owner, place, deadline, now: &now, queued: false }.await?;
        }
        Ok(())
    }

    /// Does `act` while nobody can take the row; `None`, and nothing is done, if somebody owns it.
    pub(super) fn while_free<T>(&self, table: TableId, key: &[u8], act: impl FnOnce() -> T) -> Option<T> {
        let row = (table, Key::from_slice(key));
        let shard = self.shard(self.shard_of(&row));
        if !shard.is_free(&row) {
            return None;
        }
        Some(act())
    }

    /// The end of a transaction, however it came: gives all its locks to who waits for them.
    pub(super) fn end(&self, owner: &Owner) {
        owner.lock().state = State::Ended;
        self.let_go(owner);
    }

    /// Wakes the waiters whose deadline has passed; the next deadline.
    pub(super) fn wake_overdue(&self, now: Duration) -> Option<Duration> {
        let (mut overdue, mut next) = (Vec::new(), None);
        for ((deadline, _), owner) in self.deadlines().iter() {
            if *deadline > now {
                next = Some(*deadline);
                break;
            }
            overdue.push(owner.clone());
        }
        for owner in overdue {
            let waker = match &owner.lock().wait {
                Wait::Queued(_, waker) => Some(waker.clone()),
                Wait::No | Wait::Granted => None,
            };
            waker.into_iter().for_each(Waker::wake);
        }
        next
    }

    /// How often somebody had to wait.
    pub(super) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Whether nobody has or wants any lock.
    #[cfg(test)]
    fn is_unused(&self) -> bool {
        (0..self.shards.len()).all(|shard| self.shard(shard).is_unused()) && self.deadlines().is_empty()
    }

    /// Takes a lock that nothing stands against (true), else joins its queue.
    fn arrive(&self, owner: &Arc<Owner>, place: &Place, waker: &Waker) -> Result<bool, Refusal> {
        let mut later = Later::default();
        let wounds = !planted!(self.plants, TxnDeadlock);
        let answer = self.shard(place.shard).arrive(owner, place, waker, wounds, &mut later);
        self.finish(later);
        answer
    }

    /// Takes a waiter out of its queue; false if it was handed the lock meanwhile.
    fn leave(&self, owner: &Owner, place: &Place) -> bool {
        let mut later = Later::default();
        let wait;
        {
            let mut shard = self.shard(place.shard);
            wait = mem::replace(&mut owner.lock().wait, Wait::No);
            if !matches!(wait, Wait::Granted) {
                shard.release(owner, place, &mut later);
            }
        }
        self.finish(later);
        !matches!(wait, Wait::Granted)
    }

    /// Gives one lock back.
    fn give_back(&self, owner: &Owner, place: &Place) {
        let mut later = Later::default();
        {
            let mut shard = self.shard(place.shard);
            owner.lock().held.retain(|held| held != place);
            shard.release(owner, place, &mut later);
        }
        self.finish(later);
    }

    /// Gives back what one that is doomed or has ended holds and waits for. Nothing is added to it any more.
    fn let_go(&self, owner: &Owner) {
        let (mut places, wait) = {
            let mut inner = owner.lock();
            (mem::take(&mut inner.held), mem::replace(&mut inner.wait, Wait::No))
        };
        let mut later = Later::default();
        if let Wait::Queued(place, waker) = wait {
            places.push(place);
            later.wake.push(waker);
        }
        places.sort_by_key(|place| place.shard);
        for places in places.chunk_by(|one, two| one.shard == two.shard) {
            let mut shard = self.shard(places[0].shard);
            for place in places {
                shard.remove(owner, place, &mut later);
            }
            shard.hand_over_parts(&mut later);
        }
        self.finish(later);
    }

    fn finish(&self, later: Later) {
        later.wake.into_iter().for_each(Waker::wake);
        for doomed in later.doomed {
            self.let_go(&doomed);
        }
    }

    fn shard_of(&self, (table, key): &Row) -> usize {
        let mut hasher = FixedState::with_seed(0x5ea_0a11).build_hasher();
        hasher.write_u32(table.0);
        hasher.write(key);
        (hasher.finish() % self.shards.len() as u64) as usize
    }

    /// A panic under it is one of `while_free`'s, which changes nothing here.
    fn shard(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadlines(&self) -> MutexGuard<'_, BTreeMap<(Duration, Age), Arc<Owner>>> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock that is waited for. Dropped before it is ready, it was never asked for.
pub(super) struct Acquire<'a, N> {
    locks: &'a Locks,
    owner: &'a Arc<Owner>,
    place: Place,
    deadline: Duration,
    now: N,
    /// It has joined the queue, and its deadline is noted.
    queued: bool,
}

impl<N> Unpin for Acquire<'_, N> {}

impl<N: Fn() -> Duration> Future for Acquire<'_, N> {
    type Output = Result<(), Refusal>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !this.queued {
            if this.locks.arrive(this.owner, &this.place, context.waker())? {
                return Poll::Ready(Ok(()));
            }
            this.queued = true;
            this.locks.waits.fetch_add(1, Ordering::Relaxed);
            this.locks.deadlines().insert((this.deadline, this.owner.age), this.owner.clone());
        }
        let mut answer = this.owner.answer(context.waker());
        if answer.is_pending() && (this.now)() >= this.deadline {
            // What was handed over in time counts, however late that is noticed.
            let left = this.locks.leave(this.owner, &this.place);
            let late = if left { Err(Refusal::Timeout) } else { Ok(()) };
            answer = Poll::Ready(this.owner.check().and(late));
        }
        if answer.is_ready() {
            this.forget();
        }
        answer
    }
}

impl<N> Acquire<'_, N> {
    /// The wait is over.
    fn forget(&mut self) {
        self.queued = false;
        self.locks.deadlines().remove(&(self.deadline, self.owner.age));
        let mut inner = self.owner.lock();
        if matches!(inner.wait, Wait::Granted) {
            inner.wait = Wait::No;
        }
    }
}

impl<N> Drop for Acquire<'_, N> {
    fn drop(&mut self) {
        if self.queued {
            if !self.locks.leave(self.owner, &self.place) {
                self.locks.give_back(self.owner, &self.place);
            }
            self.forget();
        }
    }
}

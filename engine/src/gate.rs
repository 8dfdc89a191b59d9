//! Where waiters sleep until something changed: a sequence number and the wakers of those who saw the last one.
//!
//! A waiter reads [`Gate::seq`] under the log's mutex, releases it, and waits for the number to move on; an opening in
//! between is therefore never missed. [`Gate::open`] is called after the mutex was released and wakes all at once. It
//! works for a parked thread and for a task alike, since both are only a `Waker`.

use std::{
    future::Future,
    mem,
    pin::{Pin, pin},
    sync::PoisonError,
    task::{Context, Poll, Waker},
};

use crate::sync::{Mutex, MutexGuard};

#[derive(Debug, Default)]
pub(crate) struct Gate {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    seq: u64,
    /// `None` where a waiter left; never at the end.
    wakers: Vec<Option<Waker>>,
    /// Places in `wakers` that were left.
    left: usize,
    /// Takes turns with `wakers`, so that neither is allocated anew.
    spare: Vec<Option<Waker>>,
}

impl Gate {
    /// What to pass to [`Gate::wait`].
    pub(crate) fn seq(&self) -> u64 {
        self.lock().seq
    }

    /// Ready once the gate was opened after `seen` was read.
    pub(crate) fn wait(&self, seen: u64) -> Wait<'_> {
        Wait { gate: self, seen, place: None }
    }

    /// Wakes all who wait.
    pub(crate) fn open(&self) {
        let mut wakers = {
            let mut inner = self.lock();
            inner.seq += 1;
            if inner.wakers.is_empty() {
                return;
            }
            inner.left = 0;
            let spare = mem::take(&mut inner.spare);
            mem::replace(&mut inner.wakers, spare)
        };
        wakers.drain(..).flatten().for_each(Waker::wake);
        self.lock().spare = wakers;
    }

    /// A panic elsewhere can't leave a counter and a list half changed, so a poisoned mutex is taken as it is.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Wait<'a> {
    gate: &'a Gate,
    seen: u64,
    place: Option<usize>,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.gate.lock();
        if inner.seq != self.seen {
            self.place = None;
            return Poll::Ready(());
        }
        // While the number stands still, nobody else has the place.
        let before = match self.place {
            Some(place) if inner.wakers[place].as_ref().is_some_and(|waker| waker.will_wake(context.waker())) => None,
            Some(place) => inner.wakers[place].replace(context.waker().clone()),
            None => {
                self.place = Some(inner.take_place(context.waker().clone()));
                None
            }
        };
        // The last waker of a task drops that, which may leave places here itself.
        drop(inner);
        drop(before);
        Poll::Pending
    }
}

impl Inner {
    fn take_place(&mut self, waker: Waker) -> usize {
        if self.left > 0
            && let Some(place) = self.wakers.iter().position(Option::is_none)
        {
            self.left -= 1;
            self.wakers[place] = Some(waker);
            return place;
        }
        self.wakers.push(Some(waker));
        self.wakers.len() - 1
    }

    fn leave_place(&mut self, place: usize) -> Option<Waker> {
        let waker = self.wakers[place].take();
        self.left += 1;
        while self.wakers.pop_if(|last| last.is_none()).is_some() {
            self.left -= 1;
        }
        waker
    }
}

/// Who lost a [`race`] leaves nothing behind: a gate may stay shut for as long as the process runs.
impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let mut inner = self.gate.lock();
        let waker = if inner.seq == self.seen { inner.leave_place(place) } else { None };
        drop(inner);
        drop(waker);
    }
}

/// Waits for the first of both; true if it was the second.
pub(crate) async fn race(one: impl Future<Output = ()>, two: impl Future<Output = ()>) -> bool {
    let (mut one, mut two) = (pin!(one), pin!(two));
    std::future::poll_fn(|context| {
        if one.as_mut().poll(context).is_ready() {
            return Poll::Ready(false);
        }
        two.as_mut().poll(context).map(|()| true)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::env::block_on;

    #[test]
    fn an_opening_between_reading_and_waiting_is_not_missed() {
        let gate = Gate::default();
        let seen = gate.seq();
        gate.open();
        block_on(gate.wait(seen));
    }

    #[test]
    fn a_waiter_that_is_polled_again_takes_one_place() {
        let gate = Gate::default();
        let mut wait = Box::pin(gate.wait(gate.seq()));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(wait.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(gate.lock().wakers.len(), 1);
        gate.open();
        assert!(wait.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn a_waiter_that_goes_leaves_nothing_behind() {
        let gate = Gate::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut wait = || {
            let mut wait = Box::pin(gate.wait(gate.seq()));
            assert!(wait.as_mut().poll(&mut context).is_pending());
            wait
        };
        let mut waits = [wait(), wait(), wait()];
        for turn in 0..1000 {
            waits[turn * 2 % 3] = wait();
            assert!(gate.lock().wakers.len() <= 4);
        }
        drop(waits);
        let inner = gate.lock();
        assert_eq!((inner.wakers.len(), inner.left), (0, 0));
    }

    #[test]
    fn those_who_stay_are_woken_when_others_went() {
        let gate = Gate::default();
        let mut waits: Vec<_> = (0..4).map(|_| Box::pin(gate.wait(gate.seq()))).collect();
        let woken: Vec<_> = (0..4).map(|_| Arc::new(Count::default())).collect();
        for (wait, count) in waits.iter_mut().zip(&woken) {
            let waker = Waker::from(Arc::clone(count));
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        waits.remove(3);
        waits.remove(1);
        gate.open();
        // Whose number is over has no place to leave: it may be somebody else's by now.
        let mut next = Box::pin(gate.wait(gate.seq()));
        assert!(next.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&woken[3])))).is_pending());
        drop(waits);
        gate.open();
        let woken: Vec<_> = woken.iter().map(|count| count.0.load(std::sync::atomic::Ordering::Relaxed)).collect();
        assert_eq!(woken, [1, 0, 1, 1]);
    }

    #[derive(Default)]
    struct Count(std::sync::atomic::AtomicU64);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

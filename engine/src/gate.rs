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
    wakers: Vec<Waker>,
    /// Takes turns with `wakers`, so that neither is allocated anew.
    spare: Vec<Waker>,
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
            let spare = mem::take(&mut inner.spare);
            mem::replace(&mut inner.wakers, spare)
        };
        wakers.drain(..).for_each(Waker::wake);
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
            return Poll::Ready(());
        }
        match self.place {
            // While the number stands still the list only grows, so the place is still ours.
            Some(place) => inner.wakers[place].clone_from(context.waker()),
            None => {
                let place = inner.wakers.len();
                inner.wakers.push(context.waker().clone());
                drop(inner);
                self.place = Some(place);
            }
        }
        Poll::Pending
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
}

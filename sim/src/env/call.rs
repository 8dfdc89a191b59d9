//! One call as a future: accepted at the first poll, effective when its latency is over, never cancelled.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use madsim::time::Sleep;

use super::machine::{Accepted, State, Ticket};
use crate::disk::{Disk, Done, Op};

/// A process's way to its machine.
#[derive(Clone)]
pub(super) struct Core {
    pub(super) state: Arc<Mutex<State>>,
    /// Which process of the machine: once it was killed, everything that belongs to it is inert.
    pub(super) life: u64,
}

/// Runs a future on a [still](super::SimEnv::still) machine, on which it ends at its first poll. `None` if the machine
/// halted on the way.
pub fn run_still<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

impl Core {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn call<'a>(&'a self, op: Op, buf: &'a mut [u8]) -> Call<'a> {
        Call { core: self, step: Step::Asked(op), buf }
    }

    /// Gives something back, unless the process is gone and everything of it with it.
    pub(super) fn release(&self, give_back: impl FnOnce(&mut Disk)) {
        let mut state = self.lock();
        if state.alive(self.life) {
            give_back(&mut state.disk);
        }
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "life {}", self.life)
    }
}

/// A panic in a task is a verdict of its own; the machine stays usable for the report.
pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct Call<'a> {
    core: &'a Core,
    step: Step,
    buf: &'a mut [u8],
}

enum Step {
    Asked(Op),
    Waiting(Ticket, Sleep),
    /// It ended, or the machine did.
    Over,
}

impl Future for Call<'_> {
    type Output = io::Result<Done>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let call = self.get_mut();
        let ticket = match std::mem::replace(&mut call.step, Step::Over) {
            Step::Over => return Poll::Pending,
            Step::Asked(op) => {
                let accepted = call.core.lock().accept(call.core.life, op);
                match accepted {
                    Accepted::Halted => return Poll::Pending,
                    Accepted::Now(ticket) => ticket,
                    Accepted::After(ticket, mut sleep) => {
                        // The first poll registers this task; it is never ready, since the delay is not zero.
                        let _ = Pin::new(&mut sleep).poll(context);
                        call.step = Step::Waiting(ticket, sleep);
                        return Poll::Pending;
                    }
                }
            }
            Step::Waiting(ticket, mut sleep) => {
                // Another task may poll it than the one before: each poll registers its own waker.
                if Pin::new(&mut sleep).poll(context).is_pending() {
                    call.step = Step::Waiting(ticket, sleep);
                    return Poll::Pending;
                }
                ticket
            }
        };
        match call.core.lock().finish(call.core.life, ticket, call.buf) {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Step::Waiting(ticket, sleep) = std::mem::replace(&mut self.step, Step::Over) {
            self.core.lock().abandon(self.core.life, ticket, &sleep);
        }
    }
}

/// Lets the scheduler choose again; a crash point like every call.
pub(super) struct Yield<'a> {
    core: &'a Core,
    polled: bool,
}

impl<'a> Yield<'a> {
    pub(super) fn new(core: &'a Core) -> Yield<'a> {
        Yield { core, polled: false }
    }
}

impl Future for Yield<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.core.lock();
        if self.polled {
            return if state.alive(self.core.life) { Poll::Ready(()) } else { Poll::Pending };
        }
        match state.yields(self.core.life) {
            None => Poll::Pending,
            Some(true) => Poll::Ready(()),
            Some(false) => {
                drop(state);
                self.polled = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

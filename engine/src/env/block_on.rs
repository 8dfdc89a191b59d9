//! Runs one future on the calling thread.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is the one place that parks a thread; nothing is decided by which one, or for how long"
)]

use std::{
    cell::Cell,
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    /// Made once per thread, so that waiting allocates nothing.
    static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
    /// When the future that is being polled wants to be polled again at the latest.
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs `future` to its end, parking the thread while it waits. The blocking façade is built on it.
///
/// ```
/// assert_eq!(engine::env::block_on(async { 6 * 7 }), 42);
/// ```
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    // Most futures of the log are ready at once: they get no waker, and if they wait after all, they are asked again.
    if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return output;
    }
    let waker = WAKER.with(Waker::clone);
    let mut context = Context::from_waker(&waker);
    loop {
        DEADLINE.set(None);
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        match DEADLINE.take() {
            None => thread::park(),
            Some(deadline) => thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
        }
    }
}

/// Asks [`block_on`], if it polls this thread's future, to poll again at `deadline` or before.
pub(super) fn wake_at(deadline: Instant) {
    DEADLINE.set(Some(DEADLINE.get().map_or(deadline, |other| other.min(deadline))));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::env::{Env, OsEnv};

    #[test]
    fn a_sleep_ends_by_itself_and_no_earlier() {
        let before = Instant::now();
        block_on(OsEnv.sleep(Duration::from_millis(5)));
        assert!(before.elapsed() >= Duration::from_millis(5));
    }

    #[test]
    fn a_dropped_task_has_ended() {
        let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = ended.clone();
        let task = OsEnv.spawn("test", async move {
            OsEnv.sleep(Duration::from_millis(5)).await;
            flag.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        drop(task);
        assert!(ended.load(std::sync::atomic::Ordering::SeqCst));
    }
}

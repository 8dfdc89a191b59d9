//! Work that outlives whoever does it: an operation on the machine must not be done twice, nor be left half done, when the
//! future that polls it is dropped. So it belongs to the log, and another waiter polls it on.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
};

use crate::sync::{Mutex, MutexGuard};

/// Something to do; it owns all that it works on.
pub(crate) trait Job: Send + 'static {
    /// What comes of it.
    type Done: Send + 'static;

    fn run(self) -> impl Future<Output = Self::Done> + Send;
}

/// A future that is allocated once and runs one job after the other.
pub(crate) struct Worker<J: Job> {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    mail: Arc<Mutex<Mail<J>>>,
}

/// How a worker gets its job and leaves the result.
struct Mail<J: Job> {
    job: Option<J>,
    done: Option<J::Done>,
}

impl<J: Job> Worker<J> {
    fn new() -> Worker<J> {
        let mail = Arc::new(Mutex::new(Mail::<J> { job: None, done: None }));
        let inbox = mail.clone();
        let future = Box::pin(async move {
            loop {
                // Polled only with a job at hand; what it waits for in between is the machine.
                let job = std::future::poll_fn(|_| match lock(&inbox).job.take() {
                    Some(job) => Poll::Ready(job),
                    None => Poll::Pending,
                });
                let done = job.await.run().await;
                lock(&inbox).done = Some(done);
            }
        });
        Worker { future, mail }
    }

    fn begin(self, job: J) -> Worker<J> {
        lock(&self.mail).job = Some(job);
        self
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<J::Done> {
        // It never ends: after a job it waits for the next one.
        let _ = self.future.as_mut().poll(context);
        match lock(&self.mail).done.take() {
            Some(done) => Poll::Ready(done),
            None => Poll::Pending,
        }
    }
}

/// Who operations belong to.
pub(crate) trait Owner {
    type Job: Job;
    /// Which of them it is.
    type Operation: Copy + Unpin;
    /// What its driver is told at its end.
    type Told;

    /// Takes in how an operation ended.
    fn complete(
        &self,
        operation: Self::Operation,
        worker: Worker<Self::Job>,
        done: <Self::Job as Job>::Done,
    ) -> Self::Told;

    /// A driver was dropped: its operation waits for the next one. If it panicked it can't go on.
    fn orphan(&self, operation: Self::Operation, worker: Worker<Self::Job>);
}

/// Polls an operation; hands it back to its owner when dropped before its end.
pub(crate) struct Driver<'a, O: Owner> {
    owner: &'a O,
    operation: O::Operation,
    worker: Option<Worker<O::Job>>,
}

impl<'a, O: Owner> Driver<'a, O> {
    pub(crate) fn new(owner: &'a O, operation: O::Operation, worker: Worker<O::Job>) -> Self {
        Driver { owner, operation, worker: Some(worker) }
    }
}

impl<O: Owner> Future for Driver<'_, O> {
    type Output = O::Told;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<O::Told> {
        let this = &mut *self;
        // (Nobody polls it behind its end.)
        let Some(worker) = &mut this.worker else { return Poll::Pending };
        let Poll::Ready(done) = worker.poll(context) else { return Poll::Pending };
        match this.worker.take() {
            Some(worker) => Poll::Ready(this.owner.complete(this.operation, worker, done)),
            None => Poll::Pending,
        }
    }
}

impl<O: Owner> Drop for Driver<'_, O> {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.owner.orphan(self.operation, worker);
        }
    }
}

fn lock<J: Job>(mail: &Mutex<Mail<J>>) -> MutexGuard<'_, Mail<J>> {
    mail.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an operation is in flight, and who polls it.
pub(crate) enum Slot<J: Job> {
    /// The worker is built when it is first needed.
    Idle(Option<Worker<J>>),
    Driven,
    /// Its driver was dropped; the next waiter polls it on.
    Orphan(Worker<J>),
}

impl<J: Job> Slot<J> {
    pub(crate) fn new() -> Slot<J> {
        Slot::Idle(None)
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self, Slot::Idle(_))
    }

    pub(crate) fn is_orphan(&self) -> bool {
        matches!(self, Slot::Orphan(_))
    }

    /// Puts the worker to work; the caller has seen that it is idle.
    pub(crate) fn begin(&mut self, job: J) -> Option<Worker<J>> {
        match mem::replace(self, Slot::Driven) {
            Slot::Idle(worker) => Some(worker.unwrap_or_else(Worker::new).begin(job)),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Takes over what lost its driver.
    pub(crate) fn adopt(&mut self) -> Option<Worker<J>> {
        match mem::replace(self, Slot::Driven) {
            Slot::Orphan(worker) => Some(worker),
            other => {
                *self = other;
                None
            }
        }
    }
}

//! One client of a life: its operations in order, each answer held against the history.

use std::{future::Future, pin::Pin, sync::Arc, task::Poll, time::Duration};

use engine::wal::Durability;

use crate::{
    env::{Machine, SimEnv},
    fault::Fault,
    oracle::ensure,
    prng::Prng,
    report::Violation,
    subject::{Inspect, NotAppended, NotRead, Stepped, Subject, Surroundings},
    workload::{Class, Op, Which},
};

use super::{LAST_OPERATIONS, SharedRef, images, lock, recover_still};

/// One client: its operations in order, each answer held against the history.
pub(super) struct Client<S: Inspect> {
    pub(super) number: usize,
    pub(super) subject: S,
    pub(super) machine: Machine,
    pub(super) shared: SharedRef,
    pub(super) plan_checks: u32,
    pub(super) options: crate::plan::EngineOptions,
    /// What oracles read with.
    pub(super) reading: engine::plant::Plants,
    pub(super) draws: Prng,
    /// No other client shares this life.
    pub(super) alone: bool,
    /// A pause of this length lets the keeper mark the log.
    pub(super) quiet_us: u64,
    /// Its transactions.
    pub(super) seat: S::Seat,
    pub(super) around: Surroundings,
    /// LSNs that this client was given.
    pub(super) mine: Vec<u64>,
}

impl<S: Subject<SimEnv> + Inspect> Client<S> {
    pub(super) async fn run(mut self, ops: Vec<Op>) {
        for op in ops {
            if lock(&self.shared).violation.is_some() {
                return;
            }
            let result = self.op(&op).await;
            let result =
                result.and_then(|()| images::judge::<S>(&self.machine, &self.shared, &self.options, &self.reading));
            let mut shared = lock(&self.shared);
            shared.operations += 1;
            if let Err(violation) = result {
                shared.violation.get_or_insert(violation);
                return;
            }
        }
    }

    async fn op(&mut self, op: &Op) -> Result<(), Violation> {
        let errors = self.machine.marked_errors();
        match op {
            Op::Append { bytes, class } => self.append(&[*bytes], false, *class, errors, op).await,
            Op::Batch { count, bytes, class } => {
                let sizes = vec![*bytes; *count as usize];
                self.append(&sizes, true, *class, errors, op).await
            }
            Op::AppendTooLarge => {
                self.append(&[self.options.max_record_bytes + 1], false, Class::Sync, errors, op).await
            }
            Op::BatchEmpty => self.append(&[], true, Class::Sync, errors, op).await,
            Op::Abandon { bytes, class } => {
                let (_, records) = lock(&self.shared).history.issue(&[*bytes]);
                let polls = 1 + self.draws.below(3);
                self.note(op, "abandoned");
                let subject = self.subject.clone();
                let append = subject.append(&records, false, durability(*class));
                poll_times(append, polls).await;
                Ok(())
            }
            Op::Sync => {
                let answer = self.subject.sync().await;
                self.note(op, format!("{answer:?}"));
                self.in_place()?;
                let Ok(next) = answer else { return Ok(()) };
                lock(&self.shared).history.synced(next);
                self.check_image("after a sync").await
            }
            Op::Wait => {
                let Some(lsn) = self.mine.last().copied() else { return Ok(()) };
                let answer = self.subject.wait(lsn).await;
                self.note(op, format!("LSN {lsn}: {answer:?}"));
                self.in_place()?;
                if answer.is_err() {
                    return Ok(());
                }
                lock(&self.shared).history.synced(lsn + 1);
                self.check_image("after a wait").await
            }
            Op::Read(which) => {
                let lsn = match which {
                    Which::First => self.mine.first().copied(),
                    Which::Last => self.mine.last().copied(),
                    Which::Random if self.mine.is_empty() => None,
                    Which::Random => Some(*self.draws.pick(&self.mine)),
                };
                let Some(lsn) = lsn else { return Ok(()) };
                let read = self.subject.read(lsn).await;
                self.note(op, format!("LSN {lsn}: {}", if read.is_ok() { "ok" } else { "failed" }));
                match read {
                    Ok(payload) => lock(&self.shared).history.read(lsn, &payload),
                    Err(error) => self.read_error(lsn, &error),
                }
            }
            Op::Scan => {
                let scan = self.subject.scan().await;
                self.note(op, if scan.is_ok() { "ok" } else { "failed" });
                match scan {
                    Ok(records) => lock(&self.shared).history.scanned(&records),
                    Err(error) => self.read_error(0, &error),
                }
            }
            Op::Write { count, bytes } => self.write(*count, *bytes, op).await,
            Op::Follow => {
                let from = lock(&self.shared).history.floor();
                let seen = self.subject.follow(from).await;
                self.note(op, if seen.is_ok() { "ok" } else { "failed" });
                match seen {
                    Ok(records) => {
                        // Whoever follows has seen it, so no crash may take it back.
                        lock(&self.shared).history.followed(&records)?;
                        self.check_image("after it was followed").await
                    }
                    Err(error) => self.read_error(0, &error),
                }
            }
            Op::TruncateFront { keep } => {
                let lsn = self.subject.next().saturating_sub(*keep).max(lock(&self.shared).history.floor());
                lock(&self.shared).history.releasing(lsn);
                let answer = self.subject.truncate_front(lsn).await;
                self.note(op, format!("below LSN {lsn}: {answer:?}"));
                let Ok(first) = answer else { return Ok(()) };
                lock(&self.shared).history.released(first)?;
                self.check_image("after records were released").await
            }
            Op::TruncateBack { cut } => {
                let lsn = self.subject.next().saturating_sub(*cut).max(lock(&self.shared).history.floor());
                let before = lock(&self.shared).history.cutting(lsn);
                let answer = self.subject.truncate_back(lsn).await;
                self.note(op, format!("from LSN {lsn}: {answer:?}"));
                lock(&self.shared).history.cut(lsn, before, &answer);
                if answer.is_err() {
                    return Ok(());
                }
                self.mine.retain(|mine| *mine < lsn);
                self.check_image("after a truncation").await
            }
            Op::Rewrite | Op::RewriteWait | Op::RewriteSoon => {
                lock(&self.shared).rewrites = true;
                let answer = match op {
                    Op::RewriteSoon => self.subject.rewrite_soon().await,
                    _ => self.subject.rewrite(*op == Op::RewriteWait).await,
                };
                self.note(op, format!("{answer:?}"));
                self.in_place()?;
                if answer.is_err() {
                    return Ok(());
                }
                {
                    let mut shared = lock(&self.shared);
                    shared.history.count("I18");
                    if let Some(next) = self.subject.durable() {
                        shared.history.synced(next);
                    }
                }
                self.check_image("after a rewrite").await
            }
            Op::Switch => {
                {
                    let mut shared = lock(&self.shared);
                    shared.rewrites = true;
                    shared.history.switched_off();
                }
                let answer = self.subject.switch().await;
                self.note(op, format!("{answer:?}"));
                self.in_place()?;
                if answer.is_err() {
                    return Ok(());
                }
                lock(&self.shared).history.switched_on(errors);
                self.check_image("after it was switched on").await
            }
            Op::Pause { us } => {
                madsim::time::sleep(Duration::from_millis(*us)).await;
                self.check_quiet(*us)
            }
            Op::Txn(step) => {
                // Most steps wait for nothing: others get their turn in between.
                match self.draws.below(3) {
                    0 => madsim::time::sleep(Duration::from_millis(1 + self.draws.below(60))).await,
                    _ => madsim::task::yield_now().await,
                }
                let Stepped { answer, after } = self.subject.step(&mut self.seat, *step, &self.around).await?;
                self.note(op, answer);
                match after {
                    Some(after) => self.check_image(after).await,
                    None => Ok(()),
                }
            }
        }
    }

    async fn append(
        &mut self,
        sizes: &[u64],
        batch: bool,
        class: Class,
        errors: u64,
        op: &Op,
    ) -> Result<(), Violation> {
        let (append, records) = lock(&self.shared).history.issue(sizes);
        let answer = self.subject.append(&records, batch, durability(class)).await;
        self.note(op, Answer::Appended(answer.clone()));
        self.in_place()?;
        let reached = answer.as_ref().map_or(durability(class), |(_, class)| *class);
        let answer = answer.map(|(first, _)| first);
        lock(&self.shared).history.answered(append, reached, &answer, errors)?;
        if let Ok(first) = answer {
            self.mine.extend(first..first + records.len() as u64);
            if reached == Durability::Sync {
                return self.check_image("after an acknowledgement").await;
            }
        }
        Ok(())
    }

    /// Appends through the front end for one appender: each record stands for itself.
    async fn write(&mut self, count: u64, bytes: u64, op: &Op) -> Result<(), Violation> {
        let errors = self.machine.marked_errors();
        let issued: Vec<(u64, Arc<[bytes::Bytes]>)> = {
            let mut shared = lock(&self.shared);
            (0..count).map(|_| shared.history.issue(&[bytes])).collect()
        };
        let records: Vec<bytes::Bytes> = issued.iter().flat_map(|(_, records)| records.iter().cloned()).collect();
        let answer = self.subject.write(&records).await;
        self.note(op, format!("{answer:?}"));
        let mut shared = lock(&self.shared);
        for ((append, _), index) in issued.iter().zip(0..) {
            let answer = match &answer {
                Ok(first) => Ok(first + index),
                // How far it came is seen at the next recovery.
                Err(NotAppended::Indeterminate(_)) => continue,
                Err(definite) => Err(definite.clone()),
            };
            shared.history.answered(*append, Durability::Buffered, &answer, errors)?;
            self.mine.extend(answer.ok());
        }
        Ok(())
    }

    /// What the log has written since the last time is in its place.
    fn in_place(&self) -> Result<(), Violation> {
        if self.machine.with_disk(|disk| self.subject.in_place(disk, false))? {
            lock(&self.shared).history.count("I19");
        }
        Ok(())
    }

    /// Recovers the state that a power cut would leave at worst, right now.
    async fn check_image(&mut self, after: &str) -> Result<(), Violation> {
        let log_errors = self.machine.marked_errors();
        let due = {
            let mut shared = lock(&self.shared);
            let drawn = self.plan_checks > 0 && shared.image_draws.chance(1, u64::from(self.plan_checks));
            drawn || shared.history.failed(log_errors)
        };
        if !due {
            return Ok(());
        }
        let image = self.machine.with_disk(|disk| disk.durable_image());
        let shared = &mut *lock(&self.shared);
        // Clients of one group are told at one moment: what the disk holds is the same, and so is what a recovery makes of it.
        let recovered = match shared.judged.take() {
            Some((judged, recovered)) if judged.shares_all(&image) => recovered,
            _ => recover_still::<S>(image.clone(), &self.options, &self.reading).map_err(String::from),
        };
        let mut verdict = shared.history.pessimal(&recovered, log_errors, after);
        if let Some(stored) = recovered.as_ref().map(|recovered| recovered.stored.as_ref()).transpose() {
            let failed = shared.history.failed(log_errors);
            verdict = verdict.and_then(|()| crate::truth::txn::lock(&shared.truth).pessimal(stored, failed, after));
        }
        // Whoever is alone is never told twice, and to hold an image has its price: what it shares is copied when it changes.
        shared.judged = (!self.alone).then_some((image, recovered));
        verdict
    }

    /// Nobody else uses the log, and it was quiet for long: it is proven to its end, even by the worst image.
    fn check_quiet(&self, us: u64) -> Result<(), Violation> {
        let fired = self.machine.fired();
        let calm = Fault::ALL.iter().all(|fault| *fault == Fault::WallJump || fired.count(*fault) == 0);
        if !self.alone || !calm || us < self.quiet_us {
            return Ok(());
        }
        let Some(proven) = S::proven_next(&self.machine.with_disk(|disk| disk.pessimal())) else { return Ok(()) };
        lock(&self.shared).history.count("I4");
        let next = self.subject.next();
        let expected = format!("a log that was quiet for {us} us is proven to LSN {next}");
        ensure(
            proven >= next || next == lock(&self.shared).history.floor(),
            "I4",
            expected,
            format_args!("to LSN {proven}"),
        )
    }

    fn read_error(&self, lsn: u64, error: &NotRead) -> Result<(), Violation> {
        let fired = self.machine.fired();
        let failing = fired.count(Fault::EioRead) + fired.count(Fault::Eintr) + self.machine.marked_errors() > 0;
        lock(&self.shared).history.count("I24");
        let expected = format!("LSN {lsn} reads back");
        match error {
            NotRead::Refused(message) => ensure(failing, "I24", expected, message),
            // After a failed sync an evicted page reads as before the write.
            NotRead::Corrupt(message) => ensure(self.machine.marked_errors() > 0, "I24", expected, message),
            NotRead::Missing(_) if lock(&self.shared).history.may_be_gone(lsn) => Ok(()),
            NotRead::Missing(message) => ensure(false, "I24", expected, message),
        }
    }

    fn note(&self, op: &Op, answer: impl Into<Answer>) {
        let mut shared = lock(&self.shared);
        if shared.last.len() >= 4 * LAST_OPERATIONS {
            shared.last.drain(..2 * LAST_OPERATIONS);
        }
        shared.last.push(Note { client: self.number, op: *op, answer: answer.into() });
    }
}

/// An operation with its answer. It becomes text only when somebody asks, as most never are.
pub(super) struct Note {
    client: usize,
    op: Op,
    answer: Answer,
}

enum Answer {
    Appended(Result<(u64, Durability), NotAppended>),
    Text(String),
}

impl From<String> for Answer {
    fn from(text: String) -> Answer {
        Answer::Text(text)
    }
}

impl From<&str> for Answer {
    fn from(text: &str) -> Answer {
        Answer::Text(text.into())
    }
}

impl Note {
    pub(super) fn text(&self) -> String {
        let Note { client, op, answer } = self;
        match answer {
            Answer::Appended(answer) => format!("client {client}: {op}: {answer:?}"),
            Answer::Text(answer) => format!("client {client}: {op}: {answer}"),
        }
    }
}

fn durability(class: Class) -> Durability {
    match class {
        Class::Sync => Durability::Sync,
        Class::Written => Durability::Written,
        Class::Buffered => Durability::Buffered,
    }
}

/// Polls a future a few times, then drops it, as a caller that lost patience does.
async fn poll_times<F: Future>(future: F, times: u64) {
    let mut future = Box::pin(future);
    for _ in 0..times {
        let ready = std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut future).poll(context).is_ready())).await;
        if ready {
            return;
        }
        madsim::time::sleep(Duration::from_millis(20)).await;
    }
}

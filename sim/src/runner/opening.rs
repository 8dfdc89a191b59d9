//! How a life begins: an open, through the crashes and the faults that the plan has for it, and its judgement.

use std::path::Path;

use madsim::runtime::{Handle, NodeHandle};

use super::{Ended, FAULTY_OPENS, FOREIGN, LOG_DIR, Run, Stop, lock, open_still, truth};
use crate::{
    damage::REFUSED,
    disk::{Disk, Keep},
    env::SimEnv,
    fault::Fault,
    oracle::{Before, ensure, same},
    plan::{At, Crash, CrashKind, Life},
    subject::{Inspect, Past, Recovered, Refusal, Subject, UNREAD},
};

impl<S: Subject<SimEnv> + Inspect> Run<'_, S> {
    /// Opens the log, through the crashes that the plan has for it and the faults of the machine.
    pub(super) async fn open(&mut self, life: &Life, mut before: Before) -> Result<Option<(NodeHandle, S)>, Stop> {
        let mut crashes = life.opening.iter().enumerate();
        let mut failures = 0;
        let mut expected: Option<Recovered> = None;
        loop {
            let image = self.machine.fork();
            if let Some(expected) = &expected
                && let Ok(baseline) = self.recover_image(image.image())
            {
                lock(&self.shared).history.count("I5");
                same("I5", "a recovery that was interrupted", expected, &baseline)?;
            }
            let (attempt, crash) = crashes.next().map_or((0, None), |(attempt, crash)| (attempt, Some(crash)));
            let (calls_before, fired_before) = (self.machine.io_count(), self.machine.fired());
            if let Some(crash) = crash {
                self.machine.arm_crash(match crash.at {
                    At::Io(io) => io,
                    At::Done => u64::MAX,
                });
            }
            let node = Handle::current().create_node().build();
            let (env, options, plants) = (self.machine.env(), self.plan.engine.clone(), self.plants.clone());
            // In a box: a task is moved several times before it stands, and this is a large one.
            let opening = Box::pin(async move { S::open(env, Path::new(LOG_DIR), &options, plants).await });
            let opening = node.spawn(opening);
            let ended = self.until_crash(async move { opening.await.ok() }).await?;
            self.machine.disarm();
            let fired = self.machine.fired();
            let faulty = Fault::ALL.iter().any(|fault| fired.count(*fault) > fired_before.count(*fault));
            // What a failed sync left in the cache is gone now: the image from before this open is not what it read.
            let evicted = fired.count(Fault::Evict) > fired_before.count(Fault::Evict);
            let trusted = (!evicted).then_some(&image);
            match (ended, crash) {
                (Ended::Crashed, Some(crash)) => {
                    *self.crashes.entry("crash-in-recovery").or_default() += 1;
                    let settled = image.settled();
                    before = match (self.crash(&node, crash, Some(attempt)).await, before) {
                        // What an earlier power cut took stays taken, and a kill after it takes nothing more.
                        (Before::Kill, earlier) => earlier,
                        (now, _) => now,
                    };
                    let comparable = settled || crash.kind == CrashKind::Kill;
                    expected = trusted.filter(|_| comparable).and_then(|image| self.recover_image(image.image()).ok());
                }
                (Ended::Finished(Some(Ok((subject, recovered)))), _) => {
                    let calls = self.machine.io_count() - calls_before;
                    self.machine.with_disk(|disk| subject.opened(disk));
                    self.judge(&image, evicted, &recovered, before, faulty, calls)?;
                    self.earlier = S::LOOKS_BACK.then(|| image.fork());
                    self.judge_backups(&image)?;
                    truth(&self.shared, |truth| subject.introduce(truth));
                    return Ok(Some((node, subject)));
                }
                (Ended::Finished(Some(Err(refusal))), _) => {
                    let crash = Crash { kind: CrashKind::Kill, at: At::Done, keep: Keep::Draw };
                    self.stop_node(&node, &crash).await;
                    if !self.may_fail(&image, &refusal, faulty)? {
                        return Ok(None);
                    }
                    failures += 1;
                    if failures == FAULTY_OPENS {
                        // Whatever was wrong with the machine ends here: from now on the log must open.
                        self.machine.behave();
                    }
                    if failures > FAULTY_OPENS {
                        let message = format!("still refused once the faults had ended: {}", refusal.message);
                        lock(&self.shared).history.refused(&message)?;
                        return Ok(None);
                    }
                    expected = None;
                }
                (Ended::Finished(None) | Ended::Crashed, _) => {
                    return Err(Stop::Harness("the opening task ended without a result".into()));
                }
            }
        }
    }

    /// What became of the backups that a crash has interrupted.
    fn judge_backups(&mut self, image: &Disk) -> Result<(), Stop> {
        for path in truth(&self.shared, |truth| truth.interrupted()) {
            // (Where there is no store, no generation of one begins.)
            let opens = |found: Recovered| found.generation.map(|_| found.stored.unwrap_or_default());
            let found = self.recover_image_at(image.image(), &path).map(opens);
            truth(&self.shared, |truth| truth.backed_up(&path, None, found.as_ref().map(Option::as_ref)))?;
        }
        Ok(())
    }

    /// Whether an open may fail like this. `false`: a lying drive was found out, and the run ends well.
    fn may_fail(&mut self, image: &Disk, refusal: &Refusal, faulty: bool) -> Result<bool, Stop> {
        let mut shared = lock(&self.shared);
        if refusal.io && faulty {
            shared.history.count("I24");
            return Ok(true);
        }
        if !refusal.io {
            shared.history.count("I25");
            let unchanged = self.machine.with_disk(|disk| S::same_files(disk, image));
            ensure(
                unchanged || refusal.message.starts_with(UNREAD),
                "I25",
                "a refused open changes no byte",
                &refusal.message,
            )?;
            if self.damaged {
                shared.history.count("I4");
                *self.crashes.entry(REFUSED).or_default() += 1;
                return Ok(false);
            }
        }
        shared.history.refused(&refusal.message)?;
        Ok(false)
    }

    /// Holds a recovery against the history, the image that it began from, and the directory that it left.
    fn judge(
        &mut self,
        image: &Disk,
        evicted: bool,
        recovered: &Recovered,
        before: Before,
        faulty: bool,
        calls: u64,
    ) -> Result<(), Stop> {
        self.records_recovered += recovered.records.len() as u64;
        self.records_dropped += recovered.dropped.iter().map(|dropped| dropped.records).sum::<u64>();
        self.bytes_dropped += recovered.dropped.iter().map(|dropped| dropped.bytes).sum::<u64>();
        let log_errors = self.machine.marked_errors();
        let lying = lock(&self.shared).history.lying();
        if let Some(stored) = &recovered.stored {
            truth(&self.shared, |truth| truth.recovered(stored, before))?;
        }
        {
            let mut shared = lock(&self.shared);
            shared.history.recovered(recovered, before, log_errors)?;
            if std::mem::take(&mut shared.rewrites) {
                shared.history.count("I18");
            }
            if !matches!(self.plan.subject.as_str(), "wal" | "txn") {
                shared.history.count("I17");
            }
            if self.plan.subject == "txn" {
                shared.history.count("I12");
            }
            shared.history.count("I20");
            let bound = S::open_bound(image, recovered);
            ensure(
                calls <= bound,
                "I20",
                format_args!("an open in at most {bound} calls"),
                format_args!("{calls} calls"),
            )?;
            if self.machine.fired().count(Fault::WallJump) > 0 {
                shared.history.count("I23");
            }
        }
        // A calm open is repeated below, on what it has left.
        let repeated = !faulty && !lying && !self.plan.no_faults;
        if !evicted
            && (!repeated || !recovered.dropped.is_empty())
            && let Ok(baseline) = self.recover_image(image.image())
        {
            let (invariant, what) =
                if faulty { ("I24", "an open through I/O faults") } else { ("I5", "a recovery of the same image") };
            lock(&self.shared).history.count(invariant);
            same(invariant, what, &baseline, recovered)?;
            S::report_is_true(image, recovered)?;
        }
        if !faulty && !lying {
            lock(&self.shared).history.count("I22");
            self.machine.with_disk(|disk| S::clean_directory(disk, recovered, FOREIGN))?;
        }
        if self.plan.no_faults {
            return Ok(());
        }
        if !lying {
            // What was delivered survives a power cut right now.
            let pessimal = self.recover_image(self.machine.with_disk(|disk| disk.durable_image()));
            lock(&self.shared).history.count("I6");
            lock(&self.shared).history.count("I5");
            match pessimal {
                Ok(pessimal) => same("I6", "a power cut right after recovery", recovered, &pessimal)?,
                Err(refused) => {
                    ensure(recovered.records.is_empty(), "I6", "what was delivered survives a power cut", refused)?;
                }
            }
            if self.check_draws.chance(1, 4) {
                let engine = &self.plan.engine;
                let recover = |env| open_still::<S>(env, engine, &self.plants).map_err(String::from);
                let truth = lock(&self.shared).truth.clone();
                let past = Past { earlier: self.earlier.as_ref(), truth: &truth };
                for invariant in S::damage_is_refused(image, &past, &mut self.check_draws, recover)? {
                    lock(&self.shared).history.count(invariant);
                }
            }
        }
        Ok(())
    }
}

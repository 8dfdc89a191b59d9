//! Images of the disk that were taken at calls of checkpoints: each opens, with all that was durable before.

use engine::plant::Plants;

use super::{SharedRef, lock, recover_still};
use crate::{
    env::{Machine, SimEnv},
    oracle::ensure,
    plan::EngineOptions,
    report::Violation,
    subject::{Inspect, Subject},
};

/// An image is taken at one in so many calls of checkpoints, where each acknowledgement has one.
pub(super) const ONE_IN: u32 = 24;

/// Judges those that were taken since the last time.
pub(super) fn judge<S: Subject<SimEnv> + Inspect>(
    machine: &Machine,
    shared: &SharedRef,
    options: &EngineOptions,
    reading: &Plants,
) -> Result<(), Violation> {
    if !S::LOOKS_BACK {
        return Ok(());
    }
    let mut stored = Vec::new();
    for image in machine.take_images() {
        let found = recover_still::<S>(image, options, reading).map_err(String::from);
        let flaw = found.as_ref().ok().and_then(|found| found.flaw.clone()).unwrap_or_default();
        ensure(flaw.is_empty(), "I12", "at a call of a checkpoint nothing is there in part", flaw)?;
        stored.push(found.map(|found| found.stored.unwrap_or_default()));
    }
    let truth = lock(shared).truth.clone();
    crate::truth::txn::lock(&truth).within_checkpoints(&stored)
}

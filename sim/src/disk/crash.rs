//! Crashes: what a process kill resolves, and which legal state a power cut leaves.

use std::sync::Arc;

use super::{Disk, Keep, Op, draw::Draw, file::PAGE_BYTES, table::Table};
use crate::prng::Prng;

/// What a power cut did to the pending effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutReport {
    /// Sectors that survived.
    pub kept: u64,
    /// Sectors that vanished.
    pub lost: u64,
    /// Of those that survived, the ones that landed as a mix of their versions.
    pub mixed: u64,
    /// Of those that vanished, the ones that show bytes of removed files.
    pub stale: u64,
    /// Directory changes that survived.
    pub names_kept: u64,
    /// Directory changes that vanished.
    pub names_lost: u64,
}

impl Disk {
    /// The process dies: its handles and locks go, what it gave to the operating system stays. Each operation in flight
    /// happened, did not happen, or, for a write, happened up to a page boundary.
    pub fn kill(&mut self, prng: &mut Prng) {
        while let Some((id, mut flight)) = self.ops.pop_first() {
            if let Op::Write { offset, data, .. } | Op::WriteSynced { offset, data, .. } = &mut flight.op
                && prng.chance(1, 2)
            {
                let first = *offset / PAGE_BYTES as u64;
                let last = (*offset + data.len() as u64) / PAGE_BYTES as u64;
                let end = ((first + prng.below(last - first + 1)) * PAGE_BYTES as u64).max(*offset);
                data.truncate((end - *offset) as usize);
                // Cut off in the middle, it made nothing durable.
                if let Op::WriteSynced { file, offset, data } = &flight.op {
                    flight.op = Op::Write { file: *file, offset: *offset, data: data.clone() };
                }
            } else if prng.chance(1, 2) {
                continue;
            }
            self.ops.insert(id, flight);
            // The caller is gone; nobody learns the result.
            let _ = self.complete(super::OpId(id), &mut []);
        }
        self.files.clear();
        self.locks.clear();
        self.collect();
    }

    /// The power goes. Afterwards the live view is what the disk holds, and nothing is pending.
    pub fn power_cut(&mut self, keep: &Keep, prng: &mut Prng) -> CutReport {
        // What the device was doing is pending like everything else: first it happened or not, then it lands or not.
        match keep {
            Keep::Draw => self.kill(prng),
            Keep::All | Keep::None | Keep::Only(_) => self.drop_process(),
        }
        match keep {
            Keep::Draw => return self.cut_drawn(prng),
            Keep::None => {}
            Keep::All => self.land_all(),
            Keep::Only(kept) => self.land_kept(kept),
        }
        self.reset();
        CutReport::default()
    }

    /// The image that keeps only what completed syncs promise.
    #[must_use]
    pub fn pessimal(&self) -> Disk {
        let mut image = Disk {
            dirs: self.dirs.clone(),
            inodes: self.inodes.clone(),
            files: Table::default(),
            locks: Vec::new(),
            ops: Table::default(),
            ..*self
        };
        image.reset();
        image
    }

    fn cut_drawn(&mut self, prng: &mut Prng) -> CutReport {
        let sector_bytes = self.options.sector_bytes as usize;
        let (oldest, newest) = (self.settled_seq + 1, self.seq);
        let mut draw = Draw::new(prng, oldest, newest);
        for index in 0..self.dirs.len() {
            if !self.dirs[index].settled() {
                let outer = draw.enter(oldest, newest);
                Arc::make_mut(&mut self.dirs[index]).crash(&mut draw);
                draw.leave(outer);
            }
        }
        for index in 0..self.inodes.len() {
            let Some(inode) = self.inodes[index].as_mut().filter(|inode| !inode.settled()) else { continue };
            let outer = draw.enter(oldest, newest);
            let stale = self.dirs[inode.home as usize].stale(&mut draw);
            Arc::make_mut(inode).crash(stale.as_ref(), sector_bytes, &mut draw);
            draw.leave(outer);
        }
        let report = draw.report;
        self.reset();
        report
    }

    fn drop_process(&mut self) {
        self.ops.clear();
        self.files.clear();
        self.locks.clear();
    }

    fn land_all(&mut self) {
        let sector_bytes = self.options.sector_bytes as usize;
        for inode in self.inodes.iter_mut().flatten().filter(|inode| !inode.settled()) {
            Arc::make_mut(inode).land_all(sector_bytes);
        }
        for dir in self.dirs.iter_mut().filter(|dir| !dir.settled()) {
            Arc::make_mut(dir).sync(u64::MAX);
        }
    }

    /// Nothing is pending any more, and the live view is what the disk holds.
    fn reset(&mut self) {
        for dir in &mut self.dirs {
            if !dir.settled() {
                Arc::make_mut(dir).reset();
            }
        }
        for inode in self.inodes.iter_mut().flatten() {
            if !inode.settled() {
                Arc::make_mut(inode).reset();
            }
        }
        self.settled_seq = self.seq;
        self.collect();
        self.used_pages = self.inodes.iter().flatten().map(|inode| inode.live.allocated()).sum();
    }
}

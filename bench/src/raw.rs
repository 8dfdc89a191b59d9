//! What disk and processor allow, without a store around it: the loops of `engine/benches`.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{Result, keys::VALUE_BYTES};

const FRAME_BYTES: usize = 16 + VALUE_BYTES;
const BUFFER_BYTES: usize = 64 << 10;
const FILE_BYTES: u64 = 64 << 20;

/// A file of zeros that were written and synced: overwriting them changes nothing that a file system has to note.
fn zeroed(folder: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(folder.join("raw"))?;
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// A header with a checksum over it and the payload.
fn frame(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    let mut header = [0; FRAME_BYTES - VALUE_BYTES];
    header[4..12].copy_from_slice(&number.to_le_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(&header[4..]);
    sum.update(value);
    header[..4].copy_from_slice(&sum.finalize().to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(value);
}

/// Where so many bytes go behind `at`; at the end of the file it begins again.
fn place(at: u64, bytes: u64) -> u64 {
    if at % FILE_BYTES + bytes > FILE_BYTES { 0 } else { at % FILE_BYTES }
}

/// `raw-synced`: one write and one `fdatasync` per commit.
pub struct Synced {
    file: File,
    next: AtomicU64,
}

impl Synced {
    pub fn new(folder: &Path) -> Result<Synced> {
        Ok(Synced { file: zeroed(folder)?, next: AtomicU64::new(0) })
    }

    pub fn commit(&self, number: u64, value: &[u8]) -> Result {
        let mut bytes = Vec::with_capacity(FRAME_BYTES);
        frame(&mut bytes, number, value);
        let at = self.next.fetch_add(FRAME_BYTES as u64, Ordering::Relaxed);
        self.file.write_all_at(&bytes, place(at, FRAME_BYTES as u64))?;
        Ok(self.file.sync_data()?)
    }
}

/// `raw-group`: whoever finds nobody writing takes all that is queued, writes it, syncs, and wakes all.
pub struct Group {
    file: File,
    state: Mutex<Queue>,
    woken: Condvar,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    queued: u64,
    durable: u64,
    written: u64,
    leading: bool,
}

impl Group {
    pub fn new(folder: &Path) -> Result<Group> {
        Ok(Group { file: zeroed(folder)?, state: Mutex::default(), woken: Condvar::new() })
    }

    pub fn commit(&self, value: &[u8]) -> Result {
        let lock = || self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = lock();
        let number = state.queued;
        state.queued += 1;
        frame(&mut state.bytes, number, value);
        while state.durable <= number {
            if state.leading {
                state = self.woken.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.leading = true;
            let bytes = std::mem::take(&mut state.bytes);
            let upto = state.queued;
            let at = place(state.written, bytes.len() as u64);
            state.written = at + bytes.len() as u64;
            drop(state);
            self.file.write_all_at(&bytes, at)?;
            self.file.sync_data()?;
            state = lock();
            state.durable = upto;
            state.leading = false;
            self.woken.notify_all();
        }
        Ok(())
    }
}

/// `raw-buffered`: a buffer of 64 KiB is filled and written, again and again, to a file that is there already.
pub struct Buffered {
    file: File,
    bytes: Vec<u8>,
    at: u64,
}

impl Buffered {
    pub fn new(folder: &Path) -> Result<Buffered> {
        Ok(Buffered { file: zeroed(folder)?, bytes: Vec::with_capacity(BUFFER_BYTES), at: 0 })
    }

    pub fn commit(&mut self, number: u64, value: &[u8]) -> Result {
        if self.bytes.len() + FRAME_BYTES > BUFFER_BYTES {
            let at = place(self.at, self.bytes.len() as u64);
            self.file.write_all_at(&self.bytes, at)?;
            self.at = at + self.bytes.len() as u64;
            self.bytes.clear();
        }
        frame(&mut self.bytes, number, value);
        Ok(())
    }
}

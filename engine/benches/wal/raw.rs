//! The baselines: what the disk and the processor allow, without a log around it.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Condvar, Mutex},
    time::Instant,
};

use super::{FRAME_BYTES, RECORD, RECORD_BYTES, Sizes};

const BUFFER_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 256 * 1024;

/// A file of `bytes` zeros that were written and synced, as a recycled segment's are.
fn zeroed(path: &Path, bytes: u64) -> File {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("create");
    let zeros = vec![0; 1 << 20];
    for at in (0..bytes).step_by(zeros.len()) {
        file.write_all_at(&zeros, at).expect("write");
    }
    file.sync_all().expect("sync");
    file
}

/// Header and payload, with one checksum over both.
fn frame(out: &mut Vec<u8>, number: u64) {
    let mut header = [0; FRAME_BYTES - RECORD_BYTES];
    header[4..12].copy_from_slice(&number.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[4..]);
    hasher.update(RECORD);
    header[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(RECORD);
}

/// One thread fills a buffer of 64 KiB and writes it; no sync. Overwrites a file of 64 MiB again and again.
pub(crate) fn buffered(dir: &Path, sizes: Sizes) -> f64 {
    let length = 64 << 20;
    let file = zeroed(&dir.join("raw"), length);
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut at = 0;
    let began = Instant::now();
    for number in 0..sizes.buffered {
        if buffer.len() + FRAME_BYTES > BUFFER_BYTES {
            file.write_all_at(&buffer, at).expect("write");
            // A log has no gaps.
            at = if at + 2 * BUFFER_BYTES as u64 > length { 0 } else { at + buffer.len() as u64 };
            buffer.clear();
        }
        frame(&mut buffer, number);
    }
    file.write_all_at(&buffer, at).expect("write");
    sizes.buffered as f64 / began.elapsed().as_secs_f64()
}

/// One thread writes one frame and syncs, again and again.
pub(crate) fn synced(dir: &Path, sizes: Sizes) -> f64 {
    let file = zeroed(&dir.join("raw"), (sizes.synced * FRAME_BYTES as u64).next_multiple_of(1 << 20));
    let mut buffer = Vec::new();
    let began = Instant::now();
    for number in 0..sizes.synced {
        buffer.clear();
        frame(&mut buffer, number);
        file.write_all_at(&buffer, number * FRAME_BYTES as u64).expect("write");
        file.sync_data().expect("sync");
    }
    sizes.synced as f64 / began.elapsed().as_secs_f64()
}

struct Group {
    queue: Vec<u8>,
    queued: u64,
    durable: u64,
    leading: bool,
}

/// 32 threads queue frames; one at a time takes the queue, writes it, syncs, and wakes all at once.
pub(crate) fn grouped(dir: &Path, sizes: Sizes) -> f64 {
    const WRITERS: u64 = 32;
    let each = sizes.grouped / WRITERS;
    let file = zeroed(&dir.join("raw"), (sizes.grouped * FRAME_BYTES as u64).next_multiple_of(1 << 20));
    let group = Mutex::new(Group { queue: Vec::new(), queued: 0, durable: 0, leading: false });
    let woken = Condvar::new();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let mut spare = Vec::new();
                for _ in 0..each {
                    let mut state = group.lock().expect("lock");
                    let number = state.queued;
                    frame(&mut state.queue, number);
                    state.queued += 1;
                    while state.durable <= number {
                        if state.leading {
                            state = woken.wait(state).expect("wait");
                            continue;
                        }
                        state.leading = true;
                        std::mem::swap(&mut state.queue, &mut spare);
                        let upto = state.queued;
                        drop(state);
                        file.write_all_at(&spare, upto * FRAME_BYTES as u64 - spare.len() as u64).expect("write");
                        file.sync_data().expect("sync");
                        spare.clear();
                        state = group.lock().expect("lock");
                        state.durable = upto;
                        state.leading = false;
                        woken.notify_all();
                    }
                }
            });
        }
    });
    (each * WRITERS) as f64 / began.elapsed().as_secs_f64()
}

/// Reads a warm file in pieces of 256 KiB and checks each frame.
pub(crate) fn read(dir: &Path, sizes: Sizes) -> f64 {
    let path = dir.join("raw");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("create");
    let mut buffer = Vec::new();
    let mut at = 0;
    for number in 0..sizes.replayed {
        frame(&mut buffer, number);
        if buffer.len() > READ_BYTES {
            file.write_all_at(&buffer, at).expect("write");
            at += buffer.len() as u64;
            buffer.clear();
        }
    }
    file.write_all_at(&buffer, at).expect("write");
    let mut window = vec![0; READ_BYTES + FRAME_BYTES];
    let (mut at, mut count, mut sum) = (0_u64, 0_u64, 0_u64);
    let began = Instant::now();
    while count < sizes.replayed {
        let held = file.read_at(&mut window, at).expect("read");
        let frames = held / FRAME_BYTES;
        for bytes in window[..frames * FRAME_BYTES].chunks_exact(FRAME_BYTES) {
            let stored = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            assert_eq!(stored, crc32fast::hash(&bytes[4..]));
            sum += u64::from(bytes[FRAME_BYTES - 1]);
        }
        count += frames as u64;
        at += (frames * FRAME_BYTES) as u64;
    }
    let rate = sizes.replayed as f64 / began.elapsed().as_secs_f64();
    assert_eq!(sum, sizes.replayed * u64::from(RECORD[0]));
    rate
}

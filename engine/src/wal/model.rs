//! A model check with loom: every interleaving of threads that append, sync and drain through the real ring, gates and state
//! machine, on a file that is only memory.

use std::sync::Arc;

use loom::thread;

use crate::{
    codec::{FIRST_FRAME_OFFSET, Identity, Position},
    memory::{Memory, MemoryFile},
    plant::Plants,
    segment::Segment,
};

use super::{
    Durability, Options,
    commit::Want,
    log::{Access, Log, Member, Opened, Spare},
    producer::{Tail, Watermark},
    stats::Stats,
};

/// A log with `pages` pages of 64 bytes, at the beginning of a segment that never fills.
fn log(pages: u64) -> Arc<Log<Memory>> {
    let options = Options::new().model(pages, 64);
    let identity = |generation| Identity {
        uuid: [1; 16],
        number: generation,
        generation,
        segment_blocks: 16,
        durable: Position::default(),
        salt: 1,
    };
    let segment = Arc::new(Segment::new(1, identity(1), &Plants::default()));
    let file = MemoryFile::default();
    file.bytes.lock().unwrap().resize(FIRST_FRAME_OFFSET as usize, 0);
    segment.attach(file);
    let spare = Spare { segment: Arc::new(Segment::new(2, identity(2), &Plants::default())), length: 1 << 20 };
    let durable = Watermark { lsn: 1, sequence: 0, position: segment.position(FIRST_FRAME_OFFSET) };
    let tail = Tail { segment: segment.clone(), base_lsn: 1, offset: FIRST_FRAME_OFFSET, length: 1 << 20, crc: 0 };
    let opened = Opened {
        lock: (),
        members: vec![Member::new(1, segment, 1 << 20)],
        tail,
        durable,
        floor_lsn: 1,
        spares: [spare].into(),
        next_slot: 3,
        stats: Stats::default(),
    };
    Arc::new(Log::new(Memory, Memory, options, opened))
}

/// What `Wal::append` does, without the handle.
async fn append(log: &Log<Memory>, bytes: usize, durability: Durability) {
    let frame = crate::codec::frame_bytes(bytes as u64);
    let sequence = loop {
        let lack = {
            let mut state = log.lock();
            assert!(state.access == Access::Shared && state.failure.is_none());
            let made = state.with_producer(|state, producer| {
                state.make_room(producer, frame, 1).map_err(Some).map(|()| {
                    producer.encode_record(&vec![1; bytes]);
                    producer.accepted.sequence
                })
            });
            match made {
                Ok(sequence) => break sequence,
                Err(lack) => lack.expect("the producer is here"),
            }
        };
        log.make_way(lack).await.expect("the memory has room");
    };
    match durability {
        Durability::Buffered => {}
        Durability::Written => log.wait(Want::Written(sequence)).await.expect("written"),
        Durability::Sync => log.wait(Want::Durable(sequence)).await.expect("durable"),
    }
}

/// Runs the operations of two threads in every order, then checks that all of it was written, once and in order.
fn explore(pages: u64, one: &'static [(usize, Durability)], two: &'static [(usize, Durability)]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let log = log(pages);
        let other = log.clone();
        let run = |log: Arc<Log<Memory>>, ops: &'static [(usize, Durability)]| {
            loom::future::block_on(async move {
                for (bytes, durability) in ops {
                    append(&log, *bytes, *durability).await;
                }
            });
        };
        let thread = thread::spawn(move || run(other, two));
        run(log.clone(), one);
        thread.join().unwrap();
        let sequence = log.lock().accepted().sequence;
        loom::future::block_on(log.wait(Want::Durable(sequence))).expect("durable");
        let state = log.lock();
        let frames: u64 = one.iter().chain(two).map(|(bytes, _)| crate::codec::frame_bytes(*bytes as u64)).sum();
        assert_eq!(state.durable.position.offset, FIRST_FRAME_OFFSET + frames);
        assert_eq!(state.durable.lsn, 1 + (one.len() + two.len()) as u64);
        let file = state.members[0].segment.file().expect("open");
        assert_eq!(file.bytes.lock().unwrap().len() as u64, state.durable.position.offset);
    });
}

#[test]
fn a_full_ring_loses_nothing() {
    // Two pages that hold one record each, and one record that is larger than a page.
    explore(
        2,
        &[(40, Durability::Buffered), (40, Durability::Buffered), (40, Durability::Buffered)],
        &[(100, Durability::Buffered), (40, Durability::Written)],
    );
}

#[test]
fn commits_share_their_syncs() {
    for pages in [2, 3] {
        explore(
            pages,
            &[(8, Durability::Sync), (8, Durability::Buffered), (8, Durability::Sync)],
            &[(8, Durability::Sync), (8, Durability::Sync)],
        );
    }
}

//! The log against a model: a list of records. Whatever the order of operations, both say the same.

use bytes::Bytes;
use engine::wal::{Durability, Large, Lsn, Options, blocking::Wal};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Append(usize, Durability),
    Batch(Vec<usize>, Durability),
    Sync,
    Read(prop::sample::Index),
    Scan(prop::sample::Index),
    Close,
    Drop,
}

fn class() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Buffered), Just(Durability::Written), Just(Durability::Sync)]
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![8 => 0..300_usize, 1 => 0..20_000_usize];
    prop_oneof![
        6 => (size.clone(), class()).prop_map(|(size, class)| Op::Append(size, class)),
        3 => (prop::collection::vec(size, 1..6), class()).prop_map(|(sizes, class)| Op::Batch(sizes, class)),
        1 => Just(Op::Sync),
        2 => any::<prop::sample::Index>().prop_map(Op::Read),
        1 => any::<prop::sample::Index>().prop_map(Op::Scan),
        1 => Just(Op::Close),
        1 => Just(Op::Drop),
    ]
}

fn record(number: usize, size: usize) -> Bytes {
    (0..size).map(|at| (number.wrapping_mul(131) ^ at) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_a_list_of_records(ops in prop::collection::vec(op(), 1..40), split: bool) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log");
        let large = if split { Large::Split } else { Large::Appendix };
        let options = Options::new().segment_bytes(16 << 10).buffer_bytes(8 << 10).large(large);
        let open = || Wal::open(&path, options.clone()).expect("open");
        let (mut wal, _) = open();
        let mut model: Vec<Bytes> = Vec::new();
        for op in ops {
            match op {
                Op::Append(size, class) => {
                    let record = record(model.len(), size);
                    model.push(record.clone());
                    prop_assert_eq!(wal.append(record, class).expect("append"), Lsn(model.len() as u64));
                }
                Op::Batch(sizes, class) => {
                    let first = model.len();
                    let batch: Vec<Bytes> = sizes.iter().enumerate().map(|(at, size)| record(first + at, *size)).collect();
                    model.extend(batch.iter().cloned());
                    prop_assert_eq!(wal.append_batch(&batch, class).expect("batch"), Lsn(first as u64 + 1));
                }
                Op::Sync => {
                    prop_assert_eq!(wal.sync().expect("sync"), Lsn(model.len() as u64 + 1));
                    prop_assert_eq!(wal.durable(), wal.next());
                }
                Op::Read(index) if !model.is_empty() => {
                    let at = index.index(model.len());
                    prop_assert_eq!(&wal.read(Lsn(at as u64 + 1)).expect("read"), &model[at]);
                }
                Op::Scan(index) => {
                    let from = index.index(model.len() + 1);
                    let all: Vec<Bytes> = wal.records(Lsn(from as u64 + 1)).map(|record| record.expect("record").1).collect();
                    prop_assert_eq!(&all[..], &model[from..]);
                }
                Op::Close => {
                    wal.close().expect("close");
                    let (reopened, report) = open();
                    prop_assert_eq!(report.records(), model.len() as u64);
                    wal = reopened;
                }
                // Without close, what is only in memory is gone; the rest is there.
                Op::Drop => {
                    wal.sync().expect("sync");
                    drop(wal);
                    let (reopened, report) = open();
                    prop_assert_eq!(report.records(), model.len() as u64);
                    wal = reopened;
                }
                Op::Read(_) => {}
            }
        }
    }
}

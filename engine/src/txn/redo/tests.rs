//! What is written reads back, and what reads is written the same; a record has one form; no bytes make reading panic.

use proptest::prelude::*;

use super::*;
use crate::txn::ids::TableId;

/// One op of each form, its bytes, and its fields as FORMAT.md names them.
pub(super) const OPS: &[(Op<'static>, &str, &str)] = &[
    (Op::Table { id: TableId(300), meta: 2 }, "01 ac02 02", "id=ac02 meta=02"),
    (
        Op::Put { key: b"key", value: b"value" },
        "02 03 05 6b6579 76616c7565",
        "key_bytes=03 value_bytes=05 key=6b6579 value=76616c7565",
    ),
    (Op::Put { key: b"", value: b"" }, "02 00 00", "key_bytes=00 value_bytes=00 key= value="),
    (Op::Delete { key: b"gone" }, "03 04 676f6e65", "key_bytes=04 key=676f6e65"),
    (
        Op::PutLob { key: b"big", value: LobRef { bytes: 0x12_0000, crc: 0xDDCC_BBAA, pieces: 2, last: Lsn(0x0102) } },
        "04 03 626967 808048 aabbccdd 02 0201000000000000",
        "key_bytes=03 key=626967 lob_bytes=808048 crc=aabbccdd pieces=02 last=0201000000000000",
    ),
    (
        Op::Create { id: TableId(300), log: 3, name: "rows", shape: Shape::Rows },
        "05 ac02 01 03 00 04 00 726f7773",
        "id=ac02 kind=01 log=03 of=00 name_bytes=04 derive_bytes=00 name=726f7773 derive=",
    ),
    (
        Op::Create { id: TableId(301), log: 0, name: "é", shape: Shape::Memory },
        "05 ad02 02 00 00 02 00 c3a9",
        "id=ad02 kind=02 log=00 of=00 name_bytes=02 derive_bytes=00 name=c3a9 derive=",
    ),
    (
        Op::Create { id: TableId(302), log: 1, name: "by", shape: Shape::Index { of: TableId(300), derive: "len" } },
        "05 ae02 03 01 ac02 02 03 6279 6c656e",
        "id=ae02 kind=03 log=01 of=ac02 name_bytes=02 derive_bytes=03 name=6279 derive=6c656e",
    ),
    (Op::Drop { id: TableId(127) }, "06 7f", "id=7f"),
];

const CSN: &str = "0500000000030000"; // 3.5
const TXN: &str = "0700000000030000"; // 3.7
const DURABLE: &str = "0400000000030000"; // 3.4
const UUID: &str = "000102030405060708090a0b0c0d0e0f";

/// Samples of all kinds, by the names that they have in the corpus of the fuzz target `redo`.
fn samples() -> Vec<(&'static str, Record<'static>, Vec<u8>)> {
    let epoch = Epoch::new(3).expect("there is one");
    let uuid = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let all: String = OPS.iter().map(|(_, hex, _)| *hex).collect();
    let fixed = |name, record, hex: String| (name, record, unhex(&hex));
    vec![
        fixed("void", part(1, []), format!("01 01 0100 00000000 {CSN} {TXN} {DURABLE}")),
        fixed(
            "part",
            part(0b101, OPS.iter().map(|op| op.0)),
            format!("01 00 0500 09000000 {CSN} {TXN} {DURABLE} {all}"),
        ),
        fixed(
            "lob_first",
            Record::Lob(Lob { piece: 0, txn: stamp(1).txn, previous: None, data: b"first" }),
            format!("02 000000 00000000 {TXN} 0000000000000000 6669727374"),
        ),
        fixed(
            "lob_next",
            Record::Lob(Lob { piece: 2, txn: stamp(1).txn, previous: Some(Lsn(258)), data: b"next" }),
            format!("02 000000 02000000 {TXN} 0201000000000000 6e657874"),
        ),
        fixed(
            "epoch",
            Record::Epoch(EpochRecord { log: 1, logs: 2, epoch, prev_end: stamp(1).durable, uuid, wall_ns: -2 }),
            format!("03 01 02 0000000000 0300000000000000 {DURABLE} {UUID} feffffffffffffff"),
        ),
        fixed(
            "epoch_of_a_new_store",
            Record::Epoch(EpochRecord { log: 0, logs: 1, epoch, prev_end: Csn::default(), uuid, wall_ns: 1 }),
            format!("03 00 01 0000000000 0300000000000000 0000000000000000 {UUID} 0100000000000000"),
        ),
        fixed(
            "checkpoint",
            Record::Checkpoint(Checkpoint {
                log: 15,
                logs: 16,
                epoch,
                sequence: 9,
                csn: stamp(1).csn,
                release: Lsn(513),
                uuid,
            }),
            format!("04 0f 10 0000000000 0300000000000000 0900000000000000 {CSN} 0102000000000000 {UUID}"),
        ),
        fixed(
            "mark",
            Record::Mark(Mark { log: 1, epoch, durable: stamp(1).csn }),
            format!("05 01 000000000000 0300000000000000 {CSN}"),
        ),
    ]
}

fn stamp(participants: u16) -> Stamp {
    let number = |bits| (3_u64 << 40) | bits;
    Stamp {
        participants,
        csn: Csn::from_bits(number(5)).expect("one of epoch 3"),
        txn: TxnId::from_bits(number(7)).expect("one of epoch 3"),
        durable: Csn::from_bits(number(4)).expect("one of epoch 3"),
    }
}

/// A part as a record that lives as long as the test's process.
fn part(participants: u16, ops: impl IntoIterator<Item = Op<'static>>) -> Record<'static> {
    let bytes = part_bytes(stamp(participants), ops).expect("within the limits");
    Record::decode(bytes.leak()).expect("what was encoded")
}

fn part_bytes<'a>(stamp: Stamp, ops: impl IntoIterator<Item = Op<'a>>) -> Result<Vec<u8>, RedoError> {
    let mut bytes = Vec::new();
    encode_part(&mut bytes, ops)?;
    stamp.put(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("two digits");
    digits.chunks(2).map(byte).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded(record: &Record<'_>) -> Vec<u8> {
    let mut out = vec![0xEE];
    record.encode(&mut out).expect("within the limits");
    out.split_off(1)
}

/// If `bytes` decode, they are what encoding writes, in one go and op by op.
fn assert_one_form(bytes: &[u8]) {
    let Ok(record) = Record::decode(bytes) else { return };
    assert_eq!(encoded(&record), bytes);
    if let Record::Part(part) = record {
        assert_eq!(part_bytes(part.stamp, part.ops()).as_deref(), Ok(bytes));
    }
}

#[test]
fn every_kind_and_op_has_its_bytes() {
    for (name, record, bytes) in samples() {
        assert_eq!(hex(&encoded(&record)), hex(&bytes), "{name}");
        assert_eq!(Record::decode(&bytes), Ok(record), "{name}");
    }
    for (op, bytes, _) in OPS {
        let section = Op::Table { id: TableId(1), meta: 0 };
        let written = part_bytes(stamp(1), [section, *op]).expect("within the limits");
        assert_eq!(hex(&written[PART_HEAD_BYTES + 3..]), bytes.replace(' ', ""));
    }
    let kinds: Vec<RecordKind> = RecordKind::ALL
        .into_iter()
        .filter(|kind| samples().iter().any(|(_, record, _)| record.kind() == *kind))
        .collect();
    assert_eq!(kinds, RecordKind::ALL, "a sample of every kind");
    let codes: Vec<ops::Code> =
        ops::Code::ALL.into_iter().filter(|code| OPS.iter().any(|(op, ..)| op.code() == *code)).collect();
    assert_eq!(codes, ops::Code::ALL, "a sample of every op");
}

/// The fuzzer begins with the samples; the files are small, so they are compared rather than made.
#[test]
fn the_fuzz_corpus_holds_the_samples() {
    let files: [(&str, &[u8]); 8] = [
        ("void", include_bytes!("../../../../fuzz/corpus/redo/void")),
        ("part", include_bytes!("../../../../fuzz/corpus/redo/part")),
        ("lob_first", include_bytes!("../../../../fuzz/corpus/redo/lob_first")),
        ("lob_next", include_bytes!("../../../../fuzz/corpus/redo/lob_next")),
        ("epoch", include_bytes!("../../../../fuzz/corpus/redo/epoch")),
        ("epoch_of_a_new_store", include_bytes!("../../../../fuzz/corpus/redo/epoch_of_a_new_store")),
        ("checkpoint", include_bytes!("../../../../fuzz/corpus/redo/checkpoint")),
        ("mark", include_bytes!("../../../../fuzz/corpus/redo/mark")),
    ];
    let samples = samples();
    let samples: Vec<(&str, &[u8])> = samples.iter().map(|(name, _, bytes)| (*name, &bytes[..])).collect();
    assert_eq!(files[..], samples);
}

#[test]
fn a_cut_is_an_error_or_a_shorter_piece() {
    for (name, record, bytes) in samples() {
        for length in 0..bytes.len() {
            let cut = Record::decode(&bytes[..length]);
            match (&record, cut) {
                // Nothing in a piece says how long it is; the frame around it does.
                (Record::Lob(whole), Ok(Record::Lob(cut))) => {
                    assert_eq!(cut.data, &whole.data[..length - lob_at::DATA])
                }
                (_, cut) => assert!(cut.is_err(), "{length} bytes of {name}: {cut:?}"),
            }
        }
        if !matches!(record, Record::Lob(_)) {
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Record::decode(&longer).map_err(|error| error.wrong), Err(Wrong::Trailing), "{name}");
        }
    }
}

/// Another value is not for a record to notice: the frame's checksum does. But it never passes as the same one.
#[test]
fn a_flipped_bit_is_an_error_or_another_value() {
    for (name, record, bytes) in samples() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Record::decode(&flipped).as_ref(), Ok(&record), "bit {bit} of {name}");
            assert_one_form(&flipped);
        }
    }
}

/// What is refused, with the place and the reason that the error states. A `#` in `hex` is the head of a part with one op.
#[test]
fn an_error_says_what_is_wrong_and_where() {
    let check = |hex: &str, offset, wrong| {
        let head = format!("01 00 0100 01000000 {CSN} {TXN} {DURABLE}");
        let section = format!("01 00 0100 02000000 {CSN} {TXN} {DURABLE} 010100");
        let bytes = unhex(&hex.replace("#T", &section).replace('#', &head));
        assert_eq!(Record::decode(&bytes), Err(RedoError { offset, wrong }), "{hex}");
    };
    let value = |field, value| Wrong::Value { field, value };
    let length = |field, bytes| Wrong::Length { field, bytes };
    check("", 0, Wrong::Ends { field: "kind" });
    check("00", 0, Wrong::Unknown { field: "kind", code: 0 });
    check("06", 0, Wrong::Unknown { field: "kind", code: 6 });
    check("0500", 2, Wrong::Ends { field: "the fixed fields" });

    check(&format!("01 00 0100 00000000 {CSN} {TXN} {DURABLE}"), 1, value("flags", 0));
    check(&format!("01 01 0100 01000000 {CSN} {TXN} {DURABLE} 0601"), 1, value("flags", 1));
    check(&format!("01 02 0100 01000000 {CSN} {TXN} {DURABLE} 0601"), 1, value("flags", 2));
    check(&format!("01 01 0200 00000000 {CSN} {TXN} {DURABLE}"), 2, value("participants", 2));
    check(&format!("01 00 0000 01000000 {CSN} {TXN} {DURABLE} 0601"), 2, value("participants", 0));
    check(&format!("01 01 0100 00000000 0000000000000000 {TXN} {DURABLE}"), 8, value("csn", 0));
    check(&format!("01 01 0100 00000000 0500000000000000 {TXN} {DURABLE}"), 8, value("csn", 5));
    check(&format!("01 01 0100 00000000 {CSN} 0000000000000000 {DURABLE}"), 16, value("txn", 0));
    check(&format!("01 01 0100 00000000 {CSN} {TXN} {CSN}"), 24, value("durable", (3 << 40) | 5));

    check("#", 32, Wrong::Ends { field: "op" });
    check("# 00", 32, Wrong::Unknown { field: "op", code: 0 });
    check("# 07", 32, Wrong::Unknown { field: "op", code: 7 });
    check("# 0601 00", 34, Wrong::Trailing);
    check("# 0600", 32, value("id", 0));
    check("# 06 8100", 33, Wrong::Varint { field: "id" });
    check("# 06 ffffffff1f", 33, value("id", 0x1_FFFF_FFFF));
    check("# 01 01 ffffffffffffffffff02", 34, Wrong::Varint { field: "meta" });
    check("# 01 01 ffffffffffffffffff81", 34, Wrong::Varint { field: "meta" });
    check("# 0300", 32, Wrong::NoTable);
    check("# 020000", 32, Wrong::NoTable);
    check("#T 03 05 6b", 37, Wrong::Ends { field: "key" });
    check("#T 02 00 ffffffffffffffffff01", 47, Wrong::Ends { field: "value" });
    check(&format!("#T 03 e907 {}", "00".repeat(1001)), 35, length("key", 1001));
    check("#T 04 00 00 00000000 01 0100000000000000", 35, length("lob", 0));
    check("#T 04 00 81808040 00000000 ff01 ff00000000000000", 35, length("lob", MAX_VALUE_BYTES + 1));
    check("#T 04 00 05 00000000 00 0100000000000000", 35, value("pieces", 0));
    check("#T 04 00 05 00000000 06 0600000000000000", 35, value("pieces", 6));
    check("#T 04 00 818040 00000000 01 0100000000000000", 35, value("pieces", 1));
    check("#T 04 00 05 00000000 02 0100000000000000", 35, value("last", 1));
    check("# 05 02 00 00 00 01 00 61", 32, value("kind", 0));
    check("# 05 02 04 00 00 01 00 61", 32, value("kind", 4));
    check("# 05 02 01 10 00 01 00 61", 32, value("log", 16));
    check("# 05 02 01 00 00 00 00", 32, length("name", 0));
    check(&format!("# 05 02 01 00 00 8002 00 {}", "61".repeat(256)), 32, length("name", 256));
    check("# 05 02 01 00 00 01 00 ff", 39, Wrong::Text { field: "name" });
    check("# 05 02 01 00 01 01 00 61", 32, value("of", 1));
    check("# 05 02 02 00 00 01 01 6162", 32, length("derive", 1));
    check("# 05 02 03 00 00 01 01 6162", 32, value("of", 0));
    check("# 05 02 03 00 02 01 01 6162", 32, value("of", 2));
    check("# 05 02 03 00 01 01 00 61", 32, length("derive", 0));

    check(&format!("02 000100 00000000 {TXN} 0000000000000000 61"), 1, Wrong::Reserved);
    check("02 000000 00000000 0000000000000000 0000000000000000 61", 8, value("txn", 0));
    check(&format!("02 000000 00000000 {TXN} 0100000000000000 61"), 16, value("previous", 1));
    check(&format!("02 000000 01000000 {TXN} 0000000000000000 61"), 16, value("previous", 0));
    check(&format!("02 000000 03000000 {TXN} 0200000000000000 61"), 16, value("previous", 2));
    check(&format!("02 000000 00000000 {TXN} 0000000000000000"), 24, length("data", 0));

    let rest = format!("0300000000000000 {DURABLE} {UUID} 0000000000000000");
    check(&format!("03 01 01 0000000000 {rest}"), 1, value("log", 1));
    check(&format!("03 00 00 0000000000 {rest}"), 1, value("log", 0));
    check(&format!("03 00 11 0000000000 {rest}"), 2, value("logs", 17));
    check(&format!("03 00 01 0000000001 {rest}"), 3, Wrong::Reserved);
    check(&format!("03 00 01 0000000000 {rest} 00"), 48, Wrong::Trailing);
    check(&format!("03 00 01 0000000000 {}", rest.replacen('3', "0", 1)), 8, value("epoch", 0));
    check(&format!("03 00 01 0000000000 {}", rest.replacen('3', "2", 1)), 16, value("prev_end", (3 << 40) | 4));
    let rest = |csn: &str, release| format!("0300000000000000 0000000000000000 {csn} {release}00000000000000 {UUID}");
    check(&format!("04 00 01 0000000000 {}", rest("0100000000040000", "01")), 24, value("csn", (4 << 40) | 1));
    check(&format!("04 00 01 0000000000 {}", rest(CSN, "00")), 32, value("release", 0));
    check(&format!("05 10 000000000000 0300000000000000 {CSN}"), 1, value("log", 16));
    check(&format!("05 00 000000000001 0300000000000000 {CSN}"), 2, Wrong::Reserved);
    check(&format!("05 00 000000000000 0200000000000000 {CSN}"), 16, value("durable", (3 << 40) | 5));
}

#[test]
fn lengths_up_to_the_limit_are_taken_and_not_beyond() {
    let section = Op::Table { id: TableId(1), meta: u64::MAX };
    let check = |op, fits: bool| assert_eq!(part_bytes(stamp(1), [section, op]).is_ok(), fits, "{op:.80?}");
    let (long, name) = (vec![0; MAX_KEY_BYTES as usize + 1], "n".repeat(MAX_NAME_BYTES as usize + 1));
    check(Op::Delete { key: &long[1..] }, true);
    check(Op::Delete { key: &long }, false);
    let huge = vec![0; MAX_VALUE_BYTES as usize + 1]; // never touched: refused before it is copied
    assert_eq!(
        part_bytes(stamp(1), [section, Op::Put { key: b"", value: &huge }]),
        Err(Wrong::Length { field: "value", bytes: MAX_VALUE_BYTES + 1 }.at(PART_HEAD_BYTES + 12))
    );
    let create = |name, shape| Op::Create { id: TableId(u32::MAX), log: MAX_LOGS - 1, name, shape };
    check(create(&name[1..], Shape::Index { of: TableId(1), derive: &name[1..] }), true);
    check(create(&name, Shape::Rows), false);
    check(create("n", Shape::Index { of: TableId(1), derive: &name }), false);
    let lob = |bytes, pieces| Op::PutLob { key: b"", value: LobRef { bytes, crc: 0, pieces, last: Lsn(u64::MAX) } };
    check(lob(MAX_VALUE_BYTES, (MAX_VALUE_BYTES / MAX_PIECE_BYTES) as u32), true);
    check(lob(MAX_VALUE_BYTES + 1, u32::MAX), false);
    let piece = |data| Record::Lob(Lob { piece: 0, txn: stamp(1).txn, previous: None, data }).encode(&mut Vec::new());
    let data = vec![0; MAX_PIECE_BYTES as usize + 1];
    assert!(piece(&data[1..]).is_ok() && piece(&data).is_err());

    let put = Op::Put { key: b"k", value: b"v" };
    let (mut out, bytes) = (vec![7], (PART_HEAD_BYTES + 12 + 5) as u64);
    let short = encode_part_within(&mut out, bytes - 1, [section, put]);
    assert_eq!(short, Err(Wrong::Length { field: "part", bytes }.at(PART_HEAD_BYTES + 12)));
    assert_eq!(out, [7], "nothing is left of what failed");
    assert!(encode_part_within(&mut out, bytes, [section, put]).is_ok());
    let mut huge = vec![0; MAX_PART_BYTES as usize + 1];
    huge[0] = RecordKind::Part as u8;
    assert!(matches!(Record::decode(&huge), Err(RedoError { wrong: Wrong::Length { field: "part", .. }, .. })));
}

#[test]
fn a_part_without_its_stamp_is_none() {
    let mut bytes = Vec::new();
    encode_part(&mut bytes, [Op::Drop { id: TableId(1) }]).expect("within the limits");
    assert_eq!(Record::decode(&bytes), Err(bad("participants", 0, part_at::PARTICIPANTS)));
    for wrong in [
        Stamp { participants: 0, ..stamp(1) },
        Stamp { csn: Csn::default(), ..stamp(1) },
        Stamp { txn: TxnId::default(), ..stamp(1) },
        Stamp { durable: stamp(1).csn, ..stamp(1) },
    ] {
        let before = bytes.clone();
        assert!(wrong.put(&mut bytes).is_err());
        assert_eq!(bytes, before);
    }
    assert!(stamp(2).put(&mut bytes).is_ok() && Record::decode(&bytes).is_ok());
    assert!(stamp(1).put(&mut bytes[..PART_HEAD_BYTES - 1]).is_err());
    assert!(stamp(1).put(&mut samples().pop().expect("a mark").2).is_err(), "a record of another kind");
}

/// L05: a table that comes, changes and goes reads in every order; what an order means is for replay.
#[test]
fn ops_read_in_every_order_that_names_a_table_first() {
    let ops = [
        Op::Create { id: TableId(9), log: 0, name: "t", shape: Shape::Rows },
        Op::Table { id: TableId(9), meta: 1 },
        Op::Put { key: b"k", value: b"v" },
        Op::Drop { id: TableId(9) },
    ];
    let mut orders = 0;
    for code in 0..256_usize {
        let order = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6];
        if (0..4).any(|op| !order.contains(&op)) {
            continue;
        }
        orders += 1;
        let place = |op| order.iter().position(|at| *at == op);
        let bytes = part_bytes(stamp(1), order.map(|op| ops[op]));
        assert_eq!(bytes.is_ok(), place(1) < place(2));
        if let Ok(bytes) = bytes {
            let Ok(Record::Part(part)) = Record::decode(&bytes) else { panic!("a part") };
            assert!(part.ops().len() == 4 && part.ops().eq(order.map(|op| ops[op])));
        }
    }
    assert_eq!(orders, 24);
}

/// An op that owns its bytes.
#[derive(Clone, Debug)]
struct Drawn(u8, [u32; 4], Vec<u8>, Vec<u8>, String);

impl Drawn {
    fn op(&self) -> Op<'_> {
        let Drawn(code, [a, b, c, d], key, value, name) = self;
        let id = TableId((*a).max(2));
        match code {
            0 => Op::Table { id, meta: u64::from(*b) << (c % 33) },
            1 => Op::Put { key, value },
            2 => Op::Delete { key },
            3 => {
                let bytes = u64::from(*b) % MAX_VALUE_BYTES + 1;
                let least = bytes.div_ceil(MAX_PIECE_BYTES);
                let pieces = (least + u64::from(*c) % (bytes - least + 1)) as u32;
                Op::PutLob {
                    key,
                    value: LobRef { bytes, crc: *d, pieces, last: Lsn(u64::from(pieces) + u64::from(*d)) },
                }
            }
            4 => {
                let index = Shape::Index { of: TableId(1 + b % (id.0 - 1)), derive: name };
                let shape = [Shape::Rows, Shape::Memory, index][*c as usize % 3];
                Op::Create { id, log: (d % 16) as u8, name, shape }
            }
            _ => Op::Drop { id },
        }
    }
}

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    let op = (0..6_u8, any::<[u32; 4]>(), bytes(), bytes(), "\\PC{1,20}");
    prop::collection::vec(
        op.prop_map(|(code, numbers, key, value, name)| Drawn(code, numbers, key, value, name)),
        0..20,
    )
}

fn epoch_of(number: u64) -> Epoch {
    Epoch::new(number % Epoch::LAST.get() + 1).expect("a number in range")
}

proptest! {
    #[test]
    fn parts_read_back(ops in drawn(), participants in 1..=u16::MAX, epoch: u64, before in prop::collection::vec(any::<u8>(), 0..9)) {
        let first = Op::Table { id: TableId(1), meta: 0 };
        let ops: Vec<Op<'_>> = [first].into_iter().chain(ops.iter().map(Drawn::op)).collect();
        let csn = Csn::first(epoch_of(epoch));
        let stamp = Stamp { participants, csn, txn: TxnId::first(epoch_of(!epoch)), durable: Csn::default() };
        let mut bytes = before.clone();
        prop_assert_eq!(encode_part(&mut bytes, ops.iter().copied()), Ok(()));
        prop_assert_eq!(stamp.put(&mut bytes[before.len()..]), Ok(()));
        prop_assert!(bytes.starts_with(&before));
        let bytes = bytes.split_off(before.len());
        let Record::Part(part) = Record::decode(&bytes).expect("what was encoded") else { panic!("a part") };
        prop_assert_eq!(part.stamp, stamp);
        prop_assert_eq!(part.ops().collect::<Vec<_>>(), ops);
        assert_one_form(&bytes);
    }

    #[test]
    fn the_others_read_back(numbers: [u64; 5], uuid: [u8; 16], logs in 1..=MAX_LOGS, data in prop::collection::vec(any::<u8>(), 1..300)) {
        let [a, b, c, d, e] = numbers;
        let (epoch, log) = (epoch_of(a), (b % u64::from(logs)) as u8);
        let csn = if c == 0 { Csn::default() } else { Csn::first(epoch_of(c % epoch.get())) };
        let piece = (d % 3) as u32 * (a as u32 / 3);
        let previous = (piece != 0).then_some(Lsn((e | 1).max(u64::from(piece))));
        for record in [
            Record::Lob(Lob { piece, txn: TxnId::first(epoch), previous, data: &data }),
            Record::Epoch(EpochRecord { log, logs, epoch, prev_end: csn, uuid, wall_ns: d as i64 }),
            Record::Checkpoint(Checkpoint { log, logs, epoch, sequence: d, csn, release: Lsn(e | 1), uuid }),
            Record::Mark(Mark { log, epoch, durable: csn }),
        ] {
            let bytes = encoded(&record);
            prop_assert_eq!(Record::decode(&bytes), Ok(record));
        }
    }

    #[test]
    fn no_bytes_make_reading_panic(kind in 0..7_u8, mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        assert_one_form(&bytes);
    }

    /// Deeper than random bytes get: the ops of a sample, changed in some places.
    #[test]
    fn changed_samples_have_one_form_or_none(which: prop::sample::Index, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let samples = samples();
        let mut bytes = samples[which.index(samples.len())].2.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        assert_one_form(&bytes);
    }
}

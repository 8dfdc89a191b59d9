//! Log records of a store: bytes in, bytes out, exactly as FORMAT.md draws them.
//!
//! Pure and total: no I/O, no panic on any bytes, no allocation when reading. A record has one form, so what is read and written
//! again is the same bytes. The frame around a record has a checksum; what is checked here is that its fields make sense, alone
//! and beside each other. What they mean for a store (which log they were found in, what came before) is for recovery to judge.

mod ops;
mod reader;

pub use ops::{LobRef, Op, Ops, Shape};
pub use reader::{RedoError, Wrong};

use crate::{
    codec::{array, get_u16, get_u32, get_u64},
    txn::ids::{Csn, Epoch, TxnId},
    wal::Lsn,
};
use reader::{at_least, bad, check_epoch, check_log, csn, ends, epoch, exactly, put, require, txn, zero};

/// A store has at most this many logs.
pub const MAX_LOGS: u8 = 16;
/// Longest key, in bytes.
pub const MAX_KEY_BYTES: u64 = 1000;
/// Longest value, in bytes: of one in a part, and of one in pieces.
pub const MAX_VALUE_BYTES: u64 = 128 << 20;
/// Longest piece of a value, in bytes.
pub const MAX_PIECE_BYTES: u64 = 1 << 20;
/// Longest name of a table or of a deriving function, in bytes.
pub const MAX_NAME_BYTES: u64 = 255;
/// Longest part, in bytes.
pub const MAX_PART_BYTES: u64 = 240 << 20;
/// A part without ops, in bytes.
pub const PART_HEAD_BYTES: usize = part_at::BODY;

/// Offset of each field, in bytes; FORMAT.md is held against these tables.
pub(super) mod part_at {
    pub(crate) const KIND: usize = 0;
    pub(crate) const FLAGS: usize = 1;
    pub(crate) const PARTICIPANTS: usize = 2;
    pub(crate) const OPS: usize = 4;
    pub(crate) const CSN: usize = 8;
    pub(crate) const TXN: usize = 16;
    pub(crate) const DURABLE: usize = 24;
    pub(crate) const BODY: usize = 32;
}

pub(super) mod lob_at {
    pub(crate) const KIND: usize = 0;
    pub(crate) const ZERO: usize = 1;
    pub(crate) const PIECE: usize = 4;
    pub(crate) const TXN: usize = 8;
    pub(crate) const PREVIOUS: usize = 16;
    pub(crate) const DATA: usize = 24;
}

pub(super) mod epoch_at {
    pub(crate) const KIND: usize = 0;
    pub(crate) const LOG: usize = 1;
    pub(crate) const LOGS: usize = 2;
    pub(crate) const ZERO: usize = 3;
    pub(crate) const EPOCH: usize = 8;
    pub(crate) const PREV_END: usize = 16;
    pub(crate) const UUID: usize = 24;
    pub(crate) const WALL_NS: usize = 40;
    pub(crate) const END: usize = 48;
}

pub(super) mod checkpoint_at {
    pub(crate) const KIND: usize = 0;
    pub(crate) const LOG: usize = 1;
    pub(crate) const LOGS: usize = 2;
    pub(crate) const ZERO: usize = 3;
    pub(crate) const EPOCH: usize = 8;
    pub(crate) const SEQUENCE: usize = 16;
    pub(crate) const CSN: usize = 24;
    pub(crate) const RELEASE: usize = 32;
    pub(crate) const UUID: usize = 40;
    pub(crate) const END: usize = 56;
}

pub(super) mod mark_at {
    pub(crate) const KIND: usize = 0;
    pub(crate) const LOG: usize = 1;
    pub(crate) const ZERO: usize = 2;
    pub(crate) const EPOCH: usize = 8;
    pub(crate) const DURABLE: usize = 16;
    pub(crate) const END: usize = 24;
}

/// Flag of a part without ops.
const VOID: u8 = 1;

/// First byte of a record; FORMAT.md is held against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A [`Part`].
    Part = 1,
    /// A [`Lob`].
    Lob = 2,
    /// An [`EpochRecord`].
    Epoch = 3,
    /// A [`Checkpoint`].
    Checkpoint = 4,
    /// A [`Mark`].
    Mark = 5,
}

impl RecordKind {
    /// All of them, by code.
    pub const ALL: [RecordKind; 5] =
        [RecordKind::Part, RecordKind::Lob, RecordKind::Epoch, RecordKind::Checkpoint, RecordKind::Mark];
}

/// One log record. It borrows what it holds from the bytes that it was read from.
///
/// ```
/// use engine::txn::{ids::{Csn, Epoch, TableId, TxnId}, redo::{Op, Record, Stamp, encode_part}};
/// let (epoch, table) = (Epoch::new(1).expect("there is one"), TableId(7));
/// let ops = [Op::Table { id: table, meta: 0 }, Op::Put { key: b"k", value: b"v" }, Op::Delete { key: b"old" }];
///
/// let mut bytes = Vec::new();
/// encode_part(&mut bytes, ops)?; // no part yet: it has no place in the order of commits
/// let (csn, txn) = (Csn::first(epoch), TxnId::first(epoch));
/// Stamp { participants: 0b1, csn, txn, durable: Csn::default() }.put(&mut bytes)?;
///
/// let Record::Part(part) = Record::decode(&bytes)? else { panic!("it is a part") };
/// assert_eq!(part.stamp.csn, csn);
/// assert!(part.ops().eq(ops));
/// # Ok::<(), engine::txn::redo::RedoError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// What a transaction changes, as far as this log holds it.
    Part(Part<'a>),
    /// A piece of a large value.
    Lob(Lob<'a>),
    /// The store was opened.
    Epoch(EpochRecord),
    /// A root was published.
    Checkpoint(Checkpoint),
    /// How far all logs are durable.
    Mark(Mark),
}

/// What a transaction changes, as far as one log holds it. All parts of a transaction count, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Which transaction, and its place.
    pub stamp: Stamp,
    ops: Ops<'a>,
}

impl<'a> Part<'a> {
    /// Its ops, in the order in which they are applied. None: the part is void, and only takes a number.
    #[must_use]
    pub fn ops(&self) -> Ops<'a> {
        self.ops.clone()
    }
}

/// What is known of a part only when it is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The logs that hold a part of the transaction: bit i for log i, at least one. A void part stands in log 0 alone.
    pub participants: u16,
    /// The transaction's place in the order of commits; not none.
    pub csn: Csn,
    /// The transaction; not none.
    pub txn: TxnId,
    /// A commit that was known to be durable in all logs when this was written, so an earlier one; or none. Evidence.
    pub durable: Csn,
}

impl Stamp {
    /// Writes the stamp into a part of [`encode_part`]: it is one afterwards. Neither its length nor its ops change.
    ///
    /// # Errors
    /// The bytes are not of a part, or a field is out of its range; they are as before.
    pub fn put(&self, part: &mut [u8]) -> Result<(), RedoError> {
        let Some(head) = part.first_chunk_mut::<PART_HEAD_BYTES>() else { return Err(ends(part.len())) };
        if head[part_at::KIND] != RecordKind::Part as u8 {
            return Err(Wrong::Unknown { field: "kind", code: head[part_at::KIND] }.at(part_at::KIND));
        }
        self.check(head[part_at::FLAGS] == VOID)?;
        put(head, part_at::PARTICIPANTS, &self.participants.to_le_bytes());
        put(head, part_at::CSN, &self.csn.to_bits().to_le_bytes());
        put(head, part_at::TXN, &self.txn.to_bits().to_le_bytes());
        put(head, part_at::DURABLE, &self.durable.to_bits().to_le_bytes());
        Ok(())
    }

    /// Of a part that is as long as one without ops, at least.
    fn read(bytes: &[u8]) -> Result<Stamp, RedoError> {
        Ok(Stamp {
            participants: get_u16(bytes, part_at::PARTICIPANTS),
            csn: csn(bytes, part_at::CSN, "csn")?,
            txn: txn(bytes, part_at::TXN)?,
            durable: csn(bytes, part_at::DURABLE, "durable")?,
        })
    }

    fn check(&self, void: bool) -> Result<(), RedoError> {
        let alone = self.participants == 1;
        require(if void { alone } else { self.participants != 0 }, || {
            bad("participants", u64::from(self.participants), part_at::PARTICIPANTS)
        })?;
        require(self.csn != Csn::default(), || bad("csn", 0, part_at::CSN))?;
        require(self.txn != TxnId::default(), || bad("txn", 0, part_at::TXN))?;
        require(self.durable < self.csn, || bad("durable", self.durable.to_bits(), part_at::DURABLE))
    }
}

/// A piece of a large value. It stands before the part that needs it, in the same log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lob<'a> {
    /// Its place in its value, from 0.
    pub piece: u32,
    /// The transaction that wrote it; not none.
    pub txn: TxnId,
    /// The piece before it; none has the first one, and only that.
    pub previous: Option<Lsn>,
    /// 1 to [`MAX_PIECE_BYTES`] bytes.
    pub data: &'a [u8],
}

/// A store was opened: from here on, what it found is final. It stands in every log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// The log that it is written to, from 0.
    pub log: u8,
    /// How many logs the store has: above `log`, at most [`MAX_LOGS`].
    pub logs: u8,
    /// The epoch that begins.
    pub epoch: Epoch,
    /// The last commit of those before it that counts, or none; of no later epoch. Of this one only in a backup.
    pub prev_end: Csn,
    /// The store.
    pub uuid: [u8; 16],
    /// Nanoseconds since the Unix epoch, for people.
    pub wall_ns: i64,
}

/// A root is durable, so the log is released below a record. It stands in every log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log that it is written to, from 0.
    pub log: u8,
    /// How many logs the store has: above `log`, at most [`MAX_LOGS`].
    pub logs: u8,
    /// The epoch that it is written in.
    pub epoch: Epoch,
    /// The root's sequence, from 0.
    pub sequence: u64,
    /// The last commit that the root holds, or none; of no later epoch.
    pub csn: Csn,
    /// This log's first record that is kept; from 1.
    pub release: Lsn,
    /// The store.
    pub uuid: [u8; 16],
}

/// How far all logs are durable, said to a log that may not have heard: evidence, where a store has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The log that it is written to, from 0; below [`MAX_LOGS`].
    pub log: u8,
    /// The epoch that it is written in.
    pub epoch: Epoch,
    /// The last commit that was durable in all logs, or none; of no later epoch.
    pub durable: Csn,
}

/// Appends a part with these ops to `out`. It decodes once it has its [`Stamp`]: an op doesn't depend on what is known only then.
///
/// # Errors
/// An op is out of its ranges, a row has no table, or the part would be longer than [`MAX_PART_BYTES`]; `out` is as before.
pub fn encode_part<'a>(out: &mut Vec<u8>, ops: impl IntoIterator<Item = Op<'a>>) -> Result<(), RedoError> {
    encode_part_within(out, MAX_PART_BYTES, ops)
}

fn encode_part_within<'a>(
    out: &mut Vec<u8>,
    max_bytes: u64,
    ops: impl IntoIterator<Item = Op<'a>>,
) -> Result<(), RedoError> {
    let start = out.len();
    out.extend_from_slice(&[0; PART_HEAD_BYTES]);
    match ops::encode(out, start, max_bytes, ops) {
        Ok(count) => {
            part_head(&mut out[start..], count);
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// What of a part's head follows from its ops.
fn part_head(part: &mut [u8], ops: u32) {
    part[part_at::KIND] = RecordKind::Part as u8;
    part[part_at::FLAGS] = if ops == 0 { VOID } else { 0 };
    put(part, part_at::OPS, &ops.to_le_bytes());
}

impl<'a> Record<'a> {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> RecordKind {
        match self {
            Record::Part(_) => RecordKind::Part,
            Record::Lob(_) => RecordKind::Lob,
            Record::Epoch(_) => RecordKind::Epoch,
            Record::Checkpoint(_) => RecordKind::Checkpoint,
            Record::Mark(_) => RecordKind::Mark,
        }
    }

    /// Appends the record to `out`.
    ///
    /// # Errors
    /// A field is out of its range; `out` is as before.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), RedoError> {
        self.check()?;
        let start = out.len();
        let head_bytes = match self {
            Record::Part(_) => part_at::BODY,
            Record::Lob(_) => lob_at::DATA,
            Record::Epoch(_) => epoch_at::END,
            Record::Checkpoint(_) => checkpoint_at::END,
            Record::Mark(_) => mark_at::END,
        };
        out.resize(start + head_bytes, 0);
        let head = &mut out[start..];
        let kind = self.kind() as u8;
        match self {
            Record::Part(part) => {
                part_head(head, part.ops.len() as u32);
                part.stamp.put(head)?;
                out.extend_from_slice(part.ops.bytes());
            }
            Record::Lob(lob) => {
                head[lob_at::KIND] = kind;
                put(head, lob_at::PIECE, &lob.piece.to_le_bytes());
                put(head, lob_at::TXN, &lob.txn.to_bits().to_le_bytes());
                put(head, lob_at::PREVIOUS, &lob.previous.unwrap_or_default().0.to_le_bytes());
                out.extend_from_slice(lob.data);
            }
            Record::Epoch(record) => {
                head[epoch_at::KIND] = kind;
                put(head, epoch_at::LOG, &[record.log, record.logs]);
                put(head, epoch_at::EPOCH, &record.epoch.get().to_le_bytes());
                put(head, epoch_at::PREV_END, &record.prev_end.to_bits().to_le_bytes());
                put(head, epoch_at::UUID, &record.uuid);
                put(head, epoch_at::WALL_NS, &record.wall_ns.to_le_bytes());
            }
            Record::Checkpoint(record) => {
                head[checkpoint_at::KIND] = kind;
                put(head, checkpoint_at::LOG, &[record.log, record.logs]);
                put(head, checkpoint_at::EPOCH, &record.epoch.get().to_le_bytes());
                put(head, checkpoint_at::SEQUENCE, &record.sequence.to_le_bytes());
                put(head, checkpoint_at::CSN, &record.csn.to_bits().to_le_bytes());
                put(head, checkpoint_at::RELEASE, &record.release.0.to_le_bytes());
                put(head, checkpoint_at::UUID, &record.uuid);
            }
            Record::Mark(mark) => {
                head[mark_at::KIND] = kind;
                put(head, mark_at::LOG, &[mark.log]);
                put(head, mark_at::EPOCH, &mark.epoch.get().to_le_bytes());
                put(head, mark_at::DURABLE, &mark.durable.to_bits().to_le_bytes());
            }
        }
        Ok(())
    }

    /// Reads a record: all of `bytes`, or nothing.
    ///
    /// # Errors
    /// The bytes are not what writing any record gives.
    pub fn decode(bytes: &'a [u8]) -> Result<Record<'a>, RedoError> {
        let code = *bytes.first().ok_or(Wrong::Ends { field: "kind" }.at(0))?;
        let kind = RecordKind::ALL.into_iter().find(|kind| *kind as u8 == code);
        let record = match kind.ok_or(Wrong::Unknown { field: "kind", code }.at(0))? {
            RecordKind::Part => Record::Part(Part::decode(bytes, |_| ())?),
            RecordKind::Lob => Record::Lob(Lob::decode(bytes)?),
            RecordKind::Epoch => Record::Epoch(EpochRecord::decode(bytes)?),
            RecordKind::Checkpoint => Record::Checkpoint(Checkpoint::decode(bytes)?),
            RecordKind::Mark => Record::Mark(Mark::decode(bytes)?),
        };
        record.check()?;
        Ok(record)
    }

    /// What reading and writing both refuse. A part's ops can't be wrong: they were read.
    fn check(&self) -> Result<(), RedoError> {
        match self {
            Record::Part(part) => part.stamp.check(part.ops.len() == 0),
            Record::Lob(lob) => {
                let bytes = lob.data.len() as u64;
                require(lob.txn != TxnId::default(), || bad("txn", 0, lob_at::TXN))?;
                let previous = lob.previous.unwrap_or_default().0;
                // The pieces before it have LSNs, too.
                let fits = if lob.piece == 0 { lob.previous.is_none() } else { previous >= u64::from(lob.piece) };
                require(fits, || bad("previous", previous, lob_at::PREVIOUS))?;
                let fits = (1..=MAX_PIECE_BYTES).contains(&bytes);
                require(fits, || Wrong::Length { field: "data", bytes }.at(lob_at::DATA))
            }
            Record::Epoch(record) => {
                check_log(record.log, record.logs, epoch_at::LOG)?;
                check_epoch("prev_end", record.prev_end, record.epoch, epoch_at::PREV_END)
            }
            Record::Checkpoint(record) => {
                check_log(record.log, record.logs, checkpoint_at::LOG)?;
                check_epoch("csn", record.csn, record.epoch, checkpoint_at::CSN)?;
                require(record.release.0 != 0, || bad("release", 0, checkpoint_at::RELEASE))
            }
            Record::Mark(mark) => {
                check_log(mark.log, MAX_LOGS, mark_at::LOG)?;
                check_epoch("durable", mark.durable, mark.epoch, mark_at::DURABLE)
            }
        }
    }
}

/// Whether a record is a part, if it is [a record](Record::decode) at all.
pub(super) fn is_part(record: &[u8]) -> bool {
    record.first() == Some(&(RecordKind::Part as u8))
}

/// Whether a record is a piece of a value, if it is [one](Record::decode) at all.
pub(super) fn is_piece(record: &[u8]) -> bool {
    record.first() == Some(&(RecordKind::Lob as u8))
}

impl<'a> Part<'a> {
    /// The part out of a record that was [decoded](Record::decode) before, so its ops are not checked again; `None` of another record.
    pub(super) fn again(bytes: &'a [u8]) -> Option<Part<'a>> {
        if bytes.len() < part_at::BODY || bytes[part_at::KIND] != RecordKind::Part as u8 {
            return None;
        }
        Some(Part {
            stamp: Stamp::read(bytes).ok()?,
            ops: Ops::again(bytes, part_at::BODY, get_u32(bytes, part_at::OPS)),
        })
    }

    /// Reads a part as [`Record::decode`] does, and tells its ops on the way: what was told counts if there is no error.
    pub(super) fn decode_with(bytes: &'a [u8], tell: impl FnMut(Op<'a>)) -> Result<Part<'a>, RedoError> {
        let part = Part::decode(bytes, tell)?;
        part.stamp.check(part.ops.len() == 0)?;
        Ok(part)
    }

    fn decode(bytes: &'a [u8], tell: impl FnMut(Op<'a>)) -> Result<Part<'a>, RedoError> {
        at_least(bytes, part_at::BODY)?;
        let length = bytes.len() as u64;
        require(length <= MAX_PART_BYTES, || Wrong::Length { field: "part", bytes: length }.at(part_at::BODY))?;
        let count = get_u32(bytes, part_at::OPS);
        let flags = bytes[part_at::FLAGS];
        require(flags == if count == 0 { VOID } else { 0 }, || bad("flags", u64::from(flags), part_at::FLAGS))?;
        Ok(Part { stamp: Stamp::read(bytes)?, ops: Ops::decode(bytes, part_at::BODY, count, tell)? })
    }
}

impl<'a> Lob<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Lob<'a>, RedoError> {
        at_least(bytes, lob_at::DATA)?;
        zero(bytes, lob_at::ZERO, lob_at::PIECE)?;
        let previous = get_u64(bytes, lob_at::PREVIOUS);
        Ok(Lob {
            piece: get_u32(bytes, lob_at::PIECE),
            txn: txn(bytes, lob_at::TXN)?,
            previous: (previous != 0).then_some(Lsn(previous)),
            data: &bytes[lob_at::DATA..],
        })
    }
}

impl EpochRecord {
    fn decode(bytes: &[u8]) -> Result<EpochRecord, RedoError> {
        exactly(bytes, epoch_at::END)?;
        zero(bytes, epoch_at::ZERO, epoch_at::EPOCH)?;
        Ok(EpochRecord {
            log: bytes[epoch_at::LOG],
            logs: bytes[epoch_at::LOGS],
            epoch: epoch(bytes, epoch_at::EPOCH)?,
            prev_end: csn(bytes, epoch_at::PREV_END, "prev_end")?,
            uuid: array(bytes, epoch_at::UUID),
            wall_ns: i64::from_le_bytes(array(bytes, epoch_at::WALL_NS)),
        })
    }
}

impl Checkpoint {
    fn decode(bytes: &[u8]) -> Result<Checkpoint, RedoError> {
        exactly(bytes, checkpoint_at::END)?;
        zero(bytes, checkpoint_at::ZERO, checkpoint_at::EPOCH)?;
        Ok(Checkpoint {
            log: bytes[checkpoint_at::LOG],
            logs: bytes[checkpoint_at::LOGS],
            epoch: epoch(bytes, checkpoint_at::EPOCH)?,
            sequence: get_u64(bytes, checkpoint_at::SEQUENCE),
            csn: csn(bytes, checkpoint_at::CSN, "csn")?,
            release: Lsn(get_u64(bytes, checkpoint_at::RELEASE)),
            uuid: array(bytes, checkpoint_at::UUID),
        })
    }
}

impl Mark {
    fn decode(bytes: &[u8]) -> Result<Mark, RedoError> {
        exactly(bytes, mark_at::END)?;
        zero(bytes, mark_at::ZERO, mark_at::EPOCH)?;
        Ok(Mark {
            log: bytes[mark_at::LOG],
            epoch: epoch(bytes, mark_at::EPOCH)?,
            durable: csn(bytes, mark_at::DURABLE, "durable")?,
        })
    }
}

#[cfg(test)]
mod format_test;
#[cfg(test)]
mod tests;

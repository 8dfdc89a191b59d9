//! Fields of records, in order or at fixed offsets: every read is checked, and an error says which field is wrong and where.

use thiserror::Error;

use super::MAX_LOGS;
use crate::{
    codec::get_u64,
    txn::ids::{Csn, Epoch, TxnId},
};

/// Why bytes are no record, or why a record can't be written.
///
/// Remedy: where it came from a log, the frame around it had a right checksum, so the record was written like this: by a newer
/// program, or by a defect that is worth a report. Where a record was to be written, it is the caller's: stay within the limits
/// that the fields state.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("byte {offset} of a log record: {wrong}")]
pub struct RedoError {
    /// Offset in bytes, from the record's first one, of what is wrong; if it is part of an op, perhaps of that op.
    pub offset: usize,
    /// What is wrong there.
    pub wrong: Wrong,
}

/// What can be wrong with a record.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Wrong {
    /// The bytes end before the field does.
    #[error("the record ends within {field}")]
    Ends {
        /// The field, by its name in FORMAT.md.
        field: &'static str,
    },
    /// Bytes follow where the record should end.
    #[error("bytes behind the record's end")]
    Trailing,
    /// No record has this kind, or no op this code.
    #[error("no {field} is {code}")]
    Unknown {
        /// `kind` or `op`.
        field: &'static str,
        /// What was found.
        code: u8,
    },
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// A number has more bytes than it needs, or is beyond 64 bits.
    #[error("{field} is not the shortest form of a number of 64 bits")]
    Varint {
        /// The field, by its name in FORMAT.md.
        field: &'static str,
    },
    /// A value that the field can't have, alone or beside the other fields.
    #[error("{field} can't be {value} here")]
    Value {
        /// The field, by its name in FORMAT.md.
        field: &'static str,
        /// What was found.
        value: u64,
    },
    /// A length out of range.
    #[error("{field} can't be {bytes} bytes long")]
    Length {
        /// The field, by its name in FORMAT.md.
        field: &'static str,
        /// What was found.
        bytes: u64,
    },
    /// A name that is not UTF-8.
    #[error("{field} is not UTF-8")]
    Text {
        /// The field, by its name in FORMAT.md.
        field: &'static str,
    },
    /// A change of a row before any op has said of which table.
    #[error("a row of no table")]
    NoTable,
}

impl Wrong {
    pub(super) const fn at(self, offset: usize) -> RedoError {
        RedoError { offset, wrong: self }
    }
}

/// Reads fields of varying length one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// From `at` on; beyond the end there is nothing.
    pub(super) const fn new(bytes: &'a [u8], at: usize) -> Reader<'a> {
        Reader { bytes, at }
    }

    /// Offset of the next field, in bytes.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// What was not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(super) fn bytes(&mut self, length: u64, field: &'static str) -> Result<&'a [u8], RedoError> {
        let taken = usize::try_from(length).ok().and_then(|length| self.rest().get(..length));
        let taken = taken.ok_or(Wrong::Ends { field }.at(self.at))?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], RedoError> {
        let array = self.rest().first_chunk().copied().ok_or(Wrong::Ends { field }.at(self.at))?;
        self.at += N;
        Ok(array)
    }

    pub(super) fn byte(&mut self, field: &'static str) -> Result<u8, RedoError> {
        self.array(field).map(|[byte]| byte)
    }

    /// LEB128: seven bits per byte, the lowest first, the high bit of a byte says that more follow. Only the shortest form.
    pub(super) fn varint(&mut self, field: &'static str) -> Result<u64, RedoError> {
        let start = self.at;
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte(field)?;
            let bits = u64::from(byte & 0x7F);
            value |= bits << shift;
            if byte < 0x80 {
                let shortest = (shift == 0 || byte != 0) && (value >> shift) == bits;
                return if shortest { Ok(value) } else { Err(Wrong::Varint { field }.at(start)) };
            }
        }
        Err(Wrong::Varint { field }.at(start))
    }

    /// A varint that fits into 32 bits.
    pub(super) fn varint_u32(&mut self, field: &'static str) -> Result<u32, RedoError> {
        let start = self.at;
        let value = self.varint(field)?;
        u32::try_from(value).map_err(|_| Wrong::Value { field, value }.at(start))
    }
}

/// Appends the shortest form of a number.
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

// --- Fields at fixed offsets: lengths first, then each field

pub(super) fn require(holds: bool, error: impl FnOnce() -> RedoError) -> Result<(), RedoError> {
    if holds { Ok(()) } else { Err(error()) }
}

pub(super) const fn bad(field: &'static str, value: u64, at: usize) -> RedoError {
    Wrong::Value { field, value }.at(at)
}

pub(super) const fn ends(length: usize) -> RedoError {
    Wrong::Ends { field: "the fixed fields" }.at(length)
}

pub(super) fn at_least(bytes: &[u8], length: usize) -> Result<(), RedoError> {
    require(bytes.len() >= length, || ends(bytes.len()))
}

pub(super) fn exactly(bytes: &[u8], length: usize) -> Result<(), RedoError> {
    at_least(bytes, length)?;
    require(bytes.len() == length, || Wrong::Trailing.at(length))
}

pub(super) fn zero(bytes: &[u8], from: usize, to: usize) -> Result<(), RedoError> {
    require(bytes[from..to].iter().all(|byte| *byte == 0), || Wrong::Reserved.at(from))
}

pub(super) fn csn(bytes: &[u8], at: usize, field: &'static str) -> Result<Csn, RedoError> {
    let bits = get_u64(bytes, at);
    Csn::from_bits(bits).ok_or(bad(field, bits, at))
}

pub(super) fn txn(bytes: &[u8], at: usize) -> Result<TxnId, RedoError> {
    let bits = get_u64(bytes, at);
    TxnId::from_bits(bits).ok_or(bad("txn", bits, at))
}

pub(super) fn epoch(bytes: &[u8], at: usize) -> Result<Epoch, RedoError> {
    let number = get_u64(bytes, at);
    Epoch::new(number).ok_or(bad("epoch", number, at))
}

pub(super) fn check_log(log: u8, logs: u8, at: usize) -> Result<(), RedoError> {
    require(logs <= MAX_LOGS, || bad("logs", u64::from(logs), at + 1))?;
    require(log < logs, || bad("log", u64::from(log), at))
}

pub(super) fn check_epoch(field: &'static str, csn: Csn, epoch: Epoch, at: usize) -> Result<(), RedoError> {
    require(csn.epoch() <= Some(epoch), || bad(field, csn.to_bits(), at))
}

pub(super) fn put(record: &mut [u8], at: usize, bytes: &[u8]) {
    record[at..at + bytes.len()].copy_from_slice(bytes);
}

//! The ops of a part: which rows of which tables get which values, and which tables come and go. After-images only, so that
//! applying them twice in the same order is applying them once.

use super::{
    MAX_KEY_BYTES, MAX_LOGS, MAX_NAME_BYTES, MAX_PIECE_BYTES, MAX_VALUE_BYTES,
    reader::{Reader, RedoError, Wrong, put_varint},
};
use crate::{txn::ids::TableId, wal::Lsn};

/// First byte of an op; FORMAT.md is held against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Table = 1,
    Put = 2,
    Delete = 3,
    PutLob = 4,
    Create = 5,
    Drop = 6,
}

impl Code {
    pub(super) const ALL: [Code; 6] = [Code::Table, Code::Put, Code::Delete, Code::PutLob, Code::Create, Code::Drop];
}

/// One op. Ranges are those of a record that decodes; another op is refused when it is written, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// The rows behind it, up to the next one of these, are of this table.
    Table {
        /// Which one; not 0, the catalog.
        id: TableId,
        /// The version of the table's metadata that they were written under.
        meta: u64,
    },
    /// The row has this value now.
    Put {
        /// 0 to [`MAX_KEY_BYTES`] bytes.
        key: &'a [u8],
        /// 0 to [`MAX_VALUE_BYTES`] bytes.
        value: &'a [u8],
    },
    /// The row is gone.
    Delete {
        /// 0 to [`MAX_KEY_BYTES`] bytes.
        key: &'a [u8],
    },
    /// The row has a value now that stands in pieces before the part, in the same log.
    PutLob {
        /// 0 to [`MAX_KEY_BYTES`] bytes.
        key: &'a [u8],
        /// Where the value stands.
        value: LobRef,
    },
    /// A table is there from this commit on.
    Create {
        /// Its number; not 0.
        id: TableId,
        /// The log that its rows are written to, from 0; below [`MAX_LOGS`].
        log: u8,
        /// 1 to [`MAX_NAME_BYTES`] bytes.
        name: &'a str,
        /// What it holds.
        shape: Shape<'a>,
    },
    /// A table is gone from this commit on, with all its rows.
    Drop {
        /// Its number; not 0.
        id: TableId,
    },
}

/// A value in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LobRef {
    /// Length of the value: 1 to [`MAX_VALUE_BYTES`] bytes.
    pub bytes: u64,
    /// CRC-32 of the value.
    pub crc: u32,
    /// How many pieces; none is empty, and none longer than [`MAX_PIECE_BYTES`].
    pub pieces: u32,
    /// The last piece's LSN, which leads to the others. At least `pieces`.
    pub last: Lsn,
}

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape<'a> {
    /// Rows that are logged.
    Rows,
    /// Rows that are never logged: empty after an open.
    Memory,
    /// What is derived from another table's rows; never logged.
    Index {
        /// The other table: an older one, so of a lower number.
        of: TableId,
        /// The function's name, 1 to [`MAX_NAME_BYTES`] bytes.
        derive: &'a str,
    },
}

impl Shape<'_> {
    /// Its code on the disk.
    pub(super) const fn code(self) -> u8 {
        match self {
            Shape::Rows => 1,
            Shape::Memory => 2,
            Shape::Index { .. } => 3,
        }
    }
}

impl<'a> Op<'a> {
    pub(super) const fn code(&self) -> Code {
        match self {
            Op::Table { .. } => Code::Table,
            Op::Put { .. } => Code::Put,
            Op::Delete { .. } => Code::Delete,
            Op::PutLob { .. } => Code::PutLob,
            Op::Create { .. } => Code::Create,
            Op::Drop { .. } => Code::Drop,
        }
    }

    /// Whether it is of a table that an op before it has to name.
    const fn is_row(&self) -> bool {
        matches!(self, Op::Put { .. } | Op::Delete { .. } | Op::PutLob { .. })
    }

    /// What reading and writing both refuse.
    fn check(&self) -> Result<(), Wrong> {
        match *self {
            Op::Table { id, .. } | Op::Drop { id } => table(id),
            Op::Delete { key } => length("key", key.len() as u64, 0, MAX_KEY_BYTES),
            Op::Put { key, value } => {
                length("key", key.len() as u64, 0, MAX_KEY_BYTES)?;
                length("value", value.len() as u64, 0, MAX_VALUE_BYTES)
            }
            Op::PutLob { key, value } => {
                length("key", key.len() as u64, 0, MAX_KEY_BYTES)?;
                length("lob", value.bytes, 1, MAX_VALUE_BYTES)?;
                let pieces = u64::from(value.pieces);
                if pieces < value.bytes.div_ceil(MAX_PIECE_BYTES) || pieces > value.bytes {
                    return Err(Wrong::Value { field: "pieces", value: pieces });
                }
                if value.last.0 < pieces { Err(Wrong::Value { field: "last", value: value.last.0 }) } else { Ok(()) }
            }
            Op::Create { id, log, name, shape } => {
                table(id)?;
                if log >= MAX_LOGS {
                    return Err(Wrong::Value { field: "log", value: u64::from(log) });
                }
                length("name", name.len() as u64, 1, MAX_NAME_BYTES)?;
                let Shape::Index { of, derive } = shape else { return Ok(()) };
                if of.0 == 0 || of >= id {
                    return Err(Wrong::Value { field: "of", value: u64::from(of.0) });
                }
                length("derive", derive.len() as u64, 1, MAX_NAME_BYTES)
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.code() as u8);
        match *self {
            Op::Table { id, meta } => {
                put_varint(out, u64::from(id.0));
                put_varint(out, meta);
            }
            Op::Put { key, value } => {
                put_varint(out, key.len() as u64);
                put_varint(out, value.len() as u64);
                out.extend_from_slice(key);
                out.extend_from_slice(value);
            }
            Op::Delete { key } => {
                put_varint(out, key.len() as u64);
                out.extend_from_slice(key);
            }
            Op::PutLob { key, value: LobRef { bytes, crc, pieces, last } } => {
                put_varint(out, key.len() as u64);
                out.extend_from_slice(key);
                put_varint(out, bytes);
                out.extend_from_slice(&crc.to_le_bytes());
                put_varint(out, u64::from(pieces));
                out.extend_from_slice(&last.0.to_le_bytes());
            }
            Op::Create { id, log, name, shape } => {
                let (of, derive) = match shape {
                    Shape::Index { of, derive } => (of.0, derive),
                    Shape::Rows | Shape::Memory => (0, ""),
                };
                put_varint(out, u64::from(id.0));
                out.extend_from_slice(&[shape.code(), log]);
                put_varint(out, u64::from(of));
                put_varint(out, name.len() as u64);
                put_varint(out, derive.len() as u64);
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(derive.as_bytes());
            }
            Op::Drop { id } => put_varint(out, u64::from(id.0)),
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Op<'a>, RedoError> {
        let start = reader.at();
        let byte = reader.byte("op")?;
        let code = Code::ALL.into_iter().find(|code| *code as u8 == byte);
        let op = match code.ok_or(Wrong::Unknown { field: "op", code: byte }.at(start))? {
            Code::Table => Op::Table { id: TableId(reader.varint_u32("id")?), meta: reader.varint("meta")? },
            Code::Put => {
                let (key_bytes, value_bytes) = (reader.varint("key_bytes")?, reader.varint("value_bytes")?);
                Op::Put { key: reader.bytes(key_bytes, "key")?, value: reader.bytes(value_bytes, "value")? }
            }
            Code::Delete => {
                let key_bytes = reader.varint("key_bytes")?;
                Op::Delete { key: reader.bytes(key_bytes, "key")? }
            }
            Code::PutLob => {
                let key_bytes = reader.varint("key_bytes")?;
                let key = reader.bytes(key_bytes, "key")?;
                let bytes = reader.varint("lob_bytes")?;
                let crc = u32::from_le_bytes(reader.array("crc")?);
                let pieces = reader.varint_u32("pieces")?;
                let last = Lsn(u64::from_le_bytes(reader.array("last")?));
                Op::PutLob { key, value: LobRef { bytes, crc, pieces, last } }
            }
            Code::Create => {
                let id = TableId(reader.varint_u32("id")?);
                let [kind, log] = [reader.byte("kind")?, reader.byte("log")?];
                let of = TableId(reader.varint_u32("of")?);
                let (name_bytes, derive_bytes) = (reader.varint("name_bytes")?, reader.varint("derive_bytes")?);
                let name = text(reader, name_bytes, "name")?;
                let derive = text(reader, derive_bytes, "derive")?;
                let shape = match kind {
                    1 => Shape::Rows,
                    2 => Shape::Memory,
                    3 => Shape::Index { of, derive },
                    _ => return Err(Wrong::Value { field: "kind", value: u64::from(kind) }.at(start)),
                };
                if kind != 3 && of.0 != 0 {
                    return Err(Wrong::Value { field: "of", value: u64::from(of.0) }.at(start));
                }
                if kind != 3 && !derive.is_empty() {
                    return Err(Wrong::Length { field: "derive", bytes: derive_bytes }.at(start));
                }
                Op::Create { id, log, name, shape }
            }
            Code::Drop => Op::Drop { id: TableId(reader.varint_u32("id")?) },
        };
        op.check().map_err(|wrong| wrong.at(start))?;
        Ok(op)
    }
}

/// Checks one op after the other: each alone, and that a row has a table.
#[derive(Default)]
struct Sections {
    table: bool,
}

impl Sections {
    fn admit(&mut self, op: &Op<'_>) -> Result<(), Wrong> {
        self.table |= matches!(op, Op::Table { .. });
        if op.is_row() && !self.table { Err(Wrong::NoTable) } else { Ok(()) }
    }
}

/// The ops of a part, in the order in which they are applied. They were checked as a whole; each is read when it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ops<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Ops<'a> {
    /// Those of a record that was decoded before.
    pub(super) fn again(record: &'a [u8], at: usize, count: u32) -> Ops<'a> {
        Ops { reader: Reader::new(Reader::new(record, at).rest(), 0), left: count }
    }

    /// `count` ops from `at` to the end of `record`; each is told once it was checked, though a later one may be wrong.
    pub(super) fn decode(
        record: &'a [u8],
        at: usize,
        count: u32,
        mut tell: impl FnMut(Op<'a>),
    ) -> Result<Ops<'a>, RedoError> {
        let mut reader = Reader::new(record, at);
        let ops = Ops::again(record, at, count);
        let mut sections = Sections::default();
        for _ in 0..count {
            let start = reader.at();
            let op = Op::read(&mut reader)?;
            sections.admit(&op).map_err(|wrong| wrong.at(start))?;
            tell(op);
        }
        if reader.rest().is_empty() { Ok(ops) } else { Err(Wrong::Trailing.at(reader.at())) }
    }

    /// The bytes of those that are left.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.reader.rest()
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Op<'a>;

    fn next(&mut self) -> Option<Op<'a>> {
        self.left = self.left.checked_sub(1)?;
        Op::read(&mut self.reader).ok() // `decode` has read the same
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Ops<'_> {}

/// Appends `ops` to `out`, where `start` is the record's first byte, and says how many there were. On an error `out` holds some.
pub(super) fn encode<'a>(
    out: &mut Vec<u8>,
    start: usize,
    max_bytes: u64,
    ops: impl IntoIterator<Item = Op<'a>>,
) -> Result<u32, RedoError> {
    let mut sections = Sections::default();
    let mut count = 0_u32;
    for op in ops {
        let at = out.len() - start;
        op.check().and_then(|()| sections.admit(&op)).map_err(|wrong| wrong.at(at))?;
        op.write(out);
        let bytes = (out.len() - start) as u64;
        // An op takes 2 bytes at least, so the length bounds the count as well.
        if bytes > max_bytes {
            return Err(Wrong::Length { field: "part", bytes }.at(at));
        }
        count += 1;
    }
    Ok(count)
}

fn table(id: TableId) -> Result<(), Wrong> {
    if id.0 == 0 { Err(Wrong::Value { field: "id", value: 0 }) } else { Ok(()) }
}

fn length(field: &'static str, bytes: u64, min: u64, max: u64) -> Result<(), Wrong> {
    if (min..=max).contains(&bytes) { Ok(()) } else { Err(Wrong::Length { field, bytes }) }
}

fn text<'a>(reader: &mut Reader<'a>, length: u64, field: &'static str) -> Result<&'a str, RedoError> {
    let start = reader.at();
    std::str::from_utf8(reader.bytes(length, field)?).map_err(|_| Wrong::Text { field }.at(start))
}

//! Values in pieces, put together again.

use bytes::Bytes;

use crate::{
    txn::{
        ids::TxnId,
        overlay::Value,
        redo::{Lob, LobRef, Record},
    },
    wal::Lsn,
};

/// Pieces of a log, by LSN.
pub(super) type Pieces = Vec<(Lsn, Bytes)>;

/// The value that a part of `txn` names, from the pieces of its log.
///
/// # Errors
/// What no run of the program writes: a piece is missing, or not what the part says.
pub(super) fn assemble(log: &Pieces, txn: TxnId, value: LobRef) -> Result<Value, String> {
    let LobRef { bytes, crc, pieces, last } = value;
    let mut found: Vec<&[u8]> = Vec::new();
    let (mut left, mut at) = (bytes, Some(last));
    for piece in (0..pieces).rev() {
        let wrong =
            || format!("piece {piece} of a value, record {}, is missing or of another value", at.unwrap_or_default());
        let lob = at.and_then(|lsn| piece_at(log, lsn)).filter(|lob| (lob.piece, lob.txn) == (piece, txn));
        let lob = lob.ok_or_else(wrong)?;
        left = left.checked_sub(lob.data.len() as u64).ok_or_else(wrong)?;
        found.push(lob.data);
        // (An earlier one stands before it: so this ends, whatever the records say.)
        at = lob.previous.filter(|previous| at.is_some_and(|at| *previous < at));
    }
    let value = found.into_iter().rev().collect::<Vec<_>>().concat();
    match left == 0 && crc32fast::hash(&value) == crc {
        true => Ok(value.into()),
        false => Err(format!(
            "a value of {bytes} bytes in {pieces} pieces, the last of them record {last}, is not what was written"
        )),
    }
}

fn piece_at(log: &Pieces, lsn: Lsn) -> Option<Lob<'_>> {
    let place = log.binary_search_by_key(&lsn, |(lsn, _)| *lsn).ok()?;
    match Record::decode(&log[place].1) {
        Ok(Record::Lob(lob)) => Some(lob),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::ids::Epoch;

    fn txn(number: u64) -> TxnId {
        TxnId::from_bits(TxnId::first(Epoch::FIRST).to_bits() + number).expect("there are many")
    }

    /// Pieces of one byte each from record 3 on: their place, their transaction, the one before, their byte.
    fn log(pieces: &[(u32, u64, u64, u8)]) -> Pieces {
        let mut log = Pieces::new();
        for (lsn, (piece, number, previous, byte)) in (3..).zip(pieces) {
            let previous = (*previous != 0).then_some(Lsn(*previous));
            let mut record = Vec::new();
            let lob = Lob { piece: *piece, txn: txn(*number), previous, data: &[*byte] };
            Record::Lob(lob).encode(&mut record).expect("it is within its ranges");
            log.push((Lsn(lsn), record.into()));
        }
        log
    }

    fn value(bytes: &[u8], last: u64) -> LobRef {
        LobRef { bytes: bytes.len() as u64, crc: crc32fast::hash(bytes), pieces: bytes.len() as u32, last: Lsn(last) }
    }

    #[test]
    fn a_value_is_put_together_in_order_whatever_stands_between() {
        let log = log(&[(0, 1, 0, b'a'), (0, 2, 0, b'x'), (1, 1, 3, b'b'), (1, 2, 4, b'y'), (2, 1, 5, b'c')]);
        assert_eq!(assemble(&log, txn(1), value(b"abc", 7)).as_deref(), Ok(&b"abc"[..]));
        assert_eq!(assemble(&log, txn(2), value(b"xy", 6)).as_deref(), Ok(&b"xy"[..]));
    }

    #[test]
    fn a_piece_that_is_missing_or_wrong_is_refused() {
        let whole = [(0, 1, 0, b'a'), (1, 1, 3, b'b'), (2, 1, 4, b'c')];
        assert!(assemble(&log(&whole), txn(1), value(b"abc", 5)).is_ok());
        let mut first_is_gone = log(&whole);
        first_is_gone.remove(0);
        assert!(assemble(&first_is_gone, txn(1), value(b"abc", 5)).is_err());
        let mut no_piece = log(&whole);
        no_piece[1].1 = b"?".as_slice().into();
        assert!(assemble(&no_piece, txn(1), value(b"abc", 5)).is_err());
        for (wrong, named) in [
            ([(0, 1, 0, b'a'), (1, 2, 3, b'b'), (2, 1, 4, b'c')], value(b"abc", 5)),
            ([(0, 1, 0, b'a'), (1, 1, 3, b'x'), (2, 1, 4, b'c')], value(b"abc", 5)),
            ([(0, 1, 0, b'a'), (1, 1, 3, b'b'), (2, 1, 5, b'c')], value(b"abc", 5)),
            ([(0, 1, 0, b'a'), (1, 1, 3, b'b'), (1, 1, 3, b'c')], value(b"abc", 5)),
            (whole, value(b"abc", 6)),
            (whole, value(b"bc", 5)),
            (whole, LobRef { bytes: 2, ..value(b"abc", 5) }),
            (whole, LobRef { bytes: 4, ..value(b"abc", 5) }),
            (whole, LobRef { pieces: 4, bytes: 4, ..value(b"abc", 5) }),
        ] {
            assert!(assemble(&log(&wrong), txn(1), named).is_err(), "{wrong:?} {named:?}");
        }
    }
}

//! Checksums within a log that Redis reads all the same: they stand in annotations, which it skips.
//!
//! What is written at once is a *batch*: a line `#SW:<bytes> <crc> <durable>`, in hexadecimal digits of fixed width, and then so
//! many bytes of commands. The CRC-32 covers the salt of the file, the offset of the line, and all that the line and the batch
//! say, so nothing of an earlier file passes in its place. `durable` is how far the file was durable when the batch was written:
//! a batch that is not whole, below what a later one states, was damaged, and above that it was torn by a crash. The salt stands
//! in the manifest (key `salt`), which is durable before the first byte of the file is written.

use crc32fast::Hasher;

/// Length of the line, its end included.
pub(super) const LINE_BYTES: usize = 36;
/// What it begins with.
pub(super) const MARK: &[u8] = b"#SW:";

/// What the line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    /// Bytes of the batch behind the line.
    pub(super) bytes: u32,
    pub(super) crc: u32,
    /// How far the file was durable, in bytes; 48 bits.
    pub(super) durable: u64,
}

impl Sum {
    /// The line at the beginning of `bytes`, if there is one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Sum> {
        let line = bytes.get(..LINE_BYTES)?;
        let rest = line.strip_prefix(MARK)?.strip_suffix(b"\r\n")?;
        let field = |from: usize, digits: usize| {
            let text = &rest[from..from + digits];
            let lower = text.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
            let text = std::str::from_utf8(text).ok().filter(|_| lower)?;
            u64::from_str_radix(text, 16).ok()
        };
        if rest[8] != b' ' || rest[17] != b' ' {
            return None;
        }
        Some(Sum { bytes: field(0, 8)? as u32, crc: field(9, 8)? as u32, durable: field(18, 12)? })
    }

    /// Whether it is true of `batch`, which follows a line at `offset` of the file with this salt.
    pub(super) fn holds(self, salt: u32, offset: u64, batch: &[u8]) -> bool {
        let mut hasher = begin(salt, offset, self.durable, self.bytes);
        hasher.update(batch);
        batch.len() == self.bytes as usize && hasher.finalize() == self.crc
    }

    fn write(self, line: &mut [u8]) {
        line.copy_from_slice(b"#SW:00000000 00000000 000000000000\r\n");
        hex(&mut line[4..12], u64::from(self.bytes));
        hex(&mut line[13..21], u64::from(self.crc));
        hex(&mut line[22..34], self.durable);
    }
}

/// (Without an allocation, as all that is done once per write.)
fn hex(places: &mut [u8], mut number: u64) {
    for place in places.iter_mut().rev() {
        *place = b"0123456789abcdef"[(number % 16) as usize];
        number /= 16;
    }
}

fn begin(salt: u32, offset: u64, durable: u64, bytes: u32) -> Hasher {
    let mut hasher = Hasher::new();
    let mut head = [0; 24];
    head[..4].copy_from_slice(&salt.to_le_bytes());
    head[4..12].copy_from_slice(&offset.to_le_bytes());
    head[12..20].copy_from_slice(&durable.to_le_bytes());
    head[20..].copy_from_slice(&bytes.to_le_bytes());
    hasher.update(&head);
    hasher
}

/// Fills in the line that `batch` begins with; it will stand at `offset`.
pub(super) fn seal(batch: &mut [u8], salt: u32, offset: u64, durable: u64) {
    let (line, data) = batch.split_at_mut(LINE_BYTES);
    let bytes = data.len() as u32;
    let mut hasher = begin(salt, offset, durable, bytes);
    hasher.update(data);
    Sum { bytes, crc: hasher.finalize(), durable }.write(line);
}

/// The same for a batch of which only the beginning is at hand: the rest is known by its plain CRC-32.
pub(super) fn seal_part(part: &mut [u8], salt: u32, offset: u64, durable: u64, data: (u32, u32)) {
    let (bytes, crc) = data;
    let mut hasher = begin(salt, offset, durable, bytes);
    hasher.combine(&Hasher::new_with_initial_len(crc, u64::from(bytes)));
    Sum { bytes, crc: hasher.finalize(), durable }.write(&mut part[..LINE_BYTES]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_line_is_as_documented() {
        let mut line = [0; LINE_BYTES];
        Sum { bytes: 0x12, crc: 0xdead_beef, durable: 0x0123_4567_89ab }.write(&mut line);
        assert_eq!(line.as_slice(), b"#SW:00000012 deadbeef 0123456789ab\r\n");
    }

    proptest! {
        #[test]
        fn a_batch_is_known_at_its_place_only(
            data: Vec<u8>, salt: u32, offset in 0..1_u64 << 48, durable in 0..1_u64 << 48, bit: usize,
        ) {
            let mut batch = [vec![0; LINE_BYTES], data.clone()].concat();
            seal(&mut batch, salt, offset, durable);
            let sum = Sum::parse(&batch).unwrap();
            prop_assert_eq!((sum.bytes as usize, sum.durable), (data.len(), durable));
            prop_assert!(sum.holds(salt, offset, &data));
            prop_assert!(!sum.holds(salt ^ 1, offset, &data));
            prop_assert!(!sum.holds(salt, offset + 1, &data));
            let mut part = vec![0; LINE_BYTES];
            seal_part(&mut part, salt, offset, durable, (data.len() as u32, crc32fast::hash(&data)));
            prop_assert_eq!(&part, &batch[..LINE_BYTES]);
            let bit = bit % (8 * batch.len());
            batch[bit / 8] ^= 1 << (bit % 8);
            let changed = Sum::parse(&batch).is_some_and(|sum| sum.holds(salt, offset, &batch[LINE_BYTES..]));
            prop_assert!(!changed, "bit {}", bit);
        }
    }
}

//! The rows of all measurements: keys of 16 bytes, values of 100, the same ones in every run.
//!
//! Keys ascend with their number and have random bytes behind it, so that no engine gains by long common beginnings; values don't
//! compress.

pub type Key = [u8; 16];

pub const VALUE_BYTES: usize = 100;

/// The rows 0 to `count`, that one not included.
pub struct Rows {
    count: u64,
    bits: u32,
    noise: Vec<u8>,
}

impl Rows {
    pub fn new(count: u64) -> Rows {
        let noise = (0..1 << 17).flat_map(|word| mix(word).to_le_bytes()).collect();
        Rows { count, bits: (u64::BITS - (count - 1).leading_zeros()).max(2), noise }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The row's key, in the order of numbers.
    pub fn key(&self, number: u64) -> Key {
        let head = number << (u64::BITS - self.bits) | mix(number) >> self.bits;
        let mut key = [0; 16];
        key[..8].copy_from_slice(&head.to_be_bytes());
        key[8..].copy_from_slice(&mix(!number).to_be_bytes());
        key
    }

    pub fn value(&self, number: u64) -> &[u8] {
        let at = mix(number) as usize % (self.noise.len() - VALUE_BYTES);
        &self.noise[at..at + VALUE_BYTES]
    }

    /// The number at a place of one fixed random order: each number once in `count` places, then again.
    pub fn shuffled(&self, place: u64) -> u64 {
        let mask = (1 << self.bits) - 1;
        let mut number = place % self.count;
        loop {
            // Each step can be undone within `bits` bits, so that no two places meet.
            for factor in [0x9e37_79b9_7f4a_7c15_u64, 0xc2b2_ae3d_27d4_eb4f] {
                number = number.wrapping_mul(factor) & mask;
                number ^= number >> (self.bits / 2);
            }
            number = number.wrapping_add(0x5851_f42d) & mask;
            if number < self.count {
                return number;
            }
        }
    }
}

fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_random_order_has_each_row_once() {
        for count in [1, 2, 3, 1000, 4096, 4097] {
            let rows = Rows::new(count);
            let mut numbers: Vec<u64> = (0..count).map(|place| rows.shuffled(place)).collect();
            assert!(count < 1000 || !numbers.is_sorted());
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..count), "{count} rows");
        }
    }

    #[test]
    fn keys_ascend() {
        let rows = Rows::new(1000);
        assert!((1..1000).all(|number| rows.key(number - 1) < rows.key(number)));
    }
}

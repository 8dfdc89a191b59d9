//! Numbers that never repeat: commits, transactions, epochs, tables, pages.
//!
//! A store that is opened again begins a new epoch, and commit and transaction numbers carry it in front. So no number that was ever
//! given out is given out again, whatever a crash took: an epoch is durable before the first number of it is used.

use std::fmt;

/// Bits of a number within an epoch.
const NUMBER_BITS: u32 = 40;

/// One successful open of a store: 1 to 2^24 - 1. 0 stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u32);

impl Epoch {
    /// That of a new store.
    pub const FIRST: Epoch = Epoch(1);

    /// The last one that there is.
    pub const LAST: Epoch = Epoch((1 << (u64::BITS - NUMBER_BITS)) - 1);

    /// An epoch by its number; `None` if there is no such.
    ///
    /// ```
    /// use engine::txn::ids::Epoch;
    /// assert!(Epoch::new(1).is_some() && Epoch::new((1 << 24) - 1).is_some());
    /// assert!(Epoch::new(0).is_none() && Epoch::new(1 << 24).is_none());
    /// ```
    #[must_use]
    pub const fn new(number: u64) -> Option<Epoch> {
        if number == 0 || number > Epoch::LAST.0 as u64 { None } else { Some(Epoch(number as u32)) }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0 as u64
    }

    /// The one after it; `None` once all are used.
    #[must_use]
    pub const fn next(self) -> Option<Epoch> {
        Epoch::new(self.get() + 1)
    }
}

macro_rules! numbered {
    ($(#[$about:meta])* $name:ident) => {
        $(#[$about])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The first of an epoch.
            #[must_use]
            pub const fn first(epoch: Epoch) -> $name {
                $name((epoch.get() << NUMBER_BITS) | 1)
            }

            /// As it stands on the disk. 0 is none.
            #[must_use]
            pub const fn to_bits(self) -> u64 {
                self.0
            }

            /// From the disk; `None` if no such number was ever given out. 0 is none, and is one.
            #[must_use]
            pub const fn from_bits(bits: u64) -> Option<$name> {
                let number = $name(bits);
                let (epoch, within) = (bits >> NUMBER_BITS, bits & ((1 << NUMBER_BITS) - 1));
                if bits == 0 || epoch != 0 && within != 0 { Some(number) } else { None }
            }

            /// The next one of the same epoch; `None` once all 2^40 - 1 of it are used.
            #[must_use]
            pub const fn next(self) -> Option<$name> {
                match $name::from_bits(self.0.wrapping_add(1)) {
                    Some(next) if self.0 != 0 => Some(next),
                    _ => None,
                }
            }

            /// Its epoch; `None` of none.
            #[must_use]
            pub const fn epoch(self) -> Option<Epoch> {
                Epoch::new(self.0 >> NUMBER_BITS)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.0 >> NUMBER_BITS, self.0 & ((1 << NUMBER_BITS) - 1))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

numbered! {
    /// The place of a transaction in the order of commits. Larger is later.
    ///
    /// ```
    /// use engine::txn::ids::{Csn, Epoch};
    /// let epoch = Epoch::new(3).expect("there is one");
    /// let first = Csn::first(epoch);
    /// assert_eq!((first.to_string().as_str(), first.epoch()), ("3.1", Some(epoch)));
    /// assert!(first.next() > Some(first) && Csn::first(epoch.next().expect("a next one")) > first);
    /// assert_eq!(Csn::from_bits(7), None, "it is of no epoch");
    /// ```
    Csn
}

numbered! {
    /// A transaction. One that began later has a larger one.
    TxnId
}

/// A table, for the life of its store: the number of a dropped one is not given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

/// A page: its chunk file, and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo {
    /// The chunk file, from 1.
    pub chunk: u32,
    /// The page within it; page 0 is the file's header.
    pub index: u32,
}

impl PageNo {
    /// As it stands on the disk.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        ((self.chunk as u64) << 32) | self.index as u64
    }

    /// From the disk; `None` where no page can be.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<PageNo> {
        let page = PageNo { chunk: (bits >> 32) as u32, index: bits as u32 };
        if page.chunk == 0 || page.index == 0 { None } else { Some(page) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_with_their_epoch() {
        let last = Csn::from_bits((1 << NUMBER_BITS) | ((1 << NUMBER_BITS) - 1)).expect("the last of epoch 1");
        assert_eq!((last.next(), last.epoch()), (None, Epoch::new(1)));
        assert_eq!((Csn::default().next(), Csn::default().epoch()), (None, None));
        assert_eq!(Epoch::LAST.next(), None);
        assert_eq!(Csn::first(Epoch::LAST).epoch(), Some(Epoch::LAST));
    }

    #[test]
    fn bits_come_back_or_are_none() {
        for bits in [0, (1 << 40) | 1, (9 << 40) | 77, u64::MAX] {
            assert_eq!(TxnId::from_bits(bits).map(TxnId::to_bits), Some(bits));
        }
        for bits in [1, 1 << 40, (1 << 40) - 1] {
            assert_eq!(TxnId::from_bits(bits), None);
        }
        let page = PageNo { chunk: 7, index: 9 };
        assert_eq!(PageNo::from_bits(page.to_bits()), Some(page));
        assert_eq!((PageNo::from_bits(7), PageNo::from_bits(7 << 32)), (None, None));
    }
}

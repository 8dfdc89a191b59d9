//! The choice among the legal states: one bias per crash or per file, so that whole files, prefixes in time and single
//! sectors all get their turn at being lost.

use super::CutReport;
use crate::prng::Prng;

/// Draws what survives.
pub(super) struct Draw<'a> {
    pub(super) prng: &'a mut Prng,
    pub(super) report: CutReport,
    bias: Bias,
}

#[derive(Clone, Copy)]
pub(super) enum Bias {
    /// Each effect survives in so many of 256 cases.
    Odds(u64),
    /// What was issued before this effect survives, nothing later.
    Before(u64),
    /// Each file and directory draws its own bias.
    Each,
}

impl<'a> Draw<'a> {
    pub(super) fn odds(prng: &'a mut Prng, odds: u64) -> Draw<'a> {
        Draw { prng, report: CutReport::default(), bias: Bias::Odds(odds) }
    }

    /// A bias for the whole crash; `newest` is the newest effect.
    pub(super) fn new(prng: &'a mut Prng, oldest: u64, newest: u64) -> Draw<'a> {
        let bias = if prng.chance(1, 4) { Bias::Each } else { one(prng, oldest, newest) };
        Draw { prng, report: CutReport::default(), bias }
    }

    /// A bias for one file or directory, whose effects lie in `oldest..=newest`.
    pub(super) fn enter(&mut self, oldest: u64, newest: u64) -> Bias {
        let outer = self.bias;
        if let Bias::Each = outer {
            self.bias = one(self.prng, oldest, newest);
        }
        outer
    }

    pub(super) fn leave(&mut self, outer: Bias) {
        self.bias = outer;
    }

    /// Whether one effect survives by itself.
    pub(super) fn keeps(&mut self, seq: u64) -> bool {
        match self.bias {
            Bias::Odds(0) => false,
            Bias::Odds(256) => true,
            Bias::Odds(odds) => self.prng.chance(odds, 256),
            Bias::Before(limit) => seq < limit,
            Bias::Each => self.prng.chance(1, 2),
        }
    }

    /// How many of a chain of effects survive: each one only with all before it.
    pub(super) fn prefix(&mut self, mut chain: impl ExactSizeIterator<Item = u64>) -> usize {
        let length = chain.len();
        if length == 0 {
            return 0;
        }
        match self.bias {
            Bias::Before(limit) => chain.position(|seq| seq >= limit).unwrap_or(length),
            Bias::Odds(256) => length,
            _ => {
                let first = chain.next().unwrap_or(0);
                if !self.keeps(first) {
                    0
                } else if length == 1 || self.prng.chance(1, 2) {
                    length
                } else {
                    1 + self.prng.below(length as u64) as usize
                }
            }
        }
    }

    /// Whether a sector that was rewritten while pending lands as a mix.
    pub(super) fn mixes(&mut self) -> bool {
        self.prng.chance(1, 2)
    }

    /// Lays bytes of `later` over `mix`: the first or the last ones up to a drawn point, or any.
    pub(super) fn mix(&mut self, mix: &mut [u8], later: &[u8]) {
        let cut = self.prng.below(mix.len() as u64 + 1) as usize;
        match self.prng.below(3) {
            0 => mix[..cut].copy_from_slice(&later[..cut]),
            1 => mix[cut..].copy_from_slice(&later[cut..]),
            _ => {
                for (mix, later) in mix.chunks_mut(64).zip(later.chunks(64)) {
                    let bits = self.prng.next_u64();
                    for (index, (byte, new)) in mix.iter_mut().zip(later).enumerate() {
                        if bits >> index & 1 == 1 {
                            *byte = *new;
                        }
                    }
                }
            }
        }
    }
}

fn one(prng: &mut Prng, oldest: u64, newest: u64) -> Bias {
    match prng.below(8) {
        0 => Bias::Odds(256),
        1 => Bias::Odds(0),
        2 => Bias::Odds(240),
        3 => Bias::Odds(32),
        4 | 5 => Bias::Odds(128),
        _ => Bias::Before(oldest + prng.below(newest.saturating_sub(oldest) + 2)),
    }
}

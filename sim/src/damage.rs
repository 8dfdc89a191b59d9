//! Damage to what was synced: the device's fault, not the crash's. The engine owes no repair, but it owes notice.
//!
//! A damage is tried on a copy of the disk, and judged by the [evidence](crate::evidence) that is left: below the floor the
//! open must refuse, or deliver everything all the same (I4); where nothing below it was touched, it must succeed (I4a);
//! what it delivers is always the beginning of the log, unaltered (I2, I3).

use std::{ffi::OsStr, fmt, path::Path, str::FromStr};

use bytes::Bytes;
use engine::codec::{FIRST_FRAME_OFFSET, FRAME_HEADER_BYTES};

use crate::{
    disk::{DirId, Disk},
    evidence::{Chain, Files, floor, frame_offsets},
    oracle::ensure,
    prng::Prng,
    report::Violation,
    runner::LOG_DIR,
    subject::{Recovered, Refusal},
};

/// The name under which reports count that an open was refused for damage that stays.
pub const REFUSED: &str = "open-refused";

/// One damage. [`fmt::Display`] and [`FromStr`] are each other's inverse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// What happens to it.
    pub what: What,
}

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// `flip FILE OFFSET MASK`: bit rot.
    Flip {
        /// Offset of the byte.
        offset: u64,
        /// The bits, 1 to 255.
        mask: u8,
    },
    /// `zero FILE OFFSET BYTES`: a sector that was never written, or lost.
    Zero {
        /// Offset of the first byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// `stale FILE OFFSET BYTES`: the bytes read as those of 4 KiB before: a write that went elsewhere.
    Stale {
        /// Offset of the first byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// `older FILE OFFSET BYTES`: the bytes read as they did when the life began: a write that got lost.
    Older {
        /// Offset of the first byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// `shorten FILE LENGTH`
    Shorten {
        /// The length that is left.
        length: u64,
    },
    /// `lose FILE`
    Lose,
}

impl Damage {
    /// The name under which reports count it.
    #[must_use]
    pub const fn event(&self) -> &'static str {
        match self.what {
            What::Flip { .. } => "damage-flip",
            What::Zero { .. } => "damage-zero",
            What::Stale { .. } => "damage-stale",
            What::Older { .. } => "damage-older",
            What::Shorten { .. } => "damage-shorten",
            What::Lose => "damage-lose",
        }
    }

    /// The bytes that it touches in a file of `length` bytes.
    const fn range(&self, length: u64) -> (u64, u64) {
        match self.what {
            What::Flip { offset, .. } => (offset, offset + 1),
            What::Zero { offset, bytes } | What::Stale { offset, bytes } | What::Older { offset, bytes } => {
                (offset, offset + bytes)
            }
            What::Shorten { length: left } => (left, length),
            What::Lose => (0, length),
        }
    }

    /// Does it to a disk on which nothing is pending; `earlier` is that disk as it was when the life began. False if there is no such
    /// file, or nothing would change.
    pub fn apply(&self, disk: &mut Disk, earlier: Option<&Disk>) -> bool {
        disk.dir_at(Path::new(LOG_DIR)).is_some_and(|dir| self.apply_in(dir, disk, earlier))
    }

    /// The same, to a file of any directory.
    pub fn apply_in(&self, dir: DirId, disk: &mut Disk, earlier: Option<&Disk>) -> bool {
        let name = OsStr::new(&self.file);
        let Some(before) = disk.read_file(dir, name) else { return false };
        let bytes = |from: u64, count: u64| {
            (from..from + count).map(|at| before.get(at as usize).copied().unwrap_or(0)).collect::<Vec<u8>>()
        };
        match self.what {
            What::Flip { offset, mask } => disk.flip(dir, name, offset, mask),
            What::Zero { offset, bytes: count } => {
                bytes(offset, count).iter().any(|byte| *byte != 0)
                    && disk.damage(dir, name, offset, &vec![0; count as usize]).is_some()
            }
            What::Stale { offset, bytes: count } => {
                let stale = bytes(offset.saturating_sub(4096), count);
                stale != bytes(offset, count) && disk.damage(dir, name, offset, &stale).is_some()
            }
            What::Older { offset, bytes: count } => {
                let earlier = earlier.and_then(|disk| disk.read_file(dir, name));
                let earlier =
                    earlier.as_deref().and_then(|bytes| bytes.get(offset as usize..(offset + count) as usize));
                earlier.is_some_and(|older| {
                    older != bytes(offset, count) && disk.damage(dir, name, offset, older).is_some()
                })
            }
            What::Shorten { length } => {
                (length as usize) < before.len() && {
                    disk.write_foreign(dir, name, &before[..length as usize]);
                    true
                }
            }
            What::Lose => disk.lose(dir, name),
        }
    }

    /// Draws one for the files of a log.
    pub fn draw(files: &Files, draws: &mut Prng) -> Option<Damage> {
        let names: Vec<&String> = files.keys().collect();
        if names.is_empty() {
            return None;
        }
        let file = (*draws.pick(&names)).clone();
        let length = files[&file].len() as u64;
        // Mostly where frames stand, and sometimes where the identity stands.
        let used = files[&file].iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        let place = |draws: &mut Prng| match draws.below(5) {
            0 => draws.below(FIRST_FRAME_OFFSET.min(length).max(1)),
            _ => FIRST_FRAME_OFFSET.min(used) + draws.below(used.saturating_sub(FIRST_FRAME_OFFSET).max(1)),
        };
        // The few bytes of a header decide most.
        let header = |draws: &mut Prng| match frame_offsets(&files[&file]) {
            offsets if offsets.is_empty() => place(draws),
            offsets => draws.pick(&offsets) + draws.below(FRAME_HEADER_BYTES),
        };
        let what = match draws.below(10) {
            0..=2 => What::Flip { offset: place(draws), mask: 1 << draws.below(8) },
            3 | 4 => What::Flip { offset: header(draws), mask: 1 << draws.below(8) },
            5 | 6 => What::Zero { offset: place(draws) / 512 * 512, bytes: 512 },
            7 => What::Stale { offset: place(draws) / 512 * 512, bytes: 512 },
            8 => What::Shorten { length: place(draws) },
            _ => What::Lose,
        };
        Some(Damage { file, what })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { file, what } = self;
        match what {
            What::Flip { offset, mask } => write!(f, "flip {file} {offset} {mask}"),
            What::Zero { offset, bytes } => write!(f, "zero {file} {offset} {bytes}"),
            What::Stale { offset, bytes } => write!(f, "stale {file} {offset} {bytes}"),
            What::Older { offset, bytes } => write!(f, "older {file} {offset} {bytes}"),
            What::Shorten { length } => write!(f, "shorten {file} {length}"),
            What::Lose => write!(f, "lose {file}"),
        }
    }
}

impl FromStr for Damage {
    type Err = String;

    fn from_str(text: &str) -> Result<Damage, String> {
        const MOST_BYTES: u64 = 1 << 20;
        // No file is as long as that, and nothing that is reckoned with it overflows.
        const MOST_OFFSET: u64 = 1 << 40;
        let number = |word: &str| {
            let number = word.parse::<u64>().ok().filter(|number| *number <= MOST_OFFSET);
            number.ok_or_else(|| format!("'{word}' is not a number up to {MOST_OFFSET}"))
        };
        let count = |word: &str| {
            number(word).and_then(|count| {
                if (1..=MOST_BYTES).contains(&count) { Ok(count) } else { Err(format!("1 to {MOST_BYTES} bytes")) }
            })
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let (file, what) = match words.as_slice() {
            ["flip", file, offset, mask] => {
                let mask = mask.parse::<u8>().ok().filter(|mask| *mask != 0);
                let mask = mask.ok_or("the bits to flip are a number from 1 to 255")?;
                (file, What::Flip { offset: number(offset)?, mask })
            }
            ["zero", file, offset, bytes] => (file, What::Zero { offset: number(offset)?, bytes: count(bytes)? }),
            ["stale", file, offset, bytes] => (file, What::Stale { offset: number(offset)?, bytes: count(bytes)? }),
            ["older", file, offset, bytes] => (file, What::Older { offset: number(offset)?, bytes: count(bytes)? }),
            ["shorten", file, length] => (file, What::Shorten { length: number(length)? }),
            ["lose", file] => (file, What::Lose),
            _ => {
                return Err(format!(
                    "'{text}' is no damage; there are: flip FILE OFFSET MASK, zero FILE OFFSET BYTES, \
                     stale FILE OFFSET BYTES, older FILE OFFSET BYTES, shorten FILE LENGTH, lose FILE"
                ));
            }
        };
        Ok(Damage { file: (*file).to_owned(), what })
    }
}

/// The files of the log on a disk.
#[must_use]
pub fn segments(disk: &Disk) -> Files {
    disk.dir_at(Path::new(LOG_DIR)).map_or_else(Files::new, |dir| segments_in(disk, dir))
}

/// The files of the log in a directory.
#[must_use]
pub fn segments_in(disk: &Disk, dir: DirId) -> Files {
    let names = disk.files(dir).map(|(name, _)| name.to_string_lossy().into_owned());
    let names: Vec<String> = names.filter(|name| name.ends_with(".seg") || name.ends_with(".tmp")).collect();
    names.into_iter().filter_map(|name| Some((name.clone(), disk.read_file(dir, OsStr::new(&name))?))).collect()
}

/// How a damage was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It touched what was proven: refused, or delivered in full.
    Noticed,
    /// It touched nothing that was proven, and the log opened.
    Harmless,
    /// Only what nothing proved is gone, or what the table refuses without proof: no format could tell.
    Undecidable,
}

/// Holds what an open of the damaged disk did against the evidence that is left.
///
/// # Errors
/// A violation of I4, I4a, I2 or I3.
pub fn judge(
    sound: &Files,
    undamaged: &Recovered,
    damage: &Damage,
    damaged: &Files,
    result: &Result<Recovered, Refusal>,
) -> Result<Judged, Violation> {
    let chain = Chain::read(sound);
    let floor = floor(damaged);
    let (from, to) = damage.range(sound.get(&damage.file).map_or(0, |bytes| bytes.len() as u64));
    let matters = chain.matters(&damage.file, from, to, floor);
    let owed = chain.proven_next(floor).min(undamaged.next());
    match result {
        Ok(recovered) => {
            let consecutive = recovered.records.iter().zip(recovered.first..).all(|((lsn, _), next)| *lsn == next);
            ensure(consecutive, "I2", format_args!("after '{damage}' LSNs without a hole"), "a hole")?;
            // Where the floor was damaged, released records may show again.
            let differs = |(lsn, record): &&(u64, Bytes)| {
                *lsn >= undamaged.first && undamaged.record(*lsn).is_none_or(|(_, sound)| sound != record)
            };
            let other = recovered.records.iter().find(differs).map(|(lsn, _)| *lsn);
            // A truncation that nothing but the damaged file states may be lost with it: what it removed is back.
            ensure(
                other.is_none_or(|lsn| lsn >= owed),
                "I3",
                format_args!("after '{damage}' LSN {} reads as before or not at all", other.unwrap_or(0)),
                "another record",
            )?;
            ensure(
                recovered.first <= undamaged.first.max(1) && recovered.next() >= owed,
                "I4",
                format_args!("'{damage}' is refused, since LSNs up to {owed} are stated to be durable (at {floor:?})"),
                format_args!("it opened with LSNs {}..{}", recovered.first, recovered.next()),
            )?;
            let whole = recovered.next() == undamaged.next() && other.is_none();
            Ok(if !whole {
                Judged::Undecidable
            } else if matters {
                Judged::Noticed
            } else {
                Judged::Harmless
            })
        }
        Err(Refusal { io: true, message }) => {
            ensure(false, "I4", format_args!("'{damage}' is named as damage: trying again is no remedy"), message)?;
            Ok(Judged::Noticed)
        }
        Err(_) if matters => Ok(Judged::Noticed),
        Err(Refusal { message, .. }) => {
            let generation = sound.get(&damage.file).and_then(|bytes| crate::evidence::identity(bytes));
            let generation = generation.map_or(0, |identity| identity.generation);
            // A seal that nothing proves names a successor: the table refuses its loss without proof. And without any
            // start the first segment can't be told from a remainder.
            // Or something still states that a generation is durable which is no longer there: a later segment took its place, with what
            // it carries, and counts for that one.
            let among = |member: &crate::evidence::Member| member.generation < floor.generation;
            let replaced = floor.generation < generation
                && chain.members.first().is_some_and(among)
                && !chain.members.iter().any(|member| member.generation == floor.generation);
            if chain.named.contains(&generation) || chain.members.len() <= 1 || replaced {
                return Ok(Judged::Undecidable);
            }
            ensure(
                false,
                "I4a",
                format_args!(
                    "'{damage}' touches nothing that is stated to be durable (up to {floor:?}), so the log opens"
                ),
                message,
            )?;
            Ok(Judged::Harmless)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damage_reads_back_and_nonsense_does_not() {
        for text in [
            "flip a.seg 8200 4",
            "zero a.seg 8192 512",
            "stale a.seg 1 2",
            "older a.pages 512 512",
            "shorten a.seg 9",
            "lose a.seg",
        ] {
            assert_eq!(text.parse::<Damage>().map(|damage| damage.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "flip a 18446744073709551615 1",
            "flip a 1 0",
            "flip a 1 256",
            "zero a 1 0",
            "zero a 1 99999999",
            "lose",
            "break a",
            "",
        ] {
            assert!(text.parse::<Damage>().is_err(), "{text}");
        }
    }
}

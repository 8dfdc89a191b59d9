//! Reading a base in RDB format: strings, lists, sets, hashes and sorted sets in the encodings that Redis 7.0 writes, with
//! expiries, LZF and the checksum. What else stands there is an error that names it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
};

use thiserror::Error;

use crate::{
    env::File,
    keyspace::{CommandError, DATABASES, Entry, Text, Value, rebuild},
};

use super::{load::DataSet, window::Window};

/// What every RDB file begins with.
pub const MAGIC: &[u8] = b"REDIS";
/// Versions up to this one are read: that of Redis 7.0.
const VERSION: u32 = 10;
/// A string has at most this many bytes (512 MiB).
const MAX_STRING_BYTES: u64 = 512 << 20;

/// Why a base is not read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RdbError {
    /// It is of a later version.
    #[error("RDB version {0}; versions up to 10 are read")]
    Version(String),
    /// It ends too early.
    #[error("it ends too early")]
    Short,
    /// The checksum at its end is not that of its bytes.
    #[error("its checksum is wrong")]
    Checksum,
    /// A value of a type that the data set hasn't, or in an encoding that Redis 7.0 doesn't write.
    #[error("{0}, which is not supported")]
    Unsupported(&'static str),
    /// The data set doesn't take a command that rebuilds a value.
    #[error("{0}")]
    Refused(CommandError),
    /// Bytes that mean nothing here.
    #[error("{0} does not decode")]
    Malformed(&'static str),
}

/// The result of reading: the outer error is the machine's.
type Read<T> = io::Result<Result<T, RdbError>>;

/// Unwraps the inner result, or returns it.
macro_rules! tried {
    ($read:expr) => {
        match $read {
            Ok(value) => value,
            Err(error) => return Ok(Err(error)),
        }
    };
}

/// Reads an RDB file from its beginning into `data`, as the commands that rebuild what it holds. Returns where it ends in the file; commands may follow.
///
/// # Errors
/// The outer error is the machine's; the inner one comes with the offset near which the file is wrong.
pub(super) async fn load<F: File>(file: &F, data: &mut impl DataSet) -> io::Result<Result<u64, (u64, RdbError)>> {
    let mut source = Source { window: Window::within(file, 0..file.len().await?), crc: CRC.digest() };
    let done = source.load(data).await?;
    Ok(match done {
        Ok(()) => Ok(source.window.at()),
        Err(error) => Err((source.window.at(), error)),
    })
}

static CRC: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_REDIS);

/// What a length field says.
enum Length {
    Plain(u64),
    /// A string in a form of its own.
    Special(u8),
}

struct Source<'f, F> {
    window: Window<'f, F>,
    crc: crc::Digest<'static, u64>,
}

impl<F: File> Source<'_, F> {
    /// The next `count` bytes.
    async fn take(&mut self, count: u64) -> Read<&[u8]> {
        if count > self.window.length().saturating_sub(self.window.at()) {
            return Ok(Err(RdbError::Short));
        }
        let count = count as usize;
        while self.window.rest().len() < count {
            if !self.window.more(count).await? {
                return Ok(Err(RdbError::Short));
            }
        }
        let bytes = self.window.take(count);
        self.crc.update(bytes);
        Ok(Ok(bytes))
    }

    async fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let bytes = tried!(self.take(N as u64).await?);
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        Ok(Ok(array))
    }

    async fn byte(&mut self) -> Read<u8> {
        Ok(self.array::<1>().await?.map(|[byte]| byte))
    }

    async fn any_length(&mut self) -> Read<Length> {
        let first = tried!(self.byte().await?);
        let low = u64::from(first & 0x3f);
        Ok(Ok(match (first >> 6, first) {
            (0, _) => Length::Plain(low),
            (1, _) => Length::Plain(low << 8 | u64::from(tried!(self.byte().await?))),
            (2, 0x80) => Length::Plain(u64::from(u32::from_be_bytes(tried!(self.array().await?)))),
            (2, 0x81) => Length::Plain(u64::from_be_bytes(tried!(self.array().await?))),
            (3, _) => Length::Special(first & 0x3f),
            _ => return Ok(Err(RdbError::Malformed("a length"))),
        }))
    }

    async fn count(&mut self) -> Read<u64> {
        Ok(match self.any_length().await? {
            Ok(Length::Plain(length)) => Ok(length),
            Ok(Length::Special(_)) => Err(RdbError::Malformed("a length")),
            Err(error) => Err(error),
        })
    }

    async fn string(&mut self) -> Read<Text> {
        Ok(Ok(match tried!(self.any_length().await?) {
            Length::Plain(length) if length <= MAX_STRING_BYTES => tried!(self.take(length).await?).to_vec(),
            Length::Plain(_) => return Ok(Err(RdbError::Malformed("the length of a string"))),
            Length::Special(0) => i8::from_le_bytes(tried!(self.array().await?)).to_string().into_bytes(),
            Length::Special(1) => i16::from_le_bytes(tried!(self.array().await?)).to_string().into_bytes(),
            Length::Special(2) => i32::from_le_bytes(tried!(self.array().await?)).to_string().into_bytes(),
            Length::Special(3) => {
                let (packed, plain) = (tried!(self.count().await?), tried!(self.count().await?));
                // No byte of a compressed string stands for more than 264 of the plain one.
                if plain > MAX_STRING_BYTES.min(packed.saturating_mul(264)) {
                    return Ok(Err(RdbError::Malformed("the length of a string")));
                }
                let packed = tried!(self.take(packed).await?);
                let text = lzf::decompress(packed, plain as usize).ok().filter(|text| text.len() as u64 == plain);
                tried!(text.ok_or(RdbError::Malformed("a compressed string")))
            }
            Length::Special(_) => return Ok(Err(RdbError::Malformed("a string"))),
        }))
    }

    async fn load(&mut self, data: &mut impl DataSet) -> Read<()> {
        let head: [u8; 9] = tried!(self.array().await?);
        let version = std::str::from_utf8(&head[5..]).ok().and_then(|text| text.parse::<u32>().ok());
        if !head.starts_with(MAGIC) || version.is_none_or(|version| !(1..=VERSION).contains(&version)) {
            return Ok(Err(RdbError::Version(String::from_utf8_lossy(&head[5..]).into_owned())));
        }
        let mut expires_ms = None;
        loop {
            match tried!(self.byte().await?) {
                // A remark: name and value.
                0xfa => {
                    tried!(self.string().await?);
                    tried!(self.string().await?);
                }
                // How many keys come: all, and those that expire.
                0xfb => {
                    tried!(self.count().await?);
                    tried!(self.count().await?);
                }
                0xfc => expires_ms = Some(i64::from_le_bytes(tried!(self.array().await?))),
                0xfd => {
                    expires_ms = Some(i64::from(i32::from_le_bytes(tried!(self.array().await?))).saturating_mul(1000))
                }
                0xfe => {
                    let number = usize::try_from(tried!(self.count().await?)).ok();
                    let number = number.filter(|number| *number < DATABASES);
                    let database = tried!(number.ok_or(RdbError::Malformed("the number of a database")));
                    let number = database.to_string();
                    tried!(data.load(&[b"SELECT", number.as_bytes()]).map_err(RdbError::Refused));
                }
                // How often and how lately a key was used.
                0xf9 => drop(tried!(self.byte().await?)),
                0xf8 => drop(tried!(self.count().await?)),
                0xff => {
                    // What follows is a log, and begins with database 0.
                    tried!(data.load(&[b"SELECT", b"0"]).map_err(RdbError::Refused));
                    break;
                }
                0xf5 | 0xf6 => return Ok(Err(RdbError::Unsupported("a function library"))),
                0xf7 => return Ok(Err(RdbError::Unsupported("data of a module"))),
                kind => {
                    let key = tried!(self.string().await?);
                    let value = tried!(self.value(kind).await?);
                    let entry = Entry { value, expires_ms: expires_ms.take() };
                    let mut refused = None;
                    rebuild(&key, entry.as_ref(), |command| {
                        refused = refused.take().or_else(|| data.load(command).err());
                    });
                    tried!(refused.map_or(Ok(()), |error| Err(RdbError::Refused(error))));
                }
            }
        }
        let sum = self.crc.clone().finalize();
        // Before version 5 there was none; a zero stands for one that was not reckoned.
        if version >= Some(5) {
            let stored = u64::from_le_bytes(tried!(self.array().await?));
            if stored != 0 && stored != sum {
                return Ok(Err(RdbError::Checksum));
            }
        }
        Ok(Ok(()))
    }

    async fn value(&mut self, kind: u8) -> Read<Value> {
        Ok(Ok(match kind {
            0 => Value::String(tried!(self.string().await?)),
            2 => {
                let mut set = BTreeSet::new();
                for _ in 0..tried!(self.count().await?) {
                    set.insert(tried!(self.string().await?));
                }
                Value::Set(set)
            }
            4 => {
                let mut hash = BTreeMap::new();
                for _ in 0..tried!(self.count().await?) {
                    let field = tried!(self.string().await?);
                    hash.insert(field, tried!(self.string().await?));
                }
                Value::Hash(hash)
            }
            5 => {
                let mut set = BTreeMap::new();
                for _ in 0..tried!(self.count().await?) {
                    let member = tried!(self.string().await?);
                    let score = f64::from_le_bytes(tried!(self.array().await?));
                    if score.is_nan() {
                        return Ok(Err(RdbError::Malformed("a score")));
                    }
                    set.insert(member, score);
                }
                Value::Sorted(set)
            }
            11 => {
                let packed = tried!(self.string().await?);
                Value::Set(tried!(intset(&packed).ok_or(RdbError::Malformed("a set of numbers"))))
            }
            16 => {
                let packed = tried!(self.string().await?);
                Value::Hash(tried!(pairs(&packed).ok_or(RdbError::Malformed("a small hash"))).into_iter().collect())
            }
            17 => {
                let packed = tried!(self.string().await?);
                let wrong = || RdbError::Malformed("a small sorted set");
                let mut set = BTreeMap::new();
                for (member, score) in tried!(pairs(&packed).ok_or_else(wrong)) {
                    let score = std::str::from_utf8(&score).ok().and_then(|text| text.parse::<f64>().ok());
                    set.insert(member, tried!(score.filter(|score| !score.is_nan()).ok_or_else(wrong)));
                }
                Value::Sorted(set)
            }
            18 => {
                let mut list = VecDeque::new();
                for _ in 0..tried!(self.count().await?) {
                    let plain = tried!(self.count().await?);
                    let node = tried!(self.string().await?);
                    match plain {
                        1 => list.push_back(node),
                        2 => list.extend(tried!(listpack(&node).ok_or(RdbError::Malformed("a part of a list")))),
                        _ => return Ok(Err(RdbError::Malformed("a part of a list"))),
                    }
                }
                Value::List(list)
            }
            15 | 19 | 21 => return Ok(Err(RdbError::Unsupported("a stream"))),
            6 | 7 => return Ok(Err(RdbError::Unsupported("a value of a module"))),
            1 | 3 | 9 | 10 | 12 | 13 | 14 => {
                return Ok(Err(RdbError::Unsupported("a value in an encoding from before Redis 7")));
            }
            _ => return Ok(Err(RdbError::Malformed("the type of a value"))),
        }))
    }
}

/// A sorted array of numbers of one width.
fn intset(bytes: &[u8]) -> Option<BTreeSet<Text>> {
    let (width, rest) = bytes.split_first_chunk::<4>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (width, count) = (u32::from_le_bytes(*width) as usize, u32::from_le_bytes(*count) as usize);
    if !matches!(width, 2 | 4 | 8) || rest.len() != width.checked_mul(count)? {
        return None;
    }
    let number = |bytes: &[u8]| signed(bytes).to_string().into_bytes();
    Some(rest.chunks_exact(width).map(number).collect())
}

/// A little-endian number of up to eight bytes.
fn signed(bytes: &[u8]) -> i64 {
    let mut wide = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { [0xff; 8] } else { [0; 8] };
    wide[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(wide)
}

/// The elements of a listpack: strings, and numbers as text.
fn listpack(bytes: &[u8]) -> Option<Vec<Text>> {
    let (total, _) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*total) as usize != bytes.len() {
        return None;
    }
    let mut rest = bytes.get(6..)?;
    let mut elements = Vec::new();
    loop {
        let (first, after) = rest.split_first()?;
        let text = |length: usize, header: usize| Some((rest.get(header..header + length)?.to_vec(), header + length));
        let number = |number: i64, taken: usize| Some((number.to_string().into_bytes(), taken));
        let wide = |width: usize| number(signed(after.get(..width)?), 1 + width);
        let (element, taken) = match first {
            0xff => return after.is_empty().then_some(elements),
            0..=0x7f => number(i64::from(*first), 1),
            0x80..=0xbf => text(usize::from(first & 0x3f), 1),
            0xc0..=0xdf => {
                let value = i64::from(first & 0x1f) << 8 | i64::from(*after.first()?);
                number(if value >= 1 << 12 { value - (1 << 13) } else { value }, 2)
            }
            0xe0..=0xef => text(usize::from(first & 0x0f) << 8 | usize::from(*after.first()?), 2),
            0xf0 => text(u32::from_le_bytes(*after.first_chunk::<4>()?) as usize, 5),
            0xf1 => wide(2),
            0xf2 => wide(3),
            0xf3 => wide(4),
            0xf4 => wide(8),
            _ => None,
        }?;
        elements.push(element);
        // Behind each element stands its length, for reading backwards, in groups of seven bits.
        let groups = match taken {
            0..=127 => 1,
            128..=16_382 => 2,
            16_383..=2_097_150 => 3,
            2_097_151..=268_435_454 => 4,
            _ => 5,
        };
        rest = rest.get(taken + groups..)?;
    }
}

fn pairs(bytes: &[u8]) -> Option<Vec<(Text, Text)>> {
    let elements = listpack(bytes)?;
    if !elements.len().is_multiple_of(2) {
        return None;
    }
    let mut elements = elements.into_iter();
    Some(std::iter::from_fn(|| Some((elements.next()?, elements.next()?))).collect())
}

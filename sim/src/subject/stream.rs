//! The bytes of a command log as its clients know them, held against those of its files (I19).
//!
//! The truth is what the log accepted, in order, and the position that it told for the end of each. From there on every byte of its
//! increments is known but for annotations, of which only the length counts: each unit stands where its position says, in the
//! database that it was executed in, behind the one before it, and behind the last one there is nothing but room. A slot of the ring
//! that is filled again before its write succeeded shows as a unit that is missing, doubled, or in the place of another.

use std::collections::BTreeMap;

use crate::{oracle::ensure, report::Violation};

/// What was accepted since a log was opened or switched on, and where it stands in files.
#[derive(Debug, Default)]
pub struct Stream {
    units: Vec<Unit>,
    places: BTreeMap<String, Place>,
    /// Increments below this number are older.
    first: i64,
}

/// What is loaded all or not at all.
#[derive(Debug)]
struct Unit {
    /// The position that was told.
    end: u64,
    database: u32,
    /// With `MULTI` and `EXEC` if it has several commands.
    bytes: Vec<u8>,
    several: bool,
}

impl Unit {
    /// Its bytes, for a reader who finds `rest`. (That what belongs together is marked so is another rule's.)
    fn read_as(&self, rest: &[u8]) -> &[u8] {
        // (Where it is cut off there may be room behind it.)
        let unmarked = rest.get(1).is_some_and(|byte| !matches!(*byte, b'1' | 0));
        if self.several && unmarked { &self.bytes[MULTI.len()..self.bytes.len() - EXEC.len()] } else { &self.bytes }
    }
}

/// A file that holds a part of the stream.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The position of its first byte; negative if it is older than the stream.
    origin: i64,
    begin: Seen,
    /// How far it was read.
    seen: Seen,
}

/// Between two units of a file.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: u64,
    /// The next unit.
    unit: usize,
    selected: Option<u32>,
}

/// What is not as it should be, and where in the file.
#[derive(Debug)]
struct Wrong {
    at: u64,
    expected: String,
    found: String,
}

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
const SELECT: &[u8] = b"*2\r\n$6\r\nSELECT\r\n$";

impl Stream {
    /// It goes on in an increment that has so many bytes.
    pub fn begin(&mut self, name: &str, seq: i64, bytes: u64) {
        let seen = Seen { at: bytes, unit: 0, selected: None };
        let place = Place { origin: -(bytes as i64), begin: seen, seen };
        *self = Stream { units: Vec::new(), places: BTreeMap::from([(name.to_owned(), place)]), first: seq };
    }

    /// It begins anew, in a file of its own.
    pub fn begin_anew(&mut self) {
        *self = Stream::default();
    }

    /// Commands were accepted as one, and the position told for their end is this.
    pub fn accepted(&mut self, database: u32, commands: &[&[&[u8]]], end: u64) {
        self.units.push(Unit { end, database, bytes: encoded(commands), several: commands.len() > 1 });
    }

    /// Whether an increment with this number holds a part of it.
    #[must_use]
    pub fn is_in(&self, seq: i64) -> bool {
        seq >= self.first
    }

    /// Holds files, in order, against it: all of them, or, unless `whole`, what they have beyond the last time. `read` gives what a
    /// file has from an offset on. `written`: what the log says is with the operating system. True if there was anything to check.
    ///
    /// # Errors
    /// A violation of I19.
    pub fn check(
        &mut self,
        names: &[&str],
        written: u64,
        whole: bool,
        read: impl Fn(&str, u64) -> Option<Vec<u8>>,
    ) -> Result<bool, Violation> {
        let mut end = None;
        for name in names {
            if whole && let Some(place) = self.places.get_mut(*name) {
                place.seen = place.begin;
            }
            match self.file(name, end, &read) {
                Ok(reached) => end = reached.or(end),
                Err(Wrong { at, expected, found }) => {
                    ensure(false, "I19", format!("{name}, byte {at}: {expected}"), found)?;
                }
            }
        }
        let Some(end) = end else { return Ok(false) };
        let expected = format!("all up to position {written}, which is said to be written, in {names:?}");
        ensure(written as i64 <= end, "I19", expected, format!("up to position {end}"))?;
        Ok(!self.units.is_empty())
    }

    /// Reads on in a file, whose part of the stream begins at `origin` if that is known. The position that it reaches, unless it says
    /// too little to know.
    fn file(
        &mut self,
        name: &str,
        origin: Option<i64>,
        read: impl Fn(&str, u64) -> Option<Vec<u8>>,
    ) -> Result<Option<i64>, Wrong> {
        let at = self.places.get(name).map_or(0, |place| place.seen.at);
        let Some(bytes) = read(name, at) else { return Ok(None) };
        if let Some(place) = self.places.get(name).copied() {
            let (seen, end) = self.walk(place, &bytes)?;
            self.places.insert(name.to_owned(), Place { seen, ..place });
            return Ok(Some(place.origin + end as i64));
        }
        if bytes.is_empty() {
            return Ok(origin);
        }
        let place = |origin: i64| {
            let unit = self.units.partition_point(|unit| unit.end as i64 <= origin);
            let seen = Seen { at: 0, unit, selected: Some(0) };
            Place { origin, begin: seen, seen }
        };
        if let Some(origin) = origin {
            let (seen, end) = self.walk(place(origin), &bytes)?;
            self.places.insert(name.to_owned(), Place { seen, ..place(origin) });
            return Ok(Some(origin + end as i64));
        }
        // What was before it is gone: it begins behind some unit. (Units may look alike: then the next look tells.)
        let (mut fits, mut first) = (Vec::new(), None);
        for origin in std::iter::once(0).chain(self.units.iter().map(|unit| unit.end as i64)) {
            match self.walk(place(origin), &bytes) {
                Ok((seen, end)) => fits.push((Place { seen, ..place(origin) }, origin + end as i64)),
                Err(wrong) => first = first.or(Some(wrong)),
            }
        }
        match fits[..] {
            [] => first.map_or(Ok(None), Err),
            [(place, end)] => {
                self.places.insert(name.to_owned(), place);
                Ok(Some(end))
            }
            _ => Ok(None),
        }
    }

    /// A file that is begun again under its name stands elsewhere.
    pub fn forget(&mut self, name: &str) {
        self.places.remove(name);
    }

    /// Reads `file`, which is a file from where it was seen on. How far its units are whole, and up to where there is anything.
    fn walk(&self, place: Place, file: &[u8]) -> Result<(Seen, u64), Wrong> {
        let from = place.seen.at;
        let mut seen = place.seen;
        let mut at = 0;
        loop {
            let rest = &file[at..];
            let here = from + at as u64;
            if rest.iter().all(|byte| *byte == 0) {
                return Ok((seen, here));
            }
            if rest[0] == b'#' {
                let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                    return Ok((seen, from + file.len() as u64));
                };
                at += end + 1;
                continue;
            }
            if let Some((database, length)) = selected(rest) {
                seen.selected = Some(database);
                at += length;
                continue;
            }
            let Some(unit) = self.units.get(seen.unit) else {
                let expected = "nothing behind what was accepted".into();
                return Err(Wrong { at: here, expected, found: shown(rest) });
            };
            let bytes = unit.read_as(rest);
            let same = bytes.iter().zip(rest).take_while(|(one, two)| one == two).count();
            if same < bytes.len() {
                // It goes on with the next write, or a `SELECT` does.
                let cut = &rest[..rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)];
                if SELECT.starts_with(cut) || cut.starts_with(SELECT) && cut.len() < SELECT.len() + 16 {
                    return Ok((seen, here + cut.len() as u64));
                }
                if rest[same..].iter().all(|byte| *byte == 0) {
                    return Ok((seen, here + same as u64));
                }
                let expected = format!("the unit that ends at position {}: {}", unit.end, shown(bytes));
                return Err(Wrong { at: here + same as u64, expected, found: shown(rest) });
            }
            at += bytes.len();
            let position = place.origin + (from + at as u64) as i64;
            if position != unit.end as i64 || seen.selected != Some(unit.database) {
                let expected = format!("in database {} a unit that ends at position {}", unit.database, unit.end);
                let found = format!("in database {:?} one that ends at position {position}", seen.selected);
                return Err(Wrong { at: here, expected, found });
            }
            seen = Seen { at: from + at as u64, unit: seen.unit + 1, ..seen };
        }
    }
}

/// Commands as one unit, as a file holds them.
#[must_use]
pub fn encoded(commands: &[&[&[u8]]]) -> Vec<u8> {
    let several = commands.len() > 1;
    let mut bytes = if several { MULTI.to_vec() } else { Vec::new() };
    for command in commands {
        bytes.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
        for argument in *command {
            bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            bytes.extend_from_slice(argument);
            bytes.extend_from_slice(b"\r\n");
        }
    }
    if several {
        bytes.extend_from_slice(EXEC);
    }
    bytes
}

/// The database that `bytes` select, and the length of that.
fn selected(bytes: &[u8]) -> Option<(u32, usize)> {
    let rest = bytes.strip_prefix(SELECT)?;
    let digits = &rest[rest.iter().position(|byte| *byte == b'\n')? + 1..];
    let end = digits.windows(2).position(|end| end == b"\r\n")?;
    let number = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
    Some((number, bytes.len() - digits.len() + end + 2))
}

fn shown(bytes: &[u8]) -> String {
    let head = bytes[..bytes.len().min(40)].escape_ascii();
    if bytes.len() > 40 { format!("{head}...") } else { head.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"#SW:00000000 00000000 000000000000\r\n";
    const NAME: &str = "log.1.incr.aof";

    fn push(value: &[u8]) -> Vec<u8> {
        let mut text = format!("*2\r\n$5\r\nRPUSH\r\n${}\r\n", value.len()).into_bytes();
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\n");
        text
    }

    /// A file that had ten bytes when it was opened, and what a sound log then makes of three units in two batches.
    fn written() -> (Stream, Vec<Vec<u8>>) {
        let pieces = vec![
            vec![b'x'; 10],
            [LINE, b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n"].concat(),
            push(b"one"),
            [MULTI, &push(b"two"), &push(b"three"), EXEC].concat(),
            [LINE, b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"].concat(),
            push(b"four"),
        ];
        let end = |last: usize| pieces[1..=last].iter().map(Vec::len).sum::<usize>() as u64;
        let mut stream = Stream::default();
        stream.begin(NAME, 1, 10);
        stream.accepted(0, &[&[b"RPUSH", b"one"]], end(2));
        stream.accepted(0, &[&[b"RPUSH", b"two"], &[b"RPUSH", b"three"]], end(3));
        stream.accepted(3, &[&[b"RPUSH", b"four"]], end(5));
        (stream, pieces)
    }

    fn check(stream: &mut Stream, file: &[u8], written: u64) -> Result<bool, Violation> {
        stream.check(&[NAME], written, true, |_, from| Some(file.get(from as usize..).unwrap_or_default().to_vec()))
    }

    #[test]
    fn what_is_in_its_place_passes_however_much_of_it_is_written() {
        let (mut stream, pieces) = written();
        let file = pieces.concat();
        for end in 10..=file.len() {
            assert_eq!(check(&mut stream, &file[..end], end as u64 - 10), Ok(true), "{end} bytes");
            // With room behind it.
            assert_eq!(check(&mut stream, &[&file[..end], &[0; 100]].concat(), 0), Ok(true), "{end} bytes");
        }
    }

    #[test]
    fn a_unit_that_is_missing_doubled_moved_or_made_up_is_a_violation() {
        let (_, pieces) = written();
        let order = |order: &[usize]| order.iter().flat_map(|piece| pieces[*piece].clone()).collect::<Vec<u8>>();
        let wrong = [
            ("the first is missing", order(&[0, 1, 3, 4, 5])),
            ("one is missing", order(&[0, 1, 2, 4, 5])),
            ("one is there twice", order(&[0, 1, 2, 3, 3, 4, 5])),
            ("two have changed places", order(&[0, 1, 3, 2, 4, 5])),
            ("one is in another database", order(&[0, 1, 2, 3, 5])),
            ("one is moved by a line", order(&[0, 1, 2, 4, 3, 5])),
            ("there is more than was accepted", order(&[0, 1, 2, 3, 4, 5, 5])),
            ("a hole", [order(&[0, 1, 2]), vec![0; pieces[3].len()], order(&[4, 5])].concat()),
        ];
        for (what, file) in wrong {
            let (mut stream, _) = written();
            let violation = check(&mut stream, &file, 0).expect_err(what);
            assert_eq!(violation.invariant, "I19", "{what}");
        }
    }

    #[test]
    fn what_is_said_to_be_written_is_there() {
        let (mut stream, pieces) = written();
        let file = pieces[..4].concat();
        assert_eq!(check(&mut stream, &file, file.len() as u64 - 10), Ok(true));
        assert!(check(&mut stream, &file, file.len() as u64 - 9).is_err());
    }

    #[test]
    fn a_later_increment_begins_where_the_one_before_ended() {
        let (mut stream, pieces) = written();
        let (old, new) = (pieces[..4].concat(), pieces[4..].concat());
        let read = |name: &str, from: u64| Some(if name == NAME { &old } else { &new }[from as usize..].to_vec());
        let end = pieces[1..].iter().map(Vec::len).sum::<usize>() as u64;
        assert_eq!(stream.check(&[NAME, "next"], end, false, read), Ok(true));
        // When the old one is gone, it is known where the new one is, also to who sees it first then.
        assert_eq!(stream.check(&["next"], end, true, read), Ok(true));
        let (mut late, _) = written();
        assert_eq!(late.check(&["next"], end, false, read), Ok(true));
        assert!(late.check(&["next"], end + 1, false, read).is_err());
    }
}

//! What the bytes of a command log are worth: how far they are whole, what ends them, and where a point in time lies.
//!
//! What stands between `MULTI` and `EXEC` counts as one unit: a file that ends within it is good up to before the `MULTI`.
//! (Redis 7.0 cuts behind the last whole command there, and leaves the block open.)

use std::{fmt, io, ops::Range};

use crate::env::File;

use super::{
    resp::{Kind, Malformed, Parser, Reading, Stop},
    sums::{LINE_BYTES, MARK, Sum},
    window::Window,
};

/// What to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Check {
    /// How exact to be.
    pub reading: Reading,
    /// End before the first timestamp that is later than this second since the Unix epoch.
    pub until: Option<i64>,
    /// The file's batches have checksums with this salt, as its line in the manifest says.
    pub salt: Option<u32>,
    /// So many bytes of the file are durable, as its line in the manifest says.
    pub durable: u64,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Length of the file in bytes.
    pub length: u64,
    /// Up to here everything is whole: commands, annotations, units.
    pub good: u64,
    /// Up to here each single command is whole, whether or not its unit is.
    pub whole: u64,
    /// Lines up to where it is good. An argument is one, whatever bytes it has; annotations don't count.
    pub good_lines: u64,
    /// Commands up to there, those of units included.
    pub commands: u64,
    /// What comes then.
    pub end: End,
}

/// What ends the good part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The file.
    File,
    /// The file ends within a command.
    ShortCommand,
    /// The file ends within an annotation.
    ShortAnnotation,
    /// The file ends within a unit, between two commands.
    OpenUnit,
    /// What stands at this offset is no command.
    Malformed(u64, Malformed),
    /// At this offset a unit begins within a unit, or one ends that never began.
    Unit(u64),
    /// A timestamp later than asked for, at the end of the good part.
    Later(i64),
    /// At this offset stands a batch that is not whole, and nothing says that it ever was.
    Unproven(u64),
    /// At this offset something is missing or changed that was stated to be durable.
    Changed(u64),
}

impl End {
    /// Whether the file was cut off here, as a crash may leave it, and not damaged.
    #[must_use]
    pub const fn is_torn(self) -> bool {
        matches!(self, End::ShortCommand | End::ShortAnnotation | End::OpenUnit | End::Unproven(_))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::File => f.write_str("the file is whole"),
            End::ShortCommand => f.write_str("the file ends within a command"),
            End::ShortAnnotation => f.write_str("the file ends within an annotation"),
            End::OpenUnit => f.write_str("the file ends between MULTI and EXEC"),
            End::Malformed(at, what) => write!(f, "byte {at}: {what}"),
            End::Unit(at) => write!(f, "byte {at}: a MULTI within MULTI, or an EXEC or DISCARD without one"),
            End::Unproven(at) => write!(f, "byte {at}: a batch was not written as a whole"),
            End::Changed(at) => write!(f, "byte {at}: what was durable there is missing or changed"),
            End::Later(second) => write!(f, "what follows was executed in second {second}"),
        }
    }
}

/// Reads a file from its beginning to what ends it. Memory: a window of 256 KiB, or the largest command.
///
/// # Errors
/// The machine's.
pub async fn check<F: File>(file: &F, check: Check) -> io::Result<Checked> {
    let mut walk = Walk::new(file, 0, check).await?;
    while walk.next().await?.is_some() {}
    Ok(walk.checked())
}

/// A walk through a file, command by command.
pub(super) struct Walk<'f, F> {
    window: Window<'f, F>,
    scan: Scan,
    /// Length of the last item.
    item: usize,
    end: End,
    salt: Option<u32>,
    /// The file is known to be durable up to here.
    durable: u64,
    /// End of the batch that the walk is in.
    batch_end: u64,
}

impl<'f, F: File> Walk<'f, F> {
    /// From the byte `begins` on.
    pub(super) async fn new(file: &'f F, begins: u64, check: Check) -> io::Result<Walk<'f, F>> {
        Ok(Walk::within(file, begins..file.len().await?, check))
    }

    /// From one byte to another, where the file ends.
    pub(super) fn within(file: &'f F, places: Range<u64>, check: Check) -> Walk<'f, F> {
        let begins = places.start;
        let scan = Scan { at: begins, ..Scan::new(check) };
        let window = Window::within(file, places);
        let Check { salt, durable, .. } = check;
        Walk { window, scan, item: 0, end: End::File, salt, durable, batch_end: begins }
    }

    /// Goes to the next command or annotation; `None` at what ends the file.
    pub(super) async fn next(&mut self) -> io::Result<Option<Role>> {
        if let Some(salt) = self.salt
            && self.scan.at >= self.batch_end
            && !self.enter(salt).await?
        {
            return Ok(None);
        }
        loop {
            match self.scan.step(self.window.rest()) {
                Ok((bytes, role)) => {
                    self.item = bytes;
                    self.window.take(bytes);
                    return Ok(Some(role));
                }
                Err(Stopped::End(end)) => {
                    self.end = end;
                    return Ok(None);
                }
                Err(Stopped::Short { needed, annotation }) => {
                    if !self.window.more(needed).await? {
                        self.end = self.scan.ends(self.window.rest().is_empty(), annotation);
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Enters the batch that begins here. False if it is not whole. What has no checksum was appended by somebody else, by Redis
    /// for example, and goes by its grammar.
    async fn enter(&mut self, salt: u32) -> io::Result<bool> {
        let at = self.window.at();
        self.fill(LINE_BYTES).await?;
        let rest = self.window.rest();
        let Some(sum) = Sum::parse(rest) else {
            if rest.is_empty() || self.is_plain(at).await? {
                self.batch_end = u64::MAX;
                return Ok(true);
            }
            return self.ends_at(salt, at).await;
        };
        let end = at + LINE_BYTES as u64 + u64::from(sum.bytes);
        if end <= self.window.length() {
            let whole = (end - at) as usize;
            self.fill(whole).await?;
            if self.window.rest().get(LINE_BYTES..whole).is_some_and(|batch| sum.holds(salt, at, batch)) {
                self.batch_end = end;
                return Ok(true);
            }
        }
        self.ends_at(salt, at).await
    }

    /// Whether all that is left of the file is whole commands without checksums, so that what stands here is no torn batch.
    async fn is_plain(&self, at: u64) -> io::Result<bool> {
        if !matches!(self.window.rest().first(), Some(b'*' | b'#')) {
            return Ok(false);
        }
        let check = Check { reading: self.scan.reading(), ..Check::default() };
        let mut plain = Box::pin(Walk::new(self.window.file(), at, check)).await?;
        while let Some(role) = Box::pin(plain.next()).await? {
            // A line whose end a crash took could pass for an annotation with all that it swallows; Redis writes only this one.
            if role == Role::Annotation && !plain.item().starts_with(b"#TS:") {
                return Ok(false);
            }
        }
        Ok(plain.end == End::File)
    }

    /// The walk ends at a batch that is not whole.
    async fn ends_at(&mut self, salt: u32, at: u64) -> io::Result<bool> {
        self.end = if self.is_stated(salt, at).await? { End::Changed(at) } else { End::Unproven(at) };
        Ok(false)
    }

    /// Whether a later batch, or the manifest, states what is at `at` to be durable.
    async fn is_stated(&mut self, salt: u32, at: u64) -> io::Result<bool> {
        if at < self.durable {
            return Ok(true);
        }
        loop {
            let rest = self.window.rest();
            let Some(skip) = rest.windows(MARK.len()).position(|bytes| bytes == MARK) else {
                let skip = rest.len().saturating_sub(MARK.len() - 1);
                self.window.take(skip);
                let held = self.window.rest().len();
                if !self.window.more(held + 1).await? {
                    return Ok(false);
                }
                continue;
            };
            self.window.take(skip);
            self.fill(LINE_BYTES).await?;
            let from = self.window.at();
            if let Some(sum) = Sum::parse(self.window.rest()).filter(|sum| sum.durable > at) {
                let whole = LINE_BYTES + sum.bytes as usize;
                if from + whole as u64 <= self.window.length() {
                    self.fill(whole).await?;
                    let batch = self.window.rest().get(LINE_BYTES..whole);
                    if batch.is_some_and(|batch| sum.holds(salt, from, batch)) {
                        return Ok(true);
                    }
                }
            }
            self.window.take(1);
        }
    }

    /// Sees that `count` bytes are at hand, if the file has them.
    async fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.window.rest().len() < count && self.window.more(count).await? {}
        Ok(())
    }

    /// Checksum of everything that the walk has seen: two walks that saw the same have the same.
    pub(super) fn digest(&self) -> u32 {
        self.window.digest()
    }

    /// How far the walk has come.
    pub(super) fn offset(&self) -> u64 {
        self.scan.at
    }

    /// The bytes of the command or annotation that the walk is at.
    pub(super) fn item(&self) -> &[u8] {
        self.window.taken(self.item)
    }

    /// The arguments of the command that the walk is at.
    pub(super) fn command(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.scan.parser.command(self.window.taken(self.item))
    }

    /// Where in the file it stands.
    pub(super) fn at(&self) -> u64 {
        self.window.at() - self.item as u64
    }

    /// What was found so far.
    pub(super) fn checked(self) -> Checked {
        let durable = self.durable;
        let mut checked = self.scan.checked(self.window.length(), self.end);
        if checked.good < durable && (checked.end == End::File || checked.end.is_torn()) {
            checked.end = End::Changed(checked.good);
        }
        checked
    }
}

/// The same for bytes in memory; without a look at checksums.
#[must_use]
pub fn check_bytes(bytes: &[u8], check: Check) -> Checked {
    let mut scan = Scan::new(check);
    let end = loop {
        match scan.step(&bytes[scan.at as usize..]) {
            Ok(_) => {}
            Err(Stopped::End(end)) => break end,
            Err(Stopped::Short { annotation, .. }) => break scan.ends(scan.at == bytes.len() as u64, annotation),
        }
    };
    scan.checked(bytes.len() as u64, end)
}

/// What a command or an annotation is to the units of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// An annotation.
    Annotation,
    /// A command, by itself or within a unit.
    Command,
    /// It begins a unit.
    Begins,
    /// It ends a unit, which is to be executed.
    Executes,
    /// It ends a unit, which is to be forgotten.
    Discards,
    /// It would begin a unit within one, or end one where there is none: leniently read, nothing.
    Stray,
}

/// Why a scan can't go on.
enum Stopped {
    Short { needed: usize, annotation: bool },
    End(End),
}

/// A walk through a file under way.
struct Scan {
    parser: Parser,
    lenient: bool,
    until: Option<i64>,
    at: u64,
    lines: u64,
    commands: u64,
    /// Where the open unit begins, with the counts before it.
    unit: Option<(u64, u64, u64)>,
}

impl Scan {
    fn new(check: Check) -> Scan {
        let parser = Parser::new(check.reading);
        Scan {
            parser,
            lenient: check.reading == Reading::Lenient,
            until: check.until,
            at: 0,
            lines: 0,
            commands: 0,
            unit: None,
        }
    }

    fn reading(&self) -> Reading {
        if self.lenient { Reading::Lenient } else { Reading::Strict }
    }

    /// Takes in what `bytes`, which stand at `at`, begin with. Returns its length and what it is.
    fn step(&mut self, bytes: &[u8]) -> Result<(usize, Role), Stopped> {
        let found = self.parser.next(bytes).map_err(|stop| match stop {
            Stop::Short { needed, annotation } => Stopped::Short { needed, annotation },
            Stop::Malformed { at, what } => Stopped::End(End::Malformed(self.at + at as u64, what)),
        })?;
        let role = match found.kind {
            Kind::Annotation(Some(second)) if self.until.is_some_and(|until| second > until) => {
                return Err(Stopped::End(End::Later(second)));
            }
            Kind::Annotation(_) => Role::Annotation,
            Kind::Command => {
                let role = self.role(bytes);
                match role {
                    // (The server answers such a command with an error, and goes on.)
                    Role::Stray if !self.lenient => return Err(Stopped::End(End::Unit(self.at))),
                    Role::Begins => self.unit = Some((self.at, self.lines, self.commands)),
                    Role::Executes | Role::Discards => self.unit = None,
                    Role::Annotation | Role::Command | Role::Stray => {}
                }
                self.commands += 1;
                self.lines += 1 + 2 * self.parser.command(bytes).len() as u64;
                role
            }
        };
        self.at += found.bytes as u64;
        Ok((found.bytes, role))
    }

    /// What the command that `bytes` begin with is.
    fn role(&self, bytes: &[u8]) -> Role {
        let open = self.unit.is_some();
        if self.parser.is(bytes, "MULTI") {
            return if open { Role::Stray } else { Role::Begins };
        }
        let ends = if self.parser.is(bytes, "EXEC") {
            Role::Executes
        } else if self.parser.is(bytes, "DISCARD") {
            Role::Discards
        } else {
            return Role::Command;
        };
        if open { ends } else { Role::Stray }
    }

    /// What the end of the file means, `between` two commands or within one.
    fn ends(&self, between: bool, annotation: bool) -> End {
        match (between, annotation, self.unit) {
            (true, _, None) => End::File,
            (true, _, Some(_)) => End::OpenUnit,
            (false, true, _) => End::ShortAnnotation,
            (false, false, _) => End::ShortCommand,
        }
    }

    fn checked(self, length: u64, end: End) -> Checked {
        let whole = self.at;
        let (good, good_lines, commands) = self.unit.unwrap_or((self.at, self.lines, self.commands));
        Checked { length, good, whole, good_lines, commands, end }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::resp::{encode, encode_timestamp},
        *,
    };

    fn strict(bytes: &[u8]) -> Checked {
        check_bytes(bytes, Check::default())
    }

    fn log(commands: &[&[&str]]) -> Vec<u8> {
        let mut out = Vec::new();
        commands.iter().for_each(|command| encode(&mut out, command));
        out
    }

    #[test]
    fn every_cut_within_a_unit_is_good_up_to_before_it() {
        let before = log(&[&["SET", "a", "1"]]);
        let unit = log(&[&["multi"], &["SET", "b", "2"], &["INCR", "c"], &["Exec"]]);
        let whole = [before.as_slice(), &unit].concat();
        assert_eq!(
            (strict(&whole).good, strict(&whole).end, strict(&whole).commands),
            (whole.len() as u64, End::File, 5)
        );
        for end in before.len() + 1..whole.len() {
            let checked = strict(&whole[..end]);
            assert_eq!((checked.good, checked.commands), (before.len() as u64, 1), "cut at {end}");
            assert!(checked.end.is_torn(), "cut at {end}: {:?}", checked.end);
        }
    }

    #[test]
    fn units_don_t_nest_and_end_only_if_they_began() {
        let nested = log(&[&["SET", "a", "1"], &["MULTI"], &["MULTI"]]);
        assert_eq!((strict(&nested).good, strict(&nested).end), (27, End::Unit(42)));
        for stray in ["EXEC", "DISCARD"] {
            assert_eq!(strict(&log(&[&["SET", "a", "1"], &[stray]])).end, End::Unit(27));
        }
        assert_eq!(strict(&log(&[&["MULTI"], &["SET", "a", "1"], &["DISCARD"]])).end, End::File);
    }

    #[test]
    fn a_point_in_time_ends_before_the_first_later_timestamp() {
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for second in 10..13 {
            starts.push(bytes.len() as u64);
            encode_timestamp(&mut bytes, second);
            encode(&mut bytes, &["INCR", "n"]);
        }
        let good = |until| {
            let checked = check_bytes(&bytes, Check { until: Some(until), ..Check::default() });
            (checked.good, checked.end)
        };
        assert_eq!(good(9), (0, End::Later(10)));
        assert_eq!(good(10), (starts[1], End::Later(11)));
        assert_eq!(good(11), (starts[2], End::Later(12)));
        assert_eq!(good(12), (bytes.len() as u64, End::File));
        assert_eq!(good(13), (bytes.len() as u64, End::File));
    }
}

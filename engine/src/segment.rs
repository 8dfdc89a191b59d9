//! One file of the log: its name, its identity, its creation, and reading frames out of it.

use std::{
    io,
    ops::{Deref, Range},
    path::Path,
    sync::OnceLock,
};

use bytes::{Bytes, BytesMut};

use crate::{
    codec::{
        BadIdentity, FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, Frame, Header, IDENTITY_BYTES, IDENTITY_OFFSETS, Identity,
        Position, Undecodable,
    },
    env::{Dir, Env, File, OpenMode, interruptible, read_at_most, write_all_at},
    plant::{Plants, planted},
};

/// Bytes that a scan reads at once: few at first, since often only the start is looked at, then four times as many each
/// time.
const FIRST_WINDOW_BYTES: u64 = 8 * 1024;
const WINDOW_BYTES: u64 = 256 * 1024;
/// Bytes of zeros that a preparation writes at once: larger pieces stall the appends of others (64 MiB: 20 ms).
const ZERO_BYTES: u64 = 256 * 1024;

/// Slots are counted up, never reused; no log gets this far, but a name found in a directory may say anything.
const MAX_SLOT_DIGITS: usize = 12;

/// Digits of a slot in a name; a higher one has as many as it needs.
const SLOT_DIGITS: usize = 8;

/// A file name of the log: a slot, and whether the file was renamed into place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// `wal-<slot>.seg`: its identity was durable before it got this name.
    Segment(u64),
    /// `wal-<slot>.tmp`: being prepared, or left over.
    Temporary(u64),
    /// `wal-<slot>.seg.cut`: lay behind the place where a damaged log was cut. Nothing reads it again; only its slot is taken.
    SetAside(u64),
}

impl Name {
    /// Reads a name of the log; anything else in the directory is foreign.
    pub(crate) fn parse(name: &str) -> Option<Name> {
        let name = name.strip_prefix("wal-")?;
        let digits = name.bytes().take_while(u8::is_ascii_digit).count();
        let (slot, extension) = (&name[..digits], name[digits..].strip_prefix('.')?);
        if slot.len() < SLOT_DIGITS || (slot.len() > SLOT_DIGITS && slot.starts_with('0')) {
            return None;
        }
        if slot.len() > MAX_SLOT_DIGITS {
            return None;
        }
        let slot = slot.bytes().fold(0, |slot, digit| 10 * slot + u64::from(digit - b'0'));
        match extension {
            "seg" => Some(Name::Segment(slot)),
            "tmp" => Some(Name::Temporary(slot)),
            "seg.cut" => Some(Name::SetAside(slot)),
            _ => None,
        }
    }

    /// The name as text.
    pub(crate) fn text(self) -> String {
        let extension = match self {
            Name::Segment(_) => ".seg",
            Name::Temporary(_) => ".tmp",
            Name::SetAside(_) => ".seg.cut",
        };
        // By hand: recovery names every file that it finds.
        let mut digits = *b"00000000000000000000";
        let (mut rest, mut from) = (self.slot(), digits.len());
        while rest > 0 {
            from -= 1;
            digits[from] += (rest % 10) as u8;
            rest /= 10;
        }
        let digits = &digits[from.min(digits.len() - SLOT_DIGITS)..];
        let mut text = String::with_capacity("wal-".len() + digits.len() + extension.len());
        text.push_str("wal-");
        text.push_str(std::str::from_utf8(digits).unwrap_or_default());
        text.push_str(extension);
        text
    }

    pub(crate) fn slot(self) -> u64 {
        match self {
            Name::Segment(slot) | Name::Temporary(slot) | Name::SetAside(slot) => slot,
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

/// A segment, planned or on disk.
#[derive(Debug)]
pub(crate) struct Segment<D: Dir> {
    pub(crate) slot: u64,
    pub(crate) identity: Identity,
    seed: u32,
    file: OnceLock<D::File>,
    #[cfg(feature = "plants")]
    plants: Plants,
}

impl<D: Dir> Segment<D> {
    /// A segment whose file isn't open, or doesn't exist yet.
    pub(crate) fn new(slot: u64, identity: Identity, plants: &Plants) -> Segment<D> {
        let seed = if planted!(plants, WalRecycledStale) { 0 } else { identity.seed() };
        Segment {
            slot,
            identity,
            seed,
            file: OnceLock::new(),
            #[cfg(feature = "plants")]
            plants: plants.clone(),
        }
    }

    pub(crate) fn name(&self) -> Name {
        Name::Segment(self.slot)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.identity.generation
    }

    /// What every frame checksum starts from.
    pub(crate) fn seed(&self) -> u32 {
        self.seed
    }

    pub(crate) fn position(&self, offset: u64) -> Position {
        Position { generation: self.generation(), offset }
    }

    /// The open file, if it was created or opened before.
    pub(crate) fn file(&self) -> Option<&D::File> {
        self.file.get()
    }

    /// The open file; opened for reading if needed.
    pub(crate) async fn open(&self, dir: &D) -> io::Result<&D::File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let name = self.name().text();
        let file = interruptible(|| dir.open(&name, OpenMode::Read)).await?;
        Ok(self.file.get_or_init(|| file))
    }

    /// Attaches a file that was opened elsewhere.
    pub(crate) fn attach(&self, file: D::File) {
        // A second one is dropped: both name the same file.
        drop(self.file.set(file));
    }

    /// Creates the file durably: content under a temporary name, zeros up to `length`, sync, rename, sync of the
    /// directory. A crash leaves nothing, a temporary file, or all of `head`, which begins with the identity; never a part
    /// under the final name.
    pub(crate) async fn create(&self, dir: &D, head: &[u8], length: u64, plants: &Plants) -> io::Result<()> {
        let (temporary, name) = (Name::Temporary(self.slot).text(), self.name().text());
        let file = interruptible(|| dir.open(&temporary, OpenMode::CreateNew)).await?;
        write_all_at(&file, head, 0).await?;
        write_zeros(&file, head.len() as u64, length).await?;
        let early = planted!(plants, WalSealBeforeSuccessor);
        if !early {
            interruptible(|| sync_new(&file, plants)).await?;
        }
        interruptible(|| dir.rename(&temporary, &name)).await?;
        if !early && !planted!(plants, WalSegNoDirsync) {
            interruptible(|| dir.sync()).await?;
        }
        self.attach(file);
        Ok(())
    }

    /// Removes what a failed preparation has left, as far as the machine lets it; else the next open does.
    pub(crate) async fn discard(&self, dir: &D) {
        for name in [Name::Temporary(self.slot), Name::Segment(self.slot)] {
            let name = name.text();
            drop(interruptible(|| dir.remove(&name)).await);
        }
    }
}

/// Makes a file durable that has grown.
pub(crate) async fn sync_new<F: File>(file: &F, plants: &Plants) -> io::Result<()> {
    #[cfg(feature = "plants")]
    if planted!(plants, EnvLenNotSynced) {
        return file.sync_pages().await;
    }
    let _: &Plants = plants;
    file.sync_all().await
}

/// Makes what was written to a file durable.
pub(crate) async fn sync_written<F: File>(file: &F, plants: &Plants) -> io::Result<()> {
    #[cfg(feature = "plants")]
    if planted!(plants, EnvLenNotSynced) {
        return file.sync_pages().await;
    }
    let _: &Plants = plants;
    file.sync_data().await
}

/// Fills `from..to` with zeros, in pieces that leave the disk to others in between.
pub(crate) async fn write_zeros<F: File>(file: &F, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; ZERO_BYTES as usize] = [0; ZERO_BYTES as usize];
    let mut at = from;
    while at < to {
        let piece = (to - at).min(ZERO_BYTES);
        write_all_at(file, &ZEROS[..piece as usize], at).await?;
        at += piece;
    }
    Ok(())
}

/// Replaces the identity of a file that holds nothing any more, one copy at a time, the one that counts less first: a
/// crash at any moment leaves one readable.
pub(crate) async fn replace_identity<F: File>(file: &F, identity: &Identity) -> io::Result<()> {
    let copy = identity.encode();
    let generations = read_generations(file).await?;
    let order = if generations[0] <= generations[1] { [0, 1] } else { [1, 0] };
    // What an earlier process wrote may be pending still: without this, two versions of one copy could mix.
    interruptible(|| file.sync_data()).await?;
    for index in order {
        write_all_at(file, &copy, IDENTITY_OFFSETS[index]).await?;
        interruptible(|| file.sync_data()).await?;
    }
    Ok(())
}

/// The generation that each copy states; `None` if it is unreadable.
async fn read_generations<F: File>(file: &F) -> io::Result<[Option<u64>; 2]> {
    let mut head = Head::default();
    let copies = head.read(file).await?;
    Ok(copies.map(|copy| copy.ok().map(|identity| identity.generation)))
}

/// Of all segments of a log the copies of identities that can't be read: the file, and where in it.
pub(crate) async fn unreadable_identities<E: Env>(env: &E, path: &Path) -> io::Result<Vec<(String, u64)>> {
    let dir = match interruptible(|| env.dir(path, false)).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        dir => dir?,
    };
    let (mut head, mut unreadable) = (Head::default(), Vec::new());
    for entry in interruptible(|| dir.list()).await? {
        let Some(name @ Name::Segment(_)) = entry.name.to_str().and_then(Name::parse) else { continue };
        let text = name.text();
        let file = interruptible(|| dir.open(&text, OpenMode::Read)).await?;
        let copies = head.read(&file).await?.into_iter().zip(IDENTITY_OFFSETS);
        let bad = copies.filter(|(copy, _)| matches!(copy, Err(BadIdentity::Unreadable)));
        unreadable.extend(bad.map(|(_, offset)| (text.clone(), offset)));
    }
    Ok(unreadable)
}

/// The bytes before the first frame, of one file after the other.
#[derive(Debug, Default)]
pub(crate) struct Head {
    bytes: Vec<u8>,
}

impl Head {
    /// Reads both copies of a file's identity.
    async fn read<F: File>(&mut self, file: &F) -> io::Result<[Result<Identity, BadIdentity>; 2]> {
        self.bytes.resize(IDENTITY_OFFSETS[1] as usize + IDENTITY_BYTES, 0);
        let length = read_at_most(file, &mut self.bytes, 0).await?;
        let copies = IDENTITY_OFFSETS.map(|offset| {
            let bytes = self.bytes[..length].get(offset as usize..).unwrap_or_default();
            bytes.get(..IDENTITY_BYTES).unwrap_or_default()
        });
        let first = Identity::decode(copies[0]);
        // Until the end of the log is stated in one of them they are the same.
        let second = if copies[0] == copies[1] { first.clone() } else { Identity::decode(copies[1]) };
        Ok([first, second])
    }
}

/// States in the second copy of a prepared segment's identity that the log is durable up to `durable`. The first copy is
/// not touched, so a crash in between loses nothing.
pub(crate) async fn restate<D: Dir>(segment: &Segment<D>, durable: Position) -> io::Result<()> {
    let Some(file) = segment.file() else { return Ok(()) };
    let identity = Identity { durable, ..segment.identity.clone() };
    write_all_at(file, &identity.encode(), IDENTITY_OFFSETS[1]).await?;
    interruptible(|| file.sync_data()).await
}

/// What the two copies of an identity say.
#[derive(Debug)]
pub(crate) enum IdentityFound {
    Readable(Identity),
    Newer(u16, u16),
    Unreadable,
}

/// Reads both copies. Of two readable ones the higher generation counts, then the further evidence.
pub(crate) async fn read_identity<F: File>(file: &F, head: &mut Head) -> io::Result<IdentityFound> {
    let mut found = IdentityFound::Unreadable;
    for copy in head.read(file).await? {
        match copy {
            Ok(identity) => {
                let better = match &found {
                    IdentityFound::Readable(other) => {
                        (identity.generation, identity.durable) > (other.generation, other.durable)
                    }
                    IdentityFound::Newer(..) => false,
                    IdentityFound::Unreadable => true,
                };
                if better {
                    found = IdentityFound::Readable(identity);
                }
            }
            // An upgraded program was here: what it wrote is not ours to judge.
            Err(BadIdentity::Newer { major, minor }) => found = IdentityFound::Newer(major, minor),
            Err(BadIdentity::Unreadable) => {}
        }
    }
    Ok(found)
}

/// A frame that a [`Scanner`] found, with its body still in the scanner's window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) header: Header,
    pub(crate) crc: u32,
    pub(crate) offset: u64,
}

impl Found {
    /// Offset of the first byte behind it.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.header.frame_bytes()
    }
}

/// Bytes of one file that were read. What was read once is not read again: after a failed sync in an earlier process a page
/// may be evicted, and read differently a moment later.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Generation of the segment; 0 is none.
    generation: u64,
    length: u64,
    /// Memory, which records may share; the first `held` bytes of it were read.
    bytes: Bytes,
    held: usize,
    offset: u64,
    /// The frames from the first one on up to this offset were decoded out of these bytes, as far as they hold them still.
    whole: u64,
}

/// Reads frames out of one file through a window of bytes.
pub(crate) struct Scanner<'a, F> {
    file: &'a F,
    seed: u32,
    window: Window,
    #[cfg(feature = "plants")]
    plants: Plants,
}

impl<'a, F: File> Scanner<'a, F> {
    /// Begins to scan the file of a segment, or goes on with the window of an earlier scan of it. The memory of a window of
    /// another segment is used again.
    pub(crate) async fn new<D: Dir<File = F>>(
        file: &'a F,
        segment: &Segment<D>,
        mut window: Window,
    ) -> io::Result<Scanner<'a, F>> {
        if window.generation != segment.generation() {
            let length = interruptible(|| file.len()).await?;
            window.held = 0;
            window = Window { generation: segment.generation(), length, offset: 0, whole: 0, ..window };
        }
        Ok(Scanner {
            file,
            seed: segment.seed(),
            window,
            #[cfg(feature = "plants")]
            plants: segment.plants.clone(),
        })
    }

    /// What was read, for a later scan.
    pub(crate) fn into_window(self) -> Window {
        self.window
    }

    /// Length of what is scanned, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.window.length
    }

    /// Decodes the frame at `offset`. The outer error is the machine's and says nothing about the log.
    pub(crate) async fn frame(&mut self, offset: u64) -> io::Result<Result<Found, Undecodable>> {
        match self.frame_now(offset) {
            Some(found) => Ok(Ok(found)),
            None => self.frame_filled(offset).await,
        }
    }

    /// Decodes the frame at `offset` if it is in the window as a whole.
    pub(crate) fn frame_now(&self, offset: u64) -> Option<Found> {
        let frame = Frame::decode(self.bytes(offset), self.seed, offset).ok()?;
        Some(Found { header: frame.header, crc: frame.crc, offset })
    }

    /// The same, for who goes from the first frame on from each one to the next: what was found whole on this way before, in
    /// these very bytes, isn't summed up again.
    pub(crate) fn frame_on_the_way(&self, offset: u64) -> Option<Found> {
        if offset >= self.window.whole {
            return self.frame_now(offset);
        }
        let (header, crc) = Frame::decode_again(self.bytes(offset), self.seed, offset)?;
        Some(Found { header, crc, offset })
    }

    /// All frames from the first one up to `end` were decoded, one after the other.
    pub(crate) fn found_whole(&mut self, end: u64) {
        self.window.whole = end;
    }

    async fn frame_filled(&mut self, offset: u64) -> io::Result<Result<Found, Undecodable>> {
        self.fill(offset, FRAME_HEADER_BYTES).await?;
        let Some(header) = Header::peek(self.bytes(offset), self.seed, offset) else {
            #[cfg(feature = "plants")]
            if planted!(self.plants, WalLenNotChecksummed)
                && let Some(frame) = Frame::decode_body_alone(self.bytes(offset), self.seed, offset)
            {
                return Ok(Ok(Found { header: frame.header, crc: frame.crc, offset }));
            }
            return Ok(Err(Undecodable::NoHeader));
        };
        // The length is only plausible: it may ask for no more memory than the file has bytes.
        if offset + FRAME_HEADER_BYTES + header.body_bytes > self.window.length {
            return Ok(Err(Undecodable::BadBody));
        }
        self.fill(offset, FRAME_HEADER_BYTES + header.body_bytes).await?;
        Ok(Frame::decode(self.bytes(offset), self.seed, offset).map(|frame| Found {
            header: frame.header,
            crc: frame.crc,
            offset,
        }))
    }

    /// Where a frame would end whose header at `offset` is plausible, as far as the file goes.
    pub(crate) fn torn_end(&self, offset: u64) -> u64 {
        let header = Header::peek(self.bytes(offset), self.seed, offset);
        header.map_or(offset, |header| (offset + header.frame_bytes()).min(self.window.length))
    }

    /// The body of the frame that was found last.
    pub(crate) fn body(&self, found: &Found) -> &[u8] {
        let bytes = self.bytes(found.offset + FRAME_HEADER_BYTES);
        bytes.get(..found.header.body_bytes as usize).unwrap_or_default()
    }

    /// A [`Scanner::body`] that shares the memory of the window.
    pub(crate) fn shared(&self, body: &[u8]) -> Bytes {
        self.window.bytes.slice_ref(body)
    }

    /// The same where it stands.
    pub(crate) fn in_window(&self, found: &Found) -> InWindow<'_> {
        let begin = (found.offset + FRAME_HEADER_BYTES - self.window.offset) as usize;
        InWindow { window: &self.window.bytes, range: begin..begin + found.header.body_bytes as usize }
    }

    /// The next intact frame at or after `offset`, wherever it stands. Used behind the end of a log, to count what a crash
    /// left there and to learn what it claims.
    pub(crate) async fn survivor(&mut self, mut offset: u64) -> io::Result<Option<Found>> {
        offset = offset.next_multiple_of(FRAME_ALIGN_BYTES);
        loop {
            offset = self.behind_known_zeros(offset);
            if offset + FRAME_HEADER_BYTES > self.window.length {
                return Ok(None);
            }
            self.fill(offset, FRAME_HEADER_BYTES).await?;
            let bytes = self.bytes(offset);
            let (hit, scanned) = plausible(bytes, self.seed, offset);
            match hit {
                None => offset += scanned,
                Some(at) => {
                    offset += at;
                    if let Ok(found) = self.frame(offset).await? {
                        return Ok(Some(found));
                    }
                    offset += FRAME_ALIGN_BYTES;
                }
            }
        }
    }

    /// The first place at or after `offset` where a header may stand, if what was read ends in zeros and the machine knows
    /// that zeros follow; else `offset`.
    fn behind_known_zeros(&self, offset: u64) -> u64 {
        let read = self.bytes(offset);
        if read.len() as u64 >= FRAME_HEADER_BYTES || read.iter().any(|byte| *byte != 0) {
            return offset;
        }
        let end = offset + read.len() as u64;
        match self.file.known_zeros(end) {
            0 => offset,
            // The kind of a frame stands in byte 7, and is never 0.
            zeros => offset.max((end + zeros).saturating_sub(7).next_multiple_of(FRAME_ALIGN_BYTES)),
        }
    }

    /// The part of the window from `offset` on.
    fn bytes(&self, offset: u64) -> &[u8] {
        let at = offset.checked_sub(self.window.offset).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.window.bytes.get(at..self.window.held)).unwrap_or_default()
    }

    /// Makes the window hold `count` bytes from `offset` on, as far as the file has them.
    async fn fill(&mut self, offset: u64, count: u64) -> io::Result<()> {
        let end = (offset + count).min(self.window.length);
        let window = &mut self.window;
        if offset >= window.offset && end <= window.offset + window.held as u64 {
            return Ok(());
        }
        let onward = window.held > 0 && offset > window.offset;
        let usual = if onward { (4 * window.held as u64).min(WINDOW_BYTES) } else { FIRST_WINDOW_BYTES };
        let wanted = count.max(usual).min(window.length.saturating_sub(offset)) as usize;
        // After an error the window holds nothing, so that a second try reads again.
        window.held = 0;
        window.whole = 0;
        window.offset = offset;
        // The memory is used again if nobody holds a record in it.
        let mut memory = std::mem::take(&mut window.bytes).try_into_mut().unwrap_or_default();
        if memory.len() < wanted {
            memory = BytesMut::zeroed(wanted);
        }
        window.held = read_at_most(self.file, &mut memory[..wanted], offset).await?;
        window.bytes = memory.freeze();
        Ok(())
    }
}

/// Bytes that were read, in the window that they were read into with others: who keeps many shares windows, not each of them.
#[derive(Clone, Debug)]
pub(crate) struct InWindow<'a> {
    window: &'a Bytes,
    range: Range<usize>,
}

impl<'a> InWindow<'a> {
    /// What they stand in.
    pub(crate) fn window(&self) -> &'a Bytes {
        self.window
    }

    /// Where they stand there.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// A part of them.
    pub(crate) fn slice(&self, part: Range<usize>) -> InWindow<'a> {
        let begin = self.range.start;
        InWindow { window: self.window, range: begin + part.start..begin + part.end }
    }

    /// By themselves: they keep the window.
    pub(crate) fn shared(&self) -> Bytes {
        self.window.slice(self.range())
    }
}

impl Deref for InWindow<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.window[self.range()]
    }
}

impl<'a> From<&'a Bytes> for InWindow<'a> {
    fn from(window: &'a Bytes) -> InWindow<'a> {
        InWindow { window, range: 0..window.len() }
    }
}

/// Where in `bytes`, which stand at `offset`, the first plausible header stands, and how many bytes were looked at: all but
/// those that are shorter than a header.
fn plausible(bytes: &[u8], seed: u32, offset: u64) -> (Option<u64>, u64) {
    /// Zeros are skipped in pieces of these sizes.
    const PAGE: usize = 4096;
    const PIECE: usize = 256;
    let (step, header) = (FRAME_ALIGN_BYTES as usize, FRAME_HEADER_BYTES as usize);
    let mut at = 0;
    while at + header <= bytes.len() {
        // Kind 0 is never valid, and the kind stands in byte 7.
        if bytes[at + 7] >> 4 != 0 {
            if Header::peek(&bytes[at..], seed, offset + at as u64).is_some() {
                return (Some(at as u64), at as u64);
            }
        } else if bytes.get(at..at + PAGE).is_some_and(|page| *page == [0; PAGE]) {
            at += PAGE - 8;
            continue;
        } else if bytes.get(at..at + PIECE).is_some_and(|piece| *piece == [0; PIECE]) {
            at += PIECE - 8;
            continue;
        }
        at += step;
    }
    (None, at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_log_read_back_and_others_are_foreign() {
        for name in [Name::Segment(1), Name::Temporary(99_999_999), Name::Segment(123_456_789), Name::SetAside(7)] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        assert_eq!(Name::Segment(1).text(), "wal-00000001.seg");
        assert_eq!(Name::Temporary(0).text(), "wal-00000000.tmp");
        assert_eq!(Name::SetAside(123_456_789).text(), "wal-123456789.seg.cut");
        for foreign in [
            "wal-1.seg",
            "wal-00000001",
            "wal-00000001.seg.bak",
            "wal-0000000x.seg",
            "wal-000000001.seg",
            "WAL-00000001.seg",
            "",
            "wal-99999999999999999999999.seg",
        ] {
            assert_eq!(Name::parse(foreign), None, "{foreign}");
        }
    }
}

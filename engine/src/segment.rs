//! One file of the log: its name, its identity and its creation. A [scanner] reads frames out of it.

mod scanner;

use std::{io, path::Path, sync::OnceLock};

use crate::{
    codec::{BadIdentity, IDENTITY_BYTES, IDENTITY_OFFSETS, Identity, Position},
    env::{Dir, Env, File, OpenMode, interruptible, read_at_most, write_all_at},
    plant::{Plants, planted},
};

pub(crate) use self::scanner::{InWindow, Scanner, Window};

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

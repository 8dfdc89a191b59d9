//! One directory: the names that the process sees, those on the disk, and the effects between the two.
//!
//! Effects on different names are independent; effects that share a name are a chain. A rename is one effect: both
//! names change, or neither.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Component, Path},
    sync::Arc,
};

use engine::env::{Entry, EntryKind};

use super::{DirId, draw::Draw, file::View};

/// A file name, shared with effects and crash images.
pub type Name = Arc<OsStr>;

/// Names of the inodes in the disk's table.
pub(super) type Names = BTreeMap<Name, u32>;

/// How many removed files lend their bytes to files that are created later.
const STALE: usize = 4;

/// A directory with its pending effects.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    /// Normalized: components joined by `/`; the root is empty.
    pub(super) path: Arc<str>,
    pub(super) live: Names,
    pub(super) disk: Names,
    pending: Vec<Change>,
    /// What stood on blocks that are free now.
    stale: Vec<View>,
}

#[derive(Clone, Debug)]
struct Change {
    seq: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Add { name: Name, inode: u32 },
    Remove { name: Name },
    Rename { from: Name, to: Name, inode: u32 },
}

impl What {
    fn touches(&self, name: &Name) -> bool {
        self.names().any(|own| own == name)
    }

    fn names(&self) -> impl Iterator<Item = &Name> {
        let (name, other) = match self {
            What::Add { name, .. } | What::Remove { name } => (name, None),
            What::Rename { from, to, .. } => (to, Some(from)),
        };
        std::iter::once(name).chain(other)
    }

    fn shares_a_name(&self, other: &What) -> bool {
        self.names().any(|name| other.touches(name))
    }

    /// Whether it took a name from a file: only then the file may be out of reach.
    fn apply(&self, names: &mut Names) -> bool {
        match self {
            What::Add { name, inode } => names.insert(name.clone(), *inode).is_some(),
            What::Remove { name } => names.remove(name).is_some(),
            What::Rename { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode).is_some()
            }
        }
    }
}

impl Directory {
    pub(super) fn at(path: Arc<str>) -> Directory {
        Directory { path, ..Directory::default() }
    }

    pub(super) fn settled(&self) -> bool {
        self.pending.is_empty() && self.live == self.disk
    }

    pub(super) fn add(&mut self, seq: u64, name: Name, inode: u32) {
        self.change(seq, What::Add { name, inode });
    }

    pub(super) fn remove(&mut self, seq: u64, name: Name) {
        self.change(seq, What::Remove { name });
    }

    /// Whether it took its name from another file.
    pub(super) fn rename(&mut self, seq: u64, from: Name, to: Name, inode: u32) -> bool {
        self.change(seq, What::Rename { from, to, inode })
    }

    fn change(&mut self, seq: u64, what: What) -> bool {
        let taken = what.apply(&mut self.live);
        self.pending.push(Change { seq, what });
        taken
    }

    /// A sync that began when `upto` was the newest effect has completed. Whether it took a name from a file.
    pub(super) fn sync(&mut self, upto: u64) -> bool {
        let covered = self.covered(upto);
        let mut taken = false;
        for change in self.pending.drain(..covered) {
            taken |= change.what.apply(&mut self.disk);
        }
        taken
    }

    /// It has failed: each name may or may not have reached the disk, and nobody will write the others again.
    pub(super) fn fail_sync(&mut self, upto: u64, draw: &mut Draw<'_>) {
        let covered = self.covered(upto);
        let later = self.pending.split_off(covered);
        self.land_drawn(draw);
        self.pending = later;
    }

    /// A power cut.
    pub(super) fn crash(&mut self, draw: &mut Draw<'_>) {
        self.land_drawn(draw);
        self.reset();
    }

    /// Keeps only what the disk holds.
    pub(super) fn reset(&mut self) {
        self.pending.clear();
        if self.live != self.disk {
            self.live = self.disk.clone();
        }
    }

    /// What happened to the wanted names lands, with everything before that it builds on.
    pub(super) fn land_names(&mut self, wanted: impl Fn(&Name) -> bool) {
        let mut landing: Vec<What> = Vec::new();
        for Change { what, .. } in self.pending.drain(..).rev() {
            if what.names().any(&wanted) || landing.iter().any(|later| later.shares_a_name(&what)) {
                landing.push(what);
            }
        }
        for what in landing.iter().rev() {
            what.apply(&mut self.disk);
        }
    }

    /// The names that something pending touches.
    pub(super) fn pending_names(&self) -> impl Iterator<Item = &Name> {
        self.pending.iter().flat_map(|change| change.what.names())
    }

    /// Lends the bytes of a removed file to later ones.
    pub(super) fn recycle(&mut self, content: View) {
        if self.stale.len() == STALE {
            self.stale.remove(0);
        }
        self.stale.push(content);
    }

    /// The bytes that lost sectors of a new file may show.
    pub(super) fn stale(&self, draw: &mut Draw<'_>) -> Option<View> {
        if self.stale.is_empty() { None } else { Some(draw.prng.pick(&self.stale).clone()) }
    }

    /// All inodes that some legal crash state names.
    pub(super) fn names(&self) -> impl Iterator<Item = u32> + '_ {
        let pending = self.pending.iter().filter_map(|change| match change.what {
            What::Add { inode, .. } | What::Rename { inode, .. } => Some(inode),
            What::Remove { .. } => None,
        });
        self.live.values().chain(self.disk.values()).copied().chain(pending)
    }

    fn covered(&self, upto: u64) -> usize {
        self.pending.partition_point(|change| change.seq <= upto)
    }

    fn land_drawn(&mut self, draw: &mut Draw<'_>) {
        let pending = std::mem::take(&mut self.pending);
        let mut lost: Vec<&What> = Vec::new();
        for change in &pending {
            // A chain: nothing survives that builds on a lost change of the same name.
            if lost.iter().any(|what| what.shares_a_name(&change.what)) || !draw.keeps(change.seq) {
                lost.push(&change.what);
                draw.report.names_lost += 1;
            } else {
                change.what.apply(&mut self.disk);
                draw.report.names_kept += 1;
            }
        }
    }
}

/// The directory at `path` among `dirs`.
pub(super) fn find(dirs: &[Arc<Directory>], path: &Path) -> Option<DirId> {
    let written = path.to_str().and_then(|path| path.strip_prefix('/'));
    let find = |path: &str| dirs.iter().position(|dir| *dir.path == *path);
    // Mostly it is written as it is kept.
    let index = written.and_then(find).or_else(|| find(&normalize(path)));
    index.map(|index| DirId(index as u32))
}

/// What a listing of `dir` shows: its files, which come sorted, and the directories in it.
pub(super) fn entries<'a>(
    dirs: &[Arc<Directory>],
    dir: DirId,
    files: impl Iterator<Item = (&'a Name, u64)>,
) -> Vec<Entry> {
    let mut entries: Vec<Entry> =
        files.map(|(name, len)| Entry { name: name.as_ref().to_owned(), kind: EntryKind::File, len }).collect();
    let sorted = entries.len();
    let parent = &dirs[dir.0 as usize].path;
    for child in dirs {
        if let Some(name) = child_of(&child.path, parent) {
            entries.push(Entry { name: name.into(), kind: EntryKind::Other, len: 0 });
        }
    }
    if entries.len() > sorted {
        entries.sort_by(|one, two| one.name.cmp(&two.name));
    }
    entries
}

/// Components joined by `/`; the root, `.` and the empty path are all the root.
pub(super) fn normalize(path: &Path) -> Arc<str> {
    let mut parts = String::new();
    for component in path.components() {
        if let Component::Normal(part) = component {
            if !parts.is_empty() {
                parts.push('/');
            }
            parts.push_str(&part.to_string_lossy());
        }
    }
    parts.into()
}

/// The last component of `path` if it lies directly in `parent`.
pub(super) fn child_of<'a>(path: &'a str, parent: &str) -> Option<&'a str> {
    let name = if parent.is_empty() { path } else { path.strip_prefix(parent)?.strip_prefix('/')? };
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

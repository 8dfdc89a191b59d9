//! What a power cut keeps of what was pending, down to single sectors, as text and as a choice among the legal states.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use super::{Disk, Name};

/// What a power cut keeps of the pending effects. [`fmt::Display`] and [`FromStr`] are each other's inverse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// `draw`: a drawn legal state, with a bias that varies from crash to crash.
    Draw,
    /// `all`: everything.
    All,
    /// `none`: nothing but what completed syncs promise.
    None,
    /// `only …, …`: these and nothing else.
    Only(Vec<Kept>),
}

/// Something pending that survives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// `FILE`: everything of a file.
    File(String),
    /// `FILE[3 8-15 length]`: of a file the newest content of these sectors, counted from its beginning, and its newest
    /// length.
    Sectors {
        /// The file.
        file: String,
        /// Numbers of sectors.
        sectors: BTreeSet<u64>,
        /// Whether its length survives.
        length: bool,
    },
    /// `dir`: all names.
    Dir,
    /// `name FILE`: what happened to this name, and everything that it builds on.
    Name(String),
}

/// A pending change of one file that survived as a whole, or could.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part<'a> {
    pub(super) all: bool,
    pub(super) sectors: Vec<&'a BTreeSet<u64>>,
    pub(super) length: bool,
}

impl Part<'_> {
    pub(super) fn keeps(&self, sector: u64) -> bool {
        self.all || self.sectors.iter().any(|sectors| sectors.contains(&sector))
    }

    pub(super) fn keeps_length(&self) -> bool {
        self.all || self.length
    }
}

impl Disk {
    /// What of the effects that were pending in `self` survived the power cut that left `after`. An effect that survived in
    /// part counts as lost, so the answer may be another legal state than `after`.
    #[must_use]
    pub fn kept(&self, after: &Disk) -> Keep {
        let sector_bytes = self.options.sector_bytes as usize;
        let mut kept = Vec::new();
        for (index, inode) in self.inodes.iter().enumerate() {
            let Some(inode) = inode.as_ref().filter(|inode| !inode.settled()) else { continue };
            let Some(survived) = after.inodes.get(index).and_then(Option::as_ref) else { continue };
            let (sectors, length) = inode.kept(survived, sector_bytes);
            if !sectors.is_empty() || length {
                let named = self.dirs.iter().flat_map(|dir| dir.live.iter().chain(&dir.disk));
                let name = named.into_iter().find(|(_, named)| **named as usize == index);
                kept.extend(name.map(|(name, _)| Kept::Sectors { file: text(name), sectors, length }));
            }
        }
        for (before, after) in self.dirs.iter().zip(&after.dirs) {
            let names: BTreeSet<&Name> = before.pending_names().collect();
            let survived = names.into_iter().filter(|name| {
                let now = before.live.get(*name);
                now == after.live.get(*name) && now != before.disk.get(*name)
            });
            kept.extend(survived.map(|name| Kept::Name(text(name))));
        }
        if kept.is_empty() { Keep::None } else { Keep::Only(kept) }
    }

    /// Lets what is kept of the pending effects land.
    pub(super) fn land_kept(&mut self, kept: &[Kept]) {
        let sector_bytes = self.options.sector_bytes as usize;
        let named: Vec<(String, u32)> = (self.dirs.iter())
            .flat_map(|dir| dir.live.iter().chain(&dir.disk))
            .map(|(name, inode)| (text(name), *inode))
            .collect();
        for (index, inode) in self.inodes.iter_mut().enumerate() {
            let Some(inode) = inode.as_mut().filter(|inode| !inode.settled()) else { continue };
            let mut part = Part::default();
            for kept in kept {
                let of_this = |file: &String| named.iter().any(|(name, own)| name == file && *own as usize == index);
                match kept {
                    Kept::File(file) if of_this(file) => part.all = true,
                    Kept::Sectors { file, sectors, length } if of_this(file) => {
                        part.sectors.push(sectors);
                        part.length |= length;
                    }
                    _ => {}
                }
            }
            if part != Part::default() {
                Arc::make_mut(inode).land_part(&part, sector_bytes);
            }
        }
        let all = kept.contains(&Kept::Dir);
        let wanted = |name: &Name| {
            all || kept.iter().any(|kept| matches!(kept, Kept::Name(wanted) if name.as_ref() == wanted.as_str()))
        };
        for dir in self.dirs.iter_mut().filter(|dir| !dir.settled()) {
            Arc::make_mut(dir).land_names(wanted);
        }
    }
}

fn text(name: &Name) -> String {
    name.to_string_lossy().into_owned()
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keep::Draw => f.write_str("draw"),
            Keep::All => f.write_str("all"),
            Keep::None => f.write_str("none"),
            Keep::Only(kept) => {
                f.write_str("only")?;
                for (index, kept) in kept.iter().enumerate() {
                    write!(f, "{} {kept}", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kept::File(file) => f.write_str(file),
            Kept::Dir => f.write_str("dir"),
            Kept::Name(file) => write!(f, "name {file}"),
            Kept::Sectors { file, sectors, length } => {
                let mut words = Vec::new();
                let mut sectors = sectors.iter().copied().peekable();
                while let Some(first) = sectors.next() {
                    let mut last = first;
                    while let Some(next) = sectors.next_if(|next| *next == last + 1) {
                        last = next;
                    }
                    words.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
                }
                words.extend(length.then(|| "length".to_owned()));
                write!(f, "{file}[{}]", words.join(" "))
            }
        }
    }
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Keep, String> {
        match text.trim() {
            "draw" => Ok(Keep::Draw),
            "all" => Ok(Keep::All),
            "none" => Ok(Keep::None),
            other => {
                let wrong =
                    || format!("'{other}' is not draw, all, none or 'only FILE, FILE[3 8-15 length], dir, name FILE'");
                let list = other.strip_prefix("only ").ok_or_else(wrong)?;
                list.split(',').map(str::parse).collect::<Result<_, _>>().map(Keep::Only).map_err(|()| wrong())
            }
        }
    }
}

impl FromStr for Kept {
    type Err = ();

    fn from_str(text: &str) -> Result<Kept, ()> {
        /// No file of a scenario has more.
        const MOST_SECTORS: u64 = 1 << 20;
        let file = |text: &str| {
            let file = text.trim();
            let plain =
                !file.is_empty() && !file.contains(|letter: char| letter.is_whitespace() || "[]".contains(letter));
            plain.then(|| file.to_owned()).ok_or(())
        };
        let text = text.trim();
        if text == "dir" {
            return Ok(Kept::Dir);
        }
        if let Some(name) = text.strip_prefix("name ") {
            return file(name).map(Kept::Name);
        }
        let Some((name, parts)) = text.strip_suffix(']').and_then(|text| text.split_once('[')) else {
            return file(text).map(Kept::File);
        };
        let (mut sectors, mut length) = (BTreeSet::new(), false);
        for word in parts.split_whitespace() {
            if word == "length" {
                length = true;
                continue;
            }
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number < MOST_SECTORS).ok_or(());
            let range = number(first)?..=number(last)?;
            if range.is_empty() {
                return Err(());
            }
            sectors.extend(range);
        }
        Ok(Kept::Sectors { file: file(name)?, sectors, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reads_back_and_nonsense_does_not() {
        for text in
            ["draw", "all", "none", "only a.seg, dir", "only a.seg[0 3-5 9 length], name b.seg", "only a.seg[length]"]
        {
            assert_eq!(text.parse::<Keep>().map(|keep| keep.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            "only",
            "only ",
            "only a,,b",
            "only a b",
            "only a[5-3]",
            "only a[x]",
            "only [3]",
            "only a[3",
            "only a[99999999999]",
            "some",
        ] {
            assert!(text.parse::<Keep>().is_err(), "{text}");
        }
        assert_eq!("only a[4 3 5]".parse::<Keep>().map(|keep| keep.to_string()), Ok("only a[3-5]".into()));
    }
}

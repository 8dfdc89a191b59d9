//! The first steps of open: list the directory and read who every file says it is.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    mem,
    sync::Arc,
};

use crate::{
    codec::Position,
    env::{Dir, EntryKind, OpenMode, interruptible},
    plant::planted,
    segment::{Head, IdentityFound, Name, Scanner, Segment, Window, read_identity},
};

use super::{
    error::OpenError,
    options::Options,
    recover::{FIRST_LSN, Findings, started},
    report::{Dropped, TailKind},
};

/// Files whose handles are kept from reading their identity to scanning them.
const OPEN_FILES: usize = 64;

/// Every file of the log, by what its name and identity say.
pub(super) struct Survey<D: Dir> {
    pub(super) segments: BTreeMap<u64, Arc<Segment<D>>>,
    /// Temporary files of this log, or of nobody.
    pub(super) temporaries: Vec<Name>,
    pub(super) uuid: Option<[u8; 16]>,
    pub(super) evidence: Option<Position>,
    pub(super) max_generation: u64,
    pub(super) max_slot: u64,
    pub(super) unreadable: Vec<Name>,
    pub(super) foreign: u64,
}

/// Lists the directory and reads every identity.
pub(super) async fn survey<D: Dir>(dir: &D, options: &Options) -> Result<Survey<D>, OpenError> {
    let mut survey = Survey::nothing();
    let mut temporaries = Vec::new();
    let mut head = Head::default();
    let entries = interruptible(|| dir.list()).await.map_err(OpenError::io("list", "the directory"))?;
    for entry in entries {
        let kind = entry.kind;
        let Some((text, name)) =
            entry.name.into_string().ok().and_then(|text| Name::parse(&text).map(|name| (text, name)))
        else {
            survey.foreign += 1;
            continue;
        };
        survey.max_slot = survey.max_slot.max(name.slot());
        let is_segment = match name {
            Name::Segment(_) if kind == EntryKind::File => true,
            Name::Temporary(_) if kind == EntryKind::File => false,
            Name::Segment(_) | Name::Temporary(_) | Name::SetAside(_) => {
                survey.foreign += 1;
                continue;
            }
        };
        let file = interruptible(|| dir.open(&text, OpenMode::Read)).await.map_err(OpenError::io("open", &text))?;
        let found = read_identity(&file, &mut head).await.map_err(OpenError::io("read", &text))?;
        match (is_segment, found) {
            (_, IdentityFound::Newer(major, minor)) => {
                return Err(OpenError::NewerVersion { file: text, major, minor });
            }
            (false, IdentityFound::Readable(identity)) => temporaries.push((name, Some(identity))),
            (false, IdentityFound::Unreadable) => temporaries.push((name, None)),
            (true, IdentityFound::Unreadable) => survey.unreadable.push(name),
            (true, IdentityFound::Readable(identity)) => {
                let (generation, uuid) = (identity.generation, identity.uuid);
                let segment = Segment::new(name.slot(), identity, &options.plants);
                if survey.segments.len() < OPEN_FILES {
                    segment.attach(file);
                }
                let segment = Arc::new(segment);
                let other = match survey.segments.entry(generation) {
                    Entry::Vacant(place) => {
                        place.insert(segment);
                        continue;
                    }
                    Entry::Occupied(other) => other,
                };
                if other.get().identity.uuid != uuid {
                    return Err(OpenError::OtherLog { file: text, other: other.get().name().to_string() });
                }
                // A spare that one life has removed may be back, if a sync of the directory failed, and the next life has given its
                // generation to another, with a salt of its own: it was never started.
                let (this, that) = (starts(dir, &segment).await?, starts(dir, other.get()).await?);
                if (this && that) || other.get().identity.salt == segment.identity.salt {
                    return Err(OpenError::Corrupt {
                        file: text,
                        offset: 0,
                        what: "another segment has the same generation; one is a copy",
                    });
                }
                let back = if this { mem::replace(other.into_mut(), segment) } else { segment };
                survey.temporaries.push(back.name());
            }
        }
    }
    // The uuid is the newest segment's; temporary files count only if there is no segment yet.
    survey.uuid = survey.segments.last_key_value().map(|(_, segment)| segment.identity.uuid);
    if survey.uuid.is_none() {
        survey.uuid = temporaries
            .iter()
            .filter_map(|(_, identity)| identity.as_ref())
            .max_by_key(|identity| identity.generation)
            .map(|identity| identity.uuid);
    }
    for segment in survey.segments.values() {
        if Some(segment.identity.uuid) != survey.uuid {
            let other =
                survey.segments.last_key_value().map_or_else(String::new, |(_, newest)| newest.name().to_string());
            return Err(OpenError::OtherLog { file: segment.name().to_string(), other });
        }
        survey.max_generation = survey.max_generation.max(segment.generation());
        survey.evidence = survey.evidence.max(Some(segment.identity.durable));
    }
    for (name, identity) in temporaries {
        match identity {
            // Another log's: not ours to remove.
            Some(identity) if Some(identity.uuid) != survey.uuid => survey.foreign += 1,
            Some(identity) => {
                // An identity in a temporary file was written by us: what it states was true, and its generation is taken.
                if !planted!(options.plants, WalGenerationReuse) {
                    survey.max_generation = survey.max_generation.max(identity.generation);
                }
                survey.evidence = survey.evidence.max(Some(identity.durable));
                survey.temporaries.push(name);
            }
            None => survey.temporaries.push(name),
        }
    }
    if survey.max_generation > u64::MAX / 2 {
        return Err(OpenError::Corrupt {
            file: "the directory".into(),
            offset: 0,
            what: "a generation beyond any possible count",
        });
    }
    Ok(survey)
}

/// Whether a segment begins as one that was started does.
async fn starts<D: Dir>(dir: &D, segment: &Segment<D>) -> Result<bool, OpenError> {
    let read = OpenError::io("read", segment.name());
    let file = segment.open(dir).await.map_err(OpenError::io("open", segment.name()))?;
    let mut scanner = match Scanner::new(file, segment, Window::default()).await {
        Ok(scanner) => scanner,
        Err(error) => return Err(read(error)),
    };
    Ok(started(&mut scanner, false).await.map_err(read)?.is_some())
}

impl<D: Dir> Survey<D> {
    /// No file at all.
    pub(super) fn nothing() -> Survey<D> {
        Survey {
            segments: BTreeMap::new(),
            temporaries: Vec::new(),
            uuid: None,
            evidence: None,
            max_generation: 0,
            max_slot: 0,
            unreadable: Vec::new(),
            foreign: 0,
        }
    }

    /// No segment was ever started here.
    pub(super) fn into_new(self, dropped: Vec<Dropped>) -> Findings<D> {
        Findings {
            uuid: self.uuid,
            chain: Vec::new(),
            kept: VecDeque::new(),
            #[cfg(feature = "plants")]
            all_links: Vec::new(),
            next_lsn: FIRST_LSN,
            cut_lsn: FIRST_LSN,
            members: 0,
            tail: TailKind::New,
            unproven_from: FIRST_LSN,
            evidence: None,
            dropped,
            #[cfg(feature = "plants")]
            end: None,
            max_generation: self.max_generation,
            max_slot: self.max_slot,
            floor_lsn: FIRST_LSN,
            removable: self.temporaries,
            set_aside: Vec::new(),
            foreign: self.foreign,
            unreadable: self.unreadable.len() as u64,
        }
    }
}

//! The reading half of open: which segments form the log, where it ends, how far that is proven. Writes nothing, so a
//! refused open leaves the directory as it was.
//!
//! Order of the steps: list; read every identity; try starts from the highest generation down; walk the chain back from
//! the newest valid one; scan it forward; look behind its end; decide by [`super::decision`].

mod scan;

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tracing::debug;

use crate::{
    codec::{FIRST_FRAME_OFFSET, FrameKind, Position, Start},
    env::{Dir, Env, File},
    plant::planted,
    segment::{InWindow, Name, Scanner, Segment, Window},
};

use super::{
    Lsn,
    decision::RecoveryMode,
    error::OpenError,
    options::Options,
    report::{DropReason, Dropped, TailKind},
    survey::{Survey, survey},
};

/// Frames that are kept in mind are so many at first.
pub(super) const USUAL_FRAMES: usize = 64;
/// The index of a segment has an entry about this often.
pub(super) const INDEX_BYTES: u64 = 32 * 1024;
/// The first LSN of a log. No record was ever released, so it is the floor as well.
pub(super) const FIRST_LSN: u64 = 1;

/// What the directory holds, as far as open needs it.
pub(super) struct Findings<D: Dir> {
    /// The log's id, if anything readable states one.
    pub(super) uuid: Option<[u8; 16]>,
    /// The segments that stay, oldest first; in the last one, up to its `end`.
    pub(super) chain: Vec<Link<D>>,
    /// Frames from the cut to the end of the log.
    pub(super) kept: VecDeque<Kept>,
    /// The next LSN after the carried frames, and the one at the cut.
    pub(super) next_lsn: u64,
    pub(super) cut_lsn: u64,
    /// The uncut chain, for the planted bug that goes on behind it.
    #[cfg(feature = "plants")]
    pub(super) all_links: Vec<Link<D>>,
    /// Records below this LSN are released.
    pub(super) floor_lsn: u64,
    /// Segments that held the log, for the report.
    pub(super) members: u64,
    pub(super) tail: TailKind,
    pub(super) unproven_from: u64,
    pub(super) evidence: Option<Position>,
    pub(super) dropped: Vec<Dropped>,
    /// Where the log ended, before the cut, and the length of that file: for the same planted bug.
    #[cfg(feature = "plants")]
    pub(super) end: Option<(Position, u64)>,
    /// The highest generation and slot that are taken.
    pub(super) max_generation: u64,
    pub(super) max_slot: u64,
    /// Files of this log that don't count any more once the new segment is durable.
    pub(super) removable: Vec<Name>,
    /// Files of this log behind the place where a damaged one is cut: they get another name then.
    pub(super) set_aside: Vec<Name>,
    pub(super) foreign: u64,
    pub(super) unreadable: u64,
}

/// A segment of the chain.
#[derive(Clone)]
pub(super) struct Link<D: Dir> {
    pub(super) segment: Arc<Segment<D>>,
    pub(super) base_lsn: u64,
    /// End of what counts in it, and the checksum of the frame that ends there.
    pub(super) end: u64,
    pub(super) end_crc: u32,
    /// Places to begin reading from: (LSN, offset), ascending.
    pub(super) index: Vec<(u64, u64)>,
}

/// A frame that may have to be carried, or may be where the cut goes.
pub(super) struct Kept {
    link: usize,
    start: Position,
    end: Position,
    pub(super) kind: FrameKind,
    pub(super) lsn: u64,
    count: u32,
    /// Checksum of the frame before it in the same segment.
    previous_crc: u32,
    pub(super) body: Bytes,
}

impl<D: Dir> Findings<D> {
    /// The frames that are to be written anew.
    pub(super) fn carried(&self) -> impl Iterator<Item = &Kept> {
        carried(&self.kept)
    }
}

fn carried(kept: &VecDeque<Kept>) -> impl Iterator<Item = &Kept> {
    kept.iter().filter(|frame| frame.count > 0)
}

/// Who is told of records, each where it stands.
pub(crate) type Deliver<'a> = dyn FnMut(Lsn, InWindow<'_>) + Send + 'a;

/// What is to become of the records that are read on the way.
pub(super) struct Use<'a> {
    /// The log is going to be opened: what nothing proves keeps its bytes.
    pub(super) carry: bool,
    /// Told of each of them, in order. Those below the floor don't count, and none does if the log is refused.
    pub(super) deliver: Option<&'a mut Deliver<'a>>,
}

/// Examines the directory.
pub(super) async fn examine<E: Env>(
    env: &E,
    dir: &E::Dir,
    options: &Options,
    records: Use<'_>,
) -> Result<Findings<E::Dir>, OpenError> {
    let survey = survey(dir, options).await?;
    let evidence = survey.evidence;
    let mut reading = Reading {
        env,
        dir,
        options,
        evidence,
        dropped: Vec::new(),
        window: Window::default(),
        records,
        stray_floor_lsn: 0,
    };
    let cuts = options.recovery_mode() == RecoveryMode::PointInTime;
    let mut below = u64::MAX;
    loop {
        let Some((newest, start)) = reading.newest_start(&survey, below).await? else {
            return Ok(survey.into_new(reading.dropped));
        };
        below = newest.generation();
        match reading.chain(&survey, newest, start).await {
            Ok(chain) => return reading.scan(survey, chain).await,
            // A link is damaged: an older segment may still begin a whole chain.
            Err(OpenError::Corrupt { .. }) if cuts => {}
            Err(error) => return Err(error),
        }
    }
}

/// A recovery under way: what was learned so far.
struct Reading<'a, 'r, E: Env> {
    env: &'a E,
    dir: &'a E::Dir,
    options: &'a Options,
    evidence: Option<Position>,
    dropped: Vec<Dropped>,
    /// What was read last.
    window: Window,
    records: Use<'r>,
    /// A floor that only a survivor states; it counts for a planted bug alone.
    stray_floor_lsn: u64,
}

/// A valid start of a segment.
pub(super) struct Started {
    start: Start,
    /// End of the frames that it says were carried.
    carried_end: u64,
}

impl<E: Env> Reading<'_, '_, E> {
    /// The segment of the highest generation whose start, with all carried frames, is valid. Those above it were prepared
    /// and never started, unless something states that they were.
    async fn newest_start(
        &mut self,
        survey: &Survey<E::Dir>,
        below: u64,
    ) -> Result<Option<(Arc<Segment<E::Dir>>, Started)>, OpenError> {
        let mut skipped: Vec<&Arc<Segment<E::Dir>>> = Vec::new();
        let mut newest = None;
        for (_, segment) in survey.segments.range(..below).rev() {
            if let Some(started) = self.start_of(segment, true).await? {
                newest = Some((segment.clone(), started));
                break;
            }
            self.note_survivors(segment, FIRST_FRAME_OFFSET, DropReason::NeverStarted).await?;
            skipped.push(segment);
        }
        if let Some((_, started)) = &newest {
            self.evidence = self.evidence.max(Some(started.start.durable));
        }
        for segment in skipped {
            let holds_something = self.dropped.iter().any(|dropped| dropped.file == segment.name().to_string());
            if (self.evidence > Some(segment.position(FIRST_FRAME_OFFSET))
                && !self.cuts()
                && !planted!(self.options.plants, WalMidlogTreatedAsTail))
                || (holds_something && planted!(self.options.plants, WalOrphanIsCorrupt))
            {
                let what = "its start is unreadable, but was stated to be durable";
                return Err(OpenError::Corrupt { file: segment.name().to_string(), offset: FIRST_FRAME_OFFSET, what });
            }
            debug!(file = %segment.name(), "never started, ignored");
        }
        if newest.is_none() {
            // The first segment is complete before it gets its name, so a segment without a log behind it is a remainder. So is a
            // temporary file that states something to be durable: it was made for a log that is gone.
            let stated =
                self.evidence > Some(Position::default()) && !planted!(self.options.plants, WalMidlogTreatedAsTail);
            let temporary = survey.temporaries.first().copied().filter(|_| stated);
            let segments = survey.segments.values().map(|segment| segment.name());
            let remainder = segments.chain(survey.unreadable.iter().copied()).chain(temporary).next();
            if let Some(file) = remainder {
                let what = "no segment of the log has a readable start";
                return Err(OpenError::Corrupt { file: file.to_string(), offset: 0, what });
            }
        }
        Ok(newest)
    }

    /// Walks from the newest segment back to the first one.
    async fn chain(
        &mut self,
        survey: &Survey<E::Dir>,
        newest: Arc<Segment<E::Dir>>,
        started: Started,
    ) -> Result<Vec<(Arc<Segment<E::Dir>>, Started)>, OpenError> {
        let mut floor_lsn = FIRST_LSN;
        let mut chain = vec![(newest, started)];
        while let Some((segment, started)) = chain.last() {
            floor_lsn = floor_lsn.max(started.start.floor_lsn);
            let predecessor = started.start.predecessor.generation;
            // What lies wholly below the floor may be gone, or on its way to be used anew.
            if predecessor == 0 || started.start.base_lsn <= floor_lsn && started.start.base_lsn > FIRST_LSN {
                break;
            }
            let missing =
                |what| OpenError::Corrupt { file: segment.name().to_string(), offset: FIRST_FRAME_OFFSET, what };
            if predecessor >= segment.generation() {
                return Err(missing("its predecessor is not older than itself"));
            }
            // An absent predecessor ends the chain; a floor mark further on says whether that is right.
            let Some(older) = survey.segments.get(&predecessor) else {
                if self.cuts() && started.start.base_lsn > floor_lsn {
                    return Err(missing("the segment before it is missing or unreadable"));
                }
                break;
            };
            // What counts of it is read and checked up to where its successor says it ends.
            let Some(started) = self.start_of(older, false).await? else {
                return Err(OpenError::Corrupt {
                    file: older.name().to_string(),
                    offset: FIRST_FRAME_OFFSET,
                    what: "its start is unreadable, but a successor was started",
                });
            };
            chain.push((older.clone(), started));
        }
        chain.reverse();
        Ok(chain)
    }

    /// Whether damage cuts the log instead of refusing it.
    fn cuts(&self) -> bool {
        self.options.recovery_mode() == RecoveryMode::PointInTime
    }

    /// The valid start of a segment; if `whole`, with all frames that it says were carried.
    async fn start_of(&mut self, segment: &Arc<Segment<E::Dir>>, whole: bool) -> Result<Option<Started>, OpenError> {
        let file = segment.open(self.dir).await.map_err(OpenError::io("open", segment.name()))?;
        let window = std::mem::take(&mut self.window);
        let io = |error| OpenError::io("read", segment.name())(error);
        let mut scanner = Scanner::new(file, segment, window).await.map_err(io)?;
        let started = match started(&mut scanner, whole).await {
            Err(_) if planted!(self.options.plants, WalErrorIsEnd) => None,
            started => started.map_err(io)?,
        };
        self.window = scanner.into_window();
        Ok(started)
    }
}

/// Reads the start and everything that it says was carried.
pub(super) async fn started<F: File>(scanner: &mut Scanner<'_, F>, whole: bool) -> std::io::Result<Option<Started>> {
    let Ok(found) = scanner.frame(FIRST_FRAME_OFFSET).await? else { return Ok(None) };
    if found.header.kind != FrameKind::Start {
        return Ok(None);
    }
    let Some(start) = Start::decode(scanner.body(&found)) else { return Ok(None) };
    let mut end = found.end();
    if !whole {
        return Ok(Some(Started { start, carried_end: end }));
    }
    // Summed up together: four bytes at a time take longer than some frames.
    let mut crcs = Vec::with_capacity(4 * USUAL_FRAMES);
    for _ in 0..start.carried_frames {
        let carried = match scanner.frame_now(end) {
            Some(carried) => carried,
            None => match scanner.frame(end).await? {
                Ok(carried) => carried,
                Err(_) => return Ok(None),
            },
        };
        crcs.extend_from_slice(&carried.crc.to_le_bytes());
        end = carried.end();
    }
    scanner.found_whole(end);
    Ok((crc32fast::hash(&crcs) == start.carried_crc).then_some(Started { start, carried_end: end }))
}

//! The forward scan: every frame of the chain, what stands behind its end, and the decision.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tracing::{debug, warn};

use crate::{
    codec::{BLOCK_BYTES, Batch, FIRST_FRAME_OFFSET, FrameKind, Mark, Position, Seal, Undecodable},
    env::{Dir, Env},
    plant::planted,
    segment::{Scanner, Segment},
    wal::{
        Lsn,
        decision::{Action, Behind, Damage, Last, Seen, act, decide},
        error::OpenError,
        report::{DropReason, Dropped, TailKind},
        survey::Survey,
    },
};

use super::{FIRST_LSN, Findings, INDEX_BYTES, Kept, Link, Reading, Started, USUAL_FRAMES, carried};

/// A scan lets others run after this many frames.
const FRAMES_PER_TURN: u32 = 4096;
/// A last segment with less than this before the cut is dissolved into the new one, so that opens don't pile up segments.
const SMALL_BYTES: u64 = 1 << 20;

/// The forward scan under way.
struct Walk<D: Dir> {
    links: Vec<Link<D>>,
    kept: VecDeque<Kept>,
    first_lsn: u64,
    next_lsn: u64,
    /// The highest floor that a start or a floor mark states.
    floor_lsn: u64,
    /// The last valid frame.
    last: Last,
    wrong_ordinal: bool,
    /// A link of the chain doesn't hold, and the log is cut there.
    broken: bool,
    frames: u32,
}

impl<E: Env> Reading<'_, '_, E> {
    /// Scans the chain forward, looks behind its end and decides.
    pub(super) async fn scan(
        mut self,
        survey: Survey<E::Dir>,
        chain: Vec<(Arc<Segment<E::Dir>>, Started)>,
    ) -> Result<Findings<E::Dir>, OpenError> {
        let base_lsn = chain.first().map_or(FIRST_LSN, |(_, started)| started.start.base_lsn);
        let mut walk = Walk {
            links: Vec::with_capacity(chain.len()),
            kept: VecDeque::with_capacity(USUAL_FRAMES),
            first_lsn: base_lsn,
            next_lsn: base_lsn,
            floor_lsn: chain.iter().map(|(_, started)| started.start.floor_lsn).fold(FIRST_LSN, u64::max),
            last: Last::Other,
            wrong_ordinal: false,
            broken: false,
            frames: 0,
        };
        let mut successors = chain.iter().skip(1).map(|(_, started)| &started.start);
        for (segment, started) in &chain {
            let corrupt = |offset, what| OpenError::Corrupt { file: segment.name().to_string(), offset, what };
            if started.start.base_lsn != walk.next_lsn {
                if self.cuts() {
                    walk.broken = true;
                    break;
                }
                return Err(corrupt(FIRST_FRAME_OFFSET, "its first LSN is not the one that follows its predecessor"));
            }
            let successor = successors.next();
            self.scan_segment(&survey, &mut walk, segment, successor.map(|start| start.predecessor.offset)).await?;
            // After a failed sync in an earlier process an evicted page reads differently from one moment to the next.
            // (A cut may end among the frames that were carried.)
            let expected = successor.map_or(u64::MAX, |start| start.predecessor.offset).min(started.carried_end);
            if walk.links.last().is_none_or(|link| link.end < expected)
                && !self.cuts()
                && !planted!(self.options.plants, WalContinuePastBadSegment)
                && !planted!(self.options.plants, WalErrorIsEnd)
            {
                let changed = std::io::Error::other("it reads differently than a moment ago");
                return Err(OpenError::io("read", segment.name())(changed));
            }
            let ended = walk.links.last().map(|link| (link.end, link.end_crc));
            if let Some(start) = successor
                && ended != Some((start.predecessor.offset, start.predecessor_crc))
            {
                if planted!(self.options.plants, WalContinuePastBadSegment) {
                    walk.next_lsn = start.base_lsn;
                    continue;
                }
                // A successor is started only after this much of its predecessor was durable.
                if self.cuts() {
                    walk.broken = true;
                    break;
                }
                return Err(corrupt(
                    ended.map_or(0, |(end, _)| end),
                    "unreadable, but a successor was started behind it",
                ));
            }
        }
        self.finish(survey, walk).await
    }

    /// Scans one segment up to `expected_end`, or to where no valid frame follows.
    async fn scan_segment(
        &mut self,
        survey: &Survey<E::Dir>,
        walk: &mut Walk<E::Dir>,
        segment: &Arc<Segment<E::Dir>>,
        expected_end: Option<u64>,
    ) -> Result<(), OpenError> {
        let corrupt = |offset, what| OpenError::Corrupt { file: segment.name().to_string(), offset, what };
        let file = segment.open(self.dir).await.map_err(OpenError::io("open", segment.name()))?;
        let window = std::mem::take(&mut self.window);
        let mut scanner = Scanner::new(file, segment, window).await.map_err(OpenError::io("read", segment.name()))?;
        // What evidence proves is never carried: forget what a finished segment kept.
        if walk.kept.back().is_some_and(|frame| self.proven(frame.end)) {
            walk.kept.clear();
        }
        let keep_whole_below = segment.position(FIRST_FRAME_OFFSET + self.small_bytes());
        let base_lsn = walk.next_lsn;
        let mut link =
            Link { segment: segment.clone(), base_lsn, end: FIRST_FRAME_OFFSET, end_crc: 0, index: Vec::new() };
        walk.last = Last::Other;
        while expected_end.is_none_or(|end| link.end < end)
            && !matches!(walk.last, Last::SealWithSuccessor | Last::SealWithoutSuccessor)
        {
            let found = match scanner.frame_on_the_way(link.end) {
                Some(found) => found,
                None => match scanner.frame(link.end).await {
                    Ok(Ok(found)) => found,
                    Ok(Err(Undecodable::NoHeader | Undecodable::BadBody)) => break,
                    Err(_) if planted!(self.options.plants, WalErrorIsEnd) => break,
                    Err(error) => return Err(OpenError::io("read", segment.name())(error)),
                },
            };
            if u64::from(found.header.ordinal) != walk.next_lsn - base_lsn {
                walk.wrong_ordinal = true;
                break;
            }
            let body = scanner.body(&found);
            let (count, last) = match found.header.kind {
                FrameKind::Record => (1, Last::Other),
                FrameKind::Batch => (
                    Batch::count(body)
                        .ok_or_else(|| corrupt(found.offset, "an intact frame holds a malformed batch"))?,
                    Last::Other,
                ),
                FrameKind::Seal => match Seal::decode(body) {
                    Some(seal) if survey.segments.contains_key(&seal.successor_generation) => {
                        (0, Last::SealWithSuccessor)
                    }
                    _ => (0, Last::SealWithoutSuccessor),
                },
                FrameKind::Mark => match Mark::decode(body) {
                    Some(Mark::Closed) => (0, Last::ClosedMark),
                    Some(Mark::Floor { lsn }) => {
                        walk.floor_lsn = walk.floor_lsn.max(lsn);
                        (0, Last::Other)
                    }
                    Some(Mark::Synced) | None => (0, Last::Other),
                },
                FrameKind::Start | FrameKind::Filler => (0, Last::Other),
            };
            let body = if count > 0 && self.records.carry { scanner.in_window(&found).shared() } else { Bytes::new() };
            if let Some(deliver) = &mut self.records.deliver {
                let body = scanner.in_window(&found);
                match found.header.kind {
                    FrameKind::Record => deliver(Lsn(walk.next_lsn), body),
                    FrameKind::Batch => {
                        let items = (walk.next_lsn..).zip(Batch::new(&body).flatten());
                        items.for_each(|(lsn, range)| deliver(Lsn(lsn), body.slice(range)));
                    }
                    FrameKind::Start | FrameKind::Seal | FrameKind::Mark | FrameKind::Filler => {}
                }
            }
            walk.last = last;
            if count > 0 && link.index.last().is_none_or(|(_, offset)| found.offset >= offset + INDEX_BYTES) {
                link.index.push((walk.next_lsn, found.offset));
            }
            if let Some(claim) = found.header.claim(segment.generation(), found.offset) {
                self.evidence = self.evidence.max(Some(claim));
            }
            walk.kept.push_back(Kept {
                link: walk.links.len(),
                start: segment.position(found.offset),
                end: segment.position(found.end()),
                kind: found.header.kind,
                lsn: walk.next_lsn,
                count,
                previous_crc: link.end_crc,
                body,
            });
            // Proven frames needn't be carried, except to dissolve a small segment, which this one then is no more.
            if self.evidence >= Some(keep_whole_below) {
                while walk.kept.front().is_some_and(|frame| self.proven(frame.end)) {
                    walk.kept.pop_front();
                }
            }
            link.end = found.end();
            link.end_crc = found.crc;
            walk.next_lsn = walk
                .next_lsn
                .checked_add(u64::from(count))
                .ok_or_else(|| corrupt(found.offset, "an LSN beyond any possible count"))?;
            walk.frames += 1;
            if walk.frames.is_multiple_of(FRAMES_PER_TURN) {
                self.env.yield_now().await;
            }
        }
        self.window = scanner.into_window();
        walk.links.push(link);
        Ok(())
    }

    /// Looks behind the end, decides, and chooses the cut.
    async fn finish(mut self, survey: Survey<E::Dir>, mut walk: Walk<E::Dir>) -> Result<Findings<E::Dir>, OpenError> {
        let Some((newest, end)) = walk.links.last().map(|link| (link.segment.clone(), link.end)) else {
            return Ok(survey.into_new(self.dropped));
        };
        let corrupt = |offset, what| OpenError::Corrupt { file: newest.name().to_string(), offset, what };
        let position = newest.position(end);
        let behind = self.behind(&newest, end, walk.wrong_ordinal).await?;
        walk.floor_lsn = walk.floor_lsn.max(self.stray_floor_lsn);
        let seen = Seen {
            behind,
            last: walk.last,
            proven_beyond: self.evidence > Some(position) && !planted!(self.options.plants, WalMidlogTreatedAsTail),
            beginning_missing: walk.first_lsn > walk.floor_lsn,
        };
        let decision = decide(seen);
        debug!(file = %newest.name(), offset = end, ?seen, ?decision, "recovery decided");
        let tail = match act(self.options.recovery_mode(), decision) {
            Action::Open(_) if walk.broken => TailKind::Damaged,
            Action::Open(tail) => tail,
            Action::RefuseUnclean if planted!(self.options.plants, WalAbsoluteTolerates) => TailKind::Torn,
            Action::RefuseUnclean => return Err(OpenError::Unclean { file: newest.name().to_string(), offset: end }),
            Action::Refuse(damage) => {
                return Err(corrupt(
                    end,
                    match damage {
                        Damage::WrongOrdinal => "an intact frame stands where another was expected",
                        Damage::BelowDurable => "unreadable, but stated to be durable",
                        Damage::SuccessorMissing => "the segment that follows it is missing or unreadable",
                        Damage::BeginningMissing => "the segments before it are missing",
                    },
                ));
            }
        };
        let mut set_aside = Vec::new();
        if tail == TailKind::Damaged {
            for (_, segment) in survey.segments.range(newest.generation() + 1..) {
                self.note_survivors(segment, FIRST_FRAME_OFFSET, DropReason::SetAside).await?;
                set_aside.push(segment.name());
            }
        }
        let unproven = self.first_unproven(&walk);
        let unproven_from = walk.kept.get(unproven).map_or(walk.next_lsn, |frame| frame.lsn);
        let members = walk.links.len() as u64;
        #[cfg(feature = "plants")]
        let all_links = if self.options.plants.any() { walk.links.clone() } else { Vec::new() };
        let kept = self.cut(&mut walk, unproven);
        let cut_lsn = carried(&kept).next().map_or(walk.next_lsn, |frame| frame.lsn);
        let removable = survey
            .segments
            .values()
            .filter(|segment| !walk.links.iter().any(|link| link.segment.generation() == segment.generation()));
        let removable = removable.map(|segment| segment.name()).filter(|name| !set_aside.contains(name));
        let removable = removable.chain(survey.temporaries).collect();
        #[cfg(feature = "plants")]
        let length = self
            .dropped
            .iter()
            .find(|dropped| dropped.why == DropReason::Tail)
            .map_or(end, |dropped| dropped.offset + dropped.bytes);
        let chain_generation = newest.generation();
        // What was stated to be durable may have been set aside since; nothing new may seem to be it.
        let stated_generation = self.evidence.map_or(0, |evidence| evidence.generation);
        let forgetful = planted!(self.options.plants, WalGenerationReuse);
        Ok(Findings {
            uuid: survey.uuid,
            cut_lsn,
            chain: walk.links,
            kept,
            #[cfg(feature = "plants")]
            all_links,
            next_lsn: walk.next_lsn,
            floor_lsn: walk.floor_lsn,
            members,
            tail,
            unproven_from,
            evidence: self.evidence,
            dropped: self.dropped,
            #[cfg(feature = "plants")]
            end: Some((position, length)),
            max_generation: if forgetful { chain_generation } else { survey.max_generation.max(stated_generation) },
            max_slot: survey.max_slot,
            removable,
            set_aside,
            foreign: survey.foreign,
            unreadable: survey.unreadable.len() as u64,
        })
    }

    /// Chooses the cut: the start of the first frame that evidence doesn't wholly prove. Shortens the chain to what stays
    /// and returns the frames to be written anew. A segment whose start isn't proven never stays, and a small one is
    /// dissolved too.
    fn cut(&self, walk: &mut Walk<E::Dir>, unproven: usize) -> VecDeque<Kept> {
        if planted!(self.options.plants, WalTrustOldSync) || planted!(self.options.plants, WalExposeUnsynced) {
            return VecDeque::new();
        }
        let Some(last) = walk.kept.len().checked_sub(1) else { return VecDeque::new() };
        let first = unproven.min(last);
        // With everything proven, the last frame is only a place to measure from: the cut is behind it.
        let (mut cut, mut at) = if self.proven(walk.kept[first].end) {
            (first + 1, walk.kept[first].end)
        } else {
            (first, walk.kept[first].start)
        };
        let link = walk.kept[first].link;
        let begins = walk.kept.iter().position(|frame| frame.link == link && frame.kind == FrameKind::Start);
        if let Some(begins) = begins
            && at.offset - FIRST_FRAME_OFFSET < self.small_bytes()
        {
            (cut, at) = (begins, walk.kept[begins].start);
        }
        walk.links.truncate(link + 1);
        if at.offset == FIRST_FRAME_OFFSET {
            // Nothing of this segment stays: the cut is its predecessor's end.
            walk.links.truncate(link);
        } else if let Some(last) = walk.links.last_mut()
            && last.end != at.offset
        {
            last.end = at.offset;
            last.end_crc = walk.kept.get(cut).map_or(last.end_crc, |frame| frame.previous_crc);
            last.index.retain(|(_, offset)| *offset < at.offset);
        }
        walk.kept.drain(..cut);
        std::mem::take(&mut walk.kept)
    }

    /// What stands behind the last valid frame, and what it states.
    async fn behind(
        &mut self,
        newest: &Arc<Segment<E::Dir>>,
        end: u64,
        wrong_ordinal: bool,
    ) -> Result<Behind, OpenError> {
        let (torn, survivors) = self.note_survivors(newest, end, DropReason::Tail).await?;
        Ok(match (wrong_ordinal, survivors, torn) {
            (true, ..) => Behind::WrongOrdinal,
            (_, 1.., _) => Behind::Survivors,
            (_, 0, true) => Behind::Header,
            (_, 0, false) => Behind::Nothing,
        })
    }

    /// Counts the intact frames from `offset` on, notes what they state, and reports them as dropped. Also says whether a
    /// plausible header with another body stands right at `offset`.
    pub(super) async fn note_survivors(
        &mut self,
        segment: &Arc<Segment<E::Dir>>,
        offset: u64,
        why: DropReason,
    ) -> Result<(bool, u64), OpenError> {
        let io = |error| OpenError::io("read", segment.name())(error);
        let file = segment.open(self.dir).await.map_err(OpenError::io("open", segment.name()))?;
        let window = std::mem::take(&mut self.window);
        let mut scanner = Scanner::new(file, segment, window).await.map_err(io)?;
        let torn = scanner.frame(offset).await.map_err(io)? == Err(Undecodable::BadBody);
        // What looks like a frame ends here.
        let mut end = if torn { scanner.torn_end(offset) } else { offset };
        let (mut at, mut frames, mut records) = (offset, 0, 0);
        while let Some(found) = scanner.survivor(at).await.map_err(io)? {
            self.evidence = self.evidence.max(found.header.claim(segment.generation(), found.offset));
            if found.header.kind == FrameKind::Mark
                && planted!(self.options.plants, WalFloorBeforeSync)
                && let Some(Mark::Floor { lsn }) = Mark::decode(scanner.body(&found))
            {
                self.stray_floor_lsn = lsn;
            }
            frames += 1;
            records += match found.header.kind {
                FrameKind::Record => 1,
                FrameKind::Batch => u64::from(Batch::count(scanner.body(&found)).unwrap_or(0)),
                FrameKind::Start | FrameKind::Seal | FrameKind::Mark | FrameKind::Filler => 0,
            };
            at = found.end();
            end = end.max(at);
            self.env.yield_now().await;
        }
        if end > offset {
            let bytes = end.min(scanner.length()) - offset;
            warn!(file = %segment.name(), offset, bytes, frames, records, ?why, "left behind");
            self.dropped.push(Dropped { file: segment.name().to_string(), offset, bytes, frames, records, why });
        }
        self.window = scanner.into_window();
        Ok((torn, frames))
    }

    /// How many of the kept frames are proven: they stand in the order of their places.
    fn first_unproven(&self, walk: &Walk<E::Dir>) -> usize {
        walk.kept.partition_point(|frame| self.proven(frame.end))
    }

    /// Whether something stated the log to be durable up to `end`.
    fn proven(&self, end: Position) -> bool {
        self.evidence >= Some(end)
    }

    fn small_bytes(&self) -> u64 {
        let half = (self.options.segment_length() - FIRST_FRAME_OFFSET) / 2;
        half.clamp(2 * BLOCK_BYTES, SMALL_BYTES)
    }
}

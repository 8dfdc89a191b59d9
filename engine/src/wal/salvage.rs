//! Reading what is readable of a damaged log, without changing it.
//!
//! Every segment with a valid start tells the LSN of each of its intact frames, since a frame carries its ordinal. Where two
//! segments hold the same LSNs the one of the higher generation counts: it was written later, in place of the other's tail.

use std::path::Path;

use bytes::Bytes;

use crate::{
    codec::{Batch, FIRST_FRAME_OFFSET, FrameKind, Start},
    env::{Env, interruptible},
    segment::{Name, Scanner, Window},
};

use super::{Lsn, OpenError, Options, Wal, examine::lock, recover::FIRST_LSN, survey::survey};

/// What a salvage found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SalvageReport {
    /// Records that were delivered.
    pub records: u64,
    /// LSNs that no readable segment holds, in order. After the last record nothing is known.
    pub gaps: Vec<std::ops::Range<u64>>,
    /// Files of the log that couldn't be placed, since their identity or their start is unreadable.
    pub unplaced: Vec<String>,
}

impl<E: Env> Wal<E> {
    /// Delivers every record of the log in `path` that is intact, in the order of LSNs, however damaged the rest is. Changes
    /// no byte, and proves nothing: what it delivers was appended once, and may have been left behind by a crash, or
    /// truncated, since. For getting data out of a log that [`Wal::open`] refuses.
    ///
    /// ```
    /// use engine::{env::{OsEnv, block_on}, wal::{Durability, Options, Wal}};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("log");
    /// block_on(async {
    ///     let (wal, _) = Wal::open(OsEnv, &path, Options::new()).await?;
    ///     wal.append("one", Durability::Sync).await?;
    ///     wal.close().await?;
    ///     let mut found = Vec::new();
    ///     let report = Wal::salvage(OsEnv, &path, |lsn, record| found.push((lsn, record))).await?;
    ///     assert_eq!((found.len(), report.gaps.len()), (1, 0));
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OpenError::Io`], [`OpenError::Locked`], and what makes the files not one log.
    pub async fn salvage(env: E, path: &Path, mut deliver: impl FnMut(Lsn, Bytes)) -> Result<SalvageReport, OpenError> {
        let what = path.display().to_string();
        let dir = interruptible(|| env.dir(path, false)).await.map_err(OpenError::io("open directory", &what))?;
        let _lock = lock(&dir, path).await?;
        let survey = survey(&dir, &Options::new()).await?;
        let mut report = SalvageReport {
            unplaced: survey.unreadable.iter().map(Name::to_string).collect(),
            ..SalvageReport::default()
        };
        // Each segment with the LSN of its first record; those of later ones take its place from there on.
        let mut placed = Vec::new();
        for segment in survey.segments.values() {
            let io = |error| OpenError::io("read", segment.name())(error);
            let file = segment.open(&dir).await.map_err(OpenError::io("open", segment.name()))?;
            let mut scanner = Scanner::new(file, segment, Window::default()).await.map_err(io)?;
            let start = match scanner.frame(FIRST_FRAME_OFFSET).await.map_err(io)? {
                Ok(found) if found.header.kind == FrameKind::Start => Start::decode(scanner.body(&found)),
                _ => None,
            };
            match start {
                Some(start) => placed.push((start.base_lsn, segment.clone())),
                // A spare that was never started holds nothing; one that was lost its start.
                None if scanner.survivor(FIRST_FRAME_OFFSET).await.map_err(io)?.is_some() => {
                    report.unplaced.push(segment.name().to_string());
                }
                None => {}
            }
        }
        let mut next = None;
        for (index, (base_lsn, segment)) in placed.iter().enumerate() {
            let until = placed[index + 1..].iter().map(|(base, _)| *base).min().unwrap_or(u64::MAX);
            let io = |error| OpenError::io("read", segment.name())(error);
            let file = segment.open(&dir).await.map_err(OpenError::io("open", segment.name()))?;
            let mut scanner = Scanner::new(file, segment, Window::default()).await.map_err(io)?;
            let mut at = FIRST_FRAME_OFFSET;
            while let Some(found) = scanner.survivor(at).await.map_err(io)? {
                at = found.end();
                let body = match found.header.kind {
                    FrameKind::Record | FrameKind::Batch => scanner.in_window(&found).shared(),
                    _ => continue,
                };
                let items: Vec<Bytes> = match found.header.kind {
                    FrameKind::Batch => Batch::new(&body).map_while(|range| Some(body.slice(range?))).collect(),
                    _ => vec![body],
                };
                for (lsn, record) in (base_lsn.saturating_add(u64::from(found.header.ordinal))..until).zip(items) {
                    let expected = next.unwrap_or(FIRST_LSN.max(*base_lsn));
                    if lsn < expected {
                        continue;
                    }
                    if lsn > expected {
                        report.gaps.push(expected..lsn);
                    }
                    next = Some(lsn + 1);
                    report.records += 1;
                    deliver(Lsn(lsn), record);
                }
                env.yield_now().await;
            }
        }
        Ok(report)
    }
}

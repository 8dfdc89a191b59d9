//! Planted bugs: real defects of real storage systems, each behind a switch, to measure the simulator with.
//!
//! They exist only with the cargo feature `plants`, which the simulator alone enables. Without it [`Plants`] is empty and
//! every `planted!` below is the constant `false`.

/// Whether the defect is switched on here; counts that the place was reached.
#[cfg(feature = "plants")]
macro_rules! planted {
    ($plants:expr, $plant:ident) => {
        $plants.reach($crate::plant::Plant::$plant)
    };
}

#[cfg(not(feature = "plants"))]
macro_rules! planted {
    ($plants:expr, $plant:ident) => {
        $plants.off()
    };
}

pub(crate) use planted;

/// No defect: what an ordinary build carries.
#[cfg(not(feature = "plants"))]
#[derive(Clone, Debug, Default)]
pub(crate) struct Plants(());

#[cfg(not(feature = "plants"))]
impl Plants {
    /// No place is defective; a constant, so nothing of the defects is compiled in.
    pub(crate) const fn off(&self) -> bool {
        false
    }
}

#[cfg(feature = "plants")]
pub use switches::{Plant, Plants};

#[cfg(feature = "plants")]
mod switches {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    macro_rules! plants {
        ($($variant:ident $name:literal $about:literal;)*) => {
            /// A defect that can be planted.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
            pub enum Plant {
                $(#[doc = $about] $variant,)*
            }

            impl Plant {
                /// All of them.
                pub const ALL: &[Plant] = &[$(Plant::$variant),*];

                /// The id that command lines and scenario files use.
                #[must_use]
                pub fn name(self) -> &'static str {
                    match self { $(Plant::$variant => $name,)* }
                }

                /// What it does, in one sentence.
                #[must_use]
                pub fn about(self) -> &'static str {
                    match self { $(Plant::$variant => $about,)* }
                }
            }
        };
    }

    plants! {
        WalSegNoDirsync "wal-seg-no-dirsync" "skip the directory sync after a new segment is renamed into place";
        WalRotateOldUnsynced "wal-rotate-old-unsynced" "write to the new segment before the old one's tail is durable";
        WalAckInflightSync "wal-ack-inflight-sync" "publish the durable watermark before the sync has ended";
        WalGroupFollowerOk "wal-group-follower-ok" "give a failed write's error to the leader alone; the others of the group get Ok";
        WalFsyncRetryOk "wal-fsync-retry-ok" "after a failed sync return the error once, keep the file, let the retry succeed";
        WalAppendAfterPartial "wal-append-after-partial" "after a failed write return the error once and go on behind the hole";
        WalReuseTornTail "wal-reuse-torn-tail" "tolerate a torn tail at open without cutting it, and append behind it";
        EnvLenNotSynced "env-len-not-synced" "sync the pages of an extended file without its new length";
        WalTrustOldSync "wal-trust-old-sync" "at open sync the old tail instead of writing it anew";
        WalExposeUnsynced "wal-expose-unsynced" "at open take the page cache for durable";
        WalRemoveBeforeCut "wal-remove-before-cut" "at open remove what the new segment replaces before the new segment is durable";
        WalSealBeforeSuccessor "wal-seal-before-successor" "seal a segment before its successor's name is durable";
        WalOrphanIsCorrupt "wal-orphan-is-corrupt" "take a segment whose start a crash took for corruption";
        WalGenerationReuse "wal-generation-reuse" "count generations from the chain alone, forgetting prepared and temporary files";
        WalErrorIsEnd "wal-error-is-end" "take a failed or interrupted read during recovery for the end of the log";
        WalPublishPresent "wal-publish-present" "let a sync publish what is written when it ends instead of when it began";
        WalOverlappingSyncs "wal-overlapping-syncs" "let the sync of a rotation overlap the sync of a commit on the same file";
        WalMarkBeforeFiller "wal-mark-before-filler" "at open write the filler together with the mark that states it to be durable";
        WalRecycledStale "wal-recycled-stale" "leave the segment's identity out of the checksums of its frames";
        WalMidlogTreatedAsTail "wal-midlog-treated-as-tail" "treat anything undecodable as the end of the log, whatever was stated to be durable";
        WalContinuePastBadSegment "wal-continue-past-bad-segment" "on a bad record leave that segment and go on with the next";
        WalIdleUnmarked "wal-idle-unmarked" "sync an idle log, but write no mark that says so";
        WalAbsoluteTolerates "wal-absolute-tolerates" "in the absolute mode open a log that was not closed";
        WalSparesOutOfOrder "wal-spares-out-of-order" "rotate into a later spare while the first one is still being prepared";
        WalDsyncRange "wal-dsync-range" "take a synced write of the last page for a sync of all that was written before it";
        WalCutInPlace "wal-cut-in-place" "cut a torn tail in place and go on in the same segment";
        WalCreateBeforeSeal "wal-create-before-seal" "at open start a segment behind the torn one before the torn one is cut";
        WalFloorBeforeSync "wal-floor-before-sync" "state a floor before the records that it keeps are durable, and believe one that a survivor states";
        WalRecycleBeforeFloor "wal-recycle-before-floor" "recycle released segments before the floor mark is durable";
        WalTruncateUnsynced "wal-truncate-unsynced" "cut the back of the log before the part that is kept is durable";
        WalLenNotChecksummed "wal-len-not-checksummed" "let checksums cover the bodies of frames alone, not their headers";
        AofRingFullDrops "aof-ring-full-drops" "drop a command that finds the ring full while a sync runs (B1)";
        AofRingSlotFreedEarly "aof-ring-slot-freed-early" "free the pages of a write before it has succeeded";
        AofEverysecIdleTail "aof-everysec-idle-tail" "skip the sync of a second in which there was nothing to write";
        AofMultiTruncInside "aof-multi-trunc-inside" "cut a torn tail after the last whole command, leaving MULTI open (B2)";
        AofSyncPublishesPresent "aof-sync-publishes-present" "let a sync publish what is written when it ends instead of when it began";
        AofSyncErrorIgnored "aof-sync-error-ignored" "take a failed sync for one that succeeded (M17)";
        AofSkipFailedWrite "aof-skip-failed-write" "go on behind a write that failed";
        AofTrustOldSync "aof-trust-old-sync" "at open cut and sync the old increment instead of copying it";
        AofIgnoreRdb "aof-ignore-rdb" "begin an empty log beside a snapshot that holds data (B3)";
        AofNamesUnsynced "aof-names-unsynced" "name files in the manifest before their names are durable";
        AofManifestTrusted "aof-manifest-trusted" "take the manifest that open finds for the one that the disk holds";
        AofSecondReadTrusted "aof-second-read-trusted" "copy what a second read of the old increment shows";
        AofNoChecksums "aof-no-checksums" "write commands as Redis does, with nothing that proves them (W3, W4)";
        AofUpgradeRemovesFirst "aof-upgrade-removes-first" "remove the one file of an older log before a manifest names its copy";
        AofManifestUnsynced "aof-manifest-unsynced" "rename a manifest into place that was not synced";
        AofOnePagePerTick "aof-one-page-per-tick" "write one page and sync, each second, however many there are (M15)";
        AofFlushResets "aof-flush-resets" "take what came into a page while another was written for written, too (M19)";
        AofUnitUnmarked "aof-unit-unmarked" "log the commands of a unit without MULTI and EXEC (M21)";
        AofAppendBehindTail "aof-append-behind-tail" "tolerate a torn tail at open without cutting it, and append behind it (M23)";
        AofSyncErrorForgiven "aof-sync-error-forgiven" "forget a failed sync as soon as one succeeds (R34)";
        RewriteMarksAgain "rewrite-marks-again" "mark where a rewrite begins although the mark of one that failed still waits to be written";
        RewriteBaseSyncIgnored "rewrite-base-sync-ignored" "forget how the syncs of a base ended that ran while more of it was written";
        RewriteAheadTrusted "rewrite-ahead-trusted" "go on in a new increment without a sync of the old one if it was synced ahead";
        AofReaderEndsLoad "aof-reader-ends-load" "a load ends with the task that reads ahead, whatever it has handed over by then";
        AofSumsIgnored "aof-sums-ignored" "at open take commands as they read, without a look at their checksums";
        AofHeldBackDurable "aof-held-back-durable" "with no-appendfsync-on-rewrite, take a write for durable without a sync while a rewrite runs";
        AofEnableDurable "aof-enable-durable" "take what a log collects for durable before it is switched on";
        AofEnableUnsynced "aof-enable-unsynced" "switch a log on before what it has collected is durable";
        AofEnableNamesFirst "aof-enable-names-first" "give files their names before it is durable that they are those of a log that is being switched on";
        RewriteRenameNoDirsync "rewrite-rename-no-dirsync" "skip the directory sync after a manifest is renamed into place";
        RewriteNewincrOldUnsynced "rewrite-newincr-old-unsynced" "go on in a new increment without a sync of the old one";
        RewriteManifestInplace "rewrite-manifest-inplace" "write the manifest in place";
        RewriteBaseUnsynced "rewrite-base-unsynced" "name a base in the manifest that was not synced";
        RewriteSelectForgotten "rewrite-select-forgotten" "take database 0 for selected where a switch to a new increment was to be";
        RewriteHistoryFirst "rewrite-history-first" "remove what a rewrite replaces before the manifest forgets it";
        WalTruncateWithoutWitness "wal-truncate-without-witness" "acknowledge a cut that only the new segment itself states";
        CkptPublishEarly "ckpt-publish-early" "write the root copy before the pages that it names are durable";
        CkptReleaseEarly "ckpt-release-early" "let the logs go of what a checkpoint has before its root is durable";
        CkptReleaseAll "ckpt-release-all" "let the logs go of all that they hold when a root is published, and not of what it has";
        CkptReuseEarly "ckpt-reuse-early" "write a new root's pages over those that it replaces";
        CkptLoadUnsynced "ckpt-load-unsynced" "publish a table that was loaded before its pages are durable";
        CkptLoadNameless "ckpt-load-nameless" "publish a table that was loaded although the names of its files may have been lost";
        CkptReuseUnreleased "ckpt-reuse-unreleased" "write over pages of the older root before the logs were released for the newer one";
        CkptFallbackBlind "ckpt-fallback-blind" "where one root copy can't be read take the other one, whatever the logs state";
        CkptChildUnchecked "ckpt-child-unchecked" "take any page that is whole for the one that its parent names";
        CkptCopyTrusted "ckpt-copy-trusted" "at open take the root copy that is found for a durable one";
        TxnMultishardNomarker "txn-multishard-nomarker" "write the parts of a transaction in several logs with nothing that binds them";
        TxnAckOwnParts "txn-ack-own-parts" "acknowledge a commit when its own parts are durable, whatever there is before it";
        TxnServiceForgottenLog "txn-service-forgotten-log" "take a log for durable as soon as a task was asked to sync it";
        TxnEpochForgotten "txn-epoch-forgotten" "begin a new epoch without saying so in the logs";
        TxnEpochBeforeEstablish "txn-epoch-before-establish" "say in the logs what was found before the root that it builds on is durable";
        TxnSavepointForward "txn-savepoint-forward" "roll back to a savepoint from the first change on, not from the last";
        TxnPeriodUnbounded "txn-period-unbounded" "make no pass of the period, and wait for the next commit";
        TxnPhantom "txn-phantom" "validate the keys that a serializable transaction read, not its ranges";
        TxnWriteSkew "txn-write-skew" "validate the ranges that a serializable transaction read, not its keys";
        TxnUnrepeatable "txn-unrepeatable" "read a key as of now in a transaction that has a snapshot";
        TxnVisibleEarly "txn-visible-early" "let others see a commit, and have its locks, before it is durable, where only what is durable is to be seen";
        TxnPruneLive "txn-prune-live" "let go of versions that a live snapshot needs";
        TxnCopyDeaf "txn-copy-deaf" "leave what is committed meanwhile out of the copy that takes a Memory table's place";
        TxnDropOneLog "txn-drop-one-log" "replay the drop of a table for the first log alone, so that its rows in others come back";
        TxnReleasedIsMissing "txn-released-is-missing" "take what a log was released of for missing";
        TxnReplayTwice "txn-replay-twice" "replay what the root has, too, as far as the logs still hold it";
        TxnUndoLeavesInserts "txn-undo-leaves-inserts" "leave keys that were new when a transaction goes back to a savepoint";
        TxnIndexNotDerived "txn-index-not-derived" "write a row by itself without a look at its indexes";
        TxnMemoryUnbounded "txn-memory-unbounded" "take new memory for versions and pages where all of it is in use, and let no page go";
        TxnDeadlock "txn-deadlock" "wait for whoever has a row, younger or older";
        CkptBlockLost "ckpt-block-lost" "don't take back the memory of a page that is written and not kept";
        CkptAheadOfWal "ckpt-ahead-of-wal" "write pages before the logs have what is in them";
        BackupUnpinned "backup-unpinned" "copy each table as the newest root has it by then, and not as one root does";
        BackupRootFirst "backup-root-first" "create the logs of a backup before its tables are there";
        CkptReleaseLob "ckpt-release-lob" "let the logs go of pieces of values whose commits a checkpoint doesn't have";
        TxnLobBehind "txn-lob-behind" "write a commit before the pieces of its large values";
        TxnPendingUnbounded "txn-pending-unbounded" "accept any number of commits that are not durable while memory is tight";
        TxnLostUpdate "txn-lost-update" "write a row without a look at what was committed to it since the snapshot";
        UpstreamL22Rows "upstream-l22-rows" "log each row by itself, and be content with one row in each log (L22)";
        UpstreamL22LastId "upstream-l22-last-id" "take what a log lacks for applied if that log has anything later (L22)";
        UpstreamL25LastSegment "upstream-l25-last-segment" "sync the last segment of a log, whichever holds the records (L25)";
    }

    impl Plant {
        /// The plant with this id.
        #[must_use]
        pub fn from_name(name: &str) -> Option<Plant> {
            Plant::ALL.iter().copied().find(|plant| plant.name() == name)
        }
    }

    impl Plant {
        /// Whether what it writes can only be read with the same defect: an oracle that judges a disk needs it too.
        #[must_use]
        pub fn changes_format(self) -> bool {
            matches!(self, Plant::WalRecycledStale | Plant::UpstreamL22Rows)
        }
    }

    /// At most one defect, and how often its place was reached. Clones share the count.
    #[derive(Clone, Debug, Default)]
    pub struct Plants {
        on: Option<Plant>,
        reached: Arc<AtomicU64>,
    }

    impl Plants {
        /// Switches `plant` on.
        #[must_use]
        pub fn only(plant: Plant) -> Plants {
            Plants { on: Some(plant), reached: Arc::default() }
        }

        /// What an oracle reads with: the defect only where nothing could be read without it.
        #[must_use]
        pub fn for_reading(&self) -> Plants {
            Plants { on: self.on.filter(|plant| plant.changes_format()), reached: Arc::default() }
        }

        /// Whether there is one.
        pub(crate) fn any(&self) -> bool {
            self.on.is_some()
        }

        /// How often the place of the defect was reached.
        #[must_use]
        pub fn reached(&self) -> u64 {
            self.reached.load(Ordering::Relaxed)
        }

        pub(crate) fn reach(&self, plant: Plant) -> bool {
            let on = self.on == Some(plant);
            if on {
                self.reached.fetch_add(1, Ordering::Relaxed);
            }
            on
        }
    }
}

//! Recovery as a decision: what was seen at the end of the chain, and what follows from it.
//!
//! The rule is evidence. With one device flush per acknowledged append, a damaged last group is byte-identical to an
//! unsynced group that lost sectors; no format tells them apart. So recovery asks how far an intact frame or identity
//! *states* the log to be durable. What can't be read below that is corruption; above it, a crash may have taken it.

use super::report::TailKind;

/// What follows the last valid frame `p` of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    /// Nothing that looks like a frame: never written, or torn beyond recognition.
    Nothing,
    /// A plausible header whose body doesn't match.
    Header,
    /// Intact frames further on.
    Survivors,
    /// An intact frame right here, of another ordinal than expected.
    WrongOrdinal,
}

/// What the last valid frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// The log was closed here.
    ClosedMark,
    /// The segment was rotated and names a successor that exists.
    SealWithSuccessor,
    /// The segment was rotated and its successor is unreadable or absent.
    SealWithoutSuccessor,
    /// Anything else.
    Other,
}

/// Everything the decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) behind: Behind,
    pub(crate) last: Last,
    /// Evidence reaches beyond `p`: something there was stated to be durable.
    pub(crate) proven_beyond: bool,
    /// The chain begins above the floor: its beginning is missing.
    pub(crate) beginning_missing: bool,
}

/// What recovery does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Refuse, change nothing.
    Corrupt(Damage),
    /// End at `p`: the log was closed.
    Clean,
    /// End at `p`: a crash left undecodable bytes; they are counted and left behind.
    Torn,
    /// End at `p`: torn or stale can't be told from never written, and the report says so.
    End,
}

/// What open does about damage, and about an end that nothing proves. No mode is silent: each returns a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryMode {
    /// What a crash can explain is left behind and reported; damage below what was stated to be durable is refused.
    #[default]
    TolerateTornTail,
    /// Only a log that was closed is opened; a crash, too, is refused.
    Absolute,
    /// The log is cut at the first damage: what stands before it is delivered, whole segments behind it are set aside under
    /// another name. For a log that can't be restored from a copy. A missing beginning is refused.
    PointInTime,
}

impl RecoveryMode {
    /// All modes.
    pub const ALL: [RecoveryMode; 3] =
        [RecoveryMode::TolerateTornTail, RecoveryMode::Absolute, RecoveryMode::PointInTime];
}

/// What a mode does with a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Open; the log ended like this.
    Open(TailKind),
    /// Refuse: damaged.
    Refuse(Damage),
    /// Refuse: not closed.
    RefuseUnclean,
}

/// The second table: what was seen, by mode.
pub(crate) fn act(mode: RecoveryMode, decision: Decision) -> Action {
    match (mode, decision) {
        (_, Decision::Clean) => Action::Open(TailKind::Clean),
        (RecoveryMode::TolerateTornTail | RecoveryMode::PointInTime, Decision::Torn) => Action::Open(TailKind::Torn),
        (RecoveryMode::TolerateTornTail | RecoveryMode::PointInTime, Decision::End) => Action::Open(TailKind::End),
        (RecoveryMode::Absolute, Decision::Torn | Decision::End) => Action::RefuseUnclean,
        (_, Decision::Corrupt(Damage::BeginningMissing)) => Action::Refuse(Damage::BeginningMissing),
        (RecoveryMode::PointInTime, Decision::Corrupt(_)) => Action::Open(TailKind::Damaged),
        (RecoveryMode::TolerateTornTail | RecoveryMode::Absolute, Decision::Corrupt(damage)) => Action::Refuse(damage),
    }
}

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    WrongOrdinal,
    BelowDurable,
    SuccessorMissing,
    BeginningMissing,
}

/// The table; the first row that matches decides.
pub(crate) fn decide(seen: Seen) -> Decision {
    match seen {
        Seen { behind: Behind::WrongOrdinal, .. } => Decision::Corrupt(Damage::WrongOrdinal),
        Seen { proven_beyond: true, .. } => Decision::Corrupt(Damage::BelowDurable),
        Seen { last: Last::SealWithoutSuccessor, .. } => Decision::Corrupt(Damage::SuccessorMissing),
        Seen { beginning_missing: true, .. } => Decision::Corrupt(Damage::BeginningMissing),
        Seen { last: Last::ClosedMark, behind: Behind::Nothing | Behind::Header, .. } => Decision::Clean,
        Seen { behind: Behind::Survivors | Behind::Header, .. } => Decision::Torn,
        Seen { behind: Behind::Nothing, .. } => Decision::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clean logs open in every mode; only point in time opens damaged ones; absolute opens nothing else.
    #[test]
    fn every_mode_does_what_it_says() {
        let damages = [Damage::WrongOrdinal, Damage::BelowDurable, Damage::SuccessorMissing, Damage::BeginningMissing];
        let decisions = [Decision::Clean, Decision::Torn, Decision::End];
        for mode in RecoveryMode::ALL {
            for decision in decisions.into_iter().chain(damages.map(Decision::Corrupt)) {
                let opens = matches!(act(mode, decision), Action::Open(_));
                let expected = match decision {
                    Decision::Clean => true,
                    Decision::Torn | Decision::End => mode != RecoveryMode::Absolute,
                    Decision::Corrupt(damage) => {
                        mode == RecoveryMode::PointInTime && damage != Damage::BeginningMissing
                    }
                };
                assert_eq!(opens, expected, "{mode:?} {decision:?}");
            }
        }
    }

    /// Every combination, written as a rule of its own rather than as the table's rows.
    #[test]
    fn all_combinations_decide_as_the_rules_say() {
        let mut counts = [0; 4];
        for behind in [Behind::Nothing, Behind::Header, Behind::Survivors, Behind::WrongOrdinal] {
            for last in [Last::ClosedMark, Last::SealWithSuccessor, Last::SealWithoutSuccessor, Last::Other] {
                for proven_beyond in [false, true] {
                    for beginning_missing in [false, true] {
                        let decision = decide(Seen { behind, last, proven_beyond, beginning_missing });
                        let damaged = proven_beyond
                            || beginning_missing
                            || behind == Behind::WrongOrdinal
                            || last == Last::SealWithoutSuccessor;
                        assert_eq!(
                            matches!(decision, Decision::Corrupt(_)),
                            damaged,
                            "damage is refused, and only damage"
                        );
                        if !damaged {
                            assert_eq!(
                                decision == Decision::Clean,
                                last == Last::ClosedMark && behind != Behind::Survivors
                            );
                            assert_eq!(
                                decision == Decision::End,
                                last != Last::ClosedMark && behind == Behind::Nothing
                            );
                        }
                        counts[match decision {
                            Decision::Corrupt(_) => 0,
                            Decision::Clean => 1,
                            Decision::Torn => 2,
                            Decision::End => 3,
                        }] += 1;
                    }
                }
            }
        }
        assert_eq!(counts, [55, 2, 5, 2]);
    }
}

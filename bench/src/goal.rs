//! What is to be reached, and beside whom.

use crate::peer::{B_TREES, REPLAYING};

/// What a figure of ours is held against.
#[derive(Clone, Copy, Debug)]
pub enum Against {
    /// The raw loop of the case.
    Raw,
    /// The best of all peers.
    Best,
    /// The best of these.
    BestOf(&'static str, &'static [&'static str]),
    /// Nobody: the figure itself counts.
    Nobody,
}

#[derive(Clone, Copy, Debug)]
pub enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

pub struct Goal {
    pub case: &'static str,
    pub against: Against,
    pub limit: Limit,
}

const B_TREE: Against = Against::BestOf("best B-tree", &B_TREES);
const REPLAYER: Against = Against::BestOf("best that replays a log", &REPLAYING);

const fn at_least(case: &'static str, ratio: f64, against: Against) -> Goal {
    Goal { case, against, limit: Limit::AtLeast(ratio) }
}

const fn at_most(case: &'static str, figure: f64) -> Goal {
    Goal { case, against: Against::Nobody, limit: Limit::AtMost(figure) }
}

pub const GOALS: &[Goal] = &[
    at_least("durable-1", 0.9, Against::Raw),
    at_least("durable-1", 1.0, Against::Best),
    at_least("durable-32", 0.8, Against::Raw),
    at_least("durable-32", 5.0, B_TREE),
    at_least("buffered-1", 3.0, Against::Best),
    at_least("get-1", 1_500_000.0, Against::Nobody),
    at_least("get-2", 1_500_000.0, Against::Nobody),
    at_least("get-many-1", 1_500_000.0, Against::Nobody),
    at_least("get-many-2", 1_500_000.0, Against::Nobody),
    at_least("scan", 10_000_000.0, Against::Nobody),
    at_least("load-sorted", 1.0, Against::Best),
    at_least("load-random", 1.0, Against::Best),
    at_least("recover", 3.0, REPLAYER),
    at_most("checkpoint-durable", 2.0),
    at_most("checkpoint-buffered", 2.0),
    at_most("bound", 1.1),
];

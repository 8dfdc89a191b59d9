//! What a store's files say, and what follows. Pure: nothing here reads or writes them.
//!
//! What a log delivers becomes a [`Summary`](summary::Summary), in runs. The [chain] of parts behind a root says which
//! commits count. The [decision] is a table over all of it, and the first row that matches is the verdict.

pub(super) mod decision;

pub(super) mod chain;

pub(super) mod summary;

mod lobs;

pub(super) mod reading;

pub(super) mod replay;

mod records;

mod rows;

mod stretch;

pub(super) mod indexes;

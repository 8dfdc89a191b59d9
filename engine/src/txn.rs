//! Transactions over the log: named ordered tables, versions in memory above immutable pages, redo in one or several logs.
//!
//! Not a store yet. What stands here are its parts, from the top down; `docs/transactions.md` has the design and what is built of it.

#[cfg_attr(not(test), expect(dead_code, reason = "the store that uses it is not built yet"))]
mod recover;

#[cfg_attr(not(test), expect(dead_code, reason = "the store that uses them is not built yet"))]
mod logs;

#[cfg_attr(not(test), expect(dead_code, reason = "the store that uses them is not built yet"))]
mod validate;

#[cfg_attr(not(test), expect(dead_code, reason = "the store that uses them is not built yet"))]
mod locks;

#[cfg_attr(not(test), expect(dead_code, reason = "the store that uses them is not built yet"))]
mod undo;

#[cfg_attr(not(test), expect(dead_code, reason = "the store that reads and writes them is not built yet"))]
mod overlay;

pub mod pages;

pub mod redo;

pub mod ids;

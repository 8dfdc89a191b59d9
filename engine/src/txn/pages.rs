//! Immutable trees of checksummed pages: a batch of sorted changes makes a new tree that shares what it didn't touch with the old one.
//!
//! Not a storage yet: there are no files and no cache, only what they will hold and who walks it. Nothing here does I/O. Whoever walks
//! a tree asks a [`Source`] for a page, and an error of the source leaves the walk where it was: so a source over a cache fails with
//! the page that is missing, its caller loads that one (asynchronously, keeping it until the call) and calls again.
//!
//! Everything is generic over `B`, the bytes of a page behind its header: [`BODY_BYTES`] for pages of 8 KiB, less in tests, so that some
//! tens of keys make a deep tree.

use std::sync::Arc;

use super::ids::PageNo;
pub use super::storage::Changes;

pub mod cursor;
pub mod format;
pub mod merge;
pub mod node;

use format::{ChildRef, Run, page_at};
use node::{Flaw, Node, PageError};

/// Bytes of a page behind its header, in a store: pages of 8192 bytes.
pub const BODY_BYTES: usize = 8192 - format::PAGE_HEADER_BYTES;

/// Where pages are read from.
pub trait Source<const B: usize> {
    /// Why a page can't be had. A [`PageError`] where the bytes are at fault.
    type Error: From<PageError>;

    /// The page that `child` names, decoded with [`Node::decode`]. An error leaves whoever asked as it was: the call can be repeated.
    fn page(&self, child: &ChildRef) -> Result<Arc<Node<B>>, Self::Error>;
}

/// Where new pages go. Nothing of it is found by anybody before the root that it leads to is published.
pub trait Draft<const B: usize> {
    /// Why there is no room.
    type Error;

    /// The first of so many free pages side by side in one chunk.
    fn allocate(&mut self, pages: u32) -> Result<PageNo, Self::Error>;

    /// Takes an allocated page: header and body, in this order, are its bytes.
    fn write(&mut self, page: PageNo, header: [u8; format::PAGE_HEADER_BYTES], node: Arc<Node<B>>);

    /// Takes a value for the allocated pages of `run`; the rest of the last one is zero.
    fn write_run(&mut self, run: &Run, value: &[u8]);
}

/// Bytes of the longest key.
#[must_use]
pub const fn key_limit<const B: usize>() -> usize {
    if B / 8 < format::KEY_LIMIT_BYTES { B / 8 } else { format::KEY_LIMIT_BYTES }
}

/// How many whole pages a value of so many bytes takes.
#[must_use]
pub const fn run_pages<const B: usize>(bytes: u64) -> u64 {
    bytes.div_ceil((B + format::PAGE_HEADER_BYTES) as u64)
}

/// Child `index` of an inner page. It must be of the same table and stand one level below, so that a walk of any bytes ends.
fn descend<const B: usize, S: Source<B>>(source: &S, parent: &Node<B>, index: usize) -> Result<Arc<Node<B>>, S::Error> {
    let child = parent.child(index);
    let node = source.page(&child)?;
    below(&node, &child, parent)?;
    Ok(node)
}

fn below<const B: usize>(node: &Node<B>, child: &ChildRef, parent: &Node<B>) -> Result<(), PageError> {
    let flaw = |offset, what| Err(PageError { page: child.page, offset, what });
    match () {
        () if node.level().checked_add(1) != Some(parent.level()) => flaw(page_at::LEVEL, Flaw::Level),
        () if node.table() != parent.table() => flaw(page_at::TABLE, Flaw::Table),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests;

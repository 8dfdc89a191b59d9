//! Memory of lists: a block, looked at as elements of one kind.

use bytemuck::Pod;

use crate::txn::blocks::{Block, Blocks, block_bytes};
use crate::txn::pages::BODY_BYTES;
use crate::txn::pages::node::{NewNode, Node};

/// Bytes that a block takes.
pub(super) const BLOCK_BYTES: usize = block_bytes::<BODY_BYTES>() as usize;

/// Elements that a block has room for.
pub(super) const fn room<T>() -> usize {
    BODY_BYTES / size_of::<T>()
}

/// One of these, or else a new one.
pub(super) fn block_of(blocks: Option<&Blocks>) -> Block {
    blocks.map_or_else(|| NewNode::new(Node::blank()), Blocks::take_for_commit)
}

#[inline]
pub(super) fn elements<T: Pod>(block: &Block) -> &[T] {
    bytemuck::cast_slice(&block.body()[..room::<T>() * size_of::<T>()])
}

#[inline]
pub(super) fn elements_mut<T: Pod>(block: &mut Block) -> &mut [T] {
    bytemuck::cast_slice_mut(&mut block.body_mut()[..room::<T>() * size_of::<T>()])
}

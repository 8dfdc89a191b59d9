//! The real machine: each future runs its system call at the first poll.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::Path,
    sync::Arc,
};

use super::{Dir, Entry, EntryKind, Env, File, OpenMode};

/// The real machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEnv;

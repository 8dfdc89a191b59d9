//! What made a log stop working, as everybody who waited for it is told.

use std::{fmt::Display, io};

use thiserror::Error;

/// Why a log works no more. Shared by everybody who waited.
#[derive(Clone, Debug, Error)]
#[error("{operation} of {file} failed: {message}; reopen the log")]
pub struct Failure {
    /// What was being done: `write`, `sync`, `create`.
    pub operation: &'static str,
    /// The file that it was done to.
    pub file: String,
    /// The machine's kind of error.
    pub kind: io::ErrorKind,
    /// The machine's words.
    pub message: String,
}

impl Failure {
    pub(crate) fn new(operation: &'static str, file: impl Display, error: &io::Error) -> Failure {
        Failure { operation, file: file.to_string(), kind: error.kind(), message: error.to_string() }
    }
}

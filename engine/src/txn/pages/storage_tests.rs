//! The storage of pages: the suite, and what only it promises.

use super::*;
use crate::{env::OsEnv, txn::storage::suite};

#[test]
fn small_pages_keep_what_a_storage_promises() {
    suite::run::<Pages<OsEnv, 480>>();
}

#[test]
fn large_pages_keep_what_a_storage_promises() {
    suite::run::<Pages<OsEnv>>();
}

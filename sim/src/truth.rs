//! What clients of a store of transactions were told, and what follows from it.

mod rows;
pub mod serial;
pub mod txn;

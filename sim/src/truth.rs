//! What clients of a store of transactions were told, and what follows from it.

pub mod serial;

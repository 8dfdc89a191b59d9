//! The body is `fuzz::redo`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::redo(data));

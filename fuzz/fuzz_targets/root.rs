//! The body is `fuzz::root`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::root(data));

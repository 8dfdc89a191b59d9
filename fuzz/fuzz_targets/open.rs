//! The body is `fuzz::open_directory`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::open_directory(data));

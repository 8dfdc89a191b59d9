//! The body is `fuzz::load_directory`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::load_directory(data));

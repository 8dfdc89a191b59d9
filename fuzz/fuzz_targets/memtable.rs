//! The body is `fuzz::memtable_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::memtable_file(data));

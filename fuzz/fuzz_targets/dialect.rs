#![no_main]
//! See `dialect` in `../src/entry.rs`.

#[path = "../src/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::dialect(bytes));

#![no_main]
//! See `wal` in `../src/entry.rs`.

#[path = "../src/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::wal(bytes));

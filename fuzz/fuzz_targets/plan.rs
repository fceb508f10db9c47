#![no_main]
//! See `plan` in `../src/entry.rs`.

#[path = "../src/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::plan(bytes));

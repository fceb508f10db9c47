#![no_main]
//! See `journal` in `../src/entry.rs`.

#[path = "../src/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::journal(bytes));

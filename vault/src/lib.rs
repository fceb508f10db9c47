//! A backup repository on a directory or S3: write-once, self-checking, readable
//! with plain tools. It knows nothing of etcd.
//!
//! `docs/format/vault.md` describes every byte.
//!
//! | module | what it does |
//! |---|---|
//! | [`repository`] | the vault itself: create, open, store objects, commit, find, read back, verify |
//! | [`manifest`] | the description of one backup, checked on every reading |
//! | [`document`] | small JSON files that carry their own digest |
//! | [`layout`] | which key holds what |
//! | [`compression`] | seekable zstd frames, made and read on threads |
//! | [`archive`] | tar streams as they pass by, checked and indexed |
//! | [`encryption`] | age, at the client |
//! | [`digest`] | SHA-256 of what passes by |
//! | [`store`] | where the bytes are: directory, S3, memory |
//! | [`durable`] | the file system, real or simulated |

pub mod archive;
pub mod compression;
pub mod digest;
pub mod document;
pub mod durable;
pub mod encryption;
pub mod layout;
pub mod machine;
pub mod manifest;
pub mod repository;
pub mod store;

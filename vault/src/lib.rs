//! A backup repository on a directory or S3: write-once, self-checking, readable
//! with plain tools. It knows nothing of etcd.
//!
//! `docs/format/vault.md` describes every byte.

pub mod store;

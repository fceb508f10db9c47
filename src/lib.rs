//! etcdvault backs up, restores and moves etcd clusters, and proves what it did.
//!
//! The modules and the arrows between them stand in `docs/architecture.md`; a
//! test holds the code against it.

pub mod bbolt;
pub mod cli;
pub mod config;
pub mod datadir;
pub mod dialect;
pub mod etcd;
pub mod event;
pub mod node;
pub mod observe;
pub mod operation;
pub mod plan;
pub mod types;
pub mod wal;

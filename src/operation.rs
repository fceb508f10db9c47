//! What etcdvault does: each operation observes, acts through the modules below,
//! and returns what it saw as plain data. Nothing here prints.

pub mod backup;
pub mod cluster;
pub mod content;
pub mod discover;
pub mod endpoints;
pub mod failure;
mod feed;
pub mod files;
pub mod find;
pub mod inspect;
pub mod interrupt;
pub mod journal;
pub mod member;
pub mod own_way;
pub mod preflight;
pub mod proof;
pub mod recover;
pub mod restore;
pub mod returning;
pub mod state;
pub mod status;
pub mod step;
pub mod vaults;
pub mod verify;
pub mod vocabulary;

pub use failure::{Failure, FailureKind};

//! What etcdvault does: each operation observes, acts through the modules below,
//! and returns what it saw as plain data. Nothing here prints.

pub mod failure;
pub mod status;

pub use failure::{Failure, FailureKind};

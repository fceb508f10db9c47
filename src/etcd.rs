//! The live cluster over gRPC: one connection to one member each, with bounds on
//! every wait and errors that name the endpoint.

pub mod alone;
pub mod client;
pub mod cluster;
pub mod discovery;
pub mod error;
mod lease;
pub mod membership;
pub mod snapshot;
mod tls;
pub mod v2;

pub use crate::types::{ConnectionSettings, Credentials};
pub use client::{Connector, HashKv, MemberClient, MemberStatus};
pub use error::{EtcdError, EtcdErrorKind};

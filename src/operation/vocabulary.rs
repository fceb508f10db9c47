//! The words of the modules below that operations take and return, for callers that
//! look no deeper than `operation`.

pub use vault::document::printable;
pub use vault::encryption::{EncryptionChoice, WORK_FACTOR, parse_recipients};
pub use vault::layout::{ClusterName, LineageName};
pub use vault::manifest::{ObjectEncryption, Proof, ProofState};
pub use vault::repository::{Backup, ReadOptions, Repository, Selector, Spool, WriteOptions};

pub use crate::datadir::inspect::{Inspection, Trailer};
pub use crate::datadir::remains::{LogEnding, LogRemains, Use};
pub use crate::datadir::restore::{Options as RestoreOptions, Target as RestoreTarget};
pub use crate::etcd::Connector;
pub use crate::etcd::cluster::Reach;
pub use crate::node::{Node, NodeName};
pub use crate::observe::{Runs, Severity};

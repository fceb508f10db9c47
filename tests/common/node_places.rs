//! Journals and locks of plans on nodes, as the operations have them.

#![allow(unused_imports)]

pub use etcdvault::operation::journal::NodePlace;

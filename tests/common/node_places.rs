//! Journals and locks of plans on nodes, as the operations have them.

#![allow(unused_imports)]

pub(crate) use etcdvault::operation::journal::NodePlace;

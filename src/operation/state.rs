//! State archives: what a node needs beside the data, stored so that the node can be
//! set up again exactly as it was. `docs/format/state-archive.md` describes them.
//!
//! | module | what it does |
//! |---|---|
//! | [`look`] | asks a node how it runs etcd and the API server |
//! | [`roots`] | which of its files matter: pure |
//! | `links` | what is meant by paths that lead through links |
//! | [`describe`] | what is said of a node and of a cluster beside the files |
//! | [`index`] | the list of an archive's files with their digests |
//! | [`nodes`] | which machines are meant |
//! | [`save`] | nodes into the vault |
//! | [`stopped`] | whether a cluster works, is stopped, or neither |
//! | [`find`] | `state list`, and which backup holds states |
//! | [`show`] | what is in a state; one file of it |
//! | [`diff`] | two states, or a state and now |
//! | [`mask`] | what is secret in a text, hidden: pure |
//! | [`check`] | archives and indexes against each other |
//!
//! Of each node there are two objects in a backup: `node-<name>`, a tar archive that
//! any tar unpacks, and `index-<name>`. A third one, `data-<name>`, holds a copy of the
//! data directory where all members were stopped.

pub mod check;
pub mod describe;
pub mod diff;
pub mod find;
pub mod index;
mod links;
pub mod look;
pub mod mask;
mod mention;
pub mod nodes;
pub mod roots;
pub mod save;
pub mod show;
pub mod stopped;

use vault::layout::{InvalidName, Role};
use vault::manifest::Manifest;

use super::failure::{Failure, FailureKind};
use crate::node::NodeName;

/// The kind of a backup that holds states of nodes and no snapshot.
pub const STATE_KIND: &str = "state";

/// What an object of a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The archive of its configuration.
    Node,
    /// The list of what is in its archives, and its description.
    Index,
    /// The archive of its data directories.
    Data,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 3] = [Self::Node, Self::Index, Self::Data];

    /// What the role of its object begins with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Node => "node-",
            Self::Index => "index-",
            Self::Data => "data-",
        }
    }

    /// The role of this part of `node`.
    pub fn role(self, node: &NodeName) -> Result<Role, InvalidName> {
        Role::new(format!("{}{node}", self.prefix()))
    }

    /// The name of its object without the endings of compression and encryption.
    pub fn file(self, node: &NodeName) -> String {
        let ending = match self {
            Self::Node | Self::Data => "tar",
            Self::Index => "json",
        };
        format!("{}{node}.{ending}", self.prefix())
    }

    /// Which part of which node an object with this role is, if it is any.
    pub fn of(role: &str) -> Option<(Self, NodeName)> {
        Self::ALL.into_iter().find_map(|part| {
            let name = role.strip_prefix(part.prefix())?;
            Some((part, NodeName::new(name).ok()?))
        })
    }
}

/// The node that a person names.
pub fn parse_node(text: &str) -> Result<NodeName, Failure> {
    NodeName::new(text).map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
}

/// The nodes whose state is in a backup, in the order of its objects.
pub fn nodes_of(manifest: &Manifest) -> Vec<NodeName> {
    let parts = manifest.objects.iter().filter_map(|object| Part::of(object.role.as_str()));
    parts.filter(|(part, _)| *part == Part::Node).map(|(_, node)| node).collect()
}

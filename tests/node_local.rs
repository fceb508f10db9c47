//! This machine as a node: the contract of every node, and what only the real
//! one has: GNU tar beside it, kills, full and read-only file systems.

#[path = "common/node_contract.rs"]
mod contract;

use etcdvault::node::NodeName;
use etcdvault::node::local::LocalNode;

fn node() -> LocalNode {
    LocalNode::new(NodeName::new("here").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_as_the_contract_says() {
    let root = tempfile::tempdir().unwrap();
    contract::files(&node(), root.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_are_as_the_contract_says() {
    let root = tempfile::tempdir().unwrap();
    contract::trees(&node(), root.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_is_as_the_contract_says() {
    contract::machine(&node()).await;
}

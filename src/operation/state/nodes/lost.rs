//! A node that could not be reached.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use crate::node::{
    BuiltMember, ByteStream, Container, ContainerQuery, Entry, Facts, FileContent, HealthAnswer,
    HealthQuery, LinkHow, Listener, MemberRemains, MemberSpec, Mount, Node, NodeError, NodeName,
    Process, ProcessQuery, Reach, RecoverSpec, RecoveredMember, RemainsSpec, SetHow, Space,
    TreeDigest, TreeSpec, Unit, UnitAction, WriteHow, WriteLike,
};

/// Answers every call with why it could not be reached.
#[derive(Debug)]
pub struct Lost {
    name: NodeName,
    error: NodeError,
}

impl Lost {
    /// The node `name`, to which there is no connection because of `error`.
    pub fn new(name: NodeName, error: NodeError) -> Self {
        Self { name, error }
    }

    fn why<T>(&self) -> Result<T, NodeError> {
        Err(self.error.clone())
    }
}

#[async_trait]
impl Node for Lost {
    fn name(&self) -> &NodeName {
        &self.name
    }

    async fn facts(&self) -> Result<Facts, NodeError> {
        self.why()
    }

    async fn stat(&self, _: &Path) -> Result<Option<Entry>, NodeError> {
        self.why()
    }

    async fn list(&self, _: &Path) -> Result<Vec<Entry>, NodeError> {
        self.why()
    }

    async fn read(&self, _: &Path, _: u64) -> Result<FileContent, NodeError> {
        self.why()
    }

    async fn write(&self, _: &Path, _: &[u8], _: WriteHow) -> Result<(), NodeError> {
        self.why()
    }

    async fn rename(&self, _: &Path, _: &Path) -> Result<(), NodeError> {
        self.why()
    }

    async fn make_dir(&self, _: &Path, _: WriteLike) -> Result<(), NodeError> {
        self.why()
    }

    async fn make_link(&self, _: &Path, _: LinkHow) -> Result<(), NodeError> {
        self.why()
    }

    async fn set(&self, _: &Path, _: SetHow) -> Result<(), NodeError> {
        self.why()
    }

    async fn remove_own(&self, _: &Path, _: [u8; 32]) -> Result<(), NodeError> {
        self.why()
    }

    async fn remove_link(&self, _: &Path, _: &Path) -> Result<(), NodeError> {
        self.why()
    }

    async fn remove_dir(&self, _: &Path) -> Result<(), NodeError> {
        self.why()
    }

    async fn remove_own_tree(&self, _: &Path, _: [u8; 32]) -> Result<(), NodeError> {
        self.why()
    }

    async fn digest(&self, _: &Path) -> Result<TreeDigest, NodeError> {
        self.why()
    }

    async fn space(&self, _: &Path) -> Result<Space, NodeError> {
        self.why()
    }

    async fn mounts(&self) -> Result<Vec<Mount>, NodeError> {
        self.why()
    }

    async fn save_tree(&self, _: TreeSpec) -> Result<ByteStream, NodeError> {
        self.why()
    }

    async fn unpack_tree(&self, _: &Path, _: ByteStream) -> Result<TreeDigest, NodeError> {
        self.why()
    }

    async fn build_member(
        &self,
        _: &Path,
        _: MemberSpec,
        _: ByteStream,
    ) -> Result<BuiltMember, NodeError> {
        self.why()
    }

    async fn remains(&self, _: RemainsSpec) -> Result<MemberRemains, NodeError> {
        self.why()
    }

    async fn recover_member(
        &self,
        _: RecoverSpec,
    ) -> Result<(RecoveredMember, ByteStream), NodeError> {
        self.why()
    }

    async fn unit(&self, _: &str) -> Result<Option<Unit>, NodeError> {
        self.why()
    }

    async fn units(&self, _: &str) -> Result<Vec<String>, NodeError> {
        self.why()
    }

    async fn unit_do(&self, _: &str, _: UnitAction, _: Duration) -> Result<(), NodeError> {
        self.why()
    }

    async fn containers(&self, _: ContainerQuery) -> Result<Vec<Container>, NodeError> {
        self.why()
    }

    async fn stop_container(&self, _: &str, _: Duration) -> Result<(), NodeError> {
        self.why()
    }

    async fn processes(&self, _: ProcessQuery) -> Result<Vec<Process>, NodeError> {
        self.why()
    }

    async fn listeners(&self) -> Result<Vec<Listener>, NodeError> {
        self.why()
    }

    async fn reach(&self, _: Vec<String>, _: Duration) -> Result<Vec<Reach>, NodeError> {
        self.why()
    }

    async fn health(&self, _: HealthQuery, _: Duration) -> Result<HealthAnswer, NodeError> {
        self.why()
    }
}

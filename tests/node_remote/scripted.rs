//! A node whose calls do what their paths say: hang, stream, count. What a real
//! node does is tested with real ones; this one shows what the wire does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcdvault::node::*;
use futures_util::stream::{self, StreamExt};
use sha2::{Digest, Sha256};

/// What happened to the node.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Calls that hang now.
    pub(crate) hanging: AtomicUsize,
    /// Bytes that streams of the node gave.
    pub(crate) given: AtomicU64,
    /// Bytes that the node took from streams.
    pub(crate) taken: AtomicU64,
    /// Streams from the node that live now.
    pub(crate) streams: AtomicUsize,
    /// How unpackings ended.
    pub(crate) unpacked: Mutex<Vec<Result<u64, NodeErrorKind>>>,
    pub(crate) files: Mutex<BTreeMap<String, Vec<u8>>>,
}

#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) name: NodeName,
    pub(crate) seen: Arc<Seen>,
}

struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    pub(crate) fn new(seen: &Arc<Seen>) -> Arc<Self> {
        Arc::new(Self { name: NodeName::new("far").unwrap(), seen: seen.clone() })
    }

    fn error(&self, kind: NodeErrorKind, act: &str) -> NodeError {
        NodeError::new(&self.name, kind, act, "scripted")
    }

    async fn hang(&self) {
        let _counted = Counted::new(&self.seen.hanging);
        std::future::pending::<()>().await;
    }
}

pub(crate) fn entry(path: &Path, size: u64) -> Entry {
    Entry {
        path: path.to_owned(),
        kind: FileKind::File,
        size,
        modified: -1_700_000_000_123_456_789_i128,
        attributes: Attributes {
            uid: 0,
            gid: 7,
            owner: Some("root".to_owned()),
            group: None,
            mode: 0o640,
            xattrs: BTreeMap::from([("user.a".to_owned(), vec![0, 255, 10])]),
        },
        target: None,
        mount_point: false,
    }
}

/// Byte `at` of a stream that does not compress, or hardly.
pub(crate) fn pattern(block: u64, noisy: bool) -> Bytes {
    if !noisy {
        return Bytes::from(vec![(block % 251) as u8; BLOCK]);
    }
    let mut state = (block + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(BLOCK);
    while bytes.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.into()
}

pub(crate) const BLOCK: usize = 64 << 10;

#[async_trait]
impl Node for Scripted {
    fn name(&self) -> &NodeName {
        &self.name
    }

    async fn facts(&self) -> Result<Facts, NodeError> {
        Ok(Facts {
            hostname: "far\x1b[2Jaway".to_owned(),
            machine_id: None,
            boot_id: "b00t".to_owned(),
            os: "Scripted".to_owned(),
            arch: "x86_64".to_owned(),
            uid: 0,
            version: "0".to_owned(),
            now: i128::from(i64::MAX) * 3,
            addresses: vec!["::1".parse().unwrap()],
            systemd: false,
            selinux: false,
        })
    }

    async fn stat(&self, path: &Path) -> Result<Option<Entry>, NodeError> {
        match path.to_str().unwrap() {
            "/hang" => {
                self.hang().await;
                Ok(None)
            }
            "/denied" => {
                let mut error = self.error(NodeErrorKind::Permission, "stat /denied");
                error.details = vec!["one".to_owned(), "two\x07".to_owned()];
                Err(error.hint("ask root"))
            }
            "/liar" => Ok(Some(entry(Path::new("/etc/shadow"), 1))),
            "/panic" => panic!("as the test wants it"),
            "/none" => Ok(None),
            _ => Ok(Some(entry(path, 3))),
        }
    }

    async fn list(&self, path: &Path) -> Result<Vec<Entry>, NodeError> {
        if path == Path::new("/escape") {
            return Ok(vec![entry(Path::new("/escape/../etc/x"), 0)]);
        }
        if path == Path::new("/huge") {
            return Ok((0..100_000).map(|n| entry(&path.join(format!("{n:06}")), n)).collect());
        }
        Ok((0..1000).map(|n| entry(&path.join(format!("{n:04}")), n)).collect())
    }

    async fn read(&self, path: &Path, limit: u64) -> Result<FileContent, NodeError> {
        if path == Path::new("/too-much") {
            return Ok(FileContent { entry: entry(path, 1), bytes: vec![1; limit as usize + 1] });
        }
        let files = self.seen.files.lock().unwrap();
        let bytes = files.get(path.to_str().unwrap()).cloned();
        let bytes = bytes.ok_or_else(|| self.error(NodeErrorKind::NotFound, "read"))?;
        Ok(FileContent { entry: entry(path, bytes.len() as u64), bytes })
    }

    async fn write(&self, path: &Path, content: &[u8], how: WriteHow) -> Result<(), NodeError> {
        assert_eq!(how.replaces, Some([9; 32]));
        let path = path.to_str().unwrap().to_owned();
        self.seen.files.lock().unwrap().insert(path, content.to_vec());
        Ok(())
    }

    async fn rename(&self, _: &Path, _: &Path) -> Result<(), NodeError> {
        Err(self.error(NodeErrorKind::ReadOnly, "rename"))
    }

    async fn make_dir(&self, _: &Path, _: WriteLike) -> Result<(), NodeError> {
        Err(self.error(NodeErrorKind::NoSpace, "make"))
    }

    async fn make_link(&self, _: &Path, _: LinkHow) -> Result<(), NodeError> {
        Err(self.error(NodeErrorKind::AlreadyExists, "link"))
    }

    async fn set(&self, _: &Path, _: SetHow) -> Result<(), NodeError> {
        Err(self.error(NodeErrorKind::Unexpected, "set"))
    }

    async fn remove_own(&self, _: &Path, _: [u8; 32]) -> Result<(), NodeError> {
        Err(self.error(NodeErrorKind::Unexpected, "remove"))
    }

    async fn remove_link(&self, _: &Path, _: &Path) -> Result<(), NodeError> {
        Err(self.error(NodeErrorKind::Unexpected, "remove"))
    }

    async fn remove_dir(&self, _: &Path) -> Result<(), NodeError> {
        Err(self.error(NodeErrorKind::AlreadyExists, "remove"))
    }

    async fn remove_own_tree(&self, _: &Path, _: [u8; 32]) -> Result<(), NodeError> {
        Err(self.error(NodeErrorKind::Unexpected, "remove"))
    }

    async fn digest(&self, _: &Path) -> Result<TreeDigest, NodeError> {
        Ok(TreeDigest { sha256: [5; 32], entries: u64::MAX, bytes: 1 })
    }

    async fn space(&self, _: &Path) -> Result<Space, NodeError> {
        Ok(Space { available: 1, total: u64::MAX, read_only: true, device: 3 })
    }

    async fn mounts(&self) -> Result<Vec<Mount>, NodeError> {
        Ok(Vec::new())
    }

    /// `/<blocks>/noise|plain|stuck`: so many blocks; `stuck` hangs after them.
    async fn save_tree(&self, spec: TreeSpec) -> Result<ByteStream, NodeError> {
        let text = spec.roots[0].to_str().unwrap().to_owned();
        let mut parts = text.trim_start_matches('/').split('/');
        let blocks: u64 = parts.next().unwrap().parse().unwrap();
        let how = parts.next().unwrap().to_owned();
        let seen = self.seen.clone();
        seen.streams.fetch_add(1, Ordering::SeqCst);
        struct Open(Arc<Seen>);
        impl Drop for Open {
            fn drop(&mut self) {
                self.0.streams.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let failure = self.error(NodeErrorKind::Other, "save");
        Ok(stream::unfold((0, Open(seen)), move |(block, open)| {
            let (how, failure) = (how.clone(), failure.clone());
            async move {
                if block > blocks {
                    return None;
                }
                if block == blocks {
                    match how.as_str() {
                        "stuck" => std::future::pending().await,
                        "fails" => return Some((Err(failure), (block + 1, open))),
                        _ => return None,
                    }
                }
                let bytes = pattern(block, how == "noise");
                open.0.given.fetch_add(bytes.len() as u64, Ordering::SeqCst);
                Some((Ok(bytes), (block + 1, open)))
            }
        })
        .boxed())
    }

    /// `/never` takes nothing, `/refuse` fails at once, `/half` after some bytes.
    async fn unpack_tree(&self, root: &Path, mut tar: ByteStream) -> Result<TreeDigest, NodeError> {
        if root == Path::new("/refuse") {
            return Err(self.error(NodeErrorKind::AlreadyExists, "unpack"));
        }
        if root == Path::new("/never") {
            self.hang().await;
        }
        let mut hash = Sha256::new();
        let mut bytes = 0;
        while let Some(piece) = tar.next().await {
            match piece {
                Ok(piece) => {
                    bytes += piece.len() as u64;
                    self.seen.taken.fetch_add(piece.len() as u64, Ordering::SeqCst);
                    hash.update(&piece);
                }
                Err(error) => {
                    self.seen.unpacked.lock().unwrap().push(Err(error.kind));
                    return Err(error);
                }
            }
            if root == Path::new("/half") && bytes > 1 << 20 {
                return Err(self.error(NodeErrorKind::NoSpace, "unpack"));
            }
        }
        self.seen.unpacked.lock().unwrap().push(Ok(bytes));
        Ok(TreeDigest { sha256: hash.finalize().into(), entries: 1, bytes })
    }

    async fn build_member(
        &self,
        _: &Path,
        _: MemberSpec,
        _: ByteStream,
    ) -> Result<BuiltMember, NodeError> {
        Err(self.error(NodeErrorKind::Unexpected, "build"))
    }

    async fn remains(&self, _: RemainsSpec) -> Result<MemberRemains, NodeError> {
        Err(self.error(NodeErrorKind::Unexpected, "look at what is left"))
    }

    async fn recover_member(
        &self,
        _: RecoverSpec,
    ) -> Result<(RecoveredMember, ByteStream), NodeError> {
        Err(self.error(NodeErrorKind::Unexpected, "recover"))
    }

    async fn unit(&self, _: &str) -> Result<Option<Unit>, NodeError> {
        Ok(None)
    }

    async fn units(&self, glob: &str) -> Result<Vec<String>, NodeError> {
        Ok(vec![if glob == "evil" { "--help".to_owned() } else { "etcd.service".to_owned() }])
    }

    async fn unit_do(&self, _: &str, _: UnitAction, deadline: Duration) -> Result<(), NodeError> {
        assert_eq!(deadline, Duration::from_millis(1234));
        Err(self.error(NodeErrorKind::Failed, "start etcd.service"))
    }

    async fn containers(&self, _: ContainerQuery) -> Result<Vec<Container>, NodeError> {
        Ok(Vec::new())
    }

    async fn stop_container(&self, _: &str, _: Duration) -> Result<(), NodeError> {
        Ok(())
    }

    async fn processes(&self, query: ProcessQuery) -> Result<Vec<Process>, NodeError> {
        assert_eq!(query, ProcessQuery::Pid(1));
        Ok(Vec::new())
    }

    async fn listeners(&self) -> Result<Vec<Listener>, NodeError> {
        Ok(vec![Listener { address: "[::1]:2379".parse().unwrap(), pid: None }])
    }

    async fn reach(&self, addresses: Vec<String>, _: Duration) -> Result<Vec<Reach>, NodeError> {
        Ok(addresses.into_iter().map(|address| Reach { address, error: None }).collect())
    }

    async fn health(&self, query: HealthQuery, _: Duration) -> Result<HealthAnswer, NodeError> {
        Ok(HealthAnswer::Answered { status: 200, text: format!("{}\u{202e}", query.path) })
    }
}

//! What is in a stored state, and one file of it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use vault::archive::{Entry, Limits, TarReader, Visitor};
use vault::digest::Sha256;
use vault::manifest::Manifest;
use vault::repository::{Backup, ReadOptions, Repository};

use super::describe::{ClusterSeen, MissingNode, StateContent};
use super::find::{self, DataHeld};
use super::index::{Archive, File, Kind, NodeIndex};
use super::mask::{self, Salt};
use super::{Part, nodes_of};
use crate::node::NodeName;
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::vaults::storage_failure;

/// The largest file that is read into memory to be shown or compared.
pub const MAX_SHOWN: u64 = 16 << 20;

/// What is in a backup's states.
#[derive(Debug, Serialize)]
pub struct ShownState {
    /// The backup's id.
    pub id: String,
    /// Its cluster.
    pub cluster: String,
    /// When it was begun.
    pub taken: DateTime<Utc>,
    /// What of the data is in it.
    pub data: DataHeld,
    /// The cluster, where a member answered.
    pub seen: Option<ClusterSeen>,
    /// The nodes that were wanted.
    pub nodes: Vec<NodeIndex>,
    /// Nodes that were asked for and are not in it.
    pub missing: Vec<MissingNode>,
}

/// Reads the states in `backup`: of one node, or of all.
pub async fn show(
    repository: &Repository,
    backup: &Backup,
    node: Option<&NodeName>,
) -> Result<ShownState, Failure> {
    let manifest = &backup.manifest;
    let content = content(manifest)?;
    let mut nodes = Vec::new();
    for name in wanted(manifest, node)? {
        nodes.push(find::index(repository, manifest, &name).await?);
    }
    Ok(ShownState {
        id: manifest.id.to_string(),
        cluster: manifest.cluster.to_string(),
        taken: manifest.started,
        data: DataHeld::of(manifest),
        seen: content.cluster,
        nodes,
        missing: content.missing,
    })
}

/// What the manifest says of states.
pub(super) fn content(manifest: &Manifest) -> Result<StateContent, Failure> {
    let what = format!("the states in backup {} were not read", manifest.id);
    StateContent::of(manifest)
        .map_err(|why| Failure::new(FailureKind::Error, what).detail(why))
        .map(Option::unwrap_or_default)
}

/// The nodes of a backup, or the one that is wanted.
pub(super) fn wanted(
    manifest: &Manifest,
    node: Option<&NodeName>,
) -> Result<Vec<NodeName>, Failure> {
    let nodes = nodes_of(manifest);
    match node {
        None => Ok(nodes),
        Some(node) if nodes.contains(node) => Ok(vec![node.clone()]),
        Some(node) => {
            let held: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            Err(Failure::new(
                FailureKind::Usage,
                format!("backup {} holds no state of {node}", manifest.id),
            )
            .hint(format!("it holds {}", held.join(", "))))
        }
    }
}

/// A file out of a state.
#[derive(Debug)]
pub struct ShownFile {
    /// What the index says of it.
    pub file: File,
    /// Its content: as it is, or a text with its secrets hidden.
    pub content: Vec<u8>,
    /// Whether anything is hidden.
    pub hidden: bool,
}

/// One file of `node`. Without `secrets` what is secret in it is hidden; what is no text
/// cannot be shown so.
pub async fn file(
    repository: &Repository,
    backup: &Backup,
    node: &NodeName,
    path: &str,
    secrets: bool,
) -> Result<ShownFile, Failure> {
    let manifest = &backup.manifest;
    wanted(manifest, Some(node))?;
    let index = find::index(repository, manifest, node).await?;
    let usage = |why: &str| {
        Failure::new(FailureKind::Usage, format!("{path} of {node} was not shown: {why}"))
    };
    let Some(found) = index.state.file(path) else {
        return Err(usage("it is not in the archive")
            .hint(format!("etcdvault state show {} --node {node} --files", manifest.id)));
    };
    let found = source(&index.state, found).ok_or_else(|| usage("it is no file"))?.clone();
    if found.size > MAX_SHOWN {
        return Err(usage("it is too large").hint(format!(
            "etcdvault export {} --object {}{node} -o - | tar -xO {}",
            manifest.id,
            Part::Node.prefix(),
            path.trim_start_matches('/')
        )));
    }
    let content = read(repository, manifest, node, &found).await?;
    if secrets {
        return Ok(ShownFile { file: found, content, hidden: false });
    }
    let text = String::from_utf8(content).map_err(|_| {
        usage("it is no text, of which secrets could be hidden").hint("--show-secrets")
    })?;
    let masked = mask::mask(path, &text, &Salt::generate());
    Ok(ShownFile { file: found, hidden: masked != text, content: masked.into_bytes() })
}

/// The file that holds the content: of a hard link the one that it leads to.
pub(super) fn source<'a>(archive: &'a Archive, file: &'a File) -> Option<&'a File> {
    match file.kind {
        Kind::File => Some(file),
        Kind::HardLink => {
            archive.file(file.target.as_deref()?).filter(|linked| linked.kind == Kind::File)
        }
        Kind::Directory | Kind::Symlink => None,
    }
}

/// The content of `file`, held against its digest. Only the frames that hold it are
/// read, unless it has holes.
pub(super) async fn read(
    repository: &Repository,
    manifest: &Manifest,
    node: &NodeName,
    file: &File,
) -> Result<Vec<u8>, Failure> {
    let what = format!("{} of {node} was not read from backup {}", file.path, manifest.id);
    let corrupt =
        |why: &str| Failure::new(FailureKind::Corrupt, what.clone()).detail(why.to_owned());
    let object = find::object(manifest, Part::Node, node)
        .ok_or_else(|| corrupt("its archive is missing"))?;
    if file.size > MAX_SHOWN {
        return Err(Failure::new(FailureKind::Error, what).detail("it is too large"));
    }
    let content = match file.content_at {
        Some(at) => {
            let end = at
                .checked_add(file.size)
                .filter(|&end| end <= object.plain_size)
                .ok_or_else(|| corrupt("the index leads beyond the archive"))?;
            let bytes = repository.read_range(object, at..end).await;
            bytes.map_err(|error| storage_failure(what.clone(), error))?.to_vec()
        }
        None => extract(repository, object, file, &what).await?,
    };
    if file.sha256 != Some(Sha256::of(&content)) {
        return Err(corrupt("its bytes are not those that the index lists"));
    }
    Ok(content)
}

/// A file that is not stored in one piece, out of the whole stream.
async fn extract(
    repository: &Repository,
    object: &vault::manifest::ObjectRecord,
    file: &File,
    what: &str,
) -> Result<Vec<u8>, Failure> {
    let wanted = vault::archive::unescape(file.path.trim_start_matches('/')).unwrap_or_default();
    let mut one = One { wanted, size: file.size, content: None, inside: false };
    let mut reader = TarReader::new(Limits { stream: object.plain_size, ..Limits::default() });
    let failed = |error| storage_failure(what.to_owned(), error);
    let mut bytes =
        repository.open_object(object, &ReadOptions::default()).await.map_err(failed)?;
    while let Some(chunk) = bytes.next().await.map_err(failed)? {
        reader
            .push(&chunk, &mut one)
            .map_err(|error| Failure::new(FailureKind::Corrupt, what).because(error))?;
    }
    one.content.ok_or_else(|| {
        Failure::new(FailureKind::Corrupt, what).detail("the archive does not hold it")
    })
}

/// Keeps the content of one file.
struct One {
    wanted: Vec<u8>,
    size: u64,
    content: Option<Vec<u8>>,
    inside: bool,
}

impl Visitor for One {
    fn entry(&mut self, entry: &Entry) -> Result<(), &'static str> {
        self.inside = entry.path == self.wanted;
        if self.inside {
            if entry.size != self.size || entry.size > MAX_SHOWN {
                return Err("a file is not as large as the index says");
            }
            self.content = Some(vec![0; entry.size as usize]);
        }
        Ok(())
    }

    fn content(&mut self, offset: u64, bytes: &[u8]) -> Result<(), &'static str> {
        if let (true, Some(content)) = (self.inside, &mut self.content) {
            let start = offset as usize;
            let place = content.get_mut(start..start + bytes.len());
            place.ok_or("a file is larger than it says")?.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn ended(&mut self) -> Result<(), &'static str> {
        self.inside = false;
        Ok(())
    }

    fn note(&mut self, _text: &str) -> Result<(), &'static str> {
        Ok(())
    }
}

/// The bytes of the file `path`, escaped as in `index`, of `node`.
pub async fn content_of(
    repository: &Repository,
    manifest: &Manifest,
    node: &NodeName,
    index: &super::index::NodeIndex,
    path: &str,
) -> Result<Vec<u8>, Failure> {
    let found = index.state.file(path).and_then(|file| source(&index.state, file));
    let found = found.ok_or_else(|| {
        let what = format!("{path} of {node} was not read from backup {}", manifest.id);
        Failure::new(FailureKind::Corrupt, what).detail("the state has no such file")
    })?;
    read(repository, manifest, node, found).await
}

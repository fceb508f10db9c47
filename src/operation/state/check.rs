//! Is a stored state whole: every byte of its objects, the structure of its archives,
//! and each file as the index has it?

use vault::archive::{ArchiveError, Contents, Indexer, Limits};
use vault::manifest::{Manifest, ObjectRecord};
use vault::repository::{ReadOptions, Repository, RepositoryError};

use super::index::{Archive, IndexError, MAX_INDEX, NodeIndex};
use super::{Part, find};
use crate::node::{NodeName, TreeSpec};

/// The most differences that are told of one archive.
const MAX_TOLD: usize = 20;

/// Reads an object of a state, every byte against its digests, and says what else is
/// wrong with it. Damage of stored bytes is an error.
pub async fn check(
    repository: &Repository,
    manifest: &Manifest,
    object: &ObjectRecord,
    options: &ReadOptions,
) -> Result<Vec<String>, RepositoryError> {
    let Some((part, node)) = Part::of(object.role.as_str()) else { return Ok(Vec::new()) };
    match part {
        Part::Index => index(repository, manifest, object, &node).await,
        Part::Node | Part::Data => {
            archive(repository, manifest, object, part, &node, options).await
        }
    }
}

async fn index(
    repository: &Repository,
    manifest: &Manifest,
    object: &ObjectRecord,
    node: &NodeName,
) -> Result<Vec<String>, RepositoryError> {
    let mut problems = Vec::new();
    match read(repository, object, &mut problems).await? {
        Some(index) if index.node != node.as_str() => {
            problems.push(format!("{} is the index of {:?}", object.role, index.node));
        }
        Some(_) | None => {}
    }
    if find::object(manifest, Part::Node, node).is_none() {
        problems.push(format!("{} has no archive beside it", object.role));
    }
    Ok(problems)
}

/// The index in `object`; what is wrong with it goes to `problems`.
async fn read(
    repository: &Repository,
    object: &ObjectRecord,
    problems: &mut Vec<String>,
) -> Result<Option<NodeIndex>, RepositoryError> {
    match NodeIndex::read(repository, object).await {
        Ok(index) => Ok(Some(index)),
        Err(IndexError::Vault(error)) => Err(error),
        Err(IndexError::TooLarge(size)) => {
            problems
                .push(format!("{} has {size} bytes, at most {MAX_INDEX} are read", object.role));
            Ok(None)
        }
        Err(error) => {
            let why = crate::operation::failure::chain(&error).join(": ");
            problems.push(format!("{}: {why}", object.role));
            Ok(None)
        }
    }
}

async fn archive(
    repository: &Repository,
    manifest: &Manifest,
    object: &ObjectRecord,
    part: Part,
    node: &NodeName,
    options: &ReadOptions,
) -> Result<Vec<String>, RepositoryError> {
    let role = &object.role;
    let mut problems = Vec::new();
    let now = match contents(repository, object, options).await? {
        Ok(contents) => Archive::new(&TreeSpec::default(), &contents),
        Err(error) => return Ok(vec![format!("{role}: {error}")]),
    };
    let Some(record) = find::object(manifest, Part::Index, node) else {
        return Ok(vec![format!("{role} has no index beside it")]);
    };
    let Some(index) = read(repository, record, &mut problems).await? else {
        return Ok(vec![format!("{role} cannot be held against its index")]);
    };
    let listed = match part {
        Part::Data => index.data.as_ref(),
        Part::Node | Part::Index => Some(&index.state),
    };
    match listed {
        Some(listed) => compare(role.as_str(), listed, &now, &mut problems),
        None => problems.push(format!("{role} is not in its index")),
    }
    Ok(problems)
}

/// Streams an archive through the index. The inner error says that it is none.
async fn contents(
    repository: &Repository,
    object: &ObjectRecord,
    options: &ReadOptions,
) -> Result<Result<Contents, ArchiveError>, RepositoryError> {
    let mut reader = repository.open_object(object, options).await?;
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(2);
    let limits = Limits { stream: object.plain_size, ..Limits::default() };
    let indexing = tokio::task::spawn_blocking(move || {
        let mut indexer = Indexer::new(limits);
        while let Some(chunk) = receiver.blocking_recv() {
            indexer.push(&chunk)?;
        }
        indexer.finish()
    });
    let read = loop {
        match reader.next().await {
            // The index ends early only with an error, which its result tells; the rest
            // is read all the same, against its digests.
            Ok(Some(chunk)) => drop(sender.send(chunk).await),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    drop(sender);
    let indexed = indexing.await.unwrap_or(Err(ArchiveError {
        at: 0,
        path: String::new(),
        why: "the thread that read it ended early",
    }));
    read.map(|()| indexed)
}

/// Holds what an archive holds against what its index says.
fn compare(role: &str, listed: &Archive, now: &Archive, problems: &mut Vec<String>) {
    let mut told = 0usize;
    let mut tell = |problem: String| {
        told += 1;
        if told <= MAX_TOLD {
            problems.push(problem);
        }
    };
    for (was, is) in listed.files.iter().zip(&now.files) {
        if was.path != is.path {
            tell(format!("{role}: the index says {}, the archive {}", was.path, is.path));
        } else if was != is {
            tell(format!("{role}: {} is not as the index says", is.path));
        }
    }
    if listed.files.len() != now.files.len() {
        tell(format!(
            "{role}: the index lists {} entries, the archive has {}",
            listed.files.len(),
            now.files.len()
        ));
    }
    if told > MAX_TOLD {
        problems.push(format!("{role}: {} more differences", told - MAX_TOLD));
    }
}

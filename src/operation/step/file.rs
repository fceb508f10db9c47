//! One file of a node, from what it is to what it is to be, and back.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use vault::archive::{escape, unescape};

use super::{ASIDE, Change, MAX_FILE, Mode, What};
use crate::node::{
    Attributes, Entry, FileKind, Node, NodeError, NodeErrorKind, WriteHow, WriteLike,
};
use crate::operation::journal::make_dirs;
use crate::plan::record::hex;
use crate::plan::shell::Command;
use crate::plan::{Context, Place, StepError};

/// A directory that was made and is taken back goes to one of so many names.
const NAMES: u32 = 100;

/// A step's failure.
pub(super) fn failed(error: NodeError) -> StepError {
    let mut step = StepError::new(error.to_string());
    step.details = error.details.clone();
    step.hint = error.hint.clone();
    step
}

impl Mode {
    /// Of what stands on a node.
    pub(super) fn of(attributes: &Attributes) -> Self {
        let xattrs = &attributes.xattrs;
        Self {
            uid: attributes.uid,
            gid: attributes.gid,
            mode: attributes.mode,
            xattrs: xattrs.iter().map(|(name, value)| (name.clone(), escape(value))).collect(),
        }
    }

    fn attributes(&self) -> Result<Attributes, StepError> {
        let mut xattrs = std::collections::BTreeMap::new();
        for (name, value) in &self.xattrs {
            let value = unescape(value)
                .ok_or_else(|| StepError::new(format!("the attribute {name} is not escaped")))?;
            xattrs.insert(name.clone(), value);
        }
        let Self { uid, gid, mode, .. } = *self;
        Ok(Attributes { uid, gid, owner: None, group: None, mode, xattrs })
    }

    fn how(&self, replaces: Option<[u8; 32]>) -> Result<WriteHow, StepError> {
        Ok(WriteHow { like: WriteLike::Attributes(self.attributes()?), replaces })
    }
}

/// A digest out of a plan.
fn digest(text: &str) -> Result<[u8; 32], StepError> {
    let pairs = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    let bytes: Option<Vec<u8>> = pairs.collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| StepError::new(format!("{text:?} is no digest")).without_effect())
}

/// What stands at `path`.
pub(super) async fn look(node: &dyn Node, path: &Path) -> Result<What, StepError> {
    let Some(entry) = node.stat(path).await.map_err(failed)? else { return Ok(What::Nothing) };
    let mode = Mode::of(&entry.attributes);
    match entry.kind {
        FileKind::File => match node.read(path, MAX_FILE).await {
            Ok(file) => Ok(What::File {
                sha256: hex(&Sha256::digest(&file.bytes)),
                mode: Mode::of(&file.entry.attributes),
            }),
            // Gone meanwhile.
            Err(error) if error.kind == NodeErrorKind::NotFound => Ok(What::Nothing),
            Err(error) => Err(failed(error)),
        },
        FileKind::Directory => Ok(What::Directory { mode }),
        FileKind::Symlink => Ok(What::Link { target: target(&entry) }),
        FileKind::Other => {
            let why = format!("{} is a socket, device or pipe", path.display());
            Err(StepError::new(why))
        }
    }
}

fn target(entry: &Entry) -> String {
    let target = entry.target.as_deref().unwrap_or(Path::new(""));
    escape(target.as_os_str().as_encoded_bytes())
}

/// Where what stood at a path goes: a name of its own in the plan's directory.
fn aside(context: &Context<'_>, number: usize, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().take(40).collect();
    let file = format!("{}-{number:04}-{name}", context.step);
    Path::new(ASIDE).join(context.plan.to_string()).join(file)
}

fn changed(path: &Path) -> StepError {
    StepError::new(format!("{} was changed since the plan was made", path.display()))
        .hint("roll back and make a new plan")
}

async fn read(node: &dyn Node, path: &Path, sha256: &str) -> Result<Vec<u8>, StepError> {
    let bytes = node.read(path, MAX_FILE).await.map_err(failed)?.bytes;
    if hex(&Sha256::digest(&bytes)) == sha256 { Ok(bytes) } else { Err(changed(path)) }
}

/// Copies what stands at `path` to `aside`, with its owner, mode and attributes.
async fn copy_aside(
    node: &dyn Node,
    path: &Path,
    aside: &Path,
    sha256: &str,
    mode: &Mode,
) -> Result<(), StepError> {
    if look(node, aside).await? != What::Nothing {
        // Copied before; what else could stand there is no copy.
        return read(node, aside, sha256).await.map(drop);
    }
    let bytes = read(node, path, sha256).await?;
    make_dirs(node, aside.parent().unwrap_or(Path::new(ASIDE))).await.map_err(failed)?;
    node.write(aside, &bytes, mode.how(None)?).await.map_err(failed)
}

/// Does one change. `content` gives the bytes of the state.
pub(super) async fn apply(
    node: &dyn Node,
    context: &Context<'_>,
    number: usize,
    change: &Change,
    content: impl AsyncFnOnce() -> Result<Vec<u8>, StepError>,
) -> Result<(), StepError> {
    let Change { path, before, after, .. } = change;
    let now = look(node, path).await?;
    if now == *after {
        return Ok(());
    }
    if now != *before {
        return Err(changed(path));
    }
    let aside = aside(context, number, path);
    if let What::File { sha256, mode } = before {
        copy_aside(node, path, &aside, sha256, mode).await?;
    }
    match (before, after) {
        (What::Nothing | What::File { .. }, What::File { sha256, mode }) => {
            let old = match before {
                What::File { sha256, .. } => Some(sha256),
                _ => None,
            };
            let bytes = match old {
                Some(old) if old == sha256 => read(node, path, old).await?,
                _ => content().await?,
            };
            if hex(&Sha256::digest(&bytes)) != *sha256 {
                let why = format!("the vault gave other bytes for {}", path.display());
                return Err(StepError::new(why));
            }
            let how = mode.how(old.map(|old| digest(old)).transpose()?)?;
            node.write(path, &bytes, how).await.map_err(failed)
        }
        (What::File { sha256, .. }, What::Nothing) => {
            node.remove_own(path, digest(sha256)?).await.map_err(failed)
        }
        (What::Nothing, What::Directory { mode }) => {
            let like = WriteLike::Attributes(mode.attributes()?);
            node.make_dir(path, like).await.map_err(failed)
        }
        (What::Directory { .. } | What::Link { .. }, What::Nothing) => {
            if matches!(before, What::Directory { .. })
                && !node.list(path).await.map_err(failed)?.is_empty()
            {
                let why = format!("{} holds what is in no state", path.display());
                return Err(StepError::new(why));
            }
            make_dirs(node, aside.parent().unwrap_or(Path::new(ASIDE))).await.map_err(failed)?;
            node.rename(path, &aside).await.map_err(failed)
        }
        _ => Err(StepError::new(format!("{} cannot be turned into that", path.display()))),
    }
}

/// Takes one change back.
pub(super) async fn undo(
    node: &dyn Node,
    context: &Context<'_>,
    number: usize,
    change: &Change,
) -> Result<(), StepError> {
    let Change { path, before, after, .. } = change;
    let aside = aside(context, number, path);
    let now = look(node, path).await?;
    if now != *before {
        if now != *after {
            return Err(changed(path));
        }
        put_back(node, path, &aside, before, after).await?;
    }
    // The copy is of no use any more, and may be a key.
    if let What::File { sha256, .. } = before {
        match node.remove_own(&aside, digest(sha256)?).await {
            Err(error) if error.kind == NodeErrorKind::NotFound => {}
            other => other.map_err(failed)?,
        }
    }
    Ok(())
}

async fn put_back(
    node: &dyn Node,
    path: &Path,
    aside: &Path,
    before: &What,
    after: &What,
) -> Result<(), StepError> {
    match (before, after) {
        (What::File { sha256, mode }, What::File { sha256: new, .. }) => {
            let bytes = read(node, aside, sha256).await?;
            let how = mode.how(Some(digest(new)?))?;
            node.write(path, &bytes, how).await.map_err(failed)
        }
        (What::File { sha256, mode }, What::Nothing) => {
            let bytes = read(node, aside, sha256).await?;
            node.write(path, &bytes, mode.how(None)?).await.map_err(failed)
        }
        (What::Nothing, What::File { sha256, .. }) => {
            node.remove_own(path, digest(sha256)?).await.map_err(failed)
        }
        (What::Nothing, What::Directory { .. }) => {
            make_dirs(node, aside.parent().unwrap_or(Path::new(ASIDE))).await.map_err(failed)?;
            for number in 0..NAMES {
                let to = aside.with_extension(format!("made-{number}"));
                match node.rename(path, &to).await {
                    Err(error) if error.kind == NodeErrorKind::AlreadyExists => {}
                    other => return other.map_err(failed),
                }
            }
            Err(StepError::new(format!("{} has no free name left", aside.display())))
        }
        (What::Directory { .. } | What::Link { .. }, What::Nothing) => {
            node.rename(aside, path).await.map_err(failed)
        }
        _ => Err(StepError::new(format!("{} cannot be turned into that", path.display()))),
    }
}

/// Where a person who types a plan keeps what is replaced, and unpacks the state.
fn by_hand() -> String {
    format!("{ASIDE}/by-hand")
}

/// What has to be at hand before [`shell`]: a place for what is replaced, and the files of
/// the state.
pub(super) fn shell_before(node: &Place, backup: &str, changes: &[Change]) -> Vec<Command> {
    let on = |words: &[&str]| Command::new(Some(node), words.iter().copied());
    let here = |words: &[&str]| Command::new(None, words.iter().copied());
    let (place, tar) = (by_hand(), format!("node-{node}.tar"));
    let mut commands = vec![on(&["mkdir", "-p", "-m", "0700", &place])];
    if changes.iter().any(|change| matches!(change.after, What::File { .. })) {
        let (object, there) = (format!("node-{node}"), format!("{place}/{tar}"));
        let state = format!("{place}/state");
        commands.extend([
            here(&["etcdvault", "export", backup, "--object", &object, "-o", &tar]),
            here(&["scp", &tar, &format!("{node}:{place}/")]),
            on(&["mkdir", "-p", &state]),
            on(&["tar", "--numeric-owner", "--xattrs", "-xpf", &there, "-C", &state]),
        ]);
    }
    commands
}

/// One change with stock commands.
pub(super) fn shell(node: &Place, number: usize, change: &Change) -> Vec<Command> {
    let path = change.path.display().to_string();
    let aside = format!("{}/{number:04}", by_hand());
    let command = |words: &[&str]| Command::new(Some(node), words.iter().copied());
    let mut commands = Vec::new();
    let keep = matches!(change.before, What::File { .. });
    if change.after == What::Nothing {
        commands.push(command(&["mv", "-nT", &path, &aside]));
    } else if keep {
        commands.push(command(&["cp", "-aT", &path, &aside]));
    }
    let (What::File { mode, .. } | What::Directory { mode }) = &change.after else {
        return commands;
    };
    if let What::File { .. } = change.after {
        let stored = change.stored_as.as_ref().unwrap_or(&change.path).display().to_string();
        let from = format!("{}/state{stored}", by_hand());
        commands.push(command(&["cp", "-aT", "--remove-destination", &from, &path]));
    } else {
        commands.push(command(&["mkdir", &path]));
    }
    commands.push(command(&["chown", &format!("{}:{}", mode.uid, mode.gid), &path]));
    commands.push(command(&["chmod", &format!("{:04o}", mode.mode), &path]));
    commands
}

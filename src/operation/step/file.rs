//! One file of a node, from what it is to what it is to be, and back.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use vault::archive::{escape, unescape};

use super::{ASIDE, Change, MAX_FILE, Mode, Moment, What};
use crate::node::{
    Attributes, Entry, FileKind, LinkHow, Node, NodeError, NodeErrorKind, SetHow, WriteHow,
    WriteLike,
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
pub(super) fn digest(text: &str) -> Result<[u8; 32], StepError> {
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
                modified: i64::try_from(file.entry.modified).ok(),
            }),
            // Gone meanwhile.
            Err(error) if error.kind == NodeErrorKind::NotFound => Ok(What::Nothing),
            Err(error) => Err(failed(error)),
        },
        FileKind::Directory => Ok(What::Directory { mode }),
        FileKind::Symlink => Ok(What::Link {
            target: target(&entry),
            mode,
            modified: i64::try_from(entry.modified).ok(),
        }),
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

fn unescaped(target: &str) -> Result<PathBuf, StepError> {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = unescape(target)
        .ok_or_else(|| StepError::new(format!("{target:?} is no escaped path")).without_effect())?;
    Ok(std::ffi::OsString::from_vec(bytes).into())
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

/// Sets the time of a file where the plan says one.
async fn set_time(node: &dyn Node, path: &Path, modified: Option<i64>) -> Result<(), StepError> {
    let Some(modified) = modified else { return Ok(()) };
    let modified = Some(i128::from(modified));
    let how = SetHow { kind: FileKind::File, attributes: None, modified };
    node.set(path, how).await.map_err(failed)
}

/// Makes `new` where nothing stands, or in the place of `old`, which is of its kind.
/// `content` gives the bytes of a file.
async fn put(
    node: &dyn Node,
    path: &Path,
    old: &What,
    new: &What,
    content: impl AsyncFnOnce() -> Result<Vec<u8>, StepError>,
) -> Result<(), StepError> {
    match (old, new) {
        // Only the time is another.
        (What::File { .. }, What::File { modified, .. }) if old.same(new) => {
            set_time(node, path, *modified).await
        }
        (_, What::File { sha256, mode, modified }) => {
            let replaces = match old {
                What::File { sha256, .. } => Some(digest(sha256)?),
                _ => None,
            };
            let bytes = content().await?;
            if hex(&Sha256::digest(&bytes)) != *sha256 {
                let why = format!("the vault gave other bytes for {}", path.display());
                return Err(StepError::new(why));
            }
            node.write(path, &bytes, mode.how(replaces)?).await.map_err(failed)?;
            set_time(node, path, *modified).await
        }
        (_, What::Link { target, mode, modified }) => {
            let replaces = match old {
                What::Link { target, .. } => Some(unescaped(target)?),
                _ => None,
            };
            let (target, attributes) = (unescaped(target)?, mode.attributes()?);
            let modified = modified.map(i128::from);
            let how = LinkHow { target, attributes, modified, replaces };
            node.make_link(path, how).await.map_err(failed)
        }
        (What::Directory { .. }, What::Directory { mode }) => {
            let attributes = Some(mode.attributes()?);
            let how = SetHow { kind: FileKind::Directory, attributes, modified: None };
            node.set(path, how).await.map_err(failed)
        }
        (_, What::Directory { mode }) => {
            let like = WriteLike::Attributes(mode.attributes()?);
            node.make_dir(path, like).await.map_err(failed)
        }
        (_, What::Nothing) => Ok(()),
    }
}

/// Takes away what stands at `path`, which is `what`. A file must be kept elsewhere.
async fn take_away(node: &dyn Node, path: &Path, what: &What) -> Result<(), StepError> {
    match what {
        What::Nothing => Ok(()),
        What::File { sha256, .. } => node.remove_own(path, digest(sha256)?).await.map_err(failed),
        What::Link { target, .. } => {
            node.remove_link(path, &unescaped(target)?).await.map_err(failed)
        }
        What::Directory { .. } => match node.remove_dir(path).await {
            Err(error) if error.kind == NodeErrorKind::AlreadyExists => {
                let why = format!("{} holds what is in no state", path.display());
                Err(StepError::new(why))
            }
            other => other.map_err(failed),
        },
    }
}

/// Whether `now` is a directory on its way between two: owner, mode and attributes are
/// not set at once.
fn is_between(now: &What, before: &What, after: &What) -> bool {
    let (What::Directory { mode: now }, What::Directory { mode: a }, What::Directory { mode: b }) =
        (now, before, after)
    else {
        return false;
    };
    let names = now.xattrs.keys().chain(a.xattrs.keys()).chain(b.xattrs.keys());
    let attributes = |name: &String| {
        let now = now.xattrs.get(name);
        now == a.xattrs.get(name) || now == b.xattrs.get(name)
    };
    [(now.uid, a.uid, b.uid), (now.gid, a.gid, b.gid), (now.mode, a.mode, b.mode)]
        .iter()
        .all(|(now, a, b)| now == a || now == b)
        && names.into_iter().all(attributes)
}

/// Whether nothing stands at a path because one thing was taken away there and the
/// other is not made yet.
fn is_gap(now: &What, before: &What, after: &What) -> bool {
    *now == What::Nothing
        && *before != What::Nothing
        && *after != What::Nothing
        && !before.is_like(after)
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
    if now.is(after) {
        return Ok(());
    }
    let gap = is_gap(&now, before, after);
    if !(now.same(before) || now.same(after) || gap || is_between(&now, before, after)) {
        return Err(changed(path));
    }
    let only_time = now.same(after);
    let aside = aside(context, number, path);
    if let What::File { sha256, mode, .. } = before
        && !only_time
        && !gap
    {
        copy_aside(node, path, &aside, sha256, mode).await?;
    }
    let content = async || match (&now, after) {
        (What::File { sha256: old, .. }, What::File { sha256, .. }) if old == sha256 => {
            read(node, path, old).await
        }
        _ => content().await,
    };
    if now.is_like(after) {
        put(node, path, &now, after, content).await
    } else {
        take_away(node, path, &now).await?;
        put(node, path, &What::Nothing, after, content).await
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
    if !now.is(before) {
        let gap = is_gap(&now, before, after);
        if !(now.same(before) || now.same(after) || gap || is_between(&now, before, after)) {
            return Err(changed(path));
        }
        let content = async || match before {
            What::File { sha256, .. } => read(node, &aside, sha256).await,
            _ => Err(StepError::new("it has no content")),
        };
        if now.is_like(before) {
            put(node, path, &now, before, content).await?;
        } else {
            move_away(node, path, &aside, &now).await?;
            put(node, path, &What::Nothing, before, content).await?;
        }
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

/// Takes away what a step made. A directory in which somebody put something since then
/// is kept with it: under another name, among what was set aside.
async fn move_away(
    node: &dyn Node,
    path: &Path,
    aside: &Path,
    what: &What,
) -> Result<(), StepError> {
    let full = matches!(what, What::Directory { .. })
        && !node.list(path).await.map_err(failed)?.is_empty();
    if !full {
        return take_away(node, path, what).await;
    }
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

/// Gives directories their times. That is for people: one that is not there, or whose
/// time cannot be set, holds up nothing.
pub(super) async fn set_times(node: &dyn Node, times: &[Moment]) -> Result<(), StepError> {
    for Moment { path, modified } in times {
        let modified = Some(i128::from(*modified));
        let how = SetHow { kind: FileKind::Directory, attributes: None, modified };
        if let Err(error) = node.set(path, how).await
            && error.kind == NodeErrorKind::Lost
        {
            return Err(failed(error));
        }
    }
    Ok(())
}

/// Where a person who types a plan keeps what is replaced, and unpacks the state.
fn by_hand() -> String {
    format!("{ASIDE}/by-hand")
}

fn brings_files(changes: &[Change]) -> bool {
    changes.iter().any(|change| matches!(change.after, What::File { .. }))
}

/// What has to be at hand before [`shell`]: a place for what is replaced, and the files of
/// the state.
pub(super) fn shell_before(node: &Place, backup: &str, changes: &[Change]) -> Vec<Command> {
    let on = |words: &[&str]| Command::new(Some(node), words.iter().copied());
    let here = |words: &[&str]| Command::new(None, words.iter().copied());
    let (place, tar) = (by_hand(), format!("node-{node}.tar"));
    let mut commands = vec![
        on(&["mkdir", "-p", "-m", "0700", ASIDE]),
        on(&["mkdir", "-m", "0700", &place])
            .note(format!("it keeps what is replaced; where {place} is there, move it away")),
    ];
    if brings_files(changes) {
        let (object, there) = (format!("node-{node}"), format!("{place}/{tar}"));
        let state = format!("{place}/state");
        commands.extend([
            here(&["etcdvault", "export", backup, "--object", &object, "-o", &tar]),
            here(&["scp", &tar]).to(node, &format!("{place}/")),
            here(&["rm", &tar]),
            on(&["mkdir", &state]),
            on(&[
                "tar",
                "--numeric-owner",
                "--xattrs",
                "--xattrs-include=*",
                "-xpf",
                &there,
                "-C",
                &state,
            ]),
        ]);
    }
    commands
}

/// Takes the copy of the state away again: private keys are in it.
pub(super) fn shell_after(node: &Place, changes: &[Change]) -> Vec<Command> {
    if !brings_files(changes) {
        return Vec::new();
    }
    let (state, tar) = (format!("{}/state", by_hand()), format!("{}/node-{node}.tar", by_hand()));
    vec![Command::new(Some(node), ["rm", "-r", &state, &tar])]
}

/// One change with stock commands.
pub(super) fn shell(node: &Place, number: usize, change: &Change) -> Vec<Command> {
    let path = change.path.display().to_string();
    let aside = format!("{}/{number:04}", by_hand());
    let command = |words: &[&str]| Command::new(Some(node), words.iter().copied());
    let mut commands = Vec::new();
    let keep = matches!(change.before, What::File { .. });
    // Neither can be put in the place of the other.
    let apart = change.before != What::Nothing
        && !change.before.is_like(&change.after)
        && [&change.before, &change.after].iter().any(|it| matches!(it, What::Directory { .. }));
    if change.after == What::Nothing || apart {
        commands.push(command(&["mv", "-nT", &path, &aside]));
    } else if keep {
        commands.push(command(&["cp", "-aT", &path, &aside]));
    }
    match &change.after {
        What::Nothing => return commands,
        What::File { .. } => {
            let stored = change.stored_as.as_ref().unwrap_or(&change.path).display().to_string();
            let from = format!("{}/state{stored}", by_hand());
            commands.push(command(&["cp", "-aT", "--remove-destination", &from, &path]));
        }
        What::Link { target, .. } => {
            let target = unescape(target).unwrap_or_default();
            let target = String::from_utf8_lossy(&target);
            commands.push(command(&["ln", "-sfnT", "--", &target, &path]));
        }
        What::Directory { .. } => commands.push(command(&["mkdir", "-p", &path])),
    }
    let (What::File { mode, .. } | What::Directory { mode } | What::Link { mode, .. }) =
        &change.after
    else {
        return commands;
    };
    commands.push(command(&["chown", "-h", &format!("{}:{}", mode.uid, mode.gid), &path]));
    if !matches!(change.after, What::Link { .. }) {
        commands.push(command(&["chmod", &format!("{:04o}", mode.mode), &path]));
    }
    commands
}

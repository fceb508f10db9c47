//! Settings of etcd, changed where a node's files say them: in whatever dialect, and no
//! other byte.
//!
//! The plan holds the settings and the digests of the files before and after; the new
//! text is made on the way from what stands there. What stood there is kept as with any
//! file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::file::{self, failed, look};
use super::{Change, MAX_FILE, What};
use crate::dialect::{ConfigFile, EnvFile, Form, Manifest, UnitFile, variable_of};
use crate::node::Node;
use crate::observe::{ConfiguredBy, Dialect, EtcdService};
use crate::plan::record::hex;
use crate::plan::shell::Command;
use crate::plan::{Context, Place, Probe, StepError};

/// How a file says a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Said {
    /// A variable of an environment file.
    Variable,
    /// A flag inside a variable of an environment file.
    FlagIn {
        /// The variable, such as `DAEMON_ARGS`.
        variable: String,
    },
    /// A flag of a unit's command.
    UnitFlag,
    /// A variable that a unit sets.
    UnitVariable,
    /// A key of etcd's own file.
    Key,
    /// A flag of the container in a static pod.
    PodFlag,
}

/// A setting and its new value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSetting {
    /// The flag's name.
    pub name: String,
    /// Its value; `None` takes it out.
    pub value: Option<String>,
    /// How the file says it.
    pub said: Said,
}

/// A file and the settings that change in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Where on the node.
    pub path: PathBuf,
    /// The settings, in this order.
    pub settings: Vec<NewSetting>,
    /// What stands there.
    pub before: What,
    /// What is to stand there.
    pub after: What,
}

impl Edit {
    fn change(&self) -> Change {
        let (path, before, after) = (self.path.clone(), self.before.clone(), self.after.clone());
        Change { path, stored_as: None, before, after }
    }
}

/// The text with the settings changed.
fn edited(text: &str, path: &Path, settings: &[NewSetting]) -> Result<String, String> {
    let name = path.to_string_lossy();
    let mut text = text.to_owned();
    for NewSetting { name: setting, value, said } in settings {
        text = one(&text, &name, setting, value.as_deref(), said)
            .map_err(|why| format!("{setting} in {name}: {why}"))?;
    }
    Ok(text)
}

fn one(
    text: &str,
    file: &str,
    name: &str,
    value: Option<&str>,
    said: &Said,
) -> Result<String, String> {
    let unread = |error: crate::dialect::ParseError| error.to_string();
    let done = match said {
        Said::Variable => {
            let file = EnvFile::parse(text).map_err(unread)?;
            match value {
                Some(value) => file.set(&variable_of(name), value),
                None => file.remove(&variable_of(name)),
            }
        }
        Said::FlagIn { variable } => {
            let file = EnvFile::parse(text).map_err(unread)?;
            match value {
                Some(value) => file.set_flag(variable, name, value),
                None => file.remove_flag(variable, name),
            }
        }
        Said::UnitFlag => {
            let file = UnitFile::parse(file, text).map_err(unread)?;
            match value {
                Some(value) => file.set_flag(name, value),
                None => file.remove_flag(name),
            }
        }
        Said::UnitVariable => {
            let file = UnitFile::parse(file, text).map_err(unread)?;
            match value {
                Some(value) => file.set_environment(&variable_of(name), value),
                None => return Err("a variable of a unit is taken out by hand".to_owned()),
            }
        }
        Said::Key => {
            let file = ConfigFile::parse(file, text).map_err(unread)?;
            match value {
                Some(value) => file.set(name, value),
                None => file.remove(name),
            }
        }
        Said::PodFlag => {
            let file = Manifest::parse(file, text).map_err(unread)?;
            let container = file.container_of("etcd").ok_or("no container runs etcd")?;
            match value {
                Some(value) => file.set_flag(&container, name, value),
                None => file.remove_flag(&container, name),
            }
        }
    };
    done.map_err(|error| error.to_string())
}

/// A setting's name and the value that it is to have; `None` takes it out.
pub type NewValue = (String, Option<String>);

/// The files that say the settings of a member, each with those of `wanted` that it is to
/// say otherwise: where a setting stands now, and a new one where others stand. Nothing
/// where all is so already.
pub async fn edits(
    node: &dyn Node,
    etcd: &EtcdService,
    wanted: &[NewValue],
) -> Result<Vec<Edit>, StepError> {
    let other = |(name, value): &&NewValue| etcd.settings.value(name) != value.as_deref();
    let wanted: Vec<NewValue> = wanted.iter().filter(other).cloned().collect();
    let mut edits = Vec::new();
    for (path, settings) in placed(node, etcd, &wanted).await? {
        let before = now(node, &path).await?;
        let text = text(node, &path).await?;
        edits.push(edit(node, path, settings, &text, before)?);
    }
    Ok(edits)
}

/// What is to be edited `then`, on top of the edits made `first`.
pub async fn edits_then(
    node: &dyn Node,
    etcd: &EtcdService,
    first: &[Edit],
    then: &[NewValue],
) -> Result<Vec<Edit>, StepError> {
    let mut edits = Vec::new();
    for (path, settings) in placed(node, etcd, then).await? {
        let mut before = now(node, &path).await?;
        let mut text = text(node, &path).await?;
        for edit in first.iter().filter(|edit| edit.path == path) {
            text = edited(&text, &path, &edit.settings).map_err(|why| unedited(node, why))?;
            before = edit.after.clone();
        }
        let edit = edit(node, path, settings, &text, before)?;
        if edit.before != edit.after {
            edits.push(edit);
        }
    }
    Ok(edits)
}

/// Where each setting stands, or is put: one list for each file.
async fn placed(
    node: &dyn Node,
    etcd: &EtcdService,
    wanted: &[NewValue],
) -> Result<Vec<(PathBuf, Vec<NewSetting>)>, StepError> {
    let mut places: Vec<(PathBuf, Vec<NewSetting>)> = Vec::new();
    for (name, value) in wanted {
        let (path, said) = place(node, etcd, name).await?;
        let setting = NewSetting { name: name.clone(), value: value.clone(), said };
        match places.iter_mut().find(|(known, _)| *known == path) {
            Some((_, settings)) => settings.push(setting),
            None => places.push((path, vec![setting])),
        }
    }
    Ok(places)
}

async fn now(node: &dyn Node, path: &Path) -> Result<What, StepError> {
    let found = look(node, path).await?.timeless();
    match found {
        What::File { .. } => Ok(found),
        _ => {
            let why = format!("{} on {} is no regular file", path.display(), node.name());
            Err(StepError::new(why).without_effect())
        }
    }
}

fn unedited(node: &dyn Node, why: String) -> StepError {
    StepError::new(format!("{}: {why}", node.name())).without_effect()
}

fn edit(
    node: &dyn Node,
    path: PathBuf,
    settings: Vec<NewSetting>,
    text: &str,
    before: What,
) -> Result<Edit, StepError> {
    let new = edited(text, &path, &settings).map_err(|why| unedited(node, why))?;
    let sha256 = hex(&Sha256::digest(new.as_bytes()));
    let mut after = before.clone();
    if let What::File { sha256: of, .. } = &mut after {
        *of = sha256;
    }
    Ok(Edit { path, settings, before, after })
}

async fn text(node: &dyn Node, path: &Path) -> Result<String, StepError> {
    let bytes = node.read(path, MAX_FILE).await.map_err(failed)?.bytes;
    String::from_utf8(bytes)
        .map_err(|_| StepError::new(format!("{} is no text", path.display())).without_effect())
}

/// Where a setting stands, or is put.
async fn place(
    node: &dyn Node,
    etcd: &EtcdService,
    name: &str,
) -> Result<(PathBuf, Said), StepError> {
    let nowhere = || {
        let why = format!("no file on {} says {name}, and none is known to say it", node.name());
        StepError::new(why).without_effect()
    };
    let known = |path: &str| etcd.files.iter().find(|file| file.path == Path::new(path));
    if let Some(setting) = etcd.settings.get(name)
        && let Some(file) = setting.origin.file.as_deref()
    {
        let file = known(file).ok_or_else(nowhere)?;
        let (form, at) = (setting.origin.form, setting.origin.span.start);
        return Ok((file.path.clone(), said(node, file, form, at).await?));
    }
    // A new one stands where etcd takes it for certain: its own file, a file of variables,
    // else where its neighbours are.
    let of = |dialect| etcd.files.iter().rev().find(|file| file.dialect == dialect);
    if let Some(file) = of(Dialect::ConfigFile) {
        return Ok((file.path.clone(), Said::Key));
    }
    if let Some(file) = of(Dialect::EnvironmentFile) {
        return Ok((file.path.clone(), Said::Variable));
    }
    let neighbours = ["initial-cluster", "initial-advertise-peer-urls", "name", "data-dir"];
    for neighbour in neighbours {
        if let Some(setting) = etcd.settings.get(neighbour)
            && let Some(file) = setting.origin.file.as_deref().and_then(known)
        {
            let (form, at) = (setting.origin.form, setting.origin.span.start);
            return Ok((file.path.clone(), said(node, file, form, at).await?));
        }
    }
    Err(nowhere())
}

/// How a file says what stands at the byte `at` of it.
async fn said(
    node: &dyn Node,
    file: &ConfiguredBy,
    form: Form,
    at: usize,
) -> Result<Said, StepError> {
    Ok(match (file.dialect, form) {
        (Dialect::ConfigFile, _) => Said::Key,
        (Dialect::Unit | Dialect::DropIn, Form::Flag) => Said::UnitFlag,
        (Dialect::Unit | Dialect::DropIn, _) => Said::UnitVariable,
        (Dialect::StaticPod, Form::Flag) => Said::PodFlag,
        (Dialect::EnvironmentFile, Form::Environment) => Said::Variable,
        (Dialect::EnvironmentFile, _) => {
            let text = text(node, &file.path).await?;
            let read = EnvFile::parse(&text).map_err(|error| {
                StepError::new(format!("{}: {error}", file.path.display())).without_effect()
            })?;
            let holds = read.assignments().iter().find(|it| it.lines.contains(&at));
            let variable = holds.map(|it| it.name.clone()).ok_or_else(|| {
                let why = format!("no variable of {} holds it", file.path.display());
                StepError::new(why).without_effect()
            })?;
            Said::FlagIn { variable }
        }
        (Dialect::StaticPod, _) => {
            let why = format!("{} sets it by a variable of the pod", file.path.display());
            return Err(StepError::new(why).without_effect());
        }
    })
}

/// Whether the files say it.
pub(super) async fn probe(
    node: &dyn Node,
    edits: &[Edit],
    stale: bool,
) -> Result<Probe, StepError> {
    let (mut before, mut after) = (0, 0);
    for edit in edits {
        match look(node, &edit.path).await? {
            now if now.is(&edit.after) => after += 1,
            now if now.same(&edit.before) => before += 1,
            _ => {
                let why = format!("something else stands at {}", edit.path.display());
                return Ok(Probe::Partly(why));
            }
        }
    }
    Ok(if before == edits.len() {
        Probe::NotDone
    } else if after < edits.len() {
        Probe::Partly(format!("{after} of {} files are set", edits.len()))
    } else if stale {
        Probe::Partly("systemd has not read them".to_owned())
    } else {
        Probe::Done([].into())
    })
}

/// Writes the files.
pub(super) async fn apply(
    node: &dyn Node,
    context: &Context<'_>,
    edits: &[Edit],
) -> Result<(), StepError> {
    for (number, edit) in edits.iter().enumerate() {
        let content = async || {
            let text = text(node, &edit.path).await?;
            let new = edited(&text, &edit.path, &edit.settings);
            new.map(String::into_bytes).map_err(StepError::new)
        };
        file::apply(node, context, number, &edit.change(), content).await?;
    }
    Ok(())
}

/// Sets the files back.
pub(super) async fn undo(
    node: &dyn Node,
    context: &Context<'_>,
    edits: &[Edit],
) -> Result<(), StepError> {
    for (number, edit) in edits.iter().enumerate().rev() {
        file::undo(node, context, number, &edit.change()).await?;
    }
    Ok(())
}

/// `initial-cluster-state=existing; without force-new-cluster`.
pub(super) fn summary(edits: &[Edit]) -> String {
    let settings = edits.iter().flat_map(|edit| &edit.settings);
    let parts = settings.map(|setting| match &setting.value {
        Some(value) => format!("{}={value}", setting.name),
        None => format!("without {}", setting.name),
    });
    parts.collect::<Vec<_>>().join("; ")
}

/// With stock commands: an editor, as nothing else edits every dialect.
pub(super) fn shell(node: &Place, edits: &[Edit]) -> Vec<Command> {
    edits
        .iter()
        .flat_map(|edit| {
            let path = edit.path.display().to_string();
            let lines = summary(std::slice::from_ref(edit)).replace("; ", "\n");
            let show = Command::new(Some(node), ["cat"]).input(format!("{lines}\n"));
            [show, Command::new(Some(node), ["vi", &path])]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str, name: &str, value: Option<&str>, said: Said) -> String {
        let setting = NewSetting { name: name.into(), value: value.map(str::to_owned), said };
        edited(text, Path::new("/etc/file"), &[setting]).unwrap()
    }

    #[test]
    fn every_dialect_says_it() {
        let state = "initial-cluster-state";
        let text = "# a comment\nETCD_INITIAL_CLUSTER_STATE=\"new\"\nETCD_NAME=\"k1\"\n";
        assert_eq!(
            set(text, state, Some("existing"), Said::Variable),
            "# a comment\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\nETCD_NAME=\"k1\"\n"
        );
        let text = "DAEMON_ARGS=\"--name k1 --initial-cluster-state new\"\n";
        let said = Said::FlagIn { variable: "DAEMON_ARGS".into() };
        assert_eq!(
            set(text, state, Some("existing"), said),
            "DAEMON_ARGS=\"--name k1 --initial-cluster-state existing\"\n"
        );
        let text =
            "[Service]\nExecStart=/usr/bin/etcd --name=k1 \\\n  --initial-cluster-state=new\n";
        assert_eq!(
            set(text, state, Some("existing"), Said::UnitFlag),
            text.replace("state=new", "state=existing")
        );
        let text = "name: k1\ninitial-cluster-state: new\n";
        assert_eq!(
            set(text, state, Some("existing"), Said::Key),
            "name: k1\ninitial-cluster-state: existing\n"
        );
        assert_eq!(set(text, state, None, Said::Key), "name: k1\n");
    }

    #[test]
    fn what_cannot_be_edited_is_said_with_its_file() {
        let settings = [NewSetting {
            name: "initial-cluster-state".into(),
            value: None,
            said: Said::Variable,
        }];
        let refused = edited("ETCD_NAME=k1\n", Path::new("/etc/default/etcd"), &settings);
        let why = refused.unwrap_err();
        assert!(why.starts_with("initial-cluster-state in /etc/default/etcd: "), "{why}");
    }
}

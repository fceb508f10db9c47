//! From raw flags to what operations take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::args::{KeyArgs, VaultArgs, WriteArgs};
use super::human::printable;
use super::output::Output;
use crate::config::Choice;
use crate::config::connection::Connection;
use crate::config::setup::WriteSettings;
use crate::operation::discover::access::through_nodes;
use crate::operation::endpoints::endpoints;
use crate::operation::find;
use crate::operation::inspect::scratch_dir;
use crate::operation::state;
use crate::operation::vocabulary::{
    Backup, ClusterName, Connector, Node, ReadOptions, Repository, Selector, Spool, WriteOptions,
};
use crate::operation::{Failure, vaults};
use crate::types::{ConnectionSettings, Endpoint};

/// Opens the vault, unlocked with whatever key was given.
pub(crate) async fn open_vault(
    vault: &VaultArgs,
    keys: Option<&KeyArgs>,
    choice: &Choice<'_>,
    output: &Output,
) -> Result<Repository, Failure> {
    let raw = vault.raw();
    let place = choice.place(&raw)?;
    let identities = match keys {
        Some(keys) => choice.identities(&raw, &keys.raw()).await.map_err(Failure::of_key)?,
        None => None,
    };
    output.waiting("opening the vault", vaults::open(&place, identities)).await
}

/// How the members are reached; where DNS names them it is asked, and what should be
/// known of the answer is said.
pub(crate) async fn reach(
    connection: Connection,
    output: &Output,
) -> Result<ConnectionSettings, Failure> {
    let (settings, notes) = if connection.discovery.is_some() {
        output.waiting("asking for SRV records", endpoints(connection)).await?
    } else {
        endpoints(connection).await?
    };
    for note in notes {
        output.complaint(&printable(&note));
    }
    Ok(settings)
}

/// Connects to members as `settings` say. Where they name no certificates and the members
/// have TLS, those on the nodes are taken, read into memory.
pub(crate) async fn connector(
    settings: &ConnectionSettings,
    nodes: &[Arc<dyn Node>],
    output: &Output,
) -> Result<Connector, Failure> {
    let none = settings.ca_file.is_none() && settings.cert_file.is_none();
    if none && settings.endpoints.iter().any(Endpoint::is_tls) && !nodes.is_empty() {
        let reading = through_nodes(nodes, settings);
        if let Some(connector) = output.waiting("reading certificates", reading).await {
            return Ok(connector);
        }
    }
    Ok(Connector::new(settings)?)
}

/// Whether the state of nodes may go to a vault without encryption.
pub(crate) fn allows_unencrypted(choice: &Choice<'_>, flag: bool) -> bool {
    flag || choice.entry().is_some_and(|(_, c)| c.allow_unencrypted_state == Some(true))
}

/// What a state archive holds besides what is found: by flag and by the configuration.
pub(crate) fn state_paths(choice: &Choice<'_>, flags: &[PathBuf]) -> Vec<PathBuf> {
    let configured = choice.entry().map_or(&[][..], |(_, cluster)| &cluster.state_paths);
    flags.iter().chain(configured).cloned().collect()
}

/// The backup that `text` names. In a vault of several clusters `latest` is of the one
/// that is meant; an id is looked for in all, unless a cluster was named.
pub(crate) async fn find_backup(
    repository: &Repository,
    choice: &Choice<'_>,
    text: &str,
) -> Result<Backup, Failure> {
    find::find(repository, meant(choice, text)?, text).await
}

/// The same among the backups that hold an object with this role.
pub(crate) async fn find_holding(
    repository: &Repository,
    choice: &Choice<'_>,
    text: &str,
    role: &str,
) -> Result<Backup, Failure> {
    find::find_object(repository, meant(choice, text)?, text, role).await
}

/// The same among the backups that hold states of nodes.
pub(crate) async fn find_state(
    repository: &Repository,
    choice: &Choice<'_>,
    text: &str,
) -> Result<Backup, Failure> {
    state::find::find(repository, meant(choice, text)?, text).await
}

/// The cluster among whose backups `text` is looked for; `None` is all.
pub(crate) fn meant<'a>(
    choice: &'a Choice<'_>,
    text: &str,
) -> Result<Option<&'a ClusterName>, Failure> {
    Ok(match find::selector(text)? {
        Selector::Id(_) => choice.named(),
        _ => choice.meant(),
    })
}

/// Whether it is an id, or the start of one.
pub(crate) fn is_id(text: &str) -> bool {
    matches!(find::selector(text), Ok(Selector::Id(_)))
}

/// How objects are written.
pub(crate) fn write_options(
    args: &WriteArgs,
    vault: &VaultArgs,
    choice: &Choice<'_>,
) -> WriteOptions {
    let settings = choice.write(&vault.raw(), args.raw());
    let limit = settings.spool_limit.unwrap_or(WriteSettings::SPOOL_LIMIT);
    WriteOptions {
        level: settings.compression_level.unwrap_or(WriteSettings::COMPRESSION_LEVEL),
        workers: settings.workers.map_or_else(default_workers, usize::from),
        spool: Some(Spool {
            directory: settings.spool_dir.unwrap_or_else(scratch_dir),
            limit: u64::from(limit) << 20,
        }),
        ..WriteOptions::default()
    }
}

/// How objects are read.
pub(crate) fn read_options() -> ReadOptions {
    ReadOptions { workers: default_workers(), ..ReadOptions::default() }
}

/// A control-plane node has other things to do.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

pub(crate) fn labels(list: &[(String, String)]) -> BTreeMap<String, String> {
    list.iter().cloned().collect()
}

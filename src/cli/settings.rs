//! From raw flags to what operations take.

use std::collections::BTreeMap;

use super::args::{KeyArgs, VaultArgs, WriteArgs};
use super::output::Output;
use crate::config::{Env, keys, place};
use crate::operation::inspect::scratch_dir;
use crate::operation::vocabulary::{ReadOptions, Repository, Spool, WriteOptions};
use crate::operation::{Failure, vaults};

/// Opens the vault, unlocked with whatever key was given.
pub(crate) async fn open_vault(
    vault: &VaultArgs,
    keys: Option<&KeyArgs>,
    env: &Env,
    output: &Output,
) -> Result<Repository, Failure> {
    let place = place::resolve(&vault.raw(), env)?;
    let identities = match keys {
        Some(keys) => keys::resolve(&keys.raw(), env).await.map_err(Failure::of_key)?,
        None => None,
    };
    output.waiting("opening the vault", vaults::open(&place, identities)).await
}

/// How objects are written.
pub(crate) fn write_options(args: &WriteArgs) -> WriteOptions {
    WriteOptions {
        level: args.compression_level,
        workers: args.workers.map_or_else(default_workers, usize::from),
        spool: Some(Spool {
            directory: args.spool_dir.clone().unwrap_or_else(scratch_dir),
            limit: u64::from(args.spool_limit) << 20,
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

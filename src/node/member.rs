//! A member's directory from a snapshot: what every node that builds one shares.

use std::error::Error as _;
use std::io;
use std::path::Path;

use super::{BuiltMember, MemberSpec, NodeErrorKind, TreeDigest};
use crate::datadir::restore::{
    EtcdVersion, Expected, ExpectedHash, Options, RestoreError, Restored, Target,
};

/// A restore of `spec` into `data_dir`, with the log's directory at `wal_dir`.
pub(super) fn options(
    spec: &MemberSpec,
    data_dir: &Path,
    wal_dir: Option<&Path>,
) -> Result<Options, String> {
    let target_version = match &spec.etcd_version {
        Some(text) => Some(
            text.parse::<EtcdVersion>()
                .map_err(|error| format!("{text:?} is no version of etcd: {error}"))?,
        ),
        None => None,
    };
    Ok(Options {
        initial_cluster: spec.initial_cluster.clone(),
        initial_cluster_token: spec.token.clone(),
        targets: vec![Target {
            name: spec.name.clone(),
            data_dir: data_dir.to_owned(),
            wal_dir: wal_dir.map(Path::to_owned),
            advertised_peer_urls: Vec::new(),
        }],
        bump_revision: spec.bump_revision,
        mark_compacted: spec.bump_revision > 0,
        target_version,
        owner: Some(spec.owner),
        ..Options::default()
    })
}

/// What the snapshot of `spec` has to be.
pub(super) fn expected(spec: &MemberSpec) -> Expected {
    Expected {
        size: Some(spec.size),
        sha256: Some(spec.sha256),
        hash: spec.hash_kv.map(|hash| ExpectedHash {
            revision: hash.revision,
            compact_revision: hash.compact_revision,
            hash: hash.hash,
        }),
    }
}

/// What is told of a restore that is done.
pub(super) fn built(
    restored: &Restored,
    spec: &MemberSpec,
    digest: TreeDigest,
) -> Result<BuiltMember, RestoreError> {
    Ok(BuiltMember {
        cluster_id: restored.membership.cluster_id(),
        member_id: restored.membership.member(&spec.name)?.id,
        revision: restored.revision,
        hash_kv: restored.hash,
        database_size: restored.database_size,
        digest,
    })
}

/// Why a restore did not happen: the whole chain, and the system's error in it.
pub(super) fn refusal(error: &RestoreError) -> (String, Option<io::Error>) {
    let mut why = vec![error.to_string()];
    let mut system = None;
    let mut source = error.source();
    while let Some(cause) = source {
        why.push(cause.to_string());
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            let raw = cause.raw_os_error().map(io::Error::from_raw_os_error);
            system = Some(raw.unwrap_or_else(|| cause.kind().into()));
        }
        source = cause.source();
    }
    (why.join(": "), system)
}

/// The kind of a refusal where the system has no part in it.
pub(super) const REFUSED: NodeErrorKind = NodeErrorKind::Unexpected;

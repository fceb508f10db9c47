//! Which backups there are.

use std::collections::BTreeSet;

use chrono::{DateTime, SubsecRound as _, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Repository, RepositoryError, Result};
use crate::layout::{BackupId, CLUSTERS, ClusterName, ManifestKey, PAST, Place};
use crate::manifest::{Manifest, ProofState};
use crate::store::{ErrorKind, Key};

/// Manifests that are read at once.
const AT_ONCE: usize = 16;
/// How many candidates an error names.
const SHOWN: usize = 10;

/// Which backups are looked at.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this cluster only.
    pub cluster: Option<ClusterName>,
    /// Begun at this time or later, to the second.
    pub from: Option<DateTime<Utc>>,
    /// Begun before this time.
    pub before: Option<DateTime<Utc>>,
}

/// A manifest with its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// Its key.
    pub key: ManifestKey,
    /// What it says.
    pub manifest: Manifest,
}

/// A manifest, or another small file, that cannot be used.
#[derive(Debug)]
pub struct CorruptEntry {
    /// Its key in the store.
    pub key: String,
    /// Why: corruption, or a format that is too new.
    pub error: RepositoryError,
}

/// What a vault holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// Usable backups, newest last.
    pub backups: Vec<Backup>,
    /// Damaged names and manifests. Not empty: exit code 20.
    pub corrupt: Vec<CorruptEntry>,
}

/// The same by names alone.
#[derive(Debug, Default)]
pub struct Names {
    /// Well-formed names, newest last.
    pub names: Vec<ManifestKey>,
    /// Damaged names.
    pub corrupt: Vec<CorruptEntry>,
}

/// How a person names a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest that is no mismatch; one whose proof is unknown only where there is
    /// no other.
    Latest,
    /// The newest that was begun at this time or before, to the second, and is no
    /// mismatch.
    LatestBefore(DateTime<Utc>),
    /// An id, or the beginning of one in either case that is unique.
    Id(String),
}

/// What counts as the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefer {
    /// What was compared with the cluster, before what nobody could compare.
    Compared,
    /// The newest, whatever its proof says.
    Newest,
}

impl Repository {
    /// Every lineage that has anything stored: of `cluster`, or of all. Credentials that
    /// are good for one cluster may list no more than that one.
    pub async fn places(&self, cluster: Option<&ClusterName>) -> Result<Vec<Place>> {
        let folder = cluster.map_or_else(|| CLUSTERS.to_owned(), ClusterName::folder);
        let mut places = Vec::new();
        let mut after = folder.clone();
        loop {
            let next = self.store.list(&folder, Some(&after)).next().await.transpose()?;
            let Some(next) = next else { return Ok(places) };
            match Place::of(next.key.as_str()) {
                Some(place) => {
                    after = format!("{}{PAST}", place.prefix());
                    places.push(place);
                }
                None => after = next.key.to_string(),
            }
        }
    }

    /// The names of the manifests within `filter`, without reading them.
    pub async fn names(&self, filter: &Filter) -> Result<Names> {
        let mut found = Names::default();
        for place in self.places(filter.cluster.as_ref()).await? {
            self.names_of(&place, filter, &mut found).await?;
        }
        found.names.sort();
        Ok(found)
    }

    async fn names_of(&self, place: &Place, filter: &Filter, found: &mut Names) -> Result<()> {
        let prefix = place.manifests();
        let from = filter.from.map(|from| from.trunc_subsecs(0));
        let start_after = from.map(|from| ManifestKey::time_prefix(place, from));
        // The last name of the last second that can be wanted.
        let last = filter.before.map(|before| ManifestKey::time_prefix(place, before) + PAST);
        let mut listed = self.store.list(&prefix, start_after.as_deref());
        while let Some(info) = listed.try_next().await? {
            let key = info.key.as_str();
            if last.as_deref().is_some_and(|last| key > last) {
                return Ok(());
            }
            let name = key.strip_suffix(".minisig").unwrap_or(key);
            match name.parse::<ManifestKey>() {
                // A signature beside its manifest.
                Ok(_) if name != key => {}
                Ok(name) => {
                    if filter.before.is_none_or(|before| name.taken < before)
                        && from.is_none_or(|from| from <= name.taken)
                    {
                        found.names.push(name);
                    }
                }
                Err(error) => found.corrupt.push(CorruptEntry {
                    key: key.to_owned(),
                    error: RepositoryError::manifest(key, error.into()),
                }),
            }
        }
        Ok(())
    }

    /// Every backup within `filter`, each manifest read and checked. What is
    /// damaged is reported and hides nothing else.
    pub async fn list(&self, filter: &Filter) -> Result<Listing> {
        let Names { names, corrupt } = self.names(filter).await?;
        let mut listing = Listing { backups: Vec::new(), corrupt };
        let mut loaded = stream::iter(names)
            .map(|name| async move {
                let backup = self.load_if_there(&name).await;
                (name, backup)
            })
            .buffered(AT_ONCE);
        while let Some((name, backup)) = loaded.next().await {
            match backup {
                Ok(Some(backup)) => listing.backups.push(backup),
                // Pruned since its name was listed.
                Ok(None) => {}
                Err(error) if error.is_corruption() || is_too_new(&error) => {
                    listing.corrupt.push(CorruptEntry { key: name.to_string(), error });
                }
                Err(error) => return Err(error),
            }
        }
        listing.backups.sort_by_key(|backup| (backup.manifest.started, backup.manifest.id));
        Ok(listing)
    }

    /// The backup under this key.
    pub async fn load(&self, key: &ManifestKey) -> Result<Backup> {
        self.load_if_there(key)
            .await?
            .ok_or_else(|| RepositoryError::NoBackup { wanted: key.id.to_string() })
    }

    async fn load_if_there(&self, key: &ManifestKey) -> Result<Option<Backup>> {
        let name = key.to_string();
        let Some(bytes) = self.read_small(&key.key()).await? else { return Ok(None) };
        let manifest = Manifest::decode(key, &bytes)
            .map_err(|error| RepositoryError::manifest(&name, error))?;
        Ok(Some(Backup { key: key.clone(), manifest }))
    }

    /// The backup that `selector` names, in `cluster` or in the whole vault.
    /// A damaged manifest that could be the one asked for is an error, never
    /// passed over.
    pub async fn find(&self, cluster: Option<&ClusterName>, selector: &Selector) -> Result<Backup> {
        self.find_where(cluster, selector, &|_| true).await
    }

    /// The same, where `latest` and times mean only backups that `fits` takes. An id
    /// names a backup whatever it is.
    pub async fn find_where(
        &self,
        cluster: Option<&ClusterName>,
        selector: &Selector,
        fits: &(dyn Fn(&Manifest) -> bool + Sync),
    ) -> Result<Backup> {
        self.find_by(cluster, selector, fits, Prefer::Compared).await
    }

    /// The same for content that no proof is about: the newest that `fits` takes, whatever
    /// the backup's proof says.
    pub async fn find_newest(
        &self,
        cluster: Option<&ClusterName>,
        selector: &Selector,
        fits: &(dyn Fn(&Manifest) -> bool + Sync),
    ) -> Result<Backup> {
        self.find_by(cluster, selector, fits, Prefer::Newest).await
    }

    async fn find_by(
        &self,
        cluster: Option<&ClusterName>,
        selector: &Selector,
        fits: &(dyn Fn(&Manifest) -> bool + Sync),
        prefer: Prefer,
    ) -> Result<Backup> {
        let filter = Filter { cluster: cluster.cloned(), ..Filter::default() };
        let names = self.names(&filter).await?;
        match selector {
            Selector::Id(prefix) => self.find_id(prefix, names).await,
            Selector::Latest => self.find_latest(names, None, fits, prefer).await,
            Selector::LatestBefore(time) => {
                self.find_latest(names, Some(*time), fits, prefer).await
            }
        }
    }

    async fn find_id(&self, prefix: &str, names: Names) -> Result<Backup> {
        let wanted = prefix.to_ascii_uppercase();
        let fits =
            |name: &&ManifestKey| !wanted.is_empty() && name.id.to_string().starts_with(&wanted);
        let found: Vec<&ManifestKey> = names.names.iter().filter(fits).collect();
        let ids: BTreeSet<BackupId> = found.iter().map(|name| name.id).collect();
        let shown = crate::document::printable(prefix);
        match (&found[..], ids.len()) {
            ([only], _) => self.load(only).await,
            // Two manifests of one id: one of them is not ours.
            ([first, ..], 1) => Err(RepositoryError::corrupt(
                &first.to_string(),
                "there is another manifest of the same id",
            )),
            ([], _) => Err(RepositoryError::NoBackup { wanted: shown }),
            _ => Err(RepositoryError::Ambiguous {
                prefix: shown,
                candidates: ids.into_iter().take(SHOWN).collect(),
            }),
        }
    }

    async fn find_latest(
        &self,
        names: Names,
        until: Option<DateTime<Utc>>,
        fits: &(dyn Fn(&Manifest) -> bool + Sync),
        prefer: Prefer,
    ) -> Result<Backup> {
        if let Some(corrupt) = names.corrupt.into_iter().next() {
            return Err(corrupt.error);
        }
        let clusters: BTreeSet<&ClusterName> =
            names.names.iter().map(|name| &name.place.cluster).collect();
        if clusters.len() > 1 {
            let clusters = clusters.iter().take(SHOWN).map(ToString::to_string).collect();
            return Err(RepositoryError::SeveralClusters { clusters });
        }
        let in_time = |name: &&ManifestKey| until.is_none_or(|until| name.taken <= until);
        // What nobody could compare, an import for example, says nothing of how old its
        // content is: it is the latest only where there is nothing else.
        let mut unknown = None;
        for name in names.names.iter().rev().filter(in_time) {
            let Some(backup) = self.load_if_there(name).await? else { continue };
            if !fits(&backup.manifest) {
                continue;
            }
            if prefer == Prefer::Newest {
                return Ok(backup);
            }
            match backup.manifest.proof.state {
                ProofState::Proven | ProofState::NotProven => return Ok(backup),
                ProofState::Unknown => unknown = unknown.or(Some(backup)),
                ProofState::Mismatch => {}
            }
        }
        if let Some(backup) = unknown {
            return Ok(backup);
        }
        let wanted = match until {
            None => "that could be the latest".to_owned(),
            Some(until) => format!("of {} or before", until.format("%Y-%m-%d %H:%M:%S UTC")),
        };
        Err(RepositoryError::NoBackup { wanted })
    }

    /// The bytes of a small file, or `None` when there is none. One larger than a
    /// document may be is corrupt.
    pub(super) async fn read_small(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        read_small(&*self.store, key).await
    }
}

pub(super) async fn read_small(
    store: &dyn crate::store::Store,
    key: &Key,
) -> Result<Option<Vec<u8>>> {
    let mut download = match store.get(key, None).await {
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let check = |size: u64| {
        crate::document::check_size(size)
            .map_err(|error| RepositoryError::document(key.as_str(), error))
    };
    check(download.size)?;
    let mut bytes = Vec::with_capacity(download.size as usize);
    while let Some(chunk) = download.stream.try_next().await? {
        bytes.extend_from_slice(&chunk);
        check(bytes.len() as u64)?;
    }
    Ok(Some(bytes))
}

fn is_too_new(error: &RepositoryError) -> bool {
    matches!(error, RepositoryError::TooNew { .. })
}

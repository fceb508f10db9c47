//! Naming and finding backups; `list` and `show`.

use chrono::{DateTime, Local, NaiveDate, NaiveDateTime, TimeZone, Utc};
use serde::Serialize;
use vault::layout::ClusterName;
use vault::manifest::{Manifest, ObjectRecord, Proof};
use vault::repository::{Backup, Filter, Receipt, Repository, Selector};

use super::content::{SNAPSHOT_ROLE, SnapshotContent};
use super::failure::{Failure, FailureKind};
use super::vaults::{listing_failure, storage_failure};

/// Reads how a person names a backup: `latest`, an id or the start of one, or a time
/// (the newest backup before it).
pub fn selector(text: &str) -> Result<Selector, Failure> {
    if text == "latest" {
        return Ok(Selector::Latest);
    }
    if let Some(time) = time(text) {
        return Ok(Selector::LatestBefore(time));
    }
    let id_like =
        !text.is_empty() && text.len() <= 26 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if id_like {
        return Ok(Selector::Id(text.to_owned()));
    }
    Err(Failure::new(FailureKind::Usage, format!("{text:?} names no backup")).hint(
        "a backup is named by its id or the start of it, by latest, or by a time: \
         2026-11-21T05:00:00Z, \"2026-11-21 05:00\" (local time); etcdvault list shows them",
    ))
}

/// A time with a zone, or without one in local time; a date is its first moment.
fn time(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let naive = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))?;
    // An hour that the clock shows twice is taken as the earlier one.
    Some(Local.from_local_datetime(&naive).earliest()?.to_utc())
}

/// The backup that `text` names. Where no cluster is named and the vault holds
/// several, `latest` and times are refused: they would mix histories.
pub async fn find(
    repository: &Repository,
    cluster: Option<&ClusterName>,
    text: &str,
) -> Result<Backup, Failure> {
    find_where(repository, cluster, text, &|_| true).await
}

/// The same among the backups that hold a snapshot: what `latest` and a time mean where
/// data is wanted.
pub async fn find_snapshot(
    repository: &Repository,
    cluster: Option<&ClusterName>,
    text: &str,
) -> Result<Backup, Failure> {
    find_object(repository, cluster, text, SNAPSHOT_ROLE).await
}

/// The same among the backups that hold an object with this role.
pub async fn find_object(
    repository: &Repository,
    cluster: Option<&ClusterName>,
    text: &str,
    role: &str,
) -> Result<Backup, Failure> {
    let holds = |manifest: &Manifest| manifest.object(role).is_some();
    find_where(repository, cluster, text, &holds).await
}

/// The backup that `text` names; `latest` and times mean only those that `fits` takes.
async fn find_where(
    repository: &Repository,
    cluster: Option<&ClusterName>,
    text: &str,
    fits: &(dyn Fn(&Manifest) -> bool + Sync),
) -> Result<Backup, Failure> {
    let selector = selector(text)?;
    repository.find_where(cluster, &selector, fits).await.map_err(|error| {
        listing_failure(repository, cluster, format!("backup {text:?} was not found"), error)
    })
}

/// A row of `list`.
#[derive(Debug, Serialize)]
pub struct ListedBackup {
    /// Its id.
    pub id: String,
    /// The shortest start of the id, at least 8 characters, that is unique here.
    pub short_id: String,
    /// What sort of backup.
    pub kind: String,
    /// Its cluster.
    pub cluster: String,
    /// Its lineage: the cluster's id.
    pub lineage: String,
    /// When it was begun.
    pub taken: DateTime<Utc>,
    /// The store's revision.
    pub revision: u64,
    /// Bytes before compression.
    pub size: u64,
    /// Bytes in the vault.
    pub stored_size: u64,
    /// Whether it was compared with the cluster.
    pub proof: Proof,
    /// How many members said it is the same.
    pub members_same: usize,
    /// How many members were to be compared.
    pub members_asked: usize,
    /// Nodes whose state is in it.
    pub nodes: Vec<String>,
    /// etcd's version.
    pub etcd_version: Option<String>,
    /// What the user attached.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// What `list` shows.
#[derive(Debug, Serialize)]
pub struct ListReport {
    /// Backups, newest last.
    pub backups: Vec<ListedBackup>,
    /// Manifests that are damaged, with the reason.
    pub corrupt: Vec<CorruptManifest>,
}

/// A manifest that cannot be used.
#[derive(Debug, Serialize)]
pub struct CorruptManifest {
    /// Its key in the vault.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// Lists the backups.
pub async fn list(
    repository: &Repository,
    cluster: Option<ClusterName>,
) -> Result<ListReport, Failure> {
    let (all, corrupt) = all(repository, cluster).await?;
    let ids: Vec<String> = all.iter().map(|b| b.manifest.id.to_string()).collect();
    let backups = all.iter().map(|backup| row(&backup.manifest, &ids)).collect();
    Ok(ListReport { backups, corrupt })
}

/// Every backup that can be used, and the manifests that cannot.
pub async fn all(
    repository: &Repository,
    cluster: Option<ClusterName>,
) -> Result<(Vec<Backup>, Vec<CorruptManifest>), Failure> {
    let filter = Filter { cluster, ..Filter::default() };
    let listing = repository.list(&filter).await.map_err(|error| {
        let cluster = filter.cluster.as_ref();
        listing_failure(repository, cluster, "the backups were not listed", error)
    })?;
    let corrupt = listing
        .corrupt
        .into_iter()
        .map(|entry| CorruptManifest {
            reason: super::failure::chain(&entry.error).join(": "),
            key: entry.key,
        })
        .collect();
    Ok((listing.backups, corrupt))
}

fn row(manifest: &Manifest, ids: &[String]) -> ListedBackup {
    let content = SnapshotContent::of(manifest).ok();
    let members = content.as_ref().map_or(&[][..], |content| &content.members);
    let same = members.iter().filter(|m| m.verdict == super::proof::Verdict::Same).count();
    let sum = |size: fn(&ObjectRecord) -> u64| {
        manifest.objects.iter().map(size).fold(0, u64::saturating_add)
    };
    let id = manifest.id.to_string();
    ListedBackup {
        short_id: shorten(&id, ids),
        id,
        kind: manifest.kind.to_string(),
        cluster: manifest.cluster.to_string(),
        lineage: manifest.lineage.to_string(),
        taken: manifest.started,
        revision: manifest.sequence,
        size: sum(|object| object.plain_size),
        stored_size: sum(|object| object.stored_size),
        proof: manifest.proof.clone(),
        members_same: same,
        members_asked: members.len(),
        nodes: super::state::nodes_of(manifest).iter().map(ToString::to_string).collect(),
        etcd_version: content.and_then(|content| content.origin.etcd_version),
        labels: manifest.labels.clone(),
    }
}

/// The shortest start of `id` that no other of `ids` has. The first ten characters
/// of an id are its time: backups of one second differ later.
pub(super) fn shorten(id: &str, ids: &[String]) -> String {
    const SHORTEST: usize = 8;
    let longest_common = ids
        .iter()
        .filter(|other| *other != id)
        .map(|other| other.bytes().zip(id.bytes()).take_while(|(a, b)| a == b).count())
        .max()
        .unwrap_or(0);
    id.chars().take(SHORTEST.max(longest_common + 1)).collect()
}

/// What `show` shows.
#[derive(Debug, Serialize)]
pub struct ShowReport {
    /// The row of `list`.
    #[serde(flatten)]
    pub backup: ListedBackup,
    /// When its last object was stored.
    pub finished: DateTime<Utc>,
    /// What wrote it.
    pub tool: vault::manifest::Tool,
    /// Where its manifest is in the vault.
    pub manifest: String,
    /// Its objects.
    pub objects: Vec<ObjectRecord>,
    /// All that is known of the snapshot; `None` when another program, or a newer
    /// version, wrote it.
    pub content: Option<SnapshotContent>,
    /// Why the content is not known.
    pub content_error: Option<String>,
    /// Results of verifications, oldest first.
    pub receipts: Vec<ShownReceipt>,
    /// Receipts that cannot be used: damaged, or written by a newer etcdvault. They say
    /// nothing of the backup.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub receipt_problems: Vec<CorruptManifest>,
    /// Whether any of them is damaged.
    #[serde(skip)]
    pub receipts_damaged: bool,
}

/// The result of a verification.
#[derive(Debug, Serialize)]
pub struct ShownReceipt {
    /// When.
    pub time: DateTime<Utc>,
    /// How deep.
    pub level: String,
    /// What was found.
    pub body: serde_json::Value,
}

impl From<Receipt> for ShownReceipt {
    fn from(receipt: Receipt) -> Self {
        Self { time: receipt.time, level: receipt.level.to_string(), body: receipt.body }
    }
}

/// Everything known of one backup.
pub async fn show(repository: &Repository, backup: &Backup) -> Result<ShowReport, Failure> {
    let manifest = &backup.manifest;
    let (receipts, damaged) = repository
        .receipts(&manifest.place(), manifest.id)
        .await
        .map_err(|error| storage_failure("its receipts were not read".to_owned(), error))?;
    let (content, content_error) = match SnapshotContent::of(manifest) {
        Ok(content) => (Some(content), None),
        Err(error) => (None, Some(error)),
    };
    Ok(ShowReport {
        backup: row(manifest, &[]),
        finished: manifest.finished,
        tool: manifest.tool.clone(),
        manifest: backup.key.to_string(),
        objects: manifest.objects.clone(),
        content,
        content_error,
        receipts: receipts.into_iter().map(Into::into).collect(),
        receipts_damaged: damaged.iter().any(|entry| entry.error.is_corruption()),
        receipt_problems: damaged
            .into_iter()
            .map(|entry| CorruptManifest {
                reason: super::failure::chain(&entry.error).join(": "),
                key: entry.key,
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_are_named_by_id_time_or_latest() {
        assert_eq!(selector("latest").unwrap(), Selector::Latest);
        assert_eq!(selector("01JD2Y6Q").unwrap(), Selector::Id("01JD2Y6Q".into()));
        let time: DateTime<Utc> = "2026-11-21T05:00:00Z".parse().unwrap();
        assert_eq!(selector("2026-11-21T05:00:00Z").unwrap(), Selector::LatestBefore(time));
        assert_eq!(selector("2026-11-21T06:00:00+01:00").unwrap(), Selector::LatestBefore(time));
        assert!(matches!(selector("2026-11-21 05:00").unwrap(), Selector::LatestBefore(_)));
        assert!(matches!(selector("2026-11-21").unwrap(), Selector::LatestBefore(_)));
        for bad in ["", "../etc", "lat est", "2026-13-01", "01JD2Y6Q01JD2Y6Q01JD2Y6Q012"] {
            assert_eq!(selector(bad).unwrap_err().kind, FailureKind::Usage, "{bad}");
        }
    }

    #[test]
    fn ids_are_shortened_as_far_as_they_are_unique() {
        let ids = ["01JD2Y6QAB".to_owned(), "01JD2Y6QAC".to_owned(), "01JD2X0000".to_owned()];
        assert_eq!(shorten(&ids[0], &ids), "01JD2Y6QAB");
        assert_eq!(shorten(&ids[2], &ids), "01JD2X00");
    }
}

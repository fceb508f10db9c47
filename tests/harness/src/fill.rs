//! What real clusters hold, made from a seed: Kubernetes-like objects, many
//! versions of keys, deleted and re-created keys, a compaction, leases, a user
//! and a role, a value of 1 MiB.
//!
//! With `parallel` 1 the same seed gives the same store on every cluster, hash
//! for hash; with more the contents are the same and the revisions are not.

mod object;

use std::time::Duration;

use etcd_client::{
    Client, CompactionOptions, GetOptions, LeaseGrantOptions, Permission, PutOptions, Txn, TxnOp,
};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{Error, Result};
use object::{Object, Random};

/// etcd's default for `--max-txn-ops` is 128, for a request 1.5 MiB.
const TXN_OPS: usize = 100;
const TXN_BYTES: usize = 512 * 1024;

/// Longer than any test; in seconds.
const LEASE_TTL: i64 = 6 * 3600;

/// How often a request that the members were too busy for is sent.
const TRIES: u32 = 5;

/// The password of the users that are made.
pub const PASSWORD: &str = "harness";

/// What to fill a cluster with.
#[derive(Debug, Clone)]
pub struct Fill {
    seed: u64,
    objects: u64,
    parallel: usize,
}

/// What a filled cluster holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// The store's revision.
    pub revision: i64,
    /// The revision of the last compaction.
    pub compacted: i64,
    /// Keys that exist.
    pub keys: i64,
    /// Leases that exist.
    pub leases: usize,
    /// Users.
    pub users: usize,
    /// Roles.
    pub roles: usize,
}

/// A put or a delete, before it is in a transaction.
enum Change {
    Put { key: String, value: Vec<u8>, lease: i64 },
    Delete { key: String },
}

impl Change {
    fn size(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len() + 16,
            Self::Delete { key } => key.len() + 16,
        }
    }

    fn into_op(self) -> TxnOp {
        match self {
            Self::Put { key, value, lease: 0 } => TxnOp::put(key, value, None),
            Self::Put { key, value, lease } => {
                TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)))
            }
            Self::Delete { key } => TxnOp::delete(key, None),
        }
    }
}

impl Fill {
    /// About `objects` Kubernetes-like objects of 2.5 kB on average, one
    /// request at a time.
    pub fn new(seed: u64, objects: u64) -> Self {
        Self { seed, objects: objects.max(100), parallel: 1 }
    }

    /// How many requests run at once.
    pub fn parallel(mut self, requests: usize) -> Self {
        self.parallel = requests.max(1);
        self
    }

    /// Fills the cluster once.
    pub async fn run(&self, client: &Client) -> Result<Filled> {
        self.round(client, 0).await?;
        self.extras(client).await?;
        read_back(client).await
    }

    /// Fills the cluster round by round until its database file has `bytes`;
    /// every round is the same kind of history with other objects.
    pub async fn until(&self, client: &Client, bytes: i64) -> Result<Filled> {
        self.extras(client).await?;
        let mut round = 0;
        while database_size(client).await? < bytes {
            self.round(client, round).await?;
            round += 1;
        }
        read_back(client).await
    }

    async fn round(&self, client: &Client, round: u64) -> Result<()> {
        let leases = self.grant_leases(client, round).await?;
        let object = |id: u64| Object::new(self.seed, round, id);
        let put = |id: u64, version: u64| {
            let object = object(id);
            let lease = if object.expires() { leases[index(id, leases.len())] } else { 0 };
            Change::Put { key: object.key(), value: object.value(version), lease }
        };
        let delete = |id: u64| Change::Delete { key: object(id).key() };
        let every = |step: u64, from: u64| (from..self.objects).step_by(index(step, usize::MAX));

        self.send(client, (0..self.objects).map(|id| put(id, 1))).await?;
        self.send(client, every(3, 0).map(|id| put(id, 2))).await?;
        // A few keys are written all the time, as a node's lease is.
        for version in 3..40 {
            self.send(client, every(100, 0).map(|id| put(id, version))).await?;
        }
        // One key in requests of its own, a revision each.
        for version in 40..240 {
            self.send(client, [put(0, version)].into_iter()).await?;
        }
        let middle = revision(client).await?;
        self.send(client, every(10, 1).map(delete)).await?;
        self.send(client, every(30, 1).map(|id| put(id, 1))).await?;
        self.compact(client, middle).await?;
        // What comes now fills the pages that the compaction has freed.
        self.send(client, every(7, 3).map(|id| put(id, 50))).await?;
        self.send(client, every(50, 5).map(delete)).await
    }

    /// A user, a role and a value of 1 MiB, once per cluster.
    async fn extras(&self, client: &Client) -> Result<()> {
        let mut value = vec![0; 1024 * 1024];
        Random::new(self.seed, u64::MAX).fill(&mut value);
        let big = Change::Put { key: "/big/1MiB".to_owned(), value, lease: 0 };
        self.send(client, [big].into_iter()).await?;

        let failed = |source| Error::because("adding a user and a role", source);
        let mut auth = client.auth_client();
        let read_all = Permission::read("/registry/").with_prefix();
        auth.role_add("reader").await.map_err(failed)?;
        auth.role_grant_permission("reader", read_all).await.map_err(failed)?;
        auth.role_add("root").await.map_err(failed)?;
        for (user, role) in [("reader", "reader"), ("root", "root")] {
            auth.user_add(user, PASSWORD, None).await.map_err(failed)?;
            auth.user_grant_role(user, role).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn grant_leases(&self, client: &Client, round: u64) -> Result<Vec<i64>> {
        let mut random = Random::new(self.seed, round.wrapping_add(1 << 40));
        let mut leases = client.lease_client();
        let mut ids = Vec::new();
        for _ in 0..(self.objects / 500).clamp(8, 200) {
            let id = i64::try_from(random.next() >> 2).unwrap_or(i64::MAX).max(1);
            let options = LeaseGrantOptions::new().with_id(id);
            let granted = leases.grant(LEASE_TTL, Some(options)).await;
            granted.map_err(|source| Error::because("granting a lease", source))?;
            ids.push(id);
        }
        Ok(ids)
    }

    async fn send(&self, client: &Client, changes: impl Iterator<Item = Change>) -> Result<()> {
        let mut changes = changes.peekable();
        let batches = std::iter::from_fn(|| {
            let (mut ops, mut bytes) = (Vec::new(), 0);
            while let Some(change) = changes.next_if(|change| {
                ops.len() < TXN_OPS && (ops.is_empty() || bytes + change.size() <= TXN_BYTES)
            }) {
                bytes += change.size();
                ops.push(change.into_op());
            }
            (!ops.is_empty()).then_some(ops)
        });
        stream::iter(batches)
            .map(|ops| apply(client, ops))
            .buffer_unordered(self.parallel)
            .try_collect::<()>()
            .await
    }

    async fn compact(&self, client: &Client, revision: i64) -> Result<()> {
        let options = CompactionOptions::new().with_physical();
        let compacted = client.kv_client().compact(revision, Some(options)).await;
        compacted.map_err(|source| Error::because(format!("compacting at {revision}"), source))?;
        Ok(())
    }
}

/// Sends one transaction; sends it again when the members were too busy. (A
/// transaction that was applied although its answer was lost is then applied
/// twice, which changes the revisions and nothing else.)
async fn apply(client: &Client, ops: Vec<TxnOp>) -> Result<()> {
    let mut kv = client.kv_client();
    let mut tries = 0;
    loop {
        tries += 1;
        match kv.txn(Txn::new().and_then(ops.clone())).await {
            Ok(_) => return Ok(()),
            Err(etcd_client::Error::GRpcStatus(status))
                if tries < TRIES && status.message().contains("too many requests") =>
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(source) => return Err(Error::because("writing a transaction", source)),
        }
    }
}

async fn read_back(client: &Client) -> Result<Filled> {
    let failed = |source| Error::because("reading what the cluster holds", source);
    let all = GetOptions::new().with_all_keys().with_count_only();
    let keys = client.kv_client().get("", Some(all)).await.map_err(failed)?;
    let leases = client.lease_client().leases().await.map_err(failed)?;
    let mut auth = client.auth_client();
    let users = auth.user_list().await.map_err(failed)?;
    let roles = auth.role_list().await.map_err(failed)?;
    let hash = client.maintenance_client().hash_kv(0).await.map_err(failed)?;
    Ok(Filled {
        revision: keys.header().map_or(0, etcd_client::ResponseHeader::revision),
        compacted: hash.compact_version(),
        keys: keys.count(),
        leases: leases.leases().len(),
        users: users.users().len(),
        roles: roles.roles().len(),
    })
}

async fn revision(client: &Client) -> Result<i64> {
    let options = GetOptions::new().with_count_only();
    let got = client.kv_client().get("revision", Some(options)).await;
    let got = got.map_err(|source| Error::because("reading the revision", source))?;
    Ok(got.header().map_or(0, etcd_client::ResponseHeader::revision))
}

async fn database_size(client: &Client) -> Result<i64> {
    let status = client.maintenance_client().status().await;
    Ok(status.map_err(|source| Error::because("reading the database's size", source))?.db_size())
}

/// `id` folded into an index below `length`.
fn index(id: u64, length: usize) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX) % length
}

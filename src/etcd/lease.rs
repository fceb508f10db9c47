//! A write of which nothing stays.

use super::client::MemberClient;
use super::error::EtcdError;

/// A lease that could not be revoked lives for so long, in seconds.
const LIFE: i64 = 30;

impl MemberClient {
    /// Grants a lease without keys and revokes it: the cluster agrees on both, as on
    /// any write, and the store is as before.
    pub async fn pass_a_lease(&self) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        let grant = async move { client.lease_grant(LIFE, None).await };
        let granted = self.call("grant a lease", grant).await?;
        let mut client = self.client.clone();
        let revoke = async move { client.lease_revoke(granted.id()).await };
        self.call("revoke the lease", revoke).await.map(drop)
    }
}

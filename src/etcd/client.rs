//! One member: connection, status, hashes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use serde::Serialize;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use super::error::{EtcdError, EtcdErrorKind};
use super::tls::Handshake;
use crate::types::{ConnectionSettings, Credentials, Endpoint, HexId, Revision, Version};

/// Makes connections; the files are read once.
#[derive(Clone)]
pub struct Connector {
    tls: ClientTlsConfig,
    /// For finding out why a connection was dropped; not with the system's roots.
    handshake: Option<Handshake>,
    credentials: Option<Credentials>,
    dial_timeout: Duration,
    command_timeout: Duration,
}

/// A certificate or key file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the {what} {}: {why}", path.display())]
pub struct TlsFileError {
    /// What the file should be.
    pub what: &'static str,
    /// Which file.
    pub path: PathBuf,
    /// Why not.
    pub why: String,
}

/// The bound on a HashKV call: the member reads its whole store for it.
const HASH_TIMEOUT: Duration = Duration::from_secs(300);

/// Receive windows: a snapshot is limited by the round trip otherwise.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// PEM texts for a connection. `Debug` shows none of them.
#[derive(Clone, Default)]
pub struct Pems {
    /// The CA's certificates, with the path that they are known by.
    ca: Option<(PathBuf, Vec<u8>)>,
    /// Our certificate and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Pems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pems").finish_non_exhaustive()
    }
}

impl Pems {
    /// The files that `settings` name.
    fn read(settings: &ConnectionSettings) -> Result<Self, TlsFileError> {
        let ca = match &settings.ca_file {
            Some(path) => Some((path.clone(), read_pem("CA file", path, "CERTIFICATE")?)),
            None => None,
        };
        let identity = match (&settings.cert_file, &settings.key_file) {
            (Some(cert), Some(key)) => {
                let chain = read_pem("client certificate", cert, "CERTIFICATE")?;
                Some((chain, read_pem("client key", key, "PRIVATE KEY")?))
            }
            (None, None) => None,
            (Some(path), None) => {
                return Err(TlsFileError {
                    what: "client certificate",
                    path: path.clone(),
                    why: "no key is given with it (--key)".into(),
                });
            }
            (None, Some(path)) => {
                return Err(TlsFileError {
                    what: "client key",
                    path: path.clone(),
                    why: "no certificate is given with it (--cert)".into(),
                });
            }
        };
        Ok(Self { ca, identity })
    }

    /// Texts that were read elsewhere, each with the path that it is known by there:
    /// the CA's certificates, and our certificate with its key.
    pub fn of_texts(
        ca: Option<(PathBuf, Vec<u8>)>,
        identity: Option<[(PathBuf, Vec<u8>); 2]>,
    ) -> Result<Self, TlsFileError> {
        if let Some((path, pem)) = &ca {
            check_pem("CA file", path, pem, "CERTIFICATE")?;
        }
        let identity = match identity {
            Some([(cert, chain), (path, key)]) => {
                check_pem("client certificate", &cert, &chain, "CERTIFICATE")?;
                check_pem("client key", &path, &key, "PRIVATE KEY")?;
                Some((chain, key))
            }
            None => None,
        };
        Ok(Self { ca, identity })
    }
}

impl Connector {
    /// Reads the certificate files of `settings`.
    pub fn new(settings: &ConnectionSettings) -> Result<Self, TlsFileError> {
        Self::from_pems(&Pems::read(settings)?, settings)
    }

    /// With these certificates in place of the files that `settings` name.
    pub fn from_pems(pems: &Pems, settings: &ConnectionSettings) -> Result<Self, TlsFileError> {
        let mut tls = ClientTlsConfig::new();
        tls = match &pems.ca {
            Some((_, pem)) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        if let Some((chain, key)) = &pems.identity {
            tls = tls.identity(Identity::from_pem(chain, key));
        }
        let handshake = match &pems.ca {
            Some((path, ca)) => {
                let identity = pems.identity.as_ref().map(|(chain, key)| (&chain[..], &key[..]));
                let handshake = Handshake::new(ca, identity).map_err(|error| TlsFileError {
                    what: "certificates and key with the CA",
                    path: path.clone(),
                    why: error.to_string(),
                })?;
                Some(handshake)
            }
            None => None,
        };
        Ok(Self {
            tls,
            handshake,
            credentials: settings.credentials.clone(),
            dial_timeout: settings.dial_timeout,
            command_timeout: settings.command_timeout,
        })
    }

    /// Connects and reads the status: only then is it certain that the member takes
    /// us.
    pub async fn open(
        &self,
        endpoint: &Endpoint,
    ) -> Result<(MemberClient, MemberStatus), EtcdError> {
        let opening = async {
            let mut client = self.connect(endpoint).await?;
            let status = client.status().await?;
            Ok::<_, EtcdError>((client, status))
        };
        match opening.await {
            Err(error) if error.kind == EtcdErrorKind::Broken && endpoint.is_tls() => {
                let Some(handshake) = &self.handshake else { return Err(error) };
                match handshake.refusal(endpoint, self.dial_timeout).await {
                    Some((kind, detail)) => Err(EtcdError::new(kind, endpoint, "connect", detail)),
                    None => Err(error),
                }
            }
            // Plain HTTP/2 sent to a TLS port: no handshake was made, so the first call is
            // where it shows.
            Err(error) => Err(self.explain(error)),
            opened => opened,
        }
    }

    /// Connects to the member at `endpoint`, and logs in where a user is set.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<MemberClient, EtcdError> {
        const ACT: &str = "connect";
        let bad = |error: &tonic::transport::Error| EtcdError::from_transport(endpoint, ACT, error);
        let connecting = async {
            let mut builder = Channel::from_shared(endpoint.to_string())
                .map_err(|e| EtcdError::new(EtcdErrorKind::Refused, endpoint, ACT, e.to_string()))?
                .tcp_nodelay(true)
                .tcp_keepalive(Some(Duration::from_secs(15)))
                .http2_keep_alive_interval(Duration::from_secs(15))
                .keep_alive_timeout(Duration::from_secs(20))
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW);
            if endpoint.is_tls() {
                builder = builder.tls_config(self.tls.clone()).map_err(|e| bad(&e))?;
            }
            let channel = builder.connect().await.map_err(|e| bad(&e))?;
            let options = self.credentials.as_ref().map(|credentials| {
                // A token lives for five minutes unused: less than a large snapshot takes.
                ConnectOptions::new()
                    .with_user(credentials.user.clone(), credentials.password.expose())
                    .with_auto_token_refresh(true)
            });
            let client =
                Client::from_channel(etcd_client::Channel::Tonic(channel.clone()), options)
                    .await
                    .map_err(|e| self.explain(EtcdError::from_client(endpoint, "log in", e)))?;
            Ok((client, channel))
        };
        let (client, channel) = tokio::time::timeout(self.dial_timeout, connecting)
            .await
            .map_err(|_| EtcdError::timeout(endpoint, ACT, self.dial_timeout))??;
        Ok(MemberClient {
            endpoint: endpoint.clone(),
            client,
            channel,
            command_timeout: self.command_timeout,
        })
    }

    /// HTTP/2 without TLS to a TLS port only looks like a broken connection.
    fn explain(&self, mut error: EtcdError) -> EtcdError {
        if !error.endpoint.is_tls() && error.kind == EtcdErrorKind::Broken {
            error.kind = EtcdErrorKind::TlsPort;
            error.detail = CLOSED.to_owned();
        }
        error
    }
}

/// What the library says of it depends on which side noticed first.
const CLOSED: &str = "the connection was closed without an answer";

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

/// Reads a PEM file and says at once when it is something else.
fn read_pem(what: &'static str, path: &Path, label: &str) -> Result<Vec<u8>, TlsFileError> {
    let error = |why: String| TlsFileError { what, path: path.to_owned(), why };
    let pem = std::fs::read(path).map_err(|e| error(e.to_string()))?;
    check_pem(what, path, &pem, label)?;
    Ok(pem)
}

fn check_pem(what: &'static str, path: &Path, pem: &[u8], label: &str) -> Result<(), TlsFileError> {
    let error = |why: String| TlsFileError { what, path: path.to_owned(), why };
    let text = String::from_utf8_lossy(pem);
    let has = |label: &str| {
        text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(label))
    };
    if has("ENCRYPTED PRIVATE KEY") {
        return Err(error("the key is encrypted; etcdvault needs a plain one".into()));
    }
    if !has(label) {
        return Err(error(format!("there is no PEM block {label:?} in it")));
    }
    Ok(())
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// The cluster it belongs to.
    pub cluster_id: HexId,
    /// Its own id.
    pub member_id: HexId,
    /// Its version, as it says it.
    pub version: String,
    /// The version of its storage, from 3.6 on.
    pub storage_version: Option<String>,
    /// Bytes of its database file.
    pub db_size: u64,
    /// Bytes of it in use; 0 where not told.
    pub db_size_in_use: u64,
    /// Its quota in bytes, from 3.6 on.
    pub db_size_quota: Option<u64>,
    /// The member it takes for the leader; `None` when there is none.
    pub leader: Option<HexId>,
    /// Whether it is a learner.
    pub is_learner: bool,
    /// The raft term.
    pub raft_term: u64,
    /// The index of the last committed entry it knows.
    pub raft_index: u64,
    /// The index of the last entry it applied.
    pub raft_applied_index: u64,
    /// The store's revision.
    pub revision: Revision,
    /// What it complains of: alarms, no leader.
    pub errors: Vec<String>,
    /// The target of a downgrade under way.
    pub downgrade_to: Option<String>,
}

impl MemberStatus {
    /// Its version as numbers.
    pub fn parsed_version(&self) -> Option<Version> {
        self.version.parse().ok()
    }

    /// Whether it is the leader.
    pub fn is_leader(&self) -> bool {
        self.leader == Some(self.member_id)
    }

    /// Entries it knows to be committed and has not applied.
    pub fn lag(&self) -> u64 {
        self.raft_index.saturating_sub(self.raft_applied_index)
    }
}

/// A member's HashKV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C by etcd's rules.
    pub hash: u32,
    /// The compact revision that went into it, -1 for none.
    pub compact_revision: Revision,
    /// The store's revision when it answered.
    pub current_revision: Revision,
}

/// One member in the member list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedMember {
    /// Its id.
    pub id: HexId,
    /// Its name; empty until it started for the first time.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where its clients reach it; empty until it started.
    pub client_urls: Vec<String>,
    /// Whether it is a learner.
    pub is_learner: bool,
}

/// An alarm that a member raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Which member.
    pub member_id: HexId,
    /// `NOSPACE` or `CORRUPT`.
    pub alarm: String,
}

/// A connection to one member.
#[derive(Clone)]
pub struct MemberClient {
    endpoint: Endpoint,
    pub(super) client: Client,
    pub(super) channel: Channel,
    command_timeout: Duration,
}

impl std::fmt::Debug for MemberClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemberClient").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl MemberClient {
    /// One that never connects: for what only looks at the statuses of members.
    #[cfg(test)]
    pub(crate) async fn unconnected(endpoint: &Endpoint) -> Self {
        let channel = Channel::from_shared(endpoint.to_string()).unwrap().connect_lazy();
        let raw = etcd_client::Channel::Tonic(channel.clone());
        let client = Client::from_channel(raw, None).await.unwrap();
        Self { endpoint: endpoint.clone(), client, channel, command_timeout: Duration::ZERO }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The bound on a short call.
    pub(super) fn command_timeout(&self) -> Duration {
        self.command_timeout
    }

    /// What it says of itself.
    pub async fn status(&mut self) -> Result<MemberStatus, EtcdError> {
        let mut client = self.client.clone();
        let status = self.call("read its status", async move { client.status().await }).await?;
        let header = status.header();
        let non_empty = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(MemberStatus {
            cluster_id: HexId(header.map_or(0, |h| h.cluster_id())),
            member_id: HexId(header.map_or(0, |h| h.member_id())),
            version: status.version().to_owned(),
            storage_version: non_empty(status.storage_version()),
            db_size: u64::try_from(status.db_size()).unwrap_or(0),
            db_size_in_use: u64::try_from(status.raft_used_db_size()).unwrap_or(0),
            db_size_quota: u64::try_from(status.db_size_quota()).ok().filter(|&quota| quota > 0),
            leader: Some(HexId(status.leader())).filter(|id| id.0 != 0),
            is_learner: status.is_learner(),
            raft_term: status.raft_term(),
            raft_index: status.raft_index(),
            raft_applied_index: status.raft_applied_index(),
            revision: header.map_or(0, |h| h.revision()),
            errors: status.errors().iter().map(|e| printable(e)).collect(),
            downgrade_to: status
                .downgrade_info()
                .filter(|info| info.enabled())
                .map(|info| info.target_version().to_owned()),
        })
    }

    /// Its HashKV at `revision`, 0 for the present one. The member does not write
    /// while it computes this.
    pub async fn hash_kv(&mut self, revision: Revision) -> Result<HashKv, EtcdError> {
        let mut client = self.client.clone();
        let call = async move { client.hash_kv(revision).await };
        let answer = self.call_within(HASH_TIMEOUT, "compute its HashKV", call).await?;
        Ok(HashKv {
            hash: answer.hash(),
            compact_revision: answer.compact_version(),
            current_revision: answer.header().map_or(0, |h| h.revision()),
        })
    }

    /// The members as this one knows them.
    pub async fn members(&mut self) -> Result<Vec<ListedMember>, EtcdError> {
        let mut client = self.client.clone();
        let list = self.call("list the members", async move { client.member_list().await }).await?;
        Ok(list
            .members()
            .iter()
            .map(|member| ListedMember {
                id: HexId(member.id()),
                name: printable(member.name()),
                peer_urls: member.peer_urls().iter().map(|url| printable(url)).collect(),
                client_urls: member.client_urls().iter().map(|url| printable(url)).collect(),
                is_learner: member.is_learner(),
            })
            .collect())
    }

    /// The alarms that are raised.
    pub async fn alarms(&mut self) -> Result<Vec<Alarm>, EtcdError> {
        use etcd_client::{AlarmAction, AlarmType};
        let mut client = self.client.clone();
        let call = async move { client.alarm(AlarmAction::Get, AlarmType::None, None).await };
        let answer = self.call("list the alarms", call).await?;
        Ok(answer
            .alarms()
            .iter()
            .map(|alarm| Alarm {
                member_id: HexId(alarm.member_id()),
                alarm: match alarm.alarm() {
                    AlarmType::None => "NONE",
                    AlarmType::Nospace => "NOSPACE",
                    AlarmType::Corrupt => "CORRUPT",
                }
                .to_owned(),
            })
            .collect())
    }

    /// Runs a call within the bound for short ones.
    pub(super) async fn call<T>(
        &self,
        act: &'static str,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, EtcdError> {
        self.call_within(self.command_timeout, act, call).await
    }

    pub(super) async fn call_within<T>(
        &self,
        bound: Duration,
        act: &'static str,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, EtcdError> {
        match tokio::time::timeout(bound, call).await {
            Err(_) => Err(EtcdError::timeout(&self.endpoint, act, bound)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(EtcdError::from_client(&self.endpoint, act, error)),
        }
    }
}

/// Text from a server, without what could move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

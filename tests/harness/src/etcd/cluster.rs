//! A throwaway cluster of real members on loopback.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, ConnectOptions, Identity as ClientIdentity, MemberAddOptions, TlsOptions,
};
use tempfile::TempDir;
use tokio::process::Command;

use super::member::{Member, READY_BOUND};
use super::{Etcd, run};
use crate::port::Port;
use crate::tls::{Identity, Material};
use crate::{Error, Result};

/// How a cluster speaks with clients and among its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Plain HTTP.
    Plain,
    /// TLS; clients need no certificate.
    Tls,
    /// TLS, and clients need a certificate (`--client-cert-auth`), whose
    /// common name is their user where authentication is on.
    ClientCertificates,
}

/// What a cluster will be; made by [`Cluster::builder`].
#[derive(Debug)]
pub struct Builder {
    series: String,
    members: usize,
    security: Security,
    args: Vec<OsString>,
    root: Option<PathBuf>,
    token: String,
}

impl Builder {
    /// How many members; one unless said.
    pub fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// Plain unless said.
    pub fn security(mut self, security: Security) -> Self {
        self.security = security;
        self
    }

    /// More arguments for every member.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A directory for everything, which the caller keeps; a temporary one
    /// unless said.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// `--initial-cluster-token`.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = token.into();
        self
    }

    /// Starts all members and waits until each answers.
    pub async fn start(self) -> Result<Cluster> {
        let mut cluster = self.prepare().await?;
        cluster.start().await?;
        Ok(cluster)
    }

    /// Chooses names, ports and directories and makes certificates, without
    /// starting anything: for data directories that are restored first.
    pub async fn prepare(self) -> Result<Cluster> {
        let etcd = Etcd::version(&self.series).await?;
        let (root, temporary) = match self.root {
            Some(root) => (root, None),
            None => {
                let made = tempfile::Builder::new().prefix("etcdvault-cluster-").tempdir();
                let made =
                    made.map_err(|source| Error::because("making a temporary directory", source))?;
                (made.path().to_owned(), Some(made))
            }
        };
        fs::create_dir_all(&root)
            .map_err(|source| Error::because(format!("creating {}", root.display()), source))?;
        let tls = match self.security {
            Security::Plain => None,
            Security::Tls | Security::ClientCertificates => {
                Some(Material::create(&root.join("pki"))?)
            }
        };
        let mut cluster = Cluster {
            members: Vec::new(),
            etcd,
            security: self.security,
            connect: ConnectOptions::new(),
            tls,
            args: self.args,
            token: self.token,
            root,
            temporary,
            named: 0,
        };
        if let Some(tls) = &cluster.tls {
            let identity = Some(&tls.root);
            cluster.connect = ConnectOptions::new().with_tls(tls_options(&tls.ca(), identity)?);
        }
        for _ in 0..self.members {
            let member = cluster.new_member()?;
            cluster.members.push(member);
        }
        let initial = cluster.initial_cluster();
        for member in &mut cluster.members {
            member.initial_cluster = initial.clone();
        }
        Ok(cluster)
    }
}

/// A cluster; its processes end and its temporary directory goes when it is
/// dropped. In a failing test (or with `ETCDVAULT_TEST_KEEP` set) the directory
/// with the logs stays and its path is said.
#[derive(Debug)]
pub struct Cluster {
    // First, so that the processes end before their directory goes.
    members: Vec<Member>,
    etcd: Etcd,
    security: Security,
    connect: ConnectOptions,
    tls: Option<Material>,
    args: Vec<OsString>,
    token: String,
    root: PathBuf,
    temporary: Option<TempDir>,
    named: usize,
}

impl Cluster {
    /// Begins a cluster of a series (`3.4` to `3.7`).
    pub fn builder(series: &str) -> Builder {
        Builder {
            series: series.to_owned(),
            members: 1,
            security: Security::Plain,
            args: Vec::new(),
            root: None,
            token: "harness".to_owned(),
        }
    }

    /// Starts every member and waits until each answers.
    pub async fn start(&mut self) -> Result<()> {
        for member in &mut self.members {
            member.spawn()?;
        }
        for member in &mut self.members {
            member.wait_ready().await?;
        }
        Ok(())
    }

    /// SIGTERM to every member that runs, and waits for the ends.
    pub async fn stop(&mut self) -> Result<()> {
        for member in &mut self.members {
            if member.is_running()? {
                member.stop().await?;
            }
        }
        Ok(())
    }

    /// SIGKILL to every member that runs.
    pub fn kill(&mut self) -> Result<()> {
        for member in &mut self.members {
            if member.is_running()? {
                member.kill()?;
            }
        }
        Ok(())
    }

    /// The programs.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// The directory with data, logs and `pki`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The members, in the order of their names.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A member to act on; panics when there is none of that index.
    pub fn member(&mut self, index: usize) -> &mut Member {
        &mut self.members[index]
    }

    /// Every member to act on.
    pub fn members_mut(&mut self) -> &mut [Member] {
        &mut self.members
    }

    /// The certificates, where there are any.
    pub fn tls(&self) -> Option<&Material> {
        self.tls.as_ref()
    }

    /// The client URL of every member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::client_url).collect()
    }

    /// `m1=https://…,m2=https://…`
    pub fn initial_cluster(&self) -> String {
        let pairs: Vec<String> =
            self.members.iter().map(|m| format!("{}={}", m.name(), m.peer_url())).collect();
        pairs.join(",")
    }

    /// `--initial-cluster-token`.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Connection options with the `root` certificate where there is TLS; a
    /// test adds users and timeouts.
    pub fn connect_options(&self) -> ConnectOptions {
        self.connect.clone()
    }

    /// A client of all members but those that joined as learners.
    pub async fn client(&self) -> Result<Client> {
        self.client_with(self.connect_options()).await
    }

    /// As [`Cluster::client`], with options of the caller's.
    pub async fn client_with(&self, options: ConnectOptions) -> Result<Client> {
        let voters = self.members.iter().filter(|member| !member.learner);
        let endpoints: Vec<String> = voters.map(Member::client_url).collect();
        Client::connect(endpoints, Some(options))
            .await
            .map_err(|source| Error::because("connecting to the cluster", source))
    }

    /// The index of the leader, as the first running member sees it. One that is not
    /// chosen yet, or that has just gone, is waited for.
    pub async fn leader(&mut self) -> Result<usize> {
        let start = Instant::now();
        loop {
            match self.leader_now().await {
                Err(_) if start.elapsed() < READY_BOUND => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                leader => return leader,
            }
        }
    }

    async fn leader_now(&mut self) -> Result<usize> {
        let mut leader = 0;
        let mut ids = Vec::new();
        for (index, member) in self.members.iter_mut().enumerate() {
            if !member.is_running()? {
                continue;
            }
            let status = member.status().await?;
            let id = status.header().map_or(0, etcd_client::ResponseHeader::member_id);
            ids.push((index, id));
            leader = if leader == 0 { status.leader() } else { leader };
        }
        let found = ids.iter().find(|(_, id)| leader != 0 && *id == leader);
        found.map(|(index, _)| *index).ok_or_else(|| Error::new("no running member leads"))
    }

    /// HashKV of every running member at a revision (0: its newest). A member
    /// that has not applied the revision yet is waited for.
    pub async fn hashes(&mut self, revision: i64) -> Result<Vec<u32>> {
        let mut hashes = Vec::new();
        for member in &mut self.members {
            if !member.is_running()? {
                continue;
            }
            let start = Instant::now();
            loop {
                match member.hash_kv(revision).await {
                    Ok(hash) => break hashes.push(hash),
                    Err(error)
                        if format!("{error:?}").contains("future revision")
                            && start.elapsed() < READY_BOUND =>
                    {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(hashes)
    }

    /// Runs etcdctl against all members and returns what it printed; an exit
    /// status other than 0 is an error.
    pub async fn etcdctl<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let mut command = Command::new(self.etcd.etcdctl_path());
        command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", self.endpoints().join(","));
        if let Some(tls) = &self.tls {
            command.env("ETCDCTL_CACERT", tls.ca());
            command.env("ETCDCTL_CERT", &tls.root.cert).env("ETCDCTL_KEY", &tls.root.key);
        }
        run(command.args(args)).await
    }

    /// Adds a member to the running cluster and starts it: a voter, or a
    /// learner. Returns its index.
    pub async fn add_member(&mut self, learner: bool) -> Result<usize> {
        let mut member = self.new_member()?;
        member.state = "existing";
        member.learner = learner;
        member.initial_cluster =
            format!("{},{}={}", self.initial_cluster(), member.name(), member.peer_url());
        self.announce(&member, learner).await?;
        self.members.push(member);
        let index = self.members.len() - 1;
        self.members[index].start().await?;
        Ok(index)
    }

    /// etcd refuses a new member until the ones that are there have been
    /// connected for five seconds (`HealthInterval`).
    async fn announce(&self, member: &Member, learner: bool) -> Result<()> {
        let mut client = self.client().await?;
        let start = Instant::now();
        loop {
            let options = learner.then(|| MemberAddOptions::new().with_is_learner());
            match client.member_add([member.peer_url()], options).await {
                Ok(_) => return Ok(()),
                Err(etcd_client::Error::GRpcStatus(status))
                    if status.message().contains("unhealthy cluster")
                        && start.elapsed() < READY_BOUND =>
                {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(source) => {
                    return Err(Error::because(format!("adding {}", member.name()), source));
                }
            }
        }
    }

    fn new_member(&mut self) -> Result<Member> {
        self.named += 1;
        let name = format!("m{}", self.named);
        let mut args = Vec::new();
        if let Some(tls) = &self.tls {
            let mut add = |flag: &str, value: &Path| {
                args.push(OsString::from(flag));
                args.push(value.into());
            };
            add("--cert-file", &tls.server.cert);
            add("--key-file", &tls.server.key);
            add("--trusted-ca-file", &tls.ca());
            add("--peer-cert-file", &tls.peer.cert);
            add("--peer-key-file", &tls.peer.key);
            add("--peer-trusted-ca-file", &tls.ca());
            args.push("--peer-client-cert-auth".into());
        }
        if self.security == Security::ClientCertificates {
            args.push("--client-cert-auth".into());
        }
        args.extend(self.args.iter().cloned());
        Ok(Member {
            etcd: self.etcd.clone(),
            scheme: if self.tls.is_some() { "https" } else { "http" },
            client_port: Port::reserve()?,
            peer_port: Port::reserve()?,
            data_dir: self.root.join(&name),
            wal_dir: None,
            log: self.root.join(format!("{name}.log")),
            name,
            initial_cluster: String::new(),
            token: self.token.clone(),
            state: "new",
            learner: false,
            only_existing: false,
            args,
            connect: self.connect.clone(),
            process: None,
        })
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "whoever reads a failed test needs the path")]
    fn drop(&mut self) {
        let keep = std::thread::panicking() || std::env::var_os("ETCDVAULT_TEST_KEEP").is_some();
        if let (true, Some(temporary)) = (keep, &mut self.temporary) {
            temporary.disable_cleanup(true);
            eprintln!("data and logs of the test's etcd are kept in {}", self.root.display());
        }
    }
}

/// TLS options that trust `ca` and present `identity`.
pub fn tls_options(ca: &Path, identity: Option<&Identity>) -> Result<TlsOptions> {
    let read = |path: &Path| {
        fs::read(path)
            .map_err(|source| Error::because(format!("reading {}", path.display()), source))
    };
    let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
    if let Some(identity) = identity {
        let pem = ClientIdentity::from_pem(read(&identity.cert)?, read(&identity.key)?);
        options = options.identity(pem);
    }
    Ok(options)
}

//! Clusters of etcd across hosts, in the ways that the field runs them.
//!
//! | [`Kind`] | etcd | set by | security |
//! |---|---|---|---|
//! | `Debian12` | 3.4.23, Debian 12's package and unit | `/etc/default/etcd` | plain HTTP |
//! | `Debian13` | 3.5.16, Debian 13's package and unit | `/etc/default/etcd` | TLS, client certificates |
//! | `Unit` | the newest 3.6 in `/usr/local/bin`, Debian 12 | arguments in `ExecStart`, and a drop-in | TLS, client certificates |
//! | `ConfigFile` | the newest 3.6 in `/usr/local/bin`, Debian 13 | `--config-file /etc/etcd/etcd.yaml` | TLS, client certificates |
//!
//! The unit is `etcd.service` everywhere, the user `etcd`, and the certificates lie
//! in `/etc/etcd/pki`. Members are named as their hosts.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions};
use futures_util::future::try_join_all;
use serde_json::Value;

use super::{Builder, Host, Hosts, Image};
use crate::etcd::{Etcd, tls_options};
use crate::tls::{Authority, Identity, Validity};
use crate::{Error, Result};

/// Until all members answer and agree about the leader, on a slow machine.
const HEALTHY_BOUND: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);

/// Where members find their certificates.
const PKI: &str = "/etc/etcd/pki";

/// How etcd is run; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Debian 12's package.
    Debian12,
    /// Debian 13's package, with TLS.
    Debian13,
    /// etcd 3.6 from a unit with arguments and a drop-in.
    Unit,
    /// etcd 3.6 from a unit with a YAML file.
    ConfigFile,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Debian12, Self::Debian13, Self::Unit, Self::ConfigFile];

    fn image(self) -> Image {
        match self {
            Self::Debian12 | Self::Unit => Image::Debian12,
            Self::Debian13 | Self::ConfigFile => Image::Debian13,
        }
    }

    /// Members' data directory on their hosts.
    pub fn data_dir(self) -> &'static str {
        match self {
            // The packages' units name it.
            Self::Debian12 | Self::Debian13 => "/var/lib/etcd/default",
            Self::Unit | Self::ConfigFile => "/var/lib/etcd/data",
        }
    }

    /// The file that tells a member its settings.
    pub fn settings_file(self) -> &'static str {
        match self {
            Self::Debian12 | Self::Debian13 => "/etc/default/etcd",
            Self::Unit => "/etc/systemd/system/etcd.service",
            Self::ConfigFile => "/etc/etcd/etcd.yaml",
        }
    }

    fn scheme(self) -> &'static str {
        if self == Self::Debian12 { "http" } else { "https" }
    }
}

/// What a client on this machine needs.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The client's certificate, named `root`, and its key.
    pub client: Identity,
}

/// A cluster with one member on each host.
#[derive(Debug)]
pub struct EtcdHosts {
    hosts: Hosts,
    kind: Kind,
    members: usize,
    tls: Option<ClientTls>,
}

impl EtcdHosts {
    /// Hosts `n1`, `n2` … with a member each; returns when the cluster is healthy.
    pub async fn start(kind: Kind, members: usize) -> Result<Self> {
        Self::start_with(kind, members, |hosts| hosts).await
    }

    /// The same with more said about the hosts: a jump host, another login.
    pub async fn start_with(
        kind: Kind,
        members: usize,
        more: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self> {
        let mut builder = Hosts::builder().hosts(members, kind.image());
        if matches!(kind, Kind::Unit | Kind::ConfigFile) {
            builder = builder.etcd(Etcd::version("3.6").await?);
        }
        let hosts = more(builder).start().await?;
        let mut cluster = Self { hosts, kind, members, tls: None };
        cluster.hosts.complete = false;
        if kind.scheme() == "https" {
            cluster.certify().await?;
        }
        try_join_all(cluster.members().iter().map(|host| cluster.install(host))).await?;
        cluster.wait_healthy().await?;
        cluster.hosts.complete = true;
        Ok(cluster)
    }

    /// How etcd is run.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The hosts, members first.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// The hosts, to be powered off and on.
    pub fn hosts_mut(&mut self) -> &mut Hosts {
        &mut self.hosts
    }

    /// The hosts that have a member.
    pub fn members(&self) -> &[Host] {
        &self.hosts.all()[..self.members]
    }

    /// Every member's client URL.
    pub fn endpoints(&self) -> Vec<String> {
        self.members().iter().map(|host| self.url(host.address(), 2379)).collect()
    }

    /// What a client needs, where the cluster has TLS.
    pub fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    /// A client of all members. It reaches none behind a jump host.
    pub async fn client(&self) -> Result<Client> {
        let mut options = ConnectOptions::new();
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls_options(&tls.ca, Some(&tls.client))?);
        }
        let endpoints = self.endpoints();
        Client::connect(&endpoints, Some(options))
            .await
            .map_err(|source| Error::because(format!("connecting to {endpoints:?}"), source))
    }

    /// Runs etcdctl on a member's host, against that member unless the arguments say
    /// otherwise, and returns what it printed.
    pub async fn etcdctl<A: AsRef<OsStr>>(
        &self,
        place: usize,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let host = self.hosts.host(place);
        let mut command: Vec<OsString> = vec!["env".into(), "ETCDCTL_API=3".into()];
        command.push(format!("ETCDCTL_ENDPOINTS={}", self.url(host.address(), 2379)).into());
        if self.tls.is_some() {
            command.push(format!("ETCDCTL_CACERT={PKI}/ca.crt").into());
            command.push(format!("ETCDCTL_CERT={PKI}/server.crt").into());
            command.push(format!("ETCDCTL_KEY={PKI}/server.key").into());
        }
        command.push("etcdctl".into());
        command.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        host.check(command).await
    }

    /// Waits until every member that is on answers, all follow one leader, and each
    /// lists as many members as there are.
    pub async fn wait_healthy(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let unhealthy = match self.observe().await {
                Ok(None) => return Ok(()),
                Ok(Some(why)) => Error::new(why),
                Err(error) => error,
            };
            if start.elapsed() > HEALTHY_BOUND {
                let text = format!("the cluster was not healthy within {HEALTHY_BOUND:?}");
                return Err(Error::because(text, unhealthy));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Why the cluster is not healthy.
    async fn observe(&self) -> Result<Option<String>> {
        let mut leaders = Vec::new();
        for (place, host) in self.members().iter().enumerate().filter(|(_, host)| host.is_on()) {
            let said = self.etcdctl(place, ["endpoint", "status", "-w", "json"]).await?;
            leaders.push(parse(&said)?.pointer("/0/Status/leader").and_then(Value::as_u64));
            let said = self.etcdctl(place, ["member", "list", "-w", "json"]).await?;
            let listed = parse(&said)?.pointer("/members").and_then(Value::as_array).map(Vec::len);
            if listed != Some(self.members) {
                return Ok(Some(format!("{} lists {listed:?} members", host.name())));
            }
        }
        leaders.dedup();
        match leaders[..] {
            [Some(leader)] if leader != 0 => Ok(None),
            _ => Ok(Some(format!("the leaders are {leaders:x?}"))),
        }
    }

    fn url(&self, address: Ipv4Addr, port: u16) -> String {
        format!("{}://{address}:{port}", self.kind.scheme())
    }

    /// Issues everyone's certificates and lays the members' on their hosts.
    async fn certify(&mut self) -> Result<()> {
        let directory = self.hosts.directory().join("pki");
        let authority = Authority::create(&directory, "ca")?;
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|source| Error::because(format!("reading {}", path.display()), source))
        };
        let ca = read(&authority.certificate())?;
        for host in self.members() {
            let names = ["localhost", "127.0.0.1", host.name(), &host.address().to_string()];
            let names: Vec<String> = names.map(str::to_owned).into();
            host.write_as(&format!("{PKI}/ca.crt"), &ca, "etcd", 0o644).await?;
            for part in ["server", "peer"] {
                let file = format!("{}-{part}", host.name());
                let identity = authority.server_for(&file, names.clone())?;
                let (cert, key) = (read(&identity.cert)?, read(&identity.key)?);
                host.write_as(&format!("{PKI}/{part}.crt"), &cert, "etcd", 0o644).await?;
                host.write_as(&format!("{PKI}/{part}.key"), &key, "etcd", 0o600).await?;
            }
        }
        let client = authority.client("root", "root", Validity::Current)?;
        self.tls = Some(ClientTls { ca: authority.certificate(), client });
        Ok(())
    }

    /// Writes a member's settings and starts it. `systemctl` returns when the member
    /// is ready, for which it needs the others.
    async fn install(&self, host: &Host) -> Result<()> {
        let settings = self.settings(host);
        match self.kind {
            Kind::Debian12 | Kind::Debian13 => {
                let text: String = settings.iter().fold(
                    "# Set by the operator; the package's own file is all comments.\n".to_owned(),
                    |mut text, (name, value)| {
                        let name = name.replace('-', "_").to_uppercase();
                        let _ = writeln!(text, "ETCD_{name}=\"{value}\"");
                        text
                    },
                );
                host.write(self.kind.settings_file(), text.as_bytes()).await?;
            }
            Kind::Unit => {
                let arguments: String = settings.iter().fold(String::new(), |mut text, (n, v)| {
                    let _ = write!(text, " \\\n  --{n}={v}");
                    text
                });
                let unit = unit(&format!("/usr/local/bin/etcd{arguments}"));
                host.write(self.kind.settings_file(), unit.as_bytes()).await?;
                let drop_in = "[Service]\nEnvironment=ETCD_AUTO_COMPACTION_RETENTION=8h\n\
                               Environment=\"ETCD_QUOTA_BACKEND_BYTES=4294967296\"\n";
                let path = "/etc/systemd/system/etcd.service.d/10-limits.conf";
                host.write(path, drop_in.as_bytes()).await?;
            }
            Kind::ConfigFile => {
                let unit = unit("/usr/local/bin/etcd --config-file /etc/etcd/etcd.yaml");
                host.write("/etc/systemd/system/etcd.service", unit.as_bytes()).await?;
                let yaml = self.yaml(host);
                host.write(self.kind.settings_file(), yaml.as_bytes()).await?;
            }
        }
        host.check(["systemctl", "daemon-reload"]).await?;
        host.check(["systemctl", "enable", "--now", "etcd.service"]).await.map(drop)
    }

    fn initial_cluster(&self) -> String {
        let member = |host: &Host| format!("{}={}", host.name(), self.url(host.address(), 2380));
        self.members().iter().map(member).collect::<Vec<_>>().join(",")
    }

    /// etcd's flags, in its own order.
    fn settings(&self, host: &Host) -> Vec<(&'static str, String)> {
        let (client, peer) = (self.url(host.address(), 2379), self.url(host.address(), 2380));
        let mut settings = vec![
            ("name", host.name().to_owned()),
            ("data-dir", self.kind.data_dir().to_owned()),
            ("listen-peer-urls", peer.clone()),
            ("listen-client-urls", format!("{client},{}", self.url(Ipv4Addr::LOCALHOST, 2379))),
            ("initial-advertise-peer-urls", peer),
            ("advertise-client-urls", client),
            ("initial-cluster", self.initial_cluster()),
            ("initial-cluster-token", "hosts".to_owned()),
            ("initial-cluster-state", "new".to_owned()),
        ];
        if self.tls.is_some() {
            for (prefix, part) in [("", "server"), ("peer-", "peer")] {
                let flag = |name| match (prefix, name) {
                    ("", "cert") => "cert-file",
                    ("", "key") => "key-file",
                    ("", "ca") => "trusted-ca-file",
                    ("", _) => "client-cert-auth",
                    (_, "cert") => "peer-cert-file",
                    (_, "key") => "peer-key-file",
                    (_, "ca") => "peer-trusted-ca-file",
                    (_, _) => "peer-client-cert-auth",
                };
                settings.push((flag("cert"), format!("{PKI}/{part}.crt")));
                settings.push((flag("key"), format!("{PKI}/{part}.key")));
                settings.push((flag("ca"), format!("{PKI}/ca.crt")));
                settings.push((flag("auth"), "true".to_owned()));
            }
        }
        settings
    }

    /// The same in etcd's configuration file, which has security in sections.
    fn yaml(&self, host: &Host) -> String {
        let mut text = "# This host's member.\n".to_owned();
        for (name, value) in self.settings(host) {
            if !name.contains("cert") && !name.contains("key") && !name.contains("trusted") {
                let _ = writeln!(text, "{name}: {value}");
            }
        }
        for (section, part) in
            [("client-transport-security", "server"), ("peer-transport-security", "peer")]
        {
            let _ = writeln!(text, "{section}:");
            let _ = writeln!(text, "  cert-file: {PKI}/{part}.crt\n  key-file: {PKI}/{part}.key");
            let _ = writeln!(text, "  trusted-ca-file: {PKI}/ca.crt\n  client-cert-auth: true");
        }
        text
    }
}

/// The unit as an operator would write it.
fn unit(command: &str) -> String {
    format!(
        "[Unit]\nDescription=etcd\nAfter=network-online.target\nWants=network-online.target\n\n\
         [Service]\nType=notify\nUser=etcd\nExecStart={command}\nRestart=always\nRestartSec=2\n\
         LimitNOFILE=40000\n\n[Install]\nWantedBy=multi-user.target\n"
    )
}

fn parse(json: &str) -> Result<Value> {
    serde_json::from_str(json)
        .map_err(|source| Error::because(format!("reading what etcdctl said: {json}"), source))
}

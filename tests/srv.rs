//! Members found by DNS (rows 13 and 14 of the procedures): a real dnsmasq names real
//! members, and the program needs nothing but the domain.

#[path = "common/program.rs"]
mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use etcdvault::etcd::discovery::{Outcome, lookup};
use etcdvault::types::SrvDomain;
use harness::etcd::{Cluster, Security};
use harness::port::Port;
use harness::process::Process;

use common::{new_vault, program, says};

const DOMAIN: &str = "example.test";

/// A name server on loopback that knows nothing but `records`.
struct Dns {
    _process: Process,
    port: Port,
}

impl Dns {
    /// `records` are `service,host,port[,priority[,weight]]` with the service as in
    /// `_etcd-client._tcp`.
    async fn start(folder: &Path, records: &[String]) -> Self {
        let port = Port::reserve().unwrap();
        let mut args = vec![
            "--keep-in-foreground".to_owned(),
            "--conf-file=/dev/null".to_owned(),
            "--pid-file=".to_owned(),
            "--log-facility=-".to_owned(),
            "--no-resolv".to_owned(),
            "--no-hosts".to_owned(),
            "--bind-interfaces".to_owned(),
            "--listen-address=127.0.0.1".to_owned(),
            format!("--port={}", port.number()),
            format!("--local=/{DOMAIN}/"),
            format!("--user={}", if rustix::process::geteuid().is_root() { "root" } else { "" }),
        ];
        for record in records {
            let (service, rest) = record.split_once(',').unwrap();
            args.push(format!("--srv-host={service}.{DOMAIN},{rest}"));
        }
        let dnsmasq = ["/usr/sbin/dnsmasq", "/usr/bin/dnsmasq"]
            .into_iter()
            .map(Path::new)
            .find(|path| path.exists())
            .expect("dnsmasq is installed by tests/servers/deps.sh");
        let log = folder.join("dnsmasq.log");
        let mut process = Process::start(dnsmasq, args, &[], &log).unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port.number())).is_err() {
            assert!(process.ended().unwrap().is_none(), "{}", process.tail());
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", process.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { _process: process, port }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    fn srv(&self, name: Option<&str>) -> SrvDomain {
        SrvDomain {
            domain: DOMAIN.to_owned(),
            name: name.map(str::to_owned),
            nameserver: Some(self.address().parse::<SocketAddr>().unwrap()),
        }
    }
}

/// A record for each member of `cluster`; its name is one that certificates list.
fn records(service: &str, cluster: &Cluster) -> Vec<String> {
    let port = |url: &String| url.rsplit(':').next().unwrap().to_owned();
    cluster.endpoints().iter().map(|url| format!("{service},localhost,{}", port(url))).collect()
}

#[tokio::test]
async fn row_13_plain_members_by_their_domain() {
    let root = tempfile::tempdir().unwrap();
    let cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    let dns = Dns::start(root.path(), &records("_etcd-client._tcp", &cluster)).await;
    let vault = new_vault(root.path()).await;
    let cli = program()
        .vault(&vault)
        .env("ETCDCTL_DISCOVERY_SRV", DOMAIN)
        .env("ETCDVAULT_DISCOVERY_SRV_NAMESERVER", dns.address());

    let status = cli.run(["status", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(status["members"].as_array().unwrap().len(), 3, "{status}");
    let flags = ["backup", "--cluster", "prod", "--discovery-srv", "example.test.", "--json"];
    let report = cli.run(flags).await.unwrap().expect(0).json();
    assert_eq!(report["proof"]["state"], "proven", "{report}");
    assert_eq!(report["members"].as_array().unwrap().len(), 3, "{report}");

    // Named closer to the command, endpoints go before the domain of the environment.
    let port = Port::reserve().unwrap();
    let dead = format!("http://127.0.0.1:{}", port.number());
    cli.run(["status", "--endpoints", &dead]).await.unwrap().expect(30);
    let two = ["status", "--endpoints", &dead, "--discovery-srv", DOMAIN];
    says(&cli.run(two).await.unwrap().expect(2), &["--discovery-srv and --endpoints"]);

    // From the configuration, where the domain is all that is said of the members.
    let config = root.path().join("etcdvault.toml");
    let text = format!(
        "[cluster.prod]\ndiscovery-srv = {DOMAIN:?}\ndiscovery-srv-nameserver = {:?}\n\
         [vault.main]\nlocation = \"vault\"\n",
        dns.address()
    );
    std::fs::write(&config, text).unwrap();
    let cli = program().env("ETCDVAULT_CONFIG", &config);
    let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(report["cluster"], "prod", "{report}");
    assert_eq!(report["proof"]["state"], "proven", "{report}");
}

#[tokio::test]
async fn row_13_tls_members_under_a_name_of_their_own() {
    let root = tempfile::tempdir().unwrap();
    let cluster =
        Cluster::builder("3.5").security(Security::ClientCertificates).start().await.unwrap();
    let dead = Port::reserve().unwrap();
    let mut all = records("_etcd-client-ssl-k8s._tcp", &cluster);
    all.push(format!("_etcd-client-k8s._tcp,localhost,{}", dead.number()));
    let dns = Dns::start(root.path(), &all).await;

    let found = lookup(&dns.srv(Some("k8s")), Duration::from_secs(60)).await.unwrap();
    assert_eq!(found.peer_tls.outcome, Outcome::Absent, "{found:?}");
    let endpoints: Vec<_> = found.client_endpoints().iter().map(ToString::to_string).collect();
    let tls = cluster.endpoints()[0].replace("127.0.0.1", "localhost");
    assert_eq!(endpoints, [tls.clone(), format!("http://localhost:{}", dead.number())]);

    let material = cluster.tls().unwrap();
    let mut args: Vec<_> =
        ["status", "--discovery-srv-name", "k8s", "--json"].map(Into::into).into();
    for (flag, file) in [
        ("--cacert", material.ca()),
        ("--cert", material.root.cert.clone()),
        ("--key", material.root.key.clone()),
    ] {
        args.extend([std::ffi::OsString::from(flag), file.into()]);
    }
    let cli = program()
        .env("ETCDVAULT_DISCOVERY_SRV", DOMAIN)
        .env("ETCDVAULT_DISCOVERY_SRV_NAMESERVER", dns.address());
    // Everything found is tried: the plain record leads nowhere, and that is said.
    let status = cli.run(&args).await.unwrap().expect(3).json();
    let members = status["members"].as_array().unwrap();
    assert_eq!(members.len(), 2, "{status}");
    assert!(members.iter().any(|m| m["endpoint"] == tls.as_str() && !m["status"].is_null()));
}

#[tokio::test]
async fn a_domain_without_records_says_what_was_asked() {
    let root = tempfile::tempdir().unwrap();
    let dns = Dns::start(root.path(), &["_etcd-client._tcp,.,0".to_owned()]).await;
    let cli = program().env("ETCDVAULT_DISCOVERY_SRV_NAMESERVER", dns.address());
    let flags = ["status", "--discovery-srv", DOMAIN, "--discovery-srv-name", "k8s"];
    let ran = cli.run(flags).await.unwrap().expect(30);
    says(
        &ran,
        &[
            "_etcd-client-ssl-k8s._tcp.example.test: no such records",
            "_etcd-client-k8s._tcp.example.test: no such records",
            "dig +short SRV _etcd-client-ssl-k8s._tcp.example.test",
            "--endpoints",
        ],
    );

    // Nobody answers there: told from an empty domain, and within the bound.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = silent.local_addr().unwrap().to_string();
    let flags = ["status", "--discovery-srv", DOMAIN, "--command-timeout", "2s"];
    let ran = program()
        .env("ETCDVAULT_DISCOVERY_SRV_NAMESERVER", &server)
        .run(flags)
        .await
        .unwrap()
        .expect(30);
    says(&ran, &[&format!("look at {server}"), "_etcd-client-ssl._tcp.example.test: "]);
    assert!(!ran.stderr.contains("no such records"), "{ran}");

    for (flags, what) in [
        (["--discovery-srv", "a b"], "no domain"),
        (["--discovery-srv-name", "x"], "without a domain"),
    ] {
        let ran = program().run(["status"].iter().chain(&flags)).await.unwrap().expect(2);
        says(&ran, &[what]);
    }
}

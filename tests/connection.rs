//! What goes wrong on the way to etcd is told apart, each by what a person can do
//! about it. Real servers, every case.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcdvault::etcd::{
    ConnectionSettings, Connector, Credentials, EtcdError, EtcdErrorKind, MemberStatus,
};
use etcdvault::types::{Endpoint, Secret};
use harness::etcd::{Cluster, Security};
use harness::tls::Identity;

fn settings(url: &str) -> ConnectionSettings {
    ConnectionSettings {
        endpoints: vec![Endpoint::parse(url, false).unwrap()],
        ca_file: None,
        cert_file: None,
        key_file: None,
        credentials: None,
        dial_timeout: Duration::from_secs(20),
        command_timeout: Duration::from_secs(20),
    }
}

async fn status(settings: &ConnectionSettings) -> Result<MemberStatus, EtcdError> {
    let connector = Connector::new(settings).unwrap();
    connector.open(&settings.endpoints[0]).await.map(|(_, status)| status)
}

async fn kind(settings: &ConnectionSettings) -> EtcdErrorKind {
    let error = status(settings).await.unwrap_err();
    assert!(!error.to_string().contains("geheim"), "{error}");
    error.kind
}

struct Pki {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

fn with(mut settings: ConnectionSettings, pki: &Pki) -> ConnectionSettings {
    settings.ca_file = Some(pki.ca.clone());
    settings.cert_file = Some(pki.cert.clone());
    settings.key_file = Some(pki.key.clone());
    settings
}

#[tokio::test]
async fn nobody_listens_or_nobody_answers() {
    let port = harness::port::Port::reserve().unwrap();
    let closed = settings(&format!("http://127.0.0.1:{}", port.number()));
    assert_eq!(kind(&closed).await, EtcdErrorKind::Unreachable);

    // A listener that accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    for scheme in ["http", "https"] {
        let begun = Instant::now();
        let bound = Duration::from_secs(1);
        let impatient = ConnectionSettings {
            dial_timeout: bound,
            command_timeout: bound,
            ..settings(&format!("{scheme}://{address}"))
        };
        assert_eq!(kind(&impatient).await, EtcdErrorKind::Timeout);
        assert!(begun.elapsed() < Duration::from_secs(19), "the wait is bounded");
    }
}

#[tokio::test]
async fn certificates_are_told_apart() {
    let cluster =
        Cluster::builder("3.6").security(Security::ClientCertificates).start().await.unwrap();
    let material = cluster.tls().unwrap();
    let url = cluster.endpoints()[0].clone();
    let good =
        Pki { ca: material.ca(), cert: material.root.cert.clone(), key: material.root.key.clone() };
    let answer = status(&with(settings(&url), &good)).await.unwrap();
    assert!(answer.is_leader());
    assert_eq!(answer.version, cluster.etcd().full_version());

    let wrong_ca = Pki { ca: material.other.certificate(), ..copy(&good) };
    assert_eq!(kind(&with(settings(&url), &wrong_ca)).await, EtcdErrorKind::UnknownCa);

    let using = |identity: &Identity| Pki {
        ca: good.ca.clone(),
        cert: identity.cert.clone(),
        key: identity.key.clone(),
    };
    let told = kind(&with(settings(&url), &using(&material.expired))).await;
    assert!(matches!(told, EtcdErrorKind::ClientCertificate | EtcdErrorKind::Expired), "{told:?}");
    let told = kind(&with(settings(&url), &using(&material.foreign))).await;
    assert_eq!(told, EtcdErrorKind::ClientCertificate);

    let mut without = settings(&url);
    without.ca_file = Some(good.ca.clone());
    assert_eq!(kind(&without).await, EtcdErrorKind::ClientCertificate);

    // Plain HTTP to the TLS port.
    let plain = url.replace("https://", "http://");
    assert_eq!(kind(&settings(&plain)).await, EtcdErrorKind::TlsPort);
}

#[tokio::test]
async fn tls_to_a_plain_port() {
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let url = cluster.endpoints()[0].replace("http://", "https://");
    assert_eq!(kind(&settings(&url)).await, EtcdErrorKind::PlainPort);
}

#[tokio::test]
async fn users_are_told_apart() {
    for series in ["3.4", "3.6"] {
        let cluster = Cluster::builder(series).start().await.unwrap();
        let mut client = cluster.client().await.unwrap();
        client.user_add("root", "geheim", None).await.unwrap();
        client.role_add("root").await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.user_add("reader", "geheim", None).await.unwrap();
        client.auth_enable().await.unwrap();

        let user = |name: &str, password: &str| {
            let mut settings = settings(&cluster.endpoints()[0]);
            settings.credentials =
                Some(Credentials { user: name.into(), password: Secret::new(password) });
            settings
        };
        assert_eq!(kind(&user("root", "falsch-geheim")).await, EtcdErrorKind::WrongPassword);
        assert_eq!(snapshot(&user("root", "geheim")).await, None, "{series}");
        assert_eq!(
            snapshot(&user("reader", "geheim")).await,
            Some(EtcdErrorKind::PermissionDenied),
            "{series}"
        );
        let nobody = snapshot(&settings(&cluster.endpoints()[0])).await;
        assert_eq!(nobody, Some(EtcdErrorKind::AuthRequired), "{series}");
    }
}

/// Begins a snapshot; the kind of the error, if it is refused.
async fn snapshot(settings: &ConnectionSettings) -> Option<EtcdErrorKind> {
    let connector = Connector::new(settings).unwrap();
    let mut member = connector.connect(&settings.endpoints[0]).await.unwrap();
    match member.snapshot().await {
        Ok(mut stream) => {
            let total = stream.total().unwrap();
            let mut received = 0;
            while let Some(chunk) = stream.next().await.unwrap() {
                received += chunk.len() as u64;
            }
            assert_eq!(received, total, "the announced size is the real one");
            None
        }
        Err(error) => Some(error.kind),
    }
}

#[tokio::test]
async fn a_file_that_is_no_certificate_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.crt");
    std::fs::write(&path, "not a certificate").unwrap();
    for bad in [path.as_path(), Path::new("/nonexistent/ca.crt")] {
        let mut settings = settings("https://127.0.0.1:1");
        settings.ca_file = Some(bad.to_owned());
        let error = Connector::new(&settings).unwrap_err();
        assert!(error.to_string().contains(bad.to_str().unwrap()), "{error}");
    }
}

fn copy(pki: &Pki) -> Pki {
    Pki { ca: pki.ca.clone(), cert: pki.cert.clone(), key: pki.key.clone() }
}

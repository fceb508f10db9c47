//! S3 servers: SeaweedFS and MinIO as they are, and one in this process that
//! makes the faults that a script asks for.

mod faulty;
mod memory;
mod minio;
mod seaweedfs;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

pub use self::faulty::{Fault, FaultyS3, Op};
pub use self::minio::Minio;
pub use self::seaweedfs::SeaweedFs;
use crate::process::Process;
use crate::{Error, Result};

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(120);

/// How a server is reached: everything that a client has to be told.
#[derive(Debug, Clone)]
pub struct Access {
    /// `http://127.0.0.1:<port>` or `https://…`.
    pub url: String,
    /// The access key id.
    pub access_key: String,
    /// The secret access key.
    pub secret_key: String,
    /// The session token of temporary credentials.
    pub session_token: Option<String>,
    /// The certificate authority of a server with TLS.
    pub ca: Option<PathBuf>,
}

impl Access {
    /// A plain client, to prepare and to look behind the store's back.
    pub fn client(&self) -> Client {
        let http = match &self.ca {
            Some(ca) => {
                let pem = std::fs::read(ca).unwrap_or_default();
                let trust = TrustStore::empty().with_pem_certificate(pem);
                let tls = TlsContext::builder().with_trust_store(trust);
                let http = aws_smithy_http_client::Builder::new()
                    .tls_provider(Provider::Rustls(CryptoMode::Ring));
                tls.build().map(|tls| http.clone().tls_context(tls)).unwrap_or(http).build_https()
            }
            None => aws_smithy_http_client::Builder::new().build_http(),
        };
        let token = self.session_token.clone();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::from_static("us-east-1"))
            .endpoint_url(&self.url)
            .force_path_style(true)
            .credentials_provider(Credentials::new(
                &self.access_key,
                &self.secret_key,
                token,
                None,
                "harness",
            ))
            .request_checksum_calculation(
                aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired,
            )
            .http_client(http)
            .build();
        Client::from_conf(config)
    }

    /// Creates a bucket.
    pub async fn create_bucket(&self, name: &str) -> Result<()> {
        let made = self.client().create_bucket().bucket(name).send().await;
        made.map(drop).map_err(|source| Error::because(format!("creating bucket {name}"), source))
    }

    /// The uploads that are neither completed nor aborted, as `key` and id.
    /// MinIO lists those of one key only.
    pub async fn uploads(&self, bucket: &str, prefix: &str) -> Result<Vec<(String, String)>> {
        let list = self.client().list_multipart_uploads().bucket(bucket).prefix(prefix);
        let list = list
            .send()
            .await
            .map_err(|source| Error::because(format!("listing uploads of {bucket}"), source))?;
        let name = |text: Option<&str>| text.unwrap_or_default().to_owned();
        Ok(list.uploads().iter().map(|u| (name(u.key()), name(u.upload_id()))).collect())
    }
}

/// The program of an S3 server, installed when it is not there yet.
fn installed(name: &str, program: &str) -> Result<PathBuf> {
    let script = crate::cache::scripts().join("install-s3.sh");
    let output = Command::new(&script)
        .arg(name)
        .output()
        .map_err(|source| Error::because(format!("running {}", script.display()), source))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(format!("{} {name} failed\n{said}", script.display())));
    }
    let directory = String::from_utf8_lossy(&output.stdout);
    Ok(PathBuf::from(directory.trim()).join(program))
}

/// Waits until the server answers a signed request.
async fn ready(access: &Access, process: &mut Process) -> Result<()> {
    let start = Instant::now();
    loop {
        if let Some(status) = process.ended()? {
            let text = format!("the S3 server ended: {status}\n{}", process.tail());
            return Err(Error::new(text));
        }
        let asked = access.client();
        let answer = tokio::time::timeout(Duration::from_secs(5), asked.list_buckets().send());
        if matches!(answer.await, Ok(Ok(_))) {
            return Ok(());
        }
        if start.elapsed() > START {
            let text = format!("the S3 server does not answer within {START:?}");
            return Err(Error::new(format!("{text}\n{}", process.tail())));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A directory that stays when the test panics, for the log in it.
#[derive(Debug)]
struct Scratch(Option<tempfile::TempDir>);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let made = tempfile::Builder::new().prefix(&format!("etcdvault-{name}-")).tempdir();
        made.map(|dir| Self(Some(dir)))
            .map_err(|source| Error::because(format!("creating a directory for {name}"), source))
    }

    fn path(&self) -> PathBuf {
        self.0.as_ref().map(|dir| dir.path().to_owned()).unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.0.take()
        {
            let _ = dir.keep();
        }
    }
}

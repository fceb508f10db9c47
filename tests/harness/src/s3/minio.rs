//! MinIO on one directory.

use std::ffi::OsString;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};

use super::{Access, Scratch, installed, ready};
use crate::port::Port;
use crate::process::Process;
use crate::tls::Authority;
use crate::{Error, Result};

const USER: &str = "vaultadmin";
const PASSWORD: &str = "vault-admin-secret";

/// A running MinIO; stopped on drop.
#[derive(Debug)]
pub struct Minio {
    process: Process,
    access: Access,
    _port: Port,
    _scratch: Scratch,
}

impl Minio {
    /// Starts one over plain HTTP.
    pub async fn start() -> Result<Self> {
        Self::launch(false).await
    }

    /// Starts one with a certificate for loopback by an authority of its own.
    pub async fn start_tls() -> Result<Self> {
        Self::launch(true).await
    }

    async fn launch(tls: bool) -> Result<Self> {
        let program = installed("minio", "minio")?;
        let scratch = Scratch::new("minio")?;
        let (data, certs) = (scratch.path().join("data"), scratch.path().join("certs"));
        for directory in [&data, &certs] {
            std::fs::create_dir_all(directory).map_err(|source| {
                Error::because(format!("creating {}", directory.display()), source)
            })?;
        }
        let mut ca = None;
        if tls {
            let authority = Authority::create(&scratch.path(), "s3-ca")?;
            let identity = authority.server("s3-server")?;
            for (from, to) in [(&identity.cert, "public.crt"), (&identity.key, "private.key")] {
                std::fs::copy(from, certs.join(to)).map_err(|source| {
                    Error::because(format!("copying {}", from.display()), source)
                })?;
            }
            ca = Some(authority.certificate());
        }
        let port = Port::reserve()?;
        let address = format!("127.0.0.1:{}", port.number());
        let console = Port::reserve()?;
        let args = [
            OsString::from("server"),
            "--address".into(),
            address.clone().into(),
            "--console-address".into(),
            format!("127.0.0.1:{}", console.number()).into(),
            "--certs-dir".into(),
            certs.into(),
            data.into(),
        ];
        let environment = [
            ("MINIO_ROOT_USER", OsString::from(USER)),
            ("MINIO_ROOT_PASSWORD", PASSWORD.into()),
            ("MINIO_BROWSER", "off".into()),
            ("MINIO_UPDATE", "off".into()),
            // It keeps a directory of its own there.
            ("HOME", scratch.path().into()),
        ];
        let environment = environment.map(|(key, value)| (key.into(), value));
        let log = scratch.path().join("log");
        let mut process = Process::start(&program, args, &environment, &log)?;
        let access = Access {
            url: format!("{}://{address}", if tls { "https" } else { "http" }),
            access_key: USER.to_owned(),
            secret_key: PASSWORD.to_owned(),
            session_token: None,
            ca,
        };
        ready(&access, &mut process).await?;
        Ok(Self { process, access, _port: port, _scratch: scratch })
    }

    /// How it is reached, as its administrator.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Temporary credentials with no more rights than `policy` gives.
    pub async fn restricted(&self, policy: &str) -> Result<Access> {
        let http = aws_smithy_http_client::Builder::new().build_http();
        let config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::from_static("us-east-1"))
            .endpoint_url(&self.access.url)
            .credentials_provider(Credentials::new(USER, PASSWORD, None, None, "harness"))
            .http_client(http)
            .build();
        let role = aws_sdk_sts::Client::from_conf(config)
            .assume_role()
            .role_arn("arn:xxx:xxx:xxx:xxxx")
            .role_session_name("restricted")
            .policy(policy)
            .send()
            .await
            .map_err(|source| Error::because("assuming a restricted role", source))?;
        let given = role.credentials().ok_or_else(|| Error::new("the role has no credentials"))?;
        Ok(Access {
            access_key: given.access_key_id().to_owned(),
            secret_key: given.secret_access_key().to_owned(),
            session_token: Some(given.session_token().to_owned()),
            ..self.access.clone()
        })
    }
}

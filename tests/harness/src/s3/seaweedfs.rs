//! SeaweedFS: master, volume server, filer and S3 gateway in one process.

use std::ffi::OsString;

use serde_json::json;

use super::{Access, Scratch, installed, ready};
use crate::port::Port;
use crate::process::Process;
use crate::{Error, Result};

const USER: &str = "vaultadmin";
const PASSWORD: &str = "vault-admin-secret";

/// A running SeaweedFS; stopped on drop.
#[derive(Debug)]
pub struct SeaweedFs {
    process: Process,
    access: Access,
    _ports: Vec<Port>,
    _scratch: Scratch,
}

impl SeaweedFs {
    /// Starts one over plain HTTP.
    pub async fn start() -> Result<Self> {
        let program = installed("seaweedfs", "weed")?;
        let scratch = Scratch::new("seaweedfs")?;
        let identities = scratch.path().join("s3.json");
        let text = json!({"identities": [{
            "name": USER,
            "credentials": [{"accessKey": USER, "secretKey": PASSWORD}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }]});
        std::fs::write(&identities, text.to_string()).map_err(|source| {
            Error::because(format!("writing {}", identities.display()), source)
        })?;
        let mut args: Vec<OsString> =
            ["server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"].map(OsString::from).to_vec();
        args.push("-master.telemetry=false".into());
        args.push("-master.volumeSizeLimitMB=64".into());
        args.push("-volume.max=64".into());
        args.push(format!("-dir={}", scratch.path().display()).into());
        args.push(format!("-s3.config={}", identities.display()).into());
        let mut ports = Vec::new();
        let mut s3 = 0;
        for flag in ["master", "volume", "filer", "s3"] {
            for kind in ["port", "port.grpc"] {
                let port = Port::reserve()?;
                if (flag, kind) == ("s3", "port") {
                    s3 = port.number();
                }
                args.push(format!("-{flag}.{kind}={}", port.number()).into());
                ports.push(port);
            }
        }
        let log = scratch.path().join("log");
        // A key for encryption by the server; what it protects is test data.
        let environment = [
            ("HOME".into(), scratch.path().into()),
            ("WEED_S3_SSE_KEY".into(), "a passphrase for the tests".into()),
        ];
        let mut process = Process::start(&program, args, &environment, &log)?;
        let access = Access {
            url: format!("http://127.0.0.1:{s3}"),
            access_key: USER.to_owned(),
            secret_key: PASSWORD.to_owned(),
            session_token: None,
            ca: None,
        };
        ready(&access, &mut process).await?;
        Ok(Self { process, access, _ports: ports, _scratch: scratch })
    }

    /// How it is reached, as its administrator.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

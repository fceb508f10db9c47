//! A throwaway key, known host keys, and the `ssh_config` that names them.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Host, JUMP, Login, machine};
use crate::{Error, Result};

/// The directory with `id`, `id.pub`, `known_hosts` and `config`.
#[derive(Debug)]
pub(super) struct Ssh {
    directory: PathBuf,
    login: Login,
    public: String,
}

impl Ssh {
    /// Makes the key.
    pub(super) fn create(directory: &Path, login: Login) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| {
            Error::because(format!("creating {}", directory.display()), source)
        })?;
        let public = generate(&directory.join("id"), "operator")?;
        Ok(Self { directory: directory.to_owned(), login, public })
    }

    pub(super) fn config(&self) -> PathBuf {
        self.directory.join("config")
    }

    pub(super) fn known_hosts(&self) -> PathBuf {
        self.directory.join("known_hosts")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.directory.join("id")
    }

    /// Gives a host a key of its own and lets the operator in, before its first
    /// boot. The jump host lets `operator` in whatever the login of the others.
    pub(super) fn admit(&self, host: &Host) -> Result<()> {
        let key = self.directory.join(format!("host-{}", host.name()));
        let public = generate(&key, host.name())?;
        let private = fs::read(&key)
            .map_err(|source| Error::because(format!("reading {}", key.display()), source))?;
        host.put("etc/ssh/ssh_host_ed25519_key", &private, 0o600)?;
        host.put("etc/ssh/ssh_host_ed25519_key.pub", public.as_bytes(), 0o644)?;
        match self.login_to(host) {
            Login::Root => {
                host.put_directory("root/.ssh", 0o700)?;
                host.put("root/.ssh/authorized_keys", self.public.as_bytes(), 0o600)
            }
            Login::Operator => {
                // sshd takes a file of root's for any user; the home is then left alone.
                host.put("etc/ssh/authorized_keys/operator", self.public.as_bytes(), 0o644)?;
                let text = "PermitRootLogin no\nAuthorizedKeysFile /etc/ssh/authorized_keys/%u\n";
                host.put("etc/ssh/sshd_config.d/operator.conf", text.as_bytes(), 0o644)
            }
        }
    }

    fn login_to(&self, host: &Host) -> Login {
        if host.name() == JUMP { Login::Operator } else { self.login }
    }

    /// Writes `known_hosts` and `config`.
    pub(super) fn write_config(&self, hosts: &[Host], jump: bool) -> Result<()> {
        let (mut known, mut config) = (String::new(), String::new());
        for host in hosts {
            let key = self.directory.join(format!("host-{}.pub", host.name()));
            let public = fs::read_to_string(&key)
                .map_err(|source| Error::because(format!("reading {}", key.display()), source))?;
            let _ = writeln!(known, "{} {}", host.address(), public.trim());
            let user = match self.login_to(host) {
                Login::Root => "root",
                Login::Operator => "operator",
            };
            let _ = writeln!(config, "Host {}", host.name());
            let _ = writeln!(config, "  HostName {}\n  User {user}", host.address());
            if jump && host.name() != JUMP {
                let _ = writeln!(config, "  ProxyJump {JUMP}");
            }
        }
        let _ = writeln!(config, "Host *\n  IdentityFile {}", self.key().display());
        let _ = writeln!(config, "  UserKnownHostsFile {}", self.known_hosts().display());
        config.push_str("  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n");
        config.push_str("  IdentitiesOnly yes\n  IdentityAgent none\n  BatchMode yes\n");
        config.push_str("  ConnectTimeout 10\n  LogLevel ERROR\n");
        write(&self.known_hosts(), &known)?;
        write(&self.config(), &config)
    }
}

/// Makes an ed25519 key and returns its public half.
fn generate(path: &Path, comment: &str) -> Result<String> {
    let at = path.to_string_lossy();
    machine("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", at.as_ref()])?;
    let public = path.with_extension("pub");
    fs::read_to_string(&public)
        .map_err(|source| Error::because(format!("reading {}", public.display()), source))
}

fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| Error::because(format!("writing {}", path.display()), source))
}

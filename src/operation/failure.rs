//! Why an operation did not do what it was asked for.

use std::error::Error as StdError;

use crate::etcd::client::TlsFileError;
use crate::etcd::error::NO_USER;
use crate::etcd::{EtcdError, EtcdErrorKind};

/// The kinds of failure; the exit code follows from the kind alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Anything without a kind of its own.
    Error,
    /// The command line or a setting is wrong.
    Usage,
    /// There is no vault at the place that was named.
    NoVault,
    /// Somebody else is at work there.
    Busy,
    /// A password, key or identity is missing or wrong.
    Key,
    /// Stored bytes are not what was stored, or content is not what the cluster holds.
    Corrupt,
    /// The live cluster could not be reached or refused.
    Etcd,
    /// The vault's storage could not be reached, is full or refused.
    Storage,
    /// A signal ended the work: 2 for Ctrl-C, 15 for SIGTERM.
    Signal(i32),
}

/// A failed operation: what did not happen, what is the state now, why, and what
/// to do next.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: FailureKind,
    /// What did not happen ("backup of prod was not stored").
    pub what: String,
    /// One line for each thing that was tried or found.
    pub details: Vec<String>,
    /// The state things are in now, where it is not plain.
    pub state: Option<String>,
    /// Why: shown as a chain, once.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: FailureKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), details: Vec::new(), state: None, source: None, hint: None }
    }

    /// Adds why.
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds a line of detail.
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// Adds the state things are in now.
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.state = Some(state.into());
        self
    }

    /// Adds what to do next, unless something more specific is there already.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// The causes below `what`, outermost first, without repetitions.
    pub fn causes(&self) -> Vec<String> {
        match self.source.as_deref() {
            Some(source) => chain(source),
            None => Vec::new(),
        }
    }
}

/// An error and its causes, outermost first, without repetitions.
pub fn chain(error: &(dyn StdError + 'static)) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    // Bounded: a longer chain would be a bug of a library.
    for _ in 0..16 {
        let Some(cause) = next else { break };
        let text = cause.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = cause.source();
    }
    texts
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// What a person can do about an error of a member.
pub fn etcd_hint(error: &EtcdError) -> Option<String> {
    let endpoint = &error.endpoint;
    Some(match error.kind {
        EtcdErrorKind::Unreachable => format!(
            "is etcd running there? systemctl status etcd, or crictl ps -a --name etcd; \
             other endpoints: --endpoints (now {endpoint})"
        ),
        EtcdErrorKind::Timeout => "the member or the network hangs, or a firewall drops packets; \
             --dial-timeout and --command-timeout set how long to wait"
            .to_owned(),
        EtcdErrorKind::UnknownCa => {
            "give the CA that signed the member's certificate with --cacert; on a kubeadm node \
             it is /etc/kubernetes/pki/etcd/ca.crt"
                .to_owned()
        }
        EtcdErrorKind::Expired => {
            "look at the dates: openssl x509 -noout -dates -in CERT, and at this machine's clock; \
             on kubeadm: kubeadm certs renew all"
                .to_owned()
        }
        EtcdErrorKind::WrongName => {
            "connect by a name or address that the member's certificate lists \
             (openssl x509 -noout -ext subjectAltName -in CERT)"
                .to_owned()
        }
        EtcdErrorKind::ClientCertificate => {
            "this member wants a client certificate of its own CA: --cert and --key; on a kubeadm \
             node /etc/kubernetes/pki/etcd/healthcheck-client.{crt,key}"
                .to_owned()
        }
        EtcdErrorKind::Broken if endpoint.is_tls() => {
            "the member hung up; where it wants client certificates it may refuse this one: \
             --cert and --key"
                .to_owned()
        }
        EtcdErrorKind::PlainPort => {
            format!("this member serves plain HTTP: --endpoints {}", endpoint.with_tls(false))
        }
        EtcdErrorKind::TlsPort => format!(
            "this member serves TLS, it seems: --endpoints {} with --cacert",
            endpoint.with_tls(true)
        ),
        EtcdErrorKind::AuthRequired => {
            "authentication is enabled: --user NAME with --password-file FILE (or ETCDCTL_USER \
             and ETCDCTL_PASSWORD), or a client certificate whose CN is the user"
                .to_owned()
        }
        EtcdErrorKind::WrongPassword => {
            "check the user and the password (--user, --password-file, ETCDCTL_USER, \
             ETCDCTL_PASSWORD)"
                .to_owned()
        }
        EtcdErrorKind::PermissionDenied if error.detail.contains(NO_USER) => {
            "the user that a client certificate names, by its CN, is none of this cluster; a \
             snapshot needs one with the root role: etcdctl user add NAME --no-password, then \
             etcdctl user grant-role NAME root"
                .to_owned()
        }
        EtcdErrorKind::PermissionDenied => {
            "a snapshot and a HashKV need a user with the root role: \
             etcdctl user grant-role NAME root"
                .to_owned()
        }
        EtcdErrorKind::NoLeader => {
            "the cluster has no quorum; etcdvault status shows which members answer".to_owned()
        }
        EtcdErrorKind::Refused if error.detail.contains("HTTP status code") => {
            "something else than etcd answers there: a proxy, or another port than that for \
             clients, which is mostly 2379"
                .to_owned()
        }
        _ => return None,
    })
}

impl From<TlsFileError> for Failure {
    fn from(error: TlsFileError) -> Self {
        Self::new(FailureKind::Key, error.to_string())
            .hint("--cacert, --cert and --key take PEM files; a node's own need root to read")
    }
}

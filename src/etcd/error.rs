//! Why a member could not be reached or refused.

use std::error::Error as StdError;
use std::fmt::Write as _;

use crate::types::Endpoint;

/// What a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EtcdErrorKind {
    /// Nothing listens there, or the host is not reachable.
    Unreachable,
    /// No answer within the bound.
    Timeout,
    /// The member's certificate is not signed by the CA that was given.
    UnknownCa,
    /// A certificate has expired, or is not valid yet.
    Expired,
    /// The member's certificate is for other names.
    WrongName,
    /// The member wants a client certificate, or refuses the one that was sent.
    ClientCertificate,
    /// TLS was spoken to a port that speaks plain HTTP.
    PlainPort,
    /// Plain HTTP was spoken to a port that speaks TLS, or to something else.
    TlsPort,
    /// A file with a certificate or key cannot be used.
    TlsFile,
    /// Any other trouble with TLS.
    Tls,
    /// Authentication is enabled and no user was given.
    AuthRequired,
    /// The user or the password is wrong.
    WrongPassword,
    /// The user may not do this.
    PermissionDenied,
    /// The cluster has no leader: no quorum.
    NoLeader,
    /// The revision was compacted.
    Compacted,
    /// The member has not come to this revision yet.
    FutureRevision,
    /// The connection broke in the middle.
    Broken,
    /// The member does not know this call.
    Unsupported,
    /// The member answered with another error.
    Refused,
}

impl EtcdErrorKind {
    /// Whether a user, a password or a right is missing or wrong: ours to mend, while
    /// the member is there and well.
    pub fn is_of_key(self) -> bool {
        matches!(self, Self::AuthRequired | Self::WrongPassword | Self::PermissionDenied)
    }
}

/// What a member says of a certificate whose common name is no user.
pub(crate) const NO_USER: &str = "user name not found";

/// A failed act on one member.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{endpoint}: {act}: {detail}")]
pub struct EtcdError {
    /// What the caller can act on.
    pub kind: EtcdErrorKind,
    /// The member, boxed because errors travel in results.
    pub endpoint: Box<Endpoint>,
    /// The failed act, as a fragment ("connect", "read its status").
    pub act: &'static str,
    /// Why, with the chain of causes folded in: the client library's errors do
    /// not outlive the call.
    pub detail: String,
}

impl EtcdError {
    /// An error of `kind`.
    pub fn new(
        kind: EtcdErrorKind,
        endpoint: &Endpoint,
        act: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind, endpoint: Box::new(endpoint.clone()), act, detail: detail.into() }
    }

    /// A wait that ran out.
    pub fn timeout(endpoint: &Endpoint, act: &'static str, bound: std::time::Duration) -> Self {
        let detail = format!("no answer within {:.0} s", bound.as_secs_f64().max(1.0));
        Self::new(EtcdErrorKind::Timeout, endpoint, act, detail)
    }

    /// Reads the kind out of an error of the client library.
    pub fn from_client(endpoint: &Endpoint, act: &'static str, error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::from_status(endpoint, act, &status),
            etcd_client::Error::TransportError(error) => {
                Self::from_transport(endpoint, act, &error)
            }
            other => Self::new(EtcdErrorKind::Refused, endpoint, act, other.to_string()),
        }
    }

    /// Reads the kind out of a gRPC status.
    fn from_status(endpoint: &Endpoint, act: &'static str, status: &tonic::Status) -> Self {
        use tonic::Code;
        let message = status.message();
        let has = |text: &str| message.contains(text);
        // The texts are those of etcd's `api/v3rpc/rpctypes/error.go`; codes alone
        // do not tell them apart.
        let kind = match status.code() {
            _ if has("required revision has been compacted") => EtcdErrorKind::Compacted,
            _ if has("required revision is a future revision") => EtcdErrorKind::FutureRevision,
            _ if has("user name is empty") => EtcdErrorKind::AuthRequired,
            _ if has("authentication failed") || has("invalid auth token") => {
                EtcdErrorKind::WrongPassword
            }
            _ if has("no leader") || has("leader changed") => EtcdErrorKind::NoLeader,
            // 3.4 sends it without its code on streams.
            _ if has("permission denied") => EtcdErrorKind::PermissionDenied,
            // The common name of a client certificate.
            _ if has(NO_USER) => EtcdErrorKind::PermissionDenied,
            Code::PermissionDenied => EtcdErrorKind::PermissionDenied,
            Code::Unauthenticated => EtcdErrorKind::AuthRequired,
            Code::DeadlineExceeded => EtcdErrorKind::Timeout,
            Code::Cancelled if has("Timeout expired") => EtcdErrorKind::Timeout,
            Code::Unimplemented => EtcdErrorKind::Unsupported,
            _ => {
                // With a cause it comes from the connection, without one from the server.
                if let Some(source) = status.source() {
                    return Self::from_chain(endpoint, act, source, EtcdErrorKind::Broken);
                }
                EtcdErrorKind::Refused
            }
        };
        let detail = if message.is_empty() {
            status.code().description().to_owned()
        } else {
            message.trim_start_matches("etcdserver: ").to_owned()
        };
        Self::new(kind, endpoint, act, detail)
    }

    /// Reads the kind out of a failed connection.
    pub(super) fn from_transport(
        endpoint: &Endpoint,
        act: &'static str,
        error: &tonic::transport::Error,
    ) -> Self {
        Self::from_chain(endpoint, act, error, EtcdErrorKind::Unreachable)
    }

    fn from_chain(
        endpoint: &Endpoint,
        act: &'static str,
        error: &(dyn StdError + 'static),
        otherwise: EtcdErrorKind,
    ) -> Self {
        let mut kind = None;
        let mut detail = String::new();
        let mut of_system = None;
        let mut next = Some(error);
        // Bounded: a chain of causes that long would be a bug of a library.
        for _ in 0..16 {
            let Some(cause) = next else { break };
            kind = kind.or_else(|| kind_of_cause(cause));
            let text = cause.to_string();
            if text != "transport error" && !detail.contains(&text) {
                let separator = if detail.is_empty() { "" } else { ": " };
                let _ = write!(detail, "{separator}{text}");
            }
            let system =
                cause.downcast_ref::<std::io::Error>().filter(|e| e.raw_os_error().is_some());
            of_system = of_system.or_else(|| system.map(plain));
            // An io::Error shows the error it wraps, but its source skips it.
            next = match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => cause.source(),
            };
        }
        let kind = kind.unwrap_or(otherwise);
        // What the system says is all there is to know; the layers above only repeat it.
        let detail = of_system.unwrap_or(detail);
        let detail = match kind {
            EtcdErrorKind::TlsPort => format!("the port does not speak plain HTTP/2 ({detail})"),
            EtcdErrorKind::PlainPort => format!("the port does not speak TLS ({detail})"),
            _ => detail,
        };
        Self::new(kind, endpoint, act, detail)
    }
}

/// `connection refused`: an error of the system without its number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// The kind of an error of a socket or of the TLS above it, when it shows one.
pub(super) fn kind_of_io(error: &std::io::Error) -> Option<EtcdErrorKind> {
    match error.get_ref() {
        Some(inner) => kind_of_cause(inner).or_else(|| kind_of_cause(error)),
        None => kind_of_cause(error),
    }
}

fn kind_of_cause(cause: &(dyn StdError + 'static)) -> Option<EtcdErrorKind> {
    use rustls::{AlertDescription, CertificateError, Error as TlsError};
    if let Some(error) = cause.downcast_ref::<TlsError>() {
        return Some(match error {
            TlsError::InvalidCertificate(reason) => match reason {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => EtcdErrorKind::Expired,
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => EtcdErrorKind::WrongName,
                _ => EtcdErrorKind::UnknownCa,
            },
            TlsError::InvalidMessage(_) => EtcdErrorKind::PlainPort,
            TlsError::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateUnknown
                | AlertDescription::HandshakeFailure
                | AlertDescription::AccessDenied => EtcdErrorKind::ClientCertificate,
                AlertDescription::CertificateExpired => EtcdErrorKind::Expired,
                _ => EtcdErrorKind::Tls,
            },
            _ => EtcdErrorKind::Tls,
        });
    }
    // HTTP/2 keeps only the text of what ended its connection.
    if let Some((_, alert)) = cause.to_string().split_once("received fatal alert: ") {
        return Some(match alert {
            "CertificateExpired" => EtcdErrorKind::Expired,
            "CertificateRequired"
            | "BadCertificate"
            | "UnknownCA"
            | "UnknownCa"
            | "CertificateUnknown"
            | "HandshakeFailure"
            | "AccessDenied" => EtcdErrorKind::ClientCertificate,
            _ => EtcdErrorKind::Tls,
        });
    }
    if let Some(error) = cause.downcast_ref::<std::io::Error>() {
        return match error.kind() {
            // What a plain HTTP server does on a TLS greeting: it hangs up.
            std::io::ErrorKind::UnexpectedEof if error.to_string().contains("handshake") => {
                Some(EtcdErrorKind::PlainPort)
            }
            std::io::ErrorKind::TimedOut => Some(EtcdErrorKind::Timeout),
            std::io::ErrorKind::ConnectionRefused
            | std::io::ErrorKind::HostUnreachable
            | std::io::ErrorKind::NetworkUnreachable => Some(EtcdErrorKind::Unreachable),
            _ => None,
        };
    }
    None
}

//! Small types that every module shares.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A revision of etcd's store; 1 is the empty store.
pub type Revision = i64;

/// A 64-bit id of a member or a cluster, written as etcd writes it: lower-case
/// hexadecimal without leading zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HexId(pub u64);

impl fmt::Display for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for HexId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

impl Serialize for HexId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HexId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A version of etcd, as `3.6.16`; pre-release and build parts are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major part.
    pub major: u32,
    /// Minor part.
    pub minor: u32,
    /// Patch part.
    pub patch: u32,
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version such as 3.6 or 3.6.16")]
pub struct InvalidVersion(String);

impl Version {
    /// The version `major.minor.patch`.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Major and minor: what decides whether a store can be read.
    pub fn minor_line(&self) -> (u32, u32) {
        (self.major, self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidVersion(text.to_owned());
        let plain = text.strip_prefix('v').unwrap_or(text);
        let plain = plain.split(['-', '+']).next().unwrap_or(plain);
        let parts = plain
            .split('.')
            .map(|part| part.parse::<u32>().map_err(|_| invalid()))
            .collect::<Result<Vec<_>, _>>()?;
        match parts[..] {
            [major, minor] => Ok(Self::new(major, minor, 0)),
            [major, minor, patch] => Ok(Self::new(major, minor, patch)),
            _ => Err(invalid()),
        }
    }
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a member serves its clients: scheme, host and port, nothing else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    tls: bool,
    /// Host and port, IPv6 in brackets.
    authority: String,
}

/// A text that is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an endpoint: {why}")]
pub struct InvalidEndpoint {
    /// What was given, without what may be a password.
    pub text: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

impl Endpoint {
    /// Reads `https://host:port`, `http://host:port` or `host:port`. Without a
    /// scheme `tls_default` decides, as etcdctl does it: TLS when certificates
    /// are given. Without a port it is 2379.
    pub fn parse(text: &str, tls_default: bool) -> Result<Self, InvalidEndpoint> {
        let text = text.trim();
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(("unix" | "unixs", _)) => {
                return Err(invalid_endpoint(text, "unix sockets are not supported"));
            }
            Some(_) => return Err(invalid_endpoint(text, "the scheme must be http or https")),
            None => (tls_default, text),
        };
        let url = format!("https://{rest}");
        let url = url::Url::parse(&url)
            .map_err(|_| invalid_endpoint(text, "it is not of the form scheme://host:port"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid_endpoint(
                text,
                "it holds a user or password; give the user with --user and the password by file",
            ));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(invalid_endpoint(text, "nothing may follow the port"));
        }
        let host = url.host_str().ok_or_else(|| invalid_endpoint(text, "it has no host"))?;
        // The parser drops :443 as the default of https; a port that was typed counts.
        let typed_443 = rest.trim_end_matches('/').ends_with(":443");
        let port = url.port().unwrap_or(if typed_443 { 443 } else { 2379 });
        Ok(Self { tls, authority: format!("{host}:{port}") })
    }

    /// Whether the connection uses TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Host and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host alone, IPv6 without brackets.
    pub fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The same host and port with the other scheme.
    pub fn with_tls(&self, tls: bool) -> Self {
        Self { tls, authority: self.authority.clone() }
    }
}

fn invalid_endpoint(text: &str, why: &'static str) -> InvalidEndpoint {
    // What stands before an @ may be a password.
    let text = match text.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => text.to_owned(),
    };
    InvalidEndpoint { text, why }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that must not be shown: no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Name and password of an etcd user.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// How the members are reached.
#[derive(Debug, Clone)]
pub struct ConnectionSettings {
    /// Where the members serve their clients; at least one.
    pub endpoints: Vec<Endpoint>,
    /// PEM file with the CA of the members' certificates; the system's roots otherwise.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file with our key.
    pub key_file: Option<PathBuf>,
    /// User and password where authentication is enabled.
    pub credentials: Option<Credentials>,
    /// Bound on connecting, TLS and authentication included.
    pub dial_timeout: Duration,
    /// Bound on a short call.
    pub command_timeout: Duration,
}

/// Which SRV records name the members, as etcdctl's `--discovery-srv` has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SrvDomain {
    /// The domain, without `_etcd-client._tcp.` before it.
    pub domain: String,
    /// Suffix of the service's name (`--discovery-srv-name`): `_etcd-client-NAME._tcp`.
    pub name: Option<String>,
    /// Whom to ask instead of the name servers in `/etc/resolv.conf`. Only the SRV
    /// records: the names in them are resolved by the system.
    pub nameserver: Option<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_as_etcdctl_takes_them() {
        let show = |text, tls| Endpoint::parse(text, tls).map(|e| e.to_string());
        assert_eq!(show("10.0.0.1:2379", false).unwrap(), "http://10.0.0.1:2379");
        assert_eq!(show("10.0.0.1:2379", true).unwrap(), "https://10.0.0.1:2379");
        assert_eq!(show("http://etcd", true).unwrap(), "http://etcd:2379");
        assert_eq!(show(" https://[::1]:4001/ ", false).unwrap(), "https://[::1]:4001");
        assert_eq!(show("https://lb:443", false).unwrap(), "https://lb:443");
        assert_eq!(show("https://lb", false).unwrap(), "https://lb:2379");
    }

    #[test]
    fn a_password_in_an_endpoint_is_refused_and_not_repeated() {
        let error = Endpoint::parse("https://root:geheim@10.0.0.1:2379", true).unwrap_err();
        assert!(!error.to_string().contains("geheim"), "{error}");
        for bad in ["", "ftp://x", "unix:///run/etcd", "http://h/v3", "http://h:99999", "a b:1"] {
            assert!(Endpoint::parse(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions() {
        assert_eq!("3.5.0-rc.1+git".parse::<Version>().unwrap(), Version::new(3, 5, 0));
        assert_eq!("v3.6".parse::<Version>().unwrap(), Version::new(3, 6, 0));
        assert!("3".parse::<Version>().is_err());
        assert!("3.x".parse::<Version>().is_err());
        assert!(Version::new(3, 10, 0) > Version::new(3, 9, 9));
    }

    #[test]
    fn a_secret_does_not_show() {
        assert_eq!(format!("{:?}", Secret::new("geheim")), "Secret(…)");
    }
}

//! Peer URLs by etcd's rules.

use std::fmt;

/// A URL that etcd refuses, or would write back in another form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} {problem}")]
pub struct UrlError {
    /// The URL as given.
    pub url: String,
    /// What is wrong with it.
    pub problem: UrlProblem,
}

/// What can be wrong with a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    /// Neither http, https, unix nor unixs.
    #[error("must begin with http://, https://, unix:// or unixs://")]
    Scheme,
    /// A user name or password.
    #[error("must not carry a user name")]
    User,
    /// Anything after the port.
    #[error("must not have a path, a query or a fragment")]
    Path,
    /// No port, or too many colons.
    #[error("must have the form host:port, an IPv6 address in brackets")]
    HostPort,
    /// Not a number from 1 to 65535.
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    /// A character that would be escaped.
    #[error("has a character in it that no host name has")]
    Character,
}

/// A URL as etcd keeps it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerUrl(String);

impl PeerUrl {
    /// Reads a URL; spaces around it do not count, the scheme's case does not matter.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        normal(text.trim()).map(Self).map_err(|problem| UrlError { url: text.into(), problem })
    }

    /// The URL as etcd writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn normal(text: &str) -> Result<String, UrlProblem> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlProblem::Scheme)?;
    let scheme = scheme.to_ascii_lowercase();
    let socket = match scheme.as_str() {
        "http" | "https" => false,
        "unix" | "unixs" => true,
        _ => return Err(UrlProblem::Scheme),
    };
    if rest.contains(['?', '#']) {
        return Err(UrlProblem::Path);
    }
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if authority.contains('@') {
        return Err(UrlProblem::User);
    }
    if socket {
        // A path to a socket, or host:port as the socket's name.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~/:@+=".contains(c);
        if !path.chars().all(plain) {
            return Err(UrlProblem::Character);
        }
        if authority.is_empty() && path.is_empty() {
            return Err(UrlProblem::HostPort);
        }
        if let Some((host, port)) = authority.rsplit_once(':') {
            check_host(host)?;
            check_port(port)?;
        } else {
            check_host(authority)?;
        }
    } else {
        if !path.is_empty() {
            return Err(UrlProblem::Path);
        }
        let (host, port) = authority.rsplit_once(':').ok_or(UrlProblem::HostPort)?;
        check_host(host)?;
        check_port(port)?;
    }
    Ok(format!("{scheme}://{rest}"))
}

/// What Go's URL code takes and writes back as it is.
fn check_host(host: &str) -> Result<(), UrlProblem> {
    if let Some(inner) = host.strip_prefix('[') {
        let address = inner.strip_suffix(']').ok_or(UrlProblem::HostPort)?;
        // A zone would have to be escaped; peers on link-local addresses are not seen.
        let plain = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
        if !address.chars().all(plain) {
            return Err(UrlProblem::Character);
        }
        return match address.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(UrlProblem::HostPort),
        };
    }
    if host.contains(':') {
        return Err(UrlProblem::HostPort);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
    if host.chars().all(plain) { Ok(()) } else { Err(UrlProblem::Character) }
}

fn check_port(port: &str) -> Result<(), UrlProblem> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(1..) if digits => Ok(()),
        _ => Err(UrlProblem::Port),
    }
}

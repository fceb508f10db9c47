//! Lists of URLs and of members, taken apart at commas and never by matching
//! text: 10.0.0.1 is not found inside 10.0.0.10.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The URLs of a list, without empty ones and the spaces around them.
pub fn urls(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect()
}

/// The host of a URL or of `host:port`, without the brackets of IPv6; none if
/// there is none.
pub fn host(url: &str) -> Option<&str> {
    let (start, end) = host_span(url)?;
    let host = &url[start..end];
    Some(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))
}

/// The port of a URL or of `host:port`.
pub fn port(url: &str) -> Option<u16> {
    let (_, end) = host_span(url)?;
    let rest = url[end..].strip_prefix(':')?;
    rest.split(['/', '?', '#']).next()?.parse().ok()
}

/// Where the host stands, brackets included.
fn host_span(url: &str) -> Option<(usize, usize)> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let rest = &url[start..];
    let rest = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let start = start + rest.rfind('@').map_or(0, |at| at + 1);
    let rest = &rest[rest.rfind('@').map_or(0, |at| at + 1)..];
    let length = if rest.starts_with('[') {
        rest.find(']')? + 1
    } else {
        rest.find(':').unwrap_or(rest.len())
    };
    (length > 0).then_some((start, start + length))
}

/// Whether two hosts are the same: as addresses if both are, else as names.
fn same_host(a: &str, b: &str) -> bool {
    use std::net::IpAddr;
    match (a.parse::<IpAddr>(), b.parse::<IpAddr>()) {
        (Ok(a), Ok(b)) => a == b,
        (Err(_), Err(_)) => a.trim_end_matches('.').eq_ignore_ascii_case(b.trim_end_matches('.')),
        _ => false,
    }
}

/// A list of URLs, or of `name=url`, with exactly one host replaced by another
/// wherever it is the host; scheme, port and everything else stay. None if the
/// host is not there.
pub fn replace_host(list: &str, from: &str, to: &str) -> Option<String> {
    let to =
        if to.contains(':') && !to.starts_with('[') { format!("[{to}]") } else { to.to_owned() };
    let mut found = false;
    let items: Vec<String> = list
        .split(',')
        .map(|item| {
            // The name of a member ends at the `=` in front of the scheme.
            let url_at = match (item.find('='), item.find("://")) {
                (Some(equals), Some(scheme)) if equals < scheme => equals + 1,
                _ => 0,
            };
            let (name, url) = item.split_at(url_at);
            let lead = url.len() - url.trim_start().len();
            match host_span(&url[lead..]) {
                Some((start, end))
                    if host(&url[lead..]).is_some_and(|host| same_host(host, from)) =>
                {
                    found = true;
                    let (start, end) = (start + lead, end + lead);
                    format!("{name}{}{to}{}", &url[..start], &url[end..])
                }
                _ => item.to_owned(),
            }
        })
        .collect();
    found.then(|| items.join(","))
}

/// `--initial-cluster`: names and peer URLs, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialCluster(Vec<(String, String)>);

impl InitialCluster {
    /// Reads a list. A part without `=` is a URL without a name, which etcd
    /// refuses; it is kept with an empty name.
    pub fn parse(list: &str) -> Self {
        let parts = urls(list).into_iter().map(|part| match part.split_once('=') {
            Some((name, url)) => (name.to_owned(), url.to_owned()),
            None => (String::new(), part),
        });
        Self(parts.collect())
    }

    /// From names and URLs; a name with several URLs comes several times.
    pub fn of(members: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(members.into_iter().collect())
    }

    /// Name and URL, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, url)| (name.as_str(), url.as_str()))
    }

    /// The names, each once, in order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.iter() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The URLs of a member.
    pub fn urls_of(&self, name: &str) -> Vec<&str> {
        self.iter().filter(|(found, _)| *found == name).map(|(_, url)| url).collect()
    }

    /// Whether it says the same in another order.
    pub fn same(&self, other: &Self) -> bool {
        let sorted = |list: &Self| {
            let mut list: Vec<_> = list.0.iter().map(|(n, u)| (n.clone(), normal(u))).collect();
            list.sort();
            list
        };
        sorted(self) == sorted(other)
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, url)) in self.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            if name.is_empty() {
                write!(f, "{comma}{url}")?
            } else {
                write!(f, "{comma}{name}={url}")?
            }
        }
        Ok(())
    }
}

/// A URL for comparison: without a slash at its end.
fn normal(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}

/// Whether two lists hold the same URLs in whatever order.
pub(crate) fn same_urls(a: &str, b: &str) -> bool {
    let sorted = |list: &str| {
        let mut list: Vec<String> = urls(list).iter().map(|url| normal(url)).collect();
        list.sort();
        list.dedup();
        list
    };
    sorted(a) == sorted(b)
}

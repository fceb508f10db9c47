//! Who is in the cluster: member and cluster ids, peer URLs, and the forms in
//! which etcd keeps them.
//!
//! The ids are what etcd computes from the same names, URLs and token, and the
//! JSON is what its Go code writes, byte for byte: the entries of the log carry
//! it. A URL is taken only when etcd would take it and would write it back
//! unchanged, since its bytes go into the ids.
//!
//! Source: `server/etcdserver/api/membership/{member,cluster}.go`,
//! `client/pkg/types/{urls,urlsmap}.go`, `server/config/config.go @ v3.5.35`.

mod json;
mod url;

use std::collections::BTreeMap;
use std::fmt;

use sha1::{Digest, Sha1};

pub use self::url::{PeerUrl, UrlError, UrlProblem};
use crate::wal::ConfState;

/// An initial cluster that etcd would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// No `name=url` in it.
    #[error("the initial cluster names no member")]
    Empty,
    /// `=url`, or an entry of spaces.
    #[error("the initial cluster has an entry without a name: {entry:?}")]
    NoName {
        /// The entry.
        entry: String,
    },
    /// A URL that etcd does not take.
    #[error("the peer URL of member {name:?} is not usable")]
    Url {
        /// The member.
        name: String,
        /// Why.
        #[source]
        source: UrlError,
    },
    /// The same URL twice.
    #[error("the initial cluster has the URL {url} twice")]
    DuplicateUrl {
        /// The URL.
        url: String,
    },
    /// Two members whose ids are the same.
    #[error("members {first:?} and {second:?} have the same id")]
    DuplicateId {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// The hash of the URLs is 0, which raft takes for "nobody".
    #[error("member {name:?} would have id 0: choose another token")]
    ZeroId {
        /// The member.
        name: String,
    },
    /// The member is not part of the cluster.
    #[error("member {name:?} is not in the initial cluster, which has {}", Quoted(.known))]
    NoSuchMember {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The advertised URLs are others than those of the initial cluster.
    #[error(
        "member {name:?} advertises {}, but the initial cluster has {}",
        .advertised.join(","), .initial.join(",")
    )]
    Advertised {
        /// The member.
        name: String,
        /// What it advertises.
        advertised: Vec<String>,
        /// What the initial cluster says.
        initial: Vec<String>,
    },
}

/// Writes names so that spaces in them are seen.
struct Quoted<'a>(&'a [String]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            write!(f, "{}{name:?}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// One member of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id, never 0.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its peer URLs, ascending as strings.
    pub peer_urls: Vec<String>,
}

impl Member {
    /// The id as etcd writes it in buckets, paths and logs.
    pub fn id_hex(&self) -> String {
        format!("{:x}", self.id)
    }

    /// The member as JSON, as it stands in the log and in the `members` bucket.
    pub fn to_json(&self) -> String {
        let mut out = format!("{{\"id\":{},\"peerURLs\":", self.id);
        json::strings(&mut out, &self.peer_urls);
        // The client URLs are known only when the member has started.
        out.push_str(",\"name\":");
        json::string(&mut out, &self.name);
        out.push('}');
        out
    }

    /// What the v2 store keeps under `raftAttributes`.
    fn raft_attributes(&self) -> String {
        let mut out = String::from("{\"peerURLs\":");
        json::strings(&mut out, &self.peer_urls);
        out.push('}');
        out
    }
}

/// A whole cluster as it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    cluster_id: u64,
    members: Vec<Member>,
}

impl Membership {
    /// Reads etcd's `--initial-cluster`: `name=url` separated by commas, a name
    /// repeated for each further URL. The ids follow from `token`.
    pub fn from_initial_cluster(text: &str, token: &str) -> Result<Self, MembershipError> {
        let mut urls: BTreeMap<&str, Vec<PeerUrl>> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for entry in text.split(',').filter(|entry| !entry.is_empty()) {
            let (name, url) = entry.split_once('=').unwrap_or((entry, ""));
            if name.trim().is_empty() {
                return Err(MembershipError::NoName { entry: entry.into() });
            }
            let url = PeerUrl::parse(url)
                .map_err(|source| MembershipError::Url { name: name.into(), source })?;
            if !seen.insert(url.clone()) {
                return Err(MembershipError::DuplicateUrl { url: url.to_string() });
            }
            urls.entry(name).or_default().push(url);
        }
        let mut members: BTreeMap<u64, Member> = BTreeMap::new();
        for (name, urls) in urls {
            let mut peer_urls: Vec<_> = urls.iter().map(PeerUrl::to_string).collect();
            peer_urls.sort_unstable();
            let id = member_id(&peer_urls, token);
            let name = String::from(name);
            if id == 0 {
                return Err(MembershipError::ZeroId { name });
            }
            let member = Member { id, name, peer_urls };
            if let Some(other) = members.insert(id, member) {
                let second = members[&id].name.clone();
                return Err(MembershipError::DuplicateId { first: other.name, second });
            }
        }
        if members.is_empty() {
            return Err(MembershipError::Empty);
        }
        let members: Vec<_> = members.into_values().collect();
        Ok(Self { cluster_id: cluster_id(&members), members })
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// The members, ascending by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member called `name`.
    pub fn member(&self, name: &str) -> Result<&Member, MembershipError> {
        self.members.iter().find(|member| member.name == name).ok_or_else(|| {
            let mut known: Vec<_> = self.members.iter().map(|member| member.name.clone()).collect();
            known.sort_unstable();
            MembershipError::NoSuchMember { name: name.into(), known }
        })
    }

    /// Checks that `advertised`, the member's `--initial-advertise-peer-urls`,
    /// are its URLs in the initial cluster. The texts must be equal: unlike
    /// etcd this asks no name server whether two of them mean the same address.
    pub fn check_advertised<U: AsRef<str>>(
        &self,
        name: &str,
        advertised: &[U],
    ) -> Result<(), MembershipError> {
        let member = self.member(name)?;
        let mut urls = Vec::with_capacity(advertised.len());
        for url in advertised {
            let url = PeerUrl::parse(url.as_ref())
                .map_err(|source| MembershipError::Url { name: name.into(), source })?;
            urls.push(url.to_string());
        }
        urls.sort_unstable();
        if urls != member.peer_urls {
            return Err(MembershipError::Advertised {
                name: name.into(),
                advertised: urls,
                initial: member.peer_urls.clone(),
            });
        }
        Ok(())
    }

    /// All members as voters.
    pub fn conf_state(&self) -> ConfState {
        let voters = self.members.iter().map(|member| member.id).collect();
        ConfState { voters, ..ConfState::default() }
    }

    /// The same as the JSON of `meta/confState`.
    pub fn conf_state_json(&self) -> String {
        let mut out = String::from("{\"voters\":[");
        for (index, member) in self.members.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(&member.id.to_string());
        }
        out.push_str("],\"auto_leave\":false}");
        out
    }

    /// The v2 store with these members in it, as the `.snap` file carries it.
    /// The watcher hub and the statistics are left out: etcd starts fresh ones.
    pub fn v2_store_json(&self) -> String {
        let mut root = json::Directory::new("/");
        let mut index = 0;
        let members = root.directory("/0").directory("/0/members");
        for member in &self.members {
            index += 1;
            let path = format!("/0/members/{}", member.id_hex());
            let directory = members.directory(&path);
            directory.value(&format!("{path}/raftAttributes"), &member.raft_attributes(), index);
        }
        root.directory("/1");
        let mut out = String::from("{\"Root\":");
        root.write(&mut out);
        out.push_str(&format!(",\"CurrentIndex\":{index},\"CurrentVersion\":2}}"));
        out
    }
}

/// `peer_urls` ascend.
fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut hash = Sha1::new();
    for url in peer_urls {
        hash.update(url);
    }
    hash.update(token);
    first_8_bytes(hash)
}

/// `members` ascend by id.
fn cluster_id(members: &[Member]) -> u64 {
    let mut hash = Sha1::new();
    for member in members {
        hash.update(member.id.to_be_bytes());
    }
    first_8_bytes(hash)
}

fn first_8_bytes(hash: Sha1) -> u64 {
    hash.finalize().iter().take(8).fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests;

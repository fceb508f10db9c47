//! What simulated programs do when they start: etcd, and anything else.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::super::FileKind;
use super::files::{Inode, Tree, plain};

/// A program about to run.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) uid: u32,
    pub(super) cgroup: String,
}

/// A program that runs.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) pid: u32,
    pub(super) started: u64,
    pub(super) launch: Launch,
    pub(super) listens: Vec<SocketAddr>,
    pub(super) holds: Vec<PathBuf>,
}

impl Running {
    pub(super) fn program(&self) -> PathBuf {
        self.launch.arguments.first().map(PathBuf::from).unwrap_or_default()
    }
}

/// Where a program would listen and what it would hold, or what it writes to its
/// log before it ends. `peers` tells whether a peer URL answers.
pub(super) fn start(
    launch: &Launch,
    tree: &mut Tree,
    now: i128,
    peers: &dyn Fn(&SocketAddr) -> bool,
) -> Result<(Vec<SocketAddr>, Vec<PathBuf>), String> {
    let name = launch.arguments.first().map(|program| {
        Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned()
    });
    match name.as_deref() {
        Some("etcd") => etcd(launch, tree, now, peers),
        Some(name @ ("kube-apiserver" | "kube-scheduler" | "kube-controller-manager")) => {
            let usual = match name {
                "kube-apiserver" => "6443",
                "kube-scheduler" => "10259",
                _ => "10257",
            };
            let port = flag(&launch.arguments, "secure-port").unwrap_or(usual.into());
            let port = port.parse().map_err(|_| format!("invalid secure-port {port:?}"))?;
            Ok((vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))], Vec::new()))
        }
        _ => Ok((Vec::new(), Vec::new())),
    }
}

fn flag(arguments: &[String], name: &str) -> Option<String> {
    let mut rest = arguments.iter().skip(1);
    let mut found = None;
    while let Some(argument) = rest.next() {
        let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            continue;
        };
        match flag.split_once('=') {
            Some((key, value)) if key == name => found = Some(value.to_owned()),
            None if flag == name => found = rest.next().cloned(),
            _ => {}
        }
    }
    found
}

/// As etcd takes it: the configuration file alone, or flag before environment.
fn setting(launch: &Launch, tree: &Tree, name: &str) -> Option<String> {
    let from_environment = |name: &str| {
        let key = format!("ETCD_{}", name.to_uppercase().replace('-', "_"));
        launch.environment.get(&key).cloned()
    };
    let file = flag(&launch.arguments, "config-file").or_else(|| from_environment("config-file"));
    if let Some(file) = file {
        let text = tree.text(Path::new(&file))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        return Some(line.trim().trim_matches(['"', '\'']).to_owned());
    }
    flag(&launch.arguments, name).or_else(|| from_environment(name))
}

fn addresses(urls: &str) -> Result<Vec<SocketAddr>, String> {
    let urls = urls.split(',').map(str::trim).filter(|url| !url.is_empty());
    urls.map(|url| {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
        let rest = rest.replace("localhost", "127.0.0.1");
        rest.parse().map_err(|_| format!("expected IP in URL for binding ({url})"))
    })
    .collect()
}

fn etcd(
    launch: &Launch,
    tree: &mut Tree,
    now: i128,
    peers: &dyn Fn(&SocketAddr) -> bool,
) -> Result<(Vec<SocketAddr>, Vec<PathBuf>), String> {
    let get = |name: &str| setting(launch, tree, name);
    let name = get("name").unwrap_or("default".into());
    let data = PathBuf::from(get("data-dir").unwrap_or(format!("/{name}.etcd")));
    let clients = get("listen-client-urls").unwrap_or("http://127.0.0.1:2379".into());
    let peer_urls = get("listen-peer-urls").unwrap_or("http://127.0.0.1:2380".into());
    let cluster = get("initial-cluster").unwrap_or_default();
    let existing = get("initial-cluster-state").as_deref() == Some("existing");
    let mut listens = addresses(&clients)?;
    listens.extend(addresses(&peer_urls)?);
    listens.extend(addresses(&get("listen-metrics-urls").unwrap_or_default())?);
    let denied = || format!("cannot access data directory: {}: permission denied", data.display());
    match tree.stat(&data) {
        Ok(Some(entry)) if entry.kind == FileKind::Directory => {
            if launch.uid != 0 && entry.attributes.uid != launch.uid {
                return Err(denied());
            }
        }
        Ok(None) => {
            let parent = data.parent().unwrap_or(Path::new("/"));
            let owner = tree.stat(parent).ok().flatten().map(|entry| entry.attributes.uid);
            if owner.is_none() || launch.uid != 0 && owner != Some(launch.uid) {
                return Err(denied());
            }
            directory(tree, &data, launch.uid, now);
        }
        _ => return Err(format!("cannot access data directory: {}", data.display())),
    }
    let member = data.join("member");
    let database = member.join("snap/db");
    match tree.stat(&database) {
        Ok(Some(entry)) => {
            if launch.uid != 0 && entry.attributes.uid != launch.uid {
                return Err(format!("failed to open {}: permission denied", database.display()));
            }
        }
        _ if existing => {
            let others = cluster.split(',').filter_map(|part| part.split_once('='));
            let others = others.filter(|(other, _)| *other != name);
            let others = others.filter_map(|(_, url)| addresses(url).ok()).flatten();
            if !others.into_iter().any(|address| peers(&address)) {
                return Err(
                    "cannot fetch cluster info from peer urls: could not retrieve cluster \
                            information from the given URLs"
                        .into(),
                );
            }
            blank(tree, &member, launch.uid, &format!("joined {cluster}"), now);
        }
        _ => blank(tree, &member, launch.uid, &format!("blank {cluster}"), now),
    }
    let wal = member.join("wal/0000000000000000-0000000000000000.wal");
    Ok((listens, vec![database, wal]))
}

fn directory(tree: &mut Tree, path: &Path, uid: u32, now: i128) {
    let attributes = plain(uid, uid, 0o700);
    let inode = Inode { attributes, ..super::files::directory(now) };
    if let Ok(path) = tree.resolve(path) {
        tree.put(path, inode, true);
    }
}

/// A member directory as a fresh etcd makes it.
fn blank(tree: &mut Tree, member: &Path, uid: u32, content: &str, now: i128) {
    for path in [member.to_owned(), member.join("snap"), member.join("wal")] {
        if !matches!(tree.stat(&path), Ok(Some(_))) {
            directory(tree, &path, uid, now);
        }
    }
    for (name, what) in [("snap/db", "db"), ("wal/0000000000000000-0000000000000000.wal", "wal")] {
        let inode = Inode {
            kind: FileKind::File,
            bytes: format!("{what}: {content}\n").into_bytes(),
            attributes: plain(uid, uid, 0o600),
            modified: now,
            target: None,
        };
        if let Ok(path) = tree.resolve(&member.join(name)) {
            tree.put(path, inode, true);
        }
    }
}

/// Whether two sockets cannot be open at the same time.
pub(super) fn collide(a: &SocketAddr, b: &SocketAddr) -> bool {
    let any = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    a.port() == b.port() && (a.ip() == b.ip() || any(a) || any(b))
}

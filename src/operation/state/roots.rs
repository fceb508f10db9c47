//! Which files and directories of a node belong to its state: a pure function of what
//! was seen there, so that it can be tested and fed by whoever looks.
//!
//! A state is what a node needs, beside the data, to run etcd and the API server as it
//! does now. Too much is stored rather than too little, but never a directory that is
//! not named by a configuration, and never the root of a file system or of a large tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::node::TreeSpec;
pub use crate::observe::Places;

/// What a configuration says under one name: a flag, a variable or a key, all spelt
/// like the flag (`trusted-ca-file`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mention {
    /// The option's name without dashes in front.
    pub option: String,
    /// Its value.
    pub value: String,
}

/// What was seen of a node, as far as it tells which files matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Files that configure something themselves: units, drop-ins, environment files,
    /// etcd's configuration, manifests of static pods.
    pub files: Vec<PathBuf>,
    /// What they, and running processes, say.
    pub mentions: Vec<Mention>,
    /// Files and directories of the node that its static pods read.
    pub mounted: Vec<PathBuf>,
    /// Data directories and directories of write-ahead logs of members.
    pub data: Vec<PathBuf>,
    /// Paths from the settings.
    pub extra: Vec<PathBuf>,
    /// Links on the way to any of these, and where they lead.
    pub links: BTreeMap<PathBuf, PathBuf>,
}

/// What is archived of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// The configuration. Some of it may not exist.
    pub state: TreeSpec,
    /// The data directories, for a copy while all members are stopped.
    pub data: TreeSpec,
    /// Every path that is meant, those that lie in others too.
    pub named: BTreeSet<PathBuf>,
    /// What a configuration names and is not archived, with the reason.
    pub left_out: Vec<(PathBuf, &'static str)>,
}

/// Where configuration is on the systems that etcd and Kubernetes are found on.
const USUAL: &[&str] = &[
    "/etc/etcd",
    "/etc/etcd.env",
    "/etc/etcd.conf",
    "/etc/default/etcd",
    "/etc/sysconfig/etcd",
    "/etc/ssl/etcd",
    "/etc/kubernetes",
    "/etc/kubernetes/manifests",
    "/etc/kubernetes/pki",
    "/etc/kubernetes/pki/etcd",
    "/etc/default/kubelet",
    "/etc/sysconfig/kubelet",
    "/etc/default/kube-apiserver",
    "/etc/sysconfig/kube-apiserver",
    "/etc/default/flanneld",
    "/etc/sysconfig/flanneld",
    "/etc/cni",
    "/etc/rancher",
    "/var/lib/rancher/k3s/server/cred",
    "/var/lib/rancher/k3s/server/tls",
    "/var/lib/rancher/k3s/server/token",
    "/var/lib/rancher/rke2/server/cred",
    "/var/lib/rancher/rke2/server/tls",
    "/var/lib/rancher/rke2/server/token",
    "/etc/systemd/system/etcd.service",
    "/etc/systemd/system/etcd.service.d",
    "/etc/systemd/system/kubelet.service",
    "/etc/systemd/system/kubelet.service.d",
    "/etc/systemd/system/kube-apiserver.service",
    "/etc/systemd/system/kube-apiserver.service.d",
    "/etc/systemd/system/flanneld.service",
    "/etc/systemd/system/flanneld.service.d",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/var/lib/kubelet/pki",
];

/// The ends of names of options whose value is a file or directory of configuration.
const NAMES_A_FILE: &[&str] = &[
    "file",
    "config",
    "kubeconfig",
    "certificate",
    "client-key",
    "certificate-authority",
    "cert-key",
    "cert-dir",
    "manifest-path",
    "auth-token",
    "static-pod-path",
    "staticpodpath",
    "pod-manifest-url",
];
/// Options with such an end that name something else: what is written, not read.
const NAMES_NO_CONFIGURATION: &[&str] =
    &["log-file", "pid-file", "lock-file", "proc-mount-file", "subnet-file"];

/// Below these nothing is configuration.
const NEVER_BELOW: &[&str] = &["/proc", "/sys", "/dev"];
/// These are never stored whole, only what lies in them.
const TOO_LARGE: &[&str] = &[
    "/etc/ssl",
    "/etc/ssl/certs",
    "/etc/pki",
    "/etc/systemd",
    "/etc/systemd/system",
    "/etc/default",
    "/etc/sysconfig",
    "/usr/lib",
    "/usr/lib/systemd",
    "/usr/lib/systemd/system",
    "/usr/share",
    "/usr/local",
    "/usr/bin",
    "/lib/systemd",
    "/lib/systemd/system",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/docker",
];

/// Links that lead on to links.
const MAX_LED: usize = 8;
/// Paths that are meant; more are no configuration.
const MAX_NAMED: usize = 4000;

/// Which files belong to the state of a node on which `seen` was seen.
pub fn roots(seen: &Seen, places: &Places) -> Roots {
    let mut found = Roots::default();
    let mut state = BTreeSet::new();
    let mut add =
        |path: &Path, left_out: &mut Vec<(PathBuf, &'static str)>| match refusal(path, places) {
            None => drop(state.insert(path.to_owned())),
            Some(why) => left_out.push((path.to_owned(), why)),
        };
    USUAL.iter().for_each(|usual| add(&places.at(usual), &mut found.left_out));
    seen.files.iter().chain(&seen.extra).for_each(|path| add(path, &mut found.left_out));
    for mention in seen.mentions.iter().filter(|mention| names_a_file(&mention.option)) {
        paths_in(&mention.value).for_each(|path| add(&path, &mut found.left_out));
    }
    let mounted = seen.mounted.iter().filter(|path| !is_never_configuration(path));
    mounted.for_each(|path| add(path, &mut found.left_out));
    let mut data: BTreeSet<PathBuf> = BTreeSet::new();
    for path in &seen.data {
        match refusal(path, places) {
            None => drop(data.insert(path.clone())),
            Some(why) => found.left_out.push((path.clone(), why)),
        }
    }
    // Certificates that etcd made for itself lie among the data.
    state.extend(data.iter().map(|data| data.join("fixtures")));
    for (paths, others) in [(&mut data, None), (&mut state, Some(&seen.data))] {
        led_on(paths, others, &seen.links, |path| match refusal(path, places) {
            None => true,
            Some(why) => {
                found.left_out.push((path.to_owned(), why));
                false
            }
        });
    }
    found.data.roots = outermost(&data);
    found.state.roots = outermost(&state).into_iter().filter(|root| !data.contains(root)).collect();
    found.state.exclude = found
        .data
        .roots
        .iter()
        .filter(|data| found.state.roots.iter().any(|root| data.starts_with(root)))
        .cloned()
        .collect();
    found.named = state.into_iter().chain(data).collect();
    found.left_out.sort();
    found.left_out.dedup();
    found
}

/// Adds to `paths` what is meant by those that lead through one of `links`, as far as
/// the link is itself among them or `others`, or below: what is not is gone through when
/// files are read.
fn led_on(
    paths: &mut BTreeSet<PathBuf>,
    others: Option<&Vec<PathBuf>>,
    links: &BTreeMap<PathBuf, PathBuf>,
    mut allowed: impl FnMut(&Path) -> bool,
) {
    let mut next: Vec<PathBuf> = paths.iter().cloned().collect();
    // A link that leads to itself adds nothing new and ends it.
    for _ in 0..MAX_LED {
        let mut new = Vec::new();
        for (link, to) in links {
            let mut all = paths.iter().chain(others.into_iter().flatten());
            if !all.any(|path| link.starts_with(path)) {
                continue;
            }
            for below in next.iter().filter_map(|path| path.strip_prefix(link).ok()) {
                // Joining nothing would add a slash.
                let meant = if below.as_os_str().is_empty() { to.clone() } else { to.join(below) };
                if !paths.contains(&meant) && !new.contains(&meant) && allowed(&meant) {
                    new.push(meant);
                }
            }
        }
        if new.is_empty() || paths.len() + new.len() > MAX_NAMED {
            break;
        }
        paths.extend(new.iter().cloned());
        next = new;
    }
}

/// The paths that would have to be led on if they were links: each that is named, and
/// those on the way to it that lie in another.
pub(super) fn may_be_links(found: &Roots) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for path in &found.named {
        for above in path.ancestors() {
            let stored = above.ancestors().any(|outer| found.named.contains(outer));
            if !stored || !all.insert(above.to_owned()) {
                break;
            }
        }
    }
    all
}

/// Whether what a static pod reads of the node is never its configuration: what comes
/// with the system's packages, what only runs or is written.
fn is_never_configuration(path: &Path) -> bool {
    const NEVER: [&str; 11] = [
        "/usr", "/lib", "/lib64", "/bin", "/sbin", "/boot", "/run", "/tmp", "/var/run", "/var/log",
        "/var/tmp",
    ];
    NEVER.iter().any(|never| path.starts_with(never)) && !path.starts_with("/usr/local")
}

/// Those that lie below no other.
fn outermost(paths: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths {
        // A directory sorts before all that lies in it.
        if !kept.iter().any(|above| path.starts_with(above)) {
            kept.push(path.clone());
        }
    }
    kept
}

/// Why `path` is not archived, if it is not.
pub(super) fn refusal(path: &Path, places: &Places) -> Option<&'static str> {
    let plain = path.components().enumerate().all(|(at, part)| match part {
        Component::RootDir => at == 0,
        Component::Normal(_) => at > 0,
        _ => false,
    });
    if !path.is_absolute() || !plain {
        return Some("it is no plain absolute path");
    }
    let usual = match path.strip_prefix(&places.0) {
        Ok(below) => Path::new("/").join(below),
        Err(_) => path.to_owned(),
    };
    if usual.components().count() < 3 || TOO_LARGE.iter().any(|large| usual == Path::new(large)) {
        return Some("it holds far more than configuration");
    }
    if NEVER_BELOW.iter().any(|never| usual.starts_with(never)) {
        return Some("it is no file of a disk");
    }
    None
}

fn names_a_file(option: &str) -> bool {
    let option = option.to_ascii_lowercase();
    NAMES_A_FILE.iter().any(|end| option.ends_with(end))
        && !NAMES_NO_CONFIGURATION.iter().any(|end| option.ends_with(end))
}

/// The absolute paths in a value: `/a`, `/a,/b`, `/cert,/key:name`,
/// `jwt,pub-key=/a,priv-key=/b`.
fn paths_in(value: &str) -> impl Iterator<Item = PathBuf> {
    value
        .split([',', '=', ':'])
        .map(str::trim)
        .filter(|part| part.starts_with('/') && part.len() > 1)
        .map(|part| PathBuf::from(part.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mention(option: &str, value: &str) -> Mention {
        Mention { option: option.to_owned(), value: value.to_owned() }
    }

    fn has(spec: &TreeSpec, path: &str) -> bool {
        spec.roots.iter().any(|root| Path::new(path).starts_with(root))
    }

    #[test]
    fn a_kubeadm_control_plane() {
        let seen = Seen {
            files: vec![
                "/usr/lib/systemd/system/kubelet.service".into(),
                "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf".into(),
                "/etc/kubernetes/manifests/etcd.yaml".into(),
            ],
            mentions: vec![
                mention("cert-file", "/etc/kubernetes/pki/etcd/server.crt"),
                mention("encryption-provider-config", "/srv/keys/encryption.yaml"),
                mention("service-account-signing-key-file", "/srv/keys/sa.key"),
                mention("tls-sni-cert-key", "/srv/tls/a.crt,/srv/tls/a.key:api.example"),
                mention("audit-log-path", "/var/log/audit.log"),
                mention("etcd-servers", "https://127.0.0.1:2379"),
                mention("root-dir", "/var/lib/kubelet"),
            ],
            data: vec!["/var/lib/etcd".into()],
            mounted: vec![
                "/etc/ssl/certs".into(),
                "/srv/audit/policy".into(),
                "/usr/share/ca-certificates".into(),
                "/usr/local/share/ca-certificates".into(),
            ],
            extra: vec!["/etc/haproxy/haproxy.cfg".into()],
            links: BTreeMap::new(),
        };
        let found = roots(&seen, &Places::default());
        for path in [
            "/etc/kubernetes/pki/sa.key",
            "/srv/keys/encryption.yaml",
            "/srv/keys/sa.key",
            "/srv/tls/a.key",
            "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
            "/var/lib/kubelet/pki/kubelet-client-current.pem",
            "/etc/haproxy/haproxy.cfg",
            "/srv/audit/policy/policy.yaml",
            "/usr/local/share/ca-certificates/own.crt",
            "/etc/cni/net.d/10-flannel.conflist",
            "/var/lib/etcd/fixtures/peer/cert.pem",
        ] {
            assert!(has(&found.state, path), "{path}");
        }
        for path in [
            "/var/log/audit.log",
            "/var/lib/kubelet/pods/x",
            "/var/lib/etcd/member/snap/db",
            "/etc/ssl/certs/ca-certificates.crt",
            "/usr/share/ca-certificates/mozilla/x.crt",
        ] {
            assert!(!has(&found.state, path), "{path}");
        }
        assert_eq!(found.data.roots, [Path::new("/var/lib/etcd")]);
        assert!(found.state.exclude.is_empty());
        // One root for a tree: nothing would be stored twice.
        let roots = &found.state.roots;
        for (at, root) in roots.iter().enumerate() {
            assert!(roots.iter().skip(at + 1).all(|other| !other.starts_with(root)), "{root:?}");
        }
    }

    #[test]
    fn data_below_a_root_is_left_out_of_it() {
        let seen = Seen { data: vec!["/etc/etcd/data".into()], ..Seen::default() };
        let found = roots(&seen, &Places::default());
        assert!(has(&found.state, "/etc/etcd/etcd.conf"));
        assert_eq!(found.state.exclude, [Path::new("/etc/etcd/data")]);
        assert_eq!(found.data.roots, [Path::new("/etc/etcd/data")]);
    }

    #[test]
    fn hostile_and_large_paths_are_left_out_and_said() {
        let seen = Seen {
            mentions: vec![
                mention("cert-file", "/etc/../root"),
                mention("cert-dir", "/etc/ssl/certs"),
                mention("key-file", "/proc/self/environ"),
                mention("config-file", "/"),
                mention("trusted-ca-file", "relative.crt"),
            ],
            data: vec!["/var".into()],
            extra: vec!["/etc".into(), "root".into()],
            ..Seen::default()
        };
        let found = roots(&seen, &Places::default());
        let left_out: Vec<_> =
            found.left_out.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(
            left_out,
            ["/etc", "/etc/../root", "/etc/ssl/certs", "/proc/self/environ", "/var", "root"]
        );
        assert!(found.data.roots.is_empty());
        assert_eq!(found.state, roots(&Seen::default(), &Places::default()).state);
    }

    #[test]
    fn links_on_the_way_are_led_on_and_no_others() {
        let link = |from: &str, to: &str| (PathBuf::from(from), PathBuf::from(to));
        let seen = Seen {
            mentions: vec![
                mention("peer-cert-file", "/etc/etcd/live/peer.crt"),
                mention("cert-file", "/srv/pki/server.crt"),
            ],
            data: vec!["/var/lib/etcd".into()],
            links: BTreeMap::from([
                link("/etc/kubernetes/pki", "/srv/kubernetes"),
                link("/etc/etcd/live", "/home/admin"),
                link("/home/admin/peer.crt", "/home/admin/peer-2.crt"),
                link("/srv/pki", "/mnt/pki"),
                link("/var/lib/etcd", "/mnt/fast/etcd"),
                link("/etc/default/etcd", "/etc"),
                link("/etc/etcd/loop", "/etc/etcd/loop"),
            ]),
            ..Seen::default()
        };
        let found = roots(&seen, &Places::default());
        for path in [
            "/srv/kubernetes/ca.key",
            "/home/admin/peer.crt",
            "/home/admin/peer-2.crt",
            "/srv/pki/server.crt",
            "/mnt/fast/etcd/fixtures/x",
        ] {
            assert!(has(&found.state, path), "{path}");
        }
        // The directory behind a link has more than what is named of it.
        for path in
            ["/home/admin/.ssh", "/mnt/pki/server.crt", "/etc/shadow", "/mnt/fast/etcd/member"]
        {
            assert!(!has(&found.state, path), "{path}");
        }
        let data: Vec<&Path> = found.data.roots.iter().map(PathBuf::as_path).collect();
        assert_eq!(data, [Path::new("/mnt/fast/etcd"), Path::new("/var/lib/etcd")]);
        assert!(found.left_out.contains(&("/etc".into(), "it holds far more than configuration")));
        let asked = may_be_links(&found);
        for (path, is) in [
            ("/etc/etcd", true),
            ("/etc/etcd/live", true),
            ("/etc/etcd/live/peer.crt", true),
            ("/etc", false),
            ("/srv/pki", false),
            ("/srv/pki/server.crt", true),
        ] {
            assert_eq!(asked.contains(Path::new(path)), is, "{path}");
        }
    }

    #[test]
    fn usual_places_can_lie_elsewhere() {
        let found = roots(&Seen::default(), &Places("/tmp/host".into()));
        assert!(has(&found.state, "/tmp/host/etc/kubernetes/pki"));
        assert!(found.state.roots.iter().all(|root| root.starts_with("/tmp/host")));
    }
}

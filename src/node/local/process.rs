//! Running processes and listening sockets, from `/proc`.
//!
//! A process that ends while it is looked at is left out.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::{Listener, NodeErrorKind, Process, ProcessQuery};
use super::fault::Fault;

/// At most so much is read of one file of `/proc`.
const LIMIT: u64 = 4 << 20;

/// Environment variables that tell how etcd and its clients were started.
const KEPT: [&str; 3] = ["ETCD_", "KUBE_", "FLANNEL"];

/// Parts of names whose values are secrets.
const SECRETS: [&str; 5] = ["PASSWORD", "PASSWD", "TOKEN", "SECRET", "CREDENTIAL"];

/// What stands for a secret.
const MASK: &str = "***";

/// The processes that match `query`, by id.
pub(super) fn processes(query: &ProcessQuery) -> Result<Vec<Process>, Fault> {
    let held = match query {
        ProcessQuery::Holding(directory) => Some(Held::new(directory)?),
        _ => None,
    };
    let mut found = Vec::new();
    for pid in pids()? {
        let matches = match query {
            ProcessQuery::Pid(wanted) => pid == *wanted,
            ProcessQuery::Program(name) => program(pid).is_some_and(|program| {
                program.file_name().is_some_and(|found| found == OsStr::new(name))
            }),
            ProcessQuery::Holding(_) => held.as_ref().is_some_and(|held| held.by(pid)),
        };
        found.extend(if matches { process(pid) } else { None });
    }
    Ok(found)
}

/// The sockets of this network namespace that listen, and who holds them.
pub(super) fn listeners() -> Result<Vec<Listener>, Fault> {
    let mut sockets = Vec::new();
    for name in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match std::fs::read_to_string(name) {
            Ok(text) => sockets.extend(parse_sockets(&text)),
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Fault::from(error)),
        }
    }
    let mut holders = HashMap::new();
    for pid in pids()? {
        for inode in sockets_of(pid) {
            holders.entry(inode).or_insert(pid);
        }
    }
    let mut found: Vec<Listener> = sockets
        .into_iter()
        .map(|(address, inode)| Listener { address, pid: holders.get(&inode).copied() })
        .collect();
    found.sort_by_key(|listener| (listener.address, listener.pid));
    found.dedup();
    Ok(found)
}

fn pids() -> Result<Vec<u32>, Fault> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    if pids.is_empty() {
        return Err(Fault::new(NodeErrorKind::Unsupported, "/proc shows no processes"));
    }
    pids.sort_unstable();
    Ok(pids)
}

fn place(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn bytes(pid: u32, name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(place(pid, name)).ok()?;
    file.take(LIMIT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The program's file, also when it was replaced since.
fn program(pid: u32) -> Option<PathBuf> {
    let link = std::fs::read_link(place(pid, "exe")).ok()?;
    let bytes = link.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Some(PathBuf::from(OsStr::from_bytes(bytes)))
}

fn process(pid: u32) -> Option<Process> {
    let started = started(&bytes(pid, "stat")?)?;
    let arguments = arguments(&bytes(pid, "cmdline")?);
    let program = program(pid).or_else(|| arguments.first().map(PathBuf::from));
    let status = bytes(pid, "status")?;
    let cgroup = bytes(pid, "cgroup").unwrap_or_default();
    let found = Process {
        pid,
        started,
        program: program.unwrap_or_default(),
        arguments,
        environment: environment(&bytes(pid, "environ").unwrap_or_default()),
        cwd: std::fs::read_link(place(pid, "cwd")).unwrap_or_default(),
        root: root(pid),
        cgroup: cgroup_of(&String::from_utf8_lossy(&cgroup)),
        uid: effective_uid(&String::from_utf8_lossy(&status))?,
    };
    // The number may be another process's by now.
    let same = bytes(pid, "stat").and_then(|stat| self::started(&stat)) == Some(started);
    same.then_some(found)
}

/// The root of a process in a container: as this machine's `/proc` shows it, which
/// works whatever it is called there.
fn root(pid: u32) -> Option<PathBuf> {
    let theirs = std::fs::metadata(place(pid, "root/")).ok()?;
    let ours = std::fs::metadata("/").ok()?;
    let differs = (theirs.dev(), theirs.ino()) != (ours.dev(), ours.ino());
    differs.then(|| place(pid, "root"))
}

/// Field 22 of proc(5)'s `stat`; the program's name before may hold anything.
fn started(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The group that tells the unit or pod: of cgroup v2, else of systemd's own
/// hierarchy, else the longest.
fn cgroup_of(text: &str) -> String {
    let mut groups: Vec<(&str, &str)> = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        if let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        {
            groups.push((controllers, path));
        }
    }
    let of = |name: &str| groups.iter().find(|group| group.0 == name && group.1 != "/");
    let longest = || groups.iter().max_by_key(|group| group.1.len());
    let found = of("").or_else(|| of("name=systemd")).or_else(longest);
    found.map(|group| group.1.to_owned()).unwrap_or_default()
}

/// Whether the value of this variable or flag is a secret. The token that names a
/// new cluster is none, nor are the names of files.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace('-', "_");
    let harmless = name.ends_with("INITIAL_CLUSTER_TOKEN")
        || name.ends_with("_FILE")
        || name.ends_with("_TTL")
        || name.ends_with("_PATH");
    !harmless && SECRETS.iter().any(|part| name.contains(part))
}

/// Arguments with secrets masked: `--x-password=…`, and `--x-password …`.
fn arguments(cmdline: &[u8]) -> Vec<String> {
    let cmdline = cmdline.strip_suffix(b"\0").unwrap_or(cmdline);
    if cmdline.is_empty() {
        return Vec::new();
    }
    let mut masked = Vec::new();
    let mut next_is_secret = false;
    for argument in cmdline.split(|byte| *byte == 0) {
        let argument = String::from_utf8_lossy(argument).into_owned();
        if std::mem::take(&mut next_is_secret) && !argument.starts_with('-') {
            masked.push(MASK.to_owned());
            continue;
        }
        masked.push(match argument.split_once('=') {
            Some((name, _)) if is_secret(name) && name.starts_with('-') => format!("{name}={MASK}"),
            Some(_) => argument,
            None => {
                next_is_secret = argument.starts_with("--") && is_secret(&argument);
                // `user:password` as etcdctl takes it.
                next_is_secret |= argument == "--user";
                argument
            }
        });
        if let Some(last) = masked.last_mut().filter(|last| last.starts_with("--user=")) {
            *last = format!("--user={MASK}");
        }
    }
    masked
}

/// The variables that tell how etcd and its clients were started, secrets dropped.
fn environment(environ: &[u8]) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    for variable in environ.split(|byte| *byte == 0) {
        let variable = String::from_utf8_lossy(variable);
        let Some((name, value)) = variable.split_once('=') else { continue };
        if KEPT.iter().any(|prefix| name.starts_with(prefix)) && !is_secret(name) {
            kept.insert(name.to_owned(), value.to_owned());
        }
    }
    kept
}

/// The directory whose files are held, by its path, and by device and inode of
/// what is in it, as a process in a container has another path to it.
struct Held {
    path: PathBuf,
    inodes: std::collections::HashSet<(u64, u64)>,
}

impl Held {
    fn new(directory: &Path) -> Result<Self, Fault> {
        let path = directory.canonicalize()?;
        let mut held = Self { path, inodes: Default::default() };
        let root = held.path.clone();
        super::walk::walk(&root, &super::fault::Task::default(), &mut held)?;
        Ok(held)
    }

    fn by(&self, pid: u32) -> bool {
        let names = |directory: &str| {
            let entries = std::fs::read_dir(place(pid, directory));
            entries.into_iter().flatten().flatten().map(|entry| entry.path())
        };
        names("fd").chain(names("map_files")).any(|link| self.has(&link))
    }

    fn has(&self, link: &Path) -> bool {
        if std::fs::read_link(link).is_ok_and(|to| to.starts_with(&self.path)) {
            return true;
        }
        link.metadata().is_ok_and(|found| {
            let file = found.is_file() || found.is_dir();
            file && self.inodes.contains(&(found.dev(), found.ino()))
        })
    }
}

impl super::walk::Visitor for Held {
    fn visit(&mut self, found: &super::walk::Found<'_>) -> Result<bool, Fault> {
        let metadata = found.metadata;
        self.inodes.insert((metadata.dev(), metadata.ino()));
        Ok(true)
    }

    fn vanished(&mut self, _: &Path) -> Result<(), Fault> {
        Ok(())
    }
}

fn sockets_of(pid: u32) -> Vec<u64> {
    let entries = std::fs::read_dir(place(pid, "fd")).into_iter().flatten().flatten();
    let inode = |entry: std::fs::DirEntry| {
        let link = std::fs::read_link(entry.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
    };
    entries.filter_map(inode).collect()
}

/// Listening sockets of `/proc/net/tcp` and `tcp6`: addresses are in words of the
/// machine's order, state `0A` is LISTEN.
fn parse_sockets(text: &str) -> Vec<(SocketAddr, u64)> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if *fields.get(3)? != "0A" {
            return None;
        }
        let (address, port) = fields.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let inode = fields.get(9)?.parse().ok()?;
        Some((SocketAddr::new(hex_address(address)?, port), inode))
    };
    text.lines().filter_map(line).collect()
}

fn hex_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = hex.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_started_etcd_is_kept_and_secrets_are_not() {
        let environ = b"PATH=/bin\0ETCD_NAME=k1\0ETCD_INITIAL_CLUSTER_TOKEN=etcd-1\0\
            ETCD_PASSWORD=x\0KUBE_ETCD_SERVERS=--etcd-servers=http://a\0KUBE_TOKEN=y\0\
            FLANNELD_ETCD_PREFIX=/p=q\0FLANNELD_ETCD_PASSWORD=z\0ETCDCTL_USER=root:pw\0junk";
        let found: Vec<_> = environment(environ).into_iter().collect();
        let expected = [
            ("ETCD_INITIAL_CLUSTER_TOKEN", "etcd-1"),
            ("ETCD_NAME", "k1"),
            ("FLANNELD_ETCD_PREFIX", "/p=q"),
            ("KUBE_ETCD_SERVERS", "--etcd-servers=http://a"),
        ];
        assert_eq!(found, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));

        let line = b"etcd\0--initial-cluster-token=t\0--initial-cluster-token\0t2\0\
            --etcd-password=pw\0--etcd-password\0pw2\0--token-auth-file=/f\0--user=a:b\0\
            --user\0c:d\0--name\0\0";
        let expected = [
            "etcd",
            "--initial-cluster-token=t",
            "--initial-cluster-token",
            "t2",
            "--etcd-password=***",
            "--etcd-password",
            "***",
            "--token-auth-file=/f",
            "--user=***",
            "--user",
            "***",
            "--name",
            "",
        ];
        assert_eq!(arguments(line), expected);
        assert_eq!(arguments(b""), [""; 0]);
    }

    #[test]
    fn a_program_may_be_called_anything() {
        let stat = b"42 (a) R (b c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 98765 1 2 3";
        assert_eq!(started(stat), Some(98765));
        assert_eq!(started(b"42 (x"), None);
        assert_eq!(effective_uid("Name:\tx\nUid:\t1\t2\t3\t4\n"), Some(2));
    }

    #[test]
    fn the_group_of_a_unit_or_pod_is_found_in_both_versions() {
        let v2 = "0::/system.slice/etcd.service\n";
        assert_eq!(cgroup_of(v2), "/system.slice/etcd.service");
        let v1 = "12:cpu,cpuacct:/\n3:memory:/kubepods/pod1/abc\n1:name=systemd:/kubepods/pod1/x\n";
        assert_eq!(cgroup_of(v1), "/kubepods/pod1/x");
        assert_eq!(cgroup_of("3:memory:/a/b:c\n0::/\n"), "/a/b:c");
        assert_eq!(cgroup_of(""), "");
    }

    #[test]
    fn listening_sockets_of_both_families_are_read() {
        let text = "  sl  local_address rem_address   st tx rx tr tm retr uid timeout inode\n\
            0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 777 1 0\n\
            1: 0100007F:094B 0100007F:8888 01 00000000:00000000 00:00000000 00000000 0 0 778 1 0\n\
            2: 00000000000000000000000001000000:094C 0:0 0A 0:0 00:0 0 0 0 779 1\n\
            3: zz:1 0 0A\n";
        if cfg!(target_endian = "little") {
            let expected =
                [("127.0.0.1:2379".parse().unwrap(), 777), ("[::1]:2380".parse().unwrap(), 779)];
            assert_eq!(parse_sockets(text), expected);
        }
    }

    #[test]
    fn this_process_is_found_with_what_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        let query = ProcessQuery::Holding(directory.path().to_owned());
        assert_eq!(processes(&query).unwrap(), []);
        let _file = std::fs::File::create(directory.path().join("sub/file")).unwrap();
        let me = std::process::id();
        let holders = processes(&query).unwrap();
        assert!(holders.len() == 1 && holders[0].pid == me, "{holders:?}");
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let expected = Listener { address, pid: Some(me) };
        assert!(listeners().unwrap().contains(&expected), "{expected:?}");
        let own = processes(&ProcessQuery::Pid(me)).unwrap();
        assert_eq!(own, holders);
        assert!(own[0].root.is_none() && own[0].started > 0);
        let name = own[0].program.file_name().unwrap().to_str().unwrap().to_owned();
        let named = processes(&ProcessQuery::Program(name)).unwrap();
        assert!(named.iter().any(|process| process.pid == me), "{named:?}");
    }
}

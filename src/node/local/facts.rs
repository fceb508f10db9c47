//! What this machine is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::Facts;
use super::fault::Fault;

pub(super) fn facts() -> Result<Facts, Fault> {
    let system = rustix::system::uname();
    let text = |path: &str| std::fs::read_to_string(path).ok();
    let machine_id = text("/etc/machine-id").map(|id| id.trim().to_owned());
    let release = text("/etc/os-release").or_else(|| text("/usr/lib/os-release"));
    let now = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    };
    let v4 = text("/proc/net/fib_trie").unwrap_or_default();
    let v6 = text("/proc/net/if_inet6").unwrap_or_default();
    Ok(Facts {
        hostname: system.nodename().to_string_lossy().into_owned(),
        machine_id: machine_id.filter(|id| id.len() == 32),
        boot_id: text("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
        os: os(&release.unwrap_or_default()),
        arch: system.machine().to_string_lossy().into_owned(),
        uid: rustix::process::geteuid().as_raw(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now,
        addresses: addresses(&v4, &v6),
        systemd: has_systemd(),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
    })
}

/// Whether systemd is the init, as `sd_booted(3)` tells.
pub(super) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").symlink_metadata().is_ok_and(|found| found.is_dir())
}

/// `PRETTY_NAME`, else `ID`, of os-release(5).
fn os(release: &str) -> String {
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key))?;
        let line = line.strip_prefix('=')?.trim();
        let quotes = |c| c == '"' || c == '\'';
        Some(line.trim_matches(quotes).to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("ID")).unwrap_or_else(|| "Linux".to_owned())
}

/// The addresses that the kernel takes for its own: those of the routing tables
/// whose leaf is a local host, and those of IPv6 interfaces. Addresses that mean
/// nothing on another machine (loopback, link-local) are left out.
fn addresses(fib_trie: &str, if_inet6: &str) -> Vec<IpAddr> {
    let mut found = BTreeSet::new();
    let mut leaf = None;
    for line in fib_trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            let usable = |address: &Ipv4Addr| !address.is_loopback() && !address.is_link_local();
            found.extend(leaf.filter(usable).map(IpAddr::V4));
        }
    }
    for line in if_inet6.lines() {
        let number = line.split_whitespace().next().filter(|digits| digits.len() == 32);
        let number = number.and_then(|digits| u128::from_str_radix(digits, 16).ok());
        let Some(address) = number.map(Ipv6Addr::from) else { continue };
        if !address.is_loopback() && !address.is_unicast_link_local() {
            found.insert(IpAddr::V6(address));
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_are_found_once() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                    Local:\n  +-- 0.0.0.0/0 3 0 5\n     +-- 10.77.0.0/24 2 0 2\n\
                    \x20       |-- 10.77.0.0\n           /24 link UNICAST\n\
                    \x20       |-- 10.77.0.11\n           /32 host LOCAL\n\
                    \x20       |-- 10.77.0.255\n           /32 link BROADCAST\n\
                    \x20    |-- 127.0.0.1\n        /32 host LOCAL\n\
                    \x20       |-- 10.77.0.11\n           /32 host LOCAL\n";
        let six = "fd000000000000000000000000000011 02 40 00 80 eth0\n\
                   00000000000000000000000000000001 01 80 10 80 lo\n\
                   fe80000000000000020000fffe000001 02 40 20 80 eth0\nbad line\n";
        let expected: [IpAddr; 2] = ["10.77.0.11".parse().unwrap(), "fd00::11".parse().unwrap()];
        assert_eq!(addresses(trie, six), expected);
    }

    #[test]
    fn the_system_is_named() {
        assert_eq!(
            os("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(os("NAME=x\nID='alpine'\n"), "alpine");
        assert_eq!(os(""), "Linux");
    }
}

//! A name for this machine that two machines with one host name do not share.
//!
//! `<host name>@<mark>`, the mark being the first 16 hexadecimal digits of the
//! SHA-256 of `etcdvault:` and the machine id. That id is not for strangers, and a
//! vault may be shared: hence the hash. Where there is no `/etc/machine-id`, as in
//! many containers, the name has no mark and proves nothing.

use crate::digest::Sha256;

const PLACE: &str = "/etc/machine-id";

/// The host name with whatever tells this machine apart.
pub fn name(host: &str) -> String {
    marked(host, &std::fs::read_to_string(PLACE).unwrap_or_default())
}

/// Whether both names are surely of one machine.
pub fn same(one: &str, other: &str) -> bool {
    one == other && one.contains('@')
}

fn marked(host: &str, id: &str) -> String {
    let id = id.trim();
    // systemd writes "uninitialized" before the first boot is through.
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return host.to_owned();
    }
    let digest = Sha256::of(format!("etcdvault:{id}").as_bytes()).to_string();
    format!("{host}@{}", &digest[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_name_is_not_one_machine() {
        let (one, other) = (marked("etcd-0", &"1".repeat(32)), marked("etcd-0", &"2".repeat(32)));
        assert!(same(&one, &one) && !same(&one, &other), "{one} {other}");
        assert!(!one.contains("1111"), "{one}");
        for unknown in ["", "uninitialized\n", "1234"] {
            let name = marked("etcd-0", unknown);
            assert_eq!(name, "etcd-0");
            assert!(!same(&name, &name) && !same(&name, &one));
        }
    }
}

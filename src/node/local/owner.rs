//! Names of users and groups, from `/etc/passwd` and `/etc/group` alone: those
//! of the services that matter here stand there.

use std::collections::BTreeMap;
use std::io::Read as _;

/// At most so much of either file is read.
const LIMIT: u64 = 8 << 20;

/// Numbers and their names.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Owners {
    /// This machine's.
    pub(super) fn load() -> Self {
        Self::parse(&read("/etc/passwd"), &read("/etc/group"))
    }

    fn parse(passwd: &str, group: &str) -> Self {
        Self { users: table(passwd), groups: table(group) }
    }

    pub(super) fn user(&self, uid: u32) -> Option<String> {
        self.users.get(&uid).cloned()
    }

    pub(super) fn group(&self, gid: u32) -> Option<String> {
        self.groups.get(&gid).cloned()
    }
}

fn read(path: &str) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // What cannot be read has no names; the numbers are what counts.
        let _ = file.take(LIMIT).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn table(text: &str) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (name, id) = (fields.next(), fields.nth(1));
        let name = name.filter(|name| !name.is_empty());
        if let (Some(name), Some(id)) = (name, id.and_then(|id| id.parse().ok())) {
            // As the system does: the first line of a number counts.
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_number_counts_and_junk_is_passed_over() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/:/bin/sh\n\
                      etcd:x:105:113::/var/lib/etcd/:/usr/sbin/nologin\n+::::::\nbad\nx:y:z\n";
        let owners = Owners::parse(passwd, "root:x:0:\netcd:x:113:a,b\n");
        assert_eq!(owners.user(0).as_deref(), Some("root"));
        assert_eq!(owners.user(105).as_deref(), Some("etcd"));
        assert_eq!(owners.group(113).as_deref(), Some("etcd"));
        assert_eq!(owners.user(1), None);
        assert_eq!((owners.users.len(), owners.groups.len()), (2, 2));
    }
}

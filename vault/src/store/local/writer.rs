//! Who writes a temporary file, told by its name, and whether they still live.
//!
//! ```text
//! .tmp-<boot id>-<pid namespace>-<pid>-<start time>-<number>-<host>
//! ```
//! The boot id is hexadecimal without dashes, the numbers are decimal, and the
//! start time is that of the process in clock ticks since the boot. The host is
//! that of [`machine::name`].

use std::io;

use crate::machine;

const PREFIX: &str = ".tmp-";

/// A process, told apart from every other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Writer {
    boot: String,
    namespace: u64,
    pid: u32,
    started: u64,
    host: String,
}

impl Writer {
    /// This process.
    pub(super) fn current() -> io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot: String = boot.chars().filter(char::is_ascii_hexdigit).collect();
        let pid = std::process::id();
        let started = start_time(pid)?.unwrap_or(0);
        let link = std::fs::read_link("/proc/self/ns/pid")?;
        let digits: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host: String = host
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
            .take(64)
            .collect();
        let host = machine::name(&host);
        let namespace = digits.parse().unwrap_or(0);
        Ok(Self { boot, namespace, pid, started, host })
    }

    /// The name of this process's temporary file of that number.
    pub(super) fn temporary_name(&self, number: u64) -> String {
        let Self { boot, namespace, pid, started, host } = self;
        format!("{PREFIX}{boot}-{namespace}-{pid}-{started}-{number}-{host}")
    }

    /// The writer of the temporary file of this name, if it is one.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.splitn(6, '-');
        let boot = parts.next()?.to_owned();
        let namespace = parts.next()?.parse().ok()?;
        let pid = parts.next()?.parse().ok()?;
        let started = parts.next()?.parse().ok()?;
        let _number: u64 = parts.next()?.parse().ok()?;
        let host = parts.next()?.to_owned();
        let is_boot_id = boot.len() == 32 && boot.bytes().all(|b| b.is_ascii_hexdigit());
        is_boot_id.then_some(Self { boot, namespace, pid, started, host })
    }

    /// Whether `other` is dead, as far as this process can know: of processes in
    /// its own namespace, and of earlier boots of its own machine.
    pub(super) fn knows_dead(&self, other: &Self) -> Option<bool> {
        if self.boot != other.boot {
            return machine::same(&self.host, &other.host).then_some(true);
        }
        if self.namespace != other.namespace {
            return None;
        }
        match start_time(other.pid) {
            Ok(Some(started)) => Some(started != other.started),
            Ok(None) => Some(true),
            Err(_) => None,
        }
    }
}

/// When the process of this id started, in ticks since the boot; `None` when
/// there is none.
fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // The process went away while it was read.
        Err(error) if error.raw_os_error() == Some(3) => return Ok(None),
        Err(error) => return Err(error),
    };
    let stat = String::from_utf8_lossy(&stat);
    // The second field is a name in parentheses that may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    match fields.split_ascii_whitespace().nth(19).map(str::parse) {
        Some(Ok(started)) => Ok(Some(started)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no start time in /proc")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_writer() {
        let me = Writer::current().unwrap();
        let name = me.temporary_name(7);
        assert_eq!(Writer::parse(&name), Some(me.clone()));
        assert_eq!(me.knows_dead(&me), Some(false));
        for bad in ["", ".tmp-", ".tmp-x-1-2-3-4-h", &name[1..], ".tmp-zz", ".hidden"] {
            assert_eq!(Writer::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_the_surely_dead_are_dead() {
        let me = Writer { host: "a@1".into(), ..Writer::current().unwrap() };
        let earlier = Writer { started: me.started.wrapping_sub(1), ..me.clone() };
        assert_eq!(me.knows_dead(&earlier), Some(true), "the pid was reused");
        let rebooted = Writer { boot: "0".repeat(32), ..me.clone() };
        assert_eq!(me.knows_dead(&rebooted), Some(true));
        for host in ["other", "b@1", "a@2", "a"] {
            let elsewhere = Writer { host: host.into(), ..rebooted.clone() };
            assert_eq!(me.knows_dead(&elsewhere), None, "{host}");
        }
        // Without a machine id, one host name may be that of two containers.
        let unmarked = Writer { host: "a".into(), ..me.clone() };
        assert_eq!(unmarked.knows_dead(&Writer { host: "a".into(), ..rebooted }), None);
        let contained = Writer { namespace: me.namespace + 1, ..me.clone() };
        assert_eq!(me.knows_dead(&contained), None);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let started = start_time(pid).unwrap().unwrap_or(1);
        child.wait().unwrap();
        assert_eq!(me.knows_dead(&Writer { pid, started, ..me.clone() }), Some(true));
    }
}

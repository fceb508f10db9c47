//! Names for what a restore builds, from which a later one tells whether the
//! process that built it still lives.
//!
//! A tag carries the process id, the start time of the process, the boot and
//! the machine. Dead is only what is provably dead: of this machine, and of an earlier
//! boot or of a process id that is free or was given to another process since.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use vault::machine;

/// Longest tag that is looked at.
const MAX_TAG: usize = 200;

/// Who built something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    process: u32,
    /// Clock ticks from the boot to the start of the process.
    start: u64,
    /// Tells two builds of one process apart.
    build: u32,
    boot: String,
    /// The namespace of its process id: containers share the boot, not the ids.
    namespace: u64,
    host: String,
}

/// Whether a tag's process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Dead,
    Alive,
    /// Of another host, or not to be told.
    Unknown,
}

impl Tag {
    /// The tag of this process.
    pub(super) fn of_this_process() -> io::Result<Self> {
        static BUILD: AtomicU32 = AtomicU32::new(0);
        let process = std::process::id();
        let start = start_of(process)?
            .ok_or_else(|| io::Error::other("this process is not in the process table"))?;
        let build = BUILD.fetch_add(1, Ordering::Relaxed);
        Ok(Self { process, start, build, boot: boot()?, namespace: namespace()?, host: host() })
    }

    /// The tag of a process of this host that is dead, as is any of its number.
    #[cfg(test)]
    pub(super) fn of_a_dead_process(build: u32) -> io::Result<Self> {
        Ok(Self { process: 1 << 23, build, ..Self::of_this_process()? })
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TAG {
            return None;
        }
        let mut parts = text.splitn(6, '.');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        Some(Self {
            process: next()?.parse().ok().filter(|&process| process > 0)?,
            start: next()?.parse().ok()?,
            build: next()?.parse().ok()?,
            boot: next()?.to_owned(),
            namespace: next()?.parse().ok()?,
            host: next()?.to_owned(),
        })
    }

    pub(super) fn life(&self) -> Life {
        self.life_on(&host())
    }

    /// As it is told on a machine of this name.
    fn life_on(&self, machine: &str) -> Life {
        let Ok(boot) = boot() else { return Life::Unknown };
        if self.boot != boot {
            return if machine::same(&self.host, machine) { Life::Dead } else { Life::Unknown };
        }
        if namespace().ok() != Some(self.namespace) {
            return Life::Unknown;
        }
        match start_of(self.process) {
            Ok(Some(start)) if start == self.start => Life::Alive,
            Ok(_) => Life::Dead,
            Err(_) => Life::Unknown,
        }
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { process, start, build, boot, namespace, host } = self;
        write!(f, "{process}.{start}.{build}.{boot}.{namespace}.{host}")
    }
}

/// The start time of a process, `None` when there is none of that id.
fn start_of(process: u32) -> io::Result<Option<u64>> {
    let text = match fs::read(format!("/proc/{process}/stat")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    // The program's name, in parentheses, may hold anything; field 22 is the
    // twentieth behind it.
    let start = text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19));
    let start = start.and_then(|start| start.parse().ok());
    start.map(Some).ok_or_else(|| io::Error::other("a process without a start time"))
}

fn boot() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().replace('-', ""))
}

fn namespace() -> io::Result<u64> {
    let link = fs::read_link("/proc/self/ns/pid")?;
    let digits: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| io::Error::other("a namespace without a number"))
}

fn host() -> String {
    let uname = rustix::system::uname();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let host: String = uname.nodename().to_string_lossy().chars().map(plain).take(64).collect();
    machine::name(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_others_are_told_apart() {
        let tag = Tag::of_this_process().unwrap();
        assert_eq!(Tag::parse(&tag.to_string()), Some(tag.clone()));
        assert_eq!(tag.life(), Life::Alive);
        assert_ne!(Tag::of_this_process().unwrap(), tag);
        let earlier = Tag { start: tag.start - 1, ..tag.clone() };
        assert_eq!(earlier.life(), Life::Dead);
        // Above the largest process id of Linux.
        assert_eq!(Tag { process: 1 << 23, ..tag.clone() }.life(), Life::Dead);
        for namespace in [1, tag.namespace] {
            let rebooted = |host: &str| {
                let (boot, host) = ("0".repeat(32), host.to_owned());
                Tag { boot, namespace, host, ..tag.clone() }
            };
            assert_eq!(rebooted("a@1").life_on("a@1"), Life::Dead);
            // One host name on two machines, or on machines that cannot be told apart.
            for (host, machine) in [("a@1", "a@2"), ("a", "a@1"), ("a", "a"), ("b@1", "a@1")] {
                assert_eq!(rebooted(host).life_on(machine), Life::Unknown, "{host} {machine}");
            }
        }
        assert_eq!(Tag { namespace: 1, ..tag }.life(), Life::Unknown);
        for wrong in ["", "1.2.3.4", "0.2.3.b.1.h", "-1.2.3.b.1.h", "1.2.3..1.h", "x.2.3.b.1.h"] {
            assert_eq!(Tag::parse(wrong), None, "{wrong}");
        }
    }
}

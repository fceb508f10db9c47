//! Loopback ports that stay ours.
//!
//! A port is below the kernel's ephemeral range, so that no outgoing connection
//! takes it while its server is down, and a lock file holds it against other
//! test processes for as long as the `Port` lives. A server can so be stopped
//! and started again on the same port.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Result};

const FIRST: u16 = 12_000;
/// The usual start of the ephemeral range, for where the kernel does not tell.
const EPHEMERAL: u16 = 32_768;

/// A reserved port on 127.0.0.1.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port that nobody listens on.
    pub fn reserve() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = lock_directory()?;
        let ports = u32::from(ephemeral_start().saturating_sub(FIRST).max(1));
        // Processes begin at places of their own, to meet seldom.
        let start = std::process::id().wrapping_mul(2_654_435_761);
        for _ in 0..ports {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let offset = start.wrapping_add(step) % ports;
            let Ok(offset) = u16::try_from(offset) else { continue };
            if let Some(port) = Self::try_reserve(&directory, FIRST + offset)? {
                return Ok(port);
            }
        }
        Err(Error::new(format!("no free port from {FIRST} to {}", ephemeral_start() - 1)))
    }

    fn try_reserve(directory: &Path, number: u16) -> Result<Option<Self>> {
        let path = directory.join(number.to_string());
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(
            |source| Error::because(format!("opening the port lock {}", path.display()), source),
        )?;
        if lock.try_lock().is_err() || TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_err() {
            return Ok(None);
        }
        Ok(Some(Self { number, _lock: lock }))
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

fn lock_directory() -> Result<PathBuf> {
    let directory = crate::cache::directory()?.join("ports");
    fs::create_dir_all(&directory)
        .map_err(|source| Error::because(format!("creating {}", directory.display()), source))?;
    Ok(directory)
}

fn ephemeral_start() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|start| *start > FIRST)
        .unwrap_or(EPHEMERAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_given_once() {
        let ports: Vec<Port> = (0..50).map(|_| Port::reserve().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
        assert!(numbers.iter().all(|number| *number >= FIRST && *number < ephemeral_start()));
    }

    #[test]
    fn a_port_in_use_or_locked_is_passed_over() {
        let directory = lock_directory().unwrap();
        let held = Port::reserve().unwrap();
        assert!(Port::try_reserve(&directory, held.number()).unwrap().is_none(), "locked");
        let number = held.number();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        drop(held);
        assert!(Port::try_reserve(&directory, number).unwrap().is_none(), "listened on");
        drop(listener);
    }
}

//! A bridge, a subnet and a directory that are one set's alone.
//!
//! A lock file for each subnet says who has it; the kernel takes the lock off when
//! its process is gone. Who takes a lock removes what the process before left.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{container, machine};
use crate::{Error, Result, cache};

/// Subnets 10.200.N.0/24 from 0 up to here are for sets that take any.
const ANY: u8 = 200;

/// A subnet that nobody else has.
#[derive(Debug)]
pub(super) struct Subnet {
    number: u8,
    directory: PathBuf,
    _lock: File,
}

impl Subnet {
    /// Takes the first free subnet and puts the bridge up; sweeps the leftovers
    /// of all whose process is gone.
    pub(super) fn take() -> Result<Self> {
        let used = machine("ip", ["-4", "-oneline", "address"])?;
        let mut taken = None;
        for number in 0..ANY {
            let known = lock_path(number)?.exists();
            if taken.is_some() && !known {
                continue;
            }
            let Some(subnet) = Self::lock(number)? else { continue };
            if known {
                subnet.sweep();
            }
            let foreign = used.contains(&format!(" 10.200.{number}.")) && !known;
            if taken.is_none() && !foreign {
                taken = Some(subnet);
            }
        }
        let taken = taken.ok_or_else(|| Error::new("no free subnet for test hosts"))?;
        taken.raise()?;
        Ok(taken)
    }

    /// Takes the subnet with this number, waiting for whoever has it.
    pub(super) async fn wait_for(number: u8, bound: Duration) -> Result<Self> {
        let start = Instant::now();
        loop {
            if let Some(subnet) = Self::lock(number)? {
                subnet.sweep();
                subnet.raise()?;
                return Ok(subnet);
            }
            if start.elapsed() > bound {
                let text = format!("subnet {number} was not free within {bound:?}");
                return Err(Error::new(text));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn lock(number: u8) -> Result<Option<Self>> {
        let path = lock_path(number)?;
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = opened.map_err(|source| {
            Error::because(format!("opening the subnet lock {}", path.display()), source)
        })?;
        if lock.try_lock().is_err() {
            return Ok(None);
        }
        Ok(Some(Self { number, directory: path.with_extension(""), _lock: lock }))
    }

    fn raise(&self) -> Result<()> {
        let (bridge, address) = (self.bridge(), format!("{}/24", self.gateway()));
        machine("ip", ["link", "add", &bridge, "type", "bridge"])?;
        machine("ip", ["address", "add", &address, "dev", &bridge])?;
        machine("ip", ["link", "set", &bridge, "up"])?;
        fs::create_dir_all(&self.directory).map_err(|source| {
            Error::because(format!("creating {}", self.directory.display()), source)
        })
    }

    /// Removes what there is of the subnet, whoever made it.
    fn sweep(&self) {
        container::sweep(&self.machine_prefix());
        // Mostly there is no bridge, and no directory.
        let _ = machine("ip", ["link", "delete", &self.bridge()]);
        let _ = fs::remove_dir_all(&self.directory);
    }

    /// The address of the bridge.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address with this last number.
    pub(super) fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, self.number, last)
    }

    /// The interface of the bridge.
    pub(super) fn bridge(&self) -> String {
        format!("evb{}", self.number)
    }

    /// What the names of all machines (containers) here begin with. With a host's
    /// number they have at most 9 characters, so that nspawn's `vb-` and the name
    /// make an interface.
    pub(super) fn machine_prefix(&self) -> String {
        format!("ev{}-", self.number)
    }

    /// The directory of the set.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Subnet {
    fn drop(&mut self) {
        self.sweep();
    }
}

fn lock_path(number: u8) -> Result<PathBuf> {
    let directory = cache::directory()?.join("hosts");
    fs::create_dir_all(&directory)
        .map_err(|source| Error::because(format!("creating {}", directory.display()), source))?;
    Ok(directory.join(format!("{number}.lock")))
}

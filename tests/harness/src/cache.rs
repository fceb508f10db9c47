//! Where built test servers are kept between runs, outside the work tree.

use std::path::PathBuf;

use crate::{Error, Result};

/// `$ETCDVAULT_TEST_CACHE`, else `~/.cache/etcdvault-test`; the same rule as in
/// `tests/servers/*.sh`.
pub fn directory() -> Result<PathBuf> {
    if let Some(cache) = std::env::var_os("ETCDVAULT_TEST_CACHE") {
        return Ok(PathBuf::from(cache));
    }
    let home = std::env::var_os("HOME")
        .ok_or_else(|| Error::new("neither ETCDVAULT_TEST_CACHE nor HOME is set"))?;
    Ok(PathBuf::from(home).join(".cache/etcdvault-test"))
}

/// The folder of the scripts that install test servers.
pub fn scripts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../servers")
}

//! Finds and loads `etcdvault.toml`.
//!
//! Named by `--config` or `ETCDVAULT_CONFIG`, it must be there. Otherwise the first of
//! the usual places that exists is the only one read, and without any there is none. A
//! file that somebody else may write is refused: it can name commands to run.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::read::{self, Position, Problem};
use super::{Config, Env};

/// The file for the whole machine.
pub const SYSTEM_FILE: &str = "/etc/etcdvault/etcdvault.toml";

/// No configuration is longer.
const MAX_SIZE: u64 = 1 << 20;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It was named and cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else may write it.
    #[error("the configuration {} is not used: {why}", path.display())]
    Unsafe {
        /// Which file.
        path: PathBuf,
        /// Who may write it.
        why: &'static str,
    },
    /// It is no text, or too long.
    #[error("{} is no configuration: {why}", path.display())]
    Alien {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// There are mistakes in it.
    #[error("there {} in the configuration {}", count(problems), path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Each of them, in the order of the file.
        problems: Vec<Problem>,
    },
}

fn count(problems: &[Problem]) -> String {
    match problems.len() {
        1 => "is 1 mistake".to_owned(),
        n => format!("are {n} mistakes"),
    }
}

/// A configuration and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file.
    pub path: PathBuf,
    /// What it says; paths of this machine are absolute.
    pub config: Config,
    parsed: read::Parsed,
}

impl Loaded {
    /// Where `key` of `section` (`cluster.prod`) stands.
    pub fn position(&self, section: &str, key: &str) -> Option<Position> {
        self.parsed.position(section, key)
    }

    /// What the file says, with paths as they are written.
    pub fn as_written(&self) -> &Config {
        &self.parsed.config
    }
}

/// The places where a file is looked for when none is named, in their order.
pub fn usual_places(env: &Env) -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from(SYSTEM_FILE)];
    let absolute = |text: String| Some(PathBuf::from(text)).filter(|path| path.is_absolute());
    let personal = env
        .get("XDG_CONFIG_HOME")
        .and_then(absolute)
        .or_else(|| env.get("HOME").and_then(absolute).map(|home| home.join(".config")));
    places.extend(personal.map(|folder| folder.join("etcdvault/etcdvault.toml")));
    places
}

/// Loads the file that `flag` or the environment names, else the first of the usual
/// places that exists; `None` when there is none.
pub fn load(flag: Option<&Path>, env: &Env) -> Result<Option<Loaded>, ConfigError> {
    if let Some(path) = flag.map(Path::to_owned).or_else(|| env.own("CONFIG").map(PathBuf::from)) {
        return read_file(&path, false).map(Some);
    }
    for path in usual_places(env) {
        match read_file(&path, true) {
            Err(ConfigError::Read { source, .. }) if is_absent(&source) => {}
            loaded => return loaded.map(Some),
        }
    }
    Ok(None)
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    // A file for others only is none: whoever has no access to it must not need it.
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// Loads `path`; where nobody named it, its owner must be root or whoever runs this.
fn read_file(path: &Path, found: bool) -> Result<Loaded, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(std::io::ErrorKind::IsADirectory.into()));
    }
    let unsafe_to_use = |why| ConfigError::Unsafe { path: path.to_owned(), why };
    if metadata.is_file() && metadata.mode() & 0o002 != 0 {
        return Err(unsafe_to_use("everybody may write it"));
    }
    if found && ![0, rustix::process::geteuid().as_raw()].contains(&metadata.uid()) {
        return Err(unsafe_to_use("it belongs to somebody else"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    let alien = |why| ConfigError::Alien { path: path.to_owned(), why };
    if bytes.len() as u64 > MAX_SIZE {
        return Err(alien("it is longer than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| alien("it is no UTF-8 text"))?;
    let parsed = read::parse(&text)
        .map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })?;
    let absolute = std::path::absolute(path).map_err(failed)?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    Ok(Loaded { config: parsed.config.clone().rebased(base), path: path.to_owned(), parsed })
}

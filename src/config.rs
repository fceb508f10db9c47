//! Settings: flag, then environment, then `etcdvault.toml`, then default. Each has a
//! flag `--name-of-it`, a variable `ETCDVAULT_NAME_OF_IT`, and where etcdctl has the
//! same setting also `ETCDCTL_NAME_OF_IT`; [`setup`] puts the layers together.
//!
//! Secrets come by file, environment, systemd credential or command, never by
//! argument or in the configuration, where others can read them.

pub mod check;
pub mod connection;
pub mod file;
pub mod keys;
pub mod model;
pub mod origin;
pub mod owner;
pub mod place;
pub mod read;
pub mod setup;
pub mod write;

pub use model::Config;
pub use setup::{Choice, Setup};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The environment, as a value so that tests can give their own.
#[derive(Clone)]
pub struct Env(Arc<Lookup>);

impl Env {
    /// The process's own environment; a variable that is empty counts as unset.
    pub fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }

    /// Looks variables up with `lookup`.
    pub fn new(lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(lookup))
    }

    /// The variable `name`, unless unset or empty.
    pub fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// The first variable of `names` that is set, with its value.
    fn first(&self, names: &[String]) -> Option<(String, String)> {
        names.iter().find_map(|name| Some((name.clone(), self.get(name)?)))
    }

    /// `ETCDVAULT_<name>`.
    fn own(&self, name: &str) -> Option<String> {
        self.get(&format!("ETCDVAULT_{name}"))
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct SettingError {
    /// Which setting, and what is wrong with it. Never a secret.
    pub what: String,
    /// One line for each thing that is wrong, where it is several.
    pub details: Vec<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Whether a key or password is missing or unusable, rather than a flag wrong.
    pub is_key: bool,
}

impl SettingError {
    /// A setting that cannot be used, because of `what`.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), details: Vec::new(), hint: None, is_key: false }
    }

    /// The same for a key or password that cannot be had.
    pub fn key(what: impl Into<String>) -> Self {
        Self { is_key: true, ..Self::new(what) }
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Reads `5s`, `500ms`, `2m`, `1h30m`, as etcdctl takes durations.
pub fn duration(name: &str, text: &str) -> Result<Duration, SettingError> {
    let bad = || {
        SettingError::new(format!("{name} is {text:?}, which is no duration"))
            .hint("write it as 500ms, 5s, 2m or 1h30m")
    };
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let factor = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let part = Duration::try_from_secs_f64(number * factor).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = tail;
    }
    Ok(total)
}

/// Reads a file with a secret: one line, without the line's end.
fn secret_file(what: &str, path: &Path) -> Result<String, SettingError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        SettingError::key(format!("cannot read the {what} from {}: {error}", path.display()))
    })?;
    let text = text.trim_end_matches(['\n', '\r']).to_owned();
    if text.is_empty() {
        return Err(SettingError::key(format!("{} holds no {what}", path.display())));
    }
    Ok(text)
}

/// The file of a systemd credential, when the unit was given one of that name.
fn credential(env: &Env, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env.get("CREDENTIALS_DIRECTORY")?).join(name);
    path.is_file().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |text| duration("--dial-timeout", text).map(|d| d.as_secs_f64());
        assert_eq!(seconds("5s").unwrap(), 5.0);
        assert_eq!(seconds("1m30s").unwrap(), 90.0);
        assert_eq!(seconds("1.5h").unwrap(), 5400.0);
        assert_eq!(seconds("250ms").unwrap(), 0.25);
        for bad in ["", "5", "s", "-1s", "5 s", "1e400s", "5d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}

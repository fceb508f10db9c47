//! Where the vault is: a directory, or `s3://bucket/prefix` with its options.

use std::path::PathBuf;

use vault::layout::ClusterName;
use vault::store::s3::{OPTIONS, S3Config};

use super::model::VaultConfig;
use super::origin::Origin;
use super::{Env, SettingError};

/// What was given on the command line.
#[derive(Debug, Clone, Default)]
pub struct RawPlace {
    /// The vault.
    pub vault: Option<String>,
    /// Options of the S3 store by name, as [`OPTIONS`] lists them.
    pub s3: Vec<(&'static str, String)>,
}

/// Where the vault is.
#[derive(Debug, Clone)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// A prefix in an S3 bucket.
    S3(Box<S3Config>),
}

const HINT: &str = "name it with --vault or ETCDVAULT_VAULT: a directory, or s3://bucket/prefix";

/// Reads a location: a directory, or `s3://bucket/prefix` without options.
pub fn location(text: &str) -> Result<Place, SettingError> {
    if text.starts_with("s3://") {
        let config = S3Config::from_url(text)
            .map_err(|error| SettingError::new(error.to_string()).hint(HINT))?;
        return Ok(Place::S3(Box::new(config)));
    }
    let path = match text.split_once("://") {
        Some(("file", path)) => path,
        Some((scheme, _)) => {
            return Err(SettingError::new(format!("a vault cannot be on {scheme}://")).hint(HINT));
        }
        None => text,
    };
    if path.is_empty() {
        return Err(SettingError::new("the vault's path is empty").hint(HINT));
    }
    Ok(Place::Directory(PathBuf::from(path)))
}

/// No vault is named anywhere.
pub(super) fn missing() -> SettingError {
    SettingError::new("no vault is given").hint(HINT)
}

/// Resolves `location` with the options of the store: flag, variable, then those of the
/// configuration.
pub(super) fn resolve(
    text: &str,
    raw: &RawPlace,
    env: &Env,
    file: Option<&VaultConfig>,
) -> Result<Place, SettingError> {
    let mut place = location(text)?;
    match &mut place {
        Place::S3(config) => {
            for &(name, _) in OPTIONS {
                let value = option(name, raw, env).map(|(_, value)| value);
                let value = value.or_else(|| file?.s3.get(name).cloned());
                if let Some(value) = value {
                    config
                        .set(name, &value)
                        .map_err(|error| SettingError::new(error.to_string()))?;
                }
            }
        }
        Place::Directory(_) => {
            if let Some((name, _)) = raw.s3.first() {
                let what = format!("--s3-{name} is given, but the vault is not on S3");
                return Err(
                    SettingError::new(what).hint("a vault on S3 is named s3://bucket/prefix")
                );
            }
        }
    }
    Ok(place)
}

/// An option of the store from flag or variable.
pub(super) fn option(name: &str, raw: &RawPlace, env: &Env) -> Option<(Origin, String)> {
    if let Some((_, value)) = raw.s3.iter().find(|(option, _)| *option == name) {
        return Some((Origin::Flag(format!("--s3-{name}")), value.clone()));
    }
    let variable = format!("ETCDVAULT_S3_{}", name.to_uppercase().replace('-', "_"));
    env.get(&variable).map(|value| (Origin::Environment(variable), value))
}

/// A cluster's name.
pub(super) fn cluster(name: &str) -> Result<ClusterName, SettingError> {
    ClusterName::new(name)
        .map_err(|error| SettingError::new(error.to_string()).hint("--cluster prod, for example"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_buckets() {
        let env =
            Env::new(|name| (name == "ETCDVAULT_S3_REGION").then(|| "eu-central-1".to_owned()));
        let resolve = |text: &str, file| resolve(text, &RawPlace::default(), &env, file);
        assert!(matches!(resolve("/a", None), Ok(Place::Directory(p)) if p.as_os_str() == "/a"));
        assert!(
            matches!(resolve("file:///a", None), Ok(Place::Directory(p)) if p.as_os_str() == "/a")
        );
        let s3 = [("region", "us-east-1".to_owned()), ("checksum", "none".to_owned())];
        let file = VaultConfig { s3: s3.into_iter().collect(), ..Default::default() };
        let Ok(Place::S3(config)) = resolve("s3://backups/prod", Some(&file)) else { panic!() };
        assert_eq!(config.region.as_deref(), Some("eu-central-1"), "the variable beats the file");
        for bad in ["gs://x/y", "s3://", "file://", ""] {
            assert!(resolve(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn s3_options_do_not_fit_a_directory() {
        let raw = RawPlace { vault: None, s3: vec![("region", "x".into())] };
        assert!(resolve("/v", &raw, &Env::new(|_| None), None).is_err());
    }
}

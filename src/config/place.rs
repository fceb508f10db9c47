//! Where the vault is: a directory, or `s3://bucket/prefix` with its options.

use std::path::PathBuf;

use vault::layout::ClusterName;
use vault::store::s3::{OPTIONS, S3Config};

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

/// Resolves `raw` with the environment.
pub fn resolve(raw: &RawPlace, env: &Env) -> Result<Place, SettingError> {
    let text = raw
        .vault
        .clone()
        .or_else(|| env.own("VAULT"))
        .ok_or_else(|| SettingError::new("no vault is given").hint(HINT))?;
    if text.starts_with("s3://") {
        let wrong = |error: vault::store::s3::ConfigError| SettingError::new(error.to_string());
        let mut config = S3Config::from_url(&text).map_err(|error| wrong(error).hint(HINT))?;
        for &(name, _) in OPTIONS {
            let given = raw.s3.iter().find(|(option, _)| *option == name);
            let variable = format!("S3_{}", name.to_uppercase().replace('-', "_"));
            if let Some(value) =
                given.map(|(_, value)| value.clone()).or_else(|| env.own(&variable))
            {
                config.set(name, &value).map_err(wrong)?;
            }
        }
        return Ok(Place::S3(Box::new(config)));
    }
    if let Some((name, _)) = raw.s3.first() {
        return Err(SettingError::new(format!("--s3-{name} is given, but the vault is not on S3"))
            .hint("a vault on S3 is named s3://bucket/prefix"));
    }
    let path = match text.split_once("://") {
        Some(("file", path)) => path,
        Some((scheme, _)) => {
            return Err(SettingError::new(format!("a vault cannot be on {scheme}://")).hint(HINT));
        }
        None => &text,
    };
    if path.is_empty() {
        return Err(SettingError::new("the vault's path is empty").hint(HINT));
    }
    Ok(Place::Directory(PathBuf::from(path)))
}

/// The cluster's name from `--cluster` or `ETCDVAULT_CLUSTER`.
pub fn cluster(given: Option<&str>, env: &Env) -> Result<Option<ClusterName>, SettingError> {
    given
        .map(str::to_owned)
        .or_else(|| env.own("CLUSTER"))
        .map(|name| {
            ClusterName::new(name).map_err(|error| {
                SettingError::new(error.to_string()).hint("--cluster prod, for example")
            })
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_buckets() {
        let env = Env::new(|name| match name {
            "ETCDVAULT_VAULT" => Some("/srv/vault".into()),
            "ETCDVAULT_S3_REGION" => Some("eu-central-1".into()),
            _ => None,
        });
        let resolve = |vault: Option<&str>| {
            resolve(&RawPlace { vault: vault.map(str::to_owned), s3: vec![] }, &env)
        };
        assert!(matches!(resolve(None), Ok(Place::Directory(p)) if p.as_os_str() == "/srv/vault"));
        assert!(
            matches!(resolve(Some("file:///a")), Ok(Place::Directory(p)) if p.as_os_str() == "/a")
        );
        let Ok(Place::S3(config)) = resolve(Some("s3://backups/prod")) else { panic!() };
        assert_eq!(config.region.as_deref(), Some("eu-central-1"));
        for bad in ["gs://x/y", "s3://", "file://"] {
            assert!(resolve(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn s3_options_do_not_fit_a_directory() {
        let raw = RawPlace { vault: Some("/v".into()), s3: vec![("region", "x".into())] };
        assert!(resolve(&raw, &Env::new(|_| None)).is_err());
    }
}

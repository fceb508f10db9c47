//! How to reach etcd: etcdctl's flags and variables.

use std::path::PathBuf;
use std::time::Duration;

use super::{Env, SettingError, credential, duration, secret_file};
use crate::types::{ConnectionSettings, Credentials, Endpoint, Secret};

/// What was given on the command line.
#[derive(Debug, Clone, Default)]
pub struct RawConnection {
    /// Comma-separated endpoints.
    pub endpoints: Option<String>,
    /// CA file.
    pub cacert: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Client key.
    pub key: Option<PathBuf>,
    /// User name.
    pub user: Option<String>,
    /// File with the user's password.
    pub password_file: Option<PathBuf>,
    /// Bound on connecting.
    pub dial_timeout: Option<String>,
    /// Bound on a short call.
    pub command_timeout: Option<String>,
}

/// The endpoint when none is given, as etcdctl has it.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:2379";
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Resolves `raw` with the environment.
pub fn resolve(raw: &RawConnection, env: &Env) -> Result<ConnectionSettings, SettingError> {
    let path = |given: &Option<PathBuf>, name| {
        given.clone().or_else(|| env.etcdctl(name).map(PathBuf::from))
    };
    let ca_file = path(&raw.cacert, "CACERT");
    let cert_file = path(&raw.cert, "CERT");
    let key_file = path(&raw.key, "KEY");
    let tls_default = ca_file.is_some() || cert_file.is_some() || key_file.is_some();

    let endpoints = raw
        .endpoints
        .clone()
        .or_else(|| env.etcdctl("ENDPOINTS"))
        .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    let mut parsed: Vec<Endpoint> = Vec::new();
    for text in endpoints.split(',').filter(|text| !text.trim().is_empty()) {
        let endpoint = Endpoint::parse(text, tls_default)
            .map_err(|error| SettingError::new(error.to_string()).hint(ENDPOINTS_HINT))?;
        if !parsed.contains(&endpoint) {
            parsed.push(endpoint);
        }
    }
    if parsed.is_empty() {
        return Err(SettingError::new("no endpoint is given").hint(ENDPOINTS_HINT));
    }

    let bound = |given: &Option<String>, flag, name, default| match given
        .clone()
        .or_else(|| env.etcdctl(name))
    {
        Some(text) => duration(flag, &text),
        None => Ok(default),
    };
    Ok(ConnectionSettings {
        endpoints: parsed,
        ca_file,
        cert_file,
        key_file,
        credentials: credentials(raw, env)?,
        dial_timeout: bound(&raw.dial_timeout, "--dial-timeout", "DIAL_TIMEOUT", DIAL_TIMEOUT)?,
        command_timeout: bound(
            &raw.command_timeout,
            "--command-timeout",
            "COMMAND_TIMEOUT",
            COMMAND_TIMEOUT,
        )?,
    })
}

const ENDPOINTS_HINT: &str =
    "--endpoints takes a comma-separated list: https://10.0.0.11:2379,https://10.0.0.12:2379";

fn credentials(raw: &RawConnection, env: &Env) -> Result<Option<Credentials>, SettingError> {
    if let Some(user) = &raw.user
        && user.contains(':')
    {
        return Err(SettingError::new(
            "--user holds a password, which every user of this machine could read",
        )
        .hint("--user NAME with --password-file FILE, or ETCDCTL_USER=NAME:PASSWORD"));
    }
    let (user, mut password) = match (&raw.user, env.etcdctl("USER")) {
        (Some(user), _) => (Some(user.clone()), None),
        // etcdctl takes name:password here; a password may hold colons, a name may not.
        (None, Some(both)) => match both.split_once(':') {
            Some((user, password)) => (Some(user.to_owned()), Some(password.to_owned())),
            None => (Some(both), None),
        },
        (None, None) => (None, None),
    };
    if let Some(path) = &raw.password_file {
        password = Some(secret_file("password", path)?);
    }
    if password.is_none() {
        password = env.etcdctl("PASSWORD");
    }
    if password.is_none()
        && let Some(path) = env
            .own("PASSWORD_FILE")
            .map(PathBuf::from)
            .or_else(|| credential(env, "etcdvault-etcd-password"))
    {
        password = Some(secret_file("password", &path)?);
    }
    match (user, password) {
        (Some(user), Some(password)) => {
            Ok(Some(Credentials { user, password: Secret::new(password) }))
        }
        (Some(user), None) => {
            Err(SettingError::new(format!("there is no password for the etcd user {user:?}"))
                .hint("give it with --password-file FILE or ETCDCTL_PASSWORD"))
        }
        (None, Some(_)) if raw.password_file.is_some() => {
            Err(SettingError::new("a password is given without a user").hint("add --user NAME"))
        }
        (None, _) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &'static [(&'static str, &'static str)]) -> Env {
        Env::new(move |name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn flag_beats_own_variable_beats_etcdctls() {
        let vars =
            env(&[("ETCDCTL_ENDPOINTS", "a:1"), ("ETCDVAULT_ENDPOINTS", "b:1,b:1, http://c:2")]);
        let settings = resolve(&RawConnection::default(), &vars).unwrap();
        let shown: Vec<_> = settings.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["http://b:1", "http://c:2"]);
        let raw = RawConnection { endpoints: Some("d:1".into()), ..Default::default() };
        let settings = resolve(&raw, &vars).unwrap();
        assert_eq!(settings.endpoints[0].to_string(), "http://d:1");
    }

    #[test]
    fn certificates_make_tls_the_default() {
        let vars = env(&[("ETCDCTL_CACERT", "/ca.crt"), ("ETCDCTL_ENDPOINTS", "a,http://b")]);
        let settings = resolve(&RawConnection::default(), &vars).unwrap();
        assert_eq!(settings.endpoints[0].to_string(), "https://a:2379");
        assert_eq!(settings.endpoints[1].to_string(), "http://b:2379");
    }

    #[test]
    fn users_and_passwords() {
        let both = env(&[("ETCDCTL_USER", "root:a:b")]);
        let credentials = resolve(&RawConnection::default(), &both).unwrap().credentials.unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.expose()), ("root", "a:b"));

        let raw = RawConnection { user: Some("root:geheim".into()), ..Default::default() };
        let error = resolve(&raw, &env(&[])).unwrap_err();
        assert!(!format!("{error:?}").contains("geheim"));

        let raw = RawConnection { user: Some("root".into()), ..Default::default() };
        assert!(resolve(&raw, &env(&[])).is_err());
        assert!(resolve(&raw, &env(&[("ETCDCTL_PASSWORD", "x")])).unwrap().credentials.is_some());
        // etcdctl ignores a password without a user; a stray variable must not stop a backup.
        let stray = env(&[("ETCDCTL_PASSWORD", "x")]);
        assert!(resolve(&RawConnection::default(), &stray).unwrap().credentials.is_none());
    }
}

//! How to reach etcd: etcdctl's flags and variables, then a cluster of the configuration.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::file::Loaded;
use super::keys::{kind, secret};
use super::model::{ClusterConfig, SecretSource};
use super::origin::{Effective, Origin, Picked};
use super::{Env, SettingError, credential, duration};
use crate::types::{ConnectionSettings, Credentials, Endpoint, Secret, SrvDomain};

/// What was given on the command line.
#[derive(Debug, Clone, Default)]
pub struct RawConnection {
    /// Comma-separated endpoints.
    pub endpoints: Option<String>,
    /// Domain whose SRV records name the members.
    pub discovery_srv: Option<String>,
    /// Suffix of the SRV records' service.
    pub discovery_srv_name: Option<String>,
    /// Name server to ask for them.
    pub discovery_srv_nameserver: Option<String>,
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

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct Connection {
    /// All that is set; without endpoints where `discovery` finds them.
    pub settings: ConnectionSettings,
    /// Where the endpoints are to be found.
    pub discovery: Option<SrvDomain>,
    /// Whether flag or variable named the members, not the configuration.
    pub elsewhere: bool,
}

/// The endpoint when none is given, as etcdctl has it.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:2379";
const DIAL_TIMEOUT: &str = "5s";
const COMMAND_TIMEOUT: &str = "10s";

/// A cluster of the configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) file: &'a Loaded,
    pub(super) name: &'a str,
    pub(super) cluster: &'a ClusterConfig,
}

impl Entry<'_> {
    fn origin(&self, key: &str) -> Origin {
        let section = format!("cluster.{}", self.name);
        let line = self.file.position(&section, key).map_or(0, |position| position.line);
        Origin::File { path: self.file.path.clone(), line }
    }
}

/// Every setting with who said so; not yet read or parsed.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    members: Members,
    srv_name: Option<Picked>,
    srv_nameserver: Option<Picked>,
    cacert: Option<Picked>,
    cert: Option<Picked>,
    key: Option<Picked>,
    user: Option<Picked>,
    password: Option<Picked<Password>>,
    dial_timeout: Picked,
    command_timeout: Picked,
}

#[derive(Debug, Clone)]
enum Members {
    Endpoints(Picked),
    Srv(Picked),
}

#[derive(Debug, Clone)]
enum Password {
    /// The value of a variable.
    Text(Secret),
    Source(SecretSource),
}

impl Members {
    fn origin(&self) -> &Origin {
        match self {
            Self::Endpoints(picked) | Self::Srv(picked) => &picked.origin,
        }
    }
}

/// Whether flag or variable names the members.
pub(super) fn names_members(raw: &RawConnection, env: &Env) -> bool {
    raw.endpoints.is_some()
        || raw.discovery_srv.is_some()
        || env.first(&both("ENDPOINTS")).is_some()
        || env.first(&both("DISCOVERY_SRV")).is_some()
}

fn both(name: &str) -> [String; 2] {
    [format!("ETCDVAULT_{name}"), format!("ETCDCTL_{name}")]
}

/// Chooses every setting: flag, variable, configuration, default.
pub(super) fn choose(
    raw: &RawConnection,
    env: &Env,
    entry: Option<Entry<'_>>,
) -> Result<Chosen, SettingError> {
    let pick = |flag: Option<String>, key: &str, in_file: Option<String>| {
        if let Some(value) = flag {
            return Some(Picked { value, origin: Origin::Flag(format!("--{key}")) });
        }
        if let Some((name, value)) = env.first(&both(&variable(key))) {
            return Some(Picked { value, origin: Origin::Environment(name) });
        }
        Some(Picked { value: in_file?, origin: entry?.origin(key) })
    };
    let path = |flag: &Option<PathBuf>, key: &str, in_file: Option<&PathBuf>| {
        let text = |path: &PathBuf| path.display().to_string();
        pick(flag.as_ref().map(text), key, in_file.map(text))
    };
    let cluster = entry.map(|entry| entry.cluster);
    let members = members(raw, env, entry)?;
    let from_file = matches!(members.origin(), Origin::File { .. });
    // What belongs to the domain in the file does not fit another one.
    let of_domain = cluster.filter(|_| from_file);
    let srv_name = pick(
        raw.discovery_srv_name.clone(),
        "discovery-srv-name",
        of_domain.and_then(|c| c.discovery_srv_name.clone()),
    );
    let srv_nameserver = pick(
        raw.discovery_srv_nameserver.clone(),
        "discovery-srv-nameserver",
        of_domain.and_then(|c| c.discovery_srv_nameserver).map(|server| server.to_string()),
    );
    if matches!(members, Members::Endpoints(_))
        && let Some(Picked { origin: Origin::Flag(flag), .. }) =
            [&srv_name, &srv_nameserver].into_iter().flatten().find(|p| is_flag(&p.origin))
    {
        return Err(SettingError::new(format!("{flag} is given without a domain to ask"))
            .hint("add --discovery-srv DOMAIN"));
    }
    let (user, password) = credentials(raw, env, entry)?;
    let or_default = |picked: Option<Picked>, value: &str| {
        picked.unwrap_or_else(|| Picked { value: value.to_owned(), origin: Origin::Default })
    };
    Ok(Chosen {
        members,
        srv_name,
        srv_nameserver,
        cacert: path(&raw.cacert, "cacert", cluster.and_then(|c| c.cacert.as_ref())),
        cert: path(&raw.cert, "cert", cluster.and_then(|c| c.cert.as_ref())),
        key: path(&raw.key, "key", cluster.and_then(|c| c.key.as_ref())),
        user,
        password,
        dial_timeout: or_default(
            pick(
                raw.dial_timeout.clone(),
                "dial-timeout",
                cluster.and_then(|c| c.dial_timeout.clone()),
            ),
            DIAL_TIMEOUT,
        ),
        command_timeout: or_default(
            pick(
                raw.command_timeout.clone(),
                "command-timeout",
                cluster.and_then(|c| c.command_timeout.clone()),
            ),
            COMMAND_TIMEOUT,
        ),
    })
}

fn is_flag(origin: &Origin) -> bool {
    matches!(origin, Origin::Flag(_))
}

/// `dial-timeout` is `…_DIAL_TIMEOUT`.
fn variable(key: &str) -> String {
    key.to_uppercase().replace('-', "_")
}

/// Endpoints or a domain: whichever is named closest to the command. Where variables
/// name both, the domain wins, as in etcdctl.
fn members(
    raw: &RawConnection,
    env: &Env,
    entry: Option<Entry<'_>>,
) -> Result<Members, SettingError> {
    let picked = |value: &str, origin| Picked { value: value.to_owned(), origin };
    match (&raw.discovery_srv, &raw.endpoints) {
        (Some(_), Some(_)) => {
            return Err(SettingError::new("--discovery-srv and --endpoints are both given")
                .hint("the members come from one of them"));
        }
        (Some(domain), None) => {
            return Ok(Members::Srv(picked(domain, Origin::Flag("--discovery-srv".into()))));
        }
        (None, Some(list)) => {
            return Ok(Members::Endpoints(picked(list, Origin::Flag("--endpoints".into()))));
        }
        (None, None) => {}
    }
    for prefix in ["ETCDVAULT", "ETCDCTL"] {
        let domain = format!("{prefix}_DISCOVERY_SRV");
        if let Some(value) = env.get(&domain) {
            return Ok(Members::Srv(Picked { value, origin: Origin::Environment(domain) }));
        }
        let list = format!("{prefix}_ENDPOINTS");
        if let Some(value) = env.get(&list) {
            return Ok(Members::Endpoints(Picked { value, origin: Origin::Environment(list) }));
        }
    }
    if let Some(entry) = entry {
        if let Some(domain) = &entry.cluster.discovery_srv {
            return Ok(Members::Srv(picked(domain, entry.origin("discovery-srv"))));
        }
        if !entry.cluster.endpoints.is_empty() {
            let list = entry.cluster.endpoints.join(",");
            return Ok(Members::Endpoints(picked(&list, entry.origin("endpoints"))));
        }
    }
    Ok(Members::Endpoints(picked(DEFAULT_ENDPOINT, Origin::Default)))
}

impl Chosen {
    /// Parses and reads what was chosen.
    pub(super) async fn resolve(self, env: &Env) -> Result<Connection, SettingError> {
        let file = |picked: &Option<Picked>| picked.as_ref().map(|p| PathBuf::from(&p.value));
        let (ca_file, cert_file, key_file) =
            (file(&self.cacert), file(&self.cert), file(&self.key));
        let tls_default = ca_file.is_some() || cert_file.is_some() || key_file.is_some();
        let elsewhere = matches!(self.members.origin(), Origin::Flag(_) | Origin::Environment(_));
        let (endpoints, discovery) = match &self.members {
            Members::Endpoints(list) => (parse_endpoints(&list.value, tls_default)?, None),
            Members::Srv(domain) => (Vec::new(), Some(self.srv(&domain.value)?)),
        };
        let settings = ConnectionSettings {
            endpoints,
            ca_file,
            cert_file,
            key_file,
            credentials: None,
            dial_timeout: bound("--dial-timeout", &self.dial_timeout)?,
            command_timeout: bound("--command-timeout", &self.command_timeout)?,
        };
        let credentials = self.read_credentials(env).await?;
        Ok(Connection {
            settings: ConnectionSettings { credentials, ..settings },
            discovery,
            elsewhere,
        })
    }

    fn srv(&self, domain: &str) -> Result<SrvDomain, SettingError> {
        let wrong = |what: String| {
            SettingError::new(what).hint("--discovery-srv takes a domain: example.com")
        };
        check_domain(domain).map_err(wrong)?;
        if let Some(name) = &self.srv_name {
            check_label(&name.value).map_err(wrong)?;
        }
        let server = self.srv_nameserver.as_ref().map(|server| checked_nameserver(&server.value));
        Ok(SrvDomain {
            domain: domain.trim_end_matches('.').to_owned(),
            name: self.srv_name.as_ref().map(|name| name.value.clone()),
            nameserver: server.transpose()?,
        })
    }

    async fn read_credentials(self, env: &Env) -> Result<Option<Credentials>, SettingError> {
        // A stray password without a user is none, as in etcdctl.
        let Some(Picked { value: user, .. }) = self.user else { return Ok(None) };
        let password = match self.password {
            Some(Picked { value: Password::Text(secret), .. }) => secret,
            Some(Picked { value: Password::Source(source), .. }) => {
                Secret::new(secret("password", &source, env).await?)
            }
            None => {
                let what = format!("there is no password for the etcd user {user:?}");
                return Err(SettingError::new(what)
                    .hint("give it with --password-file FILE or ETCDCTL_PASSWORD"));
            }
        };
        Ok(Some(Credentials { user, password }))
    }

    /// What `config show` prints.
    pub(super) fn effective(&self) -> Vec<Effective> {
        let mut list = Vec::new();
        let mut add = |name: &str, picked: Option<&Picked>| {
            list.extend(picked.map(|picked| Effective {
                name: name.to_owned(),
                value: picked.value.clone(),
                origin: picked.origin.clone(),
            }));
        };
        match &self.members {
            Members::Endpoints(endpoints) => add("endpoints", Some(&without_user(endpoints))),
            Members::Srv(domain) => {
                add("discovery-srv", Some(domain));
                add("discovery-srv-name", self.srv_name.as_ref());
                add("discovery-srv-nameserver", self.srv_nameserver.as_ref());
            }
        }
        add("cacert", self.cacert.as_ref());
        add("cert", self.cert.as_ref());
        add("key", self.key.as_ref());
        add("user", self.user.as_ref());
        let password = self.password.as_ref().map(|picked| Picked {
            value: match &picked.value {
                Password::Text(_) => "(hidden)".to_owned(),
                Password::Source(source) => describe(source),
            },
            origin: picked.origin.clone(),
        });
        add("password", password.as_ref().filter(|_| self.user.is_some()));
        add("dial-timeout", Some(&self.dial_timeout));
        add("command-timeout", Some(&self.command_timeout));
        list
    }
}

/// What stands before an @ may be a password, which is refused later.
fn without_user(endpoints: &Picked) -> Picked {
    let hide = |text: &str| match text.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => text.to_owned(),
    };
    let value = endpoints.value.split(',').map(hide).collect::<Vec<_>>().join(",");
    Picked { value, origin: endpoints.origin.clone() }
}

/// Where a secret comes from, in words that hide it. A command may hold one.
pub(super) fn describe(source: &SecretSource) -> String {
    match source {
        SecretSource::File(path) => format!("(in the file {})", path.display()),
        SecretSource::Env(name) => format!("(in the variable {name})"),
        SecretSource::Credential(name) => format!("(in the systemd credential {name})"),
        SecretSource::Command(_) => "(printed by a command)".to_owned(),
    }
}

fn bound(flag: &str, picked: &Picked) -> Result<Duration, SettingError> {
    duration(flag, &picked.value)
}

fn parse_endpoints(list: &str, tls_default: bool) -> Result<Vec<Endpoint>, SettingError> {
    let mut parsed: Vec<Endpoint> = Vec::new();
    for text in list.split(',').filter(|text| !text.trim().is_empty()) {
        let endpoint = Endpoint::parse(text, tls_default)
            .map_err(|error| SettingError::new(error.to_string()).hint(ENDPOINTS_HINT))?;
        if !parsed.contains(&endpoint) {
            parsed.push(endpoint);
        }
    }
    if parsed.is_empty() {
        return Err(SettingError::new("no endpoint is given").hint(ENDPOINTS_HINT));
    }
    Ok(parsed)
}

const ENDPOINTS_HINT: &str =
    "--endpoints takes a comma-separated list: https://10.0.0.11:2379,https://10.0.0.12:2379";

/// User and password. A password belongs to the user that it is given with: that of the
/// configuration is not sent for another user.
#[allow(clippy::type_complexity)]
fn credentials(
    raw: &RawConnection,
    env: &Env,
    entry: Option<Entry<'_>>,
) -> Result<(Option<Picked>, Option<Picked<Password>>), SettingError> {
    if let Some(user) = &raw.user
        && user.contains(':')
    {
        return Err(SettingError::new(
            "--user holds a password, which every user of this machine could read",
        )
        .hint("--user NAME with --password-file FILE, or ETCDCTL_USER=NAME:PASSWORD"));
    }
    let mut password = None;
    let user = match (&raw.user, env.first(&both("USER"))) {
        (Some(user), _) => {
            Some(Picked { value: user.clone(), origin: Origin::Flag("--user".into()) })
        }
        // etcdctl takes name:password here; a password may hold colons, a name may not.
        (None, Some((variable, text))) => {
            let origin = Origin::Environment(variable);
            let user = match text.split_once(':') {
                Some((user, secret)) => {
                    let value = Password::Text(Secret::new(secret));
                    password = Some(Picked { value, origin: origin.clone() });
                    user.to_owned()
                }
                None => text,
            };
            Some(Picked { value: user, origin })
        }
        (None, None) => entry.and_then(|entry| {
            Some(Picked { value: entry.cluster.user.clone()?, origin: entry.origin("user") })
        }),
    };
    if let Some(path) = &raw.password_file {
        if user.is_none() {
            return Err(
                SettingError::new("a password is given without a user").hint("add --user NAME")
            );
        }
        let value = Password::Source(SecretSource::File(path.clone()));
        password = Some(Picked { value, origin: Origin::Flag("--password-file".into()) });
    }
    let from_env = || {
        let (name, text) = env.first(&both("PASSWORD"))?;
        let value = Password::Text(Secret::new(text));
        Some(Picked { value, origin: Origin::Environment(name) })
    };
    let from_env_file = || {
        let name = "ETCDVAULT_PASSWORD_FILE";
        let value = Password::Source(SecretSource::File(env.get(name)?.into()));
        Some(Picked { value, origin: Origin::Environment(name.to_owned()) })
    };
    let from_file = || {
        let entry = entry.filter(|e| e.cluster.user.as_ref() == user.as_ref().map(|u| &u.value))?;
        let source = entry.cluster.password.clone()?;
        let kind = kind(&source);
        let origin = entry.origin(&format!("password-{kind}"));
        Some(Picked { value: Password::Source(source), origin })
    };
    let from_credential = || {
        credential(env, CREDENTIAL)?;
        let value = Password::Source(SecretSource::Credential(CREDENTIAL.to_owned()));
        Some(Picked { value, origin: Origin::Credential(CREDENTIAL.to_owned()) })
    };
    let password = password
        .or_else(from_env)
        .or_else(from_env_file)
        .or_else(from_credential)
        .or_else(from_file);
    Ok((user, password))
}

/// The name of the systemd credential.
const CREDENTIAL: &str = "etcdvault-etcd-password";

/// A domain that can be asked for: labels as host names have them.
pub(super) fn check_domain(domain: &str) -> Result<(), String> {
    let plain = domain.strip_suffix('.').unwrap_or(domain);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if plain.len() <= 200 && plain.split('.').all(label) {
        Ok(())
    } else {
        Err("the name for --discovery-srv is no domain".to_owned())
    }
}

/// A suffix of a service's name.
pub(super) fn check_label(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=40).contains(&name.len()) && name.bytes().all(plain) {
        Ok(())
    } else {
        Err("the name for --discovery-srv-name is no part of a DNS name".to_owned())
    }
}

/// The name server to ask, whatever the domain.
pub(super) fn nameserver_of(
    raw: &RawConnection,
    env: &Env,
    entry: Option<Entry<'_>>,
) -> Result<Option<SocketAddr>, SettingError> {
    let variable = || env.first(&both("DISCOVERY_SRV_NAMESERVER")).map(|(_, value)| value);
    match raw.discovery_srv_nameserver.clone().or_else(variable) {
        Some(text) => checked_nameserver(&text).map(Some),
        None => Ok(entry.and_then(|entry| entry.cluster.discovery_srv_nameserver)),
    }
}

fn checked_nameserver(text: &str) -> Result<SocketAddr, SettingError> {
    nameserver(text).ok_or_else(|| {
        SettingError::new(format!("{text:?} is no name server's IP address"))
            .hint("--discovery-srv-nameserver 10.0.0.2, or 10.0.0.2:53")
    })
}

/// `10.0.0.2`, `10.0.0.2:53`, `::1`, `[::1]:53`.
pub(super) fn nameserver(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, 53)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &'static [(&'static str, &'static str)]) -> Env {
        Env::new(move |name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    async fn resolve(raw: &RawConnection, env: &Env) -> Result<ConnectionSettings, SettingError> {
        Ok(choose(raw, env, None)?.resolve(env).await?.settings)
    }

    #[tokio::test]
    async fn flag_beats_own_variable_beats_etcdctls() {
        let vars =
            env(&[("ETCDCTL_ENDPOINTS", "a:1"), ("ETCDVAULT_ENDPOINTS", "b:1,b:1, http://c:2")]);
        let settings = resolve(&RawConnection::default(), &vars).await.unwrap();
        let shown: Vec<_> = settings.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["http://b:1", "http://c:2"]);
        let raw = RawConnection { endpoints: Some("d:1".into()), ..Default::default() };
        let settings = resolve(&raw, &vars).await.unwrap();
        assert_eq!(settings.endpoints[0].to_string(), "http://d:1");
    }

    #[tokio::test]
    async fn certificates_make_tls_the_default() {
        let vars = env(&[("ETCDCTL_CACERT", "/ca.crt"), ("ETCDCTL_ENDPOINTS", "a,http://b")]);
        let settings = resolve(&RawConnection::default(), &vars).await.unwrap();
        assert_eq!(settings.endpoints[0].to_string(), "https://a:2379");
        assert_eq!(settings.endpoints[1].to_string(), "http://b:2379");
    }

    #[tokio::test]
    async fn users_and_passwords() {
        let both = env(&[("ETCDCTL_USER", "root:a:b")]);
        let credentials =
            resolve(&RawConnection::default(), &both).await.unwrap().credentials.unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.expose()), ("root", "a:b"));

        let raw = RawConnection { user: Some("root:geheim".into()), ..Default::default() };
        let error = resolve(&raw, &env(&[])).await.unwrap_err();
        assert!(!format!("{error:?}").contains("geheim"));

        let raw = RawConnection { user: Some("root".into()), ..Default::default() };
        assert!(resolve(&raw, &env(&[])).await.is_err());
        assert!(
            resolve(&raw, &env(&[("ETCDCTL_PASSWORD", "x")])).await.unwrap().credentials.is_some()
        );
        // etcdctl ignores a password without a user; a stray variable must not stop a backup.
        let stray = env(&[("ETCDCTL_PASSWORD", "x")]);
        assert!(resolve(&RawConnection::default(), &stray).await.unwrap().credentials.is_none());
    }
}

//! What has to be known to reach a vault on S3. Everything comes in as a value;
//! a configuration that parsed is complete and within the limits of S3.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::checksum::ChecksumMode;
use crate::store::Key;

const MIB: u64 = 1024 * 1024;

/// The smallest part S3 takes in the middle of a multipart upload.
pub const MIN_PART: u64 = 5 * MIB;
/// The largest part S3 takes.
pub const MAX_PART: u64 = 5 * 1024 * MIB;
/// The part size used unless the object is so large that it needs more: the smallest,
/// as every part that is on its way waits in memory.
pub const DEFAULT_PART: u64 = MIN_PART;
/// The most bytes that one upload holds in memory, unless single parts are larger: one
/// part that fills while one is on its way. A single connection carries more than two
/// workers compress.
pub const DEFAULT_BUFFER: u64 = 2 * DEFAULT_PART;
/// How many parts a multipart upload is planned to have at most; S3's own limit
/// is 10,000, the rest is for sizes that were estimated too low.
pub const PLANNED_PARTS: u64 = 9_000;
/// The longest key that S3 takes, prefix included, in bytes.
const MAX_S3_KEY: usize = 1_024;

/// The options that [`S3Config::set`] knows, each with what it means.
pub const OPTIONS: &[(&str, &str)] = &[
    ("endpoint-url", "URL of a store that is not AWS, for example https://minio.example:9000"),
    ("region", "region of the bucket; found out when not given"),
    ("path-style", "bucket in the path instead of the host name: auto, on or off"),
    ("ca-file", "PEM file with the only certificate authorities to trust for this store"),
    ("checksum", "auto, crc64nvme, crc32c, sha256 or none"),
    ("sse", "encryption by the store: none, s3 (AES256), kms or kms:KEY-ID"),
    ("profile", "profile of the AWS configuration files"),
    ("part-size", "size of the parts of an upload in MiB, 5 to 5120"),
    ("connect-timeout", "seconds until a connection must stand"),
    ("read-timeout", "seconds of silence after which an attempt is given up"),
    ("attempts", "how often a request is tried in all"),
    ("total-timeout", "seconds for one request with all of its attempts"),
];

/// How the bucket appears in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathStyle {
    /// In the path where a host name cannot carry it: for endpoints that are IP
    /// addresses or `localhost`, and for bucket names with dots.
    #[default]
    Auto,
    /// Always in the path.
    On,
    /// Always in the host name.
    Off,
}

/// Encryption by the store, in addition to the vault's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sse {
    /// As the bucket is configured.
    #[default]
    Bucket,
    /// SSE-S3 (`AES256`).
    S3,
    /// SSE-KMS with this key, or with the store's default one.
    Kms(Option<String>),
}

/// Fixed credentials, in place of the SDK's chain.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key id.
    pub access_key: String,
    /// The secret access key.
    pub secret_key: String,
    /// The session token of temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL is not `s3://bucket` or `s3://bucket/prefix`.
    #[error("the vault's URL {url:?} is not usable: {why}")]
    Url {
        /// As given.
        url: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// An option that does not exist.
    #[error("there is no S3 option {0:?}")]
    UnknownOption(String),
    /// An option's value that does not fit.
    #[error("S3 option {option}: {value:?} is not {expected}")]
    Value {
        /// The option's name.
        option: &'static str,
        /// As given.
        value: String,
        /// What would fit.
        expected: &'static str,
    },
}

/// Where a vault on S3 is and how to talk to it.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// The bucket.
    pub bucket: String,
    /// What precedes every key, without slashes at its ends; empty for none.
    pub prefix: String,
    /// The bucket's region; `None` takes the SDK's configured one, else what the
    /// store answers.
    pub region: Option<String>,
    /// The store's URL; `None` is AWS, or what the SDK's configuration names.
    pub endpoint_url: Option<String>,
    /// How the bucket appears in a request.
    pub path_style: PathStyle,
    /// The only certificate authorities to trust, as PEM; `None` takes the system's.
    pub ca_file: Option<PathBuf>,
    /// Which checksum accompanies the uploads.
    pub checksum: ChecksumMode,
    /// Encryption by the store.
    pub sse: Sse,
    /// The profile of the AWS configuration files.
    pub profile: Option<String>,
    /// Credentials to use instead of the SDK's chain.
    pub credentials: Option<Credentials>,
    /// Bytes of a part, in place of [`DEFAULT_PART`]; raised where an object
    /// would otherwise need more than [`PLANNED_PARTS`].
    pub part_size: Option<u64>,
    /// Bytes that one upload may hold in memory.
    pub buffer: u64,
    /// Until a connection must stand.
    pub connect_timeout: Duration,
    /// Silence after which an attempt is given up. Requests that carry data get
    /// the time in addition that their size takes at [`Self::slowest`].
    pub read_timeout: Duration,
    /// Bytes in a second below which a transfer counts as stuck.
    pub slowest: u64,
    /// How often a request is tried, the first time included.
    pub attempts: u32,
    /// The wait before the second attempt; doubled each time, with jitter.
    pub first_backoff: Duration,
    /// The longest wait between two attempts.
    pub last_backoff: Duration,
    /// For one request with all of its attempts.
    pub total_timeout: Duration,
}

impl S3Config {
    /// The defaults for `s3://bucket` or `s3://bucket/prefix`.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let fail = |why| ConfigError::Url { url: shown(url), why };
        let rest = url.strip_prefix("s3://").ok_or_else(|| fail("it does not start with s3://"))?;
        if rest.contains(['?', '#', '@']) {
            return Err(fail("options and credentials do not belong into it"));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        check_bucket(bucket).map_err(fail)?;
        if !prefix.is_empty() {
            Key::new(prefix).map_err(|error| fail(error.why))?;
            if prefix.len() + 1 + Key::MAX_LEN > MAX_S3_KEY {
                return Err(fail("its prefix is longer than 511 bytes"));
            }
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            region: None,
            endpoint_url: None,
            path_style: PathStyle::Auto,
            ca_file: None,
            checksum: ChecksumMode::Auto,
            sse: Sse::Bucket,
            profile: None,
            credentials: None,
            part_size: None,
            buffer: DEFAULT_BUFFER,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            slowest: 256 * 1024,
            attempts: 10,
            first_backoff: Duration::from_millis(100),
            last_backoff: Duration::from_secs(10),
            total_timeout: Duration::from_secs(300),
        })
    }

    /// Sets one of [`OPTIONS`] from text.
    pub fn set(&mut self, option: &str, value: &str) -> Result<(), ConfigError> {
        match option {
            "endpoint-url" => {
                Endpoint::parse(value)?;
                self.endpoint_url = Some(value.trim_end_matches('/').to_owned());
            }
            "region" => {
                let ok = !value.is_empty()
                    && value.len() <= 64
                    && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
                if !ok {
                    return Err(unfit("region", value, "the name of a region"));
                }
                self.region = Some(value.to_owned());
            }
            "path-style" => {
                self.path_style = match value {
                    "auto" => PathStyle::Auto,
                    "on" => PathStyle::On,
                    "off" => PathStyle::Off,
                    _ => return Err(unfit("path-style", value, "auto, on or off")),
                }
            }
            "ca-file" => self.ca_file = Some(PathBuf::from(value)),
            "checksum" => {
                self.checksum = value.parse().map_err(|()| {
                    unfit("checksum", value, "auto, crc64nvme, crc32c, sha256 or none")
                })?;
            }
            "sse" => {
                self.sse = match value.split_once(':') {
                    None if value == "none" => Sse::Bucket,
                    None if value == "s3" => Sse::S3,
                    None if value == "kms" => Sse::Kms(None),
                    Some(("kms", key))
                        if !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic()) =>
                    {
                        Sse::Kms(Some(key.to_owned()))
                    }
                    _ => return Err(unfit("sse", value, "none, s3, kms or kms:KEY-ID")),
                }
            }
            "profile" => self.profile = Some(value.to_owned()),
            "part-size" => {
                let mib = whole(value, 5, 5120)
                    .ok_or_else(|| unfit("part-size", value, "a number of MiB from 5 to 5120"))?;
                self.part_size = Some(mib * MIB);
            }
            "connect-timeout" => self.connect_timeout = seconds("connect-timeout", value)?,
            "read-timeout" => self.read_timeout = seconds("read-timeout", value)?,
            "total-timeout" => self.total_timeout = seconds("total-timeout", value)?,
            "attempts" => {
                let n = whole(value, 1, 100)
                    .ok_or_else(|| unfit("attempts", value, "a number from 1 to 100"))?;
                self.attempts = n as u32;
            }
            other => return Err(ConfigError::UnknownOption(shown(other))),
        }
        Ok(())
    }

    /// `s3://bucket/prefix`.
    pub fn url(&self) -> String {
        if self.prefix.is_empty() {
            format!("s3://{}", self.bucket)
        } else {
            format!("s3://{}/{}", self.bucket, self.prefix)
        }
    }

    /// The size of the parts of an object of at most `total` bytes.
    pub(super) fn part_size_for(&self, total: Option<u64>) -> u64 {
        let floor = self.part_size.unwrap_or(DEFAULT_PART).clamp(MIN_PART, MAX_PART);
        floor.max(total.unwrap_or(0).div_ceil(PLANNED_PARTS)).min(MAX_PART)
    }

    /// Whether requests to `endpoint` carry the bucket in the path.
    pub(super) fn force_path_style(&self, endpoint: Option<&Endpoint>) -> bool {
        match self.path_style {
            PathStyle::On => true,
            PathStyle::Off => false,
            PathStyle::Auto => {
                self.bucket.contains('.') || endpoint.is_some_and(Endpoint::lacks_subdomains)
            }
        }
    }

    /// How long an attempt that carries `bytes` may take.
    pub(super) fn attempt_timeout(&self, bytes: u64) -> Duration {
        self.read_timeout + Duration::from_secs(bytes / self.slowest.max(1))
    }
}

/// The parts of an endpoint's URL that decisions hang on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tls: bool,
    pub(super) host: String,
}

impl Endpoint {
    pub(super) fn parse(url: &str) -> Result<Self, ConfigError> {
        const EXPECTED: &str = "an http:// or https:// URL of host and port";
        // A URL may carry a password: nothing after the scheme is repeated.
        let fail = || unfit("endpoint-url", url.split_once("://").map_or("", |(s, _)| s), EXPECTED);
        let (scheme, rest) = url.split_once("://").ok_or_else(fail)?;
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(fail()),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        if authority.contains('@') || rest.contains(['?', '#']) {
            return Err(fail());
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, tail) = v6.split_once(']').ok_or_else(fail)?;
                (host, tail.strip_prefix(':').or((!tail.is_empty()).then_some("bad")))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(fail());
        }
        Ok(Self { tls, host: host.to_owned() })
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    fn lacks_subdomains(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok()
    }
}

/// The rules of bucket names, loosened to what stores other than AWS allow.
fn check_bucket(bucket: &str) -> Result<(), &'static str> {
    if bucket.is_empty() {
        return Err("it names no bucket");
    }
    if !(3..=63).contains(&bucket.len()) {
        return Err("a bucket's name has 3 to 63 characters");
    }
    if !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err("a bucket's name has only letters, digits, '.', '-' and '_'");
    }
    if bucket.starts_with(['.', '-']) || bucket.contains("..") {
        return Err("a bucket's name neither starts with '.' or '-' nor has '..' in it");
    }
    Ok(())
}

/// Foreign text, short enough to be shown; what may be a password is left out.
fn shown(text: &str) -> String {
    let text = match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => text.to_owned(),
    };
    let text = text.split('?').next().unwrap_or("");
    text.chars().take(200).collect()
}

fn unfit(option: &'static str, value: &str, expected: &'static str) -> ConfigError {
    ConfigError::Value { option, value: shown(value), expected }
}

fn whole(value: &str, min: u64, max: u64) -> Option<u64> {
    value.parse().ok().filter(|n| (min..=max).contains(n))
}

fn seconds(option: &'static str, value: &str) -> Result<Duration, ConfigError> {
    whole(value, 1, 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| unfit(option, value, "a number of seconds from 1 to 86400"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let config = S3Config::from_url("s3://backups/prod/etcd/").unwrap();
        assert_eq!((config.bucket.as_str(), config.prefix.as_str()), ("backups", "prod/etcd"));
        assert_eq!(config.url(), "s3://backups/prod/etcd");
        assert_eq!(S3Config::from_url("s3://backups").unwrap().prefix, "");
        for bad in [
            "http://backups",
            "s3://",
            "s3://ab",
            "s3:///x",
            "s3://a..b",
            "s3://-ab",
            "s3://bu cket",
            "s3://backups/a//b",
            "s3://backups/../x",
            "s3://backups/a b",
            "s3://backups?x=1",
            "s3://key:secret@backups/x",
            "s3://backups/x#y",
        ] {
            assert!(matches!(S3Config::from_url(bad), Err(ConfigError::Url { .. })), "{bad}");
        }
        let long = format!("s3://backups/{}", "x".repeat(512));
        assert!(S3Config::from_url(&long).is_err());
        assert!(S3Config::from_url(&long[..long.len() - 1]).is_ok());
    }

    #[test]
    fn no_password_is_repeated() {
        let error = S3Config::from_url("s3://AKIA:hunter2@backups/x").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        let mut config = S3Config::from_url("s3://backups").unwrap();
        for url in ["https://u:hunter2@host", "ftp://u:hunter2@host", "https://h/?t=hunter2"] {
            let error = config.set("endpoint-url", url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        config.credentials = Some(Credentials {
            access_key: "AKIA1".into(),
            secret_key: "hunter2".into(),
            session_token: Some("hunter3".into()),
        });
        let debug = format!("{config:?}");
        assert!(!debug.contains("hunter") && !debug.contains("AKIA1"), "{debug}");
    }

    #[test]
    fn options() {
        let mut config = S3Config::from_url("s3://backups").unwrap();
        for (option, value) in [
            ("endpoint-url", "https://minio.example:9000/"),
            ("region", "eu-central-1"),
            ("path-style", "on"),
            ("ca-file", "/etc/ca.pem"),
            ("checksum", "crc32c"),
            ("sse", "kms:arn:aws:kms:eu:1:key/x"),
            ("profile", "backup"),
            ("part-size", "16"),
            ("connect-timeout", "3"),
            ("read-timeout", "20"),
            ("attempts", "4"),
            ("total-timeout", "60"),
        ] {
            assert!(OPTIONS.iter().any(|(name, _)| *name == option));
            config.set(option, value).unwrap();
        }
        assert_eq!(config.endpoint_url.as_deref(), Some("https://minio.example:9000"));
        assert_eq!(config.sse, Sse::Kms(Some("arn:aws:kms:eu:1:key/x".into())));
        assert_eq!(config.part_size, Some(16 * MIB));
        assert_eq!(config.attempts, 4);
        for (option, value) in [
            ("endpoint-url", "minio:9000"),
            ("endpoint-url", "https://"),
            ("endpoint-url", "https://h:x"),
            ("endpoint-url", "https://[::1"),
            ("region", "a b"),
            ("region", ""),
            ("path-style", "yes"),
            ("checksum", "md5"),
            ("sse", "kms:"),
            ("part-size", "4"),
            ("part-size", "99999999999999999999"),
            ("attempts", "0"),
            ("read-timeout", "-1"),
        ] {
            assert!(
                matches!(config.set(option, value), Err(ConfigError::Value { .. })),
                "{option}={value}"
            );
        }
        assert!(matches!(config.set("colour", "red"), Err(ConfigError::UnknownOption(_))));
    }

    #[test]
    fn path_style_is_automatic() {
        let config = S3Config::from_url("s3://backups").unwrap();
        let path = |url: &str| config.force_path_style(Some(&Endpoint::parse(url).unwrap()));
        assert!(path("http://127.0.0.1:9000"));
        assert!(path("http://[::1]:9000"));
        assert!(path("http://localhost:9000"));
        assert!(path("https://10.1.2.3"));
        assert!(!path("https://s3.example.com"));
        assert!(!config.force_path_style(None));
        assert!(S3Config::from_url("s3://back.ups").unwrap().force_path_style(None));
    }

    #[test]
    fn part_sizes_keep_within_the_limits() {
        let mut config = S3Config::from_url("s3://backups").unwrap();
        assert_eq!(config.part_size_for(None), 5 * MIB);
        assert_eq!(config.part_size_for(Some(MIB)), 5 * MIB);
        assert_eq!(config.part_size_for(Some(45_000 * MIB)), 5 * MIB);
        let large = 200_000 * MIB;
        let part = config.part_size_for(Some(large));
        assert!(part > 5 * MIB && large.div_ceil(part) <= PLANNED_PARTS);
        assert_eq!(config.part_size_for(Some(u64::MAX)), MAX_PART);
        config.part_size = Some(1);
        assert_eq!(config.part_size_for(None), MIN_PART);
    }
}

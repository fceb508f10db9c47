//! Which settings which etcd knows, and what happens to one it does not.
//!
//! The table was taken from the servers themselves and a test holds it against
//! them: a flag that is not defined ends etcd at once, an unknown variable is
//! warned of and lost, an unknown key of the YAML file is lost in silence.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::settings::{EtcdSettings, Setting};
use super::text::Form;

/// A series of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Series {
    /// 3.4
    #[serde(rename = "3.4")]
    V3_4,
    /// 3.5
    #[serde(rename = "3.5")]
    V3_5,
    /// 3.6
    #[serde(rename = "3.6")]
    V3_6,
    /// 3.7
    #[serde(rename = "3.7")]
    V3_7,
}

use Series::{V3_4, V3_5, V3_6, V3_7};

impl Series {
    /// All of the table, in order.
    pub const ALL: [Self; 4] = [V3_4, V3_5, V3_6, V3_7];

    /// The series of a version as `3.5`, `3.5.16` or `v3.5.16-0`; none if it
    /// is not in the table.
    pub fn of(version: &str) -> Option<Self> {
        let mut parts = version.trim_start_matches('v').split(['.', '-', '+']);
        match (parts.next()?, parts.next()?) {
            ("3", "4") => Some(V3_4),
            ("3", "5") => Some(V3_5),
            ("3", "6") => Some(V3_6),
            ("3", "7") => Some(V3_7),
            _ => None,
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            V3_4 => "3.4",
            V3_5 => "3.5",
            V3_6 => "3.6",
            V3_7 => "3.7",
        })
    }
}

/// What a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A list of URLs with commas between.
    Urls,
    /// `name=url` with commas between; a name with several URLs repeats.
    Members,
    /// true or false; as a flag it may stand alone.
    Switch,
    /// A number.
    Number,
    /// A duration as `5m`; in the YAML file a number of nanoseconds.
    Duration,
    /// Accepted for older releases and without effect.
    Ignored,
}

use Kind::{Duration, Ignored, Members, Number, Switch, Text, Urls};

/// A setting that etcd knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The flag's name, without dashes.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// The first series of the table that has it.
    pub first: Series,
    /// The last one.
    pub last: Series,
}

const fn row(name: &'static str, kind: Kind, first: Series, last: Series) -> Known {
    Known { name, kind, first, last }
}

/// Every flag of etcd 3.4 to 3.7, by name.
#[rustfmt::skip]
pub const KNOWN: &[Known] = &[
    row("advertise-client-urls", Urls, V3_4, V3_7),
    row("auth-token", Text, V3_4, V3_7),
    row("auth-token-ttl", Number, V3_4, V3_7),
    row("auto-compaction-mode", Text, V3_4, V3_7),
    row("auto-compaction-retention", Text, V3_4, V3_7),
    row("auto-tls", Switch, V3_4, V3_7),
    row("backend-batch-interval", Duration, V3_4, V3_7),
    row("backend-batch-limit", Number, V3_4, V3_7),
    row("backend-bbolt-freelist-type", Text, V3_5, V3_7),
    row("bcrypt-cost", Number, V3_4, V3_7),
    row("bootstrap-defrag-threshold-megabytes", Number, V3_6, V3_7),
    row("cert-file", Text, V3_4, V3_7),
    row("cipher-suites", Text, V3_4, V3_7),
    row("client-cert-allowed-hostname", Text, V3_4, V3_7),
    row("client-cert-auth", Switch, V3_4, V3_7),
    row("client-cert-file", Text, V3_5, V3_7),
    row("client-crl-file", Text, V3_4, V3_7),
    row("client-key-file", Text, V3_5, V3_7),
    row("cluster-active-size", Ignored, V3_4, V3_7),
    row("cluster-remove-delay", Ignored, V3_4, V3_7),
    row("cluster-sync-interval", Ignored, V3_4, V3_7),
    row("compact-hash-check-time", Duration, V3_6, V3_7),
    row("compaction-batch-limit", Number, V3_6, V3_7),
    row("compaction-sleep-interval", Duration, V3_6, V3_7),
    row("config", Ignored, V3_4, V3_7),
    row("config-file", Text, V3_4, V3_7),
    row("corrupt-check-time", Duration, V3_6, V3_7),
    row("cors", Text, V3_4, V3_7),
    row("data-dir", Text, V3_4, V3_7),
    row("debug", Switch, V3_4, V3_4),
    row("discovery", Text, V3_4, V3_6),
    row("discovery-cacert", Text, V3_6, V3_7),
    row("discovery-cert", Text, V3_6, V3_7),
    row("discovery-dial-timeout", Duration, V3_6, V3_7),
    row("discovery-endpoints", Text, V3_6, V3_7),
    row("discovery-fallback", Text, V3_4, V3_7),
    row("discovery-insecure-skip-tls-verify", Switch, V3_6, V3_7),
    row("discovery-insecure-transport", Switch, V3_6, V3_7),
    row("discovery-keepalive-time", Duration, V3_6, V3_7),
    row("discovery-keepalive-timeout", Duration, V3_6, V3_7),
    row("discovery-key", Text, V3_6, V3_7),
    row("discovery-password", Text, V3_6, V3_7),
    row("discovery-proxy", Text, V3_4, V3_6),
    row("discovery-request-timeout", Duration, V3_6, V3_7),
    row("discovery-srv", Text, V3_4, V3_7),
    row("discovery-srv-name", Text, V3_4, V3_7),
    row("discovery-token", Text, V3_6, V3_7),
    row("discovery-user", Text, V3_6, V3_7),
    row("distributed-tracing-address", Text, V3_6, V3_7),
    row("distributed-tracing-instance-id", Text, V3_6, V3_7),
    row("distributed-tracing-sampling-rate", Number, V3_6, V3_7),
    row("distributed-tracing-service-name", Text, V3_6, V3_7),
    row("downgrade-check-time", Duration, V3_6, V3_7),
    row("election-timeout", Number, V3_4, V3_7),
    row("enable-distributed-tracing", Switch, V3_6, V3_7),
    row("enable-grpc-gateway", Switch, V3_4, V3_7),
    row("enable-log-rotation", Switch, V3_5, V3_7),
    row("enable-pprof", Switch, V3_4, V3_7),
    row("enable-v2", Switch, V3_4, V3_5),
    row("experimental-backend-bbolt-freelist-type", Text, V3_4, V3_4),
    row("experimental-bootstrap-defrag-threshold-megabytes", Number, V3_5, V3_6),
    row("experimental-compact-hash-check-enabled", Switch, V3_5, V3_6),
    row("experimental-compact-hash-check-time", Duration, V3_5, V3_6),
    row("experimental-compaction-batch-limit", Number, V3_4, V3_6),
    row("experimental-compaction-sleep-interval", Duration, V3_5, V3_6),
    row("experimental-corrupt-check-time", Duration, V3_4, V3_6),
    row("experimental-distributed-tracing-address", Text, V3_5, V3_6),
    row("experimental-distributed-tracing-instance-id", Text, V3_5, V3_6),
    row("experimental-distributed-tracing-sampling-rate", Number, V3_5, V3_6),
    row("experimental-distributed-tracing-service-name", Text, V3_5, V3_6),
    row("experimental-downgrade-check-time", Duration, V3_5, V3_6),
    row("experimental-enable-distributed-tracing", Switch, V3_5, V3_6),
    row("experimental-enable-lease-checkpoint", Switch, V3_4, V3_6),
    row("experimental-enable-lease-checkpoint-persist", Switch, V3_4, V3_6),
    row("experimental-enable-v2v3", Text, V3_4, V3_5),
    row("experimental-initial-corrupt-check", Switch, V3_4, V3_6),
    row("experimental-memory-mlock", Switch, V3_5, V3_6),
    row("experimental-peer-skip-client-san-verification", Switch, V3_4, V3_6),
    row("experimental-snapshot-catchup-entries", Number, V3_5, V3_6),
    row("experimental-stop-grpc-service-on-defrag", Switch, V3_5, V3_6),
    row("experimental-txn-mode-write-with-shared-buffer", Switch, V3_5, V3_6),
    row("experimental-warning-apply-duration", Duration, V3_4, V3_6),
    row("experimental-warning-unary-request-duration", Duration, V3_6, V3_6),
    row("experimental-watch-progress-notify-interval", Duration, V3_4, V3_6),
    row("feature-gates", Text, V3_6, V3_7),
    row("force", Ignored, V3_4, V3_7),
    row("force-new-cluster", Switch, V3_4, V3_7),
    row("grpc-keepalive-interval", Duration, V3_4, V3_7),
    row("grpc-keepalive-min-time", Duration, V3_4, V3_7),
    row("grpc-keepalive-timeout", Duration, V3_4, V3_7),
    row("heartbeat-interval", Number, V3_4, V3_7),
    row("host-whitelist", Text, V3_4, V3_7),
    row("initial-advertise-peer-urls", Urls, V3_4, V3_7),
    row("initial-cluster", Members, V3_4, V3_7),
    row("initial-cluster-state", Text, V3_4, V3_7),
    row("initial-cluster-token", Text, V3_4, V3_7),
    row("initial-election-tick-advance", Switch, V3_4, V3_7),
    row("key-file", Text, V3_4, V3_7),
    row("listen-client-http-urls", Urls, V3_5, V3_7),
    row("listen-client-urls", Urls, V3_4, V3_7),
    row("listen-metrics-urls", Urls, V3_4, V3_7),
    row("listen-peer-urls", Urls, V3_4, V3_7),
    row("log-format", Text, V3_6, V3_7),
    row("log-level", Text, V3_4, V3_7),
    row("log-outputs", Text, V3_4, V3_7),
    row("log-package-levels", Text, V3_4, V3_4),
    row("log-rotation-config-json", Text, V3_5, V3_7),
    row("logger", Text, V3_4, V3_7),
    row("max-concurrent-streams", Number, V3_4, V3_7),
    row("max-learners", Number, V3_6, V3_7),
    row("max-request-bytes", Number, V3_4, V3_7),
    row("max-result-buffer", Ignored, V3_4, V3_7),
    row("max-retry-attempts", Ignored, V3_4, V3_7),
    row("max-snapshots", Number, V3_4, V3_7),
    row("max-txn-ops", Number, V3_4, V3_7),
    row("max-wals", Number, V3_4, V3_7),
    row("memory-mlock", Switch, V3_6, V3_7),
    row("metrics", Text, V3_4, V3_7),
    row("name", Text, V3_4, V3_7),
    row("peer-auto-tls", Switch, V3_4, V3_7),
    row("peer-cert-allowed-cn", Text, V3_4, V3_7),
    row("peer-cert-allowed-hostname", Text, V3_4, V3_7),
    row("peer-cert-file", Text, V3_4, V3_7),
    row("peer-client-cert-auth", Switch, V3_4, V3_7),
    row("peer-client-cert-file", Text, V3_5, V3_7),
    row("peer-client-key-file", Text, V3_5, V3_7),
    row("peer-crl-file", Text, V3_4, V3_7),
    row("peer-election-timeout", Ignored, V3_4, V3_7),
    row("peer-heartbeat-interval", Ignored, V3_4, V3_7),
    row("peer-key-file", Text, V3_4, V3_7),
    row("peer-skip-client-san-verification", Switch, V3_6, V3_7),
    row("peer-trusted-ca-file", Text, V3_4, V3_7),
    row("pre-vote", Switch, V3_4, V3_7),
    row("proxy", Text, V3_4, V3_5),
    row("proxy-dial-timeout", Number, V3_4, V3_5),
    row("proxy-failure-wait", Number, V3_4, V3_5),
    row("proxy-read-timeout", Number, V3_4, V3_5),
    row("proxy-refresh-interval", Number, V3_4, V3_5),
    row("proxy-write-timeout", Number, V3_4, V3_5),
    row("quota-backend-bytes", Number, V3_4, V3_7),
    row("raft-read-timeout", Duration, V3_5, V3_7),
    row("raft-write-timeout", Duration, V3_5, V3_7),
    row("retry-interval", Ignored, V3_4, V3_7),
    row("self-signed-cert-validity", Number, V3_5, V3_7),
    row("snapshot", Ignored, V3_4, V3_7),
    row("snapshot-catchup-entries", Number, V3_6, V3_7),
    row("snapshot-count", Number, V3_4, V3_7),
    row("socket-reuse-address", Switch, V3_5, V3_7),
    row("socket-reuse-port", Switch, V3_5, V3_7),
    row("strict-reconfig-check", Switch, V3_4, V3_7),
    row("test.coverprofile", Ignored, V3_4, V3_7),
    row("test.outputdir", Ignored, V3_4, V3_7),
    row("tls-max-version", Text, V3_5, V3_7),
    row("tls-min-version", Text, V3_5, V3_7),
    row("trusted-ca-file", Text, V3_4, V3_7),
    row("unsafe-no-fsync", Switch, V3_4, V3_7),
    row("v", Ignored, V3_4, V3_7),
    row("v2-deprecation", Text, V3_5, V3_7),
    row("version", Switch, V3_4, V3_7),
    row("vv", Ignored, V3_4, V3_7),
    row("wal-dir", Text, V3_4, V3_7),
    row("warning-apply-duration", Duration, V3_6, V3_7),
    row("warning-unary-request-duration", Duration, V3_6, V3_7),
    row("watch-progress-notify-interval", Duration, V3_6, V3_7),
];

/// The row of a setting.
pub fn known(name: &str) -> Option<&'static Known> {
    KNOWN.binary_search_by(|row| row.name.cmp(name)).ok().and_then(|at| KNOWN.get(at))
}

/// A setting that a version does not have any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// The flag's name.
    pub name: &'static str,
    /// The last series that has it.
    pub last: Series,
    /// What says the same there, as a flag.
    pub instead: Option<&'static str>,
}

/// All settings of earlier series that a series does not have.
pub fn settings_gone_in(series: Series) -> Vec<Gone> {
    let gone = KNOWN.iter().filter(|row| row.last < series);
    gone.map(|row| Gone { name: row.name, last: row.last, instead: instead(row.name, series) })
        .collect()
}

/// What takes the place of a setting in a series.
fn instead(name: &str, series: Series) -> Option<&'static str> {
    let renamed = match name {
        "debug" => "log-level=debug",
        "experimental-compact-hash-check-enabled" => "feature-gates=CompactHashCheck=true",
        "experimental-txn-mode-write-with-shared-buffer" => {
            "feature-gates=TxnModeWriteWithSharedBuffer=true"
        }
        "experimental-initial-corrupt-check" => "feature-gates=InitialCorruptCheck=true",
        "experimental-enable-lease-checkpoint" => "feature-gates=LeaseCheckpoint=true",
        "experimental-enable-lease-checkpoint-persist" => {
            "feature-gates=LeaseCheckpointPersist=true"
        }
        "experimental-stop-grpc-service-on-defrag" => "feature-gates=StopGRPCServiceOnDefrag=true",
        _ => {
            let found = known(name.strip_prefix("experimental-")?)?;
            return (found.first <= series && series <= found.last).then_some(found.name);
        }
    };
    Some(renamed)
}

/// Settings that still work in a series, and by etcd's own words will not for
/// long: name and the release that drops it.
pub fn settings_deprecated_in(series: Series) -> Vec<(&'static str, &'static str)> {
    let rows = KNOWN.iter().filter(|row| row.first <= series && series <= row.last);
    rows.filter_map(|row| {
        let dropped = match (series, row.name) {
            (V3_6 | V3_7, "max-snapshots" | "v2-deprecation") => "3.8",
            // 3.6 says 3.8 of these two; they are gone in 3.7.
            (V3_6, "discovery" | "discovery-proxy") => "3.7",
            (V3_5, "enable-v2" | "experimental-enable-v2v3") => "3.6",
            (V3_5, name) if name == "proxy" || name.starts_with("proxy-") => "3.6",
            (V3_6, name) if name.starts_with("experimental-") => "3.7",
            _ => return None,
        };
        Some((row.name, dropped))
    })
    .collect()
}

/// What a target version makes of a setting it does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The setting, where it is.
    pub setting: Setting,
    /// The target.
    pub series: Series,
    /// What says the same there, as a flag.
    pub instead: Option<&'static str>,
}

impl Misfit {
    /// Whether the target refuses to start; else it starts without the setting.
    pub fn is_fatal(&self) -> bool {
        self.setting.origin.form == Form::Flag
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match self.setting.origin.form {
            Form::Flag => "does not start with it",
            Form::Environment => "warns of it and goes on without",
            Form::Yaml => "drops it without a word",
        };
        let Self { setting, series, .. } = self;
        write!(
            f,
            "{} ({}): etcd {series} does not know it and {effect}",
            setting.name, setting.origin
        )?;
        match self.instead {
            Some(instead) => write!(f, "; it has {instead}"),
            None => Ok(()),
        }
    }
}

/// The settings that a version does not take, in force or not.
pub fn misfits(settings: &EtcdSettings, series: Series) -> Vec<Misfit> {
    let unknown = settings.iter().filter(|setting| {
        // A flag that no release knows is for the caller to see as unknown.
        known(&setting.name).is_none_or(|row| series < row.first || row.last < series)
    });
    let unknown = unknown.map(|setting| Misfit {
        setting: setting.clone(),
        series,
        instead: instead(&setting.name, series),
    });
    unknown.collect()
}

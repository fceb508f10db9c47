//! Objects as kube-apiserver writes them: `k8s\0`, then protobuf. The messages
//! have the field numbers and the proportions of the real ones, as far as size
//! and compression matter; they are not meant to be decoded.

use std::fmt::Write as _;

/// SplitMix64: small, and the same everywhere.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93));
        random.next();
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let next = self.next().to_le_bytes();
            chunk.copy_from_slice(&next[..chunk.len()]);
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let index = self.below(of.len() as u64);
        usize::try_from(index).ok().and_then(|index| of.get(index)).copied().unwrap_or_default()
    }

    fn hex(&mut self, digits: usize) -> String {
        let mut text = String::with_capacity(digits + 16);
        while text.len() < digits {
            let _ = write!(text, "{:016x}", self.next());
        }
        text.truncate(digits);
        text
    }

    fn base64(&mut self, characters: usize) -> Vec<u8> {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = vec![0; characters];
        self.fill(&mut text);
        for byte in &mut text {
            *byte = ALPHABET[usize::from(*byte & 63)];
        }
        text
    }

    fn uid(&mut self) -> String {
        let hex = self.hex(32);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pod,
    Event,
    ConfigMap,
    Secret,
    Lease,
    EndpointSlice,
    ReplicaSet,
}

impl Kind {
    /// Its folder under `/registry`, its API version and its name.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Pod => ("pods", "v1", "Pod"),
            Self::Event => ("events", "v1", "Event"),
            Self::ConfigMap => ("configmaps", "v1", "ConfigMap"),
            Self::Secret => ("secrets", "v1", "Secret"),
            Self::Lease => ("leases", "coordination.k8s.io/v1", "Lease"),
            Self::EndpointSlice => ("endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
            Self::ReplicaSet => ("replicasets", "apps/v1", "ReplicaSet"),
        }
    }
}

const APPS: &[&str] = &[
    "api-gateway",
    "auth",
    "billing",
    "cart",
    "catalog",
    "checkout",
    "frontend",
    "inventory",
    "ledger",
    "mailer",
    "notifier",
    "orders",
    "payments",
    "profile",
    "search",
    "shipping",
];
const NAMESPACES: &[&str] = &["default", "kube-system", "monitoring", "prod", "staging", "team-a"];
const REASONS: &[&str] = &["Pulled", "Created", "Started", "Killing", "BackOff", "Scheduled"];

/// One object of a fill: everything about it follows from seed, round and id.
pub(super) struct Object {
    seed: u64,
    stream: u64,
    kind: Kind,
    namespace: &'static str,
    app: &'static str,
    name: String,
}

impl Object {
    pub(super) fn new(seed: u64, round: u64, id: u64) -> Self {
        let stream = round.wrapping_shl(44).wrapping_add(id);
        let mut random = Random::new(seed, stream);
        // Every hundredth is what the fill writes again and again.
        let kind = if id.is_multiple_of(100) {
            Kind::Lease
        } else {
            match random.below(100) {
                0..40 => Kind::Pod,
                40..62 => Kind::Event,
                62..74 => Kind::ConfigMap,
                74..84 => Kind::Secret,
                84..92 => Kind::EndpointSlice,
                _ => Kind::ReplicaSet,
            }
        };
        let (namespace, app) = (random.pick(NAMESPACES), random.pick(APPS));
        let name = format!("{app}-{}-{round:x}{id:05x}", random.hex(9));
        Self { seed, stream, kind, namespace, app, name }
    }

    pub(super) fn key(&self) -> String {
        format!("/registry/{}/{}/{}", self.kind.names().0, self.namespace, self.name)
    }

    /// Whether it is attached to a lease, as events are.
    pub(super) fn expires(&self) -> bool {
        self.kind == Kind::Event
    }

    /// What a write of it stores; a version changes a part of the bytes.
    pub(super) fn value(&self, version: u64) -> Vec<u8> {
        let mut still = Random::new(self.seed, self.stream ^ (1 << 62));
        let mut moving = Random::new(self.seed ^ version, self.stream ^ (1 << 61));
        let (_, api, kind) = self.kind.names();
        let mut body = self.metadata(&mut still, &mut moving);
        match self.kind {
            Kind::Pod => self.pod(&mut body, &mut still, &mut moving),
            Kind::Event => self.event(&mut body, &mut still, version),
            Kind::ConfigMap => self.config_map(&mut body, &mut still),
            Kind::Secret => self.secret(&mut body, &mut still),
            Kind::Lease => self.lease(&mut body, &mut moving),
            Kind::EndpointSlice => self.endpoints(&mut body, &mut still),
            Kind::ReplicaSet => self.pod_spec(&mut body, &mut still, 2),
        }
        let mut names = Vec::new();
        field(&mut names, 1, api);
        field(&mut names, 2, kind);
        let mut value = b"k8s\0".to_vec();
        value.reserve(body.len() + 64);
        field(&mut value, 1, names);
        field(&mut value, 2, body);
        field(&mut value, 3, "");
        field(&mut value, 4, "");
        value
    }

    fn metadata(&self, still: &mut Random, moving: &mut Random) -> Vec<u8> {
        let mut meta = Vec::new();
        field(&mut meta, 1, &self.name);
        field(&mut meta, 3, self.namespace);
        field(&mut meta, 5, still.uid());
        field(&mut meta, 6, moving.below(1 << 30).to_string());
        field(&mut meta, 8, (1_760_000_000 + still.below(30_000_000)).to_string());
        for (key, value) in [
            ("app.kubernetes.io/name", self.app.to_owned()),
            ("app.kubernetes.io/instance", format!("{}-{}", self.app, self.namespace)),
            ("app.kubernetes.io/managed-by", "Helm".to_owned()),
            ("pod-template-hash", still.hex(10)),
        ] {
            field(&mut meta, 11, pair(key, value.as_bytes()));
        }
        field(&mut meta, 12, pair("checksum/config", still.hex(64).as_bytes()));
        let mut owner = Vec::new();
        field(&mut owner, 1, "ReplicaSet");
        field(&mut owner, 3, format!("{}-{}", self.app, still.hex(9)));
        field(&mut owner, 4, still.uid());
        field(&mut meta, 13, owner);
        field(&mut meta, 17, managed_fields(still));
        let mut body = Vec::new();
        field(&mut body, 1, meta);
        body
    }

    fn pod(&self, body: &mut Vec<u8>, still: &mut Random, moving: &mut Random) {
        self.pod_spec(body, still, 2);
        let mut status = Vec::new();
        field(&mut status, 1, "Running");
        for condition in ["Initialized", "Ready", "ContainersReady", "PodScheduled"] {
            let mut one = Vec::new();
            field(&mut one, 1, condition);
            field(&mut one, 2, "True");
            field(&mut one, 4, (1_760_000_000 + moving.below(30_000_000)).to_string());
            field(&mut status, 2, one);
        }
        let (a, b, c) = (still.below(256), still.below(256), still.below(256));
        field(&mut status, 5, format!("10.{a}.{b}.{c}"));
        for container in 0..2 {
            let mut one = Vec::new();
            field(&mut one, 1, format!("{}-{container}", self.app));
            field(&mut one, 6, format!("registry.example/{}@sha256:{}", self.app, still.hex(64)));
            field(&mut one, 8, format!("containerd://{}", moving.hex(64)));
            field(&mut status, 8, one);
        }
        field(body, 3, status);
    }

    fn pod_spec(&self, body: &mut Vec<u8>, still: &mut Random, containers: u64) {
        let mut spec = Vec::new();
        let token = format!("kube-api-access-{}", still.hex(5));
        field(&mut spec, 1, pair(&token, b"projected service-account-token ca.crt namespace"));
        for container in 0..containers {
            let mut one = Vec::new();
            field(&mut one, 1, format!("{}-{container}", self.app));
            let (minor, patch) = (still.below(40), still.below(20));
            field(&mut one, 2, format!("registry.example/{}:v1.{minor}.{patch}", self.app));
            for variable in ["POD_NAME", "POD_NAMESPACE", "POD_IP", "GOMAXPROCS", "DATABASE_URL"] {
                field(&mut one, 7, pair(variable, still.hex(12).as_bytes()));
            }
            field(&mut one, 8, pair("cpu", format!("{}m", 50 + still.below(950)).as_bytes()));
            field(&mut one, 9, pair(&token, b"/var/run/secrets/kubernetes.io/serviceaccount"));
            field(&mut one, 13, "/dev/termination-log");
            field(&mut one, 14, "IfNotPresent");
            field(&mut spec, 2, one);
        }
        field(&mut spec, 3, "Always");
        field(&mut spec, 6, "ClusterFirst");
        field(&mut spec, 10, format!("node-{:03}", still.below(150)));
        field(body, 2, spec);
    }

    fn event(&self, body: &mut Vec<u8>, still: &mut Random, version: u64) {
        let reason = still.pick(REASONS);
        field(body, 2, pair("Pod", self.name.as_bytes()));
        field(body, 3, reason);
        let digest = still.hex(40);
        let text = format!("{reason}: container {} of {} ({digest})", self.app, self.name);
        field(body, 4, text);
        field(body, 8, version.to_string());
    }

    fn config_map(&self, body: &mut Vec<u8>, still: &mut Random) {
        let mut text = String::new();
        for _ in 0..10 + still.below(70) {
            let (app, number) = (still.pick(APPS), still.below(100_000));
            let _ = writeln!(text, "{app}.{}.timeout_ms = {number}", still.pick(REASONS));
        }
        field(body, 2, pair("application.properties", text.as_bytes()));
    }

    fn secret(&self, body: &mut Vec<u8>, still: &mut Random) {
        let length = usize::try_from(400 + still.below(2400)).unwrap_or(400);
        field(body, 2, pair("tls.crt", &still.base64(length)));
        field(body, 3, "kubernetes.io/tls");
    }

    fn lease(&self, body: &mut Vec<u8>, moving: &mut Random) {
        let mut spec = Vec::new();
        field(&mut spec, 1, &self.name);
        field(&mut spec, 4, (1_760_000_000_000 + moving.below(1 << 34)).to_string());
        field(body, 2, spec);
    }

    fn endpoints(&self, body: &mut Vec<u8>, still: &mut Random) {
        for _ in 0..3 + still.below(20) {
            let mut one = Vec::new();
            field(&mut one, 1, format!("10.{}.{}", still.below(256), still.below(65_536)));
            field(&mut one, 4, pair("Pod", still.uid().as_bytes()));
            field(&mut one, 6, format!("node-{:03}", still.below(150)));
            field(body, 2, one);
        }
    }
}

/// The bulk of most objects: who set which field, as JSON.
fn managed_fields(still: &mut Random) -> Vec<u8> {
    let mut json = String::from("{\"f:metadata\":{\"f:annotations\":{\".\":{}},\"f:labels\":{");
    for _ in 0..4 + still.below(8) {
        let (app, reason) = (still.pick(APPS), still.pick(REASONS));
        let _ = write!(json, "\"f:{app}.example/{reason}-{}\":{{}},", still.hex(6));
    }
    json.push_str("\".\":{}}},\"f:spec\":{\"f:containers\":{\"k:{\\\"name\\\":\\\"main\\\"}\":{");
    json.push_str("\".\":{},\"f:image\":{},\"f:imagePullPolicy\":{},\"f:resources\":{}}},");
    json.push_str("\"f:dnsPolicy\":{},\"f:restartPolicy\":{},\"f:schedulerName\":{}}}");
    let mut entry = Vec::new();
    field(&mut entry, 1, "kube-controller-manager");
    field(&mut entry, 2, "Update");
    field(&mut entry, 4, (1_760_000_000 + still.below(30_000_000)).to_string());
    field(&mut entry, 7, json);
    entry
}

fn pair(key: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + value.len() + 8);
    field(&mut bytes, 1, key);
    field(&mut bytes, 2, value);
    bytes
}

/// Appends a length-delimited protobuf field.
fn field(to: &mut Vec<u8>, number: u8, value: impl AsRef<[u8]>) {
    varint(to, u64::from(number) << 3 | 2);
    varint(to, value.as_ref().len() as u64);
    to.extend_from_slice(value.as_ref());
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn objects_follow_from_the_seed_and_have_keys_of_their_own() {
        let values = |seed| -> BTreeMap<String, Vec<u8>> {
            (0..1000).map(|id| Object::new(seed, 0, id)).map(|o| (o.key(), o.value(1))).collect()
        };
        let (one, again, other) = (values(1), values(1), values(2));
        assert_eq!(one.len(), 1000);
        assert!(one == again);
        assert!(one != other);
        let bytes: usize = one.values().map(Vec::len).sum();
        assert!((1_000_000..3_500_000).contains(&bytes), "{bytes} bytes in 1000 objects");
    }

    #[test]
    fn a_version_changes_the_value_and_not_the_key() {
        for id in 0..200 {
            let (a, b) = (Object::new(7, 0, id), Object::new(7, 0, id));
            assert_eq!(a.key(), b.key());
            assert_ne!(a.value(1), b.value(2));
        }
    }
}

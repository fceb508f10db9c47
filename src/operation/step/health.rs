//! Whether a static pod serves, by its own word: kube-apiserver is asked for `/readyz`,
//! etcd for `/health`, which answers for its member alone and only where a majority does.
//!
//! - The manifest that the kubelet runs says where and how, so on the way back it is the
//!   manifest of before.
//! - Asked on the node, and without a name wherever that is answered. Where it is not, with
//!   a certificate that the node has for this: the kubelet's, the API server's own as
//!   the kubelet's client, etcd's. Their keys do not leave the node.
//! - Who tells nothing to any of them is one that serves; it is said that no more is known.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Service;
use super::file::failed;
use crate::dialect::{self, ApiServerSettings, ConfigFile, EtcdSettings, Manifest};
use crate::node::{HealthAnswer, HealthQuery, Node, NodeErrorKind};
use crate::plan::StepError;

/// A manifest, or a file of configuration that it names, is never larger.
const LIMIT: u64 = 4 << 20;

/// Until an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The kubelet's certificate and key, in one file.
const KUBELET: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// Of what is not well so many lines are told.
const LINES: usize = 8;

/// What a pod says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// It serves.
    Ready,
    /// It answers, and does not tell us; this is why.
    Silent(String),
    /// It does not serve; this is why.
    Unready(String),
}

/// Asks the pod of `service` that the kubelet runs from `manifest`.
pub(super) async fn of(
    node: &dyn Node,
    service: Service,
    manifest: &Path,
) -> Result<Health, StepError> {
    let queries = match queries_of(node, service, manifest).await? {
        Ok(queries) => queries,
        Err(why) => return Ok(Health::Unready(why)),
    };
    let (mut refused, mut why) = (None, None);
    for query in queries {
        let at = format!("{}{}", query.address, query.path);
        match node.health(query, ANSWER).await.map_err(failed)? {
            HealthAnswer::Answered { status: 200..=299, .. } => return Ok(Health::Ready),
            HealthAnswer::Answered { status: status @ (401 | 403), .. } => {
                refused = Some(format!("{at} answers {status}"));
            }
            // Before 1.16 an API server has no `/readyz`.
            HealthAnswer::Answered { status: 404, .. } => {
                why.get_or_insert(format!("{at} answers 404"));
            }
            HealthAnswer::Answered { status, text } => {
                return Ok(Health::Unready(format!("{at} answers {status}{}", unwell(&text))));
            }
            HealthAnswer::Silent { why: silence } => {
                why.get_or_insert(format!("{at}: {silence}"));
            }
        }
    }
    Ok(match (refused, why) {
        (Some(refused), _) => Health::Silent(refused),
        (None, Some(why)) => Health::Unready(why),
        (None, None) => Health::Silent("its manifest does not say where it answers".to_owned()),
    })
}

/// Whether the pod of `service` serves, as far as it says so.
pub(in crate::operation) async fn is_ready(
    node: &dyn Node,
    service: Service,
    manifest: &Path,
) -> bool {
    !matches!(of(node, service, manifest).await, Ok(Health::Unready(_)) | Err(_))
}

/// The lines of an answer that are no good news.
fn unwell(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let bad = lines.filter(|line| !line.is_empty() && !line.starts_with("[+]"));
    let bad: Vec<&str> = bad.take(LINES).collect();
    if bad.is_empty() { String::new() } else { format!(": {}", bad.join("; ")) }
}

/// What is asked, one after the other until one answers; the reason where that cannot be
/// told.
async fn queries_of(
    node: &dyn Node,
    service: Service,
    path: &Path,
) -> Result<Result<Vec<HealthQuery>, String>, StepError> {
    let shown = path.display().to_string();
    let Some(text) = text(node, path).await? else {
        return Ok(Err(format!("{shown} is not there")));
    };
    let parsed = Manifest::parse(&shown, &text).map_err(|error| error.to_string());
    let read = parsed.and_then(|manifest| Pod::of(service, manifest));
    let pod = match read {
        Ok(pod) => pod,
        Err(why) => return Ok(Err(format!("{shown}: {why}"))),
    };
    let config = match pod.config() {
        Some(path) => match self::text(node, &path).await? {
            Some(text) => ConfigFile::parse(&path.to_string_lossy(), &text).ok(),
            None => None,
        },
        None => None,
    };
    Ok(Ok(pod.queries(service, config.as_ref())))
}

async fn text(node: &dyn Node, path: &Path) -> Result<Option<String>, StepError> {
    match node.read(path, LIMIT).await {
        Ok(file) => Ok(Some(String::from_utf8_lossy(&file.bytes).into_owned())),
        Err(error) if error.kind == NodeErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// A manifest, and what its container runs.
struct Pod {
    manifest: Manifest,
    container: dialect::Container,
    invocation: dialect::Invocation,
}

impl Pod {
    fn of(service: Service, manifest: Manifest) -> Result<Self, String> {
        let container = manifest.container_of(service.name());
        let container = container.ok_or_else(|| format!("no container runs {}", service.name()))?;
        let invocation = manifest.invocation(&container).map_err(|error| error.to_string())?;
        Ok(Self { manifest, container, invocation })
    }

    /// etcd's own file of configuration on the node.
    fn config(&self) -> Option<PathBuf> {
        self.on_node(&EtcdSettings::config_file_of(&self.invocation)?)
    }

    fn on_node(&self, path: &str) -> Option<PathBuf> {
        self.manifest.node_path(&self.container, path).map(PathBuf::from)
    }

    /// A certificate and its key on the node.
    fn pair(&self, certificate: Option<&str>, key: Option<&str>) -> Option<(PathBuf, PathBuf)> {
        Some((self.on_node(certificate?)?, self.on_node(key?)?))
    }

    fn queries(&self, service: Service, config: Option<&ConfigFile>) -> Vec<HealthQuery> {
        match service {
            Service::Etcd => self.of_etcd(&EtcdSettings::of(&self.invocation, config)),
            Service::ApiServer => self.of_api_server(&ApiServerSettings::of(&self.invocation)),
            Service::Kubelet => Vec::new(),
        }
    }

    fn of_api_server(&self, settings: &ApiServerSettings) -> Vec<HealthQuery> {
        let port = settings.value("secure-port").unwrap_or("6443");
        let host = reachable(settings.value("bind-address").unwrap_or("0.0.0.0"));
        let address = format!("{host}:{port}");
        let own = self.pair(
            settings.value("kubelet-client-certificate"),
            settings.value("kubelet-client-key"),
        );
        let clients = [None, Some((KUBELET.into(), KUBELET.into())), own];
        let mut queries = Vec::new();
        for path in ["/readyz", "/healthz"] {
            for (number, client) in clients.iter().enumerate() {
                if number == 0 || client.is_some() {
                    queries.push(HealthQuery {
                        address: address.clone(),
                        path: path.to_owned(),
                        tls: true,
                        client: client.clone(),
                    });
                }
            }
        }
        queries
    }

    fn of_etcd(&self, settings: &EtcdSettings) -> Vec<HealthQuery> {
        // A store without room serves what was asked of it: reads.
        let path = "/health?exclude=NOSPACE";
        let query = |url: &str, client: Option<(PathBuf, PathBuf)>| {
            let host = reachable(dialect::host(url)?);
            let port = dialect::port(url).unwrap_or(2379);
            Some(HealthQuery {
                address: format!("{host}:{port}"),
                path: path.to_owned(),
                tls: url.trim_start().starts_with("https:"),
                client,
            })
        };
        let metrics = dialect::urls(settings.value("listen-metrics-urls").unwrap_or_default());
        let plain = |url: &&String| url.trim_start().starts_with("http:");
        let tls = settings.client_tls();
        let own = self.pair(tls.cert_file, tls.key_file);
        let all: Vec<String> = metrics.into_iter().chain(settings.listen_client_urls()).collect();
        let open = all.iter().filter(plain).filter_map(|url| query(url, None));
        let closed = all.iter().filter(|url| !plain(url)).flat_map(|url| {
            let named = own.clone().and_then(|own| query(url, Some(own)));
            [query(url, None), named].into_iter().flatten()
        });
        open.chain(closed).collect()
    }
}

/// Where one who listens at `host` is reached on the node itself.
fn reachable(host: &str) -> String {
    match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(ip)) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(std::net::IpAddr::V6(ip)) if ip.is_unspecified() => "[::1]".to_owned(),
        Ok(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(service: Service, flags: &[&str]) -> Vec<String> {
        let name = service.name();
        let flags: String = flags.iter().map(|flag| format!("    - {flag}\n")).collect();
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: \
             {name}\n    command:\n    - {name}\n{flags}    volumeMounts:\n    - mountPath: /certs\n      \
             name: certs\n  volumes:\n  - name: certs\n    hostPath:\n      path: /srv/pki\n"
        );
        let pod = Pod::of(service, Manifest::parse("pod", &text).unwrap()).unwrap();
        let shown = |query: HealthQuery| {
            let scheme = if query.tls { "https" } else { "http" };
            let client = query
                .client
                .map(|(certificate, key)| format!(" {} {}", certificate.display(), key.display()));
            format!("{scheme}://{}{}{}", query.address, query.path, client.unwrap_or_default())
        };
        pod.queries(service, None).into_iter().map(shown).collect()
    }

    #[test]
    fn an_api_server_is_asked_without_a_name_first() {
        let kubelet = format!("{KUBELET} {KUBELET}");
        let asked_of = asked(
            Service::ApiServer,
            &[
                "--secure-port=7443",
                "--kubelet-client-certificate=/certs/a.crt",
                "--kubelet-client-key=/certs/a.key",
            ],
        );
        assert_eq!(
            asked_of,
            [
                "https://127.0.0.1:7443/readyz".to_owned(),
                format!("https://127.0.0.1:7443/readyz {kubelet}"),
                "https://127.0.0.1:7443/readyz /srv/pki/a.crt /srv/pki/a.key".to_owned(),
                "https://127.0.0.1:7443/healthz".to_owned(),
                format!("https://127.0.0.1:7443/healthz {kubelet}"),
                "https://127.0.0.1:7443/healthz /srv/pki/a.crt /srv/pki/a.key".to_owned(),
            ]
        );
        let bound = asked(Service::ApiServer, &["--bind-address=fd00::1"]);
        assert_eq!(bound[0], "https://[fd00::1]:6443/readyz");
        assert_eq!(bound.len(), 4);
    }

    #[test]
    fn etcd_is_asked_in_the_open_where_it_answers_there() {
        let tls = [
            "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
            "--cert-file=/certs/s.crt",
            "--key-file=/certs/s.key",
        ];
        let closed = [
            "https://127.0.0.1:2379/health?exclude=NOSPACE",
            "https://127.0.0.1:2379/health?exclude=NOSPACE /srv/pki/s.crt /srv/pki/s.key",
            "https://10.0.0.1:2379/health?exclude=NOSPACE",
            "https://10.0.0.1:2379/health?exclude=NOSPACE /srv/pki/s.crt /srv/pki/s.key",
        ];
        assert_eq!(asked(Service::Etcd, &tls), closed);
        let metrics = [&tls[..], &["--listen-metrics-urls=http://0.0.0.0:2381"]].concat();
        let all = asked(Service::Etcd, &metrics);
        assert_eq!(all[0], "http://127.0.0.1:2381/health?exclude=NOSPACE");
        assert_eq!(all[1..], closed);
        let usual = asked(Service::Etcd, &[]);
        assert_eq!(usual, ["http://localhost:2379/health?exclude=NOSPACE"]);
    }

    #[test]
    fn what_fails_is_told_and_what_is_well_is_not() {
        let text = "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n";
        assert_eq!(unwell(text), ": [-]etcd failed: reason withheld; readyz check failed");
        assert_eq!(unwell("\n"), "");
    }
}

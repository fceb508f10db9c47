//! What one node runs: members, API servers, other clients, the kubelet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::reading::Reading;
use super::services::{ReadUnit, etcd_settings, read_units};
use super::{
    ApiServer, Distribution, EtcdService, Finding, NodeObservation, OtherClient, Running, Runs,
    Severity, TlsFile, certificate, flanneld, pods,
};
use crate::dialect::{
    ApiServerSettings, EnvFile, EtcdSettings, Finding as SettingFinding, FlanneldSettings,
    Invocation, drift,
};
use crate::node::{Node, NodeError, Process, ProcessQuery};

/// The settings of etcd that name files.
const ETCD_FILES: [&str; 8] = [
    "trusted-ca-file",
    "cert-file",
    "key-file",
    "peer-trusted-ca-file",
    "peer-cert-file",
    "peer-key-file",
    "client-crl-file",
    "peer-crl-file",
];

/// The settings of kube-apiserver that name files without which what etcd holds
/// cannot be read or signed for.
const API_SERVER_FILES: [&str; 11] = [
    "etcd-cafile",
    "etcd-certfile",
    "etcd-keyfile",
    "client-ca-file",
    "tls-cert-file",
    "tls-private-key-file",
    "encryption-provider-config",
    "experimental-encryption-provider-config",
    "service-account-key-file",
    "service-account-signing-key-file",
    "token-auth-file",
];

/// Looks at a node; see the module above for what is found.
///
/// # Errors
/// The node does not answer.
pub async fn observe(node: &dyn Node) -> Result<NodeObservation, NodeError> {
    let facts = node.facts().await?;
    let mut reading = Reading::new(node);
    if facts.uid != 0 {
        let what = "it is looked at without root: files and processes of others stay unseen";
        reading.findings.push(
            Finding::on(node.name(), Severity::Warning, what).hint("run as root, or allow sudo -n"),
        );
    }
    let distribution = Distribution::detect(node).await?;
    if let Some(own) = distribution.own_restore() {
        let what = format!(
            "this is {}: backing up works, a restore is {}'s own",
            distribution.name(),
            distribution.name()
        );
        reading.findings.push(Finding::on(node.name(), Severity::Warning, what).hint(own));
    }
    let kubelet = pods::kubelet(&mut reading).await?;
    let mut units = BTreeSet::new();
    for glob in ["*etcd*.service", "*apiserver*.service", "flannel*.service"] {
        let asked = node.units(glob).await;
        units.extend(reading.optional("systemd", asked)?);
    }
    let units: Vec<String> = units.into_iter().collect();
    let programs = ["etcd", "kube-apiserver", "flanneld", "hyperkube"];
    let read = read_units(&mut reading, &units, &facts.hostname, &programs).await?;
    let processes = processes(&mut reading, &programs).await?;

    let mut seen = NodeObservation {
        name: node.name().clone(),
        facts,
        distribution,
        kubelet,
        etcd: Vec::new(),
        api_servers: Vec::new(),
        clients: Vec::new(),
        certificates: Vec::new(),
        findings: Vec::new(),
    };
    for unit in read {
        match unit.invocation.program_name() {
            "etcd" => {
                let service = etcd_of_unit(&mut reading, unit, &processes).await?;
                seen.etcd.push(service);
            }
            "flanneld" => seen.clients.extend(flanneld_of(&unit)),
            _ => {
                let settings = ApiServerSettings::of(&unit.invocation);
                if settings.etcd_servers().is_empty() {
                    continue;
                }
                let files = API_SERVER_FILES;
                let tls_files =
                    named_files(files.iter().map(|name| (*name, settings.value(name))), |path| {
                        absolute(&unit.working_dir, path)
                    });
                let running = process_of(&processes, unit.main_pid).map(running);
                seen.api_servers.push(ApiServer {
                    runs: unit.runs,
                    files: unit.files,
                    settings,
                    tls_files,
                    running,
                });
            }
        }
    }
    if let Some(kubelet) = &seen.kubelet {
        let programs = ["etcd", "kube-apiserver"];
        for (program, pod) in pods::read_pods(&mut reading, kubelet, &programs).await? {
            if program == "etcd" {
                let service = etcd_of_pod(&mut reading, pod, &processes).await?;
                seen.etcd.push(service);
            } else {
                let settings = ApiServerSettings::of(&pod.invocation);
                let tls_files = named_files(
                    API_SERVER_FILES.iter().map(|name| (*name, settings.value(name))),
                    |path| pod.node_path(path),
                );
                let running = contained(&processes, "kube-apiserver").map(running);
                seen.api_servers.push(ApiServer {
                    runs: pod.runs,
                    files: pod.files,
                    settings,
                    tls_files,
                    running,
                });
            }
        }
    }
    stray_processes(&mut reading, &mut seen, &processes);
    judge(&mut reading, &seen);
    changed_since_start(&mut reading, &seen).await?;
    seen.certificates = certificates(&mut reading, &seen).await?;
    seen.findings = reading.findings;
    Ok(seen)
}

async fn processes(
    reading: &mut Reading<'_>,
    programs: &[&str],
) -> Result<Vec<Process>, NodeError> {
    let mut all = Vec::new();
    for program in programs {
        let asked = reading.node.processes(ProcessQuery::Program((*program).to_owned())).await;
        all.extend(reading.optional("processes", asked)?);
    }
    Ok(all)
}

fn running(process: &Process) -> Running {
    Running { pid: process.pid, started: process.started, uid: process.uid }
}

fn process_of(processes: &[Process], pid: u32) -> Option<&Process> {
    processes.iter().find(|process| pid != 0 && process.pid == pid)
}

/// The process of a program that runs in a container.
fn contained<'p>(processes: &'p [Process], program: &str) -> Option<&'p Process> {
    processes.iter().find(|process| {
        process.root.is_some() && process.program.file_name().is_some_and(|name| name == program)
    })
}

fn absolute(working_dir: &Path, path: &str) -> Option<PathBuf> {
    // Joining an absolute path gives that path.
    Some(working_dir.join(path))
}

fn named_files<'s>(
    settings: impl Iterator<Item = (&'s str, Option<&'s str>)>,
    on_node: impl Fn(&str) -> Option<PathBuf>,
) -> Vec<TlsFile> {
    settings
        .filter_map(|(name, value)| {
            let path = on_node(value.filter(|value| !value.is_empty())?)?;
            Some(TlsFile { setting: name.to_owned(), path })
        })
        .collect()
}

fn environment(process: &Process) -> Vec<String> {
    process.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn differences(
    settings: &EtcdSettings,
    process: Option<&Process>,
) -> Vec<crate::dialect::Difference> {
    process
        .map_or_else(Vec::new, |process| drift(settings, &process.arguments, &environment(process)))
}

async fn etcd_of_unit(
    reading: &mut Reading<'_>,
    unit: ReadUnit,
    processes: &[Process],
) -> Result<EtcdService, NodeError> {
    let ReadUnit { runs, main_pid, mut files, invocation, working_dir, .. } = unit;
    let at = |path: &str| absolute(&working_dir, path);
    let settings = etcd_settings(reading, &invocation, &mut files, at).await?;
    let process = process_of(processes, main_pid);
    // A relative path is the process's own, where it runs.
    let base = process.map_or(&working_dir, |process| &process.cwd);
    Ok(EtcdService {
        data_dir: base.join(settings.data_dir()),
        wal_dir: settings.wal_dir().map(|path| base.join(path)),
        tls_files: named_files(
            ETCD_FILES.iter().map(|name| (*name, settings.value(name))),
            |path| absolute(base, path),
        ),
        drift: differences(&settings, process),
        running: process.map(running),
        runs,
        files,
        settings,
    })
}

async fn etcd_of_pod(
    reading: &mut Reading<'_>,
    mut pod: pods::ReadPod,
    processes: &[Process],
) -> Result<EtcdService, NodeError> {
    let mut files = std::mem::take(&mut pod.files);
    let settings =
        etcd_settings(reading, &pod.invocation, &mut files, |path| pod.node_path(path)).await?;
    let process = contained(processes, "etcd");
    let data_dir = settings.data_dir();
    let on_node = pod.node_path(&data_dir);
    if on_node.is_none() {
        reading.found(
            Severity::Problem,
            format!("etcd's {data_dir} lies inside its container: it is lost with it"),
        );
    }
    Ok(EtcdService {
        data_dir: on_node.unwrap_or_else(|| PathBuf::from(&data_dir)),
        wal_dir: settings
            .wal_dir()
            .map(|path| pod.node_path(path).unwrap_or_else(|| PathBuf::from(path))),
        tls_files: named_files(
            ETCD_FILES.iter().map(|name| (*name, settings.value(name))),
            |path| pod.node_path(path),
        ),
        drift: differences(&settings, process),
        running: process.map(running),
        runs: pod.runs,
        files,
        settings,
    })
}

/// Members that run and that neither systemd nor the kubelet keeps.
fn stray_processes(reading: &mut Reading<'_>, seen: &mut NodeObservation, processes: &[Process]) {
    let known: Vec<u32> =
        seen.etcd.iter().filter_map(|etcd| etcd.running.as_ref()).map(|found| found.pid).collect();
    let etcd = |process: &&Process| {
        process.program.file_name().is_some_and(|name| name == "etcd")
            && !known.contains(&process.pid)
    };
    let strays: Vec<&Process> = processes.iter().filter(etcd).collect();
    for process in strays {
        let invocation = Invocation::running(&process.arguments, &environment(process));
        let settings = EtcdSettings::of(&invocation, None);
        reading.found(
            Severity::Warning,
            format!(
                "etcd runs as process {} and neither a unit nor a static pod says so",
                process.pid
            ),
        );
        seen.etcd.push(EtcdService {
            runs: Runs::Process,
            files: Vec::new(),
            data_dir: process.cwd.join(settings.data_dir()),
            wal_dir: settings.wal_dir().map(|path| process.cwd.join(path)),
            tls_files: named_files(
                ETCD_FILES.iter().map(|name| (*name, settings.value(name))),
                |path| absolute(&process.cwd, path),
            ),
            running: Some(running(process)),
            drift: Vec::new(),
            settings,
        });
    }
}

fn flanneld_of(unit: &ReadUnit) -> Option<OtherClient> {
    let of_command = || {
        let path = unit.files.first()?.path.clone();
        flanneld(path, &FlanneldSettings::of(&unit.invocation))
    };
    let of_files = unit.environment.iter().rev().find_map(|(path, text)| {
        let file = EnvFile::parse(text).ok()?;
        flanneld(path.clone(), &FlanneldSettings::of_file(&path.to_string_lossy(), &file))
    });
    of_files.or_else(of_command)
}

/// What follows from the pictures themselves.
fn judge(reading: &mut Reading<'_>, seen: &NodeObservation) {
    if seen.etcd.len() > 1 {
        let active = seen.etcd.iter().filter(|etcd| etcd.runs.is_running()).count();
        // One that lies there and starts by nobody's hand does no harm.
        let idle = |etcd: &&super::EtcdService| {
            !etcd.runs.is_running()
                && matches!(&etcd.runs, Runs::Unit { enabled, .. } if enabled != "enabled")
        };
        let severity = match seen.etcd.iter().filter(idle).count() + 1 == seen.etcd.len() {
            true => Severity::Note,
            false => Severity::Problem,
        };
        reading.found(
            severity,
            format!("{} etcd are configured here, {active} of them running", seen.etcd.len()),
        );
    }
    for etcd in &seen.etcd {
        if let Runs::Unit { unit, stale: true, .. } = &etcd.runs {
            reading.findings.push(
                Finding::on(
                    reading.node.name(),
                    Severity::Warning,
                    format!("the files of {unit} changed since systemd read them"),
                )
                .hint("systemctl daemon-reload"),
            );
        }
        if etcd.settings.is_forced_new() {
            reading.findings.push(
                Finding::on(
                    reading.node.name(),
                    Severity::Problem,
                    "force-new-cluster is set: the next start of this member makes a cluster of its own",
                )
                .hint("remove it from the file that sets it"),
            );
        }
        for difference in &etcd.drift {
            reading.found(Severity::Warning, difference.to_string());
        }
        for finding in etcd.settings.findings() {
            let severity = match finding {
                SettingFinding::Conflict { .. } => Severity::Problem,
                _ => Severity::Note,
            };
            reading.found(severity, finding.to_string());
        }
    }
    for api_server in &seen.api_servers {
        if api_server.settings.stores_v2_keys() {
            reading.findings.push(
                Finding::on(
                    reading.node.name(),
                    Severity::Problem,
                    "kube-apiserver keeps its objects as v2 keys (--storage-backend=etcd2), which no \
                     snapshot holds",
                )
                .hint("migrate to etcd3 first; until then archive the data directory of a stopped member"),
            );
        }
    }
}

/// Clock ticks in a second, as every Linux shows them to programs (`USER_HZ`).
const TICKS: i128 = 100;
/// What the clock may have been set since the boot, in nanoseconds.
const SLACK: i128 = 2_000_000_000;

/// etcd's own file, of whose content the process shows nothing: one that is younger than
/// the process is not what it runs with.
async fn changed_since_start(
    reading: &mut Reading<'_>,
    seen: &NodeObservation,
) -> Result<(), NodeError> {
    let files = seen.etcd.iter().flat_map(|etcd| {
        let files = etcd.files.iter().filter(|file| file.dialect == super::Dialect::ConfigFile);
        files.filter_map(|file| Some((&file.path, etcd.running.as_ref()?)))
    });
    let files: Vec<_> = files.collect();
    if files.is_empty() {
        return Ok(());
    }
    let Some(stat) = reading.text(Path::new("/proc/stat")).await? else { return Ok(()) };
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    let Some(boot) = boot.map(|seconds: i64| i128::from(seconds) * 1_000_000_000) else {
        return Ok(());
    };
    for (path, running) in files {
        let started = boot + i128::from(running.started) * 1_000_000_000 / TICKS;
        let changed = match reading.node.stat(path).await {
            Ok(Some(entry)) => entry.modified,
            _ => continue,
        };
        if changed > started + SLACK {
            let what = format!(
                "{} was changed after etcd was started: what the member runs with is not seen",
                path.display()
            );
            reading.findings.push(
                Finding::on(reading.node.name(), Severity::Warning, what)
                    .hint("restart the member, one at a time"),
            );
        }
    }
    Ok(())
}

/// Every certificate that a service here names, each file once.
async fn certificates(
    reading: &mut Reading<'_>,
    seen: &NodeObservation,
) -> Result<Vec<super::Certificate>, NodeError> {
    let files = seen
        .etcd
        .iter()
        .flat_map(|etcd| &etcd.tls_files)
        .chain(seen.api_servers.iter().flat_map(|api_server| &api_server.tls_files));
    let holds_certificates = |file: &&TlsFile| {
        ["cert-file", "ca-file", "certfile", "cafile"].iter().any(|end| file.setting.ends_with(end))
    };
    let paths: BTreeSet<&Path> =
        files.filter(holds_certificates).map(|file| file.path.as_path()).collect();
    let mut found = Vec::new();
    for path in paths {
        match reading.bytes(path).await? {
            Some(bytes) => match certificate::read(path, &bytes) {
                Ok(certificate) => found.push(certificate),
                Err(why) => {
                    reading.found(Severity::Warning, format!("{}: {why}", path.display()));
                }
            },
            None => {
                reading.found(Severity::Warning, format!("{} is not there", path.display()));
            }
        }
    }
    let now = reading.node.facts().await?.now;
    for certificate in &found {
        let until = i128::from(certificate.not_after.timestamp()) * 1_000_000_000;
        let days = (until - now) / 86_400_000_000_000;
        let path = certificate.path.display();
        if until < now {
            reading.found(
                Severity::Problem,
                format!("{path} expired on {}", certificate.not_after.format("%Y-%m-%d %H:%M UTC")),
            );
        } else if days < 30 {
            reading.found(Severity::Warning, format!("{path} expires in {days} days"));
        }
    }
    Ok(found)
}

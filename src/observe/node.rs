//! What one node runs: members, API servers, other clients, the kubelet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::look::Answers;
use super::reading::Reading;
use super::services::{self, ReadUnit, etcd_settings, read_units};
use super::{
    ApiServer, ConfiguredBy, Dialect, EtcdService, Finding, NodeObservation, OtherClient,
    PodCommand, Running, Runs, Severity, TlsFile, certificate, flanneld, pods,
};
use crate::dialect::{
    ApiServerSettings, EnvFile, EtcdSettings, Finding as SettingFinding, FlanneldSettings,
    Invocation, drift,
};
use crate::node::{NodeError, Process, Unit};

/// What is said of a member that is told to begin a cluster of its own.
pub(crate) const FORCED: &str =
    "force-new-cluster is set: the next start of this member makes a cluster of its own";

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

/// The programs whose units are read.
const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "flanneld", "hyperkube"];

/// Units that may start these.
fn may_start(unit: &Unit) -> bool {
    let name = &unit.name;
    name.contains("etcd") || name.contains("apiserver") || name.starts_with("flannel")
}

/// What the answers of a node show, its certificates left out, and what its static pods
/// run.
///
/// # Errors
/// The node is lost.
pub(super) async fn picture(
    reading: &mut Reading<'_>,
    answers: &Answers,
) -> Result<(NodeObservation, Vec<PodCommand>), NodeError> {
    let Answers { facts, units, processes, .. } = answers;
    let starting: Vec<Unit> = units.iter().filter(|unit| may_start(unit)).cloned().collect();
    let read = read_units(reading, &starting, &facts.hostname, &PROGRAMS).await?;
    let mut seen = NodeObservation {
        name: reading.node.name().clone(),
        facts: facts.clone(),
        distribution: answers.distribution,
        kubelet: answers.kubelet.clone(),
        etcd: Vec::new(),
        api_servers: Vec::new(),
        clients: Vec::new(),
        certificates: Vec::new(),
        findings: Vec::new(),
    };
    for unit in read {
        match unit.invocation.program_name() {
            "etcd" => {
                let service = etcd_of_unit(reading, unit, processes).await?;
                seen.etcd.push(service);
            }
            "flanneld" => seen.clients.extend(flanneld_of(&unit)),
            _ => {
                let settings = ApiServerSettings::of(&unit.invocation);
                if settings.etcd_servers().is_empty() {
                    continue;
                }
                let process = process_of(processes, unit.main_pid);
                let at = |path: &str| absolute(&unit.working_dir, path);
                let server = api_server(settings, unit.runs, unit.files, process, at);
                seen.api_servers.push(server);
            }
        }
    }
    let programs = ["etcd", "kube-apiserver"];
    let pods = pods::read_pods(reading, &answers.manifests, &answers.containers, &programs).await?;
    for (program, pod) in pods.found {
        if program == "etcd" {
            let service = etcd_of_pod(reading, pod, processes).await?;
            seen.etcd.push(service);
        } else {
            let settings = ApiServerSettings::of(&pod.invocation);
            let process = contained(processes, "kube-apiserver");
            let at = |path: &str| pod.node_path(path);
            let server = api_server(settings, pod.runs.clone(), pod.files.clone(), process, at);
            seen.api_servers.push(server);
        }
    }
    stray_members(reading, &mut seen, answers);
    stray_servers(&mut seen, answers);
    judge(reading, &seen);
    Ok((seen, pods.commands))
}

fn api_server(
    settings: ApiServerSettings,
    runs: Runs,
    files: Vec<ConfiguredBy>,
    process: Option<&Process>,
    on_node: impl Fn(&str) -> Option<PathBuf>,
) -> ApiServer {
    let named = API_SERVER_FILES.iter().map(|name| (*name, settings.value(name)));
    let tls_files = named_files(named, on_node);
    ApiServer { runs, files, tls_files, running: process.map(running), settings }
}

/// Whether a process is of the program `name`.
pub(super) fn is_program(process: &Process, name: &str) -> bool {
    process.program.file_name().is_some_and(|file| file == name)
}

fn running(process: &Process) -> Running {
    Running { pid: process.pid, started: process.started, uid: process.uid }
}

fn process_of(processes: &[Process], pid: u32) -> Option<&Process> {
    processes.iter().find(|process| pid != 0 && process.pid == pid)
}

/// The process of a program that runs in a container.
fn contained<'p>(processes: &'p [Process], program: &str) -> Option<&'p Process> {
    processes.iter().find(|process| process.root.is_some() && is_program(process, program))
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

/// The unit that a process belongs to.
fn unit_of<'u>(process: &Process, units: &'u [Unit]) -> Option<&'u Unit> {
    let in_group = |unit: &&Unit| process.cgroup.ends_with(&format!("/{}", unit.name));
    let started = |unit: &&Unit| process.pid != 0 && unit.main_pid == process.pid;
    units.iter().find(started).or_else(|| units.iter().find(in_group))
}

/// How a process is kept that no file tells of: by a unit whose command says nothing,
/// such as a script's, or by nobody.
fn kept_by(process: &Process, units: &[Unit]) -> (Runs, Vec<ConfiguredBy>) {
    let Some(unit) = unit_of(process, units).filter(|_| process.root.is_none()) else {
        return (Runs::Process, Vec::new());
    };
    let file = |path: &PathBuf, dialect| ConfiguredBy { path: path.clone(), dialect };
    let mut files: Vec<_> = unit.fragment.iter().map(|path| file(path, Dialect::Unit)).collect();
    files.extend(unit.drop_ins.iter().map(|path| file(path, Dialect::DropIn)));
    (services::runs(unit), files)
}

/// Members that run and of which no file tells how.
fn stray_members(reading: &mut Reading<'_>, seen: &mut NodeObservation, answers: &Answers) {
    let known: Vec<u32> =
        seen.etcd.iter().filter_map(|etcd| etcd.running.as_ref()).map(|found| found.pid).collect();
    let stray = |process: &&Process| is_program(process, "etcd") && !known.contains(&process.pid);
    for process in answers.processes.iter().filter(stray) {
        let invocation = Invocation::running(&process.arguments, &environment(process));
        let settings = EtcdSettings::of(&invocation, None);
        let (runs, files) = kept_by(process, &answers.units);
        let what = match &runs {
            Runs::Unit { unit, .. } => format!(
                "etcd runs in {unit} as process {}, and the unit does not say with which settings",
                process.pid
            ),
            _ => format!(
                "etcd runs as process {} and neither a unit nor a static pod says so",
                process.pid
            ),
        };
        reading.found(Severity::Warning, what);
        seen.etcd.push(EtcdService {
            runs,
            files,
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

/// API servers that run and of which no file tells how.
fn stray_servers(seen: &mut NodeObservation, answers: &Answers) {
    let known: Vec<u32> = seen
        .api_servers
        .iter()
        .filter_map(|server| server.running.as_ref())
        .map(|found| found.pid)
        .collect();
    let stray =
        |process: &&Process| is_program(process, "kube-apiserver") && !known.contains(&process.pid);
    for process in answers.processes.iter().filter(stray) {
        let invocation = Invocation::running(&process.arguments, &environment(process));
        let settings = ApiServerSettings::of(&invocation);
        let (runs, files) = kept_by(process, &answers.units);
        let at = |path: &str| absolute(&process.cwd, path);
        seen.api_servers.push(api_server(settings, runs, files, Some(process), at));
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
                Finding::on(reading.node.name(), Severity::Problem, FORCED)
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
pub(super) async fn changed_since_start(
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

/// Every certificate that a service here names, each file once, and at `now`, the node's
/// clock, what is wrong with them.
pub(super) async fn certificates(
    reading: &mut Reading<'_>,
    seen: &NodeObservation,
    now: i128,
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
    reading.fetch(paths.iter().map(|path| (*path).to_owned())).await;
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

//! The fixtures of `tests/fixtures/dialect`, read and edited.

mod properties;
mod rules;

use std::path::PathBuf;

use super::*;

fn fixture(name: &str) -> String {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", "dialect", name].iter().collect();
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines that differ, old and new, where only a middle part does.
fn changed(old: &str, new: &str) -> (Vec<String>, Vec<String>) {
    let (old, new): (Vec<&str>, Vec<&str>) =
        (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - head;
    let tail =
        old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    (owned(&old[head..old.len() - tail]), owned(&new[head..new.len() - tail]))
}

#[track_caller]
fn assert_changed(old: &str, new: &str, gone: &[&str], come: &[&str]) {
    let (old, new) = changed(old, new);
    let trimmed = |lines: Vec<String>| -> Vec<String> {
        lines.iter().map(|line| line.trim_end_matches('\n').to_owned()).collect()
    };
    assert_eq!(
        (trimmed(old), trimmed(new)),
        (
            gone.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(),
            come.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(),
        )
    );
}

fn unit(name: &str, file: &str, environment: &[(&str, &str)]) -> Invocation {
    let unit_file = UnitFile::parse(name, &fixture(file)).expect("a unit");
    let unit_name = name.rsplit('/').next().unwrap_or(name);
    let specifiers = Specifiers::of(unit_name, Some("db1.example.org"));
    let unit = Unit::merge(unit_file, Vec::new(), specifiers);
    let environment: Vec<_> =
        environment.iter().map(|(path, file)| ((*path).to_owned(), fixture(file))).collect();
    unit.invocation(&environment).expect("a command")
}

/// Row 15: Debian's unit with the variables and `DAEMON_ARGS` of its file.
#[test]
fn row_15_debian() {
    let invocation = unit(
        "/lib/systemd/system/etcd.service",
        "debian/etcd.service",
        &[("/etc/default/etcd", "debian/etcd-auto-tls")],
    );
    assert_eq!(invocation.program(), "/usr/bin/etcd");
    let settings = EtcdSettings::of(&invocation, None);
    assert!(settings.findings().is_empty(), "{:?}", settings.findings());
    // The file wins over the unit's own Environment=ETCD_NAME=%H.
    assert_eq!(settings.name(), "db1");
    assert_eq!(settings.data_dir(), "/var/lib/etcd/default");
    assert_eq!(settings.listen_peer_urls(), ["https://[::]:2380"]);
    assert_eq!(settings.listen_client_urls(), ["http://[::]:2379"]);
    assert_eq!((host("https://[::]:2380"), port("https://[::]:2380")), (Some("::"), Some(2380)));
    assert!(settings.peer_tls().auto_tls && !settings.client_tls().auto_tls);
    assert_eq!(settings.initial_cluster_token(), "prod-1");
    assert_eq!(settings.initial_cluster_state(), "new");
    let cluster = settings.initial_cluster();
    assert_eq!(cluster.names(), ["db1", "db2", "db3"]);
    assert_eq!(cluster.urls_of("db3"), ["https://[fd00::13]:2380"]);
    let token = settings.get("initial-cluster-token").expect("set");
    assert_eq!(token.origin.to_string(), "/etc/default/etcd:9");
    assert_eq!(token.origin.form, Form::Flag);
    assert_eq!(&fixture("debian/etcd-auto-tls")[token.origin.span.clone()], "prod-1");
    let data_dir = settings.get("data-dir").expect("set");
    assert_eq!(data_dir.origin.to_string(), "/lib/systemd/system/etcd.service:9");
}

#[test]
fn debian_as_installed() {
    let invocation =
        unit("etcd.service", "debian/etcd.service", &[("/etc/default/etcd", "debian/etcd")]);
    let settings = EtcdSettings::of(&invocation, None);
    assert_eq!(settings.name(), "db1.example.org");
    assert!(invocation.arguments().is_empty(), "an empty DAEMON_ARGS is no argument");
    let file = UnitFile::parse("u", &fixture("debian/etcd.service")).expect("a unit");
    let unit = Unit::merge(file, Vec::new(), Specifiers::of("etcd.service", None));
    let files = unit.environment_files();
    assert_eq!(files, [EnvironmentFile { path: "/etc/default/etcd".into(), optional: true }]);
    assert_eq!(unit.value("User").as_deref(), Some("etcd"));
    // Without the host's name the specifier stays.
    let symbolic = unit.invocation(&[]).expect("a command");
    assert_eq!(EtcdSettings::of(&symbolic, None).name(), "%H");
}

#[test]
fn edits_of_daemon_args() {
    let text = fixture("debian/etcd-auto-tls");
    let file = EnvFile::parse(&text).expect("a file");
    let line = r#"DAEMON_ARGS="--initial-cluster-token prod-1 --initial-cluster-state new""#;
    let new = file.set_flag("DAEMON_ARGS", "initial-cluster-state", "existing").expect("an edit");
    let wanted = r#"DAEMON_ARGS="--initial-cluster-token prod-1 --initial-cluster-state existing""#;
    assert_changed(&text, &new, &[line], &[wanted]);
    let new = file.set_flag("DAEMON_ARGS", "force-new-cluster", "true").expect("an edit");
    let wanted = r#"DAEMON_ARGS="--initial-cluster-token prod-1 --initial-cluster-state new --force-new-cluster=true""#;
    assert_changed(&text, &new, &[line], &[wanted]);
    let again = EnvFile::parse(&new).expect("a file");
    assert_eq!(again.remove_flag("DAEMON_ARGS", "force-new-cluster").as_deref(), Ok(text.as_str()));
    let new = file.remove_flag("DAEMON_ARGS", "initial-cluster-token").expect("an edit");
    assert_changed(&text, &new, &[line], &[r#"DAEMON_ARGS="--initial-cluster-state new""#]);
    let absent = file.remove_flag("DAEMON_ARGS", "wal-dir");
    assert_eq!(absent, Err(EditError::Absent("--wal-dir in DAEMON_ARGS".into())));
}

/// Rows 1, 3, 5 and 7 on CentOS' file.
#[test]
fn rows_1_3_5_7_centos() {
    let text = fixture("centos/etcd.conf");
    let file = EnvFile::parse(&text).expect("a file");
    let new = file
        .set("ETCD_LISTEN_CLIENT_URLS", "http://10.0.0.1:2379,http://127.0.0.1:2379")
        .expect("an edit");
    assert_changed(
        &text,
        &new,
        &[r#"ETCD_LISTEN_CLIENT_URLS="http://localhost:2379""#],
        &[r#"ETCD_LISTEN_CLIENT_URLS="http://10.0.0.1:2379,http://127.0.0.1:2379""#],
    );
    // What is commented out is added right behind.
    let new = file.set("ETCD_FORCE_NEW_CLUSTER", "true").expect("an edit");
    assert_changed(&text, &new, &[], &[r#"ETCD_FORCE_NEW_CLUSTER="true""#]);
    let forced = EnvFile::parse(&new).expect("a file");
    assert_eq!(forced.remove("ETCD_FORCE_NEW_CLUSTER").as_deref(), Ok(text.as_str()));
    let new = file.set("ETCD_INITIAL_CLUSTER_STATE", "existing").expect("an edit");
    let at = new.lines().position(|line| line == r#"ETCD_INITIAL_CLUSTER_STATE="existing""#);
    let before = new.lines().position(|line| line == r##"#ETCD_INITIAL_CLUSTER_STATE="new""##);
    assert_eq!(at, before.map(|before| before + 1));
    // The unit passes three settings as flags too, through a shell.
    let invocation =
        unit("etcd.service", "centos/etcd.service", &[("/etc/etcd/etcd.conf", "centos/etcd.conf")]);
    assert_eq!(invocation.program(), "/usr/bin/etcd");
    let settings = EtcdSettings::of(&invocation, None);
    assert_eq!(settings.data_dir(), "/var/lib/etcd/default.etcd");
    let name = settings.get("name").expect("set");
    assert_eq!(
        (name.origin.to_string(), name.origin.form),
        ("/etc/etcd/etcd.conf:8".into(), Form::Flag)
    );
    assert!(!name.origin.composed);
    let conflicts: Vec<_> = settings
        .findings()
        .iter()
        .filter_map(|finding| match finding {
            Finding::Conflict { flag, .. } => Some(flag.name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(conflicts, ["data-dir", "listen-client-urls", "name"]);
    let text = fixture("centos/etcd.service");
    let file = UnitFile::parse("u", &text).expect("a unit");
    let shell = file.set_flag("name", "x").expect_err("through a shell");
    assert_eq!(
        shell.to_string(),
        "--name cannot be edited safely: the command runs through a shell"
    );
}

/// Row 11: continuations with and without a space, a comment in between.
#[test]
fn row_11_unit_of_an_api_server() {
    let text = fixture("apiserver/kube-apiserver.service");
    let invocation = unit("kube-apiserver.service", "apiserver/kube-apiserver.service", &[]);
    let settings = ApiServerSettings::of(&invocation);
    assert_eq!(settings.etcd_servers(), ["http://10.0.0.1:2379", "http://10.0.0.10:2379"]);
    assert!(settings.stores_v2_keys());
    assert_eq!(settings.apiserver_count(), Some(2));
    assert_eq!(settings.etcd_prefix(), "/registry");
    let servers = settings.get("etcd-servers").expect("set");
    assert_eq!(servers.origin.line, 12);
    assert_eq!(&text[servers.origin.span.clone()], servers.value);
    // Row 8: exactly one host, never 10.0.0.1 inside 10.0.0.10.
    let value = replace_host(&servers.value, "10.0.0.1", "10.0.0.21").expect("there");
    assert_eq!(value, "http://10.0.0.21:2379,http://10.0.0.10:2379");
    let file = UnitFile::parse("u", &text).expect("a unit");
    let new = file.set_flag("etcd-servers", &value).expect("an edit");
    assert_changed(
        &text,
        &new,
        &[r"  --etcd-servers=http://10.0.0.1:2379,http://10.0.0.10:2379\"],
        &[r"  --etcd-servers=http://10.0.0.21:2379,http://10.0.0.10:2379\"],
    );
    let new = file.remove_flag("storage-backend").expect("an edit");
    assert_changed(&text, &new, &[r"  --storage-backend=etcd2\"], &[]);
    let new = file.remove_flag("v").expect("an edit");
    assert_changed(
        &text,
        &new,
        &[r"  --service-cluster-ip-range=10.32.0.0/24 \", "  --v=2"],
        &["  --service-cluster-ip-range=10.32.0.0/24"],
    );
    let new = file.set_flag("etcd-prefix", "/k8s").expect("an edit");
    assert_changed(&text, &new, &["  --v=2"], &[r"  --v=2 \", "  --etcd-prefix=/k8s"]);
    let read = UnitFile::parse("u", &new).expect("a unit");
    assert_eq!(read.remove_flag("etcd-prefix").as_deref(), Ok(text.as_str()));
}

/// Row 8: the API server's variables, and flanneld's.
#[test]
fn row_8_clients() {
    let invocation = unit(
        "kube-apiserver.service",
        "apiserver/kube-apiserver-env.service",
        &[("/etc/kubernetes/apiserver", "apiserver/apiserver")],
    );
    let settings = ApiServerSettings::of(&invocation);
    assert_eq!(settings.etcd_servers(), ["http://10.0.0.1:2379", "http://10.0.0.10:2379"]);
    assert_eq!(settings.etcd_prefix(), "/k8s");
    assert_eq!(
        settings.servers_overrides(),
        [ServersOverride {
            resource: "/events".into(),
            servers: vec!["http://10.0.0.21:2379".into(), "http://10.0.0.22:2379".into()],
        }]
    );
    let origin = &settings.get("etcd-servers").expect("set").origin;
    assert_eq!(origin.to_string(), "/etc/kubernetes/apiserver:9");
    let text = fixture("apiserver/apiserver");
    let file = EnvFile::parse(&text).expect("a file");
    let new = file
        .set_flag("KUBE_ETCD_SERVERS", "etcd-servers", "http://10.0.0.1:2379,http://10.0.0.3:2379")
        .expect("an edit");
    assert_changed(
        &text,
        &new,
        &[r#"KUBE_ETCD_SERVERS="--etcd-servers=http://10.0.0.1:2379,http://10.0.0.10:2379""#],
        &[r#"KUBE_ETCD_SERVERS="--etcd-servers=http://10.0.0.1:2379,http://10.0.0.3:2379""#],
    );
    // The unit itself has the flag only through the variable.
    let unit =
        UnitFile::parse("u", &fixture("apiserver/kube-apiserver-env.service")).expect("a unit");
    assert_eq!(unit.remove_flag("etcd-servers"), Err(EditError::Absent("--etcd-servers".into())));

    let text = fixture("flannel/flanneld");
    let file = EnvFile::parse(&text).expect("a file");
    let flanneld = FlanneldSettings::of_file("/etc/sysconfig/flanneld", &file);
    assert_eq!(flanneld.etcd_endpoints(), ["http://10.0.0.1:2379", "http://10.0.0.10:2379"]);
    assert_eq!(flanneld.prefix.expect("set").value, "/atomic.io/network");
    let endpoints = flanneld.endpoints.expect("set");
    assert_eq!(endpoints.origin.to_string(), "/etc/sysconfig/flanneld:4");
    let new = file.set(&endpoints.name, "http://10.0.0.10:2379").expect("an edit");
    assert_changed(
        &text,
        &new,
        &[r#"FLANNEL_ETCD_ENDPOINTS="http://10.0.0.1:2379,http://10.0.0.10:2379""#],
        &[r#"FLANNEL_ETCD_ENDPOINTS="http://10.0.0.10:2379""#],
    );
}

/// Row 25: kubeadm's pod of etcd.
#[test]
fn row_25_static_pod_of_etcd() {
    let text = fixture("kubeadm/etcd.yaml");
    let manifest = Manifest::parse("/etc/kubernetes/manifests/etcd.yaml", &text).expect("a pod");
    assert_eq!(manifest.annotation(ADVERTISE_CLIENT_URLS), Some("https://10.0.0.11:2379"));
    let container = manifest.container_of("etcd").expect("a container");
    assert_eq!(container.image, "registry.k8s.io/etcd:3.5.15-0");
    let settings = EtcdSettings::of(&manifest.invocation(&container).expect("a command"), None);
    assert!(settings.findings().is_empty(), "{:?}", settings.findings());
    assert_eq!(settings.name(), "cp1");
    assert_eq!(settings.client_tls().cert_file, Some("/etc/kubernetes/pki/etcd/server.crt"));
    assert!(settings.client_tls().client_cert_auth && settings.peer_tls().client_cert_auth);
    let data_dir = settings.data_dir();
    assert_eq!(manifest.node_path(&container, &data_dir).as_deref(), Some("/srv/etcd"));
    assert_eq!(
        manifest.node_path(&container, "/var/lib/etcd/member").as_deref(),
        Some("/srv/etcd/member")
    );
    assert_eq!(manifest.node_path(&container, "/var/lib/etcd2"), None);
    let name = settings.get("name").expect("set");
    assert_eq!((name.origin.line, &text[name.origin.span.clone()]), (28, "cp1"));

    let cluster = "cp1=https://10.0.0.11:2380,cp2=https://10.0.0.12:2380";
    let new = manifest.set_flag(&container, "initial-cluster", cluster).expect("an edit");
    assert_changed(
        &text,
        &new,
        &["    - --initial-cluster=cp1=https://10.0.0.11:2380"],
        &["    - --initial-cluster=cp1=https://10.0.0.11:2380,cp2=https://10.0.0.12:2380"],
    );
    let new = manifest.set_flag(&container, "force-new-cluster", "true").expect("an edit");
    assert_changed(&text, &new, &[], &["    - --force-new-cluster=true"]);
    let read = Manifest::parse("m", &new).expect("a pod");
    assert_eq!(read.remove_flag(&container, "force-new-cluster").as_deref(), Ok(text.as_str()));
    let new = manifest.set_annotation(ADVERTISE_CLIENT_URLS, "https://10.0.0.12:2379");
    assert_changed(
        &text,
        &new.expect("an edit"),
        &["    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://10.0.0.11:2379"],
        &["    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://10.0.0.12:2379"],
    );
    let misfits: Vec<_> =
        misfits(&settings, Series::V3_7).iter().map(ToString::to_string).collect();
    assert_eq!(
        misfits,
        [
            "experimental-initial-corrupt-check (/etc/kubernetes/manifests/etcd.yaml:20): etcd 3.7 does not know it and does not start with it; it has feature-gates=InitialCorruptCheck=true",
            "experimental-watch-progress-notify-interval (/etc/kubernetes/manifests/etcd.yaml:21): etcd 3.7 does not know it and does not start with it; it has watch-progress-notify-interval",
        ]
    );
}

/// Row 22: the API server and the ConfigMap follow etcd elsewhere and back.
#[test]
fn row_22_switch() {
    let text = fixture("kubeadm/kube-apiserver.yaml");
    let manifest = Manifest::parse("m", &text).expect("a pod");
    let container = manifest.container_of("kube-apiserver").expect("a container");
    let settings = ApiServerSettings::of(&manifest.invocation(&container).expect("a command"));
    assert_eq!(settings.etcd_servers(), ["https://127.0.0.1:2379"]);
    assert_eq!(settings.etcd_keyfile(), Some("/etc/kubernetes/pki/apiserver-etcd-client.key"));
    assert!(!settings.stores_v2_keys());
    let servers = "https://10.0.0.21:2379,https://10.0.0.22:2379";
    let new = manifest.set_flag(&container, "etcd-servers", servers).expect("an edit");
    assert_changed(
        &text,
        &new,
        &["    - --etcd-servers=https://127.0.0.1:2379"],
        &["    - --etcd-servers=https://10.0.0.21:2379,https://10.0.0.22:2379"],
    );

    let (local, external) =
        (fixture("kubeadm/kubeadm-config.yaml"), fixture("kubeadm/kubeadm-config-external.yaml"));
    let read = |text: &str| {
        let map = ConfigMap::parse(text).expect("a ConfigMap");
        let inner = map.get("ClusterConfiguration").expect("its text").to_owned();
        ClusterConfiguration::parse(&inner).expect("a ClusterConfiguration")
    };
    let place = read(&external).etcd();
    assert_eq!(
        place,
        EtcdPlace::External {
            endpoints: vec!["https://10.0.0.21:2379".into(), "https://10.0.0.22:2379".into()],
            ca_file: Some("/etc/kubernetes/pki/etcd/ca.crt".into()),
            cert_file: Some("/etc/kubernetes/pki/apiserver-etcd-client.crt".into()),
            key_file: Some("/etc/kubernetes/pki/apiserver-etcd-client.key".into()),
        }
    );
    let config = read(&local);
    assert_eq!(config.etcd(), EtcdPlace::Local { data_dir: "/var/lib/etcd".into() });
    assert_eq!(config.control_plane_endpoint().as_deref(), Some("api.example.org:6443"));
    assert_eq!(config.certificates_dir(), "/etc/kubernetes/pki");
    assert_eq!(config.kubernetes_version().as_deref(), Some("v1.31.4"));
    // There and back again gives the same bytes.
    let switched = config.set_etcd(&place).expect("an edit");
    let map = ConfigMap::parse(&local).expect("a ConfigMap");
    assert_eq!(map.set("ClusterConfiguration", &switched).as_deref(), Ok(external.as_str()));
    let back = read(&external).set_etcd(&config.etcd()).expect("an edit");
    let map = ConfigMap::parse(&external).expect("a ConfigMap");
    assert_eq!(map.set("ClusterConfiguration", &back).as_deref(), Ok(local.as_str()));
}

#[test]
fn kubelet() {
    let file = KubeletSettings::of_file(&fixture("kubeadm/kubelet-config.yaml")).expect("a file");
    assert_eq!(file.static_pod_path.as_deref(), Some("/etc/kubernetes/manifests"));
    assert_eq!(file.container_runtime_endpoint, None);
    let flags = KubeletSettings::of_flags_file(&fixture("kubeadm/kubeadm-flags.env"));
    let both = KubeletSettings::flags_over_file(flags.expect("a file"), file);
    assert_eq!(
        both.container_runtime_endpoint.as_deref(),
        Some("unix:///var/run/containerd/containerd.sock")
    );
    assert_eq!(both.static_pod_path.as_deref(), Some("/etc/kubernetes/manifests"));
}

#[test]
fn configuration_file() {
    let text = fixture("yaml/etcd.conf.yml");
    let file = ConfigFile::parse("/etc/etcd/etcd.conf.yml", &text).expect("a file");
    let settings = EtcdSettings::of_file(&file);
    assert!(settings.findings().is_empty(), "{:?}", settings.findings());
    assert_eq!((settings.name(), settings.data_dir().as_str()), ("m1", "/var/lib/etcd"));
    assert_eq!(settings.client_tls().trusted_ca_file, Some("/etc/etcd/ca.crt"));
    assert_eq!(settings.peer_tls().cert_file, Some("/etc/etcd/peer.crt"));
    assert_eq!(settings.value("peer-cert-allowed-cn"), Some("etcd-peer"));
    assert!(!settings.is_forced_new());
    assert_eq!(settings.get("data-dir").expect("set").origin.line, 7);

    let check = |name: &str, value: &str, gone: &[&str], come: &[&str]| {
        let new = file.set(name, value).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_changed(&text, &new, gone, come);
        let read = ConfigFile::parse("f", &new).expect("a file");
        assert_eq!(EtcdSettings::of_file(&read).value(name), Some(value));
    };
    check("name", "m2", &["name: 'm1'"], &["name: 'm2'"]);
    check(
        "data-dir",
        "/srv/etcd",
        &["data-dir: /var/lib/etcd   # on the fast disk"],
        &["data-dir: /srv/etcd   # on the fast disk"],
    );
    check("force-new-cluster", "true", &["force-new-cluster: false"], &["force-new-cluster: true"]);
    check(
        "initial-cluster-state",
        "existing",
        &["initial-cluster-state: 'new'"],
        &["initial-cluster-state: 'existing'"],
    );
    check(
        "peer-trusted-ca-file",
        "/etc/etcd/peer-ca.crt",
        &["  trusted-ca-file: /etc/etcd/ca.crt"],
        &["  trusted-ca-file: /etc/etcd/peer-ca.crt"],
    );
    check("peer-client-cert-auth", "true", &[], &["  client-cert-auth: true"]);
    check("wal-dir", "/wal", &[], &["wal-dir: /wal"]);
    check("quota-backend-bytes", "8589934592", &[], &["quota-backend-bytes: 8589934592"]);
    let name = file.set("name", "007").expect("an edit");
    assert_changed(&text, &name, &["name: 'm1'"], &["name: '007'"]);
    let new = file.remove("enable-v2").expect("an edit");
    assert_changed(&text, &new, &["enable-v2: true"], &[]);

    let refused = |name: &str, value: &str| file.set(name, value).expect_err("refused").to_string();
    assert_eq!(
        refused("log-outputs", "stdout"),
        "log-outputs cannot be edited safely: it is no scalar"
    );
    assert!(refused("force-new-cluster", "maybe").contains("not of the setting's type"));
    assert!(refused("no-such", "x").contains("no such setting"));
    assert!(refused("grpc-keepalive-timeout", "5s").contains("nanoseconds"));
    let anchored = "name: &n m1\ndata-dir: *n\nwal-dir: /x\n";
    let file = ConfigFile::parse("f", anchored).expect("a file");
    let error = file.set("name", "m2").expect_err("an anchor").to_string();
    assert_eq!(error, "name cannot be edited safely: an anchor or a tag in line 1");
    let error = file.set("data-dir", "/y").expect_err("an alias").to_string();
    assert_eq!(error, "data-dir cannot be edited safely: an anchor or a tag in line 2");
    assert!(file.set("wal-dir", "/y").is_ok());
}

#[test]
fn files_against_a_running_member() {
    let invocation = unit(
        "etcd.service",
        "debian/etcd.service",
        &[("/etc/default/etcd", "debian/etcd-auto-tls")],
    );
    let files = EtcdSettings::of(&invocation, None);
    let environ = |listen: &str| {
        let mut environ: Vec<String> =
            invocation.variables().iter().map(|v| format!("{}={}", v.name, v.value)).collect();
        environ.retain(|entry| !entry.starts_with("ETCD_LISTEN_CLIENT_URLS="));
        environ.push(format!("ETCD_LISTEN_CLIENT_URLS={listen}"));
        environ.push("PATH=/usr/bin".to_owned());
        environ
    };
    let argv = ["/usr/bin/etcd", "--initial-cluster-token=prod-1", "-initial-cluster-state", "new"];
    assert_eq!(drift(&files, &argv, &environ("http://[::]:2379/")), []);
    let argv = ["/usr/bin/etcd", "--initial-cluster-token", "prod-1", "--force-new-cluster"];
    let found = drift(&files, &argv, &environ("http://127.0.0.1:2379"));
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "force-new-cluster: the files do not set it, the running member true",
            "initial-cluster-state: the file says new (/etc/default/etcd:9), the running member was started without it",
            "listen-client-urls: the file says http://[::]:2379 (/etc/default/etcd:5), the running member http://127.0.0.1:2379",
        ]
    );
    let found = drift(&files, &["etcd", "--config-file", "/etc/etcd.yml"], &["A=b"]);
    assert_eq!(
        found[0].to_string(),
        "config-file: the files do not set it, the running member /etc/etcd.yml"
    );
}

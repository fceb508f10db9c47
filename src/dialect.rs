//! How etcd and its clients are configured, in every form found in the field:
//! text → typed → edited by byte span → the same text elsewhere.
//!
//! Everything here is a pure function over text. What it guarantees:
//!
//! - Reading never panics, and follows the program that reads the file for
//!   real (systemd, etcd, the kubelet), not the look of the file.
//! - An edit changes the lines it is about and no other byte. The new text is
//!   read again before it is handed out; where it does not say exactly what
//!   was demanded, the edit is refused and says why.
//! - Every value knows its file, its bytes, its line and its form.
//!
//! | file | reader | edits |
//! |---|---|---|
//! | `/etc/default/etcd`, `/etc/etcd/etcd.conf`, `/etc/kubernetes/apiserver`, `/etc/sysconfig/flanneld`, `kubeadm-flags.env` | [`EnvFile`] | variables, flags inside a variable |
//! | units and drop-ins | [`UnitFile`], merged to a [`Unit`] | flags of `ExecStart=`, `Environment=` |
//! | etcd's `--config-file` | [`ConfigFile`] | settings |
//! | static pods of etcd and kube-apiserver | [`Manifest`] | flags, annotations, image |
//! | `kubeadm-config` | [`ConfigMap`], [`ClusterConfiguration`] | where etcd is |
//! | the kubelet's `config.yaml` and command | [`KubeletSettings`] | |
//!
//! Units, pods and running processes become an [`Invocation`]: a command with
//! its environment. From it come [`EtcdSettings`], [`ApiServerSettings`] and
//! [`FlanneldSettings`]. [`drift`] compares files with a running member,
//! [`misfits`] settings with a version of etcd.

mod apiserver;
mod clients;
mod config_file;
mod drift;
mod env_file;
mod invocation;
mod kubeadm;
mod pod;
mod settings;
mod text;
mod unit;
mod urls;
mod versions;
mod words;
pub mod yaml;

#[cfg(test)]
mod tests;

pub use apiserver::{ApiServerSettings, ServersOverride};
pub use clients::FlanneldSettings;
pub use config_file::ConfigFile;
pub use drift::{Difference, drift};
pub use env_file::{Assignment, EnvFile};
pub use invocation::{Argument, Invocation, Variable};
pub use kubeadm::{
    ADVERTISE_CLIENT_URLS, ClusterConfiguration, ConfigMap, EtcdPlace, KubeletSettings,
    kubelet_config_of,
};
pub use pod::{Container, Manifest, Mount};
pub use settings::{EtcdSettings, Finding, Setting, Tls};
pub use text::{EditError, Form, Origin, ParseError};
pub use unit::{Directive, EnvironmentFile, Specifiers, Unit, UnitFile, order_drop_ins};
pub use urls::{InitialCluster, host, port, replace_host, urls};
pub use versions::{
    Gone, KNOWN, Kind, Known, Misfit, Series, known, misfits, settings_deprecated_in,
    settings_gone_in,
};

/// The variable that sets a flag of etcd: `initial-cluster` is
/// `ETCD_INITIAL_CLUSTER`.
pub fn variable_of(flag: &str) -> String {
    format!("ETCD_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// Whether systemd and shells take a text as the name of a variable.
pub(crate) fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Every reader over one text, and edits of what was read. Panics where a
/// guarantee of this module does not hold; for tests and fuzzing.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(file) = EnvFile::parse(text) {
        let name = file.assignments().last().map_or("NEW", |last| last.name.as_str());
        for edited in [file.set(name, "a b"), file.remove(name), file.set_flag(name, "name", "x")] {
            let Ok(edited) = edited else { continue };
            assert!(EnvFile::parse(&edited).is_ok(), "an edited file reads");
        }
        let _ = FlanneldSettings::of_file("file", &file);
    }
    if let Ok(file) = UnitFile::parse("unit", text) {
        for edited in
            [file.set_flag("name", "x"), file.remove_flag("name"), file.set_environment("A", "b")]
        {
            let Ok(edited) = edited else { continue };
            assert!(UnitFile::parse("unit", &edited).is_ok(), "an edited file reads");
        }
        let unit = Unit::merge(file, Vec::new(), Specifiers::of("etcd@x-y.service", Some("host")));
        if let Ok(invocation) = unit.invocation(&[("file".to_owned(), text.to_owned())]) {
            let settings = EtcdSettings::of(&invocation, None);
            let _ = (settings.initial_cluster(), settings.advertise_client_urls());
            let _ = ApiServerSettings::of(&invocation).servers_overrides();
            let _ = misfits(&settings, Series::V3_7);
        }
    }
    if let Ok(file) = ConfigFile::parse("file", text) {
        for edited in [file.set("name", "x"), file.remove("name"), file.set("peer-cert-file", "/x")]
        {
            let Ok(edited) = edited else { continue };
            assert!(ConfigFile::parse("file", &edited).is_ok(), "an edited file reads");
        }
        for setting in EtcdSettings::of_file(&file).iter() {
            assert!(text.get(setting.origin.span.clone()).is_some(), "spans are in the text");
        }
    }
    if let Ok(manifest) = Manifest::parse("pod", text) {
        for container in manifest.containers() {
            if let Ok(invocation) = manifest.invocation(&container) {
                let _ = EtcdSettings::of(&invocation, None);
            }
            let _ = manifest.node_path(&container, "/var/lib/etcd");
            let _ = manifest.set_flag(&container, "name", "x");
            let _ = manifest.remove_flag(&container, "name");
        }
    }
    if let Ok(map) = ConfigMap::parse(text)
        && let Some(inner) = map.get("ClusterConfiguration")
    {
        let _ = map.set("ClusterConfiguration", "kind: ClusterConfiguration\n");
        fuzz_cluster(inner);
    }
    fuzz_cluster(text);
    let _ = (KubeletSettings::of_file(text), KubeletSettings::of_flags_file(text));
    let _ = (replace_host(text, "a", "b"), host(text), port(text), InitialCluster::parse(text));
}

fn fuzz_cluster(text: &str) {
    if let Ok(config) = ClusterConfiguration::parse(text) {
        let _ = config.set_etcd(&config.etcd());
    }
}

//! Other clients of etcd: flanneld.

use super::env_file::EnvFile;
use super::invocation::{Invocation, Style};
use super::settings::Setting;
use super::text::{Files, Form};
use super::urls::urls;

/// Variables that hold flanneld's endpoints, of newer and older packages.
const ENDPOINTS: [&str; 3] = ["FLANNEL_ETCD_ENDPOINTS", "FLANNEL_ETCD", "FLANNELD_ETCD_ENDPOINTS"];

/// Variables that hold the prefix of flanneld's keys.
const PREFIXES: [&str; 3] = ["FLANNEL_ETCD_PREFIX", "FLANNEL_ETCD_KEY", "FLANNELD_ETCD_PREFIX"];

/// What flanneld's environment file (`/etc/sysconfig/flanneld`,
/// `/etc/default/flanneld`) says of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlanneldSettings {
    /// The variable with the endpoints, by its own name.
    pub endpoints: Option<Setting>,
    /// The variable with the prefix of the keys, by its own name.
    pub prefix: Option<Setting>,
}

impl FlanneldSettings {
    /// Reads the file's variables; the first of the known names that is set.
    pub fn of_file(name: &str, file: &EnvFile) -> Self {
        let mut files = Files::default();
        let number = files.add(name, file.text());
        let find = |names: &[&str]| {
            names.iter().find_map(|variable| {
                let found = file.get(variable)?;
                let traced = found.traced.clone().in_file(number);
                let used = Some((number, found.raw.start));
                Some(Setting {
                    name: (*variable).to_owned(),
                    value: found.value.clone(),
                    origin: files.origin(&traced, used, Form::Environment),
                })
            })
        };
        Self { endpoints: find(&ENDPOINTS), prefix: find(&PREFIXES) }
    }

    /// Reads a command, of a unit, a pod or a running process: flags
    /// `-etcd-endpoints`, `-etcd-prefix`, then the variables flanneld reads
    /// itself (`FLANNELD_…`).
    pub fn of(invocation: &Invocation) -> Self {
        let (flags, _) = invocation.flags(Style::Go, |name| {
            matches!(name, "ip-masq" | "kube-subnet-mgr" | "version" | "help" | "logtostderr")
        });
        let find = |flag: &str, names: &[&str]| {
            let found = flags.iter().rfind(|found| found.name == flag).map(|found| Setting {
                name: found.name.clone(),
                value: found.value.clone(),
                origin: found.origin.clone(),
            });
            let variable = || {
                names.iter().filter(|name| name.starts_with("FLANNELD_")).find_map(|name| {
                    invocation.variable(name).map(|found| Setting {
                        name: found.name.clone(),
                        value: found.value.clone(),
                        origin: found.origin.clone(),
                    })
                })
            };
            found.or_else(variable)
        };
        Self {
            endpoints: find("etcd-endpoints", &ENDPOINTS),
            prefix: find("etcd-prefix", &PREFIXES),
        }
    }

    /// The endpoints as a list.
    pub fn etcd_endpoints(&self) -> Vec<String> {
        self.endpoints.as_ref().map(|found| urls(&found.value)).unwrap_or_default()
    }
}

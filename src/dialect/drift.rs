//! What the files say against what the running member was started with.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::invocation::Invocation;
use super::settings::{EtcdSettings, Setting, is_true};
use super::text::Form;
use super::urls::{InitialCluster, same_urls};
use super::versions::{Kind, known};

/// A setting on which files and running member differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The setting, by its flag's name.
    pub setting: String,
    /// What the file says; none if it sets nothing.
    pub file: Option<Setting>,
    /// What the running member was started with; none if with nothing.
    pub running: Option<Setting>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.setting)?;
        match &self.file {
            Some(file) => write!(f, "the file says {} ({})", file.shown(), file.origin)?,
            None => write!(f, "the files do not set it")?,
        }
        match &self.running {
            Some(running) => write!(f, ", the running member {}", running.shown()),
            None => write!(f, ", the running member was started without it"),
        }
    }
}

/// Compares the settings of the files with a running process's arguments
/// (the program first) and environment.
///
/// A member that runs from a configuration file shows only that file's path:
/// what stood in it at the start cannot be seen, so its settings are left out;
/// compare the file's time with the process's.
pub fn drift<A: AsRef<str>, E: AsRef<str>>(
    files: &EtcdSettings,
    argv: &[A],
    environ: &[E],
) -> Vec<Difference> {
    let invocation = match Invocation::running(argv, environ).through_shell() {
        Ok(invocation) => invocation,
        Err(_) => Invocation::running(argv, environ),
    };
    let running = EtcdSettings::of(&invocation, None);
    let mut differences = Vec::new();
    if files.config_file() != running.config_file() {
        let of = |settings: &EtcdSettings| {
            settings.config_file().map(|path| Setting {
                name: "config-file".to_owned(),
                value: path.to_owned(),
                origin: super::text::Origin {
                    file: None,
                    span: 0..0,
                    line: 0,
                    form: Form::Flag,
                    composed: false,
                },
            })
        };
        differences.push(Difference {
            setting: "config-file".to_owned(),
            file: of(files),
            running: of(&running),
        });
    }
    let names: BTreeSet<&str> =
        files.iter().chain(running.iter()).map(|setting| setting.name.as_str()).collect();
    for name in names {
        let (file, running) = (files.get(name), running.get(name));
        let unseen = file.is_some_and(|file| file.origin.form == Form::Yaml);
        let differs = match (file, running) {
            (Some(file), Some(running)) => !same(name, &file.value, &running.value),
            _ => true,
        };
        if differs && !unseen && name != "config-file" {
            differences.push(Difference {
                setting: name.to_owned(),
                file: file.cloned(),
                running: running.cloned(),
            });
        }
    }
    differences
}

/// Whether two values mean the same.
fn same(name: &str, a: &str, b: &str) -> bool {
    match known(name).map(|row| row.kind) {
        Some(Kind::Urls) => same_urls(a, b),
        Some(Kind::Members) => InitialCluster::parse(a).same(&InitialCluster::parse(b)),
        Some(Kind::Switch) => is_true(a) == is_true(b),
        _ => a == b,
    }
}

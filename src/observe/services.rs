//! Services under systemd: unit, drop-ins, environment and configuration files,
//! merged as systemd and etcd take them.

use std::path::{Path, PathBuf};

use super::reading::Reading;
use super::{ConfiguredBy, Dialect, Runs, Severity};
use crate::dialect::{self, ConfigFile, EtcdSettings, Invocation, Specifiers, UnitFile};
use crate::node::{NodeError, Unit};

/// A unit that was read.
#[derive(Debug)]
pub(super) struct ReadUnit {
    pub(super) runs: Runs,
    pub(super) main_pid: u32,
    pub(super) files: Vec<ConfiguredBy>,
    pub(super) invocation: Invocation,
    /// Texts of its environment files.
    pub(super) environment: Vec<(PathBuf, String)>,
    /// `WorkingDirectory=`, `/` where it sets none.
    pub(super) working_dir: PathBuf,
}

/// The services among `names` that run one of `programs`, each once.
pub(super) async fn read_units(
    reading: &mut Reading<'_>,
    names: &[String],
    hostname: &str,
    programs: &[&str],
) -> Result<Vec<ReadUnit>, NodeError> {
    let mut found: Vec<ReadUnit> = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".service") && !name.contains("@.")) {
        let asked = reading.node.unit(name).await;
        let Some(unit) = reading.optional(&format!("the unit {name}"), asked)? else { continue };
        // An alias shows the same file under another name.
        let Some(fragment) = unit.fragment.clone().filter(|path| !seen.contains(path)) else {
            continue;
        };
        seen.push(fragment.clone());
        // systemd's wrapper of a script in /etc/init.d tells nothing of what that starts;
        // where it runs its process is found.
        if fragment.starts_with("/run/systemd/generator.late") {
            continue;
        }
        if let Some(read) = read_unit(reading, &unit, &fragment, hostname).await?
            && programs.contains(&read.invocation.program_name())
        {
            found.push(read);
        }
    }
    Ok(found)
}

async fn read_unit(
    reading: &mut Reading<'_>,
    unit: &Unit,
    fragment: &Path,
    hostname: &str,
) -> Result<Option<ReadUnit>, NodeError> {
    let mut files = vec![ConfiguredBy { path: fragment.to_owned(), dialect: Dialect::Unit }];
    let Some(main) = unit_file(reading, fragment).await? else { return Ok(None) };
    let mut drop_ins = Vec::new();
    for path in &unit.drop_ins {
        if let Some(file) = unit_file(reading, path).await? {
            files.push(ConfiguredBy { path: path.clone(), dialect: Dialect::DropIn });
            drop_ins.push(file);
        }
    }
    let specifiers = Specifiers::of(&unit.name, Some(hostname));
    let merged = dialect::Unit::merge(main, drop_ins, specifiers);
    let mut environment = Vec::new();
    for file in merged.environment_files() {
        let path = PathBuf::from(&file.path);
        if file.path.contains(['*', '?', '[']) {
            reading.found(
                Severity::Warning,
                format!("{} reads {} by a pattern, which is not followed", unit.name, file.path),
            );
            continue;
        }
        match reading.text(&path).await? {
            Some(text) => {
                files.push(ConfiguredBy { path: path.clone(), dialect: Dialect::EnvironmentFile });
                environment.push((path, text));
            }
            None if file.optional => {}
            None => reading.found(
                Severity::Warning,
                format!("{} does not start: {} is not there", unit.name, file.path),
            ),
        }
    }
    let texts: Vec<(String, String)> = environment
        .iter()
        .map(|(path, text)| (path.to_string_lossy().into_owned(), text.clone()))
        .collect();
    let invocation = match merged.invocation(&texts) {
        Ok(invocation) => invocation,
        Err(error) => {
            reading.found(
                Severity::Warning,
                format!("what {} starts cannot be read: {error}", unit.name),
            );
            return Ok(None);
        }
    };
    let working_dir = merged.value("WorkingDirectory").unwrap_or_else(|| "/".to_owned());
    Ok(Some(ReadUnit {
        runs: Runs::Unit {
            unit: unit.name.clone(),
            active: unit.active_state.clone(),
            enabled: unit.file_state.clone(),
            stale: unit.needs_reload,
        },
        main_pid: unit.main_pid,
        files,
        invocation,
        environment,
        working_dir: PathBuf::from(working_dir.trim_start_matches(['-', '~'])),
    }))
}

async fn unit_file(reading: &mut Reading<'_>, path: &Path) -> Result<Option<UnitFile>, NodeError> {
    let Some(text) = reading.text(path).await? else { return Ok(None) };
    match UnitFile::parse(&path.to_string_lossy(), &text) {
        Ok(file) => Ok(Some(file)),
        Err(error) => {
            reading.found(Severity::Warning, format!("{}: {error}", path.display()));
            Ok(None)
        }
    }
}

/// What etcd takes from a command, its configuration file read where it names one.
pub(super) async fn etcd_settings(
    reading: &mut Reading<'_>,
    invocation: &Invocation,
    files: &mut Vec<ConfiguredBy>,
    on_node: impl Fn(&str) -> Option<PathBuf>,
) -> Result<EtcdSettings, NodeError> {
    let Some(named) = EtcdSettings::config_file_of(invocation) else {
        return Ok(EtcdSettings::of(invocation, None));
    };
    let path = on_node(&named).unwrap_or_else(|| PathBuf::from(&named));
    let config = match reading.text(&path).await? {
        Some(text) => match ConfigFile::parse(&path.to_string_lossy(), &text) {
            Ok(config) => {
                files.push(ConfiguredBy { path, dialect: Dialect::ConfigFile });
                Some(config)
            }
            Err(error) => {
                let what = format!("etcd's {} cannot be read: {error}", path.display());
                reading.found(Severity::Problem, what);
                None
            }
        },
        None => {
            let what = format!("etcd does not start: {} is not there", path.display());
            reading.found(Severity::Problem, what);
            None
        }
    };
    Ok(EtcdSettings::of(invocation, config.as_ref()))
}

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

/// Where the unit of a script in `/etc/init.d` lies: systemd's wrapper tells nothing of
/// what the script starts.
const WRAPPED: &str = "/run/systemd/generator.late";

/// The files that `units` are made of.
pub(super) fn files_of(units: &[Unit]) -> impl Iterator<Item = PathBuf> + '_ {
    units.iter().flat_map(|unit| unit.fragment.iter().chain(&unit.drop_ins).cloned())
}

/// The environment files that `units` name, as far as the units were read.
pub(super) fn environment_files(
    reading: &Reading<'_>,
    units: &[Unit],
    hostname: &str,
) -> Vec<PathBuf> {
    let read = |path: &PathBuf| UnitFile::parse(&path.to_string_lossy(), reading.known(path)?).ok();
    let mut found = Vec::new();
    for unit in units {
        let Some(main) = unit.fragment.as_ref().and_then(read) else { continue };
        let drop_ins = unit.drop_ins.iter().filter_map(read).collect();
        let specifiers = Specifiers::of(&unit.name, Some(hostname));
        let merged = dialect::Unit::merge(main, drop_ins, specifiers);
        let named = merged.environment_files().into_iter().map(|file| PathBuf::from(&file.path));
        found.extend(named.filter(|path| path.is_absolute() && !is_pattern(path)));
    }
    found
}

fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte))
}

/// The services among `units` that run one of `programs`, each once.
pub(super) async fn read_units(
    reading: &mut Reading<'_>,
    units: &[Unit],
    hostname: &str,
    programs: &[&str],
) -> Result<Vec<ReadUnit>, NodeError> {
    let mut found: Vec<ReadUnit> = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for unit in units {
        // An alias shows the same file under another name.
        let Some(fragment) = unit.fragment.clone().filter(|path| !seen.contains(path)) else {
            continue;
        };
        seen.push(fragment.clone());
        // Where it runs its process is found.
        if fragment.starts_with(WRAPPED) {
            continue;
        }
        if let Some(read) = read_unit(reading, unit, &fragment, hostname).await?
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
        if is_pattern(&path) {
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
        runs: runs(unit),
        main_pid: unit.main_pid,
        files,
        invocation,
        environment,
        working_dir: PathBuf::from(working_dir.trim_start_matches(['-', '~'])),
    }))
}

/// How a unit keeps its service running.
pub(super) fn runs(unit: &Unit) -> Runs {
    Runs::Unit {
        unit: unit.name.clone(),
        active: unit.active_state.clone(),
        enabled: unit.file_state.clone(),
        stale: unit.needs_reload,
    }
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

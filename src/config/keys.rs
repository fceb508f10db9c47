//! Where identities and passphrases come from: file, command, environment, systemd
//! credential, then what the configuration names; never an argument.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;
use vault::encryption::{Identities, Passphrase};

use super::model::{SecretSource, VaultConfig};
use super::origin::Origin;
use super::{Env, SettingError, credential, secret_file};

/// What was given on the command line.
#[derive(Debug, Clone, Default)]
pub struct RawKeys {
    /// File with age identities.
    pub identity_file: Option<PathBuf>,
    /// Command that prints age identities.
    pub identity_command: Option<String>,
    /// File with the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Command that prints the passphrase.
    pub passphrase_command: Option<String>,
}

/// The names of the systemd credentials.
const IDENTITY_CREDENTIAL: &str = "etcdvault-identity";
const PASSPHRASE_CREDENTIAL: &str = "etcdvault-passphrase";

/// How to name a key, for hints.
pub const HINT: &str = "an identity comes by --identity-file, ETCDVAULT_IDENTITY or \
    --identity-command, a passphrase by --passphrase-file, ETCDVAULT_PASSPHRASE or \
    --passphrase-command";

/// What opens encrypted objects, if anything was given. An identity wins over a
/// passphrase; what flags and variables give over what the configuration names.
pub(super) async fn resolve(
    raw: &RawKeys,
    env: &Env,
    file: Option<&VaultConfig>,
) -> Result<Option<Identities>, SettingError> {
    match source(Wanted::Any, raw, env, file) {
        Some(Key { is_identity: true, source, .. }) => {
            let text = secret("identity", &source, env).await?;
            let identities = Identities::from_text(&text)
                .map_err(|error| SettingError::key(error.to_string()).hint(HINT))?;
            Ok(Some(identities))
        }
        Some(key) => Ok(Some(Identities::from_passphrase(read_passphrase(&key, env).await?))),
        None => Ok(None),
    }
}

/// The passphrase, if one was given.
pub(super) async fn passphrase(
    raw: &RawKeys,
    env: &Env,
    file: Option<&VaultConfig>,
) -> Result<Option<Passphrase>, SettingError> {
    match source(Wanted::Passphrase, raw, env, file) {
        Some(key) => read_passphrase(&key, env).await.map(Some),
        None => Ok(None),
    }
}

async fn read_passphrase(key: &Key, env: &Env) -> Result<Passphrase, SettingError> {
    let text = secret("passphrase", &key.source, env).await?;
    Passphrase::new(text).map_err(|error| SettingError::key(error.to_string()).hint(HINT))
}

/// Which key is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// An identity, else a passphrase.
    Any,
    /// Only a passphrase.
    Passphrase,
}

/// Where the key comes from.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// An identity; a passphrase otherwise.
    pub(super) is_identity: bool,
    /// Where it is.
    pub(super) source: SecretSource,
    /// Who says so; `None` is the configuration.
    pub(super) origin: Option<Origin>,
}

/// Decides which key is used, without reading it.
pub(super) fn source(
    wanted: Wanted,
    raw: &RawKeys,
    env: &Env,
    file: Option<&VaultConfig>,
) -> Option<Key> {
    let kinds: &[bool] = if wanted == Wanted::Any { &[true, false] } else { &[false] };
    let given = |is_identity: bool| {
        let key = |source, origin| Some(Key { is_identity, source, origin: Some(origin) });
        let (what, file, command) = match is_identity {
            true => ("identity", &raw.identity_file, &raw.identity_command),
            false => ("passphrase", &raw.passphrase_file, &raw.passphrase_command),
        };
        if let Some(path) = file {
            return key(SecretSource::File(path.clone()), Origin::Flag(format!("--{what}-file")));
        }
        if let Some(command) = command {
            let origin = Origin::Flag(format!("--{what}-command"));
            return key(SecretSource::Command(command.clone()), origin);
        }
        let name = format!("ETCDVAULT_{}", what.to_uppercase());
        if env.get(&name).is_some() {
            return key(SecretSource::Env(name.clone()), Origin::Environment(name));
        }
        let variable = format!("{name}_FILE");
        if let Some(path) = env.get(&variable) {
            return key(SecretSource::File(path.into()), Origin::Environment(variable));
        }
        let variable = format!("{name}_COMMAND");
        let command = env.get(&variable)?;
        key(SecretSource::Command(command), Origin::Environment(variable))
    };
    let named = |is_identity: bool| {
        let source = if is_identity { &file?.identity } else { &file?.passphrase };
        Some(Key { is_identity, source: source.clone()?, origin: None })
    };
    let usual = |is_identity: bool| {
        let name = if is_identity { IDENTITY_CREDENTIAL } else { PASSPHRASE_CREDENTIAL };
        credential(env, name)?;
        let origin = Some(Origin::Credential(name.to_owned()));
        Some(Key { is_identity, source: SecretSource::Credential(name.to_owned()), origin })
    };
    let mut kinds = kinds.iter().copied();
    // A credential that the unit was given counts like a variable.
    let from_outside = |is_identity| given(is_identity).or_else(|| usual(is_identity));
    kinds.clone().find_map(from_outside).or_else(|| kinds.find_map(named))
}

/// The last word of the key by which a source stands in the configuration.
pub(super) fn kind(source: &SecretSource) -> &'static str {
    match source {
        SecretSource::File(_) => "file",
        SecretSource::Env(_) => "env",
        SecretSource::Credential(_) => "credential",
        SecretSource::Command(_) => "command",
    }
}

/// Reads a secret from its source.
pub(super) async fn secret(
    what: &str,
    source: &SecretSource,
    env: &Env,
) -> Result<String, SettingError> {
    match source {
        SecretSource::File(path) => secret_file(what, path),
        SecretSource::Command(command) => run(what, command).await,
        SecretSource::Env(name) => env.get(name).ok_or_else(|| {
            SettingError::key(format!("the variable {name} is to hold the {what} and is not set"))
        }),
        SecretSource::Credential(name) => match credential(env, name) {
            Some(path) => secret_file(what, &path),
            None => Err(SettingError::key(format!("there is no systemd credential {name}"))
                .hint(format!("LoadCredential={name}:FILE in the unit that runs etcdvault"))),
        },
    }
}

/// Runs the user's own command through a shell and takes its output. It may ask on
/// the terminal; how long that takes is the person's affair, and who stops waiting
/// ends it.
async fn run(what: &str, command: &str) -> Result<String, SettingError> {
    let fail = |why: String| {
        SettingError::key(format!("the command for the {what} failed: {why}"))
            .hint(format!("it must print the {what} on its standard output and exit with 0"))
    };
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        return Err(fail(output.status.to_string()));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| fail("no UTF-8 text".into()))?;
    let text = text.trim_end_matches(['\n', '\r']).to_owned();
    if text.is_empty() {
        return Err(fail("it printed nothing".into()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: &str =
        "AGE-SECRET-KEY-1QQPQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQS2GD00";

    #[tokio::test]
    async fn errors_never_show_a_key() {
        let env = Env::new(|name| (name == "ETCDVAULT_IDENTITY").then(|| IDENTITY.to_owned()));
        if let Err(error) = resolve(&RawKeys::default(), &env, None).await {
            // The message may say how a key begins.
            assert!(!format!("{error:?}").contains(&IDENTITY[16..]), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_command_is_a_source() {
        let raw =
            RawKeys { passphrase_command: Some("printf geheim".into()), ..Default::default() };
        assert!(passphrase(&raw, &Env::new(|_| None), None).await.unwrap().is_some());
        let raw = RawKeys { passphrase_command: Some("exit 3".into()), ..Default::default() };
        assert!(passphrase(&raw, &Env::new(|_| None), None).await.is_err());
        assert!(resolve(&RawKeys::default(), &Env::new(|_| None), None).await.unwrap().is_none());
    }
}

//! Where identities and passphrases come from: file, environment, systemd
//! credential or command, in that order of precedence; never an argument.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;
use vault::encryption::{Identities, Passphrase};

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
/// passphrase.
pub async fn resolve(raw: &RawKeys, env: &Env) -> Result<Option<Identities>, SettingError> {
    let identity = find(
        env,
        "identity",
        ("IDENTITY", IDENTITY_CREDENTIAL),
        raw.identity_file.as_ref(),
        raw.identity_command.as_ref(),
    )
    .await?;
    if let Some(text) = identity {
        let identities = Identities::from_text(&text)
            .map_err(|error| SettingError::key(error.to_string()).hint(HINT))?;
        return Ok(Some(identities));
    }
    Ok(passphrase(raw, env).await?.map(Identities::from_passphrase))
}

/// The passphrase, if one was given.
pub async fn passphrase(raw: &RawKeys, env: &Env) -> Result<Option<Passphrase>, SettingError> {
    find(
        env,
        "passphrase",
        ("PASSPHRASE", PASSPHRASE_CREDENTIAL),
        raw.passphrase_file.as_ref(),
        raw.passphrase_command.as_ref(),
    )
    .await?
    .map(|text| {
        Passphrase::new(text).map_err(|error| SettingError::key(error.to_string()).hint(HINT))
    })
    .transpose()
}

async fn find(
    env: &Env,
    what: &str,
    (variable, credential_name): (&str, &str),
    file: Option<&PathBuf>,
    command: Option<&String>,
) -> Result<Option<String>, SettingError> {
    if let Some(path) = file {
        return secret_file(what, path).map(Some);
    }
    if let Some(command) = command {
        return run(what, command).await.map(Some);
    }
    if let Some(text) = env.own(variable) {
        return Ok(Some(text));
    }
    if let Some(path) = env.own(&format!("{variable}_FILE")) {
        return secret_file(what, &PathBuf::from(path)).map(Some);
    }
    if let Some(command) = env.own(&format!("{variable}_COMMAND")) {
        return run(what, &command).await.map(Some);
    }
    credential(env, credential_name).map(|path| secret_file(what, &path)).transpose()
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
        if let Err(error) = resolve(&RawKeys::default(), &env).await {
            // The message may say how a key begins.
            assert!(!format!("{error:?}").contains(&IDENTITY[16..]), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_command_is_a_source() {
        let raw =
            RawKeys { passphrase_command: Some("printf geheim".into()), ..Default::default() };
        assert!(passphrase(&raw, &Env::new(|_| None)).await.unwrap().is_some());
        let raw = RawKeys { passphrase_command: Some("exit 3".into()), ..Default::default() };
        assert!(passphrase(&raw, &Env::new(|_| None)).await.is_err());
        assert!(resolve(&RawKeys::default(), &Env::new(|_| None)).await.unwrap().is_none());
    }
}

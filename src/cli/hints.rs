//! Turns the errors of the modules below into failures with a hint.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::SettingError;
use crate::operation::{Failure, FailureKind};

/// What a person who made this mistake most likely meant.
pub(super) fn mistake(error: &clap::Error, args: &[OsString]) -> Option<String> {
    let invalid = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let has = |word: &str| args.iter().any(|arg| arg == word);
    match error.kind() {
        // `etcdvault list /srv/vault`: only init takes the vault without its flag.
        ErrorKind::UnknownArgument => {
            let argument = invalid(ContextKind::InvalidArg)?;
            (!argument.starts_with('-') && !has("--vault"))
                .then(|| format!("a vault is named by its flag: --vault {}", shell_word(argument)))
        }
        ErrorKind::InvalidSubcommand if has("restore") => {
            let word = invalid(ContextKind::InvalidSubcommand)?;
            Some(format!("etcdvault restore data-dir {} --data-dir DIR", shell_word(word)))
        }
        ErrorKind::InvalidUtf8 => Some(
            "only the names of files may hold bytes that are no UTF-8; a vault's path may not"
                .to_owned(),
        ),
        _ => None,
    }
}

/// `text` as a word that can be pasted into a shell.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=,@%~".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

impl From<SettingError> for Failure {
    fn from(error: SettingError) -> Self {
        let kind = if error.is_key { FailureKind::Key } else { FailureKind::Usage };
        let mut failure = Self::new(kind, error.what);
        failure.details = error.details;
        failure.hint = error.hint;
        failure
    }
}

impl Failure {
    /// A key that cannot be had or used.
    pub(super) fn of_key(error: SettingError) -> Self {
        Self { kind: FailureKind::Key, ..Self::from(error) }.hint(crate::config::keys::HINT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_can_be_pasted() {
        assert_eq!(shell_word("/srv/vault"), "/srv/vault");
        assert_eq!(shell_word("/srv/my vault"), "'/srv/my vault'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }
}

//! Turns the errors of the modules below into failures with a hint.

use crate::config::SettingError;
use crate::etcd::client::TlsFileError;
use crate::operation::{Failure, FailureKind};

impl From<SettingError> for Failure {
    fn from(error: SettingError) -> Self {
        let mut failure = Self::new(FailureKind::Usage, error.what);
        failure.hint = error.hint;
        failure
    }
}

impl From<TlsFileError> for Failure {
    fn from(error: TlsFileError) -> Self {
        Self::new(FailureKind::Key, error.to_string())
            .hint("--cacert, --cert and --key take PEM files; a node's own need root to read")
    }
}

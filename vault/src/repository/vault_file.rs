//! `vault.json`, which makes a place a vault, and `RESTORE.txt`, which makes it
//! readable without this program.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{InitOptions, RepositoryError, Result};
use crate::digest::{Sha256, hex, unhex};
use crate::document;
use crate::encryption::{self, EncryptionChoice, EncryptionError, Encryptor, Identities};
use crate::layout::{BackupId, VAULT_JSON};
use crate::manifest::{FORMAT, FormatVersion, ManifestError, Tool, millis, read_format};

/// How a vault is encrypted, as `vault.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum VaultEncryption {
    /// Not at all.
    None,
    /// With age, to X25519 recipients.
    AgeRecipients {
        /// Their public keys, `age1…`.
        recipients: Vec<String>,
        /// A known text encrypted to them, in hexadecimal: a key that opens it
        /// opens the vault.
        canary: String,
    },
    /// With age, to a passphrase.
    AgePassphrase {
        /// log2 of scrypt's N.
        work_factor: u8,
        /// A known text encrypted to it, in hexadecimal.
        canary: String,
    },
}

/// `vault.json`, checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VaultFile {
    /// The version of the format.
    pub format: FormatVersion,
    /// The vault's id.
    pub vault_id: BackupId,
    /// When it was created.
    #[serde(with = "millis")]
    pub created: DateTime<Utc>,
    /// What created it.
    pub tool: Tool,
    /// How its objects are encrypted.
    pub encryption: VaultEncryption,
    /// The digest of `RESTORE.txt`.
    pub restore_txt_sha256: Sha256,
    /// What a probe of the store found when the vault was created.
    pub store: Value,
}

const CANARY: &str = "etcdvault canary ";

fn canary_text(id: BackupId) -> String {
    format!("{CANARY}{id}\n")
}

impl VaultFile {
    /// A new vault's file, and its `RESTORE.txt`. Runs scrypt for a passphrase.
    pub(super) fn create(options: &InitOptions) -> Result<(Self, String)> {
        let encryptor = Encryptor::new(&options.encryption).map_err(RepositoryError::Encryption)?;
        let canary = match encryptor {
            None => String::new(),
            Some(encryptor) => {
                let text = canary_text(options.id);
                let bytes =
                    encryptor.encrypt(text.as_bytes()).map_err(RepositoryError::Encryption)?;
                hex(&bytes)
            }
        };
        let encryption = match &options.encryption {
            EncryptionChoice::None => VaultEncryption::None,
            EncryptionChoice::Recipients(recipients) => {
                let recipients = recipients.iter().map(ToString::to_string).collect();
                VaultEncryption::AgeRecipients { recipients, canary }
            }
            EncryptionChoice::Passphrase { work_factor, .. } => {
                VaultEncryption::AgePassphrase { work_factor: *work_factor, canary }
            }
        };
        let text = restore_text(options, &encryption);
        let file = Self {
            format: FormatVersion::CURRENT,
            vault_id: options.id,
            created: super::millis(options.now),
            tool: options.tool.clone(),
            encryption,
            restore_txt_sha256: Sha256::of(text.as_bytes()),
            store: options.store.clone(),
        };
        Ok((file, text))
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let invalid = |source: Box<dyn std::error::Error + Send + Sync>| RepositoryError::Invalid {
            what: VAULT_JSON.to_owned(),
            source,
        };
        let bytes = document::seal(self).map_err(|error| invalid(error.into()))?;
        Self::decode(&bytes).map_err(|error| invalid(error.into()))?;
        Ok(bytes)
    }

    /// The file in `bytes`, checked.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let value = document::unseal(bytes)
            .map_err(|error| RepositoryError::document(VAULT_JSON, error))?;
        let format =
            read_format(&value).map_err(|error| RepositoryError::document(VAULT_JSON, error))?;
        if format.oldest_reader > FORMAT {
            let (version, needs) = (format.version, format.oldest_reader);
            return Err(RepositoryError::TooNew { object: VAULT_JSON.to_owned(), version, needs });
        }
        Self::deserialize(value).map_err(|error| {
            RepositoryError::document(VAULT_JSON, document::DocumentError::Json(error))
        })
    }

    /// Whether `identities` open this vault. Runs scrypt for a passphrase.
    pub(super) fn check_key(&self, identities: &Identities) -> Result<()> {
        use std::io::Read as _;
        let canary = match &self.encryption {
            VaultEncryption::None => return Ok(()),
            VaultEncryption::AgeRecipients { canary, .. }
            | VaultEncryption::AgePassphrase { canary, .. } => canary,
        };
        let damaged = || RepositoryError::corrupt(VAULT_JSON, "its canary is damaged");
        let mut bytes = vec![0; canary.len() / 2];
        unhex(canary, &mut bytes).ok_or_else(damaged)?;
        let mut text = String::new();
        encryption::decrypt(&bytes[..], identities)
            .map_err(|error| match error {
                EncryptionError::WrongKey => {
                    RepositoryError::WrongKey { object: format!("vault {}", self.vault_id) }
                }
                EncryptionError::Damaged => damaged(),
                error => RepositoryError::Encryption(error),
            })?
            .take(1024)
            .read_to_string(&mut text)
            .map_err(|_| damaged())?;
        if text == canary_text(self.vault_id) { Ok(()) } else { Err(damaged()) }
    }

    /// What encrypts new objects; needs the passphrase where there is one.
    pub(super) fn encryptor(&self, key: Option<&Identities>) -> Result<Option<Encryptor>> {
        match &self.encryption {
            VaultEncryption::None => Ok(None),
            VaultEncryption::AgeRecipients { recipients, .. } => {
                let recipients = encryption::parse_recipients(recipients)
                    .map_err(|_| RepositoryError::corrupt(VAULT_JSON, "a recipient is none"))?;
                Ok(Some(Encryptor::Recipients(recipients)))
            }
            VaultEncryption::AgePassphrase { work_factor, .. } => {
                let passphrase = key.and_then(Identities::passphrase).ok_or_else(|| {
                    RepositoryError::KeyNeeded { object: format!("vault {}", self.vault_id) }
                })?;
                let passphrase = passphrase.clone();
                Ok(Some(Encryptor::Passphrase { passphrase, work_factor: *work_factor }))
            }
        }
    }
}

/// Why a manifest that is about to be written is not fit for it.
pub(super) fn unfit(error: ManifestError) -> RepositoryError {
    RepositoryError::Invalid { what: "the manifest".to_owned(), source: error.into() }
}

/// How to restore with plain tools. Lines that start with four spaces and `$ `
/// are commands for a POSIX shell, in order, at the vault's root.
fn restore_text(options: &InitOptions, encryption: &VaultEncryption) -> String {
    let (protection, needs, decode) = match encryption {
        VaultEncryption::None => (
            "Its objects are not encrypted: whoever can read it can read everything in it.\n"
                .to_owned(),
            "zstd",
            "    $ decode() { zstd -d < \"$1\"; }\n".to_owned(),
        ),
        VaultEncryption::AgeRecipients { recipients, .. } => (
            format!(
                "Its objects are encrypted with age. One of the secret keys that belong to these\n\
                 public keys is needed:\n\n    {}\n",
                recipients.join("\n    ")
            ),
            "zstd and age (https://age-encryption.org)",
            "Put the name of the file with the secret key into IDENTITY first.\n\n    \
             $ decode() { age -d -i \"$IDENTITY\" \"$1\" | zstd -d; }\n"
                .to_owned(),
        ),
        VaultEncryption::AgePassphrase { .. } => (
            "Its objects are encrypted with age, to a passphrase, which age asks for.\n".to_owned(),
            "zstd and age (https://age-encryption.org)",
            "    $ decode() { age -d \"$1\" | zstd -d; }\n".to_owned(),
        ),
    };
    let id = options.id;
    let tool = format!("{} {}", options.tool.name, options.tool.version);
    let tool = document::printable(&tool);
    let created = crate::layout::stamp(options.now);
    let more = options.restore_text.trim_end();
    format!(
        "\
HOW TO RESTORE FROM THIS VAULT WITHOUT ETCDVAULT

This is vault {id}, created {created} by {tool}.
{protection}
Needed: sh, sed, sort, sha256sum, {needs}. If the vault is an S3 bucket, copy it
to a directory first, with any S3 client. All commands are run in the vault's
directory; they write one file, \"restored\", there.

1. Choose a backup. The name of a manifest tells when it was taken, of what kind it
   is, and its sequence number in hexadecimal:

   clusters/<cluster>/<lineage>/manifests/<year>/<month>/<time>-<kind>-r<sequence>-<id>-<digest>.json

   This takes the newest snapshot. Set MANIFEST to another name to take another, and never take
   one that says \"state\": \"mismatch\".

    $ MANIFEST=$(find clusters -path '*/manifests/*' -name '*-snapshot-r*.json' | sort -t/ -k7 | tail -n 1)
    $ echo \"$MANIFEST\" && cat \"$MANIFEST\"

2. Check the manifest: the digest at the end of its name is the beginning of this one.

    $ case \"$MANIFEST\" in *-$(sha256sum < \"$MANIFEST\" | cut -c 1-16).json) echo good ;; *) echo DAMAGED; exit 1 ;; esac

3. Find its first object and check the object's bytes.

    $ OBJECT=$(sed -n 's/^ *\"key\": \"\\(clusters\\/.*\\)\",$/\\1/p' \"$MANIFEST\" | head -n 1)
    $ echo \"$(sed -n 's/^ *\"stored_sha256\": \"\\(.*\\)\",$/\\1/p' \"$MANIFEST\" | head -n 1)  $OBJECT\" | sha256sum -c

4. Decode it.

{decode}    $ decode \"$OBJECT\" > restored

5. Check what came out.

    $ echo \"$(sed -n 's/^ *\"plain_sha256\": \"\\(.*\\)\",$/\\1/p' \"$MANIFEST\" | head -n 1)  restored\" | sha256sum -c

{more}
"
    )
}

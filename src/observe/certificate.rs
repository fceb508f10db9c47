//! What certificates say in public.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// The first certificate of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The file on the node.
    pub path: PathBuf,
    /// The subject's common name, else the whole subject.
    pub subject: String,
    /// The issuer, as the subject.
    pub issuer: String,
    /// Names and addresses that it holds for.
    pub names: Vec<String>,
    /// Since when it holds.
    pub not_before: DateTime<Utc>,
    /// Until when it holds.
    pub not_after: DateTime<Utc>,
    /// Whether it signs others.
    pub is_authority: bool,
}

/// Reads the first certificate of a PEM text; `Err` says why it cannot be read.
pub fn read(path: &Path, bytes: &[u8]) -> Result<Certificate, String> {
    for pem in Pem::iter_from_buffer(bytes) {
        let pem = pem.map_err(|error| error.to_string())?;
        if pem.label != "CERTIFICATE" {
            continue;
        }
        let parsed = pem.parse_x509().map_err(|error| error.to_string())?;
        let time = |time: x509_parser::time::ASN1Time| {
            DateTime::from_timestamp(time.timestamp(), 0)
                .ok_or_else(|| "a time that no calendar has".to_owned())
        };
        let name = |name: &x509_parser::x509::X509Name<'_>| {
            let common = name.iter_common_name().next().and_then(|found| found.as_str().ok());
            common.map_or_else(|| name.to_string(), str::to_owned)
        };
        let alternative = parsed.subject_alternative_name().ok().flatten();
        let names = alternative.map(|found| &found.value.general_names).into_iter().flatten();
        return Ok(Certificate {
            path: path.to_owned(),
            subject: name(parsed.subject()),
            issuer: name(parsed.issuer()),
            names: names.filter_map(general_name).collect(),
            not_before: time(parsed.validity().not_before)?,
            not_after: time(parsed.validity().not_after)?,
            is_authority: parsed.is_ca(),
        });
    }
    Err("it holds no certificate".to_owned())
}

fn general_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::Ipv4Addr::from(b).to_string()),
            16 => {
                <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::Ipv6Addr::from(b).to_string())
            }
            _ => None,
        },
        _ => None,
    }
}

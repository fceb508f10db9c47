//! The checksums that accompany an upload, so that the store refuses bytes that
//! changed on the way. They are computed here and sent as headers: trailers in
//! `aws-chunked` bodies are what many compatible stores reject.

use std::fmt;
use std::str::FromStr;

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Which checksum accompanies uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChecksumMode {
    /// The one that the probe found; none where nothing was probed.
    #[default]
    Auto,
    /// This one.
    Always(Checksum),
    /// None; the request's own signature and the vault's digests remain.
    Never,
}

impl FromStr for ChecksumMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "auto" => Self::Auto,
            "none" => Self::Never,
            other => {
                Self::Always(*Checksum::ALL.iter().find(|sum| sum.to_string() == other).ok_or(())?)
            }
        })
    }
}

/// A checksum that S3 knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// CRC-64/NVME.
    Crc64Nvme,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// SHA-256.
    Sha256,
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crc64Nvme => "crc64nvme",
            Self::Crc32c => "crc32c",
            Self::Sha256 => "sha256",
        })
    }
}

/// The checksum of a run of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sum {
    Crc64Nvme(u64),
    Crc32c(u32),
    Sha256([u8; 32]),
}

impl Sum {
    /// As S3 writes it: base64 of the big-endian bytes.
    pub(super) fn encoded(&self) -> String {
        match self {
            Self::Crc64Nvme(crc) => STANDARD.encode(crc.to_be_bytes()),
            Self::Crc32c(crc) => STANDARD.encode(crc.to_be_bytes()),
            Self::Sha256(digest) => STANDARD.encode(digest),
        }
    }

    /// The checksum of these bytes followed by `len` more, whose checksum is
    /// `next`; `None` where such checksums cannot be combined.
    pub(super) fn combine(&self, next: &Self, len: u64) -> Option<Self> {
        match (self, next) {
            (Self::Crc64Nvme(a), Self::Crc64Nvme(b)) => Some(Self::Crc64Nvme(
                crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, *a, *b, len),
            )),
            (Self::Crc32c(a), Self::Crc32c(b)) => {
                let crc = crc_fast::checksum_combine(
                    CrcAlgorithm::Crc32Iscsi,
                    u64::from(*a),
                    u64::from(*b),
                    len,
                );
                u32::try_from(crc).ok().map(Self::Crc32c)
            }
            _ => None,
        }
    }
}

impl Checksum {
    /// All, the preferred one first.
    pub const ALL: [Self; 3] = [Self::Crc64Nvme, Self::Crc32c, Self::Sha256];

    pub(super) fn of(self, bytes: &[u8]) -> Sum {
        match self {
            Self::Crc64Nvme => Sum::Crc64Nvme(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)),
            // The algorithm yields 32 bits in the low half.
            Self::Crc32c => Sum::Crc32c(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32),
            Self::Sha256 => Sum::Sha256(Sha256::digest(bytes).into()),
        }
    }

    pub(super) fn algorithm(self) -> ChecksumAlgorithm {
        match self {
            Self::Crc64Nvme => ChecksumAlgorithm::Crc64Nvme,
            Self::Crc32c => ChecksumAlgorithm::Crc32C,
            Self::Sha256 => ChecksumAlgorithm::Sha256,
        }
    }

    /// What the checksum of a multipart object covers: its bytes where that can be
    /// had, else the checksums of its parts.
    pub(super) fn multipart_type(self) -> ChecksumType {
        match self {
            Self::Crc64Nvme | Self::Crc32c => ChecksumType::FullObject,
            Self::Sha256 => ChecksumType::Composite,
        }
    }
}

/// Sets the header of `sum` on a request builder that has the three setters.
macro_rules! with_checksum {
    ($request:expr, $sum:expr) => {{
        let request = $request;
        match $sum {
            Some(sum @ $crate::store::s3::checksum::Sum::Crc64Nvme(_)) => {
                request.checksum_crc64_nvme(sum.encoded())
            }
            Some(sum @ $crate::store::s3::checksum::Sum::Crc32c(_)) => {
                request.checksum_crc32_c(sum.encoded())
            }
            Some(sum @ $crate::store::s3::checksum::Sum::Sha256(_)) => {
                request.checksum_sha256(sum.encoded())
            }
            None => request,
        }
    }};
}
pub(super) use with_checksum;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // The check values of the CRC catalogue for "123456789", and FIPS 180.
        let text = b"123456789";
        assert_eq!(Checksum::Crc64Nvme.of(text), Sum::Crc64Nvme(0xae8b_1486_0a79_9888));
        assert_eq!(Checksum::Crc32c.of(text), Sum::Crc32c(0xe306_9283));
        assert_eq!(Checksum::Crc32c.of(text).encoded(), "4waSgw==");
        assert_eq!(
            Checksum::Sha256.of(b"").encoded(),
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
    }

    #[test]
    fn parts_combine_to_the_whole() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n * 7 + n / 251) as u8).collect();
        for sum in [Checksum::Crc64Nvme, Checksum::Crc32c] {
            for cut in [0, 1, 4096, 99_999, 100_000] {
                let (a, b) = bytes.split_at(cut);
                let whole = sum.of(a).combine(&sum.of(b), b.len() as u64);
                assert_eq!(whole, Some(sum.of(&bytes)), "{sum} cut at {cut}");
            }
        }
        assert_eq!(Checksum::Sha256.of(b"a").combine(&Checksum::Sha256.of(b"b"), 1), None);
    }

    #[test]
    fn modes() {
        assert_eq!("auto".parse(), Ok(ChecksumMode::Auto));
        assert_eq!("none".parse(), Ok(ChecksumMode::Never));
        assert_eq!("crc64nvme".parse(), Ok(ChecksumMode::Always(Checksum::Crc64Nvme)));
        assert_eq!("md5".parse::<ChecksumMode>(), Err(()));
    }
}

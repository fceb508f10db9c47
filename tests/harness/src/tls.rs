//! Certificates for one test: an authority, what servers and clients need, and
//! the wrong ones.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::{Error, Result};

/// A certificate and its key as PEM files.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key (PKCS #8), mode 0600.
    pub key: PathBuf,
}

/// How long a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// From 2020 to 2090.
    Current,
    /// From 2020 to 2021.
    Expired,
    /// From 2020 to this year, month and day.
    Until(i32, u8, u8),
}

/// A certificate authority that writes what it issues into a directory.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Creates an authority; its certificate is `<directory>/<name>.pem`.
    pub fn create(directory: &Path, name: &str) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| {
            Error::because(format!("creating {}", directory.display()), source)
        })?;
        let failed = |source| Error::because(format!("making the authority {name}"), source);
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2090, 1, 1);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        let authority = Self {
            directory: directory.to_owned(),
            name: name.to_owned(),
            issuer: Issuer::new(params, key),
        };
        write(&authority.certificate(), &certificate.pem(), 0o644)?;
        Ok(authority)
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join(format!("{}.pem", self.name))
    }

    /// A certificate for a server on loopback: `localhost`, `127.0.0.1`, `::1`.
    /// Fit for clients too, since members of etcd talk to each other with it.
    pub fn server(&self, file: &str) -> Result<Identity> {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        self.issue(file, file, names.into(), Validity::Current)
    }

    /// A certificate for a server of these names and addresses, fit for clients too.
    pub fn server_for(&self, file: &str, names: Vec<String>) -> Result<Identity> {
        self.issue(file, file, names, Validity::Current)
    }

    /// A client certificate with `common_name`, as `<file>.pem`.
    pub fn client(&self, file: &str, common_name: &str, validity: Validity) -> Result<Identity> {
        self.issue(file, common_name, Vec::new(), validity)
    }

    fn issue(
        &self,
        file: &str,
        common_name: &str,
        names: Vec<String>,
        validity: Validity,
    ) -> Result<Identity> {
        let failed = |source| Error::because(format!("issuing the certificate {file}"), source);
        let server = !names.is_empty();
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = match validity {
            Validity::Current => date_time_ymd(2090, 1, 1),
            Validity::Expired => date_time_ymd(2021, 1, 1),
            Validity::Until(year, month, day) => date_time_ymd(year, month, day),
        };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let identity = Identity {
            cert: self.directory.join(format!("{file}.pem")),
            key: self.directory.join(format!("{file}-key.pem")),
        };
        write(&identity.cert, &certificate.pem(), 0o644)?;
        write(&identity.key, &key.serialize_pem(), 0o600)?;
        Ok(identity)
    }
}

/// Everything that a cluster with TLS and its tests need, in one directory.
#[derive(Debug)]
pub struct Material {
    /// The authority that the cluster trusts.
    pub authority: Authority,
    /// Another one, for a client that trusts the wrong authority.
    pub other: Authority,
    /// What members serve clients with.
    pub server: Identity,
    /// What members talk to each other with.
    pub peer: Identity,
    /// A client named `root`, etcd's superuser where authentication is on.
    pub root: Identity,
    /// A client named `root` whose certificate has expired.
    pub expired: Identity,
    /// A client named `root` issued by the other authority.
    pub foreign: Identity,
}

impl Material {
    /// Makes all of it in `directory`, which is created.
    pub fn create(directory: &Path) -> Result<Self> {
        let authority = Authority::create(directory, "ca")?;
        let other = Authority::create(directory, "other-ca")?;
        Ok(Self {
            server: authority.server("server")?,
            peer: authority.server("peer")?,
            root: authority.client("root", "root", Validity::Current)?,
            expired: authority.client("expired", "root", Validity::Expired)?,
            foreign: other.client("foreign", "root", Validity::Current)?,
            authority,
            other,
        })
    }

    /// The certificate of the authority that the cluster trusts.
    pub fn ca(&self) -> PathBuf {
        self.authority.certificate()
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| Error::because(format!("writing {}", path.display()), source))
}

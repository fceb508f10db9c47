//! Why a TLS connection was dropped.
//!
//! With TLS 1.3 a member looks at the client's certificate only after the client
//! takes the handshake for done, and HTTP/2 then often sees nothing but a closed
//! connection. One more handshake, read to its alert, tells the reason.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::error::{EtcdErrorKind, kind_of_io};
use crate::types::Endpoint;

/// What is needed for one more handshake.
#[derive(Clone)]
pub(super) struct Handshake(Arc<ClientConfig>);

impl Handshake {
    /// From PEM texts; `Err` says what is wrong with them.
    pub(super) fn new(ca: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<Self, rustls::Error> {
        let general = |error: rustls::pki_types::pem::Error| {
            rustls::Error::General(format!("not usable as PEM: {error}"))
        };
        let certificates = |pem: &[u8]| {
            CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(general)
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match identity {
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(general)?;
                builder.with_client_auth_cert(certificates(chain)?, key)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// The kind of the alert that `endpoint` answers a handshake with; `None` when it
    /// takes it.
    pub(super) async fn refusal(
        &self,
        endpoint: &Endpoint,
        bound: Duration,
    ) -> Option<(EtcdErrorKind, String)> {
        let attempt = async {
            let host = endpoint.host();
            let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
            let stream = TcpStream::connect(endpoint.authority()).await?;
            let mut stream = TlsConnector::from(self.0.clone()).connect(name, stream).await?;
            // A member that took the certificate waits for us; one that did not has
            // sent its alert.
            let mut byte = [0];
            stream.read(&mut byte).await.map(drop)
        };
        match tokio::time::timeout(bound, attempt).await {
            Ok(Err(error)) => kind_of_io(&error).map(|kind| (kind, error.to_string())),
            Ok(Ok(())) | Err(_) => None,
        }
    }
}

//! Why a member hung up right after the handshake.
//!
//! With TLS 1.3 a client has finished its handshake before the member has looked at
//! its certificate. The refusal comes as an alert, which the HTTP/2 client loses when
//! a request is on its way already. Here the handshake is made once more and nothing
//! is sent after it, so that the alert is what is read next.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::error::{EtcdError, EtcdErrorKind};
use crate::types::Endpoint;

/// The PEM texts of a connection, as they were given.
pub(super) struct Pem {
    pub(super) ca: Vec<u8>,
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Messages that may come before the alert: session tickets, settings.
const MAX_READS: usize = 16;

/// Makes a handshake and reads until the member says something; `Some` when that was
/// a refusal. Blocks, for at most a few times `bound`.
pub(super) fn refusal(
    endpoint: &Endpoint,
    pem: &Pem,
    bound: Duration,
    act: &'static str,
) -> Option<EtcdError> {
    match talk(endpoint, pem, bound) {
        Err(error) => {
            let error = EtcdError::from_io(endpoint, act, &error);
            matches!(error.kind, EtcdErrorKind::Expired | EtcdErrorKind::ClientCertificate)
                .then_some(error)
        }
        Ok(()) => None,
    }
}

fn talk(endpoint: &Endpoint, pem: &Pem, bound: Duration) -> io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem.ca).flatten());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let mut config = match &pem.identity {
        Some((cert, key)) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(cert).flatten().collect();
            let key = PrivateKeyDer::from_pem_slice(key).map_err(io::Error::other)?;
            builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let authority = endpoint.authority();
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;

    let address = authority.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, bound)?;
    stream.set_read_timeout(Some(bound))?;
    stream.set_write_timeout(Some(bound))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    for _ in 0..MAX_READS {
        if tls.wants_write() {
            tls.write_tls(&mut stream)?;
        }
        if tls.read_tls(&mut stream)? == 0 {
            break;
        }
        tls.process_new_packets().map_err(io::Error::other)?;
    }
    Ok(())
}

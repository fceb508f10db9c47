//! How a program of this machine is, by what it answers over HTTP.
//!
//! - As the kubelet's own probes do, this looks at no certificate of the answering side:
//!   it asks a port of this machine, sends nothing secret, and believes no more than a
//!   state of health. A client's certificate proves who asks, and gives nothing away.
//! - Neither an answer nor its absence is waited for without a bound, and no more than
//!   [`LIMIT`] bytes of it are read.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::{HealthAnswer, HealthQuery};
use super::fault::Fault;

/// At most so many bytes of an answer are read, headers included.
const LIMIT: u64 = 32 << 10;

/// Of an answer's text so many characters are told.
const TEXT: usize = 8 << 10;

/// A file with a certificate or a key is never larger.
const PEM: u64 = 1 << 20;

/// Asks, and waits at most `timeout`.
pub(super) async fn health(query: HealthQuery, timeout: Duration) -> Result<HealthAnswer, Fault> {
    let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !query.path.starts_with('/') || !visible(&query.path) || !visible(&query.address) {
        return Err(Fault::unexpected("it is nothing that could be asked for"));
    }
    let asked = tokio::time::timeout(timeout, ask(&query)).await;
    let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")));
    Ok(asked.unwrap_or_else(|why| HealthAnswer::Silent { why }))
}

async fn ask(query: &HealthQuery) -> Result<HealthAnswer, String> {
    let system = |error: std::io::Error| Fault::from(error).why;
    let config = match &query.tls {
        true => Some(tls(query).await?),
        false => None,
    };
    let stream = TcpStream::connect(&query.address).await.map_err(system)?;
    let Some(config) = config else { return exchange(stream, query).await };
    // An address of its own is no name that would be looked for in a certificate.
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    exchange(connecting.await.map_err(system)?, query).await
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    query: &HealthQuery,
) -> Result<HealthAnswer, String> {
    let system = |error: std::io::Error| Fault::from(error).why;
    // The old version: the answer comes in one piece, and the connection is closed.
    let request = format!(
        "GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: etcdvault\r\n\r\n",
        query.path, query.address
    );
    stream.write_all(request.as_bytes()).await.map_err(system)?;
    stream.flush().await.map_err(system)?;
    let mut bytes = Vec::new();
    let ended = stream.take(LIMIT).read_to_end(&mut bytes).await;
    // What was read before an end that is none is an answer all the same.
    match (parse(&bytes), ended) {
        (Some((status, text)), _) => Ok(HealthAnswer::Answered { status, text }),
        (None, Err(error)) => Err(system(error)),
        (None, Ok(0)) => Err("the connection was closed without an answer".to_owned()),
        (None, Ok(_)) => Err("what answers does not speak HTTP".to_owned()),
    }
}

/// Status and text of an answer.
fn parse(bytes: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.lines().next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    let status = status.parse().ok().filter(|status| (100..600).contains(status))?;
    let plain = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    Some((status, body.chars().take(TEXT).map(plain).collect()))
}

/// With the certificate that `query` names, if it names one.
async fn tls(query: &HealthQuery) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let any = Arc::new(AnyServer(provider.clone()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(any);
    let Some((certificate, key)) = &query.client else {
        return Ok(config.with_no_client_auth());
    };
    let chain = read(certificate).await?;
    let odd = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|error| odd(certificate, &error))?;
    let secret = read(key).await?;
    let secret = PrivateKeyDer::from_pem_slice(&secret).map_err(|error| odd(key, &error))?;
    config.with_client_auth_cert(chain, secret).map_err(|error| odd(certificate, &error))
}

async fn read(path: &Path) -> Result<Vec<u8>, String> {
    let reading = async {
        let mut bytes = Vec::new();
        tokio::fs::File::open(path).await?.take(PEM).read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    reading.await.map_err(|error| Fault::from(error).at(path).why)
}

/// Takes any server, so long as it has the key of the certificate that it shows.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const BOUND: Duration = Duration::from_secs(60);

    fn query(address: &str) -> HealthQuery {
        let (address, path) = (address.to_owned(), "/readyz".to_owned());
        HealthQuery { address, path, tls: false, client: None }
    }

    /// One who answers the next connection so, whatever is asked.
    async fn says(answer: &'static [u8]) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4096];
            let count = stream.read(&mut asked).await.unwrap();
            stream.write_all(answer).await.unwrap();
            String::from_utf8_lossy(&asked[..count]).into_owned()
        });
        (address, serving)
    }

    #[tokio::test]
    async fn what_is_answered_is_told() {
        let unready = b"HTTP/1.0 500 Internal Server Error\r\nX: y\r\n\r\n[-]etcd failed\n\x1b[2J";
        let (address, serving) = says(unready).await;
        let answer = health(query(&address), BOUND).await.unwrap();
        let text = "[-]etcd failed\n [2J".to_owned();
        assert_eq!(answer, HealthAnswer::Answered { status: 500, text });
        let asked = serving.await.unwrap();
        assert!(asked.starts_with("GET /readyz HTTP/1.0\r\nHost: 127.0.0.1:"), "{asked}");
        let (address, _serving) = says(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let answer = health(query(&address), BOUND).await.unwrap();
        assert_eq!(answer, HealthAnswer::Answered { status: 200, text: String::new() });
    }

    #[tokio::test]
    async fn no_answer_is_told_from_one() {
        for (answer, wanted) in [
            (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "does not speak HTTP"),
            (b"HTTP/1.0 soon\r\n\r\n", "does not speak HTTP"),
            (b"", "without an answer"),
        ] {
            let (address, _serving) = says(answer).await;
            let HealthAnswer::Silent { why } = health(query(&address), BOUND).await.unwrap() else {
                panic!("{wanted}");
            };
            assert!(why.contains(wanted), "{why}");
        }
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let HealthAnswer::Silent { why } = health(query(&address), BOUND).await.unwrap() else {
            panic!("nobody was there");
        };
        assert!(why.contains("refused"), "{why}");
        // One who listens and says nothing.
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = mute.local_addr().unwrap().to_string();
        let asked = health(query(&address), Duration::from_millis(50)).await.unwrap();
        let HealthAnswer::Silent { why } = asked else { panic!("nobody answered") };
        assert!(why.contains("no answer within"), "{why}");
    }

    #[tokio::test]
    async fn no_more_than_a_path_is_asked_for() {
        for path in ["readyz", "/a b", "/a\r\nX: y", ""] {
            let odd = HealthQuery { path: path.to_owned(), ..query("127.0.0.1:1") };
            assert!(health(odd, BOUND).await.is_err(), "{path:?}");
        }
    }

    /// More than is read of an answer is left.
    #[test]
    fn an_endless_answer_is_cut() {
        let long = [b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), vec![b'x'; LIMIT as usize]].concat();
        let (status, text) = parse(&long).unwrap();
        assert_eq!((status, text.len()), (200, TEXT));
        assert_eq!(parse(b"HTTP/1.0 999 No\r\n\r\n"), None);
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\n"), None);
    }
}

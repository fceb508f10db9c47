//! From what the SDK and the store say to what a caller can act on. Texts name
//! the failed act, its object and the reason; they hold no credentials, no
//! signatures and no signed URLs, because only the store's code, message and
//! request id and the names of transport errors are taken over.

use std::error::Error;
use std::fmt;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::client::Site;
use crate::store::{ErrorKind, StoreError};

/// The most characters of a foreign message that are repeated.
const MAX_FOREIGN: usize = 300;

/// What a store answered to a request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// S3's error code, where the answer had one.
    pub code: Option<String>,
    /// The store's message.
    pub message: Option<String>,
    /// What the store's operator finds the request by.
    pub request_id: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store answered {}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        Ok(())
    }
}

impl Error for Answer {}

/// Why a request got no answer, flattened into one line.
#[derive(Debug, Clone)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Cause {}

/// Whether a failed request may nevertheless have had its effect.
pub(super) fn is_ambiguous(error: &StoreError) -> bool {
    matches!(error.kind, ErrorKind::Timeout | ErrorKind::Unavailable)
}

/// The answer behind an error of [`failed`].
pub(super) fn answer_of(error: &StoreError) -> Option<&Answer> {
    error.source.as_deref().and_then(|source| source.downcast_ref())
}

/// Whether the store knows us and refuses, which some stores also do for objects
/// that are not there.
pub(super) fn is_forbidden(error: &StoreError) -> bool {
    error.kind == ErrorKind::PermissionDenied && answer_of(error).is_some_and(|a| a.status == 403)
}

/// The store's answer inside a failure, if there was one.
pub(super) fn answer<E>(error: &SdkError<E, HttpResponse>) -> Option<Answer>
where
    E: ProvideErrorMetadata,
{
    let (raw, meta) = match error {
        SdkError::ServiceError(e) => (e.raw(), Some(e.err().meta())),
        SdkError::ResponseError(e) => (e.raw(), None),
        _ => return None,
    };
    let header = |name: &str| raw.headers().get(name).map(printable).filter(|s| !s.is_empty());
    let mut code = meta.and_then(|m| m.code()).map(printable);
    let mut message = meta.and_then(|m| m.message()).map(printable).filter(|s| !s.is_empty());
    if code.as_deref().is_none_or(str::is_empty) {
        code = header("x-minio-error-code");
        message = message.or_else(|| header("x-minio-error-desc"));
    }
    if message.is_none() && code.is_none() {
        // Not S3's XML: a proxy, or another protocol. Its text says which.
        message = raw.body().bytes().and_then(plain_text);
    }
    let request_id = header("x-amz-request-id");
    Some(Answer { status: raw.status().as_u16(), code, message, request_id })
}

/// The error for a failed request. `act` says what failed on what, `action` is the
/// permission that it needs.
pub(super) fn failed<E>(
    site: &Site,
    act: &str,
    action: &'static str,
    error: SdkError<E, HttpResponse>,
) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(answer) = answer(&error) {
        let told_region = match &error {
            SdkError::ServiceError(e) => e.raw().headers().get("x-amz-bucket-region"),
            _ => None,
        };
        let (kind, reason) = judge(site, action, &answer, told_region.map(printable).as_deref());
        return StoreError::with_source(kind, format!("{act}: {reason}"), answer);
    }
    let (kind, reason) = match &error {
        SdkError::TimeoutError(_) => {
            (ErrorKind::Timeout, "no complete answer within the time allowed".to_owned())
        }
        _ => transport(site, &error),
    };
    StoreError::with_source(kind, format!("{act}: {reason}"), Cause(chain_text(&error)))
}

/// The error for a body that broke off or did not match its checksum.
pub(super) fn broken_body(act: &str, error: &(dyn Error + 'static)) -> StoreError {
    let text = chain_text(error);
    if text.contains("checksum mismatch") {
        let reason = "the bytes do not match the checksum that the store holds";
        return StoreError::with_source(
            ErrorKind::Corrupt,
            format!("{act}: {reason}"),
            Cause(text),
        );
    }
    let reason = "the connection broke while bytes came in";
    StoreError::with_source(ErrorKind::Unavailable, format!("{act}: {reason}"), Cause(text))
}

/// What an answer means.
fn judge(
    site: &Site,
    action: &'static str,
    answer: &Answer,
    told_region: Option<&str>,
) -> (ErrorKind, String) {
    let bucket = &site.bucket;
    let code = answer.code.as_deref().unwrap_or("");
    let (kind, reason) = match (code, answer.status) {
        ("NoSuchBucket", _) => (ErrorKind::Configuration, format!("there is no bucket {bucket}")),
        ("NoSuchKey" | "NotFound", _) => {
            (ErrorKind::NotFound, "there is no such object".to_owned())
        }
        ("NoSuchUpload", _) => {
            (ErrorKind::Unavailable, "the multipart upload was ended by someone else".to_owned())
        }
        (
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException",
            _,
        )
        | ("", 301 | 307) => match told_region.filter(|told| *told != site.region) {
            Some(told) => (
                ErrorKind::Configuration,
                format!("bucket {bucket} is in region {told}, not in {}", site.region),
            ),
            None => (
                ErrorKind::Configuration,
                format!("region {} or the endpoint is not that of bucket {bucket}", site.region),
            ),
        },
        (
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired",
            _,
        ) => (ErrorKind::PermissionDenied, "the credentials have expired".to_owned()),
        ("InvalidAccessKeyId" | "InvalidToken" | "InvalidClientTokenId" | "InvalidSecurity", _) => {
            (ErrorKind::PermissionDenied, "the store does not know these credentials".to_owned())
        }
        ("SignatureDoesNotMatch", _) => (
            ErrorKind::PermissionDenied,
            "the signature does not fit: the secret key is wrong, or a proxy changes requests"
                .to_owned(),
        ),
        ("RequestTimeTooSkewed", _) => (
            ErrorKind::Configuration,
            match site.observed.skew_seconds() {
                Some(skew) => format!("this machine's clock is {} the store's", apart(skew)),
                None => "this machine's clock is too far from the store's".to_owned(),
            },
        ),
        ("ObjectLocked" | "InvalidRetentionPeriod", _) => {
            (ErrorKind::PermissionDenied, "the object is retained by object lock".to_owned())
        }
        ("QuotaExceeded" | "XMinioAdminBucketQuotaExceeded" | "XMinioQuotaExceeded", _) => {
            (ErrorKind::OutOfSpace, "a quota of the store is reached".to_owned())
        }
        ("XMinioStorageFull" | "StorageFull" | "InsufficientStorage" | "DiskFull", _)
        | (_, 507) => (ErrorKind::OutOfSpace, "the store is full".to_owned()),
        ("BadDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch", _) => {
            (ErrorKind::Corrupt, "the bytes that arrived are not those that were sent".to_owned())
        }
        ("PreconditionFailed", _) | (_, 412) => {
            (ErrorKind::AlreadyExists, "the name is taken".to_owned())
        }
        ("ConditionalRequestConflict" | "OperationAborted", _) | (_, 409) => {
            (ErrorKind::Unavailable, "another request on the same name came in between".to_owned())
        }
        ("InvalidRange", _) | (_, 416) => {
            (ErrorKind::InvalidRange, "the range lies outside the object".to_owned())
        }
        ("InvalidObjectState", _) => (
            ErrorKind::Io,
            "the object is in an archive class and has to be restored from it first".to_owned(),
        ),
        ("NotImplemented", _) | (_, 501) => {
            (ErrorKind::Configuration, "the store does not know this kind of request".to_owned())
        }
        (code, _) if code.starts_with("KMS.") => {
            (ErrorKind::PermissionDenied, "the store's key service refused its key".to_owned())
        }
        ("RequestTimeout", _) => (ErrorKind::Timeout, "the store waited too long".to_owned()),
        ("SlowDown" | "ServiceUnavailable" | "Throttling" | "RequestLimitExceeded", _)
        | (_, 429 | 503) => {
            (ErrorKind::Unavailable, "the store is overloaded or not ready".to_owned())
        }
        (_, 500..) => (ErrorKind::Unavailable, "the store failed".to_owned()),
        // Servers say so in different words, some without any.
        ("", 400) if site.endpoint.as_ref().is_some_and(|endpoint| !endpoint.tls) => (
            ErrorKind::Configuration,
            "the answer is not that of S3: the endpoint may speak TLS, and its URL have to start with https://"
                .to_owned(),
        ),
        (_, 401 | 403) => (ErrorKind::PermissionDenied, format!("the credentials lack {action}")),
        (_, 404) => (ErrorKind::NotFound, "there is no such object".to_owned()),
        (_, 407) => (ErrorKind::Configuration, "the proxy wants a password".to_owned()),
        _ => (ErrorKind::Io, "the store refused the request".to_owned()),
    };
    (kind, reason)
}

/// What a failure means that came before any answer.
fn transport(site: &Site, error: &(dyn Error + 'static)) -> (ErrorKind, String) {
    for cause in chain(error) {
        if let Some(e) = cause.downcast_ref::<CredentialsError>() {
            let reason = match e {
                CredentialsError::CredentialsNotLoaded(_) => {
                    "no credentials were found in the environment, the AWS files, or the machine's role"
                }
                CredentialsError::ProviderTimedOut(_) => "loading the credentials took too long",
                _ => "the credentials could not be loaded",
            };
            return (ErrorKind::PermissionDenied, reason.to_owned());
        }
        if let Some(e) = cause.downcast_ref::<rustls::Error>() {
            return tls(e);
        }
    }
    for cause in chain(error) {
        if let Some(e) = cause.downcast_ref::<io::Error>() {
            let reason = match e.kind() {
                io::ErrorKind::ConnectionRefused => "nothing listens there: connection refused",
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => "the connection was closed by the other side",
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    "there is no network path to the store"
                }
                io::ErrorKind::TimedOut => {
                    return (ErrorKind::Timeout, "the connection timed out".to_owned());
                }
                _ => continue,
            };
            return (ErrorKind::Unavailable, reason.to_owned());
        }
    }
    let text = chain_text(error);
    if text.contains("timed out") || text.contains("timeout") {
        return (ErrorKind::Timeout, "the connection timed out".to_owned());
    }
    if text.contains("dns error") || text.contains("lookup address") {
        let host = site.endpoint.as_ref().map_or("the store", |e| e.host.as_str());
        return (ErrorKind::Unavailable, format!("the name {host} could not be resolved"));
    }
    if text.contains("region") {
        return (ErrorKind::Configuration, "no usable region is configured".to_owned());
    }
    (ErrorKind::Unavailable, "the store could not be reached".to_owned())
}

fn tls(error: &rustls::Error) -> (ErrorKind, String) {
    use rustls::CertificateError as Cert;
    use rustls::Error as Tls;
    let reason = match error {
        Tls::InvalidCertificate(Cert::UnknownIssuer) => {
            "the store's certificate is not from an authority that is trusted; give its CA file"
        }
        Tls::InvalidCertificate(Cert::Expired | Cert::ExpiredContext { .. }) => {
            "the store's certificate has expired"
        }
        Tls::InvalidCertificate(Cert::NotValidYet | Cert::NotValidYetContext { .. }) => {
            "the store's certificate is not valid yet; is this machine's clock right?"
        }
        Tls::InvalidCertificate(Cert::NotValidForName | Cert::NotValidForNameContext { .. }) => {
            "the store's certificate is for another host name"
        }
        Tls::InvalidCertificate(_) => "the store's certificate is not acceptable",
        Tls::InvalidMessage(_) => {
            "the endpoint does not speak TLS: its URL may have to start with http://"
        }
        _ => "the TLS handshake failed",
    };
    (ErrorKind::Configuration, reason.to_owned())
}

fn apart(skew: i64) -> String {
    let side = if skew > 0 { "behind" } else { "ahead of" };
    format!("{} s {side}", skew.unsigned_abs())
}

/// An error and its causes; those inside of an `io::Error` too, which
/// `io::Error::source` skips.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(e) => e.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    })
    .take(16)
}

fn chain_text(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in chain(error) {
        let line = printable(&cause.to_string());
        if !line.is_empty() && !text.contains(&line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&line);
        }
    }
    printable(&text)
}

/// Foreign text on one line, without control characters, bounded.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_FOREIGN)
        .collect::<String>()
        .trim()
        .to_owned()
}

fn plain_text(bytes: &[u8]) -> Option<String> {
    let head = &bytes[..bytes.len().min(MAX_FOREIGN)];
    Some(printable(&String::from_utf8_lossy(head))).filter(|text| !text.is_empty())
}

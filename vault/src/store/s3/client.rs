//! The SDK's client, set up so that nothing waits without a bound: connecting,
//! silence, every attempt and every request with all of its attempts. One TLS
//! stack (rustls with ring), one HTTP client for the store and one, with the
//! system's certificate authorities, for whoever gives out credentials.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, ConfigBag, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder as HttpBuilder, Connector};
use chrono::{DateTime, Utc};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::config::{Endpoint, S3Config};
use crate::store::{ErrorKind, Result, StoreError};

/// Below the 30 s after which load balancers commonly drop idle connections.
const POOL_IDLE: Duration = Duration::from_secs(20);
/// More certificate text than any bundle of authorities has.
const MAX_CA_FILE: u64 = 16 * 1024 * 1024;
/// No answer is waited for when `skew` holds this.
const UNKNOWN: i64 = i64::MIN;

/// Where the store is, for requests and for error texts.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) bucket: String,
    pub(super) region: String,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) observed: Arc<Observed>,
}

/// What every answer of the store tells on the side.
#[derive(Debug)]
pub(super) struct Observed {
    skew: AtomicI64,
    said: Mutex<Said>,
}

#[derive(Debug, Default, Clone)]
struct Said {
    region: Option<String>,
    server: Option<String>,
}

impl Observed {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { skew: AtomicI64::new(UNKNOWN), said: Mutex::new(Said::default()) })
    }

    /// The store's clock minus ours, in seconds, as of its last answer.
    pub(super) fn skew_seconds(&self) -> Option<i64> {
        Some(self.skew.load(Ordering::Relaxed)).filter(|skew| *skew != UNKNOWN)
    }

    /// The time by the store's clock; ours where it never answered.
    pub(super) fn store_now(&self) -> DateTime<Utc> {
        Utc::now() + chrono::TimeDelta::seconds(self.skew_seconds().unwrap_or(0))
    }

    pub(super) fn region(&self) -> Option<String> {
        self.said().region
    }

    pub(super) fn server(&self) -> Option<String> {
        self.said().server
    }

    fn said(&self) -> Said {
        self.said.lock().map(|said| said.clone()).unwrap_or_default()
    }
}

/// Fills [`Observed`].
#[derive(Debug)]
struct Observer(Arc<Observed>);

impl Intercept for Observer {
    fn name(&self) -> &'static str {
        "Observer"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        if let Some(date) = headers.get("date").and_then(|d| DateTime::parse_from_rfc2822(d).ok()) {
            let skew = date.timestamp().saturating_sub(Utc::now().timestamp());
            self.0.skew.store(skew, Ordering::Relaxed);
        }
        let short = |name: &str| {
            headers.get(name).filter(|v| v.len() <= 100 && v.is_ascii()).map(str::to_owned)
        };
        let (region, server) = (short("x-amz-bucket-region"), short("server"));
        if (region.is_some() || server.is_some())
            && let Ok(mut said) = self.0.said.lock()
        {
            said.region = region.or(said.region.take());
            said.server = server.or(said.server.take());
        }
        Ok(())
    }
}

/// The client for `config` in `region`, which goes before the configured one.
pub(super) async fn build(config: &S3Config, region: Option<&str>) -> Result<(Client, Site)> {
    let act = || format!("set up access to {}", config.url());
    let given = match &config.endpoint_url {
        Some(url) => Some(
            Endpoint::parse(url)
                .map_err(|e| StoreError::with_source(ErrorKind::Configuration, act(), e))?,
        ),
        None => None,
    };
    let region = match region.or(config.region.as_deref()) {
        Some(region) => Region::new(region.to_owned()),
        None => configured_region(config).await,
    };
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(region.clone())
        .http_client(http_client(TrustStore::default(), ProxyConfig::from_env()));
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(own) = &config.credentials {
        loader = loader.credentials_provider(aws_sdk_s3::config::Credentials::new(
            &own.access_key,
            &own.secret_key,
            own.session_token.clone(),
            None,
            "given",
        ));
    }
    let sdk = loader.load().await;
    let endpoint = given.or_else(|| sdk.endpoint_url().and_then(|url| Endpoint::parse(url).ok()));

    let trust = match &config.ca_file {
        Some(path) => TrustStore::empty().with_pem_certificate(read_ca(path, &act()).await?),
        None if endpoint.as_ref().is_some_and(|e| !e.tls) => TrustStore::empty(),
        None => TrustStore::default(),
    };
    let proxy = match &endpoint {
        Some(endpoint) if endpoint.is_loopback() => ProxyConfig::disabled(),
        _ => ProxyConfig::from_env(),
    };
    // The number of attempts bounds the retries; a budget shared with other
    // requests would make one bad part fail its neighbours.
    let partition = RetryPartition::custom("vault").token_bucket(TokenBucket::unlimited()).build();
    let observed = Observed::new();
    let mut builder = Builder::from(&sdk)
        .http_client(http_client(trust, proxy))
        .force_path_style(config.force_path_style(endpoint.as_ref()))
        .retry_config(retries(config, config.attempts))
        .retry_partition(partition)
        .timeout_config(timeouts(config, 0))
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .interceptor(Observer(observed.clone()));
    if let Some(url) = &config.endpoint_url {
        builder = builder.endpoint_url(url);
    }
    let site = Site {
        bucket: config.bucket.clone(),
        region: region.as_ref().to_owned(),
        endpoint,
        observed,
    };
    Ok((Client::from_conf(builder.build()), site))
}

/// The environment's or the profile's region. The machine's metadata service is
/// not asked: the store itself says where a bucket is.
async fn configured_region(config: &S3Config) -> Region {
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &config.profile {
        profile = profile.profile_name(name);
    }
    RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(profile.build())
        .region()
        .await
        .unwrap_or_else(|| Region::from_static("us-east-1"))
}

/// Retries with exponential backoff and jitter.
pub(super) fn retries(config: &S3Config, attempts: u32) -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(attempts.max(1))
        .with_initial_backoff(config.first_backoff)
        .with_max_backoff(config.last_backoff)
}

/// The bounds for a request that carries `bytes`.
pub(super) fn timeouts(config: &S3Config, bytes: u64) -> TimeoutConfig {
    // The SDK's read timeout runs while the request is still being sent, so it
    // has to allow for the body.
    let attempt = config.attempt_timeout(bytes);
    TimeoutConfig::builder()
        .connect_timeout(config.connect_timeout)
        .read_timeout(attempt)
        .operation_attempt_timeout(attempt + config.connect_timeout)
        .operation_timeout(config.total_timeout.max(attempt * 3))
        .build()
}

fn http_client(trust: TrustStore, proxy: ProxyConfig) -> SharedHttpClient {
    HttpBuilder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .pool_idle_timeout(POOL_IDLE)
            .proxy_config(proxy.clone())
            .tls_provider(Provider::Rustls(CryptoMode::Ring));
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        // Fails only for what the trust store does not check yet.
        if let Ok(context) = TlsContext::builder().with_trust_store(trust.clone()).build() {
            connector = connector.tls_context(context);
        }
        connector.build()
    })
}

/// The certificates in `path`, known to be usable: the HTTP client panics on
/// others.
async fn read_ca(path: &std::path::Path, act: &str) -> Result<Vec<u8>> {
    let fail = |why: &str| {
        let act = format!("{act}: CA file {}: {why}", path.display());
        StoreError::new(ErrorKind::Configuration, act)
    };
    let io = |error: std::io::Error| {
        let act = format!("{act}: read CA file {}", path.display());
        StoreError::with_source(ErrorKind::Configuration, act, error)
    };
    let size = tokio::fs::metadata(path).await.map_err(io)?.len();
    if size > MAX_CA_FILE {
        return Err(fail("it is larger than 16 MiB"));
    }
    let pem = tokio::fs::read(path).await.map_err(io)?;
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&pem) {
        let cert = cert.map_err(|_| fail("it is not valid PEM"))?;
        roots.add(cert).map_err(|_| fail("one of its certificates cannot be read"))?;
    }
    if roots.is_empty() {
        return Err(fail("there is no certificate in it"));
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wait_has_a_bound_that_fits_its_load() {
        let config = S3Config::from_url("s3://backups").unwrap();
        let small = timeouts(&config, 0);
        let large = timeouts(&config, 1 << 30);
        let seconds = |bound: Option<Duration>| bound.map(|bound| bound.as_secs());
        assert_eq!(seconds(small.connect_timeout()), Some(10));
        assert_eq!(seconds(small.read_timeout()), Some(30));
        assert_eq!(seconds(small.operation_attempt_timeout()), Some(40));
        assert_eq!(seconds(small.operation_timeout()), Some(300));
        // A gibibyte at 256 KiB/s.
        assert_eq!(seconds(large.read_timeout()), Some(30 + 4096));
        assert!(large.operation_timeout() >= large.operation_attempt_timeout().map(|t| t * 2));
        let retries = retries(&config, config.attempts);
        assert_eq!((retries.max_attempts(), retries.max_backoff().as_secs()), (10, 10));
        assert!(POOL_IDLE < Duration::from_secs(30));
    }
}

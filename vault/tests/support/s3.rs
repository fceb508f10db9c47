//! What the tests of the S3 store share.
#![allow(dead_code)]

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use harness::s3::Access;
use vault::store::s3::{Credentials, S3Config, S3Store};
use vault::store::{Download, Key, ObjectInfo, Result, SizeHint, Store, StoreError};

pub(crate) const BUCKET: &str = "vaults";
pub(crate) const PREFIX: &str = "team/prod";
pub(crate) const MIB: usize = 1024 * 1024;

/// Settings for `access` with short waits.
pub(crate) fn config(access: &Access) -> S3Config {
    let mut config = S3Config::from_url(&format!("s3://{BUCKET}/{PREFIX}")).unwrap();
    config.set("endpoint-url", &access.url).unwrap();
    config.credentials = Some(Credentials {
        access_key: access.access_key.clone(),
        secret_key: access.secret_key.clone(),
        session_token: access.session_token.clone(),
    });
    config.ca_file = access.ca.clone();
    config.part_size = Some(5 * MIB as u64);
    config.attempts = 4;
    config.first_backoff = Duration::from_millis(2);
    config.last_backoff = Duration::from_millis(20);
    config.connect_timeout = Duration::from_secs(5);
    config.read_timeout = Duration::from_secs(10);
    config
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Bytes that differ everywhere.
pub(crate) fn noise(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ len as u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

pub(crate) async fn put(store: &S3Store, name: &str, bytes: &Bytes) -> Result<ObjectInfo> {
    let size = SizeHint::Exact(bytes.len() as u64);
    let mut upload = store.put_new(&key(name), size).await?;
    for chunk in bytes.chunks(MIB) {
        upload.write(Bytes::copy_from_slice(chunk)).await?;
    }
    upload.finish().await
}

pub(crate) async fn read(download: Download) -> Result<Vec<u8>> {
    download
        .stream
        .try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
}

pub(crate) async fn get(store: &S3Store, name: &str) -> Result<Vec<u8>> {
    read(store.get(&key(name), None).await?).await
}

pub(crate) async fn names(
    store: &S3Store,
    prefix: &str,
    after: Option<&str>,
) -> Result<Vec<String>> {
    store.list(prefix, after).map_ok(|info| info.key.to_string()).try_collect().await
}

/// An error with its causes, as a person would see it.
pub(crate) fn told(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

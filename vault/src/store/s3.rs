//! A vault on S3 or a store that speaks its protocol.
//!
//! - An object appears complete or not at all: one PutObject, or a multipart
//!   upload that is completed last and aborted on every failure.
//! - `put_new` is refused by the store itself where a [`Probe`] has shown that
//!   the store honours `If-None-Match: *`. Elsewhere it looks first and checks
//!   afterwards, which unique names make good enough.
//! - What `finish` returned for was seen in the store with the right size, and as
//!   ours by a number that only this upload knows.
//! - Every wait, every retry and the memory of an upload are bounded.
//!
//! `docs/s3.md` tells what each store honours and which rights are needed.

mod checksum;
mod client;
mod config;
mod download;
mod error;
pub mod policy;
mod probe;
mod upload;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::primitives::DateTime as SdkDateTime;
use chrono::{DateTime, Utc};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};

pub use self::checksum::{Checksum, ChecksumMode};
use self::client::Site;
pub use self::config::{
    ConfigError, Credentials, DEFAULT_BUFFER, DEFAULT_PART, MAX_PART, MIN_PART, OPTIONS,
    PLANNED_PARTS, PathStyle, S3Config, Sse,
};
pub use self::error::Answer;
use self::error::{answer, failed, is_forbidden};
pub use self::probe::Probe;
use super::{
    Capabilities, Download, ErrorKind, Key, ObjectInfo, Result, SizeHint, Store, StoreError, Upload,
};

/// Uploads that began before this are abandoned: no backup takes so long.
const ABANDONED: Duration = Duration::from_secs(48 * 3600);
/// The most objects that a listing holds in memory, where the store does not
/// return them in order.
const MAX_UNORDERED: usize = 1_000_000;
/// How often the first request is tried, so that a wrong URL is told soon.
const FIRST_ATTEMPTS: u32 = 3;
/// The object that every vault has, and that every role may list.
const KNOWN_KEY: &str = "vault.json";

const READ: &str = "s3:GetObject";
const WRITE: &str = "s3:PutObject";
const LIST: &str = "s3:ListBucket";
const DELETE: &str = "s3:DeleteObject";
const LIST_UPLOADS: &str = "s3:ListBucketMultipartUploads";
const ABORT: &str = "s3:AbortMultipartUpload";

/// A place for a vault under one prefix of one bucket. Clones share their
/// connections.
#[derive(Debug, Clone)]
pub struct S3Store {
    inner: Arc<Inner>,
}

struct Inner {
    config: S3Config,
    client: Client,
    site: Site,
    probe: RwLock<Option<Probe>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The SDK's client would show its credentials' ids and pages of settings.
        f.debug_struct("Inner").field("url", &self.config.url()).finish_non_exhaustive()
    }
}

impl S3Store {
    /// Connects to the bucket: loads credentials, finds the bucket's region, and
    /// asks one small question, so that a wrong URL, CA, clock, key or bucket is
    /// known before a backup starts. A role that may not list is let through.
    pub async fn connect(config: S3Config) -> Result<Self> {
        let mut inner = Inner::new(config.clone(), None).await?;
        let first = inner.greet().await;
        let told = inner.site.observed.region();
        if let (Err(error), Some(told)) = (&first, told)
            && error.kind == ErrorKind::Configuration
            && config.region.is_none()
            && told != inner.site.region
        {
            inner = Inner::new(config, Some(&told)).await?;
            inner.greet().await?;
        } else {
            first?;
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Uses what an earlier [`S3Store::probe`] found out about this store.
    pub fn apply(&self, probe: &Probe) {
        if let Ok(mut slot) = self.inner.probe.write() {
            *slot = Some(probe.clone());
        }
    }

    /// Finds out what the store honours, by writing a few small objects under
    /// `probe/`, and uses it from now on. They are deleted where that is allowed;
    /// what stays is named in [`Probe::left`] and may be deleted at any time.
    pub async fn probe(&self) -> Result<Probe> {
        let probe = probe::run(&self.inner).await?;
        self.apply(&probe);
        Ok(probe)
    }

    /// The bucket's region, as it is used for signing.
    pub fn region(&self) -> &str {
        &self.inner.site.region
    }

    /// The store's clock minus this machine's, in seconds, as of its last answer.
    pub fn clock_skew_seconds(&self) -> Option<i64> {
        self.inner.site.observed.skew_seconds()
    }

    /// Aborts multipart uploads under this store's prefix that began more than
    /// `age` ago by the store's clock, and says how many.
    pub async fn sweep_older_than(&self, age: Duration) -> Result<u64> {
        self.inner.sweep(age).await
    }
}

impl Inner {
    async fn new(config: S3Config, region: Option<&str>) -> Result<Self> {
        let (client, site) = client::build(&config, region).await?;
        Ok(Self { config, client, site, probe: RwLock::new(None) })
    }

    /// One request that every role may make.
    async fn greet(&self) -> Result<()> {
        let act = format!("reach {}", self.config.url());
        let attempts = self.config.attempts.min(FIRST_ATTEMPTS);
        let quick = Builder::new().retry_config(client::retries(&self.config, attempts));
        let answered = self
            .client
            .list_objects_v2()
            .bucket(&self.site.bucket)
            .prefix(self.object(KNOWN_KEY))
            .max_keys(1)
            .customize()
            .config_override(quick)
            .send()
            .await;
        match answered {
            Ok(_) => Ok(()),
            Err(error) => {
                let code = answer(&error).and_then(|answer| answer.code);
                if code.as_deref() == Some("AccessDenied") {
                    return Ok(());
                }
                Err(failed(&self.site, &act, LIST, error))
            }
        }
    }

    /// The key in the bucket of `key` in the vault.
    fn object(&self, key: &str) -> String {
        if self.config.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}/{key}", self.config.prefix)
        }
    }

    /// How `key` is named to people.
    fn shown(&self, key: &str) -> String {
        format!("{key} in {}", self.config.url())
    }

    /// The vault's key of an object; `None` for what is not ours.
    fn key_of(&self, object: &str) -> Option<Key> {
        let rest = match self.config.prefix.as_str() {
            "" => object,
            prefix => object.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        Key::new(rest).ok()
    }

    fn probed<T>(&self, of: impl FnOnce(&Probe) -> T) -> Option<T> {
        self.probe.read().ok()?.as_ref().map(of)
    }

    /// The checksum that accompanies uploads.
    fn checksum(&self) -> Option<Checksum> {
        match self.config.checksum {
            ChecksumMode::Auto => self.probed(|probe| probe.checksum).flatten(),
            ChecksumMode::Always(sum) => Some(sum),
            ChecksumMode::Never => None,
        }
    }

    /// Whether multipart uploads carry checksums too.
    fn multipart_checksum(&self) -> Option<Checksum> {
        let sum = self.checksum()?;
        match self.config.checksum {
            ChecksumMode::Auto => {
                self.probed(|probe| probe.multipart_checksum).unwrap_or(false).then_some(sum)
            }
            _ => Some(sum),
        }
    }

    fn put_is_conditional(&self) -> bool {
        self.probed(|probe| probe.put_new).unwrap_or(false)
    }

    fn complete_is_conditional(&self) -> bool {
        self.probed(|probe| probe.complete_new).unwrap_or(false)
    }

    /// The wait before try `n` (from 1) of a loop of our own.
    fn backoff(&self, n: u32) -> Duration {
        let factor = 1_u32 << n.saturating_sub(1).min(16);
        self.config.first_backoff.saturating_mul(factor).min(self.config.last_backoff)
    }

    async fn head(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        let act = format!("look at {}", self.shown(key.as_str()));
        let object = self.object(key.as_str());
        let head = self.client.head_object().bucket(&self.site.bucket).key(&object);
        let error = match head.send().await {
            Ok(head) => {
                let size = size(head.content_length(), &act)?;
                let modified = self.time(head.last_modified());
                return Ok(Some(ObjectInfo { key: key.clone(), size, modified }));
            }
            Err(error) => error,
        };
        match answer(&error).map(|answer| answer.status) {
            Some(404) => Ok(None),
            // An answer to HEAD has no body and so no reason; GET has.
            Some(300..=499) => {
                let get = self.client.get_object().bucket(&self.site.bucket).key(&object);
                let error = match get.range("bytes=0-0").send().await {
                    Ok(_) => failed(&self.site, &act, READ, error),
                    Err(error) => failed(&self.site, &act, READ, error),
                };
                let absent = match error.kind {
                    ErrorKind::NotFound => true,
                    ErrorKind::PermissionDenied if is_forbidden(&error) => {
                        self.is_absent(key).await
                    }
                    _ => false,
                };
                if absent { Ok(None) } else { Err(error) }
            }
            _ => Err(failed(&self.site, &act, READ, error)),
        }
    }

    /// Whether a listing proves that there is no such object. A store answers 403
    /// for what is not there to those who may list under a prefix only.
    async fn is_absent(&self, key: &Key) -> bool {
        let list = self.client.list_objects_v2().bucket(&self.site.bucket).max_keys(1);
        let object = self.object(key.as_str());
        // Of the names that begin with this one, it is itself the first.
        list.prefix(&object).send().await.is_ok_and(|page| {
            page.contents().first().is_none_or(|first| first.key() != Some(&object))
        })
    }

    fn time(&self, time: Option<&SdkDateTime>) -> DateTime<Utc> {
        time.and_then(|t| DateTime::from_timestamp(t.secs(), t.subsec_nanos()))
            .unwrap_or_else(|| self.site.observed.store_now())
    }

    /// One page of a listing, and where the next one starts.
    async fn page(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        token: Option<String>,
    ) -> Result<(Vec<ObjectInfo>, Option<String>)> {
        let act = format!("list {}", self.shown(&format!("{prefix}*")));
        let answer = self
            .client
            .list_objects_v2()
            .bucket(&self.site.bucket)
            .prefix(self.object(prefix))
            .set_start_after(start_after.map(|key| self.object(key)))
            .set_continuation_token(token.clone())
            .send()
            .await
            .map_err(|error| failed(&self.site, &act, LIST, error))?;
        let mut infos = Vec::with_capacity(answer.contents().len());
        for object in answer.contents() {
            // Foreign objects, folder markers among them, are none of ours.
            if let Some(key) = object.key().and_then(|key| self.key_of(key)) {
                let size = size(object.size(), &act)?;
                infos.push(ObjectInfo { key, size, modified: self.time(object.last_modified()) });
            }
        }
        let next = match answer.is_truncated() {
            Some(true) => {
                let next = answer.next_continuation_token().map(str::to_owned);
                if next.is_none() || next == token {
                    let act = format!("{act}: the store does not say where its next page starts");
                    return Err(StoreError::new(ErrorKind::Io, act));
                }
                next
            }
            _ => None,
        };
        Ok((infos, next))
    }

    /// A listing page by page, for stores that keep the order of bytes.
    fn list_in_order<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
    ) -> BoxStream<'a, Result<ObjectInfo>> {
        struct Position {
            token: Option<String>,
            last: Option<Key>,
            done: bool,
        }
        let begin = Position { token: None, last: None, done: false };
        stream::try_unfold(begin, move |mut at| async move {
            if at.done {
                return Ok(None);
            }
            let (infos, next) = self.page(prefix, start_after, at.token.take()).await?;
            for info in &infos {
                if at.last.as_ref().is_some_and(|last| *last >= info.key) {
                    let act = format!(
                        "list {}: the store does not keep the order of names",
                        self.shown(&format!("{prefix}*"))
                    );
                    return Err(StoreError::new(ErrorKind::Corrupt, act));
                }
                at.last = Some(info.key.clone());
            }
            at.done = next.is_none();
            at.token = next;
            Ok(Some((stream::iter(infos.into_iter().map(Ok)), at)))
        })
        .try_flatten()
        .boxed()
    }

    /// A listing for stores whose order is not known to be that of bytes: all of
    /// it, then sorted.
    async fn list_sorted(
        &self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> Result<Vec<ObjectInfo>> {
        let mut all = Vec::new();
        let mut token = None;
        loop {
            let (infos, next) = self.page(prefix, None, token).await?;
            all.extend(
                infos.into_iter().filter(|i| start_after.is_none_or(|s| i.key.as_str() > s)),
            );
            if all.len() > MAX_UNORDERED {
                let act = format!(
                    "list {}: more than {MAX_UNORDERED} objects, and the store does not order them",
                    self.shown(&format!("{prefix}*"))
                );
                return Err(StoreError::new(ErrorKind::Io, act));
            }
            token = next;
            if token.is_none() {
                all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
                return Ok(all);
            }
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let act = format!("delete {}", self.shown(key.as_str()));
        let object = self.object(key.as_str());
        let delete = self.client.delete_object().bucket(&self.site.bucket).key(&object);
        let Err(error) = delete.send().await else { return Ok(()) };
        let mut error = failed(&self.site, &act, DELETE, error);
        match error.kind {
            ErrorKind::NotFound => Ok(()),
            ErrorKind::PermissionDenied => {
                if let Some(until) = self.retained_until(&object).await {
                    error.act = format!("{act}: object lock retains it until {until}");
                }
                Err(error)
            }
            _ => Err(error),
        }
    }

    /// Until when object lock keeps an object, as far as we may know.
    async fn retained_until(&self, object: &str) -> Option<String> {
        let head = self.client.head_object().bucket(&self.site.bucket).key(object);
        let head = head.send().await.ok()?;
        if head.object_lock_legal_hold_status().is_some_and(|hold| hold.as_str() == "ON") {
            return Some("its legal hold is lifted".to_owned());
        }
        let until = self.time(Some(head.object_lock_retain_until_date()?));
        (until > self.site.observed.store_now()).then(|| until.format("%F %T UTC").to_string())
    }

    async fn sweep(&self, age: Duration) -> Result<u64> {
        let act = format!("list uploads in {}", self.config.url());
        let (mut key_marker, mut id_marker) = (None, None);
        let mut swept = 0;
        loop {
            let answer = self
                .client
                .list_multipart_uploads()
                .bucket(&self.site.bucket)
                .prefix(self.object(""))
                .set_key_marker(key_marker.clone())
                .set_upload_id_marker(id_marker.clone())
                .send()
                .await
                .map_err(|error| failed(&self.site, &act, LIST_UPLOADS, error))?;
            let age = chrono::TimeDelta::from_std(age).unwrap_or(chrono::TimeDelta::MAX);
            let limit = self.site.observed.store_now().checked_sub_signed(age);
            for upload in answer.uploads() {
                let (Some(object), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                // An upload whose age is not told may be a live one.
                let Some(began) = upload.initiated() else { continue };
                let old = limit.is_some_and(|limit| self.time(Some(began)) < limit);
                if old && self.key_of(object).is_some() {
                    self.abort_upload(object, id).await?;
                    swept += 1;
                }
            }
            if answer.is_truncated() != Some(true) {
                return Ok(swept);
            }
            let next = (
                answer.next_key_marker().map(str::to_owned),
                answer.next_upload_id_marker().map(str::to_owned),
            );
            if next.0.is_none() || next == (key_marker, id_marker) {
                return Ok(swept);
            }
            (key_marker, id_marker) = next;
        }
    }

    /// Ends a multipart upload; one that is gone is no error.
    async fn abort_upload(&self, object: &str, id: &str) -> Result<()> {
        let abort = self.client.abort_multipart_upload();
        let abort = abort.bucket(&self.site.bucket).key(object).upload_id(id);
        match abort.send().await {
            Ok(_) => Ok(()),
            Err(error) if answer(&error).is_some_and(|answer| answer.status == 404) => Ok(()),
            Err(error) => {
                let act = format!("abort the upload of {object} to bucket {}", self.site.bucket);
                Err(failed(&self.site, &act, ABORT, error))
            }
        }
    }
}

#[async_trait]
impl Store for S3Store {
    fn location(&self) -> String {
        self.inner.config.url()
    }

    fn capabilities(&self) -> Capabilities {
        let both = self.inner.put_is_conditional() && self.inner.complete_is_conditional();
        Capabilities { put_new: both }
    }

    async fn put_new(&self, key: &Key, size: SizeHint) -> Result<Box<dyn Upload>> {
        Ok(Box::new(upload::S3Upload::begin(self.inner.clone(), key.clone(), size).await?))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Download> {
        download::open(self.inner.clone(), key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        self.inner.head(key).await
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
    ) -> BoxStream<'a, Result<ObjectInfo>> {
        if self.inner.probed(|probe| probe.ordered).unwrap_or(false) {
            return self.inner.list_in_order(prefix, start_after);
        }
        stream::once(self.inner.list_sorted(prefix, start_after))
            .map_ok(|all| stream::iter(all.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn sweep(&self) -> Result<u64> {
        self.inner.sweep(ABANDONED).await
    }
}

/// A size from outside.
fn size(size: Option<i64>, act: &str) -> Result<u64> {
    size.and_then(|size| u64::try_from(size).ok()).ok_or_else(|| {
        StoreError::new(ErrorKind::Io, format!("{act}: the store does not tell the object's size"))
    })
}

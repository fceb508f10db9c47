//! Finding out what a store honours, by trying it on objects of a few bytes.
//!
//! A store that ignores a header answers as if all were well, so each feature is
//! proven by a refusal: a wrong checksum must be turned down, a second object
//! under a taken name too, and afterwards the first one must still be there.
//!
//! The objects are `probe/<ulid>-a` and `probe/<ulid>/m` under the vault's prefix.
//! Nothing reads them later. Where deleting is not allowed they stay and do no
//! harm; [`Probe::left`] names them.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::checksum::{Checksum, ChecksumMode, Sum, with_checksum};
use super::error::{answer_of, failed};
use super::{Inner, WRITE};
use crate::store::{ErrorKind, Key, Result, StoreError};

/// What a store honours, as its answers showed. The default is a store that
/// honours nothing; what an older record does not mention is so too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probe {
    /// PutObject with `If-None-Match: *` is refused when the name is taken.
    pub put_new: bool,
    /// CompleteMultipartUpload with `If-None-Match: *` is, too.
    pub complete_new: bool,
    /// A checksum that the store compares with what arrives.
    pub checksum: Option<Checksum>,
    /// Multipart uploads may carry that checksum.
    pub multipart_checksum: bool,
    /// Listings are in the order of the keys' bytes, and `start-after` holds to it.
    pub ordered: bool,
    /// The bucket's region.
    pub region: String,
    /// What the store calls itself.
    pub server: Option<String>,
    /// The store's clock minus ours, in seconds.
    pub clock_skew_seconds: Option<i64>,
    /// Objects of the probe that could not be deleted; they may be at any time.
    pub left: Vec<String>,
}

const FIRST: &[u8] = b"etcdvault probe: may be deleted\n";
const SECOND: &[u8] = b"etcdvault probe: must not replace the first\n";

/// What a store did with a request that it may know or not.
enum Tried {
    Accepted,
    /// Refused for what the request was, not for who sent it.
    Refused(StoreError),
}

/// Tries everything. Fails when the store fails, or does not let us write at all.
pub(super) async fn run(inner: &Inner) -> Result<Probe> {
    let base = format!("probe/{}", Ulid::generate());
    let single = Trial::new(inner, format!("{base}-a"))?;
    let multi = Trial::new(inner, format!("{base}/m"))?;
    let result = try_all(inner, &base, &single, &multi).await;

    let mut left = Vec::new();
    for trial in [&single, &multi] {
        if inner.delete(&trial.key).await.is_err() {
            left.push(trial.key.to_string());
        }
    }
    result.map(|mut probe| {
        probe.left = left;
        probe
    })
}

async fn try_all(
    inner: &Inner,
    base: &str,
    single: &Trial<'_>,
    multi: &Trial<'_>,
) -> Result<Probe> {
    let checksum = single.find_checksum().await?;
    if checksum.is_none() {
        single.must(single.put(FIRST, None, false).await?)?;
    }
    let sum = |bytes| checksum.map(|checksum: Checksum| checksum.of(bytes));

    let put_new = match single.put(SECOND, sum(SECOND), true).await? {
        Tried::Accepted => false,
        Tried::Refused(error) => {
            error.kind == ErrorKind::AlreadyExists && single.is_first().await?
        }
    };
    let multipart_checksum = match multi.multipart(checksum, false).await? {
        Tried::Accepted => checksum.is_some(),
        Tried::Refused(_) if checksum.is_some() => {
            multi.must(multi.multipart(None, false).await?)?;
            false
        }
        Tried::Refused(error) => return Err(error),
    };
    let complete_new = match multi.multipart(checksum.filter(|_| multipart_checksum), true).await? {
        Tried::Accepted => false,
        Tried::Refused(error) => error.kind == ErrorKind::AlreadyExists && multi.is_first().await?,
    };
    Ok(Probe {
        put_new,
        complete_new,
        checksum,
        multipart_checksum,
        ordered: is_ordered(inner, base, single, multi).await?,
        region: inner.site.region.clone(),
        server: inner.site.observed.server(),
        clock_skew_seconds: inner.site.observed.skew_seconds(),
        left: Vec::new(),
    })
}

/// A store that keeps directories lists `x/m` before `x-a`; in bytes it is after.
async fn is_ordered(
    inner: &Inner,
    base: &str,
    single: &Trial<'_>,
    multi: &Trial<'_>,
) -> Result<bool> {
    let keys = |infos: Vec<crate::store::ObjectInfo>| -> Vec<Key> {
        infos.into_iter().map(|info| info.key).collect()
    };
    let all = keys(inner.page(base, None, None).await?.0);
    let after = keys(inner.page(base, Some(single.key.as_str()), None).await?.0);
    Ok(all == [single.key.clone(), multi.key.clone()] && after == [multi.key.clone()])
}

/// One object to try things on.
struct Trial<'a> {
    inner: &'a Inner,
    key: Key,
    object: String,
    act: String,
}

impl<'a> Trial<'a> {
    fn new(inner: &'a Inner, key: String) -> Result<Self> {
        let act = format!("probe {} with {key}", inner.config.url());
        let key = Key::new(key)
            .map_err(|e| StoreError::with_source(ErrorKind::Configuration, act.clone(), e))?;
        let object = inner.object(key.as_str());
        Ok(Self { inner, key, object, act })
    }

    fn must(&self, tried: Tried) -> Result<()> {
        match tried {
            Tried::Accepted => Ok(()),
            Tried::Refused(error) => Err(error),
        }
    }

    /// A checksum that is refused when it is wrong and accepted when it is right;
    /// the first object is there afterwards, if there is one.
    async fn find_checksum(&self) -> Result<Option<Checksum>> {
        let candidates: &[Checksum] = match &self.inner.config.checksum {
            ChecksumMode::Auto => &Checksum::ALL,
            ChecksumMode::Always(one) => std::slice::from_ref(one),
            ChecksumMode::Never => &[],
        };
        for checksum in candidates {
            let wrong = checksum.of(SECOND);
            if let Tried::Accepted = self.put(FIRST, Some(wrong), false).await? {
                // Ignored; the object is rewritten below.
                continue;
            }
            let right = checksum.of(FIRST);
            if let Tried::Accepted = self.put(FIRST, Some(right), false).await? {
                return Ok(Some(*checksum));
            }
        }
        Ok(None)
    }

    async fn put(&self, bytes: &'static [u8], sum: Option<Sum>, new: bool) -> Result<Tried> {
        let put = self
            .inner
            .client
            .put_object()
            .bucket(&self.inner.site.bucket)
            .key(&self.object)
            .set_if_none_match(new.then(|| "*".to_owned()))
            .body(ByteStream::from(Bytes::from_static(bytes)));
        let sent = with_checksum!(put, &sum).send().await;
        self.tried(sent.err().map(|e| failed(&self.inner.site, &self.act, WRITE, e)))
    }

    /// Uploads one part; the first time [`FIRST`], as a new object [`SECOND`].
    async fn multipart(&self, checksum: Option<Checksum>, new: bool) -> Result<Tried> {
        let bytes = if new { SECOND } else { FIRST };
        let created = self
            .inner
            .client
            .create_multipart_upload()
            .bucket(&self.inner.site.bucket)
            .key(&self.object)
            .set_checksum_algorithm(checksum.map(Checksum::algorithm))
            .set_checksum_type(checksum.map(Checksum::multipart_type))
            .send()
            .await;
        let id = match created {
            Ok(created) => created.upload_id().unwrap_or_default().to_owned(),
            Err(e) => {
                return self.tried(Some(failed(&self.inner.site, &self.act, WRITE, e)));
            }
        };
        let tried = self.fill(&id, bytes, checksum, new).await;
        if !matches!(tried, Ok(Tried::Accepted)) {
            // Where the abort fails too, the sweep or the store's own rule follows.
            let _ = self.inner.abort_upload(&self.object, &id).await;
        }
        tried
    }

    async fn fill(
        &self,
        id: &str,
        bytes: &'static [u8],
        checksum: Option<Checksum>,
        new: bool,
    ) -> Result<Tried> {
        let sum = checksum.map(|checksum| checksum.of(bytes));
        let part = self
            .inner
            .client
            .upload_part()
            .bucket(&self.inner.site.bucket)
            .key(&self.object)
            .upload_id(id)
            .part_number(1)
            .body(ByteStream::from(Bytes::from_static(bytes)));
        let part = match with_checksum!(part, &sum).send().await {
            Ok(part) => part,
            Err(e) => {
                return self.tried(Some(failed(&self.inner.site, &self.act, WRITE, e)));
            }
        };
        let done =
            CompletedPart::builder().part_number(1).set_e_tag(part.e_tag().map(str::to_owned));
        let done = with_checksum!(done, &sum).build();
        let whole = sum.filter(|sum| !matches!(sum, Sum::Sha256(_)));
        let complete = self
            .inner
            .client
            .complete_multipart_upload()
            .bucket(&self.inner.site.bucket)
            .key(&self.object)
            .upload_id(id)
            .multipart_upload(CompletedMultipartUpload::builder().parts(done).build())
            .set_checksum_type(checksum.map(Checksum::multipart_type))
            .set_if_none_match(new.then(|| "*".to_owned()));
        let sent = with_checksum!(complete, &whole).send().await;
        self.tried(sent.err().map(|e| failed(&self.inner.site, &self.act, WRITE, e)))
    }

    /// Whether the first object is still what stands there.
    async fn is_first(&self) -> Result<bool> {
        Ok(self.inner.head(&self.key).await?.is_some_and(|info| info.size == FIRST.len() as u64))
    }

    /// Tells a store's "not like this" from failures that say nothing of it.
    fn tried(&self, error: Option<StoreError>) -> Result<Tried> {
        let Some(error) = error else { return Ok(Tried::Accepted) };
        let status = answer_of(&error).map(|answer| answer.status);
        let refused = matches!(status, Some(400 | 405 | 409 | 411 | 412 | 422 | 501));
        let ours = matches!(
            error.kind,
            ErrorKind::AlreadyExists | ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Unavailable
        ) || status == Some(501);
        if refused && ours { Ok(Tried::Refused(error)) } else { Err(error) }
    }
}

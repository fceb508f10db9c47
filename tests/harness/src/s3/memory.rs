//! S3's semantics in memory, as far as a vault needs them: objects, ranges,
//! conditions, checksums, listings, multipart uploads, retention.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use s3s::checksum::ChecksumHasher;
use s3s::dto::*;
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use sha2::{Digest as _, Sha256};

const MIN_PART: usize = 5 * 1024 * 1024;

/// What the server does differently from AWS; each is the habit of some store.
#[derive(Debug, Clone)]
pub(super) struct Habits {
    /// `If-None-Match` on PutObject is ignored.
    pub(super) overwrites_on_put: bool,
    /// `If-None-Match` on CompleteMultipartUpload is ignored.
    pub(super) overwrites_on_complete: bool,
    /// Checksums that are sent are ignored.
    pub(super) ignores_checksums: bool,
    /// Listings come in the reverse order.
    pub(super) disordered: bool,
    /// The most objects on a page of a listing.
    pub(super) page: usize,
    /// How far the server's clock goes before this machine's.
    pub(super) clock_ahead: Duration,
    /// Error code of every write, when there is no space.
    pub(super) full: Option<&'static str>,
}

#[derive(Debug, Clone)]
struct Stored {
    bytes: Bytes,
    etag: String,
    modified: SystemTime,
    metadata: Option<Metadata>,
    sum: Sums,
    retained_until: Option<SystemTime>,
}

/// The checksums that came with the bytes.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sums {
    crc64nvme: Option<String>,
    crc32c: Option<String>,
    sha256: Option<String>,
}

#[derive(Debug)]
struct Pending {
    bucket: String,
    key: String,
    metadata: Option<Metadata>,
    composite: bool,
    began: SystemTime,
    parts: BTreeMap<i32, Stored>,
}

#[derive(Debug, Default)]
struct Contents {
    buckets: BTreeMap<String, BTreeMap<String, Stored>>,
    uploads: BTreeMap<String, Pending>,
    next_upload: u64,
}

/// The server's memory; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    contents: Arc<Mutex<Contents>>,
    habits: Arc<Mutex<Habits>>,
}

impl Memory {
    pub(super) fn new() -> Self {
        let habits = Habits {
            overwrites_on_put: false,
            overwrites_on_complete: false,
            ignores_checksums: false,
            disordered: false,
            page: 1000,
            clock_ahead: Duration::ZERO,
            full: None,
        };
        Self { contents: Arc::default(), habits: Arc::new(Mutex::new(habits)) }
    }

    pub(super) fn change_habits(&self, change: impl FnOnce(&mut Habits)) {
        change(&mut self.habits.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The time by the server's clock.
    pub(super) fn now(&self) -> SystemTime {
        SystemTime::now() + self.habits().clock_ahead
    }

    fn habits(&self) -> Habits {
        self.habits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the bytes of an object, as another writer would.
    pub(super) fn replace(&self, bucket: &str, key: &str, bytes: Bytes) {
        let stored = Stored {
            etag: etag(&bytes),
            bytes,
            modified: self.now(),
            metadata: None,
            sum: Sums::default(),
            retained_until: None,
        };
        let mut contents = self.contents();
        contents.buckets.entry(bucket.to_owned()).or_default().insert(key.to_owned(), stored);
    }

    /// The bytes of an object.
    pub(super) fn bytes(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.contents().buckets.get(bucket)?.get(key).map(|stored| stored.bytes.clone())
    }

    /// The keys of all objects in a bucket, sorted.
    pub(super) fn keys(&self, bucket: &str) -> Vec<String> {
        let contents = self.contents();
        contents.buckets.get(bucket).into_iter().flatten().map(|(key, _)| key.clone()).collect()
    }

    /// Forbids deleting an object for so long.
    pub(super) fn retain(&self, bucket: &str, key: &str, time: Duration) {
        if let Some(stored) =
            self.contents().buckets.get_mut(bucket).and_then(|bucket| bucket.get_mut(key))
        {
            stored.retained_until = Some(SystemTime::now() + time);
        }
    }

    /// How many multipart uploads are open.
    pub(super) fn uploads(&self) -> usize {
        self.contents().uploads.len()
    }

    /// Makes all open uploads older.
    pub(super) fn age_uploads(&self, time: Duration) {
        for pending in self.contents().uploads.values_mut() {
            pending.began -= time;
        }
    }

    fn room(&self) -> S3Result<()> {
        match self.habits().full {
            Some(code) => {
                let mut error = s3s::S3Error::new(S3ErrorCode::Custom(code.into()));
                error.set_status_code(hyper::StatusCode::INSUFFICIENT_STORAGE);
                Err(error)
            }
            None => Ok(()),
        }
    }
}

impl Contents {
    fn bucket(&mut self, name: &str) -> S3Result<&mut BTreeMap<String, Stored>> {
        self.buckets.get_mut(name).ok_or_else(|| s3_error!(NoSuchBucket))
    }

    fn object(&mut self, bucket: &str, key: &str) -> S3Result<&Stored> {
        self.bucket(bucket)?.get(key).ok_or_else(|| s3_error!(NoSuchKey))
    }

    fn upload(&mut self, id: &str) -> S3Result<&mut Pending> {
        self.uploads.get_mut(id).ok_or_else(|| s3_error!(NoSuchUpload))
    }
}

fn etag(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut bytes = BytesMut::new();
    if let Some(mut body) = body {
        while let Some(chunk) = body.next().await {
            bytes.extend_from_slice(&chunk.map_err(|_| s3_error!(IncompleteBody))?);
        }
    }
    Ok(bytes.freeze())
}

impl Sums {
    /// The same checksums as given here, of `bytes`.
    fn of(&self, bytes: &[u8]) -> Self {
        let mut hasher = ChecksumHasher {
            crc64nvme: self.crc64nvme.as_ref().map(|_| Default::default()),
            crc32c: self.crc32c.as_ref().map(|_| Default::default()),
            sha256: self.sha256.as_ref().map(|_| Default::default()),
            ..Default::default()
        };
        hasher.update(bytes);
        let sums = hasher.finalize();
        Self {
            crc64nvme: sums.checksum_crc64nvme,
            crc32c: sums.checksum_crc32c,
            sha256: sums.checksum_sha256,
        }
    }

    fn check(&self, bytes: &[u8]) -> S3Result<()> {
        if self.of(bytes) == *self { Ok(()) } else { Err(s3_error!(BadDigest)) }
    }
}

/// The checksum fields of a request.
macro_rules! sums {
    ($input:expr) => {
        Sums {
            crc64nvme: $input.checksum_crc64nvme.clone(),
            crc32c: $input.checksum_crc32c.clone(),
            sha256: $input.checksum_sha256.clone(),
        }
    };
}

type Answer<T> = S3Result<S3Response<T>>;

#[async_trait::async_trait]
impl S3 for Memory {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> Answer<CreateBucketOutput> {
        self.contents().buckets.entry(request.input.bucket).or_default();
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let input = request.input;
        let mut sum = sums!(input);
        let bytes = collect(input.body).await?;
        let habits = self.habits();
        self.room()?;
        if habits.ignores_checksums {
            sum = Sums::default();
        }
        sum.check(&bytes)?;
        let etag = etag(&bytes);
        let mut contents = self.contents();
        let bucket = contents.bucket(&input.bucket)?;
        let new = input.if_none_match.is_some_and(|condition| condition.is_any());
        if new && !habits.overwrites_on_put && bucket.contains_key(&input.key) {
            return Err(s3_error!(PreconditionFailed));
        }
        let stored = Stored {
            bytes,
            etag: etag.clone(),
            modified: self.now(),
            metadata: input.metadata,
            sum,
            retained_until: None,
        };
        bucket.insert(input.key, stored);
        let output = PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() };
        Ok(S3Response::new(output))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = request.input;
        let stored = self.contents().object(&input.bucket, &input.key)?.clone();
        if let Some(condition) = &input.if_match
            && condition.as_etag().is_some_and(|etag| etag.value() != stored.etag)
        {
            return Err(s3_error!(PreconditionFailed));
        }
        let size = stored.bytes.len() as u64;
        let (bytes, content_range) = match input.range {
            Some(range) => {
                let range = range.check(size)?;
                let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                let bytes = stored.bytes.slice(range.start as usize..range.end as usize);
                (bytes, Some(text))
            }
            None => (stored.bytes.clone(), None),
        };
        let wanted = input.checksum_mode.is_some() && content_range.is_none();
        let sum = if wanted { stored.sum } else { Sums::default() };
        let output = GetObjectOutput {
            content_length: Some(bytes.len() as i64),
            content_range,
            body: Some(StreamingBlob::from(s3s::Body::from(bytes))),
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(stored.modified.into()),
            metadata: stored.metadata,
            checksum_crc64nvme: sum.crc64nvme,
            checksum_crc32c: sum.crc32c,
            checksum_sha256: sum.sha256,
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = request.input;
        let stored = self.contents().object(&input.bucket, &input.key)?.clone();
        let output = HeadObjectOutput {
            content_length: Some(stored.bytes.len() as i64),
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(stored.modified.into()),
            metadata: stored.metadata,
            object_lock_retain_until_date: stored.retained_until.map(Into::into),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> Answer<DeleteObjectOutput> {
        let input = request.input;
        let mut contents = self.contents();
        let bucket = contents.bucket(&input.bucket)?;
        let kept = bucket.get(&input.key).and_then(|stored| stored.retained_until);
        if kept.is_some_and(|until| until > SystemTime::now()) {
            return Err(s3_error!(AccessDenied, "Object is protected by object lock"));
        }
        bucket.remove(&input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> Answer<ListObjectsV2Output> {
        let input = request.input;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented));
        }
        let habits = self.habits();
        let prefix = input.prefix.clone().unwrap_or_default();
        let limit = input.max_keys.map_or(usize::MAX, |max| max.max(0) as usize).min(habits.page);
        let mut contents = self.contents();
        let bucket = contents.bucket(&input.bucket)?;
        let mut found: Vec<(&String, &Stored)> = bucket
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .filter(|(key, _)| input.start_after.as_ref().is_none_or(|start| *key > start))
            .collect();
        if habits.disordered {
            found.reverse();
        }
        // The token is the number of objects that came before.
        let skip = input.continuation_token.as_deref().and_then(|t| t.parse().ok()).unwrap_or(0);
        let more = found.len() > skip + limit;
        let page: Vec<Object> = found
            .into_iter()
            .skip(skip)
            .take(limit)
            .map(|(key, stored)| Object {
                key: Some(key.clone()),
                size: Some(stored.bytes.len() as i64),
                last_modified: Some(stored.modified.into()),
                e_tag: Some(ETag::Strong(stored.etag.clone())),
                ..Default::default()
            })
            .collect();
        let output = ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            key_count: Some(page.len() as i32),
            is_truncated: Some(more),
            next_continuation_token: more.then(|| (skip + limit).to_string()),
            contents: Some(page),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn list_buckets(
        &self,
        _request: S3Request<ListBucketsInput>,
    ) -> Answer<ListBucketsOutput> {
        let bucket = |name: &String| Bucket { name: Some(name.clone()), ..Default::default() };
        let buckets = self.contents().buckets.keys().map(bucket).collect();
        Ok(S3Response::new(ListBucketsOutput { buckets: Some(buckets), ..Default::default() }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let input = request.input;
        self.room()?;
        let mut contents = self.contents();
        contents.bucket(&input.bucket)?;
        contents.next_upload += 1;
        let id = format!("upload-{}", contents.next_upload);
        let composite = input.checksum_type.is_some_and(|kind| kind.as_str() == "COMPOSITE");
        let pending = Pending {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            metadata: input.metadata,
            composite,
            began: self.now(),
            parts: BTreeMap::new(),
        };
        contents.uploads.insert(id.clone(), pending);
        let output = CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let input = request.input;
        let mut sum = sums!(input);
        let bytes = collect(input.body).await?;
        self.room()?;
        if self.habits().ignores_checksums {
            sum = Sums::default();
        }
        sum.check(&bytes)?;
        let etag = etag(&bytes);
        let part = Stored {
            bytes,
            etag: etag.clone(),
            modified: self.now(),
            metadata: None,
            sum,
            retained_until: None,
        };
        self.contents().upload(&input.upload_id)?.parts.insert(input.part_number, part);
        let output = UploadPartOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() };
        Ok(S3Response::new(output))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = request.input;
        let mut whole = sums!(input);
        let habits = self.habits();
        self.room()?;
        let mut contents = self.contents();
        let pending = contents.upload(&input.upload_id)?;
        if (&pending.bucket, &pending.key) != (&input.bucket, &input.key) {
            return Err(s3_error!(NoSuchUpload));
        }
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let mut bytes = BytesMut::new();
        let mut last = 0;
        for (at, part) in named.iter().enumerate() {
            let number = part.part_number.unwrap_or(0);
            let stored = pending.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if number <= last {
                return Err(s3_error!(InvalidPartOrder));
            }
            last = number;
            let etag = part.e_tag.as_ref().map(ETag::value);
            let sums_fit = habits.ignores_checksums || sums!(part) == stored.sum;
            if etag != Some(stored.etag.as_str()) || !sums_fit {
                return Err(s3_error!(InvalidPart));
            }
            if at + 1 < named.len() && stored.bytes.len() < MIN_PART {
                return Err(s3_error!(EntityTooSmall));
            }
            bytes.extend_from_slice(&stored.bytes);
        }
        if named.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        if habits.ignores_checksums || pending.composite {
            whole = Sums::default();
        }
        whole.check(&bytes)?;
        let metadata = pending.metadata.clone();
        let new = input.if_none_match.is_some_and(|condition| condition.is_any());
        let bucket = contents.bucket(&input.bucket)?;
        if new && !habits.overwrites_on_complete && bucket.contains_key(&input.key) {
            return Err(s3_error!(PreconditionFailed));
        }
        let etag = format!("{}-{}", etag(&bytes), named.len());
        let stored = Stored {
            bytes: bytes.freeze(),
            etag: etag.clone(),
            modified: self.now(),
            metadata,
            sum: whole,
            retained_until: None,
        };
        bucket.insert(input.key.clone(), stored);
        contents.uploads.remove(&input.upload_id);
        let output = CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let mut contents = self.contents();
        contents.upload(&request.input.upload_id)?;
        contents.uploads.remove(&request.input.upload_id);
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let mut contents = self.contents();
        contents.bucket(&input.bucket)?;
        let uploads = contents
            .uploads
            .iter()
            .filter(|(_, pending)| {
                pending.bucket == input.bucket && pending.key.starts_with(&prefix)
            })
            .map(|(id, pending)| MultipartUpload {
                key: Some(pending.key.clone()),
                upload_id: Some(id.clone()),
                initiated: Some(pending.began.into()),
                ..Default::default()
            })
            .collect();
        let output = ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            is_truncated: Some(false),
            uploads: Some(uploads),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }
}

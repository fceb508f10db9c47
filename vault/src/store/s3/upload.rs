//! An object on its way into S3. What fits into one part is one PutObject; the
//! rest goes up in parts of one size, a few at a time, each held in memory until
//! it has arrived, so that it can be sent again. Nothing is visible before the
//! last request, and a failure or a drop aborts the multipart upload.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption};
use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;
use ulid::Ulid;

use super::checksum::{Checksum, Sum, with_checksum};
use super::error::{answer_of, failed, is_ambiguous};
use super::{Inner, Sse, WRITE, client, size};
use crate::store::{ErrorKind, Key, ObjectInfo, Result, SizeHint, StoreError, Upload};

/// S3's limit.
const MAX_PARTS: usize = 10_000;
/// The metadata entry that tells our upload from another under the same name.
const MARK: &str = "etcdvault-upload";
/// How often a PutObject is sent again because of a conflict on its name.
const MAX_CONFLICTS: u32 = 5;
/// How long the store may take to put the parts of an object together.
const ASSEMBLY: Duration = Duration::from_secs(600);
/// How often an object that was accepted is looked for.
const LOOKS: u32 = 4;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct S3Upload {
    target: Arc<Target>,
    part_size: usize,
    /// How many parts may be on their way while another is filled.
    flights: usize,
    /// What the writer promised at most, to allocate no more.
    expected: usize,
    buffer: BytesMut,
    size: u64,
    multipart: Option<Multipart>,
    over: bool,
}

/// Where an upload goes.
#[derive(Debug)]
struct Target {
    inner: Arc<Inner>,
    key: Key,
    object: String,
    act: String,
    mark: String,
}

#[derive(Debug)]
struct Multipart {
    id: String,
    checksum: Option<Checksum>,
    started: usize,
    flying: JoinSet<Result<(Part, Bytes)>>,
    done: Vec<Part>,
    /// The memory of parts that have arrived, to be filled again.
    spare: Vec<BytesMut>,
}

#[derive(Debug)]
struct Part {
    number: usize,
    etag: String,
    sum: Option<Sum>,
    len: u64,
}

/// What stands under a name.
enum Found {
    Nothing,
    Ours(ObjectInfo),
    Foreign,
    /// The store does not keep our mark.
    Unmarked(ObjectInfo),
}

impl S3Upload {
    pub(super) async fn begin(inner: Arc<Inner>, key: Key, hint: SizeHint) -> Result<Self> {
        let limit = match hint {
            SizeHint::Exact(size) | SizeHint::AtMost(size) => Some(size),
            SizeHint::Unknown => None,
        };
        let part = inner.config.part_size_for(limit);
        let act = format!("write {}", inner.shown(key.as_str()));
        let part_size = usize::try_from(part).map_err(|_| {
            StoreError::new(ErrorKind::Io, format!("{act}: parts do not fit into memory"))
        })?;
        // One part is filled while the others fly.
        let flights = usize::try_from((inner.config.buffer / part).saturating_sub(1))
            .unwrap_or(1)
            .clamp(1, 16);
        let expected = limit.map_or(part, |limit| limit.min(part)) as usize;
        let object = inner.object(key.as_str());
        let mark = Ulid::generate().to_string();
        let target = Target { inner, key, object, act, mark };

        // Known early, it saves sending everything; the store decides at the end.
        if limit.is_none_or(|limit| limit > part) || !target.inner.put_is_conditional() {
            target.refuse_taken().await?;
        }
        Ok(Self {
            target: Arc::new(target),
            part_size,
            flights,
            expected,
            buffer: BytesMut::new(),
            size: 0,
            multipart: None,
            over: false,
        })
    }

    async fn take(&mut self, mut chunk: Bytes) -> Result<()> {
        self.size += chunk.len() as u64;
        while !chunk.is_empty() {
            if self.buffer.len() == self.part_size {
                let part = std::mem::take(&mut self.buffer).freeze();
                self.send_part(part).await?;
            }
            if self.buffer.is_empty() && self.buffer.capacity() < self.expected {
                let spare = self.multipart.as_mut().and_then(|multipart| multipart.spare.pop());
                let new = || BytesMut::with_capacity(self.expected.min(self.part_size));
                self.buffer = spare.unwrap_or_else(new);
            }
            let room = self.part_size - self.buffer.len();
            let piece = chunk.split_to(room.min(chunk.len()));
            self.buffer.extend_from_slice(&piece);
        }
        Ok(())
    }

    async fn send_part(&mut self, bytes: Bytes) -> Result<()> {
        let target = self.target.clone();
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            None => self.multipart.insert(target.create_multipart().await?),
        };
        if multipart.started == MAX_PARTS {
            let act = format!(
                "{}: the object is larger than 10,000 parts of {} bytes; set a larger part size",
                target.act, self.part_size
            );
            return Err(StoreError::new(ErrorKind::Configuration, act));
        }
        while multipart.flying.len() >= self.flights {
            multipart.land_one(&target).await?;
        }
        multipart.started += 1;
        let (number, id, checksum) = (multipart.started, multipart.id.clone(), multipart.checksum);
        let budget = self.part_size as u64;
        multipart.flying.spawn(async move {
            let sent = bytes.clone();
            let part = target.upload_part(&id, number, sent, checksum, budget).await?;
            Ok((part, bytes))
        });
        Ok(())
    }

    async fn complete(&mut self) -> Result<ObjectInfo> {
        let rest = std::mem::take(&mut self.buffer).freeze();
        let target = self.target.clone();
        if self.multipart.is_none() {
            return target.put(rest, self.part_size as u64).await;
        }
        if !rest.is_empty() {
            self.send_part(rest).await?;
        }
        let Some(multipart) = &mut self.multipart else { return Err(target.used_up()) };
        while !multipart.flying.is_empty() {
            multipart.land_one(&target).await?;
        }
        multipart.done.sort_unstable_by_key(|part| part.number);
        let info = target.complete_multipart(multipart, self.size).await?;
        self.multipart = None;
        Ok(info)
    }

    /// Ends the multipart upload after its parts have landed or been dropped: a
    /// part that arrives after the abort would stay and cost.
    async fn discard(&mut self) -> Result<()> {
        self.over = true;
        self.buffer = BytesMut::new();
        match self.multipart.take() {
            Some(multipart) => discard(self.target.clone(), multipart).await,
            None => Ok(()),
        }
    }
}

async fn discard(target: Arc<Target>, mut multipart: Multipart) -> Result<()> {
    multipart.flying.shutdown().await;
    target.inner.abort_upload(&target.object, &multipart.id).await
}

#[async_trait]
impl Upload for S3Upload {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        if self.over {
            return Err(self.target.used_up());
        }
        // A write whose future is dropped half-way leaves a hole: it stays over.
        self.over = true;
        let result = self.take(chunk).await;
        match &result {
            Ok(()) => self.over = false,
            // The first error is the one to tell; the sweep takes what stays.
            Err(_) => drop(self.discard().await),
        }
        result
    }

    async fn finish(mut self: Box<Self>) -> Result<ObjectInfo> {
        if self.over {
            return Err(self.target.used_up());
        }
        let result = self.complete().await;
        if result.is_err() {
            let _ = self.discard().await;
        }
        self.over = true;
        result
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.discard().await
    }
}

impl Drop for S3Upload {
    fn drop(&mut self) {
        if let Some(multipart) = self.multipart.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let target = self.target.clone();
            runtime.spawn(async move { discard(target, multipart).await });
        }
    }
}

impl Multipart {
    async fn land_one(&mut self, target: &Target) -> Result<()> {
        match self.flying.join_next().await {
            Some(Ok(landed)) => {
                let (part, bytes) = landed?;
                self.done.push(part);
                // Not where somebody below still holds them.
                if let Ok(mut memory) = bytes.try_into_mut() {
                    memory.clear();
                    self.spare.push(memory);
                }
                Ok(())
            }
            Some(Err(error)) => {
                let act = format!("{}: a part's task ended", target.act);
                Err(StoreError::with_source(ErrorKind::Io, act, error))
            }
            None => Ok(()),
        }
    }
}

impl Target {
    fn used_up(&self) -> StoreError {
        StoreError::new(ErrorKind::Io, format!("{}: the upload was given up before", self.act))
    }

    fn taken(&self) -> StoreError {
        StoreError::new(ErrorKind::AlreadyExists, format!("{}: the name is taken", self.act))
    }

    async fn refuse_taken(&self) -> Result<()> {
        match self.inner.head(&self.key).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(self.taken()),
            // A role that may only write finds out at the end.
            Err(error) if error.kind == ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The settings for a request that carries up to `bytes`. One value for all
    /// requests of an upload, since each set of timeouts has connections of its own.
    fn carrying(&self, bytes: u64) -> Builder {
        Builder::new().timeout_config(client::timeouts(&self.inner.config, bytes))
    }

    /// Over TLS the payload's SHA-256 in the signature would only repeat what TLS
    /// and the checksum do.
    fn signs_payload(&self) -> bool {
        self.inner.site.endpoint.as_ref().is_some_and(|endpoint| !endpoint.tls)
    }

    fn sse(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match &self.inner.config.sse {
            Sse::Bucket => (None, None),
            Sse::S3 => (Some(ServerSideEncryption::Aes256), None),
            Sse::Kms(key) => (Some(ServerSideEncryption::AwsKms), key.clone()),
        }
    }

    async fn put(&self, bytes: Bytes, budget: u64) -> Result<ObjectInfo> {
        let conditional = self.inner.put_is_conditional();
        if !conditional {
            self.refuse_taken().await?;
        }
        let size = bytes.len() as u64;
        let sum = self.inner.checksum().map(|checksum| checksum.of(&bytes));
        let mut conflicts = 0;
        let error = loop {
            let Err(error) = self.put_once(bytes.clone(), sum.as_ref(), conditional, budget).await
            else {
                return self.seen(size).await;
            };
            let conflict = answer_of(&error).is_some_and(|answer| answer.status == 409);
            if !conflict || conflicts == MAX_CONFLICTS {
                break error;
            }
            conflicts += 1;
            tokio::time::sleep(self.inner.backoff(conflicts)).await;
        };
        self.or_landed(error, size).await
    }

    async fn put_once(
        &self,
        bytes: Bytes,
        sum: Option<&Sum>,
        conditional: bool,
        budget: u64,
    ) -> Result<()> {
        let (sse, key) = self.sse();
        let put = self
            .inner
            .client
            .put_object()
            .bucket(&self.inner.site.bucket)
            .key(&self.object)
            .metadata(MARK, &self.mark)
            .set_if_none_match(conditional.then(|| "*".to_owned()))
            .set_server_side_encryption(sse)
            .set_ssekms_key_id(key)
            .body(ByteStream::from(bytes));
        let mut put = with_checksum!(put, sum).customize().config_override(self.carrying(budget));
        if !self.signs_payload() {
            put = put.disable_payload_signing();
        }
        let sent = put.send().await;
        sent.map(drop).map_err(|error| failed(&self.inner.site, &self.act, WRITE, error))
    }

    async fn create_multipart(&self) -> Result<Multipart> {
        let checksum = self.inner.multipart_checksum();
        let (sse, key) = self.sse();
        let created = self
            .inner
            .client
            .create_multipart_upload()
            .bucket(&self.inner.site.bucket)
            .key(&self.object)
            .metadata(MARK, &self.mark)
            .set_checksum_algorithm(checksum.map(Checksum::algorithm))
            .set_checksum_type(checksum.map(Checksum::multipart_type))
            .set_server_side_encryption(sse)
            .set_ssekms_key_id(key)
            .send()
            .await
            .map_err(|error| failed(&self.inner.site, &self.act, WRITE, error))?;
        let id = created.upload_id().unwrap_or_default().to_owned();
        if id.is_empty() {
            let act = format!("{}: the store gave no upload id", self.act);
            return Err(StoreError::new(ErrorKind::Io, act));
        }
        Ok(Multipart {
            id,
            checksum,
            started: 0,
            flying: JoinSet::new(),
            done: Vec::new(),
            spare: Vec::new(),
        })
    }

    async fn upload_part(
        &self,
        id: &str,
        number: usize,
        bytes: Bytes,
        checksum: Option<Checksum>,
        budget: u64,
    ) -> Result<Part> {
        let act = format!("{} (part {number})", self.act);
        let len = bytes.len() as u64;
        let sum = checksum.map(|checksum| checksum.of(&bytes));
        let request = self
            .inner
            .client
            .upload_part()
            .bucket(&self.inner.site.bucket)
            .key(&self.object)
            .upload_id(id)
            .part_number(number as i32)
            .body(ByteStream::from(bytes));
        let mut request =
            with_checksum!(request, &sum).customize().config_override(self.carrying(budget));
        if !self.signs_payload() {
            request = request.disable_payload_signing();
        }
        let answer =
            request.send().await.map_err(|error| failed(&self.inner.site, &act, WRITE, error))?;
        let etag = answer.e_tag().unwrap_or_default().to_owned();
        if etag.is_empty() {
            let act = format!("{act}: the store gave no ETag");
            return Err(StoreError::new(ErrorKind::Io, act));
        }
        Ok(Part { number, etag, sum, len })
    }

    async fn complete_multipart(&self, multipart: &Multipart, size: u64) -> Result<ObjectInfo> {
        let conditional = self.inner.complete_is_conditional();
        if !conditional {
            self.refuse_taken().await?;
        }
        let whole = whole_sum(&multipart.done);
        let parts = multipart.done.iter().map(|part| {
            let completed =
                CompletedPart::builder().part_number(part.number as i32).e_tag(&part.etag);
            with_checksum!(completed, &part.sum).build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let request = self
            .inner
            .client
            .complete_multipart_upload()
            .bucket(&self.inner.site.bucket)
            .key(&self.object)
            .upload_id(&multipart.id)
            .multipart_upload(parts)
            .set_checksum_type(multipart.checksum.map(Checksum::multipart_type))
            .set_if_none_match(conditional.then(|| "*".to_owned()));
        let slowest = self.inner.config.slowest;
        let patience = ASSEMBLY.as_secs().saturating_mul(slowest);
        let sent = with_checksum!(request, &whole)
            .customize()
            .config_override(self.carrying(patience.min(size)))
            .send()
            .await;
        match sent {
            Ok(_) => self.seen(size).await,
            Err(error) => {
                let mut error = failed(&self.inner.site, &self.act, WRITE, error);
                if answer_of(&error).is_some_and(|answer| answer.status == 409) {
                    error.act = format!(
                        "{}: another request on the same name came in between; the upload was discarded and has to be made anew",
                        self.act
                    );
                }
                self.or_landed(error, size).await
            }
        }
    }

    /// After success: what stands there is what we sent.
    async fn seen(&self, size: u64) -> Result<ObjectInfo> {
        for look in 1..=LOOKS {
            match self.find().await {
                Ok(Found::Ours(info) | Found::Unmarked(info)) if info.size == size => {
                    return Ok(info);
                }
                Ok(Found::Ours(info) | Found::Unmarked(info)) => {
                    let act = format!(
                        "{}: the store holds {} bytes of the {size} that it accepted",
                        self.act, info.size
                    );
                    return Err(StoreError::new(ErrorKind::Corrupt, act));
                }
                Ok(Found::Foreign) => return Err(self.taken()),
                Ok(Found::Nothing) if look < LOOKS => {
                    tokio::time::sleep(self.inner.backoff(look)).await;
                }
                Ok(Found::Nothing) => break,
                // The right to write without the right to read: the store's word.
                Err(error) if error.kind == ErrorKind::PermissionDenied => {
                    let modified = self.inner.site.observed.store_now();
                    return Ok(ObjectInfo { key: self.key.clone(), size, modified });
                }
                Err(error) => return Err(error),
            }
        }
        let act = format!("{}: the store accepted it and does not have it", self.act);
        Err(StoreError::new(ErrorKind::Corrupt, act))
    }

    /// After a failure that may hide a success: a lost answer makes the repeated
    /// request fail with 412, a completed upload with 404.
    async fn or_landed(&self, error: StoreError, size: u64) -> Result<ObjectInfo> {
        if error.kind != ErrorKind::AlreadyExists && !is_ambiguous(&error) {
            return Err(error);
        }
        match self.find().await {
            Ok(Found::Ours(info)) if info.size == size => Ok(info),
            Ok(Found::Foreign | Found::Unmarked(_)) => Err(self.taken()),
            _ => Err(error),
        }
    }

    async fn find(&self) -> Result<Found> {
        let head = self.inner.client.head_object().bucket(&self.inner.site.bucket);
        let head = match head.key(&self.object).send().await {
            Ok(head) => head,
            Err(error) => {
                let status = super::answer(&error).map(|answer| answer.status);
                if status == Some(404) {
                    return Ok(Found::Nothing);
                }
                let act = format!("{}: look at the result", self.act);
                return Err(failed(&self.inner.site, &act, super::READ, error));
            }
        };
        let size = size(head.content_length(), &self.act)?;
        let modified = self.inner.time(head.last_modified());
        let info = ObjectInfo { key: self.key.clone(), size, modified };
        Ok(match head.metadata().and_then(|metadata| metadata.get(MARK)) {
            Some(mark) if *mark == self.mark => Found::Ours(info),
            Some(_) => Found::Foreign,
            None => Found::Unmarked(info),
        })
    }
}

/// The checksum of the whole object from those of its parts, where they combine.
fn whole_sum(parts: &[Part]) -> Option<Sum> {
    let mut parts = parts.iter();
    let mut whole = parts.next()?.sum.clone()?;
    for part in parts {
        whole = whole.combine(part.sum.as_ref()?, part.len)?;
    }
    // The SHA-256 of a single part would be taken for that of the object.
    (!matches!(whole, Sum::Sha256(_))).then_some(whole)
}

//! An object on its way out of S3. Bytes are those of one version of the object,
//! in order and complete: a connection that breaks is resumed where it broke, on
//! the same ETag, and only so often without progress.

use std::ops::Range;
use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode as SdkChecksumMode;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;

use super::error::{broken_body, failed, is_forbidden};
use super::{Inner, READ};
use crate::store::{Download, ErrorKind, Key, Result, StoreError};

/// How often a broken body is asked for again without a mebibyte of progress.
const MAX_RESUMES: u32 = 5;
const PROGRESS: u64 = 1024 * 1024;

/// What remains to be read.
struct Reading {
    inner: Arc<Inner>,
    object: String,
    act: String,
    etag: Option<String>,
    body: Option<ByteStream>,
    next: u64,
    end: u64,
    resumes: u32,
    progress: u64,
    failed: bool,
}

/// What one GET gave.
struct Opened {
    size: u64,
    start: u64,
    etag: Option<String>,
    body: ByteStream,
}

pub(super) async fn open(
    inner: Arc<Inner>,
    key: &Key,
    range: Option<Range<u64>>,
) -> Result<Download> {
    let object = inner.object(key.as_str());
    let act = format!("read {}", inner.shown(key.as_str()));
    let outside = |size: Option<u64>| {
        let of = size.map(|size| format!(" of {size} bytes")).unwrap_or_default();
        let act = format!("{act}: the range lies outside the object{of}");
        StoreError::new(ErrorKind::InvalidRange, act)
    };
    if let Some(range) = &range {
        // No store has objects beyond a signed 64-bit size.
        if range.start > range.end || i64::try_from(range.end).is_err() {
            return Err(outside(None));
        }
        if range.is_empty() {
            // S3 has no way to ask for nothing.
            let info = inner.head(key).await?.ok_or_else(|| {
                StoreError::new(ErrorKind::NotFound, format!("{act}: there is no such object"))
            })?;
            if range.end > info.size {
                return Err(outside(Some(info.size)));
            }
            return Ok(Download { size: info.size, stream: stream::empty().boxed() });
        }
    }
    let opened = match request(&inner, &object, &act, range.clone(), None).await {
        Ok(opened) => opened,
        Err(error) => {
            if is_forbidden(&error) && inner.is_absent(key).await {
                let act = format!("{act}: there is no such object");
                return Err(StoreError::new(ErrorKind::NotFound, act));
            }
            return Err(error);
        }
    };
    let (start, end) = match &range {
        Some(range) => (range.start, range.end),
        None => (0, opened.size),
    };
    if end > opened.size {
        return Err(outside(Some(opened.size)));
    }
    if opened.start != start {
        return Err(other_bytes(&act));
    }
    let reading = Reading {
        inner,
        object,
        act,
        etag: opened.etag,
        body: Some(opened.body),
        next: start,
        end,
        resumes: 0,
        progress: 0,
        failed: false,
    };
    let stream = stream::unfold(reading, |mut reading| async move {
        let chunk = reading.next_chunk().await?;
        reading.failed = chunk.is_err();
        Some((chunk, reading))
    });
    Ok(Download { size: opened.size, stream: stream.boxed() })
}

impl Reading {
    async fn next_chunk(&mut self) -> Option<Result<Bytes>> {
        if self.failed {
            return None;
        }
        loop {
            if self.body.is_none() {
                if self.next == self.end {
                    return None;
                }
                if let Err(error) = self.reopen().await {
                    return Some(Err(error));
                }
            }
            let body = self.body.as_mut()?;
            let wait = self.inner.config.read_timeout;
            let broke = match tokio::time::timeout(wait, body.next()).await {
                Ok(Some(Ok(chunk))) => match self.take(chunk) {
                    Ok(None) => continue,
                    Ok(Some(chunk)) => return Some(Ok(chunk)),
                    Err(error) => return Some(Err(error)),
                },
                Ok(None) if self.next == self.end => return None,
                Ok(None) => StoreError::new(
                    ErrorKind::Unavailable,
                    format!("{}: it ended after {} of {} bytes", self.act, self.next, self.end),
                ),
                Ok(Some(Err(error))) => broken_body(&self.act, &error),
                Err(_) => StoreError::new(
                    ErrorKind::Timeout,
                    format!("{}: no bytes for {} s", self.act, wait.as_secs_f32()),
                ),
            };
            self.body = None;
            // A checksum that does not match is found after the last byte: what was
            // handed out already cannot be taken back.
            if broke.kind == ErrorKind::Corrupt || self.resumes >= MAX_RESUMES {
                return Some(Err(broke));
            }
            if self.next == self.end {
                return None;
            }
            self.resumes += 1;
            tokio::time::sleep(self.inner.backoff(self.resumes)).await;
        }
    }

    fn take(&mut self, chunk: Bytes) -> Result<Option<Bytes>> {
        let len = chunk.len() as u64;
        if len > self.end - self.next {
            let act = format!("{}: more bytes came than were asked for", self.act);
            return Err(StoreError::new(ErrorKind::Corrupt, act));
        }
        self.next += len;
        self.progress += len;
        if self.progress >= PROGRESS {
            self.progress = 0;
            self.resumes = 0;
        }
        Ok((len > 0).then_some(chunk))
    }

    async fn reopen(&mut self) -> Result<()> {
        let rest = self.next..self.end;
        // Without an ETag nothing would tell that the rest belongs to the beginning.
        let Some(etag) = self.etag.clone() else {
            let act = format!("{}: the connection broke and cannot be resumed", self.act);
            return Err(StoreError::new(ErrorKind::Unavailable, act));
        };
        let opened = request(&self.inner, &self.object, &self.act, Some(rest), Some(&etag)).await?;
        if opened.start != self.next || opened.etag.as_ref() != Some(&etag) {
            return Err(other_bytes(&self.act));
        }
        self.body = Some(opened.body);
        Ok(())
    }
}

async fn request(
    inner: &Inner,
    object: &str,
    act: &str,
    range: Option<Range<u64>>,
    etag: Option<&str>,
) -> Result<Opened> {
    let whole = range.is_none();
    let mut get = inner.client.get_object().bucket(&inner.site.bucket).key(object);
    if let Some(range) = &range {
        get = get.range(format!("bytes={}-{}", range.start, range.end - 1));
    }
    if let Some(etag) = etag {
        get = get.if_match(etag);
    }
    if whole && inner.checksum().is_some() {
        get = get.checksum_mode(SdkChecksumMode::Enabled);
    }
    let answer = get.send().await.map_err(|error| {
        let mut error = failed(&inner.site, act, READ, error);
        if error.kind == ErrorKind::AlreadyExists {
            // 412 to If-Match.
            error.kind = ErrorKind::Corrupt;
            error.act = format!("{act}: the object was replaced while it was read");
        }
        error
    })?;
    let length = answer.content_length().and_then(|n| u64::try_from(n).ok());
    let (start, size) = match answer.content_range() {
        Some(text) => parse_content_range(text).ok_or_else(|| other_bytes(act))?,
        // The whole object, also where a store ignores the range.
        None => (0, length.ok_or_else(|| other_bytes(act))?),
    };
    let etag = answer.e_tag().map(str::to_owned);
    Ok(Opened { size, start, etag, body: answer.body })
}

/// The first byte and the whole object's size of `bytes a-b/size`.
fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last, size): (u64, u64, u64) =
        (start.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (start <= last && last < size).then_some((start, size))
}

fn other_bytes(act: &str) -> StoreError {
    let act = format!("{act}: the store sent another range than was asked for");
    StoreError::new(ErrorKind::Corrupt, act)
}

#[cfg(test)]
mod tests {
    use super::parse_content_range;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 3-9/20"), Some((3, 20)));
        for bad in ["bytes */20", "bytes 9-3/20", "bytes 3-20/20", "3-9/20", "bytes 3-9/*", ""] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}

//! The snapshot stream of one member.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use etcd_client::SnapshotStreaming;

use super::client::MemberClient;
use super::error::{EtcdError, EtcdErrorKind};
use crate::types::Endpoint;

/// What is handed on at a time: large enough that threads rarely wake each other.
pub const CHUNK_SIZE: usize = 1 << 20;

/// No bytes for so many times the bound on a short call means that the member or the
/// network hangs: a minute by default.
const STALL_FACTOR: u32 = 6;

/// A running snapshot. The member holds a read transaction open as long as it
/// lives, and its database grows meanwhile: read on without waiting.
pub struct SnapshotStream {
    endpoint: Endpoint,
    stream: SnapshotStreaming,
    buffer: BytesMut,
    received: u64,
    remaining: Option<u64>,
    ended: bool,
    stall: Duration,
}

impl std::fmt::Debug for SnapshotStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotStream").field("received", &self.received).finish_non_exhaustive()
    }
}

impl MemberClient {
    /// Begins a snapshot. The first bytes have arrived when this returns, so that
    /// [`SnapshotStream::total`] is known and a refusal is an error here.
    pub async fn snapshot(&mut self) -> Result<SnapshotStream, EtcdError> {
        let mut client = self.client.clone();
        let stream = self.call("begin a snapshot", async move { client.snapshot().await }).await?;
        let mut stream = SnapshotStream {
            endpoint: self.endpoint().clone(),
            stream,
            buffer: BytesMut::with_capacity(CHUNK_SIZE + (64 << 10)),
            received: 0,
            remaining: None,
            ended: false,
            stall: self.command_timeout().saturating_mul(STALL_FACTOR),
        };
        stream.receive().await?;
        Ok(stream)
    }
}

impl SnapshotStream {
    /// Bytes in all, the trailing SHA-256 included, as the member announced them.
    pub fn total(&self) -> Option<u64> {
        // The server's count leaves the trailer out.
        self.remaining.map(|remaining| self.received + remaining + 32)
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next bytes, about [`CHUNK_SIZE`] of them; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, EtcdError> {
        while !self.ended && self.buffer.len() < CHUNK_SIZE {
            self.receive().await?;
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let full = std::mem::replace(
            &mut self.buffer,
            BytesMut::with_capacity(if self.ended { 0 } else { CHUNK_SIZE + (64 << 10) }),
        );
        Ok(Some(full.freeze()))
    }

    async fn receive(&mut self) -> Result<(), EtcdError> {
        let act = "receive the snapshot";
        let message = tokio::time::timeout(self.stall, self.stream.message())
            .await
            .map_err(|_| {
                let stalled = format!(
                    "the stream stalled after {} bytes, nothing came for {:.0} s",
                    self.received,
                    self.stall.as_secs_f64()
                );
                EtcdError::new(EtcdErrorKind::Timeout, &self.endpoint, act, stalled)
            })?
            .map_err(|error| {
                let mut error = EtcdError::from_client(&self.endpoint, act, error);
                if self.received > 0 {
                    error.detail =
                        format!("it broke after {} bytes: {}", self.received, error.detail);
                }
                error
            })?;
        match message {
            Some(message) => {
                self.received += message.blob().len() as u64;
                self.remaining = Some(message.remaining_bytes());
                self.buffer.extend_from_slice(message.blob());
            }
            None => self.ended = true,
        }
        Ok(())
    }
}

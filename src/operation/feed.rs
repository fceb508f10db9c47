//! A scan that runs beside whatever else takes the same bytes.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::datadir::hash::{Scan, ScanError, ScanOptions, StreamScan};

/// Chunks of about 1 MB that may wait for the scan.
const QUEUE: usize = 2;

/// A scan on a thread of its own, fed chunk by chunk. Dropped without
/// [`ScanFeed::end`], the scan ends by itself and its result is nobody's.
pub(super) struct ScanFeed {
    chunks: mpsc::Sender<Bytes>,
    scanning: JoinHandle<Result<Scan, ScanError>>,
}

impl ScanFeed {
    /// Begins a scan. Must be called within a tokio runtime.
    pub(super) fn begin(options: ScanOptions) -> Self {
        let (chunks, mut fed) = mpsc::channel::<Bytes>(QUEUE);
        let scanning = tokio::task::spawn_blocking(move || {
            let mut scan = StreamScan::new(options);
            while let Some(chunk) = fed.blocking_recv() {
                scan.write(&chunk)?;
            }
            scan.finish()
        });
        Self { chunks, scanning }
    }

    /// Hands on the next bytes, and waits while the scan is behind. Whether it still
    /// takes any: it stops early only with an error, which [`ScanFeed::end`] tells.
    pub(super) async fn take(&self, chunk: Bytes) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }

    /// Ends the input and waits for the result.
    pub(super) async fn end(self) -> Result<Scan, ScanError> {
        drop(self.chunks);
        self.scanning.await.unwrap_or_else(|error| {
            Err(ScanError::Spill(std::io::Error::other(format!("the scan ended early: {error}"))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bbolt::OpenError;

    #[tokio::test]
    async fn what_is_no_database_is_taken_to_its_end_and_named() {
        let feed = ScanFeed::begin(ScanOptions::default());
        for _ in 0..4 * QUEUE {
            assert!(feed.take(Bytes::from(vec![0xff; 1 << 16])).await);
        }
        assert!(matches!(feed.end().await, Err(ScanError::Open(OpenError::NoMeta { .. }))));
        let nothing = ScanFeed::begin(ScanOptions::default()).end().await;
        assert!(matches!(nothing, Err(ScanError::Open(OpenError::Empty))));
    }
}

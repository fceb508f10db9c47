//! A TCP proxy on loopback that cuts, stalls or slows down what a server sends.
//!
//! Bytes are counted from the server to the client over all connections since the
//! mode was set, so a fault strikes in the middle of a stream and not before.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::{Error, Result};

/// What happens to the bytes from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// After so many bytes every connection is closed, and new ones are closed at
    /// once.
    CutAfter(u64),
    /// After so many bytes nothing comes any more, and nothing ends.
    StallAfter(u64),
    /// So many bytes a second at most, over each connection.
    Slow(u64),
}

#[derive(Debug)]
struct Shared {
    target: String,
    mode: watch::Sender<Mode>,
    passed: AtomicU64,
}

/// A running proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: JoinHandle<()>,
}

const BUFFER: usize = 16 << 10;

impl Proxy {
    /// Starts one in front of `target`: `host:port`, or a URL of which only that
    /// part counts.
    pub async fn start(target: &str) -> Result<Self> {
        let failed = |source| Error::because("listening for the proxy", source);
        let target = target.split_once("://").map_or(target, |(_, rest)| rest);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            target: target.trim_end_matches('/').to_owned(),
            mode: watch::channel(Mode::Pass).0,
            passed: AtomicU64::new(0),
        });
        let listening = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, listening })
    }

    /// `host:port` of the proxy.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes what happens from now on, and counts from zero.
    pub fn set(&self, mode: Mode) {
        self.shared.passed.store(0, Ordering::SeqCst);
        self.shared.mode.send_replace(mode);
    }

    /// Bytes that passed from the server since the mode was set.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// Waits until so many bytes have passed from the server, at most two minutes.
    pub async fn wait_passed(&self, bytes: u64) -> Result<()> {
        for _ in 0..12_000 {
            if self.passed() >= bytes {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(Error::new(format!("only {} of {bytes} bytes came through", self.passed())))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                connections.spawn(serve(client, shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    if shared.is_cut() {
        return;
    }
    let Ok(server) = TcpStream::connect(&shared.target).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Whichever way ends first ends both: a half-open connection helps no test.
    tokio::select! {
        () = upwards(from_client, to_server) => {}
        () = downwards(from_server, to_client, &shared) => {}
    }
}

async fn upwards(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn downwards(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) {
    let mut mode = shared.mode.subscribe();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            changed = mode.changed() => {
                if changed.is_err() || shared.is_cut() {
                    return;
                }
                continue;
            }
            read = from.read(&mut buffer) => read,
        };
        let Ok(read @ 1..) = read else { return };
        let now = *mode.borrow_and_update();
        match now {
            Mode::CutAfter(limit) if shared.passed.load(Ordering::SeqCst) >= limit => return,
            Mode::StallAfter(limit) => {
                while shared.passed.load(Ordering::SeqCst) >= limit {
                    if mode.changed().await.is_err()
                        || !matches!(*mode.borrow(), Mode::StallAfter(_))
                    {
                        break;
                    }
                }
            }
            Mode::Slow(rate) => {
                let wait = Duration::from_secs_f64(read as f64 / rate.max(1) as f64);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = mode.changed() => {}
                }
            }
            Mode::Pass | Mode::CutAfter(_) => {}
        }
        let Some(bytes) = buffer.get(..read) else { return };
        if to.write_all(bytes).await.is_err() {
            return;
        }
        shared.passed.fetch_add(read as u64, Ordering::SeqCst);
    }
}

impl Shared {
    /// Whether connections are to end now.
    fn is_cut(&self) -> bool {
        matches!(*self.mode.borrow(), Mode::CutAfter(limit)
            if self.passed.load(Ordering::SeqCst) >= limit)
    }
}
